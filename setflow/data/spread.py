"""How numbers that come block by block are spread: ends, mean, quantiles, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Spread"]

KEPT = 2**17  # so many values are kept; quantiles of them are right to 0.3% of all values


class Spread:
    """The ends, the mean and the quantiles of numbers that come block by block.

    The ends and the mean are those of all numbers. Quantiles are exact as long as at most `kept`
    numbers have come; then they are those of a random sample of them.

    Arguments:
        kept: how many numbers are kept in memory.

    Attributes:
        n: how many have come.
        low: the smallest; NaN before the first.
        high: the largest; NaN before the first.

    >>> spread = Spread()
    >>> for block in np.arange(100.0).reshape(4, 25):
    ...     spread.add(block)
    >>> spread.low, spread.mean, spread.quantiles([0.5]).tolist()
    (0.0, 49.5, [49.5])
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.n, self.low, self.high = 0, math.nan, math.nan
        self._kept, self._share, self._total = kept, 1.0, 0.0
        self._parts: list[NDArray[np.float64]] = []
        self._held = 0
        self._random = np.random.default_rng(0)  # the same numbers give the same sample

    def add(self, values: NDArray[Any]) -> None:
        """Add finite numbers, with shape `(n,)`."""
        if not len(values):
            return
        values = values.astype(np.float64)
        self.n += len(values)
        self.low = float(np.fmin(self.low, values.min()))
        self.high = float(np.fmax(self.high, values.max()))
        self._total += float(values.sum())
        if self._share < 1:
            some = self._random.binomial(len(values), self._share)
            values = values[self._random.integers(0, len(values), some)]
        self._parts.append(values)
        self._held += len(values)
        while self._held > self._kept:
            values = np.concatenate(self._parts)
            values = values[self._random.random(len(values)) < 0.5]
            self._parts, self._held, self._share = [values], len(values), self._share / 2

    @property
    def mean(self) -> float:
        """The mean; NaN before the first number."""
        return self._total / self.n if self.n else math.nan

    @property
    def sample(self) -> NDArray[np.float64]:
        """The numbers that are kept: all, or a random sample."""
        return np.concatenate([np.zeros(0), *self._parts])

    def quantiles(self, places: Sequence[float]) -> NDArray[np.float64]:
        """Return the values below which so large a share of the numbers lies; NaN before any."""
        values = self.sample
        if not len(values):
            return np.full(len(places), np.nan)
        return np.asarray(np.quantile(values, places))
