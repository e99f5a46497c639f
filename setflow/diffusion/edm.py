"""The schedule of EDM: noise levels that are equally spaced in the power 1/rho."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from setflow.diffusion.schedule import BoundedSchedule

__all__ = ["EDMSchedule"]


class EDMSchedule(BoundedSchedule):
    """alpha = 1 and sigma(t) = (sigma_min^(1/rho) + t (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho.

    Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models"
    (arXiv:2206.00364). There time is sigma itself, and the formula (equation 5) places the steps of
    the sampler; here it is the meaning of t in [0, 1], so that equal steps in t are those steps.
    (Documents of other libraries give "sigma(t) = t" and "sigma(0) = 0" for this schedule: neither
    holds, sigma(0) = sigma_min.) At t = 1 the noise N(0, sigma_max^2) fits if sigma_max is large
    against the spread of the data.

    Arguments:
        sigma_min: sigma at t = 0, positive.
        sigma_max: sigma at t = 1, larger.
        rho: the exponent, positive; larger values spend more of the time at little noise.
        learned: whether both ends are parameters, initially these; rho is not.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max and rho > 0.

    >>> EDMSchedule().sigma(torch.tensor([0.0, 0.5, 1.0]))
    tensor([2.0000e-03, 2.5152e+00, 8.0000e+01])
    """

    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        *,
        learned: bool = False,
    ) -> None:
        super().__init__(sigma_min, sigma_max, "sigma", learned=learned)
        if not 0 < rho < math.inf:
            raise ValueError(f"EDMSchedule got rho={rho}, expected a finite number above 0")
        self.rho = float(rho)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rho={self.rho:.6g}"

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
        root, _ = self._root(t)
        return root**self.rho

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        root, slope = self._root(t)
        return self.rho * slope * root ** (self.rho - 1)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def diffusion(self, t: Tensor) -> Tensor:
        root, slope = self._root(t)
        return (2 * self.rho * slope) ** 0.5 * root ** (self.rho - 0.5)

    def _root(self, t: Tensor) -> tuple[Tensor, float | Tensor]:
        """Return sigma(t)^(1/rho), which is linear in t, and its slope."""
        low, high = (end ** (1 / self.rho) for end in self.ends_for(t))
        return low + (high - low) * t, high - low
