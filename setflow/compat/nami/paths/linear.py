"""The straight path: setflow's own."""

from setflow import LinearPath

__all__ = ["LinearPath"]
