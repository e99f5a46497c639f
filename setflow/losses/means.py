"""The masked means, and the regression of a field that all losses are: how errors become a number.

Notation. Errors have the shape `(*lead, N, ...)`. Per object the mean over the features that it
has; per event
the mean over its real objects, 0 if there are none; over events the `reduction`, in which empty
events count as 0. With all objects real and equally many, `mean` is the mean over everything.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from setflow.sets.events import Events
from setflow.sets.masks import zero_padding
from setflow.sets.planning import plan_velocity

__all__ = ["Reduction", "reduce_events", "regression_loss"]

Reduction = Literal["mean", "sum", "none"]


def regression_loss(
    field: nn.Module,
    events: Events,
    target: Tensor,
    *,
    reduction: Reduction,
    scale: Tensor | None = None,
) -> Tensor:
    """Return the masked mean squared error of a field against a target.

    Arguments:
        field: the field.
        events: the events, at the points and times where the field is evaluated, with the weights
            of their losses.
        target: what it should return there, with the shape of the states; padded slots may hold
            anything.
        reduction: `mean` or `sum` over events, or `none`.
        scale: a factor on the field's output before the comparison, shaped to meet it.

    Raises:
        ValueError: if a shape is not exactly that of the events: nothing is broadcast.
    """
    if target.shape != events.x.shape:
        raise ValueError(
            f"the path gave a target with shape {tuple(target.shape)}, x_target has "
            f"{tuple(events.x.shape)}; expected equal shapes"
        )
    weights = events.weights
    if weights is not None and weights.shape != events.lead:
        raise ValueError(
            f"the weights have shape {tuple(weights.shape)}, expected {events.lead}: one per event"
        )
    plan = plan_velocity(field, events)
    prediction = plan.each(events, lambda part: part.velocity(field))
    if scale is not None:
        prediction = scale * prediction
    # selected before it is squared: the slope of NaN is NaN
    real = events.mask if events.present is None else events.present
    errors = zero_padding(prediction - target, real) ** 2
    losses = _means(errors, events)
    return reduce_events(losses if weights is None else weights * losses, reduction)


def _means(errors: Tensor, events: Events) -> Tensor:
    """Return the mean error of each event; the errors are zero in padded slots."""
    mask = events.mask
    if events.present is not None:  # of each object over the features that it has
        ndim = len(events.lead)
        has = events.present.flatten(ndim + 1).sum(-1).clamp(min=1)
        each = errors.flatten(ndim + 1).sum(-1) / has
        return each.sum(-1) / events.lengths.clamp(min=1)
    if mask is None:
        lead = errors.shape[: errors.ndim - events.event_ndim]
        numel = math.prod(errors.shape[len(lead) :])
        return errors.reshape(*lead, numel).sum(-1) / max(1, numel)
    numel = math.prod(errors.shape[mask.ndim :])
    features = errors.reshape(*mask.shape, numel)
    return (features.sum(-1) / max(1, numel)).sum(-1) / events.lengths.clamp(min=1)


def reduce_events(values: Tensor, reduction: Reduction) -> Tensor:
    """Reduce one value per event by `mean`, `sum` or `none`.

    Raises:
        ValueError: if `reduction` is another word.
    """
    if reduction == "none":
        return values
    if reduction == "mean":
        return values.sum() / max(1, values.numel())
    if reduction == "sum":
        return values.sum()
    raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
