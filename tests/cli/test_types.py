"""Objects of several types by the shell alone: jets with their particle types, and whole events."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

import setflow
from cli.shell import CONFIG, UNPHYSICAL, fails, run, write_jets
from setflow.data import EventWriter, read_events, read_jets
from setflow.report import figures, type_figures
from setflow.schema import PARTICLE_TYPES, Feature, Schema

EVENTS = Schema(
    [
        Feature("pt", "GeV", "positive"),
        Feature("mass", "GeV", "positive", absent=["lepton", "met"]),
        Feature("kind", kind="category(lepton, jet, met)"),
        Feature("charge", kind="category(none, minus, plus)"),
    ],
    [Feature("m_tt", "GeV")],
    order_by="pt",
)


def write_types(path, codes=(1, 2, 3)):
    """Give the particles of a file types, a few of each."""
    with h5py.File(path, "r+") as file:
        mask = file["particle_features"][..., 3] > 0
        rng = np.random.default_rng(1)
        types = np.where(mask, rng.choice(codes, mask.shape), 0)
        file.create_dataset("particle_type", data=types.astype("i1"))


def write_events(path, n=200, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, n)
    mask = np.arange(6) < lengths[:, None]
    kind = rng.choice(2, (n, 6))
    kind[:, 0] = 2
    charge = np.where(kind == 0, rng.choice([1, 2], (n, 6)), 0)
    mass = np.where(kind == 1, rng.exponential(10, (n, 6)) + 1, 0)
    x = np.stack([rng.exponential(50, (n, 6)) + 20, mass, kind, charge], -1).astype("f4")
    with EventWriter(path, EVENTS, objects=6) as writer:
        writer.write(setflow.SetBatch(x, mask), rng.normal(400, 50, (n, 1)).astype("f4"))


def configuration(dim, **flow):
    config = json.loads(json.dumps(CONFIG))
    arguments = config["model"]["flow"]["init_args"]
    arguments.pop("scaler")
    arguments["field"]["init_args"]["dim"] = dim
    arguments["cardinality"]["class_path"] = "setflow.EmpiricalComposition"
    arguments.update(flow)
    config["model"]["coupling"] = "event"
    return config


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    return tmp_path


@UNPHYSICAL
def test_jets_with_particle_types_go_from_fit_to_score(folder, capsys):
    write_jets(Path("jets.h5"))
    write_types("jets.h5")
    Path("config.yaml").write_text(yaml.safe_dump(configuration(3)))
    run("fit", "--config", "config.yaml")
    flow = setflow.SetFlow.load("runs/tiny/model")
    assert flow.features == ("etarel", "phirel", "ptrel", "type")
    assert flow.cardinality.types == len(PARTICLE_TYPES) - 1
    assert flow.field.object_condition_dim == len(PARTICLE_TYPES) - 1
    capsys.readouterr()
    run("info", "runs/tiny/model")
    told = " ".join(capsys.readouterr().out.split())
    assert "types photon (" in told
    assert "charged hadron + (" in told
    assert "muon" not in told
    assert "photon (" in Path("runs/tiny/model/README.md").read_text()

    run("sample", "runs/tiny/model", "--events", "40", "--out", "made.h5", "--steps", "3")
    made = read_jets("made.h5", with_types=True, keep_unphysical=True)
    assert made.particle_type.dtype == torch.int8
    real = made.particles.mask
    assert set(made.particle_type[real].tolist()) == {1, 2, 3}
    assert (made.particle_type[~real] == 0).all()
    run(
        "score", "runs/tiny/model", "jets.h5", "--events", "8", "--out", "scores.h5", "--steps", "3"
    )
    sample = read_events("jets.h5", features=flow.features, stop=8)
    with torch.no_grad():
        expected = flow.log_prob(sample.objects, solver=setflow.RK4(3))
    with h5py.File("scores.h5") as file:
        np.testing.assert_allclose(file["log_prob"][:], expected.numpy(), rtol=1e-4)
        assert "photon" in file["log_prob"].attrs["meaning"]
        assert "log n_k!" in file["ordering"].attrs["meaning"]
    run("sample", "runs/tiny/model", "--like", "jets.h5", "--out", "like.h5", "--steps", "2")
    like = read_jets("like.h5", keep_unphysical=True)
    assert torch.equal(like.particles.lengths, read_jets("jets.h5").particles.lengths)


FEW = (
    "--data.batch_size", "32", "--trainer.max_steps", "4", "--trainer.val_check_interval", "2",
    "--model.flow.init_args.field.init_args", "{dim: 3, hidden: 16, layers: 1, heads: 2}",
)  # fmt: skip


@UNPHYSICAL
def test_the_shipped_configuration_goes_from_fit_to_a_report(folder, monkeypatch, capsys):
    drawn = []
    for module, name in ((figures, "draw_jets"), (type_figures, "draw_types")):
        monkeypatch.setattr(module, name, lambda *_, of=name, **__: drawn.append(of) or {})
    run("fit", "--config", "top30-types", "--name", "few", *FEW)
    flow = setflow.SetFlow.load("runs/few/model")
    assert flow.types.types.names == tuple(kind.name for kind in PARTICLE_TYPES[1:])
    run("sample", "runs/few/model", "--events", "120", "--out", "made.h5", "--steps", "2")
    run(
        "score",
        "runs/few/model",
        "pythia-top/heldout.h5",
        "--events",
        "4",
        "--out",
        "s.h5",
        "--steps",
        "2",
    )
    capsys.readouterr()
    run("evaluate", "made.h5", "pythia-top/heldout.h5", "--events", "120", "--fast", "--out", "r")
    told = capsys.readouterr().out
    assert "W1 n photon" in told
    assert "W1 jet charge" in told
    held = json.loads(Path("r/metrics.json").read_text())
    assert {"w1m", "w1_n_photon", "w1_n_muon_minus", "w1_charge", "w1_ptrel_photon"} <= set(
        held["metrics"]
    )
    assert drawn == ["draw_jets", "draw_types"]
    assert {"w1_ptrel_muon_plus", "w1_ptrel_muon_minus"} & set(held["missing"])  # few have one


@UNPHYSICAL
def test_a_type_that_training_never_saw_has_no_score_and_the_reason(folder, capsys):
    write_jets(Path("jets.h5"))
    write_types("jets.h5")
    write_jets(Path("other.h5"), jets=5)
    write_types("other.h5", codes=(2, 2, 2, 2, 2, 2, 7))
    Path("config.yaml").write_text(yaml.safe_dump(configuration(3)))
    run("fit", "--config", "config.yaml")
    run("score", "runs/tiny/model", "other.h5", "--out", "scores.h5", "--steps", "2")
    with h5py.File("scores.h5") as file:
        reasons = [text.decode() for text in file["reason"][:]]
    assert "" in reasons
    why = "'type' of a particle is 6 (muon -), which is none of the types that the training had: ph"
    assert any(reason.startswith(why) for reason in reasons)
    write_jets(Path("plain.h5"))
    capsys.readouterr()
    error = fails(capsys, "score", "runs/tiny/model", "plain.h5", "--out", "more.h5")
    assert "has no dataset 'particle_type'" in error


def test_events_of_typed_objects_with_absent_features(folder, capsys):
    write_events("events.h5")
    config = configuration(2, conditions=["m_tt"])
    config["model"]["flow"]["init_args"]["cardinality"] = {
        "class_path": "setflow.ConditionalComposition",
        "init_args": {"max_objects": 6, "hidden": 8},
    }
    config["data"] |= {"train": "events.h5", "max_objects": 6}
    Path("config.yaml").write_text(yaml.safe_dump(config))
    run("fit", "--config", "config.yaml")
    flow = setflow.SetFlow.load("runs/tiny/model")
    assert flow.features == ("pt", "mass", "kind", "charge")
    assert flow.schema == EVENTS
    assert [flow.types.types.names[k] for k in flow.scaler.occurring] == [
        "lepton, charge=minus", "lepton, charge=plus", "jet, charge=none", "met, charge=none",
    ]  # fmt: skip
    run(
        "sample", "runs/tiny/model", "--condition", "m_tt=400", "--events", "30", "--out",
        "made.h5", "--steps", "3",
    )  # fmt: skip
    made = read_events("made.h5", features=flow.features)
    x, mask = made.objects.x, made.objects.mask
    jet = x[..., 2] == 1
    assert (x[..., 1][mask & ~jet] == 0).all()
    assert (x[..., 1][mask & jet] > 0).all()
    assert (x[..., 3] == x[..., 3].round()).all()
    assert made.schema.object("mass").absent == ("lepton", "met")
    run("score", "runs/tiny/model", "made.h5", "--out", "scores.h5", "--steps", "3")
    with h5py.File("scores.h5") as file:
        assert np.isfinite(file["log_prob"][:]).all()
    capsys.readouterr()
    run("info", "runs/tiny/model")
    assert "mass in lepton, met" in " ".join(capsys.readouterr().out.split())


def test_a_mass_for_an_object_that_has_none_is_refused(folder, capsys):
    write_events("events.h5")
    with h5py.File("events.h5", "r+") as file:
        x = file["objects"][:]
        x[3, 0, 1] = 5  # of missing momentum
        file["objects"][:] = x
        mask = file["mask"][:]
        mask[3, 0] = True
        file["mask"][:] = mask
    config = configuration(2)
    config["data"] |= {"train": "events.h5", "max_objects": 6}
    Path("config.yaml").write_text(yaml.safe_dump(config))
    error = fails(capsys, "fit", "--config", "config.yaml")
    assert "column 'mass' holds 5, expected 0: no lepton and no met has one" in error


def test_types_of_events_that_are_not_in_memory(folder, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    write_events("events.h5")
    config = configuration(2)
    config["data"] |= {"train": "events.h5", "max_objects": 6, "in_memory": False}
    Path("config.yaml").write_text(yaml.safe_dump(config))
    run("fit", "--config", "config.yaml")
    flow = setflow.SetFlow.load("runs/tiny/model")
    assert "jet, charge=none" in flow.scaler.occurred
    assert flow.cardinality.is_fitted
    run("sample", "runs/tiny/model", "--events", "20", "--out", "made.h5", "--steps", "2")
    run("score", "runs/tiny/model", "made.h5", "--out", "scores.h5", "--steps", "2")
    with h5py.File("scores.h5") as file:
        assert np.isfinite(file["log_prob"][:]).all()
