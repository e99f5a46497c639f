"""Features and schemas: as objects, as nodes of plain values, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml

from each import each
from setflow.schema import (
    JETNET,
    Bounded,
    Category,
    Feature,
    Limits,
    Positive,
    Real,
    Schema,
    kind_of,
    schema_of,
)

KINDS = [
    Real(),
    Real(wrapped=True),
    Positive(),
    Positive(low=-1.5),
    Positive(boxcox=0.3),
    Positive(2, 0.1),
    Bounded(-1, 1e-3),
    kind_of("angle"),
    Category(("top", "b or c", "1", "it's")),
]
RINGS = Schema(
    [
        Feature("x", "mm", label=r"$x$", meaning="across"),
        Feature("phi", "rad", "angle"),
        Feature("share", kind="bounded(0, 1)"),
        Feature("energy", "GeV", Positive(0.5), limits=Limits(1, 7e3, strict=True)),
        Feature("charge", kind="category(minus, zero, plus)"),
    ],
    [Feature("radius", "mm", "positive"), Feature("class", kind=Category(("a", "b")))],
    order_by="energy",
)


@each("kind", KINDS)
def test_a_kind_is_its_text(kind) -> None:
    assert kind_of(str(kind)) == kind
    assert kind_of(kind) is kind


@each("schema", [JETNET, RINGS, Schema([Feature("x")])])
def test_a_schema_is_its_node_in_json_and_in_yaml(schema) -> None:
    node = schema.node()
    assert Schema.from_node(json.loads(json.dumps(node))) == schema
    assert Schema.from_node(yaml.safe_load(yaml.safe_dump(node))) == schema


def test_a_node_holds_only_what_is_not_usual() -> None:
    assert Schema.from_node({"objects": ["x", {"name": "pt", "kind": "positive"}]}).node() == {
        "objects": [{"name": "x"}, {"name": "pt", "kind": "positive"}]
    }


def test_what_follows_from_a_kind() -> None:
    assert RINGS.generated == ("x", "phi", "share", "energy")
    assert RINGS.left_out == ("charge",)
    assert RINGS.angles() == (1,)
    assert RINGS.angles(["energy", "x", "phi", "unknown"]) == (2,)
    assert RINGS.object("share").bounds == Limits(0, 1, strict=True)
    assert RINGS.of_event("radius").bounds == Limits(0, strict=True)
    assert RINGS.object("energy").bounds.low == 1
    assert RINGS.object("phi").label == "phi"


@each(
    ("node", "message"),
    [
        (3, "the schema is 3, expected jetnet"),
        ({}, "no feature of an object"),
        ({"objects": []}, "no feature of an object"),
        ({"objects": "x"}, r"schema.objects is 'x', expected a list"),
        ({"object": ["x"]}, "did you mean 'objects'"),
        ({"objects": ["x", "x"]}, "'x' twice among its objects"),
        ({"objects": [""]}, "expected a text without commas"),
        ({"objects": ["a,b"]}, "expected a text without commas"),
        ({"objects": [{"unit": "mm"}]}, r"schema.objects\[0\] has no name"),
        ({"objects": [{"name": "x", "kind": "reel"}]}, "did you mean 'real'"),
        ({"objects": [{"name": "x", "kind": 3}]}, "kind is 3, expected a text"),
        ({"objects": [{"name": "x", "units": "mm"}]}, "did you mean 'unit'"),
        ({"objects": [{"name": "x", "limits": {"lo": 1}}]}, "did you mean 'low'"),
        ({"objects": ["x"], "order_by": "X"}, "did you mean 'x'|no feature of an object 'X'"),
        ({"objects": [{"name": "x", "kind": "angle"}], "order_by": "x"}, "no number on a line"),
        ({"objects": [{"name": "x", "kind": "bounded(1, 0)"}]}, "expected low below high"),
        ({"objects": [{"name": "x", "kind": "category(a, a)"}]}, "expected different ones"),
        ({"objects": [{"name": "x", "kind": "real(__import__('os'))"}]}, "cannot be read"),
        ({"objects": [{"name": "x", "kind": "positive(low=nan)"}]}, "cannot be read"),
    ],
)
def test_a_malformed_node_is_an_error_that_says_where(node, message) -> None:
    with pytest.raises(ValueError, match=message):
        schema_of(node)


def test_the_default_has_a_name() -> None:
    assert schema_of("jetnet") is JETNET
    with pytest.raises(ValueError, match="'jetclass', expected jetnet"):
        schema_of("jetclass")


def test_the_nearest_name_of_a_category_is_told() -> None:
    with pytest.raises(ValueError, match="did you mean 'gluon'"):
        Category(("top", "gluon")).code("gluons")


@each("kind", ["angle", Real(wrapped=True)])
def test_an_angle_is_in_radians(kind) -> None:
    """Its limits are, and what a file holds in degrees is converted in reading."""
    assert Feature("phi", "rad", kind).of_kind.is_angle
    assert Feature("phi", "", kind).unit == ""
    with pytest.raises(ValueError, match=r"'phi' is of kind .* in units of 'deg', expected rad; "):
        Feature("phi", "deg", kind)
    assert Feature("phi", "deg").unit == "deg"  # a number as any other


@each(
    ("make", "message"),
    [
        (lambda: Feature("charge", "positive"), "'charge' has the unit 'positive', .* kind='posi"),
        (lambda: Feature("c", "bounded(0, 1)"), r"which is a kind; write kind='bounded\(0, 1\)'"),
        (lambda: Feature("x", 3), "feature 'x': unit is 3, expected a text"),
        (lambda: Feature("x", label=None), "feature 'x': label is None, expected a text"),
        (lambda: Feature("x", limits=(0, 1)), r"limits is \(0, 1\), expected setflow\.schema"),
        (lambda: Limits(1, 0), "limits go from 1 to 0, expected the lower one first"),
        (lambda: Limits("0", 1), "limits hold '0', expected numbers"),
        (lambda: Schema(Feature("x")), r"objects is Feature\(name='x'.*expected a list of setflow"),
        (lambda: Schema("xy"), "objects is 'xy', expected a list of setflow.schema.Feature"),
        (lambda: Schema([Feature("x")], event=3), "event is 3, expected a list of"),
        (lambda: schema_of(["x", "y"]), r"the schema is \['x', 'y'\], expected jetnet.* may be a"),
        (lambda: kind_of("bounded(1)"), r"cannot be read: expected bounded\(0, 1\)$"),
        (lambda: kind_of("category(a b)"), r"cannot be read: expected category\(top, gluon\)$"),
    ],
)  # fmt: skip
def test_what_is_written_wrongly_says_how_it_is_written(make, message) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_what_some_objects_lack_is_told_by_their_categories():
    mass = Feature("mass", "GeV", "positive", absent=["muon", "missing_momentum"])
    kind = Feature("type", kind="category(jet, muon, missing_momentum)")
    schema = Schema([Feature("pt", "GeV"), mass, kind], order_by="pt")
    node = schema.node()
    assert node["objects"][1]["absent"] == ["muon", "missing_momentum"]
    assert Schema.from_node(node) == schema
    assert hash(mass) == hash(dataclasses.replace(mass))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Feature("m", absent="muon"), "absent is 'muon', expected a list of the names"),
        (lambda: Schema([_lacking("muon")]), "'m' is said to be absent in 'muon', expected names"),
        (
            lambda: Schema([_lacking("muno"), Feature("t", kind="category(jet, muon)")]),
            "absent in 'muno', expected names of the .* jet, muon; did you mean 'muon'",
        ),
        (lambda: Schema([Feature("x")], [_lacking("jet")]), "'m' is a feature of the event and ab"),
    ],
)
def test_what_is_absent_in_no_category(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def _lacking(name):
    return Feature("m", absent=[name])


@each(
    ("unit", "usual"),
    [("Gev", "GeV"), ("gev", "GeV"), ("MEV", "MeV"), ("MM", "mm"), ("Rad", "rad"), ("NS", "ns")],
)
def test_a_unit_in_other_letters_is_refused(unit, usual):
    with pytest.raises(ValueError, match=f"'a' has the unit '{unit}', expected '{usual}'"):
        Feature("a", unit)
    with pytest.raises(ValueError, match=f"expected '{usual}'"):
        Schema.from_node({"objects": [{"name": "a", "unit": unit}]})


@each(("unit",), [("GeV",), ("mm",), ("pe",), ("jet pT",), ("1/GeV",), ("S",), ("",)])
def test_free_units_stay(unit):
    assert Feature("a", unit).unit == unit
