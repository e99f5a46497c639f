"""A field that is given its own estimate of the data."""

from __future__ import annotations

import pytest
import torch

import setflow
from laws.laws import redraw
from setflow.fields import self_conditioned

X = torch.randn(9, 7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
T = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
MASK = torch.arange(7) < torch.tensor([7, 0, 1, 3, 7, 2, 5, 6, 4])[:, None]
C = torch.randn(9, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def _field(**options):
    torch.manual_seed(3)
    network = setflow.TransformerField(6, hidden=16, layers=2, heads=2, condition_dim=2, **options)
    return setflow.SelfConditionedField(redraw(network))


def _by_hand(field, x, estimate):
    return field.network(torch.cat([x, estimate], -1), T, C, mask=MASK)[..., :3]


def test_it_is_the_network_given_its_own_estimate():
    field = _field().eval()
    x = X * MASK[..., None]
    estimate = x - T[:, None, None] * _by_hand(field, x, torch.zeros_like(x))
    expected = _by_hand(field, x, estimate)
    torch.testing.assert_close(field(X, T, C, mask=MASK), expected, rtol=1e-12, atol=1e-12)
    without = _by_hand(field, x, torch.zeros_like(x))
    assert bool((expected - without)[0].abs().max() > 1e-3)


def test_in_training_half_of_the_times_are_given_none_of_it():
    field = _field()
    x = X * MASK[..., None]
    told = (64 * T).long() % 2 == 1
    assert 0 < int(told.sum()) < len(T)
    without = _by_hand(field, x, torch.zeros_like(x))
    expected = torch.where(told[:, None, None], field.eval()(X, T, C, mask=MASK), without)
    found = field.train()(X, T, C, mask=MASK)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    many = torch.rand(10**5, generator=torch.Generator().manual_seed(0))
    assert abs(float(((64 * many).long() % 2).double().mean()) - 0.5) < 0.01
    with torch.no_grad():  # a validation, and a sample whatever the mode
        given = field.train()(X, T, C, mask=MASK)
    torch.testing.assert_close(given, field.eval()(X, T, C, mask=MASK))


def test_where_values_cannot_be_looked_at_it_is_the_same(monkeypatch):
    field = _field()
    expected = field(X, T, C, mask=MASK)
    monkeypatch.setattr(self_conditioned, "is_readable", lambda values: False)
    torch.testing.assert_close(field(X, T, C, mask=MASK), expected, rtol=1e-12, atol=1e-12)


def test_no_gradient_passes_through_the_estimate():
    field = _field()
    x = X * MASK[..., None]
    told = (64 * T).long() % 2 == 1
    estimate = (x - T[:, None, None] * _by_hand(field, x, torch.zeros_like(x))).detach()
    estimate = torch.where(told[:, None, None], estimate, 0)
    weights = list(field.parameters())
    found = torch.autograd.grad(field(X, T, C, mask=MASK).square().sum(), weights)
    expected = torch.autograd.grad(_by_hand(field, x, estimate).square().sum(), weights)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["epic", "per object"])
def test_other_networks_and_contexts(kind):
    if kind == "epic":
        network, c = setflow.EPiCField(6, hidden=8, latent=4, layers=1, condition_dim=2), C
    else:
        network = setflow.TransformerField(6, hidden=8, layers=1, object_condition_dim=2)
        c = C[:, None].expand(-1, 7, -1)
    field = setflow.SelfConditionedField(redraw(network))
    loss = setflow.masked_fm_loss(field, X, torch.randn_like(X), MASK, T, c)
    loss.backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in field.parameters())
    base = setflow.StandardNormal((3,))
    sample = setflow.masked_sample(field.eval(), base, setflow.Midpoint(2), MASK, c=c)
    assert sample.shape == X.shape
    with pytest.raises(ValueError, match="SelfConditionedField declares samples_only"):
        setflow.masked_log_prob(field, base, setflow.Midpoint(2), X, MASK, c=c)


def test_a_model_of_it_is_saved_samples_and_has_no_density(tmp_path):
    network = setflow.TransformerField(6, hidden=16, layers=1, heads=2)
    field = redraw(setflow.SelfConditionedField(network))
    flow = setflow.SetFlow(field, cardinality=setflow.EmpiricalCardinality(7))
    flow.fit_statistics(setflow.SetBatch(X, MASK)).eval().save(tmp_path / "model")
    loaded = setflow.SetFlow.load(tmp_path / "model").eval()
    assert isinstance(loaded.field, setflow.SelfConditionedField)
    solver = setflow.Midpoint(2)
    assert torch.equal(flow.sample(5, solver=solver).x, loaded.sample(5, solver=solver).x)
    with pytest.raises(ValueError, match="no density of what it generates is known"):
        flow.log_prob(setflow.SetBatch(X, MASK))


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: torch.nn.Linear(6, 6), TypeError, "network is a Linear, expected a field on sets"),
        (
            lambda: setflow.TransformerField(5, hidden=8),
            ValueError,
            "dim=5 and angles=.., expected",
        ),
        (lambda: setflow.TransformerField(6, hidden=8, angles=[1]), ValueError, "no angles, on"),
    ],
)
def test_another_network_is_refused(make, error, told):
    with pytest.raises(error, match=told):
        setflow.SelfConditionedField(make())
