"""Outputs appear whole: a reader never sees half of one, and a failure leaves the old one.

Everything that writes goes by one protocol. The output is written to a *part* beside its target,
on the same file system; when it is complete it is synced and takes the target's name. The part is
locked while it is written, so of two processes that write to one target the second is refused. What
is wrong with a target is found before the work: that it exists, or that its folder does not, or
cannot be written to.

A part that is of no use alone is called `.<name>.part`; a failure removes it, and after a kill the
next writer does. One that can be continued is called `<name>.part`; it is begun as an output of its
own, stays where it is, and the next call goes on with it.
"""

from __future__ import annotations

import hashlib
import os
import reprlib
import secrets
import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

if sys.platform != "win32":
    import fcntl

__all__ = [
    "MANIFEST",
    "METRICS",
    "NewFile",
    "NewFolder",
    "as_path",
    "check_folder",
    "check_hdf5_name",
    "check_target",
    "dump_yaml",
    "file_sha256",
    "has_manifest",
    "in_use_by_one",
    "load_yaml",
    "move",
    "read_bounded",
    "require_regular",
    "require_single_keys",
    "same_file",
    "shortened",
    "write_text",
]

MANIFEST = "manifest.json"
"""What a folder of files that belong together says of them."""

METRICS = "metrics.json"
"""The file of numbers in the folder of a report, beside its pictures."""

_HDF5 = (".h5", ".hdf5")
_DEPTH, _SIZE = 40, 2**18  # of YAML: levels, and characters
_TEXT = 2**24  # bytes of a small file
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # that of libyaml is ten times as fast
_IRREGULAR = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlevel = 3


def as_path(given: str | os.PathLike[str]) -> Path:
    """Return a path.

    Raises:
        TypeError: if something else was given, such as None.

    >>> as_path("jets.h5").suffix
    '.h5'
    """
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(f"got {given!r}, expected the path of a file or folder, such as 'runs/top'")
    return Path(given)


def require_regular(path: Path) -> None:
    """Refuse what is no regular file before it is opened, as a pipe would be waited for.

    Raises:
        FileNotFoundError: if there is nothing of this name.
        IsADirectoryError: if it is a folder.
        OSError: if it is a pipe, a socket or a device.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a folder, expected a regular file")
    if not stat.S_ISREG(mode):
        kind = next((what for test, what in _IRREGULAR if test(mode)), "a device")
        raise OSError(
            f"{path} is {kind}, expected a regular file; write what it gives to a file first"
        )


def read_bounded(path: Path, most: int = _TEXT) -> bytes:
    """Return the content of a small file, which may come from a stranger.

    Raises:
        FileNotFoundError: if there is nothing of this name.
        OSError: if it is no regular file.
        ValueError: if it is larger than such files are.
    """
    require_regular(path)
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"{path} has {size:,} bytes, expected at most {most:,}")
    return path.read_bytes()


def check_target(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Return the path of an output, or say why it cannot be written there.

    Raises:
        TypeError: if it is no path.
        FileExistsError: if it exists and must not be overwritten.
        FileNotFoundError: if its folder does not exist.
        NotADirectoryError: if its folder is a file.
        PermissionError: if its folder cannot be written to.

    >>> check_target("no such file", overwrite=False).name
    'no such file'
    """
    path = as_path(path)
    folder = path.parent
    if path.name in ("", ".."):
        raise FileExistsError(f"{path} is a folder, expected a new name; choose one in it")
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(
            f"{path} exists already; choose another name, or overwrite it with overwrite=True"
        )
    if not folder.exists():
        raise FileNotFoundError(
            f"there is no folder {folder} to write {path.name} to; make it, or choose another"
        )
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, expected a folder to write {path.name} to")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(
            f"the folder {folder} cannot be written to; change its permissions, or choose another"
        )
    try:  # permissions tell nothing of /proc, nor of a quota
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        told = type(error)(
            f"no file can be made in the folder {folder} ({error.strerror}); choose another"
        )
        told.errno = error.errno
        raise told from error
    return path


def check_folder(path: str | os.PathLike[str], *, marker: str, overwrite: bool) -> Path:
    """Return the path of a folder to write, or say why it cannot be written there.

    Arguments:
        path: the folder.
        marker: a file that every folder of this kind holds.
        overwrite: replace a folder that is there, if it holds this file or nothing.

    Raises:
        OSError: as `check_target`; but of what is not to be replaced, another name is the advice.
    """
    path = as_path(path)
    empty = path.is_dir() and not any(path.iterdir())
    strange = path.exists() and not empty and not (path / marker).is_file()
    if strange and path.name not in ("", ".."):
        raise FileExistsError(
            f"{path} is not a folder that this command made (it holds no {marker}), so it is not "
            "replaced; choose another name"
        )
    return check_target(path, overwrite=overwrite)


def check_hdf5_name(path: str | os.PathLike[str]) -> Path:
    """Return the path of an HDF5 file, or say that its name is that of another kind of file.

    Raises:
        TypeError: if it is no path.
        ValueError: if the name ends neither in .h5 nor in .hdf5 and is not that of a folder, of
            which who reads or writes it says more.

    >>> check_hdf5_name("jets.h5").name
    'jets.h5'
    """
    path = as_path(path)
    if path.suffix.lower() not in _HDF5 and not path.is_dir():
        named = path.with_suffix(".h5")
        more = ""
        if path.suffix.lower() in (".root", ".parquet"):
            more = (
                "; `setflow dataset convert` makes one kind of the other, such as setflow dataset "
                f"convert {shlex.quote(str(named))} --out {shlex.quote(str(path))}"
            )
        raise ValueError(
            f"{path} is not named like an HDF5 file, the only kind that is read and written here; "
            f"expected a name that ends in .h5 or .hdf5, such as {named.name}{more}"
        )
    return path


class NewFile:
    """A file that appears under its name when the block ends without an error.

    As a context manager it gives the path to write to: the file is there, empty or as it was left,
    and must not be replaced by another one.

    Arguments:
        path: the file to write.
        overwrite: replace a file that is there, once the new one is complete; and begin anew where
            there is a part to continue.
        begin: makes the part, given its path, where it can be continued: then the part of a call
            that failed or was killed stays, and the next call finds it as it was left. Whether it
            is the same work is for the caller to check. None writes all of it in one call.
        same: says of a part, given its path, whether it is the same work; then it is continued also
            where `overwrite` would begin anew.

    Attributes:
        keep: whether a failure leaves the part; True at first for one that was found.

    Raises:
        OSError: at once, if the file cannot be written; see `check_target`.
        IsADirectoryError: at once, if there is a folder of this name.
        BlockingIOError: in the block, if another process writes to the file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = Path(folder) / "a.txt"
    ...     with NewFile(target) as part:
    ...         _ = part.write_text("whole")
    ...         before = target.exists()
    ...     before, target.read_text()
    (False, 'whole')
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        begin: Callable[[Path], None] | None = None,
        same: Callable[[Path], bool] | None = None,
    ) -> None:
        self.path, self.keep = as_path(path), False
        self._overwrite, self._begin, self._same = overwrite, begin, same
        self._lock = -1
        self._check()
        name = self.path.name
        self.part = self.path.with_name(f".{name}.part" if begin is None else f"{name}.part")

    def __enter__(self) -> Path:
        anew = self._same is None or not (self.part.is_file() and self._same(self.part))
        if self._begin is None or (self._overwrite and anew):
            self._discard()
        self.keep = self.part.exists()
        if self._begin is None:
            try:
                self._create()
            except FileExistsError as error:
                raise self._in_use() from error
        else:
            if not self.keep:
                with NewFile(self.part) as new:
                    self._begin(new)
            self._take()
        return self.part

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            if not self.keep and self._holds():
                self._remove()
            os.close(self._lock)

    # --- what differs between a file and a folder ---

    def _check(self) -> None:
        check_target(self.path, overwrite=self._overwrite)
        if self.path.is_dir():
            raise IsADirectoryError(f"{self.path} is a folder, expected the name of a file")

    def _create(self) -> None:
        # never an old file: where a file system has no locks, another process may write to that
        self._lock = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._acquire(self._lock)

    def _remove(self) -> None:
        self.part.unlink()

    def _sync(self) -> None:
        os.fsync(self._lock)

    def _replace(self) -> None:
        os.replace(self.part, self.path)

    # --- the same for both ---

    def _publish(self) -> None:
        self._sync()
        self._check()  # it may have appeared meanwhile
        if not self._holds():
            raise self._in_use()  # and has replaced the part
        self._replace()
        _sync(self.path.parent)

    def _discard(self) -> None:
        """Remove a part that is there, unless another process writes to it."""
        if os.path.lexists(self.part):
            self._take()
            self._remove()
            os.close(self._lock)

    def _take(self) -> None:
        """Lock the part that is there."""
        try:
            self._lock = os.open(self.part, os.O_RDONLY if self.part.is_dir() else os.O_RDWR)
        except FileNotFoundError as error:  # it was there a moment ago
            raise self._in_use() from error
        self._acquire(self._lock)
        if not self._holds():
            os.close(self._lock)
            raise self._in_use()  # and has published it before it could be locked

    def _acquire(self, descriptor: int) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise self._in_use() from error
        except OSError:  # a file system without locks; `_holds` tells before anything is published
            pass

    def _holds(self) -> bool:
        """Return whether the part is still the one that was locked."""
        return _is_at(self.part, self._lock)

    def _in_use(self) -> BlockingIOError:
        return BlockingIOError(f"{self.part} is in use by another process; wait for its end")


class NewFolder(NewFile):
    """A folder that appears under its name when the block ends without an error.

    As a context manager it gives an empty folder to write to.

    Arguments:
        path: the folder to make.
        overwrite: replace a folder that is there, once the new one is complete.
        marker: a file that every folder of this kind holds; a folder without it is never replaced,
            unless it is empty.

    Raises:
        OSError: at once, if the folder cannot be written; see `check_target`.
        FileExistsError: at once or at the end, if it holds something of another kind.
        BlockingIOError: in the block, if another process writes to the folder.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, marker: str, overwrite: bool = False
    ) -> None:
        self._marker = marker
        super().__init__(path, overwrite=overwrite)
        # a name of its own: what another process writes where there are no locks ends elsewhere
        self._new, self._old = self.part / secrets.token_hex(6), self.part / "old"

    def __enter__(self) -> Path:
        super().__enter__()
        return self._new

    def _check(self) -> None:
        check_folder(self.path, marker=self._marker, overwrite=self._overwrite)

    def _create(self) -> None:
        self.part.mkdir()
        self._lock = os.open(self.part, os.O_RDONLY)
        self._acquire(self._lock)
        self._new.mkdir()

    def _remove(self) -> None:
        if self._old.exists() and not self.path.exists():  # there is no new one in its place
            self._old.rename(self.path)
        shutil.rmtree(self.part)

    def _sync(self) -> None:
        for path in (*self._new.rglob("*"), self._new):
            _sync(path)

    def _replace(self) -> None:
        if self.path.exists():
            self.path.rename(self._old)
        self._new.rename(self.path)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file that is never seen half, in the place of one that is there."""
    with NewFile(path, overwrite=True) as part:
        part.write_text(text, encoding="utf-8")


def move(path: Path, target: Path) -> None:
    """Give a file or a folder another name, at once and so that it outlives a power cut."""
    os.replace(path, target)
    _sync(target.parent)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content as hexadecimal digits, read piece by piece."""
    require_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_manifest(path: Path) -> bool:
    """Return whether there is an HDF5 file, or a folder of files, that tells its content.

    See `setflow.data.manifest`.

    >>> has_manifest(Path("no such file"))
    False
    """
    if path.is_dir():
        return (path / MANIFEST).is_file()
    if not path.is_file():
        return False
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            return "manifest" in file.attrs
    except OSError:
        return False


def same_file(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file, or to files of the same content."""
    if not (one.is_file() and other.is_file()):
        return False  # reading tells what is wrong
    if one.samefile(other):
        return True
    return one.stat().st_size == other.stat().st_size and file_sha256(one) == file_sha256(other)


def require_single_keys(text: str) -> None:
    """Refuse YAML that gives a key twice, of which a loader would drop the first without a word.

    YAML that would cost more to read than to write is refused too: with aliases, of which ten lines
    can stand for a billion values, nested deeper than 40 levels, or longer than 262,144 characters.

    Raises:
        yaml.YAMLError: if it does, or is no YAML.

    >>> require_single_keys("data: {train: a.h5}")
    """
    if len(text) > _SIZE:
        raise yaml.YAMLError(f"it has {len(text):,} characters, expected at most {_SIZE:,}")
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1
            raise yaml.YAMLError(
                f"line {line} has the alias *{shortened(event.anchor)[1:-1]}, which is not read "
                "here; write out what it stands for"
            )
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH:
            raise yaml.YAMLError(f"it is nested deeper than {_DEPTH} levels")
    nodes = [yaml.compose(text, Loader=_LOADER)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.SequenceNode):
            nodes.extend(node.value)
        if not isinstance(node, yaml.MappingNode):
            continue
        nodes.extend(value for _, value in node.value)
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(
                    f"the key {shortened(key.value)} stands twice, in lines {lines[key.value]} and "
                    f"{line}; take one of them away, or put into one what both hold"
                )
            lines[key.value] = line


def load_yaml(text: str) -> Any:
    """Return what YAML says, plain values; it is looked at first by `require_single_keys`.

    Raises:
        yaml.YAMLError: if it is refused, or none.
        ValueError: if it holds a date that is none, or a number of too many digits.

    >>> load_yaml("data: {train: a.h5}")
    {'data': {'train': 'a.h5'}}
    """
    require_single_keys(text)
    return yaml.load(text, Loader=_LOADER)


def dump_yaml(nodes: dict[str, Any]) -> str:
    """Return plain nodes as YAML, in their order and without aliases.

    >>> shared = [1, 2]
    >>> dump_yaml({"a": shared, "b": shared}).count("- 2")
    2
    """
    text: str = yaml.dump(nodes, Dumper=_Plain, sort_keys=False)
    return text


class _Plain(yaml.SafeDumper):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


def shortened(value: Any) -> str:
    """Return what was given as a message shows it: its beginning and its end if it is long.

    >>> shortened("a" * 1000)[:5], len(shortened("a" * 1000)) <= 80
    ("'aaaa", True)
    """
    return _SHORT.repr(value)


@contextmanager
def in_use_by_one(folder: Path) -> Iterator[None]:
    """Keep a folder for this process while the block runs.

    Raises:
        BlockingIOError: at once, if another process has it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if sys.platform != "win32":
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(
                    f"{folder} is in use by another process; wait for its end, or end it"
                ) from error
            except OSError:  # a file system without locks
                pass
        if not _is_at(folder, descriptor):
            raise BlockingIOError(f"{folder} was in use by another process, which has just ended")
        yield
    finally:
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether a path leads to what is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk: a rename outlives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
