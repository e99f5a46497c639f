"""Time densities against their closed forms."""

from __future__ import annotations

import pytest
import scipy.stats
import torch

from setflow.timesteps import shifted_uniform


@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0])
def test_shifted_times_have_their_distribution(shift):
    """P(t < a) = a / (s - (s - 1) a)."""
    generator = torch.Generator().manual_seed(0)
    t = shifted_uniform((20_000,), shift, generator=generator)
    assert t.min() >= 0
    assert t.max() <= 1
    result = scipy.stats.kstest(t.numpy(), lambda a: a / (shift - (shift - 1) * a))
    assert result.pvalue > 1e-3


def test_shifted_times_follow_their_generator():
    one, other = (
        shifted_uniform((5,), 2.0, generator=torch.Generator().manual_seed(1)) for _ in "ab"
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("shift", [0.0, -1.0, float("nan")])
def test_a_shift_must_be_positive(shift):
    with pytest.raises(ValueError, match="must be positive"):
        shifted_uniform((3,), shift)
