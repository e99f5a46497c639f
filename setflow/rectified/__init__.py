"""Rectified flow: the linear path, conversions of what a network predicts, and training times."""

from setflow.rectified.conversions import (
    add_noise,
    pred_noise_to_pred_x0,
    pred_x0_from_flow,
    rf_alpha,
    rf_sigma,
    x0_to_eps,
    x0_to_flow,
)
from setflow.rectified.times import (
    SampleTimestepConfig,
    TimeDistribution,
    sample_from_t_list,
    sample_timesteps,
)

__all__ = [
    "SampleTimestepConfig",
    "TimeDistribution",
    "add_noise",
    "pred_noise_to_pred_x0",
    "pred_x0_from_flow",
    "rf_alpha",
    "rf_sigma",
    "sample_from_t_list",
    "sample_timesteps",
    "x0_to_eps",
    "x0_to_flow",
]
