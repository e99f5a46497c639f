"""The contract of a path: setflow's own."""

from setflow import ProbabilityPath

__all__ = ["ProbabilityPath"]
