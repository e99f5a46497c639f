"""The context that generated events were made for, a dataset of its own in their file.

`context` has the shape `(n, C)` and dtype float64. Its attributes `features`, `units` and `kinds`
say what the columns are, the last one with the names of a category, whose codes stand in the column
(`setflow.schema.kinds`). So a file of generated jets, whose jet features stand in units of a jet pT
that nobody knows, still tells the pT that they were made for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from setflow.data.columns import alike, names_of, select_columns, texts_of
from setflow.data.header import open_events
from setflow.data.layouts import CONTEXT, EventLayout, layout_of
from setflow.data.sample import EventSample
from setflow.schema import Category, Feature, names
from setflow.shipped import JETS, find

__all__ = ["CONTEXT", "ContextSource", "context_features", "context_texts", "read_context"]


class ContextSource:
    """Where the conditions of a model stand in a file: in its context, or beside its events.

    What the dataset `context` holds counts; other conditions are columns of the events, read with
    them by the names in `columns`.

    Arguments:
        path: the file.
        features: the conditions, in order.
        fixed: values, codes for categories, of conditions that are the same for all rows, whatever
            the file says.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        features: Sequence[Feature],
        fixed: Mapping[str, float] | None = None,
    ) -> None:
        self.path, self._features, self._fixed = path, tuple(features), dict(fixed or {})
        open_to = [feature for feature in self._features if feature.name not in self._fixed]
        held = names(context_features(path)) if open_to else ()
        self._given = [feature for feature in open_to if feature.name in held]
        self.columns = tuple(feature.name for feature in open_to if feature.name not in held)

    def of(self, sample: EventSample, start: int = 0) -> Tensor | None:
        """Return the context of rows, with shape `(n, C)`; None without conditions.

        Arguments:
            sample: the rows as `read_events` gives them, with `conditions=self.columns`.
            start: the row of the file that is their first.

        Raises:
            ValueError: if the file does not know a condition in the unit that is expected.
        """
        if not self._features:
            return None
        n = len(sample)
        told = dict(zip(self.columns, sample.context(self.columns).unbind(-1), strict=True))
        if self._given:
            values = read_context(self.path, self._given, start=start, stop=start + n)
            columns = torch.from_numpy(values).unbind(-1)
            told |= dict(zip(names(tuple(self._given)), columns, strict=True))
        for name, value in self._fixed.items():
            told[name] = torch.full((n,), value, dtype=sample.event.dtype)
        dtype = torch.float64 if self._given else sample.event.dtype
        return torch.stack([told[feature.name].to(dtype) for feature in self._features], -1)


def context_texts(features: Sequence[Feature]) -> dict[str, Sequence[str]]:
    """Return the attributes of a dataset that say what its columns are."""
    told = {"features": names(tuple(features)), "units": [feature.unit for feature in features]}
    return {**told, "kinds": [str(feature.kind) for feature in features]}


def context_features(path: str | os.PathLike[str]) -> tuple[Feature, ...]:
    """Return what the dataset `context` of a file holds, or nothing if there is none.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if the file is not HDF5, or broken.
        ValueError: if the attributes do not describe the columns.
    """
    path = find(JETS, path)
    with open_events(path) as file:
        return _features(file, path)


def read_context(
    path: str | os.PathLike[str],
    wanted: Sequence[Feature],
    *,
    start: int = 0,
    stop: int | None = None,
) -> NDArray[np.float64]:
    """Read columns of the dataset `context` of a file, in the units and codes that are asked for.

    Arguments:
        path: the HDF5 file.
        wanted: the features, each of which `context_features` has by name.
        start: the first row.
        stop: the row to stop before; None reads to the end.

    Returns:
        The values, with shape `(stop - start, len(wanted))`.

    Raises:
        ValueError: if a unit cannot be converted, or the file has a category that is not known.
    """
    path = find(JETS, path)
    where = f"{path}: {CONTEXT}"
    with open_events(path) as file:
        held = {feature.name: feature for feature in _features(file, path)}
        asked = [entry if len(alike(entry.unit)) > 1 else entry.name for entry in wanted]
        columns = select_columns(file[CONTEXT], tuple(held.values()), asked, where)
        values = columns.of(file[CONTEXT][start:stop].astype(np.float64))
    for k, feature in enumerate(wanted):
        values[:, k] = _recoded(values[:, k], held[feature.name], feature, where)
    return values


def _features(file: Any, path: Path) -> tuple[Feature, ...]:
    where = f"{path}: {CONTEXT}"
    layout = layout_of(file, path)
    if isinstance(layout, EventLayout):  # its schema tells them
        there = names_of(file[CONTEXT], layout.usual[1], where) if CONTEXT in file else ()
        return tuple(entry for entry in layout.schema.event if entry.name in there)
    dataset = file.get(CONTEXT)
    if not isinstance(dataset, h5py.Dataset) or "features" not in dataset.attrs:
        return ()
    if dataset.ndim != 2 or dataset.dtype.kind not in "fiu":
        raise ValueError(
            f"{where} has shape {dataset.shape} and dtype {dataset.dtype}, expected (n, C) numbers"
        )
    held = names_of(dataset, (), where)
    units, kinds = texts_of(dataset, "units", where), texts_of(dataset, "kinds", where)
    try:
        return tuple(
            Feature(name, units[k] if units else "", kinds[k] if kinds else "real")
            for k, name in enumerate(held)
        )
    except (IndexError, ValueError) as error:
        raise ValueError(f"{where}: its attributes do not describe its columns: {error}") from None


def _recoded(
    codes: NDArray[np.float64], held: Feature, wanted: Feature, where: str
) -> NDArray[np.float64]:
    """Return a column with the codes of the category that is asked for; numbers stay.

    What is no code is NaN.
    """
    there, here = held.kind, wanted.kind
    if not isinstance(there, Category) and not isinstance(here, Category):
        return codes
    if not isinstance(there, Category) or not isinstance(here, Category):
        raise ValueError(
            f"{where}: {held.name} is of kind {there}, expected {here}: give a file that holds that"
        )
    recoded = np.full_like(codes, np.nan)
    for code, name in enumerate(there.names):
        if bool((codes == code).any()):
            try:
                recoded[codes == code] = here.code(name)
            except ValueError as error:
                raise ValueError(f"{where}: {held.name}: {error}") from None
    return recoded
