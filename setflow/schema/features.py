"""Features by name, and the schema: the one description of what the events of a file or model are.

A schema lists the features of an object and those of the event. It is an object, `Schema`, and a
node of plain values (`Schema.node`), which stands in configurations, model folders and files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from setflow.schema.kinds import KINDS, Angle, Category, Kind, kind_of
from setflow.schema.units import misspelt
from setflow.spelling import nearest

__all__ = ["Feature", "Limits", "Schema", "axis_label", "names"]


@dataclass(frozen=True)
class Limits:
    """What a feature can be: from `low` to `high`, or above `low` if it is `strict`.

    A value beyond is none that was measured: it tells of another unit, of padding that is called
    real, or of a model that is wrong.

    >>> str(Limits(0, 2, strict=True)), str(Limits(-20, 20)), str(Limits(0)), str(Limits())
    ('above 0 and at most 2', 'from -20 to 20', 'at least 0', 'any')
    """

    low: float = -math.inf
    high: float = math.inf
    strict: bool = False

    def __post_init__(self) -> None:
        for end in (self.low, self.high):
            if isinstance(end, bool) or not isinstance(end, (int, float)):
                raise TypeError(f"limits hold {end!r}, expected numbers")
        if not self.low <= self.high:
            raise ValueError(
                f"limits go from {self.low:g} to {self.high:g}, expected the lower one first"
            )

    def __str__(self) -> str:
        if not self.strict and math.isfinite(self.low) and math.isfinite(self.high):
            return f"from {self.low:g} to {self.high:g}"
        parts = [f"{'above' if self.strict else 'at least'} {self.low:g}"]
        parts = parts if self.low > -math.inf else []
        parts += [f"at most {self.high:g}"] if self.high < math.inf else []
        return " and ".join(parts) or "any"


@dataclass(frozen=True)
class Feature:
    """One feature of an object or of an event.

    Arguments:
        name: its name, by which it is looked up in files.
        unit: its unit, "" if it has no dimension.
        kind: what values it takes, such as `positive` (`setflow.schema.kinds`).
        label: what axes are labelled with, in mathtext; "" takes the name.
        meaning: what it is, in words.
        limits: what it can be; None takes what follows from its kind.
        absent: the names of the types whose objects do not have it, such as `photon` of a mass:
            names of the categories of an object. A file holds 0 there.
        derived: whether other objects, or all of an event, determine it, as they do the sum of the
            transverse momenta: together with them it has no density.

    Raises:
        TypeError: if something is of another type.
        ValueError: if the name is empty or holds a comma, the kind does not exist or stands in the
            place of the unit, the unit is a known one in letters of another case, or an angle has
            another unit than rad.

    >>> Feature("energy", "GeV", "positive").limits
    Limits(low=0.0, high=inf, strict=True)
    """

    name: str
    unit: str = ""
    kind: Kind | str = "real"
    label: str = ""
    meaning: str = ""
    limits: Limits | None = None
    absent: Sequence[str] = ()
    derived: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or "," in self.name:
            raise ValueError(
                f"a feature is named {self.name!r}, expected a text without commas, not empty"
            )
        for part in ("unit", "label", "meaning"):
            if not isinstance(value := getattr(self, part), str):
                raise TypeError(f"feature '{self.name}': {part} is {value!r}, expected a text")
        if self.unit.partition("(")[0].strip() in KINDS:
            raise ValueError(
                f"feature '{self.name}' has the unit '{self.unit}', which is a kind; write "
                f"kind='{self.unit}'"
            )
        if usual := misspelt(self.unit):
            raise ValueError(
                f"feature '{self.name}' has the unit '{self.unit}', expected '{usual}': units "
                "differ by the case of their letters"
            )
        absent = tuple(self.absent)
        if isinstance(self.absent, str) or not all(isinstance(name, str) for name in absent):
            raise TypeError(
                f"feature '{self.name}': absent is {self.absent!r}, expected a list of the names "
                "of types"
            )
        object.__setattr__(self, "absent", absent)
        if not isinstance(self.derived, bool):
            raise TypeError(f"feature '{self.name}': derived is {self.derived!r}, expected a bool")
        if not isinstance(self.limits, Limits | None):
            raise TypeError(
                f"feature '{self.name}': limits is {self.limits!r}, expected "
                "setflow.schema.Limits(low, high)"
            )
        try:
            kind = kind_of(self.kind)
        except (TypeError, ValueError) as error:
            raise type(error)(f"feature '{self.name}': {error}") from None
        if kind.is_angle and self.unit not in ("rad", ""):
            raise ValueError(
                f"feature '{self.name}' is of kind {kind} in units of '{self.unit}', expected rad; "
                "a file whose columns stand in degrees says so by the attribute units of its "
                "dataset, and is converted in reading"
            )
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "label", self.label or self.name.replace("_", " "))
        if self.limits is None:
            low, high = kind.bounds
            object.__setattr__(self, "limits", Limits(low, high, strict=low > -math.inf))

    @property
    def of_kind(self) -> Kind:
        """Its kind, as an object."""
        assert isinstance(self.kind, Kind)
        return self.kind

    def node(self) -> dict[str, Any]:
        """Return it as plain values, those that are not the default."""
        usual = Feature(self.name, kind=self.kind)
        told: dict[str, Any] = {"name": self.name}
        for key in ("unit", "label", "meaning"):
            if getattr(self, key) != getattr(usual, key):
                told[key] = getattr(self, key)
        if str(self.kind) != "real":
            told["kind"] = str(self.kind)
        if self.limits != usual.limits:
            limits = asdict(self.bounds)
            told["limits"] = {k: v for k, v in limits.items() if v != getattr(Limits(), k)}
        told |= {"absent": list(self.absent)} if self.absent else {}
        return told | ({"derived": True} if self.derived else {})

    @property
    def bounds(self) -> Limits:
        """Its limits, which are there whether they were given or follow from its kind."""
        assert self.limits is not None
        return self.limits


@dataclass(frozen=True)
class Schema:
    """What the events of a file or of a model hold: features of their objects, and of the event.

    Arguments:
        objects: the features of an object, in the order in which a model holds them.
        event: the features of an event, such as a model may be conditioned on.
        order_by: the feature of an object by which the largest come first where objects are cut
            away; None keeps the order of the file.

    Raises:
        ValueError: if there is no feature of an object, a name stands twice, `order_by` is no
            feature with values on a line, or a feature is absent in a type that does not exist.

    >>> rings = Schema([Feature("x", "mm"), Feature("charge", kind="category(minus, plus)")])
    >>> rings.generated, rings.left_out
    (('x',), ('charge',))
    >>> Schema.from_node(rings.node()) == rings
    True
    """

    objects: Sequence[Feature]
    event: Sequence[Feature] = ()
    order_by: str | None = None

    def __post_init__(self) -> None:
        for part in ("objects", "event"):
            given = getattr(self, part)
            if isinstance(given, str | Feature) or not isinstance(given, Iterable):
                raise TypeError(
                    f"{part} is {given!r}, expected a list of setflow.schema.Feature(...)"
                )
            given = tuple(given)
            object.__setattr__(self, part, given)
            if wrong := [entry for entry in given if not isinstance(entry, Feature)]:
                raise TypeError(f"{part} holds {wrong[0]!r}, expected setflow.schema.Feature(...)")
            held = names(given)
            if twice := [name for name in held if held.count(name) > 1]:
                raise ValueError(f"the schema has '{twice[0]}' twice among its {part}")
        if not self.objects:
            raise ValueError("the schema has no feature of an object, expected at least one")
        if self.order_by is not None and not self.object(self.order_by).of_kind.on_a_line:
            raise ValueError(
                f"order_by is '{self.order_by}', which is no number on a line; expected one of "
                f"{', '.join(entry.name for entry in self.objects if entry.of_kind.on_a_line)}"
            )

        known = [name for entry in self.categories for name in kind_names(entry)]
        for entry in self.objects:
            for name in entry.absent:
                if name not in known:
                    raise ValueError(
                        f"'{entry.name}' is said to be absent in '{name}', expected names of the "
                        f"categories of an object: {', '.join(known) or 'there are none'}"
                        + nearest(name, known)
                    )
        if lacking := [entry.name for entry in self.event if entry.absent]:
            raise ValueError(
                f"'{lacking[0]}' is a feature of the event and absent in a type, expected one of an"
                " object"
            )

    @property
    def categories(self) -> tuple[Feature, ...]:
        """The features of an object that are categories: together they are its type."""
        return tuple(entry for entry in self.objects if isinstance(entry.kind, Category))

    @property
    def generated(self) -> tuple[str, ...]:
        """The names of the features of an object that a model can generate: numbers and angles."""
        return tuple(entry.name for entry in self.objects if _is_generated(entry))

    @property
    def left_out(self) -> tuple[str, ...]:
        """The names of the others, which files hold and models do not make by themselves.

        They are what other objects determine, and categories, which a model with types makes
        (`setflow.Composition`).
        """
        return tuple(entry.name for entry in self.objects if not _is_generated(entry))

    def angles(self, features: Sequence[str] | None = None) -> tuple[int, ...]:
        """Return the positions of those features that are of kind `angle`, from 0.

        Categories, which make the type of an object, are not counted.

        Arguments:
            features: names of features of an object; None takes those that a model can generate.
                What the schema does not know is none.
        """
        angles = {entry.name for entry in self.objects if isinstance(entry.kind, Angle)}
        types = names(self.categories)
        listed = self.generated if features is None else features
        listed = [name for name in listed if name not in types]
        return tuple(k for k, name in enumerate(listed) if name in angles)

    def object(self, name: str) -> Feature:
        """Return the feature of an object with a name.

        Raises:
            ValueError: if there is none; it tells the nearest.
        """
        return _found(name, self.objects, "feature of an object")

    def of_event(self, name: str) -> Feature:
        """Return the feature of an event with a name.

        Raises:
            ValueError: if there is none; it tells the nearest.
        """
        return _found(name, self.event, "feature of an event")

    def node(self) -> dict[str, Any]:
        """Return it as plain values, as YAML and JSON hold them."""
        node: dict[str, Any] = {"objects": [entry.node() for entry in self.objects]}
        if self.event:
            node["event"] = [entry.node() for entry in self.event]
        if self.order_by is not None:
            node["order_by"] = self.order_by
        return node

    @classmethod
    def from_node(cls, node: Any, where: str = "schema") -> Self:
        """Return the schema of a node.

        Arguments:
            node: a mapping with `objects`, and `event` and `order_by` where they are needed; a
                feature is a mapping of the arguments of `Feature`, or a name alone.
            where: what the node is called in errors.

        Raises:
            ValueError: if it is malformed; it tells the nearest name.
        """
        given = _mapping(node, ("objects", "event", "order_by"), where)
        lists = {}
        for part in ("objects", "event"):
            listed = given.get(part) or ()
            if isinstance(listed, (str, Mapping)) or not isinstance(listed, Sequence):
                raise ValueError(f"{where}.{part} is {listed!r}, expected a list of features")
            lists[part] = [
                _feature(entry, f"{where}.{part}[{place}]") for place, entry in enumerate(listed)
            ]
        try:
            return cls(lists["objects"], lists["event"], given.get("order_by"))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from None


def _is_generated(feature: Feature) -> bool:
    return feature.of_kind.is_generated and not feature.derived


def kind_names(feature: Feature) -> tuple[str, ...]:
    """Return the names of a category.

    >>> kind_names(Feature("charge", kind="category(minus, plus)"))
    ('minus', 'plus')
    """
    assert isinstance(feature.kind, Category)
    return feature.kind.names


def names(features: Sequence[Feature]) -> tuple[str, ...]:
    """Return the names of features.

    >>> names([Feature("x"), Feature("y")])
    ('x', 'y')
    """
    return tuple(feature.name for feature in features)


def axis_label(feature: Feature, unit: str | None = None) -> str:
    """Return the label of a plot axis: what it shows and, in brackets, its unit.

    Arguments:
        feature: the feature.
        unit: the unit to print; None takes the feature's own.

    >>> axis_label(Feature("mass", "GeV", label="jet mass")), axis_label(Feature("tau_21"))
    ('jet mass [GeV]', 'tau 21')
    >>> axis_label(Feature("mass", "GeV"), unit="jet pT")
    'mass [jet pT]'
    """
    unit = feature.unit if unit is None else unit
    return f"{feature.label} [{unit}]" if unit else feature.label


def _found(name: str, features: Sequence[Feature], what: str) -> Feature:
    for feature in features:
        if feature.name == name:
            return feature
    raise ValueError(
        f"the schema has no {what} '{name}'; it has {', '.join(names(features)) or 'none'}"
        + nearest(name, names(features))
    )


def _mapping(node: Any, known: Sequence[str], where: str) -> dict[str, Any]:
    """Return a node that is a mapping with no other keys than those known."""
    if not isinstance(node, Mapping):
        raise ValueError(f"{where} is {node!r}, expected a mapping with {', '.join(known)}")
    if unknown := [str(key) for key in node if key not in known]:
        raise ValueError(
            f"{where} has '{unknown[0]}'; expected {', '.join(known)}" + nearest(unknown[0], known)
        )
    return dict(node)


def _feature(node: Any, where: str) -> Feature:
    if isinstance(node, str):
        node = {"name": node}
    given = _mapping(node, [field.name for field in fields(Feature)], where)
    if "name" not in given:
        raise ValueError(f"{where} has no name; give it one")
    if wrong := [
        key
        for key in ("name", "unit", "kind", "label", "meaning")
        if key in given and not isinstance(given[key], str)
    ]:
        raise ValueError(f"{where}: {wrong[0]} is {given[wrong[0]]!r}, expected a text")
    try:
        if (limits := given.get("limits")) is not None:
            limits = _mapping(limits, [field.name for field in fields(Limits)], f"{where}.limits")
            given["limits"] = Limits(**limits)
        return Feature(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None
