"""Read files of jets, checked.

The layout is the table in `setflow.schema`: `particle_features` with shape `(n, N, 4)`, and
optionally `jet_features` `(n, 4)`, `particle_type` `(n, N)`, `event_number` `(n,)` and `weight`
`(n,)`. Columns are found by their names (`setflow.data.columns`); files of JetNet, which name none,
open as they are.

Reading believes nothing: a value that cannot be is an error that names file, row and column, or,
for those who need every row in its place, a row left empty with its reason. What stands in a padded
slot is not looked at and becomes zero. The mask says how many particles a jet has. The same values
give the same numbers, in whatever order of columns, dtype, byte order or chunks they stand.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from setflow.data.columns import Columns, wide_dtype
from setflow.data.filters import MENDED_BY, missing_filters
from setflow.data.header import (
    JetHeader,
    check_weight,
    header_of,
    jet_columns,
    open_jets,
    particle_columns,
    weights_of,
)
from setflow.data.jets import (
    EVENTS,
    JETS,
    NUM,
    PARTICLE_NAMES,
    PARTICLES,
    TYPES,
    JetSample,
)
from setflow.data.valid import (
    Defects,
    check_finite,
    check_jets,
    check_physical,
    check_physical_jets,
    checked_mask,
    checked_types,
    note,
    refuse,
    turned,
)
from setflow.sets.batch import SetBatch
from setflow.shipped import JETS as SHIPPED
from setflow.shipped import find

__all__ = ["ScreenedJets", "read_jets", "screen_jets"]

BLOCK_BYTES = 2**24  # so much is read at a time
ORDER = "ptrel"  # the hardest particles have the largest


class ScreenedJets(NamedTuple):
    """Jets of which some could not be read.

    Arguments:
        sample: all rows that were asked for; a malformed one has no particle and holds zeros.
        reasons: why a row is malformed, by its position in the sample.
    """

    sample: JetSample
    reasons: dict[int, str]


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
    """Read jets from a file, block by block, so that little more than the result is in memory.

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
        weight: the name of the dataset that holds the weights of the jets, such as `weight`; None
            reads none. They come with the particles, as they stand in the file.

    Returns:
        The jets. Features are float64 if the file's are, else float32. Units are those of the
        layout; `num_particles` is counted from the mask.

    Warns:
        UserWarning: if a unit was converted, or the file holds weights that are not used.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if the file is not HDF5, truncated or otherwise broken.
        ValueError: if it does not have the layout, a name or a known unit; if a row is malformed: a
            mask is neither 0 nor 1, a real particle, a jet or a weight holds NaN or Inf, or a value
            beyond its limits (`setflow.schema.Limits`), a phirel outside [-pi, pi), an unknown
            type, or another number of particles than the mask says; if the rows asked for, or the
            weights, do not exist.
    """
    wanted = _Wanted(
        start, stop, max_objects, tuple(features), tuple(conditions), with_types, keep_unphysical,
        weight,
    )  # fmt: skip
    path = find(SHIPPED, path)
    sample = _read(path, wanted, malformed=refuse)
    _tell_unused(path, weight)
    return sample


def screen_jets(
    path: str | os.PathLike[str],
    *,
    start: int = 0,
    stop: int | None = None,
    max_objects: int | None = None,
    features: Sequence[str] = PARTICLE_NAMES,
    conditions: Sequence[str] = (),
    with_types: bool = False,
) -> ScreenedJets:
    """Read jets as `read_jets` does, but keep malformed rows in their place, empty, with a reason.

    Arguments:
        path: the HDF5 file.
        start: the first row to read.
        stop: the row to stop before; None reads to the end.
        max_objects: keep at most so many particles of each jet; see `read_jets`.
        features: the names of the features of a particle that are read, in this order.
        conditions: the names of jet features that must be there.
        with_types: read `particle_type`, too, if the file has it.

    Warns:
        UserWarning: if a unit was converted.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if the file is not HDF5, truncated or otherwise broken.
        ValueError: if it does not have the layout, a name or a known unit, or the rows asked for do
            not exist.
    """
    reasons: dict[int, str] = {}

    def keep(defects: Defects, path: Path, first: int) -> None:
        reasons.update({first - start + row: defects[row] for row in sorted(defects)})

    wanted = _Wanted(
        start, stop, max_objects, tuple(features), tuple(conditions), with_types, False
    )
    return ScreenedJets(_read(find(SHIPPED, path), wanted, malformed=keep), reasons)


def _tell_unused(path: Path, used: str | None) -> None:
    """Warn of weights in a file that nobody asked for."""
    with open_jets(path) as file:
        unused = [name for name in weights_of(file) if name != used]
    if unused:  # one place, so that Python tells it once for a file
        names = ", ".join(unused)
        instead = "to use some, name them" if used is None else f"'{used}' are"
        text = f"{path} holds weights of its jets that are not used ({names}); {instead}"
        warnings.warn(text, stacklevel=1)


# --- rows ---


@dataclass(frozen=True)
class _Wanted:
    """What is asked of a file; the arguments of `read_jets`."""

    start: int
    stop: int | None
    max_objects: int | None
    features: tuple[str, ...]
    conditions: tuple[str, ...]
    with_types: bool
    keep_unphysical: bool
    weight: str | None = None


@dataclass
class _Block:
    """Rows of a file: features `(b, N, D)`, mask and types `(b, N)`, jets `(b, C)`, rest `(b,)`."""

    x: NDArray[Any]
    real: NDArray[np.bool_]
    jets: NDArray[Any]
    types: NDArray[Any] | None
    events: NDArray[Any] | None
    weight: NDArray[np.float64] | None


def _read(
    path: Path, wanted: _Wanted, *, malformed: Callable[[Defects, Path, int], None]
) -> JetSample:
    """Read rows; `malformed` gets the defects, path and first row of each block that has some."""
    most = wanted.max_objects
    if most is not None and most < 1:
        raise ValueError(f"max_objects is {most}, expected at least 1, or None for all")
    with open_jets(path) as file:
        header = header_of(file, path)
        start, stop = wanted.start, header.n if wanted.stop is None else wanted.stop
        if not 0 <= start <= stop <= header.n:
            raise ValueError(
                f"{path} holds {header.n} jets, rows {start} to {stop} were asked for; expected "
                f"0 <= start <= stop <= {header.n}"
            )
        order = (ORDER,) if most is not None and ORDER not in wanted.features else ()
        columns = particle_columns(file, path, (*wanted.features, *order))
        jet_features = jet_columns(file, path, wanted.conditions)
        if wanted.weight is not None:
            check_weight(file, path, wanted.weight, header.n)
        n, slots = stop - start, min(header.objects, most or header.objects)
        result = _empty(file, header, wanted, n, slots, len(jet_features.names))
        keys = {*header.keys, *([] if wanted.weight is None else [wanted.weight])}
        lacking = sorted({name for key in keys for name in missing_filters(file[key])})
        rows = _block_rows(file[PARTICLES])
        for first in range(start, stop, rows):
            there = slice(first, min(first + rows, stop))
            try:
                block = _rows(file, there, columns, jet_features, result, wanted.weight)
            except OSError as error:
                raise _unreadable(path, there, lacking, error) from error
            defects = _check(block, columns, jet_features, wanted)
            if defects:
                malformed(defects, path, first)
                broken = list(defects)
                block.x[broken], block.real[broken], block.jets[broken] = 0, False, 0
                if block.types is not None:
                    block.types[broken] = 0
            if most is not None:
                _cut(block, columns.names.index(ORDER), slots)
            block.jets[:, jet_features.names.index(NUM)] = block.real.sum(1)
            here = slice(there.start - start, there.stop - start)
            result.x[here] = block.x[..., : len(wanted.features)]
            result.real[here], result.jets[here] = block.real, block.jets
            for name in ("types", "events", "weight"):
                all_rows, some = getattr(result, name), getattr(block, name)
                if all_rows is not None and some is not None:
                    all_rows[here] = some
    return JetSample(
        SetBatch(torch.from_numpy(result.x), torch.from_numpy(result.real), weight=result.weight),
        torch.from_numpy(result.jets),
        None if result.types is None else torch.from_numpy(result.types),
        None if result.events is None else torch.from_numpy(result.events),
        jet_features.units,
        wanted.features,
        jet_features.names,
    )


def _empty(
    file: Any, header: JetHeader, wanted: _Wanted, n: int, slots: int, jet_features: int
) -> _Block:
    """Return room for all rows that are read."""
    jets_dtype = wide_dtype(file[JETS].dtype) if JETS in header.keys else np.float32
    types = wanted.with_types and TYPES in header.keys
    events = None
    if EVENTS in header.keys:  # of 64 bits, and unsigned if those of the file are so wide
        wide = file[EVENTS].dtype.newbyteorder("=") == np.uint64
        events = np.empty((n,), np.uint64 if wide else np.int64)
    return _Block(
        np.empty((n, slots, len(wanted.features)), wide_dtype(file[PARTICLES].dtype)),
        np.empty((n, slots), np.bool_),
        np.empty((n, jet_features), jets_dtype),
        np.empty((n, slots), np.int8) if types else None,
        events,
        None if wanted.weight is None else np.empty(n),
    )


def _rows(
    file: Any, there: slice, columns: Columns, jet_features: Columns, like: _Block,
    weights: str | None,
) -> _Block:  # fmt: skip
    """Return rows of a file as they stand there, in the units asked for."""
    particles = columns.of(file[PARTICLES][there])
    n = there.stop - there.start
    jets = np.zeros((n, len(jet_features.names)), like.jets.dtype)
    if JETS in file:
        jets = jet_features.of(file[JETS][there])
    real = particles[..., -1]
    types = None if like.types is None else file[TYPES][there]
    events = None if like.events is None else file[EVENTS][there]
    weight = None if weights is None else file[weights][there].astype(np.float64)
    return _Block(particles[..., :-1], real, jets, types, events, weight)


def _check(block: _Block, columns: Columns, jet_features: Columns, wanted: _Wanted) -> Defects:
    """Return what is wrong with rows, and make their padding zero and their mask boolean."""
    defects: Defects = {}
    features, at = columns.names[:-1], jet_features.names.index(NUM)
    block.real = checked_mask(block.real, defects)
    block.x = np.where(block.real[..., None], block.x, 0)
    check_finite(block.x, block.real, features, defects)
    there = [place >= 0 for place in jet_features.places]
    check_jets(np.where(there, block.jets, 0), jet_features.names, defects)
    if block.types is not None:
        block.types = checked_types(block.types, block.real, defects)
    if block.weight is not None:
        weight = block.weight
        note(
            defects, ~np.isfinite(weight)[:, None],
            lambda row, _: f"{wanted.weight} holds {weight[row]}; expected a finite number",
        )  # fmt: skip
    if "phirel" in features:
        phi = features.index("phirel")
        block.x[..., phi] = turned(block.x[..., phi])
    if not wanted.keep_unphysical:
        check_physical(block.x, block.real, features, defects)
        counts = block.jets[:, at] if there[at] else None
        check_physical_jets(block.jets, jet_features.names, block.real, counts, defects)
    return defects


def _cut(block: _Block, ordering: int, slots: int) -> None:
    """Keep the hardest particles of each jet, hardest first."""
    order = np.argsort(
        np.where(block.real, -block.x[..., ordering], np.inf), axis=1, kind="stable"
    )[:, :slots]
    block.x = np.take_along_axis(block.x, order[..., None], axis=1)
    block.real = np.take_along_axis(block.real, order, axis=1)
    if block.types is not None:
        block.types = np.take_along_axis(block.types, order, axis=1)


def _unreadable(path: Path, there: slice, lacking: list[str], error: OSError) -> OSError:
    if lacking:
        return OSError(
            f"{path} is compressed with {', '.join(lacking)}, which HDF5 lacks here; "
            f"{MENDED_BY}, or let whoever wrote it compress it with gzip"
        )
    return OSError(
        f"{path}: rows {there.start} to {there.stop} cannot be read, the file is damaged "
        f"({error}); fetch or make it again"
    )


def _block_rows(dataset: Any) -> int:
    """The rows to read at a time: whole chunks, some megabytes."""
    size = math.prod(dataset.shape[1:]) * int(dataset.dtype.itemsize)
    rows = max(1, BLOCK_BYTES // max(1, size))
    chunk = int(dataset.chunks[0]) if dataset.chunks else 1
    return int(max(chunk, rows - rows % chunk))
