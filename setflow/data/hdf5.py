"""Read files of jets, checked.

The layout is the table in `setflow.schema`: `particle_features` with shape `(n, N, 4)` in the
order etarel, phirel, ptrel, mask; `jet_features` with shape `(n, 4)` in the order pt, eta, mass,
num_particles; optionally `particle_type` `(n, N)` and `event_number` `(n,)`. Files of JetNet, which
hold the first two and no attributes, open as they are.

Reading believes nothing: a value that cannot be is an error that names file, row and column, or,
for those who need every row in its place, a row left empty with its reason. What stands in a padded
slot is not looked at and becomes zero.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch

from setflow.data.filters import MENDED_BY, missing_filters
from setflow.data.jets import (
    DTYPES,
    EVENTS,
    JETS,
    LAYOUT_VERSION,
    MASK,
    NUM,
    PARTICLES,
    PT,
    RESERVED,
    TYPES,
    JetSample,
)
from setflow.data.valid import (
    Defects,
    as_float32,
    check_jets,
    checked_particles,
    checked_types,
    refuse,
)
from setflow.schema import (
    DATASETS,
    JET_FEATURES,
    JET_UNITS,
    PARTICLE_FEATURES,
    names,
)
from setflow.sets.batch import SetBatch
from setflow.shipped import JETS as SHIPPED
from setflow.shipped import find, known

__all__ = ["JetHeader", "ScreenedJets", "read_header", "read_jets", "screen_jets"]

BLOCK_BYTES = 2**24  # so much is read at a time


@dataclass(frozen=True)
class JetHeader:
    """What a file says about itself, known without reading its rows.

    Arguments:
        n: the number of jets.
        objects: the number of slots `N`.
        jet_units: the unit of each jet feature.
        keys: the datasets of the layout that the file holds.
        attributes: the attributes of the file that whoever wrote it added.
    """

    n: int
    objects: int
    jet_units: tuple[str, ...]
    keys: tuple[str, ...]
    attributes: dict[str, Any]


class ScreenedJets(NamedTuple):
    """Jets of which some could not be read.

    Arguments:
        sample: all rows that were asked for; a malformed one has no particle and holds zeros.
        reasons: why a row is malformed, by its position in the sample.
    """

    sample: JetSample
    reasons: dict[int, str]


def read_header(path: str | os.PathLike[str]) -> JetHeader:
    """Return the header of a file of jets; shapes and completeness are checked, values are not.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if the file is not HDF5, or broken.
        ValueError: if it does not have the layout.
    """
    path = find(SHIPPED, path)
    with _open(path) as file:
        return _header(file, path)


def read_jets(
    path: str | os.PathLike[str],
    *,
    start: int = 0,
    stop: int | None = None,
    max_objects: int | None = None,
) -> JetSample:
    """Read jets from a file, block by block, so that little more than the result is in memory.

    Arguments:
        path: the HDF5 file.
        start: the first row to read.
        stop: the row to stop before; None reads to the end.
        max_objects: keep at most so many particles of each jet, the hardest by ptrel, hardest
            first; num_particles is cut with them. A file with no more slots is read as it is.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if the file is not HDF5, truncated or otherwise broken.
        ValueError: if it does not have the layout; if a row is malformed: a mask is neither 0 nor
            1, a real particle or a jet holds NaN or Inf, a real particle a phirel outside
            [-pi, pi) or an unknown type; if the rows asked for do not exist.
    """
    return _read(find(SHIPPED, path), start, stop, max_objects, malformed=refuse)


def screen_jets(
    path: str | os.PathLike[str],
    *,
    start: int = 0,
    stop: int | None = None,
    max_objects: int | None = None,
) -> ScreenedJets:
    """Read jets as `read_jets` does, but keep malformed rows in their place, empty, with a reason.

    Arguments:
        path: the HDF5 file.
        start: the first row to read.
        stop: the row to stop before; None reads to the end.
        max_objects: keep at most so many particles of each jet; see `read_jets`.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if the file is not HDF5, truncated or otherwise broken.
        ValueError: if it does not have the layout, or the rows asked for do not exist.
    """
    reasons: dict[int, str] = {}

    def note(defects: Defects, path: Path, first: int) -> None:
        reasons.update({first - start + row: reason for row, reason in defects.items()})

    sample = _read(find(SHIPPED, path), start, stop, max_objects, malformed=note)
    return ScreenedJets(sample, reasons)


def _read(
    path: Path,
    start: int,
    stop: int | None,
    max_objects: int | None,
    *,
    malformed: Callable[[Defects, Path, int], None],
) -> JetSample:
    """Read rows; `malformed` gets the defects, path and first row of each block that has some."""
    if max_objects is not None and max_objects < 1:
        raise ValueError(f"max_objects is {max_objects}, expected at least 1, or None for all")
    with _open(path) as file:
        header = _header(file, path)
        stop = header.n if stop is None else stop
        if not 0 <= start <= stop <= header.n:
            raise ValueError(
                f"{path} holds {header.n} jets, rows {start} to {stop} were asked for; expected "
                f"0 <= start <= stop <= {header.n}"
            )
        cut = max_objects if max_objects is not None and max_objects < header.objects else None
        n, slots = stop - start, cut or header.objects
        x = np.empty((n, slots, MASK), np.float32)
        mask = np.empty((n, slots), np.bool_)
        jets = np.empty((n, len(JET_FEATURES)), np.float32)
        types = np.empty((n, slots), np.int8) if TYPES in header.keys else None
        events = np.empty((n,), np.int64) if EVENTS in header.keys else None

        lacking = sorted({name for key in header.keys for name in missing_filters(file[key])})
        rows = _block_rows(file[PARTICLES])
        for first in range(start, stop, rows):
            there = slice(first, min(first + rows, stop))
            here = slice(there.start - start, there.stop - start)
            try:
                particles = file[PARTICLES][there]
                jets[here] = as_float32(file[JETS][there])
                kind = file[TYPES][there] if types is not None else None
                if events is not None:
                    events[here] = file[EVENTS][there]
            except OSError as error:
                if lacking:
                    raise OSError(
                        f"{path} is compressed with {', '.join(lacking)}, which HDF5 lacks here; "
                        f"{MENDED_BY}, or let whoever wrote it compress it with gzip"
                    ) from error
                raise OSError(
                    f"{path}: rows {there.start} to {there.stop} cannot be read, the file is "
                    f"damaged ({error}); fetch or make it again"
                ) from error
            defects: Defects = {}
            values, real = checked_particles(particles, defects)
            check_jets(jets[here], defects)
            if kind is not None:
                kind = checked_types(kind, real, defects)
            if defects:
                malformed(defects, path, first)
                broken = list(defects)
                values[broken], real[broken], jets[here][broken] = 0, False, 0
                if kind is not None:
                    kind[broken] = 0
            if cut is not None:
                order = np.argsort(np.where(real, -values[..., PT], np.inf), axis=1, kind="stable")
                order = order[:, :cut]
                values = np.take_along_axis(values, order[..., None], axis=1)
                real = np.take_along_axis(real, order, axis=1)
                kind = None if kind is None else np.take_along_axis(kind, order, axis=1)
                jets[here, NUM] = np.minimum(jets[here, NUM], cut)
            x[here], mask[here] = values, real
            if types is not None and kind is not None:
                types[here] = kind
    return JetSample(
        SetBatch(torch.from_numpy(x), torch.from_numpy(mask)),
        torch.from_numpy(jets),
        None if types is None else torch.from_numpy(types),
        None if events is None else torch.from_numpy(events),
        header.jet_units,
    )


def _block_rows(dataset: Any) -> int:
    """The rows to read at a time: whole chunks, some megabytes."""
    size = math.prod(dataset.shape[1:]) * int(dataset.dtype.itemsize)
    rows = max(1, BLOCK_BYTES // max(1, size))
    chunk = int(dataset.chunks[0]) if dataset.chunks else 1
    return int(max(chunk, rows - rows % chunk))


def _open(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the path; {known(SHIPPED, path)}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected an HDF5 file of jets")
    try:
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        broken = h5py.is_hdf5(path)
        raise OSError(
            f"{path} is {'a damaged HDF5 file' if broken else 'not an HDF5 file'} ({error}); "
            + ("fetch or make it again" if broken else "expected HDF5 in the layout of JetNet")
        ) from error


def _header(file: Any, path: Path) -> JetHeader:
    held = list(file)
    for spec in DATASETS:
        if spec.required and spec.key not in held:
            near = difflib.get_close_matches(spec.key, held, n=1, cutoff=0.5)
            raise ValueError(
                f"{path} has no dataset '{spec.key}'; it holds {held or 'nothing'}"
                + (f"; did whoever wrote it mean it by '{near[0]}'? Rename it" if near else "")
            )
    keys = tuple(spec.key for spec in DATASETS if spec.key in held)
    for key in keys:
        if not isinstance(file[key], h5py.Dataset):
            raise ValueError(f"{path}: '{key}' is a group, expected a dataset")
    shape = file[PARTICLES].shape
    if len(shape) != 3 or shape[2] != len(PARTICLE_FEATURES):
        raise ValueError(
            f"{path}: {PARTICLES} has shape {shape}, expected (n, N, {len(PARTICLE_FEATURES)}) "
            f"with the features {', '.join(names(PARTICLE_FEATURES))}"
        )
    n, objects = int(shape[0]), int(shape[1])
    expected = {JETS: (n, len(JET_FEATURES)), TYPES: (n, objects), EVENTS: (n,)}
    for key in keys[1:]:
        got = file[key].shape
        if got != expected[key]:
            rows = f": {got[0]} rows beside {n} of {PARTICLES}" if got and got[0] != n else ""
            what = f" with the features {', '.join(names(JET_FEATURES))}" if key == JETS else ""
            raise ValueError(f"{path}: {key} has shape {got}, expected {expected[key]}{what}{rows}")
    for key in keys:
        kinds = "f" if key == PARTICLES else "fiu" if key == JETS else "iu"
        if file[key].dtype.kind not in kinds:
            raise ValueError(
                f"{path}: {key} has dtype {file[key].dtype}, expected {DTYPES[key]} or alike"
            )
    attributes = dict(file.attrs)
    if "layout_version" in attributes:
        version, complete = int(attributes["layout_version"]), bool(attributes.get("complete"))
        if version > LAYOUT_VERSION:
            raise ValueError(
                f"{path} has layout version {version}, this release reads up to {LAYOUT_VERSION}; "
                "upgrade setflow"
            )
        if not complete or int(attributes.get("n", -1)) != n:
            raise ValueError(
                f"{path} was not finished: complete={complete}, {n} rows of "
                f"{attributes.get('n')}; make it again"
            )
    units = tuple(str(unit) for unit in file[JETS].attrs.get("units", JET_UNITS))
    user = {name: value for name, value in attributes.items() if name not in RESERVED}
    return JetHeader(n, objects, units, keys, user)
