"""Compare a file of generated events with one of true events: a report, in a folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence

from setflow.data.hdf5 import read_events
from setflow.data.header import EventHeader, datasets_of, read_header, require_objects
from setflow.data.jets import PARTICLE_NAMES, TYPES
from setflow.physics.collisions import is_collision
from setflow.physics.measures import FAST_MEASURES, metrics_of
from setflow.report.comparing import (
    METRICS_FILE,
    PAGES,
    check_asked,
    checked_target,
    compare,
    known_names,
    nothing,
)
from setflow.report.judging import limits_of
from setflow.report.origins import class_of, origin_of
from setflow.report.outcome import Report
from setflow.schema import JETNET, TYPE, TYPED_JETNET, Schema, names
from setflow.sets.batch import SetBatch
from setflow.shipped import JETS, find

__all__ = ["METRICS_FILE", "PAGES", "compare", "evaluate"]


def evaluate(
    generated_path: str | os.PathLike[str],
    reference_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    events: int | None = None,
    max_objects: int | None = None,
    seed: int = 0,
    pairs: int = 20,
    overwrite: bool = False,
    weight: str | None = None,
    train: str | os.PathLike[str] | None = None,
    measures: Sequence[str] = FAST_MEASURES,
    protocol: str = "whole",
    require: str | None = None,
    device: str = "cpu",
    say: Callable[[str], None] = nothing,
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
        max_objects: compare at most so many objects of each event: the hardest particles of jets,
            of other events those that their schema orders first. None takes as many as both files
            have room for.
        seed: the seed of floor and controls.
        pairs: the number of pairs of parts of the reference that the floor is taken from.
        overwrite: replace the folder, once the new one is complete, if it is empty or a report.
        weight: the name of the dataset that holds the weights of the jets, such as `weight`, in
            either file or both; the jets of a file without it count equally. None takes none.
        train: the HDF5 file of the jets that the model was trained on: is the training repeated?
            None does not ask.
        measures: what is measured of jets, of `setflow.physics.MEASURES`; of other sets W1 alone.
        protocol: `"whole"`, or `"jetnet"` for numbers of jets that compare with published ones:
            draws with replacement in batches, their mean and spread; see `setflow.physics`.
        require: limits that metrics have to keep, such as `w1m<2e-3,auc<0.7`, where `auc` is the
            largest one; which are not kept is told in the report.
        device: where the classifier on particles trains.
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
    checked_target(out, overwrite)  # before the work, not after it
    generated, reference = find(JETS, generated_path), find(JETS, reference_path)
    paths = (generated, reference)
    headers = [read_header(path) for path in paths]
    for path, header in zip(paths, headers, strict=True):
        if not header.n:
            raise ValueError(f"{path} holds no events; give a file that holds some to compare")
    schema = _schema_of(headers[0], headers[1])
    jets = schema in (JETNET, TYPED_JETNET)
    compared = JETNET.objects if jets else schema.objects
    both = "compare a sample with true events of the same features"
    require_objects(reference, headers[1], compared, f"{generated} holds", both)
    if train is not None and jets:
        trained = find(JETS, train)
        require_objects(trained, read_header(trained), compared, f"{generated} holds", both)
    check_asked(jets, train is not None, protocol)
    if schema is JETNET and require is not None:  # before reading
        limits_of(require, known_names(metrics_of(measures), train is not None))
    features = names(schema.objects)
    weights = {path: weight for path in paths if weight in datasets_of(path)}
    if weight is not None and not weights:
        raise ValueError(
            f"neither {generated_path} nor {reference_path} has a dataset '{weight}' of "
            "weights; name one that is there, or leave the weights out"
        )
    for name, number in (("events", events), ("max_objects", max_objects)):
        if number is not None and number < 1:
            raise ValueError(f"{name} is {number}, expected at least 1, or None for all")
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
    called = (generated_path, reference_path)
    origins = tuple(
        origin_of(os.fspath(name), path, header, sample, one)
        for name, path, header, sample, one in zip(
            called, paths, headers, samples, classes, strict=True
        )
    )
    sides = [sample.objects for sample in samples]
    columns = _compared(headers, sides)
    columns = columns if max_objects is None else min(columns, max_objects)
    del samples
    training = None
    if train is not None:
        training = read_events(
            find(JETS, train), JETNET, features=PARTICLE_NAMES, max_objects=columns
        ).objects
    return compare(
        # so that nobody keeps what it lets go of; of more arguments CPython would make a tuple
        sides.pop(0),
        sides.pop(0),
        out,
        events=events,
        seed=seed,
        pairs=pairs,
        overwrite=overwrite,
        origins=(origins[0], origins[1]),
        schema=None if schema is JETNET else schema,
        training=training,
        measures=measures,
        protocol=protocol,
        require=require,
        device=device,
        say=say,
        columns=columns,
    )


def _compared(headers: Sequence[EventHeader], sides: Sequence[SetBatch]) -> int:
    """Return how many objects of an event are compared: those that both sides have room for.

    Room is what JetNet's layout has slots for, and what the longest event of a model's sample has,
    for a model was trained on events that were cut. Other files hold events as they are.
    """
    widths = [side.mask.shape[1] for side in sides]
    bounds = [
        width
        for header, width in zip(headers, widths, strict=True)
        if header.layout_version == 1 or "weights_sha256" in header.attributes
    ]
    return min(bounds, default=max(widths))


def _schema_of(generated: EventHeader, reference: EventHeader) -> Schema:
    """Return what is compared of generated events: of jets JETNET, of others what is generated.

    Of jets whose particles have types in both files TYPED_JETNET, of whole events all they have. Of
    others what some types of objects lack is left out, with a warning.
    """
    known = generated.schema
    if all(_are_jets(header) and _have_types(header) for header in (generated, reference)):
        return TYPED_JETNET
    if _are_jets(generated):
        return JETNET
    if is_collision(known.objects):
        return Schema(known.objects, order_by=known.order_by)
    objects = [known.object(name) for name in known.generated]
    if not objects:
        raise ValueError(
            f"the generated events have {', '.join(known.left_out)}, and none of it is a number on "
            "a line that could be compared"
        )
    lacked = [entry.name for entry in objects if entry.absent]
    if lacked:
        warnings.warn(
            f"{' and '.join(lacked)} are not compared: some types of objects lack them",
            stacklevel=3,
        )
    objects = [entry for entry in objects if entry.name not in lacked]
    if not objects:
        raise ValueError(
            f"some types of the generated objects lack {' or '.join(lacked)}, and there is no "
            "feature that all have and could be compared"
        )
    order_by = None if known.order_by in lacked else known.order_by
    return Schema(objects, order_by=order_by)


def _are_jets(header: EventHeader) -> bool:
    """Return whether the numbers of an object are etarel, phirel and ptrel."""
    return header.layout_version == 1 or sorted(header.schema.generated) == sorted(PARTICLE_NAMES)


def _have_types(header: EventHeader) -> bool:
    """Return whether the particles of jets have the types of `setflow.schema.PARTICLE_TYPES`."""
    if header.layout_version == 1:
        return TYPES in header.keys
    return any((one.name, one.kind) == (TYPE.name, TYPE.kind) for one in header.schema.objects)
