"""Solvers of dx/dt = f(x, t), and of dx = a(x, t) dt + g(t) dW."""

from setflow.solvers.adaptive import Dopri5, IntegrationError, SolveReport
from setflow.solvers.fixed import RK4, Euler, FixedStepSolver, Heun, Midpoint
from setflow.solvers.sde import EulerMaruyama

__all__ = [
    "RK4",
    "Dopri5",
    "Euler",
    "EulerMaruyama",
    "FixedStepSolver",
    "Heun",
    "IntegrationError",
    "Midpoint",
    "SolveReport",
]
