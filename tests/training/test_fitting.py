"""`setflow.fit`: one call from arrays to a trained model."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import yaml

import setflow
from each import each
from setflow.data import EventWriter, read_events, read_jets
from setflow.schema import Category, Feature, Schema
from setflow.training import fitting
from setflow.training.data import held_out

RINGS = Schema(
    [
        Feature("x", "mm"),
        Feature("phi", "rad", "angle"),
        Feature("y", "mm"),
        Feature("energy", "GeV", "positive"),
        Feature("charge", kind="category(minus, plus)"),
    ],
    [Feature("kind", kind=Category(("big", "small")))],
)


@pytest.fixture(autouse=True)
def _single_precision():
    torch.set_default_dtype(torch.float32)


def rings(n: int, seed: int = 0, **options) -> setflow.SetBatch:
    """Rings of two sizes, whose radius is 1 or 3 mm by their kind."""
    generator = torch.Generator().manual_seed(seed)
    code = torch.randint(0, 2, (n, 1), generator=generator)
    lengths = torch.randint(3, 8, (n,), generator=generator)
    mask = torch.arange(7) < lengths[:, None]
    angle = (torch.rand(n, 7, generator=generator) * 2 - 1) * torch.pi
    radius = 1 + 2 * (1 - code)
    energy = torch.rand(n, 7, generator=generator) + 0.1
    columns = (radius * angle.cos(), angle, radius * angle.sin(), energy, (angle > 0).float())
    return setflow.SetBatch(torch.stack(columns, -1), mask, code, **options)


def small(dim: int, width: int = 0, angles=()) -> setflow.TransformerField:
    return setflow.TransformerField(
        dim, hidden=32, layers=2, heads=2, condition_dim=width, angles=angles
    )


def test_a_model_of_arrays_learns_what_its_condition_means():
    data = rings(2000)
    with pytest.warns(UserWarning, match=r"does not generate yet: charge \(category"):
        flow = setflow.fit(
            data, schema=RINGS, conditions=["kind"], field=small(4, 2, [1]), steps=400,
            progress=False,
        )  # fmt: skip
    assert flow.features == ("x", "phi", "y", "energy")
    radii = []
    for kind in ("big", "small"):
        made = flow.sample(200, {"kind": kind}, seed=1, solver=setflow.Midpoint(10))
        x, phi, y, energy = made.x[made.mask].unbind(-1)
        assert (energy > 0).all()
        assert ((phi >= -torch.pi) & (phi < torch.pi)).all()
        across = setflow.physics.delta_phi(torch.atan2(y, x), phi)  # the angle is that of x and y
        assert across.abs().median() < 0.8  # without a relation pi / 2
        radii.append(torch.hypot(x, y).median().item())
    assert radii[0] > 1.8 * radii[1]  # 3 and 1 mm
    held = rings(500, seed=9)
    left = setflow.SetBatch(held.x[..., :4], held.mask, held.c)
    begun = setflow.SetFlow(small(4, 2, [1]), schema=RINGS, conditions=["kind"]).fit_statistics(
        left
    )
    draws = {"generator": torch.Generator().manual_seed(1)}
    noise, t = torch.randn(left.x.shape, **draws), torch.rand(len(left), **draws)
    with torch.no_grad():
        losses = [model.loss_terms(left, t=t, noise=noise)["flow"] for model in (flow, begun)]
    assert losses[0] < 0.8 * losses[1]


def test_the_same_seed_gives_the_same_model_and_touches_no_other_draw():
    data = setflow.SetBatch(rings(300).x[..., [0, 2]])
    before = torch.random.get_rng_state()
    one, two, other = (
        setflow.fit(data, field=None, steps=3, seed=seed, progress=False) for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [torch.cat([p.flatten() for p in flow.parameters()]) for flow in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert one.features == ("x1", "x2")
    assert not one.training


def test_a_model_without_conditions_and_schema_is_saved_and_loaded(tmp_path):
    flow = setflow.fit(setflow.SetBatch(torch.randn(100, 4, 2)), steps=2, progress=False)
    again = setflow.SetFlow.load(flow.save(tmp_path / "model"))
    made = [each.sample(3, seed=1, solver=setflow.Euler(2)).x for each in (flow, again)]
    assert torch.equal(*made)


def test_weights_of_events_count():
    data = rings(600)
    weight = (data.c[:, 0] == 0).double() + 1e-9
    flow = setflow.fit(
        setflow.SetBatch(data.x[..., [0, 2]], data.mask, weight=weight),
        field=small(2),
        steps=2,
        progress=False,
    )
    big = data.x[data.c[:, 0] == 0][..., 0][data.mask[data.c[:, 0] == 0]]
    assert abs(float(flow.scaler.std[0]) / float(big.std()) - 1) < 0.05


def test_the_defaults_are_those_of_the_demo():
    root = Path(__file__).resolve().parents[2]
    config = yaml.safe_load((root / "models/demo/config.yaml").read_text())
    field = config["model"]["flow"]["init_args"]["field"]["init_args"]
    assert tuple(field[name] for name in ("hidden", "layers", "heads")) == (
        fitting._HIDDEN,
        fitting._LAYERS,
        fitting._HEADS,
    )
    assert config["model"]["optimizer"]["init_args"] == fitting._OPTIMIZER
    assert config["model"]["warmup"] == fitting._WARMUP
    assert config["data"]["batch_size"] == fitting._BATCH
    assert config["data"]["val_fraction"] == fitting._HELD_OUT
    trainer = config["trainer"]
    assert trainer["gradient_clip_val"] == fitting._CLIP
    assert trainer["callbacks"] == [
        {
            "class_path": "setflow.training.MovingAverage",
            "init_args": {"decay": fitting._AVERAGE},
        }
    ]
    assert trainer["max_steps"] / trainer["val_check_interval"] == fitting._VALIDATIONS


def write(path, data: setflow.SetBatch, **parts) -> None:
    with EventWriter(path, RINGS) as writer:
        writer.write(setflow.SetBatch(data.x, data.mask, weight=data.weight), data.c, **parts)


def test_a_sample_that_was_read_brings_schema_conditions_and_weights(tmp_path) -> None:
    data = rings(100, weight=torch.arange(100) + 1.0)
    number = torch.arange(100) // 2
    write(tmp_path / "rings.h5", data, event_number=number)
    read = read_events(tmp_path / "rings.h5", weight="weight")
    held = held_out(number, 0.05, 3)
    options = {"conditions": ["kind"], "field": None, "steps": 1, "seed": 3, "progress": False}
    flow = setflow.fit(read, **options)
    assert flow.schema == Schema([RINGS.object(name) for name in RINGS.generated], RINGS.event)
    x = data.x[..., :4]
    same = setflow.fit(
        setflow.SetBatch(x[~held], data.mask[~held], data.c[~held], data.weight[~held]),
        validation=setflow.SetBatch(x[held], data.mask[held], data.c[held], data.weight[held]),
        schema=flow.schema,
        **options,
    )
    for mine, theirs in zip(flow.parameters(), same.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_columns_of_a_validation_sample_are_found_by_name(tmp_path) -> None:
    write(tmp_path / "rings.h5", rings(60))
    write(tmp_path / "others.h5", rings(20, seed=1))
    names = ("energy", "x", "phi", "y")
    train = read_events(tmp_path / "rings.h5")
    given = [
        read_events(tmp_path / "others.h5"),
        read_events(tmp_path / "others.h5", features=names),
    ]
    made = [
        setflow.fit(train, validation=one, field=None, steps=1, progress=False).state_dict()
        for one in given
    ]
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    other = Schema([Feature("x", "cm"), *RINGS.objects[1:4]])
    with pytest.warns(UserWarning, match="converted"):
        in_cm = read_events(tmp_path / "others.h5", other)
    with pytest.raises(ValueError, match=r"validation=...\): x is in units of 'cm', expected 'mm'"):
        setflow.fit(train, validation=in_cm, steps=1, progress=False)
    with pytest.raises(ValueError, match=r"no feature of an event 'kid'.*did you mean 'kind'"):
        setflow.fit(train, conditions=["kid"], steps=1, progress=False)
    with pytest.raises(ValueError, match="the events bring their schema; leave schema out"):
        setflow.fit(train, schema=RINGS, steps=1, progress=False)


def test_jets_that_were_read_can_be_fitted() -> None:
    jets = read_jets("pythia-top/heldout.h5", stop=60, max_objects=8)
    flow = setflow.fit(jets, conditions=["pt", "mass"], field=small(3, 2), steps=1, progress=False)
    assert flow.features == ("etarel", "phirel", "ptrel")
    assert flow.schema.of_event("pt").unit == "GeV"
    assert float(flow.context_encoder.high[0]) <= float(jets.jets[:, 0].max())


@each(
    ("column", "value", "message"),
    [
        (0, torch.nan, "row 1, object 0, column 'x' holds nan"),
        (1, 4.0, r"column 'phi' holds 4, expected radians in \[-pi, pi\)"),
        (3, -1.0, "column 'energy' holds -1, expected above 0"),
        (4, 2.0, "column 'charge' holds 2, expected a whole number from 0 to 1, one of minus"),
    ],
)
def test_values_that_cannot_be_are_refused_in_memory_as_in_files(column, value, message) -> None:
    data = rings(50)
    x = data.x.clone()
    x[1, 0, column] = value
    x[0, -1] = torch.nan if not data.mask[0, -1] else 1.0  # padding is not looked at
    with pytest.raises(ValueError, match=message):
        setflow.fit(
            setflow.SetBatch(x, data.mask, data.c), schema=RINGS, conditions=["kind"], steps=1
        )


@each(
    ("change", "error", "message"),
    [
        ({"data": torch.zeros(5, 3, 2)}, TypeError, "setflow.fit expects a setflow.SetBatch"),
        ({"data": setflow.SetBatch(torch.zeros(2, 5, 3, 2))}, ValueError, "expected .n, N, D."),
        ({"steps": 0}, ValueError, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 1.5}, ValueError, "steps must be a whole number of at least 1, got 1.5"),
        ({"steps": "9"}, ValueError, "steps must be a whole number of at least 1, got .9"),
        ({"seed": "a"}, ValueError, "seed must be a whole number of at least 0, got .a"),
        ({"schema": "jetnet"}, ValueError, "5 features, and the schema 3: etarel, phirel, ptrel"),
        ({"conditions": []}, ValueError, "context of 1 columns, and conditions names 0"),
        ({"data": rings(5)}, ValueError, "of 5 events none is left for the validation; give more"),
        ({"conditions": ["kind", "mass"]}, ValueError, "context of 1 columns, and conditions name"),
        ({"field": setflow.fields.GaussianSetField([0.0], [1.0])}, ValueError, "no parameter"),
        ({"conditions": "kind"}, ValueError, "conditions are 'kind', expected a list of names"),
        (
            {
                "data": setflow.SetBatch(
                    torch.zeros(50, 3, 5), torch.zeros(50, 3), torch.ones(50, 1)
                )
            },
            ValueError,
            "no event of the training has an object; check the mask",
        ),
        ({"conditions": ["kidn"]}, ValueError, "event 'kidn'; it has kind; did you mean 'kind'"),
    ],
)
def test_what_does_not_fit_is_an_error(change, error, message):
    given = {"data": rings(50), "schema": RINGS, "conditions": ["kind"], "progress": False}
    given |= change
    data = given.pop("data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error, match=message):
            setflow.fit(data, **given)


TYPED = Schema(
    [
        Feature("pt", "GeV", "positive"),
        Feature("mass", "GeV", "positive", absent=["muon"]),
        Feature("kind", kind="category(jet, muon)"),
    ]
)


def test_features_that_types_lack_are_refused_with_what_can_be_done(tmp_path) -> None:
    """Types are left out, and without them nobody knows whose mass is none."""
    kind = (torch.arange(240).reshape(80, 3) % 2).float()
    pt = 20 + torch.rand(80, 3)
    events = setflow.SetBatch(torch.stack([pt, torch.where(kind == 0, pt / 2, 0), kind], -1))
    with EventWriter(tmp_path / "typed.h5", TYPED) as writer:
        writer.write(events)
    options = {"steps": 1, "progress": False}
    told = r"^some types of objects lack mass, .* with the features pt, or train by `setflow fit`"
    with pytest.raises(ValueError, match=told):
        setflow.fit(events, schema=TYPED, **options)
    with pytest.raises(ValueError, match=told):
        setflow.fit(read_events(tmp_path / "typed.h5", features=["pt", "mass", "kind"]), **options)
    with pytest.raises(ValueError, match=told):
        setflow.fit(read_events(tmp_path / "typed.h5"), **options)
    flow = setflow.fit(read_events(tmp_path / "typed.h5", features=["pt"]), **options)
    assert flow.features == ("pt",)
