"""Coverage and minimum matching distance, by the energy mover's distance between two jets.

With momenta z_i, y_j of the particles of two jets, and R_ij their distances in (eta, phi),

    EMD = min over f of  sum_ij f_ij R_ij + |sum_i z_i - sum_j y_j|,
          f_ij >= 0,  sum_j f_ij <= z_i,  sum_i f_ij <= y_j,  sum_ij f_ij = min(sum z, sum y),

the work to turn one into the other at beta = 1 and R = 1, in units of the jet pT: momentum that has
no partner costs R = 1. A negative ptrel, which only a generator can make, counts as 0. Of n real
and n generated jets, each generated one has a nearest real jet;

    coverage = the number of different ones of these, over n,
    MMD      = the mean, over the real jets, of the distance to their nearest generated jet.

Coverage of the truth by the truth is not 1 but about 0.6 at any n, so that it must be read beside
that.

"Metric space of collider events" (arXiv:1902.02346); "Learning representations and generative
models for 3D point clouds" (arXiv:1707.02392) for the two numbers. Needs the extra `metrics`.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from setflow.physics.protocols import Estimate, check_protocol
from setflow.physics.samples import Observables, require_equal_jets
from setflow.physics.tables import packed
from setflow.sets.arrays import Array, as_tensor

__all__ = ["coverage_and_mmd", "energy_movers_distances"]


def _pot() -> ModuleType:
    try:
        import ot
    except ImportError:
        raise ImportError(
            "POT is not installed; the energy mover's distance needs "
            "`pip install 'setflow[metrics]'`"
        ) from None
    return ot  # type: ignore[no-any-return]


def energy_movers_distances(
    x_a: Array, x_b: Array, mask_a: Array | None = None, mask_b: Array | None = None
) -> Tensor:
    """Return the energy mover's distance of each jet of one sample to each of another, `(n, m)`.

    Arguments:
        x_a: particles (etarel, phirel, ptrel), with shape `(n, N, 3)`.
        x_b: particles of the other jets, with shape `(m, M, 3)`.
        mask_a: which are real, with shape `(n, N)`; None means all.
        mask_b: those of the others, with shape `(m, M)`.

    It is that of the module, in float64 and on the CPU, without a gradient; a few hundred pairs of
    30 particles take a tenth of a second. A jet without particles is as far as the other has pT.

    Raises:
        ImportError: if POT is missing.
        ValueError: if shapes do not fit, or a real particle is not finite.

    >>> one = torch.tensor([[[0.0, 0.0, 0.75]]])
    >>> two = torch.tensor([[[0.2, 0.0, 0.5], [0.0, 0.4, 0.5]]])
    >>> energy_movers_distances(one, two)  # 0.5 * 0.2 + 0.25 * 0.4, and 0.25 without a partner
    tensor([[0.4500]], dtype=torch.float64)
    """
    ot = _pot()
    sides = []
    for name, x, mask in (("x_a", x_a, mask_a), ("x_b", x_b, mask_b)):
        x = as_tensor(x, name)
        if x.ndim != 3:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, expected (jets, N, 3)")
        real, counts = packed(x, mask)
        if not bool(real.isfinite().all()):
            raise ValueError(f"{name} holds real particles that are not finite; count and cut them")
        rows = zip(real.cpu().double().numpy(), counts.sum(-1).tolist(), strict=True)
        sides.append([jet[:count][jet[:count, 2] > 0] for jet, count in rows])
    result = np.empty((len(sides[0]), len(sides[1])))
    for i, a in enumerate(sides[0]):
        for j, b in enumerate(sides[1]):
            result[i, j] = _distance(ot, a, b)
    return torch.from_numpy(result)


def _distance(ot: ModuleType, a: np.ndarray, b: np.ndarray) -> float:
    """Return the distance of two jets of particles with pT > 0, with shapes `(n, 3)`, `(m, 3)`."""
    missing = a[:, 2].sum() - b[:, 2].sum()
    if len(a) == 0 or len(b) == 0:
        return float(abs(missing))
    phi = np.abs(a[:, None, 1] - b[None, :, 1]) % (2 * np.pi)
    cost = np.ones((len(a) + 1, len(b) + 1))  # the last: a partner for what has none
    cost[:-1, :-1] = np.hypot(a[:, None, 0] - b[None, :, 0], np.minimum(phi, 2 * np.pi - phi))
    z, y = np.append(a[:, 2], max(-missing, 0.0)), np.append(b[:, 2], max(missing, 0.0))
    rows, columns = len(z) - (missing >= 0), len(y) - (missing <= 0)
    work = ot.emd2(
        z[:rows], y[:columns], np.ascontiguousarray(cost[:rows, :columns]), check_marginals=False
    )
    return float(work)


def coverage_and_mmd(
    real: Observables,
    generated: Observables,
    protocol: str = "whole",
    *,
    draws: int = 10,
    size: int = 100,
    seed: int = 42,
) -> dict[str, Estimate]:
    """Return `"coverage"` (a share) and `"mmd"` (in units of the jet pT) of generated jets.

    Arguments:
        real: the reference.
        generated: what is compared with it.
        protocol: `"whole"` takes disjoint batches of both samples, its error is that of their mean;
            `"jetnet"` draws each batch with replacement, its error is their standard deviation.
        draws: the number of batches, at most: `"whole"` makes fewer, larger than none, of few jets.
        size: the number of jets on each side of a batch.
        seed: the seed of the draws.

    Both depend on `size`, and neither has a limit that were the truth: compare with the truth at
    the same size. A batch of 100 and 100 jets of 30 particles takes about 3 seconds.

    Raises:
        ImportError: if POT is missing.
        ValueError: if there is no such protocol, jets have weights, or are fewer than two
            batches.
    """
    check_protocol(protocol)
    require_equal_jets(real, generated)
    whole = protocol == "whole"
    most = min(len(real), len(generated)) // size if whole and size > 0 else draws
    if size < 1 or min(draws, most) < 2:
        raise ValueError(
            f"got draws={draws} and size={size} of {len(real)} real and {len(generated)} generated "
            "jets, expected at least 2 batches of at least 1 jet; take more jets or smaller batches"
        )
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(side)) for side in (real, generated)] if whole else []
    coverage, mmd = [], []
    for k in range(min(draws, most)):
        if whole:
            chosen = [order[k * size : (k + 1) * size] for order in orders]
        else:
            chosen = [rng.choice(len(side), size=size) for side in (real, generated)]
        here, there = (torch.from_numpy(jets) for jets in chosen)
        table = energy_movers_distances(
            generated.x[there], real.x[here], generated.mask[there], real.mask[here]
        )
        mmd.append(float(table.amin(0).mean()))
        coverage.append(len(set(table.argmin(1).tolist())) / size)
    scale = np.sqrt(len(mmd) - 1) if whole else 1.0  # with np.std: the error of the mean
    return {
        name: Estimate(float(np.mean(values)), float(np.std(values) / scale))
        for name, values in (("coverage", coverage), ("mmd", mmd))
    }
