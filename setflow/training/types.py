"""Types of objects in the files of a training: what the training lacks is told before it begins."""

from __future__ import annotations

import torch
from torch import Tensor

from setflow.data.object_types import TypeEncoder
from setflow.data.typed_scaling import TypedStandardizer
from setflow.model.model import SetFlow
from setflow.sets.batch import SetBatch
from setflow.training.sources import EventFiles

__all__ = ["NOWHERE", "first_of_each", "require_known_types"]

NOWHERE = 2**62
"""The row of a type that no event has."""


def first_of_each(types: TypeEncoder, events: SetBatch, rows: Tensor) -> Tensor:
    """Return the first row whose event has an object of each type, int64 with shape `(K,)`.

    Arguments:
        types: the types.
        events: the events, with `x` of shape `(n, N, F)`.
        rows: the row of each, int64 with shape `(n,)`.
    """
    there = types.counts_of(events.x, events.mask) > 0
    rows = torch.where(there, rows[:, None], NOWHERE)
    return torch.cat([rows, torch.full((1, len(types.types)), NOWHERE)]).amin(0)


def require_known_types(
    flow: SetFlow, train: tuple[EventFiles, Tensor], val: tuple[EventFiles, Tensor]
) -> None:
    """Refuse events with objects of types that a model does not know, or does not get to know.

    Arguments:
        flow: the model; one whose statistics are fitted knows the types of these.
        train: the files that are trained on, and the first row with each type, `(K,)`.
        val: those that are validated on, likewise.

    Raises:
        ValueError: if there is such an event; it names file, event and type.
    """
    assert isinstance(flow.scaler, TypedStandardizer)
    types = flow.scaler.types
    known = set((train[1] < NOWHERE).nonzero()[:, 0].tolist())
    whose = "the events that are trained on have"
    if flow.scaler.is_fitted:
        known, whose = set(flow.scaler.occurring), "the training of the model had"
    told = ", ".join(name for k, name in enumerate(types.names) if k in known) or "none"
    for what, (files, first) in (("trained", train), ("validated", val)):
        for k, row in enumerate(first.tolist()):
            if row < NOWHERE and k not in known:
                raise ValueError(
                    f"{files.where(row)}, which is {what} on, has an object of type "
                    f"'{types.names[k]}', and {whose} {told}; leave such events out, or train with "
                    "some"
                )
