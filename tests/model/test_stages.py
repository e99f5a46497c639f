"""Models of two stages: conditions from a model of their own, then the objects."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from scipy import stats

import setflow
from each import each
from laws.laws import redraw
from setflow.model.folder import short_card
from setflow.model.statistics import SampleStatistics, statistics_of, take_statistics
from setflow.random import derive
from setflow.schema import Feature, Schema

SOLVER = setflow.Midpoint(2)
JETS = Schema(
    [Feature("x"), Feature("y")],
    [Feature("class", kind="category(one, two)"), Feature("pt", "GeV"), Feature("mass", "GeV")],
)
CONDITIONS = ("class", "pt", "mass")
MEAN, SPREAD = torch.tensor([500.0, 80.0]), torch.tensor([30.0, 5.0])


def _events(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(5) < torch.randint(0, 6, (n, 1), generator=generator)
    made = MEAN + SPREAD * torch.randn(n, 2, generator=generator)
    c = torch.cat([(torch.arange(n) % 2)[:, None], made], -1)
    return setflow.SetBatch(torch.randn(n, 5, 2, generator=generator), mask, c)


def _oracle():
    """A context model that makes independent Gaussians of the mean and spread of its training."""
    return setflow.SetFlow(
        setflow.GaussianSetField(torch.zeros(2), torch.ones(2)), features=["pt", "mass"]
    )


def _flow(context_model, **options):
    field = redraw(setflow.TransformerField(2, hidden=16, layers=1, heads=2, condition_dim=4))
    return setflow.SetFlow(
        field,
        cardinality=setflow.EmpiricalCardinality(5),
        schema=JETS,
        conditions=CONDITIONS,
        context_model=context_model,
        **options,
    ).fit_statistics(_events(5000))


def _learned():
    field = redraw(setflow.TransformerField(2, hidden=16, layers=1, heads=2, condition_dim=2))
    return setflow.SetFlow(
        field,
        schema=Schema([JETS.of_event(name) for name in ("pt", "mass")], [JETS.of_event("class")]),
        conditions=["class"],
    )


def test_contexts_that_are_not_given_follow_the_context_model():
    flow = _flow(_oracle())
    batch = flow.sample(4000, {"class": "two"}, seed=2, solver=setflow.Euler(1))
    assert (batch.c[:, 0] == 1).all()
    trained = _events(5000).c[:, 1:]
    z_scores = (batch.c[:, 1:] - trained.mean(0)) / trained.std(0)
    for z in z_scores.T.numpy():
        assert stats.kstest(z, "norm", args=(0, 1)).pvalue > 1e-3
    assert abs(torch.corrcoef(batch.c[:, 1:].T)[0, 1]) < 0.06


def test_objects_are_made_given_the_context_that_was_drawn():
    flow = _flow(_oracle())
    batch = flow.sample(30, {"class": "two"}, seed=2, solver=SOLVER)
    again = flow.sample(30, batch.c, seed=2, solver=SOLVER)
    torch.testing.assert_close(again.x, batch.x, atol=1e-12, rtol=1e-12)
    assert torch.equal(again.mask, batch.mask)
    alone = flow.context_model.sample(30, seed=derive(2, "context"), lengths=torch.ones(30).long())
    torch.testing.assert_close(batch.c[:, 1:], alone.x[:, 0], atol=1e-12, rtol=1e-12)


def test_what_is_made_beyond_the_training_is_moved_to_its_end():
    flow, n = _flow(_oracle()), 20_000
    low, high = torch.aminmax(_events(5000).c[:, 1:].float(), dim=0)
    alone = flow.context_model.sample(n, seed=derive(2, "context"), lengths=torch.ones(n).long())
    made = alone.x[:, 0]
    beyond = ((made < low) | (made > high)).any(-1)
    assert 0 < int(beyond.sum()) < 50
    told = flow.sample(n, {"class": "two"}, seed=2, solver=setflow.Euler(1)).c[:, 1:]
    torch.testing.assert_close(told, made.clamp(low, high), atol=1e-4, rtol=0)
    torch.testing.assert_close(told[~beyond], made[~beyond], atol=1e-12, rtol=1e-12)
    far = {"class": "two", "pt": 5000.0, "mass": 80.0}  # what is given counts
    with pytest.warns(setflow.model.encoding.OutsideTrainingWarning):
        assert flow.sample(1, far, solver=setflow.Euler(1)).c[0, 1] == 5000


def test_a_context_is_a_function_of_seed_and_event_alone():
    flow = _flow(_learned())
    whole = flow.sample(20, {"class": "one"}, seed=3, solver=SOLVER)
    cut = flow.sample(7, {"class": "one"}, seed=3, first=5, solver=setflow.Euler(1), batch_size=2)
    torch.testing.assert_close(cut.c, whole.c[5:12], atol=1e-10, rtol=1e-10)
    other = flow.sample(20, {"class": "one"}, seed=4, solver=SOLVER)
    assert (other.c - whole.c)[:, 1:].abs().min() > 0


def test_a_class_changes_what_a_conditional_context_model_makes():
    flow = _flow(_learned())
    one, two = (flow.sample(20, {"class": name}, seed=3, solver=SOLVER) for name in ("one", "two"))
    assert (one.c - two.c)[:, 1:].abs().min() > 1e-6


def test_the_loss_is_that_of_both_and_neither_changes_the_other():
    flow, batch = _flow(_learned()), _events(40, 1)
    given = {"t": torch.rand(40), "noise": torch.randn(40, 5, 2)}
    noise = torch.randn(40, 1, 2)
    terms = flow.loss_terms(batch, **given, context_noise=noise)
    plain = setflow.SetFlow(
        flow.field, scaler=flow.scaler, context_scaler=flow.context_scaler, schema=JETS,
        cardinality=flow.cardinality, conditions=CONDITIONS,
    )  # fmt: skip
    torch.testing.assert_close(terms["flow"], plain.loss_terms(batch, **given)["flow"])
    contexts = setflow.SetBatch(batch.c[:, None, 1:], None, batch.c[:, :1])
    alone = flow.context_model.loss_terms(contexts, t=given["t"], noise=noise)
    torch.testing.assert_close(terms["context"], alone["flow"])
    several = torch.randn(40, 3, 2)
    drawn = [
        flow.context_model.loss_terms(
            contexts, t=(given["t"] + k / 3) % 1, noise=several[:, k : k + 1]
        )["flow"]
        for k in range(3)
    ]
    got = flow.loss_terms(batch, **given, context_noise=several)["context"]
    torch.testing.assert_close(got, torch.stack(drawn).mean())
    mine, theirs = list(flow.field.parameters()), list(flow.context_model.parameters())
    grads = torch.autograd.grad(terms["flow"], theirs, allow_unused=True, retain_graph=True)
    assert all(grad is None for grad in grads)
    grads = torch.autograd.grad(terms["context"], mine, allow_unused=True)
    assert all(grad is None for grad in grads)
    torch.testing.assert_close(
        flow.loss(batch, **given, context_noise=noise), sum(terms.values()).detach(),
        check_dtype=False,
    )  # fmt: skip


def test_weights_of_events_count_in_the_context_model():
    batch = _events(40, 1)
    parts = (batch.x, batch.mask, batch.c)
    twice = setflow.SetBatch(*(torch.cat([part, part[:10]]) for part in parts))
    weight = torch.ones(40)
    weight[:10] = 2.0
    weighted = setflow.SetBatch(batch.x, batch.mask, batch.c, weight)
    flow = _flow(_learned())
    t, noise, made = torch.rand(40), torch.randn(40, 5, 2), torch.randn(40, 1, 2)
    one = flow.loss_terms(weighted, t=t, noise=noise, context_noise=made)["context"] * 40
    t, noise, made = (torch.cat([part, part[:10]]) for part in (t, noise, made))
    two = flow.loss_terms(twice, t=t, noise=noise, context_noise=made)["context"] * 50
    torch.testing.assert_close(one, two)


def test_a_density_is_refused_without_the_context_and_is_that_given_it_otherwise():
    flow, batch = _flow(_learned()), _events(4, 1)
    with pytest.raises(
        ValueError, match=r"makes pt and mass first.*on a surface.*give the context"
    ):
        flow.log_prob(setflow.SetBatch(batch.x, batch.mask), solver=SOLVER)
    with pytest.warns(UserWarning, match=r"on a surface.*log p is that given the context"):
        log_p = flow.log_prob(batch, solver=SOLVER)
    plain = setflow.SetFlow(
        flow.field, scaler=flow.scaler, context_scaler=flow.context_scaler, schema=JETS,
        cardinality=flow.cardinality, conditions=CONDITIONS,
    )  # fmt: skip
    torch.testing.assert_close(log_p, plain.log_prob(batch, solver=SOLVER))


def test_a_folder_keeps_both_stages(tmp_path):
    flow = _flow(_learned(), drop_context=0.1)
    flow.save(tmp_path / "model")
    loaded = setflow.SetFlow.load(tmp_path / "model")
    one, two = (
        model.sample(5, {"class": "one"}, seed=1, solver=SOLVER) for model in (flow, loaded)
    )
    torch.testing.assert_close(one.x, two.x)
    torch.testing.assert_close(one.c, two.c)
    assert "pt and mass are made first" in (tmp_path / "model" / "README.md").read_text()


@each(
    ("context", "message"),
    [
        (None, "lacks class"),
        ({"class": "one", "pt": 500.0}, "tells pt and not mass, which the context model makes to"),
        ({"pt": 500.0, "mass": 80.0}, "lacks class"),
        ({"class": "one", "eta": 1.0}, "has eta, which the model does not know"),
    ],
)
def test_a_context_that_cannot_be_completed_is_an_error(context, message):
    with pytest.raises(ValueError, match=message):
        _flow(_learned()).sample(3, context, solver=SOLVER)


def _other(features, conditions=(), **options):
    width = 2 * ("class" in conditions) + len([name for name in conditions if name != "class"])
    field = setflow.TransformerField(len(features), hidden=16, layers=1, condition_dim=width)
    return setflow.SetFlow(field, features=features, conditions=conditions, **options)


@each(
    ("model", "message"),
    [
        (lambda: _other(["eta"]), "makes eta, which is no condition of the model: they are class"),
        (lambda: _other(["pt"], ["energy"]), "takes energy, which is no condition"),
        (
            lambda: _other(["pt"], ["mass"], context_model=_other(["mass"])),
            "the context model has a context model",
        ),
        (
            lambda: _other(
                ["pt"], ["class"],
                schema=Schema([Feature("pt")], [Feature("class", kind="category(two, one)")]),
            ),
            "takes class as category.two, one., and the model as category.one, two.",
        ),
    ],
)  # fmt: skip
def test_a_context_model_that_does_not_belong_to_the_model_is_refused(model, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = model()
    with pytest.raises(ValueError, match=message):
        _flow(made)


def test_a_model_without_statistics_of_its_context_model_is_refused():
    flow = _flow(_learned())
    flow.context_model = _learned()
    with pytest.raises(ValueError, match="fit_statistics"):
        flow.require_fitted()


def test_the_card_asks_for_what_must_be_given(tmp_path):
    """As it is printed: a model with conditions has no sample without them."""
    generator = torch.Generator().manual_seed(0)
    event = (Feature("pt", "GeV", "positive"), Feature("class", kind="category(top, gluon)"))
    c = torch.stack([500 + 100 * torch.rand(60, generator=generator),
                     torch.randint(0, 2, (60,), generator=generator).float()], -1)  # fmt: skip
    flow = setflow.SetFlow(
        setflow.TransformerField(2, hidden=8, layers=1, heads=1, condition_dim=3),
        schema=Schema([Feature("x"), Feature("y")], event),
        conditions=["pt", "class"],
        cardinality=setflow.ConditionalCardinality(4, 3),
    )
    flow.fit_statistics(setflow.SetBatch(torch.randn(60, 4, 2, generator=generator), c=c))
    card = short_card(flow, str(flow.save(tmp_path / "model")))
    code = card.partition("```python\n")[2].partition("```")[0]
    told = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(code.replace("1000", "3"), told)
    assert len(told["batch"]) == 3
    assert re.search(r'flow.sample\(1000, {"pt": 5\d\d.0, "class": "top"}, seed=1\)', card)


@pytest.mark.parametrize("weighted", [False, True])
def test_statistics_of_parts_are_those_of_the_whole(weighted):
    """Those of the context model, too."""
    events = _events(900)
    if weighted:
        weight = torch.rand(900, generator=torch.Generator().manual_seed(2)) + 0.5
        events = setflow.SetBatch(events.x, events.mask, events.c, weight)

    def model():
        field = setflow.TransformerField(2, hidden=16, layers=1, heads=2, condition_dim=4)
        made = Schema([JETS.of_event("pt"), Feature("mass", "GeV", "positive")], [JETS.event[0]])
        small = setflow.TransformerField(2, hidden=16, layers=1, heads=2, condition_dim=2)
        return setflow.SetFlow(
            field, cardinality=setflow.EmpiricalCardinality(5), schema=JETS, conditions=CONDITIONS,
            context_model=setflow.SetFlow(small, schema=made, conditions=["class"]),
        )  # fmt: skip

    whole, parts = model().fit_statistics(events), model()
    total = statistics_of(parts, events[:100])
    for k in range(100, 900, 200):
        total = total + statistics_of(parts, events[k : k + 200])
    take_statistics(parts, SampleStatistics.from_tensors(total.tensors()))
    parts.require_fitted()
    there = [name for name in whole.state_dict() if "field." not in name]
    assert any(name.startswith("context_model.scaler") for name in there)
    for name in there:
        torch.testing.assert_close(
            parts.state_dict()[name], whole.state_dict()[name], rtol=1e-11, atol=1e-11
        )
