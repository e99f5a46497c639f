"""Stochastic flow matching, on events of any shape.

Notation. x_t lies on a path between data and noise, u_t is its velocity. A stochastic interpolant
adds gamma(t) z to the point and gamma'(t) z to the velocity, z standard normal.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from setflow.couplings import Coupling, coupled_noise
from setflow.losses.means import Reduction, regression_loss
from setflow.paths.affine import LinearPath
from setflow.paths.gamma import BrownianGamma, GammaSchedule, as_gamma
from setflow.paths.wrapped import WrappedPath
from setflow.sets.arrays import Array
from setflow.sets.context import GivenContext
from setflow.sets.events import Events
from setflow.sets.finite import refuse_not_finite
from setflow.sets.masks import is_readable
from setflow.sets.protocols import Path, check_path
from setflow.sets.shapes import align_coefficient
from setflow.timesteps import TimeSampling, times_of

__all__ = ["masked_stochastic_fm_loss", "stochastic_fm_loss"]


def stochastic_fm_loss(
    field: nn.Module,
    x_target: Array,
    x_source: Array,
    t: Array | float | None = None,
    c: GivenContext | None = None,
    *,
    path: Path | None = None,
    gamma: GammaSchedule | None = None,
    z: Array | None = None,
    times: TimeSampling | None = None,
    coupling: Coupling | None = None,
    reduction: Reduction = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the flow-matching loss of a stochastic interpolant.

    Albergo, Boffi, Vanden-Eijnden, "Stochastic Interpolants" (arXiv:2303.08797): the point is
    x_t + gamma(t) z, its velocity u_t + gamma'(t) z. The variance of the target is infinite where
    gamma' is, so times are drawn on `gamma.time_range` only, which is [1e-3, 1 - 1e-3] for the
    Brownian gammas. With `ZeroGamma` and the same `t` it equals `fm_loss`.

    Arguments:
        field: the velocity field, with `forward(x, t, c=None)` and `event_ndim`.
        x_target: data, with shape `(*lead, *event_shape)`.
        x_source: noise, with the shape of `x_target`.
        t: times, a number or a tensor with shape `lead`; None draws them.
        c: context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object; or a
            `SetBatch` for another set per event.
        path: the path between data and noise; None takes `LinearPath`.
        gamma: the amplitude of the noise on the path; None takes `BrownianGamma`.
        z: that noise, with the shape of `x_target`; None draws it.
        times: the density of the times and their weight; None takes uniform times and no weight.
        coupling: that of `masked_fm_loss`, of `x_source` alone, for events that are sets.
        reduction: `mean` or `sum` over events, or `none`.
        generator: the random generator for `t` and `z`.

    Returns:
        A scalar, or one loss per event with shape `lead` for `reduction="none"`.

    Raises:
        ValueError: if the field has no `event_ndim`, shapes do not fit, or `reduction` is
            another word.

    >>> field = setflow.VelocityField(dim=2, hidden=16)
    >>> x = torch.randn(64, 2)
    >>> stochastic_fm_loss(field, x, torch.randn_like(x)).shape
    torch.Size([])
    """
    return masked_stochastic_fm_loss(
        field, x_target, x_source, None, t, c, path=path, gamma=gamma, z=z, times=times,
        coupling=coupling, reduction=reduction, generator=generator,
    )  # fmt: skip


def masked_stochastic_fm_loss(
    field: nn.Module,
    x_target: Array,
    x_source: Array,
    mask: Array | None,
    t: Array | float | None = None,
    c: GivenContext | None = None,
    *,
    path: Path | None = None,
    gamma: GammaSchedule | None = None,
    z: Array | None = None,
    times: TimeSampling | None = None,
    coupling: Coupling | None = None,
    present: Array | None = None,
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
    events = Events.of(field, x_target, mask, c=c, name="x_target", present=present)
    path = LinearPath() if path is None else path
    check_path(path)
    if isinstance(path, WrappedPath):
        raise ValueError(
            f"path is {path!r}, and the noise on the path of a stochastic interpolant is that of a "
            "line; take setflow.masked_fm_loss for features that are angles"
        )
    gamma = BrownianGamma() if gamma is None else as_gamma(gamma)
    x_source = events.noise(x_source, "x_source")
    if coupling is not None:
        x_source = coupled_noise(events, x_source, coupling)
    t, weights = times_of(events, t, times, generator, within=gamma.time_range)
    z = events.drawn_noise(generator) if z is None else events.noise(z, "z")
    amplitude = align_coefficient(gamma.gamma(t), t, z, "gamma")
    rate = align_coefficient(gamma.gamma_dot(t), t, z, "gamma_dot")
    point = path.sample_xt(events.x, x_source, t) + amplitude * z
    target = path.target_ut(events.x, x_source, t) + rate * z
    moved = replace(events.at(point, t), weights=weights)
    loss = regression_loss(field, moved, target, reduction=reduction)
    if loss.device.type == "cpu" and is_readable(loss) and not bool(loss.isfinite().all()):
        refuse_not_finite("the loss", events, x_target=events.x, x_source=x_source, z=z)
    return loss
