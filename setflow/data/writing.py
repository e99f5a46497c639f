"""Write files of jets: streaming, atomically and reproducibly.

The layout is the table in `setflow.schema`, as `setflow.data.hdf5` reads it. A file appears whole
(`setflow.files`), and the same content gives the same bytes, however it was cut into calls of
`write`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from setflow.data.contexts import CONTEXT, describe_context
from setflow.data.jets import (
    DTYPES,
    EVENTS,
    JET_NAMES,
    JETS,
    LAYOUT_VERSION,
    MASK,
    NUM,
    PARTICLE_NAMES,
    PARTICLES,
    PHI,
    RESERVED,
    TYPES,
    WEIGHTS,
    JetSample,
)
from setflow.data.valid import (
    Defects,
    check_finite,
    check_jets,
    check_physical,
    check_physical_jets,
    checked_types,
    count_impossible,
    counted,
    note,
    refuse,
)
from setflow.files import NewFile, check_hdf5_name
from setflow.physics.kinematics import delta_phi
from setflow.schema import (
    JET_FEATURES,
    JET_UNITS,
    PARTICLE_FEATURES,
    PARTICLE_TYPES,
    PARTICLE_UNITS,
    Feature,
    names,
)
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.batch import SetBatch, listed
from setflow.sets.masks import zero_padding

__all__ = ["JetWriter"]

CHUNK_BYTES = 2**20  # an HDF5 chunk holds whole jets and at most so much


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
        with_weights: whether the particles of each `write` have weights.
        context: the features of the context that each `write` brings, such as a model is asked for.
        attributes: further attributes of the file: strings, numbers or booleans by name.
        compression: the gzip level, 0 (none) to 9.
        keep_unphysical: write also what cannot be, such as a ptrel below 0 or NaN, as the sample of
            a model may hold it; it is counted in `unphysical`, and the file tells it by an
            attribute of this name.

    Raises:
        OSError: at once, if the file exists and `overwrite` is False, or its folder does not exist
            or cannot be written to.
        ValueError: if an argument is out of range, or the file is not named so.

    >>> import tempfile
    >>> from pathlib import Path
    >>> particles = SetBatch(torch.rand(2, 5, 3), torch.ones(2, 5))
    >>> jets = torch.tensor([[900.0, 0.5, 80.0, 5.0], [800.0, -1.0, 90.0, 5.0]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with JetWriter(Path(folder) / "jets.h5", objects=30) as writer:
    ...         writer.write(particles, jets)
    ...     setflow.data.read_jets(Path(folder) / "jets.h5").particles.x.shape
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
        with_weights: bool = False,
        context: Sequence[Feature] = (),
        attributes: Mapping[str, Any] | None = None,
        compression: int = 4,
        keep_unphysical: bool = False,
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
        self._context = tuple(context)
        optional = {TYPES: with_types, EVENTS: with_events, WEIGHTS: with_weights}
        optional |= {CONTEXT: bool(context)}
        self._keys = [PARTICLES, JETS, *(key for key, wanted in optional.items() if wanted)]
        self._rows = _chunk_rows(objects)
        self._waiting: dict[str, list[NDArray[Any]]] = {key: [] for key in self._keys}
        self._n = self._n_waiting = 0
        self._keep_unphysical = keep_unphysical
        self.unphysical: Counter[str] = Counter()
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
            if self.unphysical:
                self._file.attrs["unphysical"] = counted(dict(sorted(self.unphysical.items())))
            self._file.attrs["complete"] = True

    def write(
        self,
        particles: SetBatch,
        jets: Array,
        particle_type: Array | None = None,
        event_number: Array | None = None,
        context: Array | None = None,
    ) -> None:
        """Append jets; they reach the file when enough for a chunk have come, or at the end.

        Arguments:
            particles: etarel, phirel [rad] and ptrel, with `x` of shape `(b, M, 3)`; slots beyond
                the file's must be padding. phirel is wrapped into [-pi, pi). Their weights are
                written as they are.
            jets: pt, eta, mass, num_particles, with shape `(b, 4)`, in the units of the writer.
            particle_type: codes of `PARTICLE_TYPES`, with shape `(b, M)`.
            event_number: with shape `(b,)`.
            context: the features of the context, with shape `(b, C)`; a category as its code.

        Raises:
            RuntimeError: if the writer is not open.
            ValueError: if a shape differs, a value is not finite or cannot be (unless the writer
                keeps such), a jet has too many particles or another number than it claims, an event
                number does not fit int64, or what the writer was made for is missing.
        """
        if self._file is None:
            raise RuntimeError("the writer is not open; use it as `with JetWriter(...) as writer:`")
        listed(particles, "JetWriter.write")
        told = ", ".join(names(self._context)) or "none"
        made = {TYPES: "with_types", EVENTS: "with_events", WEIGHTS: "with_weights"}
        parts = {TYPES: particle_type, EVENTS: event_number, WEIGHTS: particles.weight}
        for key, given in {**parts, CONTEXT: context}.items():
            if (given is not None) != (key in self._keys):
                option = f"context={told}" if key == CONTEXT else f"{made[key]}={key in self._keys}"
                raise ValueError(
                    f"{key} is {'given' if given is not None else 'missing'}, but the writer was "
                    f"made with {option}; let both agree"
                )
        jets = as_tensor(jets, "jets")
        if particle_type is not None:
            particle_type = as_tensor(particle_type, "particle_type")
        if event_number is not None:
            event_number = as_tensor(event_number, "event_number")
        if particles.mask.ndim != 2:
            raise ValueError(
                f"particles have a mask of shape {tuple(particles.mask.shape)}, expected (b, M): "
                "one batch dimension"
            )
        sample = JetSample(particles, jets, particle_type, event_number, self._jet_units)
        columns = self._rows_of(sample)
        if context is not None:
            columns[CONTEXT] = self._context_of(as_tensor(context, "context"), len(sample))
        for key, values in columns.items():
            self._waiting[key].append(values)
        self._n_waiting += len(sample)
        self._flush()

    def _context_of(self, context: Tensor, n: int) -> NDArray[np.float64]:
        rows = context.detach().cpu().numpy().astype(np.float64)
        shape = (n, len(self._context))
        if rows.shape != shape:
            told = ", ".join(names(self._context))
            raise ValueError(
                f"context has shape {rows.shape}, expected {shape}: {told} of each jet"
            )
        if not np.isfinite(rows).all():
            row, column = np.argwhere(~np.isfinite(rows))[0].tolist()
            raise ValueError(
                f"this batch: row {row}, '{self._context[column].name}' of the context is "
                f"{rows[row, column]}; expected a finite value"
            )
        return rows

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
        with np.errstate(over="ignore", invalid="ignore"):
            jets = sample.jets.detach().cpu().numpy().astype(np.float32)
        columns: dict[str, NDArray[Any]] = {PARTICLES: features, JETS: jets}
        defects: Defects = {}
        self._check(features, jets, defects)
        if sample.particle_type is not None:
            types = np.zeros((len(mask), self._objects), np.int8)
            given = sample.particle_type.detach().cpu().numpy()
            types[:, :width] = checked_types(given, mask, defects)[:, :width]
            columns[TYPES] = types
        if sample.event_number is not None:
            columns[EVENTS] = _events(sample.event_number.detach().cpu().numpy(), defects)
        if sample.particles.weight is not None:
            columns[WEIGHTS] = sample.particles.weight.detach().cpu().numpy()
        if defects:
            refuse(defects, "this batch", 0)
        return columns

    def _check(
        self, features: NDArray[np.float32], jets: NDArray[np.float32], defects: Defects
    ) -> None:
        """Find what is wrong with rows as they are written, or count it if it is kept."""
        x, real = features[..., :MASK], features[..., MASK] == 1
        if self._keep_unphysical:
            self.unphysical += count_impossible(x, real, PARTICLE_NAMES)
            return
        check_finite(x, real, PARTICLE_NAMES, defects)
        check_jets(jets, JET_NAMES, defects)
        check_physical(x, real, PARTICLE_NAMES, defects)
        counts = jets[:, JET_NAMES.index(NUM)]
        check_physical_jets(jets, JET_NAMES, real, counts, defects)

    def _create(self) -> None:
        tails = {PARTICLES: (self._objects, len(PARTICLE_FEATURES)), JETS: (len(JET_FEATURES),)}
        tails |= {TYPES: (self._objects,), EVENTS: (), WEIGHTS: (), CONTEXT: (len(self._context),)}
        for key in self._keys:
            self._file.create_dataset(
                key,
                shape=(0, *tails[key]),
                maxshape=(None, *tails[key]),
                chunks=(self._rows, *tails[key]),
                dtype=DTYPES.get(key, np.dtype(np.float64)),
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
        if CONTEXT in self._keys:
            describe_context(self._file[CONTEXT], self._context)
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


def _events(numbers: NDArray[Any], defects: Defects) -> NDArray[np.int64]:
    """Return event numbers in the dtype of a file, without turning a large one negative."""
    largest = np.iinfo(np.int64).max
    note(
        defects,
        (numbers > largest)[:, None],
        lambda row, _: f"{EVENTS} is {numbers[row]}, expected at most {largest}, what int64 holds",
    )
    return numbers.astype(np.int64)


def _chunk_rows(objects: int) -> int:
    """The largest power of two of jets that fit into a chunk."""
    size = objects * len(PARTICLE_FEATURES) * DTYPES[PARTICLES].itemsize
    return 1 << max(0, (CHUNK_BYTES // size).bit_length() - 1)
