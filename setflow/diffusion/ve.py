"""The variance-exploding schedule: noise is added to the data, which keep their size."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from setflow.diffusion.schedule import BoundedSchedule

__all__ = ["VESchedule"]


class VESchedule(BoundedSchedule):
    """alpha = 1 and sigma(t) = sigma_min (sigma_max / sigma_min)^t.

    Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations"
    (arXiv:2011.13456), the continuous form of Song and Ermon, "Generative Modeling by Estimating
    Gradients of the Data Distribution" (arXiv:1907.05600). sigma(0) = sigma_min: a sample at t = 0
    still carries that noise. At t = 1 the noise N(0, sigma_max^2) fits if sigma_max is large
    against the spread of the data.

    Arguments:
        sigma_min: sigma at t = 0, positive.
        sigma_max: sigma at t = 1, larger.
        learned: whether both are parameters, initially these.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max.

    >>> VESchedule().sigma(torch.tensor([0.0, 0.5, 1.0]))
    tensor([1.0000e-02, 7.0711e-01, 5.0000e+01])
    """

    def __init__(
        self, sigma_min: float = 0.01, sigma_max: float = 50.0, *, learned: bool = False
    ) -> None:
        super().__init__(sigma_min, sigma_max, "sigma", learned=learned)

    @property
    def sigma_min(self) -> float | Tensor:
        """Sigma at t = 0: a number, or a scalar tensor if it is learned."""
        return self.ends()[0]

    @property
    def sigma_max(self) -> float | Tensor:
        """Sigma at t = 1: a number, or a scalar tensor if it is learned."""
        return self.ends()[1]

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        low, high = self.ends_for(t)
        return low * (high / low) ** t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self._growth(t) * self.sigma(t)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def diffusion(self, t: Tensor) -> Tensor:
        return (2 * self._growth(t)) ** 0.5 * self.sigma(t)

    def _growth(self, t: Tensor) -> float | Tensor:
        """Return the logarithm of sigma_max / sigma_min."""
        low, high = self.ends_for(t)
        ratio = high / low
        return ratio.log() if isinstance(ratio, Tensor) else math.log(ratio)
