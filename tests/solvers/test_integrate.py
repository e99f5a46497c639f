"""The adapter: any solver works that has the documented methods, whatever it inherits."""

from __future__ import annotations

import math

import pytest
import torch

import setflow
from setflow.sets.masks import zero_padding
from setflow.solvers.integrate import integrate, integrate_augmented, integrate_sde


class MySolver:
    """An ODE solver of a user's own: RK4 by hand, with nothing but what is documented."""

    is_sde = False

    def __init__(self, steps=32):
        self.steps = steps

    def integrate(self, f, x0, t0=0.0, t1=1.0, steps=None):
        steps = steps or self.steps
        h = (t1 - t0) / steps
        x = x0
        for step in range(steps):
            t = t0 + step * h
            k1 = f(x, t)
            k2 = f(x + h / 2 * k1, t + h / 2)
            k3 = f(x + h / 2 * k2, t + h / 2)
            k4 = f(x + h * k3, t + h)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return x


class MySDESolver:
    is_sde = True

    def __init__(self, steps):
        self.steps = steps

    def integrate(self, drift, diffusion, x0, t0, t1, steps):
        h = (t1 - t0) / steps
        x = x0
        for step in range(steps):
            t = t0 + step * h
            x = x + h * drift(x, t) + diffusion(t) * math.sqrt(abs(h)) * torch.randn(x.shape)
        return x


class Recorder:
    """Does nothing but note what it is given."""

    def __init__(self, **declared):
        self.__dict__.update(declared)
        self.given = {}

    def integrate(self, f, x0, **given):
        self.given = given
        return x0 + 1


class AugmentedRecorder(Recorder):
    def integrate_augmented(self, f_aug, x0, logp0, **given):
        self.given = given
        return x0 + 1, logp0 + 2


def decay(x, t):
    return -x * (1 + t)


X0 = torch.tensor([[0.5, -1.0], [2.0, 3.0], [0.1, 0.2]], dtype=torch.float64)
MASK = torch.tensor([[True, False], [True, True], [False, False]])


# --- ordinary equations ---


@pytest.mark.parametrize("solver", [MySolver(64), setflow.RK4(64), setflow.solvers.Dopri5(1e-8)])
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
def test_integrate_against_the_exact_solution(solver, t0, t1):
    x = integrate(solver, decay, X0, t0=t0, t1=t1, event_ndim=0)
    exact = X0 * math.exp(t0 + t0**2 / 2 - t1 - t1**2 / 2)
    torch.testing.assert_close(x, exact, atol=1e-6, rtol=0)


def test_integrate_passes_what_the_solver_declares_and_nothing_else():
    times = {"t0": 1.0, "t1": 0.0}
    for declared, given in (
        ({}, {}),
        ({"steps": 7}, {}),
        ({"requires_steps": False, "takes_mask": False, "is_sde": False}, {}),
        ({"requires_steps": True, "steps": 7}, {"steps": 7}),
        ({"takes_mask": True}, {"mask": MASK, "event_ndim": 1}),
    ):
        solver = Recorder(**declared)
        x = integrate(solver, decay, X0, mask=MASK, event_ndim=1, **times)
        assert solver.given == times | given
        assert torch.equal(x, zero_padding(X0 + 1, MASK))


def test_integrate_augmented_uses_the_solvers_own_method():
    solver = AugmentedRecorder(requires_steps=True, steps=7, takes_mask=True)
    x, logp = integrate_augmented(
        solver, decay, X0, torch.zeros(3), t0=0.0, t1=1.0, mask=MASK, event_ndim=1
    )
    assert solver.given == {"t0": 0.0, "t1": 1.0, "steps": 7, "mask": MASK, "event_ndim": 1}
    assert torch.equal(x, zero_padding(X0 + 1, MASK))
    assert torch.equal(logp, torch.full((3,), 2.0))


@pytest.mark.parametrize(
    ("lead", "event"),
    [
        ((), ()),
        ((), (3,)),
        ((4,), ()),
        ((4,), (3,)),
        ((2, 3), (4, 2)),
        ((), (5, 2)),
        ((4,), (0, 2)),
    ],
)
def test_packing_equals_an_augmented_solve(lead, event):
    x0 = torch.randn((*lead, *event), dtype=torch.float64)
    logp0 = torch.randn(lead, dtype=torch.float64)
    ndim = len(event)

    def f_aug(x, t):
        assert x.shape == x0.shape
        rate = (x**2).flatten(len(lead)).sum(-1) if ndim else x**2
        return decay(x, t), t + rate

    options = {"t0": 1.0, "t1": 0.0, "event_ndim": ndim}
    x, logp = integrate_augmented(MySolver(9), f_aug, x0, logp0, **options)
    x_own, logp_own = integrate_augmented(setflow.RK4(9), f_aug, x0, logp0, **options)
    torch.testing.assert_close(x, x_own, atol=1e-13, rtol=1e-13)
    torch.testing.assert_close(logp, logp_own, atol=1e-13, rtol=1e-13)
    assert (logp - logp0).abs().max() > 0.1


@pytest.mark.parametrize("coupling", [0.0, 2.0])
def test_packed_solve_gives_the_likelihood_of_the_oracle(coupling):
    field = setflow.GaussianSetField(
        torch.tensor([0.5, -1.0]), torch.tensor([0.8, 1.6]), coupling=coupling
    ).double()
    x = torch.randn(2, 3, 4, 2, dtype=torch.float64)
    variances = [field.scale**2 * (1 + coupling * 4), *[field.scale**2] * 3]

    def f_aug(state, t):
        rate = sum((((t - 1) * v + t) / ((1 - t) ** 2 * v + t**2)).sum() for v in variances)
        return field(state, t), rate.expand(2, 3)

    z, integral = integrate_augmented(
        MySolver(300), f_aug, x, torch.zeros_like(x[..., 0, 0]), t0=0.0, t1=1.0, event_ndim=2
    )
    log_p = setflow.StandardNormal((4, 2)).log_prob(z) + integral
    torch.testing.assert_close(log_p, field.log_prob(x), atol=1e-7, rtol=0)


def test_packing_keeps_both_dtypes():
    x0, logp0 = torch.ones(2, 3, dtype=torch.float32), torch.zeros(2, dtype=torch.float64)

    def f_aug(x, t):
        assert x.dtype == torch.float32
        return x, torch.full((2,), 1e-9, dtype=torch.float64) + 1

    x, logp = integrate_augmented(MySolver(), f_aug, x0, logp0, t0=0.0, t1=1.0, event_ndim=1)
    assert (x.dtype, logp.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(x, torch.full((2, 3), math.e, dtype=torch.float32))
    torch.testing.assert_close(logp - 1, torch.full_like(logp, 1e-9), atol=1e-14, rtol=0)


def test_a_packed_solve_leaves_zeros_in_padding():
    """Also where a user's solver moves every coordinate, padded or not."""

    class Shifting:
        def integrate(self, f, x0, *, t0, t1):
            return x0 + 1

    x, logp = integrate_augmented(
        Shifting(), decay, X0, torch.zeros(3), t0=0.0, t1=1.0, mask=MASK, event_ndim=1
    )
    assert torch.equal(x, zero_padding(X0 + 1, MASK))
    assert torch.equal(logp, torch.ones(3))


def test_gradients_flow_through_a_packed_solve():
    x0 = X0.clone().requires_grad_()
    _, logp = integrate_augmented(
        MySolver(), lambda x, t: (x, x.sum(-1)), x0, torch.zeros(3), t0=0.0, t1=1.0, event_ndim=1
    )
    (gradient,) = torch.autograd.grad(logp.sum(), x0)
    torch.testing.assert_close(gradient, torch.full_like(X0, math.e - 1), atol=1e-6, rtol=0)


# --- stochastic equations ---


@pytest.mark.parametrize("solver", [MySDESolver(400), setflow.EulerMaruyama(400)])
def test_integrate_sde_against_known_moments(solver):
    """Ornstein-Uhlenbeck from 1: mean exp(-1), variance (1 - exp(-2)) g^2 / 2."""
    torch.manual_seed(1)
    x = integrate_sde(solver, lambda x, t: -x, lambda t: 0.7, torch.ones(40_000), t0=0.0, t1=1.0)
    variance = 0.49 * (1 - math.exp(-2)) / 2
    assert x.mean().item() == pytest.approx(math.exp(-1), abs=0.01)
    assert x.var().item() == pytest.approx(variance, rel=0.03)


def test_integrate_sde_passes_the_generator_only_if_there_is_one():
    class WithGenerator(MySDESolver):
        def integrate(self, drift, diffusion, x0, t0, t1, steps, generator="none"):
            self.given = (t0, t1, steps, generator)
            return x0

    solver, generator = WithGenerator(5), torch.Generator()
    options = {"t0": 1.0, "t1": 0.0}
    integrate_sde(solver, decay, math.sin, X0, **options)
    assert solver.given == (1.0, 0.0, 5, "none")
    integrate_sde(solver, decay, math.sin, X0, generator=generator, **options)
    assert solver.given == (1.0, 0.0, 5, generator)

    class WithAnything(MySDESolver):
        def integrate(self, drift, diffusion, x0, **given):
            return x0 + given["generator"].initial_seed()

    x = integrate_sde(
        WithAnything(5), decay, math.sin, X0, generator=generator.manual_seed(3), **options
    )
    assert torch.equal(x, X0 + 3)
    with pytest.raises(ValueError, match=r"MySDESolver.integrate takes no generator"):
        integrate_sde(MySDESolver(5), decay, math.sin, X0, generator=generator, **options)


# --- refusals ---


def test_a_solver_of_the_wrong_kind_is_refused():
    times = {"t0": 0.0, "t1": 1.0}
    with pytest.raises(ValueError, match="MySDESolver solves stochastic"):
        integrate(MySDESolver(5), decay, X0, event_ndim=1, **times)
    with pytest.raises(ValueError, match="MySDESolver solves stochastic"):
        integrate_augmented(MySDESolver(5), decay, X0, torch.zeros(3), event_ndim=1, **times)
    with pytest.raises(ValueError, match="MySolver solves ordinary"):
        integrate_sde(MySolver(5), decay, math.sin, X0, **times)


def test_required_steps_must_be_there():
    with pytest.raises(ValueError, match="Recorder must be told its number of steps"):
        integrate(Recorder(requires_steps=True), decay, X0, t0=0.0, t1=1.0, event_ndim=1)
    with pytest.raises(ValueError, match="Recorder must be told its number of steps"):
        integrate_sde(Recorder(is_sde=True), decay, math.sin, X0, t0=0.0, t1=1.0)


def test_a_mask_and_a_packed_state_do_not_go_together():
    with pytest.raises(ValueError, match="declares takes_mask but has no method integrate_aug"):
        integrate_augmented(
            Recorder(takes_mask=True), decay, X0, torch.zeros(3), t0=0.0, t1=1.0, event_ndim=1
        )


def test_shapes_are_checked():
    class Flattens:
        def integrate(self, f, x0, t0, t1):
            return x0.flatten()

    times = {"t0": 0.0, "t1": 1.0}
    with pytest.raises(ValueError, match=r"Flattens returned shape \(6,\) for a state of shape"):
        integrate(Flattens(), decay, X0, event_ndim=1, **times)
    with pytest.raises(ValueError, match=r"logp0 has shape \(2,\), expected \(3,\)"):
        integrate_augmented(MySolver(), decay, X0, torch.zeros(2), event_ndim=1, **times)
    for rates in (lambda x, t: (x.T, x[:, 0]), lambda x, t: (x, x)):
        with pytest.raises(ValueError, match="f_aug returned shapes"):
            integrate_augmented(MySolver(), rates, X0, torch.zeros(3), event_ndim=1, **times)
