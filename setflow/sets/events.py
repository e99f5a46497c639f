"""Events, resolved once: what a verb is given becomes one object, which all behind it carry.

Notation. Events have a lead shape and, behind it, `event_ndim` dimensions that form one event; sets
have the object dimension first among these, with N slots. A verb resolves data, mask, time and
context at its entrance, `Events.of`, where shapes are checked;
nothing behind it checks them again, but a field of the library, since it may be called bare.

Here padding becomes zero: in the states of events that are made or moved (`Events.of`, `Events.at`)
and in the velocity that a field returns (`Events.velocity`), so that training and use obey the same
law. A field that declares `takes_mask` is given the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from setflow.sets.arrays import Array, as_tensor, check_generator
from setflow.sets.context import GivenContext, ResolvedContext, resolve_context
from setflow.sets.masks import as_mask, as_present, zero_padding
from setflow.sets.protocols import declares, event_ndim_of
from setflow.sets.shapes import as_floating, expand_time, split_event

__all__ = ["Events", "call_field"]


@dataclass(frozen=True)
class Events:
    """Events with all that a field is called with.

    Arguments:
        x: the states, with shape `(*lead, *event_shape)`, zero in padded slots.
        mask: boolean mask with shape `(*lead, N)`, or None for all real.
        event_ndim: how many trailing dimensions of `x` form one event.
        t: the times, with shape `lead`; None before they are known.
        context: the context, or None.
        weights: the weights of the events, with shape `lead`; None weighs all alike.
        together: whether a field that was made for these events holds something of each, so that
            they must stay together and in their order.
        sizes: the numbers of real objects on the CPU, with shape `lead`, where they are known and
            the real objects of each event come first; None if only the mask tells.
        present: which features the real objects have, boolean with the shape of `x`, False in
            padded slots; the others are absent, zero as padding is. None means that all have all.
    """

    x: Tensor
    mask: Tensor | None
    event_ndim: int
    t: Tensor | None = None
    context: ResolvedContext | None = None
    weights: Tensor | None = None
    together: bool = False
    sizes: np.ndarray[Any, Any] | None = None
    present: Tensor | None = None

    @classmethod
    def of(
        cls,
        field: nn.Module | int,
        x: Array,
        mask: Array | None,
        *,
        t: Array | float | None = None,
        c: GivenContext | None = None,
        batch_ndim: int | None = None,
        name: str = "x",
        present: Array | None = None,
    ) -> Events:
        """Resolve what a verb is given; arrays of NumPy become tensors here.

        Arguments:
            field: the field, which says how many dimensions form one event; or that number.
            x: the states, with shape `(*lead, *event_shape)`; padded slots may hold anything.
                Integers take the dtype of the field.
            mask: the mask, with shape `(*lead, N)`; boolean, or 0 and 1; None means all real.
            t: the time, a number or a tensor with shape `lead`.
            c: the context, as the verbs take it.
            batch_ndim: how many lead dimensions the context has; None means all.
            name: what the states are called, for error messages.
            present: which features each object has, with the shape of `x` or without sample
                dimensions in front; boolean, or 0 and 1; None means all. Absent ones may hold
                anything.

        Raises:
            TypeError: if something holds complex numbers or no plain numbers.
            ValueError: if a shape or dtype does not fit.
        """
        least = 0 if mask is None else 2
        event_ndim = event_ndim_of(field, at_least=least)
        if not isinstance(x, Tensor) or x.is_complex():
            x = as_tensor(x, name)
        lead, event = split_event(x, event_ndim)
        if not x.is_floating_point():
            if isinstance(field, int) or x.dtype == torch.bool:
                raise ValueError(f"{name} has dtype {x.dtype}, expected a floating dtype")
            x = as_floating(x, field)
        if mask is not None:
            mask = as_mask(mask, (*lead, event[0])).to(x.device)
        context = None
        if c is not None:
            count = len(lead) if batch_ndim is None else batch_ndim
            context = resolve_context(c, lead, event, count).selected(mask)
        time = None if t is None else expand_time(t, lead, like=x)
        if present is not None:
            if event_ndim < 2:
                raise ValueError(
                    "present tells the features of the objects of a set, but the field has "
                    f"event_ndim={event_ndim}, one object per event; leave it out"
                )
            present = as_present(present, x.shape, mask).to(x.device)
        selected = mask if present is None else present
        x = zero_padding(x, selected)
        return cls(x, mask, event_ndim, time, context, present=present)

    @property
    def lead(self) -> tuple[int, ...]:
        """The shape in front of the event dimensions."""
        return tuple(self.x.shape[: self.x.ndim - self.event_ndim])

    @property
    def slots(self) -> int:
        """The number of slots of an event; a plain vector is one object."""
        return self.x.shape[-self.event_ndim] if self.event_ndim > 1 else 1

    @property
    def lengths(self) -> Tensor:
        """The number of real objects of each event, with shape `lead`."""
        if self.mask is None:
            return torch.full(self.lead, self.slots, device=self.x.device)
        return self.mask.sum(-1)

    def at(self, x: Tensor, t: Tensor | float) -> Events:
        """Return the events in another state at another time.

        Arguments:
            x: the states, with the shape of the old ones; padded slots may hold anything.
            t: the time, a number or a tensor with shape `lead`.

        Raises:
            ValueError: if `x` or `t` has another shape.
        """
        if x.shape != self.x.shape:
            raise ValueError(
                f"a state has shape {tuple(x.shape)}, expected {tuple(self.x.shape)}, that of the "
                "events: nothing is broadcast"
            )
        lead = tuple(x.shape[: x.ndim - self.event_ndim])
        x = zero_padding(x, self.mask if self.present is None else self.present)
        t = expand_time(t, lead, like=x)
        return Events(
            x, self.mask, self.event_ndim, t, self.context, self.weights, self.together,
            self.sizes, self.present,
        )  # fmt: skip
        # `replace` looks up what stays, at every evaluation

    def noise(self, given: Array, name: str) -> Tensor:
        """Return noise for these events, checked, with zeros in padded slots.

        Raises:
            ValueError: if it has not the shape and dtype of the states; integers take the latter.
        """
        if not isinstance(given, Tensor) or given.is_complex():
            given = as_tensor(given, name)
        if not given.is_floating_point() and given.dtype != torch.bool:
            given = given.to(self.x.dtype)
        for what, got, expected in (
            ("shape", tuple(given.shape), tuple(self.x.shape)),
            ("dtype", given.dtype, self.x.dtype),
        ):
            if got != expected:
                raise ValueError(
                    f"{name} has {what} {got}, x_target {expected}; expected equal {what}s, one "
                    "noise value per coordinate"
                )
        return zero_padding(given, self.mask if self.present is None else self.present)

    def drawn_noise(self, generator: torch.Generator | None) -> Tensor:
        """Return standard normal noise of the shape of the states, zero in padded slots."""
        if generator is not None:
            check_generator(generator)
        noise = torch.randn(
            self.x.shape, generator=generator, dtype=self.x.dtype, device=self.x.device
        )
        return zero_padding(noise, self.mask if self.present is None else self.present)

    def velocity(self, field: nn.Module, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Call a field; this is the one place.

        Arguments:
            field: the field.
            weights: tensors to take in place of its parameters and buffers, by name.

        Returns:
            The velocity, with the shape of the states, zero in padded slots.

        Raises:
            ValueError: if the field returns another shape.
        """
        given = None if self.context is None else self.context.given
        masked = {"mask": self.mask} if declares(field, "takes_mask") else {}
        arguments = (self.x, self.t, given)
        v: Tensor
        try:
            if weights is None:
                v = field(*arguments, **masked)
            else:
                v = torch.func.functional_call(field, dict(weights), arguments, masked)
        except RuntimeError as error:  # such as torch's, of shapes that do not meet
            shapes = [
                f"{name} {tuple(value.shape)}"
                for name, value in (("x", self.x), ("t", self.t), ("c", given))
                if isinstance(value, Tensor)
            ]
            error.add_note(
                f"{type(field).__name__} was called with tensors of these shapes: "
                f"{', '.join(shapes)}. There is one time per event, and one context: where they "
                "meet the objects give them dimensions, as t[..., None, None], and expand them for "
                "torch.cat"
            )
            raise
        if not isinstance(v, Tensor) or not v.is_floating_point():
            got = f"dtype {v.dtype}" if isinstance(v, Tensor) else f"a {type(v).__name__}"
            raise TypeError(
                f"{type(field).__name__} returned {got}, expected a tensor of floating dtype: the "
                "velocity, with the shape of x"
            )
        if v.shape != self.x.shape:
            raise ValueError(
                f"{type(field).__name__} returned shape {tuple(v.shape)} for x of shape "
                f"{tuple(self.x.shape)}; a velocity has the shape of its state"
            )
        return zero_padding(v, self.mask if self.present is None else self.present)

    def changed(
        self,
        per_event: Callable[[Tensor], Tensor],
        per_object: Callable[[Tensor], Tensor] | None = None,
    ) -> Events:
        """Return the events with every tensor changed.

        Arguments:
            per_event: what becomes of a tensor with a row per event.
            per_object: what becomes of one that has the object dimension, too, as the states have;
                None changes it in the same way.
        """
        per_object = per_event if per_object is None else per_object
        return replace(
            self,
            x=per_object(self.x),
            mask=None if self.mask is None else per_object(self.mask),
            t=None if self.t is None else per_event(self.t),
            context=None if self.context is None else self.context.changed(per_event, per_object),
            weights=None if self.weights is None else per_event(self.weights),
            sizes=None,
            present=None if self.present is None else per_object(self.present),
        )

    def flat(self) -> Events:
        """Return the events with one lead dimension."""
        ndim = self.x.ndim - self.event_ndim
        if ndim == 1:
            return self
        count = self.x.shape[:ndim].numel()
        flat = self.changed(lambda value: value.reshape(count, *value.shape[ndim:]))
        return flat if self.sizes is None else replace(flat, sizes=self.sizes.reshape(count))

    def taken(self, rows: Tensor, slots: Tensor | None, mask: Tensor | None) -> Events:
        """Return some of the events, which have one lead dimension, and some of their slots.

        Arguments:
            rows: which events, with shape `(b,)`.
            slots: which slots of each, with shape `(b, n)`; None means all.
            mask: the mask of these, with shape `(b, n)`, or None for all real.
        """
        events = replace(self, mask=None).changed(
            lambda value: value[rows],
            lambda value: value[rows] if slots is None else value[rows[:, None], slots],
        )
        return replace(events, mask=mask)


def call_field(
    field: nn.Module,
    x: Array,
    t: Array | float,
    c: GivenContext | None = None,
    mask: Array | None = None,
) -> Tensor:
    """Evaluate a velocity field under the laws of the mask.

    Arguments:
        field: the field.
        x: the state, with shape `(*lead, *event_shape)`.
        t: the time, a number or a tensor with shape `lead`.
        c: the context, with shape `(*lead, C)`, `(*lead, N, C)` for one row per object, or
            `(*lead, K, *event_shape[1:])` for channels beside an image; or another set per event.
        mask: the mask, with shape `(*lead, N)`, or None for all real.

    Returns:
        The velocity, with the shape of `x`, zero in padded slots.

    Raises:
        ValueError: if a shape does not fit, or the field returns another shape than that of `x`.
    """
    return Events.of(field, x, mask, t=t, c=c).velocity(field)
