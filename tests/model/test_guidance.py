"""Guided samples, and the training that makes them possible."""

from __future__ import annotations

import pytest
import torch

import setflow
from each import each
from laws.laws import redraw
from setflow.data import Standardizer
from setflow.fields import GuidedField
from setflow.schema import Feature, Schema
from setflow.sets.events import call_field

SOLVER = setflow.Midpoint(3)
KINDS = Schema(
    [Feature("x"), Feature("y")],
    [Feature("class", kind="category(one, two)"), Feature("pt", "GeV")],
)


def _flow(drop_context=0.1, conditions=("class", "pt")):
    width = 3 if conditions else 0
    field = redraw(setflow.TransformerField(2, hidden=16, layers=1, heads=2, condition_dim=width))
    flow = setflow.SetFlow(
        field,
        cardinality=setflow.EmpiricalCardinality(5),
        schema=KINDS,
        conditions=conditions,
        drop_context=drop_context,
    )
    if drop_context:
        flow.no_context.data = torch.tensor([0.3, -0.2, 0.5])
    return flow.fit_statistics(_events(200, conditions))


def _events(n, conditions=("class", "pt")):
    generator = torch.Generator().manual_seed(n)
    mask = torch.arange(5) < torch.randint(0, 6, (n, 1), generator=generator)
    x = torch.randn(n, 5, 2, generator=generator)
    c = torch.stack([torch.arange(n) % 2, 10 + torch.rand(n, generator=generator)], -1)
    return setflow.SetBatch(x, mask, c if conditions else None)


ONE = {"class": "one", "pt": 10.5}


def test_the_guided_velocity_is_that_of_the_formula():
    flow = _flow()
    x, t, c = torch.randn(4, 5, 2), torch.rand(4), torch.randn(4, 3)
    mask = torch.arange(5) < torch.tensor([[0], [1], [3], [5]])
    strength = torch.tensor([[0.0], [1.0], [2.0], [-1.5]])
    v = GuidedField(flow.field, flow.no_context)(x, t, torch.cat([c, strength], -1), mask=mask)
    given = call_field(flow.field, x, t, c, mask)
    without = call_field(flow.field, x, t, flow.no_context.expand(4, 3), mask)
    expected = (1 - strength[..., None]) * without + strength[..., None] * given
    torch.testing.assert_close(v, expected, atol=1e-12, rtol=1e-12)
    assert torch.equal(v[1], given[1])


def test_guidance_turns_the_mean_of_gaussian_events_as_the_closed_form_says():
    """With v linear in the context, the sample moves linearly in the strength."""

    class Shift(torch.nn.Module):
        event_ndim, takes_mask = 2, True

        def forward(self, x, t, c=None, *, mask=None):
            return (-c[..., None, :]).expand_as(x)

    field = GuidedField(Shift(), torch.tensor([1.0, 0.0]))
    start, mask = torch.randn(3, 4, 2), torch.ones(3, 4, dtype=torch.bool)
    c = torch.tensor([[3.0, 2.0, 0.0], [3.0, 2.0, 1.0], [3.0, 2.0, 2.5]])
    base = setflow.StandardNormal((2,))
    x = setflow.masked_sample(field, base, SOLVER, mask, c=c, x_source=start)
    moved = torch.tensor([[1.0, 0.0], [3.0, 2.0], [1 + 2.5 * 2, 2.5 * 2]])
    torch.testing.assert_close(x, start + moved[:, None])


def test_strength_one_is_the_plain_sample_and_zero_forgets_the_context():
    flow = _flow()
    plain = flow.sample(20, ONE, seed=3, solver=SOLVER)
    assert torch.equal(flow.sample(20, ONE, seed=3, solver=SOLVER, guidance=1).x, plain.x)
    mixed = torch.ones(20)
    mixed[::2] = 2.0
    some = flow.sample(20, ONE, seed=3, solver=SOLVER, guidance=mixed)
    assert torch.equal(some.mask, plain.mask)
    torch.testing.assert_close(some.x[1::2], plain.x[1::2], atol=1e-12, rtol=1e-12)
    assert (some.x - plain.x)[::2].abs().max() > 1e-3
    lengths = torch.full((20,), 3)
    other = {"class": "two", "pt": 10.1}
    one, two = (
        flow.sample(20, c, seed=3, solver=SOLVER, guidance=0.0, lengths=lengths)
        for c in (ONE, other)
    )
    torch.testing.assert_close(one.x, two.x, atol=1e-12, rtol=1e-12)


def test_neither_batches_nor_shards_change_a_guided_event():
    flow = _flow()
    whole = flow.sample(20, ONE, seed=3, solver=SOLVER, guidance=2.0)
    cut = flow.sample(8, ONE, seed=3, first=4, solver=SOLVER, guidance=2.0, batch_size=3)
    torch.testing.assert_close(cut.x, whole.x[4:12], atol=1e-10, rtol=1e-10)


def test_numbers_of_objects_are_not_guided():
    cardinality = redraw(setflow.ConditionalCardinality(5, 3, hidden=8))
    flow = _flow()
    flow = setflow.SetFlow(
        flow.field, cardinality=cardinality, schema=KINDS, conditions=("class", "pt"),
        drop_context=0.1,
    ).fit_statistics(_events(200))  # fmt: skip
    plain = flow.sample(50, ONE, seed=3, solver=setflow.Euler(1))
    strong = flow.sample(50, ONE, seed=3, solver=setflow.Euler(1), guidance=5.0)
    assert torch.equal(plain.lengths, strong.lengths)
    batch, everything = _events(30), torch.ones(30, dtype=torch.bool)
    given = {"t": torch.rand(30), "noise": torch.randn(30, 5, 2)}
    whole = flow.loss_terms(batch, **given)
    dropped = flow.loss_terms(batch, **given, drop_context=everything)
    assert torch.equal(whole["cardinality"], dropped["cardinality"])
    assert not torch.equal(whole["flow"], dropped["flow"])


def test_events_whose_context_is_left_out_teach_the_vector_and_nothing_of_their_context():
    flow, batch = _flow(), _events(30)
    given = {"t": torch.rand(30), "noise": torch.randn(30, 5, 2)}
    which = torch.arange(30) % 3 == 0
    loss = flow.loss(batch, **given, drop_context=which)
    c = batch.c.clone()
    c[which] = c[which].flip(0)
    other = setflow.SetBatch(batch.x, batch.mask, c)
    torch.testing.assert_close(flow.loss(other, **given, drop_context=which), loss)
    assert not torch.isclose(flow.loss(other, **given), flow.loss(batch, **given))
    by_hand = flow.scaled_context(batch.c, 30)
    by_hand = torch.where(which[:, None], flow.no_context, by_hand)
    z = flow.scaler(batch.x, batch.mask)
    expected = setflow.masked_fm_loss(
        flow.field, z, given["noise"], batch.mask, given["t"], by_hand, path=flow.path
    )
    torch.testing.assert_close(loss, expected)
    (slope,) = torch.autograd.grad(loss, flow.no_context)
    assert slope.abs().min() > 0
    (none,) = torch.autograd.grad(
        flow.loss(batch, **given, drop_context=~which & which), flow.no_context
    )
    assert none.abs().max() == 0


def test_a_share_drops_that_share_of_the_events():
    flow, batch = _flow(), _events(4000)
    seen = []
    flow.field.register_forward_hook(lambda _, inputs, __: seen.append(inputs[2]))
    flow.loss(batch, drop_context=0.25, generator=torch.Generator().manual_seed(0))
    share = torch.cat(seen).eq(flow.no_context).all(-1).double().mean()
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5


def test_a_folder_keeps_the_vector(tmp_path):
    flow = _flow()
    flow.save(tmp_path / "model")
    loaded = setflow.SetFlow.load(tmp_path / "model")
    assert loaded.drop_context == 0.1
    torch.testing.assert_close(loaded.no_context, flow.no_context)
    one, two = (model.sample(5, ONE, guidance=2.0, solver=SOLVER) for model in (flow, loaded))
    torch.testing.assert_close(one.x, two.x)
    _flow(0.0).save(tmp_path / "plain")
    assert setflow.SetFlow.load(tmp_path / "plain").no_context is None


def test_log_densities_are_those_of_the_model_and_never_of_guided_samples():
    flow = _flow()
    guided = GuidedField(flow.field, flow.no_context)
    x, c = torch.randn(2, 5, 2), torch.randn(2, 4)
    with pytest.raises(ValueError, match=r"GuidedField declares samples_only.*score with a field"):
        setflow.masked_log_prob(guided, flow.base, SOLVER, x, None, c=c)
    with pytest.raises(ValueError, match="GuidedField declares samples_only"):
        setflow.masked_sample(
            guided, flow.base, SOLVER, torch.ones(2, 5), c=c, return_log_prob=True,
            estimator=setflow.ExactDivergence(),
        )  # fmt: skip


@each(
    ("given", "message"),
    [
        ({"drop_context": 1.0}, "drop_context is 1.0, expected .* from 0 to below 1"),
        ({"drop_context": True}, "drop_context is True, expected"),
        ({"drop_context": "0.1"}, "drop_context is '0.1', expected"),
    ],
)
def test_a_share_that_cannot_be_is_an_error(given, message):
    with pytest.raises(ValueError, match=r"drop_context is 0.1, but the model has no conditions"):
        setflow.SetFlow(setflow.TransformerField(3, hidden=16, layers=1), drop_context=0.1)
    with pytest.raises(ValueError, match=message):
        setflow.SetFlow(
            setflow.TransformerField(2, hidden=16, layers=1, condition_dim=3),
            **{"schema": KINDS, "conditions": ("class", "pt"), "drop_context": 0.1} | given,
        )


@each(
    ("call", "message"),
    [
        (lambda: _flow(0.0).sample(3, ONE, guidance=2.0), "model was trained with the context of"),
        (lambda: _flow(0.0, ()).sample(3, guidance=2.0), "and the model takes none; train"),
        (lambda: _flow().sample(3, ONE, guidance=torch.ones(2)), "expected .*or 3, one for each"),
        (lambda: _flow().sample(3, ONE, guidance=float("nan")), "guidance is nan, expected a fin"),
        (lambda: _flow(0.0).loss(_events(3), drop_context=0.1), "what stands for no context; bui"),
        (lambda: _flow().loss(_events(3), drop_context=2.0), "drop_context is 2.0, expected"),
        (
            lambda: _flow().loss(_events(3), drop_context=torch.ones(3)),
            "dtype torch.float.*expected .3,. booleans",
        ),
        (
            lambda: GuidedField(_flow().field, torch.zeros(1, 3)),
            "expected a tensor with shape .C,.",
        ),
        (
            lambda: GuidedField(_flow().field, torch.zeros(3))(
                torch.zeros(1, 5, 2), 0.5, torch.zeros(1, 5, 4)
            ),
            "contexts per object and context sets cannot be guided",
        ),
    ],
)
def test_what_cannot_be_guided_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_scaler_of_kinds_goes_on_to_work_beside_the_vector():
    flow = setflow.SetFlow(
        setflow.TransformerField(1, hidden=16, layers=1, condition_dim=1),
        scaler=Standardizer(kinds=["positive"]),
        features=["pt"],
        conditions=["mass"],
        drop_context=0.2,
    )
    assert flow.no_context.shape == (1,)


def test_a_mapping_is_told_what_stands_in_its_place():
    flow = _flow()
    told = {"pt": 10.5}
    name = flow.context_features[0].of_kind.names[0]
    with pytest.raises(ValueError, match=r"guidance is .*expected a number, or 2, one for each"):
        flow.sample(2, told | {"class": name}, guidance={name: 2.0})
    message = f"condition 'class' is the mapping .* value for all events, such as '{name}', or a l"
    with pytest.raises(ValueError, match=message):
        flow.sample(2, told | {"class": {name: 2}})
    with pytest.raises(ValueError, match=r"condition 'pt' is the mapping .*, such as 1.0, or a"):
        flow.sample(2, {"class": name, "pt": {1.0: 2}})
