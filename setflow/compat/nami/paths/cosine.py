"""The trigonometric path: setflow's own."""

from setflow import CosinePath

__all__ = ["CosinePath"]
