"""Normal base distributions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from setflow.distributions.base import checked_event, sum_real
from setflow.sets.arrays import Array, as_tensor, check_generator
from setflow.sets.masks import as_present, zero_padding
from setflow.sets.shapes import as_floating, as_tuple, check_sizes, split_event

__all__ = ["DiagonalNormal", "IsotropicNormal", "StandardNormal"]

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class IsotropicNormal:
    """N(0, scale^2) in every coordinate.

    Arguments:
        event_shape: the shape of one event: `(N, D)`, or `(D,)` for one object of a set of any
            size.
        scale: the standard deviation, a positive number or a scalar tensor.
        batch_shape: the shape of independent events; None means none, and the verbs then expand
            the base to the batch of the mask.
        device: where to draw; None takes the mask's device, or torch's default.
        dtype: the floating dtype to draw; None takes torch's default.
        validate_args: check the arguments.

    Raises:
        ValueError: if a size is negative or the scale is not one positive number.

    >>> import torch
    >>> IsotropicNormal((2,), 3.0).log_prob(torch.zeros(1, 2)).exp()  # 1 / (2 pi 3^2)
    tensor([0.0177])
    """

    has_rsample: ClassVar[bool] = True

    def __init__(
        self,
        event_shape: Iterable[int] | int,
        scale: Tensor | float,
        *,
        batch_shape: Iterable[int] | int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        validate_args: bool = True,
    ) -> None:
        if event_shape is None:  # what as_tuple takes for a single number
            raise TypeError(
                "event_shape is None, expected the shape of one object such as (3,), or that of a "
                "whole event such as (30, 3)"
            )
        self.event_shape = as_tuple(event_shape)
        self.batch_shape = as_tuple(batch_shape)
        self.scale = scale
        self.device = device
        self.dtype = dtype
        if validate_args:
            if isinstance(scale, Tensor) and scale.ndim:
                raise ValueError(
                    f"scale has shape {tuple(scale.shape)}, expected one number; for a scale per "
                    "coordinate use setflow.DiagonalNormal"
                )
            if not self._scale > 0:
                raise ValueError(f"scale must be positive, got {self._scale}")

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.event_shape}, scale={self._scale:g}, "
            f"batch_shape={self.batch_shape})"
        )

    @property
    def _scale(self) -> float:
        return float(torch.as_tensor(self.scale).detach())

    def sample(
        self,
        sample_shape: Iterable[int] | int = (),
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw with shape `(*sample_shape, *batch_shape, *event_shape)`, zero in padded slots.

        The draw is differentiable with respect to `scale`.
        """
        if generator is not None:
            check_generator(generator)
        x = self.scale * torch.randn(
            as_tuple(sample_shape) + self.batch_shape + self.event_shape,
            generator=generator,
            device=mask.device if self.device is None and mask is not None else self.device,
            dtype=self.dtype,
        )
        if mask is not None:
            _, mask = checked_event(
                self.batch_shape, self.event_shape, x, mask, same_everywhere=True
            )
        return zero_padding(x, mask)

    rsample = sample

    @property
    def mean(self) -> Tensor:
        """The mean, with shape `(*batch_shape, *event_shape)`."""
        shape = self.batch_shape + self.event_shape
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, with shape `(*batch_shape, *event_shape)`."""
        return torch.ones_like(self.mean) * self.scale**2

    def expand(self, batch_shape: Iterable[int] | int) -> IsotropicNormal:
        """Return the same distribution for a batch of independent events."""
        return IsotropicNormal(
            self.event_shape,
            self.scale,
            batch_shape=batch_shape,
            device=self.device,
            dtype=self.dtype,
        )

    def log_prob(
        self, value: Array, *, mask: Array | None = None, present: Tensor | None = None
    ) -> Tensor:
        """Return the log-density in nats of the real coordinates, with the lead shape of `value`.

        Arguments:
            value: values with shape `(*lead, *event_shape)`; with a mask and an event shape `(D,)`,
                `(*lead, N, D)` for any N.
            mask: boolean mask with shape `(*lead, N)`, or None for all real.
            present: which features of the real objects count, boolean with the shape of `value`, or
                None for all.

        Raises:
            ValueError: if shapes do not fit.
        """
        if not isinstance(value, Tensor) or value.is_complex():
            value = as_tensor(value, "value")
        event_ndim, mask = checked_event(
            self.batch_shape, self.event_shape, value, mask, same_everywhere=True
        )
        value = value if value.is_floating_point() else as_floating(value)
        log_scale = torch.as_tensor(self.scale, dtype=value.dtype, device=value.device).log()
        mask = mask if present is None else as_present(present, value.shape, mask)
        z = zero_padding(value, mask) / self.scale
        return sum_real(-0.5 * z**2 - log_scale - _LOG_SQRT_2PI, event_ndim, mask)


class StandardNormal(IsotropicNormal):
    """N(0, 1) in every coordinate.

    Arguments:
        event_shape: the shape of one event: `(N, D)`, or `(D,)` for one object of a set of any
            size.
        batch_shape: the shape of independent events; None means none, and the verbs then expand
            the base to the batch of the mask.
        device: where to draw; None takes the mask's device, or torch's default.
        dtype: the floating dtype to draw; None takes torch's default.
        validate_args: check the arguments.

    Raises:
        ValueError: if a size is negative.

    >>> import torch
    >>> StandardNormal((30, 3)).sample((8,), generator=torch.Generator().manual_seed(0)).shape
    torch.Size([8, 30, 3])
    """

    def __init__(
        self,
        event_shape: Iterable[int] | int,
        *,
        batch_shape: Iterable[int] | int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        validate_args: bool = True,
    ) -> None:
        super().__init__(
            event_shape, 1.0, batch_shape=batch_shape, device=device, dtype=dtype,
            validate_args=validate_args,
        )  # fmt: skip


class DiagonalNormal:
    """N(loc, scale^2), independent in every coordinate.

    Arguments:
        loc: the mean, with shape `(*batch_shape, *event_shape)`.
        scale: the standard deviation, positive, of the same shape or a scalar.
        event_ndim: how many trailing dimensions form one event; parameters `(D,)` with
            `event_ndim=1` serve sets of any size, parameters per slot are refused with a mask.
        validate_args: check the arguments, which costs a synchronisation on a GPU.

    Raises:
        ValueError: if the scale is not positive or the shapes differ.

    >>> import torch
    >>> base = DiagonalNormal(torch.zeros(3), torch.ones(3))
    >>> base.log_prob(torch.zeros(2, 5, 3), mask=torch.zeros(2, 5, dtype=torch.bool))
    tensor([0., 0.])
    """

    has_rsample: ClassVar[bool] = True

    def __init__(
        self, loc: Array, scale: Array | float, *, event_ndim: int = 1, validate_args: bool = True
    ) -> None:
        check_sizes(0, event_ndim=event_ndim)
        loc = as_floating(as_tensor(loc, "loc"))
        scale = as_tensor(scale, "scale", loc.dtype).to(loc)
        if scale.ndim and scale.shape != loc.shape:
            raise ValueError(
                f"loc has shape {tuple(loc.shape)} and scale {tuple(scale.shape)}; expected equal "
                "shapes or a scalar scale: nothing is broadcast over event dimensions"
            )
        if validate_args and not bool((scale > 0).all()):
            raise ValueError(f"scale must be positive, got a minimum of {scale.min().item()}")
        self.loc = loc
        self.scale = scale.expand_as(loc)
        self.event_ndim = event_ndim
        self.batch_shape, self.event_shape = split_event(loc, event_ndim)

    def __repr__(self) -> str:
        return f"DiagonalNormal(event_shape={self.event_shape}, batch_shape={self.batch_shape})"

    def sample(
        self,
        sample_shape: Iterable[int] | int = (),
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw with shape `(*sample_shape, *batch_shape, *event_shape)`, zero in padded slots.

        The draw is differentiable with respect to `loc` and `scale`.
        """
        if generator is not None:
            check_generator(generator)
        noise = torch.randn(
            as_tuple(sample_shape) + self.batch_shape + self.event_shape,
            generator=generator,
            device=self.loc.device,
            dtype=self.loc.dtype,
        )
        if mask is not None:
            _, mask = checked_event(self.batch_shape, self.event_shape, noise, mask)
        return zero_padding(self.loc + self.scale * noise, mask)

    rsample = sample

    @property
    def mean(self) -> Tensor:
        """The mean, with shape `(*batch_shape, *event_shape)`."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, with shape `(*batch_shape, *event_shape)`."""
        return self.scale**2

    def expand(self, batch_shape: Iterable[int] | int) -> DiagonalNormal:
        """Return the same distribution for a batch of independent events.

        Raises:
            ValueError: if its own batch shape does not expand to `batch_shape`.
        """
        shape = as_tuple(batch_shape) + self.event_shape
        try:
            loc, scale = self.loc.expand(shape), self.scale.expand(shape)
        except RuntimeError as error:
            raise ValueError(
                f"a batch shape of {self.batch_shape} does not expand to {as_tuple(batch_shape)}"
            ) from error
        return DiagonalNormal(loc, scale, event_ndim=self.event_ndim, validate_args=False)

    def log_prob(
        self, value: Array, *, mask: Array | None = None, present: Tensor | None = None
    ) -> Tensor:
        """Return the log-density in nats of the real coordinates, with the lead shape of `value`.

        The arguments are those of `IsotropicNormal.log_prob`.

        Raises:
            ValueError: if shapes do not fit, or the parameters differ from slot to slot and there
                is a mask.
        """
        if not isinstance(value, Tensor) or value.is_complex():
            value = as_tensor(value, "value")
        event_ndim, mask = checked_event(self.batch_shape, self.event_shape, value, mask)
        mask = mask if present is None else as_present(present, value.shape, mask)
        z = (zero_padding(value, mask) - self.loc) / self.scale
        return sum_real(-0.5 * z**2 - self.scale.log() - _LOG_SQRT_2PI, event_ndim, mask)
