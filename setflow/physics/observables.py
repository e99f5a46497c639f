"""What is inside a jet: its multiplicity, its prongs, its energy correlations.

A jet is a set of particles with (etarel, phirel, ptrel) in the last dimension of `x`; z_i is the
ptrel of particle i, not normalised to the particles that are there, and

    R_ij = sqrt((eta_i - eta_j)^2 + (phi_i - phi_j)^2),      the azimuth wrapped,

the distance between two of them. Each observable is one number per jet, of shape `batch` and in the
dtype of the input, computed in float64 over the real particles alone, and 0 for a jet without any.
They are values and not losses: no gradient passes through them.

Observables of the substructure hold a table of N x N distances per jet, so they go through the jets
in chunks of bounded memory (`setflow.physics.tables`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from setflow.physics.kinematics import checked_particles
from setflow.physics.tables import canonical, chunks, packed, squared_distances
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.masks import count_real
from setflow.sets.shapes import floating_dtype

__all__ = ["energy_flow_polynomial", "multiplicity", "tau21", "tau21_and_tau32", "tau32"]


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
    return _ratios(x, mask, 1, _tau21_of_chunk)[0]


def tau32(x: Array, mask: Array | None = None) -> Tensor:
    """Return the N-subjettiness ratio tau3 / tau2 of each jet, with shape `batch`, at least 0.

    Arguments:
        x: particles (etarel, phirel, ptrel), with shape `(*batch, N, 3)`.
        mask: which are real, with shape `(*batch, N)`; None means all.

    It is small for a jet of three prongs, as those of a top quark are. tau_M and its axes are those
    of `tau21`. Since the axes are not minimised, it may exceed 1 by little. A jet with fewer than 4
    real particles has 0 (with three of them each is its own axis), and so has one with tau2 = 0.

    "Identifying boosted objects with N-subjettiness" (arXiv:1011.2268).

    >>> prongs = [[0.0, 0.0, 0.4], [0.0, 0.1, 0.2], [0.8, 0.0, 0.3], [0.0, 0.9, 0.3]]
    >>> tau32(torch.tensor(prongs))  # 0.2 * 0.1 / (0.2 * 0.1 + 0.3 * 0.8)
    tensor(0.0769)
    """
    return tau21_and_tau32(x, mask)[1]


def tau21_and_tau32(x: Array, mask: Array | None = None) -> Tensor:
    """Return `tau21` and `tau32` of each jet from one clustering, with shape `(2, *batch)`.

    Arguments:
        x: particles (etarel, phirel, ptrel), with shape `(*batch, N, 3)`.
        mask: which are real, with shape `(*batch, N)`; None means all.

    >>> x = torch.rand(4, 10, 3)
    >>> both = tau21_and_tau32(x)
    >>> torch.equal(both[0], tau21(x)), torch.equal(both[1], tau32(x))
    (True, True)
    """
    return _ratios(x, mask, 2, _both_of_chunk)


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
    real, mask = packed(x, mask)
    result = real.new_zeros(mask.shape[0])
    for jets, eta, phi, pt, _ in chunks(real, mask, at_least=2):
        theta = squared_distances(eta, phi).sqrt_()
        two_steps = torch.bmm(theta * pt[:, None, :], theta)
        result[jets] = torch.einsum("bi,bik,bk->b", pt, two_steps.square_(), pt)
    return result.reshape(x.shape[:-2]).to(floating_dtype(x))


def _to_axes(table: Tensor, alive: Tensor, momentum: Tensor, axes: int) -> tuple[Tensor, Tensor]:
    """Return the distances to the slots that are left, with shape `(axes, c, n)`, and their pT."""
    slots = alive.to(torch.uint8).topk(axes, dim=-1).indices.sort(-1).values
    distances = [table[torch.arange(len(table), device=table.device), slot] for slot in slots.T]
    return torch.stack(distances).sqrt_(), momentum.gather(-1, slots).T


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below == 0, 0.0, above / torch.where(below == 0, 1.0, below))


def _ratios(
    x: Array, mask: Array | None, number: int, of_chunk: Callable[..., tuple[Tensor, ...]]
) -> Tensor:
    """Return so many ratios of each jet, with shape `(number, *batch)`, 0 below 3 particles.

    Arguments:
        x: particles, with shape `(*batch, N, 3)`.
        mask: which are real, with shape `(*batch, N)`; None means all.
        number: how many.
        of_chunk: what computes them of jets with at least 3 particles, real ones first, by rising
            multiplicity.
    """
    x = as_tensor(x, "particles")
    real, mask = canonical(x, mask)
    result = real.new_zeros(number, mask.shape[0])
    for jets, eta, phi, pt, count in chunks(real, mask, at_least=3):
        result[:, jets] = torch.stack(of_chunk(squared_distances(eta, phi), pt, count))
    return result.reshape(number, *x.shape[:-2]).to(floating_dtype(x))


def _tau1_and_tau2(
    table: Tensor, pt: Tensor, alive: Tensor, momentum: Tensor
) -> tuple[Tensor, Tensor]:
    (to_first, to_second), (first, second) = _to_axes(table, alive, momentum, 2)
    to_winner = torch.where((first >= second)[:, None], to_first, to_second)
    return (pt * to_winner).sum(-1), (pt * torch.minimum(to_first, to_second)).sum(-1)


def _tau21_of_chunk(table: Tensor, pt: Tensor, count: Tensor) -> tuple[Tensor, ...]:
    (two,) = _subjets(table, pt, count, most=2)
    tau1, tau2 = _tau1_and_tau2(table, pt, *two)
    return (_ratio(tau2, tau1),)


def _both_of_chunk(table: Tensor, pt: Tensor, count: Tensor) -> tuple[Tensor, ...]:
    three, two = _subjets(table, pt, count, most=3)
    tau1, tau2 = _tau1_and_tau2(table, pt, *two)
    tau3 = (pt * _to_axes(table, *three, 3)[0].amin(0)).sum(-1)
    return _ratio(tau2, tau1), torch.where(count > 3, _ratio(tau3, tau2), 0.0)


def _subjets(table: Tensor, pt: Tensor, count: Tensor, *, most: int) -> list[tuple[Tensor, Tensor]]:
    """Cluster each jet into exclusive kT subjets, by winner-take-all, all jets in step.

    The kT distance is d_ij = min(pT_i, pT_j)^2 R_ij^2, and there is no beam. Since the winner keeps
    its place, the table of R_ij^2 never changes, only momenta do. The smallest of all d_ij is the
    smallest over i of pT_i^2 R_i^2, with R_i the distance to the geometric nearest neighbour, and
    the i that attains it is the softer of the two: it dies, and its neighbour takes its momentum.
    What must be looked up again are the neighbours of those whose neighbour it was.

    Arguments:
        table: squared distances, with shape `(c, n, n)`, zero on the diagonal.
        pt: momenta of the particles, which stand first, with shape `(c, n)`, not negative.
        count: how many there are, with shape `(c,)`, at least `most` and rising.
        most: the number of subjets to stop at first.

    Returns:
        For `most` subjets, then for one less, down to 2: which slots are left, with shape `(c, n)`,
        and the momenta there.
    """
    real = torch.arange(pt.shape[-1], device=pt.device) < count[:, None]
    apart = table.clone()
    apart.diagonal(dim1=-2, dim2=-1).fill_(math.inf)
    alive = real.clone()
    momentum = torch.where(real, pt, 1.0)
    nearest, neighbour = apart.masked_fill(~real[:, None, :], math.inf).min(-1)
    nearest.masked_fill_(~real, math.inf)

    def merge(start: int) -> None:
        """Merge two subjets of each jet from the one called `start` on."""
        here, at, near, of = alive[start:], momentum[start:], nearest[start:], neighbour[start:]
        loser = (at.square() * near).argmin(-1, keepdim=True)
        winner = of.gather(-1, loser)
        at.scatter_add_(-1, winner, at.gather(-1, loser))
        at.scatter_(-1, loser, 1.0)  # not 0, or the infinite distance of the dead becomes a NaN
        near.scatter_(-1, loser, math.inf)
        here.scatter_(-1, loser, False)
        jet, slot = ((of == loser) & here).nonzero(as_tuple=True)
        rows = apart.flatten(0, 1).index_select(0, (jet + start) * pt.shape[-1] + slot)
        rows.masked_fill_(~here.index_select(0, jet), math.inf)
        closest = rows.argmin(-1, keepdim=True)
        of[jet, slot] = closest[:, 0]
        near[jet, slot] = rows.gather(-1, closest)[:, 0]

    start, sizes = 0, count.tolist()
    for done in range(most, sizes[-1]):  # jets of this many particles and fewer are there already
        while sizes[start] <= done:
            start += 1
        merge(start)
    found = [(alive.clone(), momentum.clone())]
    for _ in range(most, 2, -1):
        merge(0)
        found.append((alive.clone(), momentum.clone()))
    return found
