"""The loss of flow matching: setflow's own."""

from setflow import fm_loss

__all__ = ["fm_loss"]
