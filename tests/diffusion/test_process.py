"""Diffusion processes: Gaussians whose every answer is known, down to the singular end."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import setflow
from each import thinned
from laws.laws import cases, redraw
from problems import GaussianPredictor, gaussian_field
from user_schedules import StraightSchedule

PARAMETERIZATIONS = ("eps", "score", "x0", "velocity")


SCHEDULES = {
    "vp": setflow.VPSchedule(),
    "ve": setflow.VESchedule(0.01, 10.0),
    "edm": setflow.EDMSchedule(0.002, 10.0),
}


class Linear(nn.Module):
    """v = rate x + c, on vectors."""

    event_ndim = 1

    def __init__(self, rate: float = -1.0) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate))

    def forward(self, x, t, c=None):
        return self.rate * x + (0 if c is None else c)


def _noise(case, schedule, mask):
    """A state at t = 1 as the process draws it without a base: N(0, sigma(1)^2)."""
    return torch.where(mask[..., None], schedule.sigma(torch.tensor(1.0)) * case.x_source, 0.0)


def diffusion(schedule, predicts, solver, coupling=2.0, **options):
    field = gaussian_field(coupling)
    model = GaussianPredictor(field, schedule, predicts)
    made = setflow.Diffusion(
        model, schedule, solver, parameterization=predicts, event_shape=(2,), **options
    )
    return made, model


# the largest error of a solver with this many steps, for t1 = 0
ACCURACY = {
    "euler": (setflow.Euler(steps=300), 0.2),
    "midpoint": (setflow.Midpoint(steps=150), 5e-3),
    "heun": (setflow.Heun(steps=150), 1e-2),
    "rk4": (setflow.RK4(steps=100), 5e-6),
    "dopri5": (setflow.Dopri5(rtol=1e-6, atol=1e-6), 1e-4),
}


@pytest.mark.parametrize(
    ("schedule", "predicts", "how"),
    thinned(SCHEDULES, PARAMETERIZATIONS, [("rk4", 0.0), *((solver, 2.0) for solver in ACCURACY)]),
)
def test_the_probability_flow_is_right_down_to_zero(schedule, predicts, how):
    """Every event of every schedule arrives at t1 = 0 where the closed form says."""
    solver, coupling = how
    schedule, case = SCHEDULES[schedule], dict(cases((2,)))["lead1"]
    solver, atol = ACCURACY[solver]
    process, model = diffusion(schedule, predicts, solver, coupling)
    noise = _noise(case, schedule, case.mask)
    with torch.no_grad():
        got = process(None, mask=case.mask).sample(x_source=noise)
    expected = model.transported(noise, case.mask, 1.0, 0.0)
    torch.testing.assert_close(got, expected, atol=atol, rtol=0)
    assert (expected - noise).abs().max() > 0.1


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("solver", "order"),
    [(setflow.Euler, 1), (setflow.Midpoint, 2), (setflow.Heun, 2), (setflow.RK4, 4)],
)
def test_the_order_of_a_solver_survives_the_singular_end(solver, order, schedule):
    schedule, case = SCHEDULES[schedule], dict(cases((2,)))["lead1"]
    noise = _noise(case, schedule, case.mask)
    steps = (200, 400) if order < 4 else (40, 80)
    errors = []
    for count in steps:
        process, model = diffusion(schedule, "eps", solver(count))
        with torch.no_grad():
            got = process(None, mask=case.mask).sample(x_source=noise)
        errors.append((got - model.transported(noise, case.mask, 1.0, 0.0)).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.4), errors


@pytest.mark.parametrize("t1", [1e-3, 0.0])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_float32_arrives_too(schedule, t1):
    schedule, case = SCHEDULES[schedule], dict(cases((2,)))["lead1"]
    process, model = diffusion(schedule, "eps", setflow.RK4(steps=150), t1=t1)
    noise = _noise(case, schedule, case.mask)
    model.float()
    with torch.no_grad():
        got = process(None, mask=case.mask).sample(x_source=noise.float())
    model.double()
    assert got.dtype == torch.float32
    expected = model.transported(noise, case.mask, 1.0, t1)
    torch.testing.assert_close(got.double(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("predicts", PARAMETERIZATIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_log_prob_of_a_diffusion(schedule, predicts):
    """The density of the base at the point where the flow comes from, times the known Jacobian."""
    schedule, case = SCHEDULES[schedule], dict(cases((2,)))["lead1"]
    process, model = diffusion(schedule, predicts, setflow.RK4(steps=60))
    x = model.field.sample_map(case.x_source, case.mask)
    with torch.no_grad():
        got = process(None, mask=case.mask).log_prob(x)
    z = model.transported(x, case.mask, 0.0, 1.0)
    base = setflow.IsotropicNormal((2,), schedule.sigma(torch.tensor(1.0)))
    expected = base.log_prob(z, mask=case.mask)
    n = case.mask.sum(-1)
    ends = [torch.tensor(t) for t in (0.0, 1.0)]
    for variance, count in (
        (model.field.scale**2, (n - 1).clamp(min=0)[:, None]),
        (model.field.scale**2 * (1 + 2.0 * n[:, None]), (n > 0)[:, None]),
    ):
        before, after = (schedule.alpha(t) ** 2 * variance + schedule.sigma(t) ** 2 for t in ends)
        expected = expected + (0.5 * count * (after / before).log()).sum(-1)
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)


class Moments:
    """An SDE solver that propagates mean and variance of independent coordinates exactly.

    The drift is linear, so Euler-Maruyama multiplies the state by 1 + a h and adds g^2 |h|.
    """

    is_sde = True

    def __init__(self, steps):
        self.steps = steps

    def integrate(self, drift, diffusion, x0, t0, t1, steps):
        h, t = (t1 - t0) / steps, t0
        mean = x0
        variance = self.variance0 * torch.ones_like(x0)
        for _ in range(steps):
            slope = drift(torch.ones_like(x0), t) - drift(torch.zeros_like(x0), t)
            mean = mean + h * drift(mean, t)
            variance = (1 + h * slope) ** 2 * variance + diffusion(t) ** 2 * abs(h)
            t += h
        self.variance = variance
        return mean


def reverse_moments(schedule, predicts, steps):
    """Mean and variance at t1 = 0 of the reverse equation, started with the exact ones at t = 1."""
    field = gaussian_field(0.0)
    alpha, sigma = (f(torch.tensor(1.0)) for f in (schedule.alpha, schedule.sigma))
    solver = Moments(steps)
    solver.variance0 = alpha**2 * field.scale**2 + sigma**2
    process, _ = diffusion(schedule, predicts, solver, 0.0)
    with torch.no_grad():
        start = (alpha * field.loc).expand(1, 1, 2)
        mean = process(None, mask=torch.ones(1, 1)).sample(x_source=start)
    return mean, solver.variance


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_reverse_equation_has_the_right_moments_to_weak_order_one(schedule):
    schedule, field = SCHEDULES[schedule], gaussian_field(0.0)
    alpha, sigma = (f(torch.tensor(0.0)) for f in (schedule.alpha, schedule.sigma))
    target = alpha**2 * field.scale**2 + sigma**2
    errors = []
    for steps in (400, 800, 1600):
        mean, variance = reverse_moments(schedule, "eps", steps)
        wrong_mean, wrong_variance = mean - alpha * field.loc, variance - target
        errors.append(torch.stack([wrong_mean.flatten(), wrong_variance.flatten()]))
    assert errors[-1].abs().max() < 2e-2
    # of first order: halving the step halves the error, up to terms of second order, which it
    # quarters (mean and variance apart; the mean stays where alpha = 1)
    for coarse, middle, fine in zip(*errors, strict=True):
        if fine.abs().max() < 1e-12:
            assert schedule is not SCHEDULES["vp"]
            continue
        left = [(2 * b - a).abs().max().item() for a, b in ((coarse, middle), (middle, fine))]
        assert left[1] < 0.3 * middle.abs().max()
        assert left[0] / left[1] == pytest.approx(4, abs=1.2), errors


@pytest.mark.parametrize("predicts", ["score", "x0", "velocity"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_reverse_equation_is_the_same_for_every_parameterization(schedule, predicts):
    expected = reverse_moments(SCHEDULES[schedule], "eps", 50)
    got = reverse_moments(SCHEDULES[schedule], predicts, 50)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-9)


def test_euler_maruyama_draws_the_data():
    """Coupled objects: the covariance between them too, within four standard errors."""
    schedule, n, generator = setflow.VPSchedule(), 10_000, torch.Generator().manual_seed(0)
    process, model = diffusion(schedule, "eps", setflow.EulerMaruyama(steps=200), 2.0)
    mask = torch.tensor([True, False, True])
    with torch.no_grad():
        x = process(None, mask=mask).sample((n,), generator=generator)
        again = process(None, mask=mask).sample((n,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, again)
    assert torch.equal(x[:, 1], torch.zeros(n, 2))
    field = model.field
    for feature in range(2):
        pair = x[:, [0, 2], feature]
        variance = field.scale[feature] ** 2
        expected = variance * (torch.eye(2) + 2.0 * torch.ones(2, 2))
        got = torch.cov(pair.T)
        assert (got / expected - 1).abs().max() < 0.08
        assert (pair.mean(0) - field.loc[feature]).abs().max() < 4 * (
            expected[0, 0] / n
        ) ** 0.5 + 0.02


def test_without_a_base_noise_has_the_standard_deviation_of_the_schedule():
    for schedule in SCHEDULES.values():
        process, _ = diffusion(schedule, "x0", setflow.Euler(1))
        base = process(None, mask=torch.ones(1, 1)).base
        drawn = base.sample((4000,), generator=torch.Generator().manual_seed(0))
        sigma = schedule.sigma(torch.tensor(1.0)).item()
        assert drawn.std().item() == pytest.approx(sigma, rel=0.03)
    field = redraw(setflow.TransformerField(2, hidden=8, layers=1, heads=1)).float()
    made = setflow.Diffusion(
        field, SCHEDULES["vp"], setflow.Euler(1), parameterization="x0", event_shape=(2,)
    )
    x = made(None, mask=torch.ones(4, 3)).sample()  # in the dtype of the model
    assert x.dtype == torch.float32


def test_a_base_may_be_given():
    schedule = setflow.VPSchedule()
    field = gaussian_field(0.0)
    model = GaussianPredictor(field, schedule, "eps")
    base = setflow.DiagonalNormal(torch.tensor([100.0, 0.0]), torch.tensor([1e-9, 1e-9]))
    process = setflow.Diffusion(
        model, schedule, setflow.RK4(100), parameterization="eps", base=base
    )
    got = process(None, mask=torch.ones(1, 1)).sample()
    expected = model.transported(torch.tensor([[[100.0, 0.0]]]), None, 1.0, 0.0)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)


def test_guidance_changes_the_predicted_noise():
    """With eps replaced by that of other data the samples are of those data."""
    schedule, case = setflow.VPSchedule(), dict(cases((2,)))["lead1"]
    other = GaussianPredictor(gaussian_field(2.0), schedule, "eps")
    model = GaussianPredictor(gaussian_field(0.0), schedule, "x0")
    process = setflow.Diffusion(
        model, schedule, setflow.RK4(150), parameterization="x0", event_shape=(2,)
    )(None, mask=case.mask)
    noise = _noise(case, schedule, case.mask)

    def guidance(x, t, eps):
        assert t.shape == (6,)
        return other(x, t, mask=case.mask)

    got = process.sample(x_source=noise, guidance_fn=guidance)
    expected = other.transported(noise, case.mask, 1.0, 0.0)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_diffusion_of_plain_vectors_with_context():
    class Eps(nn.Module):
        event_ndim = 1

        def forward(self, x, t, c=None):
            return 0 * x + c

    schedule, context = setflow.VESchedule(0.01, 1.0), torch.randn(16, 3)
    process = setflow.Diffusion(
        Eps(), schedule, setflow.RK4(100), parameterization="eps", event_shape=(3,)
    )(context)
    noise = torch.randn(2, 16, 3)
    got = process.sample((2,), x_source=noise)
    torch.testing.assert_close(got, noise - 0.99 * context, atol=1e-6, rtol=0)
    assert process.sample((2,)).shape == (2, 16, 3)
    assert process.rsample((2,)).shape == (2, 16, 3)
    density = process.log_prob(got)
    base = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum(-1)
    torch.testing.assert_close(density, base, atol=1e-5, rtol=0)


def test_rsample_of_a_diffusion_is_differentiable():
    class Eps(nn.Module):
        event_ndim = 1

        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.tensor(0.3))

        def forward(self, x, t, c=None):
            return self.shift * torch.ones_like(x)

    model, schedule = Eps(), setflow.VESchedule(0.01, 1.0)
    for solver in (setflow.RK4(100), setflow.EulerMaruyama(1000)):
        made = setflow.Diffusion(model, schedule, solver, parameterization="eps", event_shape=(3,))
        with torch.no_grad():
            x = made(None).rsample((5,))
        (gradient,) = torch.autograd.grad(x.sum(), model.shift)
        # the probability flow moves by eps, the reverse equation by twice as much
        factor = 2 if solver.is_sde else 1
        assert gradient.item() == pytest.approx(-0.99 * 15 * factor, rel=1e-2)

    class Opaque(setflow.RK4):
        supports_rsample = False

    opaque = setflow.Diffusion(model, schedule, Opaque(3), parameterization="eps", event_shape=(3,))
    with pytest.raises(NotImplementedError, match="supports_rsample"):
        opaque(None).rsample((5,))


def test_a_users_schedule_is_enough():
    """Only alpha, sigma, drift and diffusion: from t0 < 1, where alpha does not vanish."""
    schedule, case = StraightSchedule(), dict(cases((2,)))["lead1"]
    for predicts in PARAMETERIZATIONS:
        process, model = diffusion(schedule, predicts, setflow.RK4(200), t0=0.9)
        with torch.no_grad():
            got = process(None, mask=case.mask).sample(x_source=case.x_source)
        expected = model.transported(case.x_source, case.mask, 0.9, 0.0)
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    for predicts in ("x0", "velocity"):  # these determine the flow at alpha = 0 too
        process, model = diffusion(schedule, predicts, setflow.RK4(200))
        with torch.no_grad():
            got = process(None, mask=case.mask).sample(x_source=case.x_source)
        expected = model.transported(case.x_source, case.mask, 1.0, 0.0)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("t1", [1e-5, 1e-3])
def test_stopping_before_zero_is_no_worse_than_zero(t1):
    """Narrow data under a variance-preserving schedule, to one per cent of their width."""
    schedule = setflow.VPSchedule()
    field = setflow.GaussianSetField(torch.zeros(2), torch.full((2,), 0.01)).double()
    model = GaussianPredictor(field, schedule, "eps")
    process = setflow.Diffusion(
        model, schedule, setflow.RK4(60), parameterization="eps", event_shape=(2,), t1=t1
    )(None, mask=torch.ones(1, 3))
    noise = torch.randn(1, 3, 2)
    expected = model.transported(noise, None, 1.0, t1)
    got = process.sample(x_source=noise)
    assert (got - expected).abs().max() < 0.01 * expected.abs().max()


class TurningSchedule(StraightSchedule):
    """alpha = cos, sigma = sin: alpha(1) is 6e-17, not 0."""

    def alpha(self, t):
        return torch.cos(math.pi / 2 * t)

    def sigma(self, t):
        return torch.sin(math.pi / 2 * t)

    def drift(self, x, t):
        rate = -math.pi / 2 * torch.tan(math.pi / 2 * t)
        return rate.reshape(rate.shape + (1,) * (x.ndim - rate.ndim)) * x

    def diffusion(self, t):
        return (math.pi * torch.tan(math.pi / 2 * t)).sqrt()


@pytest.mark.parametrize("schedule", [StraightSchedule(), TurningSchedule()])
def test_a_start_that_does_not_determine_the_flow_is_refused(schedule):
    case = dict(cases((2,)))["lead1"]
    for predicts, solver in (
        ("eps", setflow.RK4(20)),
        ("score", setflow.Heun(20)),
        ("x0", setflow.EulerMaruyama(20)),
        ("velocity", setflow.EulerMaruyama(20)),
    ):
        process, _ = diffusion(schedule, predicts, solver)
        with pytest.raises(ValueError, match=r"alpha\(t0 = 1.0\) = 0"):
            process(None, mask=case.mask).sample()
    process, _ = diffusion(schedule, "x0", setflow.RK4(20))
    with pytest.raises(ValueError, match="no guidance"):
        process(None, mask=case.mask).sample(guidance_fn=lambda x, t, eps: eps)
    process, model = diffusion(schedule, "x0", setflow.RK4(100))
    got = process(None, mask=case.mask).sample(x_source=case.x_source)
    expected = model.transported(case.x_source, case.mask, 1.0, 0.0)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_learned_ends_are_reached_by_gradients():
    """Through the base, the flow and the density, also with NaN from guidance in the padding."""
    schedule = setflow.VESchedule(0.01, 2.0, learned=True).double()
    mask = torch.tensor([[True, False, True]])
    model = redraw(setflow.TransformerField(2, hidden=8, layers=1, heads=1)).double()
    made = setflow.Diffusion(
        model, schedule, setflow.Heun(4), parameterization="x0", event_shape=(2,)
    )
    assert set(dict(schedule.named_parameters())) <= {
        name.removeprefix("schedule.") for name, _ in made.named_parameters()
    }

    def guidance(x, t, eps):
        return eps.masked_fill(~mask[..., None], float("nan"))

    generator = torch.Generator().manual_seed(0)
    x = made(None, mask=mask).sample(guidance_fn=guidance, generator=generator)
    density = made(None, mask=mask).log_prob(torch.ones(1, 3, 2))
    for value in (x.sum(), density.sum()):
        for gradient in torch.autograd.grad(value, list(schedule.parameters())):
            assert gradient.isfinite().all()
            assert gradient.abs().max() > 1e-6
    assert "scale=2" in repr(made(None, mask=mask).base)


def test_bad_diffusions_are_refused():
    model, schedule = Linear(), setflow.VPSchedule()
    solver = setflow.RK4(3)
    with pytest.raises(ValueError, match="unknown parameterization 'noise'"):
        setflow.Diffusion(model, schedule, solver, parameterization="noise", event_shape=(8,))
    with pytest.raises(ValueError, match="event_shape is required when base is None"):
        setflow.Diffusion(model, schedule, solver, parameterization="eps")(None)
    with pytest.raises(ValueError, match="expected them equal"):
        setflow.Diffusion(model, schedule, solver, parameterization="eps", event_shape=(2, 8))(None)
    unchecked = setflow.Diffusion(
        model, schedule, solver, parameterization="eps", event_shape=(2, 8), validate_args=False
    )
    assert unchecked(None).event_shape == (2, 8)
    made = setflow.Diffusion(model, schedule, solver, parameterization="eps", event_shape=8)
    assert made.event_shape == (8,)
    with pytest.raises(TypeError, match="expected a NoiseSchedule"):
        setflow.Diffusion(model, "vp", solver, parameterization="eps", event_shape=(8,))
    base = setflow.StandardNormal((8,))
    unequal = setflow.Diffusion(
        model, schedule, solver, parameterization="eps", base=base, event_shape=(7,)
    )
    with pytest.raises(ValueError, match=r"event_shape is \(7,\), the base has \(8,\)"):
        unequal(None)
    base = setflow.StandardNormal((2, 8))
    with pytest.raises(ValueError, match="unknown parameterization"):
        setflow.DiffusionProcess(model, schedule, solver, parameterization="v", base=base)
    with pytest.raises(ValueError, match="expected them equal"):
        setflow.DiffusionProcess(model, schedule, solver, parameterization="eps", base=base)
    with pytest.raises(ValueError, match="expected them equal"):
        setflow.FlowMatchingProcess(model, base, solver)
    with pytest.raises(ValueError, match="unknown parameterization"):
        setflow.ProbabilityFlowField(model, schedule, "v")
    sde = setflow.Diffusion(
        model, schedule, setflow.EulerMaruyama(3), parameterization="eps", event_shape=(8,)
    )
    with pytest.raises(ValueError, match="solves stochastic equations"):
        sde(None).log_prob(torch.zeros(2, 8))
