"""Explicit Runge-Kutta solvers with a fixed number of steps.

Notation. dx/dt = f(x, t) is integrated from `t0` to `t1` in `steps` equal steps of h = (t1 - t0) /
steps, or from each of the given `times` to the next, forwards or backwards in time. A solver of
order p has a global error of O(h^p), h being the longest step.

No step looks at the values of x, so an event's result depends neither on its padding nor on the
other events of the batch.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Self

from torch import Tensor

from setflow.sets.shapes import positive_integer

__all__ = ["RK4", "Euler", "FixedStepSolver", "Heun", "Midpoint", "TimeGrid"]

_State = tuple[Tensor, ...]
_SAME_TIME = 1e-6  # a grid may have been written down in float32


class TimeGrid:
    """What solvers of fixed steps share: how many steps there are, and where they end.

    Arguments:
        steps: the number of steps when `integrate` is not given one.
        times: the times between which the steps are made, rising or falling, from one end of the
            solve to the other; None makes equal steps. A solve in the other direction takes them
            in the other order.
        default: the number of steps that stands where none was given.

    Raises:
        ValueError: if `steps` is not a positive integer, `times` are fewer than two, not finite or
            not monotone, or the two contradict each other.
    """

    def __init__(self, steps: int, times: Iterable[float] | Tensor | None, default: int) -> None:
        self.steps = positive_integer(steps, "steps")
        self.times = None if times is None else _checked_times(times)
        if self.times is not None:
            self.steps = len(self.times) - 1
            if steps not in (default, self.steps):
                raise ValueError(
                    f"steps={steps!r} contradicts times, which has {self.steps} steps; leave one "
                    "of them out"
                )

    def __repr__(self) -> str:
        given = f"steps={self.steps}" if self.times is None else f"times={self.times}"
        return f"{type(self).__name__}({given})"

    def mapped(self, function: Callable[[float], float]) -> Self:
        """Return a solver with every time of its grid changed by a monotone function, if any."""
        if self.times is None:
            return self
        solver = copy.copy(self)
        solver.times = _checked_times(map(function, self.times))
        return solver

    def _intervals(
        self, t0: Tensor | float, t1: Tensor | float, steps: int | None
    ) -> list[tuple[Tensor | float, Tensor | float]]:
        """Return where each step of the grid starts and ends, on the way from `t0` to `t1`.

        Raises:
            ValueError: if the grid leads elsewhere, or has another number of steps.
        """
        assert self.times is not None
        if steps not in (None, self.steps):
            raise ValueError(
                f"steps={steps} was asked for, but times has {self.steps} steps; leave steps out"
            )
        times = self.times
        ends = [t.item() if isinstance(t, Tensor) else t for t in (t0, t1)]
        if (ends[1] - ends[0]) * (times[-1] - times[0]) < 0:
            times = times[::-1]
        for end, time in zip(ends, (times[0], times[-1]), strict=True):
            if abs(end - time) > _SAME_TIME:
                raise ValueError(
                    f"times leads from {times[0]:g} to {times[-1]:g}, but the solve from "
                    f"{ends[0]:g} to {ends[1]:g}; expected the same ends, in either order"
                )
        return list(itertools.pairwise([t0, *times[1:-1], t1]))


def _checked_times(times: Iterable[float] | Tensor) -> tuple[float, ...]:
    shape = tuple(times.shape) if isinstance(times, Tensor) else None
    if shape is not None and len(shape) != 1:
        raise ValueError(f"times has shape {shape}, expected one dimension: the times of one solve")
    try:
        checked = tuple(map(float, times.tolist() if isinstance(times, Tensor) else times))
    except (TypeError, ValueError):
        raise ValueError(
            f"times is {times!r}, expected numbers such as [1.0, 0.5, 0.0]; an integer number of "
            "equal steps is steps="
        ) from None
    if len(checked) < 2 or not all(map(math.isfinite, checked)):
        raise ValueError(f"times must be at least two finite numbers, got {checked}")
    steps = [last - first for first, last in itertools.pairwise(checked)]
    if not (min(steps) > 0 or max(steps) < 0):
        raise ValueError(
            f"times must rise or fall from one to the next, got {checked}; sort them, and leave "
            "none in twice"
        )
    return checked


class FixedStepSolver(TimeGrid):
    """What the fixed-step solvers share; each adds its Butcher tableau and nothing else.

    Arguments:
        steps: the number of steps when `integrate` is not given one; with `times` as many as these
            have.
        times: the times between which the steps are made, rising or falling, from one end of the
            solve to the other; None makes equal steps. A solve in the other direction takes them
            in the other order.

    Raises:
        ValueError: if `steps` is not a positive integer, `times` are fewer than two, not finite or
            not monotone, or the two contradict each other.

    >>> solver = setflow.Midpoint(times=[1.0, 0.7, 0.1, 0.0])
    >>> solver
    Midpoint(times=(1.0, 0.7, 0.1, 0.0))
    >>> solver.integrate(lambda x, t: 2 * t + 0 * x, torch.ones(1), t0=0.0, t1=1.0)
    tensor([2.])
    """

    is_sde: ClassVar[bool] = False
    requires_steps: ClassVar[bool] = True
    takes_mask: ClassVar[bool] = False
    is_adaptive: ClassVar[bool] = False
    steps_apart: ClassVar[bool] = True
    supports_rsample: ClassVar[bool] = True

    order: ClassVar[int]
    nodes: ClassVar[tuple[float, ...]]
    rows: ClassVar[tuple[tuple[float, ...], ...]]
    weights: ClassVar[tuple[float, ...]]

    def __init__(self, steps: int = 32, *, times: Iterable[float] | Tensor | None = None) -> None:
        super().__init__(steps, times, default=32)

    def integrate(
        self,
        f: Callable[[Tensor, Any], Tensor],
        x0: Tensor,
        t0: Tensor | float,
        t1: Tensor | float,
        steps: int | None = None,
    ) -> Tensor:
        """Return x(t1) for dx/dt = f(x, t) and x(t0) = `x0`.

        Arguments:
            f: the velocity; called with x, of the shape of `x0`, and a number t.
            x0: the state at `t0`, of any shape.
            t0: the first time, a number or a scalar tensor, to which gradients flow.
            t1: the last time, before or after `t0`, likewise.
            steps: the number of steps; None takes the solver's own.

        Raises:
            ValueError: if `f` returns another shape, or the solver has times of its own that lead
                elsewhere.
        """
        (x1,) = self._solve(lambda state, t: (f(state[0], t),), (x0,), t0, t1, steps)
        return x1

    def integrate_augmented(
        self,
        f_aug: Callable[[Tensor, Any], tuple[Tensor, Tensor]],
        x0: Tensor,
        logp0: Tensor,
        t0: Tensor | float,
        t1: Tensor | float,
        steps: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return x(t1) and logp(t1), integrated together in one solve.

        Arguments:
            f_aug: returns the velocity, of the shape of `x0`, and the rate of change of the
                log-density, of the shape of `logp0`; called with x and a number t.
            x0: the state at `t0`.
            logp0: the accumulated value at `t0`, commonly zeros of the lead shape; may have a wider
                dtype than `x0`.
            t0: the first time, a number or a scalar tensor, to which gradients flow.
            t1: the last time, before or after `t0`, likewise.
            steps: the number of steps; None takes the solver's own.
        """
        x1, logp1 = self._solve(lambda state, t: f_aug(state[0], t), (x0, logp0), t0, t1, steps)
        return x1, logp1

    def _solve(
        self,
        f: Callable[[_State, Any], _State],
        state: _State,
        t0: Tensor | float,
        t1: Tensor | float,
        steps: int | None,
    ) -> _State:
        grid = None if self.times is None else self._intervals(t0, t1, steps)
        count = self.steps
        if steps not in (None, count):
            count = positive_integer(steps, "steps")
        h = (t1 - t0) / count
        for step in range(count):
            slopes: list[_State] = []
            if grid is not None:
                h = grid[step][1] - grid[step][0]
            for node, row in zip(self.nodes, self.rows, strict=True):
                stage = _advance(state, slopes, row, h)
                t = t0 + (step + node) * h
                if grid is not None:  # at the end itself and not beside it
                    t = grid[step][1] if node == 1 else grid[step][0] + node * h
                slope = f(stage, t)
                for rate, value in zip(slope, state, strict=True):
                    if rate.shape != value.shape:
                        raise ValueError(
                            f"f returned shape {tuple(rate.shape)} for a state of shape "
                            f"{tuple(value.shape)}; expected equal shapes"
                        )
                slopes.append(slope)
            state = _advance(state, slopes, self.weights, h)
        return state


def _advance(
    state: _State, slopes: list[_State], weights: tuple[float, ...], h: Tensor | float
) -> _State:
    used = [(h * weight, slope) for weight, slope in zip(weights, slopes, strict=True) if weight]
    if not used:
        return state
    moved = []
    for part, x in enumerate(state):
        # the increment first: it is smaller than the state, and so is its rounding
        increment = used[0][0] * used[0][1][part]
        for weight, slope in used[1:]:
            increment = increment + weight * slope[part]
        moved.append(x + increment)
    return tuple(moved)


class Euler(FixedStepSolver):
    """Euler's method: order 1, one evaluation per step.

    >>> import torch
    >>> x1 = Euler(steps=100).integrate(lambda x, t: x, torch.ones(1), t0=0.0, t1=1.0)
    >>> round(x1.item(), 3)  # (1 + 1/100) ** 100
    2.705
    """

    order = 1
    nodes = (0.0,)
    rows = ((),)
    weights = (1.0,)


class Midpoint(FixedStepSolver):
    """The explicit midpoint rule: order 2, two evaluations per step.

    >>> import torch
    >>> x1 = Midpoint(steps=100).integrate(lambda x, t: x, torch.ones(1), t0=0.0, t1=1.0)
    >>> round(x1.item(), 3)
    2.718
    """

    order = 2
    nodes = (0.0, 0.5)
    rows = ((), (0.5,))
    weights = (0.0, 1.0)


class Heun(FixedStepSolver):
    """Heun's method (the explicit trapezoidal rule): order 2, two evaluations per step.

    >>> import torch
    >>> x1 = Heun(steps=100).integrate(lambda x, t: x, torch.ones(1), t0=0.0, t1=1.0)
    >>> round(x1.item(), 3)
    2.718
    """

    order = 2
    nodes = (0.0, 1.0)
    rows = ((), (1.0,))
    weights = (0.5, 0.5)


class RK4(FixedStepSolver):
    """The classical fourth-order Runge-Kutta method: four evaluations per step.

    >>> import torch
    >>> x1 = RK4(steps=10).integrate(lambda x, t: x, torch.ones(1), t0=0.0, t1=1.0)
    >>> round(x1.item(), 5)
    2.71828
    """

    order = 4
    nodes = (0.0, 0.5, 0.5, 1.0)
    rows = ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0))
    weights = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
