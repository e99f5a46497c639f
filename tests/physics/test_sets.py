"""Distances of sets of any features: closed forms, invariances, and what the controls keep."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from setflow.physics.metrics import distances, truth_floor
from setflow.physics.sets import PAIR, PAIRS, SetMeasure, shuffle_objects, swap_features
from setflow.schema import Feature
from setflow.sets.batch import SetBatch

FEATURES = (
    Feature("x", "mm"),
    Feature("energy", "GeV", "positive"),
    Feature("u", kind="bounded(0, 1)"),
)


def events(n: int = 60, slots: int = 9, seed: int = 0, *, related: bool = True) -> SetBatch:
    generator = torch.Generator().manual_seed(seed)
    shape = (n, slots)
    centre = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    x = centre + 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    energy = (
        0.2 * torch.randn(shape, generator=generator, dtype=torch.float64) + related * x / 2
    ).exp()
    u = 0.01 + 0.98 * torch.rand(shape, generator=generator, dtype=torch.float64)
    mask = torch.rand(shape, generator=generator) < 0.7
    return SetBatch(torch.stack([x, energy, u], -1), mask)


def test_pair_distances_are_those_of_scaled_features_by_brute_force() -> None:
    batch = events()
    measure = SetMeasure.of(FEATURES, batch)
    real = batch.x[batch.mask].numpy()
    scaled = np.stack([real[:, 0], np.log(real[:, 1]), np.log(real[:, 2] / (1 - real[:, 2]))], 1)
    std = scaled.std(0, ddof=1)
    expected, owner = [], []
    for k in range(len(batch)):
        x = batch.x[k][batch.mask[k]].numpy()
        z = np.stack([x[:, 0], np.log(x[:, 1]), np.log(x[:, 2] / (1 - x[:, 2]))], 1) / std
        for a, b in itertools.combinations(z, 2):
            expected.append(np.linalg.norm(a - b))
            owner.append(k)
    found = measure(batch)
    assert found.pair_event.tolist() == owner
    np.testing.assert_allclose(found.pairs, expected)
    assert found.metrics == measure.metrics
    assert found.column("energy")[0].tolist() == real[:, 1].tolist()
    values, event = found.column("sum of 0 and 1")
    np.testing.assert_allclose(
        values, (scaled[:, 0] / std[0] + scaled[:, 1] / std[1]) / math.sqrt(2)
    )
    assert torch.equal(event, batch.mask.nonzero()[:, 0])


def test_large_events_give_so_many_pairs_at_random() -> None:
    batch = SetBatch(events(5, 40).x)
    measure = SetMeasure.of(FEATURES, batch)
    found = measure(batch)
    assert torch.bincount(found.pair_event).tolist() == [PAIRS] * 5
    assert torch.equal(measure(batch).pairs, found.pairs)
    z = measure.scaled(batch.x)
    mean = torch.stack([torch.pdist(event).mean() for event in z]).mean()
    assert found.pairs.mean().item() == pytest.approx(mean.item(), rel=0.05)
    assert found.pairs.min() > 0  # no object is paired with itself


def test_padding_and_the_place_of_objects_change_nothing() -> None:
    batch = events()
    measure = SetMeasure.of(FEATURES, batch)
    expected = measure(batch)
    x = torch.where(batch.mask[..., None], batch.x, torch.nan)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    wide = torch.cat([x[:, order], torch.full((60, 4, 3), torch.inf, dtype=x.dtype)], 1)
    mask = torch.cat([batch.mask[:, order], torch.zeros(60, 4, dtype=torch.bool)], 1)
    other = measure(SetBatch(wide, mask))
    for name in expected.names:
        one, two = (side.column(name)[0].sort().values for side in (expected, other))
        torch.testing.assert_close(one, two)


def test_a_shift_moves_its_metric_by_that_much_and_units_do_not_matter_to_pairs() -> None:
    batch = events()
    measure = SetMeasure.of(FEATURES, batch)
    moved = batch.x.clone()
    moved[..., 0] += 2.5
    found = distances(measure(SetBatch(moved, batch.mask)), measure(batch))
    assert found["w1_x"] == pytest.approx(2.5)
    assert found["w1_energy"] == found["w1_multiplicity"] == 0
    assert found["w1_pairs"] == pytest.approx(0, abs=1e-12)
    scaled = SetBatch(batch.x * torch.tensor([1e3, 1e-3, 1.0], dtype=torch.float64), batch.mask)
    in_other_units = SetMeasure.of(FEATURES, scaled)
    torch.testing.assert_close(in_other_units(scaled).pairs, measure(batch).pairs)


def test_a_selection_is_that_of_its_events() -> None:
    batch = events()
    measure = SetMeasure.of(FEATURES, batch)
    some = torch.tensor([7, 3, 50])
    one, other = measure(batch).select(some), measure(batch[some])
    for name in one.names:
        values = [side.column(name)[0].sort().values for side in (one, other)]
        torch.testing.assert_close(*values)
    assert len(one) == 3


def test_controls_keep_spectra_and_destroy_what_they_say() -> None:
    batch = events(400)
    measure = SetMeasure.of(FEATURES, batch)
    truth = measure(batch)
    floor = truth_floor(truth, 400, 400, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    shuffled = shuffle_objects(batch, generator)
    swapped = swap_features(batch, generator)
    for control in (shuffled, swapped):
        found = distances(measure(control), truth)
        assert torch.equal(control.lengths, batch.lengths)
        for name in ("w1_x", "w1_energy", "w1_u", "w1_multiplicity"):
            assert found[name] == pytest.approx(0, abs=1e-12)
    pairs = distances(measure(shuffled), truth)["w1_pairs"]
    assert pairs > 5 * floor.mean["w1_pairs"]  # objects of one event are near each other
    joint = distances(measure(swapped), truth)["w1_joint"]
    assert joint > 1.5 * floor.mean["w1_joint"]  # energy depends on x
    assert distances(measure(shuffled), truth)["w1_joint"] == pytest.approx(0, abs=1e-12)


def test_a_sample_of_the_same_truth_lies_at_the_floor_and_another_above() -> None:
    truth, same, other = (
        events(800, seed=1),
        events(400, seed=4),
        events(400, seed=3, related=False),
    )
    measure = SetMeasure.of(FEATURES, truth)
    reference = measure(truth)
    floor = truth_floor(reference, 400, 400, generator=torch.Generator().manual_seed(0))
    part = reference.select(torch.arange(400))
    good, bad = (distances(measure(side), part) for side in (same, other))
    for name in good:
        assert good[name] < floor.mean[name] + 5 * floor.spread[name], name
    assert bad["w1_joint"] > floor.mean["w1_joint"] + 8 * floor.spread["w1_joint"]
    assert bad["w1_energy"] > floor.mean["w1_energy"] + 8 * floor.spread["w1_energy"]


def test_undefined_comparisons_are_refused() -> None:
    batch = events()
    measure = SetMeasure.of(FEATURES, batch)
    with pytest.raises(ValueError, match="no event to compute observables of"):
        measure(batch[:0])
    x = batch.x.clone()
    x[4][batch.mask[4]] = torch.nan
    with pytest.raises(ValueError, match="not finite in 1 of 60 events, the first of them event 4"):
        measure(SetBatch(x, batch.mask))
    with pytest.raises(ValueError, match="the reference has 0 objects, expected at least two"):
        SetMeasure.of(FEATURES, SetBatch(batch.x, torch.zeros(60, 9)))
    with pytest.raises(ValueError, match="no observable 'mass'"):
        measure(batch).column("mass")


def test_events_of_one_object_have_no_pairs() -> None:
    batch = SetBatch(events(20, 1).x)
    measure = SetMeasure.of(FEATURES[:1], SetBatch(batch.x[..., :1]))
    found = measure(SetBatch(batch.x[..., :1]))
    assert PAIR not in found.names
    assert set(distances(found, found)) == {"w1_x", "w1_multiplicity"}
