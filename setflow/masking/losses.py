"""The losses over real objects."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from setflow.core.calling import Context
from setflow.core.protocols import Path
from setflow.interpolants.gamma import GammaSchedule
from setflow.losses.diffusion import Weighting, denoising_loss
from setflow.losses.flow_matching import flow_matching_loss, stochastic_flow_matching_loss
from setflow.losses.means import Reduction
from setflow.losses.regression import checked_events
from setflow.schedules import NoiseSchedule, Parameterization
from setflow.timesteps import TimeSampling

__all__ = ["masked_diffusion_loss", "masked_fm_loss", "masked_stochastic_fm_loss"]


def masked_fm_loss(
    field: nn.Module,
    x_target: Tensor,
    x_source: Tensor,
    mask: Tensor | None,
    t: Tensor | float | None = None,
    c: Context | None = None,
    *,
    path: Path | None = None,
    times: TimeSampling | None = None,
    reduction: Reduction = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the flow-matching loss over real objects only.

    Lipman et al., "Flow Matching for Generative Modeling" (arXiv:2210.02747), with a mask: per
    object the mean of the squared error over features, per event the mean over its real objects,
    then `reduction` over events.

    Arguments:
        field: the velocity field, with `forward(x, t, c=None)` and `event_ndim` of at least 2; one
            that declares `takes_mask = True` is also given `mask=`, and may be called with the
            events in another order and without their padding, unless it declares `holds_context`.
        x_target: data, with shape `(*lead, N, ...)`; padded slots may hold anything.
        x_source: noise, with the shape of `x_target`.
        mask: which slots are real, with shape `(*lead, N)`; boolean, or 0 and 1; None means all.
        t: times, a number or a tensor with shape `lead`; None draws them, one per event.
        c: context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object; or a
            `SetBatch` for another set per event.
        path: the path between data and noise; None takes `LinearPath`.
        times: the density of the times, which may depend on the number of real objects, and the
            weight of the events, also of those whose `t` is given; None takes uniform times and no
            weight.
        reduction: `mean` or `sum` over events, or `none`; an event without objects counts as 0.
        generator: the random generator for `t`.

    Returns:
        A scalar, or one loss per event with shape `lead` for `reduction="none"`.

    Raises:
        ValueError: if shapes do not fit, or the mask holds values other than 0 and 1.

    >>> field = setflow.TransformerField(3, hidden=16, layers=1, heads=2)
    >>> x, mask = torch.randn(8, 30, 3), torch.rand(8, 30) > 0.5
    >>> setflow.masked_fm_loss(field, x, torch.randn_like(x), mask).shape
    torch.Size([])
    """
    events = checked_events(field, x_target, mask, sets_only=True)
    return flow_matching_loss(
        field, events, x_source, t, c, path=path, times=times, reduction=reduction,
        generator=generator,
    )  # fmt: skip


def masked_stochastic_fm_loss(
    field: nn.Module,
    x_target: Tensor,
    x_source: Tensor,
    mask: Tensor | None,
    t: Tensor | float | None = None,
    c: Context | None = None,
    *,
    path: Path | None = None,
    gamma: GammaSchedule | None = None,
    z: Tensor | None = None,
    times: TimeSampling | None = None,
    reduction: Reduction = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the loss of `stochastic_fm_loss` over real objects only.

    Arguments, return value and errors are those of `masked_fm_loss`, and `gamma` and `z` those of
    `stochastic_fm_loss`; padded slots of `z` may hold anything.

    >>> field = setflow.TransformerField(3, hidden=16, layers=1, heads=2)
    >>> x, mask = torch.randn(8, 30, 3), torch.rand(8, 30) > 0.5
    >>> setflow.masked_stochastic_fm_loss(field, x, torch.randn_like(x), mask).shape
    torch.Size([])
    """
    events = checked_events(field, x_target, mask, sets_only=True)
    return stochastic_flow_matching_loss(
        field, events, x_source, t, c, path=path, gamma=gamma, z=z, times=times,
        reduction=reduction, generator=generator,
    )  # fmt: skip


def masked_diffusion_loss(
    model: nn.Module,
    x_target: Tensor,
    schedule: NoiseSchedule,
    mask: Tensor | None,
    t: Tensor | float | None = None,
    c: Context | None = None,
    *,
    parameterization: Parameterization = "eps",
    noise: Tensor | None = None,
    weighting: Weighting | None = None,
    times: TimeSampling | None = None,
    reduction: Reduction = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the loss of `diffusion_loss` over real objects only.

    Arguments, return value and errors are those of `diffusion_loss`, and `mask` is that of
    `masked_fm_loss`; padded slots of `x_target` and `noise` may hold anything.

    >>> model = setflow.TransformerField(3, hidden=16, layers=1, heads=2)
    >>> x, mask = torch.randn(8, 30, 3), torch.rand(8, 30) > 0.5
    >>> setflow.masked_diffusion_loss(model, x, setflow.VPSchedule(), mask).shape
    torch.Size([])
    """
    events = checked_events(model, x_target, mask, sets_only=True)
    return denoising_loss(
        model, events, schedule, t, c, parameterization=parameterization, noise=noise,
        weighting=weighting, times=times, reduction=reduction, generator=generator,
    )  # fmt: skip
