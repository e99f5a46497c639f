"""Noise schedules: closed forms, derivatives, and the process whose marginals they are."""

from __future__ import annotations

import math

import pytest
import torch

import setflow
from each import each
from setflow.diffusion import (
    EDMPreconditioning,
    EDMSchedule,
    NoiseSchedule,
    VESchedule,
    VPSchedule,
)
from setflow.diffusion.schedule import drift_at, smallest_time
from setflow.sets.shapes import align_time
from user_schedules import LearnedPowerSchedule, StraightSchedule, TurningSchedule

# schedules are made inside of tests, where float64 is the dtype of their parameters
LIBRARY = {
    "VP": VPSchedule,
    "VE": VESchedule,
    "EDM": EDMSchedule,
    "EDM with rho 3": lambda: EDMSchedule(0.1, 5.0, rho=3.0),
    "learned VP": lambda: VPSchedule(learned=True),
    "learned VE": lambda: VESchedule(learned=True),
    "learned EDM": lambda: EDMSchedule(learned=True),
}
USERS = {
    "straight": StraightSchedule,
    "turning": TurningSchedule,
    "learned power": LearnedPowerSchedule,
}
# with noise at t = 0 that would be missed at t = 1
SIMULATED = {
    "VP": lambda: VPSchedule(0.5, 4.0),
    "VE": lambda: VESchedule(0.5, 1.5),
    "EDM": lambda: EDMSchedule(0.5, 1.5),
    "turning": TurningSchedule,
}
LEARNED = {
    "VP": (VPSchedule, 0.1, 20.0),
    "VE": (VESchedule, 0.01, 50.0),
    "EDM": (EDMSchedule, 0.002, 80.0),
}


def inner_times():
    return torch.linspace(0.02, 0.98, 49)


def slope(function, t):
    return torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]


# --- closed forms, written with numbers ---


def vp_numbers(t, low=0.1, high=20.0):
    integral = low * t + (high - low) * t**2 / 2
    beta = low + (high - low) * t
    alpha, sigma = math.exp(-integral / 2), math.sqrt(1 - math.exp(-integral))
    return {
        "alpha": alpha,
        "sigma": sigma,
        "alpha_dot": -beta / 2 * alpha,
        "sigma_dot": beta * alpha**2 / (2 * sigma),
        "snr": alpha**2 / sigma**2,
        "diffusion": math.sqrt(beta),
        "drift": -beta / 2,
    }


def exploding(sigma, sigma_dot):
    return {
        "alpha": 1.0,
        "sigma": sigma,
        "alpha_dot": 0.0,
        "sigma_dot": sigma_dot,
        "snr": sigma**-2,
        "diffusion": math.sqrt(2 * sigma * sigma_dot),
        "drift": 0.0,
    }


def ve_numbers(t, low=0.01, high=50.0):
    sigma = low ** (1 - t) * high**t
    return exploding(sigma, (math.log(high) - math.log(low)) * sigma)


def edm_numbers(t, low=0.002, high=80.0, rho=7.0):
    step = high ** (1 / rho) - low ** (1 / rho)
    root = low ** (1 / rho) + t * step
    return exploding(root**rho, rho * root ** (rho - 1) * step)


CLOSED_FORMS = [
    (VPSchedule, (), vp_numbers),
    (VPSchedule, (1.0, 3.0), vp_numbers),
    (VESchedule, (), ve_numbers),
    (VESchedule, (0.5, 2.0), ve_numbers),
    (EDMSchedule, (), edm_numbers),
    (EDMSchedule, (0.1, 5.0, 2.0), edm_numbers),
]


@each("learned", [False, True])
@each("function", ["alpha", "sigma", "alpha_dot", "sigma_dot", "snr", "diffusion"])
@each(("kind", "arguments", "numbers"), CLOSED_FORMS)
def test_functions_of_time_have_their_closed_forms(kind, arguments, numbers, function, learned):
    t = torch.linspace(0.1, 1, 10).reshape(2, 5)
    expected = torch.tensor([numbers(time, *arguments)[function] for time in t.flatten().tolist()])
    got = getattr(kind(*arguments, learned=learned), function)(t)
    torch.testing.assert_close(got, expected.reshape(2, 5), rtol=1e-11, atol=1e-14)


@each("learned", [False, True])
@each(("kind", "arguments", "numbers"), CLOSED_FORMS)
def test_drift_has_its_closed_form(kind, arguments, numbers, learned):
    schedule = kind(*arguments, learned=learned)
    x, t = torch.randn(3, 5, 2), torch.tensor([0.1, 0.3, 1.0])
    rates = torch.tensor([numbers(time, *arguments)["drift"] for time in t.tolist()])
    expected = rates[:, None, None] * x
    torch.testing.assert_close(schedule.drift(x, t), expected, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(drift_at(schedule, x, t), expected, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(schedule.drift(x[1], t[1]), expected[1], rtol=1e-11, atol=1e-14)


def test_rate_of_the_variance_preserving_schedule():
    t = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(VPSchedule(0.1, 20.0).beta(t), torch.tensor([0.1, 10.05, 20.0]))


def test_ends_are_the_arguments():
    t = torch.tensor([0.0, 1.0])
    torch.testing.assert_close(VESchedule(0.3, 7.0).sigma(t), torch.tensor([0.3, 7.0]))
    torch.testing.assert_close(EDMSchedule(0.3, 7.0).sigma(t), torch.tensor([0.3, 7.0]))
    assert VPSchedule().alpha(t)[0] == 1
    assert VPSchedule().sigma(t)[0] == 0


def test_defaults_and_attributes():
    vp, ve, edm = VPSchedule(), VESchedule(), EDMSchedule()
    assert (vp.beta_min, vp.beta_max, vp.learned) == (0.1, 20.0, False)
    assert (ve.sigma_min, ve.sigma_max, ve.learned) == (0.01, 50.0, False)
    assert (edm.sigma_min, edm.sigma_max, edm.rho, edm.learned) == (0.002, 80.0, 7.0, False)
    assert repr(edm) == "EDMSchedule(sigma_min=0.002, sigma_max=80, learned=False, rho=7)"


@pytest.mark.parametrize("name", LIBRARY)
def test_derivatives_are_those_of_automatic_differentiation(name):
    schedule, t = LIBRARY[name](), inner_times()
    torch.testing.assert_close(
        schedule.alpha_dot(t), slope(schedule.alpha, t), rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(
        schedule.sigma_dot(t), slope(schedule.sigma, t), rtol=1e-9, atol=1e-12
    )


def test_small_times_lose_no_digits():
    """In float32 1 - exp(-B) has no digit left where B < 1e-8, and 1 - alpha^2 neither."""
    t = torch.logspace(-12, 0, 40)
    for function in ("sigma", "sigma_dot", "snr", "alpha", "diffusion"):
        exact = getattr(VPSchedule(), function)(t.double())
        got = getattr(VPSchedule(), function)(t.float())
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), exact, rtol=3e-6, atol=0)
        small = t[0].item()
    assert VPSchedule().sigma(t)[0].item() == pytest.approx(math.sqrt(0.1 * small), rel=1e-9)


def test_what_is_infinite_and_what_is_not_at_the_ends():
    t = torch.tensor([0.0, 1.0])
    for make in LIBRARY.values():
        schedule = make()
        for function in ("alpha", "sigma", "alpha_dot", "diffusion"):
            assert bool(getattr(schedule, function)(t).isfinite().all())
        for function in ("sigma_dot", "snr"):
            infinite = getattr(schedule, function)(t).isinf().tolist()
            assert infinite == [isinstance(schedule, VPSchedule), False]


def test_singular_times():
    t = torch.tensor([0.0, 1e-3, 1.0])
    for schedule in (VPSchedule(), StraightSchedule()):
        assert schedule.is_singular(t).tolist() == [True, False, False]
        torch.testing.assert_close(
            schedule.regular_time(t), torch.tensor([2.0**-52, 1e-3, 1.0]), rtol=1e-15, atol=0
        )
        single = schedule.regular_time(torch.zeros(1, dtype=torch.float32))
        assert single.dtype == torch.float32
        assert single.item() == 2.0**-23 == smallest_time(torch.float32)
    for schedule in (VESchedule(), EDMSchedule()):
        assert not bool(schedule.is_singular(t).any())
        assert torch.equal(schedule.regular_time(t), t)


# --- the process ---


@each("name", LIBRARY | USERS)
def test_drift_and_diffusion_belong_to_alpha_and_sigma(name):
    """f = alpha'/alpha x and g^2 = d sigma^2/dt - 2 alpha'/alpha sigma^2, derivatives by AD."""
    schedule, t = (LIBRARY | USERS)[name](), inner_times()
    x = torch.randn(49, 4, 3)
    rate = slope(lambda time: schedule.alpha(time).log(), t)
    torch.testing.assert_close(
        drift_at(schedule, x, t), rate[:, None, None] * x, rtol=1e-9, atol=1e-12
    )
    square = slope(lambda time: schedule.sigma(time) ** 2, t) - 2 * rate * schedule.sigma(t) ** 2
    torch.testing.assert_close(schedule.diffusion(t) ** 2, square, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SIMULATED)
def test_moments_of_the_process_are_alpha_and_sigma_squared(name):
    """mean' = f mean and variance' = 2 f variance + g^2, from 1 and sigma(0)^2 at t = 0."""
    schedule = SIMULATED[name]()
    one = torch.ones(1)

    def rates(moments, t):
        time = torch.tensor(t)
        f = schedule.drift(one, time)
        change = [f * moments[0], 2 * f * moments[1] + schedule.diffusion(time) ** 2]
        return torch.stack(change)

    moments = torch.stack([one, schedule.sigma(torch.zeros(1)) ** 2])
    times = torch.linspace(0, 1, 5)
    for begin, end in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        moments = setflow.RK4(50).integrate(rates, moments, t0=begin, t1=end)
        now = torch.tensor([end])
        expected = torch.stack([schedule.alpha(now), schedule.sigma(now) ** 2])
        torch.testing.assert_close(moments, expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", SIMULATED)
def test_marginals_of_the_simulated_process(name):
    """From x_0 and noise of variance sigma(0)^2 to mean alpha x_0 and variance sigma^2."""
    schedule, generator = SIMULATED[name](), torch.Generator().manual_seed(17)
    paths, steps, x_0 = 20_000, 500, 1.5
    sigma_0 = schedule.sigma(torch.zeros(()))
    x = x_0 + sigma_0 * torch.randn(paths, generator=generator)
    for step in range(steps):
        t = torch.tensor(step / steps)
        noise = torch.randn(paths, generator=generator)
        x = x + schedule.drift(x, t) / steps + schedule.diffusion(t) * noise / steps**0.5
    end = torch.ones(())
    alpha, sigma = schedule.alpha(end).item(), schedule.sigma(end).item()
    # five standard errors, and the bias of first order that 500 steps leave
    assert x.mean().item() == pytest.approx(alpha * x_0, abs=5 * sigma / paths**0.5 + 4e-3)
    assert x.var().item() == pytest.approx(sigma**2, rel=5 * (2 / paths) ** 0.5 + 1e-2)


# --- schedules of one's own ---


def test_a_schedule_of_four_functions_has_the_others():
    schedule, t = TurningSchedule(1.4, 0.4), inner_times()
    assert torch.equal(schedule.alpha_dot(torch.zeros(())), torch.zeros(()))
    torch.testing.assert_close(schedule.alpha_dot(t), -1.4 * torch.sin(1.4 * t))
    torch.testing.assert_close(schedule.sigma_dot(t), 1.4 * torch.cos(1.4 * t))
    ratio = torch.cos(1.4 * t) / (torch.sin(1.4 * t) + 0.4)
    torch.testing.assert_close(schedule.snr(t), ratio**2)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 1), (0,)])
def test_derivatives_by_automatic_differentiation_for_any_shape(shape):
    schedule, t = TurningSchedule(), torch.rand(shape)
    torch.testing.assert_close(schedule.sigma_dot(t), 1.4 * torch.cos(1.4 * t))
    torch.testing.assert_close(schedule.alpha_dot(t), -1.4 * torch.sin(1.4 * t))


def test_derivatives_by_automatic_differentiation_in_every_mode():
    schedule, t = TurningSchedule(), torch.rand(4)
    expected = 1.4 * torch.cos(1.4 * t)
    with torch.no_grad():
        torch.testing.assert_close(schedule.sigma_dot(t), expected)
    with torch.inference_mode():
        torch.testing.assert_close(schedule.sigma_dot(t), expected)
    torch.testing.assert_close(torch.vmap(schedule.sigma_dot)(t), expected)
    torch.testing.assert_close(slope(schedule.sigma_dot, t), -(1.4**2) * torch.sin(1.4 * t))
    _, product = torch.func.jvp(lambda x: x * schedule.sigma_dot(t), (t,), (torch.ones(4),))
    torch.testing.assert_close(product, expected)


def test_derivatives_by_automatic_differentiation_reach_parameters():
    schedule, t = LearnedPowerSchedule(), torch.tensor([0.2, 0.7])
    schedule.sigma_dot(t).sum().backward()
    power = schedule.power.detach()
    expected = ((1 + power * t) * torch.exp(power * t)).sum()  # of power exp(power t)
    torch.testing.assert_close(schedule.power.grad, expected)


def test_all_four_functions_must_be_given():
    class Incomplete(NoiseSchedule):
        def alpha(self, t):
            return torch.ones_like(t)

    with pytest.raises(TypeError, match="diffusion"):
        Incomplete()


def test_a_coefficient_of_another_shape_is_an_error():
    class Wrong(StraightSchedule):
        def alpha(self, t):
            return torch.ones(())

    with pytest.raises(ValueError, match=r"Wrong.alpha returned shape \(\) for t of shape \(3,\)"):
        Wrong().alpha_dot(torch.rand(3))


def test_a_drift_of_another_shape_is_an_error():
    class Wrong(StraightSchedule):
        def drift(self, x, t):
            return -x[..., :1]

    with pytest.raises(ValueError, match=r"Wrong.drift returned shape \(4, 1\) for x of shape"):
        drift_at(Wrong(), torch.randn(4, 2), torch.rand(4))


def test_times_are_aligned_with_events():
    x, t = torch.randn(4, 3, 2), torch.rand(4)
    torch.testing.assert_close(align_time(t, x), t[:, None, None])
    torch.testing.assert_close(align_time(t[0], x), t[0].reshape(1, 1, 1))
    for shape in ((3,), (4, 2), (1,), (4, 3, 2, 1)):
        with pytest.raises(ValueError, match="one time per event"):
            align_time(torch.rand(shape), x)
    with pytest.raises(ValueError, match="one time per event"):
        drift_at(VPSchedule(), x, torch.rand(3))


# --- learned ends ---


@pytest.mark.parametrize("name", LEARNED)
def test_learned_ends_start_where_they_are_told(name):
    kind, low, high = LEARNED[name]
    schedule = kind(learned=True)
    ends = schedule.ends()
    torch.testing.assert_close(torch.stack(ends), torch.tensor([low, high]))
    stem = "beta" if name == "VP" else "sigma"
    assert getattr(schedule, f"{stem}_min").item() == pytest.approx(low)
    assert getattr(schedule, f"{stem}_max").item() == pytest.approx(high)
    assert repr(schedule) == repr(kind()).replace("learned=False", "learned=True")
    assert list(kind().parameters()) == []


@pytest.mark.parametrize("name", LEARNED)
def test_gradients_reach_learned_ends(name):
    """Each of alpha, sigma and g by finite differences of the ends."""
    kind, low, high = LEARNED[name]
    schedule, t, step = kind(learned=True), torch.tensor([0.3, 0.8]), 1e-6

    def total(schedule):
        return (schedule.alpha(t) + schedule.sigma(t) + schedule.diffusion(t)).sum()

    total(schedule).backward()
    # low = exp(log_min), high = low + exp(log_gap)
    gap = high - low
    by_gap = total(kind(low, low + gap * math.exp(step))) - total(
        kind(low, low + gap * math.exp(-step))
    )
    up, down = low * math.exp(step), low * math.exp(-step)
    by_min = total(kind(up, up + gap)) - total(kind(down, down + gap))
    got = torch.stack([schedule.log_min.grad, schedule.log_gap.grad])
    torch.testing.assert_close(
        got, torch.stack([by_min, by_gap]) / (2 * step), rtol=1e-5, atol=1e-8
    )
    assert bool((got.abs() > 1e-5).all())


@pytest.mark.parametrize("name", LEARNED)
def test_learned_ends_keep_their_order(name):
    schedule, generator = LEARNED[name][0](learned=True), torch.Generator().manual_seed(2)
    for _ in range(50):
        with torch.no_grad():
            for parameter in schedule.parameters():
                parameter.copy_(5 * torch.randn((), generator=generator))
        low, high = schedule.ends()
        assert 0 < low.item() < high.item()


def test_an_optimiser_finds_an_end():
    """sigma(1) is pulled to 3, through any value in between."""
    schedule = EDMSchedule(0.1, 10.0, learned=True)
    optimiser = torch.optim.Adam(schedule.parameters(), lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        loss = (schedule.sigma(torch.ones(())).log() - math.log(3)) ** 2
        loss.backward()
        optimiser.step()
    assert schedule.sigma_max.item() == pytest.approx(3, rel=1e-3)


@pytest.mark.parametrize("name", LEARNED)
def test_learned_ends_are_saved(name):
    kind = LEARNED[name][0]
    trained, fresh = kind(0.7, 1.1, learned=True), kind(learned=True)
    fresh.load_state_dict(trained.state_dict())
    t = inner_times()
    torch.testing.assert_close(fresh.sigma(t), kind(0.7, 1.1).sigma(t))
    torch.testing.assert_close(fresh.alpha(t), kind(0.7, 1.1).alpha(t))


@pytest.mark.parametrize("name", LIBRARY)
def test_results_have_the_dtype_of_the_time(name):
    schedule = LIBRARY[name]()
    for dtype in (torch.float32, torch.float64):
        for t in (torch.rand(3, dtype=dtype), torch.tensor(0.5, dtype=dtype)):
            for function in ("alpha", "sigma", "alpha_dot", "sigma_dot", "snr", "diffusion"):
                assert getattr(schedule, function)(t).dtype == dtype
            assert schedule.drift(torch.zeros(3, 2, dtype=dtype), t).dtype == dtype


# --- bad input ---


@each("kind", [VPSchedule, VESchedule, EDMSchedule])
@each(
    ("low", "high"),
    [(0.0, 1.0), (-1.0, 1.0), (1.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan, 1.0)],
)
@each("learned", [False, True])
def test_ends_must_be_positive_and_in_order(kind, low, high, learned):
    with pytest.raises(ValueError, match=rf"_min={low} and .*_max={high}, expected"):
        kind(low, high, learned=learned)


@pytest.mark.parametrize("rho", [0.0, -7.0, math.inf, math.nan])
def test_rho_must_be_positive(rho):
    with pytest.raises(ValueError, match=r"got rho=.*expected a finite number above 0"):
        EDMSchedule(rho=rho)


# --- preconditioning ---


def test_preconditioning_has_its_closed_forms():
    scaling = EDMPreconditioning(sigma_data=0.5)
    sigma = torch.tensor([0.5, 1.2])  # sigma^2 + sigma_data^2 = 0.5 and 1.69
    torch.testing.assert_close(scaling.c_skip(sigma), torch.tensor([0.5, 0.25 / 1.69]))
    torch.testing.assert_close(scaling.c_out(sigma), torch.tensor([0.125**0.5, 0.6 / 1.3]))
    torch.testing.assert_close(scaling.c_in(sigma), torch.tensor([2**0.5, 1 / 1.3]))
    torch.testing.assert_close(
        scaling.c_noise(sigma), torch.tensor([math.log(0.5) / 4, math.log(1.2) / 4])
    )
    torch.testing.assert_close(scaling.weight(sigma), torch.tensor([8.0, 1.69 / 0.36]))
    assert EDMPreconditioning().sigma_data == 0.5
    assert repr(scaling) == "EDMPreconditioning(sigma_data=0.5)"


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_input_and_target_of_the_network_have_unit_variance(sigma_data):
    """Variances of c_in (x_0 + sigma eps) and (x_0 - c_skip (x_0 + sigma eps)) / c_out."""
    scaling, sigma = EDMPreconditioning(sigma_data), torch.logspace(-3, 2, 20)
    of_input = scaling.c_in(sigma) ** 2 * (sigma_data**2 + sigma**2)
    torch.testing.assert_close(of_input, torch.ones(20))
    skip = scaling.c_skip(sigma)
    residual = (1 - skip) ** 2 * sigma_data**2 + skip**2 * sigma**2
    torch.testing.assert_close(residual / scaling.c_out(sigma) ** 2, torch.ones(20))
    # any other c_skip leaves a larger residual
    for other in (skip - 0.01, skip + 0.01):
        assert bool(((1 - other) ** 2 * sigma_data**2 + other**2 * sigma**2 > residual).all())


def test_the_weight_undoes_the_scale_of_the_output():
    scaling, sigma = EDMPreconditioning(0.7), torch.logspace(-3, 2, 20)
    product = scaling.weight(sigma) * scaling.c_out(sigma) ** 2
    torch.testing.assert_close(product, torch.ones(20))


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, math.inf, math.nan])
def test_sigma_data_must_be_positive(sigma_data):
    with pytest.raises(ValueError, match=r"got sigma_data=.*expected a finite number above 0"):
        EDMPreconditioning(sigma_data)
