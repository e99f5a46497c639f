"""The laws of the mask, measured one by one on a field.

Notation. The error of an event is the largest absolute difference, over its coordinates, between
two velocities that ought to be equal; infinite where one is not finite. Each function returns its
mean and its largest value over the events that have real objects.

- content: what stands in a padded slot cannot matter (`padding_leakage`, for the bare field);
- length: more padding cannot matter (`length_error`);
- order: permuting the objects permutes the velocity (`permutation_error`);
- company: what else is in the batch cannot matter (`company_error`).

`broken_laws` gives the verdict on these and on agreement, emptiness and sameness in training and
use, gradients included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from setflow.diagnostics.events import (
    bare_velocity_of,
    context_slots,
    filled,
    largest_of,
    left_as_it_was,
    occupied_events,
    padded_to,
    real_objects,
    shuffled,
    singly,
    summary_of,
    velocity_of,
)
from setflow.sets.context import Context
from setflow.sets.masks import zero_padding

__all__ = ["company_error", "length_error", "padding_leakage", "permutation_error"]


def padding_leakage(
    field: nn.Module,
    x: Tensor,
    mask: Tensor | None,
    t: Tensor | float,
    c: Context | None = None,
    *,
    fillings: Sequence[float] = (1e30, math.inf, math.nan),
) -> dict[str, Tensor]:
    """Return how much the velocity of real objects changes with what stands in padded slots.

    This is the law of content for the *bare* field, called without the guard of the verbs, which
    zero the padding before the field and after it: a field that leaks is safe in the verbs, and not
    elsewhere. The error of an event is the largest absolute change, over its real coordinates and
    the fillings, from the velocity with zeros in the padding; infinite if it is not finite.

    Arguments:
        field: the velocity field, given `mask=` only if it declares `takes_mask = True`.
        x: the states, with shape `(*lead, N, ...)`.
        mask: which slots are real, with shape `(*lead, N)`; some must be padded.
        t: the time, a number or a tensor with shape `lead`.
        c: the context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object, whose
            padded rows are filled too; or a `SetBatch` for another set per event, whose padding is
            filled too.
        fillings: what to fill the padding with, in turn. A finite number shows the size of a leak.

    Returns:
        `mean` and `max` of the errors, and `padded`, the largest absolute velocity that came out of
        a padded slot, each a scalar.

    Raises:
        ValueError: if shapes do not fit, no slot is padded, or no event has a real object.

    >>> mask = torch.tensor([[True, True, False], [True, False, False]])
    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2), coupling=2.0)
    >>> padding_leakage(field, torch.randn(2, 3, 2), mask, 0.5)
    {'mean': tensor(0.), 'max': tensor(0.), 'padded': tensor(0.)}
    """
    events = occupied_events(field, x, t, c, mask, sets_only=True)
    real = real_objects(events)
    if bool(real.all()):
        raise ValueError(
            "every slot of x is real, expected some padding: there is nothing to fill; pad the "
            "events, or see length_error"
        )
    if not fillings:
        raise ValueError("fillings is empty, expected at least one number to fill the padding with")

    with left_as_it_was(field), torch.no_grad():
        quiet, *others = (bare_velocity_of(field, filled(events, v)) for v in (0.0, *fillings))
        leaks = [largest_of(zero_padding(v - quiet, real), events) for v in others]
        padded = [largest_of(zero_padding(v, ~real), events) for v in (quiet, *others)]
    errors = torch.stack(leaks).amax(0)
    return summary_of(errors, events, "mean", "max") | {"padded": torch.stack(padded).max()}


def length_error(
    field: nn.Module,
    x: Tensor,
    mask: Tensor | None,
    t: Tensor | float,
    c: Context | None = None,
) -> dict[str, Tensor]:
    """Return how much the velocity changes when every event is padded to twice as many slots.

    This is the law of length, for the field as the verbs call it. A context set is padded to twice
    as many slots, too. The error of an event is the
    largest absolute change over its coordinates; infinite if it is not finite.

    Arguments:
        field: the velocity field, with `event_ndim` of at least 2.
        x: the states, with shape `(*lead, N, ...)`; padded slots may hold anything.
        mask: which slots are real, with shape `(*lead, N)`; None means all.
        t: the time, a number or a tensor with shape `lead`.
        c: the context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object; or a
            `SetBatch` for another set per event.

    Returns:
        `mean` and `max` of the errors, each a scalar.

    Raises:
        ValueError: if shapes do not fit, or no event has a real object.

    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2), coupling=2.0)
    >>> bool(length_error(field, torch.randn(8, 5, 2), None, 0.5)["max"] < 1e-5)
    True
    """
    events = occupied_events(field, x, t, c, mask, sets_only=True)
    with left_as_it_was(field), torch.no_grad():
        longer = velocity_of(field, padded_to(events, 2 * events.slots, 2 * context_slots(events)))
        change = longer.narrow(len(events.lead), 0, events.slots) - velocity_of(field, events)
    return summary_of(largest_of(change, events), events, "mean", "max")


def permutation_error(
    field: nn.Module,
    x: Tensor,
    mask: Tensor | None,
    t: Tensor | float,
    c: Context | None = None,
    *,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Return how far the velocity of permuted objects is from the permuted velocity.

    This is the law of order, for the field as the verbs call it: v(P x) = P v(x), where the slots
    are permuted together with the mask and the rows of a context per object, and the slots of a
    context set by themselves. One random permutation is drawn for all events, never the identity.
    The error of an event is the largest absolute
    difference over its coordinates; infinite if it is not finite.

    Arguments:
        field: the velocity field, with `event_ndim` of at least 2.
        x: the states, with shape `(*lead, N, ...)`, N at least 2; padded slots may hold anything.
        mask: which slots are real, with shape `(*lead, N)`; None means all.
        t: the time, a number or a tensor with shape `lead`.
        c: the context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object; or a
            `SetBatch` for another set per event.
        generator: the random generator for the permutation.

    Returns:
        `mean` and `max` of the errors, each a scalar.

    Raises:
        ValueError: if shapes do not fit, there is one slot only, or no event has a real object.

    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2), coupling=2.0)
    >>> bool(permutation_error(field, torch.randn(8, 5, 2), None, 0.5)["max"] < 1e-5)
    True
    """
    events = occupied_events(field, x, t, c, mask, sets_only=True)
    if events.slots < 2:
        raise ValueError(
            f"x has shape {tuple(x.shape)} with one slot per event, expected at least two: one "
            "object has no order"
        )
    permuted_events, order = shuffled(events, generator)
    with left_as_it_was(field), torch.no_grad():
        permuted = velocity_of(field, permuted_events)
        expected = velocity_of(field, events).index_select(len(events.lead), order)
        difference = permuted - expected
    return summary_of(largest_of(difference, events), events, "mean", "max")


def company_error(
    field: nn.Module,
    x: Tensor,
    mask: Tensor | None,
    t: Tensor | float,
    c: Context | None = None,
) -> dict[str, Tensor]:
    """Return how far the velocity of an event in its batch is from that of the event alone.

    This is the law of company, for the field as the verbs call it; the field is called once per
    event. The error of an event is the largest absolute difference over its coordinates; infinite
    if it is not finite.

    Arguments:
        field: the velocity field.
        x: the states, with shape `(*lead, *event_shape)`, at least two events; padded slots may
            hold anything.
        mask: which slots are real, with shape `(*lead, N)`; None means all, and serves events of
            any shape.
        t: the time, a number or a tensor with shape `lead`.
        c: the context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object; or a
            `SetBatch` for another set per event.

    Returns:
        `mean` and `max` of the errors, each a scalar.

    Raises:
        ValueError: if shapes do not fit, there is one event only, or no event has a real object.

    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2), coupling=2.0)
    >>> bool(company_error(field, torch.randn(8, 5, 2), None, 0.5)["max"] < 1e-5)
    True
    """
    events = occupied_events(field, x, t, c, mask)
    if math.prod(events.lead) < 2:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, one event; expected at least two: one event has no "
            "company"
        )
    with left_as_it_was(field), torch.no_grad():
        alone = [velocity_of(field, event) for event in singly(events)]
        difference = torch.stack(alone).reshape(x.shape) - velocity_of(field, events)
    return summary_of(largest_of(difference, events), events, "mean", "max")
