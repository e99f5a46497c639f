"""What a file says of its own content, and a folder of the files in it, so that it can be verified.

A file that belongs to a run of events tells them in its attribute `manifest`, which is JSON:

    {"events": 1000000, "first": 0, "stop": 65536, "sha256": {"mask": "..."}, "unphysical": {}}

It holds the events from `first` to before `stop` of all `events` of the run, and the sha256 of each
dataset is that of its values, row by row. A folder of such files says in `manifest.json` what the
files have in common, and the range and the sha256 of each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from setflow.data.header import open_events
from setflow.files import MANIFEST, file_sha256, read_bounded, shortened

__all__ = [
    "Digest",
    "Manifest",
    "Run",
    "manifest_of",
    "problems_of",
    "read_folder",
]

_BYTES = 2**24  # read at a time


class Run(NamedTuple):
    """Where a file stands among those of a run.

    Attributes:
        first: the number of its first event.
        events: how many the run has altogether.
    """

    first: int
    events: int


class Manifest(NamedTuple):
    """What a file says of its content.

    Attributes:
        events: how many events the run has to which it belongs.
        first: the number of its first event.
        stop: the number behind its last one.
        sha256: that of the values of each dataset.
        unphysical: how often each feature has a value that cannot be.
    """

    events: int
    first: int
    stop: int
    sha256: dict[str, str]
    unphysical: dict[str, int]

    def text(self) -> str:
        """Return it as the file tells it; the same length whatever the hashes are.

        >>> Manifest(3, 0, 3, {}, {}).text()
        '{"events": 3, "first": 0, "stop": 3, "sha256": {}, "unphysical": {}}'
        """
        return json.dumps(self._asdict())


class Digest:
    """The sha256 of values that come block by block."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, values: NDArray[Any]) -> None:
        """Append rows."""
        self._sha256.update(np.ascontiguousarray(values).tobytes())

    def text(self) -> str:
        """Return the hash of all so far."""
        return self._sha256.hexdigest()


def manifest_of(attributes: Mapping[str, Any]) -> Manifest | None:
    """Return what the attributes of a file say of its content, or None if they do not.

    Raises:
        ValueError: if what they say is no manifest.
    """
    told = attributes.get("manifest")
    if told is None:
        return None
    try:
        nodes = json.loads(told)
        events, first, stop = (int(nodes[name]) for name in ("events", "first", "stop"))
        hashes = {str(key): str(value) for key, value in nodes["sha256"].items()}
        counts = {str(key): int(value) for key, value in nodes["unphysical"].items()}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"its manifest cannot be read: {shortened(told)}") from error
    if not 0 <= first <= stop <= events:
        raise ValueError(f"its manifest tells of the events from {first} to {stop} of {events}")
    return Manifest(events, first, stop, hashes, counts)


def problems_of(path: Path) -> list[str] | None:
    """Return in what a file, or a folder of files, differs from its manifest.

    Arguments:
        path: an HDF5 file, or a folder that `setflow sample` has made.

    Returns:
        One line for each problem, without the path; an empty list if all is as it should be, and
        None if there is no manifest.

    Raises:
        OSError: if the file cannot be opened, or there is nothing of this name.
    """
    if path.is_dir():
        return _problems_of_folder(path) if (path / MANIFEST).is_file() else None
    with open_events(path) as file:
        try:
            return _problems_of_file(file)
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            return [str(error)]


def _problems_of_file(file: Any) -> list[str] | None:
    manifest = manifest_of(file.attrs)
    if manifest is None:
        return None
    if not file.attrs.get("complete", False):
        return ["it is not complete"]
    held = {name for name in file if isinstance(file[name], h5py.Dataset)}
    if held != set(manifest.sha256):
        different = ", ".join(sorted(held ^ set(manifest.sha256)))
        return [f"its datasets are not those of its manifest: {shortened(different)}"]
    n = manifest.stop - manifest.first
    if int(file.attrs["n"]) != n:
        return [f"it holds {int(file.attrs['n'])} events, and its manifest tells {n}"]
    problems = []
    for name, expected in sorted(manifest.sha256.items()):
        dataset, digest = file[name], Digest()
        rows = max(1, _BYTES // max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))))
        for start in range(0, len(dataset), rows):
            digest.add(dataset[start : start + rows])
        if digest.text() != expected:
            problems.append(f"the values of {shortened(name)} are not those of its manifest")
    return problems


def read_folder(folder: Path) -> dict[str, Any]:
    """Return what a folder of files says of them.

    Raises:
        OSError: if it says nothing.
        ValueError: if it cannot be understood.
    """
    try:
        nodes = json.loads(read_bounded(folder / MANIFEST))
        dict(nodes["plan"])
        for name, entry in nodes["files"].items():
            str(name), int(entry["first"]), int(entry["stop"]), str(entry["sha256"])
        int(nodes["first"]), int(nodes["stop"])
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"{folder / MANIFEST} is no manifest of a sample") from error
    return dict(nodes)


def _problems_of_folder(folder: Path) -> list[str]:
    try:
        nodes = read_folder(folder)
    except ValueError as error:
        return [str(error)]
    problems, at = [], int(nodes["first"])
    for name, entry in nodes["files"].items():
        path = folder / name
        if entry["first"] != at:
            problems.append(f"the events from {at} to {entry['first']} are in no file")
        at = entry["stop"]
        if path.parent != folder or not path.is_file():
            problems.append(f"{shortened(name)} is missing")
        elif file_sha256(path) != entry["sha256"]:
            problems.append(f"{shortened(name)} is not the file of the manifest")
    if at != int(nodes["stop"]):
        problems.append(f"the events from {at} to {nodes['stop']} are in no file")
    return problems
