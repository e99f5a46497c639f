"""All measures together, their floor, and what the controls show."""

from __future__ import annotations

import pytest
import torch

from setflow.physics import (
    FAST_MEASURES,
    MEASURES,
    METRICS,
    Estimate,
    fidelity,
    fidelity_floor,
    shuffle_particles,
)
from setflow.physics.metrics import observables

LIGHT = ("w1", "fpd", "kpd")


def test_every_measure_gives_values_by_name(published, monkeypatch):
    for package in ("sklearn", "ot"):
        pytest.importorskip(package, reason="measures need `pip install 'setflow[metrics]'`")
    monkeypatch.setattr(
        "setflow.physics.measures.transformer_auc", lambda real, generated, seeds, device: seeds
    )
    some = torch.arange(250)
    real, generated = published.real.select(some), published.same.select(some)
    found = fidelity(real, generated, measures=MEASURES)
    names = [metric.name for metric in METRICS]
    expected = [*names, "fpd", "kpd", "auc_trees", "coverage", "mmd", "auc_transformer"]
    assert list(found) == expected
    assert found["auc_transformer"] == (42, 43)
    assert set(FAST_MEASURES) < set(MEASURES)


def test_a_control_lies_far_above_the_floor_and_the_truth_at_it(published):
    generator = torch.Generator().manual_seed(0)
    control = observables(*shuffle_particles(published.real.x, published.real.mask, generator))
    floor = fidelity_floor(published.real, measures=LIGHT, pairs=4)
    same = fidelity(published.real, published.same, measures=LIGHT)
    found = fidelity(published.real, control, measures=LIGHT)
    assert list(floor) == list(same) == list(found)
    for name in ("w1m", "w1_tau21", "w1_tau32", "w1efp", "fpd", "kpd"):
        assert same[name].value < floor[name].value + 5 * floor[name].error
        assert found[name].value > floor[name].value + 5 * floor[name].error, name
        assert found[name].value > 4 * found[name].error, name
    assert found["w1p"].value == 0.0


def test_the_floor_has_the_sizes_that_it_is_given(published, monkeypatch):
    seen = []

    def watched(real, generated, protocol, *, measures, seed, device):
        seen.append((len(real), len(generated)))
        return {"w1m": Estimate(float(len(seen)), 1.0)}

    monkeypatch.setattr("setflow.physics.measures.fidelity", watched)
    fidelity_floor(published.real, pairs=2, measures=["w1"])
    fidelity_floor(published.real, sizes=(100, 300), pairs=2, measures=["w1"])
    assert seen == [(2500, 2500)] * 2 + [(100, 300)] * 2
    for sizes, pairs in (((0, 10), None), ((10, 10), 1)):
        with pytest.raises(ValueError, match="expected at least 1 jet in each part and 2 pairs"):
            fidelity_floor(published.real, sizes=sizes, pairs=pairs)


@pytest.mark.parametrize(
    ("measure", "value", "mean", "spread"),
    [
        ("w1", 2.0, 1.0, 0.5),  # halves of 2,500 for 10,000 + 10,000: a quarter of the variance
        ("kpd", 2.0, 0.5, 0.25),
        ("trees", 0.7, 0.6, 0.5),
        ("emd", 0.6, 0.6, 0.5),
    ],
)
def test_the_floor_of_more_jets_than_there_are_follows_the_law(
    measure, value, mean, spread, published, monkeypatch
):
    monkeypatch.setattr(
        "setflow.physics.measures.fidelity", lambda *_, **__: {"it": Estimate(value, 1.0)}
    )
    floor = fidelity_floor(published.real, measures=[measure], sizes=(10_000, 10_000), pairs=2)
    assert floor["it"].value == pytest.approx(mean)
    assert floor["it"].error == pytest.approx(spread)


def test_weights_are_taken_or_refused(published):
    x, mask = published.real.x[:300], published.real.mask[:300]
    weighted = observables(x, mask, torch.linspace(1.0, 2.0, 300))
    assert fidelity(weighted, weighted, measures=["w1"])["w1m"].value == 0.0
    for name in set(MEASURES) - {"w1"}:
        with pytest.raises(ValueError, match=r"the jets have weights, .* draw jets in proportion"):
            fidelity(published.real, weighted, measures=[name])


def test_what_is_not_there_is_refused(published):
    with pytest.raises(ValueError, match="no protocol 'half'"):
        fidelity(published.real, published.same, "half")
    with pytest.raises(ValueError, match="no measure 'fpnd', expected of: w1, fpd"):
        fidelity(published.real, published.same, measures=["w1", "fpnd"])
