"""Probability paths: how a noisy point at time t is made from a data point and a noise point.

Notation. `x_target` is data (t = 0), `x_source` is noise (t = 1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

__all__ = ["ProbabilityPath"]


class ProbabilityPath(ABC):
    """A path of one's own needs these two methods and nothing else.

    In both, `x_target` and `x_source` have the shape `(*lead, *event_shape)` and `t` has the shape
    `lead`; the result has the shape of `x_target`.
    """

    @abstractmethod
    def sample_xt(self, x_target: Tensor, x_source: Tensor, t: Tensor) -> Tensor:
        """Return the point at time `t` between `x_target` and `x_source`."""

    @abstractmethod
    def target_ut(self, x_target: Tensor, x_source: Tensor, t: Tensor) -> Tensor:
        """Return the velocity of that point, the target of the regression."""
