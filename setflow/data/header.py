"""What a file of events says of itself, known without its rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from setflow.data.formats.recognise import of_bytes, told_of
from setflow.data.inspection import Hdf5File, inspect
from setflow.data.jets import RESERVED
from setflow.data.layouts import Layout, layout_of
from setflow.data.sample import Described
from setflow.files import require_regular
from setflow.schema import Category, Feature, Schema, names, words_of
from setflow.shipped import JETS as SHIPPED
from setflow.shipped import find, known

__all__ = [
    "EventHeader",
    "OpenEvents",
    "datasets_of",
    "header_of",
    "open_events",
    "read_header",
    "require_objects",
]


@dataclass(frozen=True)
class EventHeader(Described):
    """What a file says about itself, known without reading its rows.

    Arguments:
        n: the number of events.
        objects: the number of slots `N`; where a file has none, of the objects of the longest
            event.
        schema: the features of objects and events, with their units as they are read; those that
            the layout knows stand first.
        keys: the datasets of the layout that the file holds.
        attributes: the attributes of the file that whoever wrote it added.
        columns: the names of the columns of an object in the order of the file, in JetNet's layout
            with `mask`.
        layout_version: 1, JetNet's layout, or 2, that of events of any schema.
        tells_kinds: whether kinds are known; without its schema a file of version 2 has numbers.
    """

    n: int
    objects: int
    schema: Schema
    keys: tuple[str, ...]
    attributes: dict[str, Any]
    columns: tuple[str, ...]
    layout_version: int
    tells_kinds: bool


def read_header(path: str | os.PathLike[str]) -> EventHeader:
    """Return the header of a file of events; shapes and completeness are checked, values are not.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if the file is not HDF5, or broken.
        ValueError: if it does not have a layout, names that agree, or known units.
    """
    path = find(SHIPPED, path)
    with open_events(path) as file:
        return header_of(layout_of(file, path))


def datasets_of(path: Path) -> set[str]:
    """Return the names of the datasets of a file, those beyond the layout included."""
    with open_events(path) as file:
        return set(file)


def open_events(path: Path) -> Any:
    """Return the open HDF5 file, when its structure has been looked at.

    Errors of HDF5 that leave a `with` statement of it name the file.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it is no regular file, not HDF5, damaged, or declares more than it holds.
        ValueError: if it leads to other files; see `setflow.data.inspection`.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the path; {known(SHIPPED, path)}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected an HDF5 file of events")
    require_regular(path)
    try:
        file = Hdf5File(path, "r", locking="best-effort")
    except (OSError, RuntimeError, ValueError) as error:
        broken = h5py.is_hdf5(path)
        if not broken and (alien := of_bytes(path)) is not None:
            raise OSError(told_of(path, *alien)) from None
        raise OSError(
            f"{path} is {'a damaged HDF5 file' if broken else 'not an HDF5 file'} ({error}); "
            + ("fetch or make it again" if broken else "expected an HDF5 file of events")
        ) from error
    try:
        inspect(file, path)
    except BaseException:
        file.close()
        raise
    return file


def require_objects(
    path: Path, header: EventHeader, wanted: Sequence[Feature], whose: str, instead: str
) -> None:
    """Refuse a file of events whose objects are something else than what is wanted.

    A file that lacks a few of many features is left to the reader, which knows names that are near.

    Arguments:
        path: the file.
        header: what it says of itself.
        wanted: the features that an object must have.
        whose: who has them, in words, such as "the model makes".
        instead: the next step.

    Raises:
        ValueError: if most of the features are not there, or one is a category of other names.
    """
    held = {entry.name: entry for entry in header.schema.objects}
    there = [entry for entry in wanted if entry.name in held]
    other = [
        entry
        for entry in there
        if header.tells_kinds
        and Category in (type(entry.kind), type(held[entry.name].kind))
        and entry.kind != held[entry.name].kind
    ]
    if 2 * len(there) >= len(wanted) and not other:
        return
    told = [words_of(list(held)).events, words_of(names(wanted)).events]
    mine, theirs = ", ".join(held), ", ".join(names(wanted))
    if other:
        mine = f"{other[0].name} as {held[other[0].name].kind}"
        theirs = f"{other[0].name} as {other[0].kind}"
    raise ValueError(
        f"{path} holds {told[0]} with {mine}, and {whose} {told[1]} with {theirs}; {instead}"
    )


class OpenEvents:
    """An HDF5 file that stays open; each process that is handed it opens it for itself.

    Arguments:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._process = -1

    @property
    def file(self) -> Any:
        """The file, open in this process.

        Raises:
            OSError, ValueError: as `open_events`.
        """
        if self._file is None or self._process != os.getpid():
            self._file, self._process = open_events(self.path), os.getpid()
        return self._file

    def close(self) -> None:
        """Close the file, if this process has opened it."""
        if self._file is not None and self._process == os.getpid():
            self._file.close()
        self._file = None

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenEvents, (self.path,)


def header_of(layout: Layout) -> EventHeader:
    """Return the header of an open file; `read_header` without opening it."""
    reserved = {*RESERVED, "format", "schema"}
    told = {name: value for name, value in layout.file.attrs.items() if name not in reserved}
    tells_kinds = layout.version == 1 or "schema" in layout.file.attrs
    return EventHeader(
        layout.n, layout.objects, layout.schema, layout.keys, told, layout.columns,
        layout.version, tells_kinds,
    )  # fmt: skip
