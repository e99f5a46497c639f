"""Models that are bound to a context by calling them."""

from setflow.compat.nami.processes.diffusion import Diffusion, DiffusionProcess
from setflow.compat.nami.processes.fm import FlowMatching, FlowMatchingProcess

__all__ = ["Diffusion", "DiffusionProcess", "FlowMatching", "FlowMatchingProcess"]
