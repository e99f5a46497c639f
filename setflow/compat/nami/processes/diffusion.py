"""Diffusion as a process: setflow's own, whose base holds its scale itself (no `base_scale`)."""

from setflow import Diffusion, DiffusionProcess

__all__ = ["Diffusion", "DiffusionProcess"]
