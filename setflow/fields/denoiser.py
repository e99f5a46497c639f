"""EDM's denoiser: a network with preconditioned input and output that predicts the data.

Notation. x_t = alpha x_0 + sigma eps. With x = x_t / alpha and s = sigma / alpha the denoiser is
D = c_skip(s) x + c_out(s) F(c_in(s) x, c_noise(s)), F the network; D estimates x_0.
"""

from __future__ import annotations

from torch import Tensor, nn

from setflow.core.broadcast import align_right, expand_time
from setflow.core.calling import call_field
from setflow.core.masks import zero_padding
from setflow.core.protocols import event_ndim_of
from setflow.core.specs import split_event
from setflow.fields.base import VectorField
from setflow.schedules import EDMPreconditioning, NoiseSchedule

__all__ = ["EDMDenoiser"]


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
        c: Tensor | None = None,
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
        t = expand_time(t, lead, like=x)
        alpha = self.schedule.alpha(t)
        sigma = self.schedule.sigma(t) / alpha
        x = zero_padding(x, mask) / align_right(alpha, x.ndim)
        coefficients = self._preconditioning
        scaled = align_right(coefficients.c_in(sigma), x.ndim) * x
        inner = call_field(self.network, scaled, coefficients.c_noise(sigma), c, mask)
        c_skip = align_right(coefficients.c_skip(sigma), x.ndim)
        c_out = align_right(coefficients.c_out(sigma), x.ndim)
        return zero_padding(c_skip * x + c_out * inner, mask)
