"""All that the metrics of fidelity ask of a sample of jets, and the 1-Wasserstein metrics of it.

A `Sample` is measured once; every metric and every draw of jets then takes numbers from it. Its W1
metrics are those of `setflow.physics.metrics`, and besides

    W1EFP      the mean over the five energy flow polynomials of 4 vertices and 4 edges,
    tau32, D2  three prongs or two, two or one,

each with an error, by one of the protocols of `setflow.physics.protocols`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from setflow.physics.efps import W1EFP_GRAPHS, d2_of_efps, energy_flow_polynomials
from setflow.physics.kinematics import hardest_first
from setflow.physics.metrics import PARTICLE_OBSERVABLES, Metric, Observables, observables
from setflow.physics.observables import tau32
from setflow.physics.protocols import Counts, Estimate, measured
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.weights import total_weight

__all__ = ["W1_METRICS", "Sample", "require_equal_jets", "w1_estimates"]

_EFPS = tuple(f"efp_{graph}" for graph in W1EFP_GRAPHS)

W1_METRICS = (
    Metric("w1m", "W1M jet mass", ("mass",), "jet pT"),
    Metric("w1p", "W1P mean", PARTICLE_OBSERVABLES, ""),
    Metric("w1efp", "W1EFP mean", _EFPS, "", 1e-5),
    Metric("w1_multiplicity", "W1 multiplicity", ("multiplicity",), "particles", 1.0),
    Metric("w1_pt", "W1 jet pT", ("pt",), "jet pT"),
    Metric("w1_tau21", "W1 tau21", ("tau21",), ""),
    Metric("w1_tau32", "W1 tau32", ("tau32",), ""),
    Metric("w1_d2", "W1 D2", ("d2",), ""),
)
"""The metrics of `w1_estimates`, in this order: W1M, W1P and W1EFP as published, then others.

"Particle Cloud Generation with Message Passing Generative Adversarial Networks" (arXiv:2106.11535).
"""


@dataclass(frozen=True)
class Sample:
    """A sample of n jets with what metrics of fidelity ask of it, in float64.

    Arguments:
        observables: masses, momenta, multiplicities, tau21, particles and weights.
        tau32: the N-subjettiness ratio, with shape `(n,)`.
        d2: the ratio of energy correlations, with shape `(n,)`.
        efps: the energy flow polynomials of `EFP_GRAPHS`, with shape `(n, 36)`.
        x: particles (etarel, phirel, ptrel), hardest first, with shape `(n, N, 3)`.
        mask: which are real, with shape `(n, N)`.
    """

    observables: Observables
    tau32: Tensor
    d2: Tensor
    efps: Tensor
    x: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.tau32)

    @classmethod
    def of(cls, x: Array, mask: Array | None = None, weight: Array | None = None) -> Sample:
        """Measure jets.

        Arguments:
            x: particles (etarel, phirel, ptrel), with shape `(*batch, N, 3)`; all batch dimensions
                together count the jets.
            mask: which are real, with shape `(*batch, N)`; None means all.
            weight: how much each jet counts, with shape `batch`; None means equally much.

        Raises:
            ValueError: if there is no jet, a real particle, an observable or a weight is not
                finite, or the weights do not sum to a positive number.

        >>> sample = Sample.of(torch.rand(100, 30, 3), torch.rand(100, 30) < 0.7)
        >>> len(sample), sample.efps.shape, sample.column("d2")[0].shape
        (100, torch.Size([100, 36]), torch.Size([100]))
        """
        found = observables(x, mask, weight)
        jets, real = hardest_first(as_tensor(x, "particles").detach().double(), mask)
        jets = jets.reshape(len(found), *jets.shape[-2:])
        real = real.reshape(len(found), real.shape[-1])
        efps = energy_flow_polynomials(jets, real)
        return cls(found, tau32(jets, real), d2_of_efps(efps), efps, jets, real)

    def select(self, jets: Tensor) -> Sample:
        """Return some jets, given by their distinct indices, with shape `(k,)`."""
        return Sample(
            self.observables.select(jets),
            self.tau32[jets],
            self.d2[jets],
            self.efps[jets],
            self.x[jets],
            self.mask[jets],
        )

    def column(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the values of one observable and the jet of each, both of one dimension.

        Arguments:
            name: one of those of `Observables`, `"tau32"`, `"d2"`, or `"efp_17"` and so on for the
                polynomial of `EFP_GRAPHS[17]`.

        Raises:
            ValueError: if there is no such observable.
        """
        graph = name.removeprefix("efp_")
        if name in ("tau32", "d2"):
            values: Tensor = getattr(self, name)
        elif graph.isdecimal() and int(graph) < self.efps.shape[1]:
            values = self.efps[:, int(graph)]
        else:
            return self.observables.column(name)
        return values, torch.arange(len(self), device=values.device)


def require_equal_jets(*samples: Sample) -> None:
    """Check that jets count equally, where a metric knows no weights.

    Raises:
        ValueError: if a sample has weights.
    """
    if any(sample.observables.weight is not None for sample in samples):
        raise ValueError(
            "the jets have weights, expected jets that count equally: of the metrics only the W1 "
            "take weights; draw jets in proportion to their weights first"
        )


def w1_estimates(
    real: Sample,
    generated: Sample,
    protocol: str = "whole",
    *,
    draws: int | None = None,
    size: int = 50_000,
    seed: int = 42,
) -> dict[str, Estimate]:
    """Return every metric of `W1_METRICS` between two samples, by name.

    Arguments:
        real: the reference.
        generated: what is compared with it.
        protocol: `"whole"`, whose error is that of the bootstrap, or `"jetnet"`.
        draws: the number of draws; None takes 20 of `"whole"` and the 5 of the package.
        size: the number of jets of one draw of `"jetnet"`.
        seed: the seed of the draws.

    Weights of jets count in `"whole"` and in `"jetnet"`, which draws jets and not weights.

    Raises:
        ValueError: if there is no such protocol, a number is out of range, or there is no particle.

    >>> x = torch.rand(200, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    >>> moved = x + torch.tensor([0.125, 0.0, 0.0])
    >>> found = w1_estimates(Sample.of(x), Sample.of(moved), draws=3)
    >>> round(found["w1p"].value, 5), found["w1p"].error < 0.01  # a third of 0.125
    (0.04167, True)
    """
    if draws is None:
        draws = 20 if protocol == "whole" else 5
    columns = {part: _Column(real, generated, part) for m in W1_METRICS for part in m.parts}
    sizes = (len(real), len(generated))
    return {
        metric.name: measured(
            lambda a, b, parts=metric.parts: (  # type: ignore[misc]
                sum(columns[part].distance(a, b) for part in parts) / len(parts)
            ),
            sizes,
            protocol,
            draws=draws,
            size=size,
            seed=seed,
        )
        for metric in W1_METRICS
    }


class _Column:
    """One observable of two samples, sorted once, so that each draw only sums weights."""

    def __init__(self, real: Sample, generated: Sample, name: str) -> None:
        pairs = [[part.cpu().numpy() for part in side.column(name)] for side in (real, generated)]
        if not all(len(values) for values, _ in pairs):
            raise ValueError(
                f"W1 of {name} between samples with {len(pairs[0][0])} and {len(pairs[1][0])} "
                "values is not defined, expected at least one on each side; are there particles?"
            )
        values = np.concatenate([side[0] for side in pairs])
        order = values.argsort(kind="stable")
        self._gaps = np.diff(values[order])
        self._jet = np.concatenate([side[1] for side in pairs])[order]
        self._first = order < len(pairs[0][0])
        self._weights = [_weight(side) for side in (real, generated)]
        self._name = name

    def distance(self, real: Counts, generated: Counts) -> float:
        """Return W1 where each jet counts so often."""
        sums = []
        for side, counts, weight in zip(
            (self._first, ~self._first), (real, generated), self._weights, strict=True
        ):
            counted = counts if weight is None else counts * weight
            values = np.where(side, counted[np.where(side, self._jet, 0)], 0)
            if weight is not None:
                total_weight(torch.from_numpy(values), f"in a draw of W1 of {self._name} weights")
            if values.sum() == 0:
                raise ValueError(
                    f"a draw of W1 of {self._name} has no particle; the jets are too empty for it"
                )
            sums.append(values.cumsum())
        difference = sums[0] / sums[0][-1] - sums[1] / sums[1][-1]
        return float((np.abs(difference[:-1]) * self._gaps).sum())


def _weight(sample: Sample) -> NDArray[np.float64] | None:
    weight = sample.observables.weight
    return None if weight is None else weight.cpu().numpy()
