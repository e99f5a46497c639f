"""The names of `nemo_automodel.components.flow_matching.time_shift_utils`: setflow's own.

An unknown density or shift raises, where NeMo draws uniform times and shifts nothing; a shift is
right at t = 0, where NeMo divides by zero.
"""

from setflow.timesteps import (
    compute_density_for_timestep_sampling,
    get_flow_match_loss_weight,
    time_shift,
)

__all__ = ["compute_density_for_timestep_sampling", "get_flow_match_loss_weight", "time_shift"]
