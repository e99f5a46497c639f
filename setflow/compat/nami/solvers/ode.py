"""The classical Runge-Kutta method, and what its siblings share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor

import setflow
from setflow.solvers import FixedStepSolver

__all__ = ["RK4"]


class IgnoresTolerances(FixedStepSolver):
    """A solver of fixed steps that is given tolerances, as nami's are, and says that it has none.

    Arguments:
        steps: the number of steps when `integrate` is not given one.
        times: the times between which the steps are made, as in `setflow.RK4`.

    Raises:
        ValueError: if `steps` is not a positive integer.
    """

    def integrate(
        self,
        f: Callable[[Tensor, Any], Tensor],
        x0: Tensor,
        t0: Tensor | float,
        t1: Tensor | float,
        steps: int | None = None,
        *,
        atol: float | None = None,
        rtol: float | None = None,
    ) -> Tensor:
        """Return x(t1); see `setflow.solvers.FixedStepSolver`. `atol` and `rtol` do nothing."""
        _warn_of(atol, rtol)
        return super().integrate(f, x0, t0, t1, steps)

    def integrate_augmented(
        self,
        f_aug: Callable[[Tensor, Any], tuple[Tensor, Tensor]],
        x0: Tensor,
        logp0: Tensor,
        t0: Tensor | float,
        t1: Tensor | float,
        steps: int | None = None,
        *,
        atol: float | None = None,
        rtol: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return x(t1) and logp(t1); `atol` and `rtol` do nothing."""
        _warn_of(atol, rtol)
        return super().integrate_augmented(f_aug, x0, logp0, t0, t1, steps)


def _warn_of(atol: float | None, rtol: float | None) -> None:
    if atol is not None or rtol is not None:
        warnings.warn(
            "a solver of fixed steps ignores atol and rtol; setflow.Dopri5(rtol, atol) has them",
            stacklevel=3,
        )


class RK4(IgnoresTolerances, setflow.RK4):
    """setflow's RK4, whose `integrate` accepts tolerances, with a warning.

    Arguments:
        steps: the number of steps when `integrate` is not given one.
        times: the times between which the steps are made, as in `setflow.RK4`.

    Raises:
        ValueError: if `steps` is not a positive integer.
    """
