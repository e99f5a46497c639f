"""Every command finds the columns of its files by name, and tells what is wrong in one line."""

from __future__ import annotations

import json
import math
import re
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

import setflow
from cli.shell import CONFIG, UNPHYSICAL, fails, run
from setflow.data import read_jets

pytestmark = UNPHYSICAL
ORDER = ["ptrel", "etarel", "phirel"]
PARTICLE, JET = ["etarel", "phirel", "ptrel", "mask"], ["pt", "eta", "mass", "num_particles"]


def rewrite(source: str, out: str, *, dtype: str = "f4", **columns: list[str]) -> None:
    """Copy a file of jets, with its columns in another order and dtype, and named."""
    with h5py.File(source) as file, h5py.File(out, "w") as new:
        for key, layout in (("particle_features", PARTICLE), ("jet_features", JET)):
            names = columns.get(key, layout)
            new[key] = file[key][:][..., [layout.index(name) for name in names]].astype(dtype)
            new[key].attrs["features"] = names


@pytest.fixture
def renamed(folder):
    """A configuration whose model has its features in another order, and a file in a third one."""
    rewrite(
        "jets.h5", "other.h5", dtype=">f8",
        particle_features=["mask", "phirel", "ptrel", "etarel"],
        jet_features=["mass", "num_particles", "pt", "eta"],
    )  # fmt: skip
    config = json.loads(json.dumps(CONFIG))
    flow = config["model"]["flow"]["init_args"]
    flow |= {"features": ORDER, "conditions": ["mass", "pt"]}
    flow["scaler"]["init_args"]["kinds"] = ["positive", "real", "real"]
    flow["field"]["init_args"]["condition_dim"] = 2
    Path("config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.mark.usefixtures("no_pictures")
def test_a_model_with_other_names_goes_from_fit_to_evaluate(renamed, capsys):
    for name in ("jets", "other"):
        run("fit", "--config", "config.yaml", "--name", name, "--data.train", f"{name}.h5")
    one, other = (setflow.SetFlow.load(f"runs/{name}/model") for name in ("jets", "other"))
    assert one.features == other.features == tuple(ORDER)
    for key, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value, rtol=1e-5, atol=1e-6)
    jets = read_jets("jets.h5")
    real = jets.particles.x[jets.particles.mask]
    assert one.scaler.mean[1:].tolist() == pytest.approx(real[:, :2].mean(0).tolist(), abs=0.02)
    assert one.context_scaler.mean[1] == pytest.approx(jets.jets[:, 0].mean().item(), rel=0.01)

    for like in ("jets", "other"):
        run("sample", "runs/jets/model", "--like", f"{like}.h5", "--events", 30, "--steps", 2,
            "--out", f"like-{like}.h5")  # fmt: skip
    sampled, same = (read_jets(f"like-{k}.h5", keep_unphysical=True) for k in ("jets", "other"))
    torch.testing.assert_close(sampled.particles.x, same.particles.x)
    expected = one.sample(
        30, jets.context(["mass", "pt"])[:30], lengths=jets.particles.lengths[:30],
        solver=setflow.Midpoint(2),
    )  # fmt: skip
    by_name = expected.x[..., [ORDER.index(name) for name in PARTICLE[:3]]]
    torch.testing.assert_close(sampled.particles.x, by_name)

    scores = []
    for data in ("jets", "other"):
        run("score", "runs/jets/model", f"{data}.h5", "--events", 9, "--steps", 2,
            "--out", f"{data}-scores.h5")  # fmt: skip
        with h5py.File(f"{data}-scores.h5") as file:
            scores.append(file["log_prob"][:])
            assert "ptrel, etarel, phirel [rad]" in file["log_prob"].attrs["meaning"]
    assert np.isfinite(scores[0]).all()
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-5)

    metrics = []
    for data in ("jets", "other"):
        run(
            "evaluate",
            "like-jets.h5",
            f"{data}.h5",
            "--events",
            30,
            "--fast",
            "--out",
            f"to-{data}",
        )
        metrics.append(json.loads(Path(f"to-{data}/metrics.json").read_text())["metrics"])
    for name, result in metrics[0].items():
        assert metrics[1][name]["value"] == pytest.approx(result["value"], rel=1e-6), name
    capsys.readouterr()
    run("info", "other.h5")
    text = " ".join(capsys.readouterr().out.split())
    assert "particle_features: mask, phirel, ptrel, etarel" in text
    assert "pt 1000" in text


def test_a_run_of_other_names_trains_again_from_what_it_wrote(renamed):
    run("fit", "--config", "config.yaml", "--trainer.max_epochs", "1")
    run("fit", "--resume", "--name", "tiny", "--trainer.max_epochs", "2")
    run("fit", "--config", "runs/tiny/config.yaml", "--name", "again")
    run("fit", "--init", "runs/tiny/model", "--name", "more")
    assert setflow.SetFlow.load("runs/more/model").features == tuple(ORDER)


def test_a_name_that_is_not_there_ends_every_command_before_its_work(renamed, capsys):
    run("fit", "--config", "config.yaml", "--trainer.max_epochs", "1")
    model = "runs/tiny/model"
    rewrite("jets.h5", "lacks.h5")
    with h5py.File("lacks.h5", "r+") as file:
        file["particle_features"].attrs["features"] = ["etarel", "phirel", "pt_rel", "mask"]
    told = "no column 'ptrel', which is asked for; it holds etarel, phirel, pt_rel, mask; did whoe"
    fit = ("fit", "--config", "config.yaml", "--name", "never", "--data.train")
    assert told in fails(capsys, *fit, "lacks.h5")
    assert told in fails(capsys, *fit, "jets.h5", "--data.val", "lacks.h5")
    assert told in fails(capsys, "score", model, "lacks.h5", "--out", "a.h5")
    assert told in fails(capsys, "evaluate", "lacks.h5", "jets.h5", "--out", "a")
    assert told in fails(capsys, "evaluate", "jets.h5", "lacks.h5", "--out", "a")
    rewrite("jets.h5", "nojets.h5", jet_features=["eta", "pt"])
    told = "jet_features has no column 'mass', which is asked for; it holds eta, pt"
    assert told in fails(capsys, *fit, "nojets.h5")
    assert told in fails(capsys, "score", model, "nojets.h5", "--out", "a.h5")
    assert told in fails(capsys, "sample", model, "--like", "nojets.h5", "--out", "a.h5")
    for name in ("runs/never", "a.h5", "a"):
        assert not Path(name).exists()


@pytest.mark.usefixtures("no_pictures")
def test_jets_without_features_are_trained_on_and_scored(folder, capsys):
    with h5py.File("jets.h5", "r+") as file:
        del file["jet_features"]
    run("fit", "--config", "config.yaml", "--trainer.max_epochs", "1")
    run("sample", "runs/tiny/model", "--like", "jets.h5", "--steps", 1, "--out", "new.h5")
    run("score", "runs/tiny/model", "jets.h5", "--events", 5, "--steps", 1, "--out", "s.h5")
    run("evaluate", "new.h5", "jets.h5", "--fast", "--out", "report")
    run("info", "jets.h5")
    assert "5 of 5 rows" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "told"), [
    ("ptrel", "holds 900, expected above 0 and at most 2; is it in units of the jet pT?"),
    ("mask", "column 'ptrel' holds 0, expected above 0 and at most 2; it is all 0: is it padding?"),
    ("num_particles", "of jet_features holds 0.5, the mask says"),
])  # fmt: skip
@pytest.mark.usefixtures("no_pictures")
def test_what_cannot_be_is_told_and_left_out_or_counted(model, capsys, kind, told):
    with h5py.File("jets.h5") as file:
        particles, jets = file["particle_features"][:], file["jet_features"][:]
    bad = int((jets[:, 3] < 8).nonzero()[0][0])
    if kind == "ptrel":
        particles[bad, 0, 2] = 900
    elif kind == "mask":
        particles[bad, :, 3] = 1
    else:
        jets[bad, 3] = 0.5
    with h5py.File("bad.h5", "w") as file:
        file["particle_features"], file["jet_features"] = particles, jets
    again = ("fit", "--config", "config.yaml", "--name", "again", "--data.train", "bad.h5")
    assert told in fails(capsys, *again)
    assert told in fails(capsys, "evaluate", "jets.h5", "bad.h5", "--out", "a")
    events = bad + 2
    run("score", model, "bad.h5", "--events", events, "--steps", 1, "--out", "s.h5")
    with h5py.File("s.h5") as file:
        reasons = file["reason"].asstr()[:]
        assert told in reasons[bad]
        assert np.isfinite(file["log_prob"][:]).sum() == events - 1
    run("info", "bad.h5")
    out = " ".join(capsys.readouterr().out.split())
    assert "malformed 1 row: " in out
    assert told in out
    run("evaluate", "bad.h5", "jets.h5", "--fast", "--out", "report")
    metrics = json.loads(Path("report/metrics.json").read_text())
    counts = {"ptrel": {"ptrel": 1}, "mask": {"ptrel": 8 - int(jets[bad, 3])}}
    assert metrics["unphysical"] == counts.get(kind, {})
    assert any("that cannot be" in note or "cannot be:" in note for note in metrics["notes"]) == (
        kind != "num_particles"
    )
    assert math.isfinite(metrics["metrics"]["w1m"]["value"])


@pytest.mark.usefixtures("no_pictures")
def test_a_sample_that_cannot_be_is_written_and_told(folder, capsys):
    scaler = setflow.data.Standardizer(3, mean=[0, 0, 0.0], std=[1, 1, 1])
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1)
    counts = setflow.EmpiricalCardinality(counts=[0, 0, 1])
    setflow.SetFlow(field, scaler=scaler, cardinality=counts).save("model")
    sample = ("sample", "model", "--events", 20, "--steps", 1, "--out", "new.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        run(*sample)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(
        r"setflow: warning: the model made particles that cannot be: \d+ values of ptrel that are "
        "not above 0 and at most 2. They stand in new.h5 as they are",
        line,
    )
    x = read_jets("new.h5", keep_unphysical=True).particles.x
    assert (x[..., 2] <= 0).any()
    run("info", "new.h5")
    assert "values of ptrel that are not above 0" in " ".join(capsys.readouterr().out.split())
    run("evaluate", "new.h5", "jets.h5", "--fast", "--out", "report")
    told = json.loads(Path("report/metrics.json").read_text())
    assert told["unphysical"]["ptrel"] == int(((x[..., 2] <= 0) | (x[..., 2] > 2)).sum())
    assert "are kept in the comparison" in " ".join(told["notes"])
    assert "are kept in the comparison" in capsys.readouterr().err
