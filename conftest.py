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
    parser.addoption(
        "--all", action="store_true", help="also the combinations that the default thins out"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        return
    wide = [item for item in items if item.get_closest_marker("wide")]
    config.hook.pytest_deselected(items=wide)
    items[:] = [item for item in items if not item.get_closest_marker("wide")]


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
