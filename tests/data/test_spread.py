"""How numbers that come block by block are spread."""

from __future__ import annotations

import math

import numpy as np
import pytest

from setflow.data.spread import Spread


def test_quantiles_of_few_numbers_are_exact():
    values = np.random.default_rng(0).normal(size=1000)
    spread = Spread()
    for block in np.split(values, [1, 10, 10, 700]):
        spread.add(block)
    places = [0, 0.01, 0.3, 1]
    np.testing.assert_allclose(spread.quantiles(places), np.quantile(values, places))
    assert (spread.n, spread.low, spread.high) == (1000, values.min(), values.max())
    assert spread.mean == pytest.approx(values.mean())


def test_many_numbers_are_sampled_fairly_whatever_their_order():
    """Rising numbers: a sample that preferred what came first or last would shift the quantiles."""
    spread, n = Spread(kept=4000), 200_000
    for block in np.split(np.arange(n) / n, 37 * np.arange(1, n // 37)):
        spread.add(block)
    assert 1500 < len(spread.sample) <= 4000
    np.testing.assert_allclose(spread.quantiles([0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.04)
    assert (spread.n, spread.low, spread.high) == (n, 0, (n - 1) / n)


def test_no_numbers():
    spread = Spread()
    spread.add(np.zeros(0))
    assert all(map(math.isnan, [spread.low, spread.high, spread.mean, *spread.quantiles([0.5])]))
