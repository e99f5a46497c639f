"""Distances between two samples of jets, and what they would be if the model were perfect.

Every metric is a 1-Wasserstein distance between one-dimensional distributions, in the unit of the
observable,

    W1(a, b) = integral |F_a(v) - F_b(v)| dv,      F the empirical distribution functions,

with weights F(v) = sum of the w_i with v_i <= v over the sum of all, exactly. Of negative weights F
may fall, and nothing is transported any more; the integral is still a distance, that of Kantorovich
and Rubinstein: the largest difference of the means of a function whose slope is at most 1. It is
zero only if F_a = F_b, so it is what is taken, and no weight is cut to 0, which would move the
truth. It is computed once per jet observable (mass, multiplicity, pT, tau21, EFP), and once per
particle feature with the particles of all jets pooled. Two finite samples of the same truth are
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
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from setflow.physics.kinematics import checked_particles, jet_mass, jet_pt
from setflow.physics.observables import energy_flow_polynomial, multiplicity, tau21
from setflow.sets import arrays
from setflow.sets.arrays import as_tensor
from setflow.sets.weights import as_weight, effective_number, total_weight

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
]

Array = NDArray[np.float64]
_BLOCK = 4096  # jets

JET_OBSERVABLES = ("mass", "pt", "multiplicity", "tau21", "efp")
"""The observables with one value per jet."""

PARTICLE_OBSERVABLES = ("etarel", "phirel", "ptrel")
"""The observables with one value per particle, in the order of the last dimension of `x`."""


@dataclass(frozen=True)
class Metric:
    """One line of the report: the plain mean of the W1 of one or more observables.

    Arguments:
        name: the key in files.
        title: what people call it.
        parts: the names of the observables, columns of `Observables`, whose W1 is averaged.
        unit: the unit of the value, empty if it has none.
        scale: the power of ten in which the field quotes it.
    """

    name: str
    title: str
    parts: tuple[str, ...]
    unit: str
    scale: float = 1e-3


METRICS = (
    Metric("w1m", "W1M jet mass", ("mass",), "jet pT"),
    Metric("w1p", "W1P mean", PARTICLE_OBSERVABLES, ""),
    Metric("w1p_etarel", "W1P etarel", ("etarel",), ""),
    Metric("w1p_phirel", "W1P phirel", ("phirel",), "rad"),
    Metric("w1p_ptrel", "W1P ptrel", ("ptrel",), "jet pT"),
    Metric("w1_multiplicity", "W1 multiplicity", ("multiplicity",), "particles", 1.0),
    Metric("w1_pt", "W1 jet pT", ("pt",), "jet pT"),
    Metric("w1_tau21", "W1 tau21", ("tau21",), ""),
    Metric("w1_efp", "W1 EFP square", ("efp",), "", 1e-5),
)
"""The metrics in the order of the report.

W1M, W1P and the use of EFPs follow "Particle Cloud Generation with Message Passing Generative
Adversarial Networks" (arXiv:2106.11535); of its EFPs only the square is taken.
"""


@dataclass(frozen=True)
class Observables:
    """All observables of a sample of n jets with P real particles, in float64.

    Arguments:
        mass: the invariant mass in units of the jet pT, with shape `(n,)`.
        pt: the vector sum of the particles' pT in units of the jet pT, with shape `(n,)`.
        multiplicity: the number of real particles, with shape `(n,)`.
        tau21: the N-subjettiness ratio, with shape `(n,)`.
        efp: the energy flow polynomial of the square, with shape `(n,)`.
        particles: (etarel, phirel, ptrel) of the real particles of all jets, with shape `(P, 3)`.
        jet: the jet that each of them belongs to, from 0 to n - 1, with shape `(P,)`.
        weight: how much each jet counts, and its particles with it, with shape `(n,)`; None means
            equally much.
    """

    mass: Tensor
    pt: Tensor
    multiplicity: Tensor
    tau21: Tensor
    efp: Tensor
    particles: Tensor
    jet: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.mass)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the observables."""
        return JET_OBSERVABLES + PARTICLE_OBSERVABLES

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of these observables."""
        return METRICS

    @property
    def effective(self) -> float:
        """The effective number of jets, (sum w)^2 / sum w^2; n without weights."""
        return float(len(self)) if self.weight is None else effective_number(self.weight)

    def column(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the values of one observable and the jet of each, both of one dimension.

        Raises:
            ValueError: if there is no such observable.
        """
        if name in PARTICLE_OBSERVABLES:
            return self.particles[:, PARTICLE_OBSERVABLES.index(name)], self.jet
        if name not in JET_OBSERVABLES:
            known = ", ".join(JET_OBSERVABLES + PARTICLE_OBSERVABLES)
            raise ValueError(f"there is no observable {name!r}, expected one of: {known}")
        values: Tensor = getattr(self, name)
        return values, torch.arange(len(values), device=values.device)

    def select(self, jets: Tensor) -> Observables:
        """Return the observables of some jets, given by their distinct indices, shape `(k,)`."""
        place = torch.full((len(self),), -1, dtype=torch.long, device=self.jet.device)
        place[jets] = torch.arange(len(jets), device=self.jet.device)
        jet = place[self.jet]
        kept = jet >= 0
        per_jet = {name: getattr(self, name)[jets] for name in JET_OBSERVABLES}
        weight = None if self.weight is None else self.weight[jets]
        return Observables(**per_jet, particles=self.particles[kept], jet=jet[kept], weight=weight)


def observables(
    x: arrays.Array, mask: arrays.Array | None = None, weight: arrays.Array | None = None
) -> Observables:
    """Compute every observable of a sample of jets once.

    Arguments:
        x: particles (etarel, phirel, ptrel), with shape `(*batch, N, 3)`; all batch dimensions
            together count the jets.
        mask: which are real, with shape `(*batch, N)`; None means all.
        weight: how much each jet counts, with shape `batch`; None means equally much.

    Raises:
        ValueError: if there is no jet, a real particle, an observable or a weight is not finite, or
            the weights do not sum to a positive number.
    """
    real, mask = checked_particles(as_tensor(x, "particles").detach(), mask)
    n = math.prod(real.shape[:-2])
    if n == 0:
        raise ValueError(
            f"particles have shape {tuple(real.shape)}: no jet to compute observables of"
        )
    if weight is not None:
        weight = as_weight(weight, real.shape[:-2]).reshape(n).to(real.device)
        total_weight(weight, "the weights of the jets")
    real, mask = real.reshape(n, *real.shape[-2:]), mask.reshape(n, real.shape[-2])
    starts = range(0, n, _BLOCK)
    parts = [_of_block(real[k : k + _BLOCK], mask[k : k + _BLOCK]) for k in starts]
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    jet = mask.nonzero()[:, 0]
    result = Observables(**columns, jet=jet, weight=weight)
    for name in PARTICLE_OBSERVABLES + JET_OBSERVABLES:
        values, jet = result.column(name)
        bad = jet[~values.isfinite()]
        if len(bad):
            raise ValueError(
                f"{name} is not finite in {int((bad.diff() > 0).sum()) + 1} of {n} jets, the first "
                f"of them jet {int(bad[0])}; a distance to them is not defined: find out why they "
                "were made, and count them, before cutting them away"
            )
    return result


def _of_block(real: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return what is computed of some jets, a few, for it is in double precision."""
    real = real.double()
    return {
        "mass": jet_mass(real, mask),
        "pt": jet_pt(real, mask),
        "multiplicity": multiplicity(real, mask),
        "tau21": tau21(real, mask),
        "efp": energy_flow_polynomial(real, mask),
        "particles": real[mask],
    }


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
    values = np.concatenate([_as_array(a), _as_array(b)])
    order = values.argsort()
    weights = None
    if weight_a is not None or weight_b is not None:
        sides = []
        for name, value, given in (("a", a, weight_a), ("b", b, weight_b)):
            weight = torch.ones(value.shape) if given is None else as_weight(given, value.shape)
            total_weight(weight, f"the weights of {name}")
            sides.append(_as_array(weight))
        weights = np.concatenate(sides)[order]
    return _w1_of_sorted(values[order], order < a.numel(), weights)


def _as_array(values: Tensor) -> Array:
    array: Array = values.detach().flatten().cpu().double().numpy()
    return array


def _w1_of_sorted(values: Array, first: NDArray[np.bool_], weights: Array | None) -> float:
    """Return W1 between the values that are of the first side and those that are not."""
    in_first: NDArray[Any]
    in_second: NDArray[Any]
    if weights is None:
        in_first = first.cumsum()
        in_second = np.arange(1, len(values) + 1) - in_first
    else:
        in_first, in_second = (np.where(side, weights, 0).cumsum() for side in (first, ~first))
    gap = np.abs(in_first / in_first[-1] - in_second / in_second[-1])
    return float((gap[:-1] * np.diff(values)).sum())


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

    def select(self, events: Tensor, /) -> Self:
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
        weights = (
            None if side.weight is None else side.weight[jet]
            for side, jet in ((a, jet_a), (b, jet_b))
        )  # fmt: skip
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

    columns = {}
    for name in reference.names:  # sorted once, and not once per pair
        values, jet = (side.cpu().numpy() for side in reference.column(name))
        order = values.argsort()
        jet = jet[order]
        weights = None if reference.weight is None else _as_array(reference.weight)[jet]
        columns[name] = (values[order], jet, weights)
    draws = []
    for _ in range(pairs):
        drawn = torch.randperm(n, generator=generator)[: size_a + size_b].numpy()
        side_of = np.zeros(n, np.int8)
        side_of[drawn[:size_a]], side_of[drawn[size_a:]] = 1, 2
        parts = {}
        for name, (values, jet, weights) in columns.items():
            side = side_of[jet]
            if size_a + size_b < n:
                kept = side > 0
                values, side = values[kept], side[kept]
                weights = None if weights is None else weights[kept]
            n_a = int((side == 1).sum())
            _require_values(n_a, len(side) - n_a, f"the floor of W1 of {name}")
            if weights is not None:
                for k in (1, 2):
                    part = torch.from_numpy(weights[side == k])
                    total_weight(part, f"in a part of the floor of W1 of {name} the weights")
            parts[name] = _w1_of_sorted(values, side == 1, weights)
        draws.append(list(_metrics_of(parts, reference.metrics).values()))
    table = factor * np.array(draws)
    names = [metric.name for metric in reference.metrics]
    mean = dict(zip(names, table.mean(0).tolist(), strict=True))
    spread = dict(zip(names, table.std(0, ddof=1).tolist(), strict=True))
    return Floor(mean, spread, pairs, (size_a, size_b), scaled, factor)
