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
from typing import Any

import torch
from torch import Tensor, nn

from setflow.sets.events import Events
from setflow.sets.masks import count_real
from setflow.sets.protocols import declares, part_that_declares

__all__ = [
    "Chunk",
    "Plan",
    "cut_by_length",
    "holds_events",
    "plan_events",
    "plan_of_velocity",
    "trimmable",
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


class Plan:
    """Chunks of a flattened batch, and the way of their results back into the caller's order.

    Arguments:
        chunks: chunks that hold each event once.
        slots: how many slots an event of the batch has.
    """

    def __init__(self, chunks: Sequence[Chunk], slots: int) -> None:
        self.chunks = chunks
        self._rows: Tensor | None = None  # where each event stands among those of all chunks
        self._places: Tensor | None = None  # the same of each slot, where columns are left out
        if not chunks or chunks[0].rows is None:
            return
        rows = [chunk.rows for chunk in chunks if chunk.rows is not None]
        self._rows = torch.cat(rows).argsort()
        taken = [
            (chunk.rows[:, None] * slots + chunk.slots).flatten()
            for chunk in chunks
            if chunk.rows is not None and chunk.slots is not None
        ]
        if not taken:
            return
        columns = torch.cat(taken)
        count = len(self._rows) * slots
        self._places = columns.new_full((count,), len(columns))  # behind the last stands a zero
        self._places[columns] = torch.arange(len(columns), device=columns.device)
        self._places = self._places.reshape(-1, slots)

    def velocity(self, field: nn.Module, events: Events) -> Tensor:
        """Return the velocity of events, chunk by chunk.

        Arguments:
            field: the field.
            events: those that were planned, at any state and time.
        """
        if self._rows is None:
            return events.velocity(field)
        flat = events.flat()
        parts = [flat.taken(c.rows, c.slots, c.mask).velocity(field) for c in self.chunks]
        return self.objects(parts).reshape(events.x.shape)

    @property
    def is_whole(self) -> bool:
        """Whether the batch is evaluated at once, as it is."""
        return len(self.chunks) < 2 and self._rows is None

    def events(self, parts: Sequence[Tensor]) -> Tensor:
        """Return rows that were computed chunk by chunk, with shape `(B, ...)`.

        Arguments:
            parts: for each chunk a tensor with one row per event of it.
        """
        if self._rows is None:
            return parts[0]
        return torch.cat(list(parts)).index_select(0, self._rows)

    def objects(self, parts: Sequence[Tensor]) -> Tensor:
        """Return values per object, with shape `(B, N, ...)`, zero in columns that were left out.

        Arguments:
            parts: for each chunk a tensor of the shape of its states.
        """
        if self._places is None:
            return self.events(parts)
        rows = [part.flatten(0, 1) for part in parts]
        rows.append(rows[0].new_zeros(1, *rows[0].shape[1:]))
        found = torch.cat(rows).index_select(0, self._places.flatten())
        return found.reshape(*self._places.shape, *found.shape[1:])


def plan_events(
    field: nn.Module,
    events: Events,
    *,
    overhead: float,
    largest: Callable[[int], int],
    repeats: Callable[[int], int] = lambda longest: 1,
) -> Plan:
    """Plan the evaluation of events with one lead dimension.

    Only a field that takes the mask, in all its parts, gets fewer columns: it obeys the laws of
    length and order. One that holds something of each event is not cut at all.

    Arguments:
        field: the field.
        events: the events; the values of their states are not read.
        overhead: as `cut_by_length` takes it.
        largest: as `cut_by_length` takes it.
        repeats: as `cut_by_length` takes it.
    """
    mask, slots, count = events.mask, events.slots, len(events.x)
    whole = Plan([Chunk(None, None, mask)] if count else [], slots)
    if not count or holds_events(field, events):
        return whole
    trims = mask is not None and trimmable(field)
    lengths = count_real(mask).tolist() if trims and mask is not None else [slots] * count
    groups = cut_by_length(lengths, overhead=overhead, largest=largest, repeats=repeats)
    if len(groups) < 2:  # in the caller's order, whatever the padding: rounding stays the same
        groups = [list(range(count))]
        if max(lengths) == slots and not (trims and _has_gaps(mask)):
            return whole
    together = torch.tensor([row for group in groups for row in group], device=events.x.device)
    rows = torch.split(together, [len(group) for group in groups])
    if mask is None or not trims:
        chunks = [Chunk(row, None, None if mask is None else mask[row]) for row in rows]
    else:
        longest = [max(lengths[row] for row in group) for group in groups]
        chunks = _without_padding(mask, rows, longest)
    return Plan(chunks, slots)


def _without_padding(mask: Tensor, groups: Sequence[Tensor], longest: Sequence[int]) -> list[Chunk]:
    """Return chunks with the real objects of their events in front, in as few columns as fit."""
    order = mask.logical_not().to(torch.uint8).sort(dim=-1, stable=True).indices
    chunks = []
    for rows, columns in zip(groups, longest, strict=True):
        slots = order[rows, : max(1, columns)]
        chunks.append(Chunk(rows, slots, mask[rows].gather(1, slots)))
    return chunks


def _has_gaps(mask: Tensor | None) -> bool:
    """Return whether padding stands before real objects."""
    return mask is not None and bool((mask[:, 1:] & ~mask[:, :-1]).any())


def trimmable(field: nn.Module) -> bool:
    """Return whether every field inside `field` takes the mask, so that padding may be left out."""
    parts = [part for part in field.modules() if getattr(part, "event_ndim", None) is not None]
    return all(declares(part, "takes_mask") for part in parts)


def holds_events(field: nn.Module, events: Events) -> bool:
    """Return whether a field holds something of each of these events, which keeps them together."""
    return events.together or part_that_declares(field, "holds_context") is not None


def plan_of_velocity(field: nn.Module, events: Events) -> Plan:
    """Return how to evaluate a field on events of these sizes, at any of their states.

    They are evaluated at once, as they are, if the field does not take the mask in all its parts,
    declares `holds_context`, or nothing is to be gained; and where the mask cannot be read, inside
    `torch.compile`, `vmap`, a tracer or the capture of a CUDA graph. Reading it costs one
    synchronisation of a GPU. A field that keeps something with a row for each event must declare
    it: events change their places.

    Arguments:
        field: the field.
        events: the events.

    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2), coupling=2.0)
    >>> x, mask = torch.randn(64, 300, 2), torch.arange(300) < torch.randint(301, (64, 1))
    >>> events = Events.of(field, x, mask, t=torch.rand(64))
    >>> plan_of_velocity(field, events).velocity(field, events).shape
    torch.Size([64, 300, 2])
    """
    mask = events.mask
    if mask is None or not mask.numel() or not _is_readable(mask) or not trimmable(field):
        return Plan([Chunk(None, None, mask)], events.slots)
    on_cpu = mask.device.type == "cpu"
    objects = _CPU_OBJECTS if on_cpu else _GPU_OBJECTS
    return plan_events(
        field,
        events.flat(),
        overhead=_CPU_OVERHEAD if on_cpu else _GPU_OVERHEAD,
        largest=lambda n: objects // max(1, n),
    )


def _is_readable(mask: Tensor) -> bool:
    """Return whether the values of a mask are at hand, and what they decide is not recorded."""
    if torch.compiler.is_compiling() or mask.is_meta:
        return False
    # no public function asks for transforms, tracers and fake tensors
    functorch: Any = torch._C._functorch
    if torch._C._len_torch_dispatch_stack():
        return False
    while functorch.is_functorch_wrapped_tensor(mask):
        if functorch.is_batchedtensor(mask):
            return False
        mask = functorch.get_unwrapped(mask)
    return not (mask.is_cuda and torch.cuda.is_current_stream_capturing())
