"""Fixed-step solvers: measured order, direction, and the augmented state."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import setflow
from problems import ode_problems

SOLVERS = (setflow.Euler, setflow.Midpoint, setflow.Heun, setflow.RK4)
ORDERS = {setflow.Euler: 1, setflow.Midpoint: 2, setflow.Heun: 2, setflow.RK4: 4}


@pytest.mark.parametrize("name", ode_problems())
@pytest.mark.parametrize("solver", SOLVERS)
def test_measured_order(solver, name):
    problem = ode_problems()[name]
    steps = (8, 16, 32, 64)
    errors = [
        (solver(n).integrate(problem.f, problem.x0, t0=0.0, t1=1.0) - problem.x1).abs().max().item()
        for n in steps
    ]
    order = math.log2(errors[-2] / errors[-1])
    assert order == pytest.approx(ORDERS[solver], abs=0.15), errors


@pytest.mark.parametrize("solver", SOLVERS)
def test_backwards_in_time(solver):
    problem = ode_problems()["nonlinear"]
    x = solver(4000 if solver is setflow.Euler else 200).integrate(
        problem.f, problem.x1, t0=1.0, t1=0.0
    )
    torch.testing.assert_close(x, problem.x0, atol=2e-3, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_steps_of_the_call_win_over_those_of_the_solver(solver):
    f = ode_problems()["growth"].f
    x0 = torch.ones(1)
    by_call = solver(7).integrate(f, x0, t0=0.0, t1=1.0, steps=3)
    assert torch.equal(by_call, solver(3).integrate(f, x0, t0=0.0, t1=1.0))
    assert not torch.equal(by_call, solver(7).integrate(f, x0, t0=0.0, t1=1.0))


@pytest.mark.parametrize("solver", SOLVERS)
def test_evaluations_and_their_times(solver):
    times = []

    def f(x, t):
        times.append(t)
        return torch.zeros_like(x)

    solver(5).integrate(f, torch.zeros(1), t0=1.0, t1=0.0)
    assert len(times) == 5 * len(solver.nodes)
    assert min(times) >= 0.0
    assert max(times) == 1.0


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("coupling", [0.0, 2.0])
def test_augmented_solve_gives_the_likelihood_of_the_oracle(solver, coupling):
    """log p(x) = log p(z at t = 1) + the integral of the divergence from 0 to 1."""
    field = setflow.GaussianSetField(
        torch.tensor([0.5, -1.0]), torch.tensor([0.8, 1.6]), coupling=coupling
    )
    x = torch.randn(6, 4, 2)
    variances = [field.scale**2 * (1 + coupling * 4), *[field.scale**2] * 3]

    def divergence(t):
        alpha, sigma = 1 - t, t
        return sum(((-alpha * v + sigma) / (alpha**2 * v + sigma**2)).sum() for v in variances)

    def f_aug(state, t):
        return field(state, t), divergence(t).expand(6)

    steps = 4000 if solver is setflow.Euler else 500
    z, integral = solver(steps).integrate_augmented(f_aug, x, torch.zeros(6), t0=0.0, t1=1.0)
    log_p = setflow.StandardNormal((4, 2)).log_prob(z) + integral
    tolerance = {1: 2e-2, 2: 2e-4, 4: 1e-9}[ORDERS[solver]]
    torch.testing.assert_close(log_p, field.log_prob(x), atol=tolerance, rtol=0)
    wrong_sign = setflow.StandardNormal((4, 2)).log_prob(z) - integral
    assert (wrong_sign - field.log_prob(x)).abs().min() > 0.1


def test_augmented_state_keeps_its_wider_dtype():
    x0, logp0 = torch.ones(3, dtype=torch.float32), torch.zeros(3, dtype=torch.float64)
    x, logp = setflow.Heun(3).integrate_augmented(
        lambda x, t: (x, x.double()), x0, logp0, t0=0.0, t1=1.0
    )
    assert (x.dtype, logp.dtype) == (torch.float32, torch.float64)


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "10"])
def test_steps_must_be_a_positive_integer(steps):
    with pytest.raises(ValueError, match="positive integer, got"):
        setflow.Midpoint(steps)
    with pytest.raises(ValueError, match="positive integer, got"):
        setflow.Midpoint(3).integrate(lambda x, t: x, torch.ones(1), t0=0.0, t1=1.0, steps=steps)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_slope_of_another_shape_is_refused(solver):
    x = torch.ones(4, 3)
    for f in (lambda x, t: x[..., :1], lambda x, t: x[None]):
        with pytest.raises(ValueError, match=r"for a state of shape \(4, 3\)"):
            solver(2).integrate(f, x, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"returned shape \(4, 1\) for a state of shape \(4,\)"):
        solver(2).integrate_augmented(lambda x, t: (x, x[..., :1]), x, torch.zeros(4), 0.0, 1.0)


def test_times_may_be_positional_and_steps_of_numpy():
    f, x = ode_problems()["growth"].f, torch.ones(1)
    by_name = setflow.RK4(5).integrate(f, x, t0=0.0, t1=1.0)
    assert torch.equal(setflow.RK4(np.int64(5)).integrate(f, x, 0.0, 1.0), by_name)
