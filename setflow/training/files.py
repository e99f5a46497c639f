"""The files of a training: one, several, or several of each class."""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from setflow.data.header import read_header
from setflow.files import same_file
from setflow.shipped import JETS, find, known

__all__ = [
    "CLASS",
    "DataFile",
    "Files",
    "classes_of",
    "files_of",
    "in_both",
    "is_there",
    "paths_of",
    "require_class",
]

CLASS = "class"
"""The name of the condition that tells of which class an event is."""

Files = Mapping[str, Any] | Sequence[str] | str
"""A path, a pattern with `*` or `?`, a folder, or a list of these; or such for each class, by name.

A path may tell rows, as `jets.h5[0:50000]`.
"""


class DataFile(NamedTuple):
    """A file of events, or some of its rows.

    Attributes:
        path: where, or the name of a shipped one.
        label: the class of its events, or None.
        start: the first row that is taken.
        stop: the row before which it stops; None takes all.
    """

    path: str
    label: str | None = None
    start: int = 0
    stop: int | None = None

    def overlaps(self, other: DataFile) -> bool:
        """Return whether rows of the one, which is of the same file, are rows of the other."""
        ends = [math.inf if one.stop is None else one.stop for one in (self, other)]
        return self.start < ends[1] and other.start < ends[0]


def files_of(given: Files, what: str = "data.train") -> tuple[DataFile, ...]:
    """Return the files that are meant, in their order; those of a pattern or folder by name.

    Arguments:
        given: what a user gives.
        what: what it is called in errors.

    Raises:
        FileNotFoundError: if a pattern matches nothing, or a folder holds no HDF5 file.
        ValueError: if it is neither, or a row stands twice.

    >>> [(file.path, file.label) for file in files_of({"top": ["a.h5", "b.h5"], "gluon": "g.h5"})]
    [('a.h5', 'top'), ('b.h5', 'top'), ('g.h5', 'gluon')]
    >>> files_of("jets.h5[1000:]")[0].start
    1000
    """
    labelled = given.items() if isinstance(given, Mapping) else [(None, given)]
    found = [
        DataFile(path, label, start, stop)
        for label, entries in labelled
        for path, start, stop in paths_of(entries, what if label is None else f"{what}.{label}")
    ]
    if not found:
        raise ValueError(f"{what} names no file, expected a path, a list of paths, or classes")
    before: dict[Path, list[DataFile]] = {}
    for entry in found:
        others = before.setdefault(find(JETS, entry.path).resolve(), [])
        other = next((one for one in others if one.overlaps(entry)), None)
        others.append(entry)
        if other is not None:
            where = f", for {other.label} and {entry.label}" if other.label != entry.label else ""
            raise ValueError(f"{what} has the file {entry.path} twice{where}; give it once")
    return tuple(found)


def is_there(given: Files) -> bool:
    """Return whether the first of the files that are meant exists."""
    try:
        return find(JETS, files_of(given)[0].path).is_file()
    except FileNotFoundError:
        return False


def classes_of(given: Files) -> tuple[str, ...]:
    """Return the names of the classes of files, in their order; nothing if they have none."""
    return tuple(map(str, given)) if isinstance(given, Mapping) else ()


def require_class(path: str) -> None:
    """Refuse a file that does not tell the class of its events, where a model is conditioned on it.

    Arguments:
        path: the file, without a class of its own in the configuration.

    Raises:
        FileNotFoundError, OSError: if it cannot be read.
        ValueError: if it has no column of that name; it says how files of each class are named.
    """
    if CLASS not in read_header(path).event_features:
        raise ValueError(
            f"{path} has no column '{CLASS}', on which the model is conditioned; name the files of "
            "each class, such as data.train: {top: a.h5, gluon: b.h5} (data.val likewise), or give "
            "a file that holds it"
        )


def in_both(some: Sequence[DataFile], others: Sequence[DataFile]) -> str | None:
    """Return the path of a file of which rows stand in both, or None."""
    for mine in some:
        for theirs in others:
            if mine.overlaps(theirs) and same_file(find(JETS, mine.path), find(JETS, theirs.path)):
                return mine.path
    return None


def paths_of(entries: Any, what: str) -> list[tuple[str, int, int | None]]:
    """Return paths, each with the rows that are taken."""
    if isinstance(entries, (str, Path)):
        entries = [entries]
    if isinstance(entries, Mapping) or not isinstance(entries, Sequence):
        raise ValueError(f"{what} is {entries!r}, expected a path or a list of paths")
    found: list[tuple[str, int, int | None]] = []
    for entry in entries:
        if not isinstance(entry, (str, Path)):
            raise ValueError(f"{what} holds {entry!r}, expected a path")
        path, start, stop = str(entry), 0, None
        rows = re.fullmatch(r"(.+)\[(\d*):(\d*)\]", path)
        if rows is not None and not Path(path).exists():
            path, start = rows[1], int(rows[2] or 0)
            stop = int(rows[3]) if rows[3] else None
            if stop is not None and stop <= start:
                raise ValueError(f"{what}: {entry} takes no rows; expected FILE[FIRST:STOP]")
        found += [(one, start, stop) for one in _matching(path, what)]
    return found


def _matching(path: str, what: str) -> list[str]:
    if Path(path).is_dir():
        inside = sorted(str(one) for one in Path(path).iterdir() if one.suffix in (".h5", ".hdf5"))
        if not inside:
            raise FileNotFoundError(
                f"{what}: the folder {path} holds no file named .h5 or .hdf5; give their pattern, "
                f"{path}/*"
            )
        return inside
    if Path(path).exists() or not glob.has_magic(path):
        return [path]
    if matched := sorted(glob.glob(path, recursive=True)):
        return matched
    raise FileNotFoundError(f"{what}: no file matches {path}; check the path; {known(JETS, path)}")
