"""The cost of an event against its number of objects N, for each field on sets.

Every evaluation holds about 8,000 objects, but no fewer than 4 events, all of them real. The
exponent is the slope of log(time) against log(N) for N of at least 100.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter
from torch import nn

import setflow
from bench.machine import described
from bench.setups import FIELDS, awake
from setflow.report.style import STYLE

_NUMBERS = (10, 30, 100, 300, 1000)
_OBJECTS, _LEAST_EVENTS = 8000, 4
_FITTED_FROM = 100
_ROUNDS = 5
_COMPLETE = "GraphField (128 x 4, complete)"
_COLOURS = ("#5790fc", "#e42536", "#f89c20", "#964a8b")
_MARKERS = ("o", "s", "^", "D")


@dataclass(frozen=True)
class Cost:
    """The cost of one field.

    Arguments:
        name: what it is.
        numbers: the numbers of objects.
        seconds: the times per event, the median over rounds.
        spread: the largest over the smallest time, at each number.
    """

    name: str
    numbers: tuple[int, ...]
    seconds: tuple[float, ...]
    spread: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """The slope of log(time) against log(N) for large N."""
        points = [
            (math.log(n), math.log(s))
            for n, s in zip(self.numbers, self.seconds, strict=True)
            if n >= _FITTED_FROM
        ]
        x, y = zip(*points, strict=True)
        return statistics.linear_regression(x, y).slope

    def text(self) -> str:
        """Return exponent and times in one line."""
        times = ", ".join(
            f"{1e3 * s:.3g} ms at {n}" for n, s in zip(self.numbers, self.seconds, strict=True)
        )
        return f"exponent {self.exponent:.2f}; {times}"


@torch.no_grad()
def measured(clock: Callable[[], float]) -> list[Cost]:
    """Time one evaluation of each field at each N, all of them in turn in every round."""
    fields = {name: awake(make()) for name, make in FIELDS.items()}
    fields[_COMPLETE] = awake(setflow.GraphField(3, k=None))
    times: dict[tuple[str, int], list[float]] = {}
    for turn in range(_ROUNDS + 1):  # the first warms up
        for n in _NUMBERS:
            events = max(_LEAST_EVENTS, _OBJECTS // n)
            for name, field in fields.items():
                # all pairs of 8 x 1000 objects would not fit the memory of a small machine
                count = min(events, _LEAST_EVENTS) if name == _COMPLETE and n > 300 else events
                seconds = _seconds(field, count, n, clock) / count
                if turn:
                    times.setdefault((name, n), []).append(seconds)
    costs = []
    for name in fields:
        rounds = [times[name, n] for n in _NUMBERS]
        medians = tuple(statistics.median(r) for r in rounds)
        costs.append(Cost(name, _NUMBERS, medians, tuple(max(r) / min(r) for r in rounds)))
    return costs


def _seconds(field: nn.Module, events: int, n: int, clock: Callable[[], float]) -> float:
    x, t = torch.randn(events, n, 3), torch.rand(events)
    start = clock()
    field(x, t)
    return clock() - start


def picture(costs: list[Cost]) -> Figure:
    """Draw the times of all fields, with lines of slopes 1 and 2 to guide the eye."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 5.4), layout="constrained")
        axes = figure.subplots()
        for cost, colour, marker in zip(costs, _COLOURS, _MARKERS, strict=True):
            label = rf"{cost.name}: $\propto N^{{{cost.exponent:.2f}}}$"
            axes.loglog(
                cost.numbers, 1e3 * np.array(cost.seconds), color=colour, marker=marker,
                markersize=6, linewidth=1.6, label=label,
            )  # fmt: skip
        n = np.array([_FITTED_FROM, _NUMBERS[-1]], dtype=float)
        cheapest = 1e3 * min(c.seconds[c.numbers.index(_FITTED_FROM)] for c in costs)
        dearest = 1e3 * max(c.seconds[c.numbers.index(_FITTED_FROM)] for c in costs)
        for power, height, name in ((1, cheapest / 2, "$N$"), (2, 2 * dearest, "$N^2$")):
            line = height * (n / n[0]) ** power
            axes.loglog(n, line, color="0.5", linestyle="--", linewidth=1.2)
            axes.annotate(
                name, (n[-1], line[-1]), xytext=(4, 0), textcoords="offset points", color="0.35",
                va="center",
            )  # fmt: skip
        axes.set_xlim(0.8 * _NUMBERS[0], 1.5 * _NUMBERS[-1])
        low, high = axes.get_ylim()
        axes.set_ylim(low, 10 * high)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_xticks(_NUMBERS)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("objects per event $N$")
        axes.set_ylabel("time per event [ms]")
        axes.legend(
            loc="upper left", alignment="left", title=f"slopes fitted for $N \\geq {_FITTED_FROM}$"
        )
    return figure


def table(costs: list[Cost]) -> str:
    """Return the times of all fields as a document in Markdown."""
    head = ["field", "exponent", *(f"{n} [ms]" for n in _NUMBERS)]
    lines = [
        "# Time per event against its number of objects", "",
        f"One evaluation without gradients, about {_OBJECTS:,} objects in all, float32: the",
        f"median of {_ROUNDS} rounds (the largest over the smallest of them). Exponents are fitted",
        f"for N of at least {_FITTED_FROM}.", "",
        *(f"- {line}" for line in described()), "",
        f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}",
    ]  # fmt: skip
    for cost in costs:
        cells = [f"{1e3 * s:.3g} ({r:.1f})" for s, r in zip(cost.seconds, cost.spread, strict=True)]
        lines.append(f"| {' | '.join([cost.name, f'{cost.exponent:.2f}', *cells])} |")
    return "\n".join([*lines, ""])
