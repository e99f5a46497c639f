"""The divergence of a velocity field: the trace of its Jacobian over real coordinates."""

from setflow.divergence.base import (
    DivergenceEstimator,
    PlannedDivergence,
    StochasticDivergence,
    as_estimator,
)
from setflow.divergence.exact import ExactDivergence
from setflow.divergence.hutchinson import FixedProbeDivergence, HutchinsonDivergence
from setflow.divergence.xtrace import XTraceDivergence

__all__ = [
    "DivergenceEstimator",
    "ExactDivergence",
    "FixedProbeDivergence",
    "HutchinsonDivergence",
    "PlannedDivergence",
    "StochasticDivergence",
    "XTraceDivergence",
    "as_estimator",
]
