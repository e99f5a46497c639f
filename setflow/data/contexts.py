"""The context that generated events were made for, a dataset of its own in their file.

`context` has the shape `(n, C)` and dtype float64. Its attributes `features`, `units` and `kinds`
say what the columns are, the last one with the names of a category, whose codes stand in the column
(`setflow.schema.kinds`). So a file of generated jets, whose jet features stand in units of a jet pT
that nobody knows, still tells the pT that they were made for.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from setflow.data.columns import names_of, recoded, require_kind, select_columns, texts_of
from setflow.data.header import OpenEvents, open_events
from setflow.data.inspection import named_errors, require_whole
from setflow.data.layouts import CONTEXT, EventLayout, layout_of
from setflow.data.sample import EventSample
from setflow.schema import Feature, Real, kind_of, names
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
        self._open = OpenEvents(find(JETS, path))
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
            path = self._open.path
            with named_errors(path):
                values = _columns(self._open.file, path, self._given, start, start + n)
            columns = torch.from_numpy(values).unbind(-1)
            told |= dict(zip(names(tuple(self._given)), columns, strict=True))
        for name, value in self._fixed.items():
            told[name] = torch.full((n,), value, dtype=sample.event.dtype)
        dtype = torch.float64 if self._given else sample.event.dtype
        return torch.stack([told[feature.name].to(dtype) for feature in self._features], -1)

    def close(self) -> None:
        """Close the file, which stays open where its context is read; it is opened when needed."""
        self._open.close()


def context_texts(features: Sequence[Feature]) -> dict[str, Sequence[str]]:
    """Return the attributes of a dataset that say what its columns are."""
    told = {"features": names(tuple(features)), "units": [feature.unit for feature in features]}
    return {**told, "kinds": [str(feature.kind) for feature in features]}


def context_features(path: str | os.PathLike[str]) -> tuple[Feature, ...]:
    """Return what the dataset `context` beside jets holds, or nothing if there is none.

    In a file of events of any schema the dataset holds the features of the events themselves, which
    `read_events` reads.

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

    Warns:
        UserWarning: if a unit was converted.

    Raises:
        ValueError: if a unit cannot be converted, or the file has a category that is not known.
    """
    path = find(JETS, path)
    with open_events(path) as file:
        return _columns(file, path, wanted, start, stop)


def _columns(
    file: Any, path: Path, wanted: Sequence[Feature], start: int, stop: int | None
) -> NDArray[np.float64]:
    """Return columns of the dataset `context` of an open file; see `read_context`."""
    where = f"{path}: {CONTEXT}"
    require_whole(file, [CONTEXT], path)
    held = {feature.name: feature for feature in _features(file, path)}
    for feature in wanted:
        require_kind(held[feature.name], feature, where)
    columns = select_columns(file[CONTEXT], (), wanted, where)
    values: NDArray[np.float64] = columns.of(file[CONTEXT][start:stop].astype(np.float64))
    if columns.converted:  # at one place, so that Python tells it once for a file
        warnings.warn(columns.converted, stacklevel=1)
    for k, feature in enumerate(wanted):
        values[:, k] = recoded(values[:, k], held[feature.name], feature, where)
    return values


def _features(file: Any, path: Path) -> tuple[Feature, ...]:
    where = f"{path}: {CONTEXT}"
    layout = layout_of(file, path)
    if isinstance(layout, EventLayout):  # there they are the features of the events themselves
        return ()
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
        told = [(kind_of(kinds[k]) if kinds else Real()) for k in range(len(held))]
        return tuple(  # an angle is read in radians, whatever it stands in
            Feature(name, "rad" if kind.is_angle else units[k] if units else "", kind)
            for k, (name, kind) in enumerate(zip(held, told, strict=True))
        )
    except (IndexError, ValueError) as error:
        raise ValueError(f"{where}: its attributes do not describe its columns: {error}") from None
