"""Files of jets: read them checked, write them streaming, atomically and reproducibly.

The layout is the table in `setflow.schema`: `particle_features` with shape `(n, N, 4)` in the
order etarel, phirel, ptrel, mask; `jet_features` with shape `(n, 4)` in the order pt, eta, mass,
num_particles; optionally `particle_type` `(n, N)` and `event_number` `(n,)`. Files of JetNet, which
hold the first two and no attributes, open as they are.

Reading believes nothing: a value that cannot be is an error that names file, row and column, or,
for those who need every row in its place, a row left empty with its reason. What stands in a padded
slot is not looked at and becomes zero. A file that is written
appears whole (`setflow.files`), and the same content gives the same bytes, however it was cut into
calls of `write`.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from setflow.files import NewFile, check_hdf5_name
from setflow.physics.kinematics import delta_phi
from setflow.schema import (
    DATASETS,
    JET_FEATURES,
    JET_UNITS,
    PARTICLE_FEATURES,
    PARTICLE_TYPES,
    PARTICLE_UNITS,
    names,
)
from setflow.sets.batch import SetBatch
from setflow.sets.masks import zero_padding

__all__ = [
    "JetHeader",
    "JetSample",
    "JetWriter",
    "ScreenedJets",
    "read_header",
    "read_jets",
    "screen_jets",
]

LAYOUT_VERSION = 1
RESERVED = ("complete", "layout", "layout_version", "n")
PARTICLES, JETS, TYPES, EVENTS = (spec.key for spec in DATASETS)
DTYPES = {spec.key: np.dtype(spec.dtype) for spec in DATASETS}
PHI = names(PARTICLE_FEATURES).index("phirel")
PT = names(PARTICLE_FEATURES).index("ptrel")
MASK = names(PARTICLE_FEATURES).index("mask")
NUM = names(JET_FEATURES).index("num_particles")

CHUNK_BYTES = 2**20  # an HDF5 chunk holds whole jets and at most so much
BLOCK_BYTES = 2**24  # so much is read at a time


@dataclass(frozen=True)
class JetSample:
    """Jets as they stand in a file.

    Arguments:
        particles: etarel, phirel [rad] and ptrel, with `x` of shape `(n, N, 3)`, float32, zero in
            padded slots, and `mask` of shape `(n, N)`.
        jets: pt, eta, mass, num_particles, with shape `(n, 4)`, float32.
        particle_type: codes of `PARTICLE_TYPES`, with shape `(n, N)`, int8, or None.
        event_number: the collision that each jet comes from, with shape `(n,)`, int64, or None.
        jet_units: the unit of each jet feature: `JET_UNITS` or `RELATIVE_JET_UNITS`.

    Raises:
        ValueError: if the shapes do not belong together.

    >>> particles = SetBatch(torch.zeros(2, 5, 3), torch.ones(2, 5))
    >>> sample = JetSample(particles, torch.zeros(2, 4))
    >>> len(sample), sample[:1].jets.shape
    (2, torch.Size([1, 4]))
    """

    particles: SetBatch
    jets: Tensor
    particle_type: Tensor | None = None
    event_number: Tensor | None = None
    jet_units: tuple[str, ...] = JET_UNITS

    def __post_init__(self) -> None:
        mask = tuple(self.particles.mask.shape)
        expected = {
            "particles.x": (self.particles.x, (*mask, len(PARTICLE_FEATURES) - 1)),
            "jets": (self.jets, (*mask[:-1], len(JET_FEATURES))),
            "particle_type": (self.particle_type, mask),
            "event_number": (self.event_number, mask[:-1]),
        }
        for name, (tensor, shape) in expected.items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}, expected {shape} beside a mask "
                    f"of shape {mask}"
                )
        if len(self.jet_units) != len(JET_FEATURES):
            raise ValueError(
                f"jet_units has {len(self.jet_units)} entries, expected one for each of "
                f"{', '.join(names(JET_FEATURES))}"
            )

    def context(self, columns: Sequence[str]) -> Tensor:
        """Return columns of the jet features, by name, with shape `(n, len(columns))`.

        Raises:
            ValueError: if a column does not exist, or does not stand in the unit of the layout.
        """
        known = names(JET_FEATURES)
        for column in columns:
            if column not in known:
                raise ValueError(
                    f"there is no jet feature {column!r}, expected some of {', '.join(known)}"
                )
            unit, expected = (units[known.index(column)] for units in (self.jet_units, JET_UNITS))
            if unit != expected:
                raise ValueError(
                    f"the jets hold {column} in units of {unit!r}, expected {expected!r}: a "
                    "generated file does not know it; give a file of full jets"
                )
        return self.jets[:, [known.index(column) for column in columns]]

    def __len__(self) -> int:
        return len(self.particles)

    def __getitem__(self, index: Any) -> JetSample:
        """Select jets (an integer, slice, list or tensor)."""
        return JetSample(
            self.particles[index],
            self.jets[index],
            None if self.particle_type is None else self.particle_type[index],
            None if self.event_number is None else self.event_number[index],
            self.jet_units,
        )


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
    path = Path(path)
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
    return _read(Path(path), start, stop, max_objects, malformed=_refuse)


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

    def note(defects: _Defects, path: Path, first: int) -> None:
        reasons.update({first - start + row: reason for row, reason in defects.items()})

    sample = _read(Path(path), start, stop, max_objects, malformed=note)
    return ScreenedJets(sample, reasons)


def _read(
    path: Path,
    start: int,
    stop: int | None,
    max_objects: int | None,
    *,
    malformed: Callable[[_Defects, Path, int], None],
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

        rows = _block_rows(file[PARTICLES])
        for first in range(start, stop, rows):
            there = slice(first, min(first + rows, stop))
            here = slice(there.start - start, there.stop - start)
            try:
                particles = file[PARTICLES][there]
                jets[here] = _as_float32(file[JETS][there])
                kind = file[TYPES][there] if types is not None else None
                if events is not None:
                    events[here] = file[EVENTS][there]
            except OSError as error:
                raise OSError(
                    f"{path}: rows {there.start} to {there.stop} cannot be read, the file is "
                    f"damaged ({error}); fetch or make it again"
                ) from error
            defects: _Defects = {}
            values, real = _checked_particles(particles, defects)
            _check_jets(jets[here], defects)
            if kind is not None:
                kind = _checked_types(kind, real, defects)
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


class JetWriter:
    """Write jets to a file, batch by batch; a context manager.

    The file appears under its name when the `with` block ends without an error. Otherwise what was
    written is removed, and a file that stood there before stays as it was.

    Arguments:
        path: the file to write, named .h5 or .hdf5; its folder must exist.
        objects: the number of slots `N` of the file.
        overwrite: replace the file if it exists.
        jet_units: the unit of each jet feature; `RELATIVE_JET_UNITS` if the jet pT is not known.
        with_types: whether each `write` brings `particle_type`.
        with_events: whether each `write` brings `event_number`.
        attributes: further attributes of the file: strings, numbers or booleans by name.
        compression: the gzip level, 0 (none) to 9.

    Raises:
        OSError: at once, if the file exists and `overwrite` is False, or its folder does not exist
            or cannot be written to.
        ValueError: if an argument is out of range, or the file is not named so.

    >>> import tempfile
    >>> particles = SetBatch(torch.rand(2, 5, 3), torch.ones(2, 5))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with JetWriter(Path(folder) / "jets.h5", objects=30) as writer:
    ...         writer.write(particles, torch.ones(2, 4))
    ...     read_jets(Path(folder) / "jets.h5").particles.x.shape
    torch.Size([2, 30, 3])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        objects: int,
        overwrite: bool = False,
        jet_units: tuple[str, ...] = JET_UNITS,
        with_types: bool = False,
        with_events: bool = False,
        attributes: Mapping[str, Any] | None = None,
        compression: int = 4,
    ) -> None:
        self._objects, self._jet_units = objects, tuple(jet_units)
        self._compression, self._attributes = compression, dict(attributes or {})
        self._output = NewFile(check_hdf5_name(path), overwrite=overwrite)
        if objects < 1:
            raise ValueError(f"objects is {objects}, expected at least one slot a jet")
        if not 0 <= compression <= 9:
            raise ValueError(f"compression is {compression}, expected a gzip level from 0 to 9")
        if len(self._jet_units) != len(JET_FEATURES):
            raise ValueError(
                f"jet_units has {len(self._jet_units)} entries, expected one for each of "
                f"{', '.join(names(JET_FEATURES))}"
            )
        if taken := sorted(set(self._attributes) & set(RESERVED)):
            raise ValueError(f"attributes {taken} are written by the writer; choose other names")
        optional = {TYPES: with_types, EVENTS: with_events}
        self._keys = [PARTICLES, JETS, *(key for key, wanted in optional.items() if wanted)]
        self._rows = _chunk_rows(objects)
        self._waiting: dict[str, list[NDArray[Any]]] = {key: [] for key in self._keys}
        self._n = self._n_waiting = 0
        self._file: Any = None
        self._open = ExitStack()

    @property
    def n(self) -> int:
        """The number of jets given to `write` so far."""
        return self._n + self._n_waiting

    def __enter__(self) -> JetWriter:
        with ExitStack() as stack:  # on the way out: the rest is written, the file closed, renamed
            part = stack.enter_context(self._output)
            self._file = stack.enter_context(h5py.File(part, "w", locking=False))
            stack.push(self._finish)
            self._create()
            self._open = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._open.__exit__(kind, error, traceback)
        finally:
            self._file = None

    def _finish(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush(everything=True)
            self._file.attrs["n"] = np.int64(self._n)
            self._file.attrs["complete"] = True

    def write(
        self,
        particles: SetBatch,
        jets: Tensor,
        particle_type: Tensor | None = None,
        event_number: Tensor | None = None,
    ) -> None:
        """Append jets; they reach the file when enough for a chunk have come, or at the end.

        Arguments:
            particles: etarel, phirel [rad] and ptrel, with `x` of shape `(b, M, 3)`; slots beyond
                the file's must be padding. phirel is wrapped into [-pi, pi).
            jets: pt, eta, mass, num_particles, with shape `(b, 4)`, in the units of the writer.
            particle_type: codes of `PARTICLE_TYPES`, with shape `(b, M)`.
            event_number: with shape `(b,)`.

        Raises:
            RuntimeError: if the writer is not open.
            ValueError: if a shape differs, a value is not finite, a jet has too many particles, or
                what the writer was made for is missing.
        """
        if self._file is None:
            raise RuntimeError("the writer is not open; use it as `with JetWriter(...) as writer:`")
        for key, given in {TYPES: particle_type, EVENTS: event_number}.items():
            if (given is not None) != (key in self._keys):
                short = "with_types" if key == TYPES else "with_events"
                raise ValueError(
                    f"{key} is {'given' if given is not None else 'missing'}, but the writer was "
                    f"made with {short}={key in self._keys}; let both agree"
                )
        if particles.mask.ndim != 2:
            raise ValueError(
                f"particles have a mask of shape {tuple(particles.mask.shape)}, expected (b, M): "
                "one batch dimension"
            )
        sample = JetSample(particles, jets, particle_type, event_number, self._jet_units)
        columns = self._rows_of(sample)
        for key, values in columns.items():
            self._waiting[key].append(values)
        self._n_waiting += len(sample)
        self._flush()

    def _rows_of(self, sample: JetSample) -> dict[str, NDArray[Any]]:
        mask = sample.particles.mask.detach().cpu().numpy()
        if mask[:, self._objects :].any():
            row = int(mask[:, self._objects :].any(1).argmax())
            raise ValueError(
                f"jet {self.n + row} has a particle in slot {int(mask[row].nonzero()[0][-1])}, the "
                f"file has {self._objects} slots; give the writer more objects or cut the jets"
            )
        x = zero_padding(sample.particles.x.detach(), sample.particles.mask).cpu()
        x = x.to(torch.float32, copy=True)
        x[..., PHI] = delta_phi(x[..., PHI], x.new_zeros(()))
        width = min(self._objects, mask.shape[1])
        features = np.zeros((len(mask), self._objects, len(PARTICLE_FEATURES)), np.float32)
        features[:, :width, :MASK] = x.numpy()[:, :width]
        features[:, :width, MASK] = mask[:, :width]
        jets = _as_float32(sample.jets.detach().cpu().numpy())
        defects: _Defects = {}
        _check_finite(features, np.ones(features.shape[:2], np.bool_), defects)
        _check_jets(jets, defects)
        columns: dict[str, NDArray[Any]] = {PARTICLES: features, JETS: jets.copy()}
        if sample.particle_type is not None:
            types = np.zeros((len(mask), self._objects), np.int8)
            given = sample.particle_type.detach().cpu().numpy()
            types[:, :width] = _checked_types(given, mask, defects)[:, :width]
            columns[TYPES] = types
        if defects:
            _refuse(defects, "this batch", 0)
        if sample.event_number is not None:
            columns[EVENTS] = sample.event_number.detach().cpu().numpy().astype(np.int64)
        return columns

    def _create(self) -> None:
        tails = {PARTICLES: (self._objects, len(PARTICLE_FEATURES)), JETS: (len(JET_FEATURES),)}
        tails |= {TYPES: (self._objects,), EVENTS: ()}
        for key in self._keys:
            self._file.create_dataset(
                key,
                shape=(0, *tails[key]),
                maxshape=(None, *tails[key]),
                chunks=(self._rows, *tails[key]),
                dtype=DTYPES[key],
                compression="gzip" if self._compression else None,
                compression_opts=self._compression or None,
                shuffle=True,
                track_times=False,
            )
        strings = h5py.string_dtype()
        columns = {PARTICLES: (names(PARTICLE_FEATURES), PARTICLE_UNITS)}
        columns[JETS] = (names(JET_FEATURES), self._jet_units)
        for key, (features, units) in columns.items():
            self._file[key].attrs["features"] = np.array(features, dtype=strings)
            self._file[key].attrs["units"] = np.array(units, dtype=strings)
        if TYPES in self._keys:
            codes = [f"{kind.code} = {kind.name}" for kind in PARTICLE_TYPES]
            self._file[TYPES].attrs["codes"] = np.array(codes, dtype=strings)
        self._file.attrs["layout"] = "jets"
        self._file.attrs["layout_version"] = np.int64(LAYOUT_VERSION)
        self._file.attrs["complete"] = False
        self._file.attrs["n"] = np.int64(0)
        for name, value in self._attributes.items():
            self._file.attrs[name] = value

    def _flush(self, everything: bool = False) -> None:
        """Write whole chunks, so that the bytes do not depend on the sizes of the batches."""
        if self._n_waiting < self._rows and not (everything and self._n_waiting):
            return
        joined = {key: np.concatenate(parts) for key, parts in self._waiting.items()}
        whole = self._n_waiting if everything else self._n_waiting - self._n_waiting % self._rows
        for first in range(0, whole, self._rows):
            last = min(first + self._rows, whole)
            for key in self._keys:
                dataset = self._file[key]
                dataset.resize(self._n + last - first, axis=0)
                dataset[self._n :] = joined[key][first:last]
            self._n += last - first
        self._waiting = {key: [joined[key][whole:]] for key in self._keys}
        self._n_waiting -= whole


def _chunk_rows(objects: int) -> int:
    """The largest power of two of jets that fit into a chunk."""
    size = objects * len(PARTICLE_FEATURES) * DTYPES[PARTICLES].itemsize
    return 1 << max(0, (CHUNK_BYTES // size).bit_length() - 1)


def _block_rows(dataset: Any) -> int:
    """The rows to read at a time: whole chunks, some megabytes."""
    size = math.prod(dataset.shape[1:]) * int(dataset.dtype.itemsize)
    rows = max(1, BLOCK_BYTES // max(1, size))
    chunk = int(dataset.chunks[0]) if dataset.chunks else 1
    return int(max(chunk, rows - rows % chunk))


def _open(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the path")
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


def _as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32, copy=False)


# --- what a valid row is ---

_Defects = dict[int, str]  # what is wrong with a row of a block, the first that was found


def _note(defects: _Defects, wrong: NDArray[np.bool_], describe: Callable[..., str]) -> None:
    """Add a reason for each row, the first dimension of `wrong`, that holds something wrong.

    Arguments:
        defects: the reasons so far; a row that has one keeps it.
        wrong: which entries are wrong.
        describe: returns the reason, called with the index of a row's first wrong entry.
    """
    for row in np.flatnonzero(wrong.any(axis=tuple(range(1, wrong.ndim)))).tolist():
        if row not in defects:
            defects[row] = describe(row, *np.argwhere(wrong[row])[0].tolist())


def _refuse(defects: _Defects, path: Path | str, first: int) -> None:
    row = min(defects)
    raise ValueError(f"{path}: row {first + row}, {defects[row]}")


def _checked_particles(
    particles: NDArray[Any], defects: _Defects
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the features `(b, N, 3)`, zero in padded slots, and the mask `(b, N)`."""
    flags = particles[..., MASK]
    _note(
        defects,
        ~((flags == 0) | (flags == 1)),
        lambda row, slot: (
            f"particle {slot}, column 'mask' holds {flags[row, slot]}, expected 1 (real) or 0 "
            "(padding)"
        ),
    )
    real = flags == 1
    values = _as_float32(np.where(real[..., None], particles[..., :MASK], 0))
    _check_finite(values, real, defects)
    phi = particles[..., PHI]
    pi = phi.dtype.type(math.pi)
    with np.errstate(invalid="ignore"):
        outside = real & ~((-pi <= phi) & (phi < pi))
    _note(
        defects,
        outside,
        lambda row, slot: (
            f"particle {slot}, column 'phirel' holds {phi[row, slot]}, expected radians in "
            "[-pi, pi); wrap the angles"
        ),
    )
    edge = np.float32(math.pi)  # what float64 calls just below pi, float32 may round to pi
    values[..., PHI][values[..., PHI] >= edge] = -edge
    return values, real


def _check_finite(values: NDArray[np.float32], real: NDArray[np.bool_], defects: _Defects) -> None:
    _note(
        defects,
        real[..., None] & ~np.isfinite(values),
        lambda row, slot, column: (
            f"particle {slot}, column '{PARTICLE_FEATURES[column].name}' holds "
            f"{values[row, slot, column]} though the particle is real; expected a finite value"
        ),
    )


def _check_jets(jets: NDArray[np.float32], defects: _Defects) -> None:
    _note(
        defects,
        ~np.isfinite(jets),
        lambda row, column: (
            f"column '{JET_FEATURES[column].name}' of {JETS} holds {jets[row, column]}; expected "
            "a finite value"
        ),
    )


def _checked_types(
    types: NDArray[Any], real: NDArray[np.bool_], defects: _Defects
) -> NDArray[np.int8]:
    """Return the codes with 0 in padded slots."""
    _note(
        defects,
        real & ~((types > 0) & (types < len(PARTICLE_TYPES))),
        lambda row, slot: (
            f"particle {slot} of {TYPES} holds {types[row, slot]}, expected a code from 1 to "
            f"{len(PARTICLE_TYPES) - 1}"
        ),
    )
    return np.where(real, types, 0).astype(np.int8)
