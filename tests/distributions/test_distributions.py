"""Bases, noise by counter, and cardinality models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

import setflow
from laws.laws import redraw
from setflow.distributions import counter_normal, counter_uniform
from setflow.random import philox


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
    cardinality = setflow.EmpiricalCardinality(4).fit(torch.tensor([1]))
    with pytest.raises(ValueError, match=r"expected \[0, 4\]"):
        cardinality.fit(torch.tensor([5]))
    with pytest.raises(ValueError, match="integers"):
        cardinality.log_prob(torch.tensor([1.0]))
    with pytest.raises(ValueError, match="at least one event"):
        cardinality.fit(torch.tensor([], dtype=torch.int64))


OBJECTS = 8
EVERY = torch.arange(OBJECTS + 1)


def binomial(c, n):
    """A law p(N | c) that is known: binomial, its log-odds linear in two context features."""
    logits = 0.4 - c @ torch.tensor([1.0, -0.7], dtype=c.dtype)
    return torch.distributions.Binomial(OBJECTS, logits=logits).log_prob(n.to(c.dtype))


def of_every(log_prob, c):
    """log p(N | c) of every N, with shape `(OBJECTS + 1, len(c))`."""
    n = EVERY[:, None].expand(-1, len(c))
    return log_prob(n, c.expand(len(EVERY), *c.shape))


def conditional(seed=3, dim=2, **sizes):
    return redraw(setflow.ConditionalCardinality(OBJECTS, dim, **sizes).fit(EVERY), seed)


@pytest.fixture(scope="module")
def learnt():
    """A model that has learnt the binomial law from 20,000 events, and their numbers."""
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(20_000, 2, generator=generator, dtype=torch.float64)
    chances = of_every(lambda n, c: binomial(c, n), c).exp().T
    lengths = torch.multinomial(chances, 1, generator=generator)[:, 0]
    torch.manual_seed(1)
    model = setflow.ConditionalCardinality(OBJECTS, 2, hidden=32).double().fit(lengths)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=400)
    for _ in range(400):
        rows = torch.randint(len(c), (512,), generator=generator)
        optimizer.zero_grad()
        (-model.log_prob(lengths[rows], c[rows]).mean()).backward()
        optimizer.step()
        rate.step()
    return model.requires_grad_(False), lengths


def test_a_law_of_the_context_is_learnt(learnt):
    """The cross-entropy, exact in N, is that of the truth within a percent; p(N) is far off."""
    model, lengths = learnt
    c = torch.randn(5000, 2)
    truth = of_every(lambda n, c: binomial(c, n), c)
    frequencies = setflow.EmpiricalCardinality(OBJECTS).fit(lengths)
    entropy, conditional, empirical = (
        -(truth.exp() * log_p).sum(0).mean().item()
        for log_p in (truth, of_every(model.log_prob, c), of_every(frequencies.log_prob, c))
    )
    assert entropy <= conditional < 1.01 * entropy
    assert conditional < empirical - 0.3


def test_numbers_are_drawn_from_the_law_that_was_learnt(learnt):
    model, _ = learnt
    for seed, c in enumerate(torch.tensor([[0.0, 0.0], [1.0, -1.0], [-0.5, 1.0]])):
        drawn = model.sample(counter_uniform(seed, torch.arange(4000)), c.expand(4000, 2))
        expected = of_every(lambda n, c: binomial(c, n), c[None])[:, 0].exp()
        got = torch.bincount(drawn, minlength=OBJECTS + 1) / 4000
        torch.testing.assert_close(got, expected, atol=0.03, rtol=0)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
def test_probabilities_sum_to_one_for_every_context(scale):
    lengths = torch.tensor([0, 3, 3, 5])
    c = scale * torch.randn(50, 2)
    for model in (conditional(), setflow.EmpiricalCardinality(OBJECTS).fit(lengths)):
        log_p = of_every(model.log_prob, c)
        torch.testing.assert_close(log_p.exp().sum(0), torch.ones(50), atol=1e-12, rtol=0)
    assert of_every(conditional().log_prob, c).isfinite().all()
    assert (of_every(conditional().log_prob, c).std(1).max() > 0.1) == bool(scale)


def test_the_log_probability_is_the_formula_of_the_docstring():
    """Lead shapes of 0, 1 and 2 dimensions, one hidden layer and three."""
    frequencies = torch.tensor([1.0, 0, 0, 2, 0, 1, 0, 0, 0])
    frequencies = (frequencies + 1 / 9) / 5
    below = torch.tensor([frequencies[:n].sum() + frequencies[n] / 2 for n in EVERY])
    for layers, lead in ((1, ()), (2, (4,)), (3, (2, 3))):
        model = setflow.ConditionalCardinality(OBJECTS, 2, layers=layers)
        model = redraw(model.fit(torch.tensor([0, 3, 3, 5])))
        assert sum(isinstance(part, torch.nn.Linear) for part in model.net) == layers + 1
        c, n = torch.randn(*lead, 2), torch.randint(OBJECTS + 1, lead)
        hidden = c
        for part in list(model.net)[:-1:2]:
            hidden = torch.nn.functional.silu(hidden @ part.weight.T + part.bias)
        strengths = hidden @ model.net[-1].weight.T
        logits = model.bias + sum(
            strengths[..., k - 1, None] * math.sqrt(2) * torch.cos(math.pi * k * below)
            for k in range(1, 9)
        )
        one_hot = torch.nn.functional.one_hot(n, OBJECTS + 1)
        expected = (logits * one_hot).sum(-1) - logits.exp().sum(-1).log()
        torch.testing.assert_close(model.log_prob(n, c), expected)
        assert model.sample(torch.rand(lead), c).shape == lead


def test_draws_agree_with_log_prob():
    """Pearson's chi-squared at fixed contexts; the frequencies of another context are refused."""
    model, n = conditional(), 20_000
    fitted = setflow.EmpiricalCardinality(OBJECTS).fit(torch.tensor([0, 3, 3, 5]))
    contexts = 0.5 * torch.randn(3, 2)
    for seed, c in enumerate(contexts):
        for cardinality in (model, fitted):
            drawn = cardinality.sample(counter_uniform(seed, torch.arange(n)), c.expand(n, 2))
            observed = torch.bincount(drawn, minlength=OBJECTS + 1)
            expected = n * of_every(cardinality.log_prob, c[None])[:, 0].exp().detach()
            assert observed[expected < 1e-9].sum() == 0
            assert pearson(observed, expected) > 1e-3
            if cardinality is model:
                other = n * of_every(model.log_prob, c[None] + 1)[:, 0].exp().detach()
                assert pearson(observed, other) < 1e-9


def pearson(observed, expected):
    """The p-value of Pearson's chi-squared; numbers that are rare are counted together."""
    rare = expected < 10
    cells = [
        torch.cat([counts[~rare], counts[rare].sum()[None]]) for counts in (observed, expected)
    ]
    if cells[1][-1] < 1e-9:
        cells = [counts[:-1] for counts in cells]
    return scipy.stats.chisquare(*(counts.double().numpy() for counts in cells)).pvalue


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_event_has_its_number_in_whatever_company(dtype):
    """Also from float32 weights and under autocast, where a plain product depends on the batch."""
    model = conditional(hidden=64).to(dtype)
    uniform, n = counter_uniform(1, torch.arange(64)), torch.randint(OBJECTS + 1, (64,))
    c = torch.randn(64, 2).to(dtype)
    drawn, log_p = model.sample(uniform, c), model.log_prob(n, c)
    for k in range(64):
        others = torch.where(torch.arange(64)[:, None] == k, c, 100 * torch.randn(64, 2).to(dtype))
        assert model.sample(uniform, others)[k] == drawn[k]
        torch.testing.assert_close(model.log_prob(n, others)[k], log_p[k], atol=1e-12, rtol=0)
        alone = model.log_prob(n[k : k + 1], c[k : k + 1])
        torch.testing.assert_close(alone[0], log_p[k], atol=1e-12, rtol=0)
        assert model.sample(uniform[k], c[k]) == drawn[k]
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model.log_prob(n, c), log_p, atol=1e-12, rtol=0)
        assert torch.equal(model.sample(uniform, c), drawn)
    assert log_p.dtype == torch.float64
    assert drawn.dtype == torch.int64


def test_no_number_is_larger_than_the_largest():
    """At the last quantile, and where rounding leaves the last ones no probability at all."""
    model = setflow.ConditionalCardinality(OBJECTS, 1).fit(EVERY)
    with torch.no_grad():
        model.bias.copy_(-20.0 * EVERY)  # from e^-40 on, a sum with 1 is 1
    uniform, c = torch.tensor([0.0, 0.5, 1 - 1e-9, 1.0]), torch.zeros(4, 1)
    assert model.sample(uniform, c).tolist() == [0, 0, 1, 1]
    few = setflow.EmpiricalCardinality(OBJECTS).fit(torch.tensor([2, 2, 5]))
    assert few.sample(torch.tensor([0.0, 0.66, 0.67, 1.0])).tolist() == [2, 2, 5, 5]
    assert conditional().sample(torch.ones(50), torch.randn(50, 2)).max() <= OBJECTS
    crossed = torch.rand(3, 4).T
    assert torch.equal(
        conditional().sample(crossed, torch.zeros(4, 3, 2)),
        conditional().sample(crossed.contiguous(), torch.zeros(4, 3, 2)),
    )


def test_training_starts_from_the_frequencies():
    """One event more, spread evenly over all numbers: none is impossible, none new is likely."""
    lengths, c = torch.tensor([0, 3, 3, 5]), torch.randn(4, 2)
    model = conditional().fit(lengths, c)
    counts = torch.tensor([1, 0, 0, 2, 0, 1, 0, 0, 0])
    log_p = of_every(model.log_prob, 100 * torch.randn(5, 2)).exp()
    torch.testing.assert_close(log_p, ((counts + 1 / 9) / 5)[:, None].expand(9, 5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (-model.log_prob(torch.tensor([7]), torch.randn(1, 2)).sum()).backward()
    assert all(part.grad.isfinite().all() for part in model.parameters())
    assert model.net[-1].weight.grad.abs().min() > 0
    again = conditional().fit(lengths)  # whatever was there, and without the context
    for name in ("net.4.weight", "bias", "basis"):
        assert torch.equal(again.state_dict()[name], before[name])
    untrained = setflow.ConditionalCardinality(OBJECTS, 2).fit(EVERY)
    torch.testing.assert_close(
        of_every(untrained.log_prob, c).exp(), torch.full((OBJECTS + 1, 4), 1 / (OBJECTS + 1))
    )


def test_frequencies_do_not_depend_on_the_context():
    lengths, c = torch.tensor([0, 3, 3, 5]), torch.full((4, 2), float("nan"))
    cardinality = setflow.EmpiricalCardinality(OBJECTS).fit(lengths, c)
    assert torch.equal(cardinality.log_prob(lengths, c), cardinality.log_prob(lengths))
    uniform = torch.rand(4)
    assert torch.equal(cardinality.sample(uniform, c), cardinality.sample(uniform))
    assert torch.equal(cardinality.log_prob(lengths.to(torch.uint8)), cardinality.log_prob(lengths))
    calls = (cardinality.fit, cardinality.log_prob, cardinality.sample)
    for call, of in zip(calls, (lengths, lengths, uniform), strict=True):
        with pytest.raises(ValueError, match=r"shape \(3, 2\), expected \(4, 'C'\)"):
            call(of, c[:3])


@pytest.mark.parametrize(
    ("c", "message"),
    [
        (None, r"expected a context c with shape \(4, 2\), got none"),
        (torch.zeros(4, 3), r"got shape \(4, 3\)"),
        (torch.zeros(2), r"got shape \(2,\)"),
        (torch.zeros(1, 2), r"got shape \(1, 2\)"),
        (torch.tensor([[0.0, float("nan")]] + 3 * [[0.0, 0.0]]), "context of 1 of 4 events"),
        (torch.full((4, 2), float("inf")), "context of 4 of 4 events"),
    ],
)
def test_a_context_that_does_not_fit_is_refused(c, message):
    model, lengths = conditional(), torch.zeros(4, dtype=torch.int64)
    for call in (
        lambda: model.log_prob(lengths, c),
        lambda: model.sample(torch.rand(4), c),
        *([] if c is None else [lambda: model.fit(lengths, c)]),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_conditional_cardinality_refuses_what_it_cannot_know():
    model, c = conditional(), torch.zeros(1, 2)
    for length, message in (
        (torch.tensor([OBJECTS + 1]), r"are 9, expected \[0, 8\]"),
        (torch.tensor([-1]), r"expected \[0, 8\]"),
        (torch.tensor([1.0]), "integers"),
        (torch.tensor([True]), "integers"),
    ):
        for call in (model.log_prob, model.fit):
            with pytest.raises(ValueError, match=message):
                call(length, c)
    with pytest.raises(ValueError, match="at least one event"):
        model.fit(torch.tensor([], dtype=torch.int64))
    for name in ("max_objects", "hidden", "layers"):
        sizes = {"max_objects": 3, "condition_dim": 2, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be a positive integer, got 0"):
            setflow.ConditionalCardinality(**sizes)
    with pytest.raises(ValueError, match="condition_dim is 0, expected the number of columns"):
        setflow.ConditionalCardinality(3)
    with pytest.raises(ValueError, match="condition_dim must be a positive integer, got -1"):
        setflow.ConditionalCardinality(3, -1)
    with pytest.raises(ValueError, match="max_objects must be a positive integer"):
        setflow.EmpiricalCardinality(0)


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_a_diagonal_normal_takes_arrays(dtype):
    loc, scale = np.array([3, -1], dtype), np.array([1, 2], dtype)
    base = setflow.DiagonalNormal(loc, scale)
    x = torch.randn(5, 2, dtype=base.loc.dtype)
    expected = scipy.stats.norm(loc, scale).logpdf(x.numpy()).sum(-1)
    torch.testing.assert_close(base.log_prob(x), torch.from_numpy(expected).to(x.dtype))
    assert torch.equal(setflow.DiagonalNormal(loc, 2.0).scale, torch.full((2,), 2.0).to(x))
    double = setflow.DiagonalNormal(torch.zeros(2, dtype=torch.float64), 0.1)
    assert double.scale[0].item() == 0.1  # with all digits


def test_the_shape_of_an_event_is_told():
    for shape in (None, "3", 3.5, True):
        with pytest.raises(TypeError, match="expected"):
            setflow.StandardNormal(shape)
    with pytest.raises(ValueError, match="event_ndim='1'"):
        setflow.DiagonalNormal([0.0], [1.0], event_ndim="1")
    assert setflow.StandardNormal(()).event_shape == ()
