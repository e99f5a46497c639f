"""The campaign for a GPU, rehearsed on a CPU: what is kept, what a cut leaves, and what lands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import setflow
from bench import zoo
from bench.campaign import __main__ as campaign
from bench.campaign import land, training
from bench.campaign.jets import decoded, encoded, packed, unpacked
from bench.campaign.record import Record, Stage
from setflow.data import Standardizer, read_jets

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "datasets/pythia-top/train.h5"


@pytest.fixture(autouse=True)
def _float32():
    torch.set_default_dtype(torch.float32)


def test_rounded_numbers_are_packed_exactly():
    """All mantissas of 12 bits in every octave that keeps them, and zero, with both signs."""
    mantissa = 1 + np.arange(4096) / 4096
    angles = np.concatenate([mantissa * 2.0**octave for octave in range(-5, 2)] + [np.zeros(1)])
    momenta = np.concatenate([mantissa * 2.0**octave for octave in range(-14, 1)] + [np.zeros(1)])
    for v, columns in ((angles, (0, 1)), (-angles, (0, 1)), (momenta, (2,))):
        x = np.zeros((len(v), 3), np.float32)
        x[:, columns] = v[:, None]
        np.testing.assert_array_equal(decoded(encoded(x)), x)


def test_small_numbers_are_packed_in_equal_steps():
    v = np.linspace(-(2.0**-5), 2.0**-5, 1001)
    x = np.stack([v, v, np.abs(v) * 2.0**-9], -1).astype(np.float32)
    assert np.abs(decoded(encoded(x)) - x)[:, :2].max() <= 2.0**-18
    assert np.abs(decoded(encoded(x)) - x)[:, 2].max() <= 2.0**-27


@pytest.mark.parametrize(
    ("value", "column"), [(4.0, 0), (-4.0, 1), (2.0, 2), (-1e-9, 2), (np.nan, 0), (np.inf, 2)]
)
def test_a_number_that_has_no_code_is_refused(value, column):
    x = np.zeros((2, 3), np.float32)
    x[1, column] = value
    with pytest.raises(ValueError, match=("etarel", "phirel", "ptrel")[column]):
        encoded(x)


def test_packed_jets_are_the_jets(tmp_path):
    packed(SAMPLE, tmp_path / "jets.h5")
    got, expected = unpacked(tmp_path / "jets.h5"), read_jets(SAMPLE, max_objects=30).particles
    assert torch.equal(got.mask, expected.mask)
    torch.testing.assert_close(got.x, expected.x, rtol=0, atol=2.0**-18)
    torch.testing.assert_close(got.x[..., 2], expected.x[..., 2], rtol=1e-12, atol=2.0**-27)
    assert (tmp_path / "jets.h5").stat().st_size < 1.1 * 180 * len(got)  # 30 x 3 x 16 bits a jet


def _campaign(out: Path, data: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.campaign", "--out", str(out), "--device", "cpu"]
    command += ["--data", str(data), *arguments]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.wide
def test_what_was_done_before_a_kill_stands(tmp_path):
    packed(SAMPLE, tmp_path / "jets.h5")
    out = tmp_path / "out"
    process = _campaign(out, tmp_path / "jets.h5", "--minutes", "3", "--stages", "training")
    deadline = time.monotonic() + 120
    while not (out / training.MODEL).is_file() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode != 0
    flow, config, story = land._carried(out / training.MODEL)
    assert flow.sample(3, seed=1, solver=setflow.Midpoint(2)).x.isfinite().all()
    assert config["model"]["flow"] == flow.describe()
    assert "1,500 jets" in story[0]
    numbers = json.loads((out / "numbers.json").read_text())
    assert numbers["stages"]["training"]["rows"][0]["parameters"] > 1e6
    assert "jets_per_second" in (out / "training.md").read_text()
    assert numbers["stages"]["training"]["status"] == "interrupted"
    assert "| training | interrupted |" in (out / "report.md").read_text()
    assert len(list(out.iterdir())) <= 8


def test_a_short_rehearsal_runs_every_stage_and_leaves_its_files(tmp_path):
    """A stage that has too little time is cut off, and says so, and the next one runs."""
    packed(SAMPLE, tmp_path / "jets.h5")
    out = tmp_path / "out"
    process = _campaign(out, tmp_path / "jets.h5", "--minutes", "1")
    told = process.communicate(timeout=240)[0]
    report, numbers = (
        (out / "report.md").read_text(),
        json.loads((out / "numbers.json").read_text()),
    )
    ended = {name: numbers["stages"][name]["status"] for name in campaign.MODULES}
    assert set(ended.values()) <= {"done", "cut off"}, told + (out / "log.txt").read_text()
    assert process.returncode == int("cut off" in ended.values())
    for name, status in ended.items():
        assert f"| {name} | {status} |" in report
        assert f"{name}: {status}" in told
    files = {path.name for path in out.iterdir()}
    tables = {f"{name}.md" for name, status in ended.items() if status == "done"}
    assert {"report.md", "numbers.json", "log.txt", "training.md", *tables} <= files
    assert len(files) <= 8
    assert numbers["carried_megabytes"] < 60


def test_what_a_stage_leaves_unused_goes_to_the_training():
    end, seconds = time.time() + 500, campaign._SECONDS["cuda"]
    assert campaign._deadline("training", ["speeds"], end, seconds) == pytest.approx(end - 110)
    assert campaign._deadline("training", [], end, seconds) == end
    soon = pytest.approx(time.time() + 60, abs=5)
    assert campaign._deadline("smoke", ["training"], end, seconds) == soon
    assert campaign._deadline("smoke", [], end, seconds) == end


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "smoke,trainig"], "there is no stage 'trainig'"),
        (["--stages", "training"], "make campaign-data"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is(tmp_path, arguments, message):
    process = _campaign(tmp_path / "out", tmp_path / "no jets.h5", *arguments)
    assert message in process.communicate(timeout=60)[0]
    assert process.returncode
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_not_written_to(tmp_path):
    (tmp_path / "mine").write_text("mine")
    process = _campaign(tmp_path, tmp_path / "no jets.h5", "--stages", "smoke")
    assert "not empty" in process.communicate(timeout=60)[0]
    assert process.returncode
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.fixture
def stage(tmp_path) -> Stage:
    return Stage("training", tmp_path, "cpu", time.time() + 600, tmp_path / "jets.h5", 0.01)


def test_rows_of_a_kind_form_one_table(stage):
    record = Record(stage, "Title")
    record.add(a=1, b=0.123456)
    record.add(a=2, b=1e-9)
    record.add(c="x")
    record.note("said")
    expected = ["# Title", "", "| a | b |", "| --- | --- |", "| 1 | 0.1235 |", "| 2 | 1e-09 |", ""]
    expected += ["| c |", "| --- |", "| x |", "", "- said"]
    assert (stage.out / "training.md").read_text().splitlines() == expected
    part = json.loads((stage.out / "numbers.json").read_text())["stages"]["training"]
    assert part == {"rows": record.rows, "notes": ["said"]}


@pytest.fixture
def step(stage, monkeypatch) -> training.Step:
    torch.manual_seed(0)
    batch = read_jets(SAMPLE, stop=256, max_objects=30).particles
    size = training.Size(32, 1)
    flow = setflow.SetFlow(
        size.field(), scaler=Standardizer(3), cardinality=setflow.EmpiricalCardinality(30)
    )
    return training.Step(size, training.Jets(flow, batch, "cpu"), 64, compiled=False)


def test_steps_at_rate_zero_leave_the_weights(step):
    """Warming up and timing is done so."""
    before = [weight.detach().clone() for weight in step.weights]
    assert step.jets_per_second(0.05) > 0
    assert step.count >= 2
    for weight, old in zip(step.weights, before, strict=True):
        assert torch.equal(weight, old)


def test_steps_train_and_the_average_follows(step):
    losses, average = [], [weight.detach().clone() for weight in step.weights]
    for _ in range(60):
        step(5e-3)
        losses.append(float(step.loss))
        for mean, weight in zip(average, step.weights, strict=True):
            mean.lerp_(weight.detach(), 1 - training.DECAY)
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    torch.testing.assert_close(step.average, average)
    step.forget()
    assert all(torch.equal(w, a) for w, a in zip(step.weights, step.average, strict=True))


def test_training_goes_on_from_good_weights(step):
    for _ in range(20):
        step(5e-3)
    good = [weight.detach().clone() for weight in step.weights]
    assert step.is_finite()
    with torch.no_grad():
        step.weights[3].fill_(torch.nan)
    step(5e-3)
    assert not step.is_finite()
    step.start_from(good)
    assert step.is_finite()
    torch.testing.assert_close(step.average, good)
    first = float(step.draw_loss().detach())
    for _ in range(20):
        step(5e-3)
    assert step.is_finite()
    assert float(step.loss) < 1.2 * first


def test_every_jet_stands_in_an_epoch_once(step):
    jets = step.jets
    jets._order = jets._order[:0]
    seen = torch.cat([jets.rows(64) for _ in range(4)])
    assert torch.equal(seen.sort().values, torch.arange(256))


def _flow(path: Path, spoil: float) -> setflow.SetFlow:
    """Return `models/top30` with noise of so much on its weights."""
    flow = setflow.SetFlow.load(ROOT / "models/top30")
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in flow.field.parameters():
            weight.add_(spoil * torch.randn_like(weight))
    return flow


def test_the_better_model_lands_and_the_worse_does_not(tmp_path):
    config = yaml.safe_load((ROOT / "models/top30/config.yaml").read_text())
    model = tmp_path / "top30"
    bad, good = _flow(tmp_path, 0.05), _flow(tmp_path, 0.0)
    assert "landed" in land.land_model(bad, config, ["told"], model, 100)[-1]
    card = (model / "README.md").read_text()
    assert "- told" in card
    assert "**Fidelity.** Poor: " in card
    assert zoo.written(card, "").count("**Limits.**") == 1  # make zoo-eval can write it anew
    lines = land.land_model(good, config, [], model, 100)
    assert lines[-1].startswith("landed")
    assert "a factor of 0." in lines[0]
    assert "a factor of 0." in lines[1]
    kept = (model / "weights.safetensors").read_bytes()
    lines = land.land_model(bad, config, [], model, 100)
    assert lines[-1].startswith("not landed")
    assert (model / "weights.safetensors").read_bytes() == kept
