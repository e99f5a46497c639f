"""The solver of stochastic equations: setflow's own."""

from setflow import EulerMaruyama

__all__ = ["EulerMaruyama"]
