"""The divergence that a field tells itself, together with its velocity.

Notation. A field may have a method `call_and_divergence(x, t, c=None)`, as in nami, which returns
the velocity and its divergence: `x` has the shape `(*lead, *event_shape)`, `t` that of `lead`, `c`
is the context as `forward` gets it, and the divergence has the shape `lead`. For a field that takes
the mask it is also given `mask=`, and the divergence is then one over real coordinates. One that
raises `NotImplementedError` is one that is not there.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from setflow.divergence.base import Evaluation
from setflow.divergence.linearization import plain_arithmetic, uncompiled, wide_weights
from setflow.sets.events import Events
from setflow.sets.masks import zero_padding
from setflow.sets.protocols import declares

__all__ = ["analytic_evaluation"]


def analytic_evaluation(field: nn.Module, events: Events) -> Evaluation | None:
    """Return what evaluates velocity and divergence by the field's own method.

    None where it does not serve: it is not implemented, a subclass has another `forward`, the field
    knows no mask and there is one, or its weights are narrower than the states.

    Arguments:
        field: a field that has the method.
        events: the events of the solve, at its first state and time, for which it is tried.

    Raises:
        ValueError: if the field takes the mask and its method does not, or it returns other shapes.
    """
    field = uncompiled(field)
    method: Any = field.call_and_divergence
    takes_mask = "mask" in inspect.signature(method).parameters
    if declares(field, "takes_mask") and not takes_mask:
        raise ValueError(
            f"{type(field).__name__} declares takes_mask = True, but its call_and_divergence takes "
            "no mask; add mask=None to its arguments and sum over real coordinates only, or pass "
            "an estimator"
        )
    unmasked = events.mask is not None and not takes_mask
    wider = torch.promote_types(events.x.dtype, torch.float32)
    if unmasked or not _is_beside_forward(field) or wide_weights(field, wider) is not None:
        return None

    def evaluate(events: Events) -> tuple[Tensor, Tensor]:
        c = None if events.context is None else events.context.given
        options = {"mask": events.mask} if takes_mask else {}
        with plain_arithmetic(events.x.device.type):
            found = method(events.x, events.t, c, **options)
        return _checked(field, events, *found)

    try:
        evaluate(events)
    except NotImplementedError:  # as that of the base class of nami's fields
        return None
    return evaluate


def _is_beside_forward(field: nn.Module) -> bool:
    """Return whether no subclass has another `forward`, whose velocity may be another."""
    if "forward" in vars(field):
        return False
    for cls in type(field).__mro__:
        if "call_and_divergence" in vars(cls):
            return True
        if "forward" in vars(cls):
            break
    return "call_and_divergence" in vars(field)


def _checked(
    field: nn.Module, events: Events, v: Tensor, divergence: Tensor
) -> tuple[Tensor, Tensor]:
    """Return velocity and divergence, zero in padded slots and for events without objects."""
    if v.shape != events.x.shape or divergence.shape != events.lead:
        raise ValueError(
            f"{type(field).__name__}.call_and_divergence returned shapes {tuple(v.shape)} and "
            f"{tuple(divergence.shape)}, expected {tuple(events.x.shape)} and {events.lead}: the "
            "velocity, and one divergence per event"
        )
    occupied = None if events.mask is None else events.mask.any(-1)
    return zero_padding(v, events.mask), zero_padding(divergence, occupied)[..., None].double()
