"""Sampling sets of given sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, overload

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from setflow.divergence.base import DivergenceEstimator
from setflow.masking.log_prob import SampleWithLogProb, sample_and_score
from setflow.masking.start import Start, refuse_sde, start_of_sampling
from setflow.sets.events import Context, with_plain_context
from setflow.sets.masks import zero_padding
from setflow.sets.protocols import Base, SDESolver, Solver, event_ndim_of
from setflow.solvers.integrate import integrate

__all__ = ["masked_sample", "sample_ode"]


@overload
def masked_sample(
    field: nn.Module,
    base: Base | Distribution,
    solver: Solver,
    mask: Tensor | None,
    *,
    sample_shape: Iterable[int] | int = (),
    c: Context | None = None,
    t0: float = 1.0,
    t1: float = 0.0,
    x_source: Tensor | None = None,
    estimator: DivergenceEstimator | Callable[..., Tensor] | None = None,
    generator: torch.Generator | None = None,
    return_log_prob: Literal[False] = False,
) -> Tensor: ...


@overload
def masked_sample(
    field: nn.Module,
    base: Base | Distribution,
    solver: Solver,
    mask: Tensor | None,
    *,
    sample_shape: Iterable[int] | int = (),
    c: Context | None = None,
    t0: float = 1.0,
    t1: float = 0.0,
    x_source: Tensor | None = None,
    estimator: DivergenceEstimator | Callable[..., Tensor] | None = None,
    generator: torch.Generator | None = None,
    return_log_prob: Literal[True],
) -> SampleWithLogProb: ...


def masked_sample(
    field: nn.Module,
    base: Base | Distribution,
    solver: Solver,
    mask: Tensor | None,
    *,
    sample_shape: Iterable[int] | int = (),
    c: Context | None = None,
    t0: float = 1.0,
    t1: float = 0.0,
    x_source: Tensor | None = None,
    estimator: DivergenceEstimator | Callable[..., Tensor] | None = None,
    generator: torch.Generator | None = None,
    return_log_prob: bool = False,
) -> Tensor | SampleWithLogProb:
    """Return samples of a flow-matching model, for events of the sizes that the mask tells.

    Arguments:
        field: the velocity field, as in `masked_fm_loss`.
        base: the distribution at `t0`, such as `StandardNormal((D,))`; with an empty batch shape it
            is expanded to the batch of the mask.
        solver: an ODE solver with `integrate(f, x0, *, t0, t1)`.
        mask: which slots are real, with shape `(*batch, N)`; None means all, and the batch is then
            that of the base or, if that is empty, of `x_source` or of the context `(*batch, C)`.
        sample_shape: the shape of independent samples in front of the batch.
        c: context, with shape `(*batch, C)`, or `(*batch, N, C)` for one row per object; or a
            `SetBatch` for another set per event.
        t0: the time of the noise; below 1 with noised data as `x_source` for partial diffusion.
        t1: the time of the data.
        x_source: the noise, with the shape of the result; None draws it from `base`.
        estimator: of the divergence, where the log-density is asked for; None is exact.
        generator: the random generator for the noise, and for the probes of a stochastic estimator.
        return_log_prob: return the log-density of the samples, too, from the same solve; `base`
            must then be the distribution of the noise at `t0`, also where `x_source` is given.

    Returns:
        Samples with shape `sample_shape + batch + event_shape`, zero in padded slots; with
        `return_log_prob` they and their log-density as a `SampleWithLogProb`. The result is
        differentiable; call it under `torch.no_grad()` where no gradient is needed.

    Raises:
        ValueError: if shapes do not fit, the mask holds values other than 0 and 1, or the solver is
            one for stochastic equations; for a log-density as in `masked_log_prob`.

    >>> field = setflow.TransformerField(3, hidden=16, layers=1, heads=2)
    >>> mask = torch.arange(30) < torch.tensor([[30], [7]])
    >>> base, solver = setflow.StandardNormal((3,)), setflow.Midpoint(steps=5)
    >>> setflow.masked_sample(field, base, solver, mask, sample_shape=(4,)).shape
    torch.Size([4, 2, 30, 3])
    """
    event_ndim_of(field, at_least=2)
    field, c = with_plain_context(field, c)
    start = start_of_sampling(field, base, mask, sample_shape, c, x_source, generator)
    if return_log_prob:
        return sample_and_score(
            field, base, solver, start, t0=t0, t1=t1, estimator=estimator, generator=generator
        )
    return sample_ode(field, solver, start, t0=t0, t1=t1)


def sample_ode(
    field: nn.Module, solver: Solver | SDESolver, start: Start, *, t0: float, t1: float
) -> Tensor:
    """Carry noise from `t0` to `t1` along a field.

    Raises:
        ValueError: if the solver is one for stochastic equations.
    """
    refuse_sde(solver, "sampling")
    x = integrate(
        solver,
        start.velocity(field),
        start.x,
        t0=t0,
        t1=t1,
        mask=start.mask,
        event_ndim=start.event_ndim,
    )
    return zero_padding(x, start.mask)
