"""The folder of a model, which classes it may name, and how an object becomes text and comes back.

A model folder holds `config.yaml` (the node `model: flow:` describes the object), `weights.
safetensors` (field, scaler and p(N | c)), `manifest.json` with the sha256 of both, and a card.

A *node* is `{"class_path": name, "init_args": {...}}`, the form that LightningCLI writes. A class
name from a file is looked up in the table below and never imported. Every class of the table keeps
its arguments as attributes of the same names, so that an object describes itself.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from setflow.data.scaling import Standardizer
from setflow.data.typed_scaling import TypedStandardizer
from setflow.distributions.cardinality import (
    CardinalityModel,
    ConditionalCardinality,
    EmpiricalCardinality,
)
from setflow.distributions.composition import ConditionalComposition, EmpiricalComposition
from setflow.fields.base import VectorField
from setflow.fields.epic import EPiCField
from setflow.fields.gaussian import GaussianSetField
from setflow.fields.graph import GraphField
from setflow.fields.pairs import PairFeatures
from setflow.fields.self_conditioned import SelfConditionedField
from setflow.fields.transformer import TransformerField
from setflow.files import NewFolder, dump_yaml, load_yaml, read_bounded, shortened
from setflow.fitted import Fitted
from setflow.model.angles import told_of_angles
from setflow.model.stages import some_context
from setflow.model.trust import Shapes, read_shapes, require_sizes
from setflow.paths.affine import CosinePath, LinearPath
from setflow.paths.base import ProbabilityPath
from setflow.schema import Category, Kind, Positive
from setflow.shipped import MODELS, known
from setflow.spelling import nearest
from setflow.timesteps import TimeSampling

__all__ = [
    "CARD",
    "CLASSES",
    "CONFIG",
    "MANIFEST",
    "UNBUILT",
    "WEIGHTS",
    "StoredModel",
    "architecture",
    "arguments_of",
    "build",
    "describe",
    "describe_model",
    "differences",
    "init_args_of",
    "read_folder",
    "require_same",
    "short_card",
    "takes",
    "told",
    "types_of",
    "write_folder",
]

CONFIG = "config.yaml"
WRITTEN_BY = "setflow fit writes one to runs/<name>/model"
WEIGHTS, MANIFEST, CARD = "weights.safetensors", "manifest.json", "README.md"

CLASSES: dict[str, type] = {
    "setflow.ConditionalCardinality": ConditionalCardinality,
    "setflow.ConditionalComposition": ConditionalComposition,
    "setflow.CosinePath": CosinePath,
    "setflow.EPiCField": EPiCField,
    "setflow.EmpiricalCardinality": EmpiricalCardinality,
    "setflow.EmpiricalComposition": EmpiricalComposition,
    "setflow.GaussianSetField": GaussianSetField,
    "setflow.GraphField": GraphField,
    "setflow.LinearPath": LinearPath,
    "setflow.PairFeatures": PairFeatures,
    "setflow.SelfConditionedField": SelfConditionedField,
    "setflow.TimeSampling": TimeSampling,
    "setflow.TransformerField": TransformerField,
    "setflow.data.Standardizer": Standardizer,
}
_NAMES = {cls: name for name, cls in CLASSES.items()}
# the name of the model, and those under which it stood in folders of earlier versions
_MODEL, *_FORMER = "setflow.SetFlow", "setflow.model.model.SetFlow", "setflow.generator.SetFlow"
_PARTS: dict[str, type] = {
    "field": VectorField,
    "path": ProbabilityPath,
    "scaler": Standardizer,
    "cardinality": CardinalityModel,
    "context_scaler": Standardizer,
}
_NAME_LISTS = ("features", "conditions")
_OTHERS = ("schema", "drop_context", "context_model")
_FORMAT = 1  # of a model folder
_LONGEST = 400  # characters of an error that repeats what stands in a file
# what the classes raise that are built of arguments which nobody has checked
UNBUILT = (
    TypeError, ValueError, ArithmeticError, RuntimeError, LookupError, AttributeError, MemoryError,
)  # fmt: skip


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
    if isinstance(thing, Fitted) and not thing.is_fitted:
        arguments |= dict.fromkeys(thing.given_by)
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
        raise ValueError(f"{where}: expected a mapping with class_path, got {shortened(node)}")
    name = node["class_path"]
    cls = CLASSES.get(_canonical(name))
    if cls is None or not issubclass(cls, expected):
        kind = sorted(key for key, value in CLASSES.items() if issubclass(value, expected))
        raise ValueError(
            f"{where}: class {shortened(name)} is not allowed; expected one of {', '.join(kind)}"
        )
    arguments = init_args_of(node, where)
    unknown = sorted(map(str, set(arguments) - set(_parameters(cls))))
    if unknown:
        hint = nearest(unknown[0], _parameters(cls))
        raise ValueError(f"{where}: {name} has no argument {shortened(unknown[0])}{hint}")
    for key, value in arguments.items():
        if isinstance(value, Mapping) and "class_path" in value:
            arguments[key] = build(value, expected=object, where=f"{where}.{key}")
    try:
        return cls(**arguments)
    except UNBUILT as error:
        raise ValueError(f"{where}: {name} cannot be built: {told(error)}") from error


def told(error: BaseException) -> str:
    """Return what an error says, on one short line: it may repeat what a stranger has written."""
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


def init_args_of(node: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a copy of the arguments of a node, empty if it has none.

    Raises:
        ValueError: if they are not a mapping.
    """
    arguments = node.get("init_args") or {}
    if not isinstance(arguments, Mapping):
        raise ValueError(f"{where}: init_args must be a mapping, got {shortened(arguments)}")
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
    if isinstance(value, Kind):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return dict(value)
    return describe(value) if type(value) in _NAMES else value


# --- the model ---


def describe_model(flow: Any, *, fitted: bool = True) -> dict[str, Any]:
    """Return the node of a `SetFlow`, without its weights.

    Arguments:
        flow: the model.
        fitted: with the statistics that were fitted, and not only those that were given.
    """
    parts = {name: getattr(flow, name) for name in _PARTS}
    if isinstance(parts["scaler"], TypedStandardizer):  # it follows from the schema
        parts["scaler"] = None
    arguments: dict[str, Any] = {
        name: None if part is None else describe(part) for name, part in parts.items()
    }
    for name, part in parts.items():
        if isinstance(part, Fitted) and not part.given and not fitted:
            for argument in part.given_by:
                arguments[name]["init_args"].pop(argument)
    arguments |= {name: list(getattr(flow, name)) for name in _NAME_LISTS}
    if flow.drop_context:
        arguments["drop_context"] = flow.drop_context
    if flow.context_model is not None:
        arguments["context_model"] = describe_model(flow.context_model, fitted=fitted)
    return {"class_path": _MODEL, "init_args": arguments | {"schema": flow.schema.node()}}


def takes(class_path: str, argument: str) -> bool:
    """Return whether a class that a model file may name has an argument.

    >>> takes("setflow.TransformerField", "condition_dim"), takes("setflow.LinearPath", "dim")
    (True, False)
    """
    cls = CLASSES.get(_canonical(class_path))
    return cls is not None and argument in _parameters(cls)


def architecture(flow: Any) -> dict[str, Any]:
    """Return the node of a `SetFlow` without weights, statistics, and what only names things."""
    node = describe_model(flow)
    node["init_args"].pop("schema")
    if flow.drop_context:
        node["init_args"]["drop_context"] = True  # there is a vector, however often it is taken
    if flow.context_model is not None:
        node["init_args"]["context_model"] = architecture(flow.context_model)
    kinds = {entry.name: entry.kind for entry in flow.context_features}
    if coded := {name: str(kind) for name, kind in kinds.items() if isinstance(kind, Category)}:
        node["init_args"]["categories"] = coded  # what the columns of the field mean
    if flow.types is not None:
        types = flow.types.types
        has = dict(zip(types.names, map(list, types.present), strict=True))
        node["init_args"]["types"] = has
    for name in _PARTS:
        part = getattr(flow, name)
        if isinstance(part, Fitted):
            for argument in part.given_by:
                node["init_args"][name]["init_args"].pop(argument)
    return node


def differences(one: Any, other: Any, where: str = "model.flow") -> dict[str, tuple[Any, Any]]:
    """Return where two nodes differ: the place, and what stands there in each.

    >>> a, b = describe(LinearPath()), describe(CosinePath())
    >>> differences(a, b, "path")
    {'path': ('setflow.LinearPath', 'setflow.CosinePath')}
    """
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return {} if one == other else {where: (one, other)}
    if "class_path" in one or "class_path" in other:
        names = one.get("class_path"), other.get("class_path")
        if names[0] != names[1]:
            return {where: names}
        one, other = init_args_of(one, where), init_args_of(other, where)
    found: dict[str, tuple[Any, Any]] = {}
    for key in one | other:
        found |= differences(one.get(key), other.get(key), f"{where}.{key}")
    return found


def require_same(theirs: Any, mine: Any, name: str, instead: str) -> None:
    """Refuse to give a model the weights of one that means another thing by them.

    Arguments:
        theirs: the node of the model whose weights they are, as `architecture` returns it.
        mine: the node of the model that is to take them.
        name: where the weights stand.
        instead: what to do about it.

    Raises:
        ValueError: if an argument differs, be it one that changes the shape of no weight.
    """
    different = differences(theirs, mine)
    if different:
        place, (there, here) = next(iter(different.items()))
        more = f" ({', '.join([*different][1:])} too)" if len(different) > 1 else ""
        raise ValueError(
            f"{name} is of another architecture: {place} is {there!r} there and {here!r} in the "
            f"configuration{more}; {instead}"
        )


def arguments_of(node: Any, where: str) -> dict[str, Any]:
    """Return the arguments of the `SetFlow` that a node describes.

    Arguments:
        node: what stood in the file.
        where: the place in the file, for the error message.

    Raises:
        ValueError: if the node names another class or an argument that does not exist.
    """
    if not isinstance(node, Mapping) or node.get("class_path") not in (_MODEL, *_FORMER):
        raise ValueError(f"{where}: expected class_path: {_MODEL}, got {shortened(node)}")
    arguments = init_args_of(node, where)
    unknown = sorted(map(str, set(arguments) - {*_PARTS, *_NAME_LISTS, *_OTHERS}))
    if unknown:
        raise ValueError(f"{where}: SetFlow has no argument {shortened(unknown[0])}")
    for name, kind in _PARTS.items():
        if arguments.get(name) is not None:
            if kind is Standardizer:
                arguments[name] = _with_kinds(arguments[name], f"{where}.{name}")
            arguments[name] = build(arguments[name], expected=kind, where=f"{where}.{name}")
    if arguments.get("field") is None:
        raise ValueError(f"{where}: the node has no field")
    return arguments


def _with_kinds(node: Any, where: str) -> Any:
    """Return the node of a `Standardizer` whose transforms are kinds, as they once were not.

    Raises:
        ValueError: if they cannot be read.
    """
    arguments = init_args_of(node, where) if isinstance(node, Mapping) else {}
    if "boxcox" not in arguments:
        return node
    try:
        kinds = ["real"] * int(arguments.get("dim") or len(arguments["mean"]))
        for place, power in (arguments.pop("boxcox") or {}).items():
            kinds[int(place)] = str(Positive(boxcox=power))
    except UNBUILT as error:
        raise ValueError(f"{where}: boxcox cannot be read: {told(error)}") from error
    return {**node, "init_args": {**arguments, "kinds": kinds}}


def types_of(flow: Any) -> str:
    """Return the types of the objects of a `SetFlow` that has some, with their shares, in words.

    They are the combinations of its categories that the training had.
    """
    found = flow.scaler.objects / flow.scaler.objects.sum()
    told: str = flow.types.types.in_words(found.tolist())
    return told


def short_card(flow: Any, name: str) -> str:
    """Return the card of a model that was given none.

    Arguments:
        flow: the `SetFlow`.
        name: that of its folder.
    """
    parameters = sum(p.numel() for p in flow.field.parameters())
    context = json.dumps(some_context(flow)) if flow.scaler.is_fitted else "{}"
    asked = "" if context == "{}" else f"{context}, "
    return (
        f"# {name}\n\n"
        f"A flow-matching model of sets with the features {', '.join(flow.features)}: "
        f"{type(flow.field).__name__} with {parameters:,} parameters"
        + (f", conditioned on {', '.join(flow.conditions)}" if flow.conditions else "")
        + (f". The types of the objects are {types_of(flow)}" if flow.types is not None else "")
        + "".join(f". {name} stands {what}" for name, what in told_of_angles(flow).items())
        + (
            f"; {' and '.join(flow.context_model.features)} are made first, by a model of their own"
            if flow.context_model is not None
            else ""
        )
        + ".\n\n"
        "```python\nimport setflow\n\n"
        f'flow = setflow.SetFlow.load("{name}")\nbatch = flow.sample(1000, {asked}seed=1)\n```\n\n'
        f"`{MANIFEST}` holds the sha256 of `{CONFIG}` and `{WEIGHTS}`; loading verifies "
        "them.\n"
    )


# --- its folder ---


class StoredModel(NamedTuple):
    """What a model folder holds.

    Attributes:
        node: the node of the model, verified.
        where: its place, for error messages.
        shapes: those of the tensors, by name, as the file tells them.
        path: the file of the weights.
        sha256: its hash.
    """

    node: Any
    where: str
    shapes: Shapes
    path: Path
    sha256: str

    def weights(self) -> dict[str, Tensor]:
        """Return the tensors by name, verified.

        Raises:
            ValueError: if they were changed, or cannot be read.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        content = self.path.read_bytes()
        _verify(self.path, content, self.sha256)
        try:
            return load(content)
        except SafetensorError as error:
            raise ValueError(f"{self.path} cannot be read: {told(error)}") from error


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    card: str,
    *,
    training: Mapping[str, Any] | None = None,
    overwrite: bool,
) -> None:
    """Write a model folder, which appears when it is complete.

    Raises:
        OSError: if it exists and may not be replaced, or cannot be written where it is to be.
    """
    from safetensors.torch import save

    with NewFolder(folder, overwrite=overwrite, marker=MANIFEST) as new:
        (new / CONFIG).write_text(dump_yaml(dict(config)))
        tensors = {key: value.cpu().contiguous() for key, value in weights.items()}
        (new / WEIGHTS).write_bytes(save(tensors))  # its own file is readable by nobody else
        hashes = {name: _sha256((new / name).read_bytes()) for name in (CONFIG, WEIGHTS)}
        manifest: dict[str, Any] = {"format": _FORMAT, "files": hashes}
        if training is not None:
            manifest["training"] = dict(training)
        (new / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        (new / CARD).write_text(card)


def read_folder(folder: Path) -> StoredModel:
    """Read a model folder, its configuration verified against its manifest.

    Of the weights only the shapes are read: `StoredModel.weights` reads them, when it is known that
    they are those of the configuration.

    Raises:
        FileNotFoundError: if the folder or one of its files is not there.
        ValueError: if a hash does not match, or the files do not describe a model.
    """
    import yaml

    hashes = _hashes(folder)
    content = read_bounded(folder / CONFIG, 2**20)
    _verify(folder / CONFIG, content, hashes[CONFIG])
    where = f"{folder / CONFIG}: model.flow"
    try:
        node = load_yaml(content.decode())["model"]["flow"]
    except (yaml.YAMLError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        why = f" ({told(error)})" if isinstance(error, (yaml.YAMLError, ValueError)) else ""
        raise ValueError(
            f"{folder / CONFIG} has no node model: flow:, so it describes no model{why}"
        ) from error
    shapes = read_shapes(folder / WEIGHTS)
    require_sizes(node, shapes, where)
    return StoredModel(node, where, shapes, folder / WEIGHTS, hashes[WEIGHTS])


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _verify(path: Path, content: bytes, sha256: str) -> None:
    got = _sha256(content)
    if got != sha256:
        raise ValueError(
            f"{path} does not match its hash in {MANIFEST} (expected {sha256[:12]}, got "
            f"{got[:12]}): it was changed or damaged after it was written; fetch or train the "
            "model again"
        )


def _hashes(folder: Path) -> dict[str, str]:
    """Return the hashes of the files of a model folder, as its manifest tells them."""
    if folder.is_file():
        raise NotADirectoryError(
            f"{folder} is a file, expected the folder of a model, such as runs/<name>/model; "
            f"{known(MODELS)}"
        )
    if not folder.is_dir():
        raise FileNotFoundError(f"no model folder at {folder}; {known(MODELS, folder)}")
    missing = [name for name in (CONFIG, WEIGHTS, MANIFEST) if not (folder / name).is_file()]
    if missing:
        inside = folder / "model"
        written = f"its model is {inside}" if (inside / MANIFEST).is_file() else WRITTEN_BY
        raise FileNotFoundError(
            f"{folder} is no model folder: it lacks {', '.join(missing)}; {written}"
        )
    try:
        manifest = json.loads(read_bounded(folder / MANIFEST))
        hashes = {name: str(manifest["files"][name]) for name in (CONFIG, WEIGHTS)}
        version = manifest["format"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{folder / MANIFEST} is not a manifest of hashes") from error
    if version != _FORMAT:
        raise ValueError(
            f"{folder / MANIFEST} is of format {shortened(version)}, and this version of setflow "
            f"reads {_FORMAT}; install a newer one, or fetch a model for this one"
        )
    return hashes
