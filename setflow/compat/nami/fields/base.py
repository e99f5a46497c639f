"""The contract of a velocity field: setflow's own."""

from setflow import VectorField

__all__ = ["VectorField"]
