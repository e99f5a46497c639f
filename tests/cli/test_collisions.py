"""Whole events by the shell: simulated, looked at, compared with the shipped ones, and as ROOT."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from cli.shell import run
from setflow.data import read_events
from setflow.report import collision_figures
from setflow.schema import COLLISIONS, OBJECT_TYPES

FEW = (
    "--data.batch_size", 32, "--trainer.max_steps", 4, "--trainer.val_check_interval", 2,
    "--model.flow.init_args.field.init_args",
    "{dim: 4, object_condition_dim: 16, hidden: 16, layers: 1, heads: 2, angles: [2],"
    " relative_angles: [2]}",
    "--model.flow.init_args.cardinality.init_args.condition_dim", 6,
)  # fmt: skip


def test_a_model_of_whole_events(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    conditions = ("--model.flow.init_args.conditions", "[class, ht]")
    run("fit", "--config", "ttbar-events", "--name", "few", *FEW, *conditions)
    run(
        "sample", "runs/few/model", "--condition", "class=all_hadronic:30,dileptonic:30,ht=800",
        "--steps", 2, "--seed", 5, "--out", "e.h5",
    )  # fmt: skip
    assert read_events("e.h5", conditions=["ht"]).context(["ht"]).unique().tolist() == [800]
    capsys.readouterr()
    run("info", "runs/few/model")
    told = " ".join(capsys.readouterr().out.split())
    assert "angle phi, on a circle, its noise uniform; the field sees its differences" in told
    run("dataset", "check", "e.h5")
    assert capsys.readouterr().out.splitlines()[-1].split() == ["wrong", "nothing"]
    names = [feature.name for feature in COLLISIONS.objects]
    objects = read_events("e.h5", features=names).objects
    x, mask = objects.x, objects.mask
    kind, mass, eta = (x[..., names.index(name)] for name in ("type", "mass", "eta"))
    jet, missing = (OBJECT_TYPES.index(name) for name in ("jet", "missing_momentum"))
    assert torch.equal(mass[mask] > 0, kind[mask] == jet)  # all others have none
    assert (eta[mask & (kind == missing)] == 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        run("score", "runs/few/model", "e.h5", "--events", 5, "--steps", 2, "--out", "s.h5")
    assert "conditioned on ht, which the objects determine" in capsys.readouterr().err
    with h5py.File("s.h5") as file:
        assert np.isfinite(file["log_prob"][:5]).all()


def test_from_the_recipe_to_a_report(tmp_path, monkeypatch, capsys):
    for package in ("pythia8mc", "fastjet", "uproot"):
        pytest.importorskip(package, reason="needs `pip install 'setflow[pythia,root]'`")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(collision_figures, "draw_collisions", lambda *_, **__: {"ht": Figure()})
    torch.set_default_dtype(torch.float32)
    run("dataset", "make", "pythia-ttbar-events", "--events", 60, "--seed", 7, "--out", "a.h5")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("wrote a.h5: 60 events")
    assert lines[-1] == "next: setflow fit --config ttbar-events --data.train a.h5 --name a"
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
