"""How many objects of each type: composition models; a cardinality model is that of one type."""

from __future__ import annotations

import itertools
import math

import pytest
import scipy.stats
import torch

import setflow
from laws.laws import redraw
from setflow.distributions import counter_uniform
from setflow.distributions.composition import _discount

OBJECTS = 5


def every(types):
    """All compositions of up to `OBJECTS` objects."""
    listed = itertools.product(range(OBJECTS + 1), repeat=types)
    return torch.tensor([counts for counts in listed if sum(counts) <= OBJECTS])


def training(types, n=400):
    """Events whose types depend on each other: each object after the first prefers its type."""
    generator = torch.Generator().manual_seed(types)
    lengths = torch.randint(0, OBJECTS + 1, (n,), generator=generator)
    shares = torch.distributions.Dirichlet(torch.ones(types)).sample((n,))
    drawn = torch.multinomial(shares, OBJECTS, replacement=True, generator=generator)
    real = torch.arange(OBJECTS) < lengths[:, None]
    return ((drawn[..., None] == torch.arange(types)) & real[..., None]).sum(1)


class OneType:
    """A cardinality model as a composition of one type."""

    def __init__(self, model):
        self.model, self.types, self.condition_dim = model, 1, model.condition_dim

    def log_prob(self, counts, c=None):
        return self.model.log_prob(counts[..., 0], c)

    def sample(self, uniform, c=None):
        return self.model.sample(uniform[..., 0], c)[..., None]


def empirical(types):
    return setflow.EmpiricalComposition(types, OBJECTS).fit(training(types))


def conditional(types, dim):
    model = setflow.ConditionalComposition(types, OBJECTS, dim, hidden=16).fit(training(types))
    return redraw(model)


MODELS = {
    "cardinality": lambda: OneType(setflow.EmpiricalCardinality(OBJECTS).fit(training(1)[:, 0])),
    "cardinality given c": lambda: OneType(
        redraw(setflow.ConditionalCardinality(OBJECTS, 2).fit(training(1)[:, 0]))
    ),
    "empirical, 1": lambda: empirical(1),
    "empirical, 2": lambda: empirical(2),
    "empirical, 4": lambda: empirical(4),
    "network, 1": lambda: conditional(1, 2),
    "network, 3": lambda: conditional(3, 0),
    "network given c, 3": lambda: conditional(3, 2),
}


@pytest.mark.parametrize("name", MODELS)
class TestComposition:
    """What holds for every law of numbers, of one type and of several."""

    def test_probabilities_sum_to_one(self, name):
        model = MODELS[name]()
        counts = every(model.types)
        for c in torch.randn(3, 2):
            rows = c.expand(len(counts), 2) if model.condition_dim else None
            total = model.log_prob(counts, rows).exp().sum()
            torch.testing.assert_close(total, torch.ones_like(total), atol=1e-12, rtol=0)

    def test_draws_agree_with_log_prob(self, name):
        """Pearson's chi-squared, rare compositions together."""
        model, n = MODELS[name](), 20_000
        index = torch.arange(n)
        uniform = torch.stack([counter_uniform(k, index) for k in range(model.types)], -1)
        c = torch.tensor([0.3, -0.5])
        counts = every(model.types)
        rows = (c.expand(n, 2), c.expand(len(counts), 2)) if model.condition_dim else (None, None)
        drawn = model.sample(uniform, rows[0])
        expected = n * model.log_prob(counts, rows[1]).exp().detach()
        observed = (drawn[:, None] == counts).all(-1).sum(0).double()
        assert observed.sum() == n, "what is drawn is one of those that can occur"
        rare = expected < 10
        cells = [torch.cat([v[~rare], v[rare].sum()[None]]) for v in (observed, expected)]
        if cells[1][-1] < 1e-9:
            cells = [v[:-1] for v in cells]
        assert scipy.stats.chisquare(*(v.numpy() for v in cells)).pvalue > 1e-3

    def test_an_event_has_its_numbers_in_whatever_company(self, name):
        model = MODELS[name]()
        uniform = torch.rand(32, model.types, generator=torch.Generator().manual_seed(0))
        c = torch.randn(32, 2) if model.condition_dim else None
        drawn = model.sample(uniform, c)
        log_p = model.log_prob(drawn, c)
        assert drawn.dtype == torch.int64
        assert log_p.dtype == torch.float64
        for k in range(32):
            row = None if c is None else c[k : k + 1]
            assert torch.equal(model.sample(uniform[k : k + 1], row), drawn[k : k + 1])
            alone = model.log_prob(drawn[k : k + 1], row)
            torch.testing.assert_close(alone[0], log_p[k], atol=1e-12, rtol=0)


def test_of_one_type_it_is_the_law_of_the_number():
    lengths = training(1)[:, 0]
    n, c = torch.arange(OBJECTS + 1), torch.randn(OBJECTS + 1, 2)
    number = setflow.EmpiricalCardinality(OBJECTS).fit(lengths)
    one = setflow.EmpiricalComposition(1, OBJECTS).fit(lengths[:, None])
    assert torch.equal(one.log_prob(n[:, None]), number.log_prob(n))
    torch.manual_seed(0)
    number = setflow.ConditionalCardinality(OBJECTS, 2, hidden=16).fit(lengths)
    torch.manual_seed(0)
    one = setflow.ConditionalComposition(1, OBJECTS, 2, hidden=16).fit(lengths[:, None])
    redraw(number), redraw(one.number)
    torch.testing.assert_close(one.log_prob(n[:, None], c), number.log_prob(n, c))
    uniform = torch.rand(50)
    assert torch.equal(
        one.sample(uniform[:, None], torch.zeros(50, 2))[:, 0],
        number.sample(uniform, torch.zeros(50, 2)),
    )


def test_the_number_has_its_frequencies_and_few_types_nearly_theirs():
    counts = training(2, 20_000)
    model = setflow.EmpiricalComposition(2, OBJECTS).fit(counts)
    listed = every(2)
    p = model.log_prob(listed).exp()
    of_number = torch.bincount(counts.sum(-1), minlength=OBJECTS + 1) / len(counts)
    summed = torch.bincount(listed.sum(-1), p)
    torch.testing.assert_close(summed, of_number.double(), atol=1e-12, rtol=0)
    frequencies = (counts[:, None] == listed).all(-1).double().mean(0)
    torch.testing.assert_close(p, frequencies, atol=1e-4, rtol=0)


def test_few_events_are_smoothed_by_hand():
    """Of four events with N = 3 three have one composition, and one has another: d = 1."""
    counts = torch.tensor([[1, 2], [1, 2], [1, 2], [3, 0]])
    p = (
        setflow.EmpiricalComposition(2, 3)
        .fit(counts)
        .log_prob(torch.tensor([[1, 2], [3, 0], [2, 1], [0, 3], [1, 1]]))
        .exp()
    )
    binomial = [math.comb(3, n) / 8 for n in range(4)]  # its mean n_1 / N is 1/2
    table = [(binomial[n] + (n in (1, 3))) / 3 for n in range(4)]
    expected = [0.4 + 0.6 * table[1], 0.6 * table[3], 0.6 * table[2], 0.6 * table[0], 0]
    assert p.tolist() == pytest.approx(expected)


def test_what_occurs_once_and_what_is_cut_off_goes_into_the_table():
    """However few compositions are kept, it remains a law, and the mean of each type stays."""
    counts = training(4, 3000)
    for kept in (1, 7, 1024):
        model = setflow.EmpiricalComposition(4, OBJECTS, kept=kept).fit(counts)
        listed = every(4)
        p = model.log_prob(listed).exp()
        assert p.sum().item() == pytest.approx(1)
        mean = (p[:, None] * listed).sum(0)
        torch.testing.assert_close(mean, counts.double().mean(0), atol=5e-3, rtol=0)
    torch.testing.assert_close(model.fractions, counts.sum(0) / counts.sum())


def test_a_type_that_no_event_has_cannot_occur():
    counts = training(3)
    counts = torch.stack([counts[:, 0], torch.zeros_like(counts[:, 0]), counts[:, 1]], -1)
    counts = torch.cat([counts, torch.zeros_like(counts[:, :1])], -1)
    for model in (
        setflow.EmpiricalComposition(4, OBJECTS).fit(counts),
        redraw(setflow.ConditionalComposition(4, OBJECTS, hidden=8).fit(counts)),
    ):
        assert (model.fractions > 0).tolist() == [True, False, True, False]
        for never in (1, 3):
            one = torch.zeros(1, 4, dtype=torch.int64)
            one[0, never] = 1
            assert model.log_prob(one).item() == -math.inf
        drawn = model.sample(torch.rand(500, 4))
        assert drawn[:, [1, 3]].sum() == 0
        assert model.log_prob(drawn).isfinite().all()


def test_types_of_a_given_number_are_those_of_the_law():
    lengths = torch.arange(4000) % (OBJECTS + 1)
    for model in (empirical(3), conditional(3, 0)):
        drawn = model.sample_given(lengths, torch.rand(4000, 3))
        assert torch.equal(drawn.sum(-1), lengths)
        listed = every(3)
        listed = listed[listed.sum(-1) == 4]
        log_p = model.log_prob(listed)
        expected = (log_p - log_p.logsumexp(0)).exp().detach()
        of_four = drawn[lengths == 4]
        got = (of_four[:, None] == listed).all(-1).double().mean(0)
        torch.testing.assert_close(got, expected, atol=0.06, rtol=0)


def test_a_network_learns_that_types_exclude_each_other():
    """An event has objects of the first type or of the second, never both; the table cannot know
    it behind the first two factors, since what is left does not tell."""
    generator = torch.Generator().manual_seed(0)
    n = torch.randint(1, 3, (3000,), generator=generator)
    which = torch.rand(3000, generator=generator) < 0.5
    third = torch.randint(1, 3, (3000,), generator=generator)
    counts = torch.stack([n * which, n * ~which, third], -1)
    torch.manual_seed(0)
    model = setflow.ConditionalComposition(3, OBJECTS, hidden=32).fit(counts)
    start = model.log_prob(counts).mean().item()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        (-model.log_prob(counts).mean()).backward()
        optimizer.step()
    end = model.log_prob(counts).mean().item()
    assert end > start + 0.2
    assert end == pytest.approx(-3 * math.log(2), abs=0.05), "the entropy of the law"


def test_weights_count():
    counts, weight = training(2, 300), torch.rand(300, generator=torch.Generator().manual_seed(0))
    plain, alike = (
        setflow.EmpiricalComposition(2, OBJECTS).fit(counts, weight=w)
        for w in (None, torch.full((300,), 7.0))
    )
    torch.testing.assert_close(alike.log_prob(counts), plain.log_prob(counts))
    model = setflow.EmpiricalComposition(2, OBJECTS).fit(counts, weight=weight)
    expected = (weight[:, None] * counts).sum(0) / (weight[:, None] * counts).sum()
    torch.testing.assert_close(model.fractions, expected)
    assert model.log_prob(every(2)).exp().sum().item() == pytest.approx(1)


def test_it_comes_back_from_its_state():
    for make in (
        lambda: setflow.EmpiricalComposition(3, OBJECTS),
        lambda: setflow.ConditionalComposition(3, OBJECTS, hidden=8),
    ):
        model, other = redraw(make().fit(training(3))), make()
        assert not other.is_fitted
        with pytest.raises(ValueError, match="no statistics"):
            other.log_prob(training(3))
        other.load_state_dict(model.state_dict())
        assert other.is_fitted
        assert torch.equal(other.log_prob(every(3)), model.log_prob(every(3)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.log_prob(torch.tensor([[3, 3]])), r"lengths are 6, expected \[0, 5\]"),
        (lambda m: m.log_prob(torch.tensor([[-1, 3]])), r"expected \[0, 5\]"),
        (lambda m: m.log_prob(torch.tensor([3, 3, 3])), r"shape \(3,\), expected \(\*batch, 2\)"),
        (lambda m: m.log_prob(torch.tensor([[1.0, 2.0]])), "must be integers"),
        (lambda m: m.fit(torch.zeros(4, 3, dtype=torch.int64)), r"expected \(\*batch, 2\)"),
        (lambda m: m.fit(torch.zeros(0, 2, dtype=torch.int64)), "at least one event"),
        (lambda m: m.sample(torch.rand(4)), r"expected \(\*batch, 2\)"),
        (lambda m: m.sample_given(torch.tensor([6]), torch.rand(1, 2)), r"expected \[0, 5\]"),
        (lambda m: setflow.EmpiricalComposition(0, 5), "types is 0"),
        (lambda m: setflow.EmpiricalComposition(2, 0), "max_objects must be a positive integer"),
        (lambda m: setflow.ConditionalComposition(2, 5, hidden=0), "hidden must be a positive"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(empirical(2))


def test_what_is_seen_is_discounted_by_hand():
    times = torch.tensor([1] * 10 + [2] * 4 + [3] * 2 + [4, 9])
    share = 10 / 18
    by_times = {1: 1 - 2 * share * 0.4, 2: 2 - 3 * share * 0.5, 3: 3 - 4 * share * 0.5}
    found = _discount(times).tolist()
    assert found == pytest.approx([by_times[min(3, c)] for c in times.tolist()])
    assert _discount(torch.tensor([5, 7])).tolist() == [0, 0]


def test_many_types_are_predicted_nearly_as_by_their_law():
    """Held-out events of six types; given N all their compositions are equally likely."""
    both = training(6, 4000)
    seen, held_out = both[:3000], both[3000:]
    model = setflow.EmpiricalComposition(6, OBJECTS).fit(seen)
    n = held_out.sum(-1)
    by_shares = torch.lgamma(n + 1.0) - torch.lgamma(held_out + 1.0).sum(-1)
    by_shares = by_shares + torch.xlogy(held_out, model.fractions).sum(-1)
    given_n = model.log_prob(held_out) - model.number.log_prob(n)
    law = torch.lgamma(n + 1.0) + math.lgamma(6) - torch.lgamma(n + 6.0)
    assert law.mean() - 0.08 < given_n.mean() < law.mean() + 0.01
    assert given_n.mean() > by_shares.mean() + 0.02
