"""The flow-matching loss of sets."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from setflow.couplings import Coupling, coupled_noise
from setflow.losses.means import Reduction, regression_loss
from setflow.paths.affine import LinearPath
from setflow.paths.wrapped import WrappedPath
from setflow.sets.arrays import Array
from setflow.sets.context import GivenContext
from setflow.sets.events import Events
from setflow.sets.finite import refuse_not_finite
from setflow.sets.masks import is_readable
from setflow.sets.protocols import Path, check_path
from setflow.timesteps import TimeSampling, times_of

__all__ = ["fm_loss", "loss_of_events", "masked_fm_loss"]


def masked_fm_loss(
    field: nn.Module,
    x_target: Array,
    x_source: Array,
    mask: Array | None,
    t: Array | float | None = None,
    c: GivenContext | None = None,
    *,
    path: Path | None = None,
    times: TimeSampling | None = None,
    coupling: Coupling | None = None,
    present: Array | None = None,
    reduction: Reduction = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the flow-matching loss over real objects only.

    Lipman et al., "Flow Matching for Generative Modeling" (arXiv:2210.02747), with a mask: per
    object the mean of the squared error over its features, per event the mean over real objects,
    then `reduction` over events.

    Arguments:
        field: the velocity field, with `forward(x, t, c=None)` and `event_ndim`, at least 2 if
            there is a mask; one that declares `takes_mask = True` is also given `mask=`, and may be
            called with the events in another order and without their padding, unless it declares
            `holds_context`.
        x_target: data, with shape `(*lead, N, ...)`; padded slots may hold anything.
        x_source: noise, with the shape of `x_target`.
        mask: which slots are real, with shape `(*lead, N)`; boolean, or 0 and 1; None means all.
        t: times in [0, 1], a number or a tensor with shape `lead`; None draws them, one per event.
        c: context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object; or a
            `SetBatch` for another set per event.
        path: the path between data and noise; None takes `LinearPath`. With angles among the
            features it is a `WrappedPath`, which also weighs their errors.
        times: the density of the times, which may depend on the number of real objects, and the
            weight of the events, also of those whose `t` is given; None takes uniform times and no
            weight.
        coupling: `event` pairs the noise of each event with its objects at least distance, for a
            permutation-equivariant field (`setflow.couplings`); None leaves them independent.
        present: which features each object has, with the shape of `x_target`; boolean, or 0 and 1;
            None means all. Absent ones may hold anything, and count as padding does.
        reduction: `mean` or `sum` over events, or `none`; an event without objects counts as 0.
        generator: the random generator for `t`.

    Returns:
        A scalar, or one loss per event with shape `lead` for `reduction="none"`.

    Raises:
        TypeError: if something is no tensor, array or object of the kind that is expected.
        ValueError: if shapes do not fit, the mask holds values other than 0 and 1, or there is no
            such coupling or nothing to couple; on a CPU also
            if a time lies outside [0, 1], or the loss is not finite because a number that was given
            is not. On an accelerator nothing looks at the values.

    >>> field = setflow.TransformerField(3, hidden=16, layers=1, heads=2)
    >>> x, mask = torch.randn(8, 30, 3), torch.rand(8, 30) > 0.5
    >>> setflow.masked_fm_loss(field, x, torch.randn_like(x), mask).shape
    torch.Size([])
    """
    events = Events.of(field, x_target, mask, c=c, name="x_target", present=present)
    x_source = events.noise(x_source, "x_source")
    if coupling is not None:
        circles = path if isinstance(path, WrappedPath) else None
        x_source = coupled_noise(events, x_source, coupling, circles)
    loss = loss_of_events(
        field, events, x_source, t, path=path, times=times, reduction=reduction,
        generator=generator,
    )  # fmt: skip
    # elsewhere a look would wait for the device
    if loss.device.type == "cpu" and is_readable(loss) and not bool(loss.isfinite().all()):
        refuse_not_finite("the loss", events, x_target=events.x, x_source=x_source)
    return loss


def loss_of_events(
    field: nn.Module,
    events: Events,
    x_source: Tensor,
    t: Array | float | None,
    *,
    path: Path | None,
    times: TimeSampling | None,
    reduction: Reduction,
    generator: torch.Generator | None,
) -> Tensor:
    """Return the loss of `masked_fm_loss`, whatever its value, of events that are resolved.

    Arguments:
        field: the velocity field.
        events: the data.
        x_source: noise, with the shape of the data, zero in padded slots.
        t: times, as `masked_fm_loss` takes them, and the others likewise.
        path: the path, or None.
        times: the density of the times and their weight, or None.
        reduction: `mean`, `sum` or `none`.
        generator: the random generator, or None.

    Raises:
        ValueError: as `masked_fm_loss`, but for values that are not finite.
    """
    path = LinearPath() if path is None else path
    check_path(path)
    t, weights = times_of(events, t, times, generator)
    moved = replace(events.at(path.sample_xt(events.x, x_source, t), t), weights=weights)
    target, scale = path.target_ut(events.x, x_source, t), None
    if isinstance(path, WrappedPath):
        path.require_periodic(field)
        scale = 1 / path.unit.to(target)
        target = scale * target
    return regression_loss(field, moved, target, reduction=reduction, scale=scale)


def fm_loss(
    field: nn.Module,
    x_target: Array,
    x_source: Array,
    t: Array | float | None = None,
    c: GivenContext | None = None,
    *,
    path: Path | None = None,
    times: TimeSampling | None = None,
    coupling: Coupling | None = None,
    reduction: Reduction = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the flow-matching loss of events that are all real.

    Lipman et al., "Flow Matching for Generative Modeling" (arXiv:2210.02747): the mean squared
    error of the field against the velocity of the path. For sets with padding take
    `masked_fm_loss`, whose arguments these are, without the mask.

    Arguments:
        field: the velocity field, with `forward(x, t, c=None)` and `event_ndim`.
        x_target: data, with shape `(*lead, *event_shape)`.
        x_source: noise, with the shape of `x_target`.
        t: times, a number or a tensor with shape `lead`; None draws them.
        c: context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object; or a
            `SetBatch` for another set per event.
        path: the path between data and noise; None takes `LinearPath`.
        times: the density of the times and their weight; None takes uniform times and no weight.
        coupling: that of `masked_fm_loss`, for events that are sets.
        reduction: `mean` or `sum` over events, or `none`.
        generator: the random generator for `t`.

    Returns:
        A scalar, or one loss per event with shape `lead` for `reduction="none"`.

    Raises:
        ValueError: if the field has no `event_ndim`, shapes do not fit, or `reduction` is
            another word.

    >>> field = setflow.VelocityField(dim=2, hidden=16)
    >>> x = torch.randn(64, 2)
    >>> fm_loss(field, x, torch.randn_like(x), reduction="none").shape
    torch.Size([64])
    """
    return masked_fm_loss(
        field, x_target, x_source, None, t, c, path=path, times=times, coupling=coupling,
        reduction=reduction, generator=generator,
    )  # fmt: skip
