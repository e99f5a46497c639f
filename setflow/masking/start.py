"""Where a solve starts: noise, mask and context, checked and of one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from setflow.distributions.base import as_base, draw_noise
from setflow.sets.events import call_field
from setflow.sets.masks import as_mask, zero_padding
from setflow.sets.planning import planned
from setflow.sets.protocols import Base, SDESolver, Solver, declares, event_ndim_of
from setflow.sets.shapes import as_tuple, context_shape, expand_context, split_event

__all__ = ["Start", "batch_of_context", "refuse_sde", "start_of_sampling"]


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
        """Bind mask and context to a field; the result is v(x, t) for a solver.

        Events of like length are evaluated together; the plan is made here, once for a solve.
        """
        whole = planned(field, self.mask)
        return lambda x, t: call_field(whole, x, t, self.c, self.mask)


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


def refuse_sde(solver: Solver | SDESolver, purpose: str) -> None:
    """Raise if a solver is one for stochastic equations.

    Raises:
        ValueError: if it is.
    """
    if declares(solver, "is_sde"):
        raise ValueError(
            f"{type(solver).__name__} solves stochastic equations; {purpose} integrates "
            "dx/dt = v(x, t): give it an ODE solver such as setflow.Midpoint(steps=50)"
        )
