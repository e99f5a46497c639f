"""The divergence of a velocity field: the trace of its Jacobian over real coordinates."""

from setflow.divergence.base import DivergenceEstimator, as_estimator
from setflow.divergence.exact import ExactDivergence
from setflow.divergence.hutchinson import FixedProbeDivergence, HutchinsonDivergence

__all__ = [
    "DivergenceEstimator",
    "ExactDivergence",
    "FixedProbeDivergence",
    "HutchinsonDivergence",
    "as_estimator",
]
