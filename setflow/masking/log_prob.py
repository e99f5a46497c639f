"""The log-density of sets, and samples with theirs."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, overload

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from setflow.distributions.base import as_base
from setflow.distributions.wrapped import WrappedNormal
from setflow.divergence.base import (
    DivergenceEstimator,
    Evaluation,
    PlannedEstimator,
    PlannedSolve,
    as_estimator,
)
from setflow.divergence.exact import ExactDivergence
from setflow.random import EventSeeds
from setflow.sets.arrays import Array, as_tensor, check_generator
from setflow.sets.context import GivenContext, batch_ndim_of_context
from setflow.sets.events import Events
from setflow.sets.masks import as_mask, current_transform, is_readable
from setflow.sets.protocols import (
    Base,
    Flag,
    SDESolver,
    Solver,
    declares,
    event_ndim_of,
    parts_that_declare,
)
from setflow.sets.shapes import check_times, split_event
from setflow.solvers.adaptive import IntegrationError
from setflow.solvers.integrate import integrate_augmented, solve_in_groups

__all__ = [
    "LogProbEstimate",
    "SampleWithLogProb",
    "masked_log_prob",
    "sample_and_score",
    "score_events",
    "scored_events",
    "solve_dtype",
    "tells_error",
]

_LEAST_BITS = 32  # of the arithmetic of a log-density
_EXACT = ExactDivergence()
_NO_DENSITY: dict[Flag, str] = {
    "is_discontinuous": (
        "its velocity jumps in x, and the divergence misses what the jumps do to the density, so "
        "that the number would be wrong though it looks right; make the field continuous (edge "
        "weights that fall to zero at the border of a neighbourhood) or use it for sampling only"
    ),
    "samples_only": (
        "it is for samples alone, and no density of what it generates is known; score with a field "
        "that has one"
    ),
}


class LogProbEstimate(NamedTuple):
    """A log-density and what its divergence estimate leaves uncertain.

    Attributes:
        log_prob: the log-density in nats, with shape `lead`.
        standard_error: the standard deviation of that estimate, with shape `lead`; 0 where the
            divergence is exact. The error of the solver is not part of it.
    """

    log_prob: Tensor
    standard_error: Tensor


class SampleWithLogProb(NamedTuple):
    """Samples and their log-density, from one solve.

    Attributes:
        x: the samples, as `masked_sample` returns them.
        log_prob: the log-density of each, as `masked_log_prob` returns it.
    """

    x: Tensor
    log_prob: Tensor


class LogProbOptions(TypedDict, total=False):
    """What `masked_log_prob` takes by keyword, whatever it returns."""

    c: GivenContext | None
    t0: Tensor | float
    t1: Tensor | float
    estimator: DivergenceEstimator | Callable[..., Tensor] | None
    present: Array | None
    generator: torch.Generator | None


@overload
def masked_log_prob(
    field: nn.Module,
    base: Base | Distribution,
    solver: Solver,
    x: Array,
    mask: Array | None,
    *,
    return_standard_error: Literal[False] = False,
    **options: Unpack[LogProbOptions],
) -> Tensor: ...


@overload
def masked_log_prob(
    field: nn.Module,
    base: Base | Distribution,
    solver: Solver,
    x: Array,
    mask: Array | None,
    *,
    return_standard_error: Literal[True],
    **options: Unpack[LogProbOptions],
) -> LogProbEstimate: ...


def masked_log_prob(
    field: nn.Module,
    base: Base | Distribution,
    solver: Solver,
    x: Array,
    mask: Array | None,
    *,
    c: GivenContext | None = None,
    t0: Tensor | float = 1.0,
    t1: Tensor | float = 0.0,
    estimator: DivergenceEstimator | Callable[..., Tensor] | None = None,
    present: Array | None = None,
    generator: torch.Generator | None = None,
    return_standard_error: bool = False,
) -> Tensor | LogProbEstimate:
    """Return the log-density, in nats, of the ordered tuple of real objects given their number.

    Chen et al., "Neural Ordinary Differential Equations" (arXiv:1806.07366): the data are carried
    from `t1` to `t0`, where the base gives their density, and the divergence of the velocity over
    real coordinates is collected on the way, with a plus sign. (Documents of other libraries print
    values with a minus sign; their densities do not integrate to one.) The density of the unordered
    set is larger by log N!. Sums are accumulated in float64.

    The solve runs in the dtype of `x`, but at least in float32, without autocast or TF32: weights
    that are narrower are widened. So `x.double()` gives the density in double precision.

    Arguments:
        field: the velocity field, as in `masked_fm_loss`; continuous in x, and without random parts
            (dropout only in evaluation mode).
        base: the distribution at `t0`, such as `StandardNormal((D,))`.
        solver: an ODE solver with `integrate(f, x0, *, t0, t1)`.
        x: data, with shape `(*lead, N, ...)`; padded slots may hold anything.
        mask: which slots are real, with shape `(*batch, N)`, where `batch` are the last dimensions
            of `lead`; boolean, or 0 and 1; None means all.
        c: context, with shape `(*batch, C)`, or `(*batch, N, C)` for one row per object; or a
            `SetBatch` for another set per event.
        t0: the time of the noise.
        t1: the time of the data.
        estimator: of the divergence; None is exact. A callable `(field, x, t, c)` will do.
        present: which features each object has, with the shape of `x` or without sample dimensions
            in front; boolean, or 0 and 1; None means all. Absent ones may hold anything, and the
            density is that of the others.
        generator: the random generator for the probes of a stochastic estimator.
        return_standard_error: return what the probes leave uncertain, too.

    Returns:
        The log-density, with shape `lead`; 0 for an event without objects, NaN for one at whose
        values, finite but absurd, the field's arithmetic overflows. With
        `return_standard_error` a `LogProbEstimate`. It is differentiable (once) with respect to the
        field, `x` and `c`: each evaluation is computed again in the backward pass, so that memory
        stays that of one evaluation. Call it under `torch.no_grad()` where no gradient is needed.
        Inside the transforms of `torch.func` it keeps its graph and is differentiable as often as
        asked for; inside `vmap` nothing that depends on a value is checked.

    Raises:
        TypeError: if something is no tensor, array or object of the kind that is expected.
        ValueError: if shapes do not fit, the mask holds values other than 0 and 1, a time lies
            outside [0, 1], a real object holds NaN or infinity, the field declares
            `is_discontinuous` or `samples_only`, the solver is one for stochastic equations, or the
            base does not factorise; if a standard error is asked for that the estimator cannot
            tell.
        IntegrationError: if an adaptive solver does not reach its tolerance; it names the events.

    >>> field = setflow.GaussianSetField(torch.zeros(3), torch.ones(3), coupling=2.0)
    >>> x, mask = torch.randn(8, 5, 3), torch.rand(8, 5) > 0.5
    >>> base, solver = setflow.StandardNormal((3,)), setflow.RK4(steps=20)
    >>> log_p = setflow.masked_log_prob(field, base, solver, x, mask)
    >>> torch.allclose(log_p, field.log_prob(x, mask), atol=1e-3)
    True
    """
    if not isinstance(x, Tensor):
        x = as_tensor(x, "x")
    if not all(type(time) is float and 0 <= time <= 1 for time in (t0, t1)):
        check_times(t0=t0, t1=t1)
    events = scored_events(field, x, mask, c, present)
    result = score_events(
        field, base, solver, events, t0=t0, t1=t1, estimator=estimator, seeds=generator,
        with_error=return_standard_error,
    )  # fmt: skip
    log_prob, error = (value.to(solve_dtype(events.x)) for value in result)
    return LogProbEstimate(log_prob, error) if return_standard_error else log_prob


def scored_events(
    field: nn.Module | int,
    x: Tensor,
    mask: Array | None,
    c: GivenContext | None,
    present: Array | None = None,
) -> Events:
    """Resolve events to score, whose mask and context may lack sample dimensions in front.

    Arguments:
        field: the field, or how many dimensions form one event.
        x: data, with shape `(*samples, *batch, *event_shape)`.
        mask: the mask, with shape `(*batch, N)` or with sample dimensions, or None.
        c: the context, with the batch shape of the mask in front if there is one.
        present: which features each object has, or None.

    Raises:
        ValueError: if a shape does not fit.
    """
    least = 0 if mask is None else 2
    event_ndim = event_ndim_of(field, at_least=least)
    lead, event = split_event(x, event_ndim)
    batch_ndim = None
    if mask is None and c is not None:
        batch_ndim = batch_ndim_of_context(c, lead, event)
    elif mask is not None:
        mask = as_mask(mask).to(x.device)
        batch = tuple(mask.shape[:-1])
        batch_ndim = len(batch)
        if lead[len(lead) - len(batch) :] != batch or mask.shape[-1] != event[0]:
            raise ValueError(
                f"mask has shape {tuple(mask.shape)}, expected {(*lead, event[0])}, or that "
                "without sample dimensions in front"
            )
        mask = mask.expand(*lead, event[0])
    return Events.of(field, x, mask, c=c, batch_ndim=batch_ndim, present=present)


def sample_and_score(
    field: nn.Module,
    base: Base | Distribution,
    solver: Solver | SDESolver,
    start: Events,
    *,
    t0: Tensor | float,
    t1: Tensor | float,
    estimator: DivergenceEstimator | Callable[..., Tensor] | None,
    generator: torch.Generator | None,
) -> SampleWithLogProb:
    """Carry noise from `t0` to `t1` and collect the divergence on the way.

    Raises:
        ValueError: as `masked_log_prob`.
    """
    dtype = start.x.dtype
    events = _scorable(field, start)
    log_p = _base_log_prob(base, events)
    x, collected = _collect_divergence(field, solver, events, t0, t1, estimator, generator)
    # carried from t0 to t1 the integral has the other sign
    log_prob = log_p - collected.mean(-1)
    x = base.wrapped(x) if isinstance(base, WrappedNormal) else x
    return SampleWithLogProb(x.to(dtype), log_prob.to(solve_dtype(start.x)))


def score_events(
    field: nn.Module,
    base: Base | Distribution,
    solver: Solver | SDESolver,
    events: Events,
    *,
    t0: Tensor | float,
    t1: Tensor | float,
    estimator: DivergenceEstimator | Callable[..., Tensor] | None,
    seeds: EventSeeds | torch.Generator | None,
    with_error: bool = False,
) -> LogProbEstimate:
    """Return the log-density of events of any shape and its standard error.

    The arguments are those of `masked_log_prob`, its events resolved; `seeds` may number the events
    for their probes. Both are float64; the standard error is NaN where it is not asked for.

    Raises:
        ValueError: as `masked_log_prob`.
    """
    if seeds is not None and not isinstance(seeds, EventSeeds):
        check_generator(seeds)
    if with_error and not tells_error(estimator):
        raise ValueError(
            f"{type(estimator).__name__} tells no standard error: it needs two or more independent "
            "estimates, as setflow.HutchinsonDivergence(n_probes=8) makes"
        )
    events = _scorable(field, events)
    z, collected = _collect_divergence(field, solver, events, t1, t0, estimator, seeds)
    log_p = _base_log_prob(base, replace(events, x=z))
    error = torch.full_like(log_p, torch.nan)
    if with_error:
        count = collected.shape[-1]
        error = torch.zeros_like(log_p)
        if count > 1 and collected.numel():
            error = collected.std(-1) / math.sqrt(count)
    return LogProbEstimate(log_p + collected.mean(-1), error)


def solve_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of a solve that collects the divergence: that of `x`, at least float32."""
    return torch.float32 if torch.finfo(x.dtype).bits < _LEAST_BITS else x.dtype


def tells_error(estimator: object) -> bool:
    """Return whether an estimator (None is exact) tells the standard error of its divergence."""
    if estimator is None:
        return True
    return isinstance(estimator, PlannedEstimator) and (
        estimator.is_exact or estimator.n_estimates > 1
    )


def _scorable(field: nn.Module, events: Events) -> Events:
    """Return events in the dtype of a solve that collects the divergence.

    Raises:
        ValueError: if they or the field have no density.
    """
    declared = parts_that_declare(field, *_NO_DENSITY)
    for flag, why in _NO_DENSITY.items():
        if flag in declared:
            raise ValueError(f"{type(declared[flag]).__name__} declares {flag}: {why}")
    x = events.x
    wide = any(p.dtype == torch.float64 for p in field.parameters())
    events = replace(events, x=x.to(torch.float64 if wide else solve_dtype(x)))
    values = () if events.context is None else events.context.values
    if current_transform() is not None and not all(map(is_readable, (x, *values))):
        return events  # inside vmap: nothing that depends on a value
    if not bool(x.isfinite().all()):
        bad = (~x.isfinite()).nonzero()[0].tolist()
        where = "" if events.mask is None else " of a real object"
        raise ValueError(
            f"x[{', '.join(map(str, bad))}]{where} is not finite, so that it has no density; "
            "leave such events out, or mark the object as padding in the mask"
        )
    if not all(bool(value.isfinite().all()) for value in values):
        raise ValueError(
            "the context c of an event with real objects holds NaN or infinity; leave such events "
            "out"
        )
    return events


def _collect_divergence(
    field: nn.Module,
    solver: Solver | SDESolver,
    events: Events,
    t0: Tensor | float,
    t1: Tensor | float,
    estimator: DivergenceEstimator | Callable[..., Tensor] | None,
    seeds: EventSeeds | torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Carry events from `t0` to `t1`; return them and the integral of the divergence, in float64.

    The integrals of independent estimates stand side by side, with shape `(*lead, K)`. Events of
    like length are solved by themselves where solver and estimator allow it.
    """
    estimator = _EXACT if estimator is None else as_estimator(estimator)
    if estimator.renews and declares(solver, "is_adaptive"):
        raise ValueError(
            f"{type(solver).__name__} chooses its steps by its errors, and new probes at every "
            "evaluation are noise to it; use renew=False, or a solver with fixed steps such as "
            "setflow.RK4(50)"
        )
    evaluate = estimator.for_solve(field, events.at(events.x, t0), seeds)
    columns = estimator.n_estimates if isinstance(estimator, PlannedEstimator) else 1

    def solved(events: Events, evaluate: Evaluation) -> tuple[Tensor, Tensor]:
        start = events.x.new_zeros(*events.lead, columns, dtype=torch.float64)
        return integrate_augmented(
            solver, lambda x, t: evaluate(events.at(x, t)), events.x, start, t0=t0, t1=t1,
            mask=events.mask if events.present is None else events.present,
            event_ndim=events.event_ndim,
        )  # fmt: skip

    # probes that every evaluation draws anew are drawn for all events at once
    apart = declares(solver, "steps_apart") and not estimator.renews
    if apart and isinstance(evaluate, PlannedSolve) and evaluate.plan.rows is not None:
        solve, plan = evaluate, evaluate.plan
        with suppress(IntegrationError):  # all together tell which events fail first
            found = solve_in_groups(
                solver, plan, events,
                lambda part, chunk: solved(part, lambda at: solve.estimates(at, chunk)),
            )  # fmt: skip
            x = plan.objects([x for x, _ in found]).reshape(events.x.shape)
            collected = plan.events([integral for _, integral in found])
            return x, collected.reshape(*events.lead, columns)
    return solved(events, evaluate)


def _base_log_prob(base: Base | Distribution, events: Events) -> Tensor:
    """Return the log-density of noise under the base over real coordinates, in float64."""
    z, mask, event_ndim = events.x, events.mask, events.event_ndim
    base = as_base(base, events.slots, event_ndim)
    if event_ndim >= 2 and mask is None and len(base.event_shape) == event_ndim - 1:
        mask = torch.ones((*events.lead, events.slots), dtype=torch.bool, device=z.device)
    has: dict[str, Any] = {} if events.present is None else {"present": events.present}
    log_p = base.log_prob(z, mask=mask, **has)
    if log_p.shape != events.lead:
        raise ValueError(
            f"the base returned a log-density with shape {tuple(log_p.shape)}, expected "
            f"{events.lead}: one value per event, summed over its real coordinates"
        )
    return log_p.double()
