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

from setflow.sets.events import Context, call_field, has_row_per_object, with_plain_context
from setflow.sets.masks import count_real
from setflow.sets.protocols import declares, event_ndim_of, part_that_declares
from setflow.sets.shapes import event_numel, split_event

__all__ = ["Chunk", "FlatEvents", "Plan", "cut_by_length", "plan_events", "planned", "trimmable"]

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

    def events(self, value: Tensor) -> Tensor:
        """Take from a tensor with one row per event of the flattened batch."""
        return value if self.rows is None else value[self.rows]

    def objects(self, value: Tensor) -> Tensor:
        """Take from a tensor with one row per object, with shape `(B, N, ...)`."""
        if self.rows is None or self.slots is None:
            return self.events(value)
        return value[self.rows[:, None], self.slots]


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
        rows = [chunk.rows for chunk in chunks if chunk.rows is not None]
        if not rows:
            return
        self._rows = torch.cat(rows).argsort()
        if any(chunk.slots is None for chunk in chunks):
            return
        slot = torch.arange(len(self._rows) * slots, device=self._rows.device).reshape(-1, slots)
        taken = torch.cat([chunk.objects(slot).flatten() for chunk in chunks])
        self._places = torch.full_like(slot, len(taken))  # behind the last stands a zero
        self._places.view(-1)[taken] = torch.arange(len(taken), device=slot.device)

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


@dataclass(frozen=True)
class FlatEvents:
    """What a field is called with, with all events in one dimension in front.

    Arguments:
        x: the states, with shape `(B, *event_shape)`.
        t: the time, a number or a tensor with shape `(B,)`.
        c: the context, with `B` in front, or None.
        mask: boolean mask with shape `(B, N)`, or None for all real.
        event_ndim: how many dimensions form one event.
    """

    x: Tensor
    t: Tensor | float
    c: Tensor | None
    mask: Tensor | None
    event_ndim: int

    @classmethod
    def of(
        cls, x: Tensor, t: Tensor | float, c: Tensor | None, mask: Tensor | None, event_ndim: int
    ) -> FlatEvents:
        """Flatten the lead dimensions of `x`, which those of the others equal."""
        lead, event = split_event(x, event_ndim)
        events = event_numel(lead)
        return cls(
            x.reshape(events, *event),
            t.reshape(events) if isinstance(t, Tensor) and t.ndim else t,
            None if c is None else c.reshape(events, *c.shape[len(lead) :]),
            None if mask is None else mask.reshape(events, event[0]),
            event_ndim,
        )

    def taken(self, chunk: Chunk) -> tuple[Tensor, Tensor | float, Tensor | None]:
        """Return states, times and context of a chunk."""
        x = chunk.objects(self.x) if self.event_ndim else chunk.events(self.x)
        t = chunk.events(self.t) if isinstance(self.t, Tensor) and self.t.ndim else self.t
        if self.c is None:
            return x, t, None
        per_object = has_row_per_object(self.c, self.mask)
        return x, t, chunk.objects(self.c) if per_object else chunk.events(self.c)


def plan_events(
    field: nn.Module,
    like: Tensor,
    mask: Tensor | None,
    *,
    overhead: float,
    largest: Callable[[int], int],
    repeats: Callable[[int], int] = lambda longest: 1,
) -> Plan:
    """Plan the evaluation of a flattened batch.

    Only a field that takes the mask, in all its parts, gets fewer columns: it obeys the laws of
    length and order. One that holds a context of the whole batch is not cut at all.

    Arguments:
        field: the field.
        like: a tensor of the shape of the states, `(B, *event_shape)`; its values are not read.
        mask: boolean mask with shape `(B, N)`, or None for all real.
        overhead: as `cut_by_length` takes it.
        largest: as `cut_by_length` takes it.
        repeats: as `cut_by_length` takes it.
    """
    slots = like.shape[1] if event_ndim_of(field) > 1 else 1
    whole = Plan([Chunk(None, None, mask)] if len(like) else [], slots)
    if part_that_declares(field, "holds_context"):
        return whole
    trims = mask is not None and trimmable(field)
    lengths = count_real(mask).tolist() if trims and mask is not None else [slots] * len(like)
    groups = cut_by_length(lengths, overhead=overhead, largest=largest, repeats=repeats)
    if len(groups) < 2:  # in the caller's order, whatever the padding: rounding stays the same
        groups = [list(range(len(lengths)))]
        if not len(like) or (max(lengths) == slots and not (trims and _has_gaps(mask))):
            return whole
    if mask is not None and trims:
        return Plan(_without_padding(mask, lengths, groups), slots)
    rows = _rows(groups, like.device)
    return Plan([Chunk(row, None, None if mask is None else mask[row]) for row in rows], slots)


def _without_padding(
    mask: Tensor, lengths: Sequence[int], groups: Sequence[Sequence[int]]
) -> list[Chunk]:
    """Return chunks with the real objects of their events in front, in as few columns as fit."""
    order = mask.logical_not().to(torch.uint8).sort(dim=-1, stable=True).indices
    chunks = []
    for group, rows in zip(groups, _rows(groups, mask.device), strict=True):
        columns = min(mask.shape[1], max(1, *(lengths[index] for index in group)))
        slots = order[rows, :columns]
        chunks.append(Chunk(rows, slots, mask[rows].gather(1, slots)))
    return chunks


def _has_gaps(mask: Tensor | None) -> bool:
    """Return whether padding stands before real objects."""
    return mask is not None and bool((mask[:, 1:] & ~mask[:, :-1]).any())


def _rows(groups: Sequence[Sequence[int]], device: torch.device) -> Sequence[Tensor]:
    """Return the groups as tensors, sent to the device in one piece."""
    together = torch.tensor([index for group in groups for index in group], device=device)
    return torch.split(together, [len(group) for group in groups])


def trimmable(field: nn.Module) -> bool:
    """Return whether every field inside `field` takes the mask, so that padding may be left out."""
    parts = [part for part in field.modules() if getattr(part, "event_ndim", None) is not None]
    return all(declares(part, "takes_mask") for part in parts)


def planned(field: nn.Module, mask: Tensor | None) -> nn.Module:
    """Return a field that evaluates events of like length together, without their padding.

    It gives what the field gives, for states with this mask. A field that does not take the mask in
    all its parts, or declares `holds_context`, comes back as it is; and so it does where the mask
    cannot be read, inside `torch.compile`, `vmap`, a tracer or the capture of a CUDA graph, or
    where nothing is to be gained. Reading it costs one synchronisation of a GPU. A field that keeps
    something with a row for each event must declare it: events change their places.

    Arguments:
        field: the field.
        mask: boolean mask with shape `(*lead, N)`, or None for all real.

    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2), coupling=2.0)
    >>> x, mask = torch.randn(64, 300, 2), torch.arange(300) < torch.randint(301, (64, 1))
    >>> v = planned(field, mask)(x, torch.rand(64), mask=mask)
    """
    if mask is None or not mask.numel() or not _is_readable(mask) or not trimmable(field):
        return field
    flat = mask.reshape(-1, mask.shape[-1])
    on_cpu = mask.device.type == "cpu"
    objects = _CPU_OBJECTS if on_cpu else _GPU_OBJECTS
    plan = plan_events(
        field,
        flat,
        flat,
        overhead=_CPU_OVERHEAD if on_cpu else _GPU_OVERHEAD,
        largest=lambda n: objects // max(1, n),
    )
    return field if plan.is_whole else _Planned(field, plan)


class _Planned(nn.Module):
    """A field that is evaluated chunk by chunk."""

    takes_mask = True

    def __init__(self, field: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.field = field
        self.event_ndim = event_ndim_of(field)
        self._plan = plan

    def forward(
        self, x: Tensor, t: Tensor, c: Context | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        field, c = with_plain_context(self.field, c)
        flat = FlatEvents.of(x, t, c, mask, self.event_ndim)
        parts = [call_field(field, *flat.taken(chunk), chunk.mask) for chunk in self._plan.chunks]
        return self._plan.objects(parts).reshape(x.shape)


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
