"""Events of a file as they stand there, block by block, before anything is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from setflow.data.contexts import context_features, read_context
from setflow.data.formats.convert import EventFile, InputFile, opened
from setflow.data.formats.named import Given
from setflow.data.formats.output import without_counts
from setflow.data.header import open_events
from setflow.data.inspection import of_hdf5
from setflow.data.jets import EVENTS, NUM
from setflow.data.layouts import Layout, layout_of
from setflow.data.rows import blocks_of, unreadable
from setflow.data.tally import Rows
from setflow.data.valid import Words
from setflow.schema import Feature, Schema, names, words_of

__all__ = ["Unchecked", "unchecked"]


@dataclass(frozen=True)
class Unchecked:
    """An open file; its rows come by iterating over it.

    Arguments:
        path: where it is.
        schema: what its events are; without the number of objects, which `Rows.counts` has.
        words: what its parts are called in what is said of it.
        layout: what it is written in, in words.
        notes: what is converted in reading.
        attributes: what the file says of itself, as texts; nothing for files of other formats.
    """

    path: Path
    schema: Schema
    words: Words
    layout: str
    notes: tuple[str, ...]
    attributes: dict[str, str]
    _rows: Any

    def __iter__(self) -> Iterator[Rows]:
        return iter(self._rows)


@contextmanager
def unchecked(entry: InputFile, given: Given) -> Iterator[Unchecked]:
    """Open a file of any format without judging its rows.

    Arguments:
        entry: the file.
        given: what is told of it; without a format it must be such as setflow reads itself.

    Raises:
        ImportError: if a package that reads the format is not installed.
        OSError: if the file cannot be read.
        ValueError: if it is of another format.
    """
    with opened([entry], given) as (file,):
        if not file.native:
            schema = without_counts(file.schema)
            called, said = words_of(names(schema.objects)), f"the format {given.format}"
            words = Words(called.object, f"the {called.events}", called.event)
            yield Unchecked(entry.path, schema, words, said, (), {}, _Mapped(file))
            return
        with open_events(entry.path) as opened_file:
            rows = _Native(layout_of(opened_file, entry.path))
            said = "the layout of JetNet" if rows.layout.version == 1 else "the layout of setflow"
            told = {name: _text(value) for name, value in opened_file.attrs.items()}
            words = rows.layout.words
            yield Unchecked(entry.path, rows.schema, words, said, rows.notes, told, rows)


def _text(value: Any) -> str:
    return str(value.decode(errors="replace") if isinstance(value, bytes) else value)


class _Mapped:
    """The events of a file of another format."""

    def __init__(self, file: EventFile) -> None:
        self._file = file

    def __iter__(self) -> Iterator[Rows]:
        held = [name != NUM for name in names(self._file.schema.event)]
        for sample in self._file.blocks():
            number, weight = sample.event_number, sample.objects.weight
            event = sample.event.numpy()
            yield Rows(
                sample.objects.x.numpy(),
                sample.objects.mask.numpy(),
                event[:, held],
                None if all(held) else event[:, held.index(False)],
                None if number is None else number.numpy(),
                {} if weight is None else {"weight": weight.numpy()},
            )


class _Native:
    """The events of a file that setflow reads as it is."""

    def __init__(self, layout: Layout) -> None:
        self.layout, known = layout, layout.schema
        self._objects = layout.object_columns(known.objects)
        self._event = layout.event_columns(known)
        self._counted = -1
        if NUM in self._event.names:
            self._counted = self._event.places[self._event.names.index(NUM)]
        self._taken = [k for k, name in enumerate(self._event.names) if name != NUM]
        event = [self._event.features[k] for k in self._taken]
        self._context: list[Feature] = [
            entry for entry in context_features(layout.path) if entry.name not in self._event.names
        ]
        self.schema = Schema(self._objects.features, [*event, *self._context], known.order_by)
        self.notes = tuple(filter(None, (self._objects.converted, self._event.converted)))

    def __iter__(self) -> Iterator[Rows]:
        for there in blocks_of(self.layout, 0, self.layout.n):
            yield self._block(there)

    def _block(self, there: slice) -> Rows:
        layout, file, key = self.layout, self.layout.file, self.layout.words.event
        try:
            x, real = layout.rows(there, self._objects)
            told = file[key][there] if key in file else np.zeros((len(x), 0), np.float32)
            number = file[EVENTS][there] if EVENTS in layout.keys else None
            weights = {name: file[name][there] for name in layout.weights()}
        except Exception as error:
            if not of_hdf5(error):
                raise
            raise unreadable(layout, there, error) from error
        event = np.zeros((len(x), 0), np.float32)
        if self._taken:
            event = self._event.of(told)[:, self._taken]
        if self._context:
            more = read_context(layout.path, self._context, start=there.start, stop=there.stop)
            event = np.concatenate([event, more], 1)
        counts = told[:, self._counted] if self._counted >= 0 else None
        return Rows(x, real, event, counts, number, weights)
