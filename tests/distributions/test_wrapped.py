"""The base on circles: its density by brute force and quadrature, its draws, its variance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

import setflow
from each import each
from setflow.distributions import WrappedNormal

WIDTHS = (1e-4, 0.05, 0.1, 0.499, 0.5, 1.0, 1.5, 1.5001, 2.0, 5.0)


def brute_force(angle: torch.Tensor, width: float) -> torch.Tensor:
    """The density by 401 windings, or that of the uniform distribution."""
    if width > 1.5:
        return torch.full_like(angle, 1 / (2 * math.pi))
    windings = angle.numpy()[..., None] + 2 * math.pi * np.arange(-200, 201)
    return torch.from_numpy(stats.norm(0, width).pdf(windings).sum(-1))


def grid(n: int = 20_001) -> tuple[torch.Tensor, float]:
    """The middles of n equal parts of the circle, and their length: the rule is exact to rounding
    for smooth periodic functions that it resolves."""
    step = 2 * math.pi / n
    return -math.pi + step * (torch.arange(n, dtype=torch.float64) + 0.5), step


@each("width", WIDTHS)
def test_the_density_is_the_sum_over_windings(width) -> None:
    base = WrappedNormal(torch.tensor([width]), [0])
    angle = torch.linspace(-math.pi, math.pi, 1001, dtype=torch.float64)
    got, expected = base.log_prob(angle[:, None]).exp(), brute_force(angle, width)
    assert ((got - expected).abs() <= 1e-12 * expected.clamp(min=1)).all()


@each("width", [0.1, 1.0, 2.0])
def test_it_integrates_to_one_over_the_circle(width) -> None:
    angle, step = grid()
    log_p = WrappedNormal(torch.tensor([width]), [0]).log_prob(angle[:, None])
    assert (log_p.exp().sum() * step).item() == pytest.approx(1, abs=1e-12)


@each("width", WIDTHS)
def test_a_turn_changes_nothing(width) -> None:
    base = WrappedNormal(torch.tensor([1.0, width]), [1])
    x = torch.stack([torch.randn(50), 6.28 * torch.rand(50) - 3.14], -1)
    turned = x + torch.tensor([0.0, 2 * math.pi])
    # of a narrow one the exponent magnifies the rounding of the turn
    rtol = 1e-10 / min(1, width)
    torch.testing.assert_close(base.log_prob(turned), base.log_prob(x), rtol=rtol, atol=1e-10)
    torch.testing.assert_close(base.wrapped(turned), x, rtol=0, atol=1e-14)


def test_a_narrow_angle_is_a_number_on_the_line() -> None:
    x, scale = 0.05 * torch.randn(200, 7, 2), torch.tensor([0.05, 0.05])
    line = setflow.DiagonalNormal(torch.zeros(2), scale)
    mask = torch.rand(200, 7) > 0.4
    base = WrappedNormal(scale, [0, 1])
    torch.testing.assert_close(base.log_prob(x, mask=mask), line.log_prob(x, mask=mask))
    noise = torch.randn(50, 2)
    torch.testing.assert_close(base.of_normal(noise), scale * noise)


@each("width", WIDTHS)
def test_draws_follow_the_density(width) -> None:
    base = WrappedNormal(torch.tensor([0.7, width]), [1])
    generator = torch.Generator().manual_seed(1)
    drawn = base.sample((20_000,), generator=generator)
    assert stats.kstest(drawn[:, 0].numpy(), stats.norm(0, 0.7).cdf).pvalue > 1e-3
    angle, step = grid(200_001)
    total = np.cumsum(brute_force(angle, width).numpy()) * step

    def cdf(values):
        return np.interp(values, angle.numpy() + step / 2, total)

    assert stats.kstest(drawn[:, 1].numpy(), cdf).pvalue > 1e-3
    assert ((drawn[:, 1] >= -math.pi) & (drawn[:, 1] < math.pi)).all()


@each("width", WIDTHS)
def test_variance_and_unit(width) -> None:
    base = WrappedNormal(torch.tensor([3.0, width]), [1])
    angle, step = grid(200_001)
    expected = (angle**2 * brute_force(angle, width)).sum() * step
    assert base.variance[0].item() == 9
    assert base.variance[1].item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(base.unit, torch.stack([torch.ones(()), expected.sqrt()]))
    assert base.mean.tolist() == [0, 0]


def test_slots_that_are_padded_count_nothing() -> None:
    base = WrappedNormal(torch.tensor([1.0, 0.4]), [1])
    mask = torch.tensor([[1, 0, 1], [0, 0, 0]])
    x = torch.randn(2, 3, 2)
    x[mask == 0] = torch.nan
    expected = base.log_prob(x[0, [0, 2]]).sum()
    torch.testing.assert_close(base.log_prob(x, mask=mask), torch.stack([expected, 0 * expected]))
    drawn = base.sample((2, 3), mask=mask.bool())
    assert (drawn[mask == 0] == 0).all()
    assert drawn[mask == 1].abs().min() > 0


@each("dtype", [torch.float32, torch.float64])
def test_scales_may_come_later_and_in_another_dtype(dtype) -> None:
    fitted = [torch.tensor([1.0, 0.3], dtype=torch.float64)]
    base = WrappedNormal(lambda: fitted[0], [1])
    fitted[0] = torch.tensor([1.0, 2.0], dtype=torch.float64)
    x = torch.randn(4, 2, dtype=dtype)
    assert base.log_prob(x).dtype == base.of_normal(x).dtype == dtype
    expected = stats.norm.logpdf(x[:, 0].numpy()) - math.log(2 * math.pi)
    assert base.log_prob(x).tolist() == pytest.approx(expected.tolist(), abs=1e-5)


@each(
    ("scale", "angles", "message"),
    [
        ([1.0, 0.0], [1], "scale must be positive, got a minimum of 0"),
        ([[1.0]], [0], r"scale has shape \(1, 1\), expected \(D,\)"),
        (2.0, [0], r"scale has shape \(\), expected \(D,\)"),
        ([1.0], [1], "expected the positions of the features that are angles"),
    ],
)
def test_what_is_no_base_is_refused(scale, angles, message) -> None:
    with pytest.raises(ValueError, match=message):
        WrappedNormal(torch.tensor(scale), angles)


def test_gradients_reach_the_scale_and_the_value() -> None:
    scale = torch.tensor([0.8, 0.9], requires_grad=True)
    x = torch.randn(3, 2, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda s, v: WrappedNormal(s, [1]).log_prob(v), (scale, x), atol=1e-6
    )
