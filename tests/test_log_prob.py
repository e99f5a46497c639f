"""Log-densities: oracle, brute force, total probability, measured order, and wrong signs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import setflow
from laws import cases, redraw
from problems import gaussian_field, scipy_log_prob
from setflow.divergence import DivergenceEstimator
from subjects import Pointwise

BASE = setflow.StandardNormal((2,))


def data(field, case):
    """The case with data that the field's distribution could have drawn."""
    return field.sample_map(case.x_source, case.mask)


@pytest.mark.parametrize("coupling", [0.0, 2.0])
@pytest.mark.parametrize("path", [None, setflow.CosinePath()])
@pytest.mark.parametrize("lead", ["lead0", "lead2"])
def test_the_oracle(lead, path, coupling):
    """Any number of objects, holes, padding, an empty event; against scipy too."""
    field, case = gaussian_field(coupling, path=path), dict(cases((2,)))[lead]
    x = data(field, case)
    with torch.no_grad():
        got = setflow.masked_log_prob(field, BASE, setflow.RK4(steps=200), x, case.mask)
    torch.testing.assert_close(got, field.log_prob(x, case.mask), atol=1e-8, rtol=0)
    flat, masks = x.reshape(-1, 7, 2), case.mask.reshape(-1, 7)
    by_scipy = [scipy_log_prob(field, event[mask]) for event, mask in zip(flat, masks, strict=True)]
    torch.testing.assert_close(got.reshape(-1), torch.tensor(by_scipy), atol=1e-8, rtol=0)


class Kutta3:
    """A user's solver as documents of other libraries have it: Kutta's rule of order 3."""

    requires_steps = True

    def __init__(self, steps):
        self.steps = steps

    def integrate(self, f, x0, t0=0.0, t1=1.0, steps=None):
        h, x = (t1 - t0) / steps, x0
        for i in range(steps):
            t = t0 + i * h
            k1 = f(x, t)
            k2 = f(x + h / 2 * k1, t + h / 2)
            k3 = f(x + h * (2 * k2 - k1), t + h)
            x = x + h / 6 * (k1 + 4 * k2 + k3)
        return x


@pytest.mark.parametrize(
    ("solver", "atol"),
    [
        (setflow.Midpoint(steps=300), 3e-4),
        (setflow.Heun(steps=300), 3e-4),
        (setflow.Dopri5(rtol=1e-9, atol=1e-9), 1e-6),
        (Kutta3(steps=150), 1e-5),
    ],
    ids=["midpoint", "heun", "dopri5", "own"],
)
def test_every_solver_agrees_with_the_oracle(solver, atol):
    field, case = gaussian_field(2.0), dict(cases((2,)))["lead1"]
    x = data(field, case)
    with torch.no_grad():
        got = setflow.masked_log_prob(field, BASE, solver, x, case.mask)
    torch.testing.assert_close(got, field.log_prob(x, case.mask), atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("solver", "order"), [(setflow.Euler, 1), (setflow.Heun, 2), (setflow.RK4, 4)]
)
def test_measured_order(solver, order):
    field, case = gaussian_field(2.0), dict(cases((2,)))["lead1"]
    x = data(field, case)
    errors = []
    for steps in (40, 80):
        with torch.no_grad():
            got = setflow.masked_log_prob(field, BASE, solver(steps), x, case.mask)
        errors.append((got - field.log_prob(x, case.mask)).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35), errors


class Wavy(nn.Module):
    """A nonlinear field on sets of any size, bounded and mixing."""

    event_ndim = 2
    takes_mask = True

    def forward(self, x, t, c=None, *, mask=None):
        total = torch.sin(x).sum(-2, keepdim=True)
        v = torch.sin(x + 1) * torch.cos(total) + 0.5 * x * (1 - t[..., None, None])
        return v if mask is None else torch.where(mask[..., None], v, 0.0)


def test_the_density_is_that_of_the_samples():
    """log p of a sample is the base's density minus log|det| of the sampled map."""
    field, solver = Wavy(), setflow.RK4(steps=40)
    mask = torch.tensor([True, False, True, True])
    z = torch.randn(3, 2)

    def sampled(objects):
        noise = torch.zeros(4, 2).index_put((mask.nonzero()[:, 0],), objects)
        x = setflow.masked_sample(field, BASE, solver, mask, x_source=noise)
        return x[mask]

    x = torch.zeros(4, 2).index_put((mask.nonzero()[:, 0],), sampled(z).detach())
    jacobian = torch.autograd.functional.jacobian(sampled, z).reshape(6, 6)
    expected = -0.5 * (z**2).sum() - 3 * math.log(2 * math.pi) - jacobian.slogdet().logabsdet
    with torch.no_grad():
        got = setflow.masked_log_prob(field, BASE, solver, x, mask)
    assert (x[mask] - z).abs().max() > 0.1, "the map must do something"
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def integral(log_prob, low=-8.0, high=8.0, n=160):
    """The integral of exp(log_prob) over a square, by the midpoint rule."""
    edges = torch.linspace(low, high, n + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    grid = torch.cartesian_prod(middle, middle)  # (n * n, 2)
    return (log_prob(grid).exp().sum() * ((high - low) / n) ** 2).item()


def test_total_probability_of_an_event_of_two_objects_is_one():
    """Two objects with one feature: the ordered density over the plane."""
    base, solver = setflow.StandardNormal((1,)), setflow.RK4(steps=20)

    def log_prob(points):
        x = torch.cat([points, torch.full((len(points), 1), float("nan"))], 1)[..., None]
        mask = torch.tensor([True, True, False]).expand(len(points), 3)
        with torch.no_grad():
            return setflow.masked_log_prob(Wavy(), base, solver, x, mask)

    assert integral(log_prob) == pytest.approx(1, abs=1e-4)


class WrongSign(DivergenceEstimator):
    """The sign that documents of other libraries print."""

    def velocity_and_divergence(self, field, x, t, c=None, *, mask=None):
        v, divergence = setflow.ExactDivergence().velocity_and_divergence(field, x, t, c, mask=mask)
        return v, -divergence


class CrossObjectTrace(DivergenceEstimator):
    """Sums d v_i / d x_j over all pairs of objects instead of the diagonal."""

    def velocity_and_divergence(self, field, x, t, c=None, *, mask=None):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            v = setflow.core.calling.call_field(field, x, t, c, mask)
            total = torch.zeros(x.shape[:-2])
            for feature in range(x.shape[-1]):
                out = v[..., feature].sum()
                (gradient,) = torch.autograd.grad(out, x, retain_graph=True)
                total = total + gradient[..., feature].sum(-1)
        return v.detach(), total


@pytest.mark.parametrize("estimator", [WrongSign(), CrossObjectTrace()], ids=["sign", "trace"])
def test_total_probability_sees_a_wrong_divergence(estimator):
    base, solver = setflow.StandardNormal((1,)), setflow.RK4(steps=10)

    def log_prob(points):
        with torch.no_grad():
            return setflow.masked_log_prob(
                Wavy(), base, solver, points[..., None], None, estimator=estimator
            )

    assert abs(integral(log_prob, n=80) - 1) > 0.03


@pytest.mark.parametrize(
    ("estimator", "caught_without_coupling"), [(WrongSign(), True), (CrossObjectTrace(), False)]
)
def test_the_oracle_sees_a_wrong_divergence_if_it_has_a_coupling(
    estimator, caught_without_coupling
):
    """Without coupling the Jacobian between objects vanishes: the oracle is blind to its sum."""
    case = dict(cases((2,)))["lead1"]
    for coupling, caught in ((0.0, caught_without_coupling), (2.0, True)):
        field = gaussian_field(coupling)
        x = data(field, case)
        got = setflow.masked_log_prob(
            field, BASE, setflow.RK4(steps=50), x, case.mask, estimator=estimator
        )
        several = case.mask.sum(-1) > 1
        error = (got - field.log_prob(x, case.mask)).abs()[several]
        assert bool((error > 1e-2).all()) == caught, error


def test_total_probability_of_plain_vectors_is_one():
    """A field without sets, as the tutorial's, by the process."""
    field = redraw(setflow.VelocityField(2, hidden=16)).double()
    flow = setflow.FlowMatching(field, setflow.StandardNormal((2,)), setflow.RK4(steps=20))

    def log_prob(points, estimator=None):
        with torch.no_grad():
            return flow(None).log_prob(points, estimator=estimator)

    assert integral(log_prob, n=120) == pytest.approx(1, abs=1e-3)
    assert abs(integral(lambda p: log_prob(p, WrongSign()), n=60) - 1) > 0.05


def test_hutchinson_estimates_within_its_spread():
    field, case = gaussian_field(2.0), dict(cases((2,)))["lead1"]
    x = data(field, case)
    many = x.expand(200, *x.shape)  # a probe for each
    with torch.no_grad():
        values = setflow.masked_log_prob(
            field, BASE, setflow.RK4(steps=40), many, case.mask,
            estimator=setflow.HutchinsonDivergence(),
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    error = (values.mean(0) - field.log_prob(x, case.mask)).abs()
    assert (error <= 4 * values.std(0) / len(values) ** 0.5 + 1e-4).all()
    assert values.std(0).max() > 0.05


def test_gradients_reach_parameters_and_data():
    """Against central differences, and against the closed form of the score."""
    field, case = gaussian_field(2.0), dict(cases((2,)))["lead1"]
    x = data(field, case).requires_grad_()
    log_p = setflow.masked_log_prob(field, BASE, setflow.RK4(steps=40), x, case.mask)
    (got,) = torch.autograd.grad(log_p.sum(), x)
    (expected,) = torch.autograd.grad(field.log_prob(x, case.mask).sum(), x)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)

    model = redraw(Pointwise()).double()
    weight, base, solver = model.net[0].weight, setflow.StandardNormal((3,)), setflow.Heun(steps=5)
    case = dict(cases((3,)))["lead1"]

    def total():
        return setflow.masked_log_prob(model, base, solver, case.x, case.mask).sum()

    (gradient,) = torch.autograd.grad(total(), weight)
    with torch.no_grad():
        step, before = 1e-5, weight[2, 1].item()
        weight[2, 1] = before + step
        up = total().item()
        weight[2, 1] = before - step
        down = total().item()
    assert gradient[2, 1].item() == pytest.approx((up - down) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(mode):
    field, case = gaussian_field(2.0), dict(cases((2,)))["lead1"]
    x = data(field, case)
    with mode():
        inside = x.clone()
        got = setflow.masked_log_prob(field, BASE, setflow.RK4(steps=100), inside, case.mask)
    assert not got.requires_grad
    torch.testing.assert_close(got.clone(), field.log_prob(x, case.mask), atol=1e-6, rtol=0)


def test_everything_may_be_made_in_inference_mode():
    """Tensors that autograd may not save: context, mask and times too; and a torch base."""

    class Conditional(Wavy):
        def forward(self, x, t, c=None, *, mask=None):
            return super().forward(x, t, mask=mask) * c[..., None, :]

    case = dict(cases((2,), context=2))["lead1"]
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), 1.0), 1)
    expected = setflow.masked_log_prob(
        Conditional(), BASE, setflow.Heun(3), case.x, case.mask, c=case.c
    )
    with torch.inference_mode():
        x, mask, c = case.x.clone(), case.mask.clone(), case.c.clone()
        got = setflow.masked_log_prob(Conditional(), base, setflow.Heun(3), x, mask, c=c)
    torch.testing.assert_close(got.clone(), expected.detach(), atol=1e-12, rtol=0)


def test_sample_dimensions_share_mask_and_context():
    class Conditional(Wavy):
        def forward(self, x, t, c=None, *, mask=None):
            return super().forward(x, t, mask=mask) + c[..., None, :]

    case = dict(cases((2,), context=2))["lead1"]
    x = torch.randn(3, *case.x.shape)
    together = setflow.masked_log_prob(Conditional(), BASE, setflow.Heun(3), x, case.mask, c=case.c)
    for got, part in zip(together, x, strict=True):
        alone = setflow.masked_log_prob(
            Conditional(), BASE, setflow.Heun(3), part, case.mask, c=case.c
        )
        torch.testing.assert_close(got, alone, atol=1e-12, rtol=0)
    unmasked = setflow.masked_log_prob(Conditional(), BASE, setflow.Heun(3), x, None, c=case.c)
    full = torch.ones_like(case.mask)
    masked = setflow.masked_log_prob(Conditional(), BASE, setflow.Heun(3), x, full, c=case.c)
    torch.testing.assert_close(unmasked, masked, atol=1e-12, rtol=0)


def test_float32_sums_are_accumulated_in_float64():
    field, case = gaussian_field(2.0).float(), dict(cases((2,)))["lead1"]
    x = data(field.double(), case)
    expected = field.log_prob(x, case.mask)
    got = setflow.masked_log_prob(field.float(), BASE, setflow.RK4(steps=50), x.float(), case.mask)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, atol=2e-5, rtol=1e-5)


def test_bad_input_is_refused():
    field, x, solver = gaussian_field(0.0), torch.randn(4, 5, 2), setflow.Heun(2)
    with pytest.raises(ValueError, match="solves stochastic equations; a log-density"):
        setflow.masked_log_prob(field, BASE, setflow.EulerMaruyama(2), x, None)
    with pytest.raises(ValueError, match=r"mask has shape \(4, 6\), expected \(4, 5\)"):
        setflow.masked_log_prob(field, BASE, solver, x, torch.ones(4, 6))
    with pytest.raises(ValueError, match=r"mask has shape \(3, 5\), expected \(4, 5\)"):
        setflow.masked_log_prob(field, BASE, solver, x, torch.ones(3, 5))
    with pytest.raises(ValueError, match=r"c has shape \(3, 1\)"):
        setflow.masked_log_prob(field, BASE, solver, x, torch.ones(4, 5), c=torch.ones(3, 1))
    with pytest.raises(ValueError, match="event_ndim=1, expected at least 2"):
        setflow.masked_log_prob(setflow.VelocityField(2), BASE, solver, x, None)
    with pytest.raises(TypeError, match="estimator must be callable"):
        setflow.masked_log_prob(field, BASE, solver, x, None, estimator="exact")
    with pytest.raises(ValueError, match="expected a floating dtype"):
        setflow.masked_log_prob(field, BASE, solver, x.long(), None)

    class Scalar(WrongSign):
        def velocity_and_divergence(self, *args, **kwargs):
            v, divergence = super().velocity_and_divergence(*args, **kwargs)
            return v, divergence.sum()

    for estimator in (Scalar(), lambda field, x, t, c: x.sum((-1, -2))[:, None]):
        with pytest.raises(ValueError, match=r"expected \(4,\): one value per event"):
            setflow.masked_log_prob(field, BASE, solver, x, None, estimator=estimator)

    class PerObject(setflow.StandardNormal):
        def log_prob(self, value, *, mask=None):
            return -0.5 * (value**2).sum(-1)

    with pytest.raises(ValueError, match="the base returned a log-density with shape"):
        setflow.masked_log_prob(field, PerObject((2,)), solver, x, None)


def test_events_without_slots_have_log_density_zero():
    field, x = gaussian_field(2.0), torch.zeros(4, 0, 2)
    for mask in (None, torch.ones(4, 0, dtype=torch.bool)):
        got = setflow.masked_log_prob(field, BASE, setflow.Heun(2), x, mask)
        assert torch.equal(got, torch.zeros(4))
    none = setflow.masked_log_prob(field, BASE, setflow.Heun(2), torch.zeros(0, 5, 2), None)
    assert none.shape == (0,)


def test_probes_come_from_the_generator_of_the_verb():
    field, x = gaussian_field(2.0), torch.randn(3, 4, 2)
    flow = setflow.FlowMatching(field, BASE, setflow.Heun(2))

    def seeded(seed, how):
        options = {
            "estimator": setflow.HutchinsonDivergence(),
            "generator": torch.Generator().manual_seed(seed),
        }
        if how == "verb":
            return setflow.masked_log_prob(field, BASE, setflow.Heun(2), x, None, **options)
        if how == "process":
            return flow(None).log_prob(x, **options)
        schedule = setflow.VESchedule(0.1, 1.0)
        diffusion = setflow.Diffusion(
            field, schedule, setflow.Heun(2), parameterization="velocity", event_shape=(2,)
        )
        return diffusion(None, mask=torch.ones(3, 4)).log_prob(x, **options)

    for how in ("verb", "process", "diffusion"):
        assert torch.equal(seeded(1, how), seeded(1, how))
        assert not torch.equal(seeded(1, how), seeded(2, how))
