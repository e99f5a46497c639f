"""Diffusion models as a process: a prediction, a schedule and a solver, bound to a context.

Notation. x_t = alpha(t) x_0 + sigma(t) eps; data stand at t1 (0), noise at t0 (1). An ODE solver
integrates the probability flow dx/dt = drift - g^2 score / 2, an SDE solver the reverse equation
dx = (drift - g^2 score) dt + g dW (Anderson, "Reverse-time diffusion equation models", 1982), whose
drift is twice the velocity of the probability flow minus the forward drift.

Where sigma(0) = 0 the velocity grows like 1 / sqrt(t) for a variance-preserving schedule. There the
flow is integrated in u with t = u^2, in which it is finite, at the most down to the smallest time
that the dtype resolves; for other schedules in t.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from setflow.diffusion.parameterization import (
    Parameterization,
    check_parameterization,
    refuse_angles,
)
from setflow.diffusion.probability_flow import ProbabilityFlowField
from setflow.diffusion.schedule import (
    NoiseSchedule,
    check_schedule,
    drift_at,
    smallest_time,
)
from setflow.distributions.base import as_base
from setflow.distributions.normal import IsotropicNormal
from setflow.divergence.base import DivergenceEstimator
from setflow.fields.base import VectorField
from setflow.lazy import (
    LazyDistribution,
    LazyField,
    UnconditionalDistribution,
    UnconditionalField,
)
from setflow.process import (
    FlowMatchingProcess,
    Guidance,
    Process,
    velocity_on,
)
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.context import Context, GivenContext, context_of_batch
from setflow.sets.finite import refuse_not_finite
from setflow.sets.masks import as_mask, is_readable, zero_padding
from setflow.sets.protocols import Base, SDESolver, Solver, declares, in_lines
from setflow.sets.shapes import align_right, as_floating, as_tuple, check_times
from setflow.solvers.fixed import TimeGrid
from setflow.solvers.integrate import integrate_sde, require_solver

__all__ = ["Diffusion", "DiffusionProcess"]


class Diffusion(LazyDistribution):
    """A diffusion model that is bound to a context by calling it.

    If the ends of the schedule are learned, bind anew for every backward pass: the scale of the
    default base is computed when the model is bound.

    Arguments:
        model: predicts what `parameterization` says, with `forward(x, t, c=None)`; or a `LazyField`
            that returns such a model.
        schedule: the noise schedule with which it was trained.
        solver: an ODE solver for the probability flow, or an SDE solver (`is_sde = True`) for the
            reverse equation.
        parameterization: `eps`, `score`, `x0` or `velocity`.
        t0: the time of the noise.
        t1: the time of the data; 0 is right for every schedule.
        base: the distribution at `t0`; None takes N(0, sigma(t0)^2).
        event_shape: the shape of one event, or of one object of a set under a mask; needed if
            there is no base.
        validate_args: check when binding that shapes belong together.

    Raises:
        TypeError: if a part is none, or a class, or stands in another's place.
        ValueError: if the parameterisation is unknown, or a time lies outside [0, 1].

    >>> model, schedule = setflow.VelocityField(dim=2, hidden=16), setflow.VPSchedule()
    >>> solver = setflow.EulerMaruyama(steps=10)
    >>> diffusion = Diffusion(model, schedule, solver, parameterization="eps", event_shape=(2,))
    >>> diffusion(None).sample((64,)).shape
    torch.Size([64, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        schedule: NoiseSchedule,
        solver: Solver | SDESolver,
        *,
        parameterization: Parameterization,
        t0: Tensor | float = 1.0,
        t1: Tensor | float = 0.0,
        base: Base | Distribution | LazyDistribution | None = None,
        event_shape: Iterable[int] | int | None = None,
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        check_parameterization(parameterization)
        check_schedule(schedule)
        self.model = model if isinstance(model, LazyField) else UnconditionalField(model)
        self.schedule = schedule
        self.solver = solver
        self.parameterization: Parameterization = parameterization
        require_solver(solver)
        check_times(t0=t0, t1=t1)
        self.t0 = t0 if isinstance(t0, Tensor) else float(t0)
        self.t1 = t1 if isinstance(t1, Tensor) else float(t1)
        self.base = (
            base
            if base is None or isinstance(base, LazyDistribution)
            else UnconditionalDistribution(base)
        )
        self.event_shape = None if event_shape is None else as_tuple(event_shape)
        self.validate_args = validate_args

    def __repr__(self) -> str:
        parts = ("model", "schedule", "parameterization", "base", "event_shape")
        return in_lines(self, *parts, "solver", "t0", "t1")

    def forward(
        self, c: GivenContext | None = None, *, mask: Array | None = None
    ) -> DiffusionProcess:
        """Bind the model.

        Arguments:
            c: the context, with shape `(*batch, C)`, or `(*batch, N, C)` for one row per object; or
                a `SetBatch` for another set per event. That of one event, such as `c[:1]`, serves
                all.
            mask: which slots are real, with shape `(*batch, N)`, for sets; None means all.

        Raises:
            ValueError: if neither base nor event shape are known, or the base does not fit.
        """
        event_ndim = self.model.event_ndim
        if event_ndim is None and self.event_shape is not None and mask is None:
            event_ndim = len(self.event_shape)
        mask = None if mask is None else as_mask(mask)
        c = context_of_batch(c, () if mask is None else tuple(mask.shape[:-1]))
        model = self.model(c)
        base = self._default_base(model) if self.base is None else as_base(self.base(c))
        if self.validate_args and self.event_shape not in (None, tuple(base.event_shape)):
            raise ValueError(
                f"event_shape is {self.event_shape}, the base has {tuple(base.event_shape)}; "
                "expected them equal, or one of them left out"
            )
        return DiffusionProcess(
            model,
            self.schedule,
            self.solver,
            parameterization=self.parameterization,
            t0=self.t0,
            t1=self.t1,
            base=base,
            context=c,
            mask=mask,
            event_ndim=event_ndim,
            bound=not isinstance(self.model, UnconditionalField),
            validate_args=self.validate_args,
        )

    def _default_base(self, model: nn.Module) -> Base:
        if self.event_shape is None:
            raise ValueError(
                "event_shape is required when base is None; pass event_shape=, the shape of one "
                "event, or a base"
            )
        like = next(model.parameters(), None)
        device, dtype = (None, None) if like is None else (like.device, like.dtype)
        sigma = self.schedule.sigma(torch.as_tensor(self.t0, dtype=dtype, device=device))
        return IsotropicNormal(self.event_shape, sigma, device=device, dtype=dtype)


class DiffusionProcess(Process):
    """A diffusion model bound to a context and a mask; `Diffusion` makes it.

    Further arguments are those of `Process`; the solver is one for ordinary or for stochastic
    equations.

    Arguments:
        model: predicts what `parameterization` says.
        schedule: the noise schedule.
        parameterization: `eps`, `score`, `x0` or `velocity`.

    Raises:
        ValueError: if the parameterisation is unknown, or the base does not fit.
    """

    _own_parts: ClassVar[tuple[str, ...]] = ("schedule", "parameterization")

    def __init__(
        self,
        model: nn.Module,
        schedule: NoiseSchedule,
        solver: Solver | SDESolver,
        *,
        parameterization: Parameterization,
        t0: Tensor | float = 1.0,
        t1: Tensor | float = 0.0,
        base: Base,
        context: GivenContext | None = None,
        mask: Array | None = None,
        event_ndim: int | None = None,
        bound: bool = False,
        validate_args: bool = True,
    ) -> None:
        check_parameterization(parameterization)
        check_schedule(schedule)
        refuse_angles(model)
        super().__init__(
            model, base, solver, t0=t0, t1=t1, context=context, mask=mask, event_ndim=event_ndim,
            bound=bound, validate_args=validate_args,
        )  # fmt: skip
        self.model = model
        self.schedule = schedule
        self.parameterization: Parameterization = parameterization

    def sample(
        self,
        sample_shape: Iterable[int] | int = (),
        *,
        guidance_fn: Guidance | None = None,
        x_source: Array | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return samples, by the probability flow or the reverse equation as the solver asks.

        Arguments:
            sample_shape: the shape of independent samples in front of the batch.
            guidance_fn: changes the predicted noise, called as `guidance_fn(x, t, eps)` with `t` of
                the lead shape; None leaves it.
            x_source: the state at `t0`, with the shape of the result; None draws it from the base.
            generator: the random generator for the noise. In the reverse equation every step draws
                a number for every slot, so that with longer padding the same objects get others.

        Returns:
            Samples with shape `sample_shape + batch + event_shape`, zero in padded slots.

        Raises:
            ValueError: if a shape does not fit, or the prediction does not determine the flow.
        """
        start = self._start(sample_shape, x_source, generator)
        flow = self._flow(guidance_fn)
        if guidance_fn is not None:  # which sees the whole batch, the model events of like length
            flow.predict = velocity_on(start, self.model)
        if not declares(self.solver, "is_sde"):
            return self._along(flow, start.x).sample(sample_shape, x_source=start.x)
        velocity, like = velocity_on(start, flow), start.x

        def drift(x: Tensor, t: Tensor | float) -> Tensor:
            time = torch.as_tensor(t, dtype=x.dtype, device=x.device)
            reverse = 2 * velocity(start.at(x, t)) - drift_at(self.schedule, x, time)
            return zero_padding(reverse, start.mask)

        def diffusion(t: Tensor | float) -> Tensor:
            g = self.schedule.diffusion(torch.as_tensor(t, dtype=like.dtype, device=like.device))
            return align_right(g, like.ndim) if g.ndim else g

        t1 = self.t1
        if self._vanishes(t1):  # a solver that evaluates the last time must not divide by zero
            t1 = max(t1, smallest_time(like.dtype))
        x = integrate_sde(
            self.solver, drift, diffusion, like, t0=self.t0, t1=t1, generator=generator
        )
        x = zero_padding(x, start.mask)
        if x.device.type == "cpu" and is_readable(x) and not bool(x.isfinite().all()):
            refuse_not_finite("the sample", start, x_source=start.x)
        return x

    def log_prob(
        self,
        x: Array,
        *,
        estimator: DivergenceEstimator | Callable[..., Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the log-density, in nats, of events under the probability flow.

        Arguments:
            x: data, with shape `sample_shape + batch + event_shape`.
            estimator: of the divergence; None is exact.
            generator: the random generator for the probes of a stochastic estimator.

        Returns:
            The log-density, with shape `sample_shape + batch`; of ordered real objects given their
            number if there is a mask.

        Raises:
            ValueError: if a shape does not fit, or the solver is one for stochastic equations.
        """
        x = as_floating(as_tensor(x, "x"), self.model)
        return self._along(self._flow(None), x).log_prob(
            x, estimator=estimator, generator=generator
        )

    def _flow(self, guidance_fn: Guidance | None) -> ProbabilityFlowField:
        needs_drift = (
            declares(self.solver, "is_sde")
            or guidance_fn is not None
            or self.parameterization in ("eps", "score")
        )
        one = torch.ones((), dtype=torch.float64)
        rate = self.schedule.drift(one, self.t0 * one).detach().abs()
        if needs_drift and not bool(rate < 1 / smallest_time(torch.float64)):
            raise ValueError(
                f"alpha(t0 = {self.t0}) = 0, where neither eps nor the score determine the data "
                "and the drift is infinite; start at t0 < 1, or use an ODE solver with a model "
                "that predicts x0 or the velocity, and no guidance"
            )
        return ProbabilityFlowField(
            self.model, self.schedule, self.parameterization, guidance_fn,
            event_ndim=self.event_ndim,
        )  # fmt: skip

    def _vanishes(self, t: Tensor | float) -> bool:
        """Return whether there is no noise at time `t`."""
        return bool(self.schedule.is_singular(torch.as_tensor(t, dtype=torch.float64)))

    def _along(self, flow: ProbabilityFlowField, like: Tensor) -> FlowMatchingProcess:
        """Return the process of the probability flow, in a time in which it is finite."""
        t0, t1, solver = self.t0, self.t1, self.solver
        field: nn.Module = flow
        if self._vanishes(0.0):
            field, smallest = _SquareRootTime(flow), smallest_time(like.dtype)

            def root(t: Any) -> Any:
                return max(t, smallest) ** 0.5

            t0, t1 = root(t0), root(t1)
            solver = solver.mapped(root) if isinstance(solver, TimeGrid) else solver
        return FlowMatchingProcess(
            field,
            self.base,
            solver,
            t0=t0,
            t1=t1,
            context=self.context,
            mask=self.mask,
            bound=self.bound,
            validate_args=False,  # this process has checked it
        )


class _SquareRootTime(VectorField):
    """A velocity field in the time u, where t = u^2."""

    takes_mask = True

    def __init__(self, field: ProbabilityFlowField) -> None:
        super().__init__()
        self.field = field

    @property
    def event_ndim(self) -> int:
        return self.field.event_ndim

    def forward(
        self, x: Tensor, u: Tensor, c: Context | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        v: Tensor = self.field(x, u**2, c, mask=mask)
        return align_right(2 * u, x.ndim) * v
