"""Denoising losses of diffusion models, for every parameterisation, and their weightings.

Notation. x_t = alpha(t) x_0 + sigma(t) eps with data x_0 and standard normal eps; SNR = alpha^2 /
sigma^2. A model predicts eps, the score -eps / sigma, x_0, or the velocity alpha' x_0 + sigma' eps.
Errors of these predictions are multiples of one another, so a weighting w(SNR) is stated on the
squared error of x_0 and means the same for every parameterisation; without one, each has the
squared error that is usual for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from setflow.diffusion.parameterization import (
    Parameterization,
    check_parameterization,
    error_factor,
    refuse_angles,
)
from setflow.diffusion.schedule import NoiseSchedule, check_schedule, smallest_time
from setflow.losses.means import Reduction, regression_loss
from setflow.sets.arrays import Array, shown
from setflow.sets.context import GivenContext
from setflow.sets.events import Events
from setflow.sets.finite import refuse_not_finite
from setflow.sets.masks import is_readable
from setflow.sets.shapes import align_coefficient
from setflow.timesteps import TimeSampling, times_of

__all__ = [
    "EDMWeighting",
    "MinSNRWeighting",
    "SNRWeighting",
    "Weighting",
    "diffusion_loss",
    "masked_diffusion_loss",
]

Weighting = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SNRWeighting:
    """w = SNR^power: 1 is the squared error of eps, 0 that of x_0.

    Kingma et al., "Variational Diffusion Models" (arXiv:2107.00630).

    Arguments:
        power: the exponent.

    >>> SNRWeighting()(torch.tensor([0.5, 4.0]))
    tensor([0.5000, 4.0000])
    """

    power: float = 1.0

    def __call__(self, snr: Tensor) -> Tensor:
        """Return the weights, with the shape of `snr`."""
        return snr**self.power


@dataclass(frozen=True)
class MinSNRWeighting:
    """w = min(SNR, gamma): times of little noise do not dominate.

    Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy" (arXiv:2303.09556).

    Arguments:
        gamma: the largest weight, positive.

    >>> MinSNRWeighting(gamma=2.0)(torch.tensor([0.5, 4.0]))
    tensor([0.5000, 2.0000])
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"gamma must be positive, got {self.gamma}")

    def __call__(self, snr: Tensor) -> Tensor:
        """Return the weights, with the shape of `snr`."""
        return snr.clamp(max=self.gamma)


@dataclass(frozen=True)
class EDMWeighting:
    """w = SNR + 1 / sigma_data^2, with which a preconditioned network's targets weigh alike.

    Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models"
    (arXiv:2206.00364), lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2.

    Arguments:
        sigma_data: the standard deviation of the data, positive.

    >>> EDMWeighting(sigma_data=0.5)(torch.tensor([0.5, 4.0]))
    tensor([4.5000, 8.0000])
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, got {self.sigma_data}")

    def __call__(self, snr: Tensor) -> Tensor:
        """Return the weights, with the shape of `snr`."""
        return snr + 1 / self.sigma_data**2


def diffusion_loss(
    model: nn.Module,
    x_target: Array,
    schedule: NoiseSchedule,
    t: Array | float | None = None,
    c: GivenContext | None = None,
    *,
    parameterization: Parameterization = "eps",
    noise: Array | None = None,
    weighting: Weighting | None = None,
    times: TimeSampling | None = None,
    reduction: Reduction = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the denoising loss of a diffusion model on events that are all real.

    Ho et al., "Denoising Diffusion Probabilistic Models" (arXiv:2006.11239), and Vincent, "A
    Connection Between Score Matching and Denoising Autoencoders" (Neural Computation 23, 2011). For
    sets with padding take `masked_diffusion_loss`, whose arguments these are, without the mask.

    Without a weighting: `|eps_hat - eps|^2`; `sigma^2 |score_hat - score|^2`, the same as that of
    eps; `|x_0_hat - x_0|^2`; `|v_hat - v|^2`, whose target has no finite variance where sigma' is
    infinite (`VPSchedule` at t = 0), so that it wants a weighting there. Times are kept away from 0
    and 1 by the resolution of their dtype, so that nothing is divided by zero.

    Arguments:
        model: predicts what `parameterization` says, with `forward(x, t, c=None)` and `event_ndim`.
        x_target: data, with shape `(*lead, *event_shape)`.
        schedule: the noise schedule.
        t: times, a number or a tensor with shape `lead`; None draws them.
        c: context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object; or a
            `SetBatch` for another set per event.
        parameterization: `eps`, `score`, `x0` or `velocity`.
        noise: standard normal noise, with the shape of `x_target`; None draws it.
        weighting: a function of the signal-to-noise ratio that weighs the squared error of x_0,
            such as `SNRWeighting()`, `MinSNRWeighting()` or `EDMWeighting()`.
        times: the density of the times and their weight; None takes uniform times and no weight.
        reduction: `mean` or `sum` over events, or `none`.
        generator: the random generator for `t` and `noise`.

    Returns:
        A scalar, or one loss per event with shape `lead` for `reduction="none"`.

    Raises:
        ValueError: if the model has no `event_ndim`, shapes do not fit, or a word is unknown.

    >>> model, schedule = setflow.VelocityField(dim=2, hidden=16), setflow.VPSchedule()
    >>> diffusion_loss(model, torch.randn(64, 2), schedule, parameterization="x0").shape
    torch.Size([])
    """
    return masked_diffusion_loss(
        model, x_target, schedule, None, t, c, parameterization=parameterization, noise=noise,
        weighting=weighting, times=times, reduction=reduction, generator=generator,
    )  # fmt: skip


def masked_diffusion_loss(
    model: nn.Module,
    x_target: Array,
    schedule: NoiseSchedule,
    mask: Array | None,
    t: Array | float | None = None,
    c: GivenContext | None = None,
    *,
    parameterization: Parameterization = "eps",
    noise: Array | None = None,
    weighting: Weighting | None = None,
    times: TimeSampling | None = None,
    present: Array | None = None,
    reduction: Reduction = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the loss of `diffusion_loss` over real objects only.

    Arguments, return value and errors are those of `diffusion_loss`, and `mask` and `present` are
    those of `masked_fm_loss`; padded slots of `x_target` and `noise` may hold anything.

    >>> model = setflow.TransformerField(3, hidden=16, layers=1, heads=2)
    >>> x, mask = torch.randn(8, 30, 3), torch.rand(8, 30) > 0.5
    >>> setflow.masked_diffusion_loss(model, x, setflow.VPSchedule(), mask).shape
    torch.Size([])
    """
    check_parameterization(parameterization)
    check_schedule(schedule)
    refuse_angles(model)
    if isinstance(weighting, type) or not callable(weighting or max):
        raise TypeError(
            f"weighting is {shown(weighting)}, expected an object such as SNRWeighting()"
        )
    events = Events.of(model, x_target, mask, c=c, name="x_target", present=present)
    x_0 = events.x
    smallest = smallest_time(x_0.dtype)
    t, _ = times_of(events, t, times, generator)  # the weights are those of the clamped times
    t = t.clamp(smallest, 1 - smallest)
    noise = events.drawn_noise(generator) if noise is None else events.noise(noise, "noise")
    alpha = align_coefficient(schedule.alpha(t), t, x_0, "alpha")
    sigma = align_coefficient(schedule.sigma(t), t, x_0, "sigma")
    x_t = alpha * x_0 + sigma * noise
    scale = None
    # the score is compared as sigma times itself, which is finite where it is not
    compared: Parameterization = "eps" if parameterization == "score" else parameterization
    if parameterization == "x0":
        target = x_0
    elif parameterization == "eps":
        target = noise
    elif parameterization == "score":
        target, scale = -noise, sigma
    else:
        alpha_dot = align_coefficient(schedule.alpha_dot(t), t, x_0, "alpha_dot")
        sigma_dot = align_coefficient(schedule.sigma_dot(t), t, x_0, "sigma_dot")
        target = alpha_dot * x_0 + sigma_dot * noise
    weight = None if times is None else times.weight(t)
    if weighting is not None:
        chosen = weighting(schedule.snr(t))
        if chosen.shape != t.shape:
            raise ValueError(
                f"the weighting returned shape {tuple(chosen.shape)}, expected {tuple(t.shape)}: "
                "one per event"
            )
        on_x_0 = chosen / error_factor(t, schedule, compared) ** 2
        weight = on_x_0 if weight is None else weight * on_x_0
    moved = replace(events.at(x_t, t), weights=weight)
    loss = regression_loss(model, moved, target, reduction=reduction, scale=scale)
    if loss.device.type == "cpu" and is_readable(loss) and not bool(loss.isfinite().all()):
        refuse_not_finite("the loss", events, x_target=x_0, noise=noise)
    return loss
