"""The solver that the arguments of `setflow sample` and `score` describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

import setflow
from setflow.cli.arguments import SOLVERS

if TYPE_CHECKING:
    from setflow.sets.protocols import Solver

__all__ = ["check_solver", "solver_of"]

_STEPS = 50


def check_solver(config: Namespace) -> None:
    """Check the tolerances, which only an adaptive solver has.

    Raises:
        ValueError: if the solver has none, or one is not positive.
    """
    for name in ("rtol", "atol"):
        value = config[name]
        if value is None:
            continue
        if config.solver != "dopri5":
            raise ValueError(f"{config.solver} has no tolerance --{name}; add --solver dopri5")
        if not 0 < value < float("inf"):
            raise ValueError(f"--{name} is {value:g}, expected a positive number such as 1e-5")


def solver_of(config: Namespace) -> Solver:
    """Return the solver, with its steps or tolerances."""
    if config.solver != "dopri5":
        steps = _STEPS if config.steps is None else config.steps
        solver: Solver = getattr(setflow, SOLVERS[config.solver])(steps=steps)
        return solver
    options: dict[str, Any] = {}
    if config.rtol is not None:
        options |= {"rtol": config.rtol, "atol": config.rtol / 10}
    if config.atol is not None:
        options |= {"atol": config.atol}
    if config.steps is not None:  # two evaluations choose the first step, and each step takes six
        options |= {"max_nfe": 2 + 6 * config.steps}
    return setflow.Dopri5(**options)
