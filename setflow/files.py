"""Output appears by rename: a reader never sees half of it, and a failure leaves the old one."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["file_sha256", "new_folder", "refuse_existing", "sync"]


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError if `path` exists and must not be overwritten.

    >>> refuse_existing(Path("no such file"), overwrite=False)
    """
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists already; choose another name, or overwrite it with --force "
            "(overwrite=True in Python)"
        )


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content as hexadecimal digits, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk: a rename outlives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(path: Path, *, overwrite: bool, marker: str) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends without an error.

    Arguments:
        path: the folder to make.
        overwrite: replace a folder that is there, once the new one is complete.
        marker: a file that every folder of this kind holds; a folder without it is never replaced.

    Raises:
        FileExistsError: if `path` exists and may not be replaced.
    """
    path = Path(path)
    _refuse_foreign(path, overwrite=overwrite, marker=marker)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir()
        yield new
        _refuse_foreign(path, overwrite=overwrite, marker=marker)  # it may have appeared meanwhile
        if path.exists():
            path.rename(old)
        new.rename(path)
        sync(path.parent)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(scratch, ignore_errors=True)


def _refuse_foreign(path: Path, *, overwrite: bool, marker: str) -> None:
    refuse_existing(path, overwrite=overwrite)
    empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not empty and not (path / marker).is_file():
        raise FileExistsError(
            f"{path} is not a folder that this command made (it holds no {marker}), so it is not "
            "replaced; choose another name"
        )
