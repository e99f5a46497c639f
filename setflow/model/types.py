"""The objects of a sample of a model with types: how many of each, and what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from setflow.data.typed_scaling import TypedStandardizer
from setflow.distributions.cardinality import length_error
from setflow.distributions.composition import Composition
from setflow.masking.sample import masked_sample
from setflow.random import counter_uniform, derive
from setflow.sets.arrays import Array, as_tensor

if TYPE_CHECKING:
    from setflow.model.model import SetFlow
    from setflow.sets.protocols import Solver

__all__ = ["typed_features", "typed_objects"]


def typed_objects(
    flow: SetFlow, index: Tensor, lengths: Array | None, seed: int, c: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the numbers of objects of events, and the types of these, which stand in their order.

    The types of event k are a function of (seed, k, c) only.

    Arguments:
        flow: the model.
        index: the indices of the events, with shape `(n,)`.
        lengths: how many objects they are to have, with shape `(n,)`, or how many of each type,
            `(n, K)`; None draws them.
        seed: the seed of the sample.
        c: the scaled context, with shape `(n, C)`, or None.

    Returns:
        Numbers with shape `(n,)`, and types with shape `(n, slots)`.

    Raises:
        ValueError: if the numbers do not fit, or there is nothing to draw them from.
    """
    assert flow.types is not None
    n, law, types = len(index), flow.cardinality, len(flow.types.types)
    counts = None if lengths is None else _checked(lengths, n, types).to(index.device)
    if counts is None or counts.ndim == 1:
        if not isinstance(law, Composition):
            raise ValueError(
                "the model has no law of the types of objects; give lengths=, the number of each "
                f"with shape {(n, types)}: {'; '.join(flow.types.types.names)}; or build it with "
                f"cardinality=setflow.EmpiricalComposition({types}, max_objects)"
            )
        first = counter_uniform(seed, index)
        others = [counter_uniform(derive(seed, "types", k), index) for k in range(1, types)]
        uniform = torch.stack([first, *others], -1)
        drawn = counts is None
        counts = law.sample(uniform, c) if counts is None else law.sample_given(counts, uniform, c)
    else:
        drawn = False
    numbers = counts.sum(-1)
    longest = int(numbers.max()) if n else 0
    if law is not None and longest > law.max_objects:
        raise length_error(int(numbers.min()), longest, law.max_objects)
    _require_known(flow, counts)
    slots = law.max_objects if drawn and law is not None else longest
    return numbers, flow.types.listed(counts, slots)


def _checked(lengths: Array, n: int, types: int) -> Tensor:
    """Return numbers of objects, or of objects of each type, that a caller gives."""
    given = as_tensor(lengths, "lengths")
    counted = not given.is_floating_point() and given.dtype != torch.bool
    if tuple(given.shape) not in ((n,), (n, types)) or not counted:
        raise ValueError(
            f"lengths has shape {tuple(given.shape)} and dtype {given.dtype}, expected {(n,)} "
            f"integers, the number of objects of each event, or {(n, types)}, that of each type"
        )
    if given.numel() and int(given.min()) < 0:
        raise ValueError(f"lengths must not be negative, got {int(given.min())}")
    return given


def _require_known(flow: SetFlow, counts: Tensor) -> None:
    """Refuse types that the training had not.

    Raises:
        ValueError: if one is asked for; it names it.
    """
    assert isinstance(flow.scaler, TypedStandardizer)
    assert flow.types is not None
    asked = counts.sum(0).nonzero()[:, 0].tolist() if len(counts) else []
    if unknown := [k for k in asked if k not in flow.scaler.occurring]:
        raise ValueError(
            f"lengths ask for objects of type '{flow.types.types.names[unknown[0]]}', and the "
            f"training had {flow.scaler.occurred}; ask for these"
        )


def typed_features(
    flow: SetFlow,
    field: nn.Module,
    solver: Solver,
    mask: Tensor,
    kinds: Tensor,
    c: Tensor | None,
    noise: Tensor,
) -> Tensor:
    """Return the physical features of objects of given types, with shape `(b, N, F)`.

    Arguments:
        flow: the model.
        field: its field, or that of guided samples.
        solver: the ODE solver.
        mask: which objects are real, with shape `(b, N)`.
        kinds: their types, with shape `(b, N)`.
        c: the scaled context as the field takes it, with a row per event, or None.
        noise: with shape `(b, N, D)`.
    """
    assert flow.types is not None
    assert isinstance(flow.scaler, TypedStandardizer)
    rows = flow.types.rows(kinds, c, noise.dtype)
    z = masked_sample(
        field, flow.base, solver, mask, c=rows, x_source=noise, present=flow.types.present(kinds)
    )
    return flow.scaler.inverse(z, mask, kinds)
