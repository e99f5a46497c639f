"""Samples that are wrong by construction: what a metric says of them shows what it can see.

Both leave the weights of jets to the caller: a control keeps the weight of each jet, so particles
that move to another jet take its weight, and W1P of weighted jets is not 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from setflow.physics.kinematics import by_falling_pt, checked_particles
from setflow.sets import arrays
from setflow.sets.arrays import as_tensor
from setflow.sets.masks import count_real, zero_padding

__all__ = ["shuffle_particles", "swap_ptrel"]


def shuffle_particles(
    x: arrays.Array, mask: arrays.Array | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return jets whose particles are shuffled between them, rank by rank: the first control.

    Arguments:
        x: particles (etarel, phirel, ptrel), with shape `(*batch, N, 3)`; further columns, such as
            the type, stay with their particles.
        mask: which are real, with shape `(*batch, N)`; None means all.
        generator: the source of randomness, on the CPU.

    Ranks count the real particles by falling ptrel (`hardest_first`). At each rank the particles,
    whole, are permuted among the jets that have one there. This keeps the multiplicity of each jet
    and the spectra of each rank, hence of all particles pooled (W1P is exactly 0), and destroys
    every correlation between the particles of a jet. A ptrel in the result may exceed that of the
    rank before it.

    Returns:
        The particles and their mask, shaped as they came, real ones first.
    """
    real, mask, shape = _jets_of(x, mask)
    for rank in range(mask.shape[1]):
        jets = mask[:, rank].nonzero()[:, 0]
        if len(jets) == 0:
            break
        permuted = torch.randperm(len(jets), generator=generator).to(real.device)
        real[jets, rank] = real[jets[permuted], rank]
    return real.reshape(shape), mask.reshape(shape[:-1])


def swap_ptrel(
    x: arrays.Array, mask: arrays.Array | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return jets whose lists of ptrel are swapped between them: the second control.

    Arguments:
        x: particles (etarel, phirel, ptrel), with shape `(*batch, N, 3)`; further columns, such as
            the type, stay with their particles.
        mask: which are real, with shape `(*batch, N)`; None means all.
        generator: the source of randomness, on the CPU.

    Within the k jets of one multiplicity, jet i takes the ptrel, rank by rank, of jet i + s modulo
    k, with s drawn from 1 to k - 1 for each multiplicity; a jet alone in its multiplicity keeps its
    own. This keeps the directions in each jet, the lists of ptrel, and the spectra of each rank
    (W1P is exactly 0); it destroys the correlation between directions and ptrel beyond the rank.

    Returns:
        The particles and their mask, shaped as they came, hardest first.
    """
    real, mask, shape = _jets_of(x, mask)
    counts = count_real(mask)
    lists = real[..., 2].clone()
    for count in range(1, mask.shape[1] + 1):
        jets = (counts == count).nonzero()[:, 0]
        if len(jets) > 1:
            shift = int(torch.randint(1, len(jets), (), generator=generator))
            real[jets, :, 2] = lists[jets.roll(-shift)]
    return real.reshape(shape), mask.reshape(shape[:-1])


def _jets_of(x: arrays.Array, mask: arrays.Array | None) -> tuple[Tensor, Tensor, torch.Size]:
    """Return a copy as one list of jets `(n, N, 3)`, hardest first, its mask, the shape of `x`."""
    x = as_tensor(x, "particles").detach()
    real, mask = checked_particles(x[..., :3] if x.ndim else x, mask)
    if x.shape[-1] > 3:
        real = torch.cat([real, zero_padding(x[..., 3:], mask).to(real.dtype)], -1)
    real, mask = by_falling_pt(real, mask)
    n = math.prod(x.shape[:-2])
    return real.reshape(n, *x.shape[-2:]), mask.reshape(n, x.shape[-2]), x.shape
