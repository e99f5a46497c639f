"""A comparison of jets whose particles have types: from files to numbers and pictures."""

from __future__ import annotations

import json
from dataclasses import replace

import h5py
import pytest
import torch

from data.samples import make_sample, write_sample
from setflow.physics.types import TITLES
from setflow.report import figures
from setflow.report.comparing import METRICS_FILE, compare
from setflow.report.histograms import edges_of
from setflow.report.page import evaluate
from setflow.report.subjects import Jets, TypedJets, subject_of
from setflow.report.type_figures import QUANTITIES, draw_types
from setflow.schema import TYPED_JETNET
from setflow.sets.batch import SetBatch


def jets(n=150, seed=0, types=8):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 12, 4, generator=g) / 4 + 0.01
    x[..., 3] = torch.randint(0, types, (n, 12), generator=g)
    return SetBatch(x, torch.rand(n, 12, generator=g) < 0.8)


def test_files_of_jets_with_types_are_compared_by_these_too(tmp_path, monkeypatch):
    paths = [write_sample(tmp_path / f"{seed}.h5", make_sample(150, seed=seed)) for seed in (0, 1)]
    drawn = []
    monkeypatch.setattr(figures, "draw_jets", lambda *_, **__: drawn.append(1) or {})
    report = evaluate(*paths, tmp_path / "report", pairs=3, measures=("w1",))
    held = json.loads((tmp_path / "report" / METRICS_FILE).read_text())
    assert held == report.to_dict()
    assert drawn, "all pictures of jets, too"
    assert {"w1_n_photon", "w1_charge", "w1_jet_charge", "w1_ptrel_photon"} <= set(report.metrics)
    assert {"type.png", "charge.png", "n_photon.png", "ptrel_photon.png"} <= set(held["pictures"])
    page = (tmp_path / "report" / "report.html").read_text()
    assert "arXiv:1209.2421" in page
    assert "Number of particles: charged hadron +" in page
    plain = tmp_path / "plain.h5"
    plain.write_bytes(paths[0].read_bytes())
    with h5py.File(plain, "r+") as file:
        del file["particle_type"]
    without = evaluate(plain, paths[1], tmp_path / "other", pairs=3, measures=("w1",))
    assert type(without.subject) is Jets, "types of one side alone are not compared"
    for name, result in without.metrics.items():
        assert report.metrics[name] == result, "and no metric of jets changes"
    assert list(without.metrics) == list(report.metrics)[: len(without.metrics)]


def test_a_sample_of_the_truth_is_at_the_floor_and_a_wrong_one_is_not():
    truth, same = jets(600), jets(600, seed=1)
    wrong = SetBatch(same.x.clone(), same.mask)
    kind = wrong.x[..., 3]
    kind[(kind == 2) & (torch.rand(kind.shape) < 0.3)] = 1.0  # a third of h- become h+
    how = {"schema": TYPED_JETNET, "pairs": 5, "measures": ("w1",)}
    good, bad = (compare(side, truth, **how) for side in (same, wrong))
    for name in ("w1_n_charged_hadron_plus", "w1_charge", "w1_jet_charge"):
        assert good.metrics[name].verdict == "at the floor", name
        assert bad.metrics[name].verdict != "at the floor", name
    assert good.metrics["w1m"] == bad.metrics["w1m"]
    assert good.metrics["w1_ptrel_photon"].zero("shuffled")
    assert good.metrics["w1_n_photon"].zero("swapped")


def test_a_type_that_no_generated_jet_has_is_told_and_not_measured():
    truth, poor = jets(200), jets(200, seed=1, types=6)
    report = compare(poor, truth, schema=TYPED_JETNET, pairs=3, measures=("w1",))
    assert report.metrics["w1_n_muon_plus"].verdict != "at the floor"
    assert "w1_ptrel_muon_plus" not in report.metrics
    (told,) = report.unmeasured()
    assert told.startswith("w1_ptrel_muon_minus, w1_ptrel_muon_plus: not measured, fewer than 10")


def test_limits_may_be_on_types():
    a, b = jets(seed=1), jets(seed=2)
    how = {"schema": TYPED_JETNET, "pairs": 2, "measures": ("w1",)}
    assert compare(a, b, require="w1_charge<9", **how).broken == ()
    assert compare(a, b, require="w1_charge<0", **how).broken
    with pytest.raises(ValueError, match=r"no metric 'w1_n_tau' to require, .*w1_n_photon"):
        compare(a, b, require="w1_n_tau<1", **how)


def test_particles_are_cut_with_their_types():
    batch = jets()
    subject = subject_of(TYPED_JETNET, batch)
    assert isinstance(subject, TypedJets)
    cut, plain = subject.cut(batch, 5), Jets().cut(SetBatch(batch.x[..., :3], batch.mask), 5)
    assert torch.equal(cut.x[..., :3], plain.x)
    assert torch.equal(cut.mask, plain.mask)
    for x, mask, of_all in zip(cut.x, cut.mask, batch.x, strict=True):
        held = {tuple(row) for row in of_all.tolist()}
        assert {tuple(row) for row in x[mask].tolist()} <= held


def test_every_type_that_occurs_has_its_pictures():
    batch = jets(types=4)
    measured = subject_of(TYPED_JETNET, batch).measured(batch)
    found = draw_types((measured, measured), {})
    names = ("photon", "charged_hadron_plus", "charged_hadron_minus", "neutral_hadron")
    expected = {f"{prefix}_{name}" for prefix in ("n", "ptrel") for name in names}
    assert set(found) == expected | {"type", "charge", "jet_charge"}
    assert {quantity.name for quantity in QUANTITIES} == set(TITLES)
    labels = [tick.get_text() for tick in found["type"].axes[-1].get_xticklabels()]
    assert labels[:2] == [r"$\gamma$", "$h^+$"]
    shares = found["type"].axes[0].containers[0][0].get_ydata()
    assert sum(shares) == pytest.approx(1)


def test_charges_below_0_are_drawn():
    batch = jets(types=3)
    measured = subject_of(TYPED_JETNET, batch).measured(batch)
    (quantity,) = (one for one in QUANTITIES if one.name == "charge")
    values, edges = measured.column("charge")[0], edges_of(quantity, measured, measured)
    assert values.min() < 0
    assert edges[0] < values.min() - 0.4
    assert edges[-1] > values.max() + 0.4
    assert edges_of(replace(quantity, name="n_photon"), measured, measured)[0] == -0.5
