"""What a file of sampled jets says of itself."""

from __future__ import annotations

import hashlib
import json

import h5py
import pytest
import yaml

import setflow
from cli.shell import write_jets
from each import each
from setflow.data import Standardizer
from setflow.jobs.sample import sample_to_hdf5
from setflow.report.page import evaluate


@pytest.fixture
def flow():
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1).float()
    scaler = Standardizer(3, mean=[0, 0, 0.5], std=[0.1, 0.1, 0.05])
    return setflow.SetFlow(
        field, scaler=scaler, cardinality=setflow.EmpiricalCardinality(counts=[0, 1, 1])
    )


def test_a_sample_says_which_model_made_it_and_how(flow, tmp_path):
    flow.save(tmp_path / "model")
    like = tmp_path / "like.h5"
    write_jets(like, jets=6, slots=2)
    out = sample_to_hdf5(
        flow, tmp_path / "s.h5", like=like, solver=setflow.RK4(3), seed=5, progress=False
    )
    manifest = json.loads((tmp_path / "model/manifest.json").read_text())
    config = yaml.safe_load((tmp_path / "model/config.yaml").read_text())
    with h5py.File(out) as file:
        told = dict(file.attrs)
    assert yaml.safe_load(told.pop("model")) == config["model"]["flow"]
    assert told == {
        "weights_sha256": manifest["files"]["weights.safetensors"],
        "conditions": "",
        "device": "cpu",
        "setflow_version": setflow.__version__,
        "seed": 5,
        "solver": "RK4(steps=3)",
        "evaluations": 12,
        "like": "like.h5",
        "like_sha256": hashlib.sha256(like.read_bytes()).hexdigest(),
        "layout": "jets",
        "layout_version": 1,
        "n": 6,
        "complete": True,
    }


@each(
    ("solver", "evaluations"),
    [(None, 100), (setflow.Euler(4), 4), (setflow.Heun(times=[1, 0.5, 0]), 4)],
)
def test_evaluations_are_those_of_the_field(solver, evaluations, flow, tmp_path):
    calls = []
    flow.field.register_forward_hook(lambda *_: calls.append(1))
    out = tmp_path / "s.h5"
    sample_to_hdf5(flow, out, events=1, solver=solver, overwrite=True, progress=False)
    with h5py.File(out) as file:
        assert file.attrs["evaluations"] == len(calls) == evaluations


def test_an_adaptive_solver_is_told_without_a_number(flow, tmp_path):
    out = sample_to_hdf5(flow, tmp_path / "s.h5", events=2, solver=setflow.Dopri5(), progress=False)
    with h5py.File(out) as file:
        assert "evaluations" not in file.attrs
        assert file.attrs["solver"].startswith("Dopri5(")


def test_a_report_says_which_model_made_the_jets(flow, tmp_path):
    generated = sample_to_hdf5(flow, tmp_path / "s.h5", events=120, progress=False)
    reference = tmp_path / "r.h5"
    write_jets(reference, jets=240, slots=2)
    with h5py.File(generated) as file:
        sha256 = file.attrs["weights_sha256"]
    report = evaluate(generated, reference, tmp_path / "report")
    told = json.loads((tmp_path / "report/metrics.json").read_text())
    assert told["generated"]["weights_sha256"] == sha256
    assert told["reference"]["weights_sha256"] is None
    assert sha256[:16] in report.table().caption
