"""What an estimator of the divergence promises, how a user's own becomes one, and in which order
the library's own evaluate the events of a batch.

Notation. The divergence of v(x, t, c) is the sum of d v_i / d x_i over the real coordinates of each
event. Fields are called by `Events.velocity`, which zeroes padding: rows and columns of the
Jacobian that belong to padding are zero, so that they add nothing to a trace.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from setflow.random import EventSeeds
from setflow.sets.arrays import as_tensor, shown
from setflow.sets.context import Context
from setflow.sets.events import Events
from setflow.sets.masks import as_mask
from setflow.sets.planning import Chunk, Plan
from setflow.sets.shapes import as_floating

__all__ = [
    "DivergenceEstimator",
    "Evaluation",
    "PlannedEstimator",
    "PlannedSolve",
    "as_estimator",
]

# velocity and K estimates of the divergence, float64 with shape (*lead, K), at the states of events
Evaluation = Callable[[Events], tuple[Tensor, Tensor]]


class DivergenceEstimator(ABC):
    """Velocity and divergence from one evaluation of the field.

    Called like a function, `estimator(field, x, t, c)`, it returns the divergence alone.

    Attributes:
        renews: whether every evaluation draws new probes, which only fixed steps allow.
    """

    renews: bool = False

    @abstractmethod
    def velocity_and_divergence(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Context | None = None,
        *,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the velocity and its divergence.

        Arguments:
            field: the field.
            x: the state, with shape `(*lead, *event_shape)`.
            t: the time, a number or a tensor with shape `lead`.
            c: the context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object; or a
                `SetBatch` for another set per event.
            mask: boolean mask with shape `(*lead, N)`, or None for all real.

        Returns:
            The velocity, with the shape of `x` and zero in padded slots, and the divergence, with
            shape `lead` and zero for an event without objects. Both are differentiable where
            gradients are enabled; the library's own once, computing the evaluation again then
            instead of keeping it.
        """

    def __call__(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Context | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the divergence alone, with shape `lead`."""
        return self.velocity_and_divergence(field, x, t, c, mask=mask)[1]

    def for_solve(
        self,
        field: nn.Module,
        events: Events,
        seeds: EventSeeds | torch.Generator | None = None,
    ) -> Evaluation:
        """Return what evaluates velocity and divergence in one solve.

        Arguments:
            field: the field.
            events: the events of the solve, at its first state and time.
            seeds: what the probes of a stochastic estimator depend on, drawn once for the solve, so
                that the solver sees a right-hand side without noise; or what they are drawn from.
        """
        return partial(_evaluated, self, field)


def _evaluated(
    estimator: DivergenceEstimator, field: nn.Module, events: Events
) -> tuple[Tensor, Tensor]:
    """Ask an estimator of a user's own."""
    assert events.t is not None
    c = None if events.context is None else events.context.given
    field = field if events.present is None else _MaskedField(field, events)
    v, divergence = estimator.velocity_and_divergence(
        field, events.x, events.t, c, mask=events.mask
    )
    return v, _checked(divergence, events)


def _checked(divergence: Tensor, events: Events) -> Tensor:
    """Return what a user's own estimator gave as the only one of K estimates."""
    if divergence.shape != events.lead:
        raise ValueError(
            f"the estimator returned a divergence with shape {tuple(divergence.shape)}, expected "
            f"{events.lead}: one value per event"
        )
    return divergence[..., None].double()


class PlannedEstimator(DivergenceEstimator):
    """The estimators of the library, whose solves evaluate events of like length together.

    Attributes:
        n_estimates: how many independent estimates are averaged; 1 of an exact divergence.
        is_exact: whether it is no estimate at all, so that it leaves no error.
    """

    n_estimates: int = 1
    is_exact: bool = False

    def velocity_and_divergence(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Context | None = None,
        *,
        mask: Tensor | None = None,
        present: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the velocity and its divergence; see `DivergenceEstimator`.

        `present` tells which features each object has, as `masked_log_prob` takes it.
        """
        x = as_tensor(x, "x")
        if x.dtype != torch.bool:  # the narrowest arithmetic
            x = as_floating(x, field)
            x = x.to(torch.promote_types(x.dtype, torch.float32))
        if mask is not None and torch.is_grad_enabled():  # the backward pass uses it again
            mask = as_mask(mask).clone()
        events = Events.of(field, x, mask, t=t, c=c, present=present)
        v, estimates = self.for_solve(field, events)(events)
        return v, estimates.mean(-1).to(v.dtype)


@dataclass
class PlannedSolve(ABC):
    """One solve of an estimator of the library: like lengths together, in the caller's order.

    Arguments:
        field: the field.
        plan: how the events of the solve are evaluated.
        columns: how many estimates stand side by side.
        weights: what the solve takes in the place of the field's own, see `wide_weights`.
    """

    field: nn.Module
    plan: Plan
    columns: int
    weights: dict[str, Tensor] | None

    @abstractmethod
    def estimates(self, part: Events, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Return the velocity of the events of a chunk and K estimates of its divergence.

        Arguments:
            part: the events, cut to the columns of the chunk.
            chunk: which they are.

        Returns:
            The velocity, with the shape of their states, and the estimates, float64 with shape
            `(b, K)`.
        """

    def __call__(self, events: Events) -> tuple[Tensor, Tensor]:
        """Return the velocity and K estimates of its divergence, with shape `(*lead, K)`.

        Their mean is the estimate, and its standard error is their standard deviation over the
        root of K.
        """
        lead = events.lead
        if not self.plan.chunks:
            none = events.x.new_zeros(*lead, self.columns, dtype=torch.float64)
            return torch.zeros_like(events.x), none
        flat = events.flat()
        if torch.is_grad_enabled() and flat.mask is not None:  # the backward pass uses it again
            flat = replace(flat, mask=flat.mask.clone())
        found = [
            self.estimates(flat if c.rows is None else flat.taken(c.rows, c.slots, c.mask), c)
            for c in self.plan.chunks
        ]
        v = self.plan.objects([v for v, _ in found])
        estimates = self.plan.events([part for _, part in found])
        return v.reshape(events.x.shape), estimates.reshape(*lead, self.columns)


class _Callable(DivergenceEstimator):
    """A user's `estimator(field, x, t, c)`: the mask is bound to the field that it is given."""

    def __init__(self, estimate: Callable[..., Tensor]) -> None:
        self._estimate = estimate

    def velocity_and_divergence(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Context | None = None,
        *,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        events = Events.of(field, x, mask, t=t, c=c)
        v, divergence = self._evaluated(field, events)
        return v, divergence[..., 0].to(v.dtype)

    def for_solve(
        self,
        field: nn.Module,
        events: Events,
        seeds: EventSeeds | torch.Generator | None = None,
    ) -> Evaluation:
        # by the events, since the field need not say how many dimensions form one
        return partial(self._evaluated, field)

    def _evaluated(self, field: nn.Module, events: Events) -> tuple[Tensor, Tensor]:
        c = None if events.context is None else events.context.given
        divergence = self._estimate(_MaskedField(field, events), events.x, events.t, c)
        return events.velocity(field), _checked(divergence, events)


class _MaskedField(nn.Module):
    """A field with the mask of some events bound, for code that knows no masks."""

    takes_mask = False

    def __init__(self, field: nn.Module, events: Events) -> None:
        super().__init__()
        self.field = field
        self.event_ndim = events.event_ndim
        self._mask, self._present = events.mask, events.present

    def forward(self, x: Tensor, t: Tensor | float, c: Context | None = None) -> Tensor:
        events = Events.of(self.event_ndim, x, self._mask, t=t, c=c, present=self._present)
        return events.velocity(self.field)


def as_estimator(estimator: Any) -> DivergenceEstimator:
    """Return an estimator, made of a callable `(field, x, t, c)` if it is not one already.

    Raises:
        TypeError: if it cannot be called.
    """
    if isinstance(estimator, DivergenceEstimator):
        return estimator
    if not callable(estimator) or isinstance(estimator, type):
        raise TypeError(
            f"estimator must be callable as (field, x, t, c), got {shown(estimator)}; "
            "use setflow.ExactDivergence() or setflow.HutchinsonDivergence()"
        )
    return _Callable(estimator)
