"""Solvers of dx/dt = f(x, t)."""

from setflow.solvers.adaptive import Dopri5, IntegrationError, SolveReport
from setflow.solvers.fixed import RK4, Euler, FixedStepSolver, Heun, Midpoint

__all__ = [
    "RK4",
    "Dopri5",
    "Euler",
    "FixedStepSolver",
    "Heun",
    "IntegrationError",
    "Midpoint",
    "SolveReport",
]
