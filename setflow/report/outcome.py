"""What a comparison gave: the numbers of a report, as a table and as what a file holds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.table import Table

from setflow.physics.classifier import Split
from setflow.physics.measures import MEASURES, metrics_of
from setflow.physics.memorisation import MEMORISATION
from setflow.physics.metrics import Floor, Metric
from setflow.report.further import Copies
from setflow.report.judging import FLOOR, Result, shortly, summary_of
from setflow.report.subjects import Subject
from setflow.sets.batch import SetBatch
from setflow.sets.weights import effective_number

__all__ = ["Report", "Result", "Side"]


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
        protocol: how often, and on which jets, a distance is measured: `"whole"` or `"jetnet"`.
        notes: what speaks against the comparison: that both sides are the same file, that they
            share events, that generated values cannot be, or that events are few.
        unphysical: how many values of the generated objects cannot be, by what is wrong; they are
            kept in the comparison.
        missing: the metrics that could not be measured, and why.
        copies: how many jets stand in the training; None if that was not given.
        broken: which of the limits that were required are not kept, a sentence for each.
        classes: the comparison of each class of events, by its name, where both sides tell it.
        pictures: the names of the PNG files in the folder.
    """

    metrics: dict[str, Result]
    generated: Side
    reference: Side
    columns: int
    seed: int
    floor: Floor
    subject: Subject = field(compare=False)
    protocol: str = "whole"
    notes: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    unphysical: dict[str, int] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    copies: Copies | None = None
    broken: tuple[str, ...] = ()
    classes: dict[str, Report] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return what `metrics.json` holds."""
        return {
            "summary": self.summary,
            "metrics": _numbers(self),
            "missing": self.missing,
            "broken": list(self.broken),
            "classes": {name: _numbers(report) for name, report in self.classes.items()},
            "generated": asdict(self.generated),
            "reference": asdict(self.reference),
            "columns": self.columns,
            "seed": self.seed,
            "protocol": self.protocol,
            "training": None if self.copies is None else asdict(self.copies),
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

    @property
    def summary(self) -> str:
        """How good the generated events are, in one line."""
        titles = {metric.name: metric.title.removeprefix("W1 ") for metric in self.measured}
        titles |= {"w1m": "W1M", "fpd": "FPD"}
        events = self.generated.events
        what, lists = self.subject.words.events, self.subject.lists
        return summary_of(self.metrics, titles, events, what, lists)

    @property
    def measured(self) -> tuple[Metric, ...]:
        """The metrics that were measured, in the order of the report."""
        known = (*self.subject.metrics, *metrics_of(MEASURES), MEMORISATION)
        found = {metric.name: metric for metric in known if metric.name in self.metrics}
        return tuple(found.values())

    def explanations(self) -> list[str]:
        """Return what the columns of the table mean, a sentence for each."""
        lines = [FLOOR, *self.subject.controls_told]
        if any(r.zero(c) for r in self.metrics.values() for c in ("shuffled", "swapped")):
            lines.append("a control of 0: by construction, as it keeps what the metric looks at")
        if any(name.startswith("auc_") for name in self.metrics):
            lines.append(_auc(Split.of(min(self.generated.events, self.reference.events))))
        if self.copies is not None and MEMORISATION.name in self.metrics:
            lines.append(
                f"{MEMORISATION.title}: how far generated jets are from the nearest one of the "
                f"{self.copies.training:,} jets of the training, over how far those of the "
                "reference are, both medians; 1 for a perfect model, less for copies and for jets "
                "that are too ordinary, more for jets that are wrong"
            )
        return lines

    def rows(self) -> list[tuple[str, ...]]:
        """Return the numbers of the table, each in the power of ten it is quoted in.

        Each row holds the title of the metric, its unit, value and error, floor and spread, both
        controls, and the verdict.
        """
        rows = []
        for metric in self.measured:
            result = self.metrics[metric.name]
            digits = _digits(result.floor_spread / metric.scale)

            def shown(number: float, digits: int = digits, scale: float = metric.scale) -> str:
                text = f"{number / scale:.{digits}f}"
                return text if float(text) else text.lstrip("-")  # no -0.00

            error = "" if result.error is None else f" ± {shown(result.error)}"
            floor = f"{shown(result.floor)} ± {shown(result.floor_spread)}"
            controls = (
                "0 (kept)" if result.zero(name) else shown(getattr(result, name))
                for name in ("shuffled", "swapped")
            )
            value = f"{shown(result.value)}{error}"
            rows.append((metric.title, _unit(metric), value, floor, *controls, result.verdict))
        return rows

    def table(self) -> Table:
        """Return the numbers as a table for the terminal.

        The last column says which controls the value beats, or that it is at the floor.
        """
        table = Table(
            title="Generated against reference",
            caption=self._caption(),
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            show_edge=False,
        )
        table.add_column("metric", no_wrap=True)
        table.add_column("unit", no_wrap=True)
        for heading in ("value", "floor ± spread", "shuffled", "swapped"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("beats")
        for title, unit, value, *row, verdict in self.rows():
            short = unit.replace(
                "jet pT", "pT"
            )  # a terminal has 80 columns: errors are on the page
            cells = (cell.removesuffix(" (kept)") for cell in row)
            table.add_row(title, short, value.partition(" ± ")[0], *cells, shortly(verdict))
        return table

    def unmeasured(self) -> list[str]:
        """Return which metrics could not be measured, and why."""
        reasons: dict[str, list[str]] = {}
        for name, reason in self.missing.items():
            reasons.setdefault(reason, []).append(name)
        return [f"{', '.join(names)}: not measured, {why}" for why, names in reasons.items()]

    def conditions(self) -> list[str]:
        """Return what is compared, and with what the floor was measured."""
        told = [*self._weights(), self._cut(), f"how the floor was taken: {self._floor()}"]
        if self.subject.words.events == "jets":
            told.append(_PROTOCOLS[self.protocol])
        return told

    def _caption(self) -> str:
        lines = [
            self.summary,
            f"{self.generated.events:,} generated and {self.reference.events:,} reference "
            f"{self.subject.words.events}, seed {self.seed}",
            *self._model(),
            *self.conditions(),
            *self.explanations()[1:],
            *self.unmeasured(),
            *(f"note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)

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
        weighted = self.generated.effective is not None or self.reference.effective is not None
        sides = f"{round(self.generated.worth):,} and {round(self.reference.worth):,}"
        like = f"worth {sides} equal {events}" if weighted else f"with {sides} {events}"
        told = f"what two samples of the truth {like} differ by, mean and spread"
        one = self.subject.words.event
        of = f"{self.floor.pairs} pairs of random parts of the reference, no {one} in both"
        if not self.floor.scaled:
            sizes = f", of {first:,} and {second:,} {events}" if weighted else ""
            return f"{told} of {of}{sizes}"
        return (
            f"{told}; the reference has {self.reference.available:,} {events} and no two such "
            f"parts, so they come from {of}, its halves of {first:,}, times "
            f"{self.floor.factor:.3f}, since such distances fall with the root of the number of "
            f"{events}"
        )


_PROTOCOLS = {
    "whole": (
        "protocol whole: all jets, once; published numbers are of batches drawn with replacement, "
        "which makes them larger near the truth: compare with these by the protocol jetnet"
    ),
    "jetnet": (
        "protocol jetnet: W1, coverage and MMD are means over batches drawn with replacement, KPD "
        "their median, FPD a fit to them, as published numbers are; near the truth they are larger "
        "than those of whole samples"
    ),
}
_SHARES = (
    "of 35,000 jets and more on a side, 20,000 would train, 5,000 choose when to stop and 10,000 "
    "judge"
)


def _auc(split: Split) -> str:
    """Return what an AUC is, and on how many jets it rests."""
    told = (
        "AUC: the probability that a classifier takes the generated one of two jets for it, "
        f"trained on {split.train:,} jets of each side, stopped by {split.stop:,} and judged on "
        f"{split.judge:,}"
    )
    return f"{told}; {_SHARES}" if split.scaled else told


def _numbers(report: Report) -> dict[str, dict[str, Any]]:
    return {name: asdict(result) for name, result in report.metrics.items()}


def _digits(spread: float) -> int:
    """Return how many decimals, 3 at most, show two digits of the spread."""
    return min(3, max(0, 1 - math.floor(math.log10(spread)))) if spread > 0 else 3


def _unit(metric: Metric) -> str:
    power = round(math.log10(metric.scale))
    return " ".join(filter(None, [f"1e{power}" if power else "", metric.unit]))
