"""The straight path: x_t = (1 - t) x_target + t x_source."""

from __future__ import annotations

import torch
from torch import Tensor

from setflow.paths.base import AffinePath

__all__ = ["LinearPath"]


class LinearPath(AffinePath):
    """Straight lines between data and noise.

    x_t = (1 - t) x_target + t x_source and u_t = x_source - x_target, the optimal-transport path of
    Lipman et al., "Flow Matching for Generative Modeling" (arXiv:2210.02747), with their time
    reversed: here t = 0 is data.

    >>> import torch
    >>> x_target, x_source = torch.zeros(4, 2), torch.ones(4, 2)
    >>> LinearPath().sample_xt(x_target, x_source, torch.full((4,), 0.25))[0]
    tensor([0.2500, 0.2500])
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)
