"""Probability paths."""

from setflow.compat.nami.paths.base import ProbabilityPath
from setflow.compat.nami.paths.cosine import CosinePath
from setflow.compat.nami.paths.linear import LinearPath

__all__ = ["CosinePath", "LinearPath", "ProbabilityPath"]
