"""Statistics that were never fitted are refused, and whether they are there travels along."""

from __future__ import annotations

import contextlib
import copy
import io
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import setflow
from each import each
from setflow.data import Standardizer
from setflow.distributions import CardinalityModel
from setflow.model.folder import build, describe

ROOT = Path(__file__).resolve().parents[1]


def events(conditions=0, count=40):
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(5) < torch.randint(1, 6, (count, 1), generator=generator)
    x = torch.rand(count, 5, 3, generator=generator) + 0.1
    c = 500 + 50 * torch.randn(count, conditions, generator=generator) if conditions else None
    return setflow.SetBatch(x, mask, c)


def model(conditions=0, cardinality="empirical", **parts):
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1, condition_dim=conditions)
    if cardinality == "conditional":
        parts["cardinality"] = setflow.ConditionalCardinality(5, conditions, hidden=4)
    elif cardinality == "empirical":
        parts["cardinality"] = setflow.EmpiricalCardinality(5)
    parts.setdefault("scaler", Standardizer(kinds=["real", "real", "positive(boxcox=0.3)"]))
    return setflow.SetFlow(field, conditions=[f"c{k}" for k in range(conditions)], **parts)


SOLVER = setflow.Euler(1)


def uses(flow, batch, folder):
    c = None if batch.c is None else batch.c[:3]
    return {
        "loss": lambda: flow.loss(batch),
        "loss_terms": lambda: flow.loss_terms(batch),
        "sample": lambda: flow.sample(3, c, solver=SOLVER),
        "sample of given lengths": lambda: flow.sample(3, c, lengths=[1, 2, 0], solver=SOLVER),
        "log_prob": lambda: flow.log_prob(batch, solver=SOLVER),
        "log_prob_terms": lambda: flow.log_prob_terms(batch, solver=SOLVER),
        "save": lambda: flow.save(folder / "model"),
    }


@pytest.mark.parametrize("lacking", ["scaler", "context_scaler", "cardinality"])
@pytest.mark.parametrize("cardinality", ["empirical", "conditional"])
def test_a_model_that_was_never_fitted_is_refused(lacking, cardinality, tmp_path):
    flow, batch = model(2, cardinality), events(2)
    for name, part in (("scaler", flow.scaler), ("context_scaler", flow.context_scaler)):
        if name != lacking:
            part.fit(batch.x if name == "scaler" else batch.c[:, None])
    if lacking != "cardinality":
        flow.cardinality.fit(batch.lengths)
    for call in uses(flow, batch, tmp_path).values():
        with pytest.raises(ValueError, match=f"no statistics for its {lacking}, .*fit_statistics"):
            call()
    assert not list(tmp_path.iterdir())
    flow.fit_statistics(batch)
    for call in uses(flow, batch, tmp_path).values():
        call()


def test_parts_that_were_never_fitted_are_refused():
    x, lengths = torch.rand(4, 5, 3), torch.tensor([1, 2])
    scaler = Standardizer(3)
    empirical, conditional = setflow.EmpiricalCardinality(5), setflow.ConditionalCardinality(5, 1)
    c, uniform = torch.zeros(2, 1), torch.rand(2)
    for call in (
        lambda: scaler(x),
        lambda: scaler.inverse(x),
        lambda: scaler.log_det(x),
        lambda: empirical.log_prob(lengths),
        lambda: empirical.sample(uniform),
        lambda: conditional.log_prob(lengths, c),
        lambda: conditional.sample(uniform, c),
    ):
        with pytest.raises(ValueError, match="has no statistics"):
            call()


def test_a_cardinality_model_of_ones_own_without_statistics_needs_none():
    class Always(CardinalityModel):
        max_objects, condition_dim = 2, 0

        def fit(self, lengths, c=None):
            raise AssertionError("there is nothing to fit")

        def sample(self, uniform, c=None):
            return torch.full(uniform.shape, 2)

        def log_prob(self, lengths, c=None):
            return torch.where(lengths == 2, 0.0, -torch.inf)

    flow = model(cardinality=None, scaler=Standardizer(3, mean=0, std=1))
    flow.cardinality = Always()
    assert flow.sample(3, solver=SOLVER).lengths.tolist() == [2, 2, 2]


def test_statistics_can_be_given():
    """By hand: z = (log x - 1) / 2, and the smallest value of a Box-Cox transform."""
    scaler = Standardizer(kinds=["real", "positive"], mean=[3.0, 1.0], std=np.array([2.0, 2.0]))
    x = torch.tensor([[5.0, math.e**3]])
    torch.testing.assert_close(scaler(x), torch.tensor([[1.0, 1.0]]))
    torch.testing.assert_close(scaler.inverse(torch.ones(1, 2)), x)
    lower = Standardizer(kinds=["positive(boxcox=0.5)"], mean=[0.0], std=[1.0], lowest=[-1.0])
    assert lower.inverse(torch.tensor([[-5.0]])).item() == pytest.approx(0.25)  # (1 - 0.5)^2
    nothing = Standardizer(3, mean=0, std=1)
    assert torch.equal(nothing(x.new_ones(4, 3)), x.new_ones(4, 3))
    counts = setflow.EmpiricalCardinality(counts=[0, 1, 3])
    assert counts.max_objects == 2
    assert counts.log_prob(torch.tensor([2])).exp().item() == pytest.approx(0.75)


@each(
    ("arguments", "message"),
    [
        ({"dim": 2, "mean": [0, 0]}, "not all of them; expected mean and std"),
        ({"dim": 2, "std": [1, 1]}, "not all of them"),
        ({"dim": 2, "mean": [0, 0, 0], "std": [1, 1]}, r"mean has shape \(3,\), expected \(2,\)"),
        ({"dim": 2, "mean": [0, 0], "std": [1, 0]}, "std must be positive, got a minimum of 0"),
        ({"dim": 2, "mean": [0, float("nan")], "std": [1, 1]}, "must be finite"),
        (
            {"mean": [0], "std": [1], "kinds": ["positive(boxcox=0.5)"]},
            "expected mean, std and lowest",
        ),
        ({"mean": [0], "std": [1], "lowest": [0.0]}, "finite values for .* and -inf for all"),
        (
            {"mean": [0], "std": [1], "lowest": [math.inf], "kinds": ["positive(boxcox=0.5)"]},
            "finite values",
        ),
        ({}, "neither dim nor kinds nor mean"),
    ],
)
def test_statistics_that_do_not_belong_together(arguments, message):
    with pytest.raises(ValueError, match=message):
        Standardizer(**arguments)


@each(
    ("arguments", "message"),
    [
        ({"max_objects": 2, "counts": [1, 1]}, r"shape \(2,\), expected \(3,\)"),
        ({"counts": [0, 0]}, "positive sum"),
        ({"counts": [2, -1]}, "not negative"),
        ({"counts": [1, float("nan")]}, "must be finite"),
        ({}, "max_objects must be a positive integer"),
    ],
)
def test_counts_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        setflow.EmpiricalCardinality(**arguments)


@pytest.mark.parametrize("fitted", [True, False])
def test_what_is_given_or_fitted_is_kept_unless_refitting_is_asked_for(fitted):
    batch, other = events(2), events(2)
    other = setflow.SetBatch(other.x + 1, None, 2 * other.c)
    given = {"mean": [1, 2, 3], "std": [1, 1, 2]}
    flow = model(
        2,
        scaler=Standardizer(3, **({} if fitted else given)),
        context_scaler=Standardizer(2) if fitted else Standardizer(2, mean=0, std=1),
    )
    if fitted:
        flow.fit_statistics(batch)
    else:
        flow.cardinality = setflow.EmpiricalCardinality(counts=[1, 2, 3, 4, 5, 6])
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    with pytest.warns(UserWarning, match="refit=True") if fitted else contextlib.nullcontext():
        flow.fit_statistics(other)
    for name, value in flow.state_dict().items():
        ranged = name.startswith("context_encoder.") and not fitted  # nobody gives the range
        assert ranged or torch.equal(value, before[name]), name
    flow.fit_statistics(other, refit=True)
    assert torch.equal(flow.context_encoder.low, other.c.double().amin(0))
    expected = model(2, scaler=Standardizer(3)).fit_statistics(other).state_dict()
    for name in ("scaler.mean", "context_scaler.std", "cardinality.probabilities"):
        assert torch.equal(flow.state_dict()[name], expected[name])
        assert not torch.equal(flow.state_dict()[name], before[name])
    longer = setflow.SetBatch(torch.rand(4, 9, 3) + 0.1, None, torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"up to 9 objects, .* knows up to 5, max_objects"):
        flow.fit_statistics(longer)


def test_what_is_missing_is_fitted_beside_what_is_given():
    batch = events()
    flow = model(scaler=Standardizer(3, mean=0, std=1)).fit_statistics(batch)
    assert flow.scaler.mean.tolist() == [0, 0, 0]
    torch.testing.assert_close(
        flow.cardinality.probabilities, torch.bincount(batch.lengths, minlength=6) / len(batch)
    )


# --- it travels ---


def stated(flow):
    buffer = io.BytesIO()
    torch.save(flow.state_dict(), buffer)
    buffer.seek(0)
    again = model(2, "conditional")
    again.load_state_dict(torch.load(buffer, weights_only=True))
    return again


def described(flow):
    node = yaml.safe_load(yaml.safe_dump(flow.describe()))
    again = setflow.SetFlow.from_node(node)
    again.load_state_dict(flow.state_dict())
    return again


def broadcast(flow):
    """As DDP does to the buffers of all processes but the first."""
    again = model(2, "conditional")
    again.field, again.cardinality.net = flow.field, flow.cardinality.net
    again.cardinality.bias = flow.cardinality.bias
    for mine, theirs in zip(again.buffers(), flow.buffers(), strict=True):
        mine.copy_(theirs)
    return again


JOURNEYS = {
    "state dict": stated,
    "description and state dict": described,
    "deepcopy": copy.deepcopy,
    "pickle": lambda flow: pickle.loads(pickle.dumps(flow)),
    "broadcast": broadcast,
}


@pytest.mark.parametrize("journey", JOURNEYS)
def test_whether_it_is_fitted_travels_along(journey):
    batch = events(2)
    unfitted = JOURNEYS[journey](model(2, "conditional"))
    with pytest.raises(ValueError, match="scaler and context_scaler and cardinality"):
        unfitted.loss(batch)
    flow = model(2, "conditional").fit_statistics(batch)
    again = JOURNEYS[journey](flow)
    options = {"t": torch.full((40,), 0.5), "noise": torch.zeros(40, 5, 3)}
    assert torch.equal(again.loss(batch, **options), flow.loss(batch, **options))


def test_a_state_that_is_not_fitted_makes_a_model_unfitted():
    flow = model(2).fit_statistics(events(2))
    flow.load_state_dict(model(2).state_dict())
    with pytest.raises(ValueError, match="never"):
        flow.sample(2, [500.0, 500.0])


def test_a_folder_is_fitted_and_its_configuration_holds_what_was_given(tmp_path):
    batch = events(2)
    flow = model(2, context_scaler=Standardizer(2, mean=[500, 500], std=50)).fit_statistics(batch)
    again = setflow.SetFlow.load(flow.save(tmp_path / "model"))
    c = batch.c[:4]
    assert torch.equal(
        again.sample(4, c, 1, solver=SOLVER).x, flow.sample(4, c, 1, solver=SOLVER).x
    )
    config = yaml.safe_load((tmp_path / "model/config.yaml").read_text())
    parts = config["model"]["flow"]["init_args"]
    assert parts["scaler"]["init_args"] == {
        "dim": 3,
        "kinds": ["real", "real", "positive(boxcox=0.3)"],
    }
    assert parts["cardinality"]["init_args"] == {"max_objects": 5}
    assert parts["context_scaler"]["init_args"]["mean"] == [500, 500]
    anew = setflow.SetFlow.from_node(config["model"]["flow"])
    assert not anew.scaler.is_fitted  # so a training from this file fits it
    assert anew.context_scaler.is_fitted
    twice = yaml.safe_load((again.save(tmp_path / "again") / "config.yaml").read_text())
    assert twice == config


@each(
    "part",
    [
        Standardizer(kinds=["real", "positive(boxcox=0.5)"]).fit(torch.rand(9, 4, 2) + 0.1),
        Standardizer(mean=[1, 2], std=[3, 4]),
        setflow.EmpiricalCardinality(3).fit(torch.tensor([1, 3, 3, 0])),
    ],
)
def test_a_description_has_the_statistics(part):
    torch.set_default_dtype(torch.float32)  # to the last bit, whatever the default
    again = build(yaml.safe_load(yaml.safe_dump(describe(part))), expected=object, where="test")
    assert again.is_fitted
    for name, value in part.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_a_description_without_statistics_builds_what_has_none():
    for part in (
        Standardizer(kinds=["real", "positive(boxcox=0.5)"]),
        setflow.EmpiricalCardinality(3),
    ):
        node = describe(part)
        assert not build(node, expected=object, where="test").is_fitted


def test_the_shipped_model_is_fitted():
    flow = setflow.SetFlow.load(ROOT / "models/top30")
    assert flow.sample(2, solver=SOLVER).x.isfinite().all()


def test_statistics_are_looked_at_once(monkeypatch):
    """So nothing waits for an accelerator in each step."""
    flow, batch = stated(model(2, "conditional").fit_statistics(events(2))), events(2)
    looks, look = [], torch.Tensor.isnan
    monkeypatch.setattr(torch.Tensor, "isnan", lambda self: looks.append(self) or look(self))
    statistics = {id(value) for value in flow.buffers()}
    for _ in range(3):
        flow.loss(batch)
        flow.sample(2, batch.c[:2], solver=SOLVER)
        flow.log_prob(batch, solver=SOLVER)
    assert (
        len([value for value in looks if id(value) in statistics]) == 5
    )  # mean and std of two scalers, the basis of p(N | c)
