"""Explicit Runge-Kutta solvers with a fixed number of steps.

Notation. dx/dt = f(x, t) is integrated from `t0` to `t1` in `steps` equal steps of h = (t1 - t0) /
steps, forwards or backwards in time. A solver of order p has a global error of O(h^p).
the number of evaluations of `f` per step.

No step looks at the values of x, so an event's result depends neither on its padding nor on the
other events of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from setflow.sets.shapes import positive_integer

__all__ = ["RK4", "Euler", "FixedStepSolver", "Heun", "Midpoint"]

_State = tuple[Tensor, ...]


class FixedStepSolver:
    """What the fixed-step solvers share; each adds its Butcher tableau and nothing else.

    Arguments:
        steps: the number of steps when `integrate` is not given one.

    Raises:
        ValueError: if `steps` is not a positive integer.
    """

    is_sde: ClassVar[bool] = False
    requires_steps: ClassVar[bool] = True
    takes_mask: ClassVar[bool] = False
    is_adaptive: ClassVar[bool] = False
    supports_rsample: ClassVar[bool] = True

    order: ClassVar[int]
    nodes: ClassVar[tuple[float, ...]]
    rows: ClassVar[tuple[tuple[float, ...], ...]]
    weights: ClassVar[tuple[float, ...]]

    def __init__(self, steps: int = 32) -> None:
        self.steps = positive_integer(steps, "steps")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(steps={self.steps})"

    def integrate(
        self,
        f: Callable[[Tensor, float], Tensor],
        x0: Tensor,
        t0: float,
        t1: float,
        steps: int | None = None,
    ) -> Tensor:
        """Return x(t1) for dx/dt = f(x, t) and x(t0) = `x0`.

        Arguments:
            f: the velocity; called with x, of the shape of `x0`, and a number t.
            x0: the state at `t0`, of any shape.
            t0: the first time.
            t1: the last time, before or after `t0`.
            steps: the number of steps; None takes the solver's own.
        """
        (x1,) = self._solve(lambda state, t: (f(state[0], t),), (x0,), t0, t1, steps)
        return x1

    def integrate_augmented(
        self,
        f_aug: Callable[[Tensor, float], tuple[Tensor, Tensor]],
        x0: Tensor,
        logp0: Tensor,
        t0: float,
        t1: float,
        steps: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return x(t1) and logp(t1), integrated together in one solve.

        Arguments:
            f_aug: returns the velocity, of the shape of `x0`, and the rate of change of the
                log-density, of the shape of `logp0`; called with x and a number t.
            x0: the state at `t0`.
            logp0: the accumulated value at `t0`, commonly zeros of the lead shape; may have a wider
                dtype than `x0`.
            t0: the first time.
            t1: the last time, before or after `t0`.
            steps: the number of steps; None takes the solver's own.
        """
        x1, logp1 = self._solve(lambda state, t: f_aug(state[0], t), (x0, logp0), t0, t1, steps)
        return x1, logp1

    def _solve(
        self,
        f: Callable[[_State, float], _State],
        state: _State,
        t0: float,
        t1: float,
        steps: int | None,
    ) -> _State:
        count = self.steps
        if steps not in (None, count):
            count = positive_integer(steps, "steps")
        h = (t1 - t0) / count
        for step in range(count):
            slopes: list[_State] = []
            for node, row in zip(self.nodes, self.rows, strict=True):
                stage = _advance(state, slopes, row, h)
                slope = f(stage, t0 + (step + node) * h)
                for rate, value in zip(slope, state, strict=True):
                    if rate.shape != value.shape:
                        raise ValueError(
                            f"f returned shape {tuple(rate.shape)} for a state of shape "
                            f"{tuple(value.shape)}; expected equal shapes"
                        )
                slopes.append(slope)
            state = _advance(state, slopes, self.weights, h)
        return state


def _advance(state: _State, slopes: list[_State], weights: tuple[float, ...], h: float) -> _State:
    used = [(h * weight, slope) for weight, slope in zip(weights, slopes, strict=True) if weight]
    if not used:
        return state
    # the increment first: it is smaller than the state, and so is its rounding
    increments = [[weight * k for k in slope] for weight, slope in used]
    total = [sum(parts[1:], start=parts[0]) for parts in zip(*increments, strict=True)]
    return tuple(x + step for x, step in zip(state, total, strict=True))


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
