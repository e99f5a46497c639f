"""What a SetFlow is given: contexts by name or for all, one event, arrays, and what is no batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import setflow
from each import each
from laws.laws import redraw
from setflow.data import JetWriter, SetDataset, Standardizer

SOLVER = setflow.Midpoint(3)


def make(conditions=("pt", "mass"), cardinality=None, **parts):
    field = setflow.TransformerField(2, hidden=8, layers=1, heads=1, condition_dim=len(conditions))
    parts.setdefault("scaler", Standardizer(kinds=["real", "positive"]))
    flow = setflow.SetFlow(
        redraw(field), features=["eta", "pT"], conditions=conditions,
        cardinality=cardinality or setflow.EmpiricalCardinality(4), **parts,
    )  # fmt: skip
    return flow.fit_statistics(events(40, len(conditions)))


def events(count=6, conditions=2):
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(4) < torch.randint(1, 5, (count, 1), generator=generator)
    x = torch.rand(count, 4, 2, generator=generator) + 0.1
    c = 1 + torch.rand(count, conditions, generator=generator) if conditions else None
    return setflow.SetBatch(x, mask, c)


@each(
    "given",
    [
        {"pt": 1.25, "mass": 1.5},
        {"mass": [1.5] * 5, "pt": np.full(5, 1.25)},
        {"mass": torch.tensor(1.5).double(), "pt": torch.tensor([1.25]).double()},
        [1.25, 1.5],
        [[1.25, 1.5]],
        torch.tensor([1.25, 1.5]).double(),
        np.array([[1.25, 1.5]]),
    ],
)
def test_a_context_by_name_and_one_row_for_all(given):
    flow, whole = make(), torch.tensor([[1.25, 1.5]]).expand(5, 2)
    expected = flow.sample(5, whole, 3, solver=SOLVER)
    got = flow.sample(5, given, 3, solver=SOLVER)
    assert torch.equal(got.x, expected.x)
    assert torch.equal(got.c, expected.c)


@pytest.mark.filterwarnings("ignore::setflow.model.OutsideTrainingWarning")
def test_integers_by_name_are_not_cut():
    flow = make()
    got = flow.sample(2, {"pt": [1, 2], "mass": 1.5}, 3, solver=SOLVER)
    assert torch.equal(got.c, torch.tensor([[1.0, 1.5], [2.0, 1.5]]))


@each(
    ("given", "message"),
    [
        ({"pt": 1.0}, "the context lacks mass; the conditions of the model are pt, mass"),
        (
            {"pt": 1.0, "mass": 1.0, "eta": 0.0},
            "has eta, which the model does not know; .* pt, mas",
        ),
        ({"pT": 1.0, "mass": 1.0}, "lacks pt and has pT, which the model does not know"),
        ({"pt": [1.0, 2.0], "mass": 1.0}, r"condition 'pt' has shape \(2,\), expected a number"),
        ([1.0, 2.0, 3.0], r"expected a context c with shape \(5, 2\), got shape \(3,\)"),
        ([[1.0, 2.0]] * 2, r"expected a context c with shape \(5, 2\), got shape \(2, 2\)"),
    ],
)
def test_a_context_that_does_not_fit(given, message):
    with pytest.raises(ValueError, match=message):
        make().sample(5, given)


def test_a_model_without_conditions_knows_no_name():
    with pytest.raises(
        ValueError, match=r"has pt, which the model does not know, as it has no cond"
    ):
        make(()).sample(5, {"pt": 1.0})
    with pytest.raises(ValueError, match="takes no context"):
        make(()).sample(1, [1.0])


@pytest.mark.parametrize("conditions", [(), ("pt", "mass")])
def test_one_event_may_be_scored_and_trained_on(conditions):
    flow, batch = make(conditions), events(6, len(conditions))
    one = batch[2]
    assert one.mask.ndim == 1
    options = {"solver": SOLVER, "estimator": setflow.HutchinsonDivergence(), "first": 2}
    expected = flow.log_prob_terms(batch[2:3], **options)
    terms = flow.log_prob_terms(one, **options)
    for got, value in zip(terms, expected, strict=True):
        assert got.shape == ()
        torch.testing.assert_close(got, value[0], equal_nan=True)
    assert flow.log_prob(one, solver=SOLVER).shape == ()
    noise = torch.randn(4, 2)
    loss = flow.loss(one, t=torch.tensor(0.5), noise=noise)
    assert torch.equal(loss, flow.loss(batch[2:3], t=torch.tensor([0.5]), noise=noise[None]))


def test_what_is_no_batch_is_told_in_a_sentence(tmp_path):
    flow, x = make(()), torch.rand(6, 4, 2)
    writer = JetWriter(tmp_path / "jets.h5", objects=4)
    for name, call in {
        "loss": lambda: flow.loss(x),
        "log_prob": lambda: flow.log_prob(x.numpy()),
        "fit_statistics": lambda: flow.fit_statistics(x),
        "SetDataset": lambda: SetDataset(x),
    }.items():
        message = (
            rf"{name} expects a setflow\.SetBatch, got \w+ of shape \(6, 4, 2\).*SetBatch\(x, m"
        )
        with pytest.raises(TypeError, match=message):
            call()
    with pytest.raises(TypeError, match=r"loss expects a setflow\.SetBatch, got dict;"):
        flow.loss({"x": x})
    with writer, pytest.raises(TypeError, match=r"JetWriter\.write expects a setflow\.SetBatch"):
        writer.write(torch.rand(6, 4, 3), torch.ones(6, 4))


@each(
    ("change", "message"),
    [
        (lambda b: b.x[..., 0].fill_(3), "^feature 'eta' is constant .3.; leave it out"),
        (lambda b: b.c[:, 1].fill_(3), "^condition 'mass' is constant .3.; leave it out"),
        (lambda b: b.x[5, 0, 1].fill_(-2), "^feature 'pT' is of kind pos.* first .-2.* event 5"),
        (lambda b: b.c[4, 0].fill_(-2), "^condition 'pt' is of kind pos.* first .-2.* event 4"),
        (lambda b: b.x[5, 0, 1].fill_(torch.nan), "^feature 'pT' holds NaN .* event 5"),
        (lambda b: b.c[3, 1].fill_(torch.inf), "^condition 'mass' holds NaN .* event 3"),
    ],
)
def test_statistics_that_cannot_be_fitted_name_feature_or_condition(change, message):
    batch = events(40)
    change(batch)
    flow = make(context_scaler=Standardizer(kinds=["positive", "real"]))
    with pytest.raises(ValueError, match=message):
        flow.fit_statistics(batch, refit=True)


# --- a loss that is not finite ---


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("cardinality", ["empirical", "conditional"])
def test_the_loss_names_the_event_and_the_feature_that_are_not_finite(value, cardinality):
    numbers = setflow.ConditionalCardinality(4, 2) if cardinality == "conditional" else None
    flow = make(cardinality=numbers, scaler=Standardizer(2))
    batch = events()
    batch.x[1, ~batch.mask[1]] = float("nan")  # padding may hold anything
    assert flow.loss(batch).isfinite()
    batch.x[4, 0, 1] = value
    with pytest.raises(ValueError, match=f"loss is nan. In event 4 feature 'pT' .* is {value:g}"):
        flow.loss(batch)
    with pytest.raises(ValueError, match="the first is event 4, where feature 'pT'"):
        flow.log_prob(batch, solver=SOLVER)
    batch = events()
    batch.c[3, 0] = value
    own = "first is event 3, condition 'pt'"  # of p(N | c), which is asked first
    with pytest.raises(
        ValueError, match=own if numbers else f"event 3 condition 'pt' is {value:g}"
    ):
        flow.loss(batch)
    with pytest.raises(ValueError, match="context of event 3 is not finite: condition 'pt'"):
        flow.log_prob(batch, solver=SOLVER)
    single = setflow.SetBatch(torch.full((2, 2), value), None, batch.c[0])
    with pytest.raises(ValueError, match="In the event feature 'eta' of an object"):
        flow.loss(single)


def test_a_value_below_a_logarithm_names_event_and_feature():
    flow, batch = make(), events()
    batch.x[4, 0, 1] = float("nan")
    with pytest.raises(ValueError, match=r"feature 'pT' is of kind pos.*first \(nan\).* event 4"):
        flow.loss(batch)


def test_a_loss_of_finite_events_that_is_not_finite_says_so():
    flow, batch = make(), events()
    with torch.no_grad():
        next(flow.field.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"loss is nan\. The events .* finite, but weights of the"):
        flow.loss(batch)
    flow = make()
    with pytest.raises(ValueError, match="the field's arithmetic that overflows"):
        flow.loss(batch, noise=torch.full_like(batch.x, 1e200))


def test_on_an_accelerator_no_loss_is_looked_at(monkeypatch):
    """With a device that only pretends: looking at the loss would raise."""
    flow, batch = make(), events()

    class Elsewhere(torch.Tensor):
        device = torch.device("cuda")

        def __bool__(self):
            raise AssertionError("a look at a value waits for the device")

    value = torch.tensor(float("nan")).as_subclass(Elsewhere)
    monkeypatch.setattr(setflow.SetFlow, "loss_terms", lambda *_, **__: {"flow": value})
    assert flow.loss(batch).isnan().as_subclass(torch.Tensor)


@each("given", [{"pt": [1.0, float("nan")], "mass": 1.0}, [[1.0, 1.0], [float("inf"), 1.0]]])
def test_a_sample_is_not_asked_for_what_is_no_number(given):
    with pytest.raises(ValueError, match="context of event 1 is not finite: condition 'pt'"):
        make().sample(2, given, solver=SOLVER)


@each("names", ["ab", ("a", "a")])
def test_names_are_a_sequence_and_differ(names):
    field = setflow.TransformerField(2, hidden=8, layers=1, heads=1)
    with pytest.raises(ValueError, match="expected a sequence of names, all different"):
        setflow.SetFlow(field, features=names)


def test_statistics_that_are_kept_are_told():
    flow = make()
    mean = flow.scaler.mean.clone()
    other = events(40)
    other = setflow.SetBatch(3 * other.x, other.mask, other.c)
    with pytest.warns(UserWarning, match="refit=True"):
        flow.fit_statistics(other)
    assert torch.equal(flow.scaler.mean, mean)
    flow.fit_statistics(other, refit=True)
    assert not torch.equal(flow.scaler.mean, mean)


@each("solver", ["euler", setflow.Euler, 5, setflow.StandardNormal((2,))])
def test_a_solver_is_an_object(solver):
    with pytest.raises(TypeError, match="expected a solver object such as"):
        make().sample(2, [1.5, 1.5], solver=solver)


class Dropping(torch.nn.Module):
    event_ndim = 2

    def __init__(self):
        super().__init__()
        self.linear, self.drop = torch.nn.Linear(2, 2), torch.nn.Dropout(0.5)

    def forward(self, x, t, c=None):
        return self.drop(self.linear(x))


def test_layers_that_differ_in_training_are_not_sampled_or_scored_with():
    """Their numbers would be others at each call, whatever the seed."""
    batch = events(5, 0)
    flow = setflow.SetFlow(
        Dropping(), scaler=Standardizer(2, mean=0, std=1), features=["eta", "pT"],
        cardinality=setflow.EmpiricalCardinality(4),
    ).fit_statistics(batch)  # fmt: skip
    assert flow.loss(batch).isfinite()
    for use in (lambda: flow.sample(3, seed=1, solver=SOLVER), lambda: flow.log_prob(batch)):
        with pytest.raises(ValueError, match=r"call flow\.eval\(\) before"):
            use()
    flow.eval()
    first, second = (flow.sample(3, seed=1, solver=SOLVER).x for _ in range(2))
    assert torch.equal(first, second)
    assert flow.log_prob(batch, solver=SOLVER).isfinite().all()


def test_a_field_of_other_features_is_told_how_to_name_them():
    field = setflow.TransformerField(2, hidden=16, layers=1, heads=2)
    with pytest.raises(ValueError, match="build it with dim=3, or name as many by features="):
        setflow.SetFlow(field)


@each("lengths", [[True] * 3, np.ones((3, 4), bool), torch.ones(3, 4)])
def test_a_mask_is_no_lengths(lengths):
    with pytest.raises(ValueError, match=r"expected \(3,\) integers.*; of a mask they are mask\.s"):
        make(()).sample(3, lengths=lengths)


def test_one_number_per_event_is_no_row():
    flow = make(("pt",))
    with pytest.raises(ValueError, match=r"with shape \(2, 1\), got shape \(2,\); one number per"):
        flow.sample(2, np.array([9.0, 15.0]))


def test_more_objects_than_the_model_knows_are_refused_in_training():
    flow, longer = make(()), setflow.SetBatch(torch.rand(3, 6, 2) + 0.1)
    message = "events have up to 6 objects, and the cardinality model knows up to 4.*cut the events"
    for call in (flow.loss, flow.loss_terms):
        with pytest.raises(ValueError, match=message):
            call(longer)
    padded = torch.arange(6) < torch.tensor([[4], [1], [0]])
    assert bool(flow.loss(setflow.SetBatch(longer.x, padded)).isfinite())


@each(("name", "value"), [("noise", torch.nan), ("t", torch.nan), ("t", 1.5)])
def test_what_is_given_to_the_loss_is_looked_at(name, value):
    flow, batch = make(()), events(conditions=0)
    shape = batch.x.shape if name == "noise" else (len(batch),)
    with pytest.raises(ValueError, match=f"{name}.* {value:g}"):
        flow.loss(batch, **{name: torch.full(shape, value)})


def test_parts_in_each_others_places_are_named():
    field, number = setflow.TransformerField(2, hidden=8), setflow.EmpiricalCardinality(4)
    for parts in ({"scaler": number}, {"cardinality": Standardizer(2)}):
        with pytest.raises(TypeError, match="expected a cardinality model such as"):
            setflow.SetFlow(field, features=("a", "b"), **parts)
    with pytest.raises(TypeError, match="path is 3, expected an object such as"):
        setflow.SetFlow(field, features=("a", "b"), path=3)


def test_a_model_is_saved_to_and_loaded_from_a_path(tmp_path):
    flow = make(())
    for call in (flow.save, setflow.SetFlow.load):
        with pytest.raises(TypeError, match=r"got None, expected .*path"):
            call(None)
    with pytest.raises(ValueError, match="device is 'gpu', expected cpu, cuda or cuda:<number>"):
        setflow.SetFlow.load("top30", device="gpu")
    flow.save(tmp_path / "model")
    with pytest.raises(FileExistsError, match=r"or overwrite it with overwrite=True$"):
        flow.save(tmp_path / "model")
