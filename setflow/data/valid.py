"""What a valid row of a file of events is.

A check adds what it finds to the defects of a block of rows, so that whoever reads or writes may
refuse the block, or keep a malformed row in its place with the reason. What is found is of two
kinds: what is no number or no mask, and what is a number that cannot be (`setflow.schema.Limits`).
The second may be asked for as it is, as the sample of a model may hold it. What a feature can be
follows from the schema: its limits, [-pi, pi) for angles, and the codes of a category.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from setflow.data.jets import JETS, NUM, TYPES
from setflow.schema import PARTICLE_TYPES, Bounded, Category, Feature, kind_names

PI32 = float(np.float32(math.pi))  # above pi
HINTS = {"ptrel": "; is it in units of the jet pT?"}


class Words(NamedTuple):
    """What the parts of a file are called in errors.

    Arguments:
        object: one object.
        event: the dataset of the features of events.
        event_word: one event.
    """

    object: str
    event: str
    event_word: str


OF_JETS, OF_EVENTS = Words("particle", JETS, "jet"), Words("object", "context", "event")

INFINITE = "not finite"

_MASK = "expected 1 (real) or 0 (padding)"
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
    raise ValueError(f"{path}: row {first + row}, {defects[row]}{next_step(defects[row])}")


def next_step(reason: str) -> str:
    """Return what can be done about a reason why a row is malformed, or nothing."""
    if not reason.endswith(_MASK):
        return ""
    return (
        "; if the whole file is so, tell `setflow dataset convert` the rule in a mapping, as mask: "
        "{above: {mask: 0}}"
    )


# --- what is no number ---


def checked_mask(flags: NDArray[Any], defects: Defects, words: Words) -> NDArray[np.bool_]:
    """Return which slots are real, with the shape of the flags `(b, N)`."""
    if flags.dtype == np.bool_:
        return flags
    note(
        defects,
        ~((flags == 0) | (flags == 1)),
        lambda row, slot: f"{words.object} {slot}, column 'mask' holds {flags[row, slot]}, {_MASK}",
    )
    real: NDArray[np.bool_] = flags == 1
    return real


def check_finite(
    values: NDArray[Any],
    real: NDArray[np.bool_],
    features: Sequence[Feature],
    defects: Defects,
    words: Words,
) -> None:
    """Check the features `(b, N, D)` of real objects; NaN may stand for what is absent."""
    infinite = ~np.isfinite(values)
    if any(feature.absent for feature in features):
        infinite &= ~(np.isnan(values) & absent_in(values, features))
    note(
        defects,
        real[..., None] & infinite,
        lambda row, slot, column: (
            f"{words.object} {slot}, column '{features[column].name}' holds "
            f"{values[row, slot, column]} though the {words.object} is real; expected a finite "
            "value"
        ),
    )


def check_events(
    event: NDArray[Any], features: Sequence[Feature], defects: Defects, words: Words
) -> None:
    """Check the features `(b, C)` of events."""
    note(
        defects,
        ~np.isfinite(event),
        lambda row, column: (
            f"column '{features[column].name}' of {words.event} holds {event[row, column]}; "
            "expected a finite value"
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


def turn_angles(values: NDArray[Any], features: Sequence[Feature]) -> None:
    """Make angles of values, with the features as the last dimension, `turned` in place."""
    for column, feature in enumerate(features):
        if feature.of_kind.is_angle:
            values[..., column] = turned(values[..., column])


def impossible(values: NDArray[Any], features: Sequence[Feature]) -> NDArray[np.bool_]:
    """Return which values, with the features as the last dimension, cannot be; NaN can."""
    wrong = np.zeros(values.shape, np.bool_)
    for column, feature in enumerate(features):
        limits, kind, value = feature.bounds, feature.of_kind, values[..., column]
        with np.errstate(invalid="ignore"):
            wrong[..., column] = (value < limits.low) | (value > limits.high)
            if limits.strict:
                wrong[..., column] |= value == limits.low
            if not math.isinf(kind.bounds[0]):
                wrong[..., column] |= value <= kind.bounds[0]
            if isinstance(kind, Bounded):
                wrong[..., column] |= value >= kind.high
            if feature.of_kind.is_angle:
                pi = value.dtype.type(math.pi)
                wrong[..., column] |= (value < -pi) | (value >= pi)
            if isinstance(kind, Category):
                codes = (value == np.floor(value)) & (value >= 0) & (value < len(kind.names))
                wrong[..., column] |= ~codes & np.isfinite(value)
    return wrong


def absent_in(values: NDArray[Any], features: Sequence[Feature]) -> NDArray[np.bool_]:
    """Return which values stand for features that their object does not have.

    Arguments:
        values: features of objects, as the last dimension; categories as their codes.
        features: what they are, the categories among them by which some are absent.

    Returns:
        Flags, with the shape of the values.

    Raises:
        ValueError: if a category is not among the features.

    >>> kind = Feature("type", kind="category(jet, muon)")
    >>> mass = Feature("mass", absent=["muon"])
    >>> absent_in(np.array([[5.0, 0.0], [0.0, 1.0]]), [mass, kind]).tolist()
    [[False, False], [True, False]]
    """
    missing = np.zeros(values.shape, np.bool_)
    lacking = {name for feature in features for name in feature.absent}
    for column, feature in enumerate(features):
        for code, name in enumerate(
            kind_names(feature) if isinstance(feature.kind, Category) else ()
        ):
            if name in lacking:
                lacks = [name in other.absent for other in features]
                missing[values[..., column] == code] |= lacks
    held = {
        name
        for feature in features
        if isinstance(feature.kind, Category)
        for name in kind_names(feature)
    }
    if unknown := sorted(lacking - held):
        raise ValueError(
            f"some features are absent in {', '.join(unknown)}, and no category that tells which "
            f"objects are that is among {', '.join(feature.name for feature in features)}; give "
            "it, too"
        )
    return missing


def _wrong_in(values: NDArray[Any], features: Sequence[Feature]) -> NDArray[np.bool_]:
    """Return which features of objects cannot be; what is absent can be 0 alone, or NaN."""
    wrong = impossible(values, features)
    if any(feature.absent for feature in features):
        given = (values != 0) & ~np.isnan(values)
        wrong = np.where(absent_in(values, features), given, wrong)
        types = np.array([isinstance(feature.kind, Category) for feature in features])
        unknown = wrong[..., types].any(-1, keepdims=True)  # what such an object lacks, too
        wrong &= types | ~unknown
    return wrong


def without_nan(values: NDArray[Any], features: Sequence[Feature]) -> NDArray[Any]:
    """Return features of objects, the last dimension, with 0 for NaN that says what is absent."""
    if not any(feature.absent for feature in features):
        return values
    return np.where(np.isnan(values) & absent_in(values, features), 0, values)


def _in_words(feature: Feature) -> str:
    """Return what values a feature can have, in words."""
    kind = feature.kind
    if feature.of_kind.is_angle:
        return "radians in [-pi, pi)"
    if isinstance(kind, Category):
        return f"a whole number from 0 to {len(kind.names) - 1}, one of {', '.join(kind.names)}"
    if isinstance(kind, Bounded):
        return f"between {kind.low:g} and {kind.high:g}"
    return str(feature.bounds)


def check_physical(
    values: NDArray[Any],
    real: NDArray[np.bool_],
    features: Sequence[Feature],
    defects: Defects,
    words: Words,
) -> None:
    """Check that the features `(b, N, D)` of real objects can be."""

    def describe(row: int, slot: int, column: int) -> str:
        feature, value = features[column], values[row, slot, column]
        if feature.absent and absent_in(values[row, slot], features)[column]:
            return (
                f"{words.object} {slot}, column '{feature.name}' holds {value:.9g}, expected 0: "
                f"no {' and no '.join(feature.absent)} has one"
            )
        hint = "; wrap the angles" if feature.of_kind.is_angle else HINTS.get(feature.name, "")
        if value == 0 and not hint and not feature.absent:
            hint = "; if some types of objects lack it, leave it out, or name them as its absent"
        if not values[row, slot].any():
            hint = "; it is all 0: is it padding?"
        return (
            f"{words.object} {slot}, column '{feature.name}' holds {value:.9g}, expected "
            f"{_in_words(feature)}{hint}"
        )

    note(defects, real[..., None] & _wrong_in(values, features), describe)


def check_physical_events(
    event: NDArray[Any],
    features: Sequence[Feature],
    real: NDArray[np.bool_],
    defects: Defects,
    words: Words,
) -> None:
    """Check that the features `(b, C)` of events can be; `real` has shape `(b, N)`."""
    wrong = impossible(event, features)
    wrong &= real.any(1, keepdims=True) | (event != 0)  # without particles there is no momentum
    note(
        defects,
        wrong,
        lambda row, column: (
            f"column '{features[column].name}' of {words.event} holds {event[row, column]:.9g}, "
            f"expected {_in_words(features[column])}"
        ),
    )


def check_counts(
    counts: NDArray[Any], real: NDArray[np.bool_], defects: Defects, words: Words
) -> None:
    """Check that events have the objects that they claim to have.

    Arguments:
        counts: how many objects the events claim, with shape `(b,)`. Where all slots are full it
            may be more: the event was cut to them.
        real: which objects are real, with shape `(b, N)`.
        defects: what is found is added.
        words: what the parts of the file are called.
    """
    n = real.sum(1)
    contradiction = (counts != n) & ~((n == real.shape[1]) & (counts > n))
    note(
        defects,
        contradiction[:, None],
        lambda row, _: (
            f"column '{NUM}' of {words.event} holds {counts[row]:g}, the mask says "
            f"{n[row]}; correct the column or leave it out"
        ),
    )


def count_impossible(
    values: NDArray[Any], real: NDArray[np.bool_], features: Sequence[Feature]
) -> Counter[str]:
    """Return how many values of real objects cannot be, by feature; or are not finite, by this.

    >>> x = np.float32([[[0.1, 0.2, 3.0], [0.1, 0.2, -1.0], [0.0, 0.0, 0.0]]])
    >>> count_impossible(x, np.array([[True, True, False]]), setflow.schema.JETNET.objects)
    Counter({'ptrel': 2})
    """
    real, values = real[..., None], without_nan(values, features)
    infinite = ~np.isfinite(values)
    wrong = (real & _wrong_in(values, features) & ~infinite).reshape(-1, len(features)).sum(0)
    found = {feature.name: n for feature, n in zip(features, wrong.tolist(), strict=True)}
    found[INFINITE] = int((real & infinite).sum())
    return Counter({what: n for what, n in found.items() if n})


def counted(counts: Mapping[str, int], features: Sequence[Feature]) -> str:
    """Return the numbers of `count_impossible` in words.

    >>> counted({"ptrel": 3, "not finite": 1}, setflow.schema.JETNET.objects)
    '3 values of ptrel that are not above 0 and at most 2, 1 value not finite'
    """
    table, texts = {feature.name: feature for feature in features}, []
    for what, n in counts.items():
        one = n == 1
        why = f"of {what} that {'is' if one else 'are'} not "
        why = INFINITE if what == INFINITE else why + _in_words(table[what])
        texts.append(f"{n:,} value{'' if one else 's'} {why}")
    return ", ".join(texts)
