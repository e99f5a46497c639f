"""Floor 1: stochastic interpolants: the size of the added noise, and what follows from it."""

from setflow.interpolants.gamma import (
    BrownianGamma,
    GammaSchedule,
    ScaledBrownianGamma,
    ZeroGamma,
    as_gamma,
)
from setflow.interpolants.transforms import (
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
    "as_gamma",
]
