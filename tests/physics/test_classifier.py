"""AUC by counting and its error; both classifiers at the truth and apart; splits; the laws."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch

from each import each
from laws.laws import LAWS, Case, Outcome, cases
from setflow.physics import Split, auc, transformer_auc, trees_auc
from setflow.physics.metrics import observables

F64 = torch.float64


def jets(n=700, slots=6, seed=0, width=0.2):
    generator = torch.Generator().manual_seed(seed)
    angles = width * torch.randn(n, slots, 2, generator=generator, dtype=F64)
    pt = 0.02 + torch.rand(n, slots, 1, generator=generator, dtype=F64)
    mask = torch.rand(n, slots, generator=generator) < 0.8
    mask[0] = False
    return torch.cat([angles, pt], -1), mask


def test_auc_counts_pairs():
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(40, generator=generator, dtype=F64).mul(3).round()  # with ties
    high = torch.randn(30, generator=generator, dtype=F64).mul(3).add(1).round()
    pairs = [(a < b) + 0.5 * (a == b) for a, b in itertools.product(low.tolist(), high.tolist())]
    assert auc(low, high).value == pytest.approx(sum(pairs) / len(pairs))
    assert auc(high, low).value == pytest.approx(1 - sum(pairs) / len(pairs))
    assert auc([0, 1], [2, 3]).value == 1.0
    for scores, message in (([1.0], "2 and 1 scores"), ([0.0, float("nan")], "a NaN")):
        with pytest.raises(ValueError, match=message):
            auc([1.0, 2.0], scores)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_error_of_an_auc_is_its_scatter(shift):
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(200):
        low = torch.randn(100, generator=generator)
        found.append(auc(low, torch.randn(80, generator=generator) + shift))
    values = torch.tensor([estimate.value for estimate in found])
    expected = torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(shift / 2**0.5))
    assert (values.mean() - expected).abs() < 4 * values.std() / 200**0.5
    errors = torch.tensor([estimate.error for estimate in found])
    assert errors.mean() / values.std() == pytest.approx(1, abs=0.2)


def test_splits_have_the_shares_of_the_full_one():
    assert Split.of(35_000) == Split.of(10**6) == Split(20_000, 5_000, 10_000, scaled=False)
    assert Split.of(700) == Split(400, 100, 200, scaled=True)
    with pytest.raises(ValueError, match="there are 69 jets on a side, expected at least 70"):
        Split.of(69)


def classifiers():
    def trees(real, generated):
        pytest.importorskip("sklearn", reason="trees need `pip install 'setflow[metrics]'`")
        return trees_auc(real, generated)

    def transformer(real, generated):
        return transformer_auc(real, generated, passes=4, seeds=(1,))

    return [pytest.param(trees, id="trees"), pytest.param(transformer, id="transformer")]


@pytest.mark.parametrize("classifier", classifiers())
def test_truth_has_one_half_and_what_is_wrong_more(classifier):
    real = observables(*jets())
    same = classifier(real, observables(*jets(seed=1)))
    assert abs(same.value - 0.5) < 4 * same.error
    assert 0.02 < same.error < 0.04
    wrong = classifier(real, observables(*jets(seed=1, width=0.8)))
    assert wrong.value > 0.98


@pytest.mark.parametrize("width", [0.2, 0.25, 0.8])
def test_the_trees_of_the_smallest_loss_are_those_of_all_300(width):
    """So many trees are taken as if 300 had been grown and looked at."""
    ensemble = pytest.importorskip("sklearn.ensemble", reason="`pip install 'setflow[metrics]'`")
    real, generated = observables(*jets()), observables(*jets(seed=1, width=width))
    names = ("mass", "pt", "multiplicity", "tau21", "tau32", "d2")
    tables = [
        torch.cat([torch.stack([side.column(n)[0] for n in names], -1), side.efps], -1)
        for side in (real, generated)
    ]
    rng = np.random.default_rng(5)
    orders = [torch.from_numpy(rng.permutation(700)) for _ in tables]
    parts = []
    for taken in (slice(400), slice(400, 500), slice(500, 700)):  # the split of 700 jets
        chosen = [table[order[taken]] for table, order in zip(tables, orders, strict=True)]
        label = torch.arange(2.0).repeat_interleave(len(chosen[0]))
        parts.append((torch.cat(chosen).numpy(), label.numpy()))
    train, stop, judge = parts
    trees = ensemble.HistGradientBoostingClassifier(
        max_iter=300, early_stopping=False, random_state=5
    ).fit(*train)
    losses = [log_loss(stop[1], p) for p in trees.staged_predict_proba(stop[0])]
    scores = list(trees.staged_decision_function(judge[0]))[int(np.argmin(losses))]
    expected = auc(scores[judge[1] == 0], scores[judge[1] == 1])
    assert trees_auc(real, generated, seed=5) == expected


def log_loss(label, probability):
    return -np.log(np.where(label == 1, probability[:, 1], probability[:, 0])).mean()


def test_the_larger_of_several_trainings_counts():
    real, generated = observables(*jets(140)), observables(*jets(140, seed=1))
    one, two = (transformer_auc(real, generated, passes=1, seeds=(seed,)).value for seed in (1, 2))
    both = transformer_auc(real, generated, passes=1, seeds=(1, 2))
    assert both.value == max(one, two)
    assert one != two
    before = torch.get_rng_state()
    again = transformer_auc(real, generated, passes=1, seeds=(1, 2))
    assert both == again
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_not_defined_is_refused(monkeypatch):
    x, mask = jets(100)
    sample, weighted = observables(x, mask), observables(x, mask, torch.ones(100))
    few = observables(*jets(40))
    for classifier in (trees_auc, transformer_auc):
        if classifier is trees_auc:
            pytest.importorskip("sklearn", reason="trees need `pip install 'setflow[metrics]'`")
        with pytest.raises(ValueError, match="there are 40 jets on a side"):
            classifier(sample, few)
        with pytest.raises(ValueError, match="the jets have weights"):
            classifier(sample, weighted)
    with pytest.raises(ValueError, match=r"passes=0, seeds=\(1, 2\)"):
        transformer_auc(sample, sample, passes=0)
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(ImportError, match=r"scikit-learn is not .* 'setflow\[metrics\]'"):
        trees_auc(sample, sample)


@each("law", ["content", "length", "order", "agreement", "emptiness"])
@pytest.mark.parametrize("classifier", classifiers())
def test_classifiers_keep_the_law(classifier, law):
    """The jets of a case, some of which stand in each part of the split, against others."""
    case = dict(cases())["lead1"]
    other = observables(*jets(70, seed=1))

    def subject(case: Case) -> Outcome:
        x = case.x.double() * torch.tensor([0.4, 0.4, 1.0], dtype=F64)
        x = torch.cat([x[..., :2], x[..., 2:].abs()], -1)
        repeats = -(-70 // len(x))
        mask = None if case.mask is None else torch.cat([case.mask] * repeats)
        found = classifier(observables(torch.cat([x] * repeats), mask), other)
        return Outcome(gradients={"auc": torch.tensor(found.value, dtype=F64)})

    LAWS[law](subject, case)
