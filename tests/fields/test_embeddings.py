"""Fourier features: closed forms, the kernel that they make, and what is learned and saved."""

from __future__ import annotations

import math

import pytest
import torch

from setflow.fields import FourierFeatures, FourierTime


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("learned", [False, True])
def test_fourier_features_are_cosines_and_sines_of_2_pi_b_x(learned):
    embed = FourierFeatures(3, 8, scale=0.7, learned=learned, generator=generator())
    x = torch.randn(2, 5, 3, generator=generator(1))
    got = embed(x)
    assert got.shape == (2, 5, 8)
    for event in range(2):
        for slot in range(5):
            for row in range(4):
                angle = (
                    2
                    * math.pi
                    * sum(embed.matrix[row, i].item() * x[event, slot, i].item() for i in range(3))
                )
                assert got[event, slot, row].item() == pytest.approx(math.cos(angle), abs=1e-12)
                assert got[event, slot, 4 + row].item() == pytest.approx(math.sin(angle), abs=1e-12)


@pytest.mark.parametrize("scale", [0.2, 1.0])
def test_their_inner_product_is_a_gaussian_kernel(scale):
    rows = 200_000
    embed = FourierFeatures(2, 2 * rows, scale, generator=generator())
    x = torch.tensor([[0.0, 0.0], [0.1, 0.05], [0.2, -0.1], [-0.3, 0.4]])
    features = embed(x)
    kernel = features @ features.mT / rows
    expected = torch.exp(-2 * math.pi**2 * scale**2 * torch.cdist(x, x) ** 2)
    torch.testing.assert_close(kernel, expected, rtol=0, atol=5 / math.sqrt(2 * rows))
    assert expected.min() < 0.8  # far from all ones


def test_the_frequencies_are_normal_with_the_given_scale():
    matrix = FourierFeatures(4, 20_000, scale=3.0, generator=generator()).matrix
    assert matrix.shape == (10_000, 4)
    assert matrix.mean().item() == pytest.approx(0, abs=5 * 3 / 200)
    torch.testing.assert_close(matrix.T.cov(), 9 * torch.eye(4), rtol=0, atol=5 * 9 / 70)


def test_gradients_reach_the_matrix_only_when_it_is_learned():
    x = torch.randn(6, 2, generator=generator())
    learned = FourierFeatures(2, 4, learned=True, generator=generator())
    assert [name for name, _ in learned.named_parameters()] == ["matrix"]
    assert torch.autograd.gradcheck(
        lambda matrix: torch.func.functional_call(learned, {"matrix": matrix}, x), learned.matrix
    )
    learned(x).sum().backward()
    assert learned.matrix.grad.abs().min() > 0
    fixed = FourierFeatures(2, 4, generator=generator())
    assert list(fixed.parameters()) == []
    assert not fixed(x).requires_grad


@pytest.mark.parametrize("learned", [False, True])
def test_the_matrix_is_saved_with_the_weights(learned):
    one, other = (FourierFeatures(2, 6, learned=learned, generator=generator(s)) for s in (1, 2))
    x = torch.randn(4, 2, generator=generator())
    assert (one(x) - other(x)).abs().max() > 0.1
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x), other(x))


def test_the_matrix_follows_its_generator():
    one, other = (FourierFeatures(2, 6, generator=generator(3)).matrix for _ in "ab")
    assert torch.equal(one, other)


def test_angles_are_not_rounded_under_autocast():
    embed = FourierFeatures(2, 6, scale=10.0, generator=generator()).float()
    x = torch.randn(4, 2, generator=generator(), dtype=torch.float32)
    expected = embed(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(embed(x), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4), "in_features must be a positive integer, got 0"),
        ((2, 5), "features must be even and positive, got 5"),
        ((2, 0), "features must be a positive integer, got 0"),
        ((2, 4, 0.0), "scale must be positive, got 0.0"),
        ((2, 4, math.nan), "scale must be positive, got nan"),
    ],
)
def test_sizes_that_make_no_features(arguments, message):
    with pytest.raises(ValueError, match=message):
        FourierFeatures(*arguments)
    with pytest.raises(ValueError, match="even and positive, got 3"):
        FourierTime(3)


@pytest.mark.parametrize("shape", [(), (3,), (2, 1), (2, 5, 3)])
def test_another_number_of_coordinates_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(\*lead, 2\)"):
        FourierFeatures(2, 4)(torch.zeros(shape))


def test_fourier_time_turns_at_its_frequencies():
    t = torch.tensor([0.0, 0.3, 1.0])
    turns = [0.25 * 32 ** (k / 5) for k in range(6)]
    angle = 2 * math.pi * t[:, None] * torch.tensor(turns)
    expected = torch.cat([angle.sin(), angle.cos()], dim=-1)
    torch.testing.assert_close(FourierTime(12)(t), expected)
