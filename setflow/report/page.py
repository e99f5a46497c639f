"""Compare generated jets with a reference: numbers beside their floor, controls, and pictures.

Both sides are treated alike: cut to the same number of columns, the hardest particles first, and
every observable recomputed from the particles. For each metric of `setflow.physics.metrics` the
report holds

    value      generated against reference,
    floor      reference against reference, disjoint random parts at the same sizes, and its spread,
    shuffled   the reference with its particles shuffled between jets, against the reference,
    swapped    the reference with its ptrel lists swapped between jets, against the reference.

A good model comes down to the floor; what is at the floor cannot be told from the reference with
so many jets. A metric whose controls are at the floor too is blind to what they destroy.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import torch

from setflow.data.hdf5 import read_jets
from setflow.data.header import datasets_of, read_header
from setflow.files import NewFolder, check_target, same_file
from setflow.physics.controls import shuffle_particles, swap_ptrel
from setflow.physics.kinematics import hardest_first
from setflow.physics.metrics import (
    METRICS,
    distances,
    observables,
    truth_floor,
)
from setflow.report.notes import notes_on, unphysical_of
from setflow.report.outcome import Report, Result, Side
from setflow.sets.batch import SetBatch
from setflow.shipped import JETS, find

__all__ = ["METRICS_FILE", "compare", "evaluate"]

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
    """Compare two files of jets and write the report, numbers and pictures, into a folder.

    Arguments:
        generated_path: the HDF5 file of generated jets.
        reference_path: that of the reference: jets that the model was not trained on.
        out: the folder to write; it appears when it is complete.
        events: compare at most so many jets of each side, the first ones. The floor draws from all
            jets of the reference: with twice as many as are compared it needs no scaling.
        seed: the seed of floor and controls.
        pairs: the number of pairs of parts of the reference that the floor is taken from.
        overwrite: replace the folder, once the new one is complete, if it is empty or a report.
        weight: the name of the dataset that holds the weights of the jets, such as `weight`, in
            either file or both; the jets of a file without it count equally. None takes none.

    Raises:
        FileExistsError: if `out` exists and `overwrite` is False, or if it is anything but an empty
            folder or a report.
        FileNotFoundError: if a file does not exist.
        ValueError: if a file does not have the layout, has no jet or no particle to compare, or a
            malformed row. What cannot be, such as a ptrel below 0, is malformed in the reference;
            in the generated file it is counted, told in a note and compared.
    """
    _checked_target(out, overwrite)  # before the work, not after it
    generated, reference = find(JETS, generated_path), find(JETS, reference_path)
    same = same_file(generated, reference)
    made = [read_header(path).attributes.get("weights_sha256") for path in (generated, reference)]
    weights = {path: weight for path in (generated, reference) if weight in datasets_of(path)}
    if weight is not None and not weights:
        raise ValueError(
            f"neither {generated} nor {reference} has a dataset '{weight}' of weights; name one "
            "that is there, or leave the weights out"
        )
    return compare(
        read_jets(generated, keep_unphysical=True, weight=weights.get(generated)).particles,
        read_jets(reference, weight=weights.get(reference)).particles,
        out,
        events=events,
        seed=seed,
        pairs=pairs,
        overwrite=overwrite,
        names=(os.fspath(generated_path), os.fspath(reference_path)),
        same=same,
        weights_sha256=(made[0], made[1]),
    )


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
) -> Report:
    """Compare two samples of jets; `evaluate` without reading files.

    Arguments:
        generated: the generated jets, with `x` of shape `(n, N, 3)`: etarel, phirel, ptrel; they
            count by their weights if there are any.
        reference: those of the reference, `(m, M, 3)`, likewise.
        out: the folder to write; None writes nothing and draws nothing.
        events: compare at most so many jets of each side, the first ones.
        seed: the seed of floor and controls.
        pairs: the number of pairs of parts of the reference that the floor is taken from.
        overwrite: replace the folder, once the new one is complete, if it is empty or a report.
        names: what the two sides are called in the report.
        same: whether both sides are known to be the same, which the report then says.
        weights_sha256: for each side the hash of the weights of the model that sampled it, or None;
            where a model has sampled the reference, the report says so.

    Shuffling is done after the cut to common columns, where a jet's rank list is what is compared;
    swapping before it, since the multiplicity that jets must share to be swapped is the full one.
    A control keeps the weight of each jet (`setflow.physics.controls`).

    Raises:
        FileExistsError: if `out` exists and `overwrite` is False, or if it is anything but an empty
            folder or a report.
        ValueError: if a side has no jet, no particle, a value that is not finite, or weights
            without a positive sum.
    """
    target = None if out is None else _checked_target(out, overwrite)
    for side, name in zip((generated, reference), names, strict=True):
        if side.mask.ndim != 2:
            raise ValueError(
                f"{name} has a mask of shape {tuple(side.mask.shape)}, expected jets (n, N)"
            )
    if events is not None and events < 1:
        raise ValueError(f"events is {events}, expected at least 1, or None for all")
    columns = min(generated.mask.shape[1], reference.mask.shape[1])
    n_gen, n_ref = (min(len(side), events or len(side)) for side in (generated, reference))

    model, truth, compared = (
        SetBatch(*hardest_first(side.x, side.mask, columns), weight=side.weight)
        for side in (generated[:n_gen], reference, reference[:n_ref])
    )
    of_model, of_all = (observables(side.x, side.mask, side.weight) for side in (model, truth))
    of_truth = of_all.select(torch.arange(n_ref, device=truth.x.device))
    values = distances(of_model, of_truth)
    worths = of_model.effective, of_truth.effective
    floor = truth_floor(of_all, *worths, pairs=pairs, generator=_generator(seed))
    shuffled = shuffle_particles(compared.x, compared.mask, _generator(seed))
    swapped = swap_ptrel(reference.x[:n_ref], reference.mask[:n_ref], _generator(seed))
    controls = [
        distances(observables(*control, compared.weight), of_truth)
        for control in (shuffled, hardest_first(*swapped, columns))
    ]
    unphysical = unphysical_of(generated[:n_gen])
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
            for metric in METRICS
        },
        generated=Side.of(names[0], generated, n_gen, made),
        reference=Side.of(names[1], reference, n_ref, truly),
        columns=columns,
        seed=seed,
        floor=floor,
        notes=notes_on(
            model, truth, n_ref, unphysical, same=same, sampled=truly is not None, worth=min(worths)
        ),
        unphysical=unphysical,
    )
    if target is None:
        return report
    from setflow.report.figures import write_plots  # numbers alone need no mplhep

    with NewFolder(target, overwrite=overwrite, marker=METRICS_FILE) as folder:
        pictures = write_plots(folder, model, compared, of_model, of_truth, values, floor)
        report = replace(report, pictures=tuple(pictures))
        text = json.dumps(report.to_dict(), indent=2, allow_nan=False)
        (folder / METRICS_FILE).write_text(text + "\n", encoding="utf-8")
    return report


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
