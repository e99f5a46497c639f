"""Values sorted together with what stands beside them."""

from __future__ import annotations

import numpy as np
import pytest

from setflow.physics import sorting
from setflow.physics.sorting import sort_together


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_each_value_keeps_what_stands_beside_it(kind, n, monkeypatch):
    monkeypatch.setattr(sorting, "_VALUES", 64)
    rng = np.random.default_rng(n)
    values = (rng.normal(size=n) * 10.0 ** rng.integers(-40, 30, n)).astype(kind)
    values[::5] = 0.0
    values[1::5] *= -0.0 if n % 2 else 1.0
    given, places = values.copy(), np.arange(n, dtype=np.int32)
    sort_together(values, places)
    assert np.array_equal(values, np.sort(given))
    assert np.array_equal(values, given[places])
    assert np.array_equal(np.sort(places), np.arange(n))


def test_the_ends_of_the_range_are_in_order():
    tiny, huge = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    given = np.array([huge, -tiny, np.inf, 0.0, -huge, tiny, -np.inf, -0.0], np.float32)
    values, places = given.copy(), np.arange(8, dtype=np.int32)
    sort_together(values, places)
    assert values.tolist() == sorted(given.tolist())
    assert given[places].tolist() == values.tolist()


def test_the_largest_place_survives():
    values = np.array([3.0, -3.0], np.float32)
    places = np.array([2**31 - 1, 0], np.int32)
    sort_together(values, places)
    assert places.tolist() == [0, 2**31 - 1]
