"""The context of events: which kind it is, decided once.

A caller gives a tensor with a row per event, `(*batch, C)`, or per object, `(*batch, N, C)`; for
events of three dimensions or more, such as images, also K channels of their size,
`(*batch, K, *event[1:])`; or a `SetBatch`, another set per event with objects of its own. Behind
the entrance of a verb it is a `Row`, `PerObject` or `AnotherSet` with the lead shape of the states
in front, and nobody looks at shapes again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from setflow.sets.arrays import Array, as_tensor
from setflow.sets.batch import SetBatch
from setflow.sets.masks import zero_padding

__all__ = [
    "AnotherSet",
    "Context",
    "GivenContext",
    "PerObject",
    "ResolvedContext",
    "Row",
    "batch_ndim_of_context",
    "batch_of_context",
    "context_of_batch",
    "resolve_context",
]

Context = Tensor | SetBatch  # what a field is called with
GivenContext = Array | SetBatch  # what a caller gives
_Change = Callable[[Tensor], Tensor]


class ResolvedContext(ABC):
    """A context whose kind is known, with the lead shape of its events in front.

    Attributes:
        row: the numbers of the event, with shape `(*lead, C)`, or `(*lead, K, *event[1:])` for
            channels of an image; None if there are none.
        rows: the numbers of its objects, with shape `(*lead, N, C)`, or None.
    """

    row: Tensor | None
    rows: Tensor | None

    @property
    @abstractmethod
    def given(self) -> Context:
        """The context as a field is called with it."""

    @property
    @abstractmethod
    def values(self) -> tuple[Tensor, ...]:
        """Its numbers: the tensors that gradients may reach."""

    @abstractmethod
    def holding(self, *values: Tensor) -> ResolvedContext:
        """Return a context of the same kind with other `values`."""

    @abstractmethod
    def changed(self, per_event: _Change, per_object: _Change) -> ResolvedContext:
        """Return the context with its tensors changed.

        Arguments:
            per_event: what becomes of a tensor with a row per event.
            per_object: what becomes of one that has the object dimension of the states, too.
        """

    @abstractmethod
    def selected(self, mask: Tensor | None) -> ResolvedContext:
        """Return zeros for what belongs to padding or to an event without objects.

        What belongs to no object may hold anything.

        Arguments:
            mask: that of the states, with shape `(*lead, N)`, or None for all real.
        """


@dataclass(frozen=True)
class Row(ResolvedContext):
    """A row of numbers per event."""

    row: Tensor
    rows = None

    @property
    def given(self) -> Tensor:
        return self.row

    @property
    def values(self) -> tuple[Tensor, ...]:
        return (self.row,)

    def holding(self, *values: Tensor) -> Row:
        return Row(*values)

    def changed(self, per_event: _Change, per_object: _Change) -> Row:
        return Row(per_event(self.row))

    def selected(self, mask: Tensor | None) -> Row:
        return self if mask is None else Row(zero_padding(self.row, mask.any(-1)))


@dataclass(frozen=True)
class PerObject(ResolvedContext):
    """A row of numbers per object."""

    rows: Tensor
    row = None

    @property
    def given(self) -> Tensor:
        return self.rows

    @property
    def values(self) -> tuple[Tensor, ...]:
        return (self.rows,)

    def holding(self, *values: Tensor) -> PerObject:
        return PerObject(*values)

    def changed(self, per_event: _Change, per_object: _Change) -> PerObject:
        return PerObject(per_object(self.rows))

    def selected(self, mask: Tensor | None) -> PerObject:
        return PerObject(zero_padding(self.rows, mask))


@dataclass(frozen=True)
class AnotherSet(ResolvedContext):
    """Another set per event, which may have a row per event itself.

    Arguments:
        x: its objects, with shape `(*lead, M, C)`.
        mask: which of them are real, boolean, with shape `(*lead, M)`.
        row: its own context, with shape `(*lead, R)`, or None.
    """

    x: Tensor
    mask: Tensor
    row: Tensor | None = None
    rows = None

    @property
    def given(self) -> SetBatch:
        return SetBatch(self.x, self.mask, self.row)

    @property
    def values(self) -> tuple[Tensor, ...]:
        return (self.x,) if self.row is None else (self.x, self.row)

    def holding(self, *values: Tensor) -> AnotherSet:
        return AnotherSet(values[0], self.mask, *values[1:])

    def changed(self, per_event: _Change, per_object: _Change) -> AnotherSet:
        row = None if self.row is None else per_event(self.row)
        return AnotherSet(per_event(self.x), per_event(self.mask), row)

    def selected(self, mask: Tensor | None) -> AnotherSet:
        own, row = self.mask, self.row
        if mask is not None:
            occupied = mask.any(-1)
            own = own & occupied[..., None]
            row = None if row is None else zero_padding(row, occupied)
        return AnotherSet(zero_padding(self.x, own), own, row)


def resolve_context(
    c: GivenContext, lead: tuple[int, ...], event: tuple[int, ...], batch_ndim: int
) -> ResolvedContext:
    """Return the context with the lead shape of the states in front, as the kind that it is.

    Arguments:
        c: the context, as a caller gives it.
        lead: the shape in front of the event dimensions, `sample_shape + batch`.
        event: the shape of one event.
        batch_ndim: how many of the lead dimensions are batch dimensions, which the context has.

    Raises:
        ValueError: if its shape is none of those that a context may have.

    >>> resolve_context(torch.zeros(4, 2), (16, 4), (30, 3), batch_ndim=1).given.shape
    torch.Size([16, 4, 2])
    >>> type(resolve_context(torch.zeros(4, 30, 2), (4,), (30, 3), batch_ndim=1)).__name__
    'PerObject'
    """
    if isinstance(c, SetBatch):
        return _resolved_set(c, lead, batch_ndim)
    if not isinstance(c, Tensor) or c.is_complex():
        c = as_tensor(c, "c")
    own = _own_shape(c, event)
    front = tuple(c.shape[:-1])
    batch = lead[len(lead) - batch_ndim :] if batch_ndim <= len(lead) else None
    if own is not None and tuple(c.shape[: c.ndim - len(own)]) == batch:
        shape = (*lead, *own)
    elif c.ndim and front == batch:
        shape = (*lead, c.shape[-1])
    else:
        raise ValueError(_no_fitting_shape(c, lead if batch is None else batch, event))
    expanded = c.expand(shape)
    per_object = len(event) >= 2 and len(shape) > len(lead) + 1 and shape[len(lead)] == event[0]
    return PerObject(expanded) if per_object else Row(expanded)


def _no_fitting_shape(c: Tensor, batch: tuple[int, ...], event: tuple[int, ...]) -> str:
    expected = [f"{(*batch, 'C')}: one context row per event"]
    if len(event) >= 2:
        expected.append(f"{(*batch, event[0], 'C')}: one per object")
    if len(event) >= 3:
        expected.append(f"{(*batch, 'K', *event[1:])}: an image of the size of the event")
    one = "; one number per event is c[..., None]" if tuple(c.shape) == batch else ""
    return f"c has shape {tuple(c.shape)}, expected {', or '.join(expected)}{one}"


def _resolved_set(c: SetBatch, lead: tuple[int, ...], batch_ndim: int) -> AnotherSet:
    if c.x.ndim != c.mask.ndim + 1:
        raise ValueError(
            f"the context set has x of shape {tuple(c.x.shape)}, expected {(*c.mask.shape, 'C')}: "
            "one row of features per object"
        )
    front = tuple(c.mask.shape[:-1])
    batch = lead[max(0, len(lead) - batch_ndim) :]
    if batch_ndim > len(lead) or front != batch:
        raise ValueError(
            f"the context set has a mask of shape {tuple(c.mask.shape)}, expected {(*batch, 'M')}: "
            "one set per event"
        )
    extra = lead[: len(lead) - batch_ndim]

    def expanded(value: Tensor) -> Tensor:
        return value.expand(*extra, *value.shape)

    return AnotherSet(c.x, c.mask, c.c).changed(expanded, expanded)


def _own_shape(c: Tensor, event: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the last dimensions of a tensor that belong to one event, if they can be several.

    That is `(N, C)` for one row per object, or `(K, *event[1:])` for channels of an image; None
    if it can only hold one row per event, `(C,)`.
    """
    if len(event) >= 3 and c.ndim >= len(event) and tuple(c.shape[1 - len(event) :]) == event[1:]:
        return tuple(c.shape[-len(event) :])
    if len(event) >= 2 and c.ndim >= 2 and c.shape[-2] == event[0]:
        return tuple(c.shape[-2:])
    return None


def batch_ndim_of_context(c: GivenContext, lead: tuple[int, ...], event: tuple[int, ...]) -> int:
    """Return how many lead dimensions a context has, where no mask tells; as few as fit.

    A row per event comes before a row per object.

    >>> batch_ndim_of_context(torch.zeros(4, 2), (16, 4), (30, 3))
    1
    """
    if isinstance(c, SetBatch):
        return c.mask.ndim - 1
    if not isinstance(c, Tensor) or c.is_complex():
        c = as_tensor(c, "c")
    own, front = _own_shape(c, event), tuple(c.shape[:-1])
    per_event = own is None or front == lead[max(0, len(lead) - len(front)) :]
    return len(front) if per_event or own is None else c.ndim - len(own)


def batch_of_context(
    c: GivenContext, event_shape: tuple[int, ...], event_ndim: int
) -> tuple[int, ...]:
    """Return the batch that a context stands for, where nothing else tells it.

    Arguments:
        c: the context, as a caller gives it.
        event_shape: that of the base.
        event_ndim: how many dimensions form one event.

    Raises:
        ValueError: if it could hold a row per event or per object.

    >>> batch_of_context(torch.zeros(16, 4), (8,), 1)
    (16,)
    >>> batch_of_context(torch.zeros(16, 1, 8, 8), (3, 8, 8), 3)
    (16,)
    """
    if isinstance(c, SetBatch):
        return tuple(c.mask.shape[:-1])
    if not isinstance(c, Tensor) or c.is_complex():
        c = as_tensor(c, "c")
    own = _own_shape(c, event_shape) if len(event_shape) == event_ndim else None
    if own is not None and len(own) == event_ndim > 2:
        return tuple(c.shape[:-event_ndim])
    if c.ndim > 2 and event_ndim > 1:
        raise ValueError(
            f"c has shape {tuple(c.shape)}: it is not known whether it holds a row per event or "
            "one per object; pass the mask, x_source, or a base with a batch shape"
        )
    return tuple(c.shape[:-1])


def context_of_batch(c: GivenContext | None, batch: tuple[int, ...]) -> Context | None:
    """Return the context that a model is bound to; that of one event serves all of a batch.

    Arguments:
        c: the context, as a caller gives it.
        batch: the batch that it is to serve; empty if it is not known.

    >>> context_of_batch(torch.zeros(1, 4), (16,)).shape
    torch.Size([16, 4])
    >>> context_of_batch(torch.zeros(16, 4), (16,)).shape
    torch.Size([16, 4])
    """
    if c is None:
        return None
    given = c if isinstance(c, Tensor | SetBatch) else as_tensor(c, "c")
    shape = given.mask.shape if isinstance(given, SetBatch) else given.shape
    one = (1,) * len(batch)
    if batch == one or len(shape) <= len(batch) or tuple(shape[: len(batch)]) != one:
        return given

    def expanded(value: Tensor) -> Tensor:
        return value.expand(*batch, *value.shape[len(batch) :])

    if isinstance(given, SetBatch):
        row = None if given.c is None else expanded(given.c)
        return SetBatch(expanded(given.x), expanded(given.mask), row)
    return expanded(given)
