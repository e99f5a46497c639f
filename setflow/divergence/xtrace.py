"""XTrace: the divergence from a sketch of the Jacobian, whose every probe is used twice.

Notation. A = J^T is the transposed Jacobian over the d real coordinates of an event, so that A u is
one reverse pass. k probes w_i make the sketch Y = A W with the orthonormal basis Q (Y = Q R). With
Q_i the part of range(Q) that is left without probe i,

    tr_i = tr(Q_i^T A Q_i) + c_i w_i^T (I - Q_i Q_i^T) A (I - Q_i Q_i^T) w_i,

where c_i = (d - k + 1) / |(I - Q_i Q_i^T) w_i|^2, is an unbiased estimate of the trace, since w_i
is independent of Q_i, and their mean is the result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from setflow.divergence.base import PlannedDivergence, StochasticDivergence
from setflow.divergence.hutchinson import ProbedDivergence, draw_probes
from setflow.divergence.linearization import Linearization
from setflow.random import EventSeeds
from setflow.sets.planning import Chunk
from setflow.sets.shapes import event_numel, positive_integer

__all__ = ["XTraceDivergence"]


class XTraceDivergence(StochasticDivergence):
    """A low-variance estimate of the divergence for Jacobians that a few directions dominate.

    Epperly, Tropp and Webber, "XTrace: Making the most of every sample in stochastic trace
    estimation" (arXiv:2301.07825), with normally distributed probes. It takes the part of the trace
    that lies in the span of its sketch exactly, and an event with no more real coordinates than
    probes as a whole. Where the eigenvalues fall off slowly, `HutchinsonDivergence` with signs at
    the same price has the smaller variance, because it takes the diagonal exactly; so it is with
    fields that were trained on jets (`notebooks/03_likelihood.ipynb` shows both).

    The estimates that it averages share their sketch, so that their spread tells no standard error.

    Arguments:
        n_products: how many reverse passes an evaluation may take, an even number of at least 4:
            half of them for the sketch.

    Raises:
        ValueError: if `n_products` is another number.

    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2), coupling=2.0)
    >>> x = torch.randn(4, 9, 2)
    >>> exact = setflow.ExactDivergence()(field, x, 0.5)  # a diagonal and a direction per feature
    >>> torch.allclose(XTraceDivergence(n_products=8)(field, x, 0.5), exact, atol=1e-3)
    True
    """

    def __init__(self, n_products: int = 8) -> None:
        if positive_integer(n_products, "n_products") < 4 or n_products % 2:
            raise ValueError(
                f"n_products must be an even number of at least 4, got {n_products}: one half "
                "makes the sketch, the other is projected on it"
            )
        self.n_products = n_products
        self.n_estimates = n_products // 2
        self.independent = False  # they share the sketch

    def __repr__(self) -> str:
        return f"XTraceDivergence(n_products={self.n_products})"

    def bound(self, x: Tensor, mask: Tensor | None, seeds: EventSeeds) -> PlannedDivergence:
        """Draw the probes for events of the shape of `x`."""
        return _Sketch(draw_probes("gaussian", self.n_estimates, x, mask, seeds))


class _Sketch(ProbedDivergence):
    """XTrace with given probes."""

    def __init__(self, probes: Tensor) -> None:
        self._given = probes

    def probes_of(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._given

    def traces(self, lin: Linearization, probes: Tensor, chunk: Chunk) -> Tensor:
        k, events = probes.shape[:2]
        numel = event_numel(probes.shape[2:])
        flat = probes.reshape(k, events, numel)
        real = torch.ones_like(flat[0]) if chunk.mask is None else _real(chunk.mask, flat)
        d = real.sum(-1)  # (b,)
        small = d <= k
        if bool(small.any()):  # one unit vector for each real coordinate of a small event
            rank = (real.cumsum(-1) - 1).long()
            units = real * (rank == torch.arange(k, device=rank.device)[:, None, None])
            flat = torch.where(small[:, None], units, flat)
        W = flat.permute(1, 2, 0)  # (b, numel, k)

        def times(columns: Tensor) -> Tensor:
            pulled = lin.pull(columns.permute(2, 0, 1).reshape(probes.shape))
            return pulled.reshape(k, events, numel).permute(1, 2, 0)

        Y = times(W)
        exact = (W * Y).sum((-2, -1))[:, None].expand(events, k)
        if bool(small.all()):
            return exact
        # the estimate is unbiased for the derivative, too, if the basis is held fixed
        Q, R = torch.linalg.qr(Y.detach())
        Q = Q * real[..., None]
        Z = times(Q)
        S = _left_out(R)
        H, V = Q.mT @ Z, Q.mT @ W
        inside = H.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None] - (S * (H @ S)).sum(-2)
        X = V - S * (S * V).sum(-2, keepdim=True)  # Q_i^T w_i in the coordinates of Q
        outside = W - Q @ X
        norm = outside.square().sum(-2)
        products = (outside * (Y - Z @ X)).sum(-2)
        scale = (d[:, None] - k + 1) / norm.clamp(min=torch.finfo(norm.dtype).tiny)
        return torch.where(small[:, None], exact, inside + scale * products)


def _real(mask: Tensor, like: Tensor) -> Tensor:
    per_object = like.shape[-1] // max(1, mask.shape[-1])
    return mask.repeat_interleave(per_object, -1).to(like.dtype)


def _left_out(R: Tensor) -> Tensor:
    """Return the unit vectors, in the coordinates of Q, that leave the span without one probe.

    A triangle that is singular, of a Jacobian of low rank, is made regular by a little.
    """
    k = R.shape[-1]
    largest = R.abs().amax((-2, -1), keepdim=True)
    little = torch.where(largest > 0, largest, torch.ones_like(largest))
    little = little.squeeze(-1) * 10 * torch.finfo(R.dtype).eps
    diagonal = R.diagonal(dim1=-2, dim2=-1)
    regular = R + torch.diag_embed(little.expand_as(diagonal).copysign(diagonal))
    eye = torch.eye(k, dtype=R.dtype, device=R.device)
    inverse = torch.linalg.solve_triangular(regular, eye.expand_as(R), upper=True)
    rows = inverse.mT
    S: Tensor = rows / torch.linalg.vector_norm(rows, dim=-2, keepdim=True)
    return S
