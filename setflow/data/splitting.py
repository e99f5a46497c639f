"""Share the events of a file out among several, by a hash, block by block.

An event goes to the same part wherever it stands: the part depends on the number of its collision
where the file has one, so that all jets of one stay together, and else on the values of its
objects. Everything that the file holds of an event goes with it, as it stands there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from setflow.data.hashing import Hashes, hash_of_events, hash_of_numbers, shares_of
from setflow.data.header import open_events
from setflow.data.jets import EVENTS
from setflow.data.layouts import OFFSETS, VALUES, Layout, layout_of
from setflow.data.rows import blocks_of, unreadable
from setflow.data.stream import Table, TableStream, chunk_rows
from setflow.data.valid import checked_mask
from setflow.shipped import JETS, find

__all__ = ["split_events"]

_OURS = ("complete", "manifest", "n")  # what the stream writes, and the hashes of all events


def split_events(
    path: str | os.PathLike[str],
    out: Sequence[str | os.PathLike[str]],
    fractions: Sequence[float],
    *,
    overwrite: bool = False,
) -> tuple[int, ...]:
    """Share the events of a file out among several, which appear whole together at the end.

    Which part an event goes to is the same in every call and for every file with the same
    fractions, whatever else is in it; so the parts hold about these fractions of the events.

    Arguments:
        path: the file of events, in one of the layouts that setflow reads itself.
        out: the files to write, one for each part.
        fractions: of the events, one for each part; they sum to 1.
        overwrite: replace files that are there.

    Returns:
        The number of events of each part.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if the fractions are malformed, a file is given twice, or the file has no
            layout or holds something that belongs to no event.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     parts = [f"{folder}/train.h5", f"{folder}/val.h5"]
    ...     n = split_events("pythia-top/heldout.h5", parts, [0.9, 0.1])
    ...     sum(n) == setflow.data.read_header("pythia-top/heldout.h5").n, n[0] > 8 * n[1]
    (True, True)
    """
    path, targets = find(JETS, path), [Path(one) for one in out]
    shares = _checked_fractions(fractions, len(targets))
    resolved = [one.resolve() for one in (path, *targets)]
    for one, whole in zip(targets, resolved[1:], strict=True):
        if whole == resolved[0]:
            raise ValueError(f"{one} is the file that is shared out; write to another")
        if resolved.count(whole) > 1:
            raise ValueError(f"{one} is given twice; give each file once")
    with ExitStack() as stack:
        file = stack.enter_context(open_events(path))
        source = _Source(layout_of(file, path))
        parts = [_Part(source, target, stack, overwrite=overwrite) for target in targets]
        for there in blocks_of(source.layout, 0, source.layout.n):
            block = source.block(there)
            chosen = shares_of(block.hashes, shares)
            for k, part in enumerate(parts):
                part.append(block, chosen == k)
        for part in parts:
            part.stream.finish({})
    return tuple(part.stream.n for part in parts)


def _checked_fractions(fractions: Sequence[float], parts: int) -> list[float]:
    given = ", ".join(f"{one:g}" for one in fractions)
    if len(fractions) != parts:
        raise ValueError(
            f"there are {parts} files to write and {len(fractions)} "
            f"fraction{'s' * (len(fractions) != 1)} ({given}); give one for each"
        )
    if any(not 0 < one <= 1 for one in fractions) or abs(math.fsum(fractions) - 1) > 1e-6:
        raise ValueError(f"the fractions are {given}, expected positive ones that sum to 1")
    return list(fractions)


class _Block(NamedTuple):
    """Rows of all datasets as they stand in a file.

    Attributes:
        rows: by the names of the datasets; of objects one behind the other, those of all events.
        lengths: how many objects each event has, with shape `(b,)`.
        hashes: what the part of each event follows from, with shape `(b,)`.
    """

    rows: dict[str, NDArray[Any]]
    lengths: NDArray[np.int64]
    hashes: Hashes


class _Source:
    """A file that is shared out.

    Arguments:
        layout: its layout.

    Raises:
        ValueError: if it holds a dataset without a row for each event.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout, file = layout, layout.file
        self._columns = layout.object_columns(layout.schema.objects)
        ragged = layout.table == VALUES
        width = 8 * len(layout.columns)
        self.at_a_time = min(chunk_rows(width * max(1, layout.objects)), 2**14)
        self.tables: dict[str, Table] = {}
        for key in file:
            dataset, of_objects = file[key], ragged and key == VALUES
            ends = ragged and key == OFFSETS
            rows = len(dataset) if getattr(dataset, "ndim", 0) and not of_objects else layout.n
            if not getattr(dataset, "ndim", 0) or rows != layout.n + ends:
                raise ValueError(
                    f"{layout.path} holds '{key}', which has no row for each of its {layout.n} "
                    f"{layout.words.event_word}s, so that it cannot be shared out; take it away"
                )
            self.tables[key] = Table(
                dataset.shape[1:],
                dataset.dtype,
                chunk_rows(width) if of_objects else self.at_a_time,
                {name: dataset.attrs[name] for name in dataset.attrs},
                of_objects=of_objects,
                first=np.zeros(1, dataset.dtype) if ends else None,
            )
        self.attributes = {name: file.attrs[name] for name in file.attrs if name not in _OURS}

    def block(self, there: slice) -> _Block:
        """Return rows of the file.

        Raises:
            OSError: if they cannot be read.
        """
        file, rows = self.layout.file, {}
        try:
            x, flags = self.layout.rows(there, self._columns)
            for key, table in self.tables.items():
                if table.of_objects:
                    ends = file[OFFSETS][there.start : there.stop + 1]
                    rows[key] = file[key][int(ends[0]) : int(ends[-1])]
                elif table.first is None:
                    rows[key] = file[key][there]
        except OSError as error:
            raise unreadable(self.layout, there, error) from error
        real = checked_mask(flags, {}, self.layout.words)
        if EVENTS in self.layout.keys:
            hashes = hash_of_numbers(rows[EVENTS])
        else:
            hashes = hash_of_events(x, real, self._columns.names)
            empty = ~real.any(1)  # they are all alike, so their rows are taken
            hashes[empty] = hash_of_numbers(np.arange(there.start, there.stop)[empty])
        return _Block(rows, real.sum(1), hashes)


class _Part:
    """A file that gets some of the events."""

    def __init__(self, source: _Source, target: Path, stack: ExitStack, *, overwrite: bool) -> None:
        checksums = source.layout.version > 1
        stream = TableStream(target, overwrite=overwrite, compression=4, checksums=checksums)
        self.stream, self._tables = stack.enter_context(stream), source.tables
        self._objects = 0  # so far
        stream.create(source.tables, source.at_a_time, source.attributes)

    def append(self, block: _Block, chosen: NDArray[np.bool_]) -> None:
        """Append the events of a block that were chosen."""
        lengths = block.lengths[chosen]
        rows = {}
        for key, table in self._tables.items():
            if table.of_objects:
                rows[key] = block.rows[key][np.repeat(chosen, block.lengths)]
            elif table.first is None:
                rows[key] = block.rows[key][chosen]
            else:
                rows[key] = (self._objects + lengths.cumsum()).astype(table.dtype)
        self._objects += int(lengths.sum())
        self.stream.append(rows, lengths)
