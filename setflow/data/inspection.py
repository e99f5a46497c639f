"""What an HDF5 file from a stranger has to be before anything of it is read.

HDF5 believes what a file says of itself. It takes zeros for what was never written and for what a
virtual data set does not find, follows links to other files, whatever these are, and makes room for
a chunk before it looks how much of it there is. So a file is looked at once when it is opened, by
its structure alone: nothing that it declares may be larger than the file can hold, all of it must
be there, and nothing may lead elsewhere but the sources of a virtual data set, which are files of
events themselves. What HDF5 says in reading, by exceptions of many kinds, becomes an error with the
name of the file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py

from setflow.files import require_regular, shortened

__all__ = [
    "Hdf5File",
    "check_expansion",
    "following_links",
    "inspect",
    "named_errors",
    "of_hdf5",
    "require_whole",
]

_LINKS, _ATTRIBUTE, _CHUNK = 10_000, 2**24, 2**28  # names; bytes of an attribute and of a chunk
_EXPANSION, _SMALL = 256, 2**28  # times the bytes of a file; bytes that are no matter
_DEPTH = 8  # of virtual data sets of virtual data sets
_HARD, _SOFT = 0, 1
_AGAIN = "fetch or make it again"

_follow: ContextVar[bool] = ContextVar("follow", default=False)
_seen: dict[tuple[Any, ...], None] = {}  # files that have been looked at, the latest ones


@contextmanager
def following_links() -> Iterator[None]:
    """Follow links and external storage to other regular files while the block runs."""
    token = _follow.set(True)
    try:
        yield
    finally:
        _follow.reset(token)


# --- errors ---


def of_hdf5(error: BaseException) -> bool:
    """Return whether it was h5py that raised an error, not who called it or is called by it."""
    found, frame = False, error.__traceback__
    while frame is not None:
        module = str(frame.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        found = module == "h5py" or (found and module == "numpy")
        frame = frame.tb_next
    return found


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Give errors of h5py in a block the name of the file.

    Raises:
        OSError: in their place.
    """
    try:
        yield
    except Exception as error:
        if not of_hdf5(error):
            raise
        raise _told(path, error) from error


def _told(path: Path, error: BaseException) -> OSError:
    why = " ".join(str(error.args[0] if error.args else type(error).__name__).split())
    return OSError(f"{path} cannot be read, the file is damaged ({why}); {_AGAIN}")


class Hdf5File(h5py.File):  # type: ignore[misc]
    """An open HDF5 file; errors of h5py that leave the `with` statement name it."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        path = Path(self.filename) if self.id else Path()
        self.close()
        if isinstance(error, Exception) and of_hdf5(error):
            raise _told(path, error) from error


# --- structure ---


def inspect(file: Any, path: Path, before: tuple[Path, ...] = ()) -> None:
    """Refuse an open file whose structure cannot be, or leads elsewhere.

    Arguments:
        file: the file, open.
        path: where it is.
        before: the files whose virtual data sets have led to it.

    Raises:
        OSError: if it declares more than it holds, or its structure is damaged.
        ValueError: if a source of a virtual data set is not there or has another shape, or links
            lead to other files and are not to be followed.
    """
    key = _identity(path)
    if key in _seen:
        return
    size = key[2]
    with named_errors(path):
        links = _links(file, path)
        _check_attributes(file, path, "the file")
        leads = False
        for name, kind in links:
            leads |= kind > _SOFT
            if kind > _SOFT:
                _check_link(file, name, path, before)
            if kind != _HARD:
                continue
            node = file[name]
            _check_attributes(node, path, name)
            if isinstance(node, h5py.Dataset) and node.shape is not None:
                leads |= _leads_elsewhere(node)
                _check_dataset(node, name, path, size, before)
    if not leads:  # what it leads to may change
        _remember(key)


def require_whole(file: Any, names: Sequence[str], path: Path) -> None:
    """Refuse data sets that are to be read if a part of them was never written, or is too much.

    Arguments:
        file: the file, open.
        names: what is to be read of it.
        path: where it is.

    Raises:
        OSError: for HDF5 would fill what is not there with zeros, or a small file the memory.
    """
    key = (*_identity(path), *names)
    if key in _seen:
        return
    size, total, leads = key[2], 0, False
    with named_errors(path):
        for name in names:
            dataset = file[name]
            if _leads_elsewhere(dataset) or dataset.file.filename != file.filename:
                leads = True
                continue
            total += _values_bytes(dataset)
            _check_written(dataset, f"{path}: {name}", size)
    if not leads:
        check_expansion(total, size, str(path))
        _remember(key)


def _identity(path: Path) -> tuple[Any, ...]:
    told = os.stat(path)
    return told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns, _follow.get()


def _remember(key: tuple[Any, ...]) -> None:
    _seen[key] = None
    while len(_seen) > 64:
        del _seen[next(iter(_seen))]


def _leads_elsewhere(dataset: Any) -> bool:
    made = dataset.id.get_create_plist()
    return bool(made.get_external_count() or made.get_layout() == h5py.h5d.VIRTUAL)


def _values_bytes(dataset: Any) -> int:
    return int(dataset.id.get_type().get_size() * math.prod(dataset.shape))


def check_expansion(total: int, size: int, where: str) -> None:
    """Refuse values that take far more room than what is stored of them.

    Arguments:
        total: their bytes.
        size: the bytes that are stored.
        where: what they are called in errors.

    Raises:
        OSError: if they are more than 256 times as many, and more than 256 MiB.
    """
    if total > max(_SMALL, _EXPANSION * size):
        raise OSError(
            f"{where} stands for {total:,} bytes of values in {size:,} stored ones; expected at "
            f"most {_EXPANSION} times as many; it is damaged or meant to fill the memory"
        )


def _links(file: Any, path: Path) -> list[tuple[str, int]]:
    """Return the names of all that a file holds, each once, with the kind of the link."""
    found: list[tuple[str, int]] = []

    def visit(name: bytes, info: Any) -> bool | None:
        found.append((os.fsdecode(name), int(info.type)))
        return True if len(found) > _LINKS else None

    file.id.links.visit(visit, info=True)
    if len(found) > _LINKS:
        raise ValueError(
            f"{path} holds more than {_LINKS:,} groups and data sets; expected a file of events"
        )
    return found


def _check_attributes(node: Any, path: Path, name: str) -> None:
    for at in range(h5py.h5a.get_num_attrs(node.id)):
        attribute = h5py.h5a.open(node.id, index=at)
        points = int(attribute.get_space().get_simple_extent_npoints())
        size = int(attribute.get_type().get_size()) * points
        if size > _ATTRIBUTE:
            raise OSError(
                f"{path}: the attribute {shortened(os.fsdecode(attribute.name))} of "
                f"{shortened(name)} has {size:,} bytes, expected at most {_ATTRIBUTE:,}"
            )


def _check_dataset(
    dataset: Any, name: str, path: Path, size: int, before: tuple[Path, ...]
) -> None:
    where, shape, total = f"{path}: {name}", dataset.shape, _values_bytes(dataset)
    made = dataset.id.get_create_plist()
    if made.get_external_count():
        _check_storage(made, where)
    elif made.get_layout() == h5py.h5d.VIRTUAL:
        _check_sources(dataset, where, path, before)
    elif made.get_layout() == h5py.h5d.CONTIGUOUS:
        begin = dataset.id.get_offset()
        if begin is not None and total + begin > size:
            raise OSError(
                f"{where} has shape {shape}, {total:,} bytes from byte {begin:,} on, and the file "
                f"has {size:,}; it was cut, {_AGAIN}"
            )
    elif made.get_layout() == h5py.h5d.CHUNKED and made.get_nfilters():
        chunk = made.get_chunk()
        held = int(dataset.id.get_type().get_size()) * math.prod(chunk)
        if held > _CHUNK:
            raise OSError(
                f"{where} is compressed in chunks of shape {chunk}, {held:,} bytes, expected at "
                f"most {_CHUNK:,}; let whoever wrote it take smaller ones"
            )


def _check_written(dataset: Any, where: str, size: int) -> None:
    made, shape = dataset.id.get_create_plist(), dataset.shape
    if not math.prod(shape):
        return
    if made.get_layout() == h5py.h5d.CONTIGUOUS and dataset.id.get_offset() is None:
        raise OSError(f"{where} has shape {shape}, and its values were never written; {_AGAIN}")
    if made.get_layout() == h5py.h5d.CHUNKED:
        expected = math.prod(-(-a // b) for a, b in zip(shape, made.get_chunk(), strict=True))
        held = 0 if expected > size else int(dataset.id.get_num_chunks())
        if held < expected:
            raise OSError(
                f"{where} has shape {shape} in {expected:,} chunks, and "
                + (f"the file has {size:,} bytes" if expected > size else f"{held:,} were written")
                + f"; it is not complete, {_AGAIN}"
            )


# --- what leads elsewhere ---


def _refuse_unless_followed(what: str) -> None:
    if not _follow.get():
        raise ValueError(
            f"{what}, which is not read, as it may be any file; if it is meant, make one file "
            "without links: setflow dataset convert --follow-links"
        )


def _check_link(file: Any, name: str, path: Path, before: tuple[Path, ...]) -> None:
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.ExternalLink):
        raise ValueError(f"{path}: {name} is a link of an unknown kind, expected a data set")
    _refuse_unless_followed(f"{path}: {name} is a link to the file {shortened(link.filename)}")
    with _opened_source(Path(link.filename), f"{path}: {name}", path, before):
        pass


def _check_storage(made: Any, where: str) -> None:
    for k in range(made.get_external_count()):
        held, begin, size = made.get_external(k)
        _refuse_unless_followed(f"{where} has its values in the file {shortened(held)}")
        there = Path(os.fsdecode(held))
        if not there.exists():
            raise FileNotFoundError(f"{where} has its values in {there}, which does not exist")
        require_regular(there)
        if there.stat().st_size < begin + size:
            raise OSError(f"{where} has its values in {there}, which is too short; {_AGAIN}")


def _check_sources(dataset: Any, where: str, path: Path, before: tuple[Path, ...]) -> None:
    """Refuse a virtual data set of which HDF5 would fill a part, for it has not got it."""
    points = 0
    for one in dataset.virtual_sources():
        told = shortened(f"{one.file_name}: {one.dset_name}")
        try:
            n = one.vspace.get_select_npoints()
            of = n if _takes_all(one) else one.src_space.get_select_npoints()
        except RuntimeError:
            raise ValueError(f"{where} has sources without an end, {told}; merge them") from None
        if n != of:
            raise ValueError(f"{where} has {n} values in the place of {of} of {told}")
        points += n
        if one.file_name == ".":
            _check_source(dataset.file, one, n, where, told)
            continue
        with _opened_source(Path(one.file_name), where, path, before) as source:
            _check_source(source, one, n, where, told)
    if points != math.prod(dataset.shape):
        raise ValueError(
            f"{where} has shape {dataset.shape}, and its sources hold {points:,} values of it; "
            "expected all of them"
        )


def _takes_all(one: Any) -> bool:
    """Return whether a source is taken whole; then its space has no shape, and tells no number."""
    return bool(one.src_space.get_select_type() == h5py.h5s.SEL_ALL)


def _check_source(source: Any, one: Any, n: int, where: str, told: str) -> None:
    there = source.get(one.dset_name)
    if not isinstance(there, h5py.Dataset) or there.shape is None:
        raise ValueError(f"{where} is made of {told}, which is no data set there")
    if one.file_name == "." and there.is_virtual:
        raise ValueError(f"{where} is made of {told}, which is virtual, too; merge them")
    stated = tuple(one.src_space.get_simple_extent_dims())
    fits = math.prod(there.shape) == n if _takes_all(one) else there.shape == stated
    if not fits:
        expected = f"{n} values" if _takes_all(one) else f"shape {stated}"
        raise ValueError(
            f"{where} is made of {told}, which has shape {there.shape}, expected {expected}"
        )


@contextmanager
def _opened_source(named: Path, where: str, path: Path, before: tuple[Path, ...]) -> Iterator[Any]:
    """Open a file that another one leads to, looked at like that one itself."""
    source = path.parent / named
    if not source.exists():
        raise FileNotFoundError(
            f"{where} is made of {shortened(str(named))}, which does not exist beside {path.name}; "
            "fetch it, or make the file again"
        )
    require_regular(source)
    chain = (*before, path.resolve())
    if source.resolve() in chain or len(chain) > _DEPTH:
        raise ValueError(f"{where} is made of {shortened(str(named))}, which leads back to it")
    if not h5py.is_hdf5(source):
        raise OSError(f"{where} is made of {source}, which is no HDF5 file; {_AGAIN}")
    with named_errors(source), h5py.File(source, "r", locking=False) as file:
        inspect(file, source, chain)
        yield file
