"""Whether the parts of a model belong together, and whether their statistics are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from setflow.data.scaling import Standardizer
from setflow.data.typed_scaling import TypedStandardizer
from setflow.distributions.cardinality import CardinalityModel
from setflow.distributions.composition import Composition
from setflow.fitted import Fitted
from setflow.model.encoding import ContextEncoder
from setflow.schema import (
    JETNET,
    KEPT_FEATURES,
    TYPE,
    Category,
    Feature,
    Kind,
    ObjectTypes,
    Schema,
    event_of,
    kind_of,
    lists_objects,
    names,
    schema_of,
)
from setflow.sets.arrays import shown

__all__ = [
    "FOR_USE",
    "NOT_FOR_USE",
    "check_parts",
    "distinct_names",
    "require_statistics",
    "schema_for",
]


# layers that are another function in training than in use
NOT_FOR_USE = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
FOR_USE = "it holds dropout or batch normalisation in training mode: call flow.eval() before"


def check_parts(
    parts: Mapping[str, nn.Module | None],
    cardinality: CardinalityModel | None,
    features: Sequence[str],
    context: ContextEncoder,
    types: ObjectTypes | None = None,
) -> None:
    """Check that the parts of a model fit its features and conditions.

    Arguments:
        parts: `field`, `scaler` and `context_scaler`.
        cardinality: the cardinality model, or None.
        features: the names of the features.
        context: what the conditions are, and what the field gets of them.
        types: the types of the objects, or None.

    Raises:
        TypeError: if one is text or a class, or a part stands in the place of another.
        ValueError: if one does not.
    """
    for name, part in {**parts, "cardinality": cardinality}.items():
        if part is not None and not isinstance(part, nn.Module):
            raise TypeError(
                f"{name} is {shown(part)}, expected an object, made by a call of its class"
                + (", such as setflow.EmpiricalCardinality(30)" if name == "cardinality" else "")
                + ", or None"
            )
    swapped = [name for name, part in parts.items() if isinstance(part, CardinalityModel)]
    if swapped or not isinstance(cardinality, CardinalityModel | None):
        name, part = (
            ("cardinality", cardinality) if not swapped else (swapped[0], parts[swapped[0]])
        )
        raise TypeError(
            f"{name} is {shown(part)}; expected a cardinality model such as "
            "setflow.EmpiricalCardinality(30) as cardinality, and nowhere else"
        )
    if types is not None:  # of a category the field gets no number
        features = [types.features[k].name for k in types.numbers]
    scaled = [context.conditions[k] for k in context.scaled]
    for name, part in parts.items():
        count = len(scaled if name == "context_scaler" else features)
        dim = getattr(part, "dim", count)  # a field of one's own need not tell, nor below
        if dim != count:
            which = "conditions" if name == "context_scaler" else "features"
            what = ", ".join(scaled) or "none, for only numbers on a line are scaled"
            raise ValueError(
                f"{name} has dim={dim}, but there are {count} names: features "
                f"{', '.join(features)}; conditions {what}; build it with dim={count}, or name as "
                f"many by {which}="
            )
    field = parts["field"]
    if types is not None:
        _check_types(field, cardinality, context, types)
        return
    if isinstance(cardinality, Composition):
        raise ValueError(
            f"cardinality is a law of the types of objects ({cardinality.types}), and no feature "
            f"of an object is a category: they are {', '.join(features)}; name one, or take "
            "setflow.EmpiricalCardinality"
        )
    for option in ("object_condition_dim", "set_condition_dim"):
        if getattr(field, option, 0):
            raise ValueError(
                f"field has {option}={getattr(field, option)}, but a SetFlow has one context row "
                "per event; give such contexts to the verbs, setflow.masked_fm_loss and "
                "setflow.masked_sample"
            )
    width, known = len(context.columns), ", ".join(context.conditions) or "none"
    there = f"but there are {len(context.conditions)} conditions: {known}"
    if context.columns != context.conditions:
        there += f", which make {width} columns: {', '.join(context.columns)}"
    asked = getattr(field, "condition_dim", width)
    if asked != width:
        raise ValueError(
            f"field has condition_dim={asked}, {there}; build it with condition_dim={width}, or "
            "name as many conditions as it takes"
        )
    _check_conditions_of(cardinality, width, there)


def _check_conditions_of(cardinality: CardinalityModel | None, width: int, there: str) -> None:
    """Refuse a p(N | c) of another context; `there` says which there is."""
    asked = 0 if cardinality is None else cardinality.condition_dim
    if asked not in (0, width):
        raise ValueError(
            f"cardinality has condition_dim={asked}, {there}; give as many ({width}), or take "
            "setflow.EmpiricalCardinality, which needs none"
        )


def _check_types(
    field: nn.Module | None,
    cardinality: CardinalityModel | None,
    context: ContextEncoder,
    types: ObjectTypes,
) -> None:
    """Check that field and composition fit the types of objects, and the conditions.

    Raises:
        ValueError: if one does not.
    """
    width = len(context.columns) + len(types.columns)
    columns = ", ".join((*context.columns, *types.columns))
    asked = getattr(field, "object_condition_dim", width)
    if asked != width or getattr(field, "condition_dim", 0):
        raise ValueError(
            f"field has object_condition_dim={asked} and condition_dim="
            f"{getattr(field, 'condition_dim', 0)}, but objects have types, so that it gets a row "
            f"per object with {width} columns: {columns}; build it with "
            f"object_condition_dim={width} and without condition_dim"
        )
    if cardinality is not None and getattr(cardinality, "types", 1) != len(types):
        got = getattr(cardinality, "types", 1)
        raise ValueError(
            f"cardinality is {type(cardinality).__name__} for {got} type{'s' * (got != 1)}, but "
            f"there are {len(types)} types of objects: {', '.join(types.names)}; give "
            f"setflow.EmpiricalComposition({len(types)}, {cardinality.max_objects})"
        )
    there = f"but there are {len(context.conditions)} conditions"
    _check_conditions_of(cardinality, len(context.columns), there)


def distinct_names(**given: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return the names of features and conditions as tuples.

    Raises:
        ValueError: if one is a single text, or holds a name twice.
    """
    for what, listed in given.items():
        if isinstance(listed, str) or len(set(listed)) < len(listed):
            raise ValueError(f"{what} are {listed!r}, expected a sequence of names, all different")
    return tuple(tuple(listed) for listed in given.values())


def schema_for(
    given: Schema | Mapping[str, object] | str | None,
    features: Sequence[str] | None,
    conditions: Sequence[str],
    scaler: Standardizer | None,
    *,
    with_types: bool = False,
) -> tuple[Schema, tuple[str, ...], Standardizer | TypedStandardizer]:
    """Return the schema of a model, the features that it generates, and their scaler, in agreement.

    Arguments:
        given: the schema, its node, or `jetnet`; None describes features and conditions by what
            JETNET says of their names, as far as it knows them, of the kinds of the scaler. A node
            without `objects` does so, too, but for the features of the event that it lists.
        features: the names of the features; None takes all that can be generated.
        conditions: the names of the context features.
        scaler: the scaler; None makes one.
        with_types: whether `features` None takes categories of objects, too.

    Raises:
        ValueError: if a name is not in the schema, a feature cannot be generated, or the scaler
            takes one for another kind than the schema.
    """
    if not lists_objects(given):
        event = {entry.name: entry for entry in event_of(given)}
        listed = JETNET.generated if features is None else tuple(features)
        listed += (TYPE.name,) if with_types and features is None else ()
        told = scaler.kinds if isinstance(scaler, Standardizer) else ()
        kinds: dict[str, Kind] = dict(zip(listed, told, strict=False))
        known = {
            entry.name: entry for entry in (*JETNET.objects, TYPE, *JETNET.event, *KEPT_FEATURES)
        }
        for name in conditions:
            event.setdefault(name, _of_kind(known.get(name, Feature(name)), "real"))
        schema = Schema(
            [
                _of_kind(known.get(name, Feature(name)), kinds.get(name, "real"))
                if name != TYPE.name
                else TYPE
                for name in listed
            ],
            tuple(event.values()),
            JETNET.order_by if JETNET.order_by in listed else None,
        )
    else:
        schema = schema_of(given)
        asked = (features is None and with_types) or TYPE.name in (features or ())
        if asked and schema == JETNET:
            schema = replace(schema, objects=(*schema.objects, TYPE))
        if features is None:
            taken = schema.generated + (names(schema.categories) if with_types else ())
            listed = tuple(entry.name for entry in schema.objects if entry.name in taken)
        else:
            listed = tuple(features)
        for name in listed:
            feature = schema.object(name)
            if feature.derived:
                raise ValueError(
                    f"feature '{name}' is derived: other objects determine it, so that the density "
                    "of all of them together is singular; leave it out, and compute it from what "
                    "the model makes"
                )
            if not (feature.of_kind.is_generated or isinstance(feature.kind, Category)):
                raise ValueError(
                    f"feature '{name}' is of kind {schema.object(name).kind}, which a model does "
                    f"not generate; it can generate {', '.join(schema.generated) or 'none'}"
                )
        for name in conditions:
            schema.of_event(name)
    if any(isinstance(schema.object(name).kind, Category) for name in listed):
        types = ObjectTypes([schema.object(name) for name in listed])
        if scaler is not None:
            raise ValueError(
                "the objects have types, and features are scaled by type; leave scaler out, and "
                "call flow.fit_statistics(batch) with the training events"
            )
        if not types.numbers:
            raise ValueError(f"features {', '.join(listed)} hold no number that is to be made")
        return schema, listed, TypedStandardizer(types)
    for name in listed:
        if schema.object(name).absent:
            raise ValueError(
                f"feature '{name}' is absent in {', '.join(schema.object(name).absent)}, so that a "
                "model of it makes types, too: let cardinality be a setflow.EmpiricalComposition "
                f"or setflow.ConditionalComposition, or leave '{name}' out of features"
            )
    if scaler is None:
        kinds_of = [schema.object(name).of_kind for name in listed]
        return schema, listed, Standardizer(len(listed), kinds=kinds_of)
    if isinstance(scaler, Standardizer) and scaler.dim == len(listed):
        for name, kind in zip(listed, scaler.kinds, strict=True):
            said = schema.object(name).of_kind
            if said != kind and not (said.is_identity and kind.is_identity):
                raise ValueError(
                    f"feature '{name}' is of kind {said} in the schema, and the scaler takes it as "
                    f"{kind}; leave scaler out, or let both say the same"
                )
    return schema, listed, scaler


def _of_kind(feature: Feature, kind: Kind | str) -> Feature:
    """Return the feature, of another kind if that is scaled otherwise; an angle stays wrapped."""
    kind = kind_of(kind)
    same = kind == feature.kind or (kind.is_identity and feature.of_kind.is_identity)
    usual = Feature(feature.name, kind=feature.kind).limits == feature.limits
    return (
        feature if same else replace(feature, kind=kind, limits=None if usual else feature.limits)
    )


def require_statistics(**parts: Fitted | None) -> None:
    """Raise unless all parts have their statistics.

    Raises:
        ValueError: if some were neither given nor fitted.
    """
    lacking = [name for name, part in parts.items() if part is not None and not part.is_fitted]
    if lacking:
        raise ValueError(
            f"the model has no statistics for its {' and '.join(lacking)}, they were never fitted; "
            "call flow.fit_statistics(batch) with the training events, load a trained model by "
            "SetFlow.load, or give them: setflow.data.Standardizer(mean=..., std=...) (mean 0 and "
            "std 1 leave features as they are), setflow.EmpiricalCardinality(counts=...)"
        )
