"""Blocks of rows of a file of events: read, checked, and cut to the objects that are kept."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from setflow.data.columns import Columns, recoded, wide_dtype
from setflow.data.filters import MENDED_BY, missing_filters
from setflow.data.inspection import check_expansion, of_hdf5
from setflow.data.jets import EVENTS, NUM, TYPES
from setflow.data.layouts import TARGET, Layout
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
    turn_angles,
    without_nan,
)
from setflow.schema import Category, Feature

__all__ = [
    "Rows",
    "blocks_of",
    "check_rows",
    "chunk_of",
    "cut_rows",
    "empty_rows",
    "room_for",
    "row_bytes",
    "rows_of",
    "tell_units",
]

BLOCK_BYTES = 2**22  # so much is read at a time; what is made of it takes some times that


@dataclass
class Rows:
    """Rows of a file: features `(b, N, D)`, mask `(b, N)`, events `(b, C)`, and what may be there.

    `others` holds by its key what stands in a dataset of its own, such as types `(b, N)`.
    """

    x: NDArray[Any]
    real: NDArray[np.bool_]
    event: NDArray[Any]
    others: dict[str, NDArray[Any]]


def tell_units(*columns: Columns) -> None:
    """Warn of units that are converted, at one place, so that Python tells it once for a file."""
    for part in columns:
        if part.converted:
            warnings.warn(part.converted, stacklevel=1)


def room_for(
    layout: Layout,
    shape: tuple[int, int, int],
    event_features: int,
    weight: str | None,
    *,
    types: bool,
) -> Rows:
    """Return room for all rows that are read."""
    file, key = layout.file, layout.words.event
    dtype = wide_dtype(file[layout.table].dtype)
    stored = math.prod(file[layout.table].shape) * dtype.itemsize
    total = math.prod(shape) * dtype.itemsize
    check_expansion(total, stored, f"{layout.path}, with its padding,")
    others: dict[str, NDArray[Any]] = {}
    if types and TYPES in layout.keys:
        others[TYPES] = np.empty(shape[:2], np.int8)
    if EVENTS in layout.keys:  # of 64 bits, and unsigned if those of the file are so wide
        wide = file[EVENTS].dtype.newbyteorder("=") == np.uint64
        others[EVENTS] = np.empty(shape[:1], np.uint64 if wide else np.int64)
    if TARGET in layout.keys:
        others[TARGET] = np.empty(shape[:1], np.int64)
    if weight is not None:
        others[weight] = np.empty(shape[:1])
    return Rows(
        np.empty(shape, dtype),
        np.empty(shape[:2], np.bool_),
        np.empty(
            (shape[0], event_features), wide_dtype(file[key].dtype) if key in file else np.float32
        ),
        others,
    )


def blocks_of(layout: Layout, start: int, stop: int) -> Iterator[slice]:
    """Yield the rows to read at a time: whole chunks, some megabytes."""
    rows = max(1, BLOCK_BYTES // max(1, row_bytes(layout)))
    chunk = chunk_of(layout)
    if chunk > 8 * rows:  # a chunk is too much to be in memory several times
        chunk = 1
    rows = max(chunk, rows - rows % chunk)
    while start < stop:
        end = min(start + rows - start % chunk, stop)  # at the end of a chunk, wherever it began
        yield slice(start, end)
        start = end


def row_bytes(layout: Layout) -> int:
    dataset = layout.file[layout.table]
    return layout.objects * int(dataset.shape[-1]) * int(dataset.dtype.itemsize)


def chunk_of(layout: Layout) -> int:
    """Return how many rows are stored together; 1 where objects stand one behind the other."""
    dataset = layout.file[layout.table]
    return int(dataset.chunks[0]) if dataset.chunks and dataset.ndim > 2 else 1


def rows_of(layout: Layout, there: slice, columns: Columns, of_event: Columns, like: Rows) -> Rows:
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
            event[:, [place < 0 for place in of_event.places]] = 0  # computed of the objects
        others = {name: file[name][there] for name in like.others}
    except Exception as error:
        if not of_hdf5(error):
            raise
        raise unreadable(layout, there, error) from error
    return Rows(x, real, event, others)


def check_rows(
    block: Rows,
    columns: Columns,
    of_event: Columns,
    layout: Layout,
    weight_name: str | None,
    *,
    physical: bool,
    counts: bool = True,
) -> Defects:
    """Return what is wrong with rows, and make their padding zero and their mask boolean."""
    defects: Defects = {}
    words, features = layout.words, columns.features
    block.real = checked_mask(block.real, defects, words)
    block.x = without_nan(np.where(block.real[..., None], block.x, 0), features)
    check_finite(block.x, block.real, features, defects, words)
    there = [place >= 0 for place in of_event.places]
    check_events(np.where(there, block.event, 0), of_event.features, defects, words)
    if TYPES in block.others:
        block.others[TYPES] = checked_types(block.others[TYPES], block.real, defects)
    if weight_name is not None:
        weight = block.others[weight_name]
        note(
            defects,
            ~np.isfinite(weight)[:, None],
            lambda row, _: f"{weight_name} holds {weight[row]}; expected a finite number",
        )
    turn_angles(block.x, features)
    turn_angles(block.event, of_event.features)
    if physical:
        check_physical(block.x, block.real, features, defects, words)
        told = [_as_told(layout, feature) for feature in of_event.features]
        check_physical_events(block.event, told, block.real, defects, words)
        at = of_event.names.index(NUM) if NUM in of_event.names else -1
        if at >= 0 and there[at] and counts:
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


def empty_rows(block: Rows, rows: list[int]) -> None:
    """Make rows those of events without objects."""
    for part in (block.x, block.real, block.event):
        part[rows] = 0
    if TYPES in block.others:
        block.others[TYPES][rows] = 0


def cut_rows(block: Rows, columns: Columns, order_by: str | None, slots: int) -> None:
    """Keep the objects of each event that are largest in a column, or the first ones, in order."""
    by = np.zeros(block.real.shape)
    if order_by is not None:
        by = -block.x[..., columns.names.index(order_by)]
    order = np.argsort(np.where(block.real, by, np.inf), axis=1, kind="stable")[:, :slots]
    block.x = np.take_along_axis(block.x, order[..., None], axis=1)
    block.real = np.take_along_axis(block.real, order, axis=1)
    if TYPES in block.others:
        block.others[TYPES] = np.take_along_axis(block.others[TYPES], order, axis=1)


def unreadable(layout: Layout, there: slice, error: Exception) -> OSError:
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
