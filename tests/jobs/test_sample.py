"""What a file of sampled jets says of itself."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
import yaml

import setflow
from cli.shell import write_jets
from each import each
from setflow.data import EventWriter, Standardizer, read_events
from setflow.jobs.sample import sample_to_hdf5
from setflow.report.page import evaluate
from setflow.schema import Feature, Schema


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
    assert json.loads(told.pop("manifest"))["stop"] == 6
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


def test_values_that_no_condition_can_have_are_refused_before_work(tmp_path: Path) -> None:
    schema = Schema(
        [Feature("x")],
        [
            Feature("kind", kind="category(a, b)"),
            Feature("phi", "rad", "angle"),
            Feature("share", kind="bounded(0, 1)"),
        ],
    )
    names = ["kind", "phi", "share"]
    field = setflow.TransformerField(1, condition_dim=5, hidden=8, layers=1, heads=1)
    cardinality = setflow.EmpiricalCardinality(3)
    flow = setflow.SetFlow(field, schema=schema, conditions=names, cardinality=cardinality)
    c = torch.stack([torch.arange(30) % 2, torch.linspace(-3, 3, 30), torch.rand(30)], -1)
    flow.fit_statistics(setflow.SetBatch(torch.randn(30, 3, 1), c=c)).eval()
    given: dict[str, Any] = {"kind": "a", "phi": 0.0, "share": 0.5}
    out, options = tmp_path / "a.h5", {"solver": setflow.Euler(1), "progress": False, "events": 2}
    for name, value, message in (
        ("kind", 7, "'kind' is 7, expected the code of a category: 0 for a, 1 for b"),
        ("share", 1.5, "'share' is 1.5, expected a finite value between 0 and 1"),
        ("phi", float("inf"), "'phi' is inf, expected radians"),
        ("phi", 90, "'phi' is 90, expected radians, such as 1.57; math.radians makes them of deg"),
    ):
        with pytest.raises(ValueError, match=message):
            sample_to_hdf5(flow, out, context={**given, name: value}, **options)
    sample_to_hdf5(flow, out, context={**given, "phi": 2 * math.pi + 1}, **options)
    assert read_events(out).context(["phi"])[:, 0].tolist() == pytest.approx([1, 1])
    like = tmp_path / "like.h5"
    wide = Schema(schema.objects, [*schema.event[:2], Feature("share")])
    with EventWriter(like, wide) as writer:
        writer.write(setflow.SetBatch(torch.zeros(2, 3, 1)), torch.tensor([[0, 0, 0.5], [1, 0, 2]]))
    with pytest.raises(ValueError, match=r"row 1, .*'share' .* holds 2, expected between 0 and 1"):
        sample_to_hdf5(flow, tmp_path / "b.h5", context=like, **options)
    with pytest.raises(ValueError, match="holds 2 events, and 9 are asked for"):
        sample_to_hdf5(flow, tmp_path / "b.h5", context=out, **options | {"events": 9})
