"""Embeddings: a few coordinates as many sines and cosines.

Notation. 2 pi B x, for a matrix B whose rows are frequencies in turns per unit of x; `features`
counts the outputs, one sine and one cosine for each row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from setflow.sets.arrays import check_generator
from setflow.sets.shapes import positive_integer

__all__ = ["EventEmbedding", "EventFeatures", "FourierFeatures", "FourierTime"]

_TIME_FEATURES = 32


class FourierFeatures(nn.Module):
    """Random or learned Fourier features of coordinates: cos(2 pi B x) and sin(2 pi B x).

    Tancik et al., "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional
    Domains" (arXiv:2006.10739). They are often credited to the NeRF paper (arXiv:2003.08934), which
    uses fixed powers of two along each axis; the matrix B with normal entries is Tancik's.

    With entries of B from N(0, scale^2), the inner product of the features of x and y is on average
    `features / 2 * exp(-2 pi^2 scale^2 |x - y|^2)`: a Gaussian kernel of width 1 / (2 pi scale).

    Arguments:
        in_features: the number of coordinates.
        features: the number of features, even.
        scale: the standard deviation of the entries of B, positive; 1 / (2 pi scale) should be
            about the distance over which the function to be learned changes.
        learned: whether B is a parameter; if not, it is a buffer that is saved with the weights.
        generator: what draws B; None takes torch's default.

    Raises:
        ValueError: if `in_features` or `scale` is not positive, or `features` is odd or not
            positive.

    >>> FourierFeatures(2, 64)(torch.randn(8, 30, 2)).shape
    torch.Size([8, 30, 64])
    """

    matrix: Tensor

    def __init__(
        self,
        in_features: int,
        features: int,
        scale: float = 1.0,
        learned: bool = False,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        positive_integer(in_features, "in_features")
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        rows = _half_of(features)
        self.in_features = in_features
        self.features = features
        self.scale = scale
        self.learned = learned
        check_generator(generator)
        matrix = scale * torch.randn(rows, in_features, generator=generator)
        if learned:
            self.matrix = nn.Parameter(matrix)
        else:
            self.register_buffer("matrix", matrix)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, cosines first.

        Arguments:
            x: the coordinates, with shape `(*lead, in_features)`.

        Returns:
            The features, with shape `(*lead, features)`.

        Raises:
            ValueError: if `x` has another number of coordinates.
        """
        if not x.ndim or x.shape[-1] != self.in_features:
            raise ValueError(
                f"FourierFeatures got x with shape {tuple(x.shape)}, expected "
                f"(*lead, {self.in_features})"
            )
        # no matrix product: autocast and TF32 would round angles of many turns
        angle = 2 * math.pi * (x[..., None, :] * self.matrix).sum(-1)
        return torch.cat([angle.cos(), angle.sin()], dim=-1)


class FourierTime(nn.Module):
    """Fourier features of the time on [0, 1]: sines and cosines with geometric frequencies.

    Tancik et al., "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional
    Domains" (arXiv:2006.10739). The lowest frequency is a quarter turn over the unit interval, so
    that the two ends of the path differ; the highest is eight turns.

    Arguments:
        features: the number of features, even.

    Attributes:
        turns: the lowest and the highest frequency.

    Raises:
        ValueError: if `features` is odd or not positive.

    >>> FourierTime(32)(torch.rand(8)).shape
    torch.Size([8, 32])
    """

    turns = (0.25, 8.0)

    def __init__(self, features: int) -> None:
        super().__init__()
        self._rows = _half_of(features)

    def forward(self, t: Tensor) -> Tensor:
        """Return the features of `t`, with shape `(*t.shape, features)` and the dtype of `t`."""
        lowest, highest = (math.log2(turns) for turns in self.turns)
        # no buffer, which a change of the weights' dtype would round; short formats know no phases
        wide = torch.promote_types(t.dtype, torch.float32)
        turns = torch.logspace(lowest, highest, self._rows, base=2.0, dtype=wide, device=t.device)
        angle = t[..., None] * (2 * math.pi * turns)
        return torch.cat([angle.sin(), angle.cos()], dim=-1).to(t.dtype)


class EventFeatures(nn.Module):
    """What all objects of an event have alike: its time, its number of objects and its context.

    Arguments:
        condition_dim: the number of context features per event.

    Attributes:
        features: the number of features, Fourier features of the time and log(1 + N) among them.

    >>> EventFeatures(2)(torch.rand(8), torch.full((8,), 30.0), torch.randn(8, 2)).shape
    torch.Size([8, 35])
    """

    def __init__(self, condition_dim: int) -> None:
        super().__init__()
        self.time = FourierTime(_TIME_FEATURES)
        self.features = _TIME_FEATURES + 1 + condition_dim

    def forward(self, t: Tensor, n: Tensor, c: Tensor | None) -> Tensor:
        """Return the features, with shape `(*lead, features)`.

        Arguments:
            t: the time, with shape `lead`.
            n: the number of real objects, with shape `lead`.
            c: the context, with shape `(*lead, condition_dim)`, or None if that is 0.
        """
        parts = [self.time(t), n.log1p()[..., None]]
        return torch.cat(parts if c is None else [*parts, c], dim=-1)


class EventEmbedding(nn.Module):
    """One vector per event, learned from its `EventFeatures`.

    Arguments:
        condition_dim: the number of context features per event.
        features: the length of the vector.

    >>> EventEmbedding(2, 64)(torch.rand(8), torch.full((8,), 30.0), torch.randn(8, 2)).shape
    torch.Size([8, 64])
    """

    def __init__(self, condition_dim: int, features: int) -> None:
        super().__init__()
        self.event = EventFeatures(condition_dim)
        self.net = nn.Sequential(
            nn.Linear(self.event.features, features),
            nn.SiLU(),
            nn.Linear(features, features),
            nn.SiLU(),
        )

    def forward(self, t: Tensor, n: Tensor, c: Tensor | None) -> Tensor:
        """Return the vectors, with shape `(*lead, features)`; see `EventFeatures`."""
        embedded: Tensor = self.net(self.event(t, n, c))
        return embedded


def _half_of(features: int) -> int:
    if positive_integer(features, "features") % 2:
        raise ValueError(f"features must be even and positive, got {features!r}")
    return features // 2
