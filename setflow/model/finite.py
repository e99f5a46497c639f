"""Which event and which feature make a loss that is not finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from setflow.sets.batch import SetBatch
from setflow.sets.masks import zero_padding

__all__ = [
    "Culprit",
    "context_error",
    "first_not_finite",
    "no_number",
    "not_finite_weight",
    "reason_of",
]


class Culprit(NamedTuple):
    """A value that is not finite.

    Attributes:
        event: the place of its event in the batch, one number for each batch dimension.
        what: which value it is, as in "feature 'ptrel' of an object is nan".
        of_object: whether it is that of an object, not of the context or the weight.
    """

    event: tuple[int, ...]
    what: str
    of_object: bool


def first_not_finite(
    batch: SetBatch, features: Sequence[str], conditions: Sequence[str]
) -> Culprit | None:
    """Return the first value of real objects, context or weights that is not finite, or None.

    Padded slots may hold anything. The values are looked at, which on an accelerator waits for it.

    Arguments:
        batch: the events, with `x` of shape `(*batch, N, D)`.
        features: the names of the D features.
        conditions: those of the context.

    >>> batch = SetBatch([[[1.0, 2.0], [3.0, float("nan")]], [[0.0, float("inf")], [0.0, 0.0]]],
    ...                  mask=[[1, 0], [1, 1]])
    >>> first_not_finite(batch, ["eta", "pt"], [])
    Culprit(event=(1,), what="feature 'pt' of an object is inf", of_object=True)
    """
    found: list[Culprit] = []
    bad = ~batch.x.isfinite() & batch.mask[..., None]
    if bool(bad.any()):
        *event, slot, k = bad.nonzero()[0].tolist()
        value = batch.x[(*event, slot, k)].item()
        what = f"feature '{features[k]}' of an object is {value:g}"
        found.append(Culprit(tuple(event), what, True))
    if batch.c is not None and not bool(batch.c.isfinite().all()):
        *event, k = (~batch.c.isfinite()).nonzero()[0].tolist()
        value = batch.c[(*event, k)].item()
        found.append(Culprit(tuple(event), f"condition '{conditions[k]}' is {value:g}", False))
    if batch.weight is not None and not bool(batch.weight.isfinite().all()):
        event = (~batch.weight.isfinite()).nonzero()[0].tolist()
        what = f"the weight is {batch.weight[tuple(event)].item():g}"
        found.append(Culprit(tuple(event), what, False))
    return min(found, key=lambda culprit: culprit.event, default=None)


def no_number(batch: SetBatch, log_p: Tensor, features: Sequence[str]) -> ValueError:
    """Return the error that names the first event whose log-density is not a number.

    Arguments:
        batch: the events, with `x` of shape `(B, N, D)`, finite.
        log_p: their log-densities, with shape `(B,)`, of which one is NaN at least.
        features: the names of the D features.
    """
    bad = log_p.isnan()
    event = int(bad.nonzero()[0])
    largest = zero_padding(batch.x[event], batch.mask[event]).abs().amax(0)
    k = int(largest.argmax())
    return ValueError(
        f"the log-density of {int(bad.sum())} of {len(bad)} events is not a number, the first is "
        f"event {event}, whose largest value is {largest[k].item():g}, of feature "
        f"'{features[k]}': the field's arithmetic overflows; leave such events out"
    )


def context_error(bad: Tensor, conditions: Sequence[str], advice: str) -> ValueError:
    """Return the error that names the first value of a context that is not finite.

    Arguments:
        bad: which values are not, with shape `(B, C)`; at least one.
        conditions: the names of the C context features.
        advice: what to do.
    """
    row, k = bad.nonzero()[0].tolist()
    return ValueError(
        f"the context of event {row} is not finite: condition '{conditions[k]}'; {advice}"
    )


def not_finite_weight(model: nn.Module) -> str | None:
    """Return the name of the first parameter that holds NaN or infinite values, or None.

    On an accelerator it waits for the device.

    >>> from torch import nn
    >>> layer = nn.Linear(1, 1)
    >>> _ = nn.init.constant_(layer.bias, float("nan"))
    >>> not_finite_weight(layer)
    'bias'
    """
    names, values = [], []
    for name, value in model.named_parameters():
        names.append(name)
        values.append(value.detach().isfinite().all())
    fine = torch.stack(values).tolist() if values else []
    return next((name for name, good in zip(names, fine, strict=True) if not good), None)


def refuse_diverged(model: nn.Module) -> None:
    """Raise if a model makes no numbers because it has none; the weights are looked at.

    Raises:
        ValueError: if a weight is not finite; it names the tensor.
    """
    if (name := not_finite_weight(model)) is not None:
        raise ValueError(
            f"the weights {name} of the model are not finite: its training has diverged; train it "
            "again, with a smaller learning rate or clipped gradients (gradient_clip_val)"
        )


def reason_of(
    culprit: Culprit | None, field: nn.Module, place: Tensor | None = None, of: str = ""
) -> str:
    """Return why a loss is not finite, and what to do.

    Arguments:
        culprit: the first value that is not finite, or None.
        field: the field, whose weights may be the reason where the data are not.
        place: what number each event of the batch has among the training events, with shape
            `(B,)`; None numbers them within the batch.
        of: what the events are numbered in, as in " of the training events".
    """
    if culprit is not None:
        event = culprit.event if place is None else (int(place[culprit.event]),)
        where = f"event {', '.join(map(str, event))}" if event else "the event"
        padding = ", or mark the object as padding" if culprit.of_object else ""
        return f"In {where}{of} {culprit.what}; leave such events out{padding}"
    if not all(bool(weight.isfinite().all()) for weight in field.parameters()):
        return (
            "The events of this batch are finite, but weights of the field are not: an earlier "
            "step made them so; take a smaller learning rate or clip gradients (gradient_clip_val)"
        )
    return (
        "The events of this batch and the weights are finite, so it is the field's arithmetic that "
        "overflows: look for values far from the others, scale in float64, take a smaller learning "
        "rate, or more precision (bf16-mixed in place of 16-mixed)"
    )
