"""Which classes a model file may name, and how an object becomes text and comes back.

A *node* is `{"class_path": name, "init_args": {...}}`, the form that LightningCLI writes. A class
name from a file is looked up in the table below and never imported. Every class of the table keeps
its arguments as attributes of the same names, so that an object describes itself.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from setflow.data.scaling import Standardizer
from setflow.distributions.cardinality import ConditionalCardinality, EmpiricalCardinality
from setflow.fields.epic import EPiCField
from setflow.fields.gaussian import GaussianSetField
from setflow.fields.graph import GraphField
from setflow.fields.pairs import PairFeatures
from setflow.fields.transformer import TransformerField
from setflow.paths.cosine import CosinePath
from setflow.paths.linear import LinearPath
from setflow.timesteps import TimeSampling

__all__ = ["CLASSES", "build", "describe", "init_args_of"]

CLASSES: dict[str, type] = {
    "setflow.ConditionalCardinality": ConditionalCardinality,
    "setflow.CosinePath": CosinePath,
    "setflow.EPiCField": EPiCField,
    "setflow.EmpiricalCardinality": EmpiricalCardinality,
    "setflow.GaussianSetField": GaussianSetField,
    "setflow.GraphField": GraphField,
    "setflow.LinearPath": LinearPath,
    "setflow.PairFeatures": PairFeatures,
    "setflow.TimeSampling": TimeSampling,
    "setflow.TransformerField": TransformerField,
    "setflow.data.Standardizer": Standardizer,
}
_NAMES = {cls: name for name, cls in CLASSES.items()}


def describe(thing: object) -> dict[str, Any]:
    """Return the node of an object.

    Raises:
        TypeError: if its class is not in the table.

    >>> describe(LinearPath())
    {'class_path': 'setflow.LinearPath', 'init_args': {}}
    """
    name = _NAMES.get(type(thing))
    if name is None:
        raise TypeError(
            f"{type(thing).__name__} cannot be written to a model file; expected one of "
            f"{', '.join(CLASSES)}. The weights of a field of your own go to a file by "
            "safetensors.torch.save_file(field.state_dict(), name)"
        )
    arguments = {key: _plain(getattr(thing, key)) for key in _parameters(type(thing))}
    return {"class_path": name, "init_args": arguments}


def build(node: Any, *, expected: type, where: str) -> Any:
    """Return the object that a node describes.

    Arguments:
        node: what stood in the file.
        expected: the class, or a base class, that the object must have.
        where: the place in the file, for the error message.

    Raises:
        ValueError: if the node is malformed, its class is not in the table or of another kind, or
            an argument does not exist or does not fit.
    """
    if not isinstance(node, Mapping) or not isinstance(node.get("class_path"), str):
        raise ValueError(f"{where}: expected a mapping with class_path, got {node!r}")
    name = node["class_path"]
    cls = CLASSES.get(_canonical(name))
    if cls is None or not issubclass(cls, expected):
        kind = sorted(key for key, value in CLASSES.items() if issubclass(value, expected))
        raise ValueError(
            f"{where}: class {name!r} is not allowed; expected one of {', '.join(kind)}"
        )
    arguments = init_args_of(node, where)
    unknown = sorted(set(arguments) - set(_parameters(cls)))
    if unknown:
        close = difflib.get_close_matches(unknown[0], _parameters(cls), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{where}: {name} has no argument {unknown[0]!r}{hint}")
    for key, value in arguments.items():
        if isinstance(value, Mapping) and "class_path" in value:
            arguments[key] = build(value, expected=object, where=f"{where}.{key}")
    try:
        return cls(**arguments)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{where}: {name} cannot be built: {error}") from error


def init_args_of(node: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a copy of the arguments of a node, empty if it has none.

    Raises:
        ValueError: if they are not a mapping.
    """
    arguments = node.get("init_args") or {}
    if not isinstance(arguments, Mapping):
        raise ValueError(f"{where}: init_args must be a mapping, got {arguments!r}")
    return dict(arguments)


def _canonical(name: str) -> str:
    """Return the table's name of a class: configurations may give the module where it stands."""
    stem, _, last = name.rpartition(".")
    if not stem.startswith("setflow"):
        return name
    for key, cls in CLASSES.items():
        if name in (key, f"{cls.__module__}.{cls.__qualname__}"):
            return key
        if key.endswith(f".{last}") and stem in _packages(cls):
            return key
    return name


def _packages(cls: type) -> tuple[str, ...]:
    parts = cls.__module__.split(".")
    return tuple(".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _parameters(cls: type) -> tuple[str, ...]:
    names = tuple(inspect.signature(cls).parameters)
    return () if names == ("args", "kwargs") else names  # a class without __init__


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, dict):
        return dict(value)
    return describe(value) if type(value) in _NAMES else value
