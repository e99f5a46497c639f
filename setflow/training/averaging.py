"""The moving average of the weights, which a training validates, keeps and exports."""

from __future__ import annotations

from functools import partial

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

__all__ = ["MovingAverage"]


class MovingAverage(WeightAveraging):
    """The moving average of the weights, over at most about a tenth of the steps so far.

    After the first step it is the weights. With those after step n + 1 it becomes

        average <- kept * average + (1 - kept) * weights,  kept = min(decay, (1 + n) / (10 + n)),

    the warm-up of TensorFlow's `tf.train.ExponentialMovingAverage(decay, num_updates)`. So it lags
    behind the weights by a tenth of the steps, until that is `decay / (1 - decay)` of them; and the
    first weights do not count in it. In an average without warm-up, Lightning's
    `EMAWeightAveraging`, they count for 0.999^500 = 60 % after 500 steps.

    Buffers of real numbers are averaged as weights are, for batch norm; of others, such as whole
    numbers, which a mean would round, the present ones are taken. Checkpoints hold the average and
    the number of steps in it.

    Arguments:
        decay: what is kept of the average in a step at most: 0.999 is an average over the last
            1,000 steps or so.

    Raises:
        ValueError: if `decay` does not lie between 0 and 1, both excluded.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay must lie between 0 and 1, both excluded, got {decay}")
        super().__init__(multi_avg_fn=partial(_move, decay))
        self.decay = decay


@torch.no_grad()
def _move(decay: float, averages: list[Tensor], weights: list[Tensor], count: Tensor) -> None:
    """Move averages towards the weights, in place.

    Arguments:
        decay: what is kept of them at most.
        averages: tensors of one dtype, on one device.
        weights: as many, of the same shapes.
        count: how often weights have been averaged, at least 1; one look at it serves all.
    """
    if not (averages[0].is_floating_point() or averages[0].is_complex()):
        torch._foreach_copy_(averages, weights)
        return
    n = int(count)  # waits for an accelerator
    kept = min(decay, (1 + n) / (10 + n))
    torch._foreach_mul_(averages, kept)  # no lerp, by which -inf would become NaN
    torch._foreach_add_(averages, weights, alpha=1 - kept)
