"""Contexts of every kind: what a field gets of them, by which names they are given, their range."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
import yaml

import setflow
from each import each
from laws.laws import redraw
from setflow.model.encoding import ContextEncoder, OutsideTrainingWarning, context_columns
from setflow.schema import Feature, Schema
from setflow.sets.batch import SetBatch

CLASSES = ("top", "gluon", "quark")
PT = Feature("pt", "GeV")
PHI = Feature("phi", "rad", "angle")
FRACTION = Feature("fraction", kind="bounded(0, 1)")
CLASS = Feature("class", kind=f"category({', '.join(CLASSES)})")
EVERY = (PT, CLASS, PHI, FRACTION)


def schema_of(*event):
    return Schema([Feature("x"), Feature("y")], event)


def events(n=60, *, features=EVERY, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, 2, generator=generator)
    mask = torch.rand(n, 5, generator=generator) > 0.3
    values = {
        "pt": 125 + (20 if seed else 25) * (2 * torch.rand(n, generator=generator) - 1),
        "class": torch.arange(n) % 3.0,
        "phi": math.pi * (2 * torch.rand(n, generator=generator) - 1),
        "fraction": 0.1 + 0.8 * torch.rand(n, generator=generator),
    }
    return SetBatch(x, mask, torch.stack([values[f.name] for f in features], -1))


def make(features=EVERY, *, cardinality="conditional", **parts):
    width = len(context_columns(features))
    field = setflow.TransformerField(2, hidden=8, layers=1, heads=1, condition_dim=width)
    number = setflow.ConditionalCardinality(5, width) if cardinality == "conditional" else None
    conditions = [feature.name for feature in features]
    flow = setflow.SetFlow(
        redraw(field), schema=schema_of(*features), conditions=conditions, cardinality=number,
        **parts,
    )  # fmt: skip
    flow.fit_statistics(events(features=features))
    if number is not None:
        redraw(number.net)
    return flow.eval()


def test_each_kind_is_encoded_as_its_definition():
    flow, batch = make(), events(7, seed=3)
    got = flow.scaled_context(batch.c, 7)
    pt, code, phi, fraction = batch.c.double().unbind(-1)
    train = events().c.double()
    logit = torch.logit
    expected = [
        (pt - train[:, 0].mean()) / train[:, 0].std(),
        *(torch.eye(3)[code.long()].unbind(-1)),
        phi.cos(),
        phi.sin(),
        (logit(fraction) - logit(train[:, 3]).mean()) / logit(train[:, 3]).std(),
    ]
    torch.testing.assert_close(got.double(), torch.stack(expected, -1).double(), atol=1e-5, rtol=0)
    assert flow.context_encoder.columns == (
        "pt", "class=top", "class=gluon", "class=quark", "cos(phi)", "sin(phi)", "fraction",
    )  # fmt: skip
    assert flow.context_scaler.dim == 2


def test_the_precision_of_a_file_changes_no_column():
    """The same values as float32 and as float64, of every kind, reach a field in float32 alike."""
    flow, c = make(), events(200, seed=3).c.float()
    narrow, wide = (flow.scaled_context(values, len(c)) for values in (c, c.double()))
    assert torch.equal(narrow, wide.to(narrow))


def test_an_angle_is_the_same_after_a_turn():
    flow, batch = make(), events(7, seed=3)
    turned = batch.c.double() + torch.tensor([0, 0, 2 * math.pi, 0])
    one, other = flow.scaled_context(batch.c.double(), 7), flow.scaled_context(turned, 7)
    torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_an_angle_in_degrees_is_refused():
    flow, batch = make(), events(7, seed=3)
    degrees = batch.c.clone()
    degrees[:, 2] = torch.linspace(0, 180, 7)
    told = "condition 'phi' of event 1 is 30, expected radians, such as 1.57; math.radians makes"
    given = {"pt": 300, "class": "top", "phi": degrees[:, 2], "fraction": 0.5}
    for use in (lambda: flow.sample(7, given, solver=setflow.Euler(1)),
                lambda: flow.loss(SetBatch(batch.x, batch.mask, degrees)),
                lambda: flow.log_prob(SetBatch(batch.x, batch.mask, degrees)),
                lambda: make().fit_statistics(SetBatch(batch.x, batch.mask, degrees), refit=True),
                ):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            use()
    unknown = flow.context_encoder.unknown(degrees, flow.context_scaler)
    assert unknown.any(-1).tolist() == [False] + [True] * 6


def test_a_condition_that_its_kind_does_not_have_is_not_told_as_of_an_object():
    flow = make((FRACTION,))
    with pytest.raises(
        ValueError, match=r"condition 'fraction' .*, the first \(2\) of event 1; give"
    ):
        flow.sample(2, {"fraction": [0.5, 2]}, solver=setflow.Euler(1))


def test_numbers_alone_are_scaled_as_before():
    flow = make((PT, FRACTION))
    c = events(9, features=(PT, FRACTION), seed=1).c
    assert torch.equal(flow.scaled_context(c, 9), flow.context_scaler(c[:, None])[:, 0])


def test_names_in_another_order_are_the_same_model_with_permuted_columns():
    """Codes are permuted with the names, and the weights of the columns with both."""
    order = [2, 0, 1]  # the new first name is the old third one
    flow, batch = make((PT, CLASS)), events(8, features=(PT, CLASS), seed=2)
    other = make((PT, Feature("class", kind=f"category({', '.join(CLASSES[k] for k in order)})")))
    state = flow.state_dict()
    columns = [-4, *(k - 3 for k in order)]  # the last ones that the first layers get
    for name in ("field.condition.net.0.weight", "cardinality.net.0.weight"):
        state[name] = state[name].clone()
        state[name][:, -4:] = state[name][:, columns]
    other.load_state_dict(state)
    c = batch.c.clone()
    c[:, 1] = torch.tensor([order.index(int(code)) for code in c[:, 1]])
    for of in (lambda f, c: f.loss(SetBatch(batch.x, batch.mask, c), t=torch.full((8,), 0.3),
                                   noise=torch.ones_like(batch.x)),
               lambda f, c: f.log_prob(SetBatch(batch.x, batch.mask, c), solver=setflow.RK4(2)),
               lambda f, c: f.sample(8, c, seed=1, solver=setflow.Euler(2)).x):  # fmt: skip
        torch.testing.assert_close(of(flow, batch.c), of(other, c), atol=1e-5, rtol=1e-5)


def test_a_class_changes_the_sample_and_its_number():
    flow = make((CLASS,))
    one, other = (
        flow.sample(200, {"class": name}, solver=setflow.Euler(2)) for name in CLASSES[:2]
    )
    assert not torch.equal(one.lengths, other.lengths)
    assert (one.x[:, 0] - other.x[:, 0]).abs().mean() > 1e-3


def test_a_batch_changes_no_event():
    flow, batch = make(), events(12, seed=4)
    solver = setflow.Euler(2)
    whole = flow.sample(12, batch.c, seed=5, solver=solver)
    log_p = flow.log_prob(batch, solver=solver)
    for k in (0, 7, 11):
        one = flow.sample(1, batch.c[k], seed=5, first=k, solver=solver)
        assert one.lengths[0] == whole.lengths[k]
        torch.testing.assert_close(one.x[0], whole.x[k], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(
            flow.log_prob(batch[k : k + 1], solver=solver), log_p[k : k + 1], atol=1e-4, rtol=1e-5
        )


@each("value", [3.0, -1.0, 0.5, math.nan])
def test_what_is_no_code_is_refused_with_the_names(value):
    flow, batch = make((PT, CLASS)), events(8, features=(PT, CLASS))
    batch.c[4, 1] = value
    message = re.escape(f"condition 'class' of event 4 is {value:g}, expected the code of a ")
    message += "category: 0 for top, 1 for gluon, 2 for quark"
    for use in (
        lambda: flow.sample(8, batch.c, solver=setflow.Euler(1)),
        lambda: flow.log_prob(batch, solver=setflow.Euler(1)),
        lambda: flow.loss(batch),
        lambda: flow.fit_statistics(batch, refit=True),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_gradients_and_vmap_pass_through():
    flow, batch = make(), events(3, seed=6)

    def total(c):
        return flow.log_prob(SetBatch(batch.x, batch.mask, c), solver=setflow.Euler(2)).sum()

    gradient = torch.func.grad(total)(batch.c)
    assert gradient[:, [0, 2, 3]].abs().min() > 0
    assert gradient[:, 1].abs().max() == 0


# --- by name ---


@each(
    "given",
    [
        {"class": "gluon", "pt": 120},
        {"class": ["gluon"] * 4, "pt": [120.0] * 4},
        {"class": np.array(["gluon"] * 4), "pt": np.float32(120)},
        {"class": 1, "pt": torch.tensor(120.0)},
        {"class": np.array(["gluon"] * 4, dtype=object), "pt": 120},
        torch.tensor([120.0, 1.0]),
    ],
)
def test_a_category_is_given_by_name_or_code(given):
    flow = make((PT, CLASS))
    c = flow.sample(4, given, solver=setflow.Euler(1)).c
    assert torch.equal(c, torch.tensor([[120.0, 1.0]]).expand(4, 2))


@each(
    ("given", "message"),
    [
        ({"class": "tpo", "pt": 1}, "condition 'class': there is no 'tpo' among top, gluon, quark; "
         "did you mean 'top'"),
        ({"class": ["top", "glue"], "pt": 1}, "no 'glue' among .* did you mean 'gluon'"),
        ({"class": "top", "pt": "900"}, r"condition 'pt' is '900', expected a number \[GeV\]"),
        ({"class": "top", "pT": 1}, "lacks pt and has pT.*did you mean 'pt'"),
        ({"class": ["top", "top", "top"], "pt": 1}, r"'class' has shape \(3,\), expected a name"),
    ],
)  # fmt: skip
def test_names_that_are_none_are_told_with_the_nearest(given, message):
    with pytest.raises(ValueError, match=message):
        make((PT, CLASS)).sample(2, given)


# --- the range of the training ---


def test_the_range_is_that_of_the_training_and_travels_with_the_model(tmp_path):
    flow, c = make(), events().c.double()
    low, high = flow.context_encoder.low, flow.context_encoder.high
    assert torch.equal(low, c.amin(0))
    assert torch.equal(high, c.amax(0))
    flow.save(tmp_path / "model")
    loaded = setflow.SetFlow.load(tmp_path / "model")
    assert torch.equal(loaded.context_encoder.low, low)
    with pytest.warns(OutsideTrainingWarning, match="'pt'"):
        loaded.sample(1, {"pt": 300, "class": "top", "phi": 0, "fraction": 0.5},
                      solver=setflow.Euler(1))  # fmt: skip


def test_a_context_outside_the_range_warns_with_the_range():
    flow = make((PT, CLASS, PHI))
    low, high = (value[0].item() for value in (flow.context_encoder.low, flow.context_encoder.high))
    told = f"condition 'pt' of 2 of 3 events lies outside the range of the training, {low:.6g} to "
    told += f"{high:.6g} GeV, .*: it is 900 in event 1"
    given = {"pt": [120, 900, 1], "class": "top", "phi": 4 * math.pi}
    with pytest.warns(OutsideTrainingWarning, match=told):
        flow.sample(3, given, solver=setflow.Euler(1))
    flow.sample(3, {**given, "pt": [low, high, 120]}, solver=setflow.Euler(1))  # warns of nothing


def test_what_chance_puts_outside_the_range_is_not_told():
    """A sample of the law of the training leaves its range now and then, by a little."""
    flow = make((PT,))
    encoder = flow.context_encoder
    low, high = encoder.low[0].item(), encoder.high[0].item()
    width = high - low
    c = torch.linspace(low, high, 1000, dtype=torch.float64)[:, None]
    c[:10, 0] = high + 0.05 * width
    encoder.warn_outside(c)
    c[10, 0] = low - 0.09 * width  # one more than a hundredth
    told = f"of 11 of 1,000 events .*, by up to 9 % of it: it is {c[10, 0].item():.6g} in event 10"
    with pytest.warns(OutsideTrainingWarning, match=told):
        encoder.warn_outside(c)
    c[1:11] = low
    c[0, 0] = high + 0.11 * width  # one alone, but far
    with pytest.warns(OutsideTrainingWarning, match=r"of 1 of 1,000 .*nothing: it is .* event 7$"):
        encoder.warn_outside(c, first=7)
    c[0, 0] = torch.inf  # no context at all, which is an error elsewhere
    encoder.warn_outside(c)
    many = ContextEncoder([Feature("kind", kind=f"category({', '.join('abcdefghijklmno')})")])
    many.learn_range(torch.arange(14.0)[:, None])
    codes = torch.zeros(1000, 1)
    codes[5], codes[6] = 14, 99
    with pytest.warns(OutsideTrainingWarning, match=r"of 1 of 1,000 .* it is o in event 5"):
        many.warn_outside(codes)


def test_a_class_that_was_never_seen_warns_by_name():
    flow = make((CLASS,))
    batch = events(features=(CLASS,))
    flow.fit_statistics(batch[batch.c[:, 0] < 2], refit=True)
    with pytest.warns(OutsideTrainingWarning, match="training, top to gluon,.* it is quark in"):
        flow.sample(1, {"class": "quark"}, solver=setflow.Euler(1))


def test_a_folder_without_a_range_loads_and_does_not_warn(tmp_path):
    flow = make((PT,))
    state = {k: v for k, v in flow.state_dict().items() if not k.startswith("context_encoder")}
    other = make((PT,))
    other.context_encoder.low.fill_(torch.nan)
    other.context_encoder.high.fill_(torch.nan)
    other.load_state_dict(state)
    other.sample(1, {"pt": 1e5}, solver=setflow.Euler(1))


# --- folders ---


def test_names_of_categories_travel_with_the_model(tmp_path):
    flow, batch = make(), events(5, seed=8)
    loaded = setflow.SetFlow.load(flow.save(tmp_path / "model"))
    assert loaded.schema == flow.schema
    given = {"pt": 120, "class": "quark", "phi": 1.0, "fraction": 0.5}
    solver = setflow.Euler(2)
    assert flow.sample(3, given, solver=solver) == loaded.sample(3, given, solver=solver)
    assert torch.equal(flow.log_prob(batch, solver=solver), loaded.log_prob(batch, solver=solver))


def test_a_schema_that_contradicts_the_weights_is_refused(tmp_path):
    folder = make((PT, CLASS)).save(tmp_path / "model")
    node = yaml.safe_load((folder / "config.yaml").read_text())["model"]["flow"]
    node["init_args"]["schema"]["event"][1]["kind"] = "category(top, gluon)"
    message = "condition_dim=4, .* which make 3 columns: pt, class=top, class=gluon; "
    with pytest.raises(ValueError, match=message):
        setflow.SetFlow.from_node(node)


@each(
    ("part", "message"),
    [
        ("field", "field has condition_dim=2, .*: pt, class, which make 4 columns: pt, class=top, "
         "class=gluon, class=quark; build it with condition_dim=4"),
        ("cardinality", "cardinality has condition_dim=2, .* 4 columns: .*; give as many .4."),
        ("scaler", "context_scaler has dim=2, but there are 1 names: .* conditions pt; "),
    ],
)  # fmt: skip
def test_parts_of_another_width_are_told_the_number(part, message):
    width = {name: 2 if name == part else 4 for name in ("field", "cardinality")}
    field = setflow.TransformerField(2, hidden=8, layers=1, heads=1, condition_dim=width["field"])
    number = setflow.ConditionalCardinality(5, width["cardinality"])
    scaler = setflow.data.Standardizer(2) if part == "scaler" else None
    with pytest.raises(ValueError, match=message):
        setflow.SetFlow(
            field, schema=schema_of(PT, CLASS), conditions=["pt", "class"], cardinality=number,
            context_scaler=scaler,
        )  # fmt: skip


def test_the_encoder_says_what_it_makes():
    assert repr(ContextEncoder([PT, CLASS])).startswith("ContextEncoder(pt, class=top, class=gluon")


@pytest.mark.parametrize("text", ["top", ["top", "gluon"], ("top",), np.str_("top"), b"top"])
def test_a_text_without_the_name_of_its_condition_is_no_context(text):
    """It was taken for a path, and readers of files were advised."""
    encoder = ContextEncoder([CLASS, PT])
    told = r"^the context is .*top.*, expected values by name, \{'class': ..., 'pt': ...\}, or rows"
    with pytest.raises(ValueError, match=told):
        encoder.rows(text, 2)
    with pytest.raises(ValueError, match="the model takes none; leave it out"):
        ContextEncoder(()).rows(text, 2)
