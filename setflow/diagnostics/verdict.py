"""The verdict: which laws of the mask a field breaks in use.

Notation. The laws, by name:

- content: what stands in a padded slot cannot matter;
- length: more padding cannot matter;
- order: permuting the objects together with the mask permutes the velocity;
- agreement: an all-real mask gives what no mask gives;
- emptiness: an event without objects gives 0, never NaN, also in gradients;
- same law: a field is in use what it was in training (the verbs do their part of this law, the same
  masking around every call, for any field; this is the field's part);
- company: what else is in the batch cannot matter.

Content, length and order hold for the objects of a context set, too, by its own mask.

Each is judged on what a field gives for a batch of events (an *outcome*): the velocity and the
gradients of its summed squares with respect to states and parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from setflow.diagnostics.events import (
    compacted,
    context_slots,
    joined,
    left_as_it_was,
    occupied,
    occupied_events,
    padded_to,
    real_objects,
    refuse_coarse_dtypes,
    shuffled,
    singly,
    velocity_of,
)
from setflow.sets.arrays import as_tensor
from setflow.sets.context import Context
from setflow.sets.events import Events
from setflow.sets.protocols import event_ndim_of
from setflow.sets.shapes import event_numel, split_event

__all__ = ["BrokenLaw", "broken_laws"]

_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
_ROUNDING = 10  # how many times its own response to rounding a field may err
_COARSEST = 1e-2  # the largest tolerance at which a verdict means anything

_ADVICE = {
    "content": "the field or its derivative is not finite at the zeros that the verbs put into "
    "padding; guard divisions, roots and logarithms there, or take the mask and select",
    "length": "padded slots take part in a sum, a mean or an attention; declare takes_mask = True "
    "and leave them out by the mask that is then given as mask=, those of a context set by its own",
    "order": "an object's velocity depends on the slot in which it stands; use no positions, no "
    "sequence layers and no sum(mask) first slots, but sums, means or attention over objects",
    "agreement": "without a mask the field does something else than with an all-real one; let "
    "mask=None stand for torch.ones(x.shape[:-1], dtype=torch.bool)",
    "emptiness": "an event without objects makes velocity or gradients NaN for all of the batch; "
    "divide by the number of objects with clamp(min=1), and let no row of an attention be empty",
    "same law": "in training mode the velocity is not that of field.eval(), so that what is used "
    "was never trained; replace batch norm by layer norm, and let nothing but dropout (not "
    "judged) depend on self.training",
    "company": "an event's velocity depends on the others in its batch; replace batch norm by "
    "layer norm, take no mean over events, and let t and c meet the objects as t[..., None, None] "
    "and c[..., None, :], for with as many events as features x * t raises nothing",
}


@dataclass(frozen=True)
class BrokenLaw:
    """A law of the mask that a field breaks.

    Arguments:
        name: the law: `content`, `length`, `order`, `agreement`, `emptiness`, `same law` or
            `company`.
        error: by how much, relative to the larger of 1 and the largest value that should be met;
            infinite if something is not finite.
        advice: what is commonly wrong, and what to do.

    >>> print(BrokenLaw("order", 0.25, "use no positions"))
    order (by 0.25): use no positions
    """

    name: str
    error: float
    advice: str

    def __str__(self) -> str:
        return f"{self.name} (by {self.error:.2g}): {self.advice}"


def broken_laws(
    field: nn.Module,
    x: Tensor,
    mask: Tensor | None,
    t: Tensor | float | None = None,
    c: Context | None = None,
    *,
    generator: torch.Generator | None = None,
) -> list[BrokenLaw]:
    """Return the laws of the mask that a field breaks in use; an empty list if it breaks none.

    The field is called as the verbs call it, on the real objects of the events given: alone and
    together, with padding (NaN) behind them and without, in another order, beside an event without
    objects, with an all-real mask and with none, in training mode and in evaluation mode (unless it
    draws noise there). Velocities are compared, and the gradients of their summed squares with
    respect to states and parameters: a field that is NaN in an empty event, say, is zeroed there,
    but spoils the gradient of the whole batch.

    Errors are relative to the larger of 1 and the largest value of the event. The tolerance is
    1e-10 in float64 and 1e-5 in float32, or ten times what the field makes of its states when these
    are rounded differently, whichever is larger: a deep field amplifies rounding, and is better
    judged in float64.

    What the bare field does with padding, without the guard of the verbs, is another question, for
    `padding_leakage`; whether it jumps in x, which no law of the mask forbids, one for
    `continuity_error`.

    Arguments:
        field: the velocity field, with `event_ndim` of at least 2; draw its parameters anew if its
            gates start at zero, since a field that is zero breaks nothing.
        x: the states, with shape `(*lead, N, ...)`; a few tens of events do, of different sizes.
        mask: which slots are real, with shape `(*lead, N)`; None means all.
        t: the time, a number or a tensor with shape `lead`; None spreads them over (0, 1).
        c: the context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object; or a
            `SetBatch` for another set per event.
        generator: the random generator for the permutation.

    Returns:
        One `BrokenLaw`, with name, error and advice, for each law that is broken, in the order
        content, length, order, agreement, emptiness, same law, company.

    Raises:
        ValueError: if shapes do not fit, fewer than two events have real objects, the dtype is
            neither float32 nor float64, or no law can be judged, since the field is not finite on
            the objects alone, gives another velocity when it is asked again, or drowns in rounding.

    >>> field = setflow.TransformerField(3, hidden=16, layers=1, heads=2)
    >>> broken_laws(field, torch.randn(8, 5, 3), torch.rand(8, 5) > 0.3)
    []
    """
    x = as_tensor(x, "x")
    if t is None:
        lead, _ = split_event(x, event_ndim_of(field, at_least=2))
        number = event_numel(lead)
        t = ((torch.arange(number, device=x.device) + 0.5) / max(1, number)).reshape(lead)
    events = occupied_events(field, x, t, c, mask, sets_only=True).flat()
    refuse_coarse_dtypes(events.x)
    with left_as_it_was(field):
        singles = [compacted(event) for event in singly(events) if bool(occupied(event).all())]
        tolerance = _tolerance(field, singles)
        errors = _law_errors(field, singles, generator)
    return [
        BrokenLaw(name, errors[name], advice)
        for name, advice in _ADVICE.items()
        if errors[name] > tolerance
    ]


def _tolerance(field: nn.Module, singles: list[Events]) -> float:
    """Return the tolerance for a field on events without padding.

    Raises:
        ValueError: if no law can be judged.
    """
    if len(singles) < 2:
        raise ValueError(
            f"x holds {len(singles)} event with real objects, expected at least two: the law of "
            "company cannot be judged by one"
        )
    name, tolerance = type(field).__name__, _TOLERANCES[singles[0].x.dtype]
    for event in singles:
        outcome = _outcome(field, event)
        if not outcome.is_finite():
            assert event.t is not None
            raise ValueError(
                f"{name} is not finite, in its velocity or its gradients, at an event of "
                f"{event.slots} real objects and t={event.t.item():.3g}, without any padding: no "
                "law can be judged; give other events, or mend the field first"
            )
        noise = _outcome(field, event).distance(outcome)
        if noise > _TOLERANCES[event.x.dtype]:
            raise ValueError(
                f"{name} gives another velocity or gradient (by {noise:.2g}) when it is asked "
                "again: no law can be judged; switch dropout and noise off, as field.eval() does"
            )
        ulps = torch.finfo(event.x.dtype).eps * (1 - 2 * (torch.arange(event.x.numel()) % 2))
        rounded = event.x * (1 + ulps.to(event.x).reshape(event.x.shape))
        response = _outcome(field, replace(event, x=rounded)).distance(outcome)
        tolerance = max(tolerance, _ROUNDING * response)
    if tolerance > _COARSEST:
        raise ValueError(
            f"{name} turns the rounding of its states into a difference of "
            f"{tolerance / _ROUNDING:.2g}: no law can be judged; convert x and field to float64, "
            "or draw smaller parameters"
        )
    return tolerance


def _law_errors(
    field: nn.Module, singles: list[Events], generator: torch.Generator | None
) -> dict[str, float]:
    """Return the error of each law, from events without padding."""
    longest = max(singles, key=lambda event: event.slots)
    slots = 2 * longest.slots + 1
    slots_of_context = 2 * max(context_slots(event) for event in singles) + 1
    padded = [padded_to(event, slots, slots_of_context) for event in singles]
    batch = joined(padded)
    permuted, order = shuffled(batch, generator)

    expected = [_outcome(field, event) for event in singles]
    together = _outcome(field, batch)
    empty = replace(longest, mask=torch.zeros_like(real_objects(longest)))
    beside_empty = [_outcome(field, joined([longest, empty])), _outcome(field, empty)]
    unmasked = [_outcome(field, replace(event, mask=None)) for event in singles]
    alone = [_outcome(field, event) for event in padded]
    reordered = _outcome(field, permuted)

    def worst(got: list[_Outcome], wanted: list[_Outcome]) -> float:
        return max(mine.distance(theirs) for mine, theirs in zip(got, wanted, strict=True))

    def unless_finite(outcomes: list[_Outcome]) -> float:
        return 0.0 if all(outcome.is_finite() for outcome in outcomes) else math.inf

    cut = [o.slots(event.slots) for o, event in zip(alone, singles, strict=True)]
    mates = [together.event(k) for k in range(len(singles))]
    return {
        "content": unless_finite(alone),
        "length": worst(expected, cut),
        "order": reordered.distance(together.reordered(order)),
        "agreement": worst(unmasked, expected),
        "emptiness": unless_finite(beside_empty),
        "same law": _distance_of_modes(field, batch, together),
        "company": worst(mates, [o.event(0) for o in alone]),
    }


def _distance_of_modes(field: nn.Module, batch: Events, outcome: _Outcome) -> float:
    """Return how far the outcome is from that in the other mode; 0 if that one draws noise."""
    modes = [(part, part.training) for part in field.modules()]
    devices = [batch.x.device] if batch.x.is_cuda else []
    with left_as_it_was(field), torch.random.fork_rng(devices):
        field.train(not field.training)
        try:
            other, again = _outcome(field, batch), _outcome(field, batch)
        finally:
            for part, training in modes:
                part.training = training
    is_random = again.distance(other) > _TOLERANCES[batch.x.dtype]
    return 0.0 if is_random else other.distance(outcome)


@dataclass(frozen=True)
class _Outcome:
    """What a field gives for a batch of events.

    Arguments:
        per_slot: the velocity and the gradient of its summed squares with respect to the states,
            each with shape `(B, N, ...)`.
        of_parameters: the gradients with respect to the parameters, of the whole batch.
    """

    per_slot: tuple[Tensor, ...]
    of_parameters: tuple[Tensor, ...]

    def is_finite(self) -> bool:
        return all(bool(value.isfinite().all()) for value in self.per_slot + self.of_parameters)

    def distance(self, expected: _Outcome) -> float:
        """Return the largest difference; see `_relative`."""
        pairs = [
            (got.flatten(1), wanted.flatten(1))
            for got, wanted in zip(self.per_slot, expected.per_slot, strict=True)
        ] + [
            (got.reshape(1, -1), wanted.reshape(1, -1))
            for got, wanted in zip(self.of_parameters, expected.of_parameters, strict=True)
        ]
        return max(_relative(got, wanted) for got, wanted in pairs)

    def event(self, k: int) -> _Outcome:
        """Return what belongs to one event alone."""
        return _Outcome(tuple(value[k : k + 1] for value in self.per_slot), ())

    def slots(self, count: int) -> _Outcome:
        """Cut all slots but the first `count`."""
        return replace(self, per_slot=tuple(v[:, :count] for v in self.per_slot))

    def reordered(self, order: Tensor) -> _Outcome:
        """Permute the slots."""
        return replace(self, per_slot=tuple(v.index_select(1, order) for v in self.per_slot))


def _outcome(field: nn.Module, events: Events) -> _Outcome:
    parameters = [p for p in field.parameters() if p.requires_grad]
    with torch.inference_mode(False), torch.enable_grad():
        events = events.changed(lambda value: value.detach().clone())  # autograd may save it
        x = events.x.requires_grad_()
        v = velocity_of(field, events)
        squares = (v**2).sum() + 0 * x.sum()  # differentiable, also where v is a constant
        gradients = torch.autograd.grad(
            squares, [x, *parameters], allow_unused=True, materialize_grads=True
        )
    return _Outcome((v.detach(), gradients[0]), gradients[1:])


def _relative(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two tensors (rows, values), each row on its own scale.

    A row's scale is its largest expected value, at least 1. Where the expected value is not finite,
    another law is broken, and nothing is compared; where only the other is not, the difference is
    infinite.
    """
    if not expected.numel():
        return 0.0
    known = expected.isfinite()
    scale = torch.where(known, expected, 0.0).abs().amax(-1, keepdim=True).clamp(min=1)
    error = torch.where(got.isfinite(), (got - expected).abs() / scale, math.inf)
    return torch.where(known, error, 0.0).max().item()
