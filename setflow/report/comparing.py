"""Compare generated events with a reference: numbers, verdicts, and a page of pictures.

Both sides are treated alike: cut to the same number of columns, of jets the hardest particles
first, and every observable recomputed from the objects. For each metric, of jets those of
`setflow.physics.measures` and of other sets those of `setflow.physics.sets`, the report holds

    value      generated against reference,
    floor      reference against reference, disjoint random parts at the same sizes, and its spread,
    shuffled   the reference with its objects shuffled between events, against the reference,
    swapped    the reference with its lists of features, of jets ptrel, swapped between events.

and a verdict (`setflow.report.judging`). A good model comes down to the floor; what is at the floor
cannot be told from the reference with so many events. Where events tell their class, each class is
compared by itself, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from setflow.files import METRICS, NewFolder, check_target, same_file
from setflow.physics.measures import FAST_MEASURES, metrics_of
from setflow.physics.memorisation import MEMORISATION
from setflow.physics.metrics import Measured
from setflow.physics.protocols import check_protocol
from setflow.physics.samples import Metric, Observables
from setflow.report.further import Procedure
from setflow.report.judging import broken, limits_of
from setflow.report.measuring import findings_of, values_of
from setflow.report.notes import copied, cut_away, notes_on, unphysical_of
from setflow.report.origins import Origin
from setflow.report.outcome import Report, Side
from setflow.report.subjects import Jets, Subject, subject_of
from setflow.schema import Schema
from setflow.sets.batch import SetBatch

if TYPE_CHECKING:
    from setflow.report.document import Drawing

__all__ = [
    "METRICS_FILE",
    "PAGES",
    "check_asked",
    "checked_target",
    "compare",
    "known_names",
    "nothing",
]

_BLOCK = 4096  # events
METRICS_FILE = METRICS

PAGES = ("report.html", "report.pdf")
"""The report to look at, twice: a page that holds its pictures, and sheets to print."""

_FEWEST = 20  # events of a class on a side, to be compared by itself


def nothing(text: str) -> None:
    """Keep silent."""


def _check_sides(
    sides: tuple[SetBatch, SetBatch], origins: tuple[Origin, Origin], events: int | None
) -> None:
    for side, origin in zip(sides, origins, strict=True):
        if side.mask.ndim != 2:
            raise ValueError(
                f"{origin.name} has a mask of shape {tuple(side.mask.shape)}, expected (n, N)"
            )
    if events is not None and events < 1:
        raise ValueError(f"events is {events}, expected at least 1, or None for all")


def check_asked(jets: bool, train: bool, protocol: str) -> None:
    """Refuse for sets that are no jets what is defined for jets alone.

    Raises:
        ValueError: if there is no such protocol, or these sets have none or no training.
    """
    check_protocol(protocol)
    meant = {"the nearest jets of a training": train, "the protocol jetnet": protocol == "jetnet"}
    asked = [what for what, given in meant.items() if given]
    if asked and not jets:
        raise ValueError(
            f"{' and '.join(asked)} are of jets, and the generated events are none: expected the "
            "features etarel, phirel and ptrel; leave that out"
        )


def known_names(metrics: Sequence[Metric], train: bool) -> list[str]:
    """Return which metrics can be required."""
    return [metric.name for metric in (*metrics, *((MEMORISATION,) if train else ()))]


def compare(
    generated: SetBatch,
    reference: SetBatch,
    out: str | os.PathLike[str] | None = None,
    *,
    events: int | None = None,
    seed: int = 0,
    pairs: int = 20,
    overwrite: bool = False,
    origins: tuple[Origin, Origin] = (Origin("generated"), Origin("reference")),
    schema: Schema | None = None,
    training: SetBatch | None = None,
    measures: Sequence[str] = FAST_MEASURES,
    protocol: str = "whole",
    require: str | None = None,
    device: str = "cpu",
    say: Callable[[str], None] = nothing,
    columns: int | None = None,
) -> Report:
    """Compare two samples of events; `evaluate` without reading files.

    Arguments:
        generated: the generated events, with `x` of shape `(n, N, D)`, of jets etarel, phirel and
            ptrel, and perhaps the type; they count by their weights if there are any.
        reference: those of the reference, `(m, M, D)`, likewise.
        out: the folder to write; None writes nothing and draws nothing.
        events: compare at most so many events of each side, the first ones.
        seed: the seed of floor and controls.
        pairs: the number of pairs of parts of the reference that the floor is taken from.
        overwrite: replace the folder, once the new one is complete, if it is empty or a report.
        origins: where the two sides come from. Where a model has sampled the reference, the report
            says so, as it does where both are one file, and where both tell the class of each
            event, classes are compared, too.
        schema: what the D features are: those of whole events (`setflow.schema.COLLISIONS`), of
            jets with types (`setflow.schema.TYPED_JETNET`), or numbers on a line; None takes jets.
        training: the jets that the model was trained on, `(t, K, 3)`; None does not ask whether
            they are repeated.
        measures: what is measured of jets, of `setflow.physics.MEASURES`; of other sets W1 alone.
        protocol: that of `evaluate`.
        require: limits that metrics have to keep; see `evaluate`.
        device: where the classifier on particles trains.
        say: is told what takes long.
        columns: how many objects of an event are compared, of jets the hardest; None takes the
            fewer slots of the two sides, as if events with more had been cut to them.

    Shuffling is done after the cut to common columns, where a jet's rank list is what is compared;
    swapping before it, since the multiplicity that events must share to be swapped is the full one.
    A control keeps the weight of each event (`setflow.physics.controls`).

    Raises:
        FileExistsError: if `out` exists and `overwrite` is False, or if it is anything but an empty
            folder or a report.
        ValueError: if a side has no event, no object, a value that is not finite, or weights
            without a positive sum.
    """
    target = None if out is None else checked_target(out, overwrite)
    sides = (generated, reference)
    _check_sides(sides, origins, events)
    subject = subject_of(schema, reference)
    metrics_of(measures)  # an unknown one is refused, of whatever sets
    taken = [name for name in measures if name in subject.measures and name != "w1"]
    check_asked(isinstance(subject, Jets), training is not None, protocol)
    known = known_names((*subject.metrics, *metrics_of(taken)), training is not None)
    limits = [] if require is None else limits_of(require, known)
    columns = min(side.mask.shape[1] for side in sides) if columns is None else columns
    n_gen, n_ref = (min(len(side), events or len(side)) for side in sides)

    told = [
        Side.of(origin.name, side, n, origin.there or len(side), origin.weights_sha256)
        for origin, side, n in zip(origins, sides, (n_gen, n_ref), strict=True)
    ]
    del sides  # what is cut away is kept by nobody, for a sample is large
    generated, reference = generated[:n_gen].trim(), reference.trim()
    model, truth = (_cut(subject, side, columns) for side in (generated, reference))
    of_model, of_all = subject.measured(model), subject.measured(truth)
    of_truth = of_all.select(slice(n_ref))
    classes = _classes(generated, reference[:n_ref], origins, schema, seed, protocol, columns)
    unphysical = unphysical_of(generated, subject)
    long = cut_away(generated, reference, columns, subject)
    notes = notes_on(
        model,
        truth,
        n_ref,
        unphysical,
        subject,
        same=_same(*origins),
        sampled=origins[1].weights_sha256 is not None,
        worth=min(of_model.effective, of_truth.effective),
    )
    values = values_of(
        of_model,
        of_truth,
        of_all,
        Procedure(taken, protocol, seed, pairs, device, say),
        None if training is None else _cut(Jets(), training, columns),
    )
    compared, first = truth, reference
    if n_ref < len(truth):  # the others were needed for the floor alone
        compared, of_truth = _of_own(truth[:n_ref], of_truth)
        first = compared if truth is reference else _own(reference[:n_ref])
    del generated, reference, truth, of_all, training
    controls = subject.controls(first, columns, seed)
    found = findings_of(values, of_truth, map(subject.measured, controls))
    report = Report(
        metrics=found.metrics,
        generated=told[0],
        reference=told[1],
        columns=columns,
        seed=seed,
        floor=found.floor,
        subject=subject,
        protocol=protocol,
        notes=(*notes, *long, *copied(found.copies)),
        unphysical=unphysical,
        missing=found.missing,
        copies=found.copies,
        broken=tuple(broken(limits, found.metrics, found.missing)),
        classes=classes,
    )
    if target is None:
        return report
    from setflow.report.document import Drawing  # numbers alone need no mplhep

    drawing = Drawing(report, origins, (model, compared), (of_model, of_truth))
    return _write(drawing, target, overwrite)


def _write(drawing: Drawing, target: Path, overwrite: bool) -> Report:
    """Write pictures, pages and numbers into a folder; return the report that names them."""
    from setflow.report.document import write_document

    with NewFolder(target, overwrite=overwrite, marker=METRICS_FILE) as folder:
        report = replace(drawing.report, pictures=tuple(write_document(folder, PAGES, drawing)))
        text = json.dumps(report.to_dict(), indent=2, allow_nan=False)
        (folder / METRICS_FILE).write_text(text + "\n", encoding="utf-8")
    return report


def _classes(
    generated: SetBatch,
    reference: SetBatch,
    origins: tuple[Origin, Origin],
    schema: Schema | None,
    seed: int,
    protocol: str,
    columns: int,
) -> dict[str, Report]:
    """Return the comparison of each class that both sides have, by its name."""
    mine, theirs = origins
    if mine.classes is None or theirs.classes is None:
        return {}
    found = {}
    for name in mine.class_names:
        if name not in theirs.class_names:
            continue
        sides = ((generated, mine), (reference, theirs))
        parts = [side[origin.of_class(side, name)] for side, origin in sides]
        if min(map(len, parts)) >= _FEWEST:
            found[name] = compare(
                parts[0],
                parts[1],
                seed=seed,
                schema=schema,
                measures=("w1",),
                protocol=protocol,
                columns=columns,
                origins=(Origin(f"{mine.name}: {name}"), Origin(f"{theirs.name}: {name}")),
            )
    return found


def _same(one: Origin, other: Origin) -> bool:
    """Return whether both sides come from the same file."""
    return one.file is not None and other.file is not None and same_file(one.file, other.file)


def _own(events: SetBatch) -> SetBatch:
    """Return events with memory of their own, so that what they were taken from can go."""
    return SetBatch(events.x.clone(), events.mask.clone(), weight=events.weight)


def _of_own(events: SetBatch, measured: Measured) -> tuple[SetBatch, Measured]:
    """Return what `_own` does, and the observables of these events, on the same memory."""
    events = _own(events)
    if isinstance(measured, Observables):  # others hold no objects
        particles = events.x[..., : measured.x.shape[-1]]
        measured = replace(measured, x=particles, mask=events.mask)
    return events, measured


def _cut(subject: Subject, side: SetBatch, columns: int) -> SetBatch:
    """Return events with at most so many slots, cut a few at a time, for it takes copies."""
    columns = min(columns, side.mask.shape[1])
    blocks = [side[k : k + _BLOCK] for k in range(0, len(side), _BLOCK)]
    parts = [subject.cut(block, columns) for block in blocks]
    if all(part is block for part, block in zip(parts, blocks, strict=True)):
        return side
    x, mask = (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "mask"))
    return SetBatch(x, mask, weight=side.weight)


def checked_target(out: str | os.PathLike[str], overwrite: bool) -> Path:
    """Return the folder to write, if it may be written.

    Raises:
        FileExistsError: if it exists and `overwrite` is False, or if it is anything but an empty
            folder or a report, that is `metrics.json` with pages, pictures and nothing else.
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
        if not entry.is_file()
        or (entry.name not in (METRICS_FILE, *PAGES) and entry.suffix != ".png")
    ]
    if strange or (entries and target / METRICS_FILE not in entries):
        reason = f"holds {strange[0]!r}" if strange else f"has no {METRICS_FILE}"
        raise FileExistsError(
            f"{target} {reason}, so it is no report and will not be replaced; choose another folder"
        )
    return check_target(target, overwrite=overwrite)
