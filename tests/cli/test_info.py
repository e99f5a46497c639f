"""`setflow info`: what a file or folder is, where it came from, and what to do next."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

import setflow
from cli.shell import UNPHYSICAL, fails, run, write_jets
from data.formats.test_convert import FIVE
from data.formats.written import WRITTEN
from setflow.cli.arguments import parser
from setflow.jobs import score
from setflow.training.foreign import readable

pytestmark = UNPHYSICAL


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


def said(capsys, what: object) -> str:
    capsys.readouterr()
    run("info", what)
    out = capsys.readouterr().out
    assert len(out.splitlines()) <= 40
    for line in out.splitlines():
        if line.startswith("next: setflow "):
            words = shlex.split(line)[2:]
            if words[0] != "fit":
                parser().parse_args(words)
        elif not line.startswith("next: "):
            assert len(line) <= 100
    return " ".join(out.split())


def test_a_shipped_model_tells_what_its_card_says(folder, capsys):
    text = said(capsys, "top30")
    for part in (
        "its files are those of its manifest",
        "TransformerField, 248,070 parameters",
        "etarel, phirel [rad], ptrel",
        "at most 30, their number from EmpiricalCardinality",
        "bd93c4012872d2aa6d47dbf8ac82e19c35e3efd4e6eba5cfc462a6333900b2df",
        "147,000 jets, and 3,000 for validation",
        "next: setflow sample top30 --events",
        "next: setflow evaluate jets.h5 pythia-top/heldout.h5 --fast --out report",
    ):
        assert part in text


def test_a_model_of_ones_own_and_its_run(model, capsys):
    text = said(capsys, "runs/tiny/model")
    assert "150 jets for training: `jets.h5`" in text
    assert "next: setflow sample runs/tiny/model --events" in text
    assert "heldout" not in text  # nothing says that these are like its jets
    run_text = said(capsys, "runs/tiny")
    assert "the folder of a training; its model is runs/tiny/model" in run_text
    assert "next: setflow sample runs/tiny/model --events" in run_text


def test_a_model_that_was_changed_is_not_verified(model, capsys):
    with (model / "config.yaml").open("a") as file:
        file.write("# changed\n")
    assert "does not match its hash" in fails(capsys, "info", model)


def test_a_model_that_needs_context_says_so(folder, capsys):
    flow = setflow.SetFlow(
        setflow.TransformerField(3, hidden=8, layers=1, heads=1, condition_dim=1),
        scaler=setflow.data.Standardizer(3, mean=0, std=1),
        context_scaler=setflow.data.Standardizer(1, mean=0, std=1),
        conditions=["pt"],
    )
    text = said(capsys, flow.save(folder / "given"))
    assert "conditions pt [GeV]" in text
    assert "no p(N)" in text
    assert "--like JETS.h5" in text
    assert "not told, neither by the manifest nor by the card" in text


def test_jets_tell_ranges_and_origin(folder, capsys):
    text = said(capsys, "pythia-top/heldout.h5")
    for part in (
        "5,000 jets",
        "16 to 150 of a jet, 88.4 on average, in 150 slots",
        "recipe pythia-top: jets of hadronically decaying top quarks",
        "pt 800.43 to 1564.8 GeV",
    ):
        assert part in text
    text = said(capsys, "jets.h5")
    assert "200 jets, in the layout of JetNet" in text
    assert "does not say where it came from" in text
    assert "--data.train jets.h5" in text


def test_malformed_rows_are_counted(folder, capsys):
    with h5py.File("jets.h5", "r+") as file:
        file["jet_features"][3, 0] = np.nan
    assert "malformed 1 row: column 'pt' of jet_features holds nan" in said(capsys, "jets.h5")


@pytest.mark.usefixtures("no_pictures")
def test_samples_and_scores_tell_their_model(model, capsys, monkeypatch):
    sha256 = json.loads((model / "manifest.json").read_text())["files"]["weights.safetensors"]
    run("sample", model, "--events", 110, "--steps", 1, "--out", "new.h5", "--seed", 4)
    text = said(capsys, "new.h5")
    assert "jets that a model has sampled" in text
    assert sha256 in text
    for part in ("seed 4", "solver Midpoint(steps=1)", "evaluations 2", "jet pT"):
        assert part in text
    run("score", model, "jets.h5", "--events", 5, "--steps", 1, "--out", "scores.h5")
    text = said(capsys, "scores.h5")
    assert "log-densities of 5 jets" in text
    assert "5 of 5 rows" in text
    assert "[nat] log N!" in text
    assert sha256 in text
    run("evaluate", "new.h5", "jets.h5", "--fast", "--out", "report")
    text = said(capsys, "report")
    assert f"new.h5: 110 of 110 jets, weights sha256 {sha256}" in text
    assert "w1m: " in text

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(score, "mass_of_rows", stop)
    with pytest.raises(SystemExit):
        run("score", model, "jets.h5", "--events", 5, "--steps", 1, "--out", "more.h5")
    assert "not finished: 5 rows are done" in said(capsys, "more.h5.part")


def test_recipes_and_configurations(folder, capsys):
    assert "next: setflow dataset make pythia-quark" in said(capsys, "pythia-quark")
    text = said(capsys, "datasets/pythia-top/recipe.yaml")
    assert "pythia-top/train.h5: 10,000 jets, seed 1" in text
    text = said(capsys, "demo")
    assert "it has no weights" in text
    assert "max_steps" in text
    assert "next: setflow fit --config demo" in text
    assert "TransformerField" in said(capsys, "config.yaml")
    text = said(capsys, "models/ttbar-events/config.yaml")
    assert "angle phi, on a circle, its noise as wide as the training data; the field sees" in text


def make_damaged() -> None:
    write_jets(Path("whole.h5"))
    content = Path("whole.h5").read_bytes()
    Path("damaged.h5").write_bytes(content[: len(content) // 2])
    Path("text.h5").write_text("no jets")
    Path("list.yaml").write_text("[1, 2]")
    Path("empty").mkdir()
    with h5py.File("other.h5", "w") as file:
        file["x"] = [1.0]
    shutil.copytree("empty", "checkpoints")
    Path("checkpoints/last.ckpt").touch()
    os.mkfifo("pipe.yaml")
    Path("device.yaml").symlink_to("/dev/zero")
    with Path("hole.yaml").open("wb") as file:
        file.truncate(2**40)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nowhere", "there is no file or folder nowhere; the shipped models are top30"),
        ("top3", "did you mean top30?"),
        ("damaged.h5", "damaged"),
        ("text.h5", "is no HDF5 file"),
        ("other.h5", "has no dataset 'particle_features'"),
        ("list.yaml", "has no node model: flow:"),
        ("empty", "is a folder that holds nothing"),
        ("checkpoints/last.ckpt", "is a checkpoint"),
        ("pipe.yaml", "is a pipe, expected a regular file"),
        ("device.yaml", "is a device, expected a regular file"),
        ("hole.yaml", "has 1,099,511,627,776 bytes, expected at most"),
    ],
)
def test_anything_else_is_told_in_one_line(folder, capsys, what, message):
    make_damaged()
    error = fails(capsys, "info", what)
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_a_folder_of_runs_leads_to_the_newest(model, capsys):
    shutil.copytree("runs/tiny", "runs/second")
    Path("runs/other").mkdir()
    os.utime("runs/tiny", (1, 1))
    text = said(capsys, "runs")
    assert "runs, of 2 that setflow knows: second, tiny" in text
    assert "next: setflow info runs/second" in text


def test_a_file_without_events_leads_nowhere(folder, capsys):
    write_jets(Path("none.h5"), jets=0)
    text = said(capsys, "none.h5")
    assert "none, for there are no jets" in text
    assert "nan" not in text
    assert "next: " not in text


def test_a_configuration_of_another_format_is_told_by_what_was_converted(folder, capsys):
    """Without a conversion of its own, which may take hours."""
    WRITTEN["generic"](folder / "five.npz")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["train"] = "five.npz"
    config["data"]["format"] = {"name": "npy", "columns": list(FIVE), "mask": "field:mask"}
    node = config["model"]["flow"]["init_args"]
    node["field"]["init_args"]["dim"] = 5
    node.pop("features", None)
    node["scaler"] = {"class_path": "setflow.data.Standardizer", "init_args": {"dim": 5}}
    Path("five.yaml").write_text(yaml.safe_dump(config))
    message = fails(capsys, "info", "five.yaml")
    assert "five.npz is not converted yet; setflow fit does so once" in message
    readable("five.npz", config["data"]["format"])
    assert f"features {', '.join(FIVE)}" in said(capsys, "five.yaml")


def test_an_empty_file_is_called_empty(folder, capsys):
    Path("empty.h5").touch()
    for command in (("info", "empty.h5"), ("score", "top30", "empty.h5", "--out", "s.h5")):
        error = fails(capsys, *command)
        assert "empty.h5 is an empty file, of 0 bytes, expected an HDF5 file of events" in error
        assert error.strip().endswith("; fetch or make it again")


def test_a_model_for_samples_alone_is_called_so(capsys):
    text = said(capsys, "top30-two-stages")
    assert "densities none: the field is for samples alone" in text
    assert "made first mass_rel and pt_rel, by a model of their own" in text
    assert "leave out" not in text
