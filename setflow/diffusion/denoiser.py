"""EDM's denoiser: a network with preconditioned input and output that predicts the data.

Notation. x_t = alpha x_0 + sigma eps. With x = x_t / alpha and s = sigma / alpha the denoiser is
D = c_skip(s) x + c_out(s) F(c_in(s) x, c_noise(s)), F the network; D estimates x_0. In terms of x_t
and T = sigma^2 + (alpha sigma_data)^2 it is
(alpha sigma_data^2 / T) x_t + (sigma sigma_data / sqrt T) F(x_t / sqrt T, c_noise(s)).
"""

from __future__ import annotations

from torch import Tensor, nn

from setflow.diffusion.parameterization import refuse_angles
from setflow.diffusion.preconditioning import EDMPreconditioning
from setflow.diffusion.schedule import NoiseSchedule, check_schedule
from setflow.fields.base import VectorField
from setflow.sets.context import Context
from setflow.sets.events import call_field
from setflow.sets.masks import zero_padding
from setflow.sets.protocols import event_ndim_of
from setflow.sets.shapes import align_coefficient, expand_time, split_event

__all__ = ["EDMDenoiser"]

_SMALLEST = 1e-12  # alpha, where only the logarithm of sigma / alpha is wanted


class EDMDenoiser(VectorField):
    """A network under EDM's preconditioning; its parameterisation is `x0`.

    Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models"
    (arXiv:2206.00364), table 1: the network sees inputs of unit variance and learns targets of unit
    variance at every noise level. Train it with
    `diffusion_loss(..., parameterization="x0", weighting=EDMWeighting(sigma_data))`.

    Arguments:
        network: F, called with the scaled state and c_noise = log(s) / 4 in place of the time.
        schedule: the noise schedule.
        sigma_data: the standard deviation of the data, positive.

    >>> network, schedule = setflow.VelocityField(dim=2, hidden=16), setflow.EDMSchedule()
    >>> EDMDenoiser(network, schedule, sigma_data=1.0)(torch.randn(8, 2), 0.5).shape
    torch.Size([8, 2])
    """

    takes_mask = True

    def __init__(
        self, network: nn.Module, schedule: NoiseSchedule, sigma_data: float = 0.5
    ) -> None:
        super().__init__()
        check_schedule(schedule)
        refuse_angles(network)
        self.network = network
        self.schedule = schedule
        self.sigma_data = sigma_data
        self._preconditioning = EDMPreconditioning(sigma_data)

    @property
    def event_ndim(self) -> int:
        return event_ndim_of(self.network)

    def forward(
        self,
        x: Tensor,
        t: Tensor | float,
        c: Context | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the estimate of the data, with the shape of `x`, zero in padded slots.

        Arguments:
            x: the noisy state, with shape `(*lead, *event_shape)`.
            t: the time, a number or a tensor with shape `lead`.
            c: the context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object.
            mask: boolean mask with shape `(*lead, N)`, or None for all real.
        """
        lead, _ = split_event(x, self.event_ndim)
        t = self.schedule.regular_time(expand_time(t, lead, like=x))
        x = zero_padding(x, mask)
        alpha = align_coefficient(self.schedule.alpha(t), t, x, "alpha")
        sigma = align_coefficient(self.schedule.sigma(t), t, x, "sigma")
        # written in x_t = alpha x, so that nothing is divided by an alpha of zero
        total = sigma**2 + (alpha * self.sigma_data) ** 2
        noise_level = self.schedule.sigma(t) / self.schedule.alpha(t).clamp(min=_SMALLEST)
        inner = call_field(
            self.network, x / total.sqrt(), self._preconditioning.c_noise(noise_level), c, mask
        )
        skip = alpha * self.sigma_data**2 / total
        out = sigma * self.sigma_data / total.sqrt()
        return zero_padding(skip * x + out * inner, mask)
