"""Ratios within one run: contender and reference in turn, and a table of them at the end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch

_ROWS: list[str] = []


@pytest.fixture
def report() -> Callable[[str], None]:
    """Keep a line for the table at the end of the run."""
    return _ROWS.append


@pytest.fixture
def interleaved(benchmark, report) -> Callable[..., float]:
    """Run a contender and its reference in turn, and keep the ratio of their times."""

    def run(
        label: str,
        *,
        reference: Callable[[], object],
        contender: Callable[[], object],
        aim: str,
        rounds: int = 5,
    ) -> float:
        references: list[float] = []

        def timed_reference() -> None:
            start = time.perf_counter()
            reference()
            references.append(time.perf_counter() - start)

        benchmark.pedantic(contender, setup=timed_reference, rounds=rounds, warmup_rounds=0)
        contenders = benchmark.stats.stats.data
        ratios = [r / c for r, c in zip(references[-rounds:], contenders, strict=True)]
        median = statistics.median(ratios)
        report(
            f"{label}: reference / contender = {median:.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f} in {rounds} rounds, "
            f"{torch.get_num_threads()} threads, {statistics.median(references):.3g} s against "
            f"{statistics.median(contenders):.3g} s); aim: {aim}"
        )
        return median

    return run


def pytest_terminal_summary(terminalreporter) -> None:
    if _ROWS:
        terminalreporter.section("ratios")
        for row in _ROWS:
            terminalreporter.write_line(row)
