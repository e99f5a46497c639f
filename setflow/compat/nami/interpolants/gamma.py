"""The amplitude of the noise on a path: setflow's own."""

from setflow.paths import BrownianGamma, GammaSchedule, ScaledBrownianGamma, ZeroGamma

__all__ = ["BrownianGamma", "GammaSchedule", "ScaledBrownianGamma", "ZeroGamma"]
