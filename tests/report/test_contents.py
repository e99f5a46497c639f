"""The picture of what a file holds: a panel for each feature, with its unit and its numbers."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from setflow.data.tally import Rows, Tally
from setflow.report.contents import draw_contents, write_contents
from setflow.schema import JETNET, Feature, Schema

EVENT = [Feature("energy", "GeV", "positive"), Feature("class", kind="category(top, gluon)")]


def tally(n=400, schema=None):
    rng = np.random.default_rng(0)
    schema = schema or Schema(JETNET.objects, EVENT)
    lengths = rng.integers(3, 13, n)
    real = np.arange(12) < lengths[:, None]
    x = np.where(real[..., None], rng.uniform(0.01, 0.1, (n, 12, len(schema.objects))), 0)
    event = np.stack([10 ** rng.uniform(0, 4, n), np.arange(n) % 4 == 0], -1)
    made = Tally(schema)
    made.add(Rows(x, real, event[:, : len(schema.event)]))
    return made


def test_every_feature_has_a_panel_with_its_unit():
    made = tally()
    figure = draw_contents(made, "jets.h5: 400 jets")
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels == [
        r"$\eta^\mathrm{rel}$",
        r"$\phi^\mathrm{rel}$ [rad]",
        r"$p_T^\mathrm{rel}$",
        "Number of particles $N$",
        r"Sum of $p_T^\mathrm{rel}$ of a jet",
        "energy [GeV]",
        "class",
    ]
    titles = [axes.get_title(loc="right") for axes in figure.axes]
    assert titles == [f"{made.objects:,} particles"] * 3 + ["400 jets"] * 4
    assert figure.get_suptitle() == "jets.h5: 400 jets"
    by_label = dict(zip(labels, figure.axes, strict=True))
    assert by_label["energy [GeV]"].get_xscale() == "log"
    assert by_label["class"].containers[0].datavalues.tolist() == [0.75, 0.25]
    number = by_label["Number of particles $N$"]
    heights, edges, _ = number.patches[0].get_data()
    np.testing.assert_allclose(heights, made.lengths[3:] / 400)
    assert edges.tolist() == [k - 0.5 for k in range(3, 14)]
    assert number.get_title(loc="left") == "3 to 12"
    energy = by_label["energy [GeV]"].patches[0].get_data().values
    assert energy.sum() == pytest.approx(1, abs=0.01)


def test_a_file_without_events_is_drawn(tmp_path):
    made = tally(0, Schema([Feature("x", "mm")]))
    assert write_contents(made, "none", tmp_path / "a", "png") == 2
    assert imread(tmp_path / "a", format="png").std() > 0


def test_one_value_everywhere_is_drawn(tmp_path):
    made = Tally(Schema([Feature("x", "mm")]))
    made.add(Rows(np.ones((5, 3, 1)), np.ones((5, 3), bool), np.zeros((5, 0))))
    write_contents(made, "ones", tmp_path / "a", "pdf")
    assert (tmp_path / "a").read_bytes().startswith(b"%PDF")


def test_a_panel_tells_how_many_objects_have_the_feature():
    schema = Schema(
        [Feature("mass", "GeV", absent=["muon"]), Feature("type", kind="category(jet, muon)")]
    )
    made = Tally(schema)
    x = np.array([[[5.0, 0], [0, 1]], [[4, 0], [6, 0]]])
    made.add(Rows(x, np.ones((2, 2), bool), np.zeros((2, 0))))
    mass, kind, _ = draw_contents(made, "a").axes
    assert mass.get_title(loc="right") == "3 objects"
    assert kind.get_title(loc="right") == "4 objects"
    assert mass.get_title(loc="left") == "4 to 6"
