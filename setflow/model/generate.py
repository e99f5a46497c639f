"""The sample of a `SetFlow`: which sizes, which context, which noise, and the solve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from setflow.data.scaling import Standardizer
from setflow.distributions.wrapped import WrappedNormal
from setflow.masking.sample import masked_sample
from setflow.model.encoding import ContextEncoder, NamedContext
from setflow.model.finite import context_error, refuse_diverged
from setflow.model.guidance import guided
from setflow.model.stages import as_given
from setflow.model.types import typed_features, typed_objects
from setflow.random import counter_normal, counter_uniform, derive
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.batch import SetBatch
from setflow.solvers.fixed import Midpoint

if TYPE_CHECKING:
    from setflow.model.model import SetFlow
    from setflow.sets.protocols import Solver

__all__ = ["generate"]


def generate(
    flow: SetFlow,
    index: Tensor,
    c: NamedContext | None,
    seed: int,
    *,
    lengths: Array | None,
    guidance: Array | float,
    solver: Solver | None,
    batch_size: int,
) -> SetBatch:
    """Return the events with these indices; see `SetFlow.sample`.

    Arguments:
        flow: the model.
        index: the indices of the events, with shape `(n,)`, on the device of the model.
        c: their physical context, as `SetFlow.sample` takes it.
        seed: the seed of noise and cardinalities.
        lengths: the number of objects of each, with shape `(n,)`, or of each type, `(n, K)`; None
            draws from p(N | c).
        guidance: how strongly they follow their context.
        solver: the ODE solver; None takes `Midpoint(steps=50)`.
        batch_size: how many events to integrate at a time.

    Raises:
        ValueError: if the context or the lengths do not fit, there is neither a cardinality model
            nor lengths, or the model makes no numbers since weights are not finite.
    """
    n, device, features = len(index), index.device, tuple(flow.base.event_shape)
    dtype = next(flow.field.parameters(), flow.scaler.mean).dtype
    given, told = None, c
    if flow.context_model is not None and (named := as_given(flow, c)) is not None:
        model = flow.context_model
        made = generate(
            model, index, {name: named[name] for name in model.conditions} or None,
            derive(seed, "context"), lengths=torch.ones(n, dtype=torch.int64), guidance=1.0,
            solver=None, batch_size=batch_size,
        )  # fmt: skip
        assert flow.context_encoder is not None
        values = zip(model.features, made.x[:, 0].unbind(-1), strict=True)
        c = named | {name: flow.context_encoder.within(name, value) for name, value in values}
    if c is not None:
        given = (flow.context_encoder or ContextEncoder(())).rows(c, n).to(device)
    context = flow.scaled_context(given, n)
    if context is not None and not bool(context.isfinite().all()):
        advice = "give numbers that the model can be asked for"
        raise context_error(~context.isfinite(), flow.context_columns, advice)
    if given is not None and flow.context_encoder is not None and c is told:
        flow.context_encoder.warn_outside(given, stacklevel=4)
    context = None if context is None else context.to(dtype)
    kinds = None
    if flow.types is not None:
        lengths, kinds = typed_objects(flow, index, lengths, seed, context)
        slots = kinds.shape[1]
    elif lengths is None:
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
    field: nn.Module = flow.field
    if not isinstance(guidance, (int, float)) or guidance != 1:
        field, context = guided(flow, context, guidance)
    mask = torch.arange(slots, device=device) < lengths[:, None]
    x = torch.zeros(n, slots, len(flow.features), dtype=dtype, device=device)
    solver = Midpoint(steps=50) if solver is None else solver
    for start in range(0, n, batch_size):
        rows = slice(start, start + batch_size)
        noise = counter_normal(seed, index[rows], mask[rows], features).to(dtype)
        if isinstance(flow.base, WrappedNormal):
            noise = flow.base.of_normal(noise)
        row_context = None if context is None else context[rows]
        if kinds is not None:
            x[rows] = typed_features(
                flow, field, solver, mask[rows], kinds[rows], row_context, noise
            )
            continue
        z = masked_sample(field, flow.base, solver, mask[rows], c=row_context, x_source=noise)
        assert isinstance(flow.scaler, Standardizer)
        x[rows] = flow.scaler.inverse(z, mask[rows])
    if not bool(x.isfinite().all()):
        refuse_diverged(flow)
    return SetBatch(x, mask, given)
