"""The loss: values by hand, shapes, errors. The laws of the mask are in `laws/test_laws.py`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import setflow
from each import each
from laws.laws import cases, masks, redraw
from recorders import Constant


def loss_by_hand(field, x_target, x_source, mask, t):
    """One event at a time, its real objects only."""
    losses = []
    for event, noise, real, time in zip(x_target, x_source, mask, t, strict=True):
        x, z = event[real], noise[real]
        if len(x) == 0:
            losses.append(torch.tensor(0.0))
            continue
        v = field(((1 - time) * x + time * z)[None], time[None])[0]
        losses.append(((v - (z - x)) ** 2).mean(-1).mean())
    return torch.stack(losses)


@pytest.mark.parametrize("coupling", [0.0, 2.0])
def test_loss_is_that_of_the_real_objects_alone(coupling):
    field = setflow.GaussianSetField(torch.zeros(3), torch.ones(3), coupling=coupling)
    mask = masks()["lead1"]
    x, z, t = torch.randn(*mask.shape, 3), torch.randn(*mask.shape, 3), torch.rand(len(mask))
    expected = loss_by_hand(field, x, z, mask, t)
    each = setflow.masked_fm_loss(field, x, z, mask, t, reduction="none")
    torch.testing.assert_close(each, expected)
    for reduction, value in (("mean", expected.mean()), ("sum", expected.sum())):
        got = setflow.masked_fm_loss(field, x, z, mask, t, reduction=reduction)
        torch.testing.assert_close(got, value)


def test_loss_by_numbers():
    """v = 1 and u = x_source - x_target: errors 1 and 9 over features, 4 and 0 over the next."""
    x_target = torch.zeros(1, 3, 2)
    x_source = torch.tensor([[[2.0, 4.0], [torch.nan, 7.0], [3.0, 1.0]]])
    mask = torch.tensor([[1, 0, 1]])
    loss = setflow.masked_fm_loss(Constant(), x_target, x_source, mask)
    assert loss.item() == ((1 + 9) / 2 + (4 + 0) / 2) / 2


def test_empty_events_count_as_zero_in_the_mean():
    x = torch.zeros(2, 2, 1)
    mask = torch.tensor([[True, True], [False, False]])
    assert setflow.masked_fm_loss(Constant(), x, x, mask).item() == 0.5


def test_the_oracle_has_the_smallest_loss():
    field = setflow.GaussianSetField(torch.zeros(2), torch.full((2,), 0.5), coupling=2.0)
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(20_000, 3, dtype=torch.bool)
    x = field.sample_map(torch.randn(20_000, 3, 2, generator=generator))
    z = torch.randn(20_000, 3, 2, generator=generator)
    t = torch.rand(20_000, generator=generator)
    best = setflow.masked_fm_loss(field, x, z, mask, t)
    for coupling, scale in ((0.0, 0.5), (2.0, 0.8), (4.0, 0.5)):
        other = setflow.GaussianSetField(torch.zeros(2), torch.full((2,), scale), coupling=coupling)
        assert setflow.masked_fm_loss(other, x, z, mask, t) > best * 1.01


def test_times_are_uniform_per_event_and_follow_the_generator():
    field = Constant()
    x, mask = torch.zeros(20_000, 2, 1), torch.ones(20_000, 2)
    for _ in range(2):
        setflow.masked_fm_loss(field, x, x, mask, generator=torch.Generator().manual_seed(3))
    first, second = (t for _, t, _ in field.calls)
    assert torch.equal(first, second)
    assert first.shape == (20_000,)
    quantiles = torch.quantile(first, torch.linspace(0, 1, 11))
    torch.testing.assert_close(quantiles, torch.linspace(0, 1, 11), atol=0.02, rtol=0)


@pytest.mark.parametrize("mask", [None, torch.ones(3, 0), torch.ones(0, 4)])
def test_nothing_has_loss_zero(mask):
    shape = (3, 0) if mask is None else tuple(mask.shape)
    x = torch.zeros(*shape, 2)
    assert setflow.masked_fm_loss(Constant(), x, x, mask).item() == 0


@pytest.mark.parametrize("objects", [4, 5])
def test_context_per_object_is_known_by_its_place_and_not_by_its_size(objects):
    field = Constant()
    c = torch.randn(4, objects, 2)
    mask, base = torch.ones(4, objects), setflow.StandardNormal((3,))
    setflow.masked_sample(field, base, setflow.Euler(1), mask, sample_shape=(4,), c=c)
    torch.testing.assert_close(field.calls[0][2], c.expand(4, 4, objects, 2))
    whole = setflow.StandardNormal((objects, 3))
    with pytest.raises(ValueError, match="pass the mask"):
        setflow.masked_sample(field, whole, setflow.Euler(1), None, c=c)


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_fields_are_called_with_time_and_context_of_the_lead_shape(lead):
    field = Constant()
    x, mask, c = torch.zeros(*lead, 5, 3), torch.ones(*lead, 5), torch.randn(*lead, 2)
    setflow.masked_fm_loss(field, x, x, mask, 0.25, c)
    base = setflow.StandardNormal((3,))
    out = setflow.masked_sample(field, base, setflow.Heun(2), mask, sample_shape=(7,), c=c)
    assert out.shape == (7, *lead, 5, 3)
    for (got_x, t, context), front in zip(field.calls, [lead] + [(7, *lead)] * 4, strict=True):
        assert got_x.shape == (*front, 5, 3)
        assert t.shape == front
        assert context.shape == (*front, 2)
        torch.testing.assert_close(context, c.expand(*front, 2))


def test_the_loss_fits_a_field_by_gradient():
    """Gradient descent on the loss moves a field to the oracle's moments."""
    oracle = setflow.GaussianSetField(torch.tensor([2.0, -1.0]), torch.tensor([0.5, 0.5]))
    field = setflow.TransformerField(2, hidden=16, layers=1, heads=2)
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(4) < torch.randint(0, 5, (256, 1), generator=generator)
    for _ in range(150):
        noise = torch.randn(2, 256, 4, 2, generator=generator)
        loss = setflow.masked_fm_loss(field, oracle.sample_map(noise[0]), noise[1], mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = setflow.masked_sample(field, setflow.StandardNormal((2,)), setflow.Midpoint(10), mask)
    torch.testing.assert_close(x[mask].mean(0), oracle.loc, atol=0.15, rtol=0)
    torch.testing.assert_close(x[mask].std(0), oracle.scale, atol=0.2, rtol=0)


@each(
    ("change", "error", "message"),
    [
        ({"mask": torch.ones(2, 4)}, ValueError, r"mask has shape \(2, 4\), expected \(2, 5\)"),
        ({"mask": torch.ones(2, 5, 3)}, ValueError, "without feature dimensions"),
        ({"mask": torch.full((2, 5), 0.5)}, ValueError, "holds the value 0.5"),
        ({"mask": torch.full((2, 5), 2)}, ValueError, "only 0 .padding. and 1"),
        ({"mask": torch.full((2, 5), torch.nan)}, ValueError, "holds the value nan"),
        ({"mask": [["a"] * 5] * 2}, TypeError, "holds no plain numbers"),
        ({"x_source": torch.zeros(2, 1, 3)}, ValueError, "expected equal shapes"),
        ({"x_source": torch.zeros(5, 3)}, ValueError, "expected equal shapes"),
        ({"t": torch.zeros(5)}, ValueError, r"t has shape \(5,\), expected a scalar or \(2,\)"),
        ({"t": torch.zeros(2, 1)}, ValueError, "one time per event"),
        ({"c": torch.zeros(5, 1)}, ValueError, r"c has shape \(5, 1\), expected \(2, 'C'\)"),
        ({"c": torch.zeros(2)}, ValueError, "one context row per event"),
        ({"reduction": "average"}, ValueError, "'mean', 'sum' or 'none', got 'average'"),
        ({"field": setflow.VelocityField(3)}, ValueError, "event_ndim=1, expected at least 2"),
        ({"field": nn.Linear(3, 3)}, ValueError, "has no integer attribute event_ndim"),
        ({"field": setflow.EPiCField}, TypeError, "field is <class .*, expected a velocity field"),
        ({"field": setflow.StandardNormal((3,))}, TypeError, "field is StandardNormal.*expected a"),
        (
            {"x_target": setflow.SetBatch(torch.zeros(2, 5, 3))},
            TypeError,
            "is a SetBatch, expected",
        ),
    ],
)
def test_bad_input_of_the_loss(change, error, message):
    arguments = {
        "field": Constant(),
        "x_target": torch.zeros(2, 5, 3),
        "x_source": torch.zeros(2, 5, 3),
        "mask": torch.ones(2, 5),
    }
    with pytest.raises(error, match=message):
        setflow.masked_fm_loss(**(arguments | change))


def test_a_field_with_the_wrong_output_is_named():
    class Wrong(Constant):
        def forward(self, x, t, c=None):
            return x.sum(-1)

    x = torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match=r"Wrong returned shape \(2, 5\) for x of shape"):
        setflow.masked_fm_loss(Wrong(), x, x, torch.ones(2, 5))


def test_an_event_without_objects_may_have_any_context():
    """Its context is often 0 / 0, such as a mass over a pT: no gradient may see it."""
    field = redraw(setflow.TransformerField(3, hidden=8, layers=1, heads=1, condition_dim=2))
    case = dict(cases(context=2))["lead1"]
    empty = ~case.mask.any(-1)

    def gradients(filling):
        c = torch.where(empty[:, None], filling, case.c)
        loss = setflow.masked_fm_loss(field, case.x, case.x_source, case.mask, case.t, c)
        return torch.autograd.grad(loss, list(field.parameters()))

    for got, expected in zip(gradients(float("nan")), gradients(0.0), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


def test_objects_without_features_have_no_loss():
    class Nothing(nn.Module):
        event_ndim = 2

        def forward(self, x, t, c=None):
            return x

    x = torch.zeros(4, 5, 0)
    for mask in (None, torch.ones(4, 5)):
        assert setflow.masked_fm_loss(Nothing(), x, x, mask) == 0


class _Returns(torch.nn.Module):
    event_ndim = 2

    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, x, t, c=None):
        return self.result(x)


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (lambda x: None, "a NoneType"),
        (lambda x: (x, x), "a tuple"),
        (lambda x: x.numpy(), "a ndarray"),
        (lambda x: x.long(), "dtype torch.int64"),
    ],
    ids=["nothing", "two", "numpy", "integers"],
)
def test_a_field_that_returns_no_velocity_is_named(result, got):
    x = torch.randn(2, 4, 3)
    with pytest.raises(TypeError, match=f"_Returns returned {got}, expected a tensor of floating"):
        setflow.masked_fm_loss(_Returns(result), x, torch.randn_like(x), None, 0.5)


@pytest.mark.parametrize("path", ["linear", setflow.CosinePath])
def test_a_path_is_an_object(path):
    x = torch.randn(2, 4, 3)
    field = setflow.GaussianSetField([0.0] * 3, [1.0] * 3)
    with pytest.raises(TypeError, match=r"path is .*, expected an object such as"):
        setflow.masked_fm_loss(field, x, torch.randn_like(x), None, 0.5, path=path)
    with pytest.raises(TypeError, match=r"path is .*, expected an object such as"):
        setflow.SetFlow(setflow.TransformerField(3, hidden=8, layers=1), path=path)


class _Half:
    def sample_xt(self, x_target, x_source, t):
        return x_target


def test_a_path_without_its_velocity_is_none():
    x, field = torch.randn(2, 4, 3), setflow.GaussianSetField([0.0] * 3, [1.0] * 3)
    for loss in (setflow.masked_fm_loss, setflow.masked_stochastic_fm_loss):
        with pytest.raises(TypeError, match="with the methods sample_xt and target_ut"):
            loss(field, x, torch.randn_like(x), None, path=_Half())
    with pytest.raises(TypeError, match="with the methods sample_xt and target_ut"):
        setflow.SetFlow(setflow.TransformerField(3, hidden=8, layers=1), path=_Half())


@pytest.mark.parametrize("part", ["scaler", "cardinality", "context_scaler"])
@pytest.mark.parametrize("given", ["standard", setflow.EmpiricalCardinality, 6])
def test_the_parts_of_a_model_are_objects(part, given):
    such = ", such as setflow.EmpiricalCardinality" if part == "cardinality" else ", or None"
    told = rf"{part} is .*, expected an object, made by a call of its class{such}"
    with pytest.raises(TypeError, match=told):
        setflow.SetFlow(setflow.TransformerField(3, hidden=8, layers=1), **{part: given})


@each("times", [setflow.TimeSampling, "logit_normal"])
def test_the_density_of_times_is_an_object(times):
    x = torch.zeros(2, 3, 2)
    with pytest.raises(
        TypeError, match=r"times is .*, expected an object such as setflow.TimeSamp"
    ):
        setflow.masked_fm_loss(Constant(), x, x, None, times=times)


def test_a_weighting_is_an_object():
    x, weighting = torch.zeros(2, 3, 2), setflow.diffusion.SNRWeighting
    with pytest.raises(TypeError, match=r"weighting is .*, expected an object such as SNRWeight"):
        setflow.masked_diffusion_loss(
            Constant(), x, setflow.VPSchedule(), None, weighting=weighting
        )
