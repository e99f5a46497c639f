"""What a valid row of a file of jets is.

A check adds what it finds to the defects of a block of rows, so that whoever reads or writes may
refuse the block, or keep a malformed row in its place with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from setflow.data.jets import (
    JETS,
    MASK,
    PHI,
    TYPES,
)
from setflow.schema import (
    JET_FEATURES,
    PARTICLE_FEATURES,
    PARTICLE_TYPES,
)


def as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32, copy=False)


Defects = dict[int, str]  # what is wrong with a row of a block, the first that was found


def note(defects: Defects, wrong: NDArray[np.bool_], describe: Callable[..., str]) -> None:
    """Add a reason for each row, the first dimension of `wrong`, that holds something wrong.

    Arguments:
        defects: the reasons so far; a row that has one keeps it.
        wrong: which entries are wrong.
        describe: returns the reason, called with the index of a row's first wrong entry.
    """
    for row in np.flatnonzero(wrong.any(axis=tuple(range(1, wrong.ndim)))).tolist():
        if row not in defects:
            defects[row] = describe(row, *np.argwhere(wrong[row])[0].tolist())


def refuse(defects: Defects, path: Path | str, first: int) -> None:
    row = min(defects)
    raise ValueError(f"{path}: row {first + row}, {defects[row]}")


def checked_particles(
    particles: NDArray[Any], defects: Defects
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the features `(b, N, 3)`, zero in padded slots, and the mask `(b, N)`."""
    flags = particles[..., MASK]
    note(
        defects,
        ~((flags == 0) | (flags == 1)),
        lambda row, slot: (
            f"particle {slot}, column 'mask' holds {flags[row, slot]}, expected 1 (real) or 0 "
            "(padding)"
        ),
    )
    real = flags == 1
    values = as_float32(np.where(real[..., None], particles[..., :MASK], 0))
    check_finite(values, real, defects)
    phi = particles[..., PHI]
    pi = phi.dtype.type(math.pi)
    with np.errstate(invalid="ignore"):
        outside = real & ~((-pi <= phi) & (phi < pi))
    note(
        defects,
        outside,
        lambda row, slot: (
            f"particle {slot}, column 'phirel' holds {phi[row, slot]}, expected radians in "
            "[-pi, pi); wrap the angles"
        ),
    )
    edge = np.float32(math.pi)  # what float64 calls just below pi, float32 may round to pi
    values[..., PHI][values[..., PHI] >= edge] = -edge
    return values, real


def check_finite(values: NDArray[np.float32], real: NDArray[np.bool_], defects: Defects) -> None:
    note(
        defects,
        real[..., None] & ~np.isfinite(values),
        lambda row, slot, column: (
            f"particle {slot}, column '{PARTICLE_FEATURES[column].name}' holds "
            f"{values[row, slot, column]} though the particle is real; expected a finite value"
        ),
    )


def check_jets(jets: NDArray[np.float32], defects: Defects) -> None:
    note(
        defects,
        ~np.isfinite(jets),
        lambda row, column: (
            f"column '{JET_FEATURES[column].name}' of {JETS} holds {jets[row, column]}; expected "
            "a finite value"
        ),
    )


def checked_types(
    types: NDArray[Any], real: NDArray[np.bool_], defects: Defects
) -> NDArray[np.int8]:
    """Return the codes with 0 in padded slots."""
    note(
        defects,
        real & ~((types > 0) & (types < len(PARTICLE_TYPES))),
        lambda row, slot: (
            f"particle {slot} of {TYPES} holds {types[row, slot]}, expected a code from 1 to "
            f"{len(PARTICLE_TYPES) - 1}"
        ),
    )
    return np.where(real, types, 0).astype(np.int8)
