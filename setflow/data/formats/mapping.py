"""Where the parts of events stand in a file of any layout: the mapping, a node of plain values.

    arrays        names of parts of arrays, where the file's own names do not do
    constants     numbers of the slots by name, such as the positions of the voxels of a calorimeter
    define        names for formulas (`setflow.data.formats.expressions`)
    sum           the momenta of objects; their sum gives sum_pt, sum_eta, sum_phi and sum_mass
    axis          what relative features are relative to: full, the full jet, or sum, what is stored
    objects       the features of an object: a formula, or value, unit, kind, label, limits
    more          such that are taken only when they are asked for
    mask          which slots hold an object: one of `RULES`
    event         the features of the event, like those of objects
    class         the class of the event: value and names, or one_of, columns of which one is 1
    types         the type of each particle: pdg, codes of the Particle Data Group, or codes, ours
    weight        the weight of the event
    event_number  the number of the collision
    order_by      the feature by which the largest objects come first where some are cut away
    tree          the tree of a ROOT file, if it holds several

An entry of `arrays` is a text, a new name for the array at a path; a list, names for its columns,
with _ for those that are not needed; or a mapping of names to fields, or to columns:
`pt: "0:2100:3"` takes every third one for the slots, and `E: "E_*"` those of a table that are
called E_0, E_1 and so on.

Which slots are real is never guessed: a mapping without `mask` is refused.
"""

from __future__ import annotations

from collections.abc import Mapping as Node
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from setflow.data.formats.expressions import Expression, no_such_name, parse
from setflow.schema import JETNET, Feature, Schema, names

__all__ = ["AXES", "RULES", "Entry", "Labels", "Mapping", "Mask", "mapping_of"]

RULES = {
    "all": "every slot holds an object",
    "field": "a dataset, field or column that is 1 where a slot holds one and 0 where it does not",
    "nonzero": "columns, of which at least one is not 0 where a slot holds an object",
    "above": "a column, and the value that it exceeds where a slot holds an object",
    "count": "the number of objects of each event, which stand in the first slots",
    "offsets": "where the objects of each event begin in the arrays of `flat`",
    "jagged": "rows of any length, all of them objects",
}
"""What can say which slots hold an object."""

AXES = {"full": "the full jet", "sum": "the sum of what is stored"}
"""What the relative features of a particle can be relative to."""

SUMS = ("sum_pt", "sum_eta", "sum_phi", "sum_mass")
_MOMENTA = (("px", "py", "pz", "e"), ("pt", "eta", "phi"))
_KEYS: tuple[str, ...] = (
    "arrays",
    "constants",
    "define",
    "sum",
    "axis",
    "objects",
    "more",
    "mask",
    "event",
    "class",
    "types",
)
_KEYS += ("weight", "event_number", "order_by", "tree")
_SCALES = {"eV": 1e-9, "keV": 1e-6, "MeV": 1e-3, "TeV": 1e3}
_RELATIVE = ("etarel", "phirel", "ptrel")


@dataclass(frozen=True)
class Entry:
    """A feature and the formula that gives it, in `factor` times its unit."""

    feature: Feature
    value: Expression
    factor: float = 1.0


@dataclass(frozen=True)
class Mask:
    """What says which slots hold an object: a rule of `RULES`, with its formulas and arrays."""

    rule: str
    values: tuple[Expression, ...] = ()
    above: float = 0.0
    offsets: str = ""
    flat: tuple[str, ...] = ()


@dataclass(frozen=True)
class Labels:
    """What says the class of an event: a formula of codes, or columns of which one is 1."""

    value: Expression | None = None
    names: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mapping:
    """A mapping, checked but for the names of the file; `mapping_of` makes it from its node."""

    objects: tuple[Entry, ...]
    mask: Mask
    arrays: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    define: dict[str, Expression] = field(default_factory=dict)
    momenta: dict[str, Expression] = field(default_factory=dict)
    axis: str | None = None
    more: tuple[Entry, ...] = ()
    event: tuple[Entry, ...] = ()
    labels: Labels | None = None
    types: tuple[str, Expression] | None = None
    weight: Expression | None = None
    event_number: Expression | None = None
    order_by: str | None = None
    where: str = "the mapping"

    def of_file(self) -> list[str]:
        """Return the names that the file must know, in the order in which they are needed."""
        found: dict[str, None] = {}
        formulas = [entry.value for entry in self.objects] + list(self.mask.values)
        formulas += [entry.value for entry in self.event]
        one = (self.labels.value if self.labels else None, self.weight, self.event_number)
        formulas += [formula for formula in one if formula is not None]
        formulas += [self.types[1]] if self.types else []
        for formula in formulas:
            self._add_needs(formula, found, ())
        if self.labels:
            found |= dict.fromkeys(self.labels.one_of)
        return list(found)

    def _add_needs(
        self, formula: Expression, found: dict[str, None], within: tuple[str, ...]
    ) -> None:
        for name in formula.names:
            if name in within:
                raise ValueError(
                    f"{self.where}: {' needs '.join([*within, name])}; define it by others"
                )
            if name in self.define:
                self._add_needs(self.define[name], found, (*within, name))
            elif self.momenta and name in SUMS:
                for part in self.momenta.values():
                    self._add_needs(part, found, (*within, name))
            elif name not in self.constants:
                found[name] = None

    def schema(self) -> Schema:
        """Return what the events are."""
        objects = [entry.feature for entry in self.objects]
        by = self.order_by if self.order_by in names(objects) else None
        return Schema(objects, [entry.feature for entry in self.event], by)


def mapping_of(node: Any, where: str = "the mapping") -> Mapping:
    """Return the mapping of a node.

    Arguments:
        node: a mapping of plain values, as YAML has it.
        where: what it is called in errors.

    Raises:
        ValueError: if it is malformed; it names the place, and the nearest name.

    >>> made = mapping_of({"objects": {"x": "a * 2"}, "mask": {"nonzero": "a"}})
    >>> made.of_file(), made.mask.rule
    (['a'], 'nonzero')
    """
    node = _mapping(node, _KEYS, where)
    if not node.get("objects"):
        raise ValueError(f"{where} has no objects: give the features of an object, name: formula")
    if "mask" not in node:
        raise ValueError(
            f"{where} has no mask, which says which slots hold an object and is never guessed; "
            f"give one of {_told_rules()}"
        )
    define = _table(node, "define", where)
    momenta = _table(node, "sum", where)
    if momenta and {*momenta} not in [{*names} for names in _MOMENTA]:
        raise ValueError(
            f"{where}.sum has {', '.join(momenta)}, expected px, py, pz and e, or pt, eta and phi, "
            "which is massless"
        )
    objects, more = _entries(node, "objects", where), _entries(node, "more", where)
    axis = node.get("axis")
    relative = [entry.feature.name for entry in objects if entry.feature.name in _RELATIVE]
    if axis not in (None, *AXES) or (axis is None and relative):
        raise ValueError(
            f"{where}.axis is {axis!r}, expected full or sum: whether "
            f"{', '.join(relative) or 'features'} are relative to the full jet or to the sum of "
            "what is stored"
        )
    if axis == "sum" and not momenta:
        raise ValueError(f"{where}.axis is sum; give the momenta under {where}.sum")
    weight, number = (
        None if node.get(key) is None else parse(node[key], f"{where}.{key}")
        for key in ("weight", "event_number")
    )
    known = [entry.feature.name for entry in (*objects, *more)]
    if node.get("order_by") not in (None, *known):
        raise no_such_name(str(node["order_by"]), known, f"{where}.order_by")
    return Mapping(
        objects=objects,
        mask=_mask(node["mask"], f"{where}.mask"),
        arrays=_arrays(node.get("arrays"), f"{where}.arrays"),
        constants=_constants(node.get("constants"), f"{where}.constants"),
        define=define,
        momenta=momenta,
        axis=axis,
        more=more,
        event=_entries(node, "event", where),
        labels=_labels(node.get("class"), f"{where}.class"),
        types=_types(node.get("types"), f"{where}.types"),
        weight=weight,
        event_number=number,
        order_by=node.get("order_by"),
        where=where,
    )


def _mapping(node: Any, known: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(node, Node):
        raise ValueError(f"{where} is {node!r}, expected a mapping with {', '.join(known)}")
    for key in node:
        if key not in known:
            raise no_such_name(str(key), known, where)
    return dict(node)


def _named(node: Node[str, Any], key: str, where: str) -> list[tuple[str, Any, str]]:
    """Return the names under a key, what each is given, and where that stands."""
    given = node.get(key) or {}
    if not isinstance(given, Node):
        raise ValueError(f"{where}.{key} is {given!r}, expected a mapping of names to formulas")
    return [(str(name), told, f"{where}.{key}.{name}") for name, told in given.items()]


def _table(node: Node[str, Any], key: str, where: str) -> dict[str, Expression]:
    """Return formulas by name."""
    return {name: parse(text, at) for name, text, at in _named(node, key, where)}


def _entries(node: Node[str, Any], key: str, where: str) -> tuple[Entry, ...]:
    usual = JETNET.event if key == "event" else JETNET.objects
    return tuple(_entry(name, told, usual, at) for name, told, at in _named(node, key, where))


def _entry(name: str, told: Any, usual: Sequence[Feature], where: str) -> Entry:
    """Return a feature; what JetNet's layout knows is as there, energies come in GeV."""
    if not isinstance(told, Node):
        told = {"value": told}
    known = ("value", "unit", "kind", "label", "meaning", "limits")
    given = _mapping(told, known, where)
    value = parse(given.pop("value", None), f"{where}.value" if len(given) else where)
    unit = str(given.pop("unit", "") or "")
    factor, standard = _SCALES.get(unit, 1.0), "GeV" if unit in _SCALES else unit
    if unit == "deg":
        factor, standard = 3.141592653589793 / 180, "rad"
    for feature in usual:
        if feature.name == name:
            if standard not in ("", feature.unit):
                raise ValueError(f"{where} is in {unit}, expected {feature.unit or 'no unit'}")
            node = {"name": name, "unit": feature.unit, **given}
            made = Schema.from_node({"objects": [node]}, where).objects[0]
            for key in given:
                if getattr(made, key) != getattr(feature, key):
                    raise ValueError(
                        f"{where}.{key} is {given[key]!r}, and {name} is a feature of JetNet's "
                        f"layout, whose {key} is {getattr(feature, key)}; leave {key} out, or give "
                        "the feature another name"
                    )
            return Entry(feature, value, factor)
    schema = Schema.from_node({"objects": [{"name": name, "unit": standard, **given}]}, where)
    return Entry(schema.objects[0], value, factor)


def _told_rules() -> str:
    return "; ".join(f"{rule}: {meaning}" for rule, meaning in RULES.items())


def _mask(node: Any, where: str) -> Mask:
    """Return the rule of the mask; one without arguments is its name alone."""
    node = {node: None} if isinstance(node, str) else node
    if not isinstance(node, Node) or not node:
        raise ValueError(f"{where} is {node!r}, expected one of {_told_rules()}")
    rule = str(next(iter(node)))
    if rule not in RULES:
        raise no_such_name(rule, RULES, where)
    if len(both := [str(key) for key in node if key in RULES and key != "flat"]) > 1:
        raise ValueError(f"{where} has the rules {' and '.join(both)}, expected one of them")
    allowed = ("offsets", "flat") if rule == "offsets" else (rule,)
    told = _mapping(node, allowed, where)[rule]
    if rule in ("all", "jagged"):
        return Mask(rule)
    if rule == "offsets":
        flat = node.get("flat")
        flat = [flat] if isinstance(flat, str) else flat
        if not isinstance(told, str) or not flat:
            raise ValueError(f"{where}: give `offsets: ARRAY` and `flat: [ARRAY, ...]`")
        return Mask(rule, offsets=told, flat=tuple(map(str, flat)))
    if rule == "above":
        if not isinstance(told, Node) or len(told) != 1:
            raise ValueError(f"{where}.above is {told!r}, expected a mapping, COLUMN: VALUE")
        ((name, least),) = told.items()
        if isinstance(least, bool) or not isinstance(least, (int, float)):
            raise ValueError(f"{where}.above.{name} is {least!r}, expected a number")
        return Mask(rule, (parse(name, f"{where}.above"),), float(least))
    listed = told if isinstance(told, Sequence) and not isinstance(told, str) else [told]
    if rule != "nonzero" and len(listed) != 1:
        raise ValueError(f"{where}.{rule} is {told!r}, expected one formula")
    return Mask(rule, tuple(parse(text, f"{where}.{rule}") for text in listed))


def _arrays(node: Any, where: str) -> dict[str, Any]:
    if not isinstance(node or {}, Node):
        raise ValueError(f"{where} is {node!r}, expected a mapping of arrays to names")
    found: dict[str, Any] = {}
    for path, told in (node or {}).items():
        if isinstance(told, Node):
            found[str(path)] = {str(name): str(part) for name, part in told.items()}
        elif isinstance(told, str):
            found[str(path)] = told
        elif isinstance(told, Sequence):
            found[str(path)] = listed = [str(name) for name in told]
            if "" in listed:
                raise ValueError(f"{where}.{path} has an empty name; _ leaves a column out")
        else:
            raise ValueError(
                f"{where}.{path} is {told!r}, expected a name, a list of names of its columns, or "
                "a mapping of names to fields or columns"
            )
    given = [
        name for told in found.values() for name in ([told] if isinstance(told, str) else told)
    ]
    if twice := sorted({name for name in given if name != "_" and given.count(name) > 1}):
        raise ValueError(
            f"{where} gives the name {twice[0]!r} twice; give each column a name of its own, _ "
            "leaves one out"
        )
    return found


def _constants(node: Any, where: str) -> dict[str, Any]:
    """Return numbers of the slots, each with the shape `(1, N)`."""
    try:
        made = {name: np.array([told], np.float64) for name, told in dict(node or {}).items()}
    except (TypeError, ValueError):
        made = {"": np.zeros(1)}
    if any(values.ndim != 2 for values in made.values()):
        raise ValueError(f"{where}: expected a list of numbers by each name, one for each slot")
    return made


def _labels(node: Any, where: str) -> Labels | None:
    if node is None:
        return None
    if isinstance(node, (str, int)):
        node = {"value": node}
    given = _mapping(node, ("value", "names", "one_of"), where)
    if ("value" in given) == ("one_of" in given):
        raise ValueError(f"{where}: give value, a formula of codes, or one_of, a list of columns")
    listed = tuple(map(str, given.get("names") or ()))
    if "one_of" not in given:
        return Labels(parse(given["value"], f"{where}.value"), listed)
    columns = tuple(map(str, given["one_of"]))
    if listed and len(listed) != len(columns):
        raise ValueError(f"{where} has {len(listed)} names for {len(columns)} columns of one_of")
    return Labels(names=listed or columns, one_of=columns)


def _types(node: Any, where: str) -> tuple[str, Expression] | None:
    if node is None:
        return None
    given = _mapping(node, ("pdg", "codes"), where)
    if len(given) != 1:
        raise ValueError(f"{where}: give pdg: COLUMN or codes: COLUMN")
    ((kind, text),) = given.items()
    return kind, parse(text, f"{where}.{kind}")
