"""Columns of a dataset by name: where each stands in a file, and what its unit is worth.

A dataset says by its attributes `features` and `units` what its columns are. Where it says nothing,
they are those of its layout, such as JetNet's in JetNet's order and units, and what stands behind
them has no name. What is asked for by name is found wherever it stands; a unit that differs by a
known factor is converted, which whoever reads tells in a warning; another unit, and a name that is
not there, is an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from setflow.data.sample import RELATIVE
from setflow.schema import Category, Feature, names
from setflow.schema.units import UNITS

__all__ = [
    "Columns",
    "names_of",
    "recoded",
    "require_kind",
    "select_columns",
    "texts_of",
    "wide_dtype",
]

NONE = ("", "1")


def alike(expected: str) -> dict[str, float]:
    """Return what is converted to a unit, with what its values are multiplied by.

    >>> alike("TeV")["GeV"], alike("rad")[""], alike("hits")
    (0.001, 1.0, {'hits': 1.0})
    """
    family = next((family for family in UNITS if expected in family), {expected: 1.0})
    if expected in ("rad", *NONE):
        family = family | dict.fromkeys(NONE, 1.0)
    return {unit: value / family[expected] for unit, value in family.items()}


@dataclass(frozen=True)
class Columns:
    """Which columns of a dataset are read, in the order asked for.

    Arguments:
        features: what they are, with their units as they are read.
        places: where each stands in the dataset; -1 where it is not there.
        factors: what its values are multiplied by.
        converted: which units are converted, in words; empty if none is.
    """

    features: tuple[Feature, ...]
    places: tuple[int, ...]
    factors: tuple[float, ...]
    converted: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return names(self.features)

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return these columns of a block of rows, the last dimension, in the units asked for.

        Products are taken in float64; the dtype is that of the file, at least float32.
        """
        picked = values[..., list(self.places)]
        taken = picked.astype(wide_dtype(values.dtype))
        for k, factor in enumerate(self.factors):
            if factor != 1:
                with np.errstate(over="ignore", invalid="ignore"):  # what is no number is refused
                    taken[..., k] = picked[..., k].astype(np.float64) * factor
        return taken


def wide_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of what is read: native, floating, at least float32, float64 at most.

    >>> wide_dtype(np.dtype(">f2")), wide_dtype(np.dtype("f8")), wide_dtype(np.dtype("i4"))
    (dtype('float32'), dtype('float64'), dtype('float64'))
    """
    wide = np.result_type(dtype, np.float32)
    return np.dtype(np.float64) if wide.itemsize > 8 else wide


def names_of(dataset: Any, table: Sequence[Feature], where: str) -> tuple[str, ...]:
    """Return the names of the columns of a dataset, by its attribute or in the order of a table.

    Arguments:
        dataset: one of an open file, with the columns as its last dimension.
        table: the columns that stand there if the dataset does not name its own.
        where: what the dataset is called in errors.

    Raises:
        ValueError: if the attribute does not name each column, once.
    """
    told, width = texts_of(dataset, "features", where), dataset.shape[-1]
    if told is None:
        return names(tuple(table))[:width]
    if len(told) != width or len(set(told)) != width:
        raise ValueError(
            f"{where} has {width} columns, and its attribute features names {', '.join(told)}; "
            "expected one name for each"
        )
    return told


def select_columns(
    dataset: Any, table: Sequence[Feature], wanted: Sequence[Feature | str], where: str
) -> Columns:
    """Return where the columns asked for stand in a dataset, with what converts their units.

    Arguments:
        dataset: one of an open file, with the columns as its last dimension.
        table: the columns of the layout, with their units, where the dataset does not tell.
        wanted: the features asked for, with the units that they are to have; one that is a name
            alone is taken in the unit of the file.
        where: what the dataset is called in errors.

    Raises:
        ValueError: if a name is not there, or its unit cannot be converted.
    """
    held, units = names_of(dataset, table, where), texts_of(dataset, "units", where)
    if units is not None and len(units) != dataset.shape[-1]:
        raise ValueError(
            f"{where} has {dataset.shape[-1]} columns, and its attribute units names "
            f"{len(units)} units; expected one for each, empty where there is none"
        )
    usual = {column.name: column.unit for column in table}
    found, factors, converted = [], [], []
    for entry in wanted:
        name = entry if isinstance(entry, str) else entry.name
        if name not in held:
            near = [one for one in held if one.startswith(name) or sorted(one) == sorted(name)]
            near = near or difflib.get_close_matches(name, held, n=1, cutoff=0.7)
            unsaid = texts_of(dataset, "features", where) is None
            raise ValueError(
                f"{where} has no column '{name}', which is asked for; it "
                + ("names none, so it holds those of its layout: " if unsaid else "holds ")
                + ", ".join(held)
                + (f"; did whoever wrote it mean it by '{near[0]}'?" if near else "")
            )
        unit = usual.get(name) if units is None else units[held.index(name)]
        if isinstance(entry, str):
            try:
                entry = Feature(name, unit or "")
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        unit = entry.unit if unit is None else unit
        if unit == RELATIVE and entry.unit == "GeV":
            found.append(replace(entry, unit=unit))
            factors.append(1.0)
            continue
        known = alike(entry.unit)
        if unit not in known:
            raise ValueError(
                f"{where}: {name} stands in units of '{unit}', expected "
                + (f"'{entry.unit}'" if entry.unit else "none: it has no dimension")
                + (f"; known are {', '.join(filter(str.isalpha, known))}" if entry.unit else "")
                + "; correct its attribute units, or convert the file by a mapping"
            )
        found.append(entry)
        factors.append(known[unit])
        if known[unit] != 1:
            converted.append(f"{name} from {unit} to {entry.unit}")
    told = f"{where}: {', '.join(converted)}: converted in reading" if converted else ""
    places = tuple(held.index(entry.name) for entry in found)
    return Columns(tuple(found), places, tuple(factors), told)


def require_kind(held: Feature, wanted: Feature, where: str) -> None:
    """Refuse a feature that is a category in the file alone, or as it is asked for alone.

    Arguments:
        held: what the file says that it is.
        wanted: what is asked for.
        where: what the dataset is called in errors.

    Raises:
        ValueError: if only one of them is a category.
    """
    if isinstance(held.kind, Category) != isinstance(wanted.kind, Category):
        raise ValueError(
            f"{where}: {held.name} is of kind {held.kind}, expected {wanted.kind}: give a "
            "file that holds that, or let the schema say what the file says"
        )


def recoded(codes: NDArray[Any], held: Feature, wanted: Feature, where: str) -> NDArray[Any]:
    """Return a column with the codes of the category that is asked for; numbers stay.

    Arguments:
        codes: the column as it stands in a file, with shape `(n,)`.
        held: what the file says that it is.
        wanted: what is asked for.
        where: what the dataset is called in errors.

    Returns:
        The column, with shape `(n,)`; what is no code in the file is NaN.

    Raises:
        ValueError: if a row holds a name that the one asked for lacks; it tells the nearest.
    """
    there, here = held.kind, wanted.kind
    if not isinstance(there, Category) or not isinstance(here, Category):
        return codes
    result = np.full_like(codes, np.nan)
    for code, name in enumerate(there.names):
        if bool((codes == code).any()):
            try:
                result[codes == code] = here.code(name)
            except ValueError as error:
                raise ValueError(f"{where}: {held.name}: {error}") from None
    return result


def texts_of(dataset: Any, attribute: str, where: str) -> tuple[str, ...] | None:
    """Return an attribute that lists texts, of any type of string, or None if there is none.

    One text is taken as a list with commas.
    """
    value = dataset.attrs.get(attribute)
    if value is None or isinstance(value, h5py.Empty):
        return None
    listed = np.asarray(value).ravel().tolist()
    if len(listed) == 1 and dataset.shape[-1] > 1:
        listed = [*_text(listed[0]).split(",")]
    if not all(isinstance(entry, (str, bytes)) for entry in listed):
        raise ValueError(
            f"{where}: its attribute {attribute} holds {value}, expected a text for each of its "
            f"{dataset.shape[-1]} columns"
        )
    return tuple(_text(entry) for entry in listed)


def _text(value: Any) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text.strip("\0 ")
