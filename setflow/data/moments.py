"""Mean and deviation of columns in one pass, whatever the number of rows.

Notation. Of the rows x_i with weights w_i a part of a sample keeps their number n, the plain mean
m, M = sum (x - m)^2, and the weighted sums about m: W = sum w, Q = sum w^2, A = sum w (x - m),
B = sum w (x - m)^2. Two parts make one by moving both to the common mean, after Welford, "Note on
a method for calculating corrected sums of squares and products" (Technometrics 4, 419, 1962), and
Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances"
(COMPSTAT 1982). The mean about which they stand has no weights, so that weights of both signs that
cancel within a part do no harm. What comes out are the numbers of `torch.std_mean` and of
`setflow.sets.weights.weighted_std_mean`, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

__all__ = ["Moments"]


@dataclass(frozen=True)
class Moments:
    """What is known of a part of a sample; parts add.

    Attributes:
        n: the number of rows, with shape `()`.
        mean: their mean, with shape `(D,)`.
        squares: the sum of their squared distances from it, with shape `(D,)`.
        lowest: the smallest values, with shape `(D,)`.
        weight: the sums W, Q, of the absolute values, and the number of the negative weights, with
            shape `(4,)`.
        weighted: the sums A and B, with shape `(2, D)`.

    >>> rows = torch.tensor([[1.0], [2.0], [6.0]])
    >>> both = Moments.of(rows[:1]) + Moments.of(rows[1:])
    >>> both.std_mean()
    (tensor([2.6458], dtype=torch.float64), tensor([3.], dtype=torch.float64))
    """

    n: Tensor
    mean: Tensor
    squares: Tensor
    lowest: Tensor
    weight: Tensor
    weighted: Tensor

    @classmethod
    def none(cls, dim: int) -> Moments:
        """Return those of no rows of so many columns."""
        zero = torch.zeros(dim, dtype=torch.float64)
        counts = zero.new_zeros(4)
        return cls(counts[0], zero, zero, zero + torch.inf, counts, zero.new_zeros(2, dim))

    @classmethod
    def of(cls, rows: Tensor, weight: Tensor | None = None) -> Moments:
        """Return those of some rows.

        Arguments:
            rows: with shape `(n, D)`.
            weight: with shape `(n,)`; None means 1 for each.
        """
        rows = rows.detach().cpu().to(torch.float64)
        if not len(rows):
            return cls.none(rows.shape[1])
        moved = rows - rows[:1]  # of a constant exactly 0, so that its deviation is, too
        offset = moved.mean(0)
        moved -= offset
        squares = (moved**2).sum(0)
        n = torch.tensor(float(len(rows)), dtype=torch.float64)
        each = rows.new_ones(len(rows)) if weight is None else weight.detach().cpu().double()
        negative = (each < 0).sum().double()
        told = torch.stack([each.sum(), (each**2).sum(), each.abs().sum(), negative])
        weighted = torch.stack([each @ moved, each @ moved**2])
        return cls(n, rows[0] + offset, squares, rows.amin(0), told, weighted)

    def __add__(self, other: Moments) -> Moments:
        n = self.n + other.n
        if not n:
            return self
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.n / n)
        a, b = self._about(mean), other._about(mean)
        squares = self.squares + other.squares + apart**2 * (self.n * other.n / n)
        lowest = torch.minimum(self.lowest, other.lowest)
        return Moments(n, mean, squares, lowest, a.weight + b.weight, a.weighted + b.weighted)

    def _about(self, mean: Tensor) -> Moments:
        """Return the weighted sums about another mean."""
        by, (a, b), total = mean - self.mean, self.weighted, self.weight[0]
        weighted = torch.stack([a - by * total, b - 2 * by * a + by**2 * total])
        return replace(self, weighted=weighted)

    def columns(self, places: Sequence[int]) -> Moments:
        """Return those of some of the columns, in this order."""
        at = list(places)
        return replace(
            self,
            mean=self.mean[at],
            squares=self.squares[at],
            lowest=self.lowest[at],
            weighted=self.weighted[:, at],
        )

    def std_mean(self, *, weighted: bool = False) -> tuple[Tensor, Tensor]:
        """Return standard deviation and mean, both with shape `(D,)`.

        Arguments:
            weighted: take the weights; the deviation is then that of `weighted_std_mean`.
        """
        if not weighted:
            return (self.squares / (self.n - 1)).sqrt(), self.mean
        total, squared = self.weight[0], self.weight[1]
        (a, b), left = self.weighted, 1 - squared / total**2
        variance = (b - a**2 / total) / total
        both = (variance > 0) & (left > 0)  # the quotient of two negative numbers is no variance
        std = torch.where(both, variance / left, variance.clamp(max=0)).sqrt()
        return std, self.mean + a / total

    def tensors(self) -> dict[str, Tensor]:
        """Return the numbers by their names; `Moments(**tensors)` has them again."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}
