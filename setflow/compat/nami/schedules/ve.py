"""The variance-exploding schedule: setflow's own."""

from setflow import VESchedule

__all__ = ["VESchedule"]
