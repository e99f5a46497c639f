"""Measures beyond W1 in a report, its page and its sheets, and classes of events."""

from __future__ import annotations

import base64
import io
import json
import re

import h5py
import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from report.test_page import jets, write
from setflow import SetBatch
from setflow.data import read_jets
from setflow.physics import FAST_MEASURES, MEASURES
from setflow.report import figures
from setflow.report.origins import Origin
from setflow.report.page import METRICS_FILE, PAGES, compare, evaluate
from setflow.report.style import STYLE

FPD = ("w1", "fpd")


@pytest.fixture
def few_pictures(monkeypatch):
    monkeypatch.setattr(figures, "draw_jets", lambda *_, **__: {"mass": Figure()})


def test_metrics_on_too_few_jets_say_how_many_they_need():
    report = compare(jets(120, seed=1), jets(200, seed=2), pairs=2, measures=MEASURES)
    told = "needs at least 1,000 jets on each side, and there are 120"
    assert set(report.missing) == {
        "fpd", "kpd", "auc_trees", "coverage", "mmd", "auc_transformer"
    }  # fmt: skip
    assert report.missing["fpd"] == told
    assert report.missing["coverage"].startswith("needs at least 400 jets")
    assert f"fpd, kpd, auc_trees, auc_transformer: not measured, {told}" in report.unmeasured()


def test_jets_that_have_weights_are_measured_by_w1_alone():
    side = jets(1200, seed=1)
    weighted = SetBatch(side.x, side.mask, weight=torch.linspace(1, 2, 1200))
    report = compare(jets(1200, seed=2), weighted, pairs=2, measures=FPD)
    assert report.missing["fpd"].startswith("takes jets that count equally")


def test_a_package_that_is_not_there_is_told_and_the_rest_is_measured(monkeypatch):
    def lacks(*_, **__):
        raise ImportError("scikit-learn is not installed; `pip install 'setflow[metrics]'`")

    monkeypatch.setattr("setflow.physics.measures.trees_auc", lacks)
    report = compare(
        jets(1000, seed=1), jets(1000, seed=2), pairs=2, measures=("w1", "fpd", "trees")
    )
    assert "pip install" in report.missing["auc_trees"]
    assert "fpd" in report.metrics


def true_jets(name: str, stop: int) -> SetBatch:
    return read_jets(f"pythia-top/{name}.h5", stop=stop, max_objects=30).particles


def test_every_metric_has_error_floor_controls_and_a_verdict():
    reference, other = true_jets("heldout", 3000), true_jets("train", 1500)
    report = compare(other, reference, pairs=5, measures=FPD)
    for name in ("w1m", "w1_tau21", "w1_tau32", "fpd"):
        result = report.metrics[name]
        assert result.verdict == "at the floor", name
        assert result.shuffled > result.floor + 4 * result.floor_spread, name
        assert result.error > 0
    assert report.metrics["w1p"].zero("shuffled")
    assert report.metrics["w1p"].zero("swapped")
    assert "0 (kept)" in next(row for row in report.rows() if row[0] == "W1P mean")
    assert report.summary.startswith("Like the truth, as far as 1,500 jets can tell")
    narrow = SetBatch(other.x * torch.tensor([0.5, 0.5, 1.0]), other.mask)
    found = compare(narrow, reference, pairs=5, measures=FPD)
    assert found.metrics["w1p"].verdict == "above the floor"
    assert found.metrics["w1m"].verdict == "worse than the controls"
    assert found.summary.startswith("Poor: ")


def test_bad_requirements_are_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr("setflow.report.comparing.findings_of", None)
    for require, told in (
        ("w1n<1", "no metric 'w1n' to require, expected one of: w1m, w1p"),
        ("auc<0.7", "no metric 'auc'"),  # nothing measures one
    ):
        with pytest.raises(ValueError, match=told):
            compare(jets(seed=1), jets(seed=2), measures=("w1",), require=require)


def test_the_page_holds_all_and_refers_to_nothing(tmp_path, few_pictures):
    reference = write(tmp_path / "reference.h5", jets(200, seed=2))
    with h5py.File(reference, "a") as file:
        file.attrs["recipe"] = "pythia-top"
        file.attrs["description"] = "top <script>alert(1)</script> jets"
    generated = write(tmp_path / "generated.h5", jets(120, seed=1))
    report = evaluate(generated, reference, tmp_path / "report", pairs=2, require="w1m<1e-9")
    page = (tmp_path / "report" / PAGES[0]).read_text()
    assert report.summary in page.replace("&#x27;", "'")
    assert "w1m&lt;1e-09 is required" in page
    assert "<script" not in page
    assert "jets: pT 800 to 1600 GeV, |eta| below 2" in page
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(picture) == (tmp_path / "report/mass.png").read_bytes()
    for title, *_, verdict in report.rows():
        assert f"<td>{title}</td>" in page
        assert verdict in page
    for sentence in report.explanations():
        assert sentence in page
    assert (tmp_path / "report" / PAGES[1]).read_bytes().startswith(b"%PDF")


def test_a_figure_is_laid_out_once_for_picture_and_sheet(tmp_path, monkeypatch):
    def figure():
        with matplotlib.rc_context(STYLE):
            drawn = Figure(layout="constrained")
            drawn.add_subplot().set_ylabel("a label\nof two lines")
        return drawn

    drawn, laid_out, buffer = figure(), [], io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure().savefig(buffer, format="png")
    execute = ConstrainedLayoutEngine.execute
    monkeypatch.setattr(
        ConstrainedLayoutEngine,
        "execute",
        lambda self, of: (laid_out.append(of), execute(self, of))[1],
    )
    monkeypatch.setattr(figures, "draw_jets", lambda *_, **__: {"mass": drawn})
    compare(jets(seed=1), jets(seed=2), tmp_path / "report", pairs=2, measures=("w1",))
    assert laid_out == [drawn]
    assert (tmp_path / "report/mass.png").read_bytes() == buffer.getvalue()


def test_classes_are_compared_one_by_one(tmp_path, few_pictures):
    sides = [jets(200, seed=1), jets(300, seed=2)]
    codes = [torch.arange(len(side)) % 2 for side in sides]
    origins = (
        Origin("a", classes=codes[0], class_names=("top", "gluon")),
        Origin("b", classes=1 - codes[1], class_names=("gluon", "top")),
    )
    report = compare(*sides, tmp_path / "report", pairs=2, origins=origins)
    assert list(report.classes) == ["top", "gluon"]
    rows = [codes[0] == 1, codes[1] == 1]  # gluon: 1 on one side, 0 of its names on the other
    alone = compare(*(side[row] for side, row in zip(sides, rows, strict=True)))
    for name, result in report.classes["gluon"].metrics.items():
        assert result.value == pytest.approx(alone.metrics[name].value)
    held = json.loads((tmp_path / "report" / METRICS_FILE).read_text())
    assert set(held["classes"]) == {"top", "gluon"}
    assert held["pictures"] == ["mass.png", "top-mass.png", "gluon-mass.png"]
    page = (tmp_path / "report" / PAGES[0]).read_text()
    assert "<h2>Class gluon</h2>" in page
    few = (
        Origin("a", classes=torch.zeros(200), class_names=("top",)),
        Origin("b", classes=torch.zeros(300), class_names=("gluon",)),
    )
    assert compare(*sides, pairs=2, origins=few).classes == {}


def test_files_tell_their_classes(tmp_path, few_pictures):
    paths = []
    for seed, n in ((1, 200), (2, 300)):
        paths.append(write(tmp_path / f"{seed}.h5", jets(n, seed=seed)))
        with h5py.File(paths[-1], "a") as file:
            context = file.create_dataset("context", data=(np.arange(n) % 2)[:, None].astype("f8"))
            context.attrs["features"] = ["class"]
            context.attrs["units"] = [""]
            context.attrs["kinds"] = ["category(top, gluon)"]
    report = evaluate(*paths, tmp_path / "report", pairs=2)
    assert list(report.classes) == ["top", "gluon"]
    assert report.classes["top"].generated.events == 100


def test_measures_are_those_of_the_library():
    assert set(FAST_MEASURES) < set(MEASURES)
    with pytest.raises(ValueError, match="no measure 'fpnd'"):
        compare(jets(seed=1), jets(seed=2), measures=("fpnd",))
