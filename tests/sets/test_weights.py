"""Weights of events: what they are checked for, and the statistics that they give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from setflow import SetBatch
from setflow.sets.weights import as_weight, effective_number, total_weight, weighted_std_mean


def test_weighted_moments_are_those_of_numpy():
    generator = np.random.default_rng(1)
    values, weight = generator.normal(3.0, 2.0, (50, 3)), generator.random(50) + 0.1
    std, mean = weighted_std_mean(torch.as_tensor(values), torch.as_tensor(weight))
    truth = np.sqrt(np.diag(np.cov(values, rowvar=False, aweights=weight)))
    np.testing.assert_allclose(std, truth, rtol=1e-13)
    np.testing.assert_allclose(mean, np.average(values, axis=0, weights=weight), rtol=1e-13)


def test_equal_weights_are_none_and_their_scale_does_not_matter():
    values = torch.randn(30, 2)
    expected = torch.std_mean(values, dim=0)
    for scale in (1.0, 1e-9, 3e7):
        got = weighted_std_mean(values, torch.full((30,), scale))
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-15)


def test_a_constant_has_no_deviation_not_even_by_rounding():
    std, _ = weighted_std_mean(torch.full((9, 1), 0.1), torch.rand(9) + 0.1)
    assert std.item() == 0


def test_two_impossible_signs_make_no_variance():
    values = torch.tensor([[0.0], [1.0], [5.0]])
    for weight in ([1.0, 1.0, -1.5], [1.0, 0.0, 0.0], [2.0, -1.9, 2.0]):
        std, _ = weighted_std_mean(values, torch.tensor(weight))
        share = np.array(weight) / np.sum(weight)
        mean = share @ values.numpy()[:, 0]
        variance = share @ (values.numpy()[:, 0] - mean) ** 2
        assert bool(std > 0) is bool(variance > 0 and (share**2).sum() < 1)


def test_the_effective_number_counts_equal_weights():
    assert effective_number(torch.full((7,), 3.0)) == 7
    assert effective_number(torch.tensor([1.0, 0.0, 0.0])) == 1
    assert effective_number(torch.tensor([1.0, 1.0, -1.0])) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0, float("nan"), float("inf")], "2 of 3 weights are NaN or infinite, the first is nan"),
        ([[1.0, 1.0, 1.0]], r"weight has shape \(1, 3\), expected \(3,\): one number per event"),
        ([1.0, 1.0], r"weight has shape \(2,\), expected \(3,\)"),
        (1.0, r"weight has shape \(\), expected \(3,\)"),
    ],
)
def test_weights_that_are_none(weight, message):
    with pytest.raises(ValueError, match=message):
        as_weight(weight, (3,))
    with pytest.raises(ValueError, match=message):
        SetBatch(torch.zeros(3, 4, 2), weight=weight)


@pytest.mark.parametrize("weight", [[1.0, -1.0], [-2.0, 1.0], [0.1, 0.2, -0.3]])
def test_a_sum_that_is_not_positive_counts_the_negative_ones(weight):
    with pytest.raises(ValueError, match=f"expected a positive sum: 1 of {len(weight)} weights"):
        total_weight(torch.tensor(weight))


def test_weights_of_zero_alone():
    with pytest.raises(ValueError, match=r"sum to 0, .*: 0 of 2 weights are negative"):
        total_weight(torch.zeros(2))
