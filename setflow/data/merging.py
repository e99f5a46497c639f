"""Put the files of a run together: into one file, or into one that leads to the others.

The files of a run tell by their manifests (`setflow.data.manifest`) which events they hold.
Together they make the file that one command would have made of all events, attribute for attribute
and, but for scores, byte for byte. Every value that is read is compared with the manifest of its
file.
"""

from __future__ import annotations

import functools
import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from setflow.data.hdf5_output import Hdf5Output
from setflow.data.header import open_events
from setflow.data.layouts import OFFSETS, layout_of
from setflow.data.manifest import Digest, Manifest, Run, manifest_of, read_folder
from setflow.data.stream import Table, TableStream
from setflow.data.valid import counted
from setflow.files import MANIFEST, NewFile, check_hdf5_name, shortened

__all__ = ["merge", "shards_of"]

_ROWS = 2**14  # of a dataset without chunks, at a time
_OWN = ("complete", "manifest", "n", "unphysical")  # what differs from file to file


class _Shard(NamedTuple):
    path: Path
    file: Any
    manifest: Manifest


def shards_of(given: Sequence[Path]) -> list[Path]:
    """Return the files that are meant: those given, of a pattern, and of the folders given.

    Raises:
        FileNotFoundError: if one is not there, or a folder holds none.
        ValueError: if a folder holds a manifest that cannot be read.
    """
    found: list[Path] = []
    matched = [
        each
        for path in given
        for each in ([path] if path.exists() else sorted(map(Path, glob.glob(str(path)))) or [path])
    ]
    for path in matched:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; check the path")
        if path.is_dir() and (path / MANIFEST).is_file():
            listed = list(read_folder(path)["files"])
            if not listed:  # they are listed when all are there
                raise ValueError(
                    f"{path} holds a sample that is not complete; the command that began it goes "
                    "on with it"
                )
            found += [path / name for name in listed]
        elif path.is_dir():
            inside = sorted(path.glob("*.h5"))
            if not inside:
                raise FileNotFoundError(f"the folder {path} holds no files named .h5")
            found += inside
        else:
            found.append(path)
    return found


def merge(
    files: Sequence[Path],
    out: Path,
    *,
    overwrite: bool = False,
    virtual: bool = False,
    whole: bool = True,
) -> Path:
    """Put files of a run together, in the order of their events.

    Arguments:
        files: the files, in any order.
        out: the HDF5 file to write.
        overwrite: replace a file that is there.
        virtual: copy no events; the file leads to the others, which must stay where they are
            relative to it.
        whole: whether the files must hold all events of the run.

    Returns:
        The path of the file.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if a file has no manifest or differs from it, or the files are not of one run,
            hold an event twice, or leave one out.
    """
    if not files:
        raise ValueError("there are no files to put together; give some, or a folder of them")
    with ExitStack() as stack:
        shards = [_opened(stack, path) for path in files]
        shards.sort(key=lambda shard: (shard.manifest.first, shard.manifest.stop))
        _require_one_run(shards, whole)
        target = check_hdf5_name(out)
        if any(target.exists() and target.samefile(shard.path) for shard in shards):
            raise ValueError(f"{out} is one of the files; choose another name")
        if virtual or all(shards[0].file[name].chunks is None for name in shards[0].file):
            _flat(shards, target, overwrite=overwrite, virtual=virtual)
        else:
            _chunked(shards, target, overwrite=overwrite)
    return out


def _opened(stack: ExitStack, path: Path) -> _Shard:
    file = stack.enter_context(open_events(path))
    try:
        manifest = manifest_of(file.attrs)
        complete = bool(file.attrs.get("complete", False))
        plain = all(isinstance(file[name], h5py.Dataset) for name in file)
        lengths = {len(file[name]) for name in file} if plain and len(file) else set()
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if manifest is None:
        raise ValueError(
            f"{path} does not say which events of a run it holds; files of others are put together "
            "by setflow dataset convert"
        )
    if not complete:
        raise ValueError(f"{path} is not complete; let the command that wrote it go on")
    if OFFSETS in file or lengths != {manifest.stop - manifest.first}:
        raise ValueError(f"{path} holds other datasets than one row for each event; make it anew")
    return _Shard(path, file, manifest)


def _require_one_run(shards: Sequence[_Shard], whole: bool) -> None:
    """Refuse files of several runs, and events that are there twice or not at all."""
    one = shards[0]
    for other in shards[1:]:
        pairs: dict[str, tuple[Any, Any]] = {
            "the number of events": (one.manifest.events, other.manifest.events)
        }
        mine, theirs = dict(one.file.attrs), dict(other.file.attrs)
        for name in sorted((mine.keys() | theirs.keys()) - {*_OWN}):
            pairs[name] = (mine.get(name), theirs.get(name))
        pairs["the datasets"] = (_datasets(one.file), _datasets(other.file))
        for name, (here, there) in pairs.items():
            if not np.array_equal(np.asarray(here), np.asarray(there)) and not _both_nan(
                here, there
            ):
                raise ValueError(
                    f"{other.path} is of another run than {one.path}: {name} is "
                    f"{_shown(there)} there and {_shown(here)} here"
                )
    at = 0 if whole else one.manifest.first
    for shard in shards:
        first, stop = shard.manifest.first, shard.manifest.stop
        if first < at:
            raise ValueError(f"{shard.path} holds events before {at} that another file holds, too")
        if first > at:
            raise ValueError(f"the events from {at} to {first} are in none of the files")
        at = stop
    if whole and at < one.manifest.events:
        raise ValueError(
            f"the events from {at} to {one.manifest.events} are in none of the files; give all "
            "files of the run"
        )


def _shown(value: Any) -> str:
    return shortened(value.item() if isinstance(value, np.generic) else value)


def _both_nan(one: Any, other: Any) -> bool:
    return isinstance(one, float) and isinstance(other, float) and one != one and other != other


def _datasets(file: Any) -> str:
    held = ((name, file[name].shape[1:], str(file[name].dtype)) for name in sorted(file))
    return "; ".join(f"{name} {tail} {dtype}" for name, tail, dtype in held)


# --- how they are put together ---


def _chunked(shards: Sequence[_Shard], out: Path, *, overwrite: bool) -> None:
    """Write them by the stream that wrote each of them."""
    model = shards[0].file
    tables = {name: _table_of(model[name]) for name in model}
    some = model[next(iter(tables))]
    at_a_time = some.chunks[0]
    stream = TableStream(
        out, overwrite=overwrite, compression=some.compression_opts or 0,
        checksums=bool(some.fletcher32),
        run=Run(shards[0].manifest.first, shards[0].manifest.events),
    )  # fmt: skip
    with stream:
        stream.create(tables, at_a_time, _attributes(model))
        for shard in shards:
            for rows in _blocks(shard, at_a_time):
                stream.append(rows, np.zeros(len(next(iter(rows.values()))), np.int64))
        told, counts = _unphysical(shards)
        stream.finish(told, counts)


def _table_of(dataset: Any) -> Table:
    texts = {name: [str(text) for text in dataset.attrs[name]] for name in dataset.attrs}
    return Table(dataset.shape[1:], dataset.dtype, dataset.chunks[0], texts)


def _flat(shards: Sequence[_Shard], out: Path, *, overwrite: bool, virtual: bool) -> None:
    """Write datasets of their full size, or such that lead to the files."""
    model, first = shards[0].file, shards[0].manifest.first
    n = shards[-1].manifest.stop - first
    told, counts = _unphysical(shards)
    digests = {name: Digest() for name in model}
    with NewFile(out, overwrite=overwrite) as part, Hdf5Output(part, "w") as output:

        def begin(file: Any) -> None:
            for name, value in _attributes(model).items():
                file.attrs[name] = value
            for name in model:
                new = (_linked if virtual else _like)(file, name, shards, n, out.parent)
                for key in model[name].attrs:
                    new.attrs[key] = model[name].attrs[key]

        def end(file: Any) -> None:
            hashes = {name: digest.text() for name, digest in digests.items()}
            manifest = Manifest(shards[0].manifest.events, first, first + n, hashes, counts)
            for name, value in {"n": np.int64(n), **told, "manifest": manifest.text()}.items():
                file.attrs[name] = value
            file.attrs["complete"] = True

        output.do(begin)
        at = 0
        for shard in shards:
            for rows in _blocks(shard, _ROWS):
                size = len(next(iter(rows.values())))
                for name, values in rows.items():
                    digests[name].add(values)
                if not virtual:
                    output.do(functools.partial(_put, at=at, rows=rows))
                at += size
        output.do(end)


def _put(file: Any, *, at: int, rows: Mapping[str, NDArray[Any]]) -> None:
    for name, values in rows.items():
        file[name][at : at + len(values)] = values


def _like(file: Any, name: str, shards: Sequence[_Shard], n: int, folder: Path) -> Any:
    """Make a dataset as the files have it, for so many rows."""
    source = shards[0].file[name]
    return file.create_dataset(
        name, shape=(n, *source.shape[1:]), dtype=source.dtype, fillvalue=source.fillvalue,
        track_times=False,
    )  # fmt: skip


def _linked(file: Any, name: str, shards: Sequence[_Shard], n: int, folder: Path) -> Any:
    """Make a dataset that leads to those of the files."""
    source = shards[0].file[name]
    layout = h5py.VirtualLayout((n, *source.shape[1:]), source.dtype)
    at = 0
    for shard in shards:
        part = shard.file[name]
        where = os.path.relpath(shard.path.resolve(), folder.resolve())
        layout[at : at + len(part)] = h5py.VirtualSource(
            where, name, part.shape, part.dtype, part.maxshape
        )
        at += len(part)
    missing = np.nan if source.dtype.kind == "f" else None
    return file.create_virtual_dataset(name, layout, fillvalue=missing)


# --- what the files hold ---


def _blocks(shard: _Shard, rows: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the values of a file, block by block, and compare them with its manifest.

    Raises:
        ValueError: at the end, if they differ.
    """
    digests = {name: Digest() for name in shard.file}
    for start in range(0, shard.manifest.stop - shard.manifest.first, rows):
        try:
            block = {name: shard.file[name][start : start + rows] for name in digests}
        except (OSError, RuntimeError, KeyError) as error:
            raise ValueError(f"{shard.path} is damaged ({error}); make it again") from error
        for name, values in block.items():
            digests[name].add(values)
        yield block
    wrong = [name for name in digests if digests[name].text() != shard.manifest.sha256.get(name)]
    if wrong:
        raise ValueError(
            f"{shard.path} is damaged: the values of {', '.join(wrong)} are not those of its "
            "manifest; make it again"
        )


def _unphysical(shards: Sequence[_Shard]) -> tuple[dict[str, str], dict[str, int]]:
    """Return the attribute and the numbers of values that cannot be, of all files."""
    found: Counter[str] = Counter()
    for shard in shards:
        found.update(shard.manifest.unphysical)
    counts = dict(sorted(found.items()))
    if not counts:
        return {}, {}
    schema = layout_of(shards[0].file, shards[0].path).schema
    return {"unphysical": counted(counts, schema.objects)}, counts


def _attributes(file: Any) -> dict[str, Any]:
    """Return the attributes that all files have."""
    told = {"complete": False, "n": np.int64(0)}
    return told | {name: file.attrs[name] for name in file.attrs if name not in _OWN}
