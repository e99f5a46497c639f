"""Ratios within one run: contender and reference in turn, and a table of them at the end."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pytest_benchmark.utils import load_timer

from bench.machine import described
from bench.setups import Sizes

_COLUMNS = (
    "measured", "reference / contender", "least to most", "rounds", "threads", "reference [s]",
    "contender [s]", "objects per second", "aim",
)  # fmt: skip


@dataclass(frozen=True)
class _Row:
    label: str
    ratios: list[float]
    reference: float
    contender: float
    objects: float | None
    aim: str

    def cells(self) -> tuple[str, ...]:
        rate = "" if self.objects is None else f"{self.objects / self.contender:,.0f}"
        return (
            self.label,
            f"{statistics.median(self.ratios):.2f}",
            f"{min(self.ratios):.2f} to {max(self.ratios):.2f}",
            str(len(self.ratios)),
            str(torch.get_num_threads()),
            f"{self.reference:.3g}",
            f"{self.contender:.3g}",
            rate,
            self.aim,
        )


_ROWS: list[_Row] = []
_NOTES: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("speeds")
    group.addoption("--trial", action="store_true", help="256 events and 2 steps, not 2,048 and 20")
    group.addoption("--keep", type=Path, help="the folder to write tables and pictures to")


@pytest.fixture
def sizes(request: pytest.FixtureRequest) -> Sizes:
    """How many events and solver steps: those that are claimed, or fewer for a trial."""
    return Sizes(256, 2) if request.config.getoption("--trial") else Sizes(2048, 20)


@pytest.fixture
def keep(request: pytest.FixtureRequest) -> Path | None:
    """The folder for results, or None."""
    return _folder(request.config)


def _folder(config: pytest.Config) -> Path | None:
    folder: Path | None = config.getoption("--keep", None)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def report() -> Callable[[str], None]:
    """Keep a line for the end of the run."""
    return _NOTES.append


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> Callable[[], float]:
    """The clock of `--benchmark-timer`; with one thread, time.process_time on a busy machine."""
    timer: Callable[[], float] = load_timer(request.config.getoption("benchmark_timer")).target
    return timer


@pytest.fixture
def interleaved(benchmark, clock) -> Callable[..., float]:
    """Run a contender and its reference in turn, and keep the ratio of their times."""

    def run(
        label: str,
        *,
        reference: Callable[[], object],
        contender: Callable[[], object],
        aim: str,
        rounds: int = 5,
        objects: float | None = None,
    ) -> float:
        """Return the median ratio; `objects` is how many real objects a round handles."""
        references: list[float] = []

        def timed_reference() -> None:
            start = clock()
            reference()
            references.append(clock() - start)

        benchmark.pedantic(contender, setup=timed_reference, rounds=rounds, warmup_rounds=0)
        references = references[-rounds:]
        contenders = benchmark.stats.stats.data
        ratios = [r / c for r, c in zip(references, contenders, strict=True)]
        medians = statistics.median(references), statistics.median(contenders)
        _ROWS.append(_Row(label, ratios, *medians, objects, aim))
        return statistics.median(ratios)

    return run


def pytest_terminal_summary(terminalreporter, config) -> None:
    if not _ROWS and not _NOTES:
        return
    terminalreporter.section("ratios")
    for row in _ROWS:
        for name, cell in zip(_COLUMNS, row.cells(), strict=True):
            indent = "" if name == _COLUMNS[0] else f"    {name}: "
            terminalreporter.write_line(f"{indent}{cell}") if cell else None
    for note in _NOTES:
        terminalreporter.write_line(note)
    folder = _folder(config)
    if folder is not None and _ROWS:
        (folder / "cpu.md").write_text(_document(config))


def _document(config: pytest.Config) -> str:
    lines = ["# Speeds on a CPU", ""]
    lines += [
        "Contender and reference in turn in one run, equal in value first unless a row says that",
        "they compute different things; medians, by the clock "
        f"`{config.getoption('benchmark_timer')}`.",
        "Written by `make bench`, or by a part of it.",
        "",
    ]
    if config.getoption("--trial"):
        lines += ["A trial run, with fewer events and steps than are claimed.", ""]
    lines += [f"- {line}" for line in described()]
    lines += ["", f"| {' | '.join(_COLUMNS)} |", f"|{' --- |' * len(_COLUMNS)}"]
    lines += [f"| {' | '.join(row.cells())} |" for row in _ROWS]
    lines += ["", *(f"- {note}" for note in _NOTES), ""]
    return "\n".join(lines)
