"""Weights of events in a model: an event of weight 2 is two events, and what cannot be is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import setflow
from each import each
from laws.laws import redraw
from setflow import SetBatch
from setflow.data import Standardizer
from setflow.sets.weights import effective_number

OBJECTS, TIMES = 5, torch.tensor([2, 1, 1, 3, 1, 2, 4, 1])


def _events(n=8):
    generator = torch.Generator().manual_seed(3)
    mask = torch.arange(OBJECTS) < torch.randint(0, OBJECTS + 1, (n, 1), generator=generator)
    mask[:2] = True
    x = torch.rand(n, OBJECTS, 3, generator=generator) + 0.1
    return SetBatch(x, mask, torch.rand(n, 2, generator=generator))


def _flow(cardinality):
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=2, condition_dim=2)
    scaler = Standardizer(kinds=["real", "real", "positive"])
    torch.manual_seed(0)
    return setflow.SetFlow(
        redraw(field), scaler=scaler, cardinality=cardinality, conditions=("pt", "mass")
    )


def _pair():
    """The same sample, with weights of mean 1 and with its events repeated, and the repetition."""
    batch = _events()
    weight = TIMES.double() / TIMES.double().mean()
    rows = torch.arange(len(batch)).repeat_interleave(TIMES)
    return SetBatch(batch.x, batch.mask, batch.c, weight), batch[rows], rows


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_weighted_statistics_are_those_of_repeated_events():
    weighted, repeated, _ = _pair()
    one, other = (
        _flow(setflow.EmpiricalCardinality(OBJECTS)).fit_statistics(side)
        for side in (weighted, repeated)
    )
    close(one.cardinality.probabilities, other.cardinality.probabilities)
    objects = weighted.weight[:, None].expand_as(weighted.mask)[weighted.mask]
    for mine, theirs, each_weight, n in (
        (one.scaler, other.scaler, objects, int(repeated.mask.sum())),
        (one.context_scaler, other.context_scaler, weighted.weight, len(repeated)),
    ):
        close(mine.mean, theirs.mean)
        # that of the sample; how far it underestimates depends on how many events there really are
        left, right = 1 - 1 / effective_number(each_weight), 1 - 1 / n
        close(mine.std**2 * left, theirs.std**2 * right)
    close(one.scaler.lowest, other.scaler.lowest)


@each("cardinality", ["empirical", "conditional"])
def test_the_weighted_loss_is_that_of_repeated_events(cardinality):
    weighted, repeated, rows = _pair()
    model = {
        "empirical": lambda: setflow.EmpiricalCardinality(OBJECTS),
        "conditional": lambda: setflow.ConditionalCardinality(OBJECTS, 2, hidden=8),
    }[cardinality]()
    flow = _flow(model).fit_statistics(weighted)
    redraw(flow.cardinality)
    noise, t = torch.randn(weighted.x.shape), torch.rand(len(weighted))
    one = flow.loss_terms(weighted, t=t, noise=noise)
    other = flow.loss_terms(repeated, t=t[rows], noise=noise[rows])
    for name in one:
        close(one[name], other[name])
    grads = [
        torch.autograd.grad(sum(terms.values()), flow.field.parameters()) for terms in (one, other)
    ]
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_the_mean_over_batches_is_the_loss_of_the_sample():
    """Divided by the sum of its own weights a batch would not give it."""
    weighted, _, _ = _pair()
    flow = _flow(None).fit_statistics(weighted)
    noise, t = torch.randn(weighted.x.shape), torch.rand(len(weighted))
    whole = flow.loss(weighted, t=t, noise=noise)
    parts = [torch.tensor(rows) for rows in ([0, 3], [1, 2], [4, 6], [5, 7])]
    losses = [flow.loss(weighted[rows], t=t[rows], noise=noise[rows]) for rows in parts]
    close(torch.stack(losses).mean(), whole)


def test_weights_of_one_are_none():
    batch = _events()
    ones = SetBatch(batch.x, batch.mask, batch.c, torch.ones(len(batch)))
    flows = [
        _flow(setflow.ConditionalCardinality(OBJECTS, 2, hidden=8)).fit_statistics(side)
        for side in (batch, ones)
    ]
    state = [flow.state_dict() for flow in flows]
    for name in ("scaler.mean", "scaler.std", "context_scaler.std", "cardinality.bias"):
        torch.testing.assert_close(state[0][name], state[1][name], rtol=1e-12, atol=1e-14)
    noise, t = torch.randn(batch.x.shape), torch.rand(len(batch))
    close(flows[0].loss(ones, t=t, noise=noise), flows[0].loss(batch, t=t, noise=noise))
    single = SetBatch(batch.x[0], batch.mask[0], batch.c[0], 2.0)
    once = flows[0].loss(batch[0], t=t[:1], noise=noise[0])
    close(flows[0].loss(single, t=t[:1], noise=noise[0]), 2 * once)


def test_a_weight_of_either_sign_cancels():
    batch = _events()
    rows = [0, 1, 2, 3, 4, 5, 6, 7, 7, 7]
    weight = torch.tensor([1.0] * 8 + [1.0, -1.0])
    many = SetBatch(batch.x[rows], batch.mask[rows], batch.c[rows], weight)
    one, other = (
        _flow(setflow.EmpiricalCardinality(OBJECTS)).fit_statistics(side) for side in (many, batch)
    )
    close(one.scaler.mean, other.scaler.mean)
    close(one.cardinality.probabilities, other.cardinality.probabilities)


# --- what cannot be ---


def test_a_negative_variance_counts_the_negative_weights():
    x = torch.tensor([[[0.0]], [[1.0]], [[9.0]]])
    with pytest.raises(ValueError, match="variance of feature 0 is not positive: 1 of 3 weights"):
        Standardizer(1).fit(x, weight=[1, 1, -0.9])


def test_a_variance_of_less_than_one_event_is_none():
    with pytest.raises(ValueError, match="feature 0 is constant"):
        Standardizer(1).fit(torch.tensor([[[0.0]], [[1.0]]]), weight=[1, 0])


def test_a_sum_of_zero_over_the_objects():
    x, mask = torch.rand(3, 2, 1), torch.tensor([[1, 0], [1, 0], [1, 1]])
    with pytest.raises(ValueError, match=r"over 4 real objects .* positive sum: 1 of 3 weights is"):
        Standardizer(1).fit(x, mask, weight=[1, 1, -1])


@each("model", ["empirical", "conditional"])
def test_a_probability_that_is_not_positive(model):
    cardinality = {
        "empirical": setflow.EmpiricalCardinality(4),
        "conditional": setflow.ConditionalCardinality(4, 1),
    }[model]
    lengths = torch.tensor([1, 2, 2, 4])
    for weight, n in (([3, 1, -1, 1], 2), ([3, 0.5, -0.7, 1], 2), ([-1, 1, 1, 1], 1)):
        with pytest.raises(
            ValueError, match=rf"events? with {n} objects give p\({n}\) = .*: 1 of 4"
        ):
            cardinality.fit(lengths, weight=weight)
    with pytest.raises(ValueError, match="sum to 0, expected a positive sum: 2 of 4 weights are"):
        cardinality.fit(lengths, weight=[1, -1, 1, -1])
    cardinality.fit(lengths, weight=[1, 2, -1, 0])  # an event of weight 0 is not there
    if model == "empirical":
        assert cardinality.probabilities.tolist() == [0, 0.5, 0.5, 0, 0]


@each("what", ["NaN", "shape"])
def test_weights_that_do_not_fit_a_part(what):
    weight = {"NaN": [1, float("nan"), 1], "shape": [1, 1]}[what]
    message = {"NaN": "1 of 3 weights are NaN", "shape": r"expected \(3,\)"}[what]
    with pytest.raises(ValueError, match=message):
        Standardizer(1).fit(torch.rand(3, 2, 1), weight=weight)
    with pytest.raises(ValueError, match=message):
        setflow.EmpiricalCardinality(2).fit(torch.tensor([1, 2, 2]), weight=weight)


def test_a_cardinality_model_of_ones_own_needs_no_weights():
    class Mine(setflow.EmpiricalCardinality):
        def fit(self, lengths, c=None):
            return super().fit(lengths, c)

    assert _flow(Mine(OBJECTS)).fit_statistics(_events()).cardinality.is_fitted


def test_weighted_statistics_are_those_of_numpy():
    weighted, _, _ = _pair()
    scaler = Standardizer(kinds=["real", "real", "positive"]).fit(
        weighted.x, weighted.mask, weighted.weight
    )
    values = weighted.x[weighted.mask].numpy().copy()
    values[:, 2] = np.log(values[:, 2])
    objects = weighted.weight[:, None].expand_as(weighted.mask)[weighted.mask].numpy()
    np.testing.assert_allclose(scaler.mean, np.average(values, axis=0, weights=objects), rtol=1e-12)
    truth = np.sqrt(np.diag(np.cov(values, rowvar=False, aweights=objects)))
    np.testing.assert_allclose(scaler.std, truth, rtol=1e-12)
