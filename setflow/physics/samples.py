"""What is measured of a sample of jets, once, and the list of the metrics of it.

`Observables` holds all that metrics, floors, classifiers and pictures ask of a sample; draws and
subsets then take numbers from it. `METRICS` is the one list of 1-Wasserstein metrics, which
`setflow.physics.metrics` computes: W1M, W1P and W1EFP as published, then others.

W1EFP is the mean over the five energy flow polynomials of 4 vertices and 4 edges; tau32 tells three
prongs from two, D2 two from one.

"Particle Cloud Generation with Message Passing Generative Adversarial Networks" (arXiv:2106.11535).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from setflow.physics.efps import W1EFP_GRAPHS, d2_of_efps, energy_flow_polynomials
from setflow.physics.kinematics import as_particles, hardest_first, in_order, jet_mass, jet_pt
from setflow.physics.observables import multiplicity, tau21_and_tau32
from setflow.sets import arrays
from setflow.sets.arrays import as_tensor
from setflow.sets.masks import count_real
from setflow.sets.weights import as_weight, effective_number, total_weight

__all__ = [
    "JET_OBSERVABLES",
    "METRICS",
    "PARTICLE_OBSERVABLES",
    "Metric",
    "Observables",
    "observables",
    "require_equal_jets",
]

JET_OBSERVABLES = ("mass", "pt", "multiplicity", "tau21", "tau32", "d2")
"""The observables with one value per jet, besides the energy flow polynomials."""

PARTICLE_OBSERVABLES = ("etarel", "phirel", "ptrel")
"""The observables with one value per particle, in the order of the last dimension of `x`."""

_BLOCK = 1024  # jets
_EFPS = tuple(f"efp_{graph}" for graph in W1EFP_GRAPHS)


@dataclass(frozen=True)
class Metric:
    """One line of the report: the plain mean of the W1 of one or more observables, or another.

    Arguments:
        name: the key in files.
        title: what people call it.
        parts: the names of the observables, columns of `Observables`, whose W1 is averaged; empty
            for a metric that is no W1.
        unit: the unit of the value, empty if it has none.
        scale: the power of ten in which the field quotes it.
        larger_is_better: whether a larger value is closer to the truth.
    """

    name: str
    title: str
    parts: tuple[str, ...]
    unit: str
    scale: float = 1e-3
    larger_is_better: bool = False


METRICS = (
    Metric("w1m", "W1M jet mass", ("mass",), "jet pT"),
    Metric("w1p", "W1P mean", PARTICLE_OBSERVABLES, ""),
    Metric("w1p_etarel", "W1P etarel", ("etarel",), ""),
    Metric("w1p_phirel", "W1P phirel", ("phirel",), "rad"),
    Metric("w1p_ptrel", "W1P ptrel", ("ptrel",), "jet pT"),
    Metric("w1efp", "W1EFP mean", _EFPS, "", 1e-5),
    Metric("w1_multiplicity", "W1 multiplicity", ("multiplicity",), "particles", 1.0),
    Metric("w1_pt", "W1 jet pT", ("pt",), "jet pT"),
    Metric("w1_tau21", "W1 tau21", ("tau21",), ""),
    Metric("w1_tau32", "W1 tau32", ("tau32",), ""),
    Metric("w1_d2", "W1 D2", ("d2",), ""),
)
"""The metrics in the order of the report."""


@dataclass(frozen=True)
class Observables:
    """All observables of a sample of n jets, in float64; its particles in the dtype of the input.

    Arguments:
        mass: the invariant mass in units of the jet pT, with shape `(n,)`.
        pt: the vector sum of the particles' pT in units of the jet pT, with shape `(n,)`.
        multiplicity: the number of real particles, with shape `(n,)`.
        tau21: the N-subjettiness ratio, with shape `(n,)`.
        tau32: that of three prongs, with shape `(n,)`.
        d2: the ratio of energy correlations, with shape `(n,)`.
        efps: the energy flow polynomials of `EFP_GRAPHS`, with shape `(n, 36)`.
        x: particles (etarel, phirel, ptrel), hardest first, with shape `(n, N, 3)`, anything in
            padded slots.
        mask: which are real, with shape `(n, N)`.
        weight: how much each jet counts, and its particles with it, with shape `(n,)`; None means
            equally much.
    """

    mass: Tensor
    pt: Tensor
    multiplicity: Tensor
    tau21: Tensor
    tau32: Tensor
    d2: Tensor
    efps: Tensor
    x: Tensor
    mask: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.mass)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the observables that metrics ask for."""
        return JET_OBSERVABLES + _EFPS + PARTICLE_OBSERVABLES

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

        Arguments:
            name: one of `names`, or `"efp_17"` and so on for the polynomial of `EFP_GRAPHS[17]`.

        Raises:
            ValueError: if there is no such observable.
        """
        jet = torch.arange(len(self), device=self.x.device)
        if name in PARTICLE_OBSERVABLES:
            counts = count_real(self.mask)
            values = self._particles(PARTICLE_OBSERVABLES.index(name), counts)
            return values, jet.repeat_interleave(counts)
        graph = name.removeprefix("efp_")
        if name in JET_OBSERVABLES:
            values = getattr(self, name)
        elif graph.isdecimal() and int(graph) < self.efps.shape[1]:
            values = self.efps[:, int(graph)]
        else:
            raise ValueError(
                f"there is no observable {name!r}, expected one of: {', '.join(self.names)}"
            )
        return values, jet

    def _particles(self, feature: int, counts: Tensor) -> Tensor:
        """Return a feature of all real particles, taken block by block, as indices are large."""
        ends = counts.cumsum(0)[_BLOCK - 1 :: _BLOCK].tolist()
        values, start = self.x.new_empty(int(counts.sum())), 0
        for k, end in enumerate([*ends, len(values)]):
            there = slice(k * _BLOCK, (k + 1) * _BLOCK)
            values[start:end] = self.x[there, :, feature][self.mask[there]]
            start = end
        return values

    def select(self, jets: Tensor | slice) -> Observables:
        """Return the observables of some jets, given by distinct indices, shape `(k,)`, or a slice.

        A slice shares the memory.
        """
        per_jet = (*JET_OBSERVABLES, "efps", "x", "mask")
        return Observables(
            **{name: getattr(self, name)[jets] for name in per_jet},
            weight=None if self.weight is None else self.weight[jets],
        )


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

    >>> sample = observables(torch.rand(100, 30, 3), torch.rand(100, 30) < 0.7)
    >>> len(sample), sample.efps.shape, sample.column("d2")[0].shape
    (100, torch.Size([100, 36]), torch.Size([100]))
    """
    x, mask = as_particles(as_tensor(x, "particles").detach(), mask)
    n = math.prod(x.shape[:-2])
    if n == 0:
        raise ValueError(f"particles have shape {tuple(x.shape)}: no jet to compute observables of")
    if weight is not None:
        weight = as_weight(weight, x.shape[:-2]).reshape(n).to(x.device)
        total_weight(weight, "the weights of the jets")
    x, mask = x.reshape(n, *x.shape[-2:]), mask.reshape(n, x.shape[-2])
    if not in_order(x[..., 2], mask):
        ordered = torch.empty_like(x), torch.empty_like(mask)
        for k in range(0, n, _BLOCK):
            there = slice(k, k + _BLOCK)
            ordered[0][there], ordered[1][there] = hardest_first(x[there], mask[there])
        x, mask = ordered
    columns = _filled(x, mask)
    finite = {name: columns.pop(name) for name in PARTICLE_OBSERVABLES}
    result = Observables(**columns, x=x, mask=mask, weight=weight)
    finite |= {name: result.column(name)[0].isfinite() for name in JET_OBSERVABLES + _EFPS}
    for name in PARTICLE_OBSERVABLES + JET_OBSERVABLES + _EFPS:
        bad = (~finite[name]).nonzero()[:, 0]
        if len(bad):
            raise ValueError(
                f"{name} is not finite in {len(bad)} of {n} jets, the first "
                f"of them jet {int(bad[0])}; a distance to them is not defined: find out why they "
                "were made, and count them, before cutting them away"
            )
    return result


def _filled(x: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return what is computed of jets, block by block.

    Each goes to its place, for blocks kept as they come would hold the memory between them.
    """
    columns: dict[str, Tensor] = {}
    for k in range(0, len(x), _BLOCK):
        there = slice(k, k + _BLOCK)
        for name, part in _of_block(x[there], mask[there]).items():
            if name not in columns:
                columns[name] = part.new_empty(len(x), *part.shape[1:])
            columns[name][there] = part
    return columns


def _of_block(real: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return what is computed of some jets, a few, for it is in double precision."""
    finite = (real.isfinite() | ~mask[..., None]).all(1)
    real = real.double()
    efps = energy_flow_polynomials(real, mask)
    tau21, tau32 = tau21_and_tau32(real, mask)
    return {
        "mass": jet_mass(real, mask),
        "pt": jet_pt(real, mask),
        "multiplicity": multiplicity(real, mask),
        "tau21": tau21,
        "tau32": tau32,
        "d2": d2_of_efps(efps),
        "efps": efps,
        **dict(zip(PARTICLE_OBSERVABLES, finite.unbind(-1), strict=True)),
    }


def require_equal_jets(*samples: Observables) -> None:
    """Check that jets count equally, where a metric knows no weights.

    Raises:
        ValueError: if a sample has weights.
    """
    if any(sample.weight is not None for sample in samples):
        raise ValueError(
            "the jets have weights, expected jets that count equally: of the metrics only the W1 "
            "take weights; draw jets in proportion to their weights first"
        )
