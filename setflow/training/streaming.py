"""Training on files that do not fit memory: the order of their events, and how it is read.

Notation. The rows of all files lie in blocks of whole chunks. An epoch is one sequence of the
events of a side: the blocks are permuted, each `WINDOW` of them make a window, and the events of a
window are permuted. Both permutations are functions of (seed, epoch) and, for the second, of the
number of the window alone, so that the sequence depends on neither batches nor processes. A step
takes the next events of it, the processes one share each, and (epoch, step) say where a training
stands: since it is known how many events each block has, nothing before that is read again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from setflow.random import counter_uniform, derive
from setflow.sets.batch import SetBatch
from setflow.training.processes import PlacedBatch, which_process
from setflow.training.sources import Block, EventFiles, Numbered, together

__all__ = ["EpochShares", "Share", "Side", "StreamedEvents", "free_memory"]

WINDOW = 16  # blocks


class Share(NamedTuple):
    """Events of the sequence of an epoch, from `start` to before `stop`.

    `of` and `idle` are those of the `PlacedBatch` that they make.
    """

    epoch: int
    start: int
    stop: int
    of: int | None = None
    idle: bool = False


@dataclass(frozen=True)
class Side:
    """Which events are trained on and which are held out, by a hash of their numbers.

    Arguments:
        seed: the seed of the choice.
        fraction: of the events that are held out.
        held: whether this is the side that is held out.
    """

    seed: int
    fraction: float
    held: bool

    def __call__(self, numbers: Tensor) -> Tensor:
        """Return which events are of this side, a boolean tensor.

        Arguments:
            numbers: the same for events of one collision, int64, with shape `(n,)`.

        >>> train, held = (Side(0, 0.3, which)(torch.arange(1000)) for which in (False, True))
        >>> bool((train ^ held).all()), int(held.sum())
        (True, 286)
        """
        chance = counter_uniform(derive(self.seed, "events held out"), numbers)
        return (chance < self.fraction) == self.held


class StreamedEvents(Dataset[PlacedBatch]):
    """The events of a side of files, read a window at a time; a share of an epoch is one batch.

    Arguments:
        files: the files.
        blocks: their blocks.
        counts: how many events of the side each block has, int64, with shape `(blocks,)`.
        side: the side, None for all events.
        seed: the seed of the order.
        shuffle: False leaves the events in the order of the files.
        factor: by what weights are multiplied.
        keep: whether what was read stays in memory, for the epochs that follow.
    """

    def __init__(
        self,
        files: EventFiles,
        blocks: Sequence[Block],
        counts: Tensor,
        side: Side | None = None,
        *,
        seed: int,
        shuffle: bool,
        factor: float = 1.0,
        keep: bool = False,
    ) -> None:
        self._files, self._blocks, self._side = files, blocks, side
        self._counts, self._first = counts, counts.cumsum(0) - counts
        self._seed, self._shuffle, self._factor = seed, shuffle, factor
        self._of_one = WINDOW  # blocks of a window
        self._kept: dict[int, PlacedBatch] | None = {} if keep else None
        self._order: tuple[int, Tensor, Tensor] | None = None  # of an epoch
        self._window: tuple[tuple[int, int], PlacedBatch] | None = None

    def __len__(self) -> int:
        return int(self._counts.sum())

    def __getstate__(self) -> dict[str, Any]:
        empty = None if self._kept is None else dict[int, PlacedBatch]()
        return {**vars(self), "_kept": empty, "_order": None, "_window": None}

    def __getitem__(self, share: Share) -> PlacedBatch:
        """Return the events of a share.

        Raises:
            IndexError: if there are no such events.
            OSError, ValueError: as `EventFiles.read`.
        """
        epoch, start, stop, of, idle = share
        if not 0 <= start < stop <= len(self):
            raise IndexError(f"events {start} to {stop} of {len(self)}")
        _, ends = self._windows(epoch)
        window, parts = int(torch.searchsorted(ends, start, right=True)), list[PlacedBatch]()
        while start < stop:
            first, end = int(ends[window - 1]) if window else 0, int(ends[window])
            if end > start:  # else the window has no event
                found = self._of_window(epoch, window)
                rows = slice(start - first, min(stop, end) - first)
                parts.append(PlacedBatch(found.events[rows], found.place[rows]))
            start, window = min(stop, end), window + 1
        if len(parts) > 1:
            events = together([part.events for part in parts]).counted()
            return PlacedBatch(events.trim(), torch.cat([part.place for part in parts]), of, idle)
        return PlacedBatch(parts[0].events.trim(), parts[0].place, of, idle)

    def _windows(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the blocks of an epoch in their order, and where each window of them ends."""
        if self._order is None or self._order[0] != epoch:
            order = torch.arange(len(self._blocks))
            if self._shuffle:
                generator = torch.Generator()
                generator.manual_seed(derive(self._seed, "order of the blocks", epoch))
                order = torch.randperm(len(self._blocks), generator=generator)
            ends = self._counts[order].cumsum(0)
            last = torch.arange(0, len(order), self._of_one) + self._of_one - 1
            self._order = (epoch, order, ends[last.clamp(max=len(order) - 1)])
        return self._order[1:]

    def _of_window(self, epoch: int, window: int) -> PlacedBatch:
        """Return the events of a window in their order; the last one that was read is kept."""
        if self._window is not None and self._window[0] == (epoch, window):
            return self._window[1]
        self._window = None  # before the next one takes its place in memory
        order, _ = self._windows(epoch)
        parts = [
            self._of_block(block)
            for block in sorted(order[window * self._of_one :][: self._of_one].tolist())
            if self._counts[block]
        ]
        events = together([part.events for part in parts])
        place = torch.cat([part.place for part in parts])
        del parts
        if self._shuffle:
            generator = torch.Generator()
            generator.manual_seed(derive(self._seed, "order of the events", epoch, window))
            rows = torch.randperm(len(place), generator=generator)
            events, place = events[rows], place[rows]
        found = PlacedBatch(events.counted(), place)
        self._window = ((epoch, window), found)
        return found

    def _of_block(self, k: int) -> PlacedBatch:
        if self._kept is not None and k in self._kept:
            return self._kept[k]
        events = of_side(self._files.read(self._blocks[k]), self._side).events
        count, first = int(self._counts[k]), int(self._first[k])
        if len(events) != count:
            path = self._files.files[self._blocks[k].file].path
            raise ValueError(
                f"{path}: of rows {self._blocks[k].start} to {self._blocks[k].stop} there are "
                f"{len(events)} events on this side, and {count} when they were counted: the file "
                "was changed; train on files that stay as they are"
            )
        weight = None if events.weight is None else self._factor * events.weight
        place = torch.arange(first, first + count)
        x, c = self._files.dtypes
        context = None if events.c is None else events.c.to(c)
        found = PlacedBatch(SetBatch(events.x.to(x), events.mask, context, weight), place)
        if self._kept is not None:
            self._kept[k] = found
        return found


def of_side(numbered: Numbered, side: Side | None) -> Numbered:
    """Return those events that are of a side."""
    if side is None:
        return numbered
    return numbered.of(side(numbered.numbers))


class EpochShares(DistributedSampler[Share]):
    """What each step of an epoch takes: the share of this process of the next events.

    A step takes `batch_size` events, of which each process has an even share, in the order of the
    processes; what is left makes the last step. It is a sampler of torch's distributed kind, so
    that Lightning puts none in its place.

    Arguments:
        events: the number of events of an epoch.
        batch_size: the number of events of a step, of all processes together.
        rank: the number of this process, of `processes`; None asks torch.distributed.
        processes: how many share the events.

    >>> [share.stop - share.start for share in EpochShares(10, 4, rank=0, processes=2)]
    [2, 2, 1]
    """

    def __init__(
        self, events: int, batch_size: int, *, rank: int | None = None, processes: int | None = None
    ) -> None:
        # nothing of torch's own is used
        self.rank, self.num_replicas = which_process(rank, processes)
        self.shuffle, self.drop_last = False, False
        self._events, self._batch_size = events, batch_size
        self._skip = 0
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of `epoch`."""
        self.epoch = epoch

    def skip(self, steps: int) -> None:
        """Begin the next iteration after so many of its steps, to go on with a stopped one."""
        self._skip = steps

    def __len__(self) -> int:
        return -(-self._events // self._batch_size)

    def __iter__(self) -> Iterator[Share]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        skip, self._skip = self._skip, 0
        for first in range(skip * self._batch_size, self._events, self._batch_size):
            size = min(self._batch_size, self._events - first)
            if self.num_replicas == 1:
                yield Share(epoch, first, first + size)
                continue
            ends = (size * k // self.num_replicas for k in (self.rank, self.rank + 1))
            start, stop = (first + end for end in ends)
            idle = start == stop
            yield Share(epoch, first if idle else start, first + 1 if idle else stop, size, idle)


def free_memory() -> int:
    """Return how many bytes of memory this process may still take, 0 if nothing tells."""
    free = 0
    try:
        with open("/proc/meminfo") as told:
            lines = dict(line.split(":", 1) for line in told)
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, LookupError, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") if os.name != "nt" else 0
    try:
        with (
            open("/sys/fs/cgroup/memory.max") as limit,
            open("/sys/fs/cgroup/memory.current") as now,
        ):
            free = min(free, int(limit.read()) - int(now.read()))
    except (OSError, ValueError):  # without a limit
        pass
    return max(0, free)
