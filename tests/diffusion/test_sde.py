"""Euler-Maruyama: its exact moments on linear equations, its weak order, its noise."""

from __future__ import annotations

import math

import pytest
import torch

import setflow
from setflow.diffusion import EulerMaruyama

THETA, G, DATA = 1.5, 0.8, 0.25
DECAY = math.exp(-(G**2))  # of the variance, by the forward equation of `reverse`


def pull(x, t):
    """The drift of an Ornstein-Uhlenbeck process."""
    return -THETA * x


def reverse(x, t):
    """The reverse drift of dx = -G^2 x / 2 dt + G dW for data of variance DATA: minus G^2 score."""
    return -(G**2) * x / 2 + G**2 * x / (1 + (DATA - 1) * math.exp(-(G**2) * t))


def variance_of_noise(drift, steps, t0, t1):
    """The variance of x(t1) from x(t0) = 0, free of sampling error.

    x(t1) is linear in the noise. Coordinate k is given the noise of step k alone, so that the
    quotient of result and noise is the weight of that step.
    """

    def diffusion(t):
        return G * torch.eye(steps, dtype=torch.float64)[round((t - t0) / (t1 - t0) * steps)]

    x = EulerMaruyama(steps).integrate(
        drift,
        diffusion,
        torch.zeros(steps, dtype=torch.float64),
        t0=t0,
        t1=t1,
        generator=torch.Generator().manual_seed(2),
    )
    generator = torch.Generator().manual_seed(2)
    noise = torch.stack(
        [torch.randn(steps, generator=generator, dtype=torch.float64) for _ in range(steps)]
    )
    return ((x / noise.diagonal()) ** 2).sum().item()


def test_moments_follow_the_recursion_of_the_method():
    steps, h = 12, 1 / 12
    mean, variance = 2.0, 0.0
    for _ in range(steps):
        mean, variance = (1 - THETA * h) * mean, (1 - THETA * h) ** 2 * variance + G**2 * h
    assert variance_of_noise(pull, steps, 0.0, 1.0) == pytest.approx(variance, rel=1e-12)
    x = EulerMaruyama(steps).integrate(
        pull,
        lambda t: G,
        torch.full((50_000,), 2.0),
        t0=0.0,
        t1=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    assert abs(x.mean().item() - mean) < 4 * math.sqrt(variance / len(x))
    assert abs(x.var().item() - variance) < 4 * variance * math.sqrt(2 / len(x))
    fourth = ((x - mean) ** 4).mean().item() / variance**2
    assert fourth == pytest.approx(3, abs=4 * math.sqrt(96 / len(x)))


@pytest.mark.parametrize(
    ("drift", "t0", "t1", "mean_factor", "variance"),
    [
        (pull, 0.0, 1.0, math.exp(-THETA), G**2 / (2 * THETA) * (1 - math.exp(-2 * THETA))),
        # from 0 at t = 1 back to t = 0: the posterior of the data given x(1) = 0
        (
            reverse,
            1.0,
            0.0,
            DATA * math.sqrt(DECAY) / (1 + (DATA - 1) * DECAY),
            DATA * (1 - DECAY) / (1 + (DATA - 1) * DECAY),
        ),
    ],
)
def test_weak_order_one(drift, t0, t1, mean_factor, variance):
    counts = (32, 64, 128)
    means, variances = [], []
    for steps in counts:
        mean = EulerMaruyama(steps).integrate(
            drift, lambda t: 0.0, torch.ones(1, dtype=torch.float64), t0=t0, t1=t1
        )
        means.append(abs(mean.item() - mean_factor))
        variances.append(abs(variance_of_noise(drift, steps, t0, t1) - variance))
    for errors in (means, variances):
        assert math.log2(errors[-2] / errors[-1]) == pytest.approx(1, abs=0.1), errors


def test_without_noise_it_is_eulers_method():
    x0 = torch.randn(3, 4)
    x = EulerMaruyama(7).integrate(pull, lambda t: 0.0, x0, t0=1.0, t1=0.0)
    torch.testing.assert_close(x, setflow.Euler(7).integrate(pull, x0, t0=1.0, t1=0.0))


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
def test_the_last_time_is_not_evaluated(t0, t1):
    drift_times, diffusion_times = [], []

    def drift(x, t):
        drift_times.append(t)
        return x

    def diffusion(t):
        diffusion_times.append(t)
        return 1.0

    EulerMaruyama(4).integrate(drift, diffusion, torch.zeros(2), t0=t0, t1=t1)
    expected = [t0 + step * (t1 - t0) / 4 for step in range(4)]
    assert drift_times == diffusion_times == expected
    assert t1 not in expected


def test_the_generator_alone_decides_the_noise():
    def draw(seed, steps=8):
        return EulerMaruyama(steps).integrate(
            pull,
            lambda t: G,
            torch.zeros(5),
            t0=0.0,
            t1=1.0,
            generator=torch.Generator().manual_seed(seed),
        )

    before = torch.get_rng_state()
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_diffusion_per_event_meets_its_event():
    g = torch.tensor([0.0, 1.0, 100.0])[:, None, None]
    x = EulerMaruyama(4).integrate(
        lambda x, t: torch.zeros_like(x),
        lambda t: g,
        torch.zeros(3, 50, 2),
        t0=0.0,
        t1=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    spread = x.std((1, 2))
    assert spread[0] == 0
    assert spread[1] == pytest.approx(1, abs=0.3)
    assert spread[2] == pytest.approx(100, abs=30)


def test_draws_are_differentiable():
    x0 = torch.ones(3, requires_grad=True)
    g = torch.tensor(0.5, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    x = EulerMaruyama(10).integrate(pull, lambda t: g, x0, t0=0.0, t1=1.0, generator=generator)
    to_x0, to_g = torch.autograd.grad(x.sum(), (x0, g))
    assert EulerMaruyama.supports_rsample
    factor = (1 - THETA / 10) ** 10
    torch.testing.assert_close(to_x0, torch.full((3,), factor))
    torch.testing.assert_close(to_g * g, (x - factor * x0).sum())  # x is linear in g


def test_the_state_keeps_its_dtype():
    x = EulerMaruyama(3).integrate(
        pull,
        lambda t: torch.tensor(0.5, dtype=torch.float64),
        torch.ones(4, 2, dtype=torch.float32),
        t0=0.0,
        t1=1.0,
    )
    assert x.dtype == torch.float32


def test_steps_of_the_call_win_over_those_of_the_solver():
    def mean(solver, **options):
        return solver.integrate(pull, lambda t: 0.0, torch.ones(1), t0=0.0, t1=1.0, **options)

    assert torch.equal(mean(EulerMaruyama(7), steps=3), mean(EulerMaruyama(3)))
    assert not torch.equal(mean(EulerMaruyama(7)), mean(EulerMaruyama(3)))


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "10"])
def test_steps_must_be_a_positive_integer(steps):
    with pytest.raises(ValueError, match="positive integer, got"):
        EulerMaruyama(steps)
    with pytest.raises(ValueError, match="positive integer, got"):
        EulerMaruyama(3).integrate(pull, lambda t: 1.0, torch.ones(1), t0=0.0, t1=1.0, steps=steps)


def test_nothing_broadcasts_over_the_state_by_accident():
    x0 = torch.zeros(4, 4, 2)
    options = {"t0": 0.0, "t1": 1.0}
    with pytest.raises(ValueError, match=r"drift has shape \(4, 2\), expected \(4, 4, 2\)"):
        EulerMaruyama(3).integrate(lambda x, t: x[0], lambda t: 1.0, x0, **options)
    for shape in ((2,), (4,), (4, 1), (5, 1, 1), (4, 4, 3)):
        with pytest.raises(ValueError, match="the diffusion has shape"):
            EulerMaruyama(3).integrate(pull, lambda t, s=shape: torch.ones(s), x0, **options)
