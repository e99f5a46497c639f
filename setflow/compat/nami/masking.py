"""The verbs of masked sets: setflow's own, but for the shape of samples.

In setflow samples have the shape `sample_shape + batch + event_shape` with the batch of the mask.
In nami the lead shape is `sample_shape` and the batch of the base, and a mask is expanded to it: a
base without batch, a mask `(B, N)` and `sample_shape=(B,)` give one sample per row of the mask.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution

import setflow
from setflow import masked_fm_loss
from setflow.compat.nami.core.specs import as_tuple
from setflow.sets.protocols import Base, Solver

__all__ = ["masked_fm_loss", "masked_sample"]


def masked_sample(
    field: nn.Module,
    base: Base | Distribution,
    solver: Solver,
    mask: Tensor | None,
    *,
    sample_shape: tuple[int, ...] = (),
    c: Tensor | None = None,
    **others: Any,
) -> Tensor:
    """Return samples of sets; see `setflow.masked_sample` for what is not said here.

    Arguments:
        field: the velocity field.
        base: the distribution of the noise.
        solver: an ODE solver.
        mask: which slots are real, with shape `(*batch, N)`.
        sample_shape: the shape in front of the batch of the base. If the mask expands to both
            together, they are the lead shape of the result; otherwise it is `sample_shape + batch`
            as in setflow.
        c: the context, with shape `(*batch, C)`, expanded with the mask.
        others: `t0` and `t1`, and what setflow adds.

    Returns:
        Samples, zero in padded slots.

    Raises:
        ValueError: if shapes do not fit.

    >>> field = setflow.TransformerField(3, hidden=16, layers=1, heads=2)
    >>> base, mask = setflow.StandardNormal((30, 3)), torch.ones(8, 30)
    >>> masked_sample(field, base, setflow.RK4(2), mask, sample_shape=(8,)).shape
    torch.Size([8, 30, 3])
    """
    lead = (*as_tuple(sample_shape), *base.batch_shape)
    if mask is not None and _expands(tuple(mask.shape[:-1]), lead):
        mask, sample_shape = mask.expand(*lead, mask.shape[-1]), ()
        if c is not None and _expands(tuple(c.shape[:-1]), lead):
            c = c.expand(*lead, c.shape[-1])
    x: Tensor = setflow.masked_sample(
        field, base, solver, mask, sample_shape=sample_shape, c=c, **others
    )
    return x


def _expands(shape: tuple[int, ...], lead: tuple[int, ...]) -> bool:
    """Return whether `shape`, aligned on the right, expands to `lead`."""
    last = lead[len(lead) - len(shape) :]
    return len(shape) <= len(lead) and all(
        mine in (1, theirs) for mine, theirs in zip(shape, last, strict=True)
    )
