"""Flow-matching processes: shapes and errors of the documents, and Gaussians known in full."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import setflow
from each import each
from laws.laws import cases, redraw
from laws.subjects import ObjectConditioned
from problems import GaussianPredictor, gaussian_field
from user_schedules import StraightSchedule


class Linear(nn.Module):
    """v = rate x + c, on vectors."""

    event_ndim = 1

    def __init__(self, rate: float = -1.0) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate))

    def forward(self, x, t, c=None):
        return self.rate * x + (0 if c is None else c)


def flow_matching(**options):
    return setflow.FlowMatching(
        Linear(), setflow.StandardNormal((8,)), setflow.RK4(steps=20), **options
    )


def test_a_sample_per_context():
    """16 contexts give the batch 16: shapes such as (1, 16, 8)."""
    context = torch.randn(16, 8)
    process = flow_matching()(context)
    assert process.batch_shape == (16,)
    assert process.event_shape == (8,)
    noise = torch.randn(1, 16, 8)
    x = process.sample((1,), x_source=noise)
    # dx/dt = c - x from t = 1 to 0
    expected = context + (noise - context) * math.e
    torch.testing.assert_close(x, expected, atol=1e-5, rtol=0)
    assert process.sample((1,)).shape == (1, 16, 8)
    assert process.sample().shape == (16, 8)
    assert flow_matching()(None).sample((64,)).shape == (64, 8)
    assert flow_matching()().sample(5).shape == (5, 8)


def test_samples_have_the_distribution_of_the_flow():
    process = flow_matching()(None)
    x = process.sample((20_000,), generator=torch.Generator().manual_seed(0))
    assert x.std().item() == pytest.approx(math.e, rel=0.01)
    assert x.mean().item() == pytest.approx(0, abs=0.03)
    again = process.sample((20_000,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, again)


def test_log_prob_of_a_flow_is_a_normal_density():
    x = torch.randn(4, 3, 8)
    process = flow_matching()(None)
    expected = torch.distributions.Normal(0.0, math.e).log_prob(x).sum(-1)
    torch.testing.assert_close(process.log_prob(x), expected, atol=1e-5, rtol=0)
    estimated = process.log_prob(x, estimator=setflow.HutchinsonDivergence())
    torch.testing.assert_close(estimated, expected, atol=1e-5, rtol=0)  # a diagonal Jacobian


def test_images_are_events_of_three_dimensions():
    class Images(nn.Module):
        event_ndim = 3

        def forward(self, x, t, c=None):
            return -x + c.sum(-1)[..., None, None, None]

    context = torch.randn(4, 5)
    flow = setflow.FlowMatching(Images(), setflow.StandardNormal((3, 6, 6)), setflow.RK4(20))
    noise = torch.randn(16, 4, 3, 6, 6)
    x = flow(context).sample((16,), x_source=noise)
    assert x.shape == (16, 4, 3, 6, 6)
    shift = context.sum(-1)[:, None, None, None]
    torch.testing.assert_close(x, shift + (noise - shift) * math.e, atol=1e-5, rtol=0)
    assert flow(context).sample((16,)).shape == (16, 4, 3, 6, 6)
    log_p = flow(context).log_prob(x)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum((-1, -2, -3)) - 108
    torch.testing.assert_close(log_p, expected, atol=1e-4, rtol=0)


def test_a_mask_is_bound_with_the_context():
    field, case = redraw(ObjectConditioned()).double(), dict(cases((3,), object_context=2))["lead1"]
    flow = setflow.FlowMatching(field, setflow.StandardNormal((3,)), setflow.Heun(steps=4))
    process = flow(case.c_object, mask=case.mask)
    assert process.batch_shape == (6,)
    got = process.sample(x_source=case.x_source)
    expected = setflow.masked_sample(
        field, setflow.StandardNormal((3,)), setflow.Heun(steps=4), case.mask, c=case.c_object,
        x_source=case.x_source,
    )  # fmt: skip
    torch.testing.assert_close(got, expected, atol=0, rtol=0)
    assert got.abs().max() > 0.1
    assert process.sample((2,)).shape == (2, 6, 7, 3)
    log_p = process.log_prob(got)
    direct = setflow.masked_log_prob(
        field, setflow.StandardNormal((3,)), setflow.Heun(steps=4), got, case.mask, c=case.c_object
    )
    torch.testing.assert_close(log_p, direct, atol=0, rtol=0)


def test_inpainting_by_context():
    """Per-object context: the known values and which they are; known objects come back as given."""

    class Pull(nn.Module):
        event_ndim = 2
        takes_mask = True

        def forward(self, x, t, c=None, *, mask=None):
            known = c[..., 2:]
            return known * 30 * (x - c[..., :2])

    mask = torch.tensor([[1, 1, 0, 1, 0]], dtype=torch.bool)
    given, known = torch.randn(1, 5, 2), torch.tensor([[[1.0], [0.0], [1.0], [1.0], [0.0]]])
    context = torch.cat([given, known], -1)
    flow = setflow.FlowMatching(Pull(), setflow.StandardNormal((2,)), setflow.RK4(steps=100))
    noise = torch.randn(1, 5, 2)
    x = flow(context, mask=mask).sample(x_source=noise)
    torch.testing.assert_close(x[0, [0, 3]], given[0, [0, 3]], atol=1e-8, rtol=0)
    torch.testing.assert_close(x[0, 1], noise[0, 1], atol=1e-12, rtol=0)
    assert torch.equal(x[0, [2, 4]], torch.zeros(2, 2))


@pytest.mark.parametrize("coupling", [0.0, 2.0])
def test_partial_diffusion_starts_from_noised_data(coupling):
    """From t = 0.4: the flow carries a noised event back; the map from 0.4 to 0 is known."""
    case = dict(cases((2,)))["lead1"]
    field = gaussian_field(coupling)
    x_target = field.sample_map(case.x_source, case.mask)
    noised = setflow.LinearPath().sample_xt(
        x_target, torch.randn_like(x_target), torch.full((6,), 0.4)
    )
    flow = setflow.FlowMatching(field, setflow.StandardNormal((2,)), setflow.RK4(100), t0=0.4)
    got = flow(None, mask=case.mask).sample(x_source=noised)
    oracle = GaussianPredictor(field, StraightSchedule(), "velocity")
    expected = oracle.transported(noised, case.mask, 0.4, 0.0)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_an_image_may_be_the_context_of_an_image():
    """Inpainting of images: the known pixels and which they are, beside the noise."""

    class Pull(nn.Module):
        event_ndim = 3

        def forward(self, x, t, c=None):
            return 30 * c[..., 3:, :, :] * (x - c[..., :3, :, :])

    given, known = torch.randn(4, 3, 6, 6), (torch.rand(4, 1, 6, 6) > 0.5).double()
    context = torch.cat([given, known], 1)
    base, solver = setflow.StandardNormal((3, 6, 6)), setflow.RK4(steps=100)
    process = setflow.FlowMatching(Pull(), base, solver)(context)
    assert process.batch_shape == (4,)
    x = process.sample((2,))
    assert x.shape == (2, 4, 3, 6, 6)
    assert (known * (x - given)).abs().max() < 1e-8
    assert (x - given).abs().max() > 0.5
    with torch.no_grad():
        log_p = setflow.FlowMatching(Pull(), base, setflow.Euler(2))(context).log_prob(given)
    assert log_p.shape == (4,)
    loss = setflow.fm_loss(Pull(), given, torch.randn_like(given), 0.0, context, reduction="none")
    assert loss.shape == (4,)
    with pytest.raises(ValueError, match="an image of the size of the event"):
        setflow.fm_loss(Pull(), given, given, 0.0, context[..., :2])


def test_guidance_changes_the_velocity():
    process = flow_matching()(None)
    noise = torch.randn(5, 8)
    doubled = process.sample((5,), x_source=noise, guidance_fn=lambda x, t, v: 2 * v)
    torch.testing.assert_close(doubled, noise * math.e**2, atol=1e-3, rtol=0)
    times = []

    def record(x, t, v):
        times.append(t)
        return v

    process.sample((5,), x_source=noise, guidance_fn=record)
    assert times[0].shape == (5,)
    with pytest.raises(ValueError, match="returned shape"):
        process.sample((5,), guidance_fn=lambda x, t, v: v[..., :1])


def test_rsample_is_differentiable():
    flow, noise = flow_matching(), torch.randn(5, 8)
    context = torch.zeros(5, 8, requires_grad=True)
    with torch.no_grad():
        x = flow(context).rsample(x_source=noise)
    gradient, by_context = torch.autograd.grad(x.sum(), (flow.field(None).rate, context))
    # x(0) = exp(-rate) noise
    torch.testing.assert_close(gradient, -math.e * noise.sum(), atol=1e-3, rtol=0)
    torch.testing.assert_close(by_context, torch.full((5, 8), 1 - math.e), atol=1e-5, rtol=0)
    loc = torch.zeros(8, requires_grad=True)
    base = setflow.DiagonalNormal(loc, torch.ones(8))
    x = setflow.FlowMatching(Linear(), base, setflow.RK4(20))(None).rsample((3,))
    (by_loc,) = torch.autograd.grad(x.sum(), loc)
    torch.testing.assert_close(by_loc, torch.full((8,), 3 * math.e), atol=1e-4, rtol=0)

    class Opaque(setflow.RK4):
        supports_rsample = False

    with pytest.raises(NotImplementedError, match="supports_rsample"):
        setflow.FlowMatching(Linear(), base, Opaque(3))(None).rsample()


def test_lazy_parts_are_made_from_the_context():
    class Field(setflow.LazyField):
        def forward(self, c=None):
            return Linear(-2.0 if c is None else c[0, 0].item())

    class LazyNormal(setflow.LazyDistribution):
        def forward(self, c=None):
            loc = torch.zeros(8) if c is None else 5 * c
            return torch.distributions.Independent(torch.distributions.Normal(loc, 1e-6), 1)

    flow = setflow.FlowMatching(Field(), LazyNormal(), setflow.RK4(20))
    context = torch.full((3, 8), 0.5)
    # v = 0.5 x + 0.5 from x = 2.5
    expected = -1 + 3.5 * math.exp(-0.5)
    torch.testing.assert_close(
        flow(context).sample((2,)), torch.full((2, 3, 8), expected), atol=1e-4, rtol=0
    )
    assert flow(None).sample((2,)).abs().max() < 1e-4
    unconditional = setflow.UnconditionalField(Linear())
    assert unconditional.event_ndim == 1
    assert unconditional(context) is unconditional(None)
    base = setflow.StandardNormal((8,))
    assert setflow.UnconditionalDistribution(base)(context) is base
    assert Field().event_ndim is None


def test_a_lazy_field_may_tell_event_ndim():
    class Silent(nn.Module):
        def forward(self, x, t, c=None):
            return -x

    class Field(setflow.LazyField):
        event_ndim = 1

        def forward(self, c=None):
            return Silent()

    noise = torch.randn(5, 8)
    flow = setflow.FlowMatching(Field(), setflow.StandardNormal((8,)), setflow.RK4(20))
    x = flow(None).sample((5,), x_source=noise)
    torch.testing.assert_close(x, noise * math.e, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["diagonal", "torch"])
def test_a_base_may_depend_on_the_context_of_a_set(kind):
    """One distribution for each event, the same for all its objects; NaN stands in the padding."""

    class Base(setflow.LazyDistribution):
        def forward(self, c=None):
            loc, scale = c, c.abs() + 0.5
            if kind == "diagonal":
                return setflow.DiagonalNormal(loc, scale)
            return torch.distributions.Independent(torch.distributions.Normal(loc, scale), 1)

    class Still(nn.Module):
        event_ndim = 2

        def forward(self, x, t, c=None):
            return torch.zeros_like(x)

    case = dict(cases((3,), context=3))["lead1"]
    flow = setflow.FlowMatching(Still(), Base(), setflow.Euler(1))
    process = flow(case.c, mask=case.mask)
    x = process.sample((4000,))
    assert x.shape == (4000, 6, 7, 3)
    assert x[:, ~case.mask].abs().sum() == 0
    scale = (case.c.abs() + 0.5)[:, None].expand(6, 7, 3)[case.mask]
    loc = case.c[:, None].expand(6, 7, 3)[case.mask]
    assert ((x[:, case.mask].mean(0) - loc).abs() < 5 * scale / 4000**0.5).all()
    assert (x[:, case.mask].std(0) / scale - 1).abs().max() < 0.06
    garbage = case.x.masked_fill(~case.mask[..., None], float("nan"))
    got = process.log_prob(torch.stack([garbage, 2 * garbage]))
    for row, value in zip(got, (case.x, 2 * case.x), strict=True):
        each = torch.distributions.Normal(case.c[:, None], case.c.abs()[:, None] + 0.5)
        expected = torch.where(case.mask[..., None], each.log_prob(value), 0.0).sum((-1, -2))
        torch.testing.assert_close(row, expected)


def test_event_ndim_must_be_known():
    class Silent(nn.Module):
        def forward(self, x, t, c=None):
            return -x

    base, solver = setflow.StandardNormal((8,)), setflow.RK4(20)
    with pytest.raises(ValueError, match="event_ndim must be provided or exposed"):
        setflow.FlowMatching(Silent(), base, solver)(None)
    noise = torch.randn(5, 8)
    x = setflow.FlowMatching(Silent(), base, solver, event_ndim=1)(None).sample(
        (5,), x_source=noise
    )
    torch.testing.assert_close(x, noise * math.e, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"base.event_shape \(2, 8\) has 2 dimensions"):
        setflow.FlowMatching(Linear(), setflow.StandardNormal((2, 8)), solver)(None)
    with pytest.raises(ValueError, match="event_ndim=3 was given, Linear has 1"):
        setflow.FlowMatching(Linear(), base, solver, event_ndim=3)(None)
    unchecked = setflow.FlowMatching(
        Linear(), setflow.StandardNormal((2, 8)), solver, validate_args=False
    )
    assert unchecked(None).event_shape == (2, 8)


def test_bad_input_is_refused():
    process = flow_matching()(torch.randn(16, 8))
    with pytest.raises(ValueError, match="x_source has shape"):
        process.sample((1,), x_source=torch.randn(2, 16, 8))
    with pytest.raises(ValueError, match="c has shape"):
        process.log_prob(torch.randn(4, 8))
    with pytest.raises(ValueError, match="solves stochastic equations"):
        setflow.FlowMatching(Linear(), setflow.StandardNormal((8,)), setflow.EulerMaruyama(3))(
            None
        ).sample((2,))
    with pytest.raises(TypeError, match="mask is of type str and holds no plain numbers"):
        flow_matching()(None, mask="10")


def test_a_mask_needs_an_object_dimension_in_a_process_too():
    """Also where the model says by how many dimensions form one event, and not the field."""
    field, mask = setflow.VelocityField(2), torch.ones(4, 2)
    process = setflow.FlowMatching(field, setflow.StandardNormal((2,)), setflow.Euler(1))(mask=mask)
    with pytest.raises(ValueError, match="event_ndim=1, expected at least 2"):
        process.sample()
    with pytest.raises(ValueError, match="event_ndim=1, expected at least 2"):
        process.log_prob(torch.zeros(4, 2))


@pytest.mark.parametrize("kind", ["row", "per object", "set"])
def test_the_context_of_one_event_serves_all(kind):
    """Under a mask, with a base of a batch, and for data whose batch nothing else tells."""
    dims = {"row": "condition_dim", "per object": "object_condition_dim"}
    dim = dims.get(kind, "set_condition_dim")
    field = redraw(setflow.TransformerField(2, hidden=8, layers=1, heads=1, **{dim: 3}))
    one = torch.randn(1, 4, 3) if kind != "row" else torch.randn(1, 3)
    whole = one.expand(6, *one.shape[1:])
    if kind == "set":
        one, whole = setflow.SetBatch(one), setflow.SetBatch(whole)
    mask, x, noise = torch.rand(6, 4) > 0.3, torch.randn(6, 4, 2), torch.randn(6, 4, 2)
    schedule = setflow.VPSchedule()
    for make in (
        lambda base: setflow.FlowMatching(field, base, setflow.RK4(2)),
        lambda base: setflow.Diffusion(
            field, schedule, setflow.RK4(2), parameterization="eps", base=base
        ),
    ):
        masked = make(setflow.StandardNormal((2,)))
        got, expected = (masked(c, mask=mask) for c in (one, whole))
        assert torch.equal(got.log_prob(x), expected.log_prob(x))
        assert torch.equal(got.sample(x_source=noise), expected.sample(x_source=noise))
        for base in (
            setflow.StandardNormal((4, 2), batch_shape=(6,)),
            setflow.StandardNormal((4, 2)),
        ):
            got, expected = (make(base)(c) for c in (one, whole))
            assert torch.equal(got.log_prob(x), expected.log_prob(x))
            assert torch.equal(got.sample(x_source=noise), expected.sample(x_source=noise))
    few = whole[:2] if kind == "set" else one.expand(2, *one.shape[1:])
    process = setflow.FlowMatching(field, setflow.StandardNormal((2,)), setflow.RK4(2))
    with pytest.raises(ValueError, match=r"expected \(6, "):  # no other number serves all
        process(few, mask=mask).log_prob(x)


def test_what_a_model_is_can_be_read():
    """One screen: neither an address nor the layers of the field."""
    field, base = setflow.VelocityField(2, 16, condition_dim=1), setflow.StandardNormal((2,))
    schedule, solver = setflow.VPSchedule(), setflow.EulerMaruyama(5)
    diffusion = setflow.Diffusion(
        field, schedule, solver, parameterization="eps", event_shape=(2,), t0=torch.tensor(1.0)
    )
    fm = setflow.FlowMatching(field, base, setflow.RK4(4))
    sets = setflow.TransformerField(3, hidden=16, layers=1, heads=2)
    flow = setflow.SetFlow(sets, cardinality=setflow.EmpiricalCardinality(30))
    c = torch.zeros(4, 1)
    for model in (fm, fm(c), diffusion, diffusion(c), flow):
        text = repr(model)
        assert 5 <= len(text.splitlines()) <= 12
        assert " at 0x" not in text
        assert "Linear(" not in text
        assert " parameters" in text
    assert "context: (4, 1)\n  mask: None\n" in repr(fm(c))
    assert "parameterization: 'eps'" in repr(diffusion)
    assert "schedule: VPSchedule(" in repr(diffusion(c))
    assert "cardinality: EmpiricalCardinality(max_objects=30, not fitted)" in repr(flow)
    assert repr(setflow.LinearPath()) == "LinearPath()"


FIELD, NORMAL, STEPS = Linear(), setflow.StandardNormal((8,)), setflow.RK4(steps=2)
DIFFUSION = {"schedule": setflow.VPSchedule(), "parameterization": "x0", "event_shape": (8,)}


@each(
    ("parts", "message"),
    [
        ((FIELD, STEPS, NORMAL), "base is RK4, expected a distribution such as"),
        ((FIELD, "normal", STEPS), "base is str, expected a distribution such as"),
        ((FIELD, setflow.StandardNormal, STEPS), "base is the class StandardNormal, expected a"),
        ((NORMAL, FIELD, STEPS), r"field is StandardNormal.*, expected a velocity field such as"),
        ((Linear, NORMAL, STEPS), "field is <class .*, expected a velocity field such as"),
        ((FIELD, NORMAL, setflow.RK4), "solver is <class .*, expected a solver object such as"),
        ((FIELD, NORMAL, "rk4"), "solver is 'rk4', expected a solver object such as"),
    ],
)
def test_each_part_stands_in_its_place(parts, message):
    with pytest.raises(TypeError, match=message):
        setflow.FlowMatching(*parts)


@each(
    ("change", "message"),
    [
        ({"model": Linear}, "field is <class .*, expected a velocity field"),
        ({"solver": setflow.RK4}, "solver is <class .*, expected a solver object"),
        ({"schedule": setflow.VPSchedule}, "got <class .* as a schedule, expected a NoiseSchedule"),
        ({"base": setflow.StandardNormal}, "base is the class StandardNormal, expected a"),
    ],
)
def test_each_part_of_a_diffusion_is_an_object(change, message):
    with pytest.raises(TypeError, match=message):
        setflow.Diffusion(**{"model": FIELD, "solver": STEPS, **DIFFUSION, **change})


@each("name", ["sample", "rsample", "log_prob"])
def test_what_is_not_bound_says_how_to_bind_it(name):
    for model in (flow_matching(), setflow.Diffusion(model=FIELD, solver=STEPS, **DIFFUSION)):
        with pytest.raises(AttributeError, match=rf"has no {name} before .*model\(c, mask=mask\)"):
            getattr(model, name)
        assert not hasattr(model, "smaple")
