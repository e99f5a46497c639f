"""One lead shape for state, time and context.

setflow's own functions broadcast nothing; they take a time and a context of exactly the lead shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from setflow.compat.nami.core.specs import split_event

__all__ = ["broadcast"]


def broadcast(
    x: Tensor,
    t: Tensor | None,
    c: Tensor | None,
    *,
    event_ndim: int,
    validate_args: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return state, time and context, expanded to the lead shape to which all of them broadcast.

    Arguments:
        x: the state, with shape `(*lead, *event_shape)`.
        t: the time, with a shape that broadcasts with `lead`, or None.
        c: the context, with such a shape in front of its features, or None.
        event_ndim: how many trailing dimensions of `x` form one event.
        validate_args: raise ValueError, too, where torch raises RuntimeError, and for a context
            without features; else such a context is returned as it is.

    Raises:
        ValueError: if the shapes do not broadcast.

    >>> x, t, c = broadcast(torch.zeros(8, 3), torch.zeros(()), torch.zeros(1, 4), event_ndim=1)
    >>> x.shape, t.shape, c.shape
    (torch.Size([8, 3]), torch.Size([8]), torch.Size([8, 4]))
    """
    front, event = split_event(x, event_ndim)
    has_features = c is not None and c.ndim > 0
    if c is not None and not has_features and validate_args:
        raise ValueError("c is a scalar, expected a context with shape (*batch, C)")
    fronts = [front]
    if t is not None:
        fronts.append(tuple(t.shape))
    if c is not None and has_features:
        fronts.append(tuple(c.shape[:-1]))
    try:
        lead = torch.broadcast_shapes(*fronts)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if not validate_args:
            raise
        raise ValueError(
            f"x, t and c have the lead shapes {fronts}, which do not broadcast to one"
        ) from error
    return (
        x.expand(*lead, *event),
        None if t is None else t.expand(lead),
        c.expand(*lead, c.shape[-1]) if c is not None and has_features else c,
    )
