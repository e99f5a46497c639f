"""Files of the field, from the layout that people have to a report, by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

import setflow
from cli.shell import UNPHYSICAL, run
from data.formats.test_convert import FIVE
from data.formats.written import WRITTEN
from setflow.data import read_header

OPTIONS = {
    "jetnet": (),
    "jetnet_gzip": (),
    "no_jets": ("--format", "jetnet"),
    "int_mask": ("--format", "jetnet"),
    "fifth": (),
    "vlen": ("--format", "jetnet"),
    "offsets": ("--format", "ragged", "--columns", "etarel,phirel,ptrel"),
    "mpgan": ("--format", "mpgan"),
    "epic": ("--format", "epic"),
    "omnilearn": ("--format", "omnilearn"),
    "ftag": ("--format", "ftag", "--features", "etarel,phirel,d0"),
    "jetclass.root": ("--format", "jetclass"),
    "jetclass.parquet": ("--format", "jetclass"),
    "toptag": ("--format", "toptag"),
    "energyflow": ("--format", "energyflow"),
    "lhco": ("--format", "lhco", "--features", "pt,eta"),
    "calo": ("--format", "calo", "--shape", "23,16"),
    "generic": ("--format", "npy", "--columns", ",".join(FIVE), "--mask", "field:mask"),
    "no_mask": ("--format", "npy", "--columns", ",".join(FIVE), "--mask", "nonzero:a,b,c,d,e"),
}  # fmt: skip
BY_THE_SHELL = ("energyflow", "jetclass.root", "jetclass.parquet", "toptag", "omnilearn")


def config(dim: int, slots: int) -> None:
    """Write a small configuration for events of so many features and slots."""
    field = {"dim": dim, "hidden": 8, "layers": 1, "heads": 1}
    node = {
        "name": "small",
        "model": {
            "flow": {
                "class_path": "setflow.SetFlow",
                "init_args": {
                    "field": {"class_path": "setflow.TransformerField", "init_args": field},
                    "cardinality": {
                        "class_path": "setflow.EmpiricalCardinality",
                        "init_args": {"max_objects": slots},
                    },
                },
            }
        },
        "data": {"train": "ours.h5", "max_objects": slots, "batch_size": 54},
        "trainer": {"accelerator": "cpu", "max_steps": 2, "max_epochs": -1,
                    "enable_progress_bar": False, "log_every_n_steps": 1,
                    "check_val_every_n_epoch": None, "val_check_interval": 1},
    }  # fmt: skip
    Path("config.yaml").write_text(yaml.safe_dump(node))


def commands(name: str, path: str) -> list[tuple[str, ...]]:
    convert = ("dataset", "convert", path, *(OPTIONS[name] or ("--format", "jetnet")))
    return [
        (*convert, "--out", "ours.h5"),
        ("dataset", "check", "ours.h5"),
        ("fit", "--config", "config.yaml"),
        ("sample", "runs/small/model", "--events", "40", "--steps", "2", "--out", "made.h5"),
        ("score", "runs/small/model", "ours.h5", "--events", "4", "--steps", "1", "--solver",
         "euler", "--estimator", "hutchinson", "--probes", "1", "--out", "scores.h5"),
        ("evaluate", "made.h5", "ours.h5", "--events", "40", "--fast", "--out", "report"),
    ]  # fmt: skip


def width(name: str) -> tuple[int, int]:
    """Return the number of features and the most objects of a layout."""
    dim = {"lhco": 2, "generic": 5, "no_mask": 5}.get(name, 3)
    return dim, {"calo": 110, "generic": 20, "no_mask": 20}.get(name, 30)


def require_whole(name: str) -> None:
    assert read_header("ours.h5").n == 120
    made = read_header("made.h5")
    assert (made.n, len(made.features)) == (40, width(name)[0])
    with h5py.File("scores.h5") as file:
        assert np.isfinite(file["log_prob"][:]).all()
        assert len(file["log_prob"]) == 4
    told = json.loads(Path("report/metrics.json").read_text())
    assert told["reference"]["events"] == 40


def test_every_layout_is_met_whose_features_are_no_categories():
    assert [*OPTIONS] == [name for name in WRITTEN if name != "types"]
    assert set(BY_THE_SHELL) <= set(OPTIONS)


@UNPHYSICAL
@pytest.mark.filterwarnings("ignore:.*(converted in reading|fewer than 100|range of the training)")
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.usefixtures("no_pictures")
def test_from_the_file_to_the_report(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    path = WRITTEN[name](Path("theirs.h5"))
    config(*width(name))
    for words in commands(name, str(path)):
        run(*words)
    require_whole(name)


@pytest.mark.parametrize(
    "name", [BY_THE_SHELL[0], *(pytest.param(k, marks=pytest.mark.wide) for k in BY_THE_SHELL[1:])]
)
def test_by_the_shell(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = WRITTEN[name](Path("theirs.h5"))
    config(*width(name))
    root = Path(setflow.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    for words in commands(name, str(path)):
        done = subprocess.run(
            [sys.executable, "-m", "setflow.cli", *words],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stderr)
        assert "Traceback" not in done.stderr
    require_whole(name)
