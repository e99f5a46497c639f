"""Solvers of ordinary and stochastic equations."""

from setflow.compat.nami.solvers.heun import Heun
from setflow.compat.nami.solvers.ode import RK4
from setflow.compat.nami.solvers.sde import EulerMaruyama

__all__ = ["RK4", "EulerMaruyama", "Heun"]
