"""Commands on files of which a part is read at a time."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import setflow
from cli.shell import fails, run, write_jets
from cli.test_resuming import BY_STEPS, FIT, assert_same, stopped
from setflow.data import reader
from setflow.jobs import score
from setflow.jobs.sample import sample_to_hdf5
from setflow.report import page
from setflow.training import sources, streaming

STREAMED = "--data.in_memory=false"


@pytest.fixture
def parts(folder, monkeypatch):
    """The folder of `fit`, with a cache of its own, and blocks of a few jets."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(sources, "BLOCK_BYTES", 8 * 8 * 4 * 4)
    monkeypatch.setattr(streaming, "WINDOW", 3)
    return folder


@pytest.mark.parametrize("step", [0, 6, 9])
def test_a_stopped_training_goes_on_as_if_it_had_not_been(parts, monkeypatch, capsys, step):
    run(*FIT, *BY_STEPS, STREAMED, "--name", "whole")
    options = (*BY_STEPS, STREAMED, "--name", "broken")
    assert stopped(monkeypatch, capsys, signal.SIGTERM, step, *options)[0] == 143
    run(*FIT, *options)
    assert_same("whole", "broken")
    run(*FIT, *BY_STEPS, STREAMED, "--data.workers=1", "--name", "worked")
    assert_same("whole", "worked")
    told = fails(capsys, *FIT, *BY_STEPS, "--name", "broken", "--trainer.max_steps=20")
    assert "data.in_memory is False there and None now" in told


def test_the_card_tells_the_fingerprint_and_the_selection(parts):
    chosen = ("--data.select=pt > 1010", "--data.train=jets.h5[0:150]")
    run(*FIT, STREAMED, *chosen, "--name", "chosen")
    facts = json.loads(Path("runs/chosen/model/manifest.json").read_text())["training"]
    assert len(facts["train"]["fingerprint"]) == 64
    assert facts["train"]["rows"] == [0, 150]
    assert facts["select"] == "pt > 1010"
    with h5py.File("jets.h5") as file:
        taken = int((file["jet_features"][:150, 0] > 1010).sum())
    assert facts["train"]["jets"] + facts["validation"]["jets"] == taken
    assert (
        "`jets.h5`, rows 0 to 150, fingerprint `" in Path("runs/chosen/model/README.md").read_text()
    )


def test_a_selection_that_is_none_is_refused_before_anything_is_read(parts, capsys):
    told = fails(capsys, *FIT, "--data.select=pt > 1 or pt < 2")
    assert "has an `or` or a `not`, and only `and` joins conditions" in told


def flow_of(conditions=("pt",)):
    torch.manual_seed(0)
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1, condition_dim=len(conditions))
    flow = setflow.SetFlow(
        field, conditions=conditions, cardinality=setflow.EmpiricalCardinality(8)
    )
    data = setflow.data.read_jets("jets.h5")
    events = setflow.SetBatch(data.particles.x, data.particles.mask, data.context(conditions))
    return flow.fit_statistics(events)


MADE = "ignore:the model made particles that cannot be"


def opened(monkeypatch):
    """Notes how often each file is opened."""
    found = []
    ordinary = h5py.File.__init__

    def noted(self, name, *arguments, **options):
        if isinstance(name, (str, Path)):
            found.append(Path(name).name)
        ordinary(self, name, *arguments, **options)

    monkeypatch.setattr(h5py.File, "__init__", noted)
    return found


@pytest.mark.filterwarnings(MADE)
def test_score_opens_its_file_a_few_times_however_many_blocks_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jets(Path("jets.h5"), jets=60)
    flow = flow_of()
    counts = []
    for block in (60, 4):
        monkeypatch.setitem(score.BLOCK_ROWS, "cpu", block)
        with monkeypatch.context() as patch:
            found = opened(patch)
            score.score_to_hdf5(
                flow, "jets.h5", f"{block}.h5", solver=setflow.Euler(steps=1), progress=False
            )
        counts.append(found.count("jets.h5"))
    assert counts[0] == counts[1] > 0
    with h5py.File("60.h5") as one, h5py.File("4.h5") as other:
        np.testing.assert_allclose(one["log_prob"][:], other["log_prob"][:], rtol=1e-5)


@pytest.mark.filterwarnings(MADE)
def test_sample_like_holds_numbers_and_contexts_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jets(Path("jets.h5"), jets=60)
    read = []
    ordinary = reader.EventReader.read
    monkeypatch.setattr("setflow.data.rows.BLOCK_BYTES", 8 * 8 * 4 * 4)

    def noted(self, start=0, stop=None):
        read.append(stop - start)
        return ordinary(self, start, stop)

    flow = flow_of()
    monkeypatch.setattr(reader.EventReader, "read", noted)
    sample_to_hdf5(flow, "made.h5", like="jets.h5", progress=False)
    assert sum(read) == 60
    assert max(read) <= 8
    with h5py.File("made.h5") as made, h5py.File("jets.h5") as jets:
        numbers = made["particle_features"][..., 3].sum(1)
        assert numbers.tolist() == jets["jet_features"][:, 3].tolist()
        np.testing.assert_allclose(made["context"][:, 0], jets["jet_features"][:, 0])


def test_evaluate_reads_no_more_than_it_compares(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jets(Path("a.h5"), jets=300, seed=1)
    write_jets(Path("b.h5"), jets=500, seed=2)
    read = []
    ordinary = page.read_events

    def noted(path, *arguments, stop, **options):
        read.append((Path(path).name, stop))
        return ordinary(path, *arguments, stop=stop, **options)

    monkeypatch.setattr(page, "read_events", noted)
    report = page.evaluate("a.h5", "b.h5", "report", events=100)
    assert read == [("a.h5", 100), ("b.h5", 200)]
    assert (report.generated.events, report.generated.available) == (100, 300)
    assert (report.reference.events, report.reference.available) == (100, 500)
    assert not report.floor.scaled
    page.evaluate("a.h5", "b.h5", "whole")
    assert read[2:] == [("a.h5", 300), ("b.h5", 500)]
