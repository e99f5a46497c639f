"""A base for features that are angles: normal on lines, wrapped normal or uniform on circles.

Notation. An angle in radians lives on the circle [-pi, pi). The wrapped normal distribution of the
width s is that of s z modulo 2 pi, with z standard normal, so its density is the sum over windings

    p(a) = sum_k exp(-(a + 2 pi k)^2 / (2 s^2)) / (sqrt(2 pi) s).

Data of the mean resultant length R, the modulus of the mean of exp(i a), have the circular width s,
s^2 = -2 log R, which is that of the wrapped normal distribution with the same R, and their standard
deviation where they are narrow (Mardia and Jupp, "Directional Statistics", Wiley, 2000). Where it
exceeds 1.5 radians, so that R is below 0.32, the base is uniform. Both bases on tori as in Chen and
Lipman, "Flow Matching on General Geometries" (arXiv:2302.03660).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from setflow.distributions.base import checked_event, sum_real
from setflow.sets.angles import checked_angles, wrap, wrapped
from setflow.sets.arrays import Array, as_tensor, check_generator
from setflow.sets.masks import as_present, zero_padding
from setflow.sets.shapes import as_floating, as_tuple

__all__ = ["WIDEST", "WrappedNormal"]

WIDEST = 1.5
"""In radians: a wider base is uniform."""

_WINDINGS = 2  # to either side; what is left out is below 1e-23 of the density up to 1.5 rad
_NARROW, _HARMONICS = 0.5, 20  # where the variance is that on a line, and else of how many terms
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class WrappedNormal:
    """N(0, scale^2) in every feature, modulo 2 pi in those that are angles.

    An angle whose scale exceeds 1.5 radians is uniform on the circle. The density has the period
    2 pi in each angle, and integrates to 1 over [-pi, pi).

    Arguments:
        scale: the standard deviation of each feature of one object, of angles the circular width,
            with shape `(D,)`, positive; or a function that returns them, where they are fitted
            later.
        angles: the positions of the features that are angles in radians, counted from 0.

    Raises:
        ValueError: if the scales are not positive or of another shape, or a position is none.

    >>> base = WrappedNormal(torch.tensor([1.0, 0.5]), angles=[1])
    >>> x = torch.tensor([[0.3, 3.0], [0.3, 3.0 - 2 * torch.pi]])
    >>> base.log_prob(x).round(decimals=2)
    tensor([-19.1600, -19.1600])
    >>> WrappedNormal(torch.tensor([2.0]), angles=[0]).log_prob(torch.zeros(1)).exp()  # 1 / (2 pi)
    tensor(0.1592)
    """

    has_rsample: ClassVar[bool] = True
    batch_shape: tuple[int, ...] = ()

    def __init__(self, scale: Array | Callable[[], Tensor], angles: Sequence[int]) -> None:
        given = scale() if callable(scale) else as_floating(as_tensor(scale, "scale"))
        self._scale = scale if callable(scale) else given
        if given.ndim != 1:
            raise ValueError(
                f"scale has shape {tuple(given.shape)}, expected (D,): one number for each feature "
                "of an object"
            )
        if not callable(scale) and not bool((given > 0).all()):
            raise ValueError(f"scale must be positive, got a minimum of {given.min().item()}")
        self.event_shape = tuple(given.shape)
        self.angles = checked_angles(angles, len(given))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.event_shape}, angles={list(self.angles)})"

    @property
    def scale(self) -> Tensor:
        """The standard deviations, of angles the circular widths, with shape `(D,)`."""
        return self._scale() if callable(self._scale) else self._scale

    @property
    def uniform(self) -> tuple[int, ...]:
        """The positions of the angles that are uniform; NaN, a width not yet fitted, is not."""
        return tuple(k for k in self.angles if bool(self.scale[k] > WIDEST))

    @property
    def mean(self) -> Tensor:
        """The mean, with shape `(D,)`; that of a uniform angle is 0, as that of its values is."""
        return torch.zeros_like(self.scale)

    @property
    def variance(self) -> Tensor:
        """The variance of each feature, of angles that of their values in [-pi, pi), `(D,)`."""
        columns = list((self.scale**2).unbind(-1))
        for k in self.angles:
            columns[k] = _variance(self.scale[k])
        return torch.stack(columns, -1)

    @property
    def unit(self) -> Tensor:
        """What a distance on each circle is measured in: its standard deviation; 1 on lines.

        So a loss or a coupling gives each angle the weight of a feature of variance 1. It has the
        shape `(D,)`.
        """
        columns = list(torch.ones_like(self.scale).unbind(-1))
        for k in self.angles:
            columns[k] = _variance(self.scale[k]).sqrt()
        return torch.stack(columns, -1)

    def of_normal(self, noise: Tensor) -> Tensor:
        """Return draws of this distribution, made of standard normal ones value by value.

        Arguments:
            noise: standard normal draws, with shape `(*, D)`.
        """
        scale = self.scale.to(noise)
        columns = list((scale * noise).unbind(-1))
        for k in self.angles:
            uniform = math.pi * (noise[..., k] / math.sqrt(2)).erf()
            columns[k] = wrap(torch.where(scale[k] > WIDEST, uniform, columns[k]))
        return torch.stack(columns, -1)

    def wrapped(self, x: Tensor) -> Tensor:
        """Return values with their angles in [-pi, pi).

        Arguments:
            x: values, with shape `(*, D)`.
        """
        return wrapped(x, self.angles)

    def sample(
        self,
        sample_shape: Iterable[int] | int = (),
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw with shape `(*sample_shape, D)`, zero in padded slots, angles in [-pi, pi).

        The draw is differentiable with respect to `scale`.
        """
        if generator is not None:
            check_generator(generator)
        scale = self.scale
        noise = torch.randn(
            as_tuple(sample_shape) + self.event_shape,
            generator=generator,
            device=scale.device,
            dtype=scale.dtype,
        )
        if mask is not None:
            _, mask = checked_event((), self.event_shape, noise, mask)
        return zero_padding(self.of_normal(noise), mask)

    rsample = sample

    def log_prob(
        self, value: Array, *, mask: Array | None = None, present: Tensor | None = None
    ) -> Tensor:
        """Return the log-density in nats of the real coordinates, with the lead shape of `value`.

        Arguments:
            value: values with shape `(*lead, D)`; with a mask `(*lead, N, D)` for any N. Angles may
                stand in any turn.
            mask: boolean mask with shape `(*lead, N)`, or None for all real.
            present: which features of the real objects count, boolean with the shape of `value`, or
                None for all.

        Raises:
            ValueError: if shapes do not fit.
        """
        if not isinstance(value, Tensor) or value.is_complex():
            value = as_tensor(value, "value")
        event_ndim, mask = checked_event((), self.event_shape, value, mask)
        mask = mask if present is None else as_present(present, value.shape, mask)
        x = zero_padding(value if value.is_floating_point() else as_floating(value), mask)
        scale = self.scale.to(x)
        log_p = list((-0.5 * (x / scale) ** 2 - scale.log() - _LOG_SQRT_2PI).unbind(-1))
        for k in self.angles:
            log_p[k] = _log_density(x[..., k], scale[k])
        return sum_real(torch.stack(log_p, -1), event_ndim, mask)


def _log_density(angle: Tensor, scale: Tensor) -> Tensor:
    """Return the log-density of an angle, with its shape; `scale` is one number."""
    turns = torch.arange(-_WINDINGS, _WINDINGS + 1, dtype=angle.dtype, device=angle.device)
    windings = wrap(angle)[..., None] + 2 * math.pi * turns
    wrapped = (-0.5 * (windings / scale) ** 2).logsumexp(-1) - scale.log() - _LOG_SQRT_2PI
    return torch.where(scale > WIDEST, -math.log(2 * math.pi), wrapped)


def _variance(scale: Tensor) -> Tensor:
    """Return the variance of an angle's value in [-pi, pi), where its width is `scale`.

    By the Fourier series of the density: pi^2 / 3 + 4 sum_k (-1)^k exp(-k^2 s^2 / 2) / k^2. Below
    half a radian it is s^2 to 1e-7.
    """
    k = torch.arange(1, _HARMONICS + 1, dtype=scale.dtype, device=scale.device)
    terms = (-0.5 * (k * scale) ** 2).exp() / k**2
    total = math.pi**2 / 3 + 4 * (terms[1::2].sum() - terms[::2].sum())
    total = torch.where(scale > WIDEST, math.pi**2 / 3, total)
    return torch.where(scale < _NARROW, scale**2, total)
