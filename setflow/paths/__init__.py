"""Probability paths between data (t = 0) and noise (t = 1)."""

from setflow.paths.base import AffinePath, ProbabilityPath
from setflow.paths.cosine import CosinePath
from setflow.paths.gamma import BrownianGamma, GammaSchedule, ScaledBrownianGamma, ZeroGamma
from setflow.paths.linear import LinearPath

__all__ = [
    "AffinePath",
    "BrownianGamma",
    "CosinePath",
    "GammaSchedule",
    "LinearPath",
    "ProbabilityPath",
    "ScaledBrownianGamma",
    "ZeroGamma",
]
