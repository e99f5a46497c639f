"""Training times of rectified flow: a distribution by name, or the times of a trajectory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from setflow.sets.arrays import check_generator
from setflow.timesteps import (
    Density,
    check_name,
    check_number,
    checked_count,
    checked_dtype,
    compute_density_for_timestep_sampling,
    time_shift,
)

__all__ = ["SampleTimestepConfig", "TimeDistribution", "sample_from_t_list", "sample_timesteps"]

TimeDistribution = Literal["uniform", "logitnormal", "lognormal", "shifted", "polynomial"]

_GRID = 1000
_DEEP_TAIL = -700.0  # below this log-probability exp() runs out of float64


@dataclass(frozen=True)
class SampleTimestepConfig:
    """A distribution of training times on [min_t, max_t].

    Arguments:
        time_dist_type: its name, `uniform`, `logitnormal`, `lognormal`, `shifted` or `polynomial`
            (see `sample_timesteps`).
        min_t: the smallest time, at least 0.
        max_t: the largest time, above `min_t` and at most 1.
        shift: s of `shifted`, at least 1.
        p_mean: the mean of the normal behind `logitnormal` and `lognormal`.
        p_std: its standard deviation, positive.
        t_list: the times of a sampling trajectory from noise to data, the last of them 0, for
            `sample_from_t_list`; `sample_timesteps` does not read it. Kept as a tuple.

    Raises:
        ValueError: if the name is unknown or a value is out of its range.

    >>> SampleTimestepConfig("uniform", t_list=[1.0, 0.5, 0.0]).t_list
    (1.0, 0.5, 0.0)
    """

    time_dist_type: TimeDistribution = "shifted"
    min_t: float = 0.001
    max_t: float = 0.999
    shift: float = 5.0
    p_mean: float = 0.0
    p_std: float = 1.0
    t_list: Sequence[float] | None = None

    def __post_init__(self) -> None:
        check_name("time_dist_type", self.time_dist_type, TimeDistribution)
        for name in ("min_t", "max_t", "shift", "p_mean", "p_std"):
            check_number(name, getattr(self, name))
        if not 0 <= self.min_t < self.max_t <= 1:
            raise ValueError(
                f"expected 0 <= min_t < max_t <= 1, got min_t={self.min_t}, max_t={self.max_t}"
            )
        if self.shift < 1:
            raise ValueError(f"shift must be at least 1, got {self.shift}")
        if self.p_std <= 0:
            raise ValueError(f"p_std must be positive, got {self.p_std}")
        if self.t_list is not None:
            object.__setattr__(self, "t_list", _checked_t_list(self.t_list))


def sample_timesteps(
    n: int,
    cfg: SampleTimestepConfig,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw training times; none leaves [min_t, max_t], in any dtype.

    `uniform` is uniform on [min_t, max_t]. `logitnormal` is sigmoid(N(p_mean, p_std)), mapped to
    it affinely. `lognormal` is exp(N(p_mean, p_std)), given that it falls there. `shifted` is
    s u / (1 + (s - 1) u) with u uniform on [0, 1], given that it falls there: shifting a uniform on
    [min_t, max_t] instead and clamping would put 0.4 percent of all times (at s = 5) exactly onto
    max_t and none near min_t. `polynomial` is uniform on the 1000 points of
    linspace(min_t, max_t, 1000): for rectified flow the polynomial spacing of sigma is a straight
    line.

    Arguments:
        n: how many times to draw.
        cfg: their distribution.
        device: where to draw; None takes torch's default.
        dtype: the floating dtype of the result; draws are made in float64.
        generator: the random generator.

    Returns:
        Times, with shape `(n,)`.

    Raises:
        ValueError: if `n` is not a non-negative integer, `dtype` not floating, or [min_t, max_t]
            holds no number of it.

    >>> t = sample_timesteps(1000, SampleTimestepConfig(shift=5.0))
    >>> bool((t >= 0.001).all() & (t <= 0.999).all())
    True
    """
    check_generator(generator)
    low, high = _bounds_in(dtype, cfg.min_t, cfg.max_t)
    count, wide = checked_count("n", n), torch.float64
    if cfg.time_dist_type == "polynomial":
        grid = torch.linspace(cfg.min_t, cfg.max_t, _GRID, device=device, dtype=wide)
        t = grid[torch.randint(_GRID, (count,), device=device, generator=generator)]
        return t.to(dtype).clamp(low, high)
    density: Density = "logit_normal" if cfg.time_dist_type == "logitnormal" else "uniform"
    u = compute_density_for_timestep_sampling(
        density, count, cfg.p_mean, cfg.p_std, generator=generator, device=device, dtype=wide
    )
    if cfg.time_dist_type == "lognormal":
        t = _lognormal(u, cfg)
    elif cfg.time_dist_type == "shifted":
        ends = torch.tensor([cfg.min_t, cfg.max_t], device=u.device, dtype=wide)
        first, last = time_shift(ends, 0, constant=1 / cfg.shift)  # what is shifted to the ends
        t = time_shift(first + (last - first) * u, 0, constant=cfg.shift)
    else:
        t = cfg.min_t + (cfg.max_t - cfg.min_t) * u
    return t.to(dtype).clamp(low, high)


def sample_from_t_list(
    n: int,
    t_list: Sequence[float] | Tensor,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw times uniformly from all entries of a trajectory but the last, which is 0.

    A model of few steps is trained so at every time from which it will step.

    Arguments:
        n: how many times to draw.
        t_list: the times of the trajectory, in [0, 1], at least two, the last of them 0.
        device: where to draw; None takes torch's default.
        dtype: the floating dtype of the result.
        generator: the random generator.

    Returns:
        Times, with shape `(n,)`.

    Raises:
        ValueError: if `t_list` is not such a list, `n` is not a non-negative integer, or `dtype`
            not floating.

    >>> sample_from_t_list(3, [0.75, 0.0])
    tensor([0.7500, 0.7500, 0.7500])
    """
    times = torch.tensor(_checked_t_list(t_list)[:-1], device=device, dtype=checked_dtype(dtype))
    check_generator(generator)
    shape = (checked_count("n", n),)
    return times[torch.randint(len(times), shape, device=device, generator=generator)]


def _lognormal(u: Tensor, cfg: SampleTimestepConfig) -> Tensor:
    """Return exp(N(p_mean, p_std)) truncated to [min_t, max_t], from uniform u."""
    log_low = math.log(cfg.min_t) if cfg.min_t > 0 else -math.inf
    low, high = ((end - cfg.p_mean) / cfg.p_std for end in (log_low, math.log(cfg.max_t)))
    return torch.exp(cfg.p_mean + cfg.p_std * _truncated_normal(u, low, high))


def _truncated_normal(u: Tensor, low: float, high: float) -> Tensor:
    """Return a standard normal truncated to [low, high] from uniform u.

    The distribution function Phi is inverted by its logarithm, so that intervals far out in the
    tail, where Phi underflows, are served as well as any.
    """
    if low + high > 0:  # near 1 Phi has lost what distinguishes its arguments: mirror
        return -_truncated_normal(u, -high, -low)
    ends = torch.special.log_ndtr(torch.tensor([low, high], dtype=torch.float64))
    log_low, log_high = ends.tolist()
    log_p = log_high + torch.log1p(u * math.expm1(log_low - log_high))
    z = torch.special.ndtri(log_p.exp())
    deep = log_p < _DEEP_TAIL
    tail = -torch.sqrt(-2 * log_p.clamp(max=_DEEP_TAIL))  # left of the root: Newton climbs to it
    for _ in range(4):
        slope = math.sqrt(2 / math.pi) / torch.special.erfcx(-tail / math.sqrt(2))
        tail = tail + (log_p.clamp(max=_DEEP_TAIL) - torch.special.log_ndtr(tail)) / slope
    return torch.where(deep, tail, z)


def _bounds_in(dtype: torch.dtype, low: float, high: float) -> tuple[float, float]:
    """Return the smallest and the largest number of `dtype` in [low, high]."""
    first, last = torch.tensor([low, high], dtype=checked_dtype(dtype))
    if first.item() < low:
        first = torch.nextafter(first, torch.ones_like(first))
    if last.item() > high:
        last = torch.nextafter(last, torch.zeros_like(last))
    if first > last:
        raise ValueError(
            f"[{low}, {high}] holds no number of {dtype}; take a wider range or a finer dtype"
        )
    return first.item(), last.item()


def _checked_t_list(t_list: Sequence[float] | Tensor) -> tuple[float, ...]:
    times = tuple(t_list.tolist() if isinstance(t_list, Tensor) else t_list)
    if len(times) < 2:
        raise ValueError(f"t_list needs at least two times, the last of them 0, got {list(times)}")
    if not all(isinstance(t, (float, int)) and 0 <= t <= 1 for t in times):
        raise ValueError(f"the times of t_list must lie in [0, 1], got {list(times)}")
    if times[-1] != 0:
        raise ValueError(f"t_list[-1] must be 0, the data end, got {times[-1]}")
    return tuple(float(t) for t in times)
