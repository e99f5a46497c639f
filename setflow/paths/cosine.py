"""The trigonometric path: x_t = cos(pi t / 2) x_target + sin(pi t / 2) x_source."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from setflow.paths.base import AffinePath

__all__ = ["CosinePath"]

_QUARTER_TURN = math.pi / 2


class CosinePath(AffinePath):
    """A variance-preserving path: alpha(t)^2 + sigma(t)^2 = 1 at every time.

    The trigonometric interpolant of Albergo and Vanden-Eijnden, "Building Normalizing Flows with
    Stochastic Interpolants" (arXiv:2209.15571).

    >>> import torch
    >>> t = torch.tensor([0.0, 0.3, 0.5])
    >>> variance = CosinePath().alpha(t) ** 2 + CosinePath().sigma(t) ** 2
    >>> torch.allclose(variance, torch.ones(3))
    True
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(_QUARTER_TURN * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(_QUARTER_TURN * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -_QUARTER_TURN * torch.sin(_QUARTER_TURN * t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return _QUARTER_TURN * torch.cos(_QUARTER_TURN * t)
