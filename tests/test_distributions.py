"""Bases, noise by counter, and cardinality models."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch

import setflow
from setflow.distributions import counter_normal, counter_uniform
from setflow.distributions.counter import philox


def test_standard_normal_log_prob_against_scipy():
    x = torch.randn(4, 5, 3)
    mask = torch.rand(4, 5) > 0.4
    expected = torch.tensor(
        [scipy.stats.norm.logpdf(e[m].numpy()).sum() for e, m in zip(x, mask, strict=True)]
    )
    torch.testing.assert_close(setflow.StandardNormal((5, 3)).log_prob(x, mask=mask), expected)
    torch.testing.assert_close(setflow.StandardNormal((3,)).log_prob(x, mask=mask), expected)


def test_diagonal_normal_log_prob_against_scipy():
    loc, scale = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.5, 2.0, 1.0])
    x = torch.randn(4, 5, 3)
    mask = torch.rand(4, 5) > 0.4
    log_p = scipy.stats.norm.logpdf(x.numpy(), loc.numpy(), scale.numpy())
    expected = torch.tensor((log_p * mask[..., None].numpy()).sum((-1, -2)))
    torch.testing.assert_close(setflow.DiagonalNormal(loc, scale).log_prob(x, mask=mask), expected)


def test_float32_log_densities_accumulate_in_float64():
    x = torch.zeros(1, 10_000, 30, dtype=torch.float32)
    got = setflow.StandardNormal((10_000, 30)).log_prob(x)
    expected = -0.5 * math.log(2 * math.pi) * x.numel()
    assert got.dtype == torch.float32
    assert abs(got.item() / expected - 1) < 1e-7


def test_draws_have_their_shapes_and_moments():
    base = setflow.DiagonalNormal(torch.tensor([3.0, -1.0]), torch.tensor([0.1, 2.0]))
    x = base.sample((50_000,), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(x.mean(0), base.loc, atol=0.05, rtol=0)
    torch.testing.assert_close(x.std(0), base.scale, atol=0.05, rtol=0)
    assert setflow.StandardNormal((5, 2), batch_shape=(7,)).sample((3,)).shape == (3, 7, 5, 2)
    assert setflow.StandardNormal(4, dtype=torch.float32).sample().dtype == torch.float32


def test_draws_follow_their_generator():
    base = setflow.StandardNormal((4, 2))
    first, second = (base.sample((3,), generator=torch.Generator().manual_seed(1)) for _ in "ab")
    assert torch.equal(first, second)


def test_a_base_with_a_batch_is_not_a_base_with_parameters_per_slot():
    base = setflow.DiagonalNormal(torch.tensor([[0.0] * 3, [5.0] * 3]), torch.ones(2, 3))
    x, mask = torch.zeros(4, 2, 3), torch.ones(4, 2)
    for call in (lambda: base.log_prob(x, mask=mask), lambda: base.sample((4,), mask=mask)):
        with pytest.raises(ValueError, match="cannot have a batch shape"):
            call()
    assert base.log_prob(torch.zeros(4, 2, 3)).shape == (4, 2)
    with pytest.raises(ValueError, match="lead shape"):
        base.log_prob(torch.zeros(2, 4, 3))


def test_masks_of_zeros_and_ones_are_taken_by_bases():
    base, x = setflow.StandardNormal((3,)), torch.randn(1, 3, 3)
    mask = torch.tensor([[1.0, 0.0, 1.0]])
    torch.testing.assert_close(base.log_prob(x, mask=mask), base.log_prob(x, mask=mask.bool()))
    assert base.sample((1, 3), mask=mask)[0, 1].abs().sum() == 0
    with pytest.raises(ValueError, match="holds the value"):
        base.log_prob(x, mask=mask / 2)


def test_empty_batches_have_empty_log_densities():
    assert setflow.StandardNormal((3,)).log_prob(
        torch.zeros(0, 4, 3), mask=torch.ones(0, 4)
    ).shape == (0,)


def test_counter_noise_is_float64_whatever_the_default():
    index, mask = torch.arange(5), torch.ones(5, 2, dtype=torch.bool)
    expected = counter_normal(1, index, mask, (3,)), counter_uniform(1, index)
    torch.set_default_dtype(torch.float32)
    for one, other in zip(
        (counter_normal(1, index, mask, (3,)), counter_uniform(1, index)), expected, strict=True
    ):
        assert one.dtype == torch.float64
        assert torch.equal(one, other)


def test_draws_are_zero_in_padding():
    mask = torch.rand(6, 5) > 0.5
    x = setflow.StandardNormal((3,)).sample((6, 5), mask=mask)
    assert x[~mask].abs().sum() == 0
    assert (x[mask] != 0).all()


def test_parameters_per_slot_are_refused_with_a_mask():
    base = setflow.DiagonalNormal(torch.zeros(5, 3), torch.ones(5, 3), event_ndim=2)
    mask = torch.ones(2, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="one set for each of the 5 slots"):
        base.log_prob(torch.zeros(2, 5, 3), mask=mask)
    with pytest.raises(ValueError, match="one set for each of the 5 slots"):
        setflow.masked_sample(_field(), base, setflow.Euler(1), mask)


def _field():
    return setflow.GaussianSetField(torch.zeros(3), torch.ones(3))


def test_a_torch_distribution_that_factorises_is_accepted():
    independent = torch.distributions.Independent(
        torch.distributions.Normal(torch.zeros(3), torch.ones(3)), 1
    )
    mask = torch.rand(4, 5) > 0.4
    x = setflow.masked_sample(_field(), independent, setflow.Euler(2), mask)
    assert x.shape == (4, 5, 3)
    ours = setflow.StandardNormal((3,)).log_prob(x, mask=mask)
    torch.testing.assert_close(setflow.as_base(independent).log_prob(x, mask=mask), ours)


def test_a_torch_distribution_that_does_not_factorise_is_refused():
    correlated = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3) + 0.5)
    with pytest.raises(ValueError, match="does not factorise"):
        setflow.masked_sample(_field(), correlated, setflow.Euler(1), torch.ones(2, 5, dtype=bool))


def test_a_torch_distribution_cannot_take_a_generator():
    normal = torch.distributions.Normal(torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match="cannot draw from a generator"):
        setflow.masked_sample(
            _field(), normal, setflow.Euler(1), torch.ones(2, 5, dtype=bool),
            generator=torch.Generator(),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("loc", "scale", "message"),
    [
        (torch.zeros(3), torch.tensor([1.0, 0.0, 1.0]), "positive"),
        (torch.zeros(3), torch.ones(2), "nothing is broadcast"),
        (torch.zeros(4, 3), torch.ones(3), "nothing is broadcast"),
    ],
)
def test_bad_parameters(loc, scale, message):
    with pytest.raises(ValueError, match=message):
        setflow.DiagonalNormal(loc, scale)


def test_bases_refuse_other_event_shapes():
    with pytest.raises(ValueError, match="event shape"):
        setflow.StandardNormal((5, 3)).log_prob(torch.zeros(2, 4, 3))
    with pytest.raises(ValueError, match="event shape"):
        setflow.StandardNormal((3,)).log_prob(torch.zeros(2, 4, 2), mask=torch.ones(2, 4))


# --- noise by counter ---


@pytest.mark.parametrize(
    ("counter", "seed", "expected"),
    [  # the known answers of Random123 for philox4x32-10
        ((0, 0, 0, 0), 0, ("6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8")),
        (
            (0xFFFFFFFF,) * 4,
            0xFFFFFFFFFFFFFFFF,
            ("408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            ("d16cfe09", "94fdcceb", "5001e420", "24126ea1"),
        ),
    ],
)
def test_philox_known_answers(counter, seed, expected):
    words = philox(tuple(torch.tensor([word]) for word in counter), seed)
    assert tuple(f"{word.item():08x}" for word in words) == expected


def test_counter_normal_is_normal():
    mask = torch.ones(20_000, 5, dtype=torch.bool)
    x = counter_normal(3, torch.arange(20_000), mask, (2,)).flatten()
    assert scipy.stats.kstest(x.numpy(), "norm").pvalue > 1e-3
    grid = x.reshape(20_000, 10)
    correlation = torch.corrcoef(grid.T) - torch.eye(10)
    assert correlation.abs().max() < 0.03
    lagged = torch.corrcoef(torch.stack([grid[1:, 0], grid[:-1, 0]]))[0, 1]
    assert lagged.abs() < 0.03


def test_counter_uniform_is_uniform_and_apart_from_the_noise():
    index = torch.arange(50_000)
    u = counter_uniform(3, index)
    assert scipy.stats.kstest(u.numpy(), "uniform").pvalue > 1e-3
    noise = counter_normal(3, index, torch.ones(50_000, 1, dtype=torch.bool), (1,)).flatten()
    assert torch.corrcoef(torch.stack([u, noise]))[0, 1].abs() < 0.02


def test_counter_noise_depends_on_the_rank_among_real_objects_only():
    index = torch.tensor([9])
    packed = counter_normal(1, index, torch.tensor([[1, 1, 1]]).bool(), (2,))
    holes = counter_normal(1, index, torch.tensor([[0, 1, 0, 1, 0, 0, 1]]).bool(), (2,))
    assert torch.equal(packed[0], holes[0, [1, 3, 6]])


def test_counter_noise_differs_by_seed_event_rank_and_feature():
    mask = torch.ones(4, 3, dtype=torch.bool)
    far = torch.tensor([0, 1, 2**32, 2**40 + 1])
    draws = torch.cat([counter_normal(s, far, mask, (2,)).flatten() for s in (0, 1, 2**33)])
    assert len(draws.unique()) == draws.numel() == 3 * 4 * 3 * 2


# --- cardinalities ---


def test_empirical_cardinality_is_the_frequencies():
    lengths = torch.tensor([0, 3, 3, 5])
    cardinality = setflow.EmpiricalCardinality(6).fit(lengths)
    probabilities = cardinality.log_prob(torch.arange(7)).exp()
    assert probabilities.tolist() == pytest.approx([0.25, 0, 0, 0.5, 0, 0.25, 0])
    drawn = cardinality.sample(torch.linspace(0.0005, 0.9995, 1000))
    counts = torch.bincount(drawn, minlength=7) / 1000
    torch.testing.assert_close(counts, probabilities, atol=2e-3, rtol=0)
    assert cardinality.sample(torch.tensor([1.0])).item() == 5


def test_cardinality_refuses_what_it_cannot_know():
    cardinality = setflow.EmpiricalCardinality(4)
    with pytest.raises(ValueError, match=r"expected \[0, 4\]"):
        cardinality.fit(torch.tensor([5]))
    with pytest.raises(ValueError, match="integers"):
        cardinality.log_prob(torch.tensor([1.0]))
    with pytest.raises(ValueError, match="at least one event"):
        cardinality.fit(torch.tensor([], dtype=torch.int64))


def test_bases_speak_as_torch_distributions_do():
    """The names of arguments and attributes are those of `torch.distributions`."""
    standard = setflow.StandardNormal((3,), batch_shape=(2,))
    scaled = setflow.IsotropicNormal((3,), 2.0, batch_shape=(2,))
    loc, scale = torch.tensor([1.0, -1.0, 0.0]), torch.tensor([0.5, 1.0, 2.0])
    diagonal = setflow.DiagonalNormal(loc, scale)
    for base, theirs in (
        (standard, torch.distributions.Normal(torch.zeros(2, 3), 1.0)),
        (scaled, torch.distributions.Normal(torch.zeros(2, 3), 2.0)),
        (diagonal, torch.distributions.Normal(loc, scale)),
    ):
        value = base.sample(sample_shape=(5,))
        assert base.has_rsample
        torch.testing.assert_close(base.log_prob(value=value), theirs.log_prob(value).sum(-1))
        torch.testing.assert_close(base.mean, theirs.mean)
        torch.testing.assert_close(base.variance, theirs.variance)
        wide = base.expand((7, 2))
        assert wide.batch_shape == (7, 2)
        assert wide.rsample().shape == (7, 2, 3)
        torch.testing.assert_close(wide.variance, base.variance.expand(7, 2, 3))
    with pytest.raises(ValueError, match="does not expand"):
        setflow.DiagonalNormal(torch.zeros(2, 3), torch.ones(2, 3)).expand((3,))
    torch.testing.assert_close(setflow.DiagonalNormal(loc, 3.0).variance, torch.full((3,), 9.0))


def test_isotropic_normal_checks_its_arguments():
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        setflow.IsotropicNormal((3,), 0.0)
    with pytest.raises(ValueError, match=r"scale has shape \(3,\), expected one number"):
        setflow.IsotropicNormal((3,), torch.ones(3))
    with pytest.raises(ValueError, match="sizes must not be negative"):
        setflow.StandardNormal((-3,))
    with pytest.raises(ValueError, match="scale must be positive"):
        setflow.DiagonalNormal(torch.zeros(3), -torch.ones(3))
    unchecked = setflow.DiagonalNormal(torch.zeros(3), -torch.ones(3), validate_args=False)
    assert unchecked.event_shape == (3,)
    assert setflow.IsotropicNormal((3,), 0.0, validate_args=False).sample().abs().sum() == 0


def test_a_torch_distribution_without_a_mean_takes_a_mask():
    """The value that stands in for padding is drawn, and the caller's random numbers stay."""
    positive = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(torch.zeros(3), torch.ones(3)),
        [torch.distributions.transforms.ExpTransform()],
    )
    value = torch.rand(4, 5, 3) + 0.1
    mask = torch.tensor([1, 1, 0, 1, 0], dtype=torch.bool).expand(4, 5)
    before = torch.get_rng_state()
    got = setflow.as_base(positive).log_prob(value.masked_fill(~mask[..., None], -1.0), mask=mask)
    assert torch.equal(torch.get_rng_state(), before)
    expected = positive.log_prob(value)[:, mask[0]].sum((-1, -2))
    torch.testing.assert_close(got, expected)
