"""What estimates a divergence: setflow's own; one's own may be any callable `(field, x, t, c)`."""

from setflow.divergence import DivergenceEstimator

__all__ = ["DivergenceEstimator"]
