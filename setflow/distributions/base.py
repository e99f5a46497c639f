"""Base distributions: independent coordinates, drawn and scored on the real slots only.

Notation. A base has a `batch_shape` and an `event_shape`. Its event shape is either that of a whole
set, `(N, D)`, or that of one object, `(D,)`; the latter serves sets of any size, and a mask tells
which slots are real. The log-density is that of the ordered tuple of real objects, in nats:
a sum over real coordinates, 0 for an event without any.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from setflow.sets.arrays import Array
from setflow.sets.masks import as_mask, as_present, over_features, zero_padding
from setflow.sets.protocols import Base
from setflow.sets.shapes import as_floating, as_tuple, split_event

__all__ = [
    "EverySlot",
    "FactorisedBase",
    "as_base",
    "checked_event",
    "draw_noise",
    "sum_real",
]


def sum_real(log_p: Tensor, event_ndim: int, mask: Tensor | None) -> Tensor:
    """Sum coordinate-wise log-densities over the real coordinates of each event.

    Arguments:
        log_p: one value per coordinate, with shape `(*lead, *event_shape)`; it may be NaN in padded
            slots.
        event_ndim: the number of event dimensions.
        mask: boolean mask with shape `(*lead, N)`, or None for all real.

    Returns:
        The sums, with shape `lead`, accumulated in float64 and returned in the dtype of `log_p`.
    """
    lead = log_p.shape[: log_p.ndim - event_ndim]
    flat = zero_padding(log_p, mask).reshape(*lead, log_p.shape[len(lead) :].numel())
    return flat.sum(-1, dtype=torch.float64).to(log_p.dtype)


def checked_event(
    batch_shape: tuple[int, ...],
    event_shape: tuple[int, ...],
    x: Tensor,
    mask: Array | None,
    *,
    same_everywhere: bool = False,
) -> tuple[int, Tensor | None]:
    """Return the number of event dimensions of `x` under a base and a mask, and the mask, checked.

    Arguments:
        batch_shape: that of the base.
        event_shape: that of the base: of a whole event or, under a mask, of one object.
        x: values with shape `(*lead, *event)`.
        mask: the mask with shape `(*lead, N)`, boolean or 0 and 1, or None.
        same_everywhere: whether the base has the same distribution in every coordinate.

    Raises:
        ValueError: if a shape does not fit, or the parameters differ from slot to slot under a
            mask: then the order of the objects and the length of the padding would matter.
    """
    event_ndim = len(event_shape)
    if mask is not None:
        if not isinstance(mask, Tensor):
            mask = as_mask(mask)
        mask = as_mask(mask, x.shape[: mask.ndim]).to(x.device)
        event_ndim = x.ndim - mask.ndim + 1
    lead, event = split_event(x, event_ndim)
    per_object = mask is not None and event_shape == event[1:]
    if not per_object and event_shape != event:
        raise ValueError(
            f"x has the event shape {event}, the base {event_shape}; expected them equal, or the "
            "base to describe one object of a masked set (event shape without its first dimension)"
        )
    if mask is not None and not per_object and not same_everywhere:
        raise ValueError(
            f"the base has parameters of shape {event_shape}, one set for each of the "
            f"{event_shape[0]} slots; with a mask expected one set for all objects, of shape "
            f"{event_shape[1:]}"
        )
    if per_object and batch_shape:
        raise ValueError(
            f"a base that describes one object cannot have a batch shape, got {batch_shape}; "
            "give it the event shape of the whole set"
        )
    if batch_shape and lead[len(lead) - len(batch_shape) :] != batch_shape:
        raise ValueError(f"the base has batch shape {batch_shape}, x has the lead shape {lead}")
    return event_ndim, mask


class FactorisedBase:
    """A torch distribution as a base, if its coordinates are independent.

    Arguments:
        distribution: a univariate distribution (`torch.distributions.Normal`, `Laplace`, ...), its
            parameters one per coordinate, or such a distribution inside `Independent`.

    Raises:
        ValueError: if the coordinates of the distribution depend on each other, since then no mask
            can leave some of them out.

    >>> import torch
    >>> base = FactorisedBase(torch.distributions.Laplace(torch.zeros(3), torch.ones(3)))
    >>> base.event_shape
    (3,)
    """

    def __init__(self, distribution: Distribution) -> None:
        coordinates = distribution
        reinterpreted = 0
        while isinstance(coordinates, Independent):
            reinterpreted += coordinates.reinterpreted_batch_ndims
            coordinates = coordinates.base_dist
        if coordinates.event_shape:
            raise ValueError(
                f"{type(coordinates).__name__} does not factorise per coordinate (event shape "
                f"{tuple(coordinates.event_shape)}), so a mask cannot leave coordinates out; "
                "use independent coordinates, such as setflow.StandardNormal or "
                "torch.distributions.Independent(Normal(loc, scale), 1)"
            )
        shape = tuple(coordinates.batch_shape)
        cut = len(shape) - reinterpreted if reinterpreted else 0
        self._coordinates = coordinates
        self.batch_shape: tuple[int, ...] = shape[:cut]
        self.event_shape: tuple[int, ...] = shape[cut:]

    def sample(
        self,
        sample_shape: tuple[int, ...] = (),
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw with shape `(*sample_shape, *batch_shape, *event_shape)`, zero in padded slots.

        Raises:
            ValueError: if a generator is given: torch distributions draw from the global one.
        """
        if generator is not None:
            raise ValueError(
                "a torch distribution cannot draw from a generator; use setflow.StandardNormal or "
                "setflow.DiagonalNormal, or draw x_source yourself and pass it"
            )
        coordinates = self._coordinates
        draw = coordinates.rsample if coordinates.has_rsample else coordinates.sample
        x = draw(torch.Size(as_tuple(sample_shape)))
        if mask is not None:
            _, mask = checked_event(self.batch_shape, self.event_shape, x, mask)
        return zero_padding(x, mask)

    def log_prob(
        self, value: Tensor, *, mask: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        """Return the log-density of the real coordinates of each event, in nats."""
        event_ndim, mask = checked_event(self.batch_shape, self.event_shape, value, mask)
        value = as_floating(value)
        mask = mask if present is None else as_present(present, value.shape, mask)
        if mask is not None:  # a value inside the support, whatever that is
            inside = self._inside().to(value)
            value = torch.where(over_features(mask, value.ndim), value, inside)
        log_p: Tensor = self._coordinates.log_prob(value)
        return sum_real(log_p, event_ndim, mask)

    def _inside(self) -> Tensor:
        """Return a value inside the support of each coordinate."""
        try:
            mean = self._coordinates.mean.detach()
            if bool(mean.isfinite().all()):
                return mean
        except NotImplementedError:
            pass
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
            return self._coordinates.sample()


class EverySlot:
    """A base that differs from event to event, for sets: in each event all slots have its own.

    Arguments:
        base: describes one object of each event: a batch shape, and the event shape of an object.
        slots: the number of slots N.

    >>> base = setflow.DiagonalNormal(torch.zeros(4, 3), torch.ones(4, 3))
    >>> sets = EverySlot(base, slots=30)
    >>> sets.batch_shape, sets.event_shape
    ((4,), (30, 3))
    """

    def __init__(self, base: Base, slots: int) -> None:
        self._base = base
        self.batch_shape: tuple[int, ...] = tuple(base.batch_shape)
        self.event_shape: tuple[int, ...] = (slots, *base.event_shape)

    def sample(
        self,
        sample_shape: tuple[int, ...] = (),
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw with shape `(*sample_shape, *batch_shape, *event_shape)`, zero in padded slots."""
        front = as_tuple(sample_shape)
        drawn = self._base.sample((*front, self.event_shape[0]), generator=generator)
        x = drawn.movedim(len(front), len(front) + len(self.batch_shape))
        return zero_padding(x, mask)

    def log_prob(
        self, value: Tensor, *, mask: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        """Return the log-density of the real coordinates of each event, in nats.

        Raises:
            ValueError: if the batch shape of the base does not fit.
        """
        lead, _ = split_event(value, len(self.event_shape))
        if lead[len(lead) - len(self.batch_shape) :] != self.batch_shape:
            raise ValueError(
                f"the base has the batch shape {self.batch_shape} and x the lead shape {lead}; "
                "expected its last dimensions equal, or a base without batch shape such as "
                "setflow.StandardNormal((D,))"
            )
        value = as_floating(value)
        if mask is not None:  # in padded slots a value that the base can have
            with torch.random.fork_rng(devices=[]):
                inside = self.sample().to(value).detach()
            value = torch.where(over_features(mask, value.ndim), value, inside)
        front = len(lead) - len(self.batch_shape)
        has: dict[str, Any] = (
            {} if present is None else {"present": present.movedim(len(lead), front)}
        )
        log_p = self._base.log_prob(value.movedim(len(lead), front), **has).movedim(front, -1)
        return sum_real(log_p, 1, mask)


def as_base(
    base: Base | Distribution, slots: int | None = None, event_ndim: int | None = None
) -> Base:
    """Return a base with which the verbs can serve events.

    A torch distribution gets its adapter. A base of one object with a batch shape, so with one
    distribution for each event, becomes a base of whole events if the events are told. Every other
    one is returned as it is.

    Arguments:
        base: the base.
        slots: the number of slots N of the events that it is to serve.
        event_ndim: how many dimensions form one such event.

    Raises:
        TypeError: if it is no distribution.
    """
    if isinstance(base, Distribution):
        base = FactorisedBase(base)
    if isinstance(base, type) or not hasattr(base, "event_shape"):
        name = f"the class {base.__name__}" if isinstance(base, type) else type(base).__name__
        raise TypeError(
            f"base is {name}, expected a distribution such as setflow.StandardNormal((3,))"
        )
    if slots is None or event_ndim is None or event_ndim < 2 or not base.batch_shape:
        return base
    return EverySlot(base, slots) if len(base.event_shape) == event_ndim - 1 else base


def draw_noise(
    base: Base,
    lead: tuple[int, ...],
    batch_ndim: int,
    mask: Tensor | None,
    event_ndim: int,
    generator: Any = None,
) -> Tensor:
    """Draw one noise event per lead index, zero in padded slots.

    Arguments:
        base: the base; with an empty batch shape it is expanded to `lead`. Its event shape is that
            of a whole event, or that of one object if there is a mask.
        lead: `sample_shape + batch`, the shape in front of the event dimensions.
        batch_ndim: how many dimensions of `lead` are batch dimensions.
        mask: boolean mask with shape `(*lead, N)`, or None.
        event_ndim: the number of event dimensions of the result.
        generator: the random generator, or None for the global one.

    Returns:
        Noise with shape `(*lead, *event_shape)`.

    Raises:
        ValueError: if the base's shapes do not fit.
    """
    if mask is not None:
        base = as_base(base, mask.shape[-1], event_ndim)
    batch = lead[len(lead) - batch_ndim :]
    base_batch, event = tuple(base.batch_shape), tuple(base.event_shape)
    per_object = mask is not None and len(event) == event_ndim - 1
    if per_object and mask is not None:
        return base.sample(tuple(mask.shape), mask=mask, generator=generator)
    if len(event) != event_ndim or (mask is not None and event[0] != mask.shape[-1]):
        slots = "N" if mask is None else str(mask.shape[-1])
        raise ValueError(
            f"the base has event shape {event}, expected {event_ndim} dimensions ({slots}, ...)"
            + (
                "; for a base of one object give a mask, which tells how many slots there are"
                if mask is None
                else " or the shape of one object, such as StandardNormal((D,))"
            )
        )
    if base_batch and base_batch != batch:
        raise ValueError(f"the base has batch shape {base_batch}, expected {batch} or ()")
    shape = lead[: len(lead) - batch_ndim] if base_batch else lead
    return base.sample(shape, mask=mask, generator=generator)
