"""What all losses share: checked events, drawn times, and the masked mean of squared errors.

Notation. A loss regresses a field onto a target at a point x_t between data and noise: per object
the mean of the squared error over features, per event the mean over its real objects (0 if it has
none), times the weight of the event's time, then the reduction over events.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from setflow.losses.means import Reduction, event_means, reduce_events
from setflow.sets.events import Context, call_field, with_plain_context
from setflow.sets.masks import as_mask, count_real, zero_padding
from setflow.sets.planning import planned
from setflow.sets.protocols import event_ndim_of
from setflow.sets.shapes import expand_time, split_event
from setflow.timesteps import TimeSampling

__all__ = ["Events", "checked_events", "regression_loss"]


@dataclass(frozen=True)
class Events:
    """Events on which a loss is evaluated, checked, with zeros in their padded slots.

    Arguments:
        x: data, with shape `(*lead, *event_shape)`.
        mask: boolean mask with shape `(*lead, N)`, or None for all real.
        event_ndim: the number of event dimensions.
    """

    x: Tensor
    mask: Tensor | None
    event_ndim: int

    @property
    def lead(self) -> tuple[int, ...]:
        """The shape in front of the event dimensions."""
        return split_event(self.x, self.event_ndim)[0]

    def noise(self, given: Tensor, name: str) -> Tensor:
        """Return noise, checked, with zeros in padded slots.

        Raises:
            ValueError: if it has not the shape and dtype of the events.
        """
        for what in ("shape", "dtype"):
            got, expected = getattr(given, what), getattr(self.x, what)
            if got != expected:
                got, expected = (v if what == "dtype" else tuple(v) for v in (got, expected))
                raise ValueError(
                    f"{name} has {what} {got}, x_target {expected}; expected equal "
                    f"{what}s, one noise value per coordinate"
                )
        return zero_padding(given, self.mask)

    def drawn_noise(self, generator: torch.Generator | None) -> Tensor:
        """Return standard normal noise of the shape of the events."""
        noise = torch.randn(
            self.x.shape, generator=generator, dtype=self.x.dtype, device=self.x.device
        )
        return zero_padding(noise, self.mask)

    def times(
        self,
        t: Tensor | float | None,
        sampling: TimeSampling | None,
        generator: torch.Generator | None,
        within: tuple[float, float] = (0.0, 1.0),
    ) -> Tensor:
        """Return one time per event: those given, checked, or drawn and mapped to `within`."""
        if t is not None:
            return expand_time(t, self.lead, like=self.x)
        sampling = TimeSampling() if sampling is None else sampling
        if self.mask is not None:
            lengths = count_real(self.mask)
        else:  # a plain vector is one object
            objects = self.x.shape[-self.event_ndim] if self.event_ndim >= 2 else 1
            lengths = torch.full(self.lead, objects, device=self.x.device)
        t = sampling.sample(
            self.lead,
            lengths=lengths,
            generator=generator,
            dtype=self.x.dtype,
            device=self.x.device,
        )
        low, high = within
        return t if within == (0.0, 1.0) else low + (high - low) * t


def checked_events(
    field: nn.Module, x_target: Tensor, mask: Tensor | None, *, sets_only: bool
) -> Events:
    """Check data and mask against a field.

    Arguments:
        field: the field, with `event_ndim`.
        x_target: data, with shape `(*lead, *event_shape)`; padded slots may hold anything.
        mask: the mask, with shape `(*lead, N)`, or None.
        sets_only: whether the events must be sets, with an object dimension before the features.

    Raises:
        ValueError: if shapes or dtypes do not fit.
    """
    event_ndim = event_ndim_of(field, at_least=2 if sets_only else 0)
    lead, event = split_event(x_target, event_ndim)
    if not x_target.is_floating_point():
        raise ValueError(f"x_target has dtype {x_target.dtype}, expected a floating dtype")
    if mask is not None:
        mask = as_mask(mask, (*lead, event[0])).to(x_target.device)
    return Events(zero_padding(x_target, mask), mask, event_ndim)


def regression_loss(
    field: nn.Module,
    x_t: Tensor,
    target: Tensor,
    t: Tensor,
    c: Context | None,
    events: Events,
    *,
    weight: Tensor | None,
    reduction: Reduction,
    scale: Tensor | None = None,
) -> Tensor:
    """Return the masked mean squared error of a field against a target.

    Arguments:
        field: the field.
        x_t: where it is evaluated, with the shape of the events.
        target: what it should return there, with the shape of the events.
        t: times, with shape `lead`.
        c: context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object; or a
            `SetBatch` for another set per event.
        events: the events.
        weight: the weights of the events, with shape `lead`; None weighs all alike.
        reduction: `mean` or `sum` over events, or `none`.
        scale: a factor on the field's output before the comparison, shaped to meet it.

    Raises:
        ValueError: if a shape is not exactly that of the events: nothing is broadcast.
    """
    for name, value in (("x_t", x_t), ("target", target)):
        if value.shape != events.x.shape:
            raise ValueError(
                f"the path gave {name} with shape {tuple(value.shape)}, x_target has "
                f"{tuple(events.x.shape)}; expected equal shapes"
            )
    if weight is not None and tuple(weight.shape) != events.lead:
        raise ValueError(
            f"the weights have shape {tuple(weight.shape)}, expected {events.lead}: one per event"
        )
    field, c = with_plain_context(field, c)
    prediction = call_field(planned(field, events.mask), x_t, t, c, events.mask)
    if scale is not None:
        prediction = scale * prediction
    errors = zero_padding(prediction - target, events.mask) ** 2
    losses = event_means(errors, events.event_ndim, events.mask)
    return reduce_events(losses if weight is None else weight * losses, reduction)
