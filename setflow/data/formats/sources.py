"""Files that are read block by block, whatever they are: HDF5 and NumPy here, trees beside.

A source knows its arrays by their paths, and yields blocks of rows of those that are asked for. A
row of an array holds one number of an event, or one for each slot, or several columns for each
slot; rows of any length come as `Jagged`. What an array means is for the mapping to tell.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from setflow.data.filters import MENDED_BY, missing_filters
from setflow.data.formats.expressions import no_such_name
from setflow.data.header import open_events
from setflow.data.inspection import check_expansion, named_errors, of_hdf5, require_whole

__all__ = ["ArraySource", "Hdf5Source", "Jagged", "NumpySource", "Source"]

BLOCK_BYTES = 2**22
"""So much is read at a time; what is made of it, in double precision, takes many times that."""

# of an archive: RuntimeError if it is encrypted, NotImplementedError if packed in an unknown way
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError,
)  # fmt: skip


class Jagged(NamedTuple):
    """Rows of any length: their values one behind the other, and the length of each."""

    values: NDArray[Any]
    lengths: NDArray[np.int64]


Raw = NDArray[Any] | Jagged


class Source(ABC):
    """A file of events of any kind.

    Attributes:
        path: where it is.
        n: the number of its events.
    """

    path: Path
    n: int

    @abstractmethod
    def paths(self) -> tuple[str, ...]:
        """Return the paths of the arrays of the file."""

    @abstractmethod
    def blocks(self, paths: Sequence[str], start: int = 0) -> Iterator[dict[str, Raw]]:
        """Yield blocks of rows of arrays by their paths.

        Arguments:
            paths: the arrays.
            start: the row to begin at, with which a block of all rows begins.
        """

    def columns(self, path: str) -> dict[str, Any] | None:
        """Return where the named columns of an array stand, or None if it names none."""
        return None

    def shape(self, path: str) -> tuple[int, ...]:
        """Return the shape of an array; nothing where it is known only by its rows."""
        return ()

    def begin(  # noqa: B027, for a tree knows its rows
        self, paths: Sequence[str], offsets: str, flat: Sequence[str]
    ) -> None:
        """Say which arrays are needed, and which of them offsets separate into events.

        Raises:
            ValueError: if one is not there, or the offsets do not fit.
        """

    def longest(self) -> int | None:
        """Return the most objects of an event where offsets tell it."""
        return None

    def check(self, path: str) -> None:
        """Refuse the path of an array that is not there.

        Raises:
            ValueError: with the nearest path.
        """
        if path not in self.paths():
            raise no_such_name(path, self.paths(), str(self.path))

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


class ArraySource(Source):
    """A file of arrays whose rows are events, or objects of events that offsets separate."""

    _flat: frozenset[str] = frozenset()
    _offsets: NDArray[np.int64] | None = None

    def begin(self, paths: Sequence[str], offsets: str, flat: Sequence[str]) -> None:
        for path in (*paths, *flat):
            self.check(path)
            if not self.shape(path):
                raise ValueError(
                    f"{self.path}: {path} is one number, expected a row for each event"
                )
        if not offsets:
            self.n = self.shape(paths[0])[0]
            return
        self._flat = frozenset(flat)
        self._offsets = _checked_offsets(self._rows(offsets, slice(None)), offsets, self.path)
        self.n = len(self._offsets) - 1
        for path in flat:
            rows = self.shape(path)[0]
            if self._offsets[-1] != rows:
                raise ValueError(
                    f"{self.path}: {offsets} ends at {self._offsets[-1]}, and {path} has {rows} "
                    "rows"
                )

    @abstractmethod
    def _row_bytes(self, path: str) -> int:
        """Return about how many bytes a row has."""

    @abstractmethod
    def _rows(self, path: str, there: slice) -> Raw:
        """Return rows of an array; calls of one array come in order."""

    def longest(self) -> int | None:
        return None if self._offsets is None else int(np.diff(self._offsets).max(initial=0))

    def blocks(self, paths: Sequence[str], start: int = 0) -> Iterator[dict[str, Raw]]:
        for path in paths:
            self.check(path)
            rows = self.shape(path)[:1]
            if path not in self._flat and rows != (self.n,):
                raise ValueError(
                    f"{self.path}: {path} has shape {self.shape(path)}, expected {self.n} rows, "
                    "one for each event"
                )
        size = sum(map(self._row_bytes, paths))
        if self._offsets is not None and self.n:
            size *= 1 + int(self._offsets[-1]) // self.n
        rows_at_once = max(1, BLOCK_BYTES // max(1, size))
        chunk = max(map(self._chunk, paths), default=1)
        if chunk <= 16 * rows_at_once:  # whole chunks, so that none is decompressed twice
            rows_at_once = max(chunk, rows_at_once - rows_at_once % chunk)
        for first in range(start, self.n, rows_at_once):
            stop = min(first + rows_at_once, self.n)
            yield {path: self._block(path, first, stop) for path in paths}

    def _chunk(self, path: str) -> int:
        """Return how many rows are stored together."""
        return 1

    def _block(self, path: str, start: int, stop: int) -> Raw:
        if path not in self._flat:
            return self._rows(path, slice(start, stop))
        assert self._offsets is not None
        ends = self._offsets[start : stop + 1]
        values = self._rows(path, slice(int(ends[0]), int(ends[-1])))
        assert isinstance(values, np.ndarray)
        return Jagged(values, np.diff(ends))


def _checked_offsets(offsets: Raw, name: str, path: Path) -> NDArray[np.int64]:
    if isinstance(offsets, Jagged) or offsets.dtype.kind not in "fiu" or offsets.ndim != 1:
        raise ValueError(f"{path}: {name} is no list of offsets, expected shape (n + 1,)")
    if not len(offsets):
        raise ValueError(f"{path}: {name} is no list of offsets, expected shape (n + 1,)")
    with np.errstate(invalid="ignore"):
        whole: NDArray[np.int64] = offsets.astype(np.int64)
    if (whole != offsets).any() or whole[0] != 0 or (np.diff(whole) < 0).any():
        raise ValueError(
            f"{path}: {name} begins with {offsets[0]}, expected whole numbers that rise from 0"
        )
    return whole


class Hdf5Source(ArraySource):
    """An HDF5 file; the columns of a table of pandas go by their names."""

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, open_events(path)
        found: dict[str, Any] = {}

        def visit(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset) and node.ndim and node.dtype is not None:
                found[name] = node

        with named_errors(path):
            self._file.visititems(visit)
        self._datasets = found

    def close(self) -> None:
        self._file.close()

    def begin(self, paths: Sequence[str], offsets: str, flat: Sequence[str]) -> None:
        held = [one for one in (*paths, *flat, offsets) if one in self._datasets]
        require_whole(self._file, held, self.path)
        super().begin(paths, offsets, flat)

    def paths(self) -> tuple[str, ...]:
        return tuple(self._datasets)

    def columns(self, path: str) -> dict[str, Any] | None:
        dataset = self._datasets[path]
        if dataset.dtype.names is None:
            return None
        named = {field: field for field in dataset.dtype.names}
        for field in dataset.dtype.names:
            told = dataset.attrs.get(f"{field}_kind")
            if isinstance(told, (bytes, np.void)) and len(dataset.dtype[field].shape) == 1:
                try:
                    listed = _pickled_texts(told if isinstance(told, bytes) else told.tobytes())
                except (ValueError, OverflowError, UnicodeDecodeError) as error:
                    raise ValueError(
                        f"{self.path}: the names of {path}/{field} cannot be read ({error})"
                    ) from None
                if len(listed) == dataset.dtype[field].shape[0]:
                    named |= {name: (field, k) for k, name in enumerate(listed)}
        return named

    def shape(self, path: str) -> tuple[int, ...]:
        shape: tuple[int, ...] = self._datasets[path].shape
        return shape

    def _row_bytes(self, path: str) -> int:
        dataset = self._datasets[path]
        size = max(int(dataset.dtype.itemsize), 1)
        if dataset.dtype.kind == "O":
            size = 2048
        return size * int(np.prod(dataset.shape[1:], dtype=np.int64))

    def _chunk(self, path: str) -> int:
        chunks = self._datasets[path].chunks
        return int(chunks[0]) if chunks and path not in self._flat else 1

    def _rows(self, path: str, there: slice) -> Raw:
        dataset = self._datasets[path]
        if dataset.dtype.kind == "O" and h5py.check_vlen_dtype(dataset.dtype) is None:
            raise ValueError(
                f"{self.path}: {path} holds texts or references, expected numbers or lists of them"
            )
        try:
            values: NDArray[Any] = dataset[there]
        except Exception as error:
            if not of_hdf5(error):
                raise
            if lacking := missing_filters(dataset):
                raise OSError(
                    f"{self.path} is compressed with {', '.join(lacking)}, which HDF5 lacks here; "
                    f"{MENDED_BY}"
                ) from error
            try:
                values = dataset[there]  # with the filters that have been loaded meanwhile
            except Exception:
                raise OSError(
                    f"{self.path}: {path} cannot be read, the file is damaged ({error}); fetch or "
                    "make it again"
                ) from error
        if values.dtype.kind != "O":
            return values
        lengths = np.array([len(row) for row in values], np.int64)
        return Jagged(np.concatenate([*values, np.zeros(0, np.float32)]), lengths)


def _pickled_texts(told: bytes) -> list[str]:
    """Return the texts of a pickled list of texts, without unpickling it."""
    return [
        value
        for code, value, _ in pickletools.genops(told)
        if code.name in ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "STRING", "BINSTRING")
        and isinstance(value, str)
    ]


class NumpySource(ArraySource):
    """A .npy file, whose array is called `x`, or a .npz file, whose arrays have their own names.

    They are read from front to back, and never mapped into memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrays: dict[str, _Stored] = {}
        self._archive: zipfile.ZipFile | None = None
        try:
            if zipfile.is_zipfile(path):
                self._archive = zipfile.ZipFile(path)
                for told in self._archive.infolist():
                    if told.filename.endswith(".npy"):
                        opened = partial(self._archive.open, told.filename)
                        stored = _Stored(opened, f"{path}: {told.filename}", told.file_size)
                        self._arrays[told.filename.removesuffix(".npy")] = stored
            else:
                length = path.stat().st_size
                self._arrays = {
                    "x": _Stored(lambda: path.open("rb"), str(path), length, packed=False)
                }
            total = sum(array.bytes for array in self._arrays.values())
            check_expansion(total, path.stat().st_size, str(path))
        except _DAMAGED as error:
            self.close()
            if isinstance(error, EOFError) and str(error):
                raise OSError(f"{path} {error}; fetch or make it again") from None
            raise OSError(f"{path} is damaged ({error}); fetch or make it again") from None
        except ValueError as error:
            self.close()
            raise ValueError(
                f"{path} cannot be read as an array of numbers ({error}); save it as one, without "
                "objects"
            ) from None

    def close(self) -> None:
        for array in self._arrays.values():
            array.close()
        if self._archive is not None:
            self._archive.close()

    def paths(self) -> tuple[str, ...]:
        return tuple(self._arrays)

    def shape(self, path: str) -> tuple[int, ...]:
        shape: tuple[int, ...] = self._arrays[path].shape
        return shape

    def _row_bytes(self, path: str) -> int:
        array = self._arrays[path]
        return int(array.dtype.itemsize * np.prod(array.shape[1:], dtype=np.int64))

    def _rows(self, path: str, there: slice) -> Raw:
        rows: NDArray[Any] = np.asarray(self._arrays[path][there])
        return rows

    def columns(self, path: str) -> dict[str, Any] | None:
        fields = self._arrays[path].dtype.names
        return None if fields is None else {field: field for field in fields}


class _Stored:
    """An array in a stream, read from front to back.

    Arguments:
        opened: opens the stream.
        name: what it is called in errors.
        length: how many bytes the stream has.
        packed: whether the stream is packed, so that going back in it reads it anew.
    """

    def __init__(
        self, opened: Callable[[], IO[bytes]], name: str, length: int, *, packed: bool = True
    ) -> None:
        self._opened, self._name, self._packed = opened, name, packed
        self._stream = opened()
        try:
            version = np.lib.format.read_magic(self._stream)
            read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                version, np.lib.format.read_array_header_2_0
            )
            self.shape, self._columnwise, self.dtype = read(self._stream)
            if self.dtype.hasobject:
                raise ValueError(f"{name} holds objects of Python")
            self.bytes = self.dtype.itemsize * math.prod(self.shape)
            if min(self.shape, default=0) < 0 or self._stream.tell() + self.bytes > length:
                raise EOFError(
                    f"ends too early, the file is damaged: shape {self.shape}, "
                    f"{self.bytes:,} bytes, in {length:,}"
                )
        except BaseException:
            self._stream.close()
            raise
        self._at = 0
        self._whole: NDArray[Any] | None = None
        self._begin = self._stream.tell()

    def __getitem__(self, there: slice) -> NDArray[Any]:
        start, stop, _ = there.indices(self.shape[0])
        if self._columnwise and len(self.shape) > 1:  # the rows do not stand one after the other
            if not self._packed:
                return self._of_columns(start, stop)
            if self._whole is None:
                self._stream.seek(self._begin)
                flat = self._numbers(math.prod(self.shape))
                self._whole = flat.reshape(self.shape[::-1]).T
            return self._whole[start:stop]
        size = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        if start != self._at:
            self._stream.seek(self._begin + start * size)
        values = self._numbers((stop - start) * (size // max(1, self.dtype.itemsize)))
        self._at = stop
        return values.reshape(stop - start, *self.shape[1:])

    def _of_columns(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows of an array whose columns stand one behind the other."""
        columns = int(np.prod(self.shape[1:], dtype=np.int64))
        values = np.empty((columns, stop - start), self.dtype)
        for k in range(columns):
            self._stream.seek(self._begin + (k * self.shape[0] + start) * self.dtype.itemsize)
            values[k] = self._numbers(stop - start)
        return values.reshape(*self.shape[:0:-1], stop - start).T

    def _numbers(self, n: int) -> NDArray[Any]:
        """Return the next numbers of the stream."""
        size = n * self.dtype.itemsize
        try:
            data = self._stream.read(size)
        except _DAMAGED as error:
            raise OSError(f"{self._name} is damaged ({error}); fetch or make it again") from None
        if len(data) != size:
            raise OSError(f"{self._name} ends too early, the file is damaged")
        return np.frombuffer(data, self.dtype)

    def close(self) -> None:
        self._stream.close()
