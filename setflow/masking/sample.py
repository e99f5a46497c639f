"""Sampling sets of given sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from setflow.distributions.base import as_base, draw_noise
from setflow.distributions.wrapped import WrappedNormal
from setflow.divergence.base import DivergenceEstimator
from setflow.masking.log_prob import SampleWithLogProb, sample_and_score
from setflow.sets.arrays import Array, as_tensor, check_generator
from setflow.sets.context import GivenContext, batch_of_context
from setflow.sets.events import Events
from setflow.sets.finite import refuse_not_finite
from setflow.sets.masks import as_mask, is_readable
from setflow.sets.planning import plan_velocity
from setflow.sets.protocols import Base, SDESolver, Solver, declares, event_ndim_of
from setflow.sets.shapes import as_tuple, check_times
from setflow.solvers.adaptive import IntegrationError
from setflow.solvers.integrate import integrate, solve_in_groups

__all__ = ["carried", "masked_sample", "start_of_sampling"]


class SampleOptions(TypedDict, total=False):
    """What `masked_sample` takes by keyword, whatever it returns."""

    sample_shape: Iterable[int] | int
    c: GivenContext | None
    t0: Tensor | float
    t1: Tensor | float
    x_source: Array | None
    estimator: DivergenceEstimator | Callable[..., Tensor] | None
    present: Array | None
    generator: torch.Generator | None


@overload
def masked_sample(
    field: nn.Module,
    base: Base | Distribution,
    solver: Solver,
    mask: Array | None,
    *,
    return_log_prob: Literal[False] = False,
    **options: Unpack[SampleOptions],
) -> Tensor: ...


@overload
def masked_sample(
    field: nn.Module,
    base: Base | Distribution,
    solver: Solver,
    mask: Array | None,
    *,
    return_log_prob: Literal[True],
    **options: Unpack[SampleOptions],
) -> SampleWithLogProb: ...


def masked_sample(
    field: nn.Module,
    base: Base | Distribution,
    solver: Solver,
    mask: Array | None,
    *,
    sample_shape: Iterable[int] | int = (),
    c: GivenContext | None = None,
    t0: Tensor | float = 1.0,
    t1: Tensor | float = 0.0,
    x_source: Array | None = None,
    estimator: DivergenceEstimator | Callable[..., Tensor] | None = None,
    present: Array | None = None,
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
        present: which features each object has, with the shape of the result or without
            `sample_shape`; boolean, or 0 and 1; None means all. Absent ones are zero.
        generator: the random generator for the noise, and for the probes of a stochastic estimator.
        return_log_prob: return the log-density of the samples, too, from the same solve; `base`
            must then be the distribution of the noise at `t0`, also where `x_source` is given.

    Returns:
        Samples with shape `sample_shape + batch + event_shape`, zero in padded slots, the angles of
        a `WrappedNormal` in [-pi, pi); with
        `return_log_prob` they and their log-density as a `SampleWithLogProb`. The result is
        differentiable; call it under `torch.no_grad()` where no gradient is needed.

    Raises:
        TypeError: if something is no tensor, array or object of the kind that is expected.
        ValueError: if shapes do not fit, the mask holds values other than 0 and 1, a time lies
            outside [0, 1], or the solver is one for stochastic equations; on a CPU also if the
            result is not finite because `x_source` or `c` is not; for a log-density as in
            `masked_log_prob`.

    >>> field = setflow.TransformerField(3, hidden=16, layers=1, heads=2)
    >>> mask = torch.arange(30) < torch.tensor([[30], [7]])
    >>> base, solver = setflow.StandardNormal((3,)), setflow.Midpoint(steps=5)
    >>> setflow.masked_sample(field, base, solver, mask, sample_shape=(4,)).shape
    torch.Size([4, 2, 30, 3])
    """
    if not all(type(time) is float and 0 <= time <= 1 for time in (t0, t1)):
        check_times(t0=t0, t1=t1)
    start = start_of_sampling(field, base, mask, sample_shape, c, x_source, generator, present)
    if return_log_prob:
        return sample_and_score(
            field, base, solver, start, t0=t0, t1=t1, estimator=estimator, generator=generator
        )
    x = carried(field, solver, start, t0=t0, t1=t1)
    return base.wrapped(x) if isinstance(base, WrappedNormal) else x


def carried(
    field: nn.Module,
    solver: Solver | SDESolver,
    start: Events,
    *,
    t0: Tensor | float,
    t1: Tensor | float,
) -> Tensor:
    """Return events carried from `t0` to `t1`, with the shape of their states.

    A solver that steps events apart solves those of like length by themselves, from the first step
    to the last; for another one only the field is evaluated on them so. Where a group cannot be
    solved, all are tried together, so that the error is that of the whole batch.

    Arguments:
        field: the velocity field.
        solver: an ODE solver.
        start: the events at `t0`.
        t0: the first time.
        t1: the last time.

    Raises:
        ValueError: on a CPU, if the result is not finite because a state at `t0` or a context is
            not.
    """
    plan = plan_velocity(field, start)
    x: Tensor | None = None

    def solved(events: Events, velocity: Callable[[Events], Tensor]) -> Tensor:
        return integrate(
            solver, lambda x, t: velocity(events.at(x, t)), events.x, t0=t0, t1=t1,
            mask=events.mask if events.present is None else events.present,
            event_ndim=events.event_ndim,
        )  # fmt: skip

    if plan.rows is not None and declares(solver, "steps_apart"):
        with suppress(IntegrationError):
            parts = solve_in_groups(
                solver, plan, start, lambda part, _: solved(part, lambda at: at.velocity(field))
            )
            x = plan.objects(parts).reshape(start.x.shape)
    if x is None:
        try:
            x = solved(start, lambda at: plan.each(at, lambda part: part.velocity(field)))
        except IntegrationError:  # an adaptive solver looks anyway
            refuse_not_finite("the sample", start, x_source=start.x)
            raise
    # elsewhere a look would wait for the device
    if x.device.type == "cpu" and is_readable(x) and not bool(x.isfinite().all()):
        refuse_not_finite("the sample", start, x_source=start.x)
    return x


def start_of_sampling(
    field: nn.Module | int,
    base: Base | Distribution,
    mask: Array | None,
    sample_shape: Iterable[int] | int,
    c: GivenContext | None,
    x_source: Array | None,
    generator: torch.Generator | None,
    present: Array | None = None,
) -> Events:
    """Resolve what sampling is given and draw the noise.

    The arguments are those of `masked_sample`; the field may be told by how many dimensions form
    one event.

    Returns:
        The events at the start of the solve, with `sample_shape + batch` as lead shape.

    Raises:
        ValueError: if a shape does not fit.
    """
    if generator is not None:
        check_generator(generator)
    least = 0 if mask is None else 2
    event_ndim = event_ndim_of(field, at_least=least)
    base = as_base(base)
    sample_shape = as_tuple(sample_shape)
    batch = tuple(base.batch_shape)
    if x_source is not None and not isinstance(x_source, Tensor):
        x_source = as_tensor(x_source, "x_source")
    if mask is not None:
        mask = as_mask(mask)
        batch = tuple(mask.shape[:-1])
    elif not batch and x_source is not None:
        batch = tuple(x_source.shape[len(sample_shape) : x_source.ndim - event_ndim])
    elif not batch and c is not None:
        batch = batch_of_context(c, tuple(base.event_shape), event_ndim)
    lead = sample_shape + batch
    if mask is not None:
        mask = mask.expand(*lead, mask.shape[-1])
    if x_source is None:
        x_source = draw_noise(base, lead, len(batch), mask, event_ndim, generator)
    elif x_source.shape[: x_source.ndim - event_ndim] != lead or (
        mask is not None and x_source.shape[len(lead)] != mask.shape[-1]
    ):
        slots = "N" if mask is None else str(mask.shape[-1])
        raise ValueError(
            f"x_source has shape {tuple(x_source.shape)}, expected "
            f"({', '.join(map(str, lead))}, {slots}, ...): sample_shape + batch + event_shape"
        )
    elif tuple(x_source.shape[x_source.ndim - len(base.event_shape) :]) != base.event_shape:
        raise ValueError(
            f"x_source has shape {tuple(x_source.shape)}, and the base the event shape "
            f"{tuple(base.event_shape)}; expected a base of the same objects, such as "
            f"setflow.StandardNormal(({x_source.shape[-1]},))"
        )
    return Events.of(
        field, x_source, mask, c=c, batch_ndim=len(batch), name="x_source", present=present
    )
