"""Time and context, expanded to the lead shape of the state; nothing broadcasts by accident."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["align_right", "expand_context", "expand_time"]


def align_right(values: Tensor, ndim: int) -> Tensor:
    """Append dimensions of size one until `values`, of lead shape, meets tensors with `ndim`.

    >>> align_right(torch.zeros(8), 3).shape
    torch.Size([8, 1, 1])
    """
    return values.reshape(values.shape + (1,) * (ndim - values.ndim))


def expand_time(t: Tensor | float, lead: tuple[int, ...], like: Tensor) -> Tensor:
    """Return `t` with exactly the shape `lead`, in the dtype and on the device of `like`.

    Arguments:
        t: a number, a scalar tensor, or a tensor with shape `lead`.
        lead: the shape in front of the event dimensions.
        like: the tensor whose dtype and device to take.

    Raises:
        ValueError: if `t` has any other shape.
    """
    if not isinstance(t, Tensor):
        return torch.full(lead, float(t), dtype=like.dtype, device=like.device)
    if t.ndim and tuple(t.shape) != lead:
        raise ValueError(
            f"t has shape {tuple(t.shape)}, expected a scalar or {lead}: one time per event"
        )
    return t.to(dtype=like.dtype, device=like.device).expand(lead)


def expand_context(
    c: Tensor | None, lead: tuple[int, ...], batch_ndim: int, objects: int | None = None
) -> Tensor | None:
    """Return the context `c` with exactly the lead shape in front of its features.

    Arguments:
        c: the context, with shape `(*batch, C)`, or `(*batch, N, C)` for one row per object; None
            stays None.
        lead: the shape in front of the event dimensions, `sample_shape + batch`.
        batch_ndim: how many dimensions of `lead` are batch dimensions.
        objects: the number of slots `N`, if events are sets.

    Raises:
        ValueError: if `c` has none of these shapes.
    """
    if c is None:
        return None
    batch = lead[len(lead) - batch_ndim :]
    front = tuple(c.shape[:-1])
    if c.ndim and front == batch:
        return c.expand(*lead, c.shape[-1])
    if objects is not None and c.ndim > 1 and front == (*batch, objects):
        return c.expand(*lead, objects, c.shape[-1])
    raise ValueError(
        f"c has shape {tuple(c.shape)}, expected {(*batch, 'C')}: one context row per event"
        + ("" if objects is None else f", or {(*batch, objects, 'C')}: one per object")
    )
