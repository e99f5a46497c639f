"""Losses of flow matching."""

from setflow.compat.nami.losses.fm import fm_loss
from setflow.compat.nami.losses.stochastic_fm import stochastic_fm_loss

__all__ = ["fm_loss", "stochastic_fm_loss"]
