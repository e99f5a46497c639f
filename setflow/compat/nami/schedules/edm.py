"""The schedule of EDM: setflow's own."""

from setflow import EDMSchedule

__all__ = ["EDMSchedule"]
