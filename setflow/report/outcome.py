"""What a comparison gave: the numbers of a report, as a table and as what a file holds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.table import Table

from setflow.physics.metrics import Floor, Metric
from setflow.report.subjects import Subject
from setflow.sets.batch import SetBatch
from setflow.sets.weights import effective_number

__all__ = ["Report", "Result", "Side"]


@dataclass(frozen=True)
class Result:
    """One metric of a report; all numbers are in `unit`.

    Arguments:
        value: generated against reference.
        floor: the mean between disjoint parts of the reference.
        floor_spread: its standard deviation: how far one value scatters.
        shuffled: the reference with objects shuffled, against the reference.
        swapped: the reference with lists of features swapped, against the reference.
        unit: the unit, empty if there is none.
    """

    value: float
    floor: float
    floor_spread: float
    shuffled: float
    swapped: float
    unit: str


@dataclass(frozen=True)
class Side:
    """One side of the comparison.

    Arguments:
        name: the file, or what was given instead of one.
        events: the number of events that were compared.
        available: the number of events that there are.
        columns: the number of slots before the cut.
        effective: the effective number of the weighted events that were compared, (sum w)^2 /
            sum w^2; None without weights.
        negative: how many of their weights are negative.
        weights_sha256: the hash of the weights of the model that made them, as the file tells
            it; None if it tells none.
    """

    name: str
    events: int
    available: int
    columns: int
    effective: float | None = None
    negative: int = 0
    weights_sha256: str | None = None

    @property
    def worth(self) -> float:
        """How many jets of equal weight scatter as those that were compared."""
        return self.events if self.effective is None else self.effective

    @classmethod
    def of(
        cls, name: str, jets: SetBatch, events: int, available: int, weights_sha256: str | None
    ) -> Side:
        """Return what the first `events` jets of a sample are, of so many that there are."""
        effective, negative = None, 0
        if jets.weight is not None:
            weight = jets.weight[:events]
            effective, negative = effective_number(weight), int((weight < 0).sum())
        columns = jets.mask.shape[1]
        return cls(name, events, available, columns, effective, negative, weights_sha256)


@dataclass(frozen=True)
class Report:
    """The outcome of a comparison.

    Arguments:
        metrics: the results by the name of the metric, in the order of the subject's.
        generated: the generated side.
        reference: the reference side.
        columns: the number of slots that both sides were cut to.
        seed: the seed of floor and controls.
        floor: the floor, with its sizes and whether it was scaled.
        subject: what is compared: jets, or sets of other features.
        notes: what speaks against the comparison: that both sides are the same file, that they
            share events, that generated values cannot be, or that events are few.
        unphysical: how many values of the generated objects cannot be, by what is wrong; they are
            kept in the comparison.
        pictures: the names of the PNG files in the folder.
    """

    metrics: dict[str, Result]
    generated: Side
    reference: Side
    columns: int
    seed: int
    floor: Floor
    subject: Subject = field(compare=False)
    notes: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    unphysical: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return what `metrics.json` holds."""
        return {
            "metrics": {name: asdict(result) for name, result in self.metrics.items()},
            "generated": asdict(self.generated),
            "reference": asdict(self.reference),
            "columns": self.columns,
            "seed": self.seed,
            "floor": {
                "pairs": self.floor.pairs,
                "sizes": list(self.floor.sizes),
                "scaled": self.floor.scaled,
                "factor": self.floor.factor,
            },
            "cut": self._cut(),
            "compared": self.subject.words.events,
            "swapped": self.subject.swapped,
            "unphysical": self.unphysical,
            "notes": list(self.notes),
            "pictures": list(self.pictures),
        }

    def table(self) -> Table:
        """Return the numbers as a table for the terminal, each in the power of ten it is quoted in.

        The ratio is value / floor: about 1 where the model cannot be told from the reference.
        """
        table = Table(
            title="Generated against reference: 1-Wasserstein distances",
            caption=self._caption(),
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            show_edge=False,
        )
        table.add_column("metric", no_wrap=True)
        table.add_column("unit", no_wrap=True)
        for heading in ("value", "floor ± spread", "shuffled", "swapped", "ratio"):
            table.add_column(heading, justify="right", no_wrap=True)
        for metric in self.subject.metrics:
            result = self.metrics[metric.name]
            digits = _digits(result.floor_spread / metric.scale)
            value, floor, spread, shuffled, swapped = (
                f"{number / metric.scale:.{digits}f}"
                for number in (
                    result.value,
                    result.floor,
                    result.floor_spread,
                    result.shuffled,
                    result.swapped,
                )
            )
            ratio = f"{result.value / result.floor:.2f}" if result.floor > 0 else "-"
            unit = _unit(metric)
            table.add_row(
                metric.title, unit, value, f"{floor} ± {spread}", shuffled, swapped, ratio
            )
        return table

    def _caption(self) -> str:
        lines = [
            f"{self.generated.events:,} generated and {self.reference.events:,} reference "
            f"{self.subject.words.events}, seed {self.seed}",
            *self._weights(),
            *self._model(),
            self._cut(),
            f"floor: mean and spread of {self._floor()}",
            "ratio: value / floor",
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _weights(self) -> list[str]:
        """Return what weighted events are worth."""
        events = self.subject.words.events
        sides = {"generated": self.generated, "reference": self.reference}
        return [
            f"the {side.events:,} {name} {events} have weights, {side.negative:,} of them "
            f"negative, and are worth {side.effective:,.0f} equal ones"
            for name, side in sides.items()
            if side.effective is not None
        ]

    def _model(self) -> list[str]:
        """Return which model made the jets, if that is known."""
        sha256 = self.generated.weights_sha256
        return [] if sha256 is None else [f"generated by the model with weights {sha256[:16]}"]

    def _cut(self) -> str:
        """Return which objects are compared, and by what they were chosen."""
        words = self.subject.words
        slots = {"generated": self.generated.columns, "reference": self.reference.columns}
        cut = [f"{name} (of {n} slots)" for name, n in slots.items() if n > self.columns]
        if not cut:
            return f"all rows compare all {words.objects}, up to {self.columns} of {words.an_event}"
        return (
            f"all rows compare {self.subject.kept(self.columns)}: {cut[0]} is cut to "
            "them, and every observable computed after the cut, the multiplicity too"
        )

    def _floor(self) -> str:
        """Return what the floor was measured with, and if that was not what is compared, why."""
        first, second = self.floor.sizes
        events = self.subject.words.events
        parts = f"{self.floor.pairs} pairs of disjoint random parts of the reference"
        weighted = self.generated.effective is not None or self.reference.effective is not None
        if not self.floor.scaled:
            like = ", worth as much as in the comparison" if weighted else " as in the comparison"
            return f"{parts}, {first:,} and {second:,} {events}{like}"
        n_gen, n_ref = round(self.generated.worth), round(self.reference.worth)
        if weighted:
            return (
                f"{parts}, its halves of {first:,} {events} each, which are worth less than what "
                f"is compared; so mean and spread are scaled by {self.floor.factor:.3f}, to the "
                f"worth of {n_gen:,} and {n_ref:,} equal {events}, as distances fall with the root "
                "of the number"
            )
        return (
            f"{parts}, its halves of {first:,} {events} each: disjoint parts as large as what is "
            f"compared would take {n_gen:,} + {n_ref:,} {events}, and it has "
            f"{self.reference.available:,}; so mean and spread are scaled by "
            f"{self.floor.factor:.3f}, to {n_gen:,} and {n_ref:,} {events}, as distances fall with "
            "the root of the number"
        )


def _digits(spread: float) -> int:
    """Return how many decimals, 3 at most, show two digits of the spread."""
    return min(3, max(0, 1 - math.floor(math.log10(spread)))) if spread > 0 else 3


def _unit(metric: Metric) -> str:
    power = round(math.log10(metric.scale))
    return " ".join(filter(None, [f"1e{power}" if power else "", metric.unit])) or "1"
