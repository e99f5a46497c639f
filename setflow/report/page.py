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

import torch

from setflow.data.hdf5 import read_events
from setflow.data.header import EventHeader, datasets_of, read_header
from setflow.data.jets import PARTICLE_NAMES
from setflow.files import NewFolder, check_target, same_file
from setflow.physics.measures import FAST_MEASURES, metrics_of
from setflow.report.judging import broken, limits_of
from setflow.report.measuring import findings_of
from setflow.report.notes import notes_on, unphysical_of
from setflow.report.origins import Origin, class_of, origin_of
from setflow.report.outcome import Report, Side
from setflow.report.subjects import Jets, Sets, Subject
from setflow.schema import JETNET, Schema
from setflow.sets.batch import SetBatch
from setflow.shipped import JETS, find

__all__ = ["METRICS_FILE", "PAGES", "compare", "evaluate"]

_BLOCK = 4096  # events
METRICS_FILE = "metrics.json"
"""The file of numbers in the folder of a report, beside its pictures."""

PAGES = ("report.html", "report.pdf")
"""The report to look at, twice: a page that holds its pictures, and sheets to print."""

_FEWEST = 20  # events of a class on a side, to be compared by itself


def _nothing(text: str) -> None:
    """Keep silent."""


def evaluate(
    generated_path: str | os.PathLike[str],
    reference_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    events: int | None = None,
    seed: int = 0,
    pairs: int = 20,
    overwrite: bool = False,
    weight: str | None = None,
    measures: Sequence[str] = FAST_MEASURES,
    require: str | None = None,
    say: Callable[[str], None] = _nothing,
) -> Report:
    """Compare two files of events and write the report, numbers and pictures, into a folder.

    Jets are compared as such; of files of other features, those that the generated events have are
    looked up by name in the reference.

    Arguments:
        generated_path: the HDF5 file of generated events.
        reference_path: that of the reference: events that the model was not trained on.
        out: the folder to write; it appears when it is complete.
        events: compare at most so many events of each side, the first ones. No more are read than
            the comparison needs: of the reference twice as many, since the floor draws disjoint
            parts as large as what is compared; three times as many if there are weights, which are
            not all worth the same.
        seed: the seed of floor and controls.
        pairs: the number of pairs of parts of the reference that the floor is taken from.
        overwrite: replace the folder, once the new one is complete, if it is empty or a report.
        weight: the name of the dataset that holds the weights of the jets, such as `weight`, in
            either file or both; the jets of a file without it count equally. None takes none.
        measures: what is measured of jets, of `setflow.physics.MEASURES`; of other sets W1 alone.
        require: limits that metrics have to keep, such as `w1m<2e-3,auc<0.7`, where `auc` is the
            largest one; which are not kept is told in the report.
        say: is told what takes long.

    Raises:
        FileExistsError: if `out` exists and `overwrite` is False, or if it is anything but an empty
            folder or a report.
        FileNotFoundError: if a file does not exist.
        ValueError: if a file has no layout, no event or no object to compare, lacks a feature, or
            has a malformed row; if there is no such measure, or no such metric to require. What
            cannot be, such as a ptrel below 0, is malformed in the reference; in the generated file
            it is counted, told in a note and compared.
    """
    _checked_target(out, overwrite)  # before the work, not after it
    generated, reference = find(JETS, generated_path), find(JETS, reference_path)
    same = same_file(generated, reference)
    paths = (generated, reference)
    headers = [read_header(path) for path in paths]
    for path, header in zip(paths, headers, strict=True):
        if not header.n:
            raise ValueError(f"{path} holds no events; give a file that holds some to compare")
    schema = _schema_of(headers[0])
    if schema is JETNET and require is not None:  # before reading
        limits_of(require, [metric.name for metric in metrics_of(measures)])
    features = schema.generated
    weights = {path: weight for path in paths if weight in datasets_of(path)}
    if weight is not None and not weights:
        raise ValueError(
            f"neither {generated} nor {reference} has a dataset '{weight}' of weights; name one "
            "that is there, or leave the weights out"
        )
    if events is not None and events < 1:
        raise ValueError(f"events is {events}, expected at least 1, or None for all")
    there = [header.n for header in headers]
    stops = there if events is None else [events, (3 if weights else 2) * events]
    classes = [class_of(path, header) for path, header in zip(paths, headers, strict=True)]
    samples = [
        read_events(
            path,
            schema,
            stop=min(stop, header.n),
            features=features,
            keep_unphysical=path == generated,
            weight=weights.get(path),
            conditions=[one.name] if one is not None and one in header.schema.event else [],
        )
        for path, header, one, stop in zip(paths, headers, classes, stops, strict=True)
    ]
    return compare(
        samples[0].objects,
        samples[1].objects,
        out,
        events=events,
        seed=seed,
        pairs=pairs,
        overwrite=overwrite,
        origins=(
            origin_of(os.fspath(generated_path), generated, headers[0], samples[0], classes[0]),
            origin_of(os.fspath(reference_path), reference, headers[1], samples[1], classes[1]),
        ),
        same=same,
        schema=None if schema is JETNET else schema,
        measures=measures,
        require=require,
        say=say,
        available=(there[0], there[1]),
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
    origins: tuple[Origin, Origin] = (Origin("generated"), Origin("reference")),
    same: bool = False,
    schema: Schema | None = None,
    measures: Sequence[str] = FAST_MEASURES,
    require: str | None = None,
    say: Callable[[str], None] = _nothing,
    available: tuple[int, int] | None = None,
) -> Report:
    """Compare two samples of events; `evaluate` without reading files.

    Arguments:
        generated: the generated events, with `x` of shape `(n, N, D)`, of jets etarel, phirel and
            ptrel; they count by their weights if there are any.
        reference: those of the reference, `(m, M, D)`, likewise.
        out: the folder to write; None writes nothing and draws nothing.
        events: compare at most so many events of each side, the first ones.
        seed: the seed of floor and controls.
        pairs: the number of pairs of parts of the reference that the floor is taken from.
        overwrite: replace the folder, once the new one is complete, if it is empty or a report.
        origins: where the two sides come from. Where a model has sampled the reference, the report
            says so, and where both tell the class of each event, classes are compared, too.
        same: whether both sides are known to be the same, which the report then says.
        schema: what the D features are, all of them numbers on a line; None takes jets.
        measures: what is measured of jets, of `setflow.physics.MEASURES`; of other sets W1 alone.
        require: limits that metrics have to keep; see `evaluate`.
        say: is told what takes long.
        available: how many events there are of each side, where only the first ones are given.

    Shuffling is done after the cut to common columns, where a jet's rank list is what is compared;
    swapping before it, since the multiplicity that events must share to be swapped is the full one.
    A control keeps the weight of each event (`setflow.physics.controls`).

    Raises:
        FileExistsError: if `out` exists and `overwrite` is False, or if it is anything but an empty
            folder or a report.
        ValueError: if a side has no event, no object, a value that is not finite, or weights
            without a positive sum.
    """
    target = None if out is None else _checked_target(out, overwrite)
    sides = (generated, reference)
    for side, origin in zip(sides, origins, strict=True):
        if side.mask.ndim != 2:
            raise ValueError(
                f"{origin.name} has a mask of shape {tuple(side.mask.shape)}, expected (n, N)"
            )
    if events is not None and events < 1:
        raise ValueError(f"events is {events}, expected at least 1, or None for all")
    subject: Subject = Jets() if schema is None else Sets(schema, reference)
    metrics_of(measures)  # an unknown one is refused, of whatever sets
    taken = [name for name in measures if name in subject.measures and name != "w1"]
    known = (*subject.metrics, *metrics_of(taken))
    limits = [] if require is None else limits_of(require, [metric.name for metric in known])
    columns = min(side.mask.shape[1] for side in sides)
    n_gen, n_ref = (min(len(side), events or len(side)) for side in sides)

    told = [
        Side.of(origin.name, side, n, there, origin.weights_sha256)
        for origin, side, n, there in zip(
            origins, sides, (n_gen, n_ref), available or map(len, sides), strict=True
        )
    ]
    generated, reference = generated[:n_gen].trim(), reference.trim()
    model, truth = (_cut(subject, side, columns) for side in (generated, reference))
    reference, compared = reference[:n_ref], truth[:n_ref]
    of_model, of_all = subject.measured(model), subject.measured(truth)
    of_truth = of_all.select(torch.arange(n_ref, device=truth.x.device))
    wrong = [subject.measured(side) for side in subject.controls(reference, columns, seed)]
    found = findings_of(
        of_model,
        of_truth,
        of_all,
        wrong,
        measures=taken,
        seed=seed,
        pairs=pairs,
        say=say,
    )
    unphysical = unphysical_of(generated, subject)
    report = Report(
        metrics=found.metrics,
        generated=told[0],
        reference=told[1],
        columns=columns,
        seed=seed,
        floor=found.floor,
        subject=subject,
        notes=notes_on(
            model,
            truth,
            n_ref,
            unphysical,
            subject,
            same=same,
            sampled=origins[1].weights_sha256 is not None,
            worth=min(of_model.effective, of_truth.effective),
        ),
        unphysical=unphysical,
        missing=found.missing,
        broken=tuple(broken(limits, found.metrics, found.missing)),
        classes=_classes(generated, reference, origins, seed, schema),
    )
    if target is None:
        return report
    from setflow.report.document import Drawing, write_document  # numbers alone need no mplhep

    drawing = Drawing(report, origins, (model, compared), (of_model, of_truth))
    with NewFolder(target, overwrite=overwrite, marker=METRICS_FILE) as folder:
        report = replace(report, pictures=tuple(write_document(folder, PAGES, drawing)))
        text = json.dumps(report.to_dict(), indent=2, allow_nan=False)
        (folder / METRICS_FILE).write_text(text + "\n", encoding="utf-8")
    return report


def _classes(
    generated: SetBatch,
    reference: SetBatch,
    origins: tuple[Origin, Origin],
    seed: int,
    schema: Schema | None,
) -> dict[str, Report]:
    """Return the comparison of each class that both sides have, by its name."""
    mine, theirs = origins
    if mine.classes is None or theirs.classes is None:
        return {}
    found = {}
    for name in mine.class_names:
        if name not in theirs.class_names:
            continue
        parts = []
        for side, origin in ((generated, mine), (reference, theirs)):
            assert origin.classes is not None
            of_it = origin.classes[: len(side)] == origin.class_names.index(name)
            parts.append(side[of_it.to(side.x.device)])
        if min(map(len, parts)) >= _FEWEST:
            found[name] = compare(
                parts[0],
                parts[1],
                seed=seed,
                schema=schema,
                measures=("w1",),
                origins=(Origin(f"{mine.name}: {name}"), Origin(f"{theirs.name}: {name}")),
            )
    return found


def _cut(subject: Subject, side: SetBatch, columns: int) -> SetBatch:
    """Return events with at most so many slots, cut a few at a time, for it takes copies."""
    columns = min(columns, side.mask.shape[1])
    parts = [subject.cut(side[k : k + _BLOCK], columns) for k in range(0, len(side), _BLOCK)]
    if len(parts) < 2:
        return subject.cut(side, columns)
    x, mask = (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "mask"))
    return SetBatch(x, mask, weight=side.weight)


def _checked_target(out: str | os.PathLike[str], overwrite: bool) -> Path:
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
