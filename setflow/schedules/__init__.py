"""Noise schedules, what a diffusion model predicts under them, and how its network is scaled."""

from setflow.schedules.base import NoiseSchedule
from setflow.schedules.edm import EDMSchedule
from setflow.schedules.parameterization import Parameterization, convert, error_factor
from setflow.schedules.preconditioning import EDMPreconditioning
from setflow.schedules.ve import VESchedule
from setflow.schedules.vp import VPSchedule

__all__ = [
    "EDMPreconditioning",
    "EDMSchedule",
    "NoiseSchedule",
    "Parameterization",
    "VESchedule",
    "VPSchedule",
    "convert",
    "error_factor",
]
