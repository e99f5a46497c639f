"""Options and defaults for all tests: float64, the CPU, and names for docstring examples."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import setflow


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="the device to run on: cpu, cuda, mps")
    parser.addoption(
        "--dtype", default="float64", choices=("float32", "float64"), help="the default dtype"
    )


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(autouse=True)
def _default_dtype(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_default_dtype()
    is_doctest = isinstance(request.node, pytest.DoctestItem)
    if not is_doctest:  # a reader tries an example with torch's own default
        torch.set_default_dtype(getattr(torch, request.config.getoption("--dtype")))
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict[str, object]) -> None:
    doctest_namespace["setflow"] = setflow
    doctest_namespace["torch"] = torch
