"""What a diffusion model predicts: conversions between all pairs, and what errors become."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch

from each import each
from setflow.diffusion import (
    EDMSchedule,
    Parameterization,
    VESchedule,
    VPSchedule,
    convert,
    error_factor,
)
from setflow.diffusion.parameterization import check_parameterization
from setflow.sets.shapes import align_right
from user_schedules import LearnedPowerSchedule, StraightSchedule, TurningSchedule

NAMES = get_args(Parameterization)
PAIRS = list(itertools.product(NAMES, NAMES))
SCHEDULES = {
    "VP": VPSchedule,
    "VE": VESchedule,
    "EDM": EDMSchedule,
    "learned EDM": lambda: EDMSchedule(learned=True),
    "straight": StraightSchedule,
    "turning": TurningSchedule,
    "learned power": LearnedPowerSchedule,
}
LOC, SCALE = torch.tensor([0.5, -1.0], dtype=torch.float64), 0.7


def close(got, expected):
    """Equal to rounding on the scale of the whole tensor (sigma spans four orders of magnitude)."""
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10 * expected.abs().max().item())


def one_point(schedule, t, features=(4, 2)):
    """x_t and the four predictions of a model that knows data and noise of this point."""
    x_0, eps = torch.randn(*t.shape, *features), torch.randn(*t.shape, *features)
    alpha, sigma, alpha_dot, sigma_dot = (
        align_right(function(t), x_0.ndim)
        for function in (schedule.alpha, schedule.sigma, schedule.alpha_dot, schedule.sigma_dot)
    )
    truth = {
        "x0": x_0,
        "eps": eps,
        "score": -eps / sigma,
        "velocity": alpha_dot * x_0 + sigma_dot * eps,
    }
    return alpha * x_0 + sigma * eps, truth


def posterior_means(schedule, t):
    """x_t and the means of the four given x_t, for data N(LOC, SCALE^2)."""
    x = torch.randn(*t.shape, 2)
    alpha, sigma, alpha_dot, sigma_dot = (
        function(t)[:, None]
        for function in (schedule.alpha, schedule.sigma, schedule.alpha_dot, schedule.sigma_dot)
    )
    variance = alpha**2 * SCALE**2 + sigma**2
    offset = (x - alpha * LOC) / variance
    half_rate = alpha * alpha_dot * SCALE**2 + sigma * sigma_dot  # of the variance
    means = {
        "x0": LOC + alpha * SCALE**2 * offset,
        "eps": sigma * offset,
        "score": -offset,
        "velocity": alpha_dot * LOC + half_rate * offset,
    }
    return x, means


@each("name", SCHEDULES)
@each(("source", "target"), PAIRS)
def test_each_becomes_each_at_a_known_point(source, target, name):
    schedule = SCHEDULES[name]()
    t = torch.tensor([[0.05, 0.3, 0.5], [0.7, 0.9, 0.97]])
    x_t, truth = one_point(schedule, t)
    got = convert(truth[source], x_t, t, schedule, source=source, target=target)
    close(got, truth[target])


@each("name", SCHEDULES)
@each(("source", "target"), PAIRS)
def test_each_becomes_each_for_gaussian_data(source, target, name):
    """The means given x_t obey the relations too, and the velocity is the probability flow's."""
    schedule, t = SCHEDULES[name](), torch.linspace(0.02, 0.98, 25)
    x, means = posterior_means(schedule, t)
    got = convert(means[source], x, t, schedule, source=source, target=target)
    close(got, means[target])


@each("name", SCHEDULES)
@each(("source", "target"), [(a, b) for a, b in PAIRS if a != b])
def test_there_and_back(source, target, name):
    """Any prediction, also one that belongs to no data."""
    schedule, t = SCHEDULES[name](), torch.linspace(0.02, 0.98, 25)
    x, prediction = torch.randn(25, 3, 2), torch.randn(25, 3, 2)
    there = convert(prediction, x, t, schedule, source=source, target=target)
    back = convert(there, x, t, schedule, source=target, target=source)
    close(back, prediction)


def test_one_time_for_all_events():
    schedule, x, prediction = VPSchedule(), torch.randn(5, 4, 2), torch.randn(5, 4, 2)
    for source, target in PAIRS:
        single = convert(prediction, x, torch.tensor(0.3), schedule, source=source, target=target)
        each = convert(prediction, x, torch.full((5,), 0.3), schedule, source=source, target=target)
        close(single, each)


@each("name", NAMES)
def test_the_same_parameterization_is_left_alone(name):
    prediction = torch.randn(3, 2)
    t = torch.zeros(3)  # singular
    assert convert(prediction, prediction, t, VPSchedule(), source=name, target=name) is prediction


def test_the_velocity_is_made_of_the_drift_and_diffusion_of_the_schedule():
    """They count for eps and score; x0 and the derivatives of alpha and sigma do without."""

    class Own(StraightSchedule):
        def drift(self, x, t):
            return 3 * x

        def diffusion(self, t):
            return torch.full_like(t, 2.0)

    x, prediction, t = torch.randn(4, 2), torch.randn(4, 2), torch.full((4,), 0.5)

    def velocity(source):
        return convert(prediction, x, t, Own(), source=source, target="velocity")

    close(velocity("score"), 3 * x - 2 * prediction)  # g^2 / 2
    close(velocity("eps"), 3 * x + 4 * prediction)  # g^2 / (2 sigma)
    close(velocity("x0"), -prediction + (x - 0.5 * prediction) / 0.5)
    score = convert(prediction, x, t, Own(), source="velocity", target="score")
    close(score, (3 * x - prediction) / 2)


# --- the ends ---


def test_where_sigma_vanishes_and_its_slope_is_infinite():
    """VP at t = 0: the score leads everywhere, and so does the velocity."""
    schedule, t = VPSchedule(), torch.zeros(3)
    x, score = torch.randn(3, 2), torch.randn(3, 2)
    velocity = -0.05 * x - 0.05 * score  # beta(0) = 0.1
    of_score = {"eps": torch.zeros(3, 2), "x0": x, "velocity": velocity, "score": score}
    for target, expected in of_score.items():
        got = convert(score, x, t, schedule, source="score", target=target)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
        got = convert(velocity, x, t, schedule, source="velocity", target=target)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    # the noise is lost in x_t = x_0, yet x_0 is there
    close(convert(torch.randn(3, 2), x, t, schedule, source="eps", target="x0"), x)


def test_where_sigma_vanishes_and_its_slope_is_finite():
    schedule, t = StraightSchedule(), torch.zeros(3)
    x, eps = torch.randn(3, 2), torch.randn(3, 2)
    velocity = eps - x  # x_t = x_0
    close(convert(eps, x, t, schedule, source="eps", target="velocity"), velocity)
    close(convert(eps, x, t, schedule, source="eps", target="x0"), x)
    close(convert(velocity, x, t, schedule, source="velocity", target="eps"), eps)
    close(convert(velocity, x, t, schedule, source="velocity", target="x0"), x)


def test_where_alpha_vanishes():
    schedule, t = StraightSchedule(), torch.ones(3)
    x, x_0 = torch.randn(3, 2), torch.randn(3, 2)  # x_t = eps
    close(convert(x_0, x, t, schedule, source="x0", target="velocity"), x - x_0)
    close(convert(x_0, x, t, schedule, source="x0", target="eps"), x)
    close(convert(x_0, x, t, schedule, source="x0", target="score"), -x)
    close(convert(x - x_0, x, t, schedule, source="velocity", target="x0"), x_0)
    close(convert(x - x_0, x, t, schedule, source="velocity", target="eps"), x)


@each("dtype", [torch.float32, torch.float64])
@each("name", SCHEDULES)
@each(("source", "target"), PAIRS)
def test_nothing_becomes_nan_at_the_data(source, target, name, dtype):
    """Finite at t = 0, in values and gradients, also for a prediction of exactly zero."""
    schedule, t = SCHEDULES[name](), torch.zeros(4, dtype=dtype)
    x = torch.randn(4, 2, dtype=dtype)
    for start in (torch.zeros(4, 2, dtype=dtype), torch.ones(4, 2, dtype=dtype)):
        prediction = start.requires_grad_()
        result = convert(prediction, x, t, schedule, source=source, target=target)
        (gradient,) = torch.autograd.grad(result.sum(), prediction)
        assert bool(result.isfinite().all())
        assert bool(gradient.isfinite().all())


# --- errors of predictions ---


@each("name", SCHEDULES)
@each("parameterization", NAMES)
def test_error_factor_is_the_slope_of_the_prediction_in_x0(parameterization, name):
    """At given x_t, an error of x_0 changes the prediction by the factor times that error."""
    schedule, t = SCHEDULES[name](), torch.linspace(0.02, 0.98, 25)
    x, x_0, error = torch.randn(25, 3), torch.randn(25, 3), torch.randn(25, 3)

    def predicted(value):
        return convert(value, x, t, schedule, source="x0", target=parameterization)

    factor = error_factor(t, schedule, parameterization)
    assert factor.shape == t.shape
    close(predicted(x_0 + error) - predicted(x_0), factor[:, None] * error)


def test_error_factors_have_their_closed_forms():
    t = torch.tensor([[0.25, 0.5]])  # alpha = 1 - t, sigma = t
    expected = {
        "x0": [[1.0, 1.0]],
        "eps": [[-3.0, -1.0]],
        "score": [[12.0, 2.0]],
        "velocity": [[-4.0, -2.0]],  # -1 - (1 - t) / t
    }
    for name, values in expected.items():
        factor = error_factor(t, StraightSchedule(), name)
        torch.testing.assert_close(factor, torch.tensor(values))


@each("name", SCHEDULES)
@each("parameterization", NAMES)
def test_error_factors_are_finite_at_the_ends(parameterization, name):
    t = torch.tensor([0.0, 1.0], dtype=torch.float32)
    assert bool(error_factor(t, SCHEDULES[name](), parameterization).isfinite().all())


# --- bad input ---


@each("name", ["noise", "EPS", "", "v"])
def test_unknown_parameterizations_are_refused(name):
    x, t = torch.zeros(2, 3), torch.zeros(2)
    message = f"unknown parameterization '{name}', expected one of eps, score, x0, velocity"
    with pytest.raises(ValueError, match=message):
        check_parameterization(name)
    with pytest.raises(ValueError, match=message):
        convert(x, x, t, VPSchedule(), source=name, target="eps")
    with pytest.raises(ValueError, match=message):
        convert(x, x, t, VPSchedule(), source="eps", target=name)
    with pytest.raises(ValueError, match=message):
        error_factor(t, VPSchedule(), name)


@each(("source", "target"), PAIRS)
def test_shapes_that_do_not_fit_are_refused(source, target):
    def call(prediction, x, t):
        convert(prediction, x, t, VPSchedule(), source=source, target=target)

    x = torch.zeros(4, 3, 2)
    for shape in ((3,), (1,), (4, 2), (2,), (4, 3, 2, 1)):
        with pytest.raises(ValueError, match="one time per event"):
            call(x, x, torch.zeros(shape))
    for shape in ((4, 3), (4, 3, 1), (1, 3, 2), ()):
        with pytest.raises(ValueError, match="one predicted value per coordinate"):
            call(torch.zeros(shape), x, torch.zeros(4))
