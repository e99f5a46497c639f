"""Couplings: which noise of an event belongs to which of its objects in training.

Notation. An event has N real objects x_1 .. x_N, in the scaled features that the field sees, and as
many noise objects e_1 .. e_N. The coupling `event` pairs each object with one noise object so that
the sum of their squared distances is least, exactly (the Hungarian method), for every event alone
and anew at every step. The paths from noise to data are then shorter and cross less.

The noise of the event stays what it was, in another order: as a set it is still a sample of the
base. So a permutation-equivariant field, as all fields on sets here are, samples from the same base
and its `log_prob` is the same function; one that tells its slots apart is no field for a coupling,
since the noise of a slot would depend on the data. On circles, of features that are angles, the
distance is the shorter way round, in units of the noise's own deviation. For the same reason
objects with a context of their own, such as a type, exchange noise only with those of equal
context, and those that lack features only with those that have the same: else the noise would
depend on it.

Klein, Kraemer, Noe, "Equivariant Flow Matching" (arXiv:2306.15030); Song et al., "Equivariant Flow
Matching with Hybrid Probability Transport" (arXiv:2312.07168).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from setflow.sets.angles import Circles
from setflow.sets.arrays import shown
from setflow.sets.events import Events
from setflow.sets.masks import is_readable

__all__ = ["Coupling", "check_coupling", "coupled_noise"]

Coupling = Literal["event"]

_Array = np.ndarray[Any, Any]


def check_coupling(coupling: object) -> None:
    """Refuse what is no coupling.

    Raises:
        ValueError: if it is neither `event` nor None.
    """
    if coupling not in ("event", None):
        raise ValueError(
            f"coupling is {shown(coupling)}, expected 'event', which pairs the noise of an event "
            "with its objects, or None for noise that is independent of them"
        )


def coupled_noise(
    events: Events, x_source: Tensor, coupling: Coupling, circles: Circles | None = None
) -> Tensor:
    """Return the noise of each event in the order of its objects that the coupling says.

    The assignment is made on a CPU, in about 80 us for an event of 30 objects and 2 ms for one of
    150; on an accelerator the step waits for it. Gradients pass to the noise, none through the
    choice. An event with a value that is not finite keeps its noise as it is.

    Arguments:
        events: the data, with shape `(*lead, N, ...)`.
        x_source: the noise, with the same shape, zero in padded slots, which stay as they are.
        coupling: `event`.
        circles: which features are angles, such as a `setflow.WrappedPath`; None means none.

    Raises:
        ValueError: if the events are no sets, no two objects of an event have equal context though
            objects have contexts that are no whole numbers, as types are, or the values cannot be
            looked at, as in `torch.func.vmap`.

    >>> events = Events.of(2, torch.tensor([[[0.0], [5.0], [0.0]]]), torch.tensor([[1, 1, 0]]))
    >>> coupled_noise(events, torch.tensor([[[4.0], [1.0], [0.0]]]), "event").flatten()
    tensor([1., 4., 0.])
    """
    check_coupling(coupling)
    if events.event_ndim < 2:
        raise ValueError(
            f"coupling={coupling!r} pairs the objects of a set with noise, but the field has "
            f"event_ndim={events.event_ndim}, one object per event; leave it out"
        )
    if not (is_readable(events.x.detach()) and is_readable(x_source.detach())):
        raise ValueError(
            f"coupling={coupling!r} looks at the values of objects and noise, which cannot be seen "
            "here, inside of torch.func.vmap or torch.compile; couple before, or leave it out"
        )
    order = torch.as_tensor(_least_cost(events, x_source, circles), device=x_source.device)
    index = order.reshape(*events.lead, events.slots, *[1] * (events.event_ndim - 1))
    return x_source.gather(len(events.lead), index.expand(x_source.shape))


def _least_cost(events: Events, x_source: Tensor, circles: Circles | None) -> _Array:
    """Return the slot from which each slot gets its noise, with shape `(events, N)`."""
    from scipy.optimize import linear_sum_assignment  # here, so that importing setflow stays light

    count, slots = math.prod(events.lead), events.slots
    x, noise = (_on_cpu(value, count, slots) for value in (events.x, x_source))
    unit = None if circles is None else circles.unit.detach().double().cpu().numpy()
    rows = None
    if events.context is not None and events.context.rows is not None:
        rows = _on_cpu(events.context.rows, count, slots)
    if events.present is not None:
        present = _on_cpu(events.present, count, slots)
        rows = present if rows is None else np.concatenate([rows, present], -1)
    real = np.ones((count, slots), dtype=bool)
    if events.mask is not None:
        real = events.mask.reshape(count, slots).cpu().numpy()
    order = np.tile(np.arange(slots), (count, 1))
    alone = rows is not None and bool((real.sum(-1) > 1).any())
    for event in range(count):
        for group in _alike(np.flatnonzero(real[event]), None if rows is None else rows[event]):
            if len(group) < 2:
                continue
            alone = False
            with np.errstate(over="ignore", invalid="ignore"):
                apart = x[event][group, None] - noise[event][None, group]
                if circles is not None:
                    for k in circles.angles:
                        apart[..., k] -= 2 * math.pi * np.round(apart[..., k] / (2 * math.pi))
                    apart = apart / unit
                cost = (apart**2).sum(-1)
            if np.isfinite(cost).all():
                order[event, group] = group[linear_sum_assignment(cost)[1]]
    if alone and rows is not None and not _are_kinds(rows, real):
        raise ValueError(
            "the objects have contexts of their own and no two of an event have the same, so that "
            "no noise can be exchanged: it would depend on the context; leave the coupling out"
        )
    return order


def _are_kinds(rows: _Array, real: _Array) -> bool:
    """Return whether the contexts of the objects of an event differ by whole numbers only.

    Arguments:
        rows: the contexts of all slots, with shape `(events, N, C)`.
        real: which slots are real, with shape `(events, N)`.
    """
    first = np.take_along_axis(rows, real.argmax(-1)[:, None, None], 1)
    apart = (rows - first)[real]
    return bool((apart == np.round(apart)).all())


def _on_cpu(values: Tensor, count: int, slots: int) -> _Array:
    """Return values with shape `(count, slots, features)`."""
    features = math.prod(values.shape) // max(1, count * slots)
    array: _Array = values.detach().to("cpu", torch.float64).numpy()
    return array.reshape(count, slots, features)


def _alike(slots: _Array, rows: _Array | None) -> list[_Array]:
    """Return the slots in groups of equal context.

    Arguments:
        slots: those of the real objects, with shape `(n,)`.
        rows: the contexts of all slots, with shape `(N, C)`, or None.
    """
    if rows is None or not len(slots):
        return [slots]
    kinds = np.unique(rows[slots], axis=0, return_inverse=True)[1].reshape(-1)
    return [slots[kinds == kind] for kind in range(int(kinds.max()) + 1)]
