"""`setflow evaluate` as a script meets it: limits, exit status, and what is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from cli.shell import fails, run, write_jets
from setflow.data import read_jets
from setflow.data.writing import JetWriter
from setflow.report import figures

EVALUATE = ("evaluate", "new.h5", "jets.h5", "--out", "report")


@pytest.fixture
def files(folder, monkeypatch):
    monkeypatch.setattr(figures, "draw_jets", lambda *_, **__: {"mass": Figure()})
    write_jets(Path("new.h5"), seed=5)
    return folder


def test_limits_that_are_kept_change_nothing(files, capsys):
    run(*EVALUATE, "--require", "w1m<1,w1_tau21 < 1")
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.splitlines()[-1] == "next: setflow info report"
    run("info", "report")
    told = capsys.readouterr().out
    assert "summary" in told
    assert "Like the truth, as far as 200 jets can tell" in " ".join(told.split())
    assert "report/report.html" in told


def test_the_hardest_are_compared(files, capsys):
    """The numbers are those of files that hold no others."""
    numbers = []
    for side in ("new", "jets"):
        cut = read_jets(f"{side}.h5", max_objects=3)
        with JetWriter(f"{side}-3.h5", objects=3) as writer:
            writer.write(cut.particles, cut.jets)
    for options in (("new.h5", "jets.h5", "--max-objects", "3"), ("new-3.h5", "jets-3.h5")):
        run("evaluate", *options, "--out", "report", "--force")
        found = json.loads(Path("report/metrics.json").read_text())
        numbers.append({name: one["value"] for name, one in found["metrics"].items()})
        assert found["columns"] == 3
        assert "room for" not in capsys.readouterr().err  # both sides are cut
    assert numbers[0] == numbers[1]
    message = fails(capsys, "evaluate", "new.h5", "jets.h5", "--out", "r", "--max-objects", "0")
    assert "--max-objects is 0, expected at least 1" in message


def test_the_training_the_protocol_and_the_device_are_taken(files, capsys):
    """The generated jets are those of the training, which the report then says."""
    write_jets(Path("seen.h5"), jets=500, seed=5)
    write_jets(Path("held-out.h5"), jets=450, seed=6)
    options = ("--fast", "--train", "seen.h5", "--protocol", "jetnet", "--device", "cpu")
    run("evaluate", "seen.h5", "held-out.h5", "--out", "report", *options)
    shown = capsys.readouterr()
    words = " ".join(shown.out.split())
    assert "looking for the nearest of 500 jets of the training" in words
    assert "Suspect: " in words
    assert "protocol jetnet: W1, coverage" in words
    assert "generated jets stand in the training, particle for particle" in shown.err
    run("info", "report")
    assert "Suspect" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--train", "no.h5"), "no.h5 does not exist"),
        (("--train", "report"), "report"),
        (("--protocol", "published"), "published"),
        (("--device", "gpu"), "--device is 'gpu', expected auto, cpu, cuda or cuda:<number>"),
    ],
)
def test_what_cannot_be_taken_is_refused(files, capsys, options, told):
    assert told in fails(capsys, *EVALUATE, *options)
    assert not Path("report").exists()


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ("w1m<1e-9", "setflow: w1m<1e-09 is required, and w1m is "),
        ("auc<0.7", "auc<0.7 is required, and auc_trees was not measured: needs at least 1,000 "),
    ],
)
def test_a_limit_that_is_not_kept_exits_with_1_and_leaves_the_report(files, capsys, limits, told):
    with pytest.raises(SystemExit) as stop:
        run(*EVALUATE, "--fast", "--require", limits)
    assert stop.value.code == 1
    shown = capsys.readouterr()
    assert told in shown.err
    assert "wrote report: " in shown.out
    assert Path("report/report.html").is_file()


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ("w1n<1", "there is no metric 'w1n' to require, expected one of: w1m, w1p"),
        ("w1m<little", "got 'w1m<little', expected a metric, < or >, and a number"),
        ("mmd<1", "there is no metric 'mmd' to require"),  # --fast does not measure it
    ],
)
def test_limits_that_cannot_be_are_refused_before_reading(files, capsys, monkeypatch, limits, told):
    monkeypatch.setattr("setflow.report.page.read_events", None)
    assert told in fails(capsys, *EVALUATE, "--fast", "--require", limits)
    assert not Path("report").exists()
