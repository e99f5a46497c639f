"""The sample of a `SetFlow`: which sizes, which context, which noise, and the solve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from setflow.masking.sample import masked_sample
from setflow.model.finite import context_error
from setflow.random import counter_normal, counter_uniform
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.batch import SetBatch
from setflow.solvers.fixed import Midpoint

if TYPE_CHECKING:
    from setflow.model.model import SetFlow
    from setflow.sets.protocols import Solver

__all__ = ["NamedContext", "context_rows", "generate"]

NamedContext = Array | Mapping[str, Any]  # rows in the order of the conditions, or by their names


def generate(
    flow: SetFlow,
    index: Tensor,
    c: NamedContext | None,
    seed: int,
    *,
    lengths: Array | None,
    solver: Solver | None,
    batch_size: int,
) -> SetBatch:
    """Return the events with these indices; see `SetFlow.sample`.

    Arguments:
        flow: the model.
        index: the indices of the events, with shape `(n,)`, on the device of the model.
        c: their physical context, as `SetFlow.sample` takes it.
        seed: the seed of noise and cardinalities.
        lengths: the number of objects of each, with shape `(n,)`; None draws from p(N | c).
        solver: the ODE solver; None takes `Midpoint(steps=50)`.
        batch_size: how many events to integrate at a time.

    Raises:
        ValueError: if the context or the lengths do not fit, or there is neither a cardinality
            model nor lengths.
    """
    n, device, features = len(index), index.device, (len(flow.features),)
    dtype = next(flow.field.parameters(), flow.scaler.mean).dtype
    given = None if c is None else context_rows(c, flow.conditions, n).to(device)
    context = flow.scaled_context(given, n)
    if context is not None and not bool(context.isfinite().all()):
        advice = "give numbers that the model can be asked for"
        raise context_error(~context.isfinite(), flow.conditions, advice)
    context = None if context is None else context.to(dtype)
    if lengths is None:
        if flow.cardinality is None:
            raise ValueError(
                "the model has no cardinality model; give lengths=, or build it with "
                "cardinality=setflow.EmpiricalCardinality(max_objects)"
            )
        slots = flow.cardinality.max_objects
        lengths = flow.cardinality.sample(counter_uniform(seed, index), context)
    else:
        lengths = as_tensor(lengths, "lengths").to(device)
        counted = not lengths.is_floating_point() and lengths.dtype != torch.bool
        if tuple(lengths.shape) != (n,) or not counted:
            hint = "; of a mask they are mask.sum(-1)" if lengths.ndim > 1 or not counted else ""
            raise ValueError(
                f"lengths has shape {tuple(lengths.shape)} and dtype {lengths.dtype}, expected "
                f"{(n,)} integers: the number of objects of each event{hint}"
            )
        if n and int(lengths.min()) < 0:
            raise ValueError(f"lengths must not be negative, got {int(lengths.min())}")
        slots = int(lengths.max()) if n else 0
        if flow.cardinality is not None and slots > flow.cardinality.max_objects:
            raise ValueError(
                f"lengths reach {slots}, but the model knows events of up to "
                f"{flow.cardinality.max_objects} objects, the max_objects of its cardinality "
                "model; give smaller lengths"
            )
    mask = torch.arange(slots, device=device) < lengths[:, None]
    x = torch.zeros(n, slots, *features, dtype=dtype, device=device)
    solver = Midpoint(steps=50) if solver is None else solver
    for start in range(0, n, batch_size):
        rows = slice(start, start + batch_size)
        noise = counter_normal(seed, index[rows], mask[rows], features).to(dtype)
        row_context = None if context is None else context[rows]
        z = masked_sample(flow.field, flow.base, solver, mask[rows], c=row_context, x_source=noise)
        x[rows] = flow.scaler.inverse(z, mask[rows])
    return SetBatch(x, mask, given)


def context_rows(c: NamedContext, conditions: Sequence[str], n: int) -> Tensor:
    """Return the context of events, one row for each, from what a caller gives.

    Arguments:
        c: rows in the order of the conditions, with shape `(n, C)`; one row for all, with shape
            `(1, C)` or `(C,)`; or a mapping from the names of the conditions to a number for all or
            to numbers with shape `(n,)`.
        conditions: the names of the C context features.
        n: the number of events.

    Raises:
        ValueError: if a name is missing or unknown, or a shape does not fit.

    >>> context_rows({"mass": 80.0, "pt": [400.0, 500.0]}, ("pt", "mass"), 2)
    tensor([[400.,  80.],
            [500.,  80.]])
    """
    if isinstance(c, Mapping):
        known = ", ".join(conditions) or "none"
        missing = [name for name in conditions if name not in c]
        unknown = [str(name) for name in c if name not in conditions]
        if missing or unknown:
            wrong = [f"lacks {', '.join(missing)}"] if missing else []
            wrong += [f"has {', '.join(unknown)}, which the model does not know"] if unknown else []
            raise ValueError(
                f"the context {' and '.join(wrong)}; the conditions of the model are {known}"
            )
        columns = []
        for name in conditions:
            column = as_tensor(c[name], f"condition '{name}'")
            if tuple(column.shape) not in ((), (1,), (n,)):
                raise ValueError(
                    f"condition '{name}' has shape {tuple(column.shape)}, expected a number for "
                    f"all events or {(n,)}: one for each"
                )
            if not column.is_floating_point():
                column = column.to(torch.get_default_dtype())
            columns.append(column.expand(n))
        return torch.stack(columns, -1) if columns else torch.zeros(n, 0)
    rows = as_tensor(c, "c")
    one = conditions and tuple(rows.shape) in ((len(conditions),), (1, len(conditions)))
    return rows.expand(n, len(conditions)) if one else rows
