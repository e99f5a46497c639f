"""The one place where a solver is called, so that a user's own needs to inherit nothing.

Notation. An ordinary equation dx/dt = f(x, t), or a stochastic one dx = a(x, t) dt + g(t) dW with
drift a and diffusion g, is integrated from `t0` to `t1`, forwards or backwards in time. The state
`x0` has the shape `(*lead, *event_shape)`; the last `event_ndim` dimensions form one event.

What a solver offers it declares as attributes; one that it lacks counts as False, unless a misspelt
one or the arguments of `integrate` say otherwise, which is an error:

- `is_sde`: it solves stochastic equations, `integrate(drift, diffusion, x0, t0, t1, steps)`;
- `requires_steps`: `integrate` is given `steps=solver.steps`;
- `takes_mask`: `integrate` is also given `mask=` and `event_ndim=`, which an adaptive solver needs
  for a step size per event and an error norm over real coordinates;
- `is_adaptive`: it chooses its steps by its errors, so that the right-hand side must have no noise;
- `steps_apart`: the steps of an event do not depend on the others, be they the same for all or its
  own, so that events of like length may be solved by themselves, group after group;
- `supports_rsample`: gradients flow through the solve.

A solver with a method `integrate_augmented` integrates the state and its log-density together, each
in its own dtype. For one without, both are packed into one tensor.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from setflow.sets.arrays import check_generator, shown
from setflow.sets.events import Events
from setflow.sets.masks import zero_padding
from setflow.sets.planning import Chunk, Plan
from setflow.sets.protocols import SDESolver, Solver, declares, refuse_misspelt
from setflow.sets.shapes import check_accumulated, event_numel, positive_integer, split_event
from setflow.solvers.adaptive import Dopri5, SolveReport

__all__ = [
    "integrate",
    "integrate_augmented",
    "integrate_sde",
    "require_solver",
    "solve_in_groups",
]

_Solution = TypeVar("_Solution")

_FLAGS = (
    "is_sde",
    "requires_steps",
    "takes_mask",
    "is_adaptive",
    "steps_apart",
    "supports_rsample",
)


def integrate(
    solver: Solver | SDESolver,
    f: Callable[[Tensor, Any], Tensor],
    x0: Tensor,
    *,
    t0: Tensor | float,
    t1: Tensor | float,
    mask: Tensor | None = None,
    event_ndim: int,
    steps: int | None = None,
) -> Tensor:
    """Return x(t1) for dx/dt = f(x, t) and x(t0) = `x0`, by any ODE solver; zero in padded slots.

    Arguments:
        solver: an ODE solver with `integrate(f, x0, t0, t1)`.
        f: the velocity; called with x, of the shape of `x0`, and t, a number or a tensor with shape
            `lead`, as the solver has it.
        x0: the state at `t0`, with shape `(*lead, *event_shape)`.
        t0: the first time.
        t1: the last time, before or after `t0`.
        mask: boolean mask with shape `(*lead, N)`, or of each coordinate with that of `x0`, which a
            solver that declares `takes_mask` is given; None means all real.
        event_ndim: how many trailing dimensions form one event.
        steps: the number of steps, for a solver that declares `requires_steps`; None takes the
            solver's own.

    Raises:
        ValueError: if the solver is one for stochastic equations, needs steps and has none, is
            told steps and takes none, or returns another shape than that of `x0`.

    >>> class MySolver:
    ...     def integrate(self, f, x0, t0=0.0, t1=1.0, steps=None):
    ...         return x0 + (t1 - t0) * f(x0, t0)
    >>> integrate(MySolver(), lambda x, t: 2 * x, torch.ones(3), t0=0.0, t1=1.0, event_ndim=1)
    tensor([3., 3., 3.])
    """
    options = _options(solver, mask, event_ndim, steps)
    untyped: Any = solver  # it is given arguments that it declares itself
    x1: Tensor = untyped.integrate(f, x0, t0=t0, t1=t1, **options)
    if x1.shape != x0.shape:
        raise _wrong_shape(x1, x0, solver)
    return zero_padding(x1, mask)


def integrate_augmented(
    solver: Solver | SDESolver,
    f_aug: Callable[[Tensor, Any], tuple[Tensor, Tensor]],
    x0: Tensor,
    logp0: Tensor,
    *,
    t0: Tensor | float,
    t1: Tensor | float,
    mask: Tensor | None = None,
    event_ndim: int,
) -> tuple[Tensor, Tensor]:
    """Return x(t1) and logp(t1), integrated together in one solve, by any ODE solver.

    Arguments:
        solver: an ODE solver; without a method `integrate_augmented` it is given both as one
            tensor, with shape `(*lead, numel + K)` and the wider of the two dtypes.
        f_aug: returns the velocity, of the shape of `x0`, and the rate of change of the
            log-density, of that of `logp0`; called with x, in the shape and dtype of `x0`, and t.
        x0: the state at `t0`, with shape `(*lead, *event_shape)`.
        logp0: the accumulated value at `t0`, with shape `lead`, or `(*lead, K)` for K estimates
            side by side; may have a wider dtype than `x0`.
        t0: the first time.
        t1: the last time, before or after `t0`.
        mask: boolean mask with shape `(*lead, N)`, or of each coordinate with that of `x0`, which a
            solver that declares `takes_mask` is given; None means all real.
        event_ndim: how many trailing dimensions form one event.

    Raises:
        ValueError: if a shape does not fit, or the solver declares `takes_mask` and has no
            `integrate_augmented` (a mask does not fit the packed state).

    >>> x1, logp1 = integrate_augmented(
    ...     setflow.RK4(50), lambda x, t: (-x, 2 * torch.ones(5)), torch.ones(5, 2), torch.zeros(5),
    ...     t0=0.0, t1=1.0, event_ndim=1,
    ... )
    >>> x1.shape, round(logp1[0].item(), 4)
    (torch.Size([5, 2]), 2.0)
    """
    options = _options(solver, mask, event_ndim)
    lead, event = split_event(x0, event_ndim)
    check_accumulated(logp0, lead)
    own = getattr(solver, "integrate_augmented", None)
    if callable(own):
        x1, logp1 = own(f_aug, x0, logp0, t0=t0, t1=t1, **options)
        for got, like in ((x1, x0), (logp1, logp0)):
            if got.shape != like.shape:
                raise _wrong_shape(got, like, solver)
        return zero_padding(x1, mask), logp1
    if declares(solver, "takes_mask"):
        raise ValueError(
            f"{type(solver).__name__} declares takes_mask but has no method integrate_augmented; "
            "give it one, since a mask does not fit a state that is packed with its log-density"
        )
    numel, columns = event_numel(event), event_numel(logp0.shape[len(lead) :])
    wide = torch.promote_types(x0.dtype, logp0.dtype)

    def pack(x: Tensor, logp: Tensor) -> Tensor:
        parts = x.reshape(*lead, numel), logp.reshape(*lead, columns)
        return torch.cat([part.to(wide) for part in parts], -1)  # (*lead, numel + columns)

    def unpack(y: Tensor) -> tuple[Tensor, Tensor]:
        x, logp = y[..., :numel], y[..., numel:]
        return x.reshape(x0.shape).to(x0.dtype), logp.reshape(logp0.shape)

    def f_packed(y: Tensor, t: Any) -> Tensor:
        v, rate = f_aug(unpack(y)[0], t)
        if v.shape != x0.shape or rate.shape != logp0.shape:
            raise ValueError(
                f"f_aug returned shapes {tuple(v.shape)} and {tuple(rate.shape)}, expected "
                f"{tuple(x0.shape)} and {tuple(logp0.shape)}: a velocity and the rates of logp0"
            )
        return pack(v, rate)

    packed = pack(x0, logp0)
    untyped: Any = solver
    y1: Tensor = untyped.integrate(f_packed, packed, t0=t0, t1=t1, **options)
    if y1.shape != packed.shape:
        raise _wrong_shape(y1, packed, solver)
    x1, logp1 = unpack(y1)
    return zero_padding(x1, mask), logp1.to(logp0.dtype)


def solve_in_groups(
    solver: Solver | SDESolver,
    plan: Plan,
    events: Events,
    solve: Callable[[Events, Chunk], _Solution],
) -> list[_Solution]:
    """Return the solutions of groups of events, each solved from the first step to the last.

    An adaptive solver then holds one report of all events, as if they had been solved together.

    Arguments:
        solver: a solver that declares `steps_apart`.
        plan: the groups; at least one.
        events: the events.
        solve: solves the events of a group, which it is given with their chunk of the plan.

    Raises:
        IntegrationError: if a group cannot be solved; it names events by their places in the group.
    """
    flat, solutions = events.flat(), []
    reports: list[SolveReport] = []
    for chunk in plan.chunks:
        assert chunk.rows is not None
        solutions.append(solve(flat.taken(chunk.rows, chunk.slots, chunk.mask), chunk))
        if isinstance(solver, Dopri5) and solver.last is not None:
            reports.append(solver.last)
    if isinstance(solver, Dopri5):
        solver.last = SolveReport.joined(reports, plan, events.lead)
    return solutions


def integrate_sde(
    solver: Solver | SDESolver,
    drift: Callable[[Tensor, Any], Tensor],
    diffusion: Callable[[Any], Tensor | float],
    x0: Tensor,
    *,
    t0: Tensor | float,
    t1: Tensor | float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return one draw of x(t1) for dx = drift(x, t) dt + diffusion(t) dW, by any SDE solver.

    Arguments:
        solver: an SDE solver with `integrate(drift, diffusion, x0, t0, t1, steps)` and an attribute
            `steps`.
        drift: the drift; called with x, of the shape of `x0`, and t.
        diffusion: the diffusion g; called with t, returns a number or a tensor that broadcasts
            over x.
        x0: the state at `t0`, of any shape.
        t0: the first time.
        t1: the last time, before or after `t0`.
        generator: the random generator; passed on only if it is not None.

    Raises:
        ValueError: if the solver is one for ordinary equations, has no steps, cannot take the
            generator, or returns another shape than that of `x0`.

    >>> noise = torch.Generator().manual_seed(0)
    >>> integrate_sde(
    ...     setflow.EulerMaruyama(8), lambda x, t: -x, lambda t: 1.0, torch.zeros(2, 3),
    ...     t0=0.0, t1=1.0, generator=noise,
    ... ).shape
    torch.Size([2, 3])
    """
    check_generator(generator)
    options = _options(solver, stochastic=True)
    if generator is not None:
        if not _accepts(solver.integrate, "generator"):
            raise ValueError(
                f"{type(solver).__name__}.integrate takes no generator, so its noise cannot be "
                "drawn from the one given; add generator=None to its arguments, or pass none"
            )
        options["generator"] = generator
    untyped: Any = solver
    x1: Tensor = untyped.integrate(drift, diffusion, x0, t0=t0, t1=t1, **options)
    if x1.shape != x0.shape:
        raise _wrong_shape(x1, x0, solver)
    return x1


def require_solver(solver: object) -> None:
    """Raise unless something is a solver, for ordinary or for stochastic equations.

    Raises:
        TypeError: if it is a class, a name, or some other object.

    >>> require_solver(setflow.RK4(steps=10))
    """
    solves = callable(getattr(solver, "integrate", None)) or declares(solver, "is_sde")
    if isinstance(solver, type) or not solves:
        raise TypeError(
            f"solver is {shown(solver)}, expected a solver object such as "
            "setflow.Midpoint(steps=50)"
        )


def _options(
    solver: object,
    mask: Tensor | None = None,
    event_ndim: int = 0,
    steps: int | None = None,
    *,
    stochastic: bool = False,
) -> dict[str, Any]:
    """Return what a solver is given besides its equation, by what it declares."""
    if isinstance(solver, type) or not hasattr(solver, "integrate"):
        require_solver(solver)
    name = type(solver).__name__
    if stochastic and not declares(solver, "is_sde"):
        raise ValueError(
            f"{name} solves ordinary equations (is_sde is not True), expected a solver of "
            "stochastic equations such as setflow.EulerMaruyama(steps=64)"
        )
    if declares(solver, "is_sde") and not stochastic:
        raise ValueError(
            f"{name} solves stochastic equations (is_sde = True), expected an ODE solver such as "
            "setflow.Midpoint(steps=50)"
        )
    if not all(hasattr(solver, flag) for flag in _FLAGS):
        _refuse_undeclared(solver)
    options: dict[str, Any] = {}
    if stochastic or declares(solver, "requires_steps"):
        own = getattr(solver, "steps", None)
        count = own if steps is None else positive_integer(steps, "steps")
        if count is None:
            raise ValueError(
                f"{name} must be told its number of steps, but has no attribute steps; set it in "
                "its __init__, as in setflow.RK4(steps=32)"
            )
        options["steps"] = count
    elif steps is not None:
        raise ValueError(
            f"{name} does not declare requires_steps, so that it cannot be told steps={steps}; "
            "leave steps out, and set what the solver has instead"
        )
    if declares(solver, "takes_mask") and not stochastic:
        options |= {"mask": mask, "event_ndim": event_ndim}
    return options


def _refuse_undeclared(solver: Any) -> None:
    """Refuse a solver whose attributes or arguments contradict what it does not declare.

    Raises:
        ValueError: if it declares something misspelt, or `integrate` takes what it would not be
            given.
    """
    kind: Any = type(solver)
    refuse_misspelt(kind, frozenset(getattr(solver, "__dict__", ())), _FLAGS)
    arguments = inspect.signature(solver.integrate).parameters
    if "mask" in arguments and not hasattr(solver, "takes_mask"):
        raise ValueError(
            f"{kind.__name__} does not declare takes_mask, but its integrate names mask, without "
            "which it would be called; add takes_mask = True, or takes_mask = False if mask is "
            "meant for something else"
        )
    own = getattr(solver, "steps", None)
    default = arguments["steps"].default if "steps" in arguments else None
    undeclared = not hasattr(solver, "requires_steps") and not declares(solver, "is_sde")
    if undeclared and own is not None and default not in (None, own, inspect.Parameter.empty):
        raise ValueError(
            f"{kind.__name__} does not declare requires_steps, so that integrate would take its "
            f"default steps={default!r} and not solver.steps={own!r}; add requires_steps = True, "
            "or make steps=None the default"
        )


def _accepts(function: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(function).parameters
    return name in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def _wrong_shape(got: Tensor, like: Tensor, solver: object) -> ValueError:
    return ValueError(
        f"{type(solver).__name__} returned shape {tuple(got.shape)} for a state of shape "
        f"{tuple(like.shape)}; expected equal shapes"
    )
