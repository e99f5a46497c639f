"""What the conditions of a model are, where only the data of its training tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from setflow.data.contexts import context_features
from setflow.data.hdf5 import read_events
from setflow.schema import JETNET, Category, Feature, Schema, schema_of
from setflow.training.files import CLASS, Files, classes_of, files_of

__all__ = ["described", "features_of"]

GivenSchema = Schema | Mapping[str, Any] | str | None


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
    complete = schema is not None and not (isinstance(schema, Mapping) and "objects" not in schema)
    event = {entry.name: entry for entry in _event(schema)}
    known = {entry.name for entry in JETNET.event}
    classes = classes_of(train)
    added = {}
    for name in conditions:
        if name in event:
            continue
        if name == CLASS and classes:
            added[name] = Feature(CLASS, kind=Category(classes))
        elif not complete and name not in known:
            added[name] = _told(files_of(train)[0].path, name)
    if not added:
        return schema
    listed = (*event.values(), *added.values())
    if complete:
        return replace(schema_of(schema), event=listed)  # type: ignore[arg-type]
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
    known = {entry.name: entry for entry in JETNET.event}
    if classes:
        known[CLASS] = Feature(CLASS, kind=Category(tuple(classes)))
    known |= {entry.name: entry for entry in _event(schema)}
    return tuple(known.get(name, Feature(name)) for name in conditions)


def _event(schema: GivenSchema) -> Sequence[Feature]:
    """Return the features of an event that a schema lists."""
    if schema is None:
        return ()
    if isinstance(schema, Mapping) and "objects" not in schema:
        return Schema.from_node({"objects": ["x"], **schema}).event
    return schema_of(schema).event


def _told(path: str, name: str) -> Feature:
    """Return what a file says of a condition."""
    for feature in context_features(path):
        if feature.name == name:
            return feature
    return read_events(path, stop=0, conditions=[name]).schema.of_event(name)
