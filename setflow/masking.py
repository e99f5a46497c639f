"""The centre: flow matching on sets of variable size.

Notation. A set has N slots with D features, `x` of shape `(*lead, N, D)`; `mask` of shape
`(*batch, N)` says which slots hold a real object (True). Data stand at t = 0 and noise at t = 1.
The network learns the velocity v(x, t) of the path between them.

The loss is, per object, the mean of the squared error over features; per event, the mean over its
real objects (0 if it has none); then the mean over events. So every event weighs the same, whatever
its size. Sampling integrates dx/dt = v(x, t) from t = 1 to t = 0. The log-density of data x is that
of the noise z to which the same equation carries it, plus the divergence of v collected on the way:

    log p(x at t = 0) = log p(z at t = 1) + the integral of div v from t = 0 to t = 1.

Padding is never read. Padded input is zeroed before the field and padded velocity after it, in
training and in use alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from setflow.core.broadcast import context_shape, expand_context
from setflow.core.calling import call_field
from setflow.core.masks import as_mask, zero_padding
from setflow.core.protocols import Base, Path, SDESolver, Solver, declares, event_ndim_of
from setflow.core.solving import integrate, integrate_augmented
from setflow.core.specs import as_tuple, split_event
from setflow.distributions.base import as_base, draw_noise, for_sets
from setflow.divergence import DivergenceEstimator, ExactDivergence, as_estimator
from setflow.interpolants.gamma import GammaSchedule
from setflow.losses.diffusion import Weighting, denoising_loss
from setflow.losses.flow_matching import flow_matching_loss, stochastic_flow_matching_loss
from setflow.losses.means import Reduction
from setflow.losses.regression import checked_events
from setflow.schedules import NoiseSchedule, Parameterization
from setflow.timesteps import TimeSampling

__all__ = [
    "masked_diffusion_loss",
    "masked_fm_loss",
    "masked_log_prob",
    "masked_sample",
    "masked_stochastic_fm_loss",
]


def masked_fm_loss(
    field: nn.Module,
    x_target: Tensor,
    x_source: Tensor,
    mask: Tensor | None,
    t: Tensor | float | None = None,
    c: Tensor | None = None,
    *,
    path: Path | None = None,
    times: TimeSampling | None = None,
    reduction: Reduction = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the flow-matching loss over real objects only.

    Lipman et al., "Flow Matching for Generative Modeling" (arXiv:2210.02747), with a mask: per
    object the mean of the squared error over features, per event the mean over its real objects,
    then `reduction` over events.

    Arguments:
        field: the velocity field, with `forward(x, t, c=None)` and `event_ndim` of at least 2; one
            that declares `takes_mask = True` is also given `mask=`.
        x_target: data, with shape `(*lead, N, ...)`; padded slots may hold anything.
        x_source: noise, with the shape of `x_target`.
        mask: which slots are real, with shape `(*lead, N)`; boolean, or 0 and 1; None means all.
        t: times, a number or a tensor with shape `lead`; None draws them, one per event.
        c: context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object.
        path: the path between data and noise; None takes `LinearPath`.
        times: the density of the times, which may depend on the number of real objects, and the
            weight of the events, also of those whose `t` is given; None takes uniform times and no
            weight.
        reduction: `mean` or `sum` over events, or `none`; an event without objects counts as 0.
        generator: the random generator for `t`.

    Returns:
        A scalar, or one loss per event with shape `lead` for `reduction="none"`.

    Raises:
        ValueError: if shapes do not fit, or the mask holds values other than 0 and 1.

    >>> field = setflow.TransformerField(3, hidden=16, layers=1, heads=2)
    >>> x, mask = torch.randn(8, 30, 3), torch.rand(8, 30) > 0.5
    >>> setflow.masked_fm_loss(field, x, torch.randn_like(x), mask).shape
    torch.Size([])
    """
    events = checked_events(field, x_target, mask, sets_only=True)
    return flow_matching_loss(
        field, events, x_source, t, c, path=path, times=times, reduction=reduction,
        generator=generator,
    )  # fmt: skip


def masked_stochastic_fm_loss(
    field: nn.Module,
    x_target: Tensor,
    x_source: Tensor,
    mask: Tensor | None,
    t: Tensor | float | None = None,
    c: Tensor | None = None,
    *,
    path: Path | None = None,
    gamma: GammaSchedule | None = None,
    z: Tensor | None = None,
    times: TimeSampling | None = None,
    reduction: Reduction = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the loss of `stochastic_fm_loss` over real objects only.

    Arguments, return value and errors are those of `masked_fm_loss`, and `gamma` and `z` those of
    `stochastic_fm_loss`; padded slots of `z` may hold anything.

    >>> field = setflow.TransformerField(3, hidden=16, layers=1, heads=2)
    >>> x, mask = torch.randn(8, 30, 3), torch.rand(8, 30) > 0.5
    >>> setflow.masked_stochastic_fm_loss(field, x, torch.randn_like(x), mask).shape
    torch.Size([])
    """
    events = checked_events(field, x_target, mask, sets_only=True)
    return stochastic_flow_matching_loss(
        field, events, x_source, t, c, path=path, gamma=gamma, z=z, times=times,
        reduction=reduction, generator=generator,
    )  # fmt: skip


def masked_diffusion_loss(
    model: nn.Module,
    x_target: Tensor,
    schedule: NoiseSchedule,
    mask: Tensor | None,
    t: Tensor | float | None = None,
    c: Tensor | None = None,
    *,
    parameterization: Parameterization = "eps",
    noise: Tensor | None = None,
    weighting: Weighting | None = None,
    times: TimeSampling | None = None,
    reduction: Reduction = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the loss of `diffusion_loss` over real objects only.

    Arguments, return value and errors are those of `diffusion_loss`, and `mask` is that of
    `masked_fm_loss`; padded slots of `x_target` and `noise` may hold anything.

    >>> model = setflow.TransformerField(3, hidden=16, layers=1, heads=2)
    >>> x, mask = torch.randn(8, 30, 3), torch.rand(8, 30) > 0.5
    >>> setflow.masked_diffusion_loss(model, x, setflow.VPSchedule(), mask).shape
    torch.Size([])
    """
    events = checked_events(model, x_target, mask, sets_only=True)
    return denoising_loss(
        model, events, schedule, t, c, parameterization=parameterization, noise=noise,
        weighting=weighting, times=times, reduction=reduction, generator=generator,
    )  # fmt: skip


def masked_sample(
    field: nn.Module,
    base: Base | Distribution,
    solver: Solver,
    mask: Tensor | None,
    *,
    sample_shape: Iterable[int] | int = (),
    c: Tensor | None = None,
    t0: float = 1.0,
    t1: float = 0.0,
    x_source: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return samples of a flow-matching model, for events of the sizes that the mask tells.

    Arguments:
        field: the velocity field, as in `masked_fm_loss`.
        base: the distribution at `t0`, such as `StandardNormal((D,))`; with an empty batch shape it
            is expanded to the batch of the mask.
        solver: an ODE solver with `integrate(f, x0, *, t0, t1)`.
        mask: which slots are real, with shape `(*batch, N)`; None means all, and the batch is then
            that of the base or, if that is empty, of `x_source` or of the context `(*batch, C)`.
        sample_shape: the shape of independent samples in front of the batch.
        c: context, with shape `(*batch, C)`, or `(*batch, N, C)` for one row per object.
        t0: the time of the noise; below 1 with noised data as `x_source` for partial diffusion.
        t1: the time of the data.
        x_source: the noise, with the shape of the result; None draws it from `base`.
        generator: the random generator for the noise.

    Returns:
        Samples with shape `sample_shape + batch + event_shape`, zero in padded slots. The result is
        differentiable; call it under `torch.no_grad()` where no gradient is needed.

    Raises:
        ValueError: if shapes do not fit, the mask holds values other than 0 and 1, or the solver is
            one for stochastic equations.

    >>> field = setflow.TransformerField(3, hidden=16, layers=1, heads=2)
    >>> mask = torch.arange(30) < torch.tensor([[30], [7]])
    >>> base, solver = setflow.StandardNormal((3,)), setflow.Midpoint(steps=5)
    >>> setflow.masked_sample(field, base, solver, mask, sample_shape=(4,)).shape
    torch.Size([4, 2, 30, 3])
    """
    event_ndim_of(field, at_least=2)
    start = start_of_sampling(field, base, mask, sample_shape, c, x_source, generator)
    return sample_ode(field, solver, start, t0=t0, t1=t1)


def masked_log_prob(
    field: nn.Module,
    base: Base | Distribution,
    solver: Solver,
    x: Tensor,
    mask: Tensor | None,
    *,
    c: Tensor | None = None,
    t0: float = 1.0,
    t1: float = 0.0,
    estimator: DivergenceEstimator | Callable[..., Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the log-density, in nats, of the ordered tuple of real objects given their number.

    Chen et al., "Neural Ordinary Differential Equations" (arXiv:1806.07366): the data are carried
    from `t1` to `t0`, where the base gives their density, and the divergence of the velocity over
    real coordinates is collected on the way, with a plus sign. (Documents of other libraries print
    values with a minus sign; their densities do not integrate to one.) The density of the unordered
    set is larger by log N!. Sums are accumulated in float64.

    Arguments:
        field: the velocity field, as in `masked_fm_loss`.
        base: the distribution at `t0`, such as `StandardNormal((D,))`.
        solver: an ODE solver with `integrate(f, x0, *, t0, t1)`.
        x: data, with shape `(*lead, N, ...)`; padded slots may hold anything.
        mask: which slots are real, with shape `(*batch, N)`, where `batch` are the last dimensions
            of `lead`; boolean, or 0 and 1; None means all.
        c: context, with shape `(*batch, C)`, or `(*batch, N, C)` for one row per object.
        t0: the time of the noise.
        t1: the time of the data.
        estimator: of the divergence; None is exact. A callable `(field, x, t, c)` will do.
        generator: the random generator for the probes of a stochastic estimator.

    Returns:
        The log-density, with shape `lead`; 0 for an event without objects. It is differentiable
        with respect to the field, `x` and `c`, which costs memory: call it under `torch.no_grad()`
        where no gradient is needed.

    Raises:
        ValueError: if shapes do not fit, the mask holds values other than 0 and 1, or the solver is
            one for stochastic equations.

    >>> field = setflow.GaussianSetField(torch.zeros(3), torch.ones(3), coupling=2.0)
    >>> x, mask = torch.randn(8, 5, 3), torch.rand(8, 5) > 0.5
    >>> base, solver = setflow.StandardNormal((3,)), setflow.RK4(steps=20)
    >>> log_p = setflow.masked_log_prob(field, base, solver, x, mask)
    >>> torch.allclose(log_p, field.log_prob(x, mask), atol=1e-3)
    True
    """
    event_ndim_of(field, at_least=2)
    return score_events(
        field, base, solver, x, mask, c=c, t0=t0, t1=t1, estimator=estimator, generator=generator
    )


# --- what the verbs share with the processes, for events of any shape ---


@dataclass(frozen=True)
class Start:
    """Where a solve starts.

    Arguments:
        x: noise, with shape `(*lead, *event_shape)`, zero in padded slots.
        mask: boolean mask with shape `(*lead, N)`, or None for all real.
        c: context, with `lead` in front of its other dimensions, or None.
        event_ndim: the number of event dimensions.
    """

    x: Tensor
    mask: Tensor | None
    c: Tensor | None
    event_ndim: int

    def velocity(self, field: nn.Module) -> Callable[[Tensor, Any], Tensor]:
        """Bind mask and context to a field; the result is v(x, t) for a solver."""
        return lambda x, t: call_field(field, x, t, self.c, self.mask)


def start_of_sampling(
    field: nn.Module,
    base: Base | Distribution,
    mask: Tensor | None,
    sample_shape: Iterable[int] | int,
    c: Tensor | None,
    x_source: Tensor | None,
    generator: torch.Generator | None,
) -> Start:
    """Check what sampling is given and draw the noise; the arguments are those of `masked_sample`.

    Raises:
        ValueError: if a shape does not fit.
    """
    event_ndim = event_ndim_of(field, at_least=0 if mask is None else 2)
    base = as_base(base)
    sample_shape = as_tuple(sample_shape)
    batch = tuple(base.batch_shape)
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
    mask = None if mask is None else mask.to(x_source.device)
    _, event = split_event(x_source, event_ndim)
    c = expand_context(c, lead, len(batch), event)
    return Start(zero_padding(x_source, mask), mask, c, event_ndim)


def batch_of_context(c: Tensor, event_shape: tuple[int, ...], event_ndim: int) -> tuple[int, ...]:
    """Return the batch that a context stands for, where nothing else tells it.

    Arguments:
        c: the context.
        event_shape: that of the base.
        event_ndim: how many dimensions form one event.

    Raises:
        ValueError: if it could hold a row per event or per object.

    >>> batch_of_context(torch.zeros(16, 4), (8,), 1)
    (16,)
    >>> batch_of_context(torch.zeros(16, 1, 8, 8), (3, 8, 8), 3)
    (16,)
    """
    own = context_shape(c, event_shape) if len(event_shape) == event_ndim else None
    if own is not None and len(own) == event_ndim > 2:
        return tuple(c.shape[:-event_ndim])
    if c.ndim > 2 and event_ndim > 1:
        raise ValueError(
            f"c has shape {tuple(c.shape)}: it is not known whether it holds a row per event or "
            "one per object; pass the mask, x_source, or a base with a batch shape"
        )
    return tuple(c.shape[:-1])


def sample_ode(
    field: nn.Module, solver: Solver | SDESolver, start: Start, *, t0: float, t1: float
) -> Tensor:
    """Carry noise from `t0` to `t1` along a field.

    Raises:
        ValueError: if the solver is one for stochastic equations.
    """
    _refuse_sde(solver, "sampling")
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


def score_events(
    field: nn.Module,
    base: Base | Distribution,
    solver: Solver | SDESolver,
    x: Tensor,
    mask: Tensor | None,
    *,
    c: Tensor | None,
    t0: float,
    t1: float,
    estimator: DivergenceEstimator | Callable[..., Tensor] | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Return the log-density of events of any shape; the arguments are those of `masked_log_prob`.

    Raises:
        ValueError: if shapes do not fit, or the solver is one for stochastic equations.
    """
    _refuse_sde(solver, "a log-density")
    event_ndim = event_ndim_of(field, at_least=0 if mask is None else 2)
    lead, event = split_event(x, event_ndim)
    objects = event[0] if event_ndim >= 2 else None
    if not x.is_floating_point():
        raise ValueError(f"x has dtype {x.dtype}, expected a floating dtype")
    if mask is not None:
        mask = as_mask(mask).to(x.device)
        batch = tuple(mask.shape[:-1])
        if lead[len(lead) - len(batch) :] != batch or mask.shape[-1] != event[0]:
            raise ValueError(
                f"mask has shape {tuple(mask.shape)}, expected {(*lead, event[0])}, or that "
                "without sample dimensions in front"
            )
        mask = mask.expand(*lead, event[0])
    c = _expand_over_samples(c, lead, event, None if mask is None else len(batch))
    x = zero_padding(x, mask)
    estimator = ExactDivergence() if estimator is None else as_estimator(estimator)
    divergence = estimator.for_solve(x, mask, generator)

    def rates(state: Tensor, t: Any) -> tuple[Tensor, Tensor]:
        v, div = divergence.velocity_and_divergence(field, state, t, c, mask=mask)
        if tuple(div.shape) != lead:
            raise ValueError(
                f"the estimator returned a divergence with shape {tuple(div.shape)}, expected "
                f"{lead}: one value per event"
            )
        return v, div.double()

    z, collected = integrate_augmented(
        solver,
        rates,
        x,
        torch.zeros(lead, dtype=torch.float64, device=x.device),
        t0=t1,
        t1=t0,
        mask=mask,
        event_ndim=event_ndim,
    )
    base = as_base(base)
    if mask is None and objects is not None and len(base.event_shape) == event_ndim - 1:
        mask = torch.ones((*lead, objects), dtype=torch.bool, device=x.device)
    if objects is not None:
        base = for_sets(base, objects, event_ndim)
    log_p = base.log_prob(z, mask=mask)
    if tuple(log_p.shape) != lead:
        raise ValueError(
            f"the base returned a log-density with shape {tuple(log_p.shape)}, expected {lead}: "
            "one value per event, summed over its real coordinates"
        )
    return (log_p.double() + collected).to(x.dtype)


def _expand_over_samples(
    c: Tensor | None, lead: tuple[int, ...], event: tuple[int, ...], batch_ndim: int | None
) -> Tensor | None:
    """Expand a context whose batch are the last dimensions of `lead`."""
    if c is None:
        return None
    if batch_ndim is None:  # one row per event, if that fits
        front, own = tuple(c.shape[:-1]), context_shape(c, event)
        per_event = own is None or front == lead[max(0, len(lead) - len(front)) :]
        batch_ndim = len(front) if per_event or own is None else c.ndim - len(own)
    return expand_context(c, lead, batch_ndim, event)


def _refuse_sde(solver: Solver | SDESolver, purpose: str) -> None:
    if declares(solver, "is_sde"):
        raise ValueError(
            f"{type(solver).__name__} solves stochastic equations; {purpose} integrates "
            "dx/dt = v(x, t): give it an ODE solver such as setflow.Midpoint(steps=50)"
        )
