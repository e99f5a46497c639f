"""How much noise a stochastic interpolant adds on its way.

Notation. x_t = I(x_target, x_source, t) + gamma(t) z with z ~ N(0, 1) in every coordinate, drawn
apart from the two ends; `gamma` vanishes at t = 0 (data) and at t = 1 (noise), so that both ends
stay what they are. The regression target is dI/dt + gamma'(t) z. Albergo, Boffi and Vanden-Eijnden,
"Stochastic Interpolants: A Unifying Framework for Flows and Diffusions" (arXiv:2303.08797).

Of a Brownian bridge, gamma = sqrt(t (1 - t)), gamma' grows without bound towards both ends, and the
mean over uniform times of the target's variance, the integral of gamma'^2, diverges; between 1e-3
and 1 - 1e-3 it is 2.45. Hence every schedule says in `time_range` where to draw times. The product
gamma gamma' = (1 - 2t) / 2, which the drift needs, is finite everywhere.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["BrownianGamma", "GammaSchedule", "ScaledBrownianGamma", "ZeroGamma", "as_gamma"]


class GammaSchedule(ABC):
    """A schedule of one's own needs `gamma` and `gamma_dot` and nothing else.

    All three functions take times of any shape and return values of that shape. Where `gamma_dot`
    is infinite at an end, override `gamma_gamma_dot` with its limit and narrow `time_range`.
    """

    time_range: tuple[float, float] = (0.0, 1.0)
    """The lowest and the highest time at which to train: there the target's variance is finite."""

    @abstractmethod
    def gamma(self, t: Tensor) -> Tensor:
        """Return the standard deviation of the added noise, with the shape of `t`."""

    @abstractmethod
    def gamma_dot(self, t: Tensor) -> Tensor:
        """Return the time derivative of `gamma`, with the shape of `t`."""

    def gamma_gamma_dot(self, t: Tensor) -> Tensor:
        """Return gamma(t) gamma'(t), half the rate at which the variance grows."""
        return self.gamma(t) * self.gamma_dot(t)


@dataclass(frozen=True)
class ScaledBrownianGamma(GammaSchedule):
    """gamma(t) = sqrt(scale t (1 - t)), the standard deviation of a Brownian bridge.

    "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions" (arXiv:2303.08797).

    Arguments:
        scale: the variance that the bridge would gain per unit of time, positive.
        eps: the floor of gamma^2, positive, so that `gamma_dot` is finite at both ends. It is never
            lower than the smallest normal number of the dtype.

    Raises:
        ValueError: if `scale` or `eps` is not a positive number.

    >>> ScaledBrownianGamma(4.0).gamma(torch.tensor([0.0, 0.5]))
    tensor([1.0000e-06, 1.0000e+00])
    """

    scale: float = 1.0
    eps: float = 1e-12

    time_range = (1e-3, 1 - 1e-3)  # no annotation: not an argument

    def __post_init__(self) -> None:
        for name, value in (("scale", self.scale), ("eps", self.eps)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(
                    f"{name} must be a positive number, got {value}"
                    + ("; without noise use ZeroGamma()" if name == "scale" else "")
                )

        if self.eps >= self.scale / 4:
            raise ValueError(
                f"eps must be below the maximum of gamma^2, {self.scale / 4:g}, got {self.eps}: it "
                "is the floor of gamma^2; the amplitude is that of ScaledBrownianGamma(scale)"
            )

    def gamma(self, t: Tensor) -> Tensor:
        variance = self.scale * t * (1 - t)
        return variance.clamp(min=max(self.eps, torch.finfo(variance.dtype).tiny)).sqrt()

    def gamma_dot(self, t: Tensor) -> Tensor:
        return self.gamma_gamma_dot(t) / self.gamma(t)

    def gamma_gamma_dot(self, t: Tensor) -> Tensor:
        """Return scale (1 - 2t) / 2, exact also at the ends."""
        return self.scale * (0.5 - t)


class BrownianGamma(ScaledBrownianGamma):
    """gamma(t) = sqrt(t (1 - t)): a `ScaledBrownianGamma` with scale 1.

    Arguments:
        eps: the floor of gamma^2, positive.

    Raises:
        ValueError: if `eps` is not a positive number.

    >>> BrownianGamma().gamma_gamma_dot(torch.tensor([0.0, 0.5, 1.0]))
    tensor([ 0.5000,  0.0000, -0.5000])
    """

    def __init__(self, eps: float = 1e-12) -> None:
        super().__init__(scale=1.0, eps=eps)

    def __repr__(self) -> str:
        return f"BrownianGamma(eps={self.eps})"


@dataclass(frozen=True)
class ZeroGamma(GammaSchedule):
    """gamma(t) = 0: no noise is added, and the interpolant is the path itself.

    >>> ZeroGamma().gamma(torch.rand(3))
    tensor([0., 0., 0.])
    """

    def gamma(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def gamma_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)


class _HasGamma(Protocol):
    def gamma(self, t: Tensor) -> Tensor: ...

    def gamma_dot(self, t: Tensor) -> Tensor: ...


class _Adapted(GammaSchedule):
    """A user's object that inherits nothing; what it says beyond the two functions counts."""

    def __init__(self, schedule: _HasGamma) -> None:
        self.schedule = schedule
        self.time_range = getattr(schedule, "time_range", GammaSchedule.time_range)

    def gamma(self, t: Tensor) -> Tensor:
        return self.schedule.gamma(t)

    def gamma_dot(self, t: Tensor) -> Tensor:
        return self.schedule.gamma_dot(t)

    def gamma_gamma_dot(self, t: Tensor) -> Tensor:
        product = getattr(self.schedule, "gamma_gamma_dot", super().gamma_gamma_dot)
        value: Tensor = product(t)
        return value


def as_gamma(schedule: GammaSchedule | _HasGamma) -> GammaSchedule:
    """Return `schedule` as a `GammaSchedule`.

    Arguments:
        schedule: a `GammaSchedule`, which is returned as it is, or any object with `gamma(t)` and
            `gamma_dot(t)`; unless it says otherwise, its product is the plain one and its times
            run from 0 to 1.

    Raises:
        TypeError: if it has not both functions.

    >>> as_gamma(BrownianGamma()).time_range
    (0.001, 0.999)
    """
    if isinstance(schedule, GammaSchedule):
        return schedule
    missing = [name for name in ("gamma", "gamma_dot") if not hasattr(schedule, name)]
    if missing or isinstance(schedule, type):
        raise TypeError(
            f"expected a gamma schedule, an object with gamma(t) and gamma_dot(t), got "
            f"{schedule!r}; BrownianGamma() is the usual one, ZeroGamma() adds no noise"
        )
    return _Adapted(schedule)
