"""How often, and on which jets, a distance is measured: two protocols by name.

A distance between finite samples scatters, and most are biased upwards: two samples of one truth
are never at distance zero. What is printed therefore depends on the protocol:

    whole      all jets on both sides, once. The error says how far the value would scatter with
               other jets: from draws of the same jets with replacement (bootstrap), from leaving
               out blocks (jackknife), or from a formula; each metric says which. Two independent
               samples of the truth, of the same sizes, give the floor.
    jetnet     that of the published numbers: batches drawn with replacement from each side, their
               mean and standard deviation; where the jetnet package fits or takes a median, so does
               this. Repeated jets add to the distance, so that near the truth this is larger than
               `whole`: compare it with published numbers only. The draws are those of NumPy's
               `default_rng(seed)` in the order of the package, so that with its arrays and its seed
               its numbers come out.

"JetNet: A Python package for accessing open datasets and benchmarking machine learning methods in
high energy physics" (doi:10.21105/joss.05789), and its version 0.2.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from setflow.sets.arrays import Array, as_tensor

__all__ = [
    "PROTOCOLS",
    "Counts",
    "Estimate",
    "check_protocol",
    "drawn",
    "estimates",
    "feature_pair",
]

PROTOCOLS = ("whole", "jetnet")

Counts = NDArray[np.int64]
"""How often each jet of a sample was drawn, with shape `(n,)`."""


@dataclass(frozen=True)
class Estimate:
    """What was measured.

    Arguments:
        value: the value.
        error: how far it scatters; one standard deviation.
    """

    value: float
    error: float


def check_protocol(protocol: str) -> None:
    """Check the name of a protocol.

    Raises:
        ValueError: if there is no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"there is no protocol {protocol!r}, expected one of: whole, jetnet")


def drawn(
    sizes: tuple[int, int], protocol: str, *, draws: int, size: int, seed: int
) -> list[tuple[Counts, Counts]]:
    """Return how often each jet of two samples counts, in each draw that `estimates` asks for.

    Arguments:
        sizes: the numbers of jets there are.
        protocol: `"whole"`: every jet once, last, after the draws of the bootstrap; or `"jetnet"`.
        draws: how many draws with replacement; of all jets, or of `size` of them.
        size: the size of a batch of `"jetnet"`.
        seed: the seed of the draws.

    Raises:
        ValueError: if there is no such protocol, or fewer than 2 draws.
    """
    check_protocol(protocol)
    if draws < 2 or size < 1:
        raise ValueError(f"got draws={draws} and size={size}, expected at least 2 and 1")
    rng = np.random.default_rng(seed)
    counts = []
    for _ in range(draws):
        chosen = (rng.choice(n, size=n if protocol == "whole" else size) for n in sizes)
        a, b = (np.bincount(jets, minlength=n) for jets, n in zip(chosen, sizes, strict=True))
        counts.append((a, b))
    if protocol == "whole":
        counts.append((np.ones(sizes[0], np.int64), np.ones(sizes[1], np.int64)))
    return counts


def estimates(table: Array, protocol: str) -> list[Estimate]:
    """Return what was measured.

    Arguments:
        table: the distances of the counts of each of `drawn`, with shape `(draws, F)`.
        protocol: that of the counts.
    """
    values = np.asarray(table)
    if protocol == "jetnet":
        means, errors = np.mean(values, 0), np.std(values, 0)
    else:
        means, errors = values[-1], np.std(values[:-1], 0, ddof=1)
    return [Estimate(*pair) for pair in zip(means.tolist(), errors.tolist(), strict=True)]


def feature_pair(real: Array, generated: Array, at_least: int) -> tuple[Tensor, Tensor]:
    """Return the features of two samples, divided by the largest |value| of the real ones.

    Arguments:
        real: features, with shape `(n, F)`.
        generated: features, with shape `(m, F)`.
        at_least: the number of jets that are needed on each side.

    A feature that is 0 in all real jets is left as it is.

    Raises:
        ValueError: if shapes do not fit, jets are too few, or a value is not finite.
    """
    sides = [as_tensor(side, "features").detach().double() for side in (real, generated)]
    shapes = [tuple(side.shape) for side in sides]
    if any(side.ndim != 2 for side in sides) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"features have shapes {shapes[0]} and {shapes[1]}, expected (n, F) and (m, F) such as "
            "energy_flow_polynomials gives"
        )
    for name, side in zip(("real", "generated"), sides, strict=True):
        if len(side) < at_least:
            raise ValueError(
                f"there are {len(side)} {name} jets, expected at least {at_least}; take more jets"
            )
        bad = ~side.isfinite().all(-1)
        if bool(bad.any()):
            raise ValueError(
                f"features are not finite in {int(bad.sum())} of {len(side)} {name} jets, the "
                f"first of them jet {int(bad.nonzero()[0])}; find out why, and count such jets, "
                "before cutting them away"
            )
    real, generated = sides[0], sides[1].to(sides[0].device)
    largest = real.abs().amax(0)
    largest = torch.where(largest == 0, 1.0, largest)
    return real / largest, generated / largest
