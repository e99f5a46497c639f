"""Affine paths, the straight one and the trigonometric one.

Notation. x_t = alpha(t) x_target + sigma(t) x_source with alpha(0) = sigma(1) = 1, alpha(1) =
sigma(0) = 0; its velocity, the regression target, is u_t = alpha'(t) x_target + sigma'(t) x_source.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from setflow.paths.base import ProbabilityPath
from setflow.sets.shapes import align_coefficient, align_time

__all__ = ["AffinePath", "CosinePath", "LinearPath"]

_QUARTER_TURN = math.pi / 2


class AffinePath(ProbabilityPath):
    """A path x_t = alpha(t) x_target + sigma(t) x_source, given by four functions of time."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Return the coefficient of the data, with the shape of `t`."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Return the coefficient of the noise, with the shape of `t`."""

    @abstractmethod
    def alpha_dot(self, t: Tensor) -> Tensor:
        """Return the time derivative of `alpha`, with the shape of `t`."""

    @abstractmethod
    def sigma_dot(self, t: Tensor) -> Tensor:
        """Return the time derivative of `sigma`, with the shape of `t`."""

    def sample_xt(self, x_target: Tensor, x_source: Tensor, t: Tensor) -> Tensor:
        return _mixed(x_target, x_source, t, ("alpha", self.alpha(t)), ("sigma", self.sigma(t)))

    def target_ut(self, x_target: Tensor, x_source: Tensor, t: Tensor) -> Tensor:
        alpha_dot, sigma_dot = self.alpha_dot(t), self.sigma_dot(t)
        return _mixed(x_target, x_source, t, ("alpha_dot", alpha_dot), ("sigma_dot", sigma_dot))


def _mixed(
    x_target: Tensor, x_source: Tensor, t: Tensor, *coefficients: tuple[str, Tensor]
) -> Tensor:
    """Return the sum of data and noise, each times its named coefficient at `t`."""
    _require_equal_shapes(x_target, x_source)
    of_data, of_noise = (
        align_coefficient(values, t, x_target, name) for name, values in coefficients
    )
    return of_data * x_target + of_noise * x_source


def _require_equal_shapes(x_target: Tensor, x_source: Tensor) -> None:
    if x_target.shape != x_source.shape:
        raise ValueError(
            f"x_source has shape {tuple(x_source.shape)}, x_target {tuple(x_target.shape)}; "
            "expected equal shapes, one noise value per coordinate"
        )


class LinearPath(AffinePath):
    """Straight lines between data and noise.

    x_t = (1 - t) x_target + t x_source and u_t = x_source - x_target, the optimal-transport path of
    Lipman et al., "Flow Matching for Generative Modeling" (arXiv:2210.02747), with their time
    reversed: here t = 0 is data.

    >>> import torch
    >>> x_target, x_source = torch.zeros(4, 2), torch.ones(4, 2)
    >>> LinearPath().sample_xt(x_target, x_source, torch.full((4,), 0.25))[0]
    tensor([0.2500, 0.2500])
    """

    def sample_xt(self, x_target: Tensor, x_source: Tensor, t: Tensor) -> Tensor:
        _require_equal_shapes(x_target, x_source)
        t = align_time(t, x_target)
        return (1 - t) * x_target + t * x_source

    def target_ut(self, x_target: Tensor, x_source: Tensor, t: Tensor) -> Tensor:
        _require_equal_shapes(x_target, x_source)
        align_time(t, x_target)  # a time of another shape is refused, though it does not matter
        return x_source - x_target

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class CosinePath(AffinePath):
    """A variance-preserving path: alpha(t)^2 + sigma(t)^2 = 1 at every time.

    The trigonometric interpolant of Albergo and Vanden-Eijnden, "Building Normalizing Flows with
    Stochastic Interpolants" (arXiv:2209.15571).

    >>> import torch
    >>> t = torch.tensor([0.0, 0.3, 0.5])
    >>> variance = CosinePath().alpha(t) ** 2 + CosinePath().sigma(t) ** 2
    >>> torch.allclose(variance, torch.ones(3))
    True
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(_QUARTER_TURN * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(_QUARTER_TURN * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -_QUARTER_TURN * torch.sin(_QUARTER_TURN * t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return _QUARTER_TURN * torch.cos(_QUARTER_TURN * t)
