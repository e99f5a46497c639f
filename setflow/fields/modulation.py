"""Adaptive layer norm: what an event is tells how its objects are normalised.

Peebles and Xie, "Scalable Diffusion Models with Transformers" (arXiv:2212.09748). Rows h with shape
`(E, N, hidden)` are normalised and then shifted and scaled by vectors of the event, with shape
`(E, 1, hidden)`; what a layer adds to the rows passes a gate of the same shape that starts at zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["NORM_EPS", "modulate"]

NORM_EPS = 1e-6
"""What is added to a variance before the root."""


def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return the rows normalised, times 1 + `scale`, plus `shift`."""
    normed = F.layer_norm(h, h.shape[-1:], eps=NORM_EPS)
    return torch.addcmul(shift, normed, 1 + scale)
