"""Where the names of a mapping stand in a file: in an array, in a field or a column of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from setflow.data.formats.expressions import no_such_name
from setflow.data.formats.mapping import SUMS
from setflow.data.formats.mapping import Mapping as Layout
from setflow.data.formats.sources import Jagged, Raw, Source

__all__ = ["Places"]

Array = NDArray[Any]


@dataclass(frozen=True)
class _Place:
    """Where a name stands: in an array, all of it or a part.

    Arguments:
        path: the array.
        pick: None for all of it; a field; a field and the column or columns of it; a column; a
            slice of columns; or, of rows of any length, a column and how many there are.
    """

    path: str
    pick: Any = None


class Places:
    """Where the names of a mapping stand in a file.

    Arguments:
        layout: the mapping.
        source: the file.

    Raises:
        ValueError: if an array, a field or a name is not there.
    """

    def __init__(self, layout: Layout, source: Source) -> None:
        self._layout, self._source = layout, source
        self._named: dict[str, _Place] = {}
        for path, told in layout.arrays.items():
            if path not in source.paths() and not self._needs(told):
                continue
            source.check(path)
            self._add(path, told)
        for name in layout.of_file():
            if name in self._named:
                continue
            if name not in source.paths():
                known = [*layout.define, *(SUMS if layout.momenta else ()), *self._named]
                raise no_such_name(
                    name, dict.fromkeys([*known, *source.paths()]), f"{source.path}, {layout.where}"
                )
            self._named[name] = _Place(name)
        self.of = {name: self._named[name] for name in layout.of_file()}
        self.paths = list(dict.fromkeys(place.path for place in self.of.values()))

    def _needs(self, told: Any) -> bool:
        given = [told] if isinstance(told, str) else told
        return any(name in self._layout.of_file() for name in given)

    def _add(self, path: str, told: Any) -> None:
        where = f"{self._source.path}: {path}"
        if isinstance(told, str):
            self._named[told] = _Place(path)
            return
        if isinstance(told, list):
            for k, name in enumerate(told):
                if name != "_":
                    self._named[name] = _Place(path, ("columns", k, len(told)))
            return
        held = self._source.columns(path)
        for name, part in told.items():
            if held is None:
                self._named[name] = _Place(path, ("at", _columns(part, f"{where}, {name}")))
            elif "*" in part:
                self._named[name] = _Place(path, ("slots", _numbered(part, held, where)))
            elif part in held:
                self._named[name] = _Place(path, ("field", held[part]))
            else:
                raise no_such_name(part, held, where)

    def value(self, name: str, raw: Mapping[str, Raw]) -> Raw:
        """Return what stands under a name in a block: `(b,)`, `(b, N)`, or rows of any length."""
        place = self.of[name]
        values, where = raw[place.path], f"{self._source.path}: {place.path}"
        if place.pick is None:
            return values
        kind, part = place.pick[:2]
        if kind == "columns":
            return _column(values, part, place.pick[2], where)
        if isinstance(values, Jagged):
            raise ValueError(f"{where} has rows of any length, expected columns of numbers")
        if kind == "field":
            field, *column = part if isinstance(part, tuple) else (part,)
            picked: Array = values[field]
            return picked[:, column[0]] if column else picked
        if kind == "slots":
            return np.stack([values[field][:, column] for field, column in part], -1)
        if values.ndim != 2:
            raise ValueError(f"{where} has shape {values.shape}, expected (n, columns)")
        try:
            taken: Array = values[:, part]
        except IndexError:
            raise ValueError(f"{where} has {values.shape[1]} columns, none at {part}") from None
        return taken


def _column(values: Raw, k: int, width: int, where: str) -> Raw:
    """Return one of several columns, the last dimension, or of numbers that take turns."""
    if isinstance(values, Jagged):
        flat = values.values
        if flat.ndim == 2:
            _check_width(flat.shape[1], width, where)
            return Jagged(flat[:, k], values.lengths)
        if (values.lengths % width).any():
            raise ValueError(f"{where} has rows that are no multiple of {width} numbers long")
        return Jagged(flat[k::width], values.lengths // width)
    _check_width(values.shape[-1], width, where)
    return values[..., k]


def _check_width(got: int, named: int, where: str) -> None:
    if got < named:
        raise ValueError(f"{where} has {got} columns, and the mapping names {named}")


def _columns(text: str, where: str) -> Any:
    """Return the column or the slice of columns that a text says."""
    try:
        parts = [int(part) if part.strip() else None for part in text.split(":")]
        return parts[0] if len(parts) == 1 and parts[0] is not None else slice(*parts)
    except (TypeError, ValueError):
        raise ValueError(
            f"{where} is {text!r}, expected a column such as '3', or a slice such as '0:2100:3'"
        ) from None


def _numbered(pattern: str, held: Mapping[str, Any], where: str) -> list[tuple[str, int]]:
    """Return the columns of a table whose names differ by a number, in the order of it."""
    before, _, after = pattern.partition("*")
    found = {}
    for name, place in held.items():
        middle = name.removeprefix(before).removesuffix(after)
        if middle.isdecimal() and name == before + middle + after and isinstance(place, tuple):
            found[int(middle)] = place
    if not found:
        raise no_such_name(pattern.replace("*", "0"), held, where)
    return [found[k] for k in sorted(found)]
