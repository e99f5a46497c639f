"""Losses, and the masked means that they share."""

from setflow.losses.diffusion import (
    EDMWeighting,
    MinSNRWeighting,
    SNRWeighting,
    Weighting,
    diffusion_loss,
)
from setflow.losses.flow_matching import fm_loss, stochastic_fm_loss
from setflow.losses.means import Reduction, event_means, reduce_events

__all__ = [
    "EDMWeighting",
    "MinSNRWeighting",
    "Reduction",
    "SNRWeighting",
    "Weighting",
    "diffusion_loss",
    "event_means",
    "fm_loss",
    "reduce_events",
    "stochastic_fm_loss",
]
