"""What is inside a jet: its multiplicity, its prongs, its energy correlations.

A jet is a set of particles with (etarel, phirel, ptrel) in the last dimension of `x`; z_i is the
ptrel of particle i, not normalised to the particles that are there, and

    R_ij = sqrt((eta_i - eta_j)^2 + (phi_i - phi_j)^2),      the azimuth wrapped,

the distance between two of them. Each observable is one number per jet, of shape `batch` and in the
dtype of the input, computed in float64 over the real particles alone, and 0 for a jet without any.
They are values and not losses: no gradient passes through them.

Both substructure observables hold a table of N x N distances per jet, so they go through the jets
in chunks of bounded memory, ordered by multiplicity, and a chunk has only the slots that it needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from setflow.physics.kinematics import checked_particles, delta_phi, hardest_first
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.masks import count_real
from setflow.sets.shapes import floating_dtype

__all__ = ["energy_flow_polynomial", "multiplicity", "tau21"]

_TABLE = 2**21
"""Distances in a chunk at most: 16 MiB in float64, about what a cache holds."""

_SLOTS = 2**14
"""Slots in a chunk at most: what one thread works through faster than two can agree to share it."""


def multiplicity(x: Array, mask: Array | None = None) -> Tensor:
    """Return the number of real particles of each jet, with shape `batch`, in the dtype of `x`.

    Arguments:
        x: particles (etarel, phirel, ptrel), with shape `(*batch, N, 3)`.
        mask: which are real, with shape `(*batch, N)`; None means all.

    >>> multiplicity(torch.zeros(4, 3), torch.tensor([True, False, True, False]))
    tensor(2.)
    """
    real, mask = checked_particles(x, mask)
    return count_real(mask).to(real.dtype)


def tau21(x: Array, mask: Array | None = None) -> Tensor:
    """Return the N-subjettiness ratio tau2 / tau1 of each jet, with shape `batch`, between 0 and 1.

    Arguments:
        x: particles (etarel, phirel, ptrel), with shape `(*batch, N, 3)`.
        mask: which are real, with shape `(*batch, N)`; None means all.

    tau_M = sum_i z_i min_a R_ia over M axes a (beta = 1) is small for a jet with at most M prongs;
    its usual normalisation drops out of the ratio. The axes are the M exclusive kT subjets, found
    with winner-take-all recombination: of two merged particles the harder gives the direction.
    They are not minimised any further.

    A jet with fewer than 3 real particles has tau21 = 0 (with two of them each is its own axis),
    and so has one with tau1 = 0. A negative ptrel, which only a generator can make, counts as 0.

    "Identifying boosted objects with N-subjettiness" (arXiv:1011.2268); "Jet shapes with the
    broadening axis" (arXiv:1401.2158) for the recombination.

    >>> prongs = [[0.0, 0.0, 0.4], [0.0, 0.1, 0.2], [0.8, 0.0, 0.3], [0.9, 0.0, 0.1]]
    >>> tau21(torch.tensor(prongs))  # (0.2 * 0.1 + 0.1 * 0.1) / (0.2 * 0.1 + 0.3 * 0.8 + 0.1 * 0.9)
    tensor(0.0857)
    """
    x = as_tensor(x, "particles")
    real, mask = _canonical(x, mask)
    result = real.new_zeros(mask.shape[0])
    for jets, eta, phi, pt, count in _chunks(real, mask, at_least=3):
        result[jets] = _tau21_of_chunk(eta, phi, pt, count)
    return result.reshape(x.shape[:-2]).to(floating_dtype(x))


def energy_flow_polynomial(x: Array, mask: Array | None = None) -> Tensor:
    """Return the energy flow polynomial of the square graph of each jet, with shape `batch`.

    Arguments:
        x: particles (etarel, phirel, ptrel), with shape `(*batch, N, 3)`.
        mask: which are real, with shape `(*batch, N)`; None means all.

    The square is the cycle of 4 vertices and 4 edges,

        EFP = sum_ijkl z_i z_j z_k z_l R_ij R_jk R_kl R_li = sum_ik z_i z_k (sum_j R_ij z_j R_jk)^2,

    so it costs one matrix product instead of four loops. The measure is "hadr" with beta = 1 and
    without normalisation ("normed=None"): z = ptrel, not divided by its sum. Dimensionless for
    relative input. A jet with fewer than 2 real particles has 0.

    "Energy flow polynomials: A complete linear basis for jet substructure" (arXiv:1712.07124).

    >>> jet = torch.tensor([[0.0, 0.0, 0.5], [0.2, 0.0, 0.5]], dtype=torch.float64)
    >>> energy_flow_polynomial(jet)  # i = k and j = l: 2 * 0.5^4 * 0.2^4
    tensor(0.0002, dtype=torch.float64)
    """
    x = as_tensor(x, "particles")
    real, mask = _packed(x, mask)
    result = real.new_zeros(mask.shape[0])
    for jets, eta, phi, pt, _ in _chunks(real, mask, at_least=2):
        theta = _squared_distances(eta, phi).sqrt_()
        two_steps = torch.bmm(theta * pt[:, None, :], theta)
        result[jets] = torch.einsum("bi,bik,bk->b", pt, two_steps.square_(), pt)
    return result.reshape(x.shape[:-2]).to(floating_dtype(x))


def _packed(x: Tensor, mask: Array | None) -> tuple[Tensor, Tensor]:
    """Return one list of jets `(n, N, 3)` in float64, hardest first, and its mask; no graph."""
    real, mask = checked_particles(x, mask)
    jets = math.prod(x.shape[:-2])
    return hardest_first(
        real.detach().double().reshape(jets, *x.shape[-2:]), mask.reshape(jets, x.shape[-2])
    )


def _canonical(x: Tensor, mask: Array | None) -> tuple[Tensor, Tensor]:
    """Return what `_packed` does, with ties in ptrel broken by eta and phi and not by their order.

    A clustering that meets a tie must decide; so it decides alike however the set is written down.
    """
    real, mask = _packed(x, mask)
    for feature in (1, 0):
        order = real[..., feature].argsort(dim=-1, stable=True)
        real = real.gather(-2, order[..., None].expand_as(real))
        mask = mask.gather(-1, order)
    real[..., 2].clamp_(min=0.0)
    return hardest_first(real, mask)


def _chunks(
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


def _squared_distances(eta: Tensor, phi: Tensor) -> Tensor:
    """Return the table of R_ij^2, with shape `(c, n, n)`, of eta and phi with shape `(c, n)`."""
    table = (eta[:, :, None] - eta[:, None, :]).square_()
    phi = delta_phi(phi, phi.new_zeros(()))
    apart = (phi[:, :, None] - phi[:, None, :]).abs_()
    if bool((phi.abs() > math.pi / 2).any()):  # else no two are further apart than pi
        apart = torch.minimum(apart, 2 * math.pi - apart)
    return table.add_(apart.square_())


def _tau21_of_chunk(eta: Tensor, phi: Tensor, pt: Tensor, count: Tensor) -> Tensor:
    """Return tau21 of jets with at least 3 particles, real ones first, by rising multiplicity."""
    table = _squared_distances(eta, phi)
    table.diagonal(dim1=-2, dim2=-1).fill_(math.inf)
    real = torch.arange(pt.shape[-1], device=pt.device) < count[:, None]
    alive, momentum = _two_subjets(table, pt, real, count)
    table.diagonal(dim1=-2, dim2=-1).zero_()

    first, second = alive.to(torch.uint8).topk(2, dim=-1).indices.sort(-1).values.unbind(-1)
    jet = torch.arange(len(pt), device=pt.device)
    to_first, to_second = table[jet, first].sqrt_(), table[jet, second].sqrt_()
    first_wins = momentum[jet, first] >= momentum[jet, second]
    to_winner = torch.where(first_wins[:, None], to_first, to_second)
    tau1 = (pt * to_winner).sum(-1)
    tau2 = (pt * torch.minimum(to_first, to_second)).sum(-1)
    return torch.where(tau1 == 0, 0.0, tau2 / torch.where(tau1 == 0, 1.0, tau1))


def _two_subjets(table: Tensor, pt: Tensor, real: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Cluster each jet into its two exclusive kT subjets, by winner-take-all, all jets in step.

    The kT distance is d_ij = min(pT_i, pT_j)^2 R_ij^2, and there is no beam. Since the winner keeps
    its place, the table of R_ij^2 never changes, only momenta do. The smallest of all d_ij is the
    smallest over i of pT_i^2 R_i^2, with R_i the distance to the geometric nearest neighbour, and
    the i that attains it is the softer of the two: it dies, and its neighbour takes its momentum.
    What must be looked up again are the neighbours of those whose neighbour it was.

    Arguments:
        table: squared distances, with shape `(c, n, n)`, infinite on the diagonal.
        pt: momenta, with shape `(c, n)`, not negative.
        real: which slots hold a particle, with shape `(c, n)`.
        count: how many do, with shape `(c,)`, at least 2 and rising.

    Returns:
        Which two slots are left, with shape `(c, n)`, and the momenta there.
    """
    alive = real.clone()
    momentum = torch.where(real, pt, 1.0)
    nearest, neighbour = table.masked_fill(~real[:, None, :], math.inf).min(-1)
    nearest.masked_fill_(~real, math.inf)
    by_slot, slots = table.flatten(0, 1), table.shape[-1]
    start, sizes = 0, count.tolist()
    for done in range(2, sizes[-1]):  # jets of this many particles and fewer have 2 left
        while sizes[start] <= done:
            start += 1
        here, at, near, of = alive[start:], momentum[start:], nearest[start:], neighbour[start:]
        loser = (at.square() * near).argmin(-1, keepdim=True)
        winner = of.gather(-1, loser)
        at.scatter_add_(-1, winner, at.gather(-1, loser))
        at.scatter_(-1, loser, 1.0)  # not 0, or the infinite distance of the dead becomes a NaN
        near.scatter_(-1, loser, math.inf)
        here.scatter_(-1, loser, False)
        jet, slot = ((of == loser) & here).nonzero(as_tuple=True)
        rows = by_slot.index_select(0, (jet + start) * slots + slot)
        rows.masked_fill_(~here.index_select(0, jet), math.inf)
        closest = rows.argmin(-1, keepdim=True)
        of[jet, slot] = closest[:, 0]
        near[jet, slot] = rows.gather(-1, closest)[:, 0]
    return alive, momentum
