"""The variance-preserving schedule: setflow's own."""

from setflow import VPSchedule

__all__ = ["VPSchedule"]
