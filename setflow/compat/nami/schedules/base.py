"""The contract of a noise schedule: setflow's own."""

from setflow import NoiseSchedule

__all__ = ["NoiseSchedule"]
