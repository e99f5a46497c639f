"""The kernel distance by loops, around 0 at the truth, its error, published values."""

from __future__ import annotations

import math

import pytest
import torch

from setflow.physics import kernel, kpd

F64 = torch.float64


def normal(n, seed, mean=0.0, features=4):
    generator = torch.Generator().manual_seed(seed)
    return mean + torch.randn(n, features, generator=generator, dtype=F64)


def by_loops(x, y):
    unit = x.abs().amax(0)
    x, y = (x / unit).tolist(), (y / unit).tolist()

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 4

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    across = sum(k(a, b) for a in x for b in y)
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)


def test_the_distance_is_that_of_loops(monkeypatch):
    x, y = normal(23, 0), normal(31, 1, 0.5)
    assert math.isclose(kpd(x, y).value, by_loops(x, y), rel_tol=1e-10)
    monkeypatch.setattr(kernel, "_TABLE", 150)
    assert math.isclose(kpd(x, y).value, by_loops(x, y), rel_tol=1e-10)


def test_the_truth_scatters_around_zero_within_the_error():
    found = [kpd(normal(500, 2 * k), normal(500, 2 * k + 1)) for k in range(40)]
    values = torch.tensor([estimate.value for estimate in found])
    errors = torch.tensor([estimate.error for estimate in found])
    assert values.mean().abs() < 4 * values.std() / math.sqrt(40)
    assert values.min() < 0
    # all of second order: the jackknife's error is too large by the root of two, as documented
    assert 1 < errors.mean() / values.std() < 2


def test_a_difference_is_seen_and_its_error_right():
    found = [kpd(normal(500, 2 * k), normal(500, 2 * k + 1, 0.3)) for k in range(40)]
    values = torch.tensor([estimate.value for estimate in found])
    errors = torch.tensor([estimate.error for estimate in found])
    assert (values > 3 * errors).all()
    assert 0.6 < errors.mean() / values.std() < 1.7


def test_the_published_protocol_gives_the_published_values(published):
    for name in ("same", "wide"):
        value, error = published.values[name]["kpd_small"]
        efps = getattr(published, name).efps
        found = kpd(published.real.efps, efps, "jetnet", draws=4, size=1000)
        assert found.value == pytest.approx(value, rel=1e-6)
        assert found.error == pytest.approx(error, rel=1e-6)
        whole, (value, error) = kpd(published.real.efps, efps), published.values[name]["kpd"]
        assert abs(whole.value - value) < 3 * math.hypot(whole.error, error)


def test_what_is_not_defined_is_refused():
    x = normal(20, 0)
    with pytest.raises(ValueError, match="no protocol 'half'"):
        kpd(x, x, "half")
    with pytest.raises(ValueError, match="there are 9 real jets, expected at least 10"):
        kpd(x[:9], x)
    with pytest.raises(ValueError, match="draws=1"):
        kpd(x, x, "jetnet", draws=1)
