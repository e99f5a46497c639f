"""What numbers mean: a verdict on every metric, one line on all of them, and limits to keep.

A metric has the value v, truth against truth f, and two controls, samples that are wrong by
construction; s is how far such a value scatters, by the floor or by the error of v, whichever is
larger, as few events in a tail may be on one side alone:

    at the floor                         v is at most f + 2 s: a perfect model would get that,
    better than both controls            v is above that, and below either control,
    better than the shuffled one only    true events with swapped features are nearer to the truth,
    better than the swapped one only     shuffled ones are,
    worse than the controls              what these have lost was not learnt,
    above the floor                      v is above it, and both controls are 0 by construction,
    nearer to the training than the truth  v is below f by more than 2 s, of the ratio that tells
                                         whether a training is repeated: neither side is good there.

A control is 0 by construction where it keeps what the metric looks at: the particles, one by one,
of shuffled jets are those of the truth. It is then no rival, and of one rival alone is said whether
v is better or worse.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "CONTROLS",
    "FLOOR",
    "Limit",
    "Result",
    "broken",
    "is_zero",
    "limits_of",
    "shortly",
    "summary_of",
    "verdict_of",
]

FLOOR = (
    "floor: parts of the truth against each other, what a perfect model would get, and how far one "
    "such value scatters"
)
CONTROLS = {
    "jets": (
        "shuffled: true jets whose particles are exchanged with those of other jets, each for one "
        "of its rank in pT: all spectra of particles are right, and no jet is",
        "swapped: true jets that have got the list of momenta of another jet with as many "
        "particles: directions and momenta are right, and do not belong together",
    ),
    "events": (
        "shuffled: true events whose objects are exchanged with those of other events: all spectra "
        "of objects are right, and no event is",
        "swapped: true events that have got the list of each feature but the first from another "
        "event with as many objects: features are right, and do not belong together",
    ),
    "collisions": (
        "shuffled: true events whose objects are exchanged with those of the same type of other "
        "events: counts and spectra of each type are right, and no event is",
        "swapped: true events whose objects have got the directions of others of their type: "
        "momenta and directions are right, and do not belong together",
    ),
}
"""What the controls are, one sentence for each, by what is compared."""

_AT_FLOOR, _ABOVE = "at the floor", "above the floor"
_BOTH, _ONE = "better than both controls", "better than the control"
_ONLY = {
    "shuffled": "better than the shuffled one only",
    "swapped": "better than the swapped one only",
}
_WORSE = "worse than the controls"
_NEARER = "nearer to the training than the truth"
_WORDS = {  # in a terminal, and before the metrics in a sentence
    _AT_FLOOR: ("at floor", "at the floor of truth against truth in"),
    _BOTH: ("both", "better than both wrong controls in"),
    _ONE: ("control", "better than the wrong control in"),
    _ABOVE: ("-", "off the truth in"),
    _ONLY["shuffled"]: ("shuffled", "worse than true {what} with swapped {lists} in"),
    _ONLY["swapped"]: ("swapped", "worse than shuffled true {what} in"),
    _WORSE: ("none", "worse than the wrong controls in"),
    _NEARER: ("copies?", "nearer to the training than the truth by"),
}
_ZERO = 1e-9  # of the floor: a control that is smaller is 0 by construction
_GOOD, _FAIR = 0.7, 0.9  # the largest AUC to be called so


@dataclass(frozen=True)
class Result:
    """One metric of a report; all numbers are in `unit`.

    Arguments:
        value: generated against reference.
        error: how far it would scatter with other events; None where draws of so few say nothing.
        floor: the mean between disjoint parts of the reference.
        floor_spread: its standard deviation: how far one value scatters.
        shuffled: the reference with objects shuffled, against the reference.
        swapped: the reference with lists of features swapped, against the reference.
        unit: the unit, empty if there is none.
        verdict: what that means, one of those of the module.
    """

    value: float
    error: float | None
    floor: float
    floor_spread: float
    shuffled: float
    swapped: float
    unit: str
    verdict: str

    def zero(self, control: str) -> bool:
        """Return whether a control, `shuffled` or `swapped`, is 0 by construction."""
        return is_zero(getattr(self, control), self.floor)


def is_zero(control: float, floor: float) -> bool:
    """Return whether the value of a control is 0 by construction, beside that of the floor."""
    return abs(control) <= _ZERO * abs(floor)


def verdict_of(
    value: float,
    floor: float,
    spread: float,
    controls: Mapping[str, float],
    *,
    larger_is_better: bool = False,
    too_small: bool = False,
) -> str:
    """Return the verdict on a metric.

    Arguments:
        value: generated against reference.
        floor: the mean of truth against truth.
        spread: how far such values scatter.
        controls: the values of the controls, by what they are called.
        larger_is_better: whether a larger value is closer to the truth.
        too_small: whether a value can be too small, as that of memorisation.

    >>> verdict_of(3.0, 1.0, 0.3, {"shuffled": 9.0, "swapped": 2.0})
    'better than the shuffled one only'
    >>> verdict_of(1.5, 1.0, 0.3, {"shuffled": 0.0, "swapped": 0.0})
    'at the floor'
    """
    sign = -1.0 if larger_is_better else 1.0
    if too_small and floor - value > 2 * spread:
        return _NEARER
    if sign * (value - floor) <= 2 * spread:
        return _AT_FLOOR
    rivals = {name: c for name, c in controls.items() if not is_zero(c, floor)}
    beaten = [name for name, control in rivals.items() if sign * (value - control) < 0]
    if not rivals:
        return _ABOVE
    if not beaten:
        return _WORSE
    if len(beaten) == len(rivals):
        return _BOTH if len(rivals) == len(controls) else _ONE
    return _ONLY[beaten[0]]


def shortly(verdict: str) -> str:
    """Return which controls are beaten, in a word, for the narrow column of a terminal.

    >>> shortly("better than the shuffled one only"), shortly("worse than the controls")
    ('shuffled', 'none')
    """
    return _WORDS[verdict][0]


def summary_of(
    metrics: Mapping[str, Result],
    titles: Mapping[str, str],
    events: int,
    what: str,
    lists: str = "features",
) -> str:
    """Return in one line how good the generated events are, for who has not read the table.

    Arguments:
        metrics: the results by name; of jets those of W1M, tau21, FPD and the AUC count, of other
            sets all.
        titles: what the metrics are called.
        events: the number of generated events.
        what: what events are called.
        lists: what the second control swaps.
    """
    chosen = [name for name in ("w1m", "w1_tau21", "fpd") if name in metrics] or list(metrics)
    repeats = [r for r in metrics.values() if r.verdict == _NEARER]
    aucs = [result for name, result in metrics.items() if name.startswith("auc_")]
    area = max((result.value for result in aucs), default=0.5)
    alike = all(result.verdict == _AT_FLOOR for result in aucs)
    places: dict[str, list[str]] = {}
    for name in chosen:
        places.setdefault(metrics[name].verdict, []).append(titles[name])
    if repeats:
        grade = "Suspect"
    elif alike and set(places) <= {_AT_FLOOR}:
        grade = f"Like the truth, as far as {events:,} {what} can tell"
    elif _WORSE in places or area >= _FAIR:
        grade = "Poor"
    elif places.keys() & {*_ONLY.values()} or area >= _GOOD:
        grade = "Fair"
    else:
        grade = "Good, and not yet like the truth"
    told = [
        f"{_WORDS[verdict][1].format(what=what, lists=lists)} {_listed(places[verdict])}"
        for verdict in _WORDS
        if verdict in places
    ]
    if aucs:
        told.append(
            f"a classifier tells generated from true {what} with an AUC of {area:.2f} "
            "(0.5: not at all; 1: always)"
        )
    told += [
        f"generated {what} are nearer to those of the training than true ones are, {r.value:.2f} "
        "times as far, so look for copies"
        for r in repeats
    ]
    return f"{grade}: {'; '.join(told)}."


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


# --- limits ---


@dataclass(frozen=True)
class Limit:
    """A limit that a metric has to keep.

    Arguments:
        name: the metric, or `auc`, the largest AUC that was measured.
        below: whether it must be below the number, else above it.
        number: the number, in the unit of the metric.

    >>> str(Limit("w1m", True, 2e-3))
    'w1m<0.002'
    """

    name: str
    below: bool
    number: float

    def __str__(self) -> str:
        return f"{self.name}{'<' if self.below else '>'}{self.number:g}"


def limits_of(text: str, names: Sequence[str]) -> list[Limit]:
    """Return the limits that a text such as `w1m<2e-3,auc<0.7` sets.

    Arguments:
        text: limits behind each other, with commas between them.
        names: the names of the metrics that will be measured.

    Raises:
        ValueError: if it is no list of limits, or there is no such metric.

    >>> [limit.number for limit in limits_of("w1m<2e-3, auc<0.7", ["w1m", "auc_trees"])]
    [0.002, 0.7]
    """
    known = [*names, *(["auc"] if any(name.startswith("auc_") for name in names) else [])]
    limits = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([^<>=\s]+)\s*([<>])\s*(\S+)\s*", part)
        number = _number(match[3]) if match else None
        if match is None or number is None:
            raise ValueError(
                f"got {part.strip()!r}, expected a metric, < or >, and a number, such as w1m<2e-3; "
                "several limits have a comma between them"
            )
        if match[1] not in known:
            raise ValueError(
                f"there is no metric {match[1]!r} to require, expected one of: {', '.join(known)}"
            )
        limits.append(Limit(match[1], match[2] == "<", number))
    return limits


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def broken(
    limits: Sequence[Limit], metrics: Mapping[str, Result], missing: Mapping[str, str]
) -> list[str]:
    """Return, a sentence for each, which limits are not kept.

    Arguments:
        limits: the limits.
        metrics: the results by name.
        missing: the metrics that could not be measured, and why.
    """
    told = []
    for limit in limits:
        names = [n for n in (*metrics, *missing) if n == limit.name]
        if limit.name == "auc":
            names = [n for n in (*metrics, *missing) if n.startswith("auc_")]
        values = {name: metrics[name].value for name in names if name in metrics}
        if not values:
            told.append(
                f"{limit} is required, and {names[0]} was not measured: {missing[names[0]]}"
            )
            continue
        name = max(values, key=lambda key: values[key])
        if not (values[name] < limit.number if limit.below else values[name] > limit.number):
            told.append(f"{limit} is required, and {name} is {values[name]:.4g}")
    return told
