"""How large a velocity field is, how it spreads volume, and whether a solver inverts its flow.

Notation. v(x, t, c) is the velocity as the verbs see it. Each function takes one number per event
and returns its statistics over the events that have real objects; `std` is that of the population.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from setflow.diagnostics.events import (
    left_as_it_was,
    norms_of,
    occupied_events,
    summary_of,
    velocity_of,
)
from setflow.divergence.base import DivergenceEstimator, as_estimator
from setflow.divergence.exact import ExactDivergence
from setflow.sets.context import Context
from setflow.sets.protocols import SDESolver, Solver
from setflow.solvers.integrate import integrate

__all__ = ["divergence_stats", "field_stats", "reversibility_error"]


def field_stats(
    field: nn.Module,
    x: Tensor,
    t: Tensor | float,
    c: Context | None = None,
    *,
    mask: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return statistics of the Euclidean norm of the velocity, one norm per event.

    Arguments:
        field: the velocity field.
        x: the states, with shape `(*lead, *event_shape)`; padded slots may hold anything.
        t: the time, a number or a tensor with shape `lead`.
        c: the context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object; or a
            `SetBatch` for another set per event.
        mask: which slots are real, with shape `(*lead, N)`; None means all. The norm is over real
            coordinates, and events without objects are left out.

    Returns:
        `mean`, `std` (of the population), `min` and `max` over events, each a scalar.

    Raises:
        ValueError: if shapes do not fit, or no event has a real object.

    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2))  # v = x at t = 1
    >>> field_stats(field, torch.tensor([[[3.0, 4.0]], [[0.0, 1.0]]]), 1.0)["mean"]
    tensor(3.)
    """
    events = occupied_events(field, x, t, c, mask)
    with left_as_it_was(field), torch.no_grad():
        norms = norms_of(velocity_of(field, events), events)
    return summary_of(norms, events, "mean", "std", "min", "max")


def divergence_stats(
    field: nn.Module,
    x: Tensor,
    t: Tensor | float,
    c: Context | None = None,
    *,
    mask: Tensor | None = None,
    estimator: DivergenceEstimator | Callable[..., Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Return statistics of the divergence of the velocity, one value per event.

    Arguments:
        field: the velocity field.
        x: the states, with shape `(*lead, *event_shape)`; padded slots may hold anything.
        t: the time, a number or a tensor with shape `lead`.
        c: the context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object; or a
            `SetBatch` for another set per event.
        mask: which slots are real, with shape `(*lead, N)`; None means all. The divergence is over
            real coordinates, and events without objects are left out.
        estimator: of the divergence; None is exact. A callable `(field, x, t, c)` will do; it is
            called with gradients enabled.
        generator: the random generator for the probes of a stochastic estimator.

    Returns:
        `mean`, `std` (of the population), `min` and `max` over events, each a scalar.

    Raises:
        ValueError: if shapes do not fit, or no event has a real object.

    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2))  # v = x at t = 1
    >>> mask = torch.tensor([[True, True, False], [True, False, False]])
    >>> divergence_stats(field, torch.zeros(2, 3, 2), 1.0, mask=mask)["max"]
    tensor(4.)
    """
    events = occupied_events(field, x, t, c, mask)
    users_own = estimator is not None and not isinstance(estimator, DivergenceEstimator)
    estimator = ExactDivergence() if estimator is None else as_estimator(estimator)
    with left_as_it_was(field), torch.set_grad_enabled(users_own):
        _, estimates = estimator.for_solve(field, events, generator)(events)
        divergence = estimates.mean(-1).to(events.x.dtype)
    return summary_of(divergence.detach(), events, "mean", "std", "min", "max")


def reversibility_error(
    field: nn.Module,
    solver: Solver | SDESolver,
    x: Tensor,
    t0: float = 1.0,
    t1: float = 0.0,
    *,
    c: Context | None = None,
    mask: Tensor | None = None,
    steps: int | None = None,
) -> dict[str, Tensor]:
    """Return how far data are from where they were after a way to the noise and back.

    The flow of a field inverts exactly, so what is measured is the error of the solver on this
    field; one that is large calls for more steps or a smoother field. One that is small is no bound
    on the error of one way: a method of even order closes the circle to an order higher than its
    own (RK4 to order 5), since its leading error cancels on the way back.

    Arguments:
        field: the velocity field.
        solver: an ODE solver.
        x: data, with shape `(*lead, *event_shape)`; padded slots may hold anything.
        t0: the time of the noise.
        t1: the time of the data, from which the way to `t0` and back starts.
        c: the context, with shape `(*lead, C)`, or `(*lead, N, C)` for one row per object; or a
            `SetBatch` for another set per event.
        mask: which slots are real, with shape `(*lead, N)`; None means all. Events without objects
            are left out.
        steps: the number of steps each way; None takes the solver's own.

    Returns:
        `mean`, `std` (of the population) and `max` over events of the Euclidean norm of the
        difference, each a scalar.

    Raises:
        ValueError: if shapes do not fit, no event has a real object, the solver is one for
            stochastic equations, or `steps` is not a positive integer or the solver takes none.

    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.full((2,), 0.5))
    >>> error = reversibility_error(field, setflow.Euler(steps=10), torch.ones(8, 3, 2))
    >>> finer = reversibility_error(field, setflow.RK4(steps=50), torch.ones(8, 3, 2))
    >>> bool(error["max"] > 0.01), bool(finer["max"] < 1e-5)
    (True, True)
    """
    events = occupied_events(field, x, 0.0, c, mask)

    def velocity(state: Tensor, t: Any) -> Tensor:
        return events.at(state, t).velocity(field)

    def solve(start: Tensor, first: float, last: float) -> Tensor:
        return integrate(
            solver, velocity, start, t0=first, t1=last, mask=events.mask,
            event_ndim=events.event_ndim, steps=steps,
        )  # fmt: skip

    with left_as_it_was(field), torch.no_grad():
        back = solve(solve(events.x, t1, t0), t0, t1)
        norms = norms_of(back - events.x, events)
    return summary_of(norms, events, "mean", "std", "max")
