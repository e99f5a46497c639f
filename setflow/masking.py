"""The centre: flow matching on sets of variable size.

Notation. A set has N slots with D features, `x` of shape `(*lead, N, D)`; `mask` of shape
`(*batch, N)` says which slots hold a real object (True). Data stand at t = 0 and noise at t = 1.
The network learns the velocity v(x, t) of the path between them.

The loss is, per object, the mean of the squared error over features; per event, the mean over its
real objects (0 if it has none); then the mean over events. So every event weighs the same, whatever
its size. Sampling integrates dx/dt = v(x, t) from t = 1 to t = 0.

Padding is never read. Padded input is zeroed before the field and padded velocity after it, in
training and in use alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from setflow.core.broadcast import expand_context, expand_time
from setflow.core.calling import call_field
from setflow.core.masks import as_mask, zero_padding
from setflow.core.protocols import Base, Path, Solver, declares, event_ndim_of
from setflow.core.specs import as_tuple, split_event
from setflow.distributions.base import as_base, draw_noise
from setflow.losses.means import Reduction, event_means, reduce_events
from setflow.paths.linear import LinearPath

__all__ = ["masked_fm_loss", "masked_sample"]


def masked_fm_loss(
    field: nn.Module,
    x_target: Tensor,
    x_source: Tensor,
    mask: Tensor | None,
    t: Tensor | float | None = None,
    c: Tensor | None = None,
    *,
    path: Path | None = None,
    reduction: Reduction = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the flow-matching loss over real objects only.

    Lipman et al., "Flow Matching for Generative Modeling" (arXiv:2210.02747), with a mask: per
    object the mean of the squared error over features, per event the mean over its real objects,
    then `reduction` over events.

    Arguments:
        field: the velocity field, with `forward(x, t, c=None)` and `event_ndim` of at least 2; one
            that declares `takes_mask = True` is also given `mask=`.
        x_target: data, with shape `(*lead, N, ...)`; padded slots may hold anything.
        x_source: noise, with the shape of `x_target`.
        mask: which slots are real, with shape `(*lead, N)`; boolean, or 0 and 1; None means all.
        t: times, a number or a tensor with shape `lead`; None draws them uniformly on [0, 1], one
            per event.
        c: context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object.
        path: the path between data and noise; None takes `LinearPath`.
        reduction: `mean` or `sum` over events, or `none`; an event without objects counts as 0.
        generator: the random generator for `t`.

    Returns:
        A scalar, or one loss per event with shape `lead` for `reduction="none"`.

    Raises:
        ValueError: if shapes do not fit, or the mask holds values other than 0 and 1.

    >>> field = setflow.TransformerField(3, hidden=16, layers=1, heads=2)
    >>> x, mask = torch.randn(8, 30, 3), torch.rand(8, 30) > 0.5
    >>> setflow.masked_fm_loss(field, x, torch.randn_like(x), mask).shape
    torch.Size([])
    """
    event_ndim = event_ndim_of(field, at_least=2)
    lead, event = split_event(x_target, event_ndim)
    if x_source.shape != x_target.shape:
        raise ValueError(
            f"x_source has shape {tuple(x_source.shape)}, x_target {tuple(x_target.shape)}; "
            "expected equal shapes, one noise value per coordinate"
        )
    if mask is not None:
        mask = as_mask(mask, (*lead, event[0])).to(x_target.device)
    path = LinearPath() if path is None else path
    if t is None:
        t = torch.rand(lead, generator=generator, dtype=x_target.dtype, device=x_target.device)
    t = expand_time(t, lead, like=x_target)
    x_target, x_source = zero_padding(x_target, mask), zero_padding(x_source, mask)
    x_t = path.sample_xt(x_target, x_source, t)
    u_t = path.target_ut(x_target, x_source, t)
    v_t = call_field(field, x_t, t, c, mask)
    errors = zero_padding(v_t - u_t, mask) ** 2
    return reduce_events(event_means(errors, event_ndim, mask), reduction)


def masked_sample(
    field: nn.Module,
    base: Base | Distribution,
    solver: Solver,
    mask: Tensor | None,
    *,
    sample_shape: Iterable[int] | int = (),
    c: Tensor | None = None,
    t0: float = 1.0,
    t1: float = 0.0,
    x_source: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return samples of a flow-matching model, for events of the sizes that the mask tells.

    Arguments:
        field: the velocity field, as in `masked_fm_loss`.
        base: the distribution at `t0`, such as `StandardNormal((D,))`; with an empty batch shape it
            is expanded to the batch of the mask.
        solver: an ODE solver with `integrate(f, x0, *, t0, t1)`.
        mask: which slots are real, with shape `(*batch, N)`; None means all, and the batch is then
            that of the base or, if that is empty, of `x_source` or of the context `(*batch, C)`.
        sample_shape: the shape of independent samples in front of the batch.
        c: context, with shape `(*batch, C)`, or `(*batch, N, C)` for one row per object.
        t0: the time of the noise.
        t1: the time of the data.
        x_source: the noise, with the shape of the result; None draws it from `base`.
        generator: the random generator for the noise.

    Returns:
        Samples with shape `sample_shape + batch + event_shape`, zero in padded slots. The result is
        differentiable; call it under `torch.no_grad()` where no gradient is needed.

    Raises:
        ValueError: if shapes do not fit, the mask holds values other than 0 and 1, or the solver is
            one for stochastic equations.

    >>> field = setflow.TransformerField(3, hidden=16, layers=1, heads=2)
    >>> mask = torch.arange(30) < torch.tensor([[30], [7]])
    >>> base, solver = setflow.StandardNormal((3,)), setflow.Midpoint(steps=5)
    >>> setflow.masked_sample(field, base, solver, mask, sample_shape=(4,)).shape
    torch.Size([4, 2, 30, 3])
    """
    event_ndim = event_ndim_of(field, at_least=2)
    if declares(solver, "is_sde"):
        raise ValueError(
            f"{type(solver).__name__} solves stochastic equations; masked_sample integrates "
            "dx/dt = v(x, t): give it an ODE solver such as setflow.Midpoint(steps=50)"
        )
    base = as_base(base)
    sample_shape = as_tuple(sample_shape)
    batch = tuple(base.batch_shape)
    if mask is not None:
        mask = as_mask(mask)
        batch = tuple(mask.shape[:-1])
    elif not batch and x_source is not None:
        batch = tuple(x_source.shape[len(sample_shape) : -event_ndim])
    elif not batch and c is not None:
        if c.ndim > 2:
            raise ValueError(
                f"c has shape {tuple(c.shape)}: without a mask, x_source or a batch shape of the "
                "base it is not known whether it holds a row per event or per object; pass the mask"
            )
        batch = tuple(c.shape[:-1])
    lead = sample_shape + batch
    if mask is not None:
        mask = mask.expand(*lead, mask.shape[-1])
    if x_source is None:
        x_source = draw_noise(base, lead, len(batch), mask, event_ndim, generator)
    elif x_source.shape[:-event_ndim] != lead or (
        mask is not None and x_source.shape[len(lead)] != mask.shape[-1]
    ):
        slots = "N" if mask is None else str(mask.shape[-1])
        raise ValueError(
            f"x_source has shape {tuple(x_source.shape)}, expected "
            f"({', '.join(map(str, lead))}, {slots}, ...): sample_shape + batch + event_shape"
        )
    x1 = solver.integrate(
        _velocity(field, mask, c, len(batch), like=x_source),
        zero_padding(x_source, mask),
        t0=t0,
        t1=t1,
    )
    return zero_padding(x1, mask)


def _velocity(
    field: nn.Module, mask: Tensor | None, c: Tensor | None, batch_ndim: int, like: Tensor
) -> Callable[[Tensor, Any], Tensor]:
    """Bind mask and context to a field, once per solve; the result is v(x, t) for a solver."""
    lead, event = split_event(like, event_ndim_of(field))
    mask = None if mask is None else mask.to(like.device)
    c = expand_context(c, lead, batch_ndim, event[0])
    return lambda x, t: call_field(field, x, t, c, mask)
