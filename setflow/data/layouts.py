"""How events lie in a file: two layouts, which tell the reader the same.

jets      JetNet's, version 1: `particle_features` (n, N, 4) with the mask as a column, and perhaps
          `jet_features` (n, 4), `particle_type` (n, N), `event_number` and `weight` (n,)
events    version 2, of any schema: `objects` (n, N, D) and `mask` (n, N), or `values` (sum N, D)
          and `offsets` (n + 1,); and perhaps `context` (n, C), `weight`, `event_number` and
          `target` (n,)

A layout knows which datasets a file has, what their columns are, and how rows are read. Which
columns are asked for, in which units, and what a valid row is, is for the reader to say.
"""

from __future__ import annotations

import difflib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from setflow.data.columns import Columns, names_of, require_kind, select_columns, texts_of
from setflow.data.formats.recognise import advice, of_datasets, told_of
from setflow.data.inspection import of_hdf5, require_whole
from setflow.data.jets import DTYPES, EVENTS, JETS, NUM, PARTICLE_NAMES, PARTICLES, TYPES, WEIGHTS
from setflow.data.valid import OF_EVENTS, OF_JETS, Words
from setflow.files import shortened
from setflow.schema import (
    DATASETS,
    JET_FEATURES,
    JETNET,
    KEPT_FEATURES,
    PARTICLE_FEATURES,
    TYPE,
    Category,
    Feature,
    Schema,
    names,
)

__all__ = ["EventLayout", "JetLayout", "Layout", "layout_of"]

OBJECTS, MASK, VALUES, OFFSETS = "objects", "mask", "values", "offsets"
CONTEXT, TARGET = "context", "target"
FORMAT, VERSION = "setflow", 2
FLAG = PARTICLE_FEATURES[-1].name
KINDS = {OBJECTS: "fiu", VALUES: "fiu", MASK: "bfiu", OFFSETS: "iu", CONTEXT: "fiu"}
KINDS |= {TARGET: "iub", EVENTS: "iu", WEIGHTS: "fiu"}


class Layout(ABC):
    """What a file holds and where, checked but for its rows.

    Attributes:
        own: the names of its datasets.
        n: the number of events.
        objects: the number of slots `N`, or of the objects of the longest event.
        keys: the datasets of the layout that the file holds.
        columns: the names of the columns of an object in the order of the file.
        schema: what objects and events are, with the units in which they are read.
        known: what the layout or the file itself says of features.
        table: the key of the dataset that holds the features of objects.
        usual: the columns of objects and of events where the datasets do not name their own.
    """

    version: ClassVar[int]
    words: ClassVar[Words]
    own: ClassVar[tuple[str, ...]]
    n: int
    objects: int
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    schema: Schema
    known: Schema
    table: str
    usual: tuple[Sequence[Feature], Sequence[Feature]]

    def __init__(self, file: Any, path: Path) -> None:
        self.file, self.path = file, path

    @abstractmethod
    def rows(self, there: slice, columns: Columns) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return columns of objects as `(b, N, D)`, and the flags of the mask as `(b, N)`."""

    def weights(self) -> list[str]:
        """Return the datasets that hold weights by their names, one for each event."""
        return [name for name in self._per_event() if WEIGHTS in name.lower()]

    def check_weight(self, name: str) -> None:
        """Check that a file holds a dataset of weights, one number for each event.

        Raises:
            ValueError: if there is no such dataset, or it is of another shape or dtype, or counts
                something else.
        """
        there = self._per_event()
        if name in (EVENTS, TARGET) and name in self.file:
            meaning = "the collision that an event comes from" if name == EVENTS else "its class"
            raise ValueError(
                f"{self.path}: {name} tells {meaning} and is no weight; name a dataset of weights"
                + (f", such as {self.weights()[0]}" if self.weights() else ", or leave them out")
            )
        if name in there:
            return require_whole(self.file, [name], self.path)
        got = self.file.get(name)
        if isinstance(got, h5py.Dataset):
            raise ValueError(
                f"{self.path}: {name} has shape {got.shape} and dtype {got.dtype}, expected "
                f"({self.n},) and numbers: one weight for each {self.words.event_word}"
            )
        raise ValueError(
            f"{self.path} has no dataset '{name}' of weights; with one number for each "
            f"{self.words.event_word} it holds {', '.join(there) or 'none'}; "
            + ("name one of these, or leave the weights out" if there else "leave the weights out")
        )

    def _per_event(self) -> list[str]:
        """Return the datasets with one number for each event, whose meaning is not known."""
        held, known = {name: self.file[name] for name in self.file}, (OFFSETS, EVENTS, TARGET)
        held = {name: one for name, one in held.items() if isinstance(one, h5py.Dataset)}
        return [
            name
            for name, one in held.items()
            if one.shape == (self.n,) and one.dtype.kind in "fiu" and name not in known
        ]

    def object_columns(self, wanted: Sequence[Feature | str]) -> Columns:
        """Return where features of objects stand.

        Raises:
            ValueError: if one is not there, its unit cannot be converted, or it is a category in
                the file or as it is asked for, and not the same one in both.
        """
        where, held = f"{self.path}: {self.table}", {f.name: f.kind for f in self.usual[0]}
        for entry in wanted:
            if isinstance(entry, Feature):
                there = held.get(entry.name, entry.of_kind)
                if there != entry.kind and Category in (type(there), type(entry.kind)):
                    raise ValueError(
                        f"{where}: {entry.name} is of kind {there} in the file, expected "
                        f"{entry.kind}; let the schema say what the file says"
                    )
        return select_columns(self.file[self.table], self.usual[0], wanted, where)

    def event_columns(self, schema: Schema, conditions: Sequence[str] = ()) -> Columns:
        """Return where features of events stand: all that are known and there, and conditions.

        Known are those of the schema, and behind them those that the layout knows, so that they are
        checked whatever is asked for. What the objects determine may be asked for where the file
        does not hold it (`setflow.data.determined`); its place is -1.

        Raises:
            ValueError: if a condition is not there, a unit cannot be converted, or a feature is a
                category in the file alone or as it is asked for alone.
        """
        key, listed = self.words.event, names(schema.event)
        behind = [feature for feature in self.known.event if feature.name not in listed]
        known = {feature.name: feature for feature in (*schema.event, *behind)}
        where, held = f"{self.path}: {key}", tuple[str, ...]()
        if key in self.file:
            held = names_of(self.file[key], self.usual[1], where)
        kept = KEPT_FEATURES if {*PARTICLE_NAMES} <= {*self.columns} else ()
        made = {entry.name: entry for entry in (Feature(NUM), *kept) if entry.name not in held}
        lacking = [name for name in conditions if name not in made]
        if lacking and key not in self.file:
            raise ValueError(
                f"{self.path} has no dataset '{key}' that could hold {', '.join(lacking)}, on "
                "which the model is conditioned; give a file that has it"
            )
        wanted = [name for name in known if name in held or name == NUM]
        wanted += [name for name in conditions if name not in wanted]
        asked = [known.get(name, name) for name in wanted if name not in made]
        found = Columns((), (), ())
        if asked:
            found = select_columns(self.file[key], self.usual[1], asked, where)
        for entry in found.features:
            require_kind(self.told_of_event(entry), entry, where)
        computed = [known.get(name, made[name]) for name in wanted if name in made]
        features = (*found.features, *computed)
        places = (*found.places, *(-1 for _ in computed))
        factors = (*found.factors, *(1.0 for _ in computed))
        at = {entry.name: k for k, entry in enumerate(features)}
        order = [at[name] for name in wanted]
        return Columns(
            tuple(features[k] for k in order),
            tuple(places[k] for k in order),
            tuple(factors[k] for k in order),
            found.converted,
        )

    def told_of_event(self, feature: Feature) -> Feature:
        """Return what the file itself says of a feature of events; the feature where it says none.

        Of a category it may have other names, or the same ones in another order.
        """
        return next((told for told in self.usual[1] if told.name == feature.name), feature)

    def _file_schema(self) -> Schema:
        """Return what the file holds: what is known of it, and named columns beside."""
        known = self.known
        others = [name for name in self.columns if name not in (*names(known.objects), FLAG)]
        held = [feature for feature in known.objects if feature.name in self.columns]
        objects = self.object_columns([*held, *others]).features
        key, more = self.words.event, tuple[str, ...]()
        if key in self.file:
            more = names_of(self.file[key], self.usual[1], f"{self.path}: {key}")
        event = self.event_columns(known, more).features
        order_by = known.order_by if known.order_by in self.columns else None
        return Schema(objects, event, order_by)

    def _require(self, keys: Sequence[str], held: Sequence[str]) -> None:
        """Refuse a file that lacks datasets, or has something else under their names."""
        for key in keys:
            if key in held:
                continue
            other = advice(self.path, "custom")
            others = [name for name in held if name not in self.own]
            near = difflib.get_close_matches(key, others, n=1, cutoff=0.5)
            raise ValueError(
                f"{self.path} has no dataset '{key}'; it holds {list(held) or 'nothing'}"
                + (f"; did whoever wrote it mean it by '{near[0]}'? Rename it" if near else "")
                + (f"; other layouts need a mapping: {other}" if held and not near else "")
            )

    def _require_datasets(self) -> None:
        """Refuse what is no array of numbers under the names of the layout."""
        for key in self.keys:
            held = self.file[key]
            if not isinstance(held, h5py.Dataset):
                kind = "a group" if isinstance(held, h5py.Group) else "a type of data"
                raise ValueError(f"{self.path}: '{key}' is {kind}, expected a dataset")
            if held.shape is None:
                raise ValueError(f"{self.path}: '{key}' is a dataset without values")
            names = h5py.check_enum_dtype(held.dtype)
            if names is not None:
                raise ValueError(
                    f"{self.path}: {key} has the names {shortened(', '.join(names))} for numbers, "
                    "expected plain numbers"
                )
        require_whole(self.file, self.keys, self.path)


class JetLayout(Layout):
    """JetNet's layout; `setflow.schema.DATASETS` is its table."""

    version, words, table = 1, OF_JETS, PARTICLES
    own = tuple(spec.key for spec in DATASETS)
    usual, known = (PARTICLE_FEATURES, JET_FEATURES), JETNET

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, path)
        held = list(file)
        self._require([spec.key for spec in DATASETS if spec.required], held)
        for spec in DATASETS:  # what need not be there is missed only if it is there misspelt
            if spec.key != WEIGHTS and difflib.get_close_matches(spec.key, held, n=1, cutoff=0.9):
                self._require([spec.key], held)
        self.keys = tuple(spec.key for spec in DATASETS if spec.key in held)
        self._require_datasets()
        self.n, self.objects = map(int, self._checked_shapes()[:2])
        self.columns = names_of(file[PARTICLES], PARTICLE_FEATURES, f"{path}: {PARTICLES}")
        if FLAG not in self.columns:
            raise ValueError(
                f"{path}: {PARTICLES} names {', '.join(self.columns)} and no '{FLAG}', which says "
                "what is real; add it, 1 for a particle and 0 for padding"
            )
        self.schema = self._file_schema()

    def rows(self, there: slice, columns: Columns) -> tuple[NDArray[Any], NDArray[Any]]:
        particles = self.file[PARTICLES][there]
        flags = particles[..., self.columns.index(FLAG)]
        if max(columns.places, default=0) >= particles.shape[-1]:  # the types, behind all others
            kinds = self.file[TYPES][there].astype(particles.dtype) - 1
            particles = np.concatenate([particles, kinds[..., None]], -1)
        return columns.of(particles), flags

    def object_columns(self, wanted: Sequence[Feature | str]) -> Columns:
        """Return where features of particles stand; `type` is what `particle_type` holds.

        Raises:
            ValueError: as `Layout.object_columns`.
        """
        asked = [entry if isinstance(entry, str) else entry.name for entry in wanted]
        if TYPE.name not in asked or TYPE.name in self.columns:
            return super().object_columns(wanted)
        if TYPES not in self.keys:
            raise ValueError(
                f"{self.path} has no dataset '{TYPES}', which holds the types of particles that "
                "are asked for; give a file that has it"
            )
        at = asked.index(TYPE.name)
        entry = wanted[at]
        if isinstance(entry, Feature) and entry.kind != TYPE.kind:
            raise ValueError(
                f"{self.path}: {TYPES} holds {TYPE.kind}, expected {entry.kind}; let the schema "
                "say what the file says"
            )
        found = super().object_columns([*wanted[:at], *wanted[at + 1 :]])
        kind = TYPE if isinstance(entry, str) else entry
        return Columns(
            (*found.features[:at], kind, *found.features[at:]),
            (*found.places[:at], self.file[PARTICLES].shape[-1], *found.places[at:]),
            (*found.factors[:at], 1.0, *found.factors[at:]),
            found.converted,
        )

    def _checked_shapes(self) -> tuple[int, ...]:
        """Return the shape of the particles, when all shapes and dtypes are checked."""
        file, path, keys = self.file, self.path, self.keys
        shape: tuple[int, ...] = file[PARTICLES].shape
        named, least = "features" in file[PARTICLES].attrs, len(PARTICLE_FEATURES)
        if len(shape) != 3 or (shape[2] < least and not named):
            raise ValueError(
                f"{path}: {PARTICLES} has shape {shape}, expected (n, N, {least}) "
                f"with the features {', '.join(names(PARTICLE_FEATURES))}, or the attribute "
                "features that names others"
                + (f"; to convert it: {advice(path, 'jetnet')}" if _is_variant(file) else "")
            )
        n, objects = shape[:2]
        expected: dict[str, tuple[int, ...]] = {TYPES: (n, objects), EVENTS: (n,), WEIGHTS: (n,)}
        expected[JETS] = (n, len(JET_FEATURES))
        for key in keys[1:]:
            got = file[key].shape
            if key == JETS and "features" in file[key].attrs and len(got) == 2:
                expected[JETS] = (n, got[1])
            if got == expected[key]:
                continue
            rows = f": {got[0]} rows beside {n} of {PARTICLES}" if got and got[0] != n else ""
            what = f" with the features {', '.join(names(JET_FEATURES))}" if key == JETS else ""
            what += ", or the attribute features that names others" if what and not rows else ""
            raise ValueError(f"{path}: {key} has shape {got}, expected {expected[key]}{what}{rows}")
        for key in keys:
            kinds = "f" if key == PARTICLES else "fiu" if key in (JETS, WEIGHTS) else "iu"
            if file[key].dtype.kind not in kinds:
                raise ValueError(
                    f"{path}: {key} has dtype {file[key].dtype}, expected {DTYPES[key]} or alike"
                )
        return shape


class EventLayout(Layout):
    """The layout of events of any schema, padded or one event behind the other."""

    version, words, own = VERSION, OF_EVENTS, tuple(KINDS)

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, path)
        held = list(file)
        if OBJECTS in held and VALUES in held:
            raise ValueError(
                f"{path} has '{OBJECTS}' and '{VALUES}', expected one of them: objects in slots, "
                "or those of one event behind those of the other"
            )
        self._ragged = VALUES in held
        needed = (VALUES, OFFSETS) if self._ragged else (OBJECTS, MASK)
        self.table = needed[0]
        self._require(needed, held)
        optional = (CONTEXT, WEIGHTS, TARGET, EVENTS)
        for key in (CONTEXT, TARGET, EVENTS):
            if difflib.get_close_matches(key, [k for k in held if k not in KINDS], 1, cutoff=0.9):
                self._require([key], held)
        self.keys = (*needed, *(key for key in optional if key in held))
        self._require_datasets()
        self._check_shapes()
        told = _told_schema(file, path)
        self.usual = ((), ()) if told is None else (told.objects, told.event)
        for key, usual in zip((self.table, CONTEXT), self.usual, strict=True):
            if key in file:
                self._check_names(key, usual)
        self.columns = names_of(file[self.table], self.usual[0], f"{path}: {self.table}")
        if told is None:  # one column, in the unit of the file, stands for all that it names
            units = texts_of(file[self.table], "units", f"{path}: {self.table}") or ("",)
            told = Schema([Feature(self.columns[0], units[0])])
        self.known = told
        self.schema = self._file_schema()

    def rows(self, there: slice, columns: Columns) -> tuple[NDArray[Any], NDArray[Any]]:
        if not self._ragged:
            return columns.of(self.file[OBJECTS][there]), self.file[MASK][there]
        ends = self._offsets[there.start : there.stop + 1]
        lengths = np.diff(ends)
        real = np.arange(self.objects) < lengths[:, None]
        values = columns.of(self.file[VALUES][int(ends[0]) : int(ends[-1])])
        x = np.zeros((*real.shape, values.shape[-1]), values.dtype)
        x[real] = values
        return x, real

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        """Where the objects of each event begin, and of the last one end."""
        try:
            offsets = self.file[OFFSETS][:]
        except Exception as error:
            if not of_hdf5(error):
                raise
            raise OSError(
                f"{self.path}: {OFFSETS} cannot be read, the file is damaged ({error}); fetch or "
                "make it again"
            ) from error
        total = int(self.file[VALUES].shape[0])
        expected = f"expected to rise from 0 to {total}, the number of rows of {VALUES}"
        if int(offsets[0]) != 0 or int(offsets[-1]) != total:
            ends = f"{offsets[0]} to {offsets[-1]}"
            raise ValueError(f"{self.path}: {OFFSETS} runs from {ends}, {expected}")
        offsets = offsets.astype(np.int64)
        if (falls := np.flatnonzero(np.diff(offsets) < 0)).size:
            ends = f"{offsets[falls[0]]} to {offsets[falls[0] + 1]} at event {falls[0]}"
            raise ValueError(f"{self.path}: {OFFSETS} falls from {ends}, {expected}")
        checked: NDArray[np.int64] = offsets
        return checked

    def _check_shapes(self) -> None:
        file, path = self.file, self.path
        for key in self.keys:
            if file[key].dtype.kind not in KINDS[key]:
                words = {"f": "numbers", "b": "booleans", "i": "whole numbers"}
                raise ValueError(
                    f"{path}: {key} has dtype {file[key].dtype}, expected {words[KINDS[key][0]]}"
                )
        shape = file[self.table].shape
        if len(shape) != (2 if self._ragged else 3):
            expected = "(sum N, D)" if self._ragged else "(n, N, D)"
            raise ValueError(f"{path}: {self.table} has shape {shape}, expected {expected}")
        if self._ragged:
            got = file[OFFSETS].shape
            if len(got) != 1 or got[0] < 1:
                raise ValueError(f"{path}: {OFFSETS} has shape {got}, expected (n + 1,)")
            self.n = int(got[0]) - 1
            self.objects = int(np.diff(self._offsets).max(initial=0))
        else:
            self.n, self.objects = map(int, shape[:2])
        rows: dict[str, tuple[int, ...]] = {MASK: (self.n, self.objects)}
        rows |= dict.fromkeys((TARGET, EVENTS, WEIGHTS), (self.n,))
        for key in self.keys:
            got = file[key].shape
            if key == CONTEXT and (len(got) != 2 or got[0] != self.n):
                raise ValueError(f"{path}: {key} has shape {got}, expected ({self.n}, C)")
            if key in rows and got != rows[key]:
                raise ValueError(f"{path}: {key} has shape {got}, expected {rows[key]}")

    def _check_names(self, key: str, usual: Sequence[Feature]) -> None:
        """Refuse columns without names, and a schema that names what is not there."""
        where, width = f"{self.path}: {key}", self.file[key].shape[-1]
        if texts_of(self.file[key], "features", where) is None and len(usual) != width:
            raise ValueError(
                f"{where} has {width} columns, and neither its attribute features nor the schema "
                "of the file names them; add the attribute, one name for each"
            )
        held = names_of(self.file[key], usual, where)
        if lacking := [name for name in names(usual) if name not in held and name != NUM]:
            raise ValueError(
                f"{where} holds {', '.join(held)}, and the schema of the file says that it holds "
                f"'{lacking[0]}'; correct the attribute schema, or features"
            )


def _told_schema(file: Any, path: Path) -> Schema | None:
    """Return the schema that a file tells by its attribute, or None if it tells none."""
    text = file.attrs.get("schema")
    if text is None:
        return None
    try:
        node = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its attribute schema is no JSON ({error})") from None
    return Schema.from_node(node, f"{path}: schema")


def _whole(told: Any, name: str, path: Path) -> int:
    """Return a whole number that a file tells by an attribute; -1 if it tells none."""
    value = told.get(name, -1)
    if np.ndim(value) or np.asarray(value).dtype.kind not in "biu":
        raise ValueError(
            f"{path}: its attribute {name} is {shortened(value)}, expected a whole number"
        )
    return int(value)


def _is_variant(file: Any) -> bool:
    """Return whether jets have no column for the mask, but rows of any length or a dataset."""
    particles = file[PARTICLES]
    vlen = particles.ndim == 1 and particles.dtype.kind == "O"
    return vlen or (particles.ndim == 3 and particles.shape[2] == 3 and MASK in file)


def _is_ours(told: Any) -> bool:
    """Return whether it was setflow that wrote the version of its layout into a file."""
    marks = {"format": FORMAT, "layout": "jets"}
    return "layout_version" in told and any(
        isinstance(told.get(key), (str, bytes)) and told[key] in (mark, mark.encode())
        for key, mark in marks.items()
    )


def layout_of(file: Any, path: Path) -> Layout:
    """Return the layout of an open file, checked but for its rows.

    Raises:
        ValueError: if it has none, is not complete, of a later version, or a file of scores.
    """
    told = file.attrs
    if {"log_prob", "reason"} <= {*file}:
        rows = told.get("rows", "jets")
        of = f"of the {rows} of {told['data']}" if "data" in told else f"of {rows}"
        raise ValueError(
            f"{path} holds scores {of}, as setflow score writes them, and no {rows}; give the "
            f"file of the {rows}"
        )
    ours = _is_ours(told)
    if not ours and (found := of_datasets(file)) is not None and PARTICLES not in file:
        raise ValueError(told_of(path, *found))
    if ours and (version := _whole(told, "layout_version", path)) > VERSION:
        raise ValueError(
            f"{path} has layout version {version}, this release reads up to {VERSION}; upgrade "
            "setflow"
        )
    of_events = (ours and "format" in told) or OBJECTS in file or VALUES in file
    layout: Layout = EventLayout(file, path) if of_events else JetLayout(file, path)
    if ours:
        complete, n = _whole(told, "complete", path) > 0, _whole(told, "n", path)
        if not complete or n != layout.n:
            raise ValueError(
                f"{path} was not finished: complete={complete}, {layout.n} rows of "
                f"{told.get('n')}; make it again"
            )
    return layout
