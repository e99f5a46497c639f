"""The variance-preserving schedule: alpha^2 + sigma^2 = 1 at every time."""

from __future__ import annotations

import torch
from torch import Tensor

from setflow.diffusion.schedule import BoundedSchedule
from setflow.sets.shapes import align_time

__all__ = ["VPSchedule"]


class VPSchedule(BoundedSchedule):
    """dx = -beta(t) x / 2 dt + sqrt(beta(t)) dW, with a rate of noise beta linear in t.

    Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations"
    (arXiv:2011.13456), the continuous form of Ho et al., "Denoising Diffusion Probabilistic Models"
    (arXiv:2006.11239). With B(t) the integral of beta from 0 to t, alpha = exp(-B / 2) and
    sigma^2 = 1 - exp(-B), computed so that small times lose no digits.

    Its ends: sigma(0) = 0, where the signal-to-noise ratio and the derivative of sigma are
    infinite; and with the default arguments alpha(1) = 0.0066, so that noise N(0, sigma(1)^2) at
    t = 1 is nearly, not exactly, what becomes of the data.

    Arguments:
        beta_min: the rate at t = 0, positive.
        beta_max: the rate at t = 1, larger.
        learned: whether both are parameters, initially these.

    Raises:
        ValueError: unless 0 < beta_min < beta_max.

    >>> schedule, t = VPSchedule(), torch.tensor([0.0, 0.5, 1.0])
    >>> schedule.alpha(t)
    tensor([1.0000, 0.2812, 0.0066])
    """

    def __init__(
        self, beta_min: float = 0.1, beta_max: float = 20.0, *, learned: bool = False
    ) -> None:
        super().__init__(beta_min, beta_max, "beta", learned=learned)

    @property
    def beta_min(self) -> float | Tensor:
        """The rate at t = 0: a number, or a scalar tensor if it is learned."""
        return self.ends()[0]

    @property
    def beta_max(self) -> float | Tensor:
        """The rate at t = 1: a number, or a scalar tensor if it is learned."""
        return self.ends()[1]

    def beta(self, t: Tensor) -> Tensor:
        """Return the rate of noise, with the shape of `t`."""
        low, high = self.ends_for(t)
        return low + (high - low) * t

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self._integral(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t) * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """Return the time derivative of `sigma`, with the shape of `t`; infinite at t = 0."""
        return 0.5 * self.beta(t) * torch.exp(-self._integral(t)) / self.sigma(t)

    def snr(self, t: Tensor) -> Tensor:
        return 1 / torch.expm1(self._integral(t))

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -0.5 * align_time(self.beta(t), x) * x

    def diffusion(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()

    def _integral(self, t: Tensor) -> Tensor:
        low, high = self.ends_for(t)
        return (low + 0.5 * (high - low) * t) * t
