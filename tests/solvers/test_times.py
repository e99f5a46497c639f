"""Grids of times, and gradients with respect to the ends of a solve."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import setflow
from laws.laws import redraw
from problems import ode_problems
from setflow.process import FlowMatching

FIXED = (setflow.Euler, setflow.Midpoint, setflow.Heun, setflow.RK4)
ORDERS = {setflow.Euler: 1, setflow.Midpoint: 2, setflow.Heun: 2, setflow.RK4: 4}
GAUSSIAN = setflow.GaussianSetField(
    torch.tensor([0.5, -1.0], dtype=torch.float64), torch.tensor([0.7, 1.6], dtype=torch.float64),
    coupling=2.0,
)  # fmt: skip
MASK = torch.arange(4) < torch.tensor([[4], [2], [0]])
BASE = setflow.StandardNormal((2,), dtype=torch.float64)


def noise() -> torch.Tensor:
    x = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.where(MASK[..., None], x, math.nan)


def quadratic(steps: int) -> list[float]:
    return [(k / steps) ** 2 for k in range(steps + 1)]


# --- grids ---


@pytest.mark.parametrize("name", ode_problems())
@pytest.mark.parametrize("solver", FIXED)
def test_measured_order_on_a_grid_that_is_not_uniform(solver, name):
    problem = ode_problems()[name]
    errors = []
    for steps in (16, 32, 64):
        x = solver(times=quadratic(steps)).integrate(problem.f, problem.x0, t0=0.0, t1=1.0)
        errors.append((x - problem.x1).abs().max().item())
    assert math.log2(errors[-2] / errors[-1]) == pytest.approx(ORDERS[solver], abs=0.25), errors


@pytest.mark.parametrize("solver", FIXED)
def test_euler_and_all_others_step_where_the_grid_says(solver):
    """The steps of x' = x are the polynomial of each, one factor for each interval."""
    times = [0.0, 0.1, 0.4, 0.45, 1.0]
    expected = math.prod(
        sum((b - a) ** k / math.factorial(k) for k in range(ORDERS[solver] + 1))
        for a, b in itertools.pairwise(times)
    )
    one = torch.ones(1, dtype=torch.float64)
    for given in (times, torch.tensor(times, dtype=torch.float64), times[::-1]):
        x = solver(times=given).integrate(lambda x, t: x, one, t0=0.0, t1=1.0)
        assert x.item() == pytest.approx(expected, rel=1e-14)
    seen = []
    solver(times=times).integrate(lambda x, t: (seen.append(t), x)[1], one, t0=1.0, t1=0.0)
    assert seen[0] == 1.0
    assert min(seen) >= 0.0


@pytest.mark.parametrize("solver", FIXED)
def test_an_equal_grid_is_equal_steps(solver):
    problem = ode_problems()["nonlinear"]
    grid = solver(times=torch.linspace(0, 1, 9, dtype=torch.float64))
    assert grid.steps == 8
    torch.testing.assert_close(
        grid.integrate(problem.f, problem.x0, t0=0.0, t1=1.0),
        solver(8).integrate(problem.f, problem.x0, t0=0.0, t1=1.0), rtol=1e-13, atol=1e-13,
    )  # fmt: skip


def test_samples_and_their_density_on_a_grid():
    times = [1 - t for t in quadratic(40)]
    solver, x_source = setflow.RK4(times=times), noise()
    x, log_p = setflow.masked_sample(
        GAUSSIAN, BASE, solver, MASK, x_source=x_source, return_log_prob=True
    )
    torch.testing.assert_close(x, GAUSSIAN.sample_map(x_source, MASK), atol=1e-6, rtol=0)
    torch.testing.assert_close(log_p, GAUSSIAN.log_prob(x, MASK), atol=1e-5, rtol=0)
    scored = setflow.masked_log_prob(GAUSSIAN, BASE, solver, x, MASK)  # the other way
    torch.testing.assert_close(scored, GAUSSIAN.log_prob(x, MASK), atol=1e-5, rtol=0)


def test_a_grid_says_itself():
    solver = setflow.Heun(times=[1, 0.25, 0])
    assert repr(solver) == "Heun(times=(1.0, 0.25, 0.0))"
    again = eval(repr(solver), {"Heun": setflow.Heun})
    assert (again.times, again.steps) == (solver.times, 2)
    assert repr(setflow.EulerMaruyama(times=[1, 0.5, 0])) == "EulerMaruyama(times=(1.0, 0.5, 0.0))"
    assert repr(setflow.Midpoint()) == "Midpoint(steps=32)"


@pytest.mark.parametrize("solver", [*FIXED, setflow.EulerMaruyama])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"times": [0.5]}, "at least two finite numbers"),
        ({"times": [0.0, math.nan]}, "at least two finite numbers"),
        ({"times": [0.0, 0.5, 0.5, 1.0]}, "must rise or fall from one to the next"),
        ({"times": [0.0, 0.7, 0.5, 1.0]}, "must rise or fall from one to the next"),
        ({"times": torch.zeros(2, 2)}, r"times has shape \(2, 2\), expected one dimension"),
        ({"steps": 3, "times": [0.0, 1.0]}, "steps=3 contradicts times, which has 1 steps"),
    ],
)
def test_what_is_no_grid_is_refused(solver, given, message):
    with pytest.raises(ValueError, match=message):
        solver(**given)


def test_a_grid_must_lead_where_the_solve_leads():
    solver = setflow.Midpoint(times=[1.0, 0.5, 0.0])
    with pytest.raises(ValueError, match=r"times leads from 1 to 0, but the solve from 0.5 to 0;"):
        setflow.masked_sample(GAUSSIAN, BASE, solver, MASK, x_source=noise(), t0=0.5)
    with pytest.raises(ValueError, match="steps=7 was asked for, but times has 2 steps"):
        solver.integrate(lambda x, t: x, torch.ones(1), t0=1.0, t1=0.0, steps=7)
    narrow = torch.tensor([0.3, 0.2, 0.1])  # in float32
    one = torch.ones(1, dtype=torch.float64)
    x = setflow.RK4(times=narrow).integrate(lambda x, t: 2 * t * one, one, t0=0.3, t1=0.1)
    assert x.item() == pytest.approx(1 + 0.1**2 - 0.3**2, rel=1e-14)


@pytest.mark.parametrize("parameterization", ["eps", "x0"])
def test_a_grid_of_a_diffusion_is_one_of_its_own_times(parameterization):
    """Its flow is solved in another time, in which the same points of time must be met."""
    seen = []

    class Model(torch.nn.Module):
        event_ndim = 1

        def forward(self, x, t, c=None):
            seen.append(t[0].item())
            return 0.5 * x

    schedule = setflow.VPSchedule()
    solver = setflow.Euler(times=[1.0, 0.64, 0.04, 0.0])
    process = setflow.Diffusion(
        Model(), schedule, solver, parameterization=parameterization, event_shape=(2,)
    )()
    process.sample((1,))
    assert seen == pytest.approx([1.0, 0.64, 0.04], abs=1e-6)


def test_moments_of_a_stochastic_equation_on_a_grid():
    solver = setflow.EulerMaruyama(times=quadratic(60))
    x = solver.integrate(
        lambda x, t: -x, lambda t: 0.7, torch.ones(40_000), t0=0.0, t1=1.0,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert x.mean().item() == pytest.approx(math.exp(-1), abs=0.02)
    assert x.var().item() == pytest.approx(0.7**2 * (1 - math.exp(-2)) / 2, abs=0.02)


# --- gradients with respect to the ends ---

SOLVERS = [
    setflow.RK4(200),
    setflow.RK4(times=quadratic(200)),
    setflow.Dopri5(rtol=1e-10, atol=1e-12),
]


def ends(t0: float, t1: float) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in (t0, t1))


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("back", [False, True])
def test_the_ends_of_a_solve_against_the_closed_form(solver, back):
    """x' = t x: x1 = x0 exp((t1^2 - t0^2) / 2), and log p' = 3 t along with it."""
    t0, t1 = ends(1.0, 0.0) if back else ends(0.0, 1.0)
    x0 = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)

    def rates(x, t):
        t = torch.as_tensor(t, dtype=x.dtype).expand(2)
        return t[:, None] * x, 3 * t

    options = {"event_ndim": 1} if isinstance(solver, setflow.Dopri5) else {}
    x1, logp1 = solver.integrate_augmented(rates, x0, zero, t0=t0, t1=t1, **options)
    growth = x0 * torch.exp((t1**2 - t0**2) / 2)
    for got, expected in ((x1, growth), (logp1, 1.5 * (t1**2 - t0**2) + zero)):
        torch.testing.assert_close(got, expected, atol=1e-8, rtol=0)
        pair = [
            torch.autograd.grad(value.sum(), (t0, t1), retain_graph=True, create_graph=True)
            for value in (got, expected)
        ]
        torch.testing.assert_close(*pair, atol=1e-6, rtol=0)
        second = [torch.autograd.grad(g[1], t1, retain_graph=True)[0] for g in pair]
        torch.testing.assert_close(*second, atol=1e-5, rtol=0)


# every solver is judged alone above, and in the verbs with --all
@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(solver, marks=() if isinstance(solver, setflow.Dopri5) else pytest.mark.wide)
        for solver in SOLVERS
    ],
    ids=repr,
)
def test_the_ends_of_a_sample_and_of_its_density(solver):
    x_source = noise()
    if isinstance(solver, setflow.RK4) and solver.times:
        solver = solver.mapped(lambda t: 0.1 + 0.8 * t)
    t0, t1 = ends(0.9, 0.1)

    def verbs(t0, t1):
        x = setflow.masked_sample(GAUSSIAN, BASE, solver, MASK, x_source=x_source, t0=t0, t1=t1)
        both = setflow.masked_sample(
            GAUSSIAN, BASE, solver, MASK, x_source=x_source, t0=t0, t1=t1, return_log_prob=True
        )
        scored = setflow.masked_log_prob(GAUSSIAN, BASE, solver, x_source, MASK, t0=t0, t1=t1)
        process = FlowMatching(GAUSSIAN, BASE, solver, t0=t0, t1=t1)(mask=MASK)
        density = process.log_prob(torch.where(MASK[..., None], x_source, 0))
        return x, *both, scored, process.sample(x_source=x_source), density

    values = verbs(t0, t1)
    # at the end the derivative is the velocity there
    x, velocity = values[0], GAUSSIAN(values[0], t1.detach(), mask=MASK)
    for sampled in (values[0], values[1], values[4]):
        found = torch.stack(
            [
                torch.autograd.grad(value, t1, retain_graph=True)[0]
                for value in sampled[MASK].flatten()
            ]
        )
        torch.testing.assert_close(found, velocity[MASK].flatten(), atol=1e-6, rtol=1e-6)
    assert x.shape == velocity.shape
    free = setflow.Dopri5(rtol=1e-11, atol=1e-13)
    solver, h = free, 1e-4
    for end in range(2):
        moved = []
        for sign in (1, -1):
            at = [0.9, 0.1]
            at[end] += sign * h
            with torch.no_grad():
                moved.append([value.sum() for value in verbs(*at)])
        for value, up, down in zip(values, *moved, strict=True):
            (found,) = torch.autograd.grad(value.sum(), (t0, t1)[end], retain_graph=True)
            torch.testing.assert_close(found, (up - down) / (2 * h), atol=2e-5, rtol=1e-5)


def test_the_ends_in_half_and_single_precision_too():
    for dtype in (torch.float32, torch.float16):
        t1 = torch.tensor(1.0, dtype=dtype, requires_grad=True)
        x = setflow.Dopri5().integrate(
            lambda x, t: x, torch.ones(1, 1, dtype=dtype), t0=0.0, t1=t1, event_ndim=1
        )
        x.sum().backward()
        assert t1.grad.item() == pytest.approx(math.e, rel=2e-3)


def test_the_ends_of_an_empty_solve_and_of_a_stochastic_one():
    t = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, 1, dtype=torch.float64)
    x = setflow.Dopri5().integrate(lambda x, t: 3 * x, one, t0=0.5, t1=t, event_ndim=1)
    x.sum().backward()
    assert t.grad.item() == pytest.approx(3.0)

    # x = sqrt(t1) z: dx/dt1 = x / (2 t1)
    t1 = torch.tensor(0.64, dtype=torch.float64, requires_grad=True)
    x = setflow.EulerMaruyama(10).integrate(
        lambda x, t: torch.zeros_like(x), lambda t: 1.0, 0 * one, t0=0.0, t1=t1
    )
    x.sum().backward()
    assert t1.grad.item() == pytest.approx(x.item() / 1.28)


@pytest.mark.parametrize("solver", [setflow.RK4(20), setflow.Dopri5()], ids=repr)
def test_the_ends_of_a_diffusion(solver):
    model = redraw(setflow.VelocityField(dim=2, hidden=8)).double()
    x_source = torch.ones(1, 2, dtype=torch.float64)

    def sampled(t0, t1):
        return setflow.Diffusion(
            model, setflow.VPSchedule(), solver, parameterization="x0", event_shape=(2,),
            t0=t0, t1=t1,
        )().sample((1,), x_source=x_source)  # fmt: skip

    t0, t1 = ends(0.8, 0.2)
    found = torch.autograd.grad(sampled(t0, t1).sum(), (t0, t1))
    h = 1e-4
    with torch.no_grad():
        expected = [
            (sampled(0.8 + h, 0.2) - sampled(0.8 - h, 0.2)).sum() / (2 * h),
            (sampled(0.8, 0.2 + h) - sampled(0.8, 0.2 - h)).sum() / (2 * h),
        ]
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("solver", [setflow.RK4, setflow.EulerMaruyama])
@pytest.mark.parametrize("times", ["abc", 3, [1.0, "x"], [1.0, None], {"a": 1}])
def test_times_that_are_no_numbers(solver, times):
    with pytest.raises(ValueError, match=r"times is .*, expected numbers such as .* is steps="):
        solver(times=times)
