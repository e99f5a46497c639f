"""What a velocity field of the library promises, and how it checks what it is given.

Notation. A field on sets gets x with shape `(*lead, N, D)`; inside, events stand in one dimension
of size E. A context `c` is of one of three kinds: a row per event, a row per object, or another set
per event with its own objects (`SetBatch`), which may in turn have a row per event.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from setflow.sets.batch import SetBatch
from setflow.sets.events import Context, zero_unused_context
from setflow.sets.masks import as_mask, count_real, zero_padding
from setflow.sets.shapes import event_numel, expand_time, split_event

__all__ = ["SetField", "SetInputs", "VectorField", "checked_inputs", "zeroed"]

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


class SetInputs(NamedTuple):
    """What a field on sets is called with, checked, with one dimension of E events in front.

    Attributes:
        x: the state, with shape `(E, N, dim)`, zero in padded slots.
        t: the time, with shape `(E,)`.
        n: the number of real objects, with shape `(E,)` and the dtype of `x`.
        mask: boolean mask with shape `(E, N)`, or None for all real.
        c: the context of the event, with shape `(E, condition_dim)`, or None.
        c_object: the context of the objects, with shape `(E, N, object_condition_dim)`, zero in
            padded slots, or None.
        c_set: the context set, with x of shape `(E, M, set_condition_dim)`, zero in its padded
            slots, or None; its own context is `c`.
    """

    x: Tensor
    t: Tensor
    n: Tensor
    mask: Tensor | None
    c: Tensor | None
    c_object: Tensor | None
    c_set: SetBatch | None


class SetField(VectorField):
    """A permutation-equivariant velocity field on sets: what its forms have in common.

    Arguments:
        dim: the number of features of one object.
        condition_dim: the number of context features per event.
        object_condition_dim: the number of context features per object; then the context has shape
            `(*lead, N, object_condition_dim)`, and there is none per event.
        set_condition_dim: the number of features of the objects of a context set; then the context
            is a `SetBatch`, whose own context holds the `condition_dim` features per event.

    Raises:
        ValueError: if a size is negative, `dim` is 0, or kinds of context exclude each other.
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
    ) -> None:
        super().__init__()
        self.dim = dim
        self.condition_dim = condition_dim
        self.object_condition_dim = object_condition_dim
        self.set_condition_dim = set_condition_dim
        if dim < 1 or min(condition_dim, object_condition_dim, set_condition_dim) < 0:
            raise ValueError(
                f"sizes must be positive, got dim={dim}, condition_dim={condition_dim}, "
                f"object_condition_dim={object_condition_dim}, "
                f"set_condition_dim={set_condition_dim}"
            )
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
        inputs = self._checked(x, t, c, mask)
        return zero_padding(self.velocity(inputs), inputs.mask).reshape(x.shape)

    @abstractmethod
    def velocity(self, inputs: SetInputs) -> Tensor:
        """Return the velocity with shape `(E, N, dim)`; padded slots may hold anything finite."""

    def _checked(
        self, x: Tensor, t: Tensor | float, c: Context | None, mask: Tensor | None
    ) -> SetInputs:
        row, c_object, c_set = self._parts_of(c, x)
        lead, time, mask = checked_inputs(
            self, x, t, row, mask, features=(self.dim,), condition_dim=self.condition_dim
        )
        assert not isinstance(row, SetBatch)
        events, slots = event_numel(lead), x.shape[-2]
        if c_set is not None:
            c_set = self._flat_set(c_set, lead, x.dtype)
        if c_object is not None:
            c_object = zero_padding(c_object.to(x.dtype), mask)
            c_object = c_object.reshape(events, slots, c_object.shape[-1])
        if row is not None:
            row = zero_unused_context(row.to(x.dtype), mask)
        flat = None if mask is None else mask.reshape(events, slots)
        return SetInputs(
            zero_padding(x, mask).reshape(events, slots, self.dim),
            time.reshape(events),
            x.new_full((events,), float(slots)) if flat is None else count_real(flat).to(x.dtype),
            flat,
            None if row is None else row.reshape(events, self.condition_dim),
            c_object,
            c_set,
        )

    def _parts_of(
        self, c: Context | None, x: Tensor
    ) -> tuple[Context | None, Tensor | None, SetBatch | None]:
        """Return the context of the event, of its objects and the context set."""
        name = type(self).__name__
        if isinstance(c, SetBatch):
            return (c.c, None, c) if self.set_condition_dim else (c, None, None)
        if self.set_condition_dim:
            got = "none" if c is None else f"a tensor with shape {tuple(c.shape)}"
            raise ValueError(f"{name} takes a context set: expected a SetBatch as c, got {got}")
        if not self.object_condition_dim:
            return c, None, None
        expected = (*x.shape[:-1], self.object_condition_dim)
        if c is None or tuple(c.shape) != expected:
            got = "no context" if c is None else f"c with shape {tuple(c.shape)}"
            raise ValueError(
                f"{name} got {got}, expected c with shape {expected}: one row per object"
            )
        return None, c, None

    def _flat_set(self, c_set: SetBatch, lead: tuple[int, ...], dtype: torch.dtype) -> SetBatch:
        """Return a context set, checked, with zeros in padded slots and one dimension in front."""
        slots, events = c_set.mask.shape[-1], event_numel(lead)
        expected = (*lead, slots, self.set_condition_dim)
        if tuple(c_set.x.shape) != expected:
            raise ValueError(
                f"{type(self).__name__} got a context set with x of shape {tuple(c_set.x.shape)}, "
                f"expected {expected}"
            )
        x = zero_padding(c_set.x.to(dtype), c_set.mask)
        return SetBatch(x.reshape(events, *expected[-2:]), c_set.mask.reshape(events, slots))


def checked_inputs(
    field: VectorField,
    x: Tensor,
    t: Tensor | float,
    c: Context | None,
    mask: Tensor | None,
    *,
    features: tuple[int, ...],
    condition_dim: int,
) -> tuple[tuple[int, ...], Tensor, Tensor | None]:
    """Check what a library field is called with; return the lead shape, the time and the mask.

    Arguments:
        field: the field.
        x: the state, with shape `(*lead, *event_shape)`.
        t: the time, a number, a scalar tensor, or a tensor with shape `lead`.
        c: the context, with shape `(*lead, condition_dim)`, or None if that is 0.
        mask: the mask, with shape `(*lead, N)`, or None.
        features: the shape of one object, the last dimensions of `x`.
        condition_dim: the number of context features.

    Raises:
        ValueError: if anything has another shape, or the weights have another dtype than `x`.
    """
    name = type(field).__name__
    if isinstance(c, SetBatch):
        raise ValueError(
            f"{name} got a SetBatch as context but takes none; setflow.TransformerField does, with "
            f"set_condition_dim={c.x.shape[-1]}"
        )
    lead, event = split_event(x, field.event_ndim)
    cut = len(event) - len(features)
    if event[cut:] != features:
        raise ValueError(
            f"{name} got x with shape {tuple(x.shape)}, expected features {features} behind "
            f"{'the object dimension' if cut else 'the lead dimensions'}"
        )
    if c is None and condition_dim:
        raise ValueError(f"{name} got no context, expected c with shape {(*lead, condition_dim)}")
    if c is not None and not condition_dim:
        raise ValueError(
            f"{name} got a context with shape {tuple(c.shape)} but takes none; build it with "
            f"{'condition_dim' if c.ndim <= len(lead) + 1 else 'object_condition_dim'}="
            f"{c.shape[-1] if c.ndim else 1}"
        )
    if c is not None and tuple(c.shape) != (*lead, condition_dim):
        raise ValueError(
            f"{name} got c with shape {tuple(c.shape)}, expected {(*lead, condition_dim)}"
        )
    if mask is not None:
        mask = as_mask(mask, (*lead, event[0])).to(x.device)
    t = expand_time(t, lead, like=x)
    own = next(field.parameters(), x).dtype
    if own != x.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(
            f"{name} got x with dtype {x.dtype}, but its weights have {own}; convert one of them, "
            "x.to(dtype) or field.to(dtype)"
        )
    return lead, t, mask


def zeroed(module: _Module) -> _Module:
    """Return a module with all its weights zero: what it adds to a field comes with training."""
    for weight in module.parameters():
        nn.init.zeros_(weight)
    return module
