"""Context left out in training, and samples guided by it: see `setflow.fields.GuidedField`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from setflow.fields.guidance import GuidedField
from setflow.sets.arrays import Array, as_tensor, shown

if TYPE_CHECKING:
    from setflow.model.model import SetFlow

__all__ = ["checked_share", "context_left_out", "guided", "vector_of"]


def checked_share(share: float, conditions: Sequence[str]) -> float:
    """Return the share of the events whose context is left out.

    Raises:
        ValueError: if it is none, or there are no conditions.
    """
    number = isinstance(share, (int, float)) and not isinstance(share, bool)
    if not number or not 0 <= share < 1:
        raise ValueError(
            f"drop_context is {shown(share)}, expected the share of the events whose context is "
            "left out: a number from 0 to below 1, such as 0.1"
        )
    if share and not conditions:
        raise ValueError(f"drop_context is {share}, but the model has no conditions to leave out")
    return float(share)


def context_left_out(
    flow: SetFlow, c: Tensor | None, drop: float | Tensor, generator: torch.Generator | None
) -> Tensor | None:
    """Return the scaled contexts of a training step, some of them replaced by `flow.no_context`.

    Arguments:
        flow: the model.
        c: the contexts, with shape `(B, C)`.
        drop: the share of the events whose context is left out, or which, boolean with shape
            `(B,)`.
        generator: the random generator that draws them.

    Raises:
        ValueError: if the model knows no missing context, or `drop` has another shape.
    """
    if c is None or flow.no_context is None:
        raise ValueError(
            "the model does not know what stands for no context; build it with conditions and with "
            "drop_context=0.1"
        )
    if isinstance(drop, Tensor):
        if drop.dtype != torch.bool or tuple(drop.shape) != (len(c),):
            raise ValueError(
                f"drop_context has shape {tuple(drop.shape)} and dtype {drop.dtype}, expected "
                f"{(len(c),)} booleans: whether the context of each event is left out"
            )
    else:
        share = checked_share(drop, flow.conditions)
        drop = torch.rand(len(c), device=c.device, generator=generator) < share
    return torch.where(drop[:, None], flow.no_context.to(c), c)


def vector_of(flow: SetFlow) -> Tensor:
    """Return what stands for no context in a model whose samples can be guided.

    Raises:
        ValueError: if the model was trained without leaving contexts out.
    """
    if flow.no_context is None:
        why = "was trained with the context of every event" if flow.conditions else "takes none"
        raise ValueError(
            f"guidance asks for more or less of the context, and the model {why}; train one with "
            "conditions and drop_context: 0.1 under model.flow.init_args"
        )
    return flow.no_context


def guided(flow: SetFlow, c: Tensor | None, strength: Array | float) -> tuple[GuidedField, Tensor]:
    """Return the field of guided samples, and the contexts that it takes.

    Arguments:
        flow: the model.
        c: the scaled contexts, with shape `(n, C)`.
        strength: that of the guidance, a number, or one for each event, with shape `(n,)`.

    Raises:
        ValueError: if the model was trained without leaving contexts out, or the strength is no
            finite number for each event.
    """
    no_context = vector_of(flow)
    assert c is not None
    if isinstance(strength, Mapping):
        raise ValueError(
            f"guidance is {strength!r}, expected a number, or {len(c)}, one for each event: make "
            "them of the context, such as torch.where(is_top, 2.0, 1.0); by names of classes "
            "`setflow sample --guidance` takes them"
        )
    if isinstance(strength, (int, float)):
        given = torch.full((len(c),), float(strength))
    else:
        given = as_tensor(strength, "guidance")
    if tuple(given.shape) != (len(c),) or not all(map(math.isfinite, given.tolist())):
        raise ValueError(
            f"guidance is {shown(strength)}, expected a finite number, or {len(c)}, one for each "
            "event; 1 follows the context as the data do"
        )
    own = 0 if flow.types is None else len(flow.types.types.columns)
    return GuidedField(flow.field, no_context, own), torch.cat([c, given.to(c)[:, None]], -1)
