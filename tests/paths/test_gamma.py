"""Gamma schedules of stochastic interpolants: closed forms, ends, and schedules of one's own."""

from __future__ import annotations

import math

import pytest
import torch

from each import each
from laws.subjects import Pointwise
from setflow.fields import MirrorVelocityFromScore
from setflow.paths import BrownianGamma, GammaSchedule, ScaledBrownianGamma, ZeroGamma
from setflow.paths.gamma import as_gamma
from user_gammas import PlainGamma, SineGamma, derivative, named

BROWNIAN = (BrownianGamma(), ScaledBrownianGamma(), ScaledBrownianGamma(2.5))


@pytest.mark.parametrize("schedule", BROWNIAN, ids=named)
def test_gamma_is_the_standard_deviation_of_a_brownian_bridge(schedule):
    """W(t) - t W(1) for a Wiener process whose variance grows by `scale` per unit of time."""
    generator = torch.Generator().manual_seed(0)
    steps, paths = 10, 200_000
    scale = schedule.scale
    walk = torch.randn(steps, paths, generator=generator).mul((scale / steps) ** 0.5).cumsum(0)
    t = torch.arange(1, steps + 1) / steps
    bridge = walk - t[:, None] * walk[-1]
    simulated, expected = bridge.var(1), schedule.gamma(t) ** 2
    torch.testing.assert_close(simulated, expected, rtol=0.02, atol=1e-11)
    torch.testing.assert_close(expected[:-1], scale * (t * (1 - t))[:-1])


@pytest.mark.parametrize("schedule", [*BROWNIAN, SineGamma()], ids=named)
def test_gamma_dot_is_the_derivative_of_gamma(schedule):
    t = torch.linspace(0.001, 0.999, 101)
    torch.testing.assert_close(schedule.gamma_dot(t), derivative(schedule.gamma, t))


@pytest.mark.parametrize("schedule", [*BROWNIAN, SineGamma(), as_gamma(PlainGamma())], ids=named)
def test_gamma_gamma_dot_is_half_the_rate_of_the_variance(schedule):
    t = torch.linspace(0.001, 0.999, 101)
    rate = derivative(lambda t: schedule.gamma(t) ** 2, t)
    torch.testing.assert_close(schedule.gamma_gamma_dot(t), rate / 2)
    torch.testing.assert_close(
        schedule.gamma_gamma_dot(t), schedule.gamma(t) * schedule.gamma_dot(t)
    )


@pytest.mark.parametrize("schedule", BROWNIAN, ids=named)
def test_gamma_gamma_dot_is_exact_at_the_ends(schedule):
    product = schedule.gamma_gamma_dot(torch.tensor([0.0, 0.5, 1.0]))
    assert product.tolist() == [schedule.scale / 2, 0.0, -schedule.scale / 2]


@each("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@each("schedule", BROWNIAN, ids=named)
def test_gamma_is_small_and_its_derivative_finite_at_the_ends(schedule, dtype):
    t = torch.tensor([0.0, 1.0], dtype=dtype)
    floor = max(schedule.eps, torch.finfo(dtype).tiny) ** 0.5
    assert schedule.gamma(t).dtype == dtype
    assert schedule.gamma(t).tolist() == pytest.approx([floor, floor], rel=0.01)
    start, end = schedule.gamma_dot(t).tolist()
    assert start == pytest.approx(schedule.scale / 2 / floor, rel=0.01)
    assert end == pytest.approx(-schedule.scale / 2 / floor, rel=0.01)


def test_the_floor_of_gamma_is_eps():
    assert BrownianGamma(eps=1e-4).gamma(torch.tensor(0.0)).item() == pytest.approx(1e-2)
    assert ScaledBrownianGamma(4.0, 1e-6).gamma(torch.tensor(1.0)).item() == pytest.approx(1e-3)
    t = torch.tensor([0.0, 1.0], requires_grad=True)
    BrownianGamma().gamma(t).sum().backward()
    assert t.grad.isfinite().all()


def test_brownian_gamma_is_scaled_brownian_gamma_with_scale_1():
    t = torch.linspace(0, 1, 11)
    one, other = BrownianGamma(), ScaledBrownianGamma(1.0)
    for name in ("gamma", "gamma_dot", "gamma_gamma_dot"):
        assert torch.equal(getattr(one, name)(t), getattr(other, name)(t))
    assert one == BrownianGamma(1e-12)
    assert one != BrownianGamma(1e-6)
    assert repr(one) == "BrownianGamma(eps=1e-12)"
    assert repr(ScaledBrownianGamma(2.0)) == "ScaledBrownianGamma(scale=2.0, eps=1e-12)"


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_targets_variance_is_finite_within_the_time_range_and_diverges_beyond(scale):
    """The integral of gamma'^2 over [a, 1 - a] is scale (ln((1 - a) / a) / 2 - 1 + 2a)."""
    schedule = ScaledBrownianGamma(scale)

    def mean_square(low: float, high: float) -> float:  # on a grid that is uniform in logit(t)
        logit = torch.linspace(math.log(low / (1 - low)), math.log(high / (1 - high)), 20_001)
        t = logit.sigmoid()
        return torch.trapezoid(schedule.gamma_dot(t) ** 2 * t * (1 - t), logit).item()

    low, high = schedule.time_range
    assert (low, high) == (1e-3, 1 - 1e-3) == BrownianGamma().time_range
    assert mean_square(low, high) == pytest.approx(2.4554 * scale, rel=1e-4)
    for a in (1e-3, 1e-5, 1e-7, 1e-9):  # it grows by ln(100) / 2 each time, without end
        expected = scale * (math.log((1 - a) / a) / 2 - 1 + 2 * a)
        assert mean_square(a, 1 - a) == pytest.approx(expected, rel=1e-4)


def test_zero_gamma_adds_no_noise_at_any_time():
    t = torch.linspace(0, 1, 5, dtype=torch.float32).requires_grad_()
    schedule = ZeroGamma()
    for value in (schedule.gamma(t), schedule.gamma_dot(t), schedule.gamma_gamma_dot(t)):
        assert value.dtype == torch.float32
        assert value.tolist() == [0.0] * 5
    assert schedule.time_range == (0.0, 1.0)


def test_a_schedule_of_ones_own_trains_at_all_times():
    assert SineGamma().time_range == (0.0, 1.0)
    with pytest.raises(TypeError, match="abstract"):
        GammaSchedule()


@each("bad", [0.0, -1.0, math.nan, math.inf])
@each("name", ["scale", "eps"])
def test_scale_and_eps_must_be_positive(name, bad):
    with pytest.raises(ValueError, match=f"{name} must be a positive number, got"):
        ScaledBrownianGamma(**{name: bad})
    if name == "eps":
        with pytest.raises(ValueError, match="eps must be a positive number"):
            BrownianGamma(bad)


def test_as_gamma_takes_objects_that_inherit_nothing():
    schedule = BrownianGamma()
    assert as_gamma(schedule) is schedule
    t = torch.linspace(0, 1, 11)
    plain = as_gamma(PlainGamma())
    torch.testing.assert_close(plain.gamma(t), torch.sin(math.pi * t))
    torch.testing.assert_close(plain.gamma_dot(t), math.pi * torch.cos(math.pi * t))
    assert plain.time_range == (0.0, 1.0)

    class Exact(PlainGamma):
        time_range = (0.1, 0.9)

        def gamma_gamma_dot(self, t):
            return t + 7

    assert as_gamma(Exact()).time_range == (0.1, 0.9)
    torch.testing.assert_close(as_gamma(Exact()).gamma_gamma_dot(t), t + 7)


@pytest.mark.parametrize("thing", [None, 0.1, "brownian", BrownianGamma])
def test_as_gamma_refuses_what_is_no_schedule(thing):
    with pytest.raises(TypeError, match="expected a gamma schedule"):
        as_gamma(thing)
    with pytest.raises(TypeError, match="expected a gamma schedule"):
        MirrorVelocityFromScore(Pointwise(), thing)
