"""The file that a conversion writes: jets, events of any schema, ROOT or parquet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from setflow.data.event_writing import EventWriter
from setflow.data.formats.trees import TreeWriter
from setflow.data.jets import JET_NAMES, NUM, PARTICLE_NAMES
from setflow.data.sample import RELATIVE, EventSample
from setflow.data.valid import OF_JETS, check_counts, counted, refuse
from setflow.data.writing import JetWriter
from setflow.files import check_hdf5_name
from setflow.opened import Opened
from setflow.physics.kinematics import jet_features
from setflow.schema import (
    JET_UNITS,
    RELATIVE_JET_UNITS,
    TYPE,
    Schema,
    names,
)
from setflow.sets.batch import SetBatch

__all__ = ["CLASS", "Output", "compared", "without_counts"]

CLASS = "class"


class Output(Opened):
    """A file that is being written.

    Arguments:
        out: the file.
        schema: what the events are.
        slots: returns the number of slots that they need; called where the layout has slots.
        attributes: attributes of the file.
        overwrite: replace a file that is there.
        keep_unphysical: write values that cannot be, and count them.

    Raises:
        ValueError: if the file is named like none of these.
    """

    def __init__(
        self,
        out: Path,
        schema: Schema,
        *,
        slots: Callable[[], int],
        attributes: Mapping[str, Any],
        overwrite: bool,
        keep_unphysical: bool,
    ) -> None:
        self._out, self._schema, self._slots = out, schema, slots
        self._tree = out.suffix.lower() in (".root", ".parquet")
        if not self._tree:
            check_hdf5_name(out)
        self._options: dict[str, Any] = {
            "overwrite": overwrite,
            "attributes": attributes,
            "keep_unphysical": keep_unphysical,
        }
        self._jets = sorted(names(schema.objects)) == sorted(PARTICLE_NAMES)
        held, full = names(schema.event), JET_NAMES[:-1]
        self._full = all(name in held for name in full)
        units = {entry.name: entry.unit for entry in schema.event}
        self._relative = not self._full or units["pt"] == RELATIVE
        known = (*full, NUM) if self._full else (NUM,)
        self._context = [entry for entry in schema.event if entry.name not in known]
        self._writer: JetWriter | EventWriter | TreeWriter | None = None
        if self._tree:
            self._writer = TreeWriter(out, schema, overwrite=overwrite)

    def _enter(self, stack: ExitStack) -> None:
        if self._writer is not None:
            stack.enter_context(self._writer)

    def write(self, sample: EventSample) -> None:
        """Append events."""
        if self._writer is None:
            made = self._made(sample)
            self._open.enter_context(made)
            self._writer = made
        if isinstance(self._writer, JetWriter):
            self._write_jets(self._writer, sample)
        elif isinstance(self._writer, EventWriter):
            sample = _with_types(sample)
            self._writer.write(
                sample.objects,
                sample.event,
                event_number=sample.event_number,
                target=sample.target,
            )
        elif isinstance(self._writer, TreeWriter):
            self._writer.write(sample)

    def _made(self, sample: EventSample) -> JetWriter | EventWriter:
        """Return the writer of what the first events have."""
        if not self._jets:
            return EventWriter(self._out, _with_types(sample).schema, **self._options)
        return JetWriter(
            self._out,
            objects=self._slots(),
            jet_units=RELATIVE_JET_UNITS if self._relative else JET_UNITS,
            with_types=sample.particle_type is not None,
            with_events=sample.event_number is not None,
            with_weights=sample.objects.weight is not None,
            context=self._context,
            **self._options,
        )

    def _write_jets(self, writer: JetWriter, sample: EventSample) -> None:
        columns = [sample.features.index(name) for name in PARTICLE_NAMES]
        x, mask = sample.objects.x[..., columns], sample.objects.mask
        held = sample.event_features
        if self._full:
            jets = sample.event[:, [held.index(name) for name in JET_NAMES[:-1]]]
            jets = torch.cat([jets, mask.sum(1, keepdim=True).to(jets.dtype)], -1)
        else:
            jets = jet_features(x, mask)
        context = [held.index(entry.name) for entry in self._context]
        writer.write(
            SetBatch(x, mask, weight=sample.objects.weight),
            jets,
            sample.particle_type,
            sample.event_number,
            context=sample.event[:, context] if context else None,
        )

    def notes(self) -> tuple[str, ...]:
        """Return what is to be known of the file."""
        found = []
        if isinstance(self._writer, JetWriter) and not self._full:
            found.append(
                "the files tell no pt, eta and mass of the jets: those written are of the sum of "
                f"the particles, in units of {RELATIVE}"
            )
        writer = self._writer
        counts = writer.unphysical if isinstance(writer, (JetWriter, EventWriter)) else {}
        if counts:
            found.append(f"kept as they are: {counted(counts, self._schema.objects)}")
        return tuple(found)


def without_counts(schema: Schema) -> Schema:
    """Return a schema without the number of objects of an event, which the mask tells."""
    event = [entry for entry in schema.event if entry.name != NUM]
    return Schema(schema.objects, event, schema.order_by)


def compared(sample: EventSample, *, keep_unphysical: bool) -> EventSample:
    """Return events without the number of objects that they are said to have.

    Raises:
        ValueError: if it is not that of the mask, unless what cannot be is kept.
    """
    held = sample.event_features
    if NUM not in held:
        return sample
    defects: dict[int, str] = {}
    at = held.index(NUM)
    if not keep_unphysical:
        check_counts(sample.event[:, at].numpy(), sample.objects.mask.numpy(), defects, OF_JETS)
    if defects:
        refuse(defects, "this block", 0)
    others = [k for k in range(len(held)) if k != at]
    return replace(sample, event=sample.event[:, others], schema=without_counts(sample.schema))


def _with_types(sample: EventSample) -> EventSample:
    """Return events whose objects have the type of their particle as a feature."""
    if sample.particle_type is None:
        return sample
    kinds = (sample.particle_type - 1).clamp(min=0).to(sample.objects.x.dtype)
    x = torch.cat([sample.objects.x, kinds[..., None]], -1)
    schema = sample.schema
    return replace(
        sample,
        objects=SetBatch(x, sample.objects.mask, weight=sample.objects.weight),
        schema=Schema([*schema.objects, TYPE], schema.event, schema.order_by),
        particle_type=None,
    )
