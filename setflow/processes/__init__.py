"""Models bound to a context: configure once, bind, then sample and score."""

from setflow.processes.diffusion import Diffusion, DiffusionProcess
from setflow.processes.flow_matching import FlowMatching, FlowMatchingProcess
from setflow.processes.lazy import (
    LazyDistribution,
    LazyField,
    UnconditionalDistribution,
    UnconditionalField,
)

__all__ = [
    "Diffusion",
    "DiffusionProcess",
    "FlowMatching",
    "FlowMatchingProcess",
    "LazyDistribution",
    "LazyField",
    "UnconditionalDistribution",
    "UnconditionalField",
]
