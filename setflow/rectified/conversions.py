"""Conversions of what a network predicts along the linear path.

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

from collections.abc import Sequence

import torch
from torch import Tensor

from setflow.diffusion import NoiseSchedule, convert
from setflow.paths import LinearPath
from setflow.sets.masks import as_mask, zero_padding
from setflow.sets.shapes import align_right

__all__ = [
    "Coefficients",
    "add_noise",
    "pred_noise_to_pred_x0",
    "pred_x0_from_flow",
    "rf_alpha",
    "rf_sigma",
    "x0_to_eps",
    "x0_to_flow",
]

_SMALLEST_DENOMINATOR = 1e-6
_PATH = LinearPath()


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
