"""Two sides in turn in one run, and the document that the rows become.

Notation. A row has the ratio r = (CPU seconds of the peer) / (CPU seconds of setflow), the median
over the rounds and the least and the most of them. In every round both sides run, in alternating
order, behind a product of two square matrices whose rate is the peak of that round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "COLUMNS",
    "Comparison",
    "Row",
    "Section",
    "Spent",
    "agree",
    "document",
    "measured",
    "peak",
    "repeated",
]

COLUMNS = (
    "measured", "against", "peer / setflow", "least to most", "rounds", "peer [s]", "setflow [s]",
    "peer [GFLOP/s]", "setflow [GFLOP/s]", "share of the peak", "aim",
)  # fmt: skip

_PEAK_SIZE = 1024
_TOLERANCE = 1e-5


class Spent(NamedTuple):
    """What a side returns that was timed in another process.

    Arguments:
        seconds: its CPU seconds.
    """

    seconds: float


@dataclass(frozen=True)
class Comparison:
    """What is to be compared.

    Arguments:
        label: what is measured, with its sizes.
        against: the peer.
        peer: one round of the peer.
        setflow: one round of setflow.
        aim: the ratio aimed at, at least, or None where there is no aim.
        check: demands that both sides give equal results; None where they compute another function,
            which the row then says.
        operations: the operations of one round on real objects alone, of the peer and of setflow,
            or None.
        rounds: how many rounds are counted.
        calls: how many equal calls a round makes; the seconds of the row are those of one.
        share_aim: the share of the peak aimed at, or None.
    """

    label: str
    against: str
    peer: Callable[[], object]
    setflow: Callable[[], object]
    aim: float | None
    check: Callable[[], None] | None
    operations: tuple[float, float] | None = None
    rounds: int = 5
    calls: int = 1
    share_aim: float | None = None


@dataclass(frozen=True)
class Row:
    """What was found.

    Arguments:
        comparison: what was compared.
        peer: the CPU seconds of the peer, by round.
        setflow: those of setflow.
        peaks: the rates of the matrix product, in operations per second, by round.
    """

    comparison: Comparison
    peer: list[float]
    setflow: list[float]
    peaks: list[float]

    @property
    def ratio(self) -> float:
        """The median over the rounds."""
        return statistics.median(self._ratios())

    def seconds(self) -> tuple[float, float]:
        """Return the median seconds of one call of the peer and of setflow."""
        calls = self.comparison.calls
        return statistics.median(self.peer) / calls, statistics.median(self.setflow) / calls

    def share(self) -> float | None:
        """Return the rate of setflow as a share of the peak, the median over the rounds."""
        operations = self.comparison.operations
        if operations is None:
            return None
        pairs = zip(self.setflow, self.peaks, strict=True)
        return statistics.median(operations[1] / (seconds * most) for seconds, most in pairs)

    def _ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.peer, self.setflow, strict=True)]

    def cells(self) -> tuple[str, ...]:
        """Return the cells of `COLUMNS`."""
        c, ratios, (peer, setflow) = self.comparison, self._ratios(), self.seconds()
        rates = ("", "")
        if c.operations is not None:
            sides = zip(c.operations, (peer, setflow), strict=True)
            rates = tuple(f"{count / c.calls / seconds / 1e9:.1f}" for count, seconds in sides)
        share = self.share()
        aims = []
        if c.aim is not None:
            aims.append(f"at least {c.aim:.2f}: {'met' if self.ratio >= c.aim else 'missed'}")
        if c.share_aim is not None and share is not None:
            met = "met" if share >= c.share_aim else "missed"
            aims.append(f"{c.share_aim:.0%} of the peak: {met}")
        return (
            c.label,
            c.against if c.check is not None else f"{c.against}; another function",
            f"{self.ratio:.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
            str(len(ratios)),
            f"{peer:.3g}",
            f"{setflow:.3g}",
            *rates,
            "" if share is None else f"{share:.0%}",
            "; ".join(aims),
        )


@dataclass
class Section:
    """A table with its heading.

    Arguments:
        title: the heading.
        rows: its rows.
        notes: what is said below them.
    """

    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def agree(ours: Tensor, theirs: Tensor, tolerance: float = _TOLERANCE) -> None:
    """Demand that values agree to a share of the largest of them."""
    most = float(theirs.abs().max())
    torch.testing.assert_close(ours, theirs, atol=tolerance * most, rtol=tolerance)


def peak(size: int = _PEAK_SIZE, clock: Callable[[], float] = time.process_time) -> float:
    """Return the operations per second of a product of square matrices, float32."""
    a, b = torch.ones(size, size), torch.ones(size, size)
    start = clock()
    torch.mm(a, b)
    return 2 * size**3 / (clock() - start)


def repeated(function: Callable[[], object], calls: int) -> Callable[[], None]:
    """Return a function that calls another so many times."""

    def run() -> None:
        for _ in range(calls):
            function()

    return run


def measured(comparison: Comparison, clock: Callable[[], float] = time.process_time) -> Row:
    """Check that both sides agree, warm them up, and time them in turn.

    Raises:
        AssertionError: if they do not agree.
    """

    def seconds(side: Callable[[], object]) -> float:
        start = clock()
        result = side()
        return result.seconds if isinstance(result, Spent) else clock() - start

    if comparison.check is not None:
        comparison.check()
    sides = (comparison.peer, comparison.setflow)
    for side in sides:
        side()
    times: tuple[list[float], list[float]] = ([], [])
    peaks = []
    for turn in range(comparison.rounds):
        peaks.append(peak(clock=clock))
        for place in (0, 1) if turn % 2 == 0 else (1, 0):
            times[place].append(seconds(sides[place]))
    return Row(comparison, *times, peaks)


def document(head: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the document in Markdown.

    Arguments:
        head: lines on the machine and the run.
        sections: the tables.
    """
    return "\n".join([
        "# setflow beside its peers",
        "",
        "CPU seconds of one thread, both sides in turn in one run with equal weights, and equal in",
        "value first unless a row says that they compute another function. GFLOP/s count the",
        "matrix products of the plain algorithm on real objects alone, so that nobody is credited",
        "for padding; the share of the peak is that of setflow beside a product of matrices of",
        f"{_PEAK_SIZE:,} rows in the same round. Written by `make bench-peers`.",
        "",
        *(f"- {line}" for line in head),
        "",
        *(line for section in sections for line in _table(section)),
    ])  # fmt: skip


def _table(section: Section) -> Iterator[str]:
    yield from (f"## {section.title}", "")
    if section.rows:
        yield f"| {' | '.join(COLUMNS)} |"
        yield f"|{' --- |' * len(COLUMNS)}"
        yield from (f"| {' | '.join(row.cells())} |" for row in section.rows)
        yield ""
    if section.notes:
        yield from (f"- {note}" for note in section.notes)
        yield ""
