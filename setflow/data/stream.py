"""An HDF5 file of tables that is written batch by batch, atomically and reproducibly.

The file appears whole (`setflow.files`), and the same rows give the same bytes, however they were
cut into batches: what comes waits until there are enough events for a chunk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from setflow.data.hdf5_output import Hdf5Output
from setflow.data.manifest import Digest, Manifest, Run
from setflow.files import NewFile, check_hdf5_name
from setflow.opened import Opened

__all__ = ["Table", "TableStream", "chunk_rows"]

CHUNK_BYTES = 2**20  # an HDF5 chunk holds whole rows and at most so much


@dataclass(frozen=True)
class Table:
    """One dataset of the file.

    Arguments:
        tail: the shape of one row.
        dtype: its dtype.
        rows: the rows of a chunk.
        texts: its attributes: each a list of texts, or what another file had, as it stood there.
        of_objects: whether it has a row for each object, and not for each event.
        first: the rows that it begins with, or None.
    """

    tail: tuple[int, ...]
    dtype: Any
    rows: int
    texts: Mapping[str, Any] = field(default_factory=dict)
    of_objects: bool = False
    first: NDArray[Any] | None = None


class TableStream(Opened):
    """Write tables to a file, batch by batch; a context manager.

    Arguments:
        path: the file to write, named .h5 or .hdf5; its folder must exist.
        overwrite: replace the file if it exists.
        compression: the gzip level, 0 (none) to 9.
        checksums: whether each chunk has a checksum, Fletcher32, so that damage is found.
        run: where the file stands in a run of events; it then has a manifest
            (`setflow.data.manifest`).

    Raises:
        OSError: at once, if the file exists and `overwrite` is False, or its folder does not exist
            or cannot be written to.
        ValueError: if the file is not named so, or the level is out of range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool,
        compression: int,
        checksums: bool,
        run: Run | None = None,
    ) -> None:
        self._target = NewFile(check_hdf5_name(path), overwrite=overwrite)
        if not 0 <= compression <= 9:
            raise ValueError(f"compression is {compression}, expected a gzip level from 0 to 9")
        self._compression, self._checksums = compression, checksums
        self._tables: dict[str, Table] = {}
        self._run, self._digests = run, dict[str, Digest]()
        self._rows = 1
        self._waiting: dict[str, list[NDArray[Any]]] = {}
        self._lengths: list[NDArray[np.int64]] = []
        self._n = self._n_waiting = 0
        self._output: Hdf5Output | None = None

    @property
    def n(self) -> int:
        """The number of events so far."""
        return self._n + self._n_waiting

    @property
    def is_open(self) -> bool:
        """Whether the block has begun and not ended."""
        return self._output is not None

    def _enter(self, stack: ExitStack) -> None:
        stack.callback(self._closed)  # on the way out: the file closed, renamed, forgotten
        part = stack.enter_context(self._target)
        self._output = stack.enter_context(Hdf5Output(part, "w"))

    def _closed(self) -> None:
        self._output = None

    def create(self, tables: Mapping[str, Table], rows: int, attributes: Mapping[str, Any]) -> None:
        """Make the datasets, empty, and the attributes of the file.

        Arguments:
            tables: the datasets by their keys.
            rows: how many events are written at a time.
            attributes: what the file says of itself.
        """
        if self._run is not None:  # an order that `setflow.data.merging` knows
            tables, attributes = dict(sorted(tables.items())), dict(sorted(attributes.items()))
        self._tables, self._rows = dict(tables), rows
        self._waiting = {key: [] for key in tables}
        self._digests = {key: Digest() for key in tables}
        told = {"complete": False, "n": np.int64(0), **attributes}
        self._do(lambda file: self._create(file, told))

    def _create(self, file: Any, attributes: Mapping[str, Any]) -> None:
        strings = h5py.string_dtype()
        for key, table in self._tables.items():
            begun = 0 if table.first is None else len(table.first)
            dataset = file.create_dataset(
                key,
                shape=(begun, *table.tail),
                maxshape=(None, *table.tail),
                chunks=(table.rows, *table.tail),
                dtype=table.dtype,
                compression="gzip" if self._compression else None,
                compression_opts=self._compression or None,
                shuffle=True,
                fletcher32=self._checksums,
                track_times=False,
            )
            if table.first is not None:
                dataset[:] = table.first
                self._digests[key].add(np.asarray(table.first, table.dtype))
            for name, texts in sorted(table.texts.items()):
                kept = isinstance(texts, (str, np.ndarray, np.generic, h5py.Empty))
                dataset.attrs[name] = texts if kept else np.array(texts, dtype=strings)
        for name, value in attributes.items():
            file.attrs[name] = value

    def append(self, rows: Mapping[str, NDArray[Any]], lengths: NDArray[np.int64]) -> None:
        """Append events; they reach the file when enough for a chunk have come, or at the end.

        Arguments:
            rows: the rows of each table, by its key.
            lengths: the number of objects of each event.
        """
        for key, values in rows.items():
            self._waiting[key].append(values)
        self._lengths.append(lengths)
        self._n_waiting += len(lengths)
        if self._n_waiting >= self._rows:
            self._flush(self._n_waiting - self._n_waiting % self._rows)

    def finish(
        self, attributes: Mapping[str, Any], unphysical: Mapping[str, int] | None = None
    ) -> None:
        """Write what waits, and what is known at the end only; the file is then complete.

        Arguments:
            attributes: what the file says of itself.
            unphysical: how often each feature has a value that cannot be, for the manifest.
        """
        self._flush(self._n_waiting)
        self._do(lambda file: self._complete(file, attributes, dict(unphysical or {})))

    def _complete(
        self, file: Any, attributes: Mapping[str, Any], unphysical: dict[str, int]
    ) -> None:
        told = {"n": np.int64(self._n), **attributes}
        if self._run is not None:
            first, events = self._run
            hashes = {key: digest.text() for key, digest in self._digests.items()}
            told["manifest"] = Manifest(events, first, first + self._n, hashes, unphysical).text()
        for name, value in told.items():
            file.attrs[name] = value
        file.attrs["complete"] = True

    def _do(self, call: Callable[[Any], object]) -> None:
        assert self._output is not None
        self._output.do(call)

    def _flush(self, whole: int) -> None:
        """Write so many events, chunk by chunk: the bytes do not depend on the batches."""
        if not self._n_waiting:
            return
        joined = {key: np.concatenate(parts) for key, parts in self._waiting.items()}
        lengths = np.concatenate(self._lengths)
        ends = np.concatenate([np.zeros(1, np.int64), lengths.cumsum()])
        parts = []
        for first in range(0, whole, self._rows):
            last = min(first + self._rows, whole)
            for key, table in self._tables.items():
                start, stop = (ends[first], ends[last]) if table.of_objects else (first, last)
                parts.append((key, joined[key][start:stop]))
            self._n += last - first
        for key, table in self._tables.items():
            self._waiting[key] = [joined[key][ends[whole] if table.of_objects else whole :]]
        self._lengths = [lengths[whole:]]
        self._n_waiting -= whole
        self._do(lambda file: self._write(file, parts))

    def _write(self, file: Any, parts: Sequence[tuple[str, NDArray[Any]]]) -> None:
        for key, rows in parts:
            dataset = file[key]
            held = len(dataset)
            dataset.resize(held + len(rows), axis=0)
            dataset[held:] = rows
            if self._run is not None:
                self._digests[key].add(np.asarray(rows, self._tables[key].dtype))


def chunk_rows(row_bytes: int) -> int:
    """Return the largest power of two of rows that fit into a chunk.

    >>> chunk_rows(150 * 4 * 4), chunk_rows(2**30)
    (256, 1)
    """
    return 1 << max(0, (CHUNK_BYTES // max(1, row_bytes)).bit_length() - 1)
