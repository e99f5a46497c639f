"""What all diagnostics share: checked events, what may be done to them, and how a field is called.

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
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from setflow.sets.batch import SetBatch
from setflow.sets.events import Context, call_field
from setflow.sets.masks import as_mask, over_features, zero_padding
from setflow.sets.protocols import declares, event_ndim_of
from setflow.sets.shapes import event_numel, expand_context, expand_time, split_event

__all__ = [
    "Events",
    "bare_velocity_of",
    "checked_events",
    "joined",
    "largest_of",
    "left_as_it_was",
    "norms_of",
    "refuse_coarse_dtypes",
    "summary_of",
    "velocity_of",
]


@dataclass(frozen=True)
class Events:
    """Checked events.

    Arguments:
        x: the states, with shape `(*lead, *event_shape)`.
        t: the times, with shape `lead`.
        c: the context, with shape `(*lead, C)` or `(*lead, N, C)`, a `SetBatch`, or None.
        mask: boolean mask with shape `(*lead, N)`, or None for all real.
        event_ndim: the number of event dimensions.
    """

    x: Tensor
    t: Tensor
    c: Context | None
    mask: Tensor | None
    event_ndim: int

    @property
    def lead_ndim(self) -> int:
        """The number of lead dimensions."""
        return self.t.ndim

    @property
    def slots(self) -> int:
        """The number of slots of a set."""
        return self.x.shape[self.lead_ndim]

    @property
    def context_slots(self) -> int:
        """The number of slots of a context set; 0 without one."""
        return self.c.mask.shape[-1] if isinstance(self.c, SetBatch) else 0

    @property
    def real(self) -> Tensor:
        """The mask of sets, all real if they have none."""
        if self.mask is not None:
            return self.mask
        shape = self.x.shape[: self.lead_ndim + 1]
        return torch.ones(shape, dtype=torch.bool, device=self.x.device)

    @property
    def occupied(self) -> Tensor:
        """Which events have a real coordinate, with shape `lead`."""
        if self.mask is not None:
            return self.mask.any(-1)
        _, event = split_event(self.x, self.event_ndim)
        return torch.full_like(self.t, event_numel(event) > 0, dtype=torch.bool)

    def per_event(self, change: Callable[[Tensor], Tensor]) -> Events:
        """Change every tensor."""
        c = self.c
        if isinstance(c, SetBatch):
            c = SetBatch(change(c.x), change(c.mask), None if c.c is None else change(c.c))
        elif c is not None:
            c = change(c)
        mask = None if self.mask is None else change(self.mask)
        return replace(self, x=change(self.x), t=change(self.t), c=c, mask=mask)

    def per_slot(self, change: Callable[[Tensor], Tensor]) -> Events:
        """Change every tensor of sets that has their object dimension."""
        c = self.c
        if isinstance(c, Tensor) and c.ndim == self.lead_ndim + 2:
            c = change(c)
        mask = None if self.mask is None else change(self.mask)
        return replace(self, x=change(self.x), c=c, mask=mask)

    def per_context_slot(self, change: Callable[[Tensor], Tensor]) -> Events:
        """Change every tensor of a context set that has its object dimension."""
        if not isinstance(self.c, SetBatch):
            return self
        return replace(self, c=SetBatch(change(self.c.x), change(self.c.mask), self.c.c))

    def flat(self) -> Events:
        """Return the events with one lead dimension."""
        lead = self.lead_ndim
        return self.per_event(lambda old: old.reshape(-1, *old.shape[lead:]))

    def singly(self) -> Iterator[Events]:
        """Yield the events one by one, each with a lead shape of ones."""
        lead = self.lead_ndim

        def pick(index: tuple[int, ...], old: Tensor) -> Tensor:
            return old[index].reshape((1,) * lead + old.shape[lead:])

        for index in itertools.product(*(range(size) for size in self.t.shape)):
            yield self.per_event(functools.partial(pick, index))

    def compacted(self) -> Events:
        """Return a single set, of lead shape (1,), without its padding.

        A context set without objects keeps one slot.
        """
        real = self.real[0]
        events = replace(self, mask=self.real).per_slot(lambda old: old[:, real])
        if not isinstance(self.c, SetBatch):
            return events
        kept = self.c.mask[0]
        if not bool(kept.any()):
            kept = torch.arange(len(kept), device=kept.device) < 1
        return events.per_context_slot(lambda old: old[:, kept])

    def filled(self, value: float) -> Events:
        """Fill the padding of states, of a context per object and of a context set."""

        def fill(real: Tensor, old: Tensor) -> Tensor:
            if old.dtype == torch.bool:
                return old
            return torch.where(over_features(real, old.ndim), old, old.new_tensor(value))

        events = self.per_slot(functools.partial(fill, self.real))
        if not isinstance(self.c, SetBatch):
            return events
        return events.per_context_slot(functools.partial(fill, self.c.mask))

    def padded_to(self, slots: int, context_slots: int) -> Events:
        """Append padded slots, with NaN in them, to the sets and to a context set."""
        dim = self.lead_ndim

        def append(extra: int, old: Tensor) -> Tensor:
            shape = (*old.shape[:dim], extra, *old.shape[dim + 1 :])
            new = old.new_full(shape, False if old.dtype == torch.bool else math.nan)
            return torch.cat([old, new], dim)

        longer = replace(self, mask=self.real).per_slot(
            functools.partial(append, slots - self.slots)
        )
        return longer.per_context_slot(
            functools.partial(append, context_slots - self.context_slots)
        )

    def repeated(self, times: int) -> Events:
        """Return the events `times` times, in a dimension in front."""
        return self.per_event(lambda old: old.expand(times, *old.shape))

    def moved_by(self, steps: Tensor) -> Events:
        """Add steps to the states."""
        return replace(self, x=self.x + steps)

    def shuffled(self, generator: torch.Generator | None) -> tuple[Events, Tensor]:
        """Permute the slots, and those of a context set by themselves; return the former's order.

        One order is drawn for all events, never the identity if there are two slots.
        """
        order = _draw_permutation(self.slots, self.x, generator)
        events = self.per_slot(lambda old: old.index_select(self.lead_ndim, order))
        if isinstance(self.c, SetBatch):
            other = _draw_permutation(self.context_slots, self.x, generator)
            events = events.per_context_slot(lambda old: old.index_select(self.lead_ndim, other))
        return events, order


def joined(events: Sequence[Events]) -> Events:
    """Return sets with equal numbers of slots as one batch, along the first lead dimension."""
    return replace(
        events[0],
        x=torch.cat([e.x for e in events]),
        t=torch.cat([e.t for e in events]),
        c=_joined_contexts([e.c for e in events]),
        mask=torch.cat([e.real for e in events]),
    )


def _joined_contexts(contexts: Sequence[Context | None]) -> Context | None:
    """Return contexts of one kind as one."""
    sets = [c for c in contexts if isinstance(c, SetBatch)]
    if sets:
        own = [c.c for c in sets if c.c is not None]
        return SetBatch(
            torch.cat([c.x for c in sets]),
            torch.cat([c.mask for c in sets]),
            torch.cat(own) if own else None,
        )
    rows = [c for c in contexts if isinstance(c, Tensor)]
    return torch.cat(rows) if rows else None


def checked_events(
    field: nn.Module,
    x: Tensor,
    t: Tensor | float,
    c: Context | None,
    mask: Tensor | None,
    *,
    sets_only: bool = False,
) -> Events:
    """Check what a diagnostic is given against a field; padded states come back as zeros.

    Raises:
        ValueError: if a shape or dtype does not fit, or no event has a real object.
    """
    event_ndim = event_ndim_of(field, at_least=2 if sets_only or mask is not None else 0)
    lead, event = split_event(x, event_ndim)
    if not x.is_floating_point():
        raise ValueError(f"x has dtype {x.dtype}, expected a floating dtype; convert it first")
    if mask is not None:
        mask = as_mask(mask, (*lead, event[0])).to(x.device)
    time = expand_time(t, lead, like=x)
    if not isinstance(c, SetBatch):
        c = expand_context(c, lead, len(lead), event)
    elif tuple(c.mask.shape[:-1]) != lead:
        raise ValueError(
            f"the context set has a mask of shape {tuple(c.mask.shape)}, expected "
            f"{(*lead, 'M')}: one set per event of x"
        )
    events = Events(zero_padding(x, mask), time, c, mask, event_ndim)
    if not bool(events.occupied.any()):
        raise ValueError(
            f"no event of x, which has shape {tuple(x.shape)}, has a real object; expected at "
            "least one: there is nothing to measure"
        )
    return events


def _draw_permutation(slots: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw a permutation, not the identity if there is another, on the device of `like`."""
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
    """Call a field as the verbs do."""
    return call_field(field, events.x, events.t, events.c, events.mask)


def bare_velocity_of(field: nn.Module, events: Events) -> Tensor:
    """Call a field without the guard of the verbs.

    Raises:
        ValueError: if it returns another shape than that of the states.
    """
    masked = {"mask": events.mask} if declares(field, "takes_mask") else {}
    v: Tensor = field(events.x, events.t, events.c, **masked)
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
    values = values[events.occupied]
    statistics: dict[str, Callable[[], Tensor]] = {
        "mean": values.mean,
        "std": lambda: values.std(correction=0),
        "min": values.min,
        "max": values.max,
    }
    return {name: statistics[name]() for name in names}
