"""The one place where a field is called, so that training and use obey the same law.

Padded input is zeroed before the field and padded velocity after it, and so is the context of
padded objects and of events without objects; `t` and `c` arrive expanded to the lead shape of `x`;
a field that declares `takes_mask` is given the mask.
"""

from __future__ import annotations

from torch import Tensor, nn

from setflow.core.broadcast import expand_context, expand_time
from setflow.core.masks import zero_padding
from setflow.core.protocols import declares, event_ndim_of
from setflow.core.specs import split_event

__all__ = ["call_field", "has_row_per_object", "zero_unused_context"]


def call_field(
    field: nn.Module,
    x: Tensor,
    t: Tensor | float,
    c: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Evaluate a velocity field under the laws of the mask.

    Arguments:
        field: the field.
        x: the state, with shape `(*lead, *event_shape)`.
        t: the time, a number or a tensor with shape `lead`.
        c: the context, with shape `(*lead, C)`, `(*lead, N, C)` for one row per object, or
            `(*lead, K, *event_shape[1:])` for channels beside an image.
        mask: boolean mask with shape `(*lead, N)`, or None for all real.

    Returns:
        The velocity, with the shape of `x`, zero in padded slots.

    Raises:
        ValueError: if a shape does not fit, or the field returns another shape than that of `x`.
    """
    event_ndim = event_ndim_of(field, at_least=0 if mask is None else 2)
    lead, event = split_event(x, event_ndim)
    x = zero_padding(x, mask)
    t = expand_time(t, lead, like=x)
    c = expand_context(c, lead, len(lead), event)
    if c is not None:
        c = zero_unused_context(c, mask)
    v: Tensor = field(x, t, c, mask=mask) if declares(field, "takes_mask") else field(x, t, c)
    if v.shape != x.shape:
        raise ValueError(
            f"{type(field).__name__} returned shape {tuple(v.shape)} for x of shape "
            f"{tuple(x.shape)}; a velocity has the shape of its state"
        )
    return zero_padding(v, mask)


def has_row_per_object(c: Tensor, mask: Tensor | None) -> bool:
    """Return whether a context has one row per object of the mask, not one per event."""
    return mask is not None and c.ndim > mask.ndim and c.shape[: mask.ndim] == mask.shape


def zero_unused_context(c: Tensor, mask: Tensor | None) -> Tensor:
    """Return the context, zero where it belongs to padding or to an event without objects.

    What belongs to no object may hold anything.
    """
    if mask is None:
        return c
    return zero_padding(c, mask if has_row_per_object(c, mask) else mask.any(-1))
