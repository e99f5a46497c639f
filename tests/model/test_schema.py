"""The schema of a model: what it says, what it must agree with, and that it is kept."""

from __future__ import annotations

import math

import pytest
import torch

import setflow
from each import each
from setflow.data import Standardizer
from setflow.model import wrapped_share
from setflow.schema import JETNET, Feature, Positive, Real, Schema

RINGS = Schema(
    [
        Feature("x", "mm"),
        Feature("phi", "rad", "angle"),
        Feature("share", kind="bounded(0, 1)"),
        Feature("energy", "GeV", "positive"),
        Feature("charge", kind="category(minus, plus)"),
    ],
    [Feature("radius", "mm", "positive"), Feature("mass", "GeV")],
    order_by="energy",
)


def make(dim: int = 3, angles=(), **options) -> setflow.SetFlow:
    if options.get("schema") is RINGS and "features" not in options:
        dim, angles = 4, (1,)
    field = setflow.TransformerField(
        dim, hidden=16, layers=1, heads=2, condition_dim=len(options.get("conditions", ())),
        angles=angles,
    )  # fmt: skip
    return setflow.SetFlow(field, cardinality=setflow.EmpiricalCardinality(6), **options)


def events() -> setflow.SetBatch:
    x, c = torch.rand(50, 6, 4) * 0.9 + 0.05, torch.rand(50, 2) + 1
    return setflow.SetBatch(x, torch.rand(50, 6) > 0.3, c)


def test_a_model_takes_what_it_can_generate_and_scales_it_by_its_kind() -> None:
    flow = make(schema=RINGS, conditions=["radius", "mass"])
    assert flow.features == ("x", "phi", "share", "energy")
    assert list(map(str, flow.scaler.kinds)) == ["real", "angle", "bounded(0.0, 1.0)", "positive"]
    assert list(map(str, flow.context_scaler.kinds)) == ["positive", "real"]
    flow.fit_statistics(events())
    x = flow.sample(200, torch.tensor([1.5, 1.5]), seed=1, solver=setflow.Midpoint(2))
    phi, share, energy = x.x[x.mask][:, 1:].unbind(-1)
    assert ((phi >= -math.pi) & (phi < math.pi)).all()
    assert ((share > 0) & (share < 1)).all()
    assert (energy > 0).all()
    assert torch.isfinite(flow.log_prob(x[:3], solver=setflow.RK4(2))).all()


def test_without_a_schema_names_are_described_as_jetnet_does_and_numbers_are_real() -> None:
    flow = make()
    assert flow.features == JETNET.generated
    assert flow.schema.object("phirel") == JETNET.object("phirel")
    assert flow.schema.object("ptrel").kind == Real()
    assert flow.schema.order_by == "ptrel"
    assert make(schema="jetnet").scaler.kinds[2] == Positive()
    own = make(2, features=["a", "b"], scaler=Standardizer(kinds=["real", "positive"]))
    assert own.schema == Schema([Feature("a"), Feature("b", kind="positive")])


def test_a_node_is_a_schema() -> None:
    assert make(schema=RINGS.node(), features=["energy", "x", "share"]).schema == RINGS


@each(
    ("options", "message"),
    [
        (
            {"schema": RINGS, "features": ["x", "phi", "share"]},
            r"field has angles=\[\], and the features of kind angle are \[1\].* with angles=\[1\]",
        ),
        (
            {"schema": RINGS, "features": ["phi", "x", "share"], "angles": [1]},
            r"field has angles=\[1\], and the features of kind angle are \[0\]",
        ),
        (
            {"schema": RINGS, "features": ["x", "share", "energy"], "angles": [2]},
            r"field has angles=\[2\], and the features of kind angle are \[\]",
        ),
        (
            {"schema": RINGS, "path": setflow.CosinePath()},
            r"alpha \+ sigma of up to 1.4\d, and an angle needs a path where it is 1",
        ),
        (
            {"schema": RINGS, "features": ["x", "charge"]},
            "dim=3, but there are 1 names: features x",
        ),
        ({"schema": RINGS, "features": ["x", "energi", "share"]}, "did you mean 'energy'"),
        ({"schema": RINGS, "conditions": ["radiu"]}, "did you mean 'radius'"),
        ({"schema": RINGS, "features": ["x"]}, "dim=3, but there are 1 names"),
        (
            {"schema": RINGS, "scaler": Standardizer(4)},
            "'phi' is of kind angle in the schema, and the scaler takes it as real; leave scaler",
        ),
        ({"schema": "jetnt"}, "expected jetnet"),
        ({"schema": {"object": []}}, "did you mean 'objects'"),
    ],
)
def test_what_does_not_agree_is_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_schema_is_kept_with_the_model(tmp_path) -> None:
    flow = make(schema=RINGS, conditions=["mass"])
    batch = events()
    flow.fit_statistics(setflow.SetBatch(batch.x, batch.mask, batch.c[:, 1:]))
    again = setflow.SetFlow.load(flow.save(tmp_path / "rings"))
    assert again.schema == RINGS
    assert again.features == flow.features
    assert repr(again.scaler) == repr(flow.scaler)
    c = torch.tensor([1.5])
    new, old = (model.sample(5, c, seed=3, solver=setflow.Euler(2)).x for model in (again, flow))
    assert torch.equal(new, old)


def test_a_stored_schema_that_contradicts_the_scaler_is_refused() -> None:
    node = make(schema=RINGS).describe()
    node["init_args"]["schema"]["objects"][3]["kind"] = "real"
    with pytest.raises(ValueError, match="'energy' is of kind real in the schema"):
        setflow.SetFlow.from_node(node)


def test_a_description_of_before_there_were_kinds_is_read() -> None:
    node = make(schema="jetnet", scaler=Standardizer(kinds=["real"] * 2 + ["positive"])).describe()
    node["init_args"].pop("schema")
    arguments = node["init_args"]["scaler"]["init_args"]
    arguments.pop("kinds")
    for power, text in ((0.0, "positive"), (0.3, "positive(boxcox=0.3)")):
        arguments["boxcox"] = {2: power}
        flow = setflow.SetFlow.from_node(node)
        assert str(flow.scaler.kinds[2]) == text
        assert str(flow.schema.object("ptrel").kind) == text


@each(("width", "share"), [(0.1, None), (1.0, 0.0017), (2.0, 0.1163)])
def test_the_share_that_a_file_wraps(width: float, share: float | None) -> None:
    """Of a normal distribution of this width, 1 - erf(pi / (sqrt(2) width)) lies outside."""
    schema = Schema([Feature("phi", "rad", "real(wrapped=True)")])
    scaler = Standardizer(mean=[0.0], std=[width])
    field = setflow.GaussianSetField(torch.zeros(1), torch.ones(1))
    flow = setflow.SetFlow(field, scaler=scaler, schema=schema)
    found = wrapped_share(flow, 4000, lengths=[10] * 4000, solver=setflow.Midpoint(10))
    if share is None:
        assert found == {}
    else:
        expected = 1 - math.erf(math.pi / (math.sqrt(2) * width))
        assert math.isclose(expected, share, rel_tol=0.02)
        spread = math.sqrt(expected / 40_000)
        assert abs(found["phi"] - expected) < 4 * spread
