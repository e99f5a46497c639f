"""Preconditioning: what is put around a network so that its input and its target have size one.

Notation. Data x_0 of standard deviation sigma_data and noise of standard deviation sigma are added,
y = x_0 + sigma eps. The denoiser is D(y; sigma) = c_skip y + c_out F(c_in y, c_noise) with the
network F, whose regression target is (x_0 - c_skip y) / c_out.

For a schedule with another alpha than 1 take y = x_t / alpha and sigma / alpha in the place of
sigma: x_t / alpha = x_0 + (sigma / alpha) eps.
"""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["EDMPreconditioning"]


class EDMPreconditioning:
    """The preconditioning of EDM, and the weight that goes with it.

    Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models"
    (arXiv:2206.00364), table 1: c_in y and the network's target have unit variance, and c_skip
    makes c_out, by which errors of the network are multiplied, as small as it can be. All functions
    act on each element of `sigma`, which must be positive.

    Arguments:
        sigma_data: the standard deviation of the data, positive.

    Raises:
        ValueError: if `sigma_data` is not positive.

    >>> scaling, sigma = EDMPreconditioning(sigma_data=0.5), torch.tensor([0.5])
    >>> scaling.c_skip(sigma), scaling.c_out(sigma) ** 2
    (tensor([0.5000]), tensor([0.1250]))
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        if not 0 < sigma_data < math.inf:
            raise ValueError(
                f"EDMPreconditioning got sigma_data={sigma_data}, expected a finite number above "
                "0: the standard deviation of the data"
            )
        self.sigma_data = float(sigma_data)

    def __repr__(self) -> str:
        return f"EDMPreconditioning(sigma_data={self.sigma_data:.6g})"

    def c_skip(self, sigma: Tensor) -> Tensor:
        """Return the coefficient of the noisy input in the denoised output."""
        return self.sigma_data**2 / self._variance(sigma)

    def c_out(self, sigma: Tensor) -> Tensor:
        """Return the coefficient of the network in the denoised output."""
        return sigma * self.sigma_data / self._variance(sigma).sqrt()

    def c_in(self, sigma: Tensor) -> Tensor:
        """Return the coefficient of the noisy input in front of the network."""
        return self._variance(sigma).rsqrt()

    def c_noise(self, sigma: Tensor) -> Tensor:
        """Return what the network is told of the noise level: log(sigma) / 4."""
        return sigma.log() / 4

    def weight(self, sigma: Tensor) -> Tensor:
        """Return the weight 1 / c_out^2 of the denoiser's squared error.

        With it the squared error of the network itself counts alike at every noise level.
        """
        return self._variance(sigma) / (sigma * self.sigma_data) ** 2

    def _variance(self, sigma: Tensor) -> Tensor:
        return sigma**2 + self.sigma_data**2
