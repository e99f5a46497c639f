"""Read files of events, checked.

A file has one of two layouts (`setflow.data.layouts`): JetNet's, or that of events of any schema.
Columns are found by their names (`setflow.data.columns`); files of JetNet, which name none, open as
they are.

Reading believes nothing: a value that cannot be is an error that names file, row and column, or,
for those who need every row in its place, a row left empty with its reason. What stands in a padded
slot is not looked at and becomes zero. The mask says how many objects an event has. The same values
give the same numbers, in whatever order of columns, dtype, byte order or chunks they stand.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from setflow.data.columns import Columns, recoded, wide_dtype
from setflow.data.filters import MENDED_BY, missing_filters
from setflow.data.header import open_events
from setflow.data.jets import EVENTS, NUM, PARTICLE_NAMES, TYPES, JetSample
from setflow.data.layouts import TARGET, Layout, layout_of
from setflow.data.sample import EventSample
from setflow.data.valid import (
    Defects,
    check_counts,
    check_events,
    check_finite,
    check_physical,
    check_physical_events,
    checked_mask,
    checked_types,
    note,
    refuse,
    turned,
)
from setflow.schema import JETNET, Category, Feature, Schema
from setflow.sets.batch import SetBatch
from setflow.sets.shapes import whole_number
from setflow.shipped import JETS as SHIPPED
from setflow.shipped import find

__all__ = [
    "ScreenedEvents",
    "blocks_of",
    "read_events",
    "read_jets",
    "screen_events",
    "unreadable",
]

BLOCK_BYTES = 2**24  # so much is read at a time


class ScreenedEvents(NamedTuple):
    """Events of which some could not be read.

    Arguments:
        sample: all rows that were asked for; a malformed one has no object and holds zeros.
        reasons: why a row is malformed, by its position in the sample.
    """

    sample: EventSample
    reasons: dict[int, str]


def read_events(
    path: str | os.PathLike[str],
    schema: Schema | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
    max_objects: int | None = None,
    features: Sequence[str] | None = None,
    conditions: Sequence[str] = (),
    keep_unphysical: bool = False,
    weight: str | None = None,
    counts: bool = True,
) -> EventSample:
    """Read events from a file, block by block, so that little more than the result is in memory.

    Arguments:
        path: the HDF5 file.
        schema: what the features are that are looked up by name, and in which units they are to
            come; None takes the schema of the file, for JetNet's layout `JETNET`.
        start: the first row to read.
        stop: the row to stop before; None reads to the end.
        max_objects: keep at most so many objects of each event: where the schema names `order_by`,
            those with the largest, largest first, and the first ones otherwise. None keeps all, in
            the order of the file.
        features: the names of the features of an object that are read, in this order; None reads
            those that a model can generate (`Schema.generated`). What the schema does not know is
            taken in the unit of the file.
        conditions: the names of features of the event that must be there; those that the schema
            does not know stand behind those that it does.
        keep_unphysical: keep values that cannot be, such as a ptrel below 0, which the sample of a
            model may hold.
        weight: the name of the dataset that holds the weights of the events, such as `weight`; None
            reads none. They come with the objects, as they stand in the file.
        counts: whether the number of objects that the file tells of an event must be that of the
            mask; the mask counts in any case.

    Returns:
        The events. Features are float64 if the file's are, else float32. `num_particles` is counted
        from the mask.

    Warns:
        UserWarning: if a unit was converted, or the file holds weights that are not used.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if the file is not HDF5, truncated or otherwise broken.
        ValueError: if it does not have a layout, a name or a known unit; if a row is malformed: a
            mask is neither 0 nor 1, a real object, an event or a weight holds NaN or Inf, or a
            value beyond what its feature can be (`setflow.schema`), or it has another number of
            objects than the mask says; if the rows asked for, or the weights, do not exist.

    >>> read_events("pythia-top/heldout.h5", stop=3, features=["ptrel", "etarel"]).objects.x.shape
    torch.Size([3, 150, 2])
    """
    wanted = _Wanted(
        schema, start, stop, max_objects, features, conditions, keep_unphysical,
        weight=weight, counts=counts,
    )  # fmt: skip
    return _read_all(path, wanted)


def screen_events(
    path: str | os.PathLike[str],
    schema: Schema | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
    max_objects: int | None = None,
    features: Sequence[str] | None = None,
    conditions: Sequence[str] = (),
) -> ScreenedEvents:
    """Read events as `read_events` does, but keep malformed rows in their place, with a reason.

    The arguments are those of `read_events`; a malformed row comes as one without objects.

    Warns:
        UserWarning: if a unit was converted.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if the file is not HDF5, truncated or otherwise broken.
        ValueError: if it does not have a layout, a name or a known unit, or the rows asked for do
            not exist.
    """
    reasons: dict[int, str] = {}

    def keep(defects: Defects, path: Path, first: int) -> None:
        reasons.update({first - start + row: defects[row] for row in sorted(defects)})

    wanted = _Wanted(schema, start, stop, max_objects, features, conditions)
    return ScreenedEvents(_read(find(SHIPPED, path), wanted, malformed=keep), reasons)


def read_jets(
    path: str | os.PathLike[str],
    *,
    start: int = 0,
    stop: int | None = None,
    max_objects: int | None = None,
    features: Sequence[str] = PARTICLE_NAMES,
    conditions: Sequence[str] = (),
    with_types: bool = False,
    keep_unphysical: bool = False,
    weight: str | None = None,
) -> JetSample:
    """Read jets as `read_events` does with the schema `JETNET`, and call them so.

    Arguments:
        path: the HDF5 file.
        start: the first row to read.
        stop: the row to stop before; None reads to the end.
        max_objects: keep at most so many particles of each jet, the hardest by ptrel, hardest
            first; None keeps all, in the order of the file.
        features: the names of the features of a particle that are read, in this order.
        conditions: the names of jet features that must be there; those that the layout does not
            know stand behind pt, eta, mass and num_particles.
        with_types: read `particle_type`, too, if the file has it.
        keep_unphysical: keep values that cannot be, such as a ptrel below 0, which the sample of a
            model may hold.
        weight: the name of the dataset that holds the weights of the events, such as `weight`; None
            reads none. They come with the objects, as they stand in the file.

    Warns:
        UserWarning: if a unit was converted.

    Raises:
        FileNotFoundError, OSError, ValueError: as `read_events`; or if a type is unknown.
    """
    wanted = _Wanted(
        JETNET, start, stop, max_objects, features, conditions, keep_unphysical, with_types, weight
    )
    return JetSample(**vars(_read_all(path, wanted)))


def _read_all(path: str | os.PathLike[str], wanted: _Wanted) -> EventSample:
    """Read rows that must all be right, and warn of weights that nobody asked for."""
    path = find(SHIPPED, path)
    sample = _read(path, wanted, malformed=refuse)
    with open_events(path) as file:
        layout = layout_of(file, path)
        unused = [name for name in layout.weights() if name != wanted.weight]
    if unused:  # one place, so that Python tells it once for a file
        names = ", ".join(unused)
        instead = "to use some, name them" if wanted.weight is None else f"'{wanted.weight}' are"
        whose = f"{layout.words.event_word}s"
        text = f"{path} holds weights of its {whose} that are not used ({names}); {instead}"
        warnings.warn(text, stacklevel=1)
    return sample


# --- rows ---


@dataclass(frozen=True)
class _Wanted:
    """What is asked of a file; the arguments of `read_events` and `read_jets`."""

    schema: Schema | None
    start: int
    stop: int | None
    max_objects: int | None
    features: Sequence[str] | None
    conditions: Sequence[str]
    keep_unphysical: bool = False
    with_types: bool = False
    weight: str | None = None
    counts: bool = True


@dataclass
class _Block:
    """Rows of a file: features `(b, N, D)`, mask `(b, N)`, events `(b, C)`, and what may be there.

    `others` holds by its key what stands in a dataset of its own, such as types `(b, N)`.
    """

    x: NDArray[Any]
    real: NDArray[np.bool_]
    event: NDArray[Any]
    others: dict[str, NDArray[Any]]


def _read(
    path: Path, wanted: _Wanted, *, malformed: Callable[[Defects, Path, int], None]
) -> EventSample:
    """Read rows; `malformed` gets the defects, path and first row of each block that has some."""
    most = wanted.max_objects
    if most is not None:
        most = whole_number(most, "max_objects", 1)
    with open_events(path) as file:
        layout = layout_of(file, path)
        start, stop = (
            whole_number(layout.n if row is None else row, name)
            for name, row in (("start", wanted.start), ("stop", wanted.stop))
        )
        if not 0 <= start <= stop <= layout.n:
            raise ValueError(
                f"{path} holds {layout.n} events, rows {start} to {stop} were asked for; expected "
                f"0 <= start <= stop <= {layout.n}"
            )
        schema = layout.schema if wanted.schema is None else wanted.schema
        features = schema.generated if wanted.features is None else tuple(wanted.features)
        known: dict[str, Feature | str] = {entry.name: entry for entry in schema.objects}
        asked = [known.get(name, name) for name in features]
        if most is not None and schema.order_by not in (None, *features):
            asked.append(schema.object(str(schema.order_by)))  # read behind them, to cut by
        columns = layout.object_columns(asked)
        of_event = layout.event_columns(schema, wanted.conditions)
        _tell(columns, of_event)
        if wanted.weight is not None:
            layout.check_weight(wanted.weight)
        slots = min(layout.objects, most or layout.objects)
        shape = (stop - start, slots, len(features))
        result = _empty(layout, shape, len(of_event.features), wanted)
        for there in blocks_of(layout, start, stop):
            block = _rows(layout, there, columns, of_event, result)
            defects = _check(block, columns, of_event, layout, wanted)
            if defects:
                malformed(defects, path, there.start)
                _empty_rows(block, list(defects))
            if most is not None:
                _cut(block, columns, schema.order_by, slots)
            if NUM in of_event.names:
                block.event[:, of_event.names.index(NUM)] = block.real.sum(1)
            here = slice(there.start - start, there.stop - start)
            result.x[here] = block.x[..., : len(features)]
            result.real[here], result.event[here] = block.real, block.event
            for key, values in block.others.items():
                result.others[key][here] = values
    order_by = schema.order_by if schema.order_by in features else None
    weight = None if wanted.weight is None else result.others.pop(wanted.weight)
    others: dict[str, Any] = {key: torch.from_numpy(part) for key, part in result.others.items()}
    return EventSample(
        SetBatch(torch.from_numpy(result.x), torch.from_numpy(result.real), weight=weight),
        torch.from_numpy(result.event),
        Schema(columns.features[: len(features)], of_event.features, order_by),
        **others,
    )


def _tell(*columns: Columns) -> None:
    """Warn of units that are converted, at one place, so that Python tells it once for a file."""
    for part in columns:
        if part.converted:
            warnings.warn(part.converted, stacklevel=1)


def _empty(
    layout: Layout, shape: tuple[int, int, int], event_features: int, wanted: _Wanted
) -> _Block:
    """Return room for all rows that are read."""
    file, key = layout.file, layout.words.event
    others: dict[str, NDArray[Any]] = {}
    if wanted.with_types and TYPES in layout.keys:
        others[TYPES] = np.empty(shape[:2], np.int8)
    if EVENTS in layout.keys:  # of 64 bits, and unsigned if those of the file are so wide
        wide = file[EVENTS].dtype.newbyteorder("=") == np.uint64
        others[EVENTS] = np.empty(shape[:1], np.uint64 if wide else np.int64)
    if TARGET in layout.keys:
        others[TARGET] = np.empty(shape[:1], np.int64)
    if wanted.weight is not None:
        others[wanted.weight] = np.empty(shape[:1])
    return _Block(
        np.empty(shape, wide_dtype(file[layout.table].dtype)),
        np.empty(shape[:2], np.bool_),
        np.empty(
            (shape[0], event_features), wide_dtype(file[key].dtype) if key in file else np.float32
        ),
        others,
    )


def blocks_of(layout: Layout, start: int, stop: int) -> Iterator[slice]:
    """Yield the rows to read at a time: whole chunks, some megabytes."""
    dataset = layout.file[layout.table]
    size = layout.objects * dataset.shape[-1] * int(dataset.dtype.itemsize)
    rows = max(1, BLOCK_BYTES // max(1, size))
    chunk = int(dataset.chunks[0]) if dataset.chunks and dataset.ndim > 2 else 1
    rows = max(chunk, rows - rows % chunk)
    for first in range(start, stop, rows):
        yield slice(first, min(first + rows, stop))


def _rows(
    layout: Layout, there: slice, columns: Columns, of_event: Columns, like: _Block
) -> _Block:
    """Return rows of a file as they stand there, in the units asked for.

    Raises:
        OSError: if they cannot be read.
    """
    file, key = layout.file, layout.words.event
    try:
        x, real = layout.rows(there, columns)
        event = np.zeros((there.stop - there.start, len(of_event.features)), like.event.dtype)
        if key in file:
            event = of_event.of(file[key][there])
        others = {name: file[name][there] for name in like.others}
    except OSError as error:
        raise unreadable(layout, there, error) from error
    return _Block(x, real, event, others)


def _check(
    block: _Block, columns: Columns, of_event: Columns, layout: Layout, wanted: _Wanted
) -> Defects:
    """Return what is wrong with rows, and make their padding zero and their mask boolean."""
    defects: Defects = {}
    words, features = layout.words, columns.features
    block.real = checked_mask(block.real, defects, words)
    block.x = np.where(block.real[..., None], block.x, 0)
    check_finite(block.x, block.real, features, defects, words)
    there = [place >= 0 for place in of_event.places]
    check_events(np.where(there, block.event, 0), of_event.features, defects, words)
    if TYPES in block.others:
        block.others[TYPES] = checked_types(block.others[TYPES], block.real, defects)
    if wanted.weight is not None:
        weight = block.others[wanted.weight]
        note(
            defects,
            ~np.isfinite(weight)[:, None],
            lambda row, _: f"{wanted.weight} holds {weight[row]}; expected a finite number",
        )
    for values, held in ((block.x, features), (block.event, of_event.features)):
        for column, feature in enumerate(held):
            if feature.of_kind.is_angle:
                values[..., column] = turned(values[..., column])
    if not wanted.keep_unphysical:
        check_physical(block.x, block.real, features, defects, words)
        told = [_as_told(layout, feature) for feature in of_event.features]
        check_physical_events(block.event, told, block.real, defects, words)
        at = of_event.names.index(NUM) if NUM in of_event.names else -1
        if at >= 0 and there[at] and wanted.counts:
            check_counts(block.event[:, at], block.real, defects, words)
    _recode(block.event, of_event.features, layout, defects)
    return defects


def _as_told(layout: Layout, feature: Feature) -> Feature:
    """Return a feature of events with the names that the file has if it is a category."""
    told = layout.told_of_event(feature)
    return replace(feature, kind=told.kind) if isinstance(told.kind, Category) else feature


def _recode(
    event: NDArray[Any], features: Sequence[Feature], layout: Layout, defects: Defects
) -> None:
    """Give categories of events `(b, C)` the codes that are asked for; unknown names are noted."""
    where = f"{layout.path}: {layout.words.event}"
    for k, feature in enumerate(features):
        told, wanted = layout.told_of_event(feature), feature.kind
        if isinstance(told.kind, Category) and isinstance(wanted, Category):
            known = _known_names(event[:, k], told, wanted, layout, defects)
            event[:, k] = recoded(known, told, feature, where)


def _known_names(
    codes: NDArray[Any], told: Feature, wanted: Category, layout: Layout, defects: Defects
) -> NDArray[Any]:
    """Return a column `(b,)` of the codes of a file with NaN for names that are not asked for."""
    assert isinstance(told.kind, Category)
    held = told.kind.names
    foreign = np.isin(codes, [code for code, name in enumerate(held) if name not in wanted.names])
    note(
        defects,
        foreign[:, None],
        lambda row, _: (
            f"column '{told.name}' of {layout.words.event} is '{held[int(codes[row])]}', expected "
            f"one of {', '.join(wanted.names)}"
        ),
    )
    return np.where(foreign, np.nan, codes)


def _empty_rows(block: _Block, rows: list[int]) -> None:
    """Make rows those of events without objects."""
    for part in (block.x, block.real, block.event):
        part[rows] = 0
    if TYPES in block.others:
        block.others[TYPES][rows] = 0


def _cut(block: _Block, columns: Columns, order_by: str | None, slots: int) -> None:
    """Keep the objects of each event that are largest in a column, or the first ones, in order."""
    by = np.zeros(block.real.shape)
    if order_by is not None:
        by = -block.x[..., columns.names.index(order_by)]
    order = np.argsort(np.where(block.real, by, np.inf), axis=1, kind="stable")[:, :slots]
    block.x = np.take_along_axis(block.x, order[..., None], axis=1)
    block.real = np.take_along_axis(block.real, order, axis=1)
    if TYPES in block.others:
        block.others[TYPES] = np.take_along_axis(block.others[TYPES], order, axis=1)


def unreadable(layout: Layout, there: slice, error: OSError) -> OSError:
    """Return the error that says why rows of a file cannot be read."""
    path, file = layout.path, layout.file
    lacking = sorted({name for key in layout.keys for name in missing_filters(file[key])})
    if lacking:
        return OSError(
            f"{path} is compressed with {', '.join(lacking)}, which HDF5 lacks here; "
            f"{MENDED_BY}, or let whoever wrote it compress it with gzip"
        )
    return OSError(
        f"{path}: rows {there.start} to {there.stop} cannot be read, the file is damaged "
        f"({error}); fetch or make it again"
    )
