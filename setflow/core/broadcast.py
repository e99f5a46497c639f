"""Time and context, expanded to the lead shape of the state; nothing broadcasts by accident."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "align_coefficient",
    "align_right",
    "align_time",
    "context_shape",
    "expand_context",
    "expand_time",
]


def align_right(values: Tensor, ndim: int) -> Tensor:
    """Append dimensions of size one until `values`, of lead shape, meets tensors with `ndim`.

    >>> align_right(torch.zeros(8), 3).shape
    torch.Size([8, 1, 1])
    """
    return values.reshape(values.shape + (1,) * (ndim - values.ndim))


def align_time(t: Tensor, x: Tensor) -> Tensor:
    """Return `t` with dimensions of size one appended, so that it meets the events of `x`.

    Arguments:
        t: the time, a scalar tensor, one with the lead shape of `x`, or one aligned already.
        x: the state, with shape `(*lead, *event_shape)`. How many of its dimensions are lead
            dimensions is not known here: what knows `event_ndim` checks more.

    Raises:
        ValueError: if the shape of `t` is not that of the first dimensions of `x`.

    >>> align_time(torch.zeros(8), torch.zeros(8, 30, 3)).shape
    torch.Size([8, 1, 1])
    """
    lead = tuple(t.shape)
    if t.ndim == x.ndim:
        while lead and lead[-1] == 1:
            lead = lead[:-1]
    if lead != x.shape[: len(lead)]:
        raise ValueError(
            f"t has shape {tuple(t.shape)} and x {tuple(x.shape)}; expected a scalar t or the lead "
            f"shape of x: one time per event, for instance {tuple(x.shape[:1])}"
        )
    return align_right(t, x.ndim)


def align_coefficient(values: Tensor, t: Tensor, x: Tensor, name: str) -> Tensor:
    """Return a coefficient of time so shaped that it meets the events of `x`.

    Arguments:
        values: the coefficient at `t`, with the shape of `t`.
        t: the time, a scalar tensor or one with the lead shape of `x`.
        x: the state, with shape `(*lead, *event_shape)`.
        name: what the coefficient is called, for the error message.

    Raises:
        ValueError: if `values` is not one value per time, or `t` does not fit `x`.

    >>> align_coefficient(torch.ones(8), torch.zeros(8), torch.zeros(8, 30, 3), "alpha").shape
    torch.Size([8, 1, 1])
    """
    if values.shape != t.shape:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)} at t of shape {tuple(t.shape)}; expected one "
            "value per time"
        )
    return align_time(values, x)


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
    c: Tensor | None, lead: tuple[int, ...], batch_ndim: int, event: tuple[int, ...] = ()
) -> Tensor | None:
    """Return the context `c` with exactly the lead shape in front of its other dimensions.

    Arguments:
        c: the context, with shape `(*batch, C)`; for sets also `(*batch, N, C)`, one row per
            object; for events of three dimensions or more, such as images, also
            `(*batch, K, *event[1:])`, K channels of the same size. None stays None.
        lead: the shape in front of the event dimensions, `sample_shape + batch`.
        batch_ndim: how many dimensions of `lead` are batch dimensions.
        event: the shape of one event.

    Raises:
        ValueError: if `c` has none of these shapes.

    >>> expand_context(torch.zeros(4, 1, 8, 8), (16, 4), 1, event=(3, 8, 8)).shape
    torch.Size([16, 4, 1, 8, 8])
    """
    if c is None:
        return None
    batch = lead[len(lead) - batch_ndim :]
    own = context_shape(c, event)
    if own is not None and tuple(c.shape[: c.ndim - len(own)]) == batch:
        return c.expand(*lead, *own)
    front = tuple(c.shape[:-1])
    if c.ndim and front == batch:
        return c.expand(*lead, c.shape[-1])
    expected = [f"{(*batch, 'C')}: one context row per event"]
    if len(event) >= 2:
        expected.append(f"{(*batch, event[0], 'C')}: one per object")
    if len(event) >= 3:
        expected.append(f"{(*batch, 'K', *event[1:])}: an image of the size of the event")
    raise ValueError(f"c has shape {tuple(c.shape)}, expected {', or '.join(expected)}")


def context_shape(c: Tensor, event: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the last dimensions of a context that belong to one event, if they are more than one.

    That is `(N, C)` for one row per object, or `(K, *event[1:])` for channels of an image; None
    if `c` can only hold one row per event, `(C,)`.

    >>> context_shape(torch.zeros(4, 30, 2), (30, 3)), context_shape(torch.zeros(4, 2), (30, 3))
    ((30, 2), None)
    """
    if len(event) >= 3 and c.ndim >= len(event) and tuple(c.shape[1 - len(event) :]) == event[1:]:
        return tuple(c.shape[-len(event) :])
    if len(event) >= 2 and c.ndim >= 2 and c.shape[-2] == event[0]:
        return tuple(c.shape[-2:])
    return None
