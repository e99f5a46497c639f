"""Embeddings of time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["FourierTime"]


class FourierTime(nn.Module):
    """Fourier features of the time on [0, 1]: sines and cosines with geometric frequencies.

    Tancik et al., "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional
    Domains" (arXiv:2006.10739). The lowest frequency is a quarter turn over the unit interval, so
    that the two ends of the path differ; the highest is eight turns.

    Arguments:
        features: the number of features, even.

    Raises:
        ValueError: if `features` is odd or not positive.

    >>> FourierTime(32)(torch.rand(8)).shape
    torch.Size([8, 32])
    """

    frequencies: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        if features < 2 or features % 2:
            raise ValueError(f"features must be even and positive, got {features}")
        turns = torch.logspace(math.log2(0.25), math.log2(8.0), features // 2, base=2.0)
        self.register_buffer("frequencies", 2 * math.pi * turns, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Return the features of `t`, with shape `(*t.shape, features)`."""
        angle = t[..., None] * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=-1)
