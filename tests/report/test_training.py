"""What a report says of the jets of the training, of protocols, and of the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from report.test_page import jets, read, text_of, write
from setflow import SetBatch
from setflow.physics import measures, nearest_neighbour_ratio, w1_estimates
from setflow.physics.metrics import observables
from setflow.physics.protocols import Estimate
from setflow.report.page import compare, evaluate
from setflow.schema import Feature, Schema

W1 = ("w1",)
NEARER = "nearer to the training than the truth"


def joined(*samples: SetBatch) -> SetBatch:
    return SetBatch(torch.cat([s.x for s in samples]), torch.cat([s.mask for s in samples]))


def test_jets_of_the_truth_are_as_far_from_the_training_as_held_out_ones():
    generated, reference, training = jets(500, seed=1), jets(600, seed=2), jets(900, seed=3)
    report = compare(generated, reference, training=training, measures=W1, pairs=10)
    found = report.metrics["memorisation"]
    assert found.verdict == "at the floor"
    efps = [observables(side.x, side.mask).efps for side in (generated, reference, training)]
    expected = nearest_neighbour_ratio(*efps, seed=0)
    assert (found.value, found.error) == pytest.approx((expected.value, expected.error))
    assert found.floor == pytest.approx(1, abs=0.1)
    assert 0 < found.floor_spread < 0.2
    assert found.shuffled > 1 + 5 * found.floor_spread  # no jet, and far from all
    assert report.copies is not None
    assert (report.copies.training, report.copies.generated, report.copies.reference) == (900, 0, 0)
    assert report.notes == ()
    assert "training ratio" in text_of(report.table())
    words = " ".join(text_of(report.table()).split())
    assert "1 for a perfect model, less for copies and for jets that are too ordinary" in words


@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_copies_are_suspect_however_good_they_are(noise):
    training = jets(900, seed=3)
    generated = SetBatch(training.x[:500] * (1 + noise), training.mask[:500])
    report = compare(generated, jets(600, seed=2), training=training, measures=W1, pairs=10)
    found = report.metrics["memorisation"]
    assert found.verdict == NEARER
    assert found.value < 0.05
    assert report.summary.startswith("Suspect: at the floor of truth against truth in W1M")
    assert f"{found.value:.2f} times as far, so look for copies" in report.summary
    exact = 0 if noise else 500
    assert report.copies is not None
    assert report.copies.generated >= 0.95 * exact  # but for jets of one particle
    told = [note for note in report.notes if "the model repeats them" in note]
    assert len(told) == (0 if noise else 1)
    assert "copies?" in text_of(report.table())


def test_a_reference_that_was_trained_on_is_told():
    reference, other = jets(600, seed=2), jets(500, seed=3)
    some = SetBatch(reference.x[:40], reference.mask[:40])
    settings = {"measures": W1, "pairs": 2}
    report = compare(jets(500, seed=1), reference, training=joined(some, other), **settings)
    (note,) = report.notes
    assert note.startswith("40 jets of the reference stand in the training too")
    whole = compare(jets(500, seed=1), reference, training=reference, **settings)
    assert "half of the held-out jets are in the training" in whole.missing["memorisation"]
    assert "memorisation" not in whole.metrics
    assert any(note.startswith("600 jets of the reference stand in the") for note in whole.notes)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_reference_that_was_trained_on_is_told_where_there_is_no_ratio(weighted, tmp_path):
    """Of few jets, or of jets with weights, the training is known again all the same."""
    generated, truth = jets(120, seed=1), jets(200, seed=2)
    weight = torch.rand(200) + 0.5 if weighted else None
    reference = SetBatch(truth.x, truth.mask, weight=weight)
    report = compare(generated, reference, training=truth, measures=W1, pairs=2)
    assert "memorisation" in report.missing
    assert report.copies is not None
    several = int((truth.mask.sum(1) > 1).sum())
    assert (report.copies.generated, report.copies.reference) == (0, several)
    assert f"{several} jets of the reference stand in the training too" in report.notes[0]
    assert "training ratio: how far" not in " ".join(report.explanations())
    if not weighted:
        path = write(tmp_path / "train.h5", truth)
        made = write(tmp_path / "made.h5", generated)
        told = evaluate(made, path, tmp_path / "report", train=path, measures=W1, pairs=2)
        assert f"{several} jets of the reference stand in the training too" in told.notes[0]


def test_jets_that_are_few_or_weighted_say_why_the_training_was_not_asked():
    few = compare(jets(120, seed=1), jets(600, seed=2), training=jets(50), measures=W1, pairs=2)
    assert few.missing["memorisation"] == (
        "needs at least 400 jets on each side, and there are 120"
    )
    truth = jets(600, seed=2)
    weighted = SetBatch(truth.x, truth.mask, weight=torch.rand(600) + 0.5)
    report = compare(jets(500, seed=1), weighted, training=jets(50), measures=W1, pairs=2)
    assert report.missing["memorisation"].startswith("takes jets that count equally")


def test_the_training_is_read_and_cut_as_both_sides_are(tmp_path):
    """The training has more slots; cut to 12, its jets are those that were generated."""
    training = jets(900, slots=20, seed=3)
    reference = write(tmp_path / "reference.h5", jets(600, slots=20, seed=2))
    order = (-training.x[..., 2]).masked_fill(~training.mask, torch.inf).argsort(1)[:500, :12]
    x = training.x[:500].gather(1, order[..., None].expand(-1, -1, 3))
    generated = write(tmp_path / "generated.h5", SetBatch(x, training.mask[:500].gather(1, order)))
    trained = write(tmp_path / "training.h5", training)
    out = tmp_path / "report"
    settings = {"measures": W1, "pairs": 2}
    report = evaluate(
        generated, reference, out, train=trained, require="memorisation>0.9", **settings
    )
    assert report.metrics["memorisation"].value == 0.0
    assert report.broken == ("memorisation>0.9 is required, and memorisation is 0",)
    held = read(out)
    assert held["training"] == {"training": 900, "generated": 500, "reference": 0}
    assert held["metrics"]["memorisation"]["verdict"] == NEARER
    page = (out / "report.html").read_text()
    assert f'<td class="poor">{NEARER}</td>' in page
    with pytest.raises(ValueError, match="there is no metric 'memorisation' to require"):
        evaluate(generated, reference, tmp_path / "other", require="memorisation>0.9", **settings)


def test_the_published_protocol_draws_in_batches():
    generated, reference = jets(300, seed=1), jets(400, seed=2)
    whole, drawn = (
        compare(generated, reference, protocol=protocol, measures=W1, pairs=3, seed=4)
        for protocol in ("whole", "jetnet")
    )
    sides = [observables(side.x, side.mask) for side in (reference, generated)]
    for name, expected in w1_estimates(*sides, "jetnet", seed=4).items():
        assert drawn.metrics[name].value == pytest.approx(expected.value)
        assert drawn.metrics[name].error == pytest.approx(expected.error)
        for control in ("shuffled", "swapped"):
            of_both = [report.metrics[name].zero(control) for report in (whole, drawn)]
            assert of_both[0] == of_both[1]  # 0 by construction, although two draws differ
    ratio = np.mean([drawn.metrics[n].floor / whole.metrics[n].floor for n in drawn.metrics])
    assert ratio == pytest.approx(1, abs=0.3)
    assert (drawn.floor.sizes, drawn.floor.scaled) == ((200, 200), True)
    assert drawn.floor.factor == pytest.approx(whole.floor.factor)
    words = " ".join(text_of(drawn.table()).split())
    assert "protocol jetnet: W1, coverage and MMD are means over batches drawn" in words
    words = " ".join(text_of(whole.table()).split())
    assert "compare with these by the protocol jetnet" in words
    assert (whole.to_dict()["protocol"], drawn.to_dict()["protocol"]) == ("whole", "jetnet")


def test_a_protocol_of_jets_is_one_of_jets():
    events = [SetBatch(torch.rand(30, 4, 1), torch.ones(30, 4)) for _ in range(2)]
    schema = Schema([Feature("x", "mm")])
    assert "protocol" not in text_of(compare(*events, schema=schema, pairs=2).table())
    with pytest.raises(ValueError, match="the protocol jetnet are of jets"):
        compare(*events, schema=schema, protocol="jetnet")
    with pytest.raises(ValueError, match="the nearest jets of a training are of jets"):
        compare(*events, schema=schema, training=events[0])
    with pytest.raises(ValueError, match="there is no protocol 'published', expected one of"):
        compare(jets(), jets(), protocol="published")


def test_the_classifier_trains_where_it_is_told_to(monkeypatch):
    seen = []

    def trained(real, generated, *, seeds, device):
        seen.append(device)
        return Estimate(0.5, 0.1)

    monkeypatch.setattr(measures, "transformer_auc", trained)
    sides = jets(1000, seed=1), jets(1000, seed=2)
    report = compare(*sides, pairs=2, measures=("w1", "transformer"), device="cuda:1")
    assert set(seen) == {"cuda:1"}
    assert len(seen) == 5  # generated, both controls, and two of the truth
    told = next(line for line in report.explanations() if line.startswith("AUC: "))
    assert "trained on 571 jets of each side, stopped by 142 and judged on 285; of 35,000" in told
