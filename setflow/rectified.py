"""Rectified flow: the linear path, conversions of what a network predicts, and training times.

Notation. x_t = alpha x_0 + sigma eps with alpha = 1 - t and sigma = t, data x_0 at t = 0 and noise
eps at t = 1; the flow is v = eps - x_0, so x_t = x_0 + t v (Liu et al., "Flow Straight and Fast:
Learning to Generate and Transfer Data with Rectified Flow", arXiv:2209.03003).

Arithmetic is in float64 and results have the input's dtype: no infinity arises in float16 or
bfloat16, since a result beyond their range is set to the largest finite number of that sign.
Integers give results of torch's default dtype. Denominators are never below 1e-6. `t` is a number
or has the lead shape of x, one time per event: nothing broadcasts over objects or features. With a
mask of shape `(*lead, N)` padded slots are never read and come out as zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from setflow.diffusion import NoiseSchedule, convert
from setflow.paths import LinearPath
from setflow.sets.masks import as_mask, zero_padding
from setflow.sets.shapes import align_right
from setflow.timesteps import (
    Density,
    check_name,
    check_number,
    checked_count,
    checked_dtype,
    compute_density_for_timestep_sampling,
    time_shift,
)

__all__ = [
    "SampleTimestepConfig",
    "TimeDistribution",
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

TimeDistribution = Literal["uniform", "logitnormal", "lognormal", "shifted", "polynomial"]

_SMALLEST_DENOMINATOR = 1e-6
_GRID = 1000
_DEEP_TAIL = -700.0  # below this log-probability exp() runs out of float64
_PATH = LinearPath()


# --- the path, and conversions between its quantities ---


def rf_alpha(t: Tensor) -> Tensor:
    """Return the coefficient of the data, alpha = 1 - t, with the shape of `t`.

    >>> rf_alpha(torch.tensor([0.0, 0.25, 1.0]))
    tensor([1.0000, 0.7500, 0.0000])
    """
    return _PATH.alpha(t)


def rf_sigma(t: Tensor) -> Tensor:
    """Return the coefficient of the noise, sigma = t, as a new tensor with the shape of `t`.

    >>> rf_sigma(torch.tensor([0.0, 0.25, 1.0]))
    tensor([0.0000, 0.2500, 1.0000])
    """
    return _PATH.sigma(t).clone()


def add_noise(x0: Tensor, eps: Tensor, t: Tensor | float, *, mask: Tensor | None = None) -> Tensor:
    """Return the point of the path x_t = (1 - t) x_0 + t eps.

    Arguments:
        x0: data, with shape `(*lead, ...)`, or `(*lead, N, ...)` with a mask.
        eps: noise, with the shape of `x0`.
        t: times, a number or a tensor with shape `lead`.
        mask: which slots are real, with shape `(*lead, N)`; None means all.

    Returns:
        x_t, with shape and dtype of `x0`, zero in padded slots.

    Raises:
        ValueError: if a shape does not fit, or a dtype is not floating.

    >>> add_noise(torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([0.25, 0.5]))
    tensor([[0.2500, 0.2500, 0.2500],
            [0.5000, 0.5000, 0.5000]])
    """
    (x, noise), time, mask = _checked(t, mask, x0=x0, eps=eps)
    return _narrowed(_PATH.sample_xt(x, noise, time), x0.dtype, mask)


def pred_noise_to_pred_x0(
    pred_noise: Tensor, noisy_latents: Tensor, t: Tensor | float, *, mask: Tensor | None = None
) -> Tensor:
    """Return the data that a noise prediction implies, x_0 = (x_t - t eps) / (1 - t).

    Arguments:
        pred_noise: the predicted eps, with the shape of `noisy_latents`.
        noisy_latents: x_t, with shape `(*lead, ...)`, or `(*lead, N, ...)` with a mask.
        t: times, a number or a tensor with shape `lead`; above 1 - 1e-6 the denominator is 1e-6.
        mask: which slots are real, with shape `(*lead, N)`; None means all.

    Returns:
        x_0, with shape and dtype of `noisy_latents`, zero in padded slots.

    Raises:
        ValueError: if a shape does not fit, or a dtype is not floating.

    >>> pred_noise_to_pred_x0(torch.ones(2), torch.full((2,), 1.5), 0.5)
    tensor([2., 2.])
    """
    (x_t, noise), time, mask = _checked(t, mask, noisy_latents=noisy_latents, pred_noise=pred_noise)
    at_t = Coefficients(_denominator(rf_alpha(time)), rf_sigma(time))
    x0 = convert(noise, x_t, time, at_t, source="eps", target="x0")
    return _narrowed(x0, noisy_latents.dtype, mask)


def pred_x0_from_flow(
    pred_flow: Tensor, noisy_latents: Tensor, t: Tensor | float, *, mask: Tensor | None = None
) -> Tensor:
    """Return the data that a flow prediction implies, x_0 = x_t - t v.

    Arguments:
        pred_flow: the predicted v = eps - x_0, with the shape of `noisy_latents`.
        noisy_latents: x_t, with shape `(*lead, ...)`, or `(*lead, N, ...)` with a mask.
        t: times, a number or a tensor with shape `lead`.
        mask: which slots are real, with shape `(*lead, N)`; None means all.

    Returns:
        x_0, with shape and dtype of `noisy_latents`, zero in padded slots.

    Raises:
        ValueError: if a shape does not fit, or a dtype is not floating.

    >>> pred_x0_from_flow(torch.ones(2), torch.full((2,), 1.5), 0.5)
    tensor([1., 1.])
    """
    (x_t, flow), time, mask = _checked(t, mask, noisy_latents=noisy_latents, pred_flow=pred_flow)
    return _narrowed(x_t - rf_sigma(time) * flow, noisy_latents.dtype, mask)


def x0_to_eps(x0: Tensor, x_t: Tensor, t: Tensor | float, *, mask: Tensor | None = None) -> Tensor:
    """Return the noise between data and a point of the path, eps = (x_t - (1 - t) x_0) / t.

    Arguments:
        x0: data, with shape `(*lead, ...)`, or `(*lead, N, ...)` with a mask.
        x_t: the point of the path, with the shape of `x0`.
        t: times, a number or a tensor with shape `lead`; below 1e-6 the denominator is 1e-6.
        mask: which slots are real, with shape `(*lead, N)`; None means all.

    Returns:
        eps, with shape and dtype of `x0`, zero in padded slots.

    Raises:
        ValueError: if a shape does not fit, or a dtype is not floating.

    >>> x0_to_eps(torch.ones(2), torch.full((2,), 1.5), 0.5)
    tensor([2., 2.])
    """
    (data, point), time, mask = _checked(t, mask, x0=x0, x_t=x_t)
    at_t = Coefficients(rf_alpha(time), _denominator(rf_sigma(time)))
    eps = convert(data, point, time, at_t, source="x0", target="eps")
    return _narrowed(eps, x0.dtype, mask)


def x0_to_flow(x0: Tensor, x_t: Tensor, t: Tensor | float, *, mask: Tensor | None = None) -> Tensor:
    """Return the flow through data and a point of the path, v = (x_t - x_0) / t.

    It undoes `pred_x0_from_flow`, to round-off, wherever t is at least 1e-6.

    Arguments:
        x0: data, with shape `(*lead, ...)`, or `(*lead, N, ...)` with a mask.
        x_t: the point of the path, with the shape of `x0`.
        t: times, a number or a tensor with shape `lead`; below 1e-6 the denominator is 1e-6.
        mask: which slots are real, with shape `(*lead, N)`; None means all.

    Returns:
        v, with shape and dtype of `x0`, zero in padded slots.

    Raises:
        ValueError: if a shape does not fit, or a dtype is not floating.

    >>> x0_to_flow(torch.ones(2), torch.full((2,), 1.5), 0.5)
    tensor([1., 1.])
    """
    (data, point), time, mask = _checked(t, mask, x0=x0, x_t=x_t)
    return _narrowed((point - data) / _denominator(rf_sigma(time)), x0.dtype, mask)


class Coefficients(NoiseSchedule):
    """A schedule at one time, of which no more is known than its two coefficients.

    That is enough for `setflow.diffusion.convert` between `eps`, `score` and `x0`.

    Arguments:
        alpha: the coefficient of the data, with as many dimensions as what is converted.
        sigma: the coefficient of the noise, likewise.
    """

    def __init__(self, alpha: Tensor, sigma: Tensor) -> None:
        self._alpha = alpha
        self._sigma = sigma

    def alpha(self, t: Tensor) -> Tensor:
        return self._alpha

    def sigma(self, t: Tensor) -> Tensor:
        return self._sigma

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        raise NotImplementedError("the coefficients at one time do not tell the drift")

    def diffusion(self, t: Tensor) -> Tensor:
        raise NotImplementedError("the coefficients at one time do not tell the diffusion")


def _checked(
    t: Tensor | float, mask: Tensor | None, **tensors: Tensor
) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """Return the tensors and the time in float64, padding zeroed and time aligned, and the mask."""
    (name, first), (other, second) = tensors.items()
    if first.shape != second.shape:
        raise ValueError(
            f"{name} has shape {tuple(first.shape)} and {other} {tuple(second.shape)}; expected "
            "equal shapes: nothing is broadcast"
        )
    for key, value in tensors.items():
        if value.is_complex() or value.dtype == torch.bool:
            raise ValueError(f"{key} has dtype {value.dtype}, expected a floating dtype")
    shape = tuple(first.shape)
    if mask is not None:
        mask = as_mask(mask).to(first.device)
        if mask.ndim >= len(shape) or tuple(mask.shape) != shape[: mask.ndim]:
            raise ValueError(
                f"mask has shape {tuple(mask.shape)} and {name} {shape}; expected mask (*lead, N) "
                f"and {name} (*lead, N, ...): one entry for each object of each event"
            )
    time = _aligned_time(t, shape, first.device, None if mask is None else mask.shape[:-1])
    wide = [zero_padding(value.to(torch.float64), mask) for value in tensors.values()]
    return wide, time, mask


def _aligned_time(
    t: Tensor | float, shape: tuple[int, ...], device: torch.device, lead: Sequence[int] | None
) -> Tensor:
    """Return the time in float64 with dimensions of size one behind its lead shape."""
    if not isinstance(t, Tensor):
        return torch.full((), float(t), dtype=torch.float64, device=device)
    got = tuple(t.shape)
    fits = got == shape[: len(got)] if lead is None else got == tuple(lead)
    if got and not fits:
        expected = f"the first dimensions of {shape}" if lead is None else f"{tuple(lead)}"
        raise ValueError(
            f"t has shape {got}, expected a scalar or {expected}: one time for each event"
        )
    return align_right(t.to(device, torch.float64), len(shape))


def _denominator(value: Tensor) -> Tensor:
    return value.clamp(min=_SMALLEST_DENOMINATOR)


def _narrowed(value: Tensor, dtype: torch.dtype, mask: Tensor | None) -> Tensor:
    """Return a float64 result in `dtype`, within its finite range, zero in padded slots.

    That of integers is torch's default.
    """
    dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
    largest = torch.finfo(dtype).max
    return zero_padding(value.clamp(-largest, largest).to(dtype), mask)


# --- training times ---


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
