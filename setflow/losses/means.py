"""The masked means: how errors of objects become one number.

Notation. Errors have the shape `(*lead, N, ...)`. Per object the mean over its features; per event
the mean over its real objects, 0 if there are none; over events the `reduction`, in which empty
events count as 0. With all objects real and equally many, `mean` is the mean over everything.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from setflow.sets.masks import count_real, zero_padding
from setflow.sets.shapes import coordinates

__all__ = ["Reduction", "event_means", "reduce_events"]

Reduction = Literal["mean", "sum", "none"]


def event_means(errors: Tensor, event_ndim: int, mask: Tensor | None) -> Tensor:
    """Return the mean error of each event.

    Arguments:
        errors: one value per coordinate, with shape `(*lead, N, ...)`.
        event_ndim: the number of event dimensions.
        mask: boolean mask with shape `(*lead, N)`, or None for all real.

    Returns:
        The means, with shape `lead`.
    """
    if mask is None:
        flat = coordinates(errors, event_ndim)
        return flat.sum(-1) / max(1, flat.shape[-1])
    features = coordinates(zero_padding(errors, mask), errors.ndim - mask.ndim)
    per_object = features.sum(-1) / max(1, features.shape[-1])
    return per_object.sum(-1) / count_real(mask).clamp(min=1)


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
