"""Training times of rectified flow: their distributions, bounds and errors."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
import torch

from each import each
from setflow.rectified import (
    SampleTimestepConfig,
    sample_from_t_list,
    sample_timesteps,
)

N = 20_000


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


CONFIGS = {
    "uniform": {"time_dist_type": "uniform"},
    "logitnormal": {"time_dist_type": "logitnormal"},
    "logitnormal, moved": {"time_dist_type": "logitnormal", "p_mean": 0.8, "p_std": 0.5},
    "lognormal": {"time_dist_type": "lognormal"},
    "lognormal, inside": {"time_dist_type": "lognormal", "p_mean": -1.0, "p_std": 0.4},
    "shifted": {"time_dist_type": "shifted"},
    "shifted, less": {"time_dist_type": "shifted", "shift": 2.0},
}


RANGES = [(0.001, 0.999), (0.0, 1.0), (0.2, 0.7)]


def time_cdf(t, cfg):
    low, high = cfg.min_t, cfg.max_t
    if cfg.time_dist_type == "uniform":
        return (t - low) / (high - low)
    if cfg.time_dist_type == "logitnormal":
        y = (t - low) / (high - low)
        return scipy.stats.norm.cdf(np.log(y) - np.log1p(-y), cfg.p_mean, cfg.p_std)
    if cfg.time_dist_type == "lognormal":
        ends = [(np.log(end) if end else -np.inf) for end in (low, high)]
        a, b = ((end - cfg.p_mean) / cfg.p_std for end in ends)
        return scipy.stats.truncnorm.cdf((np.log(t) - cfg.p_mean) / cfg.p_std, a, b)
    at_t, first, last = (u / (cfg.shift - (cfg.shift - 1) * u) for u in (t, low, high))
    return (at_t - first) / (last - first)


def p_value(t, cfg):
    return scipy.stats.kstest(t.numpy(), lambda a: time_cdf(a, cfg)).pvalue


@pytest.mark.parametrize(("min_t", "max_t"), RANGES)
@pytest.mark.parametrize("name", CONFIGS)
def test_sample_timesteps_has_its_distribution(name, min_t, max_t):
    """And the same times fail the same test for every other distribution."""
    cfg = SampleTimestepConfig(**CONFIGS[name], min_t=min_t, max_t=max_t)
    t = sample_timesteps(N, cfg, dtype=torch.float64, generator=generator(5))
    assert t.min() >= min_t
    assert t.max() <= max_t
    assert p_value(t, cfg) > 1e-3
    for wrong, arguments in CONFIGS.items():
        if wrong != name:
            other = SampleTimestepConfig(**arguments, min_t=min_t, max_t=max_t)
            assert p_value(t, other) < 1e-6, wrong


@pytest.mark.parametrize(
    ("p_mean", "p_std"),
    [(-20.0, 1.0), (-40.0, 1.0), (-100.0, 1.0), (6.0, 0.5), (3.0, 0.05), (40.0, 0.5), (-1, 0.02)],
)
@pytest.mark.parametrize("min_t", [0.0, 0.001])
def test_the_lognormal_is_right_in_its_tails(p_mean, p_std, min_t):
    """Up to 100 standard deviations out, where the distribution function underflows."""
    cfg = SampleTimestepConfig("lognormal", min_t=min_t, max_t=0.9, p_mean=p_mean, p_std=p_std)
    t = sample_timesteps(N, cfg, dtype=torch.float64, generator=generator(6))
    assert len(t.unique()) == N
    assert p_value(t, cfg) > 1e-3
    u = torch.rand(N, generator=generator(6), dtype=torch.float64)
    quantile = torch.from_numpy(time_cdf(t.numpy(), cfg))
    uniform = u if (quantile - u).abs().max() < 0.5 else 1 - u  # inversion may run either way
    torch.testing.assert_close(quantile, uniform, rtol=0, atol=1e-9)
    off = dataclasses.replace(cfg, p_mean=p_mean + 0.2 * p_std, p_std=1.1 * p_std)
    assert p_value(t, off) < 1e-3


def test_shifted_times_have_no_atom_at_the_end():
    """Shifting a uniform on [min_t, max_t] and clamping piles 0.4 percent onto max_t."""
    cfg = SampleTimestepConfig("shifted")
    t = sample_timesteps(N, cfg, dtype=torch.float64, generator=generator(7))
    assert len(t.unique()) == N
    assert t.max() < cfg.max_t
    u = cfg.min_t + (cfg.max_t - cfg.min_t) * torch.rand(N, generator=generator(7))
    clamped = (5 * u / (1 + 4 * u)).clamp(cfg.min_t, cfg.max_t)
    assert (clamped == cfg.max_t).sum() > 50
    assert clamped.min() > 5 * cfg.min_t / (1 + 4 * cfg.min_t) > t.min()


def counts_on(grid, t):
    index = torch.searchsorted(grid, t)
    assert torch.equal(grid[index], t)
    return torch.bincount(index, minlength=len(grid)).numpy()


def test_polynomial_times_are_uniform_on_their_grid():
    cfg = SampleTimestepConfig("polynomial")
    grid = torch.linspace(0.001, 0.999, 1000, dtype=torch.float64)
    t = sample_timesteps(N, cfg, dtype=torch.float64, generator=generator(8))
    assert scipy.stats.chisquare(counts_on(grid, t)).pvalue > 1e-3
    tilted = torch.multinomial(torch.linspace(0.8, 1.2, 1000), N, True, generator=generator(8))
    assert scipy.stats.chisquare(counts_on(grid, grid[tilted])).pvalue < 1e-3


def test_sample_from_t_list_is_uniform_on_all_but_the_last():
    t_list = [0.999, 0.9, 0.6, 0.3, 0.0]
    grid = torch.tensor(t_list[::-1], dtype=torch.float64)
    t = sample_from_t_list(N, t_list, dtype=torch.float64, generator=generator(9))
    counts = counts_on(grid, t)
    assert counts[0] == 0
    assert scipy.stats.chisquare(counts[1:]).pvalue > 1e-3
    tilt = torch.tensor([0.0, 1.2, 1.0, 1.0, 0.8])
    tilted = grid[torch.multinomial(tilt, N, True, generator=generator(9))]
    assert scipy.stats.chisquare(counts_on(grid, tilted)[1:]).pvalue < 1e-3


DISTRIBUTIONS = ("uniform", "logitnormal", "lognormal", "shifted", "polynomial")


@each("dtype", FLOATS)
@each("name", DISTRIBUTIONS)
@each(("min_t", "max_t"), [*RANGES, (0.3, 0.31)])
def test_no_time_leaves_its_range_in_any_dtype(name, min_t, max_t, dtype):
    cfg = SampleTimestepConfig(name, min_t=min_t, max_t=max_t, p_std=4.0)
    t = sample_timesteps(N, cfg, dtype=dtype, generator=generator(10))
    assert t.dtype == dtype
    assert t.double().min() >= min_t
    assert t.double().max() <= max_t
    assert len(t.unique()) > 1


def test_rounding_alone_would_leave_the_range():
    assert torch.tensor(0.999).to(torch.bfloat16) == 1
    assert torch.tensor(0.001).to(torch.float32).double() > 0.001
    assert torch.tensor(0.999).to(torch.float32).double() > 0.999
    narrow = SampleTimestepConfig("uniform", min_t=0.9991, max_t=0.9995)
    with pytest.raises(ValueError, match=r"\[0.9991, 0.9995\] holds no number of torch.bfloat16"):
        sample_timesteps(3, narrow, dtype=torch.bfloat16)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_times_follow_generator_device_and_dtype(name, device):
    cfg = SampleTimestepConfig(name)
    t_list = torch.linspace(1, 0, 50).tolist()

    def draws(seed):
        options = {"device": device, "generator": torch.Generator(device).manual_seed(seed)}
        return torch.stack(
            [sample_timesteps(40, cfg, **options), sample_from_t_list(40, t_list, **options)]
        )

    before = torch.get_rng_state()
    assert torch.equal(draws(1), draws(1))
    assert (draws(1) != draws(2)).any(-1).all()
    assert torch.equal(torch.get_rng_state(), before)
    assert draws(1).dtype == torch.float32  # as documented, whatever torch's default
    assert draws(1).device.type == device.type
    assert sample_timesteps(3, cfg, device="meta").device.type == "meta"
    assert sample_from_t_list(3, t_list, device="meta").device.type == "meta"
    assert sample_timesteps(0, cfg).shape == sample_from_t_list(0, t_list).shape == (0,)


@each("n", [-1, 2.0, True, None])
def test_counts_must_be_non_negative_integers(n):
    with pytest.raises(ValueError, match="n must be a non-negative integer, got"):
        sample_timesteps(n, SampleTimestepConfig())
    with pytest.raises(ValueError, match="n must be a non-negative integer, got"):
        sample_from_t_list(n, [1.0, 0.0])


def test_times_must_be_floating():
    with pytest.raises(ValueError, match=r"floating dtype, got torch.int64"):
        sample_timesteps(3, SampleTimestepConfig(), dtype=torch.int64)
    with pytest.raises(ValueError, match=r"floating dtype, got torch.int64"):
        sample_from_t_list(3, [1.0, 0.0], dtype=torch.int64)


BAD_LISTS = [
    ([], "at least two times"),
    ([0.0], "at least two times"),
    ([1.0, 0.5], r"t_list\[-1\] must be 0, the data end, got 0.5"),
    ([1.5, 0.0], r"must lie in \[0, 1\]"),
    ([math.nan, 0.0], r"must lie in \[0, 1\]"),
]


@each(("t_list", "message"), BAD_LISTS)
def test_bad_trajectories_are_refused(t_list, message):
    with pytest.raises(ValueError, match=message):
        sample_from_t_list(3, t_list)
    with pytest.raises(ValueError, match=message):
        SampleTimestepConfig(t_list=t_list)


def test_sample_timestep_config_has_the_documented_defaults_and_is_frozen():
    cfg = SampleTimestepConfig()
    assert dataclasses.astuple(cfg) == ("shifted", 0.001, 0.999, 5.0, 0.0, 1.0, None)
    assert SampleTimestepConfig(t_list=[1.0, 0.5, 0]).t_list == (1.0, 0.5, 0.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.shift = 2.0


@each(
    ("arguments", "message"),
    [
        (
            {"time_dist_type": "normal"},
            "time_dist_type is 'normal', expected one of uniform, logit",
        ),
        ({"min_t": -0.1}, "expected 0 <= min_t < max_t <= 1, got min_t=-0.1"),
        ({"max_t": 1.1}, "expected 0 <= min_t < max_t <= 1"),
        ({"min_t": 0.5, "max_t": 0.5}, "expected 0 <= min_t < max_t <= 1"),
        ({"min_t": math.nan}, "min_t must be a finite number, got nan"),
        ({"shift": 0.9}, "shift must be at least 1, got 0.9"),
        ({"shift": math.inf}, "shift must be a finite number"),
        ({"p_std": 0.0}, "p_std must be positive, got 0.0"),
        ({"p_mean": "0"}, "p_mean must be a finite number, got '0'"),
    ],
)
def test_bad_configurations_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SampleTimestepConfig(**arguments)
