"""What all diagnostics share: events, what may be done to them, and how a field is called.

Notation. Events have a lead shape and, behind it, `event_ndim` dimensions; sets have the object
dimension first among these, with N slots; a context set has slots of its own. The velocity is that
of `call_field`, as the verbs see it: padded input is zeroed before the field and padded velocity
after it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from setflow.sets.arrays import check_generator
from setflow.sets.context import AnotherSet, Context
from setflow.sets.events import Events, call_field
from setflow.sets.masks import over_features
from setflow.sets.protocols import declares, event_ndim_of
from setflow.sets.shapes import event_numel, split_event

__all__ = [
    "bare_velocity_of",
    "compacted",
    "context_slots",
    "filled",
    "given_context",
    "joined",
    "largest_of",
    "left_as_it_was",
    "norms_of",
    "occupied",
    "occupied_events",
    "padded_to",
    "real_objects",
    "refuse_coarse_dtypes",
    "repeated",
    "shuffled",
    "singly",
    "summary_of",
    "velocity_of",
]


def _same(value: Tensor) -> Tensor:
    return value


def real_objects(events: Events) -> Tensor:
    """Return the mask of sets, all real if they have none."""
    if events.mask is not None:
        return events.mask
    shape = events.x.shape[: len(events.lead) + 1]
    return torch.ones(shape, dtype=torch.bool, device=events.x.device)


def occupied(events: Events) -> Tensor:
    """Return which events have a real coordinate, with shape `lead`."""
    if events.mask is not None:
        return events.mask.any(-1)
    some = events.x.shape[len(events.lead) :].numel() > 0
    return torch.full(events.lead, some, dtype=torch.bool, device=events.x.device)


def context_slots(events: Events) -> int:
    """Return the number of slots of a context set; 0 without one."""
    return events.context.mask.shape[-1] if isinstance(events.context, AnotherSet) else 0


def per_slot(events: Events, change: Callable[[Tensor], Tensor]) -> Events:
    """Change every tensor of sets that has their object dimension."""
    return events.changed(_same, change)


def per_context_slot(events: Events, change: Callable[[Tensor], Tensor]) -> Events:
    """Change every tensor of a context set that has its object dimension."""
    own = events.context
    if not isinstance(own, AnotherSet):
        return events
    return replace(events, context=replace(own, x=change(own.x), mask=change(own.mask)))


def singly(events: Events) -> Iterator[Events]:
    """Yield events one by one, each with a lead shape of ones."""
    lead = events.lead

    def pick(index: tuple[int, ...], old: Tensor) -> Tensor:
        return old[index].reshape((1,) * len(lead) + old.shape[len(lead) :])

    for index in itertools.product(*(range(size) for size in lead)):
        yield events.changed(functools.partial(pick, index))


def compacted(events: Events) -> Events:
    """Return a single set, of lead shape (1,), without its padding.

    A context set without objects keeps one slot.
    """
    mask = real_objects(events)
    short = per_slot(replace(events, mask=mask), lambda old: old[:, mask[0]])
    if not isinstance(events.context, AnotherSet):
        return short
    kept = events.context.mask[0]
    if not bool(kept.any()):
        kept = torch.arange(len(kept), device=kept.device) < 1
    return per_context_slot(short, lambda old: old[:, kept])


def filled(events: Events, value: float) -> Events:
    """Fill the padding of states, of a context per object and of a context set."""

    def fill(real: Tensor, old: Tensor) -> Tensor:
        if old.dtype == torch.bool:
            return old
        return torch.where(over_features(real, old.ndim), old, old.new_tensor(value))

    full = per_slot(events, functools.partial(fill, real_objects(events)))
    if not isinstance(events.context, AnotherSet):
        return full
    return per_context_slot(full, functools.partial(fill, events.context.mask))


def padded_to(events: Events, slots: int, slots_of_context: int) -> Events:
    """Append padded slots, with NaN in them, to sets and to a context set."""
    dim = len(events.lead)

    def append(extra: int, old: Tensor) -> Tensor:
        shape = (*old.shape[:dim], extra, *old.shape[dim + 1 :])
        new = old.new_full(shape, False if old.dtype == torch.bool else math.nan)
        return torch.cat([old, new], dim)

    extra = slots - events.slots
    longer = per_slot(replace(events, mask=real_objects(events)), functools.partial(append, extra))
    extra = slots_of_context - context_slots(events)
    return per_context_slot(longer, functools.partial(append, extra))


def repeated(events: Events, times: int) -> Events:
    """Return events `times` times, in a dimension in front."""

    return events.changed(lambda old: old.expand(times, *old.shape))


def shuffled(events: Events, generator: torch.Generator | None) -> tuple[Events, Tensor]:
    """Permute the slots, and those of a context set by themselves; return the former's order.

    One order is drawn for all events, never the identity if there are two slots.
    """
    dim = len(events.lead)
    order = _draw_permutation(events.slots, events.x, generator)
    permuted = per_slot(events, lambda old: old.index_select(dim, order))
    if isinstance(events.context, AnotherSet):
        other = _draw_permutation(context_slots(events), events.x, generator)
        permuted = per_context_slot(permuted, lambda old: old.index_select(dim, other))
    return permuted, order


def joined(events: Sequence[Events]) -> Events:
    """Return sets with equal numbers of slots as one batch, along the first lead dimension."""
    first = events[0]
    contexts = [e.context for e in events if e.context is not None]
    context = None
    if contexts:
        values = [torch.cat(parts) for parts in zip(*(c.values for c in contexts), strict=True)]
        context = contexts[0]
        if isinstance(context, AnotherSet):
            masks = [c.mask for c in contexts if isinstance(c, AnotherSet)]
            context = replace(context, mask=torch.cat(masks))
        context = context.holding(*values)
    return replace(
        first,
        x=torch.cat([e.x for e in events]),
        t=torch.cat([e.t for e in events if e.t is not None]),
        context=context,
        mask=torch.cat([real_objects(e) for e in events]),
    )


def occupied_events(
    field: nn.Module,
    x: Tensor,
    t: Tensor | float,
    c: Context | None,
    mask: Tensor | None,
    *,
    sets_only: bool = False,
) -> Events:
    """Resolve what a diagnostic is given.

    Raises:
        ValueError: if a shape or dtype does not fit, or no event has a real object.
    """
    event_ndim_of(field, at_least=2 if sets_only else 0)
    events = Events.of(field, x, mask, t=t, c=c)
    if not bool(occupied(events).any()):
        raise ValueError(
            f"no event of x, which has shape {tuple(x.shape)}, has a real object; expected at "
            "least one: there is nothing to measure"
        )
    return events


def _draw_permutation(slots: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw a permutation, not the identity if there is another, on the device of `like`."""
    check_generator(generator)
    home = torch.device("cpu") if generator is None else generator.device
    order = torch.randperm(slots, generator=generator, device=home).to(like.device)
    still = torch.equal(order, torch.arange(slots, device=like.device))
    return order.roll(1) if still else order


def refuse_coarse_dtypes(x: Tensor) -> None:
    """Refuse states whose rounding would hide what is looked for.

    Raises:
        ValueError: if their dtype is neither float32 nor float64.
    """
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"x has dtype {x.dtype}, expected torch.float64 or torch.float32: coarser rounding "
            "would hide what is wrong; convert x and field"
        )


@contextmanager
def left_as_it_was(field: nn.Module) -> Iterator[None]:
    """Undo what calls do to the buffers of a field, such as the averages of a batch norm."""
    before = [(buffer, buffer.clone()) for buffer in field.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def velocity_of(field: nn.Module, events: Events) -> Tensor:
    """Call a field as the verbs do, whatever stands in the padding."""
    assert events.t is not None
    return call_field(field, events.x, events.t, given_context(events), events.mask)


def given_context(events: Events) -> Context | None:
    """Return the context as a caller gives it."""
    return None if events.context is None else events.context.given


def bare_velocity_of(field: nn.Module, events: Events) -> Tensor:
    """Call a field without the guard of the verbs.

    Raises:
        ValueError: if it returns another shape than that of the states.
    """
    masked = {"mask": events.mask} if declares(field, "takes_mask") else {}
    v: Tensor = field(events.x, events.t, given_context(events), **masked)
    if v.shape != events.x.shape:
        raise ValueError(
            f"{type(field).__name__} returned shape {tuple(v.shape)} for x of shape "
            f"{tuple(events.x.shape)}; a velocity has the shape of its state"
        )
    return v


def norms_of(v: Tensor, events: Events) -> Tensor:
    """Return the Euclidean norm of each event, with shape `lead`."""
    lead, event = split_event(v, events.event_ndim)
    norms: Tensor = torch.linalg.vector_norm(v.reshape(*lead, event_numel(event)), dim=-1)
    return norms


def largest_of(v: Tensor, events: Events) -> Tensor:
    """Return the largest absolute value of each event, with shape `lead`; NaN counts as Inf."""
    lead, event = split_event(v, events.event_ndim)
    size = torch.where(v.isfinite(), v.abs(), math.inf)
    return size.reshape(*lead, event_numel(event)).amax(-1)


def summary_of(values: Tensor, events: Events, *names: str) -> dict[str, Tensor]:
    """Return named statistics of one value per event, over the events that have real objects."""
    values = values[occupied(events)]
    statistics: dict[str, Callable[[], Tensor]] = {
        "mean": values.mean,
        "std": lambda: values.std(correction=0),
        "min": values.min,
        "max": values.max,
    }
    return {name: statistics[name]() for name in names}
