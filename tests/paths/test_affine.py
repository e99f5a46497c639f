"""Paths: their ends, and velocities that are derivatives."""

from __future__ import annotations

import pytest
import torch

import setflow
from setflow.diffusion import EDMSchedule, ScheduledPath, VESchedule, VPSchedule
from user_schedules import StraightSchedule, TurningSchedule

PATHS = (setflow.LinearPath(), setflow.CosinePath())


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_ends(path):
    x_target, x_source = torch.randn(5, 4, 3), torch.randn(5, 4, 3)
    torch.testing.assert_close(path.sample_xt(x_target, x_source, torch.zeros(5)), x_target)
    torch.testing.assert_close(path.sample_xt(x_target, x_source, torch.ones(5)), x_source)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_velocity_is_the_derivative_of_the_point(path):
    x_target, x_source, t = torch.randn(5, 4, 3), torch.randn(5, 4, 3), torch.rand(5)
    _, derivative = torch.func.jvp(
        lambda time: path.sample_xt(x_target, x_source, time), (t,), (torch.ones(5),)
    )
    torch.testing.assert_close(path.target_ut(x_target, x_source, t), derivative)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_coefficients_have_their_derivatives(path):
    t = torch.linspace(0, 1, 11)
    for function, derivative in ((path.alpha, path.alpha_dot), (path.sigma, path.sigma_dot)):
        _, slope = torch.func.jvp(function, (t,), (torch.ones_like(t),))
        torch.testing.assert_close(derivative(t), slope)


def test_linear_path_formula():
    x_target, x_source = torch.tensor([[2.0]]), torch.tensor([[-4.0]])
    t = torch.tensor([0.25])
    assert setflow.LinearPath().sample_xt(x_target, x_source, t).item() == 0.5
    assert setflow.LinearPath().target_ut(x_target, x_source, t).item() == -6.0
    assert (setflow.LinearPath().alpha(t).item(), setflow.LinearPath().sigma(t).item()) == (
        0.75,
        0.25,
    )


def test_cosine_path_formula():
    x_target, x_source = torch.tensor([[2.0]]), torch.tensor([[-4.0]])
    t = torch.tensor([1 / 3])
    x = setflow.CosinePath().sample_xt(x_target, x_source, t).item()
    assert x == pytest.approx(2 * 3**0.5 / 2 - 4 * 0.5)


# --- the path of a noise schedule ---

SCHEDULES = {
    "VP": VPSchedule,
    "VE": VESchedule,
    "EDM": EDMSchedule,
    "learned VP": lambda: VPSchedule(learned=True),
    "straight": StraightSchedule,
    "turning": TurningSchedule,
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_scheduled_path_formula(name):
    schedule = SCHEDULES[name]()
    x_target, x_source, t = torch.randn(5, 4, 3), torch.randn(5, 4, 3), 0.1 + 0.8 * torch.rand(5)
    path = ScheduledPath(schedule)
    expected = schedule.alpha(t)[:, None, None] * x_target + schedule.sigma(t)[:, None, None] * (
        x_source
    )
    torch.testing.assert_close(path.sample_xt(x_target, x_source, t), expected)
    for function in ("alpha", "sigma", "alpha_dot", "sigma_dot"):
        torch.testing.assert_close(getattr(path, function)(t), getattr(schedule, function)(t))


@pytest.mark.parametrize("name", SCHEDULES)
def test_scheduled_velocity_is_the_derivative_of_the_point(name):
    path = ScheduledPath(SCHEDULES[name]())
    x_target, x_source, t = torch.randn(5, 4, 3), torch.randn(5, 4, 3), 0.01 + 0.98 * torch.rand(5)
    _, derivative = torch.func.jvp(
        lambda time: path.sample_xt(x_target, x_source, time), (t,), (torch.ones(5),)
    )
    torch.testing.assert_close(
        path.target_ut(x_target, x_source, t), derivative, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_ends_of_a_scheduled_path(name):
    """sigma(0) of the noise beside all of the data, and alpha(1) of the data beside sigma(1)."""
    schedule = SCHEDULES[name]()
    path, x_target, x_source = ScheduledPath(schedule), torch.randn(5, 3), torch.randn(5, 3)
    zero, one = torch.zeros(5), torch.ones(5)
    sigma, alpha = schedule.sigma(zero)[:, None], schedule.alpha(one)[:, None]
    data = path.sample_xt(x_target, x_source, zero)
    torch.testing.assert_close(data, x_target + sigma * x_source)
    noise = path.sample_xt(x_target, x_source, one)
    torch.testing.assert_close(noise, alpha * x_target + schedule.sigma(one)[:, None] * x_source)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_target_is_finite_where_the_slope_of_sigma_is_not(dtype):
    t = torch.tensor([0.0, 0.5], dtype=dtype)
    assert VPSchedule().sigma_dot(t)[0].isinf()
    path, x = ScheduledPath(VPSchedule()), torch.ones(2, 3, dtype=dtype)
    smallest = torch.finfo(dtype).eps
    # beta / (2 sigma), where sigma^2 is the integral of beta = 0.1 + 19.9 t
    slope = (0.05 + 9.95 * smallest) / (0.1 * smallest + 9.95 * smallest**2) ** 0.5
    torch.testing.assert_close(path.sigma_dot(t)[0].item(), slope, rtol=1e-6, atol=0)
    u = path.target_ut(x, x, t)
    assert u.dtype == dtype
    torch.testing.assert_close(u[0], torch.full_like(u[0], slope - 0.05), rtol=1e-6, atol=0)


def test_gradients_of_learned_ends_are_finite_at_the_data():
    schedule = VPSchedule(learned=True)
    x, t = torch.randn(3, 2), torch.tensor([0.0, 0.5, 1.0])
    path = ScheduledPath(schedule)
    total = path.sample_xt(x, x, t).sum() + path.target_ut(x, x, t).sum()
    total.backward()
    for parameter in schedule.parameters():
        assert bool(parameter.grad.isfinite())
        assert abs(parameter.grad.item()) > 1e-6


@pytest.mark.parametrize("coupling", [0.0, 2.0])
@pytest.mark.parametrize("name", ["VP", "VE", "straight", "turning"])
def test_the_flow_along_a_scheduled_path_has_the_marginals_of_the_schedule(name, coupling):
    """Each eigenspace is stretched by the ratio of its standard deviations at both times."""
    schedule = SCHEDULES[name]()
    field = setflow.GaussianSetField(
        torch.tensor([0.5, -1.0]),
        torch.tensor([0.8, 1.6]),
        coupling=coupling,
        path=ScheduledPath(schedule),
    )
    x = torch.randn(6, 4, 2)
    begin, end = 0.95, 0.2
    got = setflow.RK4(80).integrate(field, x, t0=begin, t1=end)

    def at(time):
        now = torch.tensor(time)
        alpha, sigma = schedule.alpha(now), schedule.sigma(now)
        across = (alpha**2 * field.scale**2 + sigma**2).sqrt()
        along = (alpha**2 * field.scale**2 * (1 + 4 * coupling) + sigma**2).sqrt()
        return alpha * field.loc, across, along

    (loc, across, along), (loc_end, across_end, along_end) = at(begin), at(end)
    mean = (x - loc).mean(1, keepdim=True)
    expected = loc_end + (x - loc - mean) * across_end / across + mean * along_end / along
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7)


def test_a_scheduled_path_needs_a_schedule():
    assert repr(ScheduledPath(VPSchedule())) == (
        "ScheduledPath(VPSchedule(beta_min=0.1, beta_max=20, learned=False))"
    )
    with pytest.raises(TypeError, match="as a schedule, expected a NoiseSchedule"):
        ScheduledPath(setflow.LinearPath())


@pytest.mark.parametrize("path", [setflow.LinearPath(), setflow.CosinePath()])
def test_a_path_broadcasts_nothing(path):
    x = torch.randn(4, 5, 3)
    for method in (path.sample_xt, path.target_ut):
        with pytest.raises(ValueError, match=r"x_source has shape \(1, 5, 1\)"):
            method(x, x[:1, :, :1], torch.rand(4))
        for t in (torch.rand(5), torch.rand(1), torch.rand(2, 4)):
            with pytest.raises(ValueError, match="expected a scalar t or the lead shape"):
                method(x, x, t)
        with pytest.raises(ValueError, match="expected a scalar t or the lead shape"):
            method(x[:1], x[:1], torch.rand(5))
