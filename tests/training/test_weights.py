"""Training with the weights of jets."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import setflow
from cli.shell import CONFIG, fails, run, write_jets
from setflow.cli.fit import fit
from setflow.training import SetDataModule

TIMES = np.arange(200) % 3 + 1


def add(path, weight, name="weight"):
    with h5py.File(path, "a") as file:
        file[name] = weight


@pytest.fixture
def folder(tmp_path, monkeypatch):
    import yaml

    monkeypatch.chdir(tmp_path)
    write_jets(Path("jets.h5"))
    write_jets(Path("val.h5"), jets=50, seed=9)
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


def test_weights_are_normalised_once_over_the_training_jets(folder):
    add("jets.h5", TIMES)
    data = SetDataModule("jets.h5", max_objects=8, weight="weight", val_fraction=0.3)
    train, val = data.train_events, data._val
    assert train.weight.mean().item() == pytest.approx(1, abs=1e-14)
    both = torch.cat([train.weight, val.weight]).unique() / train.weight.min()
    torch.testing.assert_close(both.double(), torch.tensor([1.0, 2, 3], dtype=torch.float64))
    batches = list(data.train_dataloader())
    for batch in batches:
        assert torch.equal(batch.events.weight, train.weight[batch.place])
    told = data.facts()["weights"]
    assert told.startswith("weight, worth ")
    assert told.endswith(f"0 of {len(train)} weights are negative")


def test_weights_that_do_not_sum_to_a_positive_number(folder):
    add("jets.h5", np.where(np.arange(200) % 2, 1.0, -1.0))
    add("val.h5", np.ones(50))
    data = SetDataModule("jets.h5", "val.h5", max_objects=8, weight="weight")
    with pytest.raises(ValueError, match=r"training jets: .*positive sum: 100 of 200 weights are"):
        data.setup("fit")


@pytest.mark.filterwarnings("ignore:.*holds weights of its jets")
def test_a_fit_with_weights_is_one_of_repeated_jets(folder, capsys):
    add("jets.h5", TIMES)
    add("val.h5", np.ones(50))
    with h5py.File("jets.h5") as file, h5py.File("many.h5", "w") as many:
        for key in ("particle_features", "jet_features"):
            many[key] = np.repeat(file[key][:], TIMES, axis=0)
    common = ["--config", "config.yaml", "--data.val", "val.h5", "--trainer.max_steps", "1",
              "--data.batch_size", "1000", "--trainer.val_check_interval", "1"]  # fmt: skip
    weighted = fit([*common, "--name", "w", "--data.weight", "weight"])
    repeated = fit([*common, "--name", "r", "--data.train", "many.h5"])
    one, other = (setflow.SetFlow.load(done.model) for done in (weighted, repeated))
    got, expected = one.cardinality.probabilities, other.cardinality.probabilities
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(one.scaler.mean, other.scaler.mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(one.scaler.std, other.scaler.std, rtol=1e-3, atol=0)
    card = (weighted.model / "README.md").read_text()
    assert "weights of the training jets: weight, worth" in card


@pytest.mark.filterwarnings("default:.*holds weights of its jets")
def test_unused_and_missing_weights_are_told_in_the_shell(folder, capsys):
    one = ("fit", "--config", "config.yaml", "--trainer.max_steps", 1,
           "--trainer.val_check_interval", 1)  # fmt: skip
    message = fails(capsys, *one, "--data.weight", "weight")
    assert "jets.h5 has no dataset 'weight' of weights" in message
    add("jets.h5", TIMES)
    run(*one)
    assert "jets.h5 holds weights of its jets that are not used (weight)" in capsys.readouterr().err
