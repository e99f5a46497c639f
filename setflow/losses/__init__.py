"""The masked means, and the losses beside that of flow matching."""

from setflow.losses.means import Reduction, reduce_events
from setflow.losses.stochastic import masked_stochastic_fm_loss, stochastic_fm_loss

__all__ = [
    "Reduction",
    "masked_stochastic_fm_loss",
    "reduce_events",
    "stochastic_fm_loss",
]
