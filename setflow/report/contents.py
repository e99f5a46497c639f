"""A picture of what a file of events holds: each feature of objects and of events, and N."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from setflow.data.tally import PTREL, Tally
from setflow.report.style import REFERENCE, STYLE, Array
from setflow.schema import Category, Feature, Positive, axis_label

__all__ = ["draw_contents", "write_contents"]

OF_EVENTS = "#e07b00"
_ACROSS = 3  # panels beside each other
_WIDE = 30.0  # a positive feature that spans more than this ratio is drawn on a logarithmic axis
_TAIL = 1e-3  # of the values, left out on either side
_BINS = 50


@dataclass(frozen=True)
class _Panel:
    """One picture: what is drawn, of what, and how."""

    label: str
    entries: str
    color: str
    draw: Callable[[Axes], None]


def draw_contents(tally: Tally, title: str) -> Figure:
    """Draw how every feature of a file is spread, with its unit, and the number of objects.

    Heights are fractions of all values, in bins of one width. A feature that is above 0 and spans
    a wide range has a logarithmic axis. Values beyond the outermost 0.1% are not drawn and told in
    the picture.

    Arguments:
        tally: what the file holds.
        title: what stands above.
    """
    panels = list(_panels(tally))
    across = min(_ACROSS, len(panels))
    down = -(-len(panels) // across)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.9 * across, 2.9 * down + 0.5), layout="constrained")
        figure.suptitle(title, fontsize=13)
        grid = figure.subplots(down, across, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            panel.draw(axes)
            axes.set_xlabel(panel.label)
            axes.set_title(panel.entries, loc="right", fontsize=10, color=panel.color)
            axes.set_ylim(bottom=0)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for axes in grid[:, 0]:
            axes.set_ylabel("Fraction")
        for axes in grid[:, 0][len(panels) :]:
            axes.set_ylabel("")
    return figure


def write_contents(tally: Tally, title: str, path: Path, kind: str) -> int:
    """Write the picture of `draw_contents` to a file; return how many panels it has.

    Arguments:
        tally: what the file holds.
        title: what stands above.
        path: the picture.
        kind: its format, such as png.
    """
    figure = draw_contents(tally, title)
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, format=kind)
    return len(figure.axes)


def _panels(tally: Tally) -> list[_Panel]:
    """Return what is drawn: objects, their number, and events."""
    called, found = tally.called, []
    codes = dict(zip([id(entry) for entry, _ in tally.codes], tally.codes, strict=True))
    objects = len(tally.schema.objects)
    of = (f"{tally.objects:,} {called.objects}", f"{tally.n:,} {called.events}")
    for k, (entry, spread) in enumerate(tally.spreads):
        of_events = k >= objects
        color, entries = (OF_EVENTS, of[1]) if of_events else (REFERENCE, of[0])
        if entry.absent:
            entries = f"{spread.n:,} {called.objects}"
        if id(entry) in codes:
            counts = codes[id(entry)][1]
            drawing = _bars(entry, [counts[code] for code in range(len(_names(entry)))], color)
        else:
            values = spread.sample
            ends = (spread.low, spread.high)
            drawing = _histogram(values, ends, _is_wide(entry, values), color)
        found.append(_Panel(axis_label(entry), entries, color, drawing))
    number = _Panel(
        f"Number of {called.objects} $N$", of[1], OF_EVENTS, _whole(tally.lengths, OF_EVENTS)
    )
    found.insert(objects, number)
    if tally.sums.n:
        label = next(entry.label for entry in tally.schema.objects if entry.name == PTREL)
        ends = (tally.sums.low, tally.sums.high)
        drawing = _histogram(tally.sums.sample, ends, False, OF_EVENTS)
        found.insert(
            objects + 1, _Panel(f"Sum of {label} of {called.an_event}", of[1], OF_EVENTS, drawing)
        )
    return found


def _names(entry: Feature) -> tuple[str, ...]:
    assert isinstance(entry.kind, Category)
    return entry.kind.names


def _is_wide(entry: Feature, values: Array) -> bool:
    low, high = np.quantile(values, [_TAIL, 1 - _TAIL]) if len(values) else (0.0, 0.0)
    above = isinstance(entry.kind, Positive) or entry.bounds.low >= 0
    return bool(above and high > _WIDE * low > 0)


def _histogram(
    values: Array, ends: tuple[float, float], wide: bool, color: str
) -> Callable[[Axes], None]:
    """Return what draws numbers."""

    def draw(axes: Axes) -> None:
        if not len(values):
            axes.text(0.5, 0.5, "no values", ha="center", transform=axes.transAxes)
            return
        low, high = np.quantile(values, [_TAIL, 1 - _TAIL])
        if not high > low:
            low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
        bins = int(np.clip(2 * len(values) ** (1 / 3), 10, _BINS))
        edges = np.geomspace(low, high, bins + 1) if wide else np.linspace(low, high, bins + 1)
        heights = np.histogram(values, edges)[0] / len(values)
        axes.stairs(heights, edges, fill=True, color=color, alpha=0.45, lw=0)
        axes.stairs(heights, edges, color=color, lw=1.2)
        if wide:
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
        axes.set_xlim(edges[0], edges[-1])
        axes.set_title(f"{ends[0]:.4g} to {ends[1]:.4g}", loc="left", fontsize=10)

    return draw


def _whole(lengths: NDArray[np.int64], color: str) -> Callable[[Axes], None]:
    """Return what draws whole numbers, given how often each occurs."""

    def draw(axes: Axes) -> None:
        there = np.flatnonzero(lengths)
        if not len(there):
            return
        first, last = int(there[0]), int(there[-1])
        step = -(-(last - first + 1) // _BINS)
        edges = np.arange(first, last + step + 1, step) - 0.5
        counts = np.histogram(np.arange(len(lengths)), edges, weights=lengths)[0]
        heights = counts / lengths.sum()
        axes.stairs(heights, edges, fill=True, color=color, alpha=0.45, lw=0)
        axes.stairs(heights, edges, color=color, lw=1.2)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(edges[0] - step / 2, edges[-1] + step / 2)
        axes.set_title(f"{first} to {last}", loc="left", fontsize=10)

    return draw


def _bars(entry: Feature, counts: list[int], color: str) -> Callable[[Axes], None]:
    """Return what draws the names of a category."""

    def draw(axes: Axes) -> None:
        heights = np.array(counts) / max(1, sum(counts))
        places = np.arange(len(counts))
        axes.bar(places, heights, color=color, alpha=0.45, edgecolor=color)
        told = [name if len(name) <= 12 else f"{name[:11]}…" for name in _names(entry)]
        axes.set_xticks(places, told, rotation=30 if sum(map(len, told)) > 24 else 0)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(-0.75, len(counts) - 0.25)

    return draw
