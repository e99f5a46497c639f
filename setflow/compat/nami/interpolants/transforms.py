"""Noise to score to drift: setflow's own, where a score is the gradient of the log-density.

In nami it is the negative of that; the drift made of a velocity and a noise is the same in both.
"""

from setflow import DriftFromVelocityScore, MirrorVelocityFromScore, ScoreFromNoise

__all__ = ["DriftFromVelocityScore", "MirrorVelocityFromScore", "ScoreFromNoise"]
