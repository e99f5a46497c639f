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
import os
from dataclasses import replace
from pathlib import Path

import torch

from setflow.data.hdf5 import read_events
from setflow.data.header import EventHeader, datasets_of, read_header
from setflow.data.jets import PARTICLE_NAMES
from setflow.files import NewFolder, check_target, same_file
from setflow.physics.metrics import distances, truth_floor
from setflow.report.notes import notes_on, unphysical_of
from setflow.report.outcome import Report, Result, Side
from setflow.report.subjects import Jets, Sets, Subject
from setflow.schema import JETNET, Schema
from setflow.sets.batch import SetBatch
from setflow.shipped import JETS, find

__all__ = ["METRICS_FILE", "compare", "evaluate"]

_BLOCK = 4096  # events
METRICS_FILE = "metrics.json"
"""The file of numbers in the folder of a report, beside its pictures."""


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
    weights = {path: weight for path in (generated, reference) if weight in datasets_of(path)}
    if weight is not None and not weights:
        raise ValueError(
            f"neither {generated} nor {reference} has a dataset '{weight}' of weights; name one "
            "that is there, or leave the weights out"
        )
    if events is not None and events < 1:
        raise ValueError(f"events is {events}, expected at least 1, or None for all")
    there = [header.n for header in headers]
    stops = there if events is None else [events, (3 if weights else 2) * events]
    return compare(
        read_events(
            generated,
            schema,
            stop=min(stops[0], there[0]),
            features=features,
            keep_unphysical=True,
            weight=weights.get(generated),
        ).objects,
        read_events(
            reference,
            schema,
            stop=min(stops[1], there[1]),
            features=features,
            weight=weights.get(reference),
        ).objects,
        out,
        events=events,
        seed=seed,
        pairs=pairs,
        overwrite=overwrite,
        names=(os.fspath(generated_path), os.fspath(reference_path)),
        same=same,
        weights_sha256=(made[0], made[1]),
        schema=None if schema is JETNET else schema,
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
    names: tuple[str, str] = ("generated", "reference"),
    same: bool = False,
    weights_sha256: tuple[str | None, str | None] = (None, None),
    schema: Schema | None = None,
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
        names: what the two sides are called in the report.
        same: whether both sides are known to be the same, which the report then says.
        weights_sha256: for each side the hash of the weights of the model that sampled it, or None;
            where a model has sampled the reference, the report says so.
        schema: what the D features are, all of them numbers on a line; None takes jets.
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
    sides = [
        Side.of(name, side, n, there, sha256)
        for name, side, n, there, sha256 in zip(
            names,
            (generated, reference),
            (n_gen, n_ref),
            available or (len(generated), len(reference)),
            weights_sha256,
            strict=True,
        )
    ]
    generated, reference = generated[:n_gen].trim(), reference.trim()
    model, truth = (_cut(subject, side, columns) for side in (generated, reference))
    reference, compared = reference[:n_ref], truth[:n_ref]
    of_model, of_all = subject.measured(model), subject.measured(truth)
    of_truth = of_all.select(torch.arange(n_ref, device=truth.x.device))
    values = distances(of_model, of_truth)
    worths = of_model.effective, of_truth.effective
    generator = torch.Generator().manual_seed(seed)
    floor = truth_floor(of_all, *worths, pairs=pairs, generator=generator)
    controls = [
        distances(subject.measured(control), of_truth)
        for control in subject.controls(reference, columns, seed)
    ]
    unphysical = unphysical_of(generated, subject)
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
        generated=sides[0],
        reference=sides[1],
        columns=columns,
        seed=seed,
        floor=floor,
        subject=subject,
        notes=notes_on(
            model,
            truth,
            n_ref,
            unphysical,
            subject,
            same=same,
            sampled=weights_sha256[1] is not None,
            worth=min(worths),
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
