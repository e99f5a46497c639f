"""What is measured of jets whose particles have types."""

from __future__ import annotations

import math

import pytest
import torch

from setflow.physics import types as typed
from setflow.physics.controls import shuffle_particles, swap_ptrel
from setflow.physics.metrics import distances, observables
from setflow.physics.types import JetTypes, rare_metrics, without_metrics
from setflow.schema import PARTICLE_TYPES
from setflow.sets.batch import SetBatch

KINDS = PARTICLE_TYPES[1:]


def jets(n=60, slots=9, seed=0, weight=False, types=8):
    """Jets with holes, empty ones among them, in no order."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, slots, 4, generator=g) + 0.01
    x[..., 3] = torch.randint(0, types, (n, slots), generator=g)
    mask = torch.rand(n, slots, generator=g) < 0.6
    mask[3] = False
    w = torch.rand(n, generator=g) if weight else None
    return SetBatch(x, mask, weight=w)


def by_hand(batch):
    """Each observable by loops: the values of each jet."""
    found = {}
    for x, mask in zip(batch.x.tolist(), batch.mask.tolist(), strict=True):
        real = sorted((p for p, there in zip(x, mask, strict=True) if there), key=lambda p: -p[2])
        charges = [KINDS[int(p[3])].charge for p in real]
        found.setdefault("charge", []).append([sum(charges)])
        weighted = [q * math.sqrt(p[2]) for q, p in zip(charges, real, strict=True)]
        found.setdefault("jet_charge", []).append([sum(weighted)])
        found.setdefault("type", []).append([p[3] for p in real])
        for code, kind in enumerate(KINDS):
            of_type = [p[2] for p in real if p[3] == code]
            name = typed.column_of_type(kind.name)
            found.setdefault(f"n_{name}", []).append([len(of_type)])
            found.setdefault(f"ptrel_{name}", []).append(of_type)
    return found


def assert_holds(measured, batch):
    for name, expected in by_hand(batch).items():
        values, jet = measured.column(name)
        for k, of_jet in enumerate(expected):
            assert values[jet == k].tolist() == pytest.approx(of_jet), name


def test_random_jets_against_loops():
    batch = jets()
    assert_holds(JetTypes(batch)(batch), batch)


def test_selected_jets_are_those_measured_alone():
    batch = jets()
    measure = JetTypes(batch)
    measured = measure(batch)
    for rows in (torch.tensor([7, 3, 0, 59, 20]), slice(4, 30), torch.tensor([], dtype=int)):
        some = measured.select(rows)
        assert some.metrics == measured.metrics
        assert_holds(some, batch[rows])
    assert measured.select(torch.arange(9)).select(torch.tensor([5])).names == measured.names


@pytest.mark.parametrize("weight", [False, True])
def test_metrics_of_jets_are_as_without_types(weight):
    a, b = jets(seed=1, weight=weight), jets(seed=2, weight=weight)
    measure = JetTypes(b)
    found = distances(measure(a), measure(b))
    plain = distances(*(observables(s.x[..., :3], s.mask, s.weight) for s in (a, b)))
    assert list(found)[: len(plain)] == list(plain)
    assert {name: found[name] for name in plain} == plain


def test_a_moved_charge_is_the_distance():
    """Each jet has one positive hadron more: of the charge that is 1, of jet charge sqrt(pT)."""
    batch = jets(types=1)
    x, mask = batch.x.clone(), batch.mask.clone()
    x[:, 0] = torch.tensor([0.0, 0.0, 0.25, 1.0])
    mask[:, 0] = True
    reference = SetBatch(x.clone(), mask)
    x[:, 0, 3] = 2.0
    measure = JetTypes(SetBatch(torch.cat([reference.x, x]), torch.cat([mask, mask])))
    moved, held = measure(SetBatch(x, mask)), measure(reference)
    rare = rare_metrics(moved, held, held)
    found = distances(*(without_metrics(side, rare) for side in (moved, held)))
    assert found["w1_charge"] == pytest.approx(2)
    assert found["w1_jet_charge"] == pytest.approx(1)
    assert found["w1_n_charged_hadron_plus"] == pytest.approx(1)
    assert found["w1_n_photon"] == 0
    assert "w1_n_neutral_hadron" not in found, "the reference has none"


def test_padding_and_order_change_nothing():
    batch = jets()
    order = torch.randperm(9)
    x = torch.where(batch.mask[..., None], batch.x, torch.nan)[:, order]
    x = torch.cat([x, torch.full((60, 3, 4), 1e30)], 1)
    mask = torch.cat([batch.mask[:, order], torch.zeros(60, 3, dtype=torch.bool)], 1)
    measure = JetTypes(batch)
    assert max(distances(measure(SetBatch(x, mask)), measure(batch)).values()) == 0


def test_controls_keep_types_with_their_particles():
    batch = jets(400)
    x = batch.x.clone()
    x[..., 0] = x[..., 3] / 8  # by which a particle is known again
    for control, keeps in ((shuffle_particles, True), (swap_ptrel, False)):
        made, mask = control(x, batch.mask, torch.Generator().manual_seed(0))
        plain, same = control(x[..., :3], batch.mask, torch.Generator().manual_seed(0))
        assert torch.equal(made[..., :3], plain), "as without types"
        assert torch.equal(mask, same)
        assert (made[..., 0] == made[..., 3] / 8)[mask].all()
        measure = JetTypes(SetBatch(x, batch.mask))
        found = distances(measure(SetBatch(made, mask)), measure(SetBatch(x, batch.mask)))
        kept = "w1_ptrel_photon" if keeps else "w1_n_photon"
        lost = "w1_n_photon" if keeps else "w1_ptrel_photon"
        assert found[kept] == 0
        assert found[lost] > 0


def test_what_few_jets_have_is_not_compared():
    batch = jets(200, types=4)
    x = batch.x.clone()
    x[:15, 0, 3] = 6.0
    batch = SetBatch(x, batch.mask | (torch.arange(9) == 0))
    measured = JetTypes(batch)(batch)
    rare = rare_metrics(measured, measured, measured)
    assert list(rare) == ["w1_ptrel_muon_minus"]
    assert "fewer than 10 jets of a side" in rare["w1_ptrel_muon_minus"]
    without = without_metrics(measured, rare)
    assert "ptrel_muon_minus" not in without.names
    assert "n_muon_minus" in without.names
    none = measured.select(torch.arange(15, 200))
    assert "w1_ptrel_muon_minus" in rare_metrics(none, measured, measured)
    plain = observables(batch.x[..., :3], batch.mask)
    assert rare_metrics(plain, plain, plain) == {}
    assert without_metrics(plain, rare) is plain


def test_what_is_no_type_is_refused():
    batch = jets()
    batch.x[..., 3] = 8.0
    with pytest.raises(ValueError, match="reach from 8 to 8, expected 0 to 7: photon, charged"):
        JetTypes(batch)(batch)
