"""The layouts of the field by name, as mappings (`setflow.data.formats.mapping`).

What does not depend on the file stands in `TABLE`. Where a layout has variants, a function looks at
which arrays there are, never at values; and where somebody must say more, as for an array without
names, it takes what was given and refuses to go on without it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from setflow.data.formats.sources import Source
from setflow.data.jets import NUM
from setflow.files import load_yaml, read_bounded, require_regular

__all__ = ["FORMATS", "OF_FORMAT", "Given", "node_of", "read_mapping", "told_file"]

_AXIS_OF_SUM = {"pt": "sum_pt", "eta": "sum_eta", "mass": "sum_mass"}
_JETS = {"pt": "jet_pt", "eta": "jet_eta", "mass": "jet_mass"}
_JET_COLUMNS = ["jet_pt", "jet_eta", "jet_mass", "jet_n"]
_JETNET = ["etarel", "phirel", "ptrel"]

TABLE: dict[str, dict[str, Any]] = {
    "jetclass": {
        "define": {
            "part_pt": "hypot(part_px, part_py)",
            "jet_p": "jet_pt * sqrt(1 + sinh(jet_eta) ** 2)",
        },
        "axis": "full",
        "objects": {
            "etarel": "part_deta * sign(jet_eta)",  # they are mirrored where jet_eta is below 0
            "phirel": "part_dphi",
            "ptrel": "part_pt / jet_pt",
        },
        "more": {
            "d0val": {"value": "part_d0val", "unit": "mm"},
            "d0err": {"value": "part_d0err", "unit": "mm"},
            "dzval": {"value": "part_dzval", "unit": "mm"},
            "dzerr": {"value": "part_dzerr", "unit": "mm"},
            "charge": {"value": "part_charge + 1", "kind": "category('-1', '0', '1')"},
        },
        "mask": "jagged",
        "event": {
            "pt": "jet_pt",
            "eta": "jet_eta",
            "mass": "sqrt(abs((jet_energy - jet_p) * (jet_energy + jet_p)))",
        },
        "order_by": "ptrel",
    },
    "toptag": {
        "arrays": {
            "table/table": {
                "E": "E_*",
                "PX": "PX_*",
                "PY": "PY_*",
                "PZ": "PZ_*",
                "is_signal_new": "is_signal_new",
            }
        },
        "define": {"part_pt": "hypot(PX, PY)"},
        "sum": {"px": "PX", "py": "PY", "pz": "PZ", "e": "E"},
        "axis": "sum",
        "objects": {
            "etarel": "arcsinh(PZ / part_pt) - sum_eta",
            "phirel": "deltaphi(arctan2(PY, PX), sum_phi)",
            "ptrel": "part_pt / sum_pt",
        },
        "mask": {"nonzero": "E"},
        "event": _AXIS_OF_SUM,
        "class": {"value": "is_signal_new", "names": ["qcd", "top"]},
        "order_by": "ptrel",
    },
    "energyflow": {
        "arrays": {"X": ["part_pt", "part_eta", "part_phi", "part_id"]},
        "sum": {"pt": "part_pt", "eta": "part_eta", "phi": "part_phi"},
        "axis": "sum",
        "objects": {
            "etarel": "part_eta - sum_eta",
            "phirel": "deltaphi(part_phi, sum_phi)",  # whatever the range of part_phi
            "ptrel": "part_pt / sum_pt",
        },
        "mask": {"nonzero": "part_pt"},
        "event": _AXIS_OF_SUM,
        "class": {"value": "y", "names": ["gluon", "quark"]},
        "types": {"pdg": "part_id"},
        "order_by": "ptrel",
    },
    "omnilearn": {
        "arrays": {"data": ["deta", "dphi", "log_pt", "log_e"], "global": _JET_COLUMNS},
        "axis": "full",
        "objects": {"etarel": "deta", "phirel": "dphi", "ptrel": "exp(log_pt) / jet_pt"},
        "mask": {"count": "jet_n"},  # a particle of 1 GeV has log_pt 0
        "event": _JETS,
        "class": "pid",
        "order_by": "ptrel",
    },
    "ftag": {
        "arrays": {
            "jets": {
                "jet_pt": "pt",
                "jet_eta": "eta",
                "jet_mass": "mass",
                "flavour": "flavour_label",
            },
            "tracks": {
                "valid": "valid",
                "track_deta": "deta",
                "track_dphi": "dphi",
                "track_d0": "d0",
                "track_z0": "z0SinTheta",
                "track_q": "qOverP",
                "pixel": "numberOfPixelHits",
            },
        },
        "axis": "full",
        "objects": {
            "etarel": "track_deta",
            "phirel": "track_dphi",
            "d0": {"value": "track_d0", "unit": "mm"},
            "z0_sin_theta": {"value": "track_z0", "unit": "mm"},
            "q_over_p": {"value": "track_q * 1000", "unit": "1/GeV"},
        },
        "more": {"pixel_hits": "pixel"},
        "mask": {"field": "valid"},
        "event": {
            "pt": {"value": "jet_pt", "unit": "MeV"},
            "eta": "jet_eta",
            "mass": {"value": "jet_mass", "unit": "MeV"},
        },
        "class": "flavour",
    },
    "epic": {
        "arrays": {"x": ["ptrel", "etarel", "phirel"]},
        "axis": "full",
        "objects": {name: name for name in _JETNET},
        "mask": {"nonzero": "ptrel"},
        "order_by": "ptrel",
    },
    "mpgan": {
        "arrays": {"x": _JETNET},
        "axis": "full",
        "objects": {name: name for name in _JETNET},
        "mask": {"nonzero": _JETNET},
        "order_by": "ptrel",
    },
    "lhco": {
        "arrays": {
            "df/block0_values": {
                "part_pt": "0:2100:3",
                "part_eta": "1:2100:3",
                "part_phi": "2:2100:3",
                "signal": "2100",
            }
        },
        "objects": {
            "pt": {"value": "part_pt", "unit": "GeV", "kind": "positive"},
            "eta": "part_eta",
            "phi": {"value": "deltaphi(part_phi, 0)", "unit": "rad", "kind": "angle"},
        },
        "mask": {"nonzero": "part_pt"},
        "class": {"value": "signal", "names": ["background", "signal"]},
        "order_by": "pt",
    },
    "calo": {
        "objects": {"energy": {"value": "showers", "unit": "MeV", "kind": "positive"}},
        "mask": {"above": {"showers": 0}},
        "event": {
            "incident_energy": {"value": "incident_energies", "unit": "MeV", "kind": "positive"}
        },
        "order_by": "energy",
    },
}
"""What does not depend on the file."""

FORMATS = ("jetnet", *TABLE, "npy", "ragged", "custom")
"""What files of others are called."""

_MARKS = {
    "jetnet": ("particle_features",),
    "jetclass": ("part_px", "part_deta", "jet_pt"),
    "calo": ("showers", "incident_energies"),
    "toptag": ("table/table",),
    "energyflow": ("X",),
    "omnilearn": ("data", "global"),
    "ftag": ("jets", "tracks"),
    "lhco": ("df/block0_values",),
}
"""What all files of a format hold, by which they are known; an array `x` says nothing."""

OF_FORMAT = {
    "mapping": ("custom",),
    "columns": ("npy", "ragged"),
    "mask": ("npy",),
    "voxels": ("calo",),
    "shape": ("calo",),
}
"""What is told of files, and the formats that it belongs to."""


@dataclass(frozen=True)
class Given:
    """What is told of files beside their names.

    Arguments:
        format: one of `FORMATS`; None for files that setflow reads as they are.
        mapping: the node of a mapping, for `custom`.
        columns: the names of the columns of an array without names.
        features: the features of objects that are taken; None takes those of the layout.
        mask: the rule of the mask of an array without names, such as `nonzero:x`.
        voxels: a file of the number, x, y and z of each voxel.
        shape: the numbers of layers and of voxels within them.
        classes: the names of the classes, by their codes.
    """

    format: str | None = None
    mapping: Any = None
    columns: Sequence[str] = ()
    features: Sequence[str] | None = None
    mask: str | None = None
    voxels: Path | None = None
    shape: Sequence[int] = ()
    classes: Sequence[str] = ()


def told_file(path: str | os.PathLike[str], kind: str, name: str) -> Path:
    """Return a file that is told of a format.

    Arguments:
        path: where.
        kind: `mapping` or `voxels`.
        name: what whoever gives it calls it, for the error message.

    Raises:
        OSError: if there is no such file, or it is no regular one.
    """
    path = Path(path)
    if path.is_dir() or not path.exists():
        what = "is a folder" if path.is_dir() else "does not exist"
        expected = {"mapping": "a YAML file", "voxels": "a table of text or .npy"}[kind]
        raise FileNotFoundError(f"{name}: {path} {what}, expected {expected}; check the path")
    require_regular(path)
    return path


def read_mapping(path: Path) -> Any:
    """Return the node of a mapping that a YAML file holds.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no YAML.
    """
    try:
        return load_yaml(read_bounded(path).decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None


def node_of(given: Given, source: Source) -> Any:
    """Return the mapping of a file as a node.

    Raises:
        ValueError: if something must be told that is not.
    """
    kind = given.format
    _check_format(str(kind), source)
    if kind == "custom":
        if given.mapping is None:
            raise ValueError(
                "the format custom needs a mapping, --mapping FILE.yaml: where objects, mask, "
                "events, class and weight stand in the file"
            )
        return given.mapping
    if kind in ("npy", "ragged"):
        return _array(given, source)
    if kind == "jetnet":
        return _jetnet(source)
    assert kind is not None
    node = copy.deepcopy(TABLE[kind])
    if kind == "calo":
        _place_voxels(node, given, source)
    labels = [name for name in source.paths() if name.startswith("label_")]
    if kind == "jetclass" and labels:
        node["class"] = {
            "one_of": labels,
            "names": [name.removeprefix("label_") for name in labels],
        }
    if kind == "energyflow" and source.shape("X")[-1:] == (3,):
        node["arrays"]["X"].remove("part_id")
        del node["types"]
    if (
        kind in ("energyflow", "omnilearn")
        and {"energyflow": "y", "omnilearn": "pid"}[kind] not in source.paths()
    ):
        del node["class"]
    if kind == "lhco" and source.shape("df/block0_values")[-1:] == (2100,):  # of an unknown signal
        del node["class"], node["arrays"]["df/block0_values"]["signal"]
    return node


def _check_format(kind: str, source: Source) -> None:
    """Refuse a file that lacks what those of a format hold, and holds what those of another do.

    Raises:
        ValueError: if it does, with the other.
    """
    there = source.paths()
    if missing := [name for name in _MARKS.get(kind, ()) if name not in there]:
        alike = [name for name, marks in _MARKS.items() if set(marks) <= set(there)]
        if alike:
            raise ValueError(
                f"{source.path}: there is no '{missing[0]}', which files of the format {kind} "
                f"hold; it has what those of {' or '.join(alike)} have, so give that format"
            )


def _jetnet(source: Source) -> dict[str, Any]:
    """Return the variants of JetNet's layout whose mask is no column."""
    node: dict[str, Any] = {
        "arrays": {"particle_features": _JETNET},
        "axis": "full",
        "objects": {name: name for name in _JETNET},
        "mask": {"field": "mask"} if "mask" in source.paths() else "jagged",
        "order_by": "ptrel",
    }
    return _with_jets(node, source)


def _with_jets(node: dict[str, Any], source: Source) -> dict[str, Any]:
    if "jet_features" in source.paths():
        node["arrays"]["jet_features"] = _JET_COLUMNS
        node["event"] = {**_JETS, NUM: "jet_n"}
    return node


def _array(given: Given, source: Source) -> dict[str, Any]:
    """Return the mapping of an array `x` whose columns are told."""
    what, columns = f"the format {given.format}", list(given.columns)
    if not columns:
        raise ValueError(
            f"{what} needs the names of the columns of {source.path}, in their order, --columns "
            "NAME,NAME,...; _ leaves one out"
        )
    only = source.paths()[0] if len(source.paths()) == 1 else "x"
    shape = source.shape(only) if only in source.paths() else ()
    if len(shape) > 1 and shape[-1] != len(columns):
        raise ValueError(
            f"{source.path}: {only} has {shape[-1]} columns, and --columns names {len(columns)}, "
            f"{','.join(columns)}; name each of them, _ leaves one out"
        )
    node: dict[str, Any] = {"arrays": {only: columns}}
    taken: set[str] = set()
    if given.format == "ragged":
        node["mask"] = "jagged"
        if "offsets" in source.paths():
            node["mask"] = {"offsets": "offsets", "flat": [only]}
    elif given.mask is None:
        raise ValueError(
            f"{what} needs the rule that says which slots hold an object, --mask RULE: nonzero:"
            f"{columns[0]}, field:NAME, above:NAME:VALUE, count:NAME, or all"
        )
    else:
        node["mask"], taken = _rule(given.mask)
    names = [name for name in columns if name != "_" and name not in taken]
    node["objects"] = {name: name for name in names}
    if {*_JETNET} & {*names}:
        node["axis"] = "full"
    return _with_jets(node, source) if {*_JETNET} == {*names} else node


def _rule(text: str) -> tuple[Any, set[str]]:
    """Return the node of a rule of the mask, and the columns that are no features."""
    rule, _, told = text.partition(":")
    if rule == "nonzero" and told:
        return {"nonzero": told.split(",")}, set()
    if rule == "above":
        name, _, least = told.rpartition(":")
        try:
            return {"above": {name: float(least)}}, {name}
        except ValueError:
            raise ValueError(f"--mask is {text!r}, expected above:NAME:VALUE") from None
    if rule in ("field", "count") and told:
        return {rule: told}, {told}
    if text == "all":
        return "all", set()
    raise ValueError(
        f"--mask is {text!r}, expected nonzero:NAME,..., field:NAME, above:NAME:VALUE, count:NAME "
        "or all"
    )


def _place_voxels(node: dict[str, Any], given: Given, source: Source) -> None:
    """Add the coordinates of voxels, which are the slots of a shower."""
    n = int((*source.shape("showers"), 0, 0)[1])
    if (given.voxels is None) == (not given.shape):
        raise ValueError(
            f"{source.path} holds showers of {n} voxels, and not where these are; give one of "
            "--voxels FILE, a table of the number, x, y and z of each, and --shape LAYERS,... "
            f"whose product is {n}"
        )
    if given.voxels is not None:
        number, *places = _voxel_table(given.voxels, n).T
        order = np.argsort(number)
        node["constants"] = {
            name: place[order].tolist() for name, place in zip("xyz", places, strict=True)
        }
    else:
        shape = tuple(given.shape)
        if int(np.prod(shape)) != n:
            raise ValueError(
                f"--shape is {','.join(map(str, shape))}, {int(np.prod(shape))} voxels, and "
                f"{source.path} holds showers of {n}; where layers differ, give --voxels FILE"
            )
        names = ["layer", *(f"cell{k}" for k in range(1, len(shape)))]
        cells = np.unravel_index(np.arange(n), shape)
        node["constants"] = {name: place.tolist() for name, place in zip(names, cells, strict=True)}
    node["objects"] = {name: name for name in node["constants"]} | node["objects"]


def _voxel_table(path: Path, n: int) -> Any:
    """Return the number, x, y and z of each voxel, with shape `(n, 4)`."""
    require_regular(path)
    try:
        if path.suffix == ".npy":
            table = np.load(path, allow_pickle=False)
        else:
            lines = [line.replace(",", " ").split() for line in path.read_text().splitlines()]
            lines = [line for line in lines if line and not line[0].startswith("#")]
            head = bool(lines) and not lines[0][0].replace(".", "").isdigit()
            table = np.array(lines[head:], np.float64)
    except (UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a table of voxels ({error})") from None
    if table.shape != (n, 4) or sorted(table[:, 0].tolist()) != list(range(n)):
        raise ValueError(
            f"{path} holds a table of shape {table.shape}, expected ({n}, 4): the number of each "
            f"voxel, from 0 to {n - 1}, and its x, y and z"
        )
    return table
