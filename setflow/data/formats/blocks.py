"""A mapping applied to blocks of rows: what a file holds becomes events, in float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from setflow.data.formats.expressions import FUNCTIONS, Expression
from setflow.data.formats.mapping import SUMS, Mask
from setflow.data.formats.mapping import Mapping as Layout
from setflow.data.formats.pdg import PDG_TYPES
from setflow.data.formats.places import Places
from setflow.data.formats.sources import Jagged, Raw, Source
from setflow.data.sample import EventSample
from setflow.schema import Schema
from setflow.sets.batch import SetBatch

__all__ = ["Reader"]

Array = NDArray[Any]


class Reader:
    """Read events from a file by a mapping, block by block.

    Arguments:
        layout: the mapping.
        source: the file.
        schema: what the events are, with a class if there is one.
        label: the code of the class of all events of the file, or None.
    """

    def __init__(
        self, layout: Layout, source: Source, schema: Schema, label: int | None = None
    ) -> None:
        self.places = Places(layout, source)
        source.begin(self.places.paths, layout.mask.offsets, layout.mask.flat)
        self._layout, self._source, self._schema, self._label = layout, source, schema, label

    def blocks(self, start: int = 0) -> Iterator[EventSample]:
        """Yield the events from a row on with which a block begins."""
        for raw in self._source.blocks(self.places.paths, start):
            block = _Block(self._layout, self.places, raw, self._source)
            try:
                yield block.sample(self._schema, self._label)
            except ValueError as error:
                raise ValueError(
                    f"{self._source.path}, of the rows {start} to {start + block.n}: {error}"
                ) from None
            start += block.n

    def codes(self) -> Iterator[Array]:
        """Yield the codes of the classes, block by block."""
        for raw in self._source.blocks(self.places.paths):
            yield _Block(self._layout, self.places, raw, self._source).codes()

    def slots(self) -> int:
        """Return how many slots the events need, in one pass where rows have any length."""
        if (longest := self._source.longest()) is not None:
            return max(1, longest)
        for raw in self._source.blocks(self.places.paths):
            widths = [1]
            for name in self.places.of:
                value = self.places.value(name, raw)
                if isinstance(value, Jagged):
                    return self._longest(name)
                widths += value.shape[1:2]
            return max(widths)
        return 1

    def _longest(self, name: str) -> int:
        most = 1
        for raw in self._source.blocks([self.places.of[name].path]):
            value = self.places.value(name, raw)
            assert isinstance(value, Jagged)
            most = max(most, int(value.lengths.max(initial=0)))
        return most


class _Columns(dict[str, Array]):
    """The columns of a block by their names, each made when it is first asked for."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: str) -> Array:
        value: Array = self._make(name)
        self[name] = value
        return value


class _Block:
    """Rows of a file, of which formulas are computed.

    Columns of events have the shape `(b, 1)`, and those of objects `(b, N)`.
    """

    def __init__(
        self, layout: Layout, places: Places, raw: Mapping[str, Raw], source: Source
    ) -> None:
        self._layout, self._places, self._raw, self._source = layout, places, raw, source
        self._columns = _Columns(self._make)
        self.float32 = True
        first = next(iter(raw.values()))
        self.n = len(first.lengths) if isinstance(first, Jagged) else len(first)
        self._lengths: NDArray[np.int64] | None = None
        self.real = self._mask(layout.mask)

    def _make(self, name: str) -> Array:
        if name in self._layout.define:
            return self._layout.define[name](self._scope(self._layout.define[name]))
        if name in SUMS and self._layout.momenta:
            return self._sums()[name]
        if name in self._layout.constants:
            constant: Array = self._layout.constants[name]
            return constant
        return self._of_file(name)

    def _scope(self, formula: Expression) -> dict[str, Array]:
        return {name: self._columns[name] for name in formula.names}

    def value(self, formula: Expression) -> Array:
        """Return a formula; shapes that do not belong together are an error."""
        scope = self._scope(formula)
        try:
            return np.atleast_2d(formula(scope))
        except ValueError:
            shapes = ", ".join(f"{name} {value.shape}" for name, value in scope.items())
            raise ValueError(
                f"{self._source.path}: the parts of {formula.text!r} have the shapes {shapes}, "
                "which do not belong together"
            ) from None

    def _of_file(self, name: str) -> Array:
        values = self._places.value(name, self._raw)
        if isinstance(values, Jagged):
            return self._padded(values, name)
        if values.dtype.kind not in "fiub" or values.ndim not in (1, 2):
            raise ValueError(
                f"{self._source.path}: {name} has shape {values.shape} and dtype {values.dtype}, "
                "expected numbers, one for an event or one for each slot; name its columns or "
                "fields under arrays"
            )
        self.float32 &= values.dtype.kind != "f" or values.dtype.itemsize <= 4
        wide = values.astype(np.float64)
        return wide[:, None] if wide.ndim == 1 else wide

    def _padded(self, rows: Jagged, name: str) -> Array:
        if rows.values.ndim != 1:
            raise ValueError(
                f"{self._source.path}: {name} has {rows.values.shape[1]} columns; name them"
            )
        if self._lengths is None:
            self._lengths = rows.lengths
        if (self._lengths != rows.lengths).any():
            row = int((self._lengths != rows.lengths).argmax())
            raise ValueError(
                f"{self._source.path}: an event has {rows.lengths[row]} entries of {name} and "
                f"{self._lengths[row]} of others; expected one for each object"
            )
        self.float32 &= rows.values.dtype.kind != "f" or rows.values.dtype.itemsize <= 4
        slots = np.arange(rows.lengths.max(initial=0)) < rows.lengths[:, None]
        padded = np.zeros(slots.shape)
        padded[slots] = rows.values
        return padded

    def _mask(self, mask: Mask) -> NDArray[np.bool_]:
        """Return which slots hold an object, by the rule."""
        values = [self.value(formula) for formula in mask.values]
        if mask.rule in ("field", "nonzero", "above"):
            values = list(np.broadcast_arrays(*values, np.zeros((self.n, 1)))[:-1])
        if mask.rule == "field":
            (flags,) = values
            if wrong := flags[(flags != 0) & (flags != 1)].tolist()[:1]:
                raise ValueError(
                    f"{self._source.path}: {mask.values[0].text} is {wrong[0]:g}, expected 1 where "
                    "a slot holds an object and 0 where it does not; another rule of the mask "
                    f"is above: {{{mask.values[0].text}: VALUE}}"
                )
            return np.asarray(flags == 1)
        if mask.rule == "above":
            return np.asarray(values[0] > mask.above)
        if mask.rule == "nonzero":
            return np.asarray(np.any([value != 0 for value in values], axis=0))
        slots = np.arange(self._width())
        if mask.rule == "all":
            return np.ones((self.n, len(slots)), np.bool_)
        if mask.rule == "count":
            counts = np.broadcast_to(values[0], (self.n, 1))
            if wrong := counts[(counts < 0) | (counts != np.floor(counts))].tolist()[:1]:
                raise ValueError(
                    f"{self._source.path}: {mask.values[0].text} is {wrong[0]:g}, expected the "
                    "number of objects of an event"
                )
            return np.asarray(slots < counts)
        if self._lengths is None:
            raise ValueError(
                f"{self._source.path}: the mask is {mask.rule}, and no array has rows of any "
                "length; say what else tells which slots are real"
            )
        return np.asarray(slots < self._lengths[:, None])

    def _width(self) -> int:
        """Return the number of slots: that of the arrays that have some."""
        found = {self._columns[name].shape[1] for name in self._places.of} - {1}
        if len(found) > 1:
            raise ValueError(
                f"{self._source.path}: arrays have {sorted(found)} slots, expected as many; leave "
                "out what belongs to other objects"
            )
        return found.pop() if found else 1

    def _sums(self) -> dict[str, Array]:
        """Return the momentum of the sum of the real objects: pT, eta, phi and mass."""
        p = {
            key: np.where(self.real, self.value(formula), 0)
            for key, formula in self._layout.momenta.items()
        }
        if "pt" in p:
            pt = p["pt"]
            p = {"px": pt * np.cos(p["phi"]), "py": pt * np.sin(p["phi"])}
            eta = np.where(self.real, self.value(self._layout.momenta["eta"]), 0)
            p |= {"pz": pt * np.sinh(eta), "e": pt * np.cosh(eta)}
        px, py, pz, e = (p[key].sum(1, keepdims=True) for key in ("px", "py", "pz", "e"))
        pt = np.hypot(px, py)
        with np.errstate(all="ignore"):
            eta = np.where(pt > 0, np.arcsinh(pz / pt), 0)
        momentum = np.hypot(pt, pz)
        mass = np.sqrt(np.clip((e - momentum) * (e + momentum), 0, None))
        return dict(zip(SUMS, (pt, eta, np.arctan2(py, px), mass), strict=True))

    def _one(self, formula: Expression, what: str) -> Array:
        """Return a formula that has one value for each event, with shape `(b,)`."""
        value = self.value(formula)
        if value.shape[1] != 1:
            raise ValueError(
                f"{self._source.path}: {what} is {formula.text!r}, with {value.shape[1]} values "
                "for an event, expected one"
            )
        return np.broadcast_to(value, (self.n, 1))[:, 0]

    def sample(self, schema: Schema, label: int | None) -> EventSample:
        """Return the events."""
        layout, real = self._layout, self.real
        x = np.zeros((*real.shape, len(layout.objects)))
        for k, entry in enumerate(layout.objects):
            value = self.value(entry.value)
            if value.shape[1] not in (1, real.shape[1]):
                raise ValueError(
                    f"{self._source.path}: {entry.feature.name} has {value.shape[1]} slots and the "
                    f"mask {real.shape[1]}; let both belong to the same objects"
                )
            x[..., k] = np.where(real, value * entry.factor, 0)
        event = np.zeros((self.n, len(schema.event)))
        for k, entry in enumerate(layout.event):
            event[:, k] = self._one(entry.value, entry.feature.name) * entry.factor
            if entry.feature.of_kind.is_angle:
                event[:, k] = _wrapped(event[:, k])
        if label is not None:
            event[:, -1] = label
        elif layout.labels is not None:
            event[:, -1] = self.codes()
        weight, number = (
            None if formula is None else self._one(formula, what)
            for formula, what in ((layout.weight, "weight"), (layout.event_number, "event_number"))
        )
        dtype = torch.float32 if self.float32 else torch.float64
        return EventSample(
            SetBatch(
                torch.from_numpy(x).to(dtype),
                torch.from_numpy(real),
                weight=None if weight is None else torch.tensor(weight),
            ),
            torch.from_numpy(event).to(dtype),
            schema,
            particle_type=None if layout.types is None else self._types(*layout.types),
            event_number=None if number is None else torch.tensor(number.astype(np.int64)),
        )

    def codes(self) -> Array:
        """Return the class of each event."""
        labels = self._layout.labels
        assert labels is not None
        if labels.value is not None:
            return self._one(labels.value, "class")
        flags = np.concatenate([self._columns[name] for name in labels.one_of], 1)
        if wrong := np.flatnonzero((flags != 0).sum(1) != 1).tolist()[:1]:
            raise ValueError(
                f"row {wrong[0]} of them has {int((flags[wrong[0]] != 0).sum())} of the classes "
                f"{', '.join(labels.one_of)}, expected one"
            )
        return np.asarray(flags.argmax(1))

    def _types(self, kind: str, formula: Expression) -> torch.Tensor:
        """Return codes of `PARTICLE_TYPES`, 0 in padding."""
        codes = np.where(self.real, self.value(formula), 0).astype(np.int64)
        if kind == "pdg":
            found = np.zeros_like(codes)
            for code in np.unique(codes[self.real]).tolist():
                if code not in PDG_TYPES:
                    raise ValueError(
                        f"{self._source.path}: {formula.text} holds the PDG code {code}, which is "
                        "none of the particles that a detector sees; leave out types"
                    )
                found[codes == code] = PDG_TYPES[code]
            codes = np.where(self.real, found, 0)
        return torch.from_numpy(codes)


def _wrapped(angle: Array) -> Array:
    return FUNCTIONS["deltaphi"][1](angle, np.zeros(1))
