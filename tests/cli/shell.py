"""A small configuration, jets for it, and commands run as a shell runs them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

import setflow.cli
from setflow.cli import main

# a model that has hardly been trained makes a few particles with a ptrel above 2
UNPHYSICAL = pytest.mark.filterwarnings("ignore:the model made particles that cannot be")

CONFIG = {
    "seed_everything": 3,
    "name": "tiny",
    "model": {
        "flow": {
            "class_path": "setflow.SetFlow",
            "init_args": {
                "field": {
                    "class_path": "setflow.TransformerField",
                    "init_args": {"dim": 3, "hidden": 16, "layers": 1, "heads": 2},
                },
                "scaler": {
                    "class_path": "setflow.data.Standardizer",
                    "init_args": {"kinds": ["real", "real", "positive"]},
                },
                "cardinality": {
                    "class_path": "setflow.EmpiricalCardinality",
                    "init_args": {"max_objects": 8},
                },
            },
        },
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
    },
    "data": {"train": "jets.h5", "max_objects": 8, "batch_size": 32, "val_fraction": 0.25},
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 2,
        "enable_progress_bar": False,
        "log_every_n_steps": 2,
        "gradient_clip_val": 1.0,
        "callbacks": [
            {
                "class_path": "setflow.training.MovingAverage",
                "init_args": {"decay": 0.9},
            }
        ],
    },
}


def write_jets(path: Path, jets: int = 200, slots: int = 8, seed: int = 0) -> None:
    """A JetNet file without anything of ours in it: two datasets, no attributes."""
    rng = np.random.default_rng(seed)
    n = rng.integers(1, slots + 1, jets)
    mask = np.arange(slots) < n[:, None]
    x = np.stack(
        [
            0.1 * rng.standard_normal((jets, slots)),
            0.1 * rng.standard_normal((jets, slots)),
            np.sort(rng.dirichlet(np.full(slots, 0.7), jets) + 1e-4)[:, ::-1],
            mask,
        ],
        -1,
    )
    x[..., :3] *= mask[..., None]
    features = np.stack(
        [1000 + 50 * rng.random(jets), rng.standard_normal(jets), 100 * rng.random(jets), n], -1
    )
    with h5py.File(path, "w") as file:
        file.create_dataset("particle_features", data=x.astype("f4"))
        file.create_dataset("jet_features", data=features.astype("f4"))


def run(*arguments: str) -> None:
    main([str(argument) for argument in arguments])


def fails(capsys, *arguments: str) -> str:
    """Run a command that must fail, without a traceback; return what it says."""
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def make_all_but_part_one(arguments: list[str]) -> None:
    """Be one of several processes of a command, of which the second is killed."""
    if arguments[arguments.index("--part") + 1] == "1/2":
        os.kill(os.getpid(), signal.SIGKILL)
    setflow.cli._make_part(arguments)
