"""Noise schedules."""

from setflow.compat.nami.schedules.base import NoiseSchedule
from setflow.compat.nami.schedules.edm import EDMSchedule
from setflow.compat.nami.schedules.ve import VESchedule
from setflow.compat.nami.schedules.vp import VPSchedule

__all__ = ["EDMSchedule", "NoiseSchedule", "VESchedule", "VPSchedule"]
