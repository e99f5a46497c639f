"""Jets in chunks of bounded memory, and the table of distances between the particles of each.

An observable that looks at pairs of particles holds a table of N x N distances per jet,

    R_ij = sqrt((eta_i - eta_j)^2 + (phi_i - phi_j)^2),      the azimuth wrapped.

So it goes through the jets in chunks, ordered by multiplicity, and a chunk has only the slots that
it needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from setflow.physics.kinematics import checked_particles, delta_phi, hardest_first
from setflow.sets.arrays import Array
from setflow.sets.masks import count_real

__all__ = ["canonical", "chunks", "packed", "squared_distances"]

_TABLE = 2**19
"""Distances in a chunk at most: 4 MiB in float64; a few such tables are what it takes."""

_SLOTS = 2**14
"""Slots in a chunk at most: what one thread works through faster than two can agree to share it."""


def packed(x: Tensor, mask: Array | None) -> tuple[Tensor, Tensor]:
    """Return one list of jets `(n, N, 3)` in float64, hardest first, and its mask; no graph."""
    real, mask = checked_particles(x, mask)
    jets = math.prod(x.shape[:-2])
    return hardest_first(
        real.detach().double().reshape(jets, *x.shape[-2:]), mask.reshape(jets, x.shape[-2])
    )


def canonical(x: Tensor, mask: Array | None) -> tuple[Tensor, Tensor]:
    """Return what `packed` does, with ties in ptrel broken by eta and phi and not by their order.

    A clustering that meets a tie must decide; so it decides alike however the set is written down.
    """
    real, mask = packed(x, mask)
    for feature in (1, 0):
        order = real[..., feature].argsort(dim=-1, stable=True)
        real = real.gather(-2, order[..., None].expand_as(real))
        mask = mask.gather(-1, order)
    real[..., 2].clamp_(min=0.0)
    return hardest_first(real, mask)


def chunks(
    real: Tensor, mask: Tensor, *, at_least: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Go through packed jets with at least so many particles, by rising multiplicity.

    Yields:
        The indices of the jets `(c,)`, their eta, phi and pT `(c, n)` with n the largest
        multiplicity among them, and their multiplicities `(c,)`.
    """
    counts, jets = count_real(mask).sort(stable=True)
    jets, counts = jets[counts >= at_least], counts[counts >= at_least]
    sizes = counts.tolist()
    start = 0
    while start < len(sizes):
        stop = start + 1
        while stop < len(sizes):
            slots = (stop + 1 - start) * sizes[stop]
            if slots > _SLOTS or slots * sizes[stop] > _TABLE:
                break
            stop += 1
        rows = jets[start:stop]
        eta, phi, pt = (real[rows, : sizes[stop - 1], k] for k in range(3))
        yield rows, eta, phi, pt, counts[start:stop]
        start = stop


def squared_distances(eta: Tensor, phi: Tensor) -> Tensor:
    """Return the table of R_ij^2, with shape `(c, n, n)`, of eta and phi with shape `(c, n)`."""
    table = (eta[:, :, None] - eta[:, None, :]).square_()
    phi = delta_phi(phi, phi.new_zeros(()))
    apart = (phi[:, :, None] - phi[:, None, :]).abs_()
    if bool((phi.abs() > math.pi / 2).any()):  # else no two are further apart than pi
        apart = torch.minimum(apart, 2 * math.pi - apart)
    return table.add_(apart.square_())
