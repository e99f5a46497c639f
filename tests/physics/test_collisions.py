"""Observables of whole events against numbers by hand and sums in plain Python."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from collisions import TYPE, batch, drawn, row
from setflow.physics import collisions as module
from setflow.physics.collisions import (
    CollisionMeasure,
    is_collision,
    shuffle_within_types,
    swap_directions,
)
from setflow.physics.metrics import distances, truth_floor
from setflow.schema import COLLISIONS, JETNET, OBJECT_TYPES, Feature, names
from setflow.sets.batch import SetBatch

FEATURES = COLLISIONS.objects


def measured(*events):
    made = batch(*events)
    return CollisionMeasure(FEATURES, made)(made)


def values(observables, name):
    column, event = observables.column(name)
    return dict(zip(event.tolist(), column.tolist(), strict=True))


def test_counts_sums_and_charges():
    found = measured(
        [
            row("electron", 30, charge=1),
            row("muon", 25, charge=1),
            row("jet", 50, mass=5, b=1),
            row("jet", 40, 1, mass=4),
            row("missing_momentum", 60),
        ],
        [row("muon", 33, charge=2), row("photon", 44), row("jet", 26, mass=3, b=1)],
        [],
    )
    assert len(found) == 3
    for name, expected in {
        "n_electron": [1, 0, 0],
        "n_muon": [1, 1, 0],
        "n_photon": [0, 1, 0],
        "n_jet": [2, 1, 0],
        "n_missing_momentum": [1, 0, 0],
        "b_jets": [1, 1, 0],
        "ht": [90, 26, 0],
        "charge_sum": [-2, 1, 0],
    }.items():
        assert found.column(name)[0].tolist() == expected, name
    assert values(found, "missing") == {0: 60}
    assert sorted(found.column("lepton_pt")[0].tolist()) == [25, 30, 33]
    assert found.column("jet_mass")[0].tolist() == [5, 4, 3]


def test_the_transverse_mass_ends_at_that_of_the_parent():
    back_to_back = [row("muon", 40, 1.5, 3.0), row("missing_momentum", 40, 0, 3.0 - math.pi)]
    aligned = [row("electron", 40, 0.3, -3.1), row("missing_momentum", 70, 0, -3.1)]
    two = [row("muon", 20, 0, 0), row("electron", 50, 0, 1), row("missing_momentum", 30, 0, -1)]
    found = values(measured(back_to_back, aligned, two, [row("muon", 50)]), "transverse_mass")
    assert found == pytest.approx(
        {0: 80.0, 1: 0.0, 2: math.sqrt(2 * 50 * 30 * (1 - math.cos(2)))}, abs=1e-6
    )


def test_the_masses_of_a_top_quark_that_decays_at_rest():
    """t -> b W, W -> q q' along the two axes of the transverse plane: masses in closed form."""
    top, w, push = 172.5, 80.4, 300.0
    energy_w = (top**2 + w**2) / (2 * top)
    momentum = math.sqrt(energy_w**2 - w**2)
    b = np.array([-momentum, 0, 0, momentum])  # px, py, pz, E
    gamma = energy_w / w
    quarks = [np.array([gamma * momentum / energy_w * w / 2, s * w / 2, 0, energy_w / 2])
              for s in (1, -1)]  # fmt: skip
    boost = math.sqrt(top**2 + push**2) / top
    events = []
    for flags in ((1, 0, 0), (1, 1, 0)):
        objects = []
        for p, flag in zip((b, *quarks), flags, strict=True):
            along = push / top
            px, e = boost * p[0] + along * p[3], boost * p[3] + along * p[0]
            pt = math.hypot(px, p[1])
            mass = math.sqrt(max(e**2 - px**2 - p[1] ** 2, 0))
            objects.append(row("jet", pt, 0, math.atan2(p[1], px), mass, b=flag))
        events.append([*objects, row("jet", 26, 2.0, 3.0, 2.0), row("muon", 200, 0, 0.1)])
    found = measured(*events)
    assert values(found, "top_mass")[0] == pytest.approx(top, rel=1e-9)
    assert values(found, "w_mass")[0] == pytest.approx(w, rel=1e-9)
    assert 1 not in values(found, "top_mass") or values(found, "top_mass")[1] != pytest.approx(top)


def test_random_events_against_loops():
    events = drawn()
    found = measured(*events)
    at = {name: k for k, name in enumerate(names(FEATURES))}
    for k, objects in enumerate(events):
        jets = sorted((o for o in objects if o[4] == TYPE["jet"]), key=lambda o: -o[0])[:8]
        best = None
        for three in itertools.combinations(jets, 3):
            if sum(o[at["b_hadron"]] for o in three) != 1:
                continue
            p = np.array([_momentum(o) for o in three])
            pt = math.hypot(*p.sum(0)[:2])
            if best is None or pt > best[0]:
                pair = p[[o[at["b_hadron"]] == 0 for o in three]].sum(0)
                best = (pt, _mass(p.sum(0)), _mass(pair))
        assert (best is None) == (k not in values(found, "top_mass"))
        if best is not None:
            assert values(found, "top_mass")[k] == pytest.approx(best[1])
            assert values(found, "w_mass")[k] == pytest.approx(best[2])
    angles, distances_of = [], []
    for objects in events:
        for a, b in itertools.combinations(objects, 2):
            phi = abs(a[2] - b[2])
            phi = min(phi, 2 * math.pi - phi)
            angles.append(phi)
            if TYPE["missing_momentum"] not in (a[4], b[4]):
                distances_of.append(math.hypot(a[1] - b[1], phi))
    assert np.allclose(sorted(found.column("delta_phi")[0].tolist()), sorted(angles))
    assert np.allclose(sorted(found.column("delta_r")[0].tolist()), sorted(distances_of))


def _momentum(o):
    pt, eta, phi, mass = o[:4]
    p = [pt * math.cos(phi), pt * math.sin(phi), pt * math.sinh(eta)]
    return [*p, math.sqrt(sum(part**2 for part in p) + mass**2)]


def _mass(p):
    return math.sqrt(max(p[3] ** 2 - p[0] ** 2 - p[1] ** 2 - p[2] ** 2, 0))


def test_padding_order_and_turns_around_the_beam_change_nothing():
    made = batch(*drawn())
    measure = CollisionMeasure(FEATURES, made)
    expected = measure(made)
    order = torch.rand(made.mask.shape, generator=torch.Generator().manual_seed(1)).argsort(1)
    x = made.x.gather(1, order[..., None].expand_as(made.x)).clone()
    angle = torch.rand(len(x), 1, generator=torch.Generator().manual_seed(2)).double() * 7
    phi = x[..., 2] + angle
    x[..., 2] = torch.atan2(phi.sin(), phi.cos())
    padding = torch.full((len(x), 5, x.shape[-1]), 1e30, dtype=torch.float64)
    mask = torch.cat([made.mask.gather(1, order), torch.zeros(len(x), 5, dtype=torch.bool)], 1)
    found = measure(SetBatch(torch.cat([x, padding], 1), mask))
    for name in expected.names:
        (a, of_a), (b, of_b) = expected.column(name), found.column(name)
        assert torch.equal(of_a, of_b), name
        assert torch.allclose(a.sort().values, b.sort().values, rtol=1e-9, atol=1e-6), name


def test_selected_events_are_those_measured_alone():
    events = drawn(50)
    made = batch(*events)
    measure = CollisionMeasure(FEATURES, made)
    chosen = torch.tensor([40, 3, 17])
    part, alone = measure(made).select(chosen), measure(made[chosen])
    assert len(part) == len(alone) == 3
    for name in part.names:
        for k in range(3):
            a, b = (
                [v for v, e in zip(*s.column(name), strict=True) if e == k] for s in (part, alone)
            )
            assert sorted(map(float, a)) == pytest.approx(sorted(map(float, b))), name


def test_blocks_change_nothing_and_weights_are_those_of_the_events(monkeypatch):
    made = batch(*drawn(50))
    made = SetBatch(made.x, made.mask, weight=torch.arange(1.0, 51.0))
    measure = CollisionMeasure(FEATURES, made)
    whole = measure(made)
    monkeypatch.setattr(module, "_BLOCK", 7)
    parts = measure(made)
    for name in whole.columns:
        assert all(map(torch.equal, whole.column(name), parts.column(name))), name
    assert whole.effective == pytest.approx(1275**2 / sum(k * k for k in range(1, 51)))
    assert whole.select(torch.tensor([4, 2])).weight.tolist() == [5, 3]


def test_controls_keep_what_they_say_and_break_the_rest():
    made = batch(*drawn(400))
    measure = CollisionMeasure(FEATURES, made)
    truth = measure(made)
    floor = truth_floor(truth, 400, 400, pairs=5, generator=torch.Generator().manual_seed(0))
    shuffled = shuffle_within_types(made, FEATURES, torch.Generator().manual_seed(1))
    swapped = swap_directions(made, FEATURES, torch.Generator().manual_seed(1))
    of_shuffled, of_swapped = (distances(measure(side), truth) for side in (shuffled, swapped))
    kept = [f"w1_n_{name}" for name in OBJECT_TYPES if f"w1_n_{name}" in of_shuffled]
    kept += ["w1_lepton_pt", "w1_jet_pt", "w1_jet_eta", "w1_jet_mass", "w1_missing"]
    for name in kept:
        assert of_shuffled[name] == pytest.approx(0, abs=1e-9), name
        assert of_swapped[name] == pytest.approx(0, abs=1e-9), name
    for name in ("w1_ht", "w1_b_jets", "w1_charge_sum"):
        assert of_swapped[name] == pytest.approx(0, abs=1e-9), name
    assert set(floor.mean) == set(of_shuffled)
    # an event of aligned pairs: only directions are correlated there
    pairs = batch(*[[row("jet", 30, 0, a, 3), row("jet", 30, 0, a, 3)] for a in (-2.0, 0.0, 2.0)])
    apart = CollisionMeasure(FEATURES, pairs)(
        swap_directions(pairs, FEATURES, torch.Generator().manual_seed(0))
    )
    assert apart.column("delta_phi")[0].max() > 1


def test_what_few_events_have_is_not_compared_and_others_are_refused():
    events = [[row("jet", 50, mass=5), row("jet", 40, mass=4)] for _ in range(200)]
    events[0].append(row("photon", 44))
    made = batch(*events)
    metrics = [metric.name for metric in CollisionMeasure(FEATURES, made).metrics]
    assert "w1_transverse_mass" not in metrics
    assert "w1_ht" in metrics
    with pytest.raises(
        ValueError, match="objects have etarel, phirel, ptrel, expected those of wh"
    ):
        CollisionMeasure(JETNET.objects, made)
    other = [*FEATURES[:4], Feature("type", kind="category(jet, muon)"), *FEATURES[5:]]
    assert not is_collision(other), "the types are others"
    assert is_collision([*FEATURES[::-1], Feature("width")])
    x = made.x.clone()
    x[3, 0, 0] = math.inf
    with pytest.raises(ValueError, match=r"not finite in 1 of 200 events, the first .* event 3"):
        CollisionMeasure(FEATURES, made)(SetBatch(x, made.mask))
