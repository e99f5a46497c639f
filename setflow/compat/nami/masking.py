"""The verbs of masked sets: setflow's own, but for the shape of samples.

In setflow samples have the shape `sample_shape + batch + event_shape` with the batch of the mask.
In nami the lead shape is `sample_shape` and the batch of the base, and a mask is expanded to it: a
base without batch, a mask `(B, N)` and `sample_shape=(B,)` give one sample per row of the mask.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributions import Distribution

import setflow
from setflow import masked_fm_loss
from setflow.compat.nami.core.specs import as_tuple
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.masks import as_mask
from setflow.sets.protocols import Base, Solver

__all__ = ["masked_fm_loss", "masked_sample"]


def masked_sample(
    field: nn.Module,
    base: Base | Distribution,
    solver: Solver,
    mask: Array | None,
    *,
    sample_shape: tuple[int, ...] = (),
    c: Array | None = None,
    t0: float = 1.0,
    t1: float = 0.0,
) -> Tensor:
    """Return samples of sets in nami's shape; `setflow.masked_sample` has more arguments.

    Arguments:
        field: the velocity field.
        base: the distribution of the noise.
        solver: an ODE solver.
        mask: which slots are real, with shape `(*batch, N)`; None means all.
        sample_shape: the shape in front of the batch of the base. If that base has no batch, and
            the mask expands to `sample_shape`, this is the lead shape of the result; otherwise it
            is `sample_shape + batch` as in setflow.
        c: the context, with shape `(*batch, C)`, expanded with the mask.
        t0: the time of the noise.
        t1: the time of the data.

    Returns:
        Samples, with the event shape behind the lead shape, zero in padded slots.

    Raises:
        ValueError: if shapes do not fit.

    >>> field = setflow.TransformerField(3, hidden=16, layers=1, heads=2)
    >>> base, mask = setflow.StandardNormal((30, 3)), torch.ones(8, 30)
    >>> masked_sample(field, base, setflow.RK4(2), mask, sample_shape=(8,)).shape
    torch.Size([8, 30, 3])
    """
    front, batch = as_tuple(sample_shape), tuple(base.batch_shape)
    if not batch:
        front, batch = (), front
    mask = None if mask is None else as_mask(mask)
    c = None if c is None else as_tensor(c, "c")
    if mask is not None and _expands(mask.shape[:-1], batch):
        mask, sample_shape = mask.expand(*batch, mask.shape[-1]), front
        if c is not None and _expands(c.shape[:-1], batch):
            c = c.expand(*batch, c.shape[-1])
    return setflow.masked_sample(
        field, base, solver, mask, sample_shape=sample_shape, c=c, t0=t0, t1=t1
    )


def _expands(shape: tuple[int, ...], batch: tuple[int, ...]) -> bool:
    """Return whether `shape`, aligned on the right, expands to `batch`."""
    last = batch[len(batch) - len(shape) :]
    return len(shape) <= len(batch) and all(
        mine in (1, theirs) for mine, theirs in zip(shape, last, strict=True)
    )
