"""Events of a run that are kept in pieces until all are there: whole files, whenever it is killed.

Beside the target `jets.h5` stands, while it is made, the folder `jets.h5.part`. Its `manifest.json`
says what the events depend on; its files, `000000000000-000000065536.h5` and so on, hold the events
that are done, each written by `setflow.files` so that it is whole or not there. The same call finds
them again, looks whether each is what its manifest says, and makes what is missing. At the end the
files become the target: one file, or the folder itself.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import h5py

from setflow.background import Background
from setflow.data.manifest import manifest_of, problems_of, read_folder
from setflow.data.merging import merge
from setflow.files import MANIFEST, check_target, file_sha256, in_use_by_one, move, write_text
from setflow.opened import Opened

__all__ = ["PieceWriter", "Pieces", "refuse_another", "require_made_so", "written_in"]

SHARD = 2**16  # events of a file of a folder
_SECONDS = 60.0  # so long a piece is written to at most; a kill loses no more
_NAME = re.compile(r"(\d{12})-(\d{12})\.h5")


class PieceWriter(AbstractContextManager["PieceWriter"], Protocol):
    """What writes a piece."""

    def write(self, batch: Any) -> None: ...


class _Piece(NamedTuple):
    first: int
    stop: int
    path: Path


class Pieces(Opened):
    """The pieces of a run; a context manager that ends with the target.

    An error leaves what is done, also the events of the piece that was being written; if nothing is
    done, it leaves nothing.

    Arguments:
        target: what is to be made: a file named .h5 or .hdf5, or else a folder.
        plan: what the events depend on; pieces of another plan are not gone on with.
        rows: the numbers of the events.
        write: returns the writer of a piece, given its path and the number of its first event.
        overwrite: replace the target if it is there, and pieces of another plan.

    Raises:
        OSError: on entering, if there is a target and it may not be replaced, or another process
            works on it; and if a piece cannot be written.
        ValueError: on entering, if there are pieces of another plan.
    """

    def __init__(
        self,
        target: Path,
        plan: Mapping[str, Any],
        rows: range,
        write: Callable[[Path, int], PieceWriter],
        *,
        overwrite: bool,
    ) -> None:
        self._target, self._rows, self._write = target, rows, write
        self._plan = {**plan, "first": rows.start, "stop": rows.stop}
        self._overwrite, self._single = overwrite, is_file_name(target)
        self._part = part_of(target)
        self._background: Background
        self._piece: tuple[int, int, PieceWriter, float] | None = None

    def _enter(self, stack: ExitStack) -> None:
        self._check_target()
        if not self._part.is_dir():
            if os.path.lexists(self._part):
                raise self._alien()
            self._part.mkdir(exist_ok=True)
        stack.enter_context(in_use_by_one(self._part))
        stack.callback(self._leave_nothing)
        self._prepare()
        self._background = Background()
        stack.push(self._end)

    def _end(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._background.do(lambda: self._while_there(self._end_piece))
                self._background.wait()
        finally:
            self._background.close(lambda: self._end_piece(discard=self._background.failed))
        if kind is None:
            self._publish()

    def finished(self) -> bool:
        """Return whether the target is there, as it would be made again; remove what is left over.

        Raises:
            FileExistsError: if it is there, made otherwise, and may not be replaced.
        """
        if self._overwrite or not self._target.exists():
            return False
        require_made_so(self._target, self._plan)
        if self._part.is_dir() and _is_ours(self._part):  # killed before it was removed
            with in_use_by_one(self._part):
                shutil.rmtree(self._part)
        return True

    @property
    def done(self) -> int:
        """How many events are there."""
        return sum(stop - first for first, stop, _ in self._found())

    def missing(self, block: int) -> Iterator[range]:
        """Yield the numbers of events that are not there, so many at a time.

        The blocks begin where they would if nothing were there, so each is computed as it would be.
        """
        there = list(self._found())
        for first in range(self._rows.start, self._rows.stop, block):
            stop = min(first + block, self._rows.stop)
            if not any(piece.first <= first and stop <= piece.stop for piece in there):
                yield range(first, stop)

    def append(self, rows: range, batch: Any) -> None:
        """Hand over events, which are written in the background.

        Raises:
            OSError: if those of a call before could not be written.
        """
        self._background.do(lambda: self._while_there(lambda: self._append(rows, batch)))

    # --- in the background ---

    def _while_there(self, call: Callable[[], object]) -> None:
        try:
            call()
        except FileNotFoundError as error:
            if self._part.is_dir():
                raise
            raise FileNotFoundError(
                f"{self._part} is gone: it was removed, or is in use by another process; start "
                "again"
            ) from error

    def _append(self, rows: range, batch: Any) -> None:
        if self._piece is not None and self._piece[1] != rows.start:
            self._end_piece()
        if self._piece is None:
            path = self._part / f".{rows.start}.piece.h5"
            path.unlink(missing_ok=True)
            writer = self._write(path, rows.start)
            writer.__enter__()
            self._piece = (rows.start, rows.start, writer, time.monotonic())
        first, _, writer, begun = self._piece
        try:
            writer.write(batch)
        except BaseException as error:
            self._piece = None
            writer.__exit__(type(error), error, None)
            raise
        self._piece = (first, rows.stop, writer, begun)
        if time.monotonic() - begun >= _SECONDS or (rows.stop - self._rows.start) % SHARD == 0:
            self._end_piece()

    def _end_piece(self, *, discard: bool = False) -> None:
        if self._piece is None:
            return
        (first, stop, writer, _), self._piece = self._piece, None
        if discard or stop == first:
            error = RuntimeError("discarded")
            writer.__exit__(RuntimeError, error, None)
            return
        writer.__exit__(None, None, None)
        move(self._part / f".{first}.piece.h5", self._part / _name(first, stop))

    # --- what is there ---

    def _check_target(self) -> None:
        check_target(self._target, overwrite=self._overwrite)
        if self._single and self._target.is_dir():
            raise IsADirectoryError(f"{self._target} is a folder, expected the name of a file")
        empty = self._target.is_dir() and not any(self._target.iterdir())
        strange = self._target.exists() and not empty and not _is_finished(self._target)
        if not self._single and strange:
            raise FileExistsError(
                f"{self._target} is not a folder that this command made (it holds no {MANIFEST} of "
                "a sample), so it is not replaced; choose another name"
            )

    def _prepare(self) -> None:
        """Take what is there, if it belongs to this run, or begin."""
        if not _is_ours(self._part):
            raise self._alien()
        if (self._part / MANIFEST).exists():
            try:
                refuse_another(self._part, read_folder(self._part)["plan"], self._plan)
            except ValueError:
                if not self._overwrite:
                    raise
                for path in self._part.iterdir():
                    path.unlink()
        for path in self._part.glob(".*"):  # of a process that has been killed
            path.unlink()
        if not (self._part / MANIFEST).exists():
            self._tell(())
        end = self._rows.start
        for piece in sorted(self._found(), key=lambda piece: (piece.first, -piece.stop)):
            problem = _problem(piece)
            if problem is not None:
                warnings.warn(f"{piece.path} is made anew: {problem}", stacklevel=4)
            if problem is not None or piece.stop <= end:  # or a part of another one
                piece.path.unlink()
            else:
                end = piece.stop

    def _alien(self) -> FileExistsError:
        return FileExistsError(
            f"{self._part} is not a folder that this command made, so it is not touched; choose "
            "another name for the output"
        )

    def _found(self) -> Iterator[_Piece]:
        for path in sorted(self._part.iterdir()):
            match = _NAME.fullmatch(path.name)
            if match is not None:
                yield _Piece(int(match[1]), int(match[2]), path)

    def _tell(self, pieces: Iterator[_Piece] | tuple[()]) -> None:
        files = {
            piece.path.name: {
                "first": piece.first,
                "stop": piece.stop,
                "bytes": piece.path.stat().st_size,
                "sha256": file_sha256(piece.path),
            }
            for piece in pieces
        }
        nodes = {
            "first": self._rows.start, "stop": self._rows.stop, "plan": self._plan, "files": files
        }  # fmt: skip
        write_text(self._part / MANIFEST, json.dumps(nodes, indent=1) + "\n")

    def _leave_nothing(self) -> None:
        """Remove the folder if nothing is in it that cost work."""
        if self._part.is_dir() and _is_ours(self._part) and not any(self._found()):
            shutil.rmtree(self._part)

    # --- the end ---

    def _publish(self) -> None:
        if not self._rows:
            path = self._part / _name(self._rows.start, self._rows.start)
            with self._write(path, self._rows.start):
                pass
        pieces = list(self._found())
        if not self._single:
            self._publish_folder(pieces)
        elif len(pieces) > 1:
            paths = [piece.path for piece in pieces]
            merge(paths, self._target, overwrite=self._overwrite, whole=False)
        else:
            self._check_target()  # it may have appeared meanwhile
            move(pieces[0].path, self._target)
        shutil.rmtree(self._part, ignore_errors=not self._single)

    def _publish_folder(self, pieces: list[_Piece]) -> None:
        shards = itertools.groupby(pieces, lambda piece: (piece.first - self._rows.start) // SHARD)
        for of_shard in [list(group) for _, group in shards]:
            if len(of_shard) > 1:
                beside = self._part / ".merged.h5"
                merge([piece.path for piece in of_shard], beside, overwrite=True, whole=False)
                move(beside, self._part / _name(of_shard[0].first, of_shard[-1].stop))
                for piece in of_shard:
                    piece.path.unlink()
        self._tell(self._found())
        self._check_target()
        old = self._target.with_name(f".{self._target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self._target.exists():
            move(self._target, old)
        move(self._part, self._target)
        shutil.rmtree(old, ignore_errors=True)


def is_file_name(path: Path) -> bool:
    """Return whether a name is that of an HDF5 file, and not of a folder."""
    return path.suffix.lower() in (".h5", ".hdf5")


def part_of(target: Path) -> Path:
    """Return where the pieces of a target are kept."""
    return target.with_name(f"{target.name}.part")


def written_in(target: Path) -> int:
    """Return how many events of a target that is not finished are kept.

    >>> written_in(Path("no such.h5"))
    0
    """
    part = part_of(target)
    matches = [_NAME.fullmatch(path.name) for path in part.iterdir()] if part.is_dir() else []
    return sum(int(match[2]) - int(match[1]) for match in matches if match is not None)


def require_made_so(target: Path, plan: Mapping[str, Any]) -> None:
    """Require that a file or folder that is there is what would be made.

    Arguments:
        target: what is there.
        plan: what it would depend on.

    Raises:
        FileExistsError: if it is not.
    """
    try:
        found = _plan_of(target)
    except (OSError, ValueError):
        found = {}
    if not found:
        raise FileExistsError(
            f"{target} exists already; choose another name, or overwrite it with overwrite=True"
        )
    if told := _differences(found, plan):
        raise FileExistsError(
            f"{target} exists already, and was made otherwise: {told}; choose another name, or "
            "overwrite it with overwrite=True"
        )


def _plan_of(target: Path) -> dict[str, Any]:
    """Return what a target that is complete depends on; nothing if it does not say."""
    if target.is_dir():
        return dict(read_folder(target)["plan"])
    with h5py.File(target, "r", locking=False) as file:
        told, manifest = dict(file.attrs), manifest_of(file.attrs)
    if manifest is None or not told.get("complete", False):
        return {}
    return told | manifest._asdict()


def _name(first: int, stop: int) -> str:
    return f"{first:012}-{stop:012}.h5"


def _is_ours(folder: Path) -> bool:
    """Return whether nothing lies in a folder but what is written to it here."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else ["no folder"]
    return all(name == MANIFEST or name.startswith(".") or _NAME.fullmatch(name) for name in names)


def _is_finished(folder: Path) -> bool:
    """Return whether a folder is one that was made here; an empty one may be taken for one."""
    if not folder.is_dir() or not _is_ours(folder):
        return False
    try:
        read_folder(folder)
    except FileNotFoundError:
        return not any(folder.iterdir())
    except (OSError, ValueError):
        return False
    return True


def _problem(piece: _Piece) -> str | None:
    """Return why a piece cannot be used, or None."""
    try:
        problems = problems_of(piece.path)
        with h5py.File(piece.path, "r", locking=False) as file:
            manifest = manifest_of(file.attrs)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        return str(error)
    if manifest is None or (manifest.first, manifest.stop) != (piece.first, piece.stop):
        return "it does not hold the events that its name tells"
    return problems[0] if problems else None


def refuse_another(begun: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with what was begun otherwise.

    Arguments:
        begun: what was begun.
        found: what it depends on.
        wanted: what it would depend on now.

    Raises:
        ValueError: if they differ.
    """
    if told := _differences(found, wanted):
        raise ValueError(
            f"{begun} was begun otherwise: {told}. Call as it was begun, choose another name, or "
            "begin anew with overwrite=True"
        )


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} was {_short(found.get(name))}, is {_short(value)}"
        for name, value in wanted.items()
        if str(found.get(name)) != str(value)
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 70 else f"{text[:67]}..."
