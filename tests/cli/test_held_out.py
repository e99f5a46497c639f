"""Nothing of the held-out jets enters a model: it is the same whatever stands in their file."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from cli.shell import CONFIG, UNPHYSICAL, run, write_jets

TRAIN, HELD_OUT = Path("datasets/tiny/train.h5"), Path("datasets/tiny/heldout.h5")
EARLY_STOPPING = {
    "class_path": "lightning.pytorch.callbacks.EarlyStopping",
    "init_args": {"monitor": "val_loss", "patience": 2},
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A data set like a shipped one, and a training that scales, stops early and selects."""
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    TRAIN.parent.mkdir(parents=True)
    config = copy.deepcopy(CONFIG)
    config["data"]["train"] = str(TRAIN)
    config["trainer"]["callbacks"].append(EARLY_STOPPING)
    config["trainer"]["max_epochs"] = 4
    Path("config.yaml").write_text(yaml.safe_dump(config))
    write_jets(TRAIN, seed=1)
    return tmp_path


def judged() -> dict[str, object]:
    """Train, sample and evaluate; return all that was made, the numbers of the report apart."""
    shutil.rmtree("runs", ignore_errors=True)
    run("fit", "--config", "config.yaml")
    run("sample", "runs/tiny/model", "--events", 40, "--steps", 2, "--out", "new.h5", "--force")
    made: dict[str, object] = {}
    model = Path("runs/tiny/model")
    made["weights"] = (model / "weights.safetensors").read_bytes()
    made["config"] = (model / "config.yaml").read_bytes()
    told = json.loads((model / "manifest.json").read_text())["training"]
    made["losses"] = {key: value for key, value in told.items() if "loss" in key or key == "steps"}
    with h5py.File("new.h5") as file:
        made["jets"] = file["particle_features"][:].tobytes()
    return made


@UNPHYSICAL
def test_the_held_out_file_changes_the_report_and_nothing_else(files):
    made, numbers = [], []
    for seed, jets, scale in ((2, 200, 1.0), (3, 90, 0.3)):
        write_jets(HELD_OUT, jets=jets, seed=seed)
        with h5py.File(HELD_OUT, "a") as file:
            file["particle_features"][..., :2] *= scale
        made.append(judged())
        run("evaluate", "new.h5", HELD_OUT, "--out", "report", "--force", "--fast")
        numbers.append(json.loads(Path("report/metrics.json").read_text())["metrics"])
    assert made[0] == made[1]
    assert numbers[0]["w1m"]["value"] != numbers[1]["w1m"]["value"]

    HELD_OUT.unlink()  # a training that does not miss it has not read it
    assert judged() == made[0]

    write_jets(TRAIN, seed=4)  # what is compared is not the same by itself
    changed = judged()
    assert all(changed[name] != made[0][name] for name in ("weights", "losses", "jets"))


@UNPHYSICAL
def test_no_file_but_that_of_the_training_is_opened(files, monkeypatch):
    write_jets(HELD_OUT, seed=2)
    opened = set()
    original = h5py.File.__init__

    def watched(self, name, *arguments, **options):
        opened.update([Path(name).name] if isinstance(name, (str, Path)) else [])
        original(self, name, *arguments, **options)

    monkeypatch.setattr(h5py.File, "__init__", watched)
    run("fit", "--config", "config.yaml")
    assert opened == {"train.h5"}


@UNPHYSICAL
def test_a_validation_file_selects_and_neither_trains_nor_scales(files):
    """Weights of the last step, and statistics, are those of the training jets alone."""
    last = []
    for seed in (5, 6):
        write_jets(Path("val.h5"), seed=seed)
        shutil.rmtree("runs", ignore_errors=True)
        run("fit", "--config", "config.yaml", "--data.val", "val.h5", "--trainer.max_epochs", "2")
        (checkpoint,) = Path("runs/tiny").rglob("last.ckpt")
        state = torch.load(checkpoint, weights_only=False)["state_dict"]
        last.append({name: value.numpy() for name, value in state.items()})
    assert last[0].keys() == last[1].keys()
    for name, value in last[0].items():
        np.testing.assert_array_equal(value, last[1][name], err_msg=name)


@UNPHYSICAL
def test_what_was_trained_on_is_named_beside_what_was_held_out(files, monkeypatch, capsys):
    """So that copies are looked for; where the jets of a sample are like those of a file, not."""
    write_jets(HELD_OUT, jets=200, seed=2)
    names = {f"tiny/{file.name}": file.resolve() for file in (TRAIN, HELD_OUT)}
    monkeypatch.setattr("setflow.cli.endings.paths", lambda kind: names)
    run("fit", "--config", "config.yaml")
    capsys.readouterr()
    run("sample", "runs/tiny/model", "--events", 40, "--steps", 2, "--out", "new.h5")
    asked = "tiny/heldout.h5 --train tiny/train.h5 --fast --out "
    assert f"next: setflow evaluate new.h5 {asked}new-report" in capsys.readouterr().out
    run("info", "runs/tiny/model")
    assert asked in " ".join(capsys.readouterr().out.split())
    run("sample", "runs/tiny/model", "--like", TRAIN, "--steps", 2, "--out", "more.h5")
    assert "--train" not in capsys.readouterr().out
