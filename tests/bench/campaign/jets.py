"""Training jets in a file small enough to be carried: 16 bits a number, exact where it matters.

    PYTHONPATH=tests python -m bench.campaign.jets JETS.h5 PACKED.h5

Notation. The shipped jets are rounded to 12 explicit bits of mantissa. A number v becomes the
number of roundings between 0 and |v|: from 2^low upwards it keeps its mantissa and is exact, below
it stands in equal steps of 2^(low - 12), which are 7.6e-6 rad for angles (low = -5, at most 4 rad)
and 1.5e-8 for ptrel (low = -14, at most 2). Angles lose a bit to their sign.
"""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from setflow import SetBatch
from setflow.data import read_jets
from setflow.files import NewFile

__all__ = ["COLUMNS", "OBJECTS", "decoded", "encoded", "packed", "unpacked"]

COLUMNS = ("etarel", "phirel", "ptrel")
OBJECTS = 30
_LOW = (-5, -5, -14)  # of each column: the lowest octave in which numbers keep their mantissa
_SIGNED = (True, True, False)
_MANTISSA = 12
_SIGN = 1 << 15


def encoded(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the codes of features with shape `(..., 3)`.

    Raises:
        ValueError: if a number is too large or not finite, or a ptrel is negative.

    >>> encoded(np.float32([0.5, -0.25, 0.125])).tolist()
    [20480, 49152, 49152]
    """
    x = np.asarray(x, np.float64)
    codes = np.zeros(x.shape, np.uint16)
    for column, (low, signed) in enumerate(zip(_LOW, _SIGNED, strict=True)):
        v = x[..., column]
        octave = np.where(v == 0, low, np.maximum(np.frexp(v)[1] - 1, low))
        steps = np.rint(np.ldexp(np.abs(v), _MANTISSA - octave))
        code = ((octave - low) << _MANTISSA) + steps
        most = _SIGN if signed else 2 * _SIGN
        wrong = ~np.isfinite(v) | (code >= most) | ((v < 0) & (not signed))
        if wrong.any():
            raise ValueError(
                f"{COLUMNS[column]} is {v[wrong].flat[0]:g}, expected a number "
                + ("between -4 and 4" if signed else "from 0 to 2")
            )
        codes[..., column] = code.astype(np.int64) | np.where(v < 0, _SIGN if signed else 0, 0)
    return codes


def decoded(codes: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the features that codes stand for, with the shape of `codes`.

    >>> decoded(np.uint16([20480, 49152, 49152])).tolist()
    [0.5, -0.25, 0.125]
    """
    x = np.zeros(codes.shape, np.float32)
    for column, (low, signed) in enumerate(zip(_LOW, _SIGNED, strict=True)):
        code = codes[..., column].astype(np.int64)
        size = code & (_SIGN - 1) if signed else code
        octave = np.maximum((size >> _MANTISSA) - 1, 0)
        steps = size - (octave << _MANTISSA)
        v = np.ldexp(steps.astype(np.float64), octave + low - _MANTISSA)
        x[..., column] = np.where((code & _SIGN > 0) & signed, -v, v)
    return x


def packed(source: Path, target: Path) -> None:
    """Write the hardest particles of a file of jets as codes, whole or not at all."""
    jets = read_jets(source, max_objects=OBJECTS).particles
    x, mask = jets.x.numpy(), jets.mask.numpy()
    if (mask[:, 1:] & ~mask[:, :-1]).any():
        raise ValueError(f"{source} has padding before particles; expected the hardest first")
    codes = encoded(x)
    codes[..., 2] += mask & (codes[..., 2] == 0)  # no particle without momentum
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        NewFile(target, overwrite=True) as part,
        h5py.File(part, "w", locking=False) as file,
    ):
        chunks = (min(4096, max(1, len(codes))), OBJECTS, len(COLUMNS))
        options = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
        file.create_dataset("codes", data=codes, chunks=chunks, dtype=np.uint16, **options)
        file.create_dataset("particles", data=mask.sum(-1).astype(np.uint8), dtype=np.uint8)
        file.attrs["columns"] = COLUMNS
        file.attrs["source"] = source.name


def unpacked(path: Path, stop: int | None = None) -> SetBatch:
    """Return the jets of a packed file: etarel, phirel, ptrel, float32, padded to 30 columns."""
    if not path.is_file():
        raise FileNotFoundError(f"no packed jets at {path}; make campaign-data makes them")
    with h5py.File(path) as file:
        x = decoded(file["codes"][:stop])
        mask = np.arange(OBJECTS) < file["particles"][:stop][:, None]
    return SetBatch(torch.from_numpy(x), torch.from_numpy(mask))


if __name__ == "__main__":
    packed(Path(sys.argv[1]), Path(sys.argv[2]))
