"""The one place where a field is called, so that training and use obey the same law.

Padded input is zeroed before the field and padded velocity after it, and so is the context of
padded objects and of events without objects; `t` and `c` arrive expanded to the lead shape of `x`;
a field that declares `takes_mask` is given the mask.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from setflow.sets.batch import SetBatch
from setflow.sets.masks import zero_padding
from setflow.sets.protocols import declares, event_ndim_of
from setflow.sets.shapes import expand_context, expand_time, split_event

__all__ = [
    "Context",
    "call_field",
    "has_row_per_object",
    "with_plain_context",
    "zero_unused_context",
]


Context = Tensor | SetBatch  # rows per event or per object, or another set per event


def call_field(
    field: nn.Module,
    x: Tensor,
    t: Tensor | float,
    c: Context | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Evaluate a velocity field under the laws of the mask.

    Arguments:
        field: the field.
        x: the state, with shape `(*lead, *event_shape)`.
        t: the time, a number or a tensor with shape `lead`.
        c: the context, with shape `(*lead, C)`, `(*lead, N, C)` for one row per object, or
            `(*lead, K, *event_shape[1:])` for channels beside an image; or another set per event.
        mask: boolean mask with shape `(*lead, N)`, or None for all real.

    Returns:
        The velocity, with the shape of `x`, zero in padded slots.

    Raises:
        ValueError: if a shape does not fit, or the field returns another shape than that of `x`.
    """
    event_ndim = event_ndim_of(field, at_least=0 if mask is None else 2)
    field, c = with_plain_context(field, c)
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


def with_plain_context(field: nn.Module, c: Context | None) -> tuple[nn.Module, Tensor | None]:
    """Return a context set as one row per event, and a field that takes it so.

    The row holds the objects of the set, its mask and its own context one behind the other, so that
    whatever selects, expands or differentiates contexts serves sets, too. Other contexts and their
    field come back as they are.

    Raises:
        ValueError: if an object of the set has not exactly one dimension of features.

    >>> field = setflow.TransformerField(3, hidden=16, layers=1, heads=2, set_condition_dim=4)
    >>> context = SetBatch(torch.randn(8, 5, 4), torch.ones(8, 5))
    >>> field, row = with_plain_context(field, context)
    >>> row.shape, field(torch.randn(8, 30, 3), torch.rand(8), row).shape
    (torch.Size([8, 25]), torch.Size([8, 30, 3]))
    """
    if not isinstance(c, SetBatch):
        return field, c
    if c.x.ndim != c.mask.ndim + 1:
        raise ValueError(
            f"the context set has x of shape {tuple(c.x.shape)}, expected {(*c.mask.shape, 'C')}: "
            "one row of features per object"
        )
    parts = [zero_padding(c.x, c.mask).flatten(-2), c.mask.to(c.x.dtype)]
    row = torch.cat(parts if c.c is None else [*parts, c.c], dim=-1)
    return _RowAsSet(field, *c.x.shape[-2:], has_context=c.c is not None), row


class _RowAsSet(nn.Module):
    """A field that is given its context set as a row."""

    def __init__(self, field: nn.Module, slots: int, features: int, *, has_context: bool) -> None:
        super().__init__()
        self.field = field
        self.event_ndim = event_ndim_of(field)
        self.takes_mask = declares(field, "takes_mask")
        self._slots = slots
        self._features = features
        self._has_context = has_context

    def forward(self, x: Tensor, t: Tensor, c: Tensor, **mask: Tensor | None) -> Tensor:
        end = self._slots * self._features
        objects = c[..., :end].reshape(*c.shape[:-1], self._slots, self._features)
        own = c[..., end + self._slots :] if self._has_context else None
        c_set = SetBatch(objects, c[..., end : end + self._slots] > 0.5, own)
        v: Tensor = self.field(x, t, c_set, **mask)
        return v


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
