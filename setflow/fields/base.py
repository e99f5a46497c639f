"""What a velocity field of the library promises, and how it checks what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from setflow.core.broadcast import expand_time
from setflow.core.masks import as_mask
from setflow.core.specs import split_event

__all__ = ["VectorField", "checked_inputs"]


class VectorField(nn.Module, ABC):
    """A velocity field v(x, t, c) of the library.

    Any `nn.Module` with `forward(x, t, c=None)` and `event_ndim` works in the verbs; this class
    states the contract for the library's own. A field with `takes_mask = True` is called with
    `mask=` and must obey the laws of the mask by itself.
    """

    takes_mask: ClassVar[bool] = False

    @property
    @abstractmethod
    def event_ndim(self) -> int:
        """How many trailing dimensions of `x` form one event."""


def checked_inputs(
    field: VectorField,
    x: Tensor,
    t: Tensor | float,
    c: Tensor | None,
    mask: Tensor | None,
    *,
    features: tuple[int, ...],
    condition_dim: int,
) -> tuple[tuple[int, ...], Tensor, Tensor | None]:
    """Check what a library field is called with; return the lead shape, the time and the mask.

    Arguments:
        field: the field.
        x: the state, with shape `(*lead, *event_shape)`.
        t: the time, a number, a scalar tensor, or a tensor with shape `lead`.
        c: the context, with shape `(*lead, condition_dim)`, or None if that is 0.
        mask: the mask, with shape `(*lead, N)`, or None.
        features: the shape of one object, the last dimensions of `x`.
        condition_dim: the number of context features.

    Raises:
        ValueError: if anything has another shape.
    """
    name = type(field).__name__
    lead, event = split_event(x, field.event_ndim)
    cut = len(event) - len(features)
    if event[cut:] != features:
        raise ValueError(
            f"{name} got x with shape {tuple(x.shape)}, expected features {features} behind "
            f"{'the object dimension' if cut else 'the lead dimensions'}"
        )
    if c is None and condition_dim:
        raise ValueError(f"{name} got no context, expected c with shape {(*lead, condition_dim)}")
    if c is not None and not condition_dim:
        raise ValueError(
            f"{name} got a context with shape {tuple(c.shape)} but takes none; "
            f"build it with condition_dim={c.shape[-1] if c.ndim else 1}"
        )
    if c is not None and tuple(c.shape) != (*lead, condition_dim):
        raise ValueError(
            f"{name} got c with shape {tuple(c.shape)}, expected {(*lead, condition_dim)}"
        )
    if mask is not None:
        mask = as_mask(mask, (*lead, event[0])).to(x.device)
    return lead, expand_time(t, lead, like=x), mask
