"""Toy data against the densities and moments that their docstrings state."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch

from each import each
from setflow.data import (
    sample_checkerboard,
    sample_gaussians,
    sample_moons,
    sample_ring,
    sample_spirals,
    sample_two_clusters,
)

BLURRED = (sample_gaussians, sample_moons, sample_ring, sample_spirals, sample_two_clusters)
ALL = (*BLURRED, sample_checkerboard)
N = 20_000


def draw(sample, n: int = N, *arguments, seed: int = 0, **options):
    result = sample(n, *arguments, generator=torch.Generator().manual_seed(seed), **options)
    return result[0] if isinstance(result, tuple) else result


def assert_follows(values: torch.Tensor, distribution) -> None:
    assert scipy.stats.kstest(values.numpy(), distribution).pvalue > 1e-3


def assert_moments(x: torch.Tensor, mean, covariance) -> None:
    """Within five standard errors; fourth moments here are below 16 times the squared variance."""
    mean, covariance = torch.tensor(mean), torch.tensor(covariance)
    variance = covariance.diagonal().max().item()
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=5 * math.sqrt(variance / len(x)))
    torch.testing.assert_close(
        x.T.cov(), covariance, rtol=0, atol=5 * 4 * variance / math.sqrt(len(x))
    )


# --- what all have in common ---


@each("sample", ALL)
@each("n", [1, 7, 100])
def test_as_many_points_as_asked_for(sample, n):
    x = draw(sample, n)
    assert x.shape == (n, 2)
    assert len(x.unique(dim=0)) == n
    assert x.dtype == torch.float64
    assert draw(sample, n, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("sample", ALL)
def test_draws_follow_their_generator_and_nothing_else(sample):
    before = torch.get_rng_state()
    assert torch.equal(draw(sample, 50), draw(sample, 50))
    assert not torch.equal(draw(sample, 50), draw(sample, 50, seed=1))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(0)
    one, other = sample(50), sample(50)
    assert not torch.equal(*((x[0] if isinstance(x, tuple) else x) for x in (one, other)))


@pytest.mark.parametrize("sample", BLURRED)
def test_the_noise_is_normal_with_the_given_width(sample):
    added = draw(sample, N, 0.25) - draw(sample, N, 0.0)
    assert_follows(added.flatten() / 0.25, "norm")
    assert torch.corrcoef(added.T)[0, 1].abs() < 5 / math.sqrt(N)
    default = 0.3 if sample is sample_two_clusters else 0.1
    assert torch.equal(draw(sample, 50), draw(sample, 50, default))


@pytest.mark.parametrize("sample", ALL)
def test_points_come_in_no_order(sample):
    x = draw(sample)
    for feature in x.T:
        halves = feature.chunk(2)
        assert scipy.stats.ks_2samp(*(half.numpy() for half in halves)).pvalue > 1e-3
        lagged = torch.corrcoef(torch.stack([feature[1:], feature[:-1]]))[0, 1]
        assert lagged.abs() < 5 / math.sqrt(N)


@each("sample", ALL)
@each("n", [0, -1, 2.0, True])
def test_the_number_of_points_is_a_positive_integer(sample, n):
    with pytest.raises(ValueError, match="n must be a positive integer"):
        sample(n)


@each("sample", BLURRED)
@each("noise", [-0.1, math.nan, math.inf])
def test_noise_is_a_standard_deviation(sample, noise):
    with pytest.raises(ValueError, match="noise must be a standard deviation of at least 0"):
        sample(10, noise=noise)


# --- one by one ---


def test_sample_moons_lie_on_two_half_circles():
    x = draw(sample_moons, N, 0.0)
    above = (x.norm(dim=-1) - 1).abs() < 1e-12
    below = ((x - torch.tensor([1.0, 0.5])).norm(dim=-1) - 1).abs() < 1e-12
    upper, lower = above & (x[:, 1] >= 0), below & (x[:, 1] <= 0.5)
    assert (upper | lower).all()
    assert (upper & ~lower).sum() == N // 2  # the arcs meet in a point that is drawn never
    assert_follows(torch.atan2(x[upper, 1], x[upper, 0]) / math.pi, "uniform")
    assert_follows(torch.atan2(0.5 - x[lower, 1], 1 - x[lower, 0]) / math.pi, "uniform")


def test_sample_moons_stray_from_their_arcs_by_the_noise():
    x = draw(sample_moons, N, 0.02)
    distances = torch.stack([x.norm(dim=-1) - 1, (x - torch.tensor([1.0, 0.5])).norm(dim=-1) - 1])
    nearest = distances.abs().amin(0)
    far_from_the_other = distances.abs().amax(0) > 0.2
    assert nearest[far_from_the_other].square().mean().sqrt().item() == pytest.approx(
        0.02, rel=0.03
    )


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_sample_moons_have_their_mean_and_covariance(noise):
    lift = 2 / math.pi - 1 / 4  # half the height of one moon's mean above the other's
    off = -lift / 2
    x_variance, y_variance = 1 / 2 + 1 / 4, 1 / 2 - 4 / math.pi**2 + lift**2
    assert_moments(
        draw(sample_moons, N, noise),
        [0.5, 0.25],
        [[x_variance + noise**2, off], [off, y_variance + noise**2]],
    )


def test_sample_spirals_lie_on_two_arms():
    x = draw(sample_spirals, N, 0.0)
    radius = x.norm(dim=-1)
    direction = torch.stack([(math.pi * radius).cos(), (math.pi * radius).sin()], -1)
    along = (x * direction).sum(-1) / radius  # 1 on one arm, -1 on the other
    torch.testing.assert_close(along.abs(), torch.ones(N))
    assert (along > 0).sum() == N // 2
    for arm in (along > 0, along < 0):
        assert_follows((radius[arm] / 3) ** 2, "uniform")


def test_sample_checkerboard_is_uniform_on_its_dark_squares():
    x = draw(sample_checkerboard)
    square = x.floor().long()
    assert (square.sum(-1) % 2 == 0).all()
    index = 4 * (square[:, 0] + 2) + square[:, 1] + 2
    counts = torch.bincount(index, minlength=16)
    dark = [4 * i + j for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    assert counts[dark].tolist() == [N // 8] * 8
    assert counts.sum() == N
    inside = (4 * (x - square)).floor().long()
    cells = 16 * index + 4 * inside[:, 0] + inside[:, 1]
    occupied = torch.bincount(cells, minlength=256).reshape(16, 16)[dark]
    assert scipy.stats.chisquare(occupied.flatten().numpy()).pvalue > 1e-3


def test_sample_ring_has_radius_1_and_any_angle():
    x = draw(sample_ring, N, 0.0)
    torch.testing.assert_close(x.norm(dim=-1), torch.ones(N))
    assert_follows(torch.atan2(x[:, 1], x[:, 0]) / (2 * math.pi) + 0.5, "uniform")
    noisy = draw(sample_ring, N, 0.2)
    assert_moments(noisy, [0.0, 0.0], [[0.54, 0.0], [0.0, 0.54]])
    # squared distance to the origin over noise^2: non-central chi-square, two degrees of freedom
    assert_follows(noisy.square().sum(-1) / 0.04, scipy.stats.ncx2(2, 25).cdf)


def test_sample_gaussians_are_eight_equal_parts_of_a_mixture():
    x = draw(sample_gaussians, N, 0.05)
    angles = math.pi / 4 * torch.arange(8)
    centres = torch.stack([angles.cos(), angles.sin()], -1)
    nearest = torch.cdist(x, centres).argmin(-1)
    assert torch.bincount(nearest, minlength=8).tolist() == [N // 8] * 8
    off = (x - centres[nearest]) / 0.05
    for part in range(8):
        assert_moments(off[nearest == part], [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
    assert_follows(off.square().sum(-1), scipy.stats.chi2(2).cdf)


def test_sample_two_clusters_stand_where_their_labels_say():
    x, c = sample_two_clusters(N, generator=torch.Generator().manual_seed(0))
    assert c.shape == (N, 1)
    assert c.dtype == x.dtype
    for label, centre in ((0.0, -1.0), (1.0, 1.0)):
        of_class = x[c[:, 0] == label]
        assert len(of_class) == N // 2
        assert_moments(of_class, [centre, 0.0], [[0.09, 0.0], [0.0, 0.09]])
        assert_follows((of_class[:, 0] - centre) / 0.3, "norm")


def test_sample_two_clusters_gives_every_point_a_label_also_for_odd_numbers():
    x, c = sample_two_clusters(101, 0.0, dtype=torch.float32)
    assert c.dtype == torch.float32
    assert sorted(c.flatten().tolist()) == [0.0] * 51 + [1.0] * 50
    assert torch.equal(x[:, :1], 2 * c - 1)
    assert (x[:, 1] == 0).all()
    assert c[:51].sum() not in (0, 50)
