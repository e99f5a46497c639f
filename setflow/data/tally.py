"""What events hold, counted block by block, and what of it cannot be.

Nothing is refused here: a row that a reader would not take is counted, with the words that the
reader would say of the first of its kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from setflow.data.hashing import Seen, hash_of_events
from setflow.data.spread import Spread
from setflow.data.valid import (
    INFINITE,
    OF_EVENTS,
    Defects,
    Words,
    absent_in,
    check_counts,
    check_events,
    check_finite,
    check_physical,
    check_physical_events,
    checked_mask,
    count_impossible,
    counted,
    turn_angles,
    without_nan,
)
from setflow.schema import Category, Feature, Schema, names, words_of

__all__ = ["ACCEPTED", "Fault", "Rows", "Tally"]

PTREL = "ptrel"
MOST_PTREL = 1.5  # the particles of a jet hold about its whole pT, and never so much more
MOST_ZEROS = 0.01  # a real object may happen to be all 0, a share of them does not
_ABOVE = "; another rule can be told by a mapping: setflow dataset convert --format custom"
ACCEPTED = {
    "zeros": "real objects whose features are all 0",
    PTREL: f"a {PTREL} that sums to more than {MOST_PTREL} over a jet",
    "counts": "numbers of objects that are not those of the mask",
    "same": "events of the training among those of the validation",
}
"""What is refused unless it is accepted by name, in words."""


@dataclass(frozen=True)
class Rows:
    """Events as they stand in a file.

    Arguments:
        x: the features of objects, with shape `(b, N, D)`; anything in padded slots.
        real: which slots hold an object, with shape `(b, N)`; of any dtype, as the file has it.
        event: the features of events, with shape `(b, C)`.
        counts: how many objects the events are said to have, with shape `(b,)`, or None.
        number: the collision that each event comes from, with shape `(b,)`, or None.
        weights: the weights by the names of their datasets, each with shape `(b,)`.
    """

    x: NDArray[Any]
    real: NDArray[Any]
    event: NDArray[Any]
    counts: NDArray[Any] | None = None
    number: NDArray[Any] | None = None
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)


class Fault(NamedTuple):
    """Something that cannot be.

    Attributes:
        name: of what kind it is; one of `ACCEPTED` may be accepted by it.
        text: what it is, in words.
    """

    name: str
    text: str


class Tally:
    """What events hold, in bounded memory, counted as they come.

    Arguments:
        schema: what they are.
        words: what the parts of a file are called in what is said of it.
        compared: the names of the features by which events are known again; None takes all.

    Attributes:
        n: the number of events.
        unmasked: the number of those whose mask holds something else than 1 and 0; which of their
            objects are real is not known, so that none is counted.
        objects: the number of the real objects of the others.
        lengths: how many events have each number of objects, with shape `(most + 1,)`.
        numbers: how the numbers of objects are spread.
        sums: how the ptrel of an event sum up; without values where there is none.
        zeros: how many real objects have no feature that is not 0.
        seen: the events, by their hashes.
        counted: whether the events say how many objects they have.
        weights: the sum and the smallest of the weights, by the names of their datasets.

    >>> from setflow.schema import Feature
    >>> tally = Tally(Schema([Feature("x"), Feature("y")]))
    >>> tally.add(Rows(np.ones((3, 2, 2)), np.array([[1, 1], [1, 0], [1, 2]]), np.zeros((3, 0))))
    >>> tally.n, tally.objects, tally.lengths.tolist(), tally.spreads[0][1].mean
    (3, 3, [0, 1, 1], 1.0)
    >>> tally.unmasked, tally.faults()[0].name
    (1, 'mask')
    """

    def __init__(
        self,
        schema: Schema,
        words: Words = OF_EVENTS,
        compared: Sequence[str] | None = None,
    ) -> None:
        self.schema, self.words, self.called = schema, words, words_of(names(schema.objects))
        self.compared = names(schema.objects) if compared is None else tuple(compared)
        self.n = self.unmasked = self.objects = self.zeros = 0
        self.lengths = np.zeros(1, np.int64)
        self.columns: tuple[Feature, ...] = (*schema.objects, *schema.event)
        # by places, for a feature of events may have the name of one of objects
        self._spreads = [Spread() for _ in self.columns]
        self._codes: list[Counter[int]] = [Counter() for _ in self.columns]
        self.sums, self.numbers, self.seen, self.counted = Spread(), Spread(), Seen(), False
        self.weights: dict[str, tuple[float, float]] = {}
        self._wrong: dict[str, tuple[int, str]] = {}
        self._impossible: Counter[str] = Counter()
        self._line = [k for k, entry in enumerate(schema.objects) if entry.of_kind.on_a_line]

    @property
    def spreads(self) -> list[tuple[Feature, Spread]]:
        """The features with their spreads, those of events behind those of objects."""
        return list(zip(self.columns, self._spreads, strict=True))

    @property
    def codes(self) -> list[tuple[Feature, Counter[int]]]:
        """The categories with how often each code occurs."""
        held = zip(self.columns, self._codes, strict=True)
        return [(entry, codes) for entry, codes in held if isinstance(entry.kind, Category)]

    def add(self, rows: Rows) -> None:
        """Count events."""
        defects: Defects = {}
        real = checked_mask(rows.real, defects, self.words)
        self._note("mask", defects)
        known = ~np.isin(np.arange(len(real)), [*defects])
        self.unmasked += len(defects)
        real = real & known[:, None]
        x = without_nan(np.where(real[..., None], rows.x, 0), self.schema.objects)
        event = np.array(rows.event)
        turn_angles(x, self.schema.objects)
        turn_angles(event, self.schema.event)
        self._judge(x, real, event, rows, [*defects])
        self._measure(x, real, event)
        picked = [names(self.schema.objects).index(name) for name in self.compared]
        lengths = real.sum(1)
        some = lengths > 1  # of one object alone, such as all of a jet, others may be the same
        self.seen.add(hash_of_events(x[some][..., picked], real[some], self.compared))
        self.numbers.add(lengths[known])
        counts = np.bincount(lengths[known], minlength=len(self.lengths))
        counts[: len(self.lengths)] += self.lengths
        self.lengths = counts
        self.objects += int(lengths.sum())
        self.n += len(x)

    def _judge(
        self,
        x: NDArray[Any],
        real: NDArray[np.bool_],
        event: NDArray[Any],
        rows: Rows,
        unmasked: list[int],
    ) -> None:
        """Count what cannot be, by kinds; rows without a mask have no number to compare."""
        features, of_event, words = self.schema.objects, self.schema.event, self.words
        kinds: dict[str, Defects] = {name: {} for name in ("finite", "limits", "event", "counts")}
        check_finite(x, real, features, kinds["finite"], words)
        check_physical(x, real, features, kinds["limits"], words)
        self._impossible += count_impossible(x, real, features)
        check_events(event, of_event, kinds["event"], words)
        check_physical_events(event, of_event, real, kinds["event"], words)
        if rows.counts is not None:
            self.counted = True
            check_counts(rows.counts, real, kinds["counts"], words)
            kinds["counts"] = {k: v for k, v in kinds["counts"].items() if k not in unmasked}
        for name, weight in rows.weights.items():
            good = weight[np.isfinite(weight)]
            kinds.setdefault("weights", {}).update(
                (int(row), f"{name} holds {weight[row]}; expected a finite number")
                for row in np.flatnonzero(~np.isfinite(weight))
            )
            total, least = self.weights.get(name, (0.0, np.inf))
            least = min(least, float(good.min(initial=np.inf)))
            self.weights[name] = total + float(good.sum(dtype=np.float64)), least
        for name, defects in kinds.items():
            self._note(name, defects)

    def _note(self, name: str, defects: Defects) -> None:
        """Count rows of which something is wrong; the words are those of the first."""
        if defects:
            n, text = self._wrong.get(name, (0, ""))
            row = min(defects)
            self._wrong[name] = n + len(defects), text or f"row {self.n + row}, {defects[row]}"

    def _measure(self, x: NDArray[Any], real: NDArray[np.bool_], event: NDArray[Any]) -> None:
        """Count what can be."""
        objects = x[real]
        there = ~absent_in(objects, self.schema.objects)
        held = [column[some] for column, some in zip(objects.T, there.T, strict=True)]
        columns = [*held, *event.T]
        for entry, values, spread, codes in zip(
            self.columns, columns, self._spreads, self._codes, strict=True
        ):
            good = values[np.isfinite(values)]
            if isinstance(entry.kind, Category):
                code, times = np.unique(good.astype(np.int64), return_counts=True)
                codes.update(dict(zip(code.tolist(), times.tolist(), strict=True)))
            else:
                spread.add(good)
        if self._line:
            self.zeros += int((real & ~(x[..., self._line] != 0).any(-1)).sum())
        listed = names(self.schema.objects)
        if PTREL in listed:
            sums = x[..., listed.index(PTREL)].sum(1, dtype=np.float64)[real.any(1)]
            self.sums.add(sums[np.isfinite(sums)])

    def faults(self) -> list[Fault]:
        """Return what cannot be."""
        events, found = self.called.events, []
        for name, what in (
            ("mask", "have a mask that holds something else than 1 and 0"),
            ("finite", f"have real {self.called.objects} that are not finite"),
            ("limits", ""),
            ("event", "have features that cannot be"),
            ("weights", "have a weight that is no finite number"),
            ("counts", f"have another number of {self.called.objects} than they say"),
        ):
            if name in self._wrong:
                n, first = self._wrong[name]
                values = Counter({k: n for k, n in self._impossible.items() if k != INFINITE})
                told = what or f"hold {counted(values, self.schema.objects)}"
                hint = _ABOVE if name == "mask" else ""
                found.append(Fault(name, f"{n:,} of {self.n:,} {events} {told}: {first}{hint}"))
        if self.zeros > MOST_ZEROS * self.objects:
            text = f"{self._zeros()}; are they padding that the mask calls real?"
            found.append(Fault("zeros", text))
        if self.sums.n and (middle := float(self.sums.quantiles([0.5])[0])) > MOST_PTREL:
            text = (
                f"{PTREL} sums to {middle:.4g} over {self.called.an_event} (the median), "
                f"expected at most {MOST_PTREL}: is it relative to the pT of the jet?"
            )
            found.append(Fault(PTREL, text))
        return found

    def doubts(self) -> list[str]:
        """Return what can be and is to be known, a line each."""
        events, found = self.called.events, []
        if 0 < self.zeros <= MOST_ZEROS * self.objects:
            found.append(self._zeros())
        if self.seen.again:
            about = "" if self.seen.is_exact else "about "
            found.append(
                f"{about}{self.seen.again:,} of {self.n:,} {events} are the same as one before"
            )
        for entry, spread in self.spreads:
            if spread.n > 1 and spread.low == spread.high:
                found.append(f"{entry.name} is {spread.low:g} everywhere")
            if entry.of_kind.is_angle and entry.of_kind.on_a_line and spread.n:
                low, high = spread.quantiles([0.01, 0.99])
                if high - low > 4:
                    found.append(
                        f"{entry.name} fills the whole circle, though it is kept as a number on a "
                        f"line: is it relative to that of the {self.called.event}?"
                    )
        return found

    def _zeros(self) -> str:
        objects = self.called.objects
        share = self.zeros / max(1, self.objects)
        return f"{self.zeros:,} of {self.objects:,} real {objects} ({share:.2g}) are all 0"
