"""The Frechet distance of known Gaussians, its limit for many jets, published values."""

from __future__ import annotations

import math

import pytest
import torch

from setflow.physics import fpd, frechet_distance

F64 = torch.float64


def normal(n, seed, mean=0.0, scale=1.0, features=4):
    generator = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(n, features, generator=generator, dtype=F64)


def test_gaussians_of_known_distance():
    """Of commuting covariances: the squared differences of means and of standard deviations."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=F64)).Q
    a, b = (torch.rand(5, generator=generator, dtype=F64) for _ in range(2))
    mean = torch.randn(5, generator=generator, dtype=F64)
    found = frechet_distance(mean, turn * a @ turn.T, 2 * mean, turn * b @ turn.T)
    expected = mean.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert math.isclose(found, expected, rel_tol=1e-10)
    a[0] = b[1] = 0.0  # singular: the root of a rounding is what is left
    found = frechet_distance(mean, turn * a @ turn.T, 2 * mean, turn * b @ turn.T)
    expected = mean.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert math.isclose(found, expected, rel_tol=1e-6)
    # and of covariances that do not commute: tr sqrt of [[2, 0], [0, 1]] [[1, .5], [.5, 1]]
    one = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=F64)
    two = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=F64)
    root = torch.linalg.eigvals(one @ two).real.sqrt().sum()
    zero = torch.zeros(2, dtype=F64)
    assert math.isclose(frechet_distance(zero, one, zero, two), 5 - 2 * root, rel_tol=1e-10)


def test_the_limit_is_the_distance_of_the_laws():
    """Features are divided by the largest of the real ones, so the distance is in these units."""
    values, errors = [], []
    for seed in range(12):
        real, generated = normal(3000, 2 * seed), normal(3000, 2 * seed + 1, 0.1, 1.2)
        unit = real.abs().amax(0)
        expected = ((0.1**2 + 0.2**2) / unit**2).sum()
        found = fpd(real, generated)
        values.append((found.value - expected) / expected)
        errors.append(found.error / expected)
    values = torch.tensor(values)
    assert values.mean().abs() < 4 * values.std() / math.sqrt(12)
    assert 0.5 < torch.tensor(errors).mean() / values.std() < 2


def test_the_truth_scatters_around_zero_where_the_plain_distance_does_not():
    limits, plain = [], []
    for seed in range(30):
        real, generated = normal(400, 2 * seed, features=8), normal(400, 2 * seed + 1, features=8)
        found = fpd(real, generated)
        unit = real.abs().amax(0)
        moments = [(x.mean(0), x.T.cov()) for x in (real / unit, generated / unit)]
        limits.append(found.value / found.error)
        plain.append(frechet_distance(*moments[0], *moments[1]) / found.error)
    limits, plain = torch.tensor(limits), torch.tensor(plain)
    assert limits.mean().abs() < 4 * limits.std() / math.sqrt(30)
    assert limits.abs().max() < 5
    assert plain.mean() > 10 * limits.mean().abs()


def test_the_published_protocol_gives_the_published_values(published):
    """The package takes the root of a product of matrices by another algorithm: 1e-6."""
    for name in ("same", "wide"):
        value, error = published.values[name]["fpd"]
        efps = getattr(published, name).efps
        if name == "wide":
            found = fpd(published.real.efps, efps, "jetnet")
            assert found.value == pytest.approx(value, rel=1e-6)
            assert found.error == pytest.approx(error, rel=1e-5)
        whole = fpd(published.real.efps, efps)
        assert abs(whole.value - value) < 3 * math.hypot(whole.error, error)


def test_what_is_not_defined_is_refused():
    x = normal(250, 0)
    with pytest.raises(ValueError, match="no protocol 'half'"):
        fpd(x, x, "half")
    with pytest.raises(ValueError, match=r"shapes \(250, 4\) and \(250, 3\)"):
        fpd(x, x[:, :3])
    with pytest.raises(ValueError, match="there are 100 generated jets, expected at least 200"):
        fpd(x, x[:100])
    with pytest.raises(ValueError, match="smallest=10 and largest=10"):
        fpd(x, x, smallest=10, largest=10)
    broken = x.clone()
    broken[7, 1] = float("nan")
    with pytest.raises(ValueError, match=r"not finite in 1 of 250 generated jets, the first .* 7"):
        fpd(x, broken)
