"""Distances between two samples of jets, and what they would be if the model were perfect.

Every metric is a 1-Wasserstein distance between one-dimensional distributions, in the unit of the
observable (the list is in `setflow.physics.samples`),

    W1(a, b) = integral |F_a(v) - F_b(v)| dv,      F the empirical distribution functions,

with weights F(v) = sum of the w_i with v_i <= v over the sum of all, exactly. Of negative weights F
may fall, and nothing is transported any more; the integral is still a distance, that of Kantorovich
and Rubinstein: the largest difference of the means of a function whose slope is at most 1. It is
zero only if F_a = F_b, so it is what is taken, and no weight is cut to 0, which would move the
truth. It is computed once per jet observable, and once per particle feature with the particles of
all jets pooled. Two finite samples of the same truth are
never at distance zero, so a value means nothing without its *floor*: the same distance between
disjoint parts of the reference at the sizes that are compared, of weighted jets the effective ones.
Two controls say what a metric can see: the reference with the particles of its jets shuffled, and
with their ptrel lists swapped, both wrong by construction.

Both sides are computed from the particles by the same functions, once per sample (`Observables`);
distances, floors and plots then draw subsets from these numbers. All randomness comes from the
generator that is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from setflow.physics.protocols import Counts, Estimate, drawn, estimates
from setflow.physics.samples import (
    JET_OBSERVABLES,
    METRICS,
    PARTICLE_OBSERVABLES,
    Metric,
    Observables,
    observables,
)
from setflow.physics.sorting import sort_together
from setflow.sets import arrays
from setflow.sets.arrays import as_tensor
from setflow.sets.weights import as_weight, total_weight

__all__ = [
    "JET_OBSERVABLES",
    "METRICS",
    "PARTICLE_OBSERVABLES",
    "Floor",
    "Measured",
    "Metric",
    "Observables",
    "distances",
    "observables",
    "truth_floor",
    "w1",
    "w1_estimates",
]

Array = NDArray[np.float64]

_VALUES = 2**18  # that are looked at together


def w1(
    a: arrays.Array,
    b: arrays.Array,
    weight_a: arrays.Array | None = None,
    weight_b: arrays.Array | None = None,
) -> float:
    """Return the 1-Wasserstein distance between two samples, in the unit of their values.

    Arguments:
        a: finite values, with shape `(n,)`.
        b: finite values, with shape `(m,)`; the sizes may differ.
        weight_a: how much each value counts, with shape `(n,)`; None means equally much. Negative
            ones are as the module says.
        weight_b: those of `b`, with shape `(m,)`.

    Raises:
        ValueError: if a side is empty, or its weights do not fit or have no positive sum.

    >>> w1(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([5.0, 6.0, 7.0]))
    5.0
    >>> w1([0.0, 1.0], [0.0], weight_a=[3, 1])
    0.25
    """
    a, b = as_tensor(a, "a"), as_tensor(b, "b")
    _require_values(a.numel(), b.numel(), "w1")
    sorts = torch.float32 if a.dtype == b.dtype == torch.float32 else torch.float64
    sides = [side.detach().flatten().cpu().to(sorts).numpy() for side in (a, b)]
    values = np.concatenate(sides)
    del sides
    places = np.arange(len(values), dtype=np.int32)
    sort_together(values, places)
    weights = None
    if weight_a is not None or weight_b is not None:
        masses = []
        for name, value, given in (("a", a, weight_a), ("b", b, weight_b)):
            weight = torch.ones(value.shape) if given is None else as_weight(given, value.shape)
            total_weight(weight, f"the weights of {name}")
            masses.append(_as_array(weight))
        weights = np.concatenate(masses)[places]
    return _w1_of_sorted(values, places < a.numel(), weights)


def _as_array(values: Tensor) -> Array:
    array: Array = values.detach().flatten().cpu().double().numpy()
    return array


def _w1_of_sorted(values: NDArray[Any], first: NDArray[np.bool_], weights: Array | None) -> float:
    """Return W1 between the values that are of the first side and those that are not."""

    def masses(there: slice) -> NDArray[Any]:
        sides = np.stack([first[there], ~first[there]])
        return sides if weights is None else np.where(sides, weights[there], 0)

    return _w1_of_masses(values, masses)


def _w1_of_masses(values: NDArray[Any], masses: Callable[[slice], NDArray[Any]]) -> float:
    """Return W1 between two samples on the same sorted values, block by block.

    Arguments:
        values: the values, with shape `(n,)`.
        masses: how much both samples have at the values of a slice, with shape `(2, b)`; together
            more than nothing of each.
    """
    blocks = [slice(start, start + _VALUES) for start in range(0, len(values), _VALUES)]
    totals = np.sum([masses(there).sum(1, keepdims=True) for there in blocks], 0)
    found, below = 0.0, np.zeros_like(totals)
    for there in blocks:
        sums = below + masses(there).cumsum(1)
        below = sums[:, -1:]
        steps = np.diff(values[there.start : there.stop + 1].astype(np.float64))
        a, b = (sums / totals)[:, : len(steps)]
        found += float((np.abs(a - b) * steps).sum())
    return found


def _require_values(n_a: int, n_b: int, what: str) -> None:
    if n_a == 0 or n_b == 0:
        raise ValueError(
            f"{what} of samples with {n_a} and {n_b} values is not defined, expected at least one "
            "on each side; are there jets, and particles in them?"
        )


class Measured(Protocol):
    """The observables of a sample: of jets, `Observables`, or of other sets."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the observables."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of these observables."""

    @property
    def weight(self) -> Tensor | None:
        """How much each event counts, with shape `(n,)`; None means equally much."""

    @property
    def effective(self) -> float:
        """The effective number of events."""

    def __len__(self) -> int:
        """Return the number of events."""

    def column(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the values of one observable and the event of each."""

    def select(self, events: Tensor | slice, /) -> Self:
        """Return the observables of some events."""


def distances(a: Measured, b: Measured) -> dict[str, float]:
    """Return every metric between two samples, by name and in the order of their `metrics`.

    Raises:
        TypeError: if a sample is none of observables.
        ValueError: if a sample has no jet or no particle at all.
    """
    _require_measured(a, b)
    parts = {}
    for name in a.names:
        (values_a, jet_a), (values_b, jet_b) = a.column(name), b.column(name)
        _require_values(len(values_a), len(values_b), f"W1 of {name}")
        weights = [
            None if side.weight is None else side.weight[jet]
            for side, jet in ((a, jet_a), (b, jet_b))
        ]  # fmt: skip
        del jet_a, jet_b
        parts[name] = w1(values_a, values_b, *weights)
    return _metrics_of(parts, a.metrics)


def _require_measured(*samples: object) -> None:
    for sample in samples:
        if not hasattr(sample, "column"):
            raise TypeError(
                f"got {arrays.shown(sample)}, expected the observables of a sample; "
                "setflow.physics.metrics.observables(x, mask) makes them of jets"
            )


def _metrics_of(parts: dict[str, float], metrics: tuple[Metric, ...]) -> dict[str, float]:
    return {m.name: sum(parts[name] for name in m.parts) / len(m.parts) for m in metrics}


def _table_of(parts: dict[str, list[float]], metrics: tuple[Metric, ...]) -> Array:
    """Return the metrics of each draw, with shape `(draws, metrics)`, of the parts in each."""
    columns = [np.mean([parts[name] for name in metric.parts], 0) for metric in metrics]
    return np.stack(columns, -1)


@dataclass(frozen=True)
class Floor:
    """The distance between two samples of the same truth.

    Arguments:
        mean: per metric, its mean over the pairs.
        spread: per metric, its standard deviation over the pairs: how far one value scatters.
        pairs: the number of pairs.
        sizes: the number of jets on the two sides of each pair.
        scaled: whether the reference was too small for the sizes compared, so that smaller halves
            were drawn and `mean` and `spread` multiplied by `factor`.
        factor: that factor; 1 if not scaled.
    """

    mean: dict[str, float]
    spread: dict[str, float]
    pairs: int
    sizes: tuple[int, int]
    scaled: bool
    factor: float


def truth_floor(
    reference: Measured,
    n_gen: float,
    n_ref: float,
    *,
    pairs: int = 20,
    generator: torch.Generator,
) -> Floor:
    """Measure the metrics between random disjoint parts of the reference.

    Arguments:
        reference: the observables of all reference jets there are.
        n_gen: the number of generated jets in the comparison that the floor is for; of weighted
            ones the effective number.
        n_ref: the number of reference jets in it, likewise.
        pairs: how many pairs of disjoint parts to draw.
        generator: the source of randomness, on the CPU.

    With at least n_gen + n_ref jets in the reference, each pair has exactly these sizes. Otherwise
    it has two halves of m = n // 2 jets, and the distances, which fall as the inverse root of the
    sizes, are multiplied by sqrt((1 / n_gen + 1 / n_ref) / (2 / m)); for even n the last term is 4
    / n. The result says so. Of a weighted reference, whose n jets are worth e n equal ones, each
    pair has n_gen / e and n_ref / e jets with their weights, so that the parts scatter as the sides
    of the comparison do, and with fewer jets than these it is scaled likewise. The pairs overlap
    with each other, so that `spread` is the scatter of one value, and the error of `mean` is larger
    than spread / sqrt(pairs).

    Raises:
        TypeError: if the reference is none of observables.
        ValueError: if a size is below 1, there are fewer than 2 pairs or 2 jets, or a part has no
            particle.
    """
    _require_measured(reference)
    if n_gen < 1 or n_ref < 1 or pairs < 2:
        raise ValueError(
            "expected at least 1 jet on each side and 2 pairs, "
            f"got n_gen={n_gen}, n_ref={n_ref}, pairs={pairs}"
        )
    n = len(reference)
    if n < 2:
        raise ValueError(f"the reference has {n} jets, expected at least 2 to make two parts of it")
    worth = reference.effective / n  # of a jet, in equal ones
    size_a, size_b = (max(1, round(size / worth)) for size in (n_gen, n_ref))
    scaled, factor = n < size_a + size_b, 1.0
    if scaled:
        size_a = size_b = n // 2
        factor = math.sqrt((1 / n_gen + 1 / n_ref) / (2 / (worth * size_a)))

    sides = np.zeros((pairs, n), np.int8)
    for side in sides:
        order = torch.randperm(n, generator=generator)[: size_a + size_b].numpy()
        side[order[:size_a]], side[order[size_a:]] = 1, 2
    parts = {name: _floor_of(reference, name, sides) for name in reference.names}  # one at a time
    table = factor * _table_of(parts, reference.metrics)
    names = [metric.name for metric in reference.metrics]
    mean = dict(zip(names, table.mean(0).tolist(), strict=True))
    spread = dict(zip(names, table.std(0, ddof=1).tolist(), strict=True))
    return Floor(mean, spread, pairs, (size_a, size_b), scaled, factor)


def _floor_of(reference: Measured, name: str, sides: NDArray[np.int8]) -> list[float]:
    """Return W1 of one observable between parts of the reference, sorted once for all pairs.

    Arguments:
        reference: the observables.
        name: the name of one.
        sides: which part each event belongs to, 1 or 2, or 0 for none, with shape `(pairs, n)`.
    """
    values, jet, _ = _sorted_column([reference], name)
    weights = None if reference.weight is None else _as_array(reference.weight)[jet]
    found = []
    for side_of in sides:
        side = side_of[jet]
        kept = slice(None) if side_of.all() else side > 0
        side, of_sides = side[kept], None if weights is None else weights[kept]
        n_a = int((side == 1).sum())
        _require_values(n_a, len(side) - n_a, f"the floor of W1 of {name}")
        if of_sides is not None:
            for k in (1, 2):
                part = torch.from_numpy(of_sides[side == k])
                total_weight(part, f"in a part of the floor of W1 of {name} the weights")
        found.append(_w1_of_sorted(values[kept], side == 1, of_sides))
    return found


def _sorted_column(
    sides: Sequence[Measured], name: str
) -> tuple[NDArray[Any], NDArray[np.int32], list[int]]:
    """Return the sorted values of an observable, the event of each, and how many a side has.

    Events are counted through all sides.
    """
    values, places, before = [], [], 0
    for side in sides:
        of_side, event = side.column(name)
        values.append(of_side.cpu().numpy())
        places.append((event.to(torch.int32) + before).cpu().numpy())
        before += len(side)
    counted = list(map(len, values))
    together, event_of = np.concatenate(values), np.concatenate(places)
    del values, places, of_side, event
    sort_together(together, event_of)
    return together, event_of, counted


def w1_estimates(
    real: Measured,
    generated: Measured,
    protocol: str = "whole",
    *,
    draws: int | None = None,
    size: int = 50_000,
    seed: int = 42,
) -> dict[str, Estimate]:
    """Return every metric between two samples with an error, in the order of their `metrics`.

    Arguments:
        real: the reference.
        generated: what is compared with it.
        protocol: `"whole"`, whose error is that of the bootstrap, or `"jetnet"`.
        draws: the number of draws; None takes 20 of `"whole"` and the 5 of the package.
        size: the number of jets of one draw of `"jetnet"`.
        seed: the seed of the draws.

    Weights of jets count in `"whole"` and in `"jetnet"`, which draws jets and not weights.

    Raises:
        TypeError: if a sample is none of observables.
        ValueError: if there is no such protocol, a number is out of range, or there is no particle
            on a side or in a draw.

    >>> x = torch.rand(200, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    >>> moved = x + torch.tensor([0.125, 0.0, 0.0])
    >>> found = w1_estimates(observables(x), observables(moved), draws=3)
    >>> round(found["w1p"].value, 5), found["w1p"].error < 0.01  # a third of 0.125
    (0.04167, True)
    """
    _require_measured(real, generated)
    if draws is None:
        draws = 20 if protocol == "whole" else 5
    counts = drawn((len(real), len(generated)), protocol, draws=draws, size=size, seed=seed)
    parts = {name: _draws_of(real, generated, name, counts) for name in real.names}  # one at a time
    found = estimates(_table_of(parts, real.metrics), protocol)
    return {metric.name: e for metric, e in zip(real.metrics, found, strict=True)}


def _draws_of(
    real: Measured, generated: Measured, name: str, counts: Sequence[tuple[Counts, Counts]]
) -> list[float]:
    """Return W1 of one observable in each draw, sorted once, so that a draw only sums weights."""
    values, places, counted = _sorted_column([real, generated], name)
    _require_values(counted[0], counted[1], f"W1 of {name}")
    n = len(real)
    first, held = places < n, np.bincount(places, minlength=n + len(generated))  # by an event
    given = (real.weight, generated.weight)
    weights = [None if weight is None else _as_array(weight) for weight in given]
    found = []
    for times_of in counts:
        of_sides = []
        for held_of, weight, times in zip((held[:n], held[n:]), weights, times_of, strict=True):
            of_sides.append(times if weight is None else times * weight)
            there = of_sides[-1] * held_of
            if weight is not None:
                total_weight(torch.from_numpy(there), f"in a draw of W1 of {name} weights")
            elif not there.any():
                raise ValueError(
                    f"a draw of W1 of {name} has no particle; the jets are too empty for it"
                )
        of_jet = np.concatenate(of_sides)

        def masses(there: slice, of_jet: Any = of_jet) -> NDArray[Any]:
            sides = np.stack([first[there], ~first[there]])
            return np.where(sides, of_jet[places[there]], 0)

        found.append(_w1_of_masses(values, masses))
    return found
