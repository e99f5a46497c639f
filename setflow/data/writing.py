"""Write files of jets: streaming, atomically and reproducibly (`setflow.data.stream`).

The layout is the table in `setflow.schema`, as `setflow.data.hdf5` reads it; `Writer` is what this
writer shares with that of events of any schema (`setflow.data.event_writing`). What cannot be is
refused as in reading, unless it is kept and counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from setflow.data.contexts import CONTEXT, context_texts
from setflow.data.jets import (
    DTYPES,
    EVENTS,
    JETS,
    LAYOUT_VERSION,
    MASK,
    NUM,
    PARTICLES,
    RESERVED,
    TYPES,
    WEIGHTS,
)
from setflow.data.manifest import Run
from setflow.data.sample import EventSample
from setflow.data.stream import Table, TableStream, chunk_rows
from setflow.data.valid import (
    OF_JETS,
    Defects,
    Words,
    check_counts,
    check_events,
    check_finite,
    check_physical,
    check_physical_events,
    checked_types,
    count_impossible,
    counted,
    note,
    refuse,
    without_nan,
)
from setflow.opened import Opened
from setflow.physics.kinematics import delta_phi
from setflow.schema import (
    JET_FEATURES,
    JET_UNITS,
    JETNET,
    PARTICLE_FEATURES,
    PARTICLE_TYPES,
    PARTICLE_UNITS,
    Feature,
    Schema,
    names,
)
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.batch import SetBatch, listed
from setflow.sets.masks import zero_padding
from setflow.sets.shapes import whole_number

__all__ = ["JetWriter", "Writer", "as_int64"]

Columns = dict[str, NDArray[Any]]


class Writer(Opened):
    """What both writers share: a stream that is a context manager, and the checks of a batch."""

    def __init__(
        self,
        stream: TableStream,
        schema: Schema,
        attributes: Mapping[str, Any] | None,
        reserved: Sequence[str],
        keep_unphysical: bool,
    ) -> None:
        self._stream, self._schema = stream, schema
        self._attributes, self._at_end = dict(attributes or {}), dict[str, Any]()
        if taken := sorted(set(self._attributes) & set(reserved)):
            raise ValueError(f"attributes {taken} are written by the writer; choose other names")
        self._keep_unphysical = keep_unphysical
        self.unphysical: Counter[str] = Counter()

    @property
    def n(self) -> int:
        """The number of events given to `write` so far."""
        return self._stream.n

    def tell(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes of the file that are known at the end alone, before the block ends."""
        self._at_end |= attributes

    def _enter(self, stack: ExitStack) -> None:
        stack.enter_context(self._stream)
        stack.push(self._finish)
        self._begin()

    def _begin(self) -> None:
        """Make what can be made before the first batch is known."""

    def _end(self) -> None:
        """Make what the batches have not made."""

    def _finish(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._end()
            counts = dict(sorted(self.unphysical.items()))
            told = {"unphysical": counted(counts, self._schema.objects)} if counts else {}
            self._stream.finish(self._at_end | told, counts)

    def _listed(self, objects: SetBatch) -> None:
        if not self._stream.is_open:
            name = type(self).__name__
            raise RuntimeError(f"the writer is not open; use it as `with {name}(...) as writer:`")
        listed(objects, f"{type(self).__name__}.write")
        if objects.mask.ndim != 2:
            raise ValueError(
                f"the mask has shape {tuple(objects.mask.shape)}, expected (b, M): one batch "
                "dimension"
            )

    def _given(self, objects: SetBatch, event: Array | None, name: str) -> Array | None:
        """Return the features of events that `write` is given: as such, or as their context."""
        if event is not None and objects.c is not None:
            raise ValueError(
                f"{type(self).__name__}.write got {name} and events with a context c; give one of "
                "them"
            )
        return objects.c if event is None else event

    def _features(self, batch: SetBatch, dtype: torch.dtype) -> NDArray[Any]:
        """Return the features as they are written: padding and absent ones 0, angles wrapped."""
        x = zero_padding(batch.x.detach(), batch.mask).cpu().to(dtype, copy=True)
        features = self._schema.objects
        return without_nan(wrapped(x, features), features)

    def _check(
        self,
        x: NDArray[Any],
        real: NDArray[np.bool_],
        event: NDArray[Any],
        defects: Defects,
        words: Words,
    ) -> None:
        """Find what is wrong with rows as they are written, or count it if it is kept."""
        features, of_event = self._schema.objects, self._schema.event
        if self._keep_unphysical:
            self.unphysical += count_impossible(x, real, features)
            return
        check_finite(x, real, features, defects, words)
        check_events(event, of_event, defects, words)
        check_physical(x, real, features, defects, words)
        check_physical_events(event, of_event, real, defects, words)
        if NUM in names(of_event):
            check_counts(event[:, names(of_event).index(NUM)], real, defects, words)

    def _in_slots(self, mask: NDArray[np.bool_], slots: int, what: str, one: str) -> int:
        """Return how many of the slots given are written; those behind must be padding."""
        if mask[:, slots:].any():
            row = int(mask[:, slots:].any(1).argmax())
            raise ValueError(
                f"{what} {self.n + row} has {one} in slot {int(mask[row].nonzero()[0][-1])}, the "
                f"file has {slots} slots; give the writer more objects or cut the {what}s"
            )
        return min(slots, int(mask.shape[1]))


class JetWriter(Writer):
    """Write jets to a file in JetNet's layout, batch by batch; a context manager.

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
        run: Run | None = None,
    ) -> None:
        stream = TableStream(
            path, overwrite=overwrite, compression=compression, checksums=False, run=run
        )
        super().__init__(stream, JETNET, attributes, RESERVED, keep_unphysical)
        self._objects, self._jet_units = whole_number(objects, "objects", 1), tuple(jet_units)
        if len(self._jet_units) != len(JET_FEATURES):
            raise ValueError(
                f"jet_units has {len(self._jet_units)} entries, expected one for each of "
                f"{', '.join(names(JET_FEATURES))}"
            )
        self._context = tuple(context)
        optional = {TYPES: with_types, EVENTS: with_events, WEIGHTS: with_weights}
        optional |= {CONTEXT: bool(context)}
        self._keys = [PARTICLES, JETS, *(key for key, wanted in optional.items() if wanted)]

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
                Angles are wrapped into [-pi, pi). None takes the context `c` of the particles.

        Raises:
            RuntimeError: if the writer is not open.
            ValueError: if a shape differs, a value is not finite or cannot be (unless the writer
                keeps such), a jet has too many particles or another number than it claims, an event
                number does not fit int64, or what the writer was made for is missing.
        """
        self._listed(particles)
        context = self._given(particles, context, "context")
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
        sample = EventSample(particles, jets, JETNET, particle_type, event_number)
        columns = self._rows_of(sample)
        if context is not None:
            columns[CONTEXT] = self._context_of(as_tensor(context, "context"), len(sample))
        self._stream.append(columns, particles.lengths.cpu().numpy())

    def _context_of(self, context: Tensor, n: int) -> NDArray[np.float64]:
        shape = (n, len(self._context))
        if tuple(context.shape) != shape:
            told = ", ".join(names(self._context))
            raise ValueError(
                f"context has shape {tuple(context.shape)}, expected {shape}: {told} of each jet"
            )
        rows = wrapped(context.detach().cpu().to(torch.float64, copy=True), self._context)
        if not np.isfinite(rows).all():
            row, column = np.argwhere(~np.isfinite(rows))[0].tolist()
            raise ValueError(
                f"this batch: row {row}, '{self._context[column].name}' of the context is "
                f"{rows[row, column]}; expected a finite value"
            )
        return rows

    def _rows_of(self, sample: EventSample) -> Columns:
        mask = sample.objects.mask.detach().cpu().numpy()
        width = self._in_slots(mask, self._objects, "jet", "a particle")
        x = self._features(sample.objects, torch.float32)
        features = np.zeros((len(mask), self._objects, len(PARTICLE_FEATURES)), np.float32)
        features[:, :width, :MASK] = x[:, :width]
        features[:, :width, MASK] = mask[:, :width]
        with np.errstate(over="ignore", invalid="ignore"):
            jets = sample.event.detach().cpu().numpy().astype(np.float32)
        columns: Columns = {PARTICLES: features, JETS: jets}
        defects: Defects = {}
        self._check(features[..., :MASK], features[..., MASK] == 1, jets, defects, OF_JETS)
        if sample.particle_type is not None:
            types = np.zeros((len(mask), self._objects), np.int8)
            given = sample.particle_type.detach().cpu().numpy()
            types[:, :width] = checked_types(given, mask, defects)[:, :width]
            columns[TYPES] = types
        if sample.event_number is not None:
            columns[EVENTS] = as_int64(sample.event_number.detach().cpu().numpy(), EVENTS, defects)
        if sample.objects.weight is not None:
            columns[WEIGHTS] = sample.objects.weight.detach().cpu().numpy()
        if defects:
            refuse(defects, "this batch", 0)
        return columns

    def _begin(self) -> None:
        texts: dict[str, dict[str, Sequence[str]]] = {
            PARTICLES: {"features": names(PARTICLE_FEATURES), "units": PARTICLE_UNITS},
            JETS: {"features": names(JET_FEATURES), "units": self._jet_units},
            TYPES: {"codes": [f"{kind.code} = {kind.name}" for kind in PARTICLE_TYPES]},
            CONTEXT: context_texts(self._context),
        }
        tails = {PARTICLES: (self._objects, len(PARTICLE_FEATURES)), JETS: (len(JET_FEATURES),)}
        tails |= {TYPES: (self._objects,), EVENTS: (), WEIGHTS: (), CONTEXT: (len(self._context),)}
        rows = chunk_rows(self._objects * len(PARTICLE_FEATURES) * DTYPES[PARTICLES].itemsize)
        tables = {
            key: Table(tails[key], DTYPES.get(key, np.dtype("f8")), rows, texts.get(key, {}))
            for key in self._keys
        }
        told = {"layout": "jets", "layout_version": np.int64(LAYOUT_VERSION)}
        self._stream.create(tables, rows, told | self._attributes)


def wrapped(values: Tensor, features: Sequence[Feature]) -> NDArray[Any]:
    """Return features, the last dimension, as they are written: angles wrapped, in place."""
    for column, feature in enumerate(features):
        if feature.of_kind.is_angle:
            values[..., column] = delta_phi(values[..., column], values.new_zeros(()))
    written: NDArray[Any] = values.numpy()
    return written


def as_int64(numbers: NDArray[Any], key: str, defects: Defects) -> NDArray[np.int64]:
    """Return whole numbers in the dtype of a file, without turning a large one negative."""
    largest = np.iinfo(np.int64).max
    note(
        defects,
        (numbers > largest)[:, None],
        lambda row, _: f"{key} is {numbers[row]}, expected at most {largest}, what int64 holds",
    )
    return numbers.astype(np.int64)
