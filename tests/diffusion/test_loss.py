"""The loss of diffusion: against sums by hand, between parameterisations, at both ends of time."""

from __future__ import annotations

import pytest
import torch

import setflow
from each import each
from recorders import Recorder
from setflow.diffusion import convert, error_factor
from user_schedules import StraightSchedule

PARAMETERIZATIONS = ("eps", "score", "x0", "velocity")


@each("schedule", [setflow.VPSchedule(), setflow.VESchedule(), setflow.EDMSchedule()])
@each("parameterization", PARAMETERIZATIONS)
def test_diffusion_loss_by_hand(parameterization, schedule):
    x, noise, t = torch.randn(16, 3), torch.randn(16, 3), 0.05 + 0.9 * torch.rand(16)
    time = t[:, None]
    alpha, sigma = schedule.alpha(time), schedule.sigma(time)
    field = Recorder(1, lambda x, t: torch.cos(x))
    got = setflow.diffusion_loss(
        field, x, schedule, t, parameterization=parameterization, noise=noise, reduction="none"
    )
    x_t = alpha * x + sigma * noise
    torch.testing.assert_close(field.x, x_t, atol=1e-10, rtol=0)
    output = torch.cos(x_t)
    error = {
        "eps": output - noise,
        "score": sigma * output + noise,
        "x0": output - x,
        "velocity": output - schedule.alpha_dot(time) * x - schedule.sigma_dot(time) * noise,
    }[parameterization]
    torch.testing.assert_close(got, (error**2).mean(-1), atol=1e-10, rtol=1e-12)


WEIGHTINGS = {
    "snr": (setflow.SNRWeighting(), lambda snr: snr),
    "root snr": (setflow.SNRWeighting(0.5), lambda snr: snr**0.5),
    "min snr": (setflow.MinSNRWeighting(3.0), lambda snr: snr.clamp(max=3.0)),
    "edm": (setflow.EDMWeighting(0.7), lambda snr: snr + 1 / 0.49),
    "own": (lambda snr: 1 / (1 + snr), lambda snr: 1 / (1 + snr)),
}


@each("schedule", [setflow.VPSchedule(), setflow.VESchedule(), setflow.EDMSchedule()])
@each("weighting", WEIGHTINGS)
def test_a_weighting_means_the_same_for_every_parameterization(weighting, schedule):
    """One guess of x_0, said in four ways: w(SNR) times its squared error each time."""
    x, noise, t = torch.randn(16, 3), torch.randn(16, 3), 0.05 + 0.9 * torch.rand(16)
    given, by_hand = WEIGHTINGS[weighting]

    def guess(x_t, t):
        return torch.tanh(x_t)

    snr = (schedule.alpha(t) / schedule.sigma(t)) ** 2
    x_t = schedule.alpha(t)[:, None] * x + schedule.sigma(t)[:, None] * noise
    expected = by_hand(snr) * ((guess(x_t, t) - x) ** 2).mean(-1)
    for parameterization in PARAMETERIZATIONS:

        def answer(x_t, t, parameterization=parameterization):
            return convert(guess(x_t, t), x_t, t, schedule, source="x0", target=parameterization)

        got = setflow.diffusion_loss(
            Recorder(1, answer), x, schedule, t, parameterization=parameterization, noise=noise,
            weighting=given, reduction="none",
        )  # fmt: skip
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-8)


def test_snr_weighting_of_x0_is_the_plain_loss_of_eps():
    schedule, x, noise = setflow.VPSchedule(), torch.randn(16, 3), torch.randn(16, 3)
    t = 0.05 + 0.9 * torch.rand(16)
    field = Recorder(1, lambda x, t: torch.cos(x))
    plain = setflow.diffusion_loss(field, x, schedule, t, noise=noise)
    weighted = setflow.diffusion_loss(
        field, x, schedule, t, noise=noise, weighting=setflow.SNRWeighting()
    )
    torch.testing.assert_close(weighted, plain, atol=1e-10, rtol=0)


def test_edm_loss_is_that_of_the_network_against_a_target_of_unit_variance():
    """lambda c_out^2 = 1: |F - (x_0 - c_skip x) / c_out|^2, and the target has variance 1."""
    schedule, sigma_data, n = setflow.EDMSchedule(), 0.5, 50_000
    generator = torch.Generator().manual_seed(1)
    x = sigma_data * torch.randn(n, 2, generator=generator)
    noise, t = torch.randn(n, 2, generator=generator), torch.rand(n, generator=generator)
    network = Recorder(1, lambda x, t: torch.sin(x))
    denoiser = setflow.EDMDenoiser(network, schedule, sigma_data)
    got = setflow.diffusion_loss(
        denoiser, x, schedule, t, parameterization="x0", noise=noise, reduction="none",
        weighting=setflow.EDMWeighting(sigma_data),
    )  # fmt: skip
    sigma = schedule.sigma(t)[:, None]
    total = sigma**2 + sigma_data**2
    x_t = x + sigma * noise
    torch.testing.assert_close(network.x, x_t / total.sqrt(), atol=1e-12, rtol=0)
    torch.testing.assert_close(network.t, sigma[:, 0].log() / 4, atol=1e-12, rtol=0)
    target = (x - sigma_data**2 / total * x_t) * total.sqrt() / (sigma * sigma_data)
    expected = ((torch.sin(network.x) - target) ** 2).mean(-1)
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)
    assert target.var().item() == pytest.approx(1, abs=0.02)
    assert network.x.var().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_diffusion_loss_is_finite_at_both_ends_of_time(parameterization):
    x = torch.randn(2, 3)
    for schedule in (setflow.VPSchedule(), setflow.VESchedule(), setflow.EDMSchedule()):
        for weighting in (None, setflow.MinSNRWeighting(), setflow.EDMWeighting()):
            loss = setflow.diffusion_loss(
                Recorder(1), x, schedule, torch.tensor([0.0, 1.0]), weighting=weighting,
                parameterization=parameterization, reduction="none",
            )  # fmt: skip
            assert loss.isfinite().all()


def test_error_factors_are_what_the_loss_divides_by():
    schedule, t = setflow.VPSchedule(), torch.tensor([0.2, 0.7])
    x_t, x_0, step = torch.randn(2, 3), torch.randn(2, 3), 1e-3
    for name in PARAMETERIZATIONS:
        before, after = (
            convert(value, x_t, t, schedule, source="x0", target=name)
            for value in (x_0, x_0 + step)
        )
        factor = error_factor(t, schedule, name)
        torch.testing.assert_close(
            (after - before) / step, factor[:, None].expand(2, 3), rtol=1e-8, atol=1e-8
        )


def test_the_denoiser_is_finite_where_sigma_or_alpha_vanish():
    network, x = Recorder(1, lambda x, t: torch.sin(x)), torch.randn(4, 3)
    for schedule, t in ((setflow.VPSchedule(), 0.0), (StraightSchedule(), 0.0)):
        got = setflow.EDMDenoiser(network, schedule, 0.5)(x, t)
        torch.testing.assert_close(got, x, atol=1e-6, rtol=0)  # no noise: the data themselves
    got = setflow.EDMDenoiser(network, StraightSchedule(), 0.5)(x, 1.0)
    torch.testing.assert_close(got, 0.5 * torch.sin(x), atol=1e-12, rtol=0)  # nothing but noise
