"""Probability paths: how a noisy point at time t is made from a data point and a noise point.

Notation. `x_target` is data (t = 0), `x_source` is noise (t = 1). An affine path is
x_t = alpha(t) x_target + sigma(t) x_source with alpha(0) = sigma(1) = 1, alpha(1) = sigma(0) = 0;
its velocity, the regression target, is u_t = alpha'(t) x_target + sigma'(t) x_source.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from setflow.sets.shapes import align_coefficient

__all__ = ["AffinePath", "ProbabilityPath"]


class ProbabilityPath(ABC):
    """A path of one's own needs these two methods and nothing else.

    In both, `x_target` and `x_source` have the shape `(*lead, *event_shape)` and `t` has the shape
    `lead`; the result has the shape of `x_target`.
    """

    @abstractmethod
    def sample_xt(self, x_target: Tensor, x_source: Tensor, t: Tensor) -> Tensor:
        """Return the point at time `t` between `x_target` and `x_source`."""

    @abstractmethod
    def target_ut(self, x_target: Tensor, x_source: Tensor, t: Tensor) -> Tensor:
        """Return the velocity of that point, the target of the regression."""


class AffinePath(ProbabilityPath):
    """A path x_t = alpha(t) x_target + sigma(t) x_source, given by four functions of time."""

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
        _check_same_shape(x_target, x_source)
        alpha = align_coefficient(self.alpha(t), t, x_target, "alpha")
        sigma = align_coefficient(self.sigma(t), t, x_target, "sigma")
        return alpha * x_target + sigma * x_source

    def target_ut(self, x_target: Tensor, x_source: Tensor, t: Tensor) -> Tensor:
        _check_same_shape(x_target, x_source)
        alpha_dot = align_coefficient(self.alpha_dot(t), t, x_target, "alpha_dot")
        sigma_dot = align_coefficient(self.sigma_dot(t), t, x_target, "sigma_dot")
        return alpha_dot * x_target + sigma_dot * x_source


def _check_same_shape(x_target: Tensor, x_source: Tensor) -> None:
    if x_target.shape != x_source.shape:
        raise ValueError(
            f"x_source has shape {tuple(x_source.shape)}, x_target {tuple(x_target.shape)}; "
            "expected equal shapes, one noise value per coordinate"
        )
