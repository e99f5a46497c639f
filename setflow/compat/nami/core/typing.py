"""Contracts for annotations; whatever has the methods fits.

Paths and solvers are those of setflow, whose solvers need neither `atol` nor `rtol`.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from setflow.sets.protocols import Path as ProbabilityPath
from setflow.sets.protocols import SDESolver
from setflow.sets.protocols import Solver as ODESolver

__all__ = ["DivergenceEstimator", "NoiseSchedule", "ODESolver", "ProbabilityPath", "SDESolver"]


class DivergenceEstimator(Protocol):
    """Returns the divergence of a field, one value per event."""

    def __call__(self, field: nn.Module, x: Tensor, t: Tensor, c: Tensor | None) -> Tensor: ...


class NoiseSchedule(Protocol):
    """A schedule of x_t = alpha(t) x_0 + sigma(t) eps with its stochastic equation."""

    def alpha(self, t: Tensor) -> Tensor: ...

    def sigma(self, t: Tensor) -> Tensor: ...

    def snr(self, t: Tensor) -> Tensor: ...

    def drift(self, x: Tensor, t: Tensor) -> Tensor: ...

    def diffusion(self, t: Tensor) -> Tensor: ...
