"""Probability paths between data (t = 0) and noise (t = 1)."""

from setflow.paths.affine import AffinePath, CosinePath, LinearPath
from setflow.paths.base import ProbabilityPath
from setflow.paths.gamma import BrownianGamma, GammaSchedule, ScaledBrownianGamma, ZeroGamma
from setflow.paths.wrapped import WrappedPath

__all__ = [
    "AffinePath",
    "BrownianGamma",
    "CosinePath",
    "GammaSchedule",
    "LinearPath",
    "ProbabilityPath",
    "ScaledBrownianGamma",
    "WrappedPath",
    "ZeroGamma",
]
