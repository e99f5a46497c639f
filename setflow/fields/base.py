"""What a velocity field of the library promises, and how it checks what it is given.

Notation. A field on sets gets x with shape `(*lead, N, D)`; inside, events stand in one dimension
of size E. A context `c` is of one of three kinds: a row per event, a row per object, or another set
per event with its own objects (`SetBatch`), which may in turn have a row per event.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from setflow.fields.angles import SEEN
from setflow.sets.angles import checked_angles
from setflow.sets.arrays import Array
from setflow.sets.batch import SetBatch
from setflow.sets.context import AnotherSet, Context, PerObject, ResolvedContext, Row
from setflow.sets.events import Events
from setflow.sets.masks import zero_padding
from setflow.sets.shapes import check_sizes, split_event

__all__ = ["SetField", "VectorField", "checked_events", "row_of", "zeroed"]

_Module = TypeVar("_Module", bound=nn.Module)


class VectorField(nn.Module, ABC):
    """A velocity field v(x, t, c) of the library.

    Any `nn.Module` with `forward(x, t, c=None)` and `event_ndim` works in the verbs; this class
    states the contract for the library's own. A field with `takes_mask = True` is called with
    `mask=` and must obey the laws of the mask by itself.
    """

    takes_mask: ClassVar[bool] = False

    @property
    @abstractmethod
    def event_ndim(self) -> int:
        """How many trailing dimensions of `x` form one event."""


class SetField(VectorField):
    """A permutation-equivariant velocity field on sets: what its forms have in common.

    Arguments:
        dim: the number of features of one object.
        condition_dim: the number of context features per event.
        object_condition_dim: the number of context features per object; then the context has shape
            `(*lead, N, object_condition_dim)`, and there is none per event.
        set_condition_dim: the number of features of the objects of a context set; then the context
            is a `SetBatch`, whose own context holds the `condition_dim` features per event.
        angles: the positions of the features that are angles in radians, counted from 0. The field
            sees the cosine and sine of each and of twice the angle in its place, so that its
            velocity has the period 2 pi.

    Attributes:
        features_seen: how many features of an object the layers get.

    Raises:
        ValueError: if a size is negative, `dim` is 0, kinds of context exclude each other, or a
            position is none.
    """

    takes_mask = True
    event_ndim = 2

    def __init__(
        self,
        dim: int,
        *,
        condition_dim: int = 0,
        object_condition_dim: int = 0,
        set_condition_dim: int = 0,
        angles: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.dim = dim
        self.condition_dim = condition_dim
        self.object_condition_dim = object_condition_dim
        self.set_condition_dim = set_condition_dim
        check_sizes(dim=dim)
        check_sizes(
            0,
            condition_dim=condition_dim,
            object_condition_dim=object_condition_dim,
            set_condition_dim=set_condition_dim,
        )
        self.angles = checked_angles(angles, dim)
        self.features_seen = dim + (SEEN - 1) * len(self.angles)
        if object_condition_dim and (condition_dim or set_condition_dim):
            raise ValueError(
                f"object_condition_dim={object_condition_dim} excludes "
                f"condition_dim={condition_dim} and set_condition_dim={set_condition_dim}: a "
                "context with a row per object is all the context there is; repeat what belongs to "
                "the event in each row"
            )

    def forward(
        self,
        x: Tensor,
        t: Tensor | float,
        c: Context | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity.

        Arguments:
            x: the state, with shape `(*lead, N, dim)`; padded slots may hold anything.
            t: the time, a number or a tensor with shape `lead`.
            c: the context, of the kind that the field was built for: a tensor with shape
                `(*lead, condition_dim)` or `(*lead, N, object_condition_dim)`, or a `SetBatch` with
                x of shape `(*lead, M, set_condition_dim)`.
            mask: boolean mask with shape `(*lead, N)`, or None for all real.

        Returns:
            The velocity, with the shape of `x`, zero in padded slots.

        Raises:
            ValueError: if a shape or the kind of context does not fit.
        """
        sizes = (self.condition_dim, self.object_condition_dim, self.set_condition_dim)
        context = self._typed(c, x) if c is not None or any(sizes) else None
        events = checked_events(self, x, t, context, mask, features=(self.dim,)).flat()
        return zero_padding(self.velocity(events), events.mask).reshape(x.shape)

    @abstractmethod
    def velocity(self, events: Events) -> Tensor:
        """Return the velocity with shape `(E, N, dim)`; padded slots may hold anything finite.

        Arguments:
            events: E events in one lead dimension, checked, with zeros in padded slots; their
                context is of the kind that the field was built for, in the dtype of the states.
        """

    def _typed(self, c: Context | None, x: Tensor) -> ResolvedContext | None:
        """Return the context as the kind that the field was built for, with the shape it must have.

        Raises:
            ValueError: if it is of another kind.
        """
        takes_none = isinstance(c, SetBatch) and not self.set_condition_dim
        if takes_none or not (self.set_condition_dim or self.object_condition_dim):
            return row_of(self, c, x, self.condition_dim)
        name, lead = type(self).__name__, tuple(x.shape[:-2])
        if self.object_condition_dim:
            expected = (*x.shape[:-1], self.object_condition_dim)
            if isinstance(c, Tensor) and tuple(c.shape) == expected:
                return PerObject(c.to(x.dtype))
            got = f"c with shape {tuple(c.shape)}" if isinstance(c, Tensor) else "no context"
            raise ValueError(
                f"{name} got {got}, expected c with shape {expected}: one row per object"
            )
        if not isinstance(c, SetBatch):
            got = "none" if c is None else f"a tensor with shape {tuple(c.shape)}"
            raise ValueError(f"{name} takes a context set: expected a SetBatch as c, got {got}")
        expected = (*lead, c.mask.shape[-1], self.set_condition_dim)
        if tuple(c.x.shape) != expected:
            raise ValueError(
                f"{name} got a context set with x of shape {tuple(c.x.shape)}, expected {expected}"
            )
        row = row_of(self, c.c, x, self.condition_dim)
        return AnotherSet(c.x.to(x.dtype), c.mask, None if row is None else row.row)


def row_of(field: VectorField, c: Context | None, x: Tensor, condition_dim: int) -> Row | None:
    """Return the context of a field with a row per event, or None if it takes none.

    Arguments:
        field: the field.
        c: the context, with shape `(*lead, condition_dim)`, or None if that is 0.
        x: the state, with shape `(*lead, *event_shape)`.
        condition_dim: the number of context features.

    Raises:
        ValueError: if it has another shape.
    """
    name = type(field).__name__
    if isinstance(c, SetBatch):
        raise ValueError(
            f"{name} got a SetBatch as context but takes none; setflow.TransformerField does, with "
            f"set_condition_dim={c.x.shape[-1]}"
        )
    lead = tuple(x.shape[: max(0, x.ndim - field.event_ndim)])
    if c is None:
        if condition_dim:
            raise ValueError(
                f"{name} got no context, expected c with shape {(*lead, condition_dim)}"
            )
        return None
    if not condition_dim:
        raise ValueError(
            f"{name} got a context with shape {tuple(c.shape)} but takes none; build it with "
            f"{'condition_dim' if c.ndim <= len(lead) + 1 else 'object_condition_dim'}="
            f"{c.shape[-1] if c.ndim else 1}"
        )
    if tuple(c.shape) != (*lead, condition_dim):
        raise ValueError(
            f"{name} got c with shape {tuple(c.shape)}, expected {(*lead, condition_dim)}"
        )
    return Row(c.to(x.dtype))


def checked_events(
    field: VectorField,
    x: Tensor,
    t: Tensor | float,
    context: ResolvedContext | None,
    mask: Array | None,
    *,
    features: tuple[int, ...],
) -> Events:
    """Check what a library field is called with; return it as events.

    Arguments:
        field: the field.
        x: the state, with shape `(*lead, *event_shape)`.
        t: the time, a number, a scalar tensor, or a tensor with shape `lead`.
        context: the context, of the kind that the field takes, or None.
        mask: the mask, with shape `(*lead, N)`, or None.
        features: the shape of one object, the last dimensions of `x`.

    Raises:
        ValueError: if anything has another shape, or the weights have another dtype than `x`.
    """
    name = type(field).__name__
    _, event = split_event(x, field.event_ndim)
    cut = len(event) - len(features)
    if event[cut:] != features:
        raise ValueError(
            f"{name} got x with shape {tuple(x.shape)}, expected features {features} behind "
            f"{'the object dimension' if cut else 'the lead dimensions'}"
        )
    events = Events.of(field.event_ndim, x, mask, t=t)
    own = next(field.parameters(), x).dtype
    if own != x.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(
            f"{name} got x with dtype {x.dtype}, but its weights have {own}; convert one of them, "
            "x.to(dtype) or field.to(dtype)"
        )
    if context is not None:
        context = context.selected(events.mask)
    return replace(events, context=context)


def zeroed(module: _Module) -> _Module:
    """Return a module with all its weights zero: what it adds to a field comes with training."""
    for weight in module.parameters():
        nn.init.zeros_(weight)
    return module
