"""NeMo's and fastgen's names, in a training step as their documents have it."""

from __future__ import annotations

import math

import pytest
import torch

from setflow import rectified, timesteps
from setflow.compat import fastgen, nemo

NEMO = ["compute_density_for_timestep_sampling", "get_flow_match_loss_weight", "time_shift"]
FASTGEN = [
    "SampleTimestepConfig",
    "add_noise",
    "pred_noise_to_pred_x0",
    "pred_x0_from_flow",
    "rf_alpha",
    "rf_sigma",
    "sample_from_t_list",
    "sample_timesteps",
    "x0_to_eps",
    "x0_to_flow",
]


@pytest.mark.parametrize("name", NEMO)
def test_the_names_of_nemo_are_those_of_timesteps(name):
    assert getattr(nemo, name) is getattr(timesteps, name)
    assert sorted(nemo.__all__) == NEMO


@pytest.mark.parametrize("name", FASTGEN)
def test_the_names_of_fastgen_are_those_of_rectified(name):
    assert getattr(fastgen, name) is getattr(rectified, name)
    assert set(fastgen.__all__) == {*FASTGEN, "expand_like"}


def test_times_as_nemo_draws_shifts_and_weighs_them():
    t = nemo.compute_density_for_timestep_sampling("logit_normal", 8, 0.0, 1.0)
    for kind, m in (("constant", 3.0), ("linear", math.exp(0.5 + 0.65 / 4)), ("sqrt", 1.0)):
        sigma = nemo.time_shift(t, 1024, kind)
        torch.testing.assert_close(sigma, m / (m + 1 / t - 1))
        torch.testing.assert_close(nemo.get_flow_match_loss_weight(sigma, 2.0), 1 + 2 * sigma)
    assert nemo.time_shift(torch.zeros(1), 1024).item() == 0  # NeMo divides by zero
    with pytest.raises(ValueError, match="beta"):
        nemo.compute_density_for_timestep_sampling("beta", 8)  # NeMo draws uniform times


def test_a_step_of_distillation_with_the_names_of_fastgen():
    cfg = fastgen.SampleTimestepConfig(time_dist_type="shifted", shift=5.0)
    t = fastgen.sample_timesteps(6, cfg, device=torch.device("cpu"), dtype=torch.float64)
    x0, eps = torch.randn(6, 4, 3), torch.randn(6, 4, 3)
    x_t = fastgen.add_noise(x0, eps, t)
    time = fastgen.expand_like(t, x_t)
    assert time.shape == (6, 1, 1)
    torch.testing.assert_close(x_t, fastgen.rf_alpha(time) * x0 + fastgen.rf_sigma(time) * eps)
    torch.testing.assert_close(fastgen.pred_x0_from_flow(eps - x0, x_t, t), x0)
    torch.testing.assert_close(fastgen.x0_to_flow(x0, x_t, t), eps - x0)
    torch.testing.assert_close(fastgen.pred_noise_to_pred_x0(eps, x_t, t), x0)
    torch.testing.assert_close(fastgen.x0_to_eps(x0, x_t, t), eps)
    rungs = fastgen.sample_from_t_list(50, [0.9, 0.5, 0.0], device=torch.device("cpu"))
    assert set(rungs.tolist()) == {torch.tensor(0.9, dtype=torch.float32).item(), 0.5}
