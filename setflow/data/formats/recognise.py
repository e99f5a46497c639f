"""What a file is that no command reads, by its first bytes or datasets, and what converts it."""

from __future__ import annotations

import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from setflow.files import require_regular

__all__ = ["advice", "of_bytes", "of_datasets", "told_of"]

_FIRST = {
    b"root": ("a ROOT file", "jetclass"),
    b"PAR1": ("a parquet file", "jetclass"),
    b"\x93NUMPY": ("an array of NumPy", "npy"),
    b"PK\x03\x04": ("an archive of NumPy", "npy"),
    b"\x1f\x8b": ("compressed with gzip", None),
    b"%PDF": ("a PDF", None),
    b"version https://git-lfs": ("a pointer of Git LFS, not the file itself", None),
}
_DATASETS: tuple[tuple[str, str, frozenset[str]], ...] = tuple(
    (kind, what, frozenset(keys))
    for kind, what, keys in (
        ("omnilearn", "events as OmniLearn has them", {"data", "pid"}),
        ("ftag", "jets and tracks as flavour tagging has them", {"jets", "tracks"}),
        ("toptag", "a table of pandas", {"table"}),
        ("lhco", "a table of pandas as the LHC Olympics have it", {"df"}),
        ("calo", "showers in a calorimeter", {"showers", "incident_energies"}),
        ("ragged", "events one behind the other", {"x", "offsets"}),
        ("npy", "an array x without names", {"x"}),
    )
)
_MORE = {
    "npy": " --columns NAME,... --mask RULE",
    "ragged": " --columns NAME,...",
    "calo": " --voxels FILE",
    "custom": " --mapping FILE.yaml",
}


def of_bytes(path: Path) -> tuple[str, str | None] | None:
    """Return what a file is that is not HDF5, and its format if it can be converted.

    Raises:
        OSError: if it is no regular file, or cannot be read.
    """
    require_regular(path)
    with path.open("rb") as file:
        first = file.read(32)
    if not first:
        return "an empty file, of 0 bytes", None
    for magic, (what, kind) in _FIRST.items():
        if first.startswith(magic):
            if magic.startswith(b"PK") and zipfile.is_zipfile(path):
                try:
                    with zipfile.ZipFile(path) as archive:
                        names = {*archive.namelist()}
                except zipfile.BadZipFile:
                    return "a damaged archive", None
                if not any(name.endswith(".npy") for name in names):
                    return "a zip archive", None
                kind = "energyflow" if {"X.npy", "y.npy"} <= names else kind
            return what, kind
    return None


def of_datasets(file: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what an open HDF5 file holds, and its format, by the names at its top."""
    for kind, what, keys in _DATASETS:
        if keys <= {*file} and (kind != "npy" or getattr(file["x"], "ndim", 0) == 3):
            return what, kind
    return None


def told_of(path: Path, what: str, kind: str | None) -> str:
    """Return what a file is, and the command that makes one of it that every command reads.

    >>> told_of(Path("a.pdf"), "a PDF", None)
    'a.pdf is a PDF, expected an HDF5 file of events'
    """
    if kind is None:
        again = "; fetch or make it again" if what.startswith("an empty") else ""
        return f"{path} is {what}, expected an HDF5 file of events{again}"
    own = " (of one that setflow wrote it tells the mapping)" if kind == "jetclass" else ""
    return (
        f"{path} is {what}, expected an HDF5 file of events; convert it, here or by another "
        f"format{own}: {advice(path, kind)}"
    )


def advice(path: Path, kind: str) -> str:
    """Return the command that converts a file.

    >>> advice(Path("jets.root"), "jetclass")
    'setflow dataset convert jets.root --format jetclass --out jets.h5'
    """
    out = path.with_suffix(".h5")
    out = out if out != path else path.with_stem(f"{path.stem}-converted")
    return (
        f"setflow dataset convert {shlex.quote(str(path))} --format {kind}{_MORE.get(kind, '')} "
        f"--out {shlex.quote(out.name)}"
    )
