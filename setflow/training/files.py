"""The files of a training: one, several, or several of each class."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from setflow.files import same_file
from setflow.shipped import JETS, find, known

__all__ = ["CLASS", "DataFile", "Files", "classes_of", "files_of", "in_both", "is_there"]

CLASS = "class"
"""The name of the condition that tells of which class an event is."""

Files = Mapping[str, Any] | Sequence[str] | str
"""A path, a pattern with `*` or `?`, or a list of these; or such for each class, by its name."""


class DataFile(NamedTuple):
    """A file of events.

    Attributes:
        path: where, or the name of a shipped one.
        label: the class of its events, or None.
    """

    path: str
    label: str | None = None


def files_of(given: Files, what: str = "data.train") -> tuple[DataFile, ...]:
    """Return the files that are meant, in their order; those of a pattern by name.

    Arguments:
        given: what a user gives.
        what: what it is called in errors.

    Raises:
        FileNotFoundError: if a pattern matches nothing.
        ValueError: if it is neither, or a file stands twice.

    >>> files_of({"top": ["a.h5", "b.h5"], "gluon": "g.h5"})[1:]
    (DataFile(path='b.h5', label='top'), DataFile(path='g.h5', label='gluon'))
    """
    labelled = given.items() if isinstance(given, Mapping) else [(None, given)]
    found = [
        DataFile(path, label)
        for label, entries in labelled
        for path in _paths(entries, what if label is None else f"{what}.{label}")
    ]
    if not found:
        raise ValueError(f"{what} names no file, expected a path, a list of paths, or classes")
    first: dict[Path, DataFile] = {}
    for entry in found:
        other = first.setdefault(find(JETS, entry.path).resolve(), entry)
        if other is not entry:
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


def in_both(some: Sequence[DataFile], others: Sequence[DataFile]) -> str | None:
    """Return the path of a file that stands in both, or None."""
    for mine in some:
        for theirs in others:
            if same_file(find(JETS, mine.path), find(JETS, theirs.path)):
                return mine.path
    return None


def _paths(entries: Any, what: str) -> list[str]:
    if isinstance(entries, (str, Path)):
        entries = [entries]
    if isinstance(entries, Mapping) or not isinstance(entries, Sequence):
        raise ValueError(f"{what} is {entries!r}, expected a path or a list of paths")
    found: list[str] = []
    for entry in entries:
        if not isinstance(entry, (str, Path)):
            raise ValueError(f"{what} holds {entry!r}, expected a path")
        path = str(entry)
        if Path(path).exists() or not glob.has_magic(path):
            found.append(path)
        elif matched := sorted(glob.glob(path, recursive=True)):
            found += matched
        else:
            raise FileNotFoundError(
                f"{what}: no file matches {path}; check the path; {known(JETS, path)}"
            )
    return found
