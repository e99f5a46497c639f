"""Hutchinson's estimator: the divergence from random projections of the Jacobian.

Notation. J is the Jacobian of the velocity over real coordinates and e a random probe with
E[e e^T] = I on them and zero on padding; e^T J e has the expectation tr J, and the mean over
`n_probes` probes a variance that falls with their number.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from setflow.core.masks import as_mask, zero_padding
from setflow.core.protocols import event_ndim_of
from setflow.core.specs import coordinates, positive_integer
from setflow.divergence.base import DivergenceEstimator, differentiable_call

__all__ = ["FixedProbeDivergence", "HutchinsonDivergence", "Probe"]

Probe = Literal["rademacher", "gaussian"]


class FixedProbeDivergence(DivergenceEstimator):
    """The mean of e^T J e over given probes.

    Arguments:
        probes: with shape `(n_probes, *lead, *event_shape)`; padded slots may hold anything.

    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2))
    >>> FixedProbeDivergence(torch.ones(1, 4, 3, 2))(field, torch.zeros(4, 3, 2), 1.0)
    tensor([6., 6., 6., 6.])
    """

    def __init__(self, probes: Tensor) -> None:
        self.probes = probes

    def velocity_and_divergence(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Tensor | None = None,
        *,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return velocity and estimated divergence; see `DivergenceEstimator`.

        Raises:
            ValueError: if the probes do not have the shape of `x`.
        """
        if self.probes.shape[1:] != x.shape or not len(self.probes):
            raise ValueError(
                f"probes have shape {tuple(self.probes.shape)}, expected "
                f"{('n_probes', *x.shape)}: the shape of x behind the number of probes"
            )
        event_ndim = event_ndim_of(field)
        with differentiable_call(field, x, t, c, mask) as (state, v, again):
            total = v.new_zeros(v.shape[: v.ndim - event_ndim])
            for probe in self.probes if v.requires_grad else ():
                probe = zero_padding(probe.to(v), None if mask is None else as_mask(mask))
                (product,) = torch.autograd.grad(
                    v,
                    state,
                    probe,
                    retain_graph=True,
                    create_graph=again,
                    materialize_grads=True,
                )
                total = total + coordinates(product * probe, event_ndim).sum(-1)
            divergence = total / len(self.probes)
        return (v, divergence) if again else (v.detach(), divergence.detach())


class HutchinsonDivergence(DivergenceEstimator):
    """An unbiased estimate of the divergence at the price of a few reverse passes.

    Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
    splines" (Communications in Statistics 19, 1990); in flows, Grathwohl et al., "FFJORD"
    (arXiv:1810.01367). In `masked_log_prob` the probes are drawn once per solve, one number
    for every slot: with the same generator, longer padding gives other probes to the same objects,
    and so another estimate. `FixedProbeDivergence` takes the probes themselves.

    Arguments:
        probe: `rademacher` (signs, the smaller variance) or `gaussian`.
        n_probes: how many probes to average.

    Raises:
        ValueError: if `probe` is another word or `n_probes` is not positive.

    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2))
    >>> HutchinsonDivergence()(field, torch.zeros(4, 3, 2), 1.0)  # exact for a diagonal Jacobian
    tensor([6., 6., 6., 6.])
    """

    def __init__(self, probe: Probe = "rademacher", n_probes: int = 1) -> None:
        if probe not in get_args(Probe):
            raise ValueError(f"probe must be 'rademacher' or 'gaussian', got {probe!r}")
        self.probe: Probe = probe
        self.n_probes = positive_integer(n_probes, "n_probes")

    def velocity_and_divergence(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Tensor | None = None,
        *,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return velocity and divergence estimated with new probes; see `DivergenceEstimator`."""
        return self.for_solve(x, mask).velocity_and_divergence(field, x, t, c, mask=mask)

    def for_solve(
        self, x: Tensor, mask: Tensor | None, generator: torch.Generator | None = None
    ) -> FixedProbeDivergence:
        """Draw the probes for events of the shape of `x`."""
        shape = (self.n_probes, *x.shape)
        if self.probe == "gaussian":
            probes = torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
        else:
            signs = torch.randint(2, shape, generator=generator, device=x.device)
            probes = (2 * signs - 1).to(x.dtype)
        return FixedProbeDivergence(probes)
