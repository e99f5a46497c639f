"""Estimators of the divergence."""

from setflow.compat.nami.divergence.base import DivergenceEstimator
from setflow.compat.nami.divergence.exact import ExactDivergence
from setflow.compat.nami.divergence.hutchinson import HutchinsonDivergence

__all__ = ["DivergenceEstimator", "ExactDivergence", "HutchinsonDivergence"]
