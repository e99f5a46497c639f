"""Compare generated events with a reference: numbers beside their floor, controls, and pictures.

Both sides are treated alike: cut to the same number of columns, of jets the hardest particles
first, and every observable recomputed from the objects. For each metric, of jets those of
`setflow.physics.metrics` and of other sets those of `setflow.physics.sets`, the report holds

    value      generated against reference,
    floor      reference against reference, disjoint random parts at the same sizes, and its spread,
    shuffled   the reference with its objects shuffled between events, against the reference,
    swapped    the reference with its lists of features, of jets ptrel, swapped between events.

A good model comes down to the floor; what is at the floor cannot be told from the reference with
so many events. A metric whose controls are at the floor too is blind to what they destroy.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table

from setflow.data.hdf5 import read_events
from setflow.data.header import EventHeader, read_header
from setflow.data.jets import PARTICLE_NAMES
from setflow.files import NewFolder, check_target, same_file
from setflow.physics.metrics import Floor, Metric, distances, truth_floor
from setflow.report.notes import notes_on, unphysical_of
from setflow.report.subjects import Jets, Sets, Subject
from setflow.schema import JETNET, Schema
from setflow.sets.batch import SetBatch
from setflow.shipped import JETS, find

__all__ = ["METRICS_FILE", "Report", "Result", "Side", "compare", "evaluate"]

METRICS_FILE = "metrics.json"
"""The file of numbers in the folder of a report, beside its pictures."""


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
        weights_sha256: the hash of the weights of the model that made them, as the file tells
            it; None if it tells none.
    """

    name: str
    events: int
    available: int
    columns: int
    weights_sha256: str | None = None


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
            *self._model(),
            self._cut(),
            f"floor: mean and spread of {self._floor()}",
            "ratio: value / floor",
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

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
        if not self.floor.scaled:
            return f"{parts}, {first:,} and {second:,} {events} as in the comparison"
        n_gen, n_ref = self.generated.events, self.reference.events
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


def evaluate(
    generated_path: str | os.PathLike[str],
    reference_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    events: int | None = None,
    seed: int = 0,
    pairs: int = 20,
    overwrite: bool = False,
) -> Report:
    """Compare two files of events and write the report, numbers and pictures, into a folder.

    Jets are compared as such; of files of other features, those that the generated events have are
    looked up by name in the reference.

    Arguments:
        generated_path: the HDF5 file of generated events.
        reference_path: that of the reference: events that the model was not trained on.
        out: the folder to write; it appears when it is complete.
        events: compare at most so many events of each side, the first ones. The floor draws from
            all events of the reference: with twice as many as are compared it needs no scaling.
        seed: the seed of floor and controls.
        pairs: the number of pairs of parts of the reference that the floor is taken from.
        overwrite: replace the folder, once the new one is complete, if it is empty or a report.

    Raises:
        FileExistsError: if `out` exists and `overwrite` is False, or if it is anything but an empty
            folder or a report.
        FileNotFoundError: if a file does not exist.
        ValueError: if a file has no layout, no event or no object to compare, lacks a feature, or
            has a malformed row. What cannot be, such as a ptrel below 0, is malformed in the
            reference; in the generated file it is counted, told in a note and compared.
    """
    _checked_target(out, overwrite)  # before the work, not after it
    generated, reference = find(JETS, generated_path), find(JETS, reference_path)
    same = same_file(generated, reference)
    headers = [read_header(path) for path in (generated, reference)]
    made = [header.attributes.get("weights_sha256") for header in headers]
    schema = _schema_of(headers[0])
    features = schema.generated
    return compare(
        read_events(generated, schema, features=features, keep_unphysical=True).objects,
        read_events(reference, schema, features=features).objects,
        out,
        events=events,
        seed=seed,
        pairs=pairs,
        overwrite=overwrite,
        names=(os.fspath(generated_path), os.fspath(reference_path)),
        same=same,
        weights_sha256=(made[0], made[1]),
        schema=None if schema is JETNET else schema,
    )


def _schema_of(generated: EventHeader) -> Schema:
    """Return what is compared of generated events: JETNET of jets, else all that is generated."""
    known = generated.schema
    if generated.layout_version == 1 or sorted(known.generated) == sorted(PARTICLE_NAMES):
        return JETNET
    objects = [known.object(name) for name in known.generated]
    if not objects:
        raise ValueError(
            f"the generated events have {', '.join(known.left_out)}, and none of it is a number on "
            "a line that could be compared"
        )
    return Schema(objects, order_by=known.order_by)


def compare(
    generated: SetBatch,
    reference: SetBatch,
    out: str | os.PathLike[str] | None = None,
    *,
    events: int | None = None,
    seed: int = 0,
    pairs: int = 20,
    overwrite: bool = False,
    names: tuple[str, str] = ("generated", "reference"),
    same: bool = False,
    weights_sha256: tuple[str | None, str | None] = (None, None),
    schema: Schema | None = None,
) -> Report:
    """Compare two samples of events; `evaluate` without reading files.

    Arguments:
        generated: the generated events, with `x` of shape `(n, N, D)`; of jets etarel, phirel and
            ptrel.
        reference: those of the reference, `(m, M, D)`.
        out: the folder to write; None writes nothing and draws nothing.
        events: compare at most so many events of each side, the first ones.
        seed: the seed of floor and controls.
        pairs: the number of pairs of parts of the reference that the floor is taken from.
        overwrite: replace the folder, once the new one is complete, if it is empty or a report.
        names: what the two sides are called in the report.
        same: whether both sides are known to be the same, which the report then says.
        weights_sha256: for each side the hash of the weights of the model that sampled it, or None;
            where a model has sampled the reference, the report says so.
        schema: what the D features are, all of them numbers on a line; None takes jets.

    Shuffling is done after the cut to common columns, where a jet's rank list is what is compared;
    swapping before it, since the multiplicity that events must share to be swapped is the full one.

    Raises:
        FileExistsError: if `out` exists and `overwrite` is False, or if it is anything but an empty
            folder or a report.
        ValueError: if a side has no event, no object or a value that is not finite.
    """
    target = None if out is None else _checked_target(out, overwrite)
    for side, name in zip((generated, reference), names, strict=True):
        if side.mask.ndim != 2:
            raise ValueError(
                f"{name} has a mask of shape {tuple(side.mask.shape)}, expected (n, N)"
            )
    if events is not None and events < 1:
        raise ValueError(f"events is {events}, expected at least 1, or None for all")
    columns = min(generated.mask.shape[1], reference.mask.shape[1])
    n_gen, n_ref = (min(len(side), events or len(side)) for side in (generated, reference))

    subject = Jets() if schema is None else Sets(schema, reference)
    model, truth, compared = (
        subject.cut(side, columns) for side in (generated[:n_gen], reference, reference[:n_ref])
    )
    of_model, of_all = subject.measured(model), subject.measured(truth)
    of_truth = of_all.select(torch.arange(n_ref, device=truth.x.device))
    values = distances(of_model, of_truth)
    generator = torch.Generator().manual_seed(seed)
    floor = truth_floor(of_all, n_gen, n_ref, pairs=pairs, generator=generator)
    controls = [
        distances(subject.measured(control), of_truth)
        for control in subject.controls(reference[:n_ref], columns, seed)
    ]
    unphysical = unphysical_of(generated[:n_gen], subject)
    made, truly = weights_sha256
    report = Report(
        metrics={
            metric.name: Result(
                value=values[metric.name],
                floor=floor.mean[metric.name],
                floor_spread=floor.spread[metric.name],
                shuffled=controls[0][metric.name],
                swapped=controls[1][metric.name],
                unit=metric.unit,
            )
            for metric in subject.metrics
        },
        generated=Side(names[0], n_gen, len(generated), generated.mask.shape[1], made),
        reference=Side(names[1], n_ref, len(reference), reference.mask.shape[1], truly),
        columns=columns,
        seed=seed,
        floor=floor,
        subject=subject,
        notes=notes_on(
            model, truth, n_ref, unphysical, subject, same=same, sampled=truly is not None
        ),
        unphysical=unphysical,
    )
    if target is None:
        return report
    with NewFolder(target, overwrite=overwrite, marker=METRICS_FILE) as folder:
        batches, measured = (model, compared), (of_model, of_truth)
        pictures = subject.draw(folder, batches, measured, values, floor)
        report = replace(report, pictures=tuple(pictures))
        text = json.dumps(report.to_dict(), indent=2, allow_nan=False)
        (folder / METRICS_FILE).write_text(text + "\n", encoding="utf-8")
    return report


def _checked_target(out: str | os.PathLike[str], overwrite: bool) -> Path:
    """Return the folder to write, if it may be written.

    Raises:
        FileExistsError: if it exists and `overwrite` is False, or if it is anything but an empty
            folder or a report, that is `metrics.json` with pictures and nothing else.
        OSError: if its own folder does not exist or cannot be written to.
    """
    target = Path(out).resolve()
    if not target.exists():
        return check_target(target, overwrite=overwrite)
    if not target.is_dir():
        raise FileExistsError(f"{target} is a file, expected a folder that does not exist yet")
    entries = sorted(target.iterdir())
    strange = [
        entry.name
        for entry in entries
        if not entry.is_file() or (entry.name != METRICS_FILE and entry.suffix != ".png")
    ]
    if strange or (entries and target / METRICS_FILE not in entries):
        reason = f"holds {strange[0]!r}" if strange else f"has no {METRICS_FILE}"
        raise FileExistsError(
            f"{target} {reason}, so it is no report and will not be replaced; choose another folder"
        )
    return check_target(target, overwrite=overwrite)
