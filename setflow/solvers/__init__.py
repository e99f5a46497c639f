"""Solvers of dx/dt = f(x, t)."""

from setflow.solvers.fixed import RK4, Euler, FixedStepSolver, Heun, Midpoint

__all__ = ["RK4", "Euler", "FixedStepSolver", "Heun", "Midpoint"]
