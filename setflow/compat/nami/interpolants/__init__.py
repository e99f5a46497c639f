"""Stochastic interpolants: the noise that they add, and what becomes of a prediction of it."""

from setflow.compat.nami.interpolants.gamma import (
    BrownianGamma,
    GammaSchedule,
    ScaledBrownianGamma,
    ZeroGamma,
)
from setflow.compat.nami.interpolants.transforms import (
    DriftFromVelocityScore,
    MirrorVelocityFromScore,
    ScoreFromNoise,
)

__all__ = [
    "BrownianGamma",
    "DriftFromVelocityScore",
    "GammaSchedule",
    "MirrorVelocityFromScore",
    "ScaledBrownianGamma",
    "ScoreFromNoise",
    "ZeroGamma",
]
