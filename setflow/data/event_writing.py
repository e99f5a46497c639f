"""Write files of events of any schema: the layout of version 2 (`setflow.data.layouts`)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from setflow.data.contexts import context_texts
from setflow.data.jets import EVENTS, RESERVED, WEIGHTS
from setflow.data.layouts import CONTEXT, FORMAT, MASK, OBJECTS, OFFSETS, TARGET, VALUES, VERSION
from setflow.data.manifest import Run
from setflow.data.sample import EventSample, units
from setflow.data.stream import Table, TableStream, chunk_rows
from setflow.data.valid import OF_EVENTS, Defects, note, refuse
from setflow.data.writing import Columns, Writer, as_int64, wrapped
from setflow.schema import Feature, Schema, names, schema_of
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.batch import SetBatch
from setflow.sets.shapes import whole_number

__all__ = ["EventWriter"]


class EventWriter(Writer):
    """Write events of any schema to a file, batch by batch; a context manager.

    The file appears under its name when the `with` block ends without an error. Otherwise what was
    written is removed, and a file that stood there before stays as it was. It is float64 if the
    first batch is, and float32 otherwise; each chunk has a checksum.

    Arguments:
        path: the file to write, named .h5 or .hdf5; its folder must exist.
        schema: what the columns are: the features of an object and of an event, in their order; a
            `setflow.schema.Schema`, its node, or `jetnet`.
        objects: the number of slots `N` of the file; None writes the objects of one event behind
            those of the other, which takes no room for padding.
        overwrite: replace the file if it exists.
        attributes: further attributes of the file: strings, numbers or booleans by name.
        compression: the gzip level, 0 (none) to 9.
        keep_unphysical: write also what cannot be, such as a positive feature below 0 or NaN, as
            the sample of a model may hold it; it is counted in `unphysical`, and the file tells it
            by an attribute of this name.
        run: where the file stands in a run of events (`setflow.data.manifest.Run`); the file then
            has a manifest, by which its content can be verified.

    Raises:
        OSError: at once, if the file exists and `overwrite` is False, or its folder does not exist
            or cannot be written to.
        ValueError: if an argument is out of range, or the file is not named so.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from setflow.schema import Feature
    >>> rings = Schema([Feature("x", "mm"), Feature("y", "mm")])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with EventWriter(Path(folder) / "rings.h5", rings) as writer:
    ...         writer.write(SetBatch(torch.rand(2, 5, 2), torch.ones(2, 5)))
    ...     setflow.data.read_events(Path(folder) / "rings.h5").features
    ('x', 'y')
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        schema: Schema | Mapping[str, Any] | str,
        *,
        objects: int | None = None,
        overwrite: bool = False,
        attributes: Mapping[str, Any] | None = None,
        compression: int = 4,
        keep_unphysical: bool = False,
        run: Run | None = None,
    ) -> None:
        stream = TableStream(
            path, overwrite=overwrite, compression=compression, checksums=True, run=run
        )
        reserved = (*RESERVED, "format", "schema")
        super().__init__(stream, schema_of(schema), attributes, reserved, keep_unphysical)
        self._objects = None if objects is None else whole_number(objects, "objects", 1)
        self._objects_so_far = 0
        self._tables: dict[str, Table] = {}

    def write(
        self,
        objects: SetBatch,
        event: Array | None = None,
        *,
        event_number: Array | None = None,
        target: Array | None = None,
    ) -> None:
        """Append events; they reach the file when enough for a chunk have come, or at the end.

        What the first batch brings besides the objects, all must bring.

        Arguments:
            objects: the features of the objects in the order and units of the schema, with `x` of
                shape `(b, M, D)`; slots beyond the file's must be padding. Angles are wrapped into
                [-pi, pi), also those of events. Weights are written as they are.
            event: the features of the events, with shape `(b, C)`; None takes the context `c` of
                the objects, and is right if the schema has none.
            event_number: whole numbers from 0, with shape `(b,)`.
            target: the class of each event, a whole number, with shape `(b,)`.

        Raises:
            RuntimeError: if the writer is not open.
            ValueError: if a shape or dtype differs, a value is not finite or cannot be (unless the
                writer keeps such), an event has too many objects, or a batch brings other parts
                than the first one.
        """
        self._listed(objects)
        event, known = self._given(objects, event, "event"), names(self._schema.event)
        if event is None:
            if known:
                raise ValueError(
                    f"the schema has features of an event, {', '.join(known)}, and none are given; "
                    f"give them as event, with shape {(len(objects), len(known))}"
                )
            event = objects.x.new_zeros(len(objects), 0)
        numbers = None if event_number is None else as_tensor(event_number, "event_number")
        classes = None if target is None else as_tensor(target, "target")
        event = as_tensor(event, "event")
        sample = EventSample(
            objects, event, self._schema, event_number=numbers, target=classes
        )  # checks the shapes
        defects: Defects = {}
        rows = self._rows_of(sample, defects)
        if defects:
            refuse(defects, "this batch", 0)
        if not self._tables:
            self._create(rows)
        held = {key: (table.tail, table.dtype) for key, table in self._tables.items()}
        given = {key: (values.shape[1:], values.dtype) for key, values in rows.items()}
        if held != given:
            different = sorted(key for key in held | given if held.get(key) != given.get(key))
            raise ValueError(
                f"{different[0]} is {given.get(different[0], 'missing')}, and in the first batch "
                f"it was {held.get(different[0], 'missing')} (shape and dtype); let all batches "
                "bring the same"
            )
        lengths = objects.lengths.cpu().numpy()
        self._stream.append(rows, lengths)
        self._objects_so_far += int(lengths.sum())

    def _rows_of(self, sample: EventSample, defects: Defects) -> Columns:
        mask = sample.objects.mask.detach().cpu().numpy()
        slots = mask.shape[1] if self._objects is None else self._objects
        width = self._in_slots(mask, slots, "event", "an object")
        x = self._features(sample.objects, _wide(sample.objects.x))[:, :width]
        given = sample.event.detach().cpu().to(_wide(sample.event), copy=True)
        event = wrapped(given, self._schema.event)
        mask = mask[:, :width]
        self._check(x, mask, event, defects, OF_EVENTS)
        if self._objects is None:
            ends = self._objects_so_far + mask.sum(1).cumsum()
            columns: Columns = {VALUES: x[mask], OFFSETS: ends.astype(np.int64)}
        else:
            padding = ((0, 0), (0, slots - width))
            columns = {OBJECTS: np.pad(x, (*padding, (0, 0))), MASK: np.pad(mask, padding)}
        if self._schema.event:
            columns[CONTEXT] = event
        if sample.objects.weight is not None:
            columns[WEIGHTS] = sample.objects.weight.detach().cpu().numpy()
        if sample.target is not None:
            columns[TARGET] = as_int64(sample.target.detach().cpu().numpy(), TARGET, defects)
        if sample.event_number is not None:
            columns[EVENTS] = _uint64(sample.event_number.detach().cpu().numpy(), defects)
        return columns

    def _create(self, rows: Columns) -> None:
        """Make the datasets that the first batch asks for."""
        features, event = self._schema.objects, self._schema.event
        texts = dict.fromkeys((OBJECTS, VALUES), _texts(features)) | {CONTEXT: context_texts(event)}
        x = rows[VALUES if self._objects is None else OBJECTS]
        of_objects = chunk_rows(len(features) * x.itemsize)
        at_a_time = chunk_rows((self._objects or 1) * len(features) * x.itemsize)
        if self._objects is None:
            at_a_time = min(at_a_time, 2**14)  # events, however many objects they have
        for key, values in rows.items():
            ragged, ends = key == VALUES, key == OFFSETS
            self._tables[key] = Table(
                values.shape[1:],
                values.dtype,
                of_objects if ragged else at_a_time,
                texts.get(key, {}),
                of_objects=ragged,
                first=np.zeros(1, np.int64) if ends else None,
            )
        told = {
            "format": FORMAT,
            "layout_version": np.int64(VERSION),
            "schema": json.dumps(self._schema.node()),
        }
        self._stream.create(self._tables, at_a_time, told | self._attributes)

    def _end(self) -> None:
        if not self._tables:  # nothing was written
            width = len(self._schema.objects)
            x = torch.zeros(0, self._objects or 0, width, dtype=torch.float32)
            event = torch.zeros(0, len(self._schema.event), dtype=torch.float32)
            self.write(SetBatch(x, torch.zeros(0, self._objects or 0)), event)


def _texts(features: Sequence[Feature]) -> dict[str, Sequence[str]]:
    return {"features": names(features), "units": units(features)}


def _wide(values: Tensor) -> torch.dtype:
    """Return the dtype of a file: float64 stays, and all else is float32."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def _uint64(numbers: NDArray[Any], defects: Defects) -> NDArray[np.uint64]:
    """Return event numbers in the dtype of a file, without turning a negative one large."""
    note(
        defects,
        (numbers < 0)[:, None],
        lambda row, _: f"{EVENTS} is {numbers[row]}, expected a whole number from 0",
    )
    return numbers.astype(np.uint64)
