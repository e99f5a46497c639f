"""A comparison of whole events: from files to numbers and pictures."""

from __future__ import annotations

import json
import math

import pytest
import torch

from collisions import batch, drawn, row
from setflow.data.event_writing import EventWriter
from setflow.report.collision_figures import QUANTITIES, draw_collisions, event_displays
from setflow.report.comparing import METRICS_FILE, compare
from setflow.report.page import evaluate
from setflow.report.subjects import Collisions, Sets, subject_of
from setflow.schema import COLLISIONS, Feature, Schema
from setflow.sets.batch import SetBatch

FEATURES = COLLISIONS.objects


def write(path, events):
    made = batch(*events)
    n = len(events)
    context = torch.stack([torch.arange(n) % 2, 400 + torch.arange(n), torch.zeros(n)], 1)
    with EventWriter(path, COLLISIONS, attributes={"recipe": "pythia-ttbar-events"}) as writer:
        writer.write(SetBatch(made.x.float(), made.mask), context)
    return path


def test_files_of_whole_events_are_compared_by_what_is_asked_of_events(tmp_path):
    paths = [write(tmp_path / f"{seed}.h5", drawn(120, seed)) for seed in (0, 1)]
    report = evaluate(*paths, tmp_path / "report", pairs=3)
    held = json.loads((tmp_path / "report" / METRICS_FILE).read_text())
    assert held == report.to_dict()
    asked = {f"w1_{quantity.name}" for quantity in QUANTITIES}
    assert set(report.metrics) == asked
    for result in report.metrics.values():
        assert all(map(math.isfinite, (result.value, result.floor, result.floor_spread)))
    assert report.metrics["w1_ht"].zero("swapped")
    assert report.metrics["w1_n_jet"].zero("shuffled")
    assert held["swapped"] == "eta and phi"
    pictures = {f"{quantity.name}.png" for quantity in QUANTITIES}
    pictures |= {"events_in_eta_and_phi.png", "events_around_the_beam.png"}
    assert pictures <= set(held["pictures"])
    assert set(held["classes"]) == {"all_hadronic", "electron_jets"}
    page = (tmp_path / "report" / "report.html").read_text()
    assert "exchanged with those of the same type" in page
    assert "3 to 16 objects: leptons with pT above 20 GeV" in page


def test_a_sample_of_the_truth_is_at_the_floor_and_a_wrong_one_is_not():
    truth, same = (batch(*drawn(400, seed)) for seed in (0, 1))
    wrong = SetBatch(same.x.clone(), same.mask)
    wrong.x[..., 0] *= 1.4
    good, bad = (compare(side, truth, schema=COLLISIONS, pairs=5) for side in (same, wrong))
    for name in ("w1_ht", "w1_jet_pt", "w1_top_mass"):
        of_good, of_bad = good.metrics[name], bad.metrics[name]
        assert of_good.verdict == "at the floor", name
        assert of_bad.verdict != "at the floor", name
    assert bad.metrics["w1_n_jet"] == good.metrics["w1_n_jet"]


def test_what_no_generated_event_has_is_told_and_not_measured():
    truth = batch(*drawn(120))
    poor = batch(*[[row("jet", 50 + k, mass=5), row("jet", 40, 1, mass=5)] for k in range(100)])
    report = compare(poor, truth, schema=COLLISIONS, pairs=2)
    assert {"w1_ht", "w1_n_muon", "w1_jet_pt"} <= set(report.metrics)
    assert {"w1_missing", "w1_lepton_pt", "w1_top_mass"} <= set(report.missing)
    assert "fewer than 10 events of a side" in report.missing["w1_missing"]


def test_what_cannot_be_is_counted_with_the_types_that_lack_a_feature():
    truth = batch(*drawn(50))
    wrong = SetBatch(truth.x.clone(), truth.mask)
    kind = wrong.x[..., 4]
    lepton = (wrong.mask & (kind == 1)).nonzero()[0]
    wrong.x[lepton[0], lepton[1], 3] = 0.105
    report = compare(wrong, truth, schema=COLLISIONS, pairs=2)
    assert report.unphysical == {"mass": 1}


def test_objects_are_cut_by_momentum():
    events = [[row("muon", 30), row("jet", 90, mass=5), row("jet", 60, mass=5)]] * 30
    subject = subject_of(COLLISIONS, batch(*events))
    assert isinstance(subject, Collisions)
    assert subject.cut(batch(*events), 2).x[0, :, 0].tolist() == [90, 60]
    assert subject.kept(2) == "the 2 objects of an event with the largest pt"
    other = Schema([Feature("x"), Feature("y")])
    assert isinstance(subject_of(other, SetBatch(torch.rand(5, 3, 2))), Sets)


def test_displays_draw_every_object_once():
    events = [
        [row("jet", 50, 1.0, 0.5, 5, b=1), row("jet", 40, -1, -2, 4), row("missing_momentum", 30)],
        [],
        [row("electron", 25, 2.0, 3.0, charge=1)],
    ]
    made = batch(*events)
    drawn_of = event_displays(FEATURES, made, made, events=2)
    flat, around = (drawn_of[f"events_{view}"] for view in ("in_eta_and_phi", "around_the_beam"))
    assert len(flat.axes) == len(around.axes) == 4, "the empty event is passed over"
    first = flat.axes[0]
    assert [tuple(dot.get_offsets()[0]) for dot in first.collections] == [(1.0, 0.5), (-1.0, -2.0)]
    assert [line.get_ydata()[0] for line in first.lines] == [0.0], "missing momentum has no eta"
    ends = [line.get_xydata()[-1] for line in around.axes[0].lines[::2]]
    assert [math.hypot(*end) for end in ends] == pytest.approx([50, 40, 30])
    assert math.atan2(*ends[1][::-1]) == pytest.approx(-2)
    areas = [dot.get_sizes()[0] for dot in first.collections]
    assert areas[0] / areas[1] == pytest.approx(50 / 40)


def test_only_what_is_measured_is_drawn():
    made = batch(*[[row("jet", 50 + k, mass=5), row("jet", 40, 1, mass=5 + k)] for k in range(40)])
    subject = subject_of(COLLISIONS, made)
    measured = subject.measured(made)
    found = draw_collisions(FEATURES, (made, made), (measured, measured), {})
    assert "ht" in found
    some = batch(*drawn(200))
    measured = subject_of(COLLISIONS, some).measured(some)
    lepton = measured.column("lepton_pt")[1].unique()
    none = [k for k in range(200) if k not in lepton.tolist()]
    part = measured.select(torch.tensor(none))
    assert "lepton_pt" not in draw_collisions(FEATURES, (made, made), (part, part), {})
    assert not {"transverse_mass", "top_mass", "lepton_pt"} & set(found)
