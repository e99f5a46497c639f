"""The events of several files as a training takes them: by rows, selected, with their context."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from setflow.data.contexts import ContextSource
from setflow.data.reader import EventReader
from setflow.data.sample import EventSample
from setflow.data.selection import Selection
from setflow.schema import Category, Feature, Schema
from setflow.sets.batch import SetBatch
from setflow.training.files import CLASS, DataFile, require_class

__all__ = ["Block", "EventFiles", "Numbered", "Wanted", "together"]

BLOCK_BYTES = 2**21
"""So much of a file makes a block that is read at a time, or one chunk of it if that is more."""
_OPEN = 32  # files at once


@dataclass(frozen=True)
class Wanted:
    """What is taken of files.

    Attributes:
        features: the features of an object, in order.
        context: the conditions, in order.
        schema: what features and conditions are; None takes what the first file says.
        max_objects: the largest number of objects of an event that is kept.
        weight: the name of the dataset of weights, or None.
        select: which events are taken; None takes all.
        counts: whether the number of objects that a file tells must be that of the mask.
    """

    features: tuple[str, ...]
    context: tuple[Feature, ...]
    schema: Schema | None
    max_objects: int
    weight: str | None = None
    select: Selection | None = None
    counts: bool = True


class Numbered(NamedTuple):
    """Events, and numbers that are the same for those of one collision, int64, `(n,)`.

    `rows` are their places among the rows of all files, int64, `(n,)`.
    """

    events: SetBatch
    numbers: Tensor
    rows: Tensor

    def of(self, which: Tensor) -> Numbered:
        """Return some of them, given by a boolean tensor of shape `(n,)`."""
        return Numbered(self.events[which], self.numbers[which], self.rows[which])


class Block(NamedTuple):
    """Rows of one of the files that are read at a time."""

    file: int
    start: int
    stop: int


class EventFiles:
    """Events of several files; they may be handed to another process.

    Arguments:
        files: the files.
        wanted: what is taken of them.

    Attributes:
        files: the files.
        schema: by what all of them are read.

    Raises:
        FileNotFoundError, OSError, ValueError: as `read_events`; or if a file has fewer rows than
            are asked for.
    """

    def __init__(self, files: Sequence[DataFile], wanted: Wanted) -> None:
        self.files, self.wanted = tuple(files), wanted
        self.schema = wanted.schema
        self._readers: list[EventReader] = []
        self._contexts: list[ContextSource] = []
        self._stops: list[int] = []
        self._used: list[int] = []  # the files that were read last, in order
        try:
            for file in self.files:
                self._open(file)
        except BaseException:
            self.close()
            raise

    def _open(self, file: DataFile) -> None:
        wanted = self.wanted
        fixed = {CLASS: self._code(file.label)} if file.label is not None else {}
        context = ContextSource(file.path, wanted.context, fixed)
        self._contexts.append(context)
        if CLASS in context.columns:
            require_class(file.path)
        more = [] if wanted.select is None else wanted.select.names
        reader = EventReader(
            file.path,
            self.schema,
            max_objects=wanted.max_objects,
            features=wanted.features,
            conditions=tuple(dict.fromkeys((*context.columns, *more))),
            weight=wanted.weight,
            counts=wanted.counts,
        )
        self._readers.append(reader)
        if self.schema is None:  # what the first file says holds of all
            self.schema = self._of_all(reader.schema)
        stop = reader.n if file.stop is None else file.stop
        if max(stop, file.start) > reader.n:
            raise ValueError(
                f"{file.path} holds {reader.n} events, rows {file.start} to {stop} were asked "
                "for; ask for rows that are there"
            )
        reader.warn_unused()
        self._stops.append(stop)
        self._close(len(self._stops) - 1)

    def __len__(self) -> int:
        """Return the number of rows, before any selection."""
        rows = zip(self.files, self._stops, strict=True)
        return sum(stop - file.start for file, stop in rows)

    @property
    def held_bytes(self) -> int:
        """How many bytes the features of all events take in memory, at most."""
        return sum(
            (stop - file.start) * reader.slots * len(self.wanted.features) * 4
            for file, reader, stop in zip(self.files, self._readers, self._stops, strict=True)
        )

    @functools.cached_property
    def dtypes(self) -> tuple[torch.dtype, torch.dtype]:
        """The dtypes of features and contexts that hold those of all files."""
        parts = [self.read(Block(k, file.start, file.start)) for k, file in enumerate(self.files)]
        x = functools.reduce(torch.promote_types, (part.events.x.dtype for part in parts))
        told = (part.events.c.dtype for part in parts if part.events.c is not None)
        return x, functools.reduce(torch.promote_types, told, torch.float32)

    def blocks(self) -> tuple[Block, ...]:
        """Return all rows in blocks that end with a chunk of their file, in order."""
        found: list[Block] = []
        for k, reader in enumerate(self._readers):
            rows = max(1, BLOCK_BYTES // max(1, reader.row_bytes))
            rows = max(reader.chunk, rows - rows % reader.chunk)
            start, stop = self.files[k].start, self._stops[k]
            while start < stop:
                end = min(start + rows - start % reader.chunk, stop)
                found.append(Block(k, start, end))
                start = end
        return tuple(found)

    def read(self, block: Block) -> Numbered:
        """Return the events of a block.

        Raises:
            OSError, ValueError: as `EventReader.read`.
        """
        k, start, stop = block
        self._used = [*(other for other in self._used if other != k), k]
        for other in self._used[:-_OPEN]:
            self._close(other)
        self._used = self._used[-_OPEN:]
        sample = self._readers[k].read(start, stop)
        objects = sample.objects
        context = self._contexts[k].of(sample, start)
        events = SetBatch(objects.x, objects.mask, context, objects.weight)
        found = Numbered(events, *self._numbers(sample, block))
        if self.wanted.select is None:
            return found
        columns = zip(sample.event_features, sample.event.unbind(-1), strict=True)
        taken = self.wanted.select({name: column.numpy() for name, column in columns})
        return found.of(torch.from_numpy(taken))

    def all(self) -> Numbered:
        """Return all events, padded to the longest, and close the files."""
        files = range(len(self.files))
        parts = [self.read(Block(k, self.files[k].start, self._stops[k])) for k in files]
        self.close()
        numbers, rows = (
            torch.cat([getattr(p, name) for p in parts]) for name in ("numbers", "rows")
        )
        return Numbered(together([part.events for part in parts]), numbers, rows)

    def where(self, row: int) -> str:
        """Return the file and the event that stand at a place among the rows of all files."""
        for file, stop in zip(self.files, self._stops, strict=True):
            if row < stop - file.start:
                return f"{file.path}: event {file.start + row}"
            row -= stop - file.start
        raise IndexError(row)

    def close(self) -> None:
        """Close the files; they are opened again when they are needed."""
        for k in range(len(self._contexts)):
            self._close(k)

    def _close(self, k: int) -> None:
        self._contexts[k].close()
        if k < len(self._readers):
            self._readers[k].close()

    def _numbers(self, sample: EventSample, block: Block) -> tuple[Tensor, Tensor]:
        """Return the numbers of events, and their places among the rows of all files."""
        before = sum(self._stops[k] - self.files[k].start for k in range(block.file))
        first = before + block.start - self.files[block.file].start
        rows = torch.arange(first, first + len(sample))
        if sample.event_number is not None:
            return sample.event_number.view(torch.int64), rows
        return rows - 2**62, rows  # each by itself, apart from all that have numbers

    def _of_all(self, first: Schema) -> Schema:
        """Return what all files are read by, given what the first one holds."""
        known = {entry.name: entry for entry in self.wanted.context}
        event = [known[entry.name] for entry in first.event if entry.name in known]
        return Schema(first.objects, event, first.order_by)

    def _code(self, label: str) -> float:
        kinds = [entry.kind for entry in self.wanted.context if entry.name == CLASS]
        listed = kinds[0].names if kinds and isinstance(kinds[0], Category) else ()
        return float(listed.index(label))


def together(batches: Sequence[SetBatch]) -> SetBatch:
    """Return the events of several batches as one, padded to the longest."""
    if len(batches) == 1:
        return batches[0]
    slots = max(batch.mask.shape[1] for batch in batches)
    dtype = functools.reduce(torch.promote_types, (batch.x.dtype for batch in batches))
    x, mask, c = [], [], []
    for batch in batches:
        missing = slots - batch.mask.shape[1]
        x.append(torch.nn.functional.pad(batch.x.to(dtype), (0, 0, 0, missing)))
        mask.append(torch.nn.functional.pad(batch.mask, (0, missing)))
        if batch.c is not None:
            c.append(batch.c)
    wide = functools.reduce(torch.promote_types, (rows.dtype for rows in c), torch.float16)
    context = torch.cat([rows.to(wide) for rows in c]) if c else None
    weights = [batch.weight for batch in batches if batch.weight is not None]
    return SetBatch(torch.cat(x), torch.cat(mask), context, torch.cat(weights) if weights else None)
