"""What a file of jets says of itself, and which of its columns are read, known without its rows."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from setflow.data.columns import Columns, names_of, select_columns
from setflow.data.jets import (
    DTYPES,
    EVENTS,
    JET_NAMES,
    JETS,
    LAYOUT_VERSION,
    MASK,
    NUM,
    PARTICLES,
    RESERVED,
    TYPES,
    WEIGHTS,
)
from setflow.schema import DATASETS, JET_FEATURES, PARTICLE_FEATURES, names
from setflow.shipped import JETS as SHIPPED
from setflow.shipped import find, known

__all__ = [
    "JetHeader",
    "check_weight",
    "datasets_of",
    "header_of",
    "jet_columns",
    "open_jets",
    "particle_columns",
    "read_header",
    "weights_of",
]

FLAG = names(PARTICLE_FEATURES)[MASK]


@dataclass(frozen=True)
class JetHeader:
    """What a file says about itself, known without reading its rows.

    Arguments:
        n: the number of jets.
        objects: the number of slots `N`.
        jet_units: the unit of each jet feature, as it is read.
        keys: the datasets of the layout that the file holds.
        attributes: the attributes of the file that whoever wrote it added.
        features: the names of the columns of a particle in the order of the file, `mask` included.
        jet_features: the names of the jet features that are read, in this order.
    """

    n: int
    objects: int
    jet_units: tuple[str, ...]
    keys: tuple[str, ...]
    attributes: dict[str, Any]
    features: tuple[str, ...]
    jet_features: tuple[str, ...]


def read_header(path: str | os.PathLike[str]) -> JetHeader:
    """Return the header of a file of jets; shapes and completeness are checked, values are not.

    Warns:
        UserWarning: if the unit of a jet feature will be converted.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if the file is not HDF5, or broken.
        ValueError: if it does not have the layout.
    """
    path = find(SHIPPED, path)
    with open_jets(path) as file:
        return header_of(file, path)


def datasets_of(path: Path) -> set[str]:
    """Return the names of the datasets of a file, those beyond the layout included."""
    with open_jets(path) as file:
        return set(file)


def open_jets(path: Path) -> Any:
    """Return the open HDF5 file."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the path; {known(SHIPPED, path)}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected an HDF5 file of jets")
    try:
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        broken = h5py.is_hdf5(path)
        raise OSError(
            f"{path} is {'a damaged HDF5 file' if broken else 'not an HDF5 file'} ({error}); "
            + ("fetch or make it again" if broken else "expected HDF5 in the layout of JetNet")
        ) from error


def header_of(file: Any, path: Path) -> JetHeader:
    """Return the header of an open file, checked; `read_header` without opening it."""
    keys = _checked_keys(file, path)
    n, objects, _ = map(int, file[PARTICLES].shape)
    attributes = dict(file.attrs)
    if "layout_version" in attributes:
        version, complete = int(attributes["layout_version"]), bool(attributes.get("complete"))
        if version > LAYOUT_VERSION:
            raise ValueError(
                f"{path} has layout version {version}, this release reads up to {LAYOUT_VERSION}; "
                "upgrade setflow"
            )
        if not complete or int(attributes.get("n", -1)) != n:
            raise ValueError(
                f"{path} was not finished: complete={complete}, {n} rows of "
                f"{attributes.get('n')}; make it again"
            )
    features = names_of(file[PARTICLES], PARTICLE_FEATURES, f"{path}: {PARTICLES}")
    if FLAG not in features:
        raise ValueError(
            f"{path}: {PARTICLES} names {', '.join(features)} and no '{FLAG}', which says what is "
            "real; add it, 1 for a particle and 0 for padding"
        )
    jets = jet_columns(file, path)
    user = {name: value for name, value in attributes.items() if name not in RESERVED}
    return JetHeader(n, objects, jets.units, keys, user, features, jets.names)


def particle_columns(file: Any, path: Path, wanted: Sequence[str]) -> Columns:
    """Return where features of particles stand, and behind them the mask."""
    where = f"{path}: {PARTICLES}"
    return select_columns(file[PARTICLES], PARTICLE_FEATURES, (*wanted, FLAG), where)


def jet_columns(file: Any, path: Path, conditions: Sequence[str] = ()) -> Columns:
    """Return where the jet features stand: those of the layout that are there, and conditions.

    The number of particles is always among them; its place is -1 where the file does not hold it.

    Raises:
        ValueError: if a condition is not there, or a unit cannot be converted.
    """
    where = f"{path}: {JETS}"
    held: tuple[str, ...] = ()
    if JETS in file:
        held = names_of(file[JETS], JET_FEATURES, where)
    elif lacking := [name for name in conditions if name != NUM]:
        raise ValueError(
            f"{path} has no dataset '{JETS}' that could hold {', '.join(lacking)}, on which the "
            "model is conditioned; give a file that has it"
        )
    wanted = [name for name in JET_NAMES if name in held or name == NUM]
    wanted += [name for name in conditions if name not in wanted]
    there = [name for name in wanted if name in held or name != NUM]
    found = select_columns(file[JETS], JET_FEATURES, there, where) if there else None
    at = {} if found is None else dict(
        zip(found.names, zip(found.units, found.places, found.factors, strict=True), strict=True)
    )  # fmt: skip
    parts = [at.get(name, ("", -1, 1.0)) for name in wanted]
    units, places, factors = zip(*parts, strict=True)
    return Columns(tuple(wanted), units, places, factors)


def weights_of(file: Any) -> list[str]:
    """Return the datasets of an open file that hold weights by their names, one for each jet."""
    names = _per_jet(file, int(file[PARTICLES].shape[0]))
    return [name for name in names if WEIGHTS in name.lower()]


def _per_jet(file: Any, n: int) -> list[str]:
    """Return the datasets with one number for each of the n jets."""
    held = {name: file[name] for name in file if isinstance(file[name], h5py.Dataset)}
    return [name for name, one in held.items() if one.shape == (n,) and one.dtype.kind in "fiu"]


def check_weight(file: Any, path: Path, name: str, n: int) -> None:
    """Check that a file holds a dataset of weights, one number for each of its n jets.

    Raises:
        ValueError: if there is no such dataset, or it is of another shape or dtype.
    """
    there = _per_jet(file, n)
    if name in there:
        return
    got = file.get(name)
    if isinstance(got, h5py.Dataset):
        raise ValueError(
            f"{path}: {name} has shape {got.shape} and dtype {got.dtype}, expected ({n},) and "
            "numbers: one weight for each jet"
        )
    raise ValueError(
        f"{path} has no dataset '{name}' of weights; with one number for each jet it holds "
        f"{', '.join(there) or 'none'}; name one of these, or leave the weights out"
    )


def _checked_keys(file: Any, path: Path) -> tuple[str, ...]:
    """Return the datasets of the layout that a file holds, their shapes and dtypes checked."""
    held = list(file)
    if {"log_prob", "reason"} <= {*held}:
        of = f" of the jets of {file.attrs['data']}" if "data" in file.attrs else " of jets"
        raise ValueError(
            f"{path} holds scores{of}, as setflow score writes them, and no jets; give the file of "
            "the jets"
        )
    for spec in DATASETS:  # what need not be there is missed only if it is there misspelt
        near = difflib.get_close_matches(spec.key, held, n=1, cutoff=0.5 if spec.required else 0.9)
        if spec.key not in held and (spec.required or near) and spec.key != WEIGHTS:
            raise ValueError(
                f"{path} has no dataset '{spec.key}'; it holds {held or 'nothing'}"
                + (f"; did whoever wrote it mean it by '{near[0]}'? Rename it" if near else "")
            )
    keys = tuple(spec.key for spec in DATASETS if spec.key in held)
    for key in keys:
        if not isinstance(file[key], h5py.Dataset):
            raise ValueError(f"{path}: '{key}' is a group, expected a dataset")
    shape, named = file[PARTICLES].shape, "features" in file[PARTICLES].attrs
    least = len(PARTICLE_FEATURES)
    if len(shape) != 3 or (shape[2] < least and not named):
        raise ValueError(
            f"{path}: {PARTICLES} has shape {shape}, expected (n, N, {least}) "
            f"with the features {', '.join(names(PARTICLE_FEATURES))}, or the attribute features "
            "that names others"
        )
    n, objects = int(shape[0]), int(shape[1])
    expected: dict[str, tuple[int, ...]] = {TYPES: (n, objects), EVENTS: (n,), WEIGHTS: (n,)}
    expected[JETS] = (n, len(JET_FEATURES))
    for key in keys[1:]:
        got = file[key].shape
        if key == JETS and "features" in file[key].attrs and len(got) == 2:
            expected[JETS] = (n, got[1])
        if got != expected[key]:
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
    return keys
