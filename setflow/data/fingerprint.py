"""What a large file is, told without reading all of it.

The fingerprint is the hash of the size, of what stands in an HDF5 file (names, shapes, types and
attributes), and of 64 pieces of 16 KiB that lie evenly over the file, its beginning and its end
among them. It is the same wherever the file lies and whatever it is called. A change of a few bytes
between the pieces is not seen: `sha256` is for that.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from setflow.data.header import open_events
from setflow.files import require_regular

__all__ = ["fingerprint"]

_PIECES, _PIECE = 64, 2**14


def fingerprint(path: Path) -> str:
    """Return the fingerprint of a file, 64 hexadecimal digits.

    Raises:
        OSError: if it cannot be read.
    """
    require_regular(path)
    digest = hashlib.sha256()
    size = os.path.getsize(path)
    digest.update(f"size {size}".encode())
    with path.open("rb") as file:
        last = max(0, size - _PIECE)
        for start in np.unique(np.linspace(0, last, _PIECES).astype(np.int64)).tolist():
            file.seek(start)
            digest.update(file.read(_PIECE))
    if h5py.is_hdf5(path):
        with open_events(path) as held:
            for line in _structure(held):
                digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _structure(held: Any) -> list[str]:
    """Return what stands in an HDF5 file, a line for each dataset and attribute."""
    lines: list[str] = []

    def tell(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            lines.append(f"{name} {node.shape} {node.dtype.str} {node.chunks}")
        for key, value in sorted(node.attrs.items()):
            lines.append(f"{name}@{key} {np.asarray(value).tolist()!r}")

    tell("", held)
    held.visititems(tell)
    return lines
