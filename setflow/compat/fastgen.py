"""The names of `modelopt.torch.fastgen.flow_matching`, and those that go with it: setflow's own.

`shifted` times have no atom at `max_t`, where fastgen clamps what it has shifted beyond.
"""

from torch import Tensor

from setflow.rectified import (
    SampleTimestepConfig,
    add_noise,
    pred_noise_to_pred_x0,
    pred_x0_from_flow,
    rf_alpha,
    rf_sigma,
    sample_from_t_list,
    sample_timesteps,
    x0_to_eps,
    x0_to_flow,
)
from setflow.sets.shapes import align_right

__all__ = [
    "SampleTimestepConfig",
    "add_noise",
    "expand_like",
    "pred_noise_to_pred_x0",
    "pred_x0_from_flow",
    "rf_alpha",
    "rf_sigma",
    "sample_from_t_list",
    "sample_timesteps",
    "x0_to_eps",
    "x0_to_flow",
]


def expand_like(x: Tensor, target: Tensor) -> Tensor:
    """Return one value per event with dimensions of size one appended, so that it meets `target`.

    Arguments:
        x: the values, with shape `lead`.
        target: what they shall meet, with shape `(*lead, ...)`.

    >>> expand_like(torch.zeros(8), torch.zeros(8, 30, 3)).shape
    torch.Size([8, 1, 1])
    """
    return align_right(x, target.ndim)
