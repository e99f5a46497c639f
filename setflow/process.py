"""Flow matching as a process: field, base and solver, bound to a context and a mask.

Notation. Samples have the shape `sample_shape + batch + event_shape`; the batch is that of the
mask, the context or the base. Data stand at t1 (0), noise at t0 (1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from setflow.distributions.base import as_base
from setflow.distributions.wrapped import WrappedNormal
from setflow.divergence.base import DivergenceEstimator
from setflow.lazy import (
    LazyDistribution,
    LazyField,
    UnconditionalDistribution,
    UnconditionalField,
)
from setflow.masking.log_prob import score_events, scored_events, solve_dtype
from setflow.masking.sample import carried, start_of_sampling
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.batch import SetBatch
from setflow.sets.context import Context, GivenContext, batch_of_context, context_of_batch
from setflow.sets.events import Events
from setflow.sets.finite import refuse_not_finite
from setflow.sets.masks import as_mask, is_readable, zero_padding
from setflow.sets.planning import plan_velocity
from setflow.sets.protocols import (
    Base,
    SDESolver,
    Solver,
    declares,
    event_ndim_of,
    in_lines,
    in_short,
)
from setflow.sets.shapes import as_floating, check_times
from setflow.solvers.integrate import integrate, require_solver

__all__ = ["FlowMatching", "FlowMatchingProcess", "Guidance", "Process"]

Guidance = Callable[[Tensor, Tensor, Tensor], Tensor]


class Process(ABC):
    """A model bound to a context and a mask, which samples.

    Arguments:
        model: the field or the network.
        base: the distribution at `t0`.
        solver: the solver.
        t0: the time of the noise, a number or a scalar tensor, to which gradients flow.
        t1: the time of the data, likewise.
        context: the context, with shape `(*batch, C)` or `(*batch, N, C)`, a `SetBatch`, or None;
            that of one event, with 1 in place of the batch, serves all.
        mask: which slots are real, with shape `(*batch, N)`, or None for all.
        event_ndim: how many trailing dimensions form one event; needed if the model does not say.
        bound: whether the model was made for this context, so that it may hold something of each
            event, and events must stay together and in their order.
        validate_args: check that the base fits the model.

    Raises:
        ValueError: if the base does not fit.
    """

    _own_parts: ClassVar[tuple[str, ...]] = ()  # of a subclass, for its text

    def __init__(
        self,
        model: nn.Module,
        base: Base,
        solver: Solver | SDESolver,
        *,
        t0: Tensor | float,
        t1: Tensor | float,
        context: GivenContext | None,
        mask: Array | None,
        event_ndim: int | None,
        bound: bool,
        validate_args: bool,
    ) -> None:
        self.event_ndim = known_event_ndim(model, event_ndim)
        if mask is not None and self.event_ndim >= 2:  # a part of the model may miss it
            event_ndim_of(model, at_least=2, given=event_ndim)
        if validate_args:
            check_event_shape(self.event_ndim, tuple(base.event_shape))
        self._model = model
        self.base = base
        self.solver = solver
        self.t0 = t0
        self.t1 = t1
        self.mask = None if mask is None else as_mask(mask)
        known = base.batch_shape if self.mask is None else self.mask.shape[:-1]
        self.context = context_of_batch(context, tuple(known))
        self.bound = bound

    def __repr__(self) -> str:
        """Say on a few lines what is bound, and to which context and mask.

        >>> field, base = setflow.VelocityField(8), setflow.StandardNormal((8,))
        >>> FlowMatching(field, base, setflow.RK4(4))()
        FlowMatchingProcess(
          model: VelocityField with 35,336 parameters
          context: None
          mask: None
          base: StandardNormal((8,), scale=1, batch_shape=())
          solver: RK4(steps=4)
          t0: 1.0
          t1: 0.0
        )
        """
        given = self.context.x if isinstance(self.context, SetBatch) else self.context
        shapes = {
            name: None if value is None else tuple(value.shape)
            for name, value in (("context", given), ("mask", self.mask))
        }
        parts = (*self._own_parts, "base", "solver", "t0", "t1")
        return in_lines(self, *parts, model=in_short(self._model), **shapes)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The event shape of the base."""
        return tuple(self.base.event_shape)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch: that of the mask, else of the base, else of the context."""
        return bound_batch_shape(self.base, self.context, self.mask)

    @abstractmethod
    def sample(
        self,
        sample_shape: Iterable[int] | int = (),
        *,
        guidance_fn: Guidance | None = None,
        x_source: Array | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return samples with shape `sample_shape + batch + event_shape`."""

    def rsample(
        self,
        sample_shape: Iterable[int] | int = (),
        *,
        guidance_fn: Guidance | None = None,
        x_source: Array | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return samples that are differentiable with respect to model, context and base.

        Raises:
            NotImplementedError: if the solver does not declare `supports_rsample`.
            ValueError: if a shape does not fit.
        """
        refuse_unless_differentiable(self.solver)
        with torch.enable_grad():
            return self.sample(
                sample_shape, guidance_fn=guidance_fn, x_source=x_source, generator=generator
            )

    def _start(
        self,
        sample_shape: Iterable[int] | int,
        x_source: Array | None,
        generator: torch.Generator | None,
    ) -> Events:
        """Return the events at the start of a solve; the arguments are those of `sample`."""
        context = self.context
        if x_source is not None:
            x_source = as_floating(as_tensor(x_source, "x_source"), self._model)
            if self.mask is None:
                lead = tuple(x_source.shape[: x_source.ndim - self.event_ndim])
                context = context_of_batch(context, lead[-1:])
        start = start_of_sampling(
            self.event_ndim, self.base, self.mask, sample_shape, context, x_source, generator
        )
        return replace(start, together=self.bound)


def bound_batch_shape(base: Base, context: Context | None, mask: Tensor | None) -> tuple[int, ...]:
    """Return the batch of what is bound: that of the mask, else of the base, else of the context.

    >>> bound_batch_shape(setflow.StandardNormal((8,)), torch.zeros(16, 4), None)
    (16,)
    """
    if mask is not None:
        return tuple(mask.shape[:-1])
    if base.batch_shape or context is None:
        return tuple(base.batch_shape)
    event_shape = tuple(base.event_shape)
    return batch_of_context(context, event_shape, len(event_shape))


def refuse_unless_differentiable(solver: object) -> None:
    """Refuse to promise gradients that a solver does not promise.

    Raises:
        NotImplementedError: if the solver does not declare `supports_rsample`.
    """
    if not declares(solver, "supports_rsample"):
        raise NotImplementedError(
            f"{type(solver).__name__} does not declare supports_rsample = True, so its samples "
            "need not be differentiable; use sample, or a solver such as setflow.RK4"
        )


class FlowMatching(LazyDistribution):
    """A flow-matching model that is bound to a context by calling it.

    Arguments:
        field: the velocity field, or a `LazyField` that returns it.
        base: the distribution at `t0`, or a `LazyDistribution` that returns it.
        solver: an ODE solver with `integrate(f, x0, *, t0, t1)`.
        t0: the time of the noise.
        t1: the time of the data.
        event_ndim: how many trailing dimensions form one event; needed if the field does not say.
        validate_args: check when binding that shapes belong together.

    Raises:
        TypeError: if a part is none, or a class, or stands in another's place.
        ValueError: if a time lies outside [0, 1].

    >>> field = setflow.VelocityField(dim=8, condition_dim=4, hidden=16)
    >>> fm = FlowMatching(field, setflow.StandardNormal((8,)), setflow.RK4(steps=4))
    >>> fm(torch.randn(16, 4)).sample((1,)).shape
    torch.Size([1, 16, 8])
    """

    def __init__(
        self,
        field: nn.Module,
        base: Base | Distribution | LazyDistribution,
        solver: Solver,
        *,
        t0: Tensor | float = 1.0,
        t1: Tensor | float = 0.0,
        event_ndim: int | None = None,
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        self.field = field if isinstance(field, LazyField) else UnconditionalField(field)
        self.base = base if isinstance(base, LazyDistribution) else UnconditionalDistribution(base)
        self.solver = solver
        require_solver(solver)
        check_times(t0=t0, t1=t1)
        self.t0 = t0 if isinstance(t0, Tensor) else float(t0)
        self.t1 = t1 if isinstance(t1, Tensor) else float(t1)
        self.event_ndim = event_ndim
        self.validate_args = validate_args

    def __repr__(self) -> str:
        return in_lines(self, "field", "base", "solver", "t0", "t1")

    def forward(
        self, c: GivenContext | None = None, *, mask: Array | None = None
    ) -> FlowMatchingProcess:
        """Bind the model.

        Arguments:
            c: the context, with shape `(*batch, C)`, or `(*batch, N, C)` for one row per object; or
                a `SetBatch` for another set per event. That of one event, such as `c[:1]`, serves
                all.
            mask: which slots are real, with shape `(*batch, N)`, for sets; None means all.

        Raises:
            ValueError: if neither field nor model say `event_ndim`, or the base does not fit it.
        """
        event_ndim = self.field.event_ndim if self.event_ndim is None else self.event_ndim
        mask = None if mask is None else as_mask(mask)
        c = context_of_batch(c, () if mask is None else tuple(mask.shape[:-1]))
        return FlowMatchingProcess(
            self.field(c),
            as_base(self.base(c)),
            self.solver,
            t0=self.t0,
            t1=self.t1,
            context=c,
            mask=mask,
            event_ndim=event_ndim,
            bound=not isinstance(self.field, UnconditionalField),
            validate_args=self.validate_args,
        )


class FlowMatchingProcess(Process):
    """A flow-matching model bound to a context and a mask; `FlowMatching` makes it.

    The arguments are those of `Process`, the model being the velocity field.
    """

    def __init__(
        self,
        field: nn.Module,
        base: Base,
        solver: Solver | SDESolver,
        *,
        t0: Tensor | float = 1.0,
        t1: Tensor | float = 0.0,
        context: GivenContext | None = None,
        mask: Array | None = None,
        event_ndim: int | None = None,
        bound: bool = False,
        validate_args: bool = True,
    ) -> None:
        super().__init__(
            field, base, solver, t0=t0, t1=t1, context=context, mask=mask, event_ndim=event_ndim,
            bound=bound, validate_args=validate_args,
        )  # fmt: skip
        self.field = field

    def sample(
        self,
        sample_shape: Iterable[int] | int = (),
        *,
        guidance_fn: Guidance | None = None,
        x_source: Array | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return samples.

        Arguments:
            sample_shape: the shape of independent samples in front of the batch.
            guidance_fn: changes the velocity, called as `guidance_fn(x, t, v)` with `t` of the lead
                shape; None leaves it.
            x_source: the state at `t0`, with the shape of the result; None draws it from the base.
            generator: the random generator for the noise.

        Returns:
            Samples with shape `sample_shape + batch + event_shape`, zero in padded slots.

        Raises:
            ValueError: if a shape does not fit.
        """
        start = self._start(sample_shape, x_source, generator)
        if guidance_fn is None:
            x = carried(self.field, self.solver, start, t0=self.t0, t1=self.t1)
            return self.base.wrapped(x) if isinstance(self.base, WrappedNormal) else x
        guided = _guided(velocity_on(start, self.field), guidance_fn)
        x = integrate(
            self.solver, lambda x, t: guided(start.at(x, t)), start.x, t0=self.t0, t1=self.t1,
            mask=start.mask, event_ndim=self.event_ndim,
        )  # fmt: skip
        if x.device.type == "cpu" and is_readable(x) and not bool(x.isfinite().all()):
            refuse_not_finite("the sample", start, x_source=start.x)
        return self.base.wrapped(x) if isinstance(self.base, WrappedNormal) else x

    def log_prob(
        self,
        x: Array,
        *,
        estimator: DivergenceEstimator | Callable[..., Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the log-density, in nats, of events; of ordered real objects if there is a mask.

        Arguments:
            x: data, with shape `sample_shape + batch + event_shape`.
            estimator: of the divergence; None is exact.
            generator: the random generator for the probes of a stochastic estimator.

        Returns:
            The log-density, with shape `sample_shape + batch`.

        Raises:
            ValueError: if a shape does not fit.
        """
        x, context = as_floating(as_tensor(x, "x"), self.field), self.context
        if self.mask is None:
            context = context_of_batch(context, tuple(x.shape[: x.ndim - self.event_ndim][-1:]))
        events = scored_events(self.event_ndim, x, self.mask, context)
        result = score_events(
            self.field, self.base, self.solver, replace(events, together=self.bound), t0=self.t0,
            t1=self.t1, estimator=estimator, seeds=generator,
        )  # fmt: skip
        return result.log_prob.to(solve_dtype(x))


def velocity_on(start: Events, field: nn.Module) -> Callable[[Events], Tensor]:
    """Return what evaluates a field on these events, of like length together, in any state."""
    plan = plan_velocity(field, start)
    return lambda events: plan.each(events, lambda part: part.velocity(field))


def _guided(
    velocity: Callable[[Events], Tensor], guidance_fn: Guidance
) -> Callable[[Events], Tensor]:
    """Return a velocity behind a guidance function, which sees the whole batch."""

    def guided(events: Events) -> Tensor:
        assert events.t is not None
        v = guidance_fn(events.x, events.t, velocity(events))
        if v.shape != events.x.shape:
            raise ValueError(
                f"guidance_fn returned shape {tuple(v.shape)} for x of shape "
                f"{tuple(events.x.shape)}; expected equal shapes"
            )
        return zero_padding(v, events.mask)

    return guided


def known_event_ndim(field: nn.Module, event_ndim: int | None) -> int:
    """Return how many dimensions form one event, by the field or by the model that holds it.

    Raises:
        ValueError: if neither says it, or they differ.
    """
    own = getattr(field, "event_ndim", None)
    if own is None and event_ndim is None:
        raise ValueError(
            f"event_ndim must be provided or exposed by the field, {type(field).__name__} has "
            "none; pass event_ndim=, the number of trailing dimensions that form one event"
        )
    if own is not None and event_ndim not in (None, own):
        raise ValueError(
            f"event_ndim={event_ndim} was given, {type(field).__name__} has {own}; expected "
            "them equal, or the argument left out"
        )
    return event_ndim_of(field, given=event_ndim)


def check_event_shape(event_ndim: int, event_shape: tuple[int, ...]) -> None:
    """Check that a base describes the events of a field, or their objects if they are sets.

    Raises:
        ValueError: if it does not.
    """
    per_object = event_ndim >= 2 and len(event_shape) == event_ndim - 1
    if len(event_shape) != event_ndim and not per_object:
        raise ValueError(
            f"base.event_shape {event_shape} has {len(event_shape)} dimensions, the field has "
            f"event_ndim={event_ndim}; expected them equal"
            + (", or the shape of one object" if event_ndim >= 2 else "")
        )
