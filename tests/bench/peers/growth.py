"""Growth: the cost against the number of objects N, and against the number of events.

An evaluation holds about 8,000 objects, but no fewer than 2 events, all of them real; the exponent
is the slope of log(seconds per event) against log(N) for N of at least 100.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

import torch
from torch import nn

import setflow
from bench.peers import operations
from bench.peers.plain import EncoderField, full_events
from bench.peers.sampling import by_flow_matching, solves
from bench.peers.table import Comparison, Row
from bench.published import PublishedEPiC
from bench.setups import awake, top_jets

__all__ = ["comparisons", "exponents"]

_NUMBERS = (30, 100, 300, 1000, 2000)
_EVENTS = (32, 128, 512)
_OBJECTS, _LEAST_EVENTS, _FITTED_FROM = 8000, 2, 100
_MARK = " objects, all real: an evaluation of "


def comparisons(*, trial: bool) -> Iterator[Comparison]:
    """Yield what is compared; fewer objects and events for a trial."""
    field = awake(setflow.TransformerField(3))
    pairs: tuple[tuple[nn.Module, str, nn.Module], ...] = (
        (field, "nn.TransformerEncoder", EncoderField(field).eval()),
        (awake(setflow.EPiCField(3)), "the published network", PublishedEPiC(3)),
    )
    for ours, against, theirs in pairs:
        for n in _NUMBERS[:2] if trial else _NUMBERS:
            yield _evaluation(ours, against, theirs, n)
    for events in _EVENTS[:1] if trial else _EVENTS:
        mask = top_jets(events).mask
        label = (
            f"TransformerField: {events} top jets padded to {mask.shape[1]}, 2 evaluations of the "
            "midpoint rule"
        )
        yield solves(label, "flow_matching, the same network padded", by_flow_matching, field, mask,
                     1, aim=1.5)  # fmt: skip


def _evaluation(ours: nn.Module, against: str, theirs: nn.Module, n: int) -> Comparison:
    events = max(_LEAST_EVENTS, _OBJECTS // n)
    full, t = full_events(events, n), torch.rand(events)

    def evaluated(net: nn.Module) -> None:
        with torch.no_grad():
            net(full.x, t)

    return Comparison(
        f"{n:,}{_MARK}{type(ours).__name__}, {events} events",
        against,
        lambda: evaluated(theirs),
        lambda: evaluated(ours),
        None,
        None,
        (operations.evaluation(theirs, full.mask), operations.evaluation(ours, full.mask)),
    )


def exponents(rows: Sequence[Row]) -> list[str]:
    """Return a line on the growth in N of each pair of fields among the rows."""
    points: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    for row in rows:
        number, mark, rest = row.comparison.label.partition(_MARK)
        if not mark:
            continue
        name, events = rest.removesuffix(" events").split(", ")
        peer, ours = (seconds / int(events) for seconds in row.seconds())
        key = (name, row.comparison.against)
        points.setdefault(key, []).append((int(number.replace(",", "")), peer, ours))
    lines = []
    for (name, against), found in points.items():
        large = [point for point in found if point[0] >= _FITTED_FROM]
        if len(large) > 1:
            peer, ours = (_slope([(n, seconds[k]) for n, *seconds in large]) for k in (0, 1))
            lines.append(
                f"seconds per event grow as N^{ours:.2f} for {name}, N^{peer:.2f} for {against}, "
                f"from {large[0][0]:,} to {large[-1][0]:,} objects"
            )
    return lines


def _slope(points: list[tuple[int, float]]) -> float:
    x, y = zip(*((math.log(n), math.log(s)) for n, s in points), strict=True)
    return statistics.linear_regression(x, y).slope
