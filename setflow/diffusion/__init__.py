"""Diffusion models: noise schedules, what a network predicts under them, its loss, and sampling."""

from setflow.diffusion.denoiser import EDMDenoiser
from setflow.diffusion.edm import EDMSchedule
from setflow.diffusion.loss import (
    EDMWeighting,
    MinSNRWeighting,
    SNRWeighting,
    Weighting,
    diffusion_loss,
    masked_diffusion_loss,
)
from setflow.diffusion.parameterization import Parameterization, convert, error_factor
from setflow.diffusion.path import ScheduledPath
from setflow.diffusion.preconditioning import EDMPreconditioning
from setflow.diffusion.probability_flow import ProbabilityFlowField
from setflow.diffusion.process import Diffusion, DiffusionProcess
from setflow.diffusion.schedule import NoiseSchedule
from setflow.diffusion.sde import EulerMaruyama
from setflow.diffusion.ve import VESchedule
from setflow.diffusion.vp import VPSchedule

__all__ = [
    "Diffusion",
    "DiffusionProcess",
    "EDMDenoiser",
    "EDMPreconditioning",
    "EDMSchedule",
    "EDMWeighting",
    "EulerMaruyama",
    "MinSNRWeighting",
    "NoiseSchedule",
    "Parameterization",
    "ProbabilityFlowField",
    "SNRWeighting",
    "ScheduledPath",
    "VESchedule",
    "VPSchedule",
    "Weighting",
    "convert",
    "diffusion_loss",
    "error_factor",
    "masked_diffusion_loss",
]
