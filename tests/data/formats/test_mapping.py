"""Mappings: what is malformed is told with its place and the nearest name."""

import re
from pathlib import Path

import pytest
import yaml

from each import each
from setflow.data.formats.mapping import RULES, mapping_of

RINGS = {"objects": {"x": "a", "y": "b"}, "mask": {"nonzero": ["a", "b"]}}


@each(
    ("changes", "told"),
    [
        ({"mask": None}, "the mapping.mask is None, expected one of all: every slot"),
        ({"objects": {}}, "has no objects"),
        ({"objects": ["x"]}, "the mapping.objects is .*expected a mapping of names"),
        ({"objets": {}}, "there is no 'objets'.*did you mean 'objects'"),
        ({"mask": {"nonzro": "a"}}, "there is no 'nonzro'.*did you mean 'nonzero'"),
        ({"mask": {"nonzero": "a", "count": "n"}}, "the rules nonzero and count, expected one"),
        ({"mask": {"nonzero": "a", "flat": ["a"]}}, "the mapping.mask: there is no 'flat'"),
        ({"mask": {"field": ["a", "b"]}}, "expected one formula"),
        ({"mask": {"above": "a"}}, "expected a mapping, COLUMN: VALUE"),
        ({"mask": {"above": {"a": "b"}}}, "above.a is 'b', expected a number"),
        ({"mask": {"offsets": "o"}}, "offsets: ARRAY.*flat"),
        ({"objects": {"x": "a +"}}, "the mapping.objects.x, 'a \\+', cannot be read at position"),
        ({"objects": {"x": {"value": "a", "knd": "real"}}}, "did you mean 'kind'"),
        ({"objects": {"x": {"value": "a", "kind": "rael"}}}, "did you mean 'real'"),
        ({"objects": {"ptrel": {"value": "a", "unit": "MeV"}}, "axis": "full"}, "is in MeV, expe"),
        ({"objects": {"ptrel": "a"}}, "axis is None, expected full or sum: whether ptrel"),
        ({"axis": "sum"}, "give the momenta under"),
        ({"axis": "jet"}, "axis is 'jet', expected full or sum"),
        ({"sum": {"pt": "a", "eta": "b"}}, "expected px, py, pz and e, or pt, eta and phi"),
        ({"class": {"names": ["a"]}}, "give value, a formula of codes, or one_of"),
        ({"class": {"one_of": ["a", "b"], "names": ["c"]}}, "1 names for 2 columns"),
        ({"types": {"pgd": "a"}}, "did you mean 'pdg'"),
        ({"order_by": "z"}, "there is no 'z'; there are x, y"),
        ({"arrays": {"data": 3}}, "expected a name, a list of names"),
        ({"arrays": {"data": ["a", "b", "_", "_", "a"]}}, "gives the name 'a' twice"),
        ({"arrays": {"data": ["a", "b"], "more": {"b": "0:3"}}}, "gives the name 'b' twice"),
        ({"arrays": {"data": ["a", "", "b"]}}, "data has an empty name; _ leaves a column out"),
        (
            {"objects": {"ptrel": {"value": "a", "kind": "posittive"}}, "axis": "full"},
            "did you mean 'positive'",
        ),
        (
            {"objects": {"ptrel": {"value": "a", "kind": "real"}}, "axis": "full"},
            "ptrel.kind is 'real', and ptrel is a feature of JetNet's layout, whose kind is pos",
        ),
        ({"constants": {"z": "a"}}, "expected a list of numbers"),
        ({"weight": "exp("}, "the mapping.weight"),
    ],
)
def test_what_is_malformed_is_told(changes, told):
    with pytest.raises(ValueError, match=told):
        mapping_of({**RINGS, **changes})


def test_a_mask_is_never_guessed():
    with pytest.raises(ValueError, match=r"never guessed; give one of all: .*jagged: rows of any"):
        mapping_of({"objects": {"x": "a"}})
    assert {*RULES} == {"all", "field", "nonzero", "above", "count", "offsets", "jagged"}


def test_what_the_file_must_know():
    node = {
        **RINGS,
        "objects": {"x": "half * sum_pt", "z": "level"},
        "more": {"w": "unused"},
        "define": {"half": "a / two", "unused_too": "v"},
        "constants": {"two": [2.0, 2.0]},
        "sum": {"pt": "p", "eta": "e", "phi": "f"},
        "event": {"r": "radius"},
        "class": {"one_of": ["top", "gluon"]},
        "weight": "w8",
    }
    made = mapping_of(node)
    assert made.of_file() == ["a", "p", "e", "f", "level", "b", "radius", "w8", "top", "gluon"]
    with pytest.raises(ValueError, match="c needs d needs c; define it by others"):
        mapping_of({**RINGS, "define": {"c": "d", "d": "c"}, "weight": "c"}).of_file()


def test_the_mapping_of_the_page():
    page = Path(__file__).parents[3] / "docs" / "howto" / "formats.md"
    (block,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    made = mapping_of(yaml.safe_load(block))
    assert made.axis == "full"
    needed = ["pz", "px", "py", "jet_eta", "jet_phi", "jet_pt", "e", "jet_mass"]
    assert made.of_file() == needed


def test_units_come_as_they_are_here():
    made = mapping_of(
        {
            **RINGS,
            "objects": {"e": {"value": "a", "unit": "MeV", "kind": "positive"}, "l": "b"},
            "event": {"pt": {"value": "p", "unit": "TeV"}, "angle": {"value": "c", "unit": "deg"}},
        }
    )
    units = [(entry.feature.unit, entry.factor) for entry in made.objects]
    assert units == [
        ("GeV", 1e-3),
        ("", 1),
    ]
    assert [entry.feature.unit for entry in made.event] == ["GeV", "rad"]
    assert made.event[0].factor == 1e3
