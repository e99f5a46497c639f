"""The first few events of either side beside each other, as dots in the plane of two features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from setflow.report.style import GENERATED, REFERENCE, Array, as_numpy
from setflow.sets.batch import SetBatch

__all__ = ["draw_first_events", "first_events"]

Limits = tuple[float, float]


def first_events(batch: SetBatch, events: int) -> list[tuple[int, Array]]:
    """Return the places of the first few events that have objects, and the real objects of each."""
    chosen = batch.mask.any(-1).nonzero()[:events, 0].tolist()
    return [(k, as_numpy(batch.x[k].double()[batch.mask[k]])) for k in chosen]


def draw_first_events(
    figure: Figure,
    batches: tuple[SetBatch, SetBatch],
    events: int,
    dots: Callable[[SetBatch, int, Array], tuple[dict[str, Any], str]],
    planes: tuple[tuple[str, Limits], tuple[str, Limits]],
    *,
    equal: bool = True,
) -> None:
    """Draw events of the reference in one row, and generated ones below.

    Arguments:
        figure: an empty figure.
        batches: the generated events, and those of the reference, with `x` of shape `(n, N, D)`.
        events: how many of each; they are the first, and not chosen.
        dots: what returns how the dots of an event look, and what stands behind its title; it is
            called with the batch, the place of the event and its objects, with shape `(N, D)`.
        planes: of the first two features the label and the limits of their axis.
        equal: whether both have the same unit, and so the same scale.
    """
    grid = figure.subplots(2, events, sharex=True, sharey=True, squeeze=False)
    generated, reference = batches
    rows = ((reference, "Reference", REFERENCE), (generated, "Generated", GENERATED))
    for row, (batch, name, color) in zip(grid, rows, strict=True):
        for axes, (k, x) in zip(row, first_events(batch, events), strict=False):
            look, more = dots(batch, k, x)
            axes.scatter(*x[:, :2].T, color=color, edgecolors="k", lw=0.5, **look)
            axes.set_title(f"{name} {k}: $N$ = {len(x)}{more}", loc="left", fontsize=11)
    (across, width), (up, height) = planes
    for axes in grid.flat:
        if equal:
            axes.set_aspect("equal")
        axes.set_xlim(*width)
        axes.set_ylim(*height)
    for axes in grid[-1]:
        axes.set_xlabel(across)
    for axes in grid[:, 0]:
        axes.set_ylabel(up)
