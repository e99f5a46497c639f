"""What an estimator of the divergence promises, how a user's own becomes one, and in which order
the library's own evaluate the events of a batch.

Notation. The divergence of v(x, t, c) is the sum of d v_i / d x_i over the real coordinates of each
event. Fields are called at the one junction, which zeroes padded input and padded velocity: rows
and columns of the Jacobian that belong to padding are zero, so that they add nothing to a trace.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from setflow.random import EventSeeds
from setflow.sets.events import Context, call_field, with_plain_context
from setflow.sets.masks import as_mask
from setflow.sets.planning import Chunk, FlatEvents, Plan
from setflow.sets.protocols import event_ndim_of
from setflow.sets.shapes import event_numel, split_event

__all__ = [
    "DivergenceEstimator",
    "PlannedDivergence",
    "StochasticDivergence",
    "as_estimator",
]


class DivergenceEstimator(ABC):
    """Velocity and divergence from one evaluation of the field.

    Called like a function, `estimator(field, x, t, c)`, it returns the divergence alone.
    """

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
        x: Tensor,
        mask: Tensor | None,
        generator: torch.Generator | EventSeeds | None = None,
    ) -> DivergenceEstimator:
        """Return the estimator to use in one solve that starts at `x`.

        A stochastic estimator draws its probes here, once, so that the solver sees a right-hand
        side without noise; the seeds of the events may be given in place of a generator.
        """
        return self


class PlannedDivergence(DivergenceEstimator):
    """The estimators of the library: like lengths together, results in the caller's order.

    It belongs to one solve and to the mask that it first meets.
    """

    _plan: Plan | None = None
    columns = 1  # how many estimates stand side by side

    @abstractmethod
    def estimates(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Tensor | None,
        chunk: Chunk,
    ) -> tuple[Tensor, Tensor]:
        """Return the velocity of the events of a chunk and K estimates of its divergence.

        Arguments:
            field: the field.
            x: the states, with shape `(b, *event_shape)`, cut to the columns of the chunk.
            t: the time, a number or a tensor with shape `(b,)`.
            c: the context, with `b` in front.
            chunk: the events and their mask.

        Returns:
            The velocity, with the shape of `x`, and the estimates, with shape `(b, K)`.
        """

    @abstractmethod
    def plan(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Tensor | None,
        mask: Tensor | None,
    ) -> Plan:
        """Return how to cut a flattened batch; the arguments are those of one evaluation."""

    def velocity_and_divergence(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Context | None = None,
        *,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the velocity and its divergence; see `DivergenceEstimator`."""
        v, estimates = self.velocity_and_estimates(field, x, t, c, mask=mask)
        return v, estimates.mean(-1)

    def velocity_and_estimates(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Context | None = None,
        *,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the velocity and K estimates of its divergence, with shape `(*lead, K)`.

        Their mean is the estimate, and its standard error is their standard deviation over the
        root of K.
        """
        event_ndim = event_ndim_of(field, at_least=0 if mask is None else 2)
        field, c = with_plain_context(field, c)
        lead, event = split_event(x, event_ndim)
        events = event_numel(lead)
        if mask is not None:
            mask = as_mask(mask, (*lead, event[0]))
            if torch.is_grad_enabled():  # the backward pass uses it again
                mask = mask.clone()
        if not events:
            return torch.zeros_like(x), x.new_zeros(*lead, self.columns)
        flat = FlatEvents.of(x, t, c, mask, event_ndim)
        if self._plan is None:
            self._plan = self.plan(field, flat.x, flat.t, flat.c, flat.mask)
        found = [self.estimates(field, *flat.taken(chunk), chunk) for chunk in self._plan.chunks]
        v = self._plan.objects([v for v, _ in found])
        estimates = self._plan.events([part for _, part in found])
        return v.reshape(x.shape), estimates.reshape(*lead, estimates.shape[-1])


class StochasticDivergence(DivergenceEstimator):
    """An estimator whose probes are drawn for the events of a solve.

    Attributes:
        n_estimates: how many estimates are averaged.
        independent: whether they are independent, so that their spread tells a standard error.
        renews: whether every evaluation draws new ones, which only fixed steps allow.
    """

    n_estimates: int
    independent: bool = True
    renews: bool = False

    @abstractmethod
    def bound(self, x: Tensor, mask: Tensor | None, seeds: EventSeeds) -> PlannedDivergence:
        """Return the estimator of one solve, with the probes that belong to `seeds`."""

    def for_solve(
        self,
        x: Tensor,
        mask: Tensor | None,
        generator: torch.Generator | EventSeeds | None = None,
    ) -> PlannedDivergence:
        """Draw the probes for events of the shape of `x`."""
        if not isinstance(generator, EventSeeds):
            lead = x.shape[:-2] if mask is None else mask.shape[:-1]
            generator = EventSeeds.drawn(tuple(lead), x.device, generator)
        return self.bound(x, mask, generator)

    def velocity_and_divergence(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Context | None = None,
        *,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return velocity and divergence estimated with new probes; see `DivergenceEstimator`."""
        lead, _ = split_event(x, event_ndim_of(field))
        solve = self.for_solve(x, mask, EventSeeds.drawn(lead, x.device))
        return solve.velocity_and_divergence(field, x, t, c, mask=mask)


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
        divergence = self._estimate(_MaskedField(field, mask), x, t, c)
        return call_field(field, x, t, c, mask), divergence


class _MaskedField(nn.Module):
    """A field with its mask bound, for code that knows no masks."""

    def __init__(self, field: nn.Module, mask: Tensor | None) -> None:
        super().__init__()
        self.field = field
        self._mask = mask

    @property
    def event_ndim(self) -> int:
        return event_ndim_of(self.field)

    def forward(self, x: Tensor, t: Tensor | float, c: Tensor | None = None) -> Tensor:
        return call_field(self.field, x, t, c, self._mask)


def as_estimator(estimator: Any) -> DivergenceEstimator:
    """Return an estimator, made of a callable `(field, x, t, c)` if it is not one already.

    Raises:
        TypeError: if it cannot be called.
    """
    if isinstance(estimator, DivergenceEstimator):
        return estimator
    if not callable(estimator) or isinstance(estimator, type):
        raise TypeError(
            f"estimator must be callable as (field, x, t, c), got {estimator!r}; "
            "use setflow.ExactDivergence() or setflow.HutchinsonDivergence()"
        )
    return _Callable(estimator)
