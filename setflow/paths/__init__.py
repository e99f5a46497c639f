"""Probability paths between data (t = 0) and noise (t = 1)."""

from setflow.paths.base import AffinePath, ProbabilityPath
from setflow.paths.cosine import CosinePath
from setflow.paths.linear import LinearPath
from setflow.paths.scheduled import ScheduledPath

__all__ = ["AffinePath", "CosinePath", "LinearPath", "ProbabilityPath", "ScheduledPath"]
