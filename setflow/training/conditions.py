"""What the conditions of a model are, where only the data of its training tell."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

from yaml import safe_dump

from setflow.data.contexts import context_features
from setflow.data.hdf5 import read_events
from setflow.data.header import read_header
from setflow.data.typed_scaling import TypedStandardizer
from setflow.model.encoding import context_columns
from setflow.model.folder import takes
from setflow.model.parts import schema_for
from setflow.schema import (
    JETNET,
    KEPT_FEATURES,
    Category,
    Feature,
    GivenSchema,
    ObjectTypes,
    Schema,
    event_of,
    lists_objects,
    schema_of,
)
from setflow.training.files import CLASS, Files, classes_of, files_of, is_there, require_class

__all__ = ["complete", "described", "features_of"]


def complete(arguments: MutableMapping[str, Any], train: Files) -> None:
    """Complete the arguments of a model in a configuration by what its training files say.

    The schema is that of the first file where the configuration names none; conditions are what the
    files say of them; and a field or p(N | c) that leaves its `condition_dim` open gets as many
    columns as the conditions make. Where objects have types, so do the `object_condition_dim` of
    the field and the `types` of the composition. A field that leaves its `angles` open gets the
    features of kind `angle`.

    Arguments:
        arguments: those of the model, with its parts as `class_path` and `init_args`; changed.
        train: the training files.

    Raises:
        FileNotFoundError: if the first file is asked for a condition and is not there.
        ValueError: if it lacks features that the schema names; it prints the schema of the file.
    """
    features, conditions = (tuple(arguments.get(key) or ()) for key in ("features", "conditions"))
    schema = _of_file(arguments.get("schema"), features, files_of(train)[0].path)
    columns = 0
    if conditions:
        schema = described(schema, conditions, train)
        columns = len(context_columns(features_of(schema, conditions)))
        if arguments.get("context_model") is not None:
            _complete_context_model(arguments["context_model"], schema, conditions)
    if schema is not None:
        arguments["schema"] = schema.node() if isinstance(schema, Schema) else schema
    types = _types_of(arguments, schema)
    if types is None:
        _widen(arguments.get("field"), columns)
    else:
        rows = columns + len(types.columns)
        _widen(arguments.get("field"), rows, "object_condition_dim")
        _widen(arguments.get("cardinality"), len(types), "types")
    _widen(arguments.get("cardinality"), columns)
    _name_angles(arguments)


def _types_of(arguments: Mapping[str, Any], schema: GivenSchema) -> ObjectTypes | None:
    """Return the types of the objects that a model makes, None if they have none."""
    features, conditions = (tuple(arguments.get(key) or ()) for key in ("features", "conditions"))
    node = arguments.get("cardinality")
    by_law = node is not None and takes(str(node["class_path"]), "types")
    try:
        scaler = schema_for(schema, features or None, conditions, None, with_types=by_law)[2]
    except ValueError:  # the model says it
        return None
    return scaler.types if isinstance(scaler, TypedStandardizer) else None


def _complete_context_model(
    node: MutableMapping[str, Any], schema: GivenSchema, conditions: Sequence[str]
) -> None:
    """Complete the node of a context model: what it makes and takes is what the conditions are.

    It makes the conditions that are numbers on a line, and takes the others, unless it says so.
    """
    inner = _arguments(node)
    known = {entry.name: entry for entry in features_of(schema, conditions)}
    if not inner.get("features"):
        taken = inner.get("conditions") or ()
        numbers = [name for name, entry in known.items() if entry.of_kind.on_a_line]
        inner["features"] = [name for name in numbers if name not in taken]
    if not inner.get("conditions"):
        inner["conditions"] = [name for name in known if name not in inner["features"]]
    made, taken = (
        [known[name] for name in inner[key] if name in known] for key in ("features", "conditions")
    )
    if not inner.get("schema"):
        apart = [replace(entry, derived=False) for entry in made]  # of no objects that are there
        inner["schema"] = Schema(apart, taken).node()
    _widen(inner.get("field"), len(context_columns(taken)))
    _name_angles(inner)


def _widen(
    node: MutableMapping[str, Any] | None, width: int, argument: str = "condition_dim"
) -> None:
    """Give a part that leaves a size open that of the columns of its context, or of the types."""
    if width and node and takes(str(node["class_path"]), argument):
        arguments = _arguments(node)
        if not arguments.get(argument):
            arguments[argument] = width


def _name_angles(model: MutableMapping[str, Any]) -> None:
    """Give the field of a model that leaves its `angles` open the features that are angles.

    Arguments:
        model: the arguments of the model, with its schema, if it has one.
    """
    node, given = model.get("field"), model.get("schema")
    if not node or not lists_objects(given) or not takes(str(node["class_path"]), "angles"):
        return
    angles = list(schema_of(given).angles(model.get("features") or None))
    if angles and not _arguments(node).get("angles"):
        _arguments(node)["angles"] = angles


def _arguments(node: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Return the arguments of a node, to be changed."""
    if node.get("init_args") is None:
        node["init_args"] = {}
    arguments: MutableMapping[str, Any] = node["init_args"]
    return arguments


def _of_file(given: GivenSchema, features: Sequence[str], path: str) -> GivenSchema:
    """Return the schema of a model: that of a file of version 2 where the model names no objects.

    Raises:
        ValueError: if the file lacks features that the model names.
    """
    if not is_there(path):  # reading it says what is wrong
        return given
    header = read_header(path)
    if header.layout_version == 1:
        return given
    if not lists_objects(given):
        held, event = header.schema, {entry.name: entry for entry in header.schema.event}
        event |= {entry.name: entry for entry in event_of(given)}
        return replace(held, event=tuple(event.values())).node()
    asked = features or schema_of(given).generated
    if missing := [name for name in asked if name not in header.features]:
        node = safe_dump(header.schema.node(), default_flow_style=True, sort_keys=False, width=1e9)
        raise ValueError(
            f"{path} has no feature '{missing[0]}', which the schema of the model names; leave "
            f"schema out, and that of the file is taken, or write schema: {node.strip()}"
        )
    return given


def described(schema: GivenSchema, conditions: Sequence[str], train: Files) -> GivenSchema:
    """Return the schema that a model is given, with what the files say of its conditions.

    Arguments:
        schema: the schema, its node, which need not list the objects, or its name; None for that of
            jets.
        conditions: the names of the conditions.
        train: the training files. Those of several classes give the category `class`; a condition
            that no schema knows is a number in the unit of the first file, or what the context of
            that file says of it.

    Raises:
        FileNotFoundError: if the first file is asked for a condition and is not there.
        ValueError: if it does not have it, or the schema is malformed.

    >>> described("jetnet", ["class"], {"top": "a.h5", "gluon": "b.h5"}).of_event("class").kind
    Category(names=('top', 'gluon'))
    """
    event = {entry.name: entry for entry in event_of(schema)}
    known = {entry.name for entry in (*JETNET.event, *KEPT_FEATURES)}
    classes = classes_of(train)
    added = {}
    for name in conditions:
        if name in event:
            continue
        if name == CLASS and classes:
            added[name] = Feature(CLASS, kind=Category(classes))
        elif not lists_objects(schema) and name not in known:
            added[name] = _told(files_of(train)[0].path, name)
    if not added:
        return schema
    listed = (*event.values(), *added.values())
    if lists_objects(schema):
        return replace(schema_of(schema), event=listed)
    return {"event": [entry.node() for entry in listed]}


def features_of(
    schema: GivenSchema, conditions: Sequence[str], classes: Sequence[str] = ()
) -> tuple[Feature, ...]:
    """Return what conditions are, in order.

    The schema tells it, or the classes, or JetNet's layout; else they are numbers.

    Arguments:
        schema: as `described` takes it.
        conditions: the names.
        classes: the names of the classes of the files of a training.
    """
    known = {entry.name: entry for entry in (*JETNET.event, *KEPT_FEATURES)}
    if classes:
        known[CLASS] = Feature(CLASS, kind=Category(tuple(classes)))
    known |= {entry.name: entry for entry in event_of(schema)}
    return tuple(known.get(name, Feature(name)) for name in conditions)


def _told(path: str, name: str) -> Feature:
    """Return what a file says of a condition."""
    for feature in context_features(path):
        if feature.name == name:
            return feature
    if name == CLASS:
        require_class(path)
    return read_events(path, stop=0, conditions=[name]).schema.of_event(name)
