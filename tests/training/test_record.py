"""What an exported card and its manifest say of the training."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml

import setflow
from cli.shell import CONFIG, write_jets
from setflow.cli.fit import fit
from setflow.training import ExportBestModel
from setflow.training.record import command_line, lines_of


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jets(Path("jets.h5"))
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


def trained(*arguments: str) -> tuple[dict, str]:
    """Train, and return the facts of the manifest and the card in one line."""
    model = fit(["--config", "config.yaml", *arguments]).model
    manifest = json.loads((model / "manifest.json").read_text())
    return manifest["training"], " ".join((model / "README.md").read_text().split())


def sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_card_says_what_the_model_was_trained_on_and_how(folder):
    told, card = trained("--trainer.log_every_n_steps=1")
    assert told["train"] == {"file": "jets.h5", "sha256": sha256("jets.h5"), "jets": 150}
    assert told["validation"] == {"jets": 50}
    assert (told["steps"], told["epochs"], told["batch_size"], told["seed"]) == (10, 2, 32, 3)
    assert told["average"] == "MovingAverage, decay 0.9"
    assert told["versions"]["setflow"] == setflow.__version__
    assert told["hardware"]["processes"] == 1
    assert told["command"] == "setflow fit --config config.yaml --trainer.log_every_n_steps=1"
    assert 0 < told["seconds"] < 60
    text = Path("runs/tiny/csv/version_0/metrics.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    losses = {int(row["step"]) + 1: float(row["val_flow_loss"])
              for row in rows if row["val_flow_loss"]}  # fmt: skip
    best = min(losses, key=losses.get)
    assert told["best_step"] == best
    assert told["best_val_flow_loss"] == pytest.approx(losses[best])
    assert told["last_losses"]["val_flow_loss"] == pytest.approx(losses[10])
    last = [float(row["train_flow_loss"]) for row in rows if row["train_flow_loss"]][-1]
    assert told["last_losses"]["train_flow_loss"] == pytest.approx(last)
    for part in (
        "150 jets for training: `jets.h5`",
        f"sha256 `{sha256('jets.h5')[:16]}`",
        "50 jets for validation, held out of the same file",
        "10 steps of 32 sets (2 epochs), in 0:0",
        f"weights: moving average (MovingAverage, decay 0.9) of those of step {best}",
        f"versions: setflow {setflow.__version__}, Python 3",
        "command: `setflow fit --config config.yaml",
    ):
        assert part in card
    assert str(folder) not in card


def test_a_validation_file_is_named_with_its_hash(folder):
    write_jets(Path("val.h5"), jets=40, seed=1)
    told, card = trained("--data.val", str(folder / "val.h5"))
    assert told["train"]["jets"] == 200
    assert told["validation"] == {"file": "val.h5", "sha256": sha256("val.h5"), "jets": 40}
    assert "40 jets for validation: `val.h5`" in card
    assert str(folder) not in json.dumps(told) + card


def test_an_average_of_others_is_named_too(folder):
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    theirs = "lightning.pytorch.callbacks.EMAWeightAveraging"
    config["trainer"]["callbacks"][0]["class_path"] = theirs
    Path("config.yaml").write_text(yaml.safe_dump(config))
    told, card = trained("--trainer.max_epochs", "1")
    assert told["average"] == "EMAWeightAveraging"
    assert "moving average (EMAWeightAveraging) of those of step" in card


def test_weights_that_nothing_validated_have_a_card_too(folder):
    told, card = trained("--trainer.max_steps", "2")
    assert told["chosen"] == "the last ones, not validated"
    assert "best_step" not in told
    assert "Not validated" in card
    assert "2 steps of 32 sets (0.4 epochs)" in card


def test_a_resumed_run_counts_the_time_before_it_stopped(folder, monkeypatch):
    monkeypatch.setattr(ExportBestModel, "seconds", 1000.0)
    trained("--trainer.max_epochs", "1")
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    told, _ = trained("--trainer.max_epochs", "2", "--resume")
    assert 1000 < told["seconds"] < 1060
    assert told["steps"] == 10


def test_facts_that_are_not_known_are_left_out():
    lines = lines_of({"steps": 1, "epochs": 1, "seconds": 4.0, "chosen": "the last ones"})
    assert lines == ["1 step (1 epoch), in 0:04", "weights: the last ones"]


def test_a_command_line_shows_no_folders_of_a_machine():
    text = command_line(["--config=/home/me/c.yaml", "--data.train", "/data/a b.h5", "--lr", "1"])
    assert text == "setflow fit --config=c.yaml --data.train 'a b.h5' --lr 1"
    assert not re.search("home|data/", text)
