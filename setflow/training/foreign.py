"""Training files in the layouts of others: converted once, into the user's cache.

What `setflow dataset convert` would write stands under `XDG_CACHE_HOME`, or `~/.cache`, in
`setflow/converted`, by the path, size and time of change of the file and what is told of its
format. A training on it, and the next one, reads that. It takes as much of the disk as the events
do: of files that are too large for it, `setflow dataset convert` writes where it is told to.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from setflow.data.formats.convert import InputFile, convert
from setflow.data.formats.named import FORMATS, OF_FORMAT, Given, read_mapping, told_file
from setflow.shipped import JETS, find
from setflow.spelling import nearest
from setflow.training.files import Files, paths_of
from setflow.training.statistics import cache_folder
from setflow.version import __version__

__all__ = ["Format", "given_of_node", "readable"]

Format = str | Mapping[str, Any] | None
"""The name of a format, or a mapping with that, `name`, and what is told beside it."""

_TOLD = ("mapping", "columns", "features", "mask", "voxels", "shape", "classes")
_LISTS = ("columns", "features", "shape", "classes")
_NEEDED = {"custom": ("mapping",), "ragged": ("columns",), "npy": ("columns", "mask")}
_WAIT = 1.0  # s, until another process has converted a file


def given_of_node(node: Format) -> Given:
    """Return what a configuration tells of the format of files.

    Arguments:
        node: `jetclass`, or a mapping: `{name: npy, columns: [eta, phi, pt], mask: nonzero:pt}`;
            the mapping of `custom` as a node or the path of a YAML file.

    Raises:
        ValueError: if it is none, or there is no such format or argument.

    >>> given_of_node({"name": "npy", "columns": ["eta", "pt"], "mask": "all"}).format
    'npy'
    """
    told: dict[str, Any] = {"name": node} if isinstance(node, str) else dict(node or {})
    name = told.pop("name", None)
    if name not in FORMATS:
        raise ValueError(
            f"data.format is {node if name is None else name!r}, expected one of "
            f"{', '.join(FORMATS)}, or a mapping with one of them as name"
            + ("" if name is None else nearest(str(name), FORMATS))
        )
    for key in told:
        if key not in _TOLD:
            raise ValueError(
                f"data.format has {key!r}, expected name, {', '.join(_TOLD)}"
                + nearest(str(key), _TOLD)
            )
        if key in OF_FORMAT and name not in OF_FORMAT[key]:
            raise ValueError(
                f"data.format has {key}, which belongs to the format "
                f"{' or '.join(OF_FORMAT[key])}, not to {name}"
            )
        if key in _LISTS and not isinstance(told[key], (list, tuple)):
            raise ValueError(f"data.format.{key} is {told[key]!r}, expected a list, [NAME, ...]")
    for key in _NEEDED.get(name, ()):
        if told.get(key) is None:
            raise ValueError(
                f"data.format is {node!r}, and the format {name} needs {key}, too; write it as a "
                "mapping, such as {name: npy, columns: [eta, phi, pt], mask: nonzero:pt} or "
                "{name: custom, mapping: FILE.yaml}"
            )
    if not isinstance(told.get("mask", ""), str):
        raise ValueError(f"data.format.mask is {told['mask']!r}, expected a text: nonzero:pt")
    if isinstance(told.get("voxels"), str):
        told["voxels"] = told_file(told["voxels"], "voxels", "data.format.voxels")
    if isinstance(told.get("mapping"), str):
        told["mapping"] = read_mapping(told_file(told["mapping"], "mapping", "data.format.mapping"))
    return Given(format=name, **told)


def readable(files: Files, form: Format, *, make: bool = True) -> Files:
    """Return files that setflow reads as they are, converted where a format is told.

    Arguments:
        files: the files, as `files_of` takes them.
        form: their format; None leaves them as they are.
        make: whether what is not converted yet is.

    Raises:
        FileNotFoundError: if a file is not there, or not converted and not to be.
        ImportError: if a package that reads the format is not installed.
        OSError: if a file cannot be read, or the cache not be written.
        ValueError: if the format is none, or that of another file.
    """
    if form is None:
        return files
    given = given_of_node(form)
    if isinstance(files, Mapping):
        return {label: _converted(entries, given, make) for label, entries in files.items()}
    return _converted(files, given, make)


def _converted(entries: Any, given: Given, make: bool) -> list[str]:
    found = []
    for path, start, stop in paths_of(entries, "data"):
        rows = f"[{start}:{'' if stop is None else stop}]" if start or stop is not None else ""
        found.append(f"{_in_cache(find(JETS, path), given, make)}{rows}")
    return found


def _in_cache(path: Path, given: Given, make: bool) -> Path:
    """Return the converted file, which is made if it is not there and `make` says so."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; check the path")
    there = path.stat()
    known = (str(path.resolve()), there.st_size, there.st_mtime_ns, repr(given), __version__)
    key = hashlib.blake2b(repr(known).encode(), digest_size=12).hexdigest()
    target = cache_folder("converted") / key / f"{path.stem}.h5"
    if not make and not target.exists():
        raise FileNotFoundError(f"{path} is not converted yet; setflow fit does so once")
    target.parent.mkdir(parents=True, exist_ok=True)
    while not target.exists():
        try:
            convert([InputFile(path, None)], target, given)
        except BlockingIOError:  # another process of the same training is at it
            time.sleep(_WAIT)
        except FileExistsError:  # and has just ended
            break
    return target
