"""An HDF5 file that is written while something else is computed, and outlives a full disk.

HDF5 does not survive a write that fails: where a disk is full or a quota is reached, it ends the
process, sometimes long after. So it writes here by ordinary calls of the system, whose failures it
is not told of: what could not be written is kept, for HDF5 to read back, and the failure is raised
when its call is done. All of its calls come from one thread, in which no signal raises.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py

from setflow.background import Background
from setflow.opened import Opened

__all__ = ["CheckedFile", "Hdf5Output"]


class CheckedFile(io.RawIOBase):
    """The file to which HDF5 writes; `check` raises what went wrong.

    Arguments:
        path: a file that is there.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0
        self._descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        self._error: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []

    def __repr__(self) -> str:  # what HDF5 calls it in its errors
        return str(self._path)

    def check(self) -> None:
        """Raise the first failure, if there was one.

        Raises:
            OSError: what the system said, with the name of the file.
        """
        if self._error is not None:
            told = OSError(f"{self._path} cannot be written: {self._error.strerror}")
            told.errno = self._error.errno
            raise told from self._error

    def sync(self) -> None:
        """Wait until what was written is on disk."""
        self._tried(lambda: os.fsync(self._descriptor))

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)

    # --- what HDF5 calls ---

    def seek(self, offset: int, whence: int = 0) -> int:
        ends = (0, self._at, max([self._size(), *(at + len(part) for at, part in self._unwritten)]))
        self._at = ends[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0

        def write() -> None:
            nonlocal done
            os.lseek(self._descriptor, self._at, os.SEEK_SET)
            while done < len(view):
                done += os.write(self._descriptor, view[done:])

        if self._error is None:
            self._tried(write)
        if done < len(view):
            self._unwritten.append((self._at + done, bytes(view[done:])))
        self._at += len(view)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        os.lseek(self._descriptor, self._at, os.SEEK_SET)
        found = os.read(self._descriptor, len(view))
        view[:] = found + bytes(len(view) - len(found))
        for at, part in self._unwritten:
            first, last = max(at, self._at), min(at + len(part), self._at + len(view))
            if first < last:
                view[first - self._at : last - self._at] = part[first - at : last - at]
        self._at += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        size = self._at if size is None else size
        if self._error is None:
            self._tried(lambda: os.ftruncate(self._descriptor, size))
        return size

    def _size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def _tried(self, call: Callable[[], object]) -> None:
        try:
            call()
        except OSError as error:
            self._error = self._error or error


class Hdf5Output(Opened):
    """An HDF5 file and the thread that writes it; a context manager.

    Arguments:
        path: a file that is there, as `setflow.files.NewFile` makes it.
        mode: "w" begins it anew, "r+" goes on with it.

    Raises:
        OSError: on entering and in all calls, if the file cannot be written; a call may raise what
            went wrong in one before it.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".h5") as place:
    ...     with Hdf5Output(Path(place.name), "w") as output:
    ...         output.do(lambda file: file.create_dataset("x", data=[1.0, 2.0], dtype="f8"))
    ...     with h5py.File(place.name) as file:
    ...         file["x"][:].tolist()
    [1.0, 2.0]
    """

    def __init__(self, path: Path, mode: str) -> None:
        self._path, self._mode = path, mode
        self._file: Any = None
        self._under: CheckedFile
        self._background: Background

    def _enter(self, stack: ExitStack) -> None:
        self._under, self._background = CheckedFile(self._path), Background()
        stack.push(self._end)
        self._background.do(self._begin)
        self._background.wait()

    def _end(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            file, self._file = self._file, None
            failure = self._background.close(None if file is None else file.close)
            self._under.close()
        if kind is None:
            self._under.check()
            if failure is not None:
                raise failure

    def do(self, call: Callable[[Any], object]) -> None:
        """Let the thread call something with the open file, after what it was given before."""

        def checked() -> None:
            call(self._file)
            self._under.check()

        self._background.do(checked)

    def wait(self) -> None:
        """Wait until all that the thread was given is done."""
        self._background.wait()

    def sync(self) -> None:
        """Let the thread wait until what was written is on disk."""

        def sync(file: Any) -> None:
            file.flush()
            self._under.sync()

        self.do(sync)

    def _begin(self) -> None:
        self._file = h5py.File(self._under, self._mode)
        self._under.check()
