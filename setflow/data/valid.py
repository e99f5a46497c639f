"""What a valid row of a file of jets is.

A check adds what it finds to the defects of a block of rows, so that whoever reads or writes may
refuse the block, or keep a malformed row in its place with the reason. What is found is of two
kinds: what is no number or no mask, and what is a number that cannot be (`setflow.schema.Limits`).
The second may be asked for as it is, as the sample of a model may hold it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from setflow.data.jets import JETS, TYPES
from setflow.schema import JET_FEATURES, PARTICLE_FEATURES, PARTICLE_TYPES, Limits

PI32 = float(np.float32(math.pi))  # above pi
TABLE = {column.name: column for column in (*PARTICLE_FEATURES, *JET_FEATURES)}
HINTS = {
    "phirel": "; wrap the angles",
    "ptrel": "; is it in units of the jet pT?",
}

INFINITE = "not finite"

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


# --- what is no number ---


def checked_mask(flags: NDArray[Any], defects: Defects) -> NDArray[np.bool_]:
    """Return which slots are real, with the shape of the flags `(b, N)`."""
    note(
        defects,
        ~((flags == 0) | (flags == 1)),
        lambda row, slot: (
            f"particle {slot}, column 'mask' holds {flags[row, slot]}, expected 1 (real) or 0 "
            "(padding)"
        ),
    )
    real: NDArray[np.bool_] = flags == 1
    return real


def check_finite(
    values: NDArray[Any], real: NDArray[np.bool_], features: Sequence[str], defects: Defects
) -> None:
    """Check the features `(b, N, D)` of real particles."""
    note(
        defects,
        real[..., None] & ~np.isfinite(values),
        lambda row, slot, column: (
            f"particle {slot}, column '{features[column]}' holds {values[row, slot, column]} "
            "though the particle is real; expected a finite value"
        ),
    )


def check_jets(jets: NDArray[Any], features: Sequence[str], defects: Defects) -> None:
    """Check the features `(b, C)` of jets."""
    note(
        defects,
        ~np.isfinite(jets),
        lambda row, column: (
            f"column '{features[column]}' of {JETS} holds {jets[row, column]}; expected a finite "
            "value"
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


# --- what cannot be ---


def turned(phi: NDArray[Any]) -> NDArray[Any]:
    """Return angles where what float32 makes of pi or -pi, and the dtype's own pi, are -pi.

    >>> turned(np.float32([math.pi, 0.5])).tolist() == [-PI32, 0.5]
    True
    >>> turned(np.array([PI32, -PI32, math.pi])).tolist() == [-math.pi] * 3
    True
    """
    pi = phi.dtype.type(math.pi)
    with np.errstate(invalid="ignore"):
        ends = ((pi <= phi) & (phi <= PI32)) | ((phi >= -PI32) & (phi < -pi))
    return np.where(ends, -pi, phi)


def impossible(values: NDArray[Any], features: Sequence[str]) -> NDArray[np.bool_]:
    """Return which values, with the features as the last dimension, cannot be; NaN can."""
    wrong = np.zeros(values.shape, np.bool_)
    for column, name in enumerate(features):
        limits, value = TABLE[name].bounds if name in TABLE else Limits(), values[..., column]
        with np.errstate(invalid="ignore"):
            wrong[..., column] = (value < limits.low) | (value > limits.high)
            if limits.strict:
                wrong[..., column] |= value == limits.low
            if name == "phirel":
                pi = value.dtype.type(math.pi)
                wrong[..., column] = (value < -pi) | (value >= pi)
    return wrong


def _in_words(name: str) -> str:
    """Return what values a feature can have, in words."""
    return "radians in [-pi, pi)" if name == "phirel" else str(TABLE[name].bounds)


def check_physical(
    values: NDArray[Any], real: NDArray[np.bool_], features: Sequence[str], defects: Defects
) -> None:
    """Check that the features `(b, N, D)` of real particles can be."""

    def describe(row: int, slot: int, column: int) -> str:
        name, value = features[column], values[row, slot, column]
        hint = HINTS.get(name, "")
        if not values[row, slot].any():
            hint = "; it is all 0: is it padding?"
        value = f"{value:.9g}"
        return f"particle {slot}, column '{name}' holds {value}, expected {_in_words(name)}{hint}"

    note(defects, real[..., None] & impossible(values, features), describe)


def check_physical_jets(
    jets: NDArray[Any],
    features: Sequence[str],
    real: NDArray[np.bool_],
    counts: NDArray[Any] | None,
    defects: Defects,
) -> None:
    """Check that jets can be, and have the particles that they claim to have.

    Arguments:
        jets: their features, with shape `(b, C)`.
        features: the names of the C features.
        real: which particles are real, with shape `(b, N)`.
        counts: how many particles the jets claim, with shape `(b,)`, or None. Where all slots are
            full it may be more: the jet was cut to them.
        defects: what is found is added.
    """
    n = real.sum(1)
    wrong = impossible(jets, features)
    wrong &= (n[:, None] > 0) | (jets != 0)  # without particles there is no momentum
    note(
        defects,
        wrong,
        lambda row, column: (
            f"column '{features[column]}' of {JETS} holds {jets[row, column]:.9g}, expected "
            f"{_in_words(features[column])}"
        ),
    )
    if counts is not None:
        contradiction = (counts != n) & ~((n == real.shape[1]) & (counts > n))
        note(
            defects,
            contradiction[:, None],
            lambda row, _: (
                f"column 'num_particles' of {JETS} holds {counts[row]:g}, the mask says "
                f"{n[row]}; correct the column or leave it out"
            ),
        )


def count_impossible(
    values: NDArray[Any], real: NDArray[np.bool_], features: Sequence[str]
) -> Counter[str]:
    """Return how many values of real particles cannot be, by feature; or are not finite, by this.

    >>> x = np.float32([[[0.1, 0.2, 3.0], [0.1, 0.2, -1.0], [0.0, 0.0, 0.0]]])
    >>> count_impossible(x, np.array([[True, True, False]]), ("etarel", "phirel", "ptrel"))
    Counter({'ptrel': 2})
    """
    real, infinite = real[..., None], ~np.isfinite(values)
    wrong = (real & impossible(values, features) & ~infinite).reshape(-1, len(features)).sum(0)
    found = dict(zip(features, wrong.tolist(), strict=True))
    found[INFINITE] = int((real & infinite).sum())
    return Counter({what: n for what, n in found.items() if n})


def counted(counts: Mapping[str, int]) -> str:
    """Return the numbers of `count_impossible` in words.

    >>> counted({"ptrel": 3, "not finite": 1})
    '3 values of ptrel that are not above 0 and at most 2, 1 value not finite'
    """
    texts = []
    for what, n in counts.items():
        one = n == 1
        why = f"of {what} that {'is' if one else 'are'} not "
        why = INFINITE if what == INFINITE else why + _in_words(what)
        texts.append(f"{n:,} value{'' if one else 's'} {why}")
    return ", ".join(texts)
