"""Whole events by the shell: simulated, looked at, compared with the shipped ones, and as ROOT."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from cli.shell import run
from setflow.report import collision_figures


def test_from_the_recipe_to_a_report(tmp_path, monkeypatch, capsys):
    for package in ("pythia8mc", "fastjet", "uproot"):
        pytest.importorskip(package, reason="needs `pip install 'setflow[pythia,root]'`")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(collision_figures, "draw_collisions", lambda *_, **__: {"ht": Figure()})
    torch.set_default_dtype(torch.float32)
    run("dataset", "make", "pythia-ttbar-events", "--events", 60, "--seed", 7, "--out", "a.h5")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("wrote a.h5: 60 events")
    assert lines[-1] == "next: setflow info a.h5"
    run("info", "a.h5")
    told = " ".join(capsys.readouterr().out.split())
    assert "a.h5, 60 events, in the layout of setflow, version 2" in told
    assert "missing_momentum" in told
    assert "too_few_objects" in told
    run("dataset", "check", "a.h5")
    assert capsys.readouterr().out.splitlines()[-1].split() == ["wrong", "nothing"]
    run("evaluate", "a.h5", "pythia-ttbar-events/heldout.h5", "--events", 60, "--out", "report")
    held = json.loads(Path("report/metrics.json").read_text())
    assert {"w1_n_jet", "w1_ht", "w1_top_mass", "w1_delta_r"} <= set(held["metrics"])
    assert held["unphysical"] == {}
    capsys.readouterr()
    run("dataset", "convert", "a.h5", "--out", "a.root")
    assert "wrote a.root: 60 events" in capsys.readouterr().out
