"""Noise schedules: how data (t = 0) drown in noise (t = 1).

Notation. x_t = alpha(t) x_0 + sigma(t) eps, with data x_0 and standard normal noise eps. The same
marginals belong to the stochastic process dx = f(x, t) dt + g(t) dW, started at t = 0 from data
with noise of variance sigma(0)^2, if its drift and diffusion are

    f(x, t) = (alpha' / alpha) x,    g^2 = d sigma^2/dt - 2 (alpha' / alpha) sigma^2,

where a prime is a derivative with respect to t. The signal-to-noise ratio is alpha^2 / sigma^2. All
functions of time act on each element of `t` by itself.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from setflow.sets.arrays import shown
from setflow.sets.shapes import align_time

__all__ = ["BoundedSchedule", "NoiseSchedule", "check_schedule", "drift_at", "smallest_time"]


class NoiseSchedule(ABC):
    """A schedule of one's own needs `alpha`, `sigma`, `drift` and `diffusion`, and nothing else.

    The derivatives of `alpha` and `sigma` are taken by forward-mode automatic differentiation, so
    both must be written in torch; give them in closed form if you have one. An `__init__` of one's
    own need not call this class's.

    >>> class Quadratic(NoiseSchedule):
    ...     def alpha(self, t):
    ...         return torch.ones_like(t)
    ...
    ...     def sigma(self, t):
    ...         return 1 + t**2
    ...
    ...     def drift(self, x, t):
    ...         return torch.zeros_like(x)
    ...
    ...     def diffusion(self, t):
    ...         return (4 * t * (1 + t**2)).sqrt()
    >>> Quadratic().sigma_dot(torch.tensor([0.0, 0.5]))
    tensor([0., 1.])
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Return the coefficient of the data, with the shape of `t`."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Return the coefficient of the noise, with the shape of `t`."""

    @abstractmethod
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the drift f(x, t), with the shape of `x`.

        setflow calls it with a scalar `t`, or with the lead shape of `x` followed by dimensions of
        size one (see `drift_at`), so that `f(t) * x` is right as it stands.
        """

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """Return the diffusion g(t), with the shape of `t`."""

    def alpha_dot(self, t: Tensor) -> Tensor:
        """Return the time derivative of `alpha`, with the shape of `t`."""
        return _slope(self.alpha, t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """Return the time derivative of `sigma`, with the shape of `t`."""
        return _slope(self.sigma, t)

    def snr(self, t: Tensor) -> Tensor:
        """Return the signal-to-noise ratio alpha^2 / sigma^2; infinite where sigma is 0."""
        return (self.alpha(t) / self.sigma(t)) ** 2

    def is_singular(self, t: Tensor) -> Tensor:
        """Return where sigma(t) = 0, with the shape of `t`: there the noise is not determined."""
        return self.sigma(t) == 0

    def regular_time(self, t: Tensor) -> Tensor:
        """Return `t`, and in place of singular times the smallest that its dtype resolves.

        sigma vanishes at t = 0 if anywhere.
        """
        return torch.where(self.is_singular(t), smallest_time(t.dtype), t)


class BoundedSchedule(nn.Module, NoiseSchedule):
    """What schedules between two ends 0 < min < max share: the ends, given or learned.

    Arguments:
        low: the lower end.
        high: the upper end.
        name: the stem of the arguments' names, `name_min` and `name_max`, for messages.
        learned: whether the ends are parameters, initially `low` and `high`. What is stored is
            log(min) and log(max - min), so that they keep their order whatever an optimiser does.

    Raises:
        ValueError: unless 0 < low < high < infinity.
    """

    def __init__(self, low: float, high: float, name: str, *, learned: bool) -> None:
        super().__init__()
        if not 0 < low < high < math.inf:
            raise ValueError(
                f"{type(self).__name__} got {name}_min={low} and {name}_max={high}, expected "
                f"finite numbers with 0 < {name}_min < {name}_max"
            )
        self.learned = learned
        self._name = name
        self._given = float(low), float(high)
        if learned:
            self.log_min = nn.Parameter(torch.tensor(math.log(low)))
            self.log_gap = nn.Parameter(torch.tensor(math.log(high - low)))

    def ends(self) -> tuple[float | Tensor, float | Tensor]:
        """Return both ends: two numbers, or two scalar tensors if they are learned."""
        if not self.learned:
            return self._given
        low = self.log_min.exp()
        return low, low + self.log_gap.exp()

    def ends_for(self, t: Tensor) -> tuple[float | Tensor, float | Tensor]:
        """Return both ends as they meet `t`, in its dtype."""
        low, high = self.ends()
        if isinstance(low, Tensor) and isinstance(high, Tensor):
            return low.to(t.dtype), high.to(t.dtype)
        return low, high

    def extra_repr(self) -> str:
        low, high = (float(torch.as_tensor(end).detach()) for end in self.ends())
        return f"{self._name}_min={low:.6g}, {self._name}_max={high:.6g}, learned={self.learned}"


def smallest_time(dtype: torch.dtype) -> float:
    """Return the smallest time that a floating dtype resolves: the spacing of its numbers above 1.

    >>> smallest_time(torch.float32) == 2**-23
    True
    """
    return torch.finfo(dtype).eps


def check_schedule(schedule: object) -> None:
    """Raise TypeError unless `schedule` is a noise schedule.

    >>> check_schedule(setflow.diffusion.VPSchedule())
    """
    if not isinstance(schedule, NoiseSchedule):
        raise TypeError(
            f"got {shown(schedule)} as a schedule, expected a NoiseSchedule such as "
            "setflow.VPSchedule()"
        )


def drift_at(schedule: NoiseSchedule, x: Tensor, t: Tensor) -> Tensor:
    """Return the drift of a schedule at one time per event, checked.

    Arguments:
        schedule: the schedule.
        x: the state, with shape `(*lead, *event_shape)`.
        t: the time, a scalar tensor or one with shape `lead`.

    Raises:
        ValueError: if `t` has another shape, or the drift has not the shape of `x`.

    >>> x, t = torch.ones(2, 3, 1), torch.tensor([0.0, 1.0])
    >>> drift_at(setflow.diffusion.VPSchedule(), x, t).flatten(1)[:, 0]
    tensor([ -0.0500, -10.0000])
    """
    drift = schedule.drift(x, align_time(t, x))
    if drift.shape != x.shape:
        raise ValueError(
            f"{type(schedule).__name__}.drift returned shape {tuple(drift.shape)} for x of shape "
            f"{tuple(x.shape)}; a drift has the shape of its state"
        )
    return drift


def _slope(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Return the derivative of an elementwise function of time."""
    result: tuple[Tensor, ...] = torch.func.jvp(function, (t,), (torch.ones_like(t),))
    value, slope = result
    if value.shape != t.shape:
        name = getattr(function, "__qualname__", "the function")
        raise ValueError(
            f"{name} returned shape {tuple(value.shape)} for t of shape {tuple(t.shape)}; expected "
            "one value per time: use torch.ones_like(t) for a constant"
        )
    return slope
