"""Which events to evaluate together: like lengths, so that nothing is computed for padding.

Notation. An evaluation of b events costs w(n) (o + b n) where n is the largest number of objects
among them, o an overhead in units of the cost of one object, and w(n) how often the evaluation is
repeated (once for a velocity, once per coordinate for an exact divergence). Events are sorted by
length and cut where the sum of the costs is least; the pieces need not cost alike. The order within
the result is told by indices, so that the caller's order is kept. By the laws of length, order and
company no result depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from setflow.sets.events import Events
from setflow.sets.masks import is_readable
from setflow.sets.protocols import declares

__all__ = [
    "Chunk",
    "Plan",
    "Traits",
    "cut_by_length",
    "plan_events",
    "plan_velocity",
    "traits_of",
]

_MOST_LENGTHS = 64  # distinct lengths that are told apart
# objects in one evaluation, and what an evaluation costs besides them, in objects
_CPU_OBJECTS, _CPU_OVERHEAD = 8192, 128
_GPU_OBJECTS, _GPU_OVERHEAD = 1 << 18, 4096  # not measured


def cut_by_length(
    lengths: Sequence[int],
    *,
    overhead: float,
    largest: Callable[[int], int],
    repeats: Callable[[int], int] = lambda longest: 1,
) -> list[list[int]]:
    """Return groups of indices into `lengths`, each index once, of least cost.

    Arguments:
        lengths: the number of objects of each event.
        overhead: what an evaluation costs besides its objects, in units of one object.
        largest: how many events may stand in a group whose longest event has so many objects, at
            least 1.
        repeats: how often a group whose longest event has so many objects is evaluated.

    >>> cut_by_length([9, 1, 9, 1], overhead=1, largest=lambda longest: 10)
    [[1, 3], [0, 2]]
    >>> cut_by_length([9, 1, 9, 1], overhead=100, largest=lambda longest: 10)
    [[1, 3, 0, 2]]
    """
    if not lengths:
        return []
    unit = -(-max(lengths) // _MOST_LENGTHS) or 1
    steps: dict[int, list[int]] = {}  # indices by length, rounded up to a multiple of the unit
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        steps.setdefault(-(-lengths[index] // unit), []).append(index)
    runs = list(steps.values())
    longest = [lengths[run[-1]] for run in runs]
    most = [max(1, largest(n)) for n in longest]
    # best[j]: the least cost of the runs before j, and where the last group of them starts
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(runs) + 1):
        n, events, choices = longest[end - 1], 0, []
        for start in range(end - 1, -1, -1):
            events += len(runs[start])
            parts = -(-events // most[end - 1])
            cost = repeats(n) * (parts * overhead + events * n)
            choices.append((best[start][0] + cost, start))
        best.append(min(choices))
    groups: list[list[int]] = []
    end = len(runs)
    while end:
        start = best[end][1]
        members = [index for run in runs[start:end] for index in run]
        parts = -(-len(members) // most[end - 1])
        size = -(-len(members) // parts)
        groups = [members[i : i + size] for i in range(0, len(members), size)] + groups
        end = start
    return groups


@dataclass(frozen=True)
class Chunk:
    """Events that are evaluated together, without the columns that none of them needs.

    Arguments:
        rows: which events of the flattened batch, with shape `(b,)`; None means all, in order.
        slots: the slots that their real objects come from, in front, with shape `(b, n)`; None
            keeps all slots in place.
        mask: which of the `n` are real, with shape `(b, n)`, or None for all.
    """

    rows: Tensor | None = None
    slots: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Plan:
    """Chunks of a flattened batch, and the way of their results back into the caller's order.

    Arguments:
        chunks: chunks that hold each event once.
        rows: where each event stands among those of all chunks, with shape `(B,)`; None if it is
            evaluated as it is.
        places: where each slot stands among those of all chunks, with shape `(B, N)`; behind the
            last for one that is left out. None if none is.
    """

    chunks: Sequence[Chunk]
    rows: Tensor | None = None
    places: Tensor | None = None

    def each(self, events: Events, evaluate: Callable[[Events], Tensor]) -> Tensor:
        """Return what becomes of the states of events, chunk by chunk.

        Arguments:
            events: those that were planned, at any state and time.
            evaluate: given the events of a chunk, returns a tensor of the shape of their states.
        """
        if self.rows is None:
            return evaluate(events)
        flat = events.flat()
        parts = [
            evaluate(flat.taken(chunk.rows, chunk.slots, chunk.mask))
            for chunk in self.chunks
            if chunk.rows is not None
        ]
        return self.objects(parts).reshape(events.x.shape)

    def events(self, parts: Sequence[Tensor]) -> Tensor:
        """Return rows that were computed chunk by chunk, with shape `(B, ...)`.

        Arguments:
            parts: for each chunk a tensor with one row per event of it.
        """
        if self.rows is None:
            return parts[0]
        return torch.cat(list(parts)).index_select(0, self.rows)

    def objects(self, parts: Sequence[Tensor]) -> Tensor:
        """Return values per object, with shape `(B, N, ...)`, zero in columns that were left out.

        Arguments:
            parts: for each chunk a tensor of the shape of its states.
        """
        if self.places is None:
            return self.events(parts)
        rows = [part.flatten(0, 1) for part in parts]
        rows.append(rows[0].new_zeros(1, *rows[0].shape[1:]))
        found = torch.cat(rows).index_select(0, self.places.flatten())
        return found.reshape(*self.places.shape, *found.shape[1:])


def plan_events(
    traits: Traits,
    events: Events,
    *,
    overhead: float,
    objects: int,
    repeats: Callable[[int], int] = lambda longest: 1,
) -> Plan:
    """Plan the evaluation of events with one lead dimension.

    Only a field that takes the mask, in all its parts, gets fewer columns: it obeys the laws of
    length and order. One that holds something of each event is not cut at all.

    Arguments:
        traits: what the field declares.
        events: the events; the values of their states are not read.
        overhead: as `cut_by_length` takes it.
        objects: how many objects may stand in one evaluation of more than one event.
        repeats: as `cut_by_length` takes it.
    """
    mask, count = events.mask, len(events.x)
    slots = events.x.shape[1] if events.event_ndim > 1 else 1
    whole = Plan([Chunk(None, None, mask)] if count else [])
    if not count or traits.holds_events or events.together:
        return whole
    real = mask if traits.takes_mask else None
    known = events.sizes is not None
    lengths = [slots] * count
    if real is not None:  # which an accelerator is waited for, unless they came along
        lengths = (events.lengths if events.sizes is None else events.sizes).tolist()
    groups = cut_by_length(
        lengths, overhead=overhead, largest=lambda n: objects // max(1, n), repeats=repeats
    )
    if len(groups) < 2:  # in the caller's order, whatever the padding: rounding stays the same
        groups = [list(range(count))]
        if max(lengths) == slots:
            gaps = real is not None and not known and (real[:, 1:] & ~real[:, :-1]).any()
            if not bool(gaps):
                return whole
    order = torch.tensor([row for group in groups for row in group], pin_memory=events.x.is_cuda)
    order = order.to(events.x.device, non_blocking=True)
    parts = torch.split(order, [len(group) for group in groups])
    if real is None:
        chunks = [Chunk(rows, None, None if mask is None else mask[rows]) for rows in parts]
        return Plan(chunks, order.argsort())
    # the real objects of each event in front, in as few columns as fit
    in_front = torch.arange(slots, device=order.device).expand(count, slots)
    if not known:
        in_front = real.logical_not().to(torch.uint8).sort(dim=-1, stable=True).indices
    chunks, taken = [], []
    for group, rows in zip(groups, parts, strict=True):
        columns = in_front[rows, : max(1, *(lengths[row] for row in group))]
        chunks.append(Chunk(rows, columns, real[rows].gather(1, columns)))
        taken.append((rows[:, None] * slots + columns).flatten())
    together = torch.cat(taken)
    places = together.new_full((count * slots,), len(together))
    places[together] = torch.arange(len(together), device=together.device)
    return Plan(chunks, order.argsort(), places.reshape(count, slots))


class Traits(NamedTuple):
    """What a field declares, in all its parts.

    Attributes:
        takes_mask: whether every field inside takes the mask, so that padding may be left out.
        holds_events: whether one holds something of each event, which keeps them together.
    """

    takes_mask: bool
    holds_events: bool


def traits_of(field: nn.Module) -> Traits:
    """Return what a field and the fields inside it declare."""
    parts = [part for part in field.modules() if getattr(part, "event_ndim", None) is not None]
    return Traits(
        all(declares(part, "takes_mask") for part in parts),
        any(declares(part, "holds_context") for part in field.modules()),
    )


def plan_velocity(field: nn.Module, events: Events) -> Plan:
    """Plan the evaluation of a field on events of these sizes, at any of their states and times.

    They are evaluated at once, as they are, if the field does not take the mask in all its parts,
    declares `holds_context`, or nothing is to be gained; and where the mask cannot be read, inside
    `torch.compile`, `vmap`, a tracer or the capture of a CUDA graph. Reading it costs one
    synchronisation of a GPU, unless the events know their sizes. A field that keeps something with
    a row for each event must declare it: events change their places.

    Arguments:
        field: the field.
        events: the events.

    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2), coupling=2.0)
    >>> x, mask = torch.randn(64, 300, 2), torch.arange(300) < torch.randint(301, (64, 1))
    >>> events = Events.of(field, x, mask, t=torch.rand(64))
    >>> plan = plan_velocity(field, events)
    >>> plan.each(events, lambda part: part.velocity(field)).shape
    torch.Size([64, 300, 2])
    """
    mask, whole = events.mask, Plan([Chunk(None, None, events.mask)])
    if mask is None or not mask.numel() or not is_readable(mask):
        return whole
    on_cpu = mask.device.type == "cpu"
    overhead = _CPU_OVERHEAD if on_cpu else _GPU_OVERHEAD
    if mask.numel() <= overhead:  # all padding together costs no more than one more evaluation
        return whole
    traits = traits_of(field)
    if not traits.takes_mask:
        return whole
    objects = _CPU_OBJECTS if on_cpu else _GPU_OBJECTS
    return plan_events(traits, events.flat(), overhead=overhead, objects=objects)
