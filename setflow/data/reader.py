"""A file of events that is kept open, and read by the numbers of its rows, checked.

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from setflow.data.determined import fill_determined, needed_objects
from setflow.data.header import OpenEvents
from setflow.data.inspection import named_errors
from setflow.data.layouts import Layout, layout_of
from setflow.data.rows import (
    blocks_of,
    check_rows,
    chunk_of,
    cut_rows,
    empty_rows,
    room_for,
    row_bytes,
    rows_of,
    tell_units,
)
from setflow.data.sample import EventSample
from setflow.data.valid import Defects, refuse
from setflow.schema import Category, Feature, Schema, kind_names, names
from setflow.sets.batch import SetBatch
from setflow.sets.shapes import whole_number
from setflow.shipped import JETS as SHIPPED
from setflow.shipped import find

__all__ = ["EventReader", "ScreenedEvents"]


class ScreenedEvents(NamedTuple):
    """Events of which some could not be read.

    Arguments:
        sample: all rows that were asked for; a malformed one has no object and holds zeros.
        reasons: why a row is malformed, by its position in the sample.
    """

    sample: EventSample
    reasons: dict[int, str]


class EventReader:
    """A file of events that is kept open; what is asked of it is looked up once.

    It may be handed to another process, which opens the file for itself.

    Arguments:
        path: the HDF5 file.
        schema: as `read_events` takes it, and so all others but `with_types`.
        with_types: read `particle_type`, too, if the file has it.

    Attributes:
        path: where the file is.
        n: the number of its rows.
        chunk: how many rows are stored together.
        row_bytes: about how many bytes a row takes in the file, before it is packed.
        slots: the number of slots of the events that are read.
        schema: what the columns of the events are that are read.

    Warns:
        UserWarning: if a unit was converted.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if the file is not HDF5, or broken.
        ValueError: if it does not have a layout, a name or a known unit.

    >>> with EventReader("pythia-top/heldout.h5", features=["ptrel"], max_objects=30) as reader:
    ...     reader.read(5, 8).objects.x.shape, reader.read(8, 10).objects.x.shape
    (torch.Size([3, 30, 1]), torch.Size([2, 30, 1]))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        schema: Schema | None = None,
        *,
        max_objects: int | None = None,
        features: Sequence[str] | None = None,
        conditions: Sequence[str] = (),
        keep_unphysical: bool = False,
        weight: str | None = None,
        with_types: bool = False,
        counts: bool = True,
    ) -> None:
        self.path = find(SHIPPED, path)
        self._most = None if max_objects is None else whole_number(max_objects, "max_objects", 1)
        self._weight, self._types, self._counts = weight, with_types, counts
        self._keep_unphysical = keep_unphysical
        self._open = OpenEvents(self.path)
        self._layout: Layout | None = None
        try:
            with named_errors(self.path):
                self._look_up(schema, features, conditions)
        except BaseException:
            self.close()
            raise

    def _look_up(
        self,
        schema: Schema | None,
        features: Sequence[str] | None,
        conditions: Sequence[str],
    ) -> None:
        for what, names_of in (("features", features), ("conditions", conditions)):
            if isinstance(names_of, str):  # no list of letters
                raise ValueError(
                    f"{what} are {names_of!r}, expected a sequence of names, such as [{names_of!r}]"
                )
        layout = self._layout_here()
        self.n, self.chunk, self.row_bytes = layout.n, chunk_of(layout), row_bytes(layout)
        self.slots = min(layout.objects, self._most or layout.objects)
        known = layout.schema if schema is None else schema
        listed = _by_default(known) if features is None else tuple(features)
        described: dict[str, Feature | str] = {entry.name: entry for entry in known.objects}
        asked = [described.get(name, name) for name in listed]
        self._order_by = known.order_by
        self._of_event = layout.event_columns(known, conditions)
        behind = [] if self._most is None else [self._order_by]  # to cut by
        for name in dict.fromkeys([*behind, *needed_objects(self._of_event)]):
            if name not in (None, *listed):
                asked.append(described.get(str(name)) or layout.schema.object(str(name)))
        self._columns = layout.object_columns(asked)
        self._features = len(listed)
        tell_units(self._columns, self._of_event)
        if self._weight is not None:
            layout.check_weight(self._weight)
        order_by = self._order_by if self._order_by in listed else None
        objects = self._columns.features[: self._features]
        _check_absences(objects, layout.schema.categories, self.path)
        self.schema = Schema(objects, self._of_event.features, order_by)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_layout": None}

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        self._layout = None
        self._open.close()

    def _layout_here(self) -> Layout:
        file = self._open.file
        if self._layout is None or self._layout.file is not file:
            self._layout = layout_of(file, self.path)
        return self._layout

    def warn_unused(self) -> None:
        """Warn of weights that the file holds and nobody asked for."""
        layout = self._layout_here()
        unused = [name for name in layout.weights() if name != self._weight]
        if unused:  # one place, so that Python tells it once for a file
            names = ", ".join(unused)
            instead = "to use some, name them" if self._weight is None else f"'{self._weight}' are"
            whose = f"{layout.words.event_word}s"
            text = (
                f"{self.path} holds weights of its {whose} that are not used ({names}); {instead}"
            )
            warnings.warn(text, stacklevel=1)

    def blocks(self, start: int = 0, stop: int | None = None) -> list[slice]:
        """Return rows in pieces of some megabytes that end with a chunk; one, if there are none."""
        stop = self.n if stop is None else stop
        return list(blocks_of(self._layout_here(), start, stop)) or [slice(start, start)]

    def read(self, start: int = 0, stop: int | None = None) -> EventSample:
        """Return rows that must all be right.

        Raises:
            OSError: if they cannot be read.
            ValueError: if one is malformed, or there are no such rows.
        """
        return self._read(start, stop, refuse)

    def screen(self, start: int = 0, stop: int | None = None) -> ScreenedEvents:
        """Return rows, a malformed one as an event without objects, with the reason.

        Raises:
            OSError: if they cannot be read.
            ValueError: if there are no such rows.
        """
        reasons: dict[int, str] = {}

        def keep(defects: Defects, path: Path, first: int) -> None:
            reasons.update({first - start + row: defects[row] for row in sorted(defects)})

        return ScreenedEvents(self._read(start, stop, keep), reasons)

    def _read(
        self, start: int, stop: int | None, malformed: Callable[[Defects, Path, int], None]
    ) -> EventSample:
        """Read rows; `malformed` gets the defects, path and first row of a block that has some."""
        with named_errors(self.path):
            return self._blocks_read(start, stop, malformed)

    def _blocks_read(
        self, start: int, stop: int | None, malformed: Callable[[Defects, Path, int], None]
    ) -> EventSample:
        layout = self._layout_here()
        start, stop = (
            whole_number(layout.n if row is None else row, name)
            for name, row in (("start", start), ("stop", stop))
        )
        if not 0 <= start <= stop <= layout.n:
            raise ValueError(
                f"{self.path} holds {layout.n} events, rows {start} to {stop} were asked for; "
                f"expected 0 <= start <= stop <= {layout.n}"
            )
        columns, of_event = self._columns, self._of_event
        slots = self.slots
        shape = (stop - start, slots, self._features)
        result = room_for(layout, shape, len(of_event.features), self._weight, types=self._types)
        for there in blocks_of(layout, start, stop):
            block = rows_of(layout, there, columns, of_event, result)
            defects = check_rows(
                block, columns, of_event, layout, self._weight,
                physical=not self._keep_unphysical, counts=self._counts,
            )  # fmt: skip
            if defects:
                malformed(defects, self.path, there.start)
                empty_rows(block, list(defects))
            if self._most is not None:
                cut_rows(block, columns, self._order_by, slots)
            fill_determined(block, columns, of_event)
            here = slice(there.start - start, there.stop - start)
            result.x[here] = block.x[..., : self._features]
            result.real[here], result.event[here] = block.real, block.event
            for key, values in block.others.items():
                result.others[key][here] = values
        weight = None if self._weight is None else result.others.pop(self._weight)
        others: dict[str, Any] = {
            key: torch.from_numpy(part) for key, part in result.others.items()
        }
        return EventSample(
            SetBatch(torch.from_numpy(result.x), torch.from_numpy(result.real), weight=weight),
            torch.from_numpy(result.event),
            self.schema,
            **others,
        )


def _by_default(schema: Schema) -> tuple[str, ...]:
    """Return what a model makes of objects, and the categories if some types lack something."""
    lacks = any(schema.object(name).absent for name in schema.generated)
    told = names(schema.categories) if lacks else ()
    return tuple(name for name in names(schema.objects) if name in (*schema.generated, *told))


def _check_absences(features: Sequence[Feature], categories: Sequence[Feature], path: Path) -> None:
    """Refuse features that some types lack where nothing among them tells which objects those are.

    Raises:
        ValueError: if there are such.
    """
    told = {name for one in features if isinstance(one.kind, Category) for name in kind_names(one)}
    for feature in features:
        untold = set(feature.absent) - told
        if untold:
            telling = [one.name for one in categories if untold & set(kind_names(one))]
            raise ValueError(
                f"{path}: '{feature.name}' is absent in {', '.join(sorted(untold))}, and its 0 "
                f"there would pass for a value; read {' and '.join(map(repr, telling))} too, which "
                f"tells the types, or leave '{feature.name}' out"
            )
