"""The table of ablations in small: every row runs, rows are kept, and cost is what it says."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
import torch

from bench.ablations import runs
from bench.ablations.rows import ROWS, PaddedEncoder, contexts_of
from bench.ablations.runs import SHIPPED, CpuTimer, Settings, run, table, trial
from laws.laws import redraw
from setflow.data import read_jets


@pytest.fixture
def _float32():
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_float32")
def test_every_row_runs_and_stands_in_the_table():
    made = trial(seconds=0.05, samples=20)
    for name, row in ROWS.items():
        assert f"| {name} | 8 | " in made
        assert f"- {name}: {row.what}" in made
    for truth in ("floor", "particles shuffled", "ptrel swapped"):
        assert f"| *{truth}* |" in made
    assert " nan" not in made


@pytest.mark.usefixtures("_float32")
def test_a_run_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    settings = Settings(str(SHIPPED), 0.05, jets=300, samples=20, held_out=40, evaluations=(2, 4))
    trained = []
    monkeypatch.setattr(
        runs,
        "_trained",
        lambda row, seed, *_: (
            trained.append((row.what, seed))
            or {
                "what": row.what,
                "steps": 10 * seed,
                "metrics": {n: {"w1m": [1e-3 * seed, 1e-4]} for n in ("2", "4")},
                "machine": ["here"],
            }
        ),
    )
    assert run(settings, ["base"], [1], tmp_path) == ["base-1"]
    assert run(settings, ["base", "event"], [1, 3], tmp_path) == ["event-1", "base-3", "event-3"]
    assert run(settings, ["base", "event"], [1, 3], tmp_path) == []
    assert len(trained) == 4
    assert "| base | 4 | 20 | 2 | 2.00 ± 1.00 |" in table(tmp_path)
    other = Settings(str(SHIPPED), 0.1, jets=300, samples=20, held_out=40, evaluations=(2, 4))
    with pytest.raises(ValueError, match="rows with another seconds, with which no row compares"):
        run(other, ["base"], [1], tmp_path)
    told = json.loads((tmp_path / "base-1.json").read_text())
    assert told["settings"]["data"] == "train.h5"


def test_a_table_needs_rows(tmp_path):
    with pytest.raises(ValueError, match="holds no rows; run them first"):
        table(tmp_path)


def test_trainings_are_bounded_by_the_time_of_the_process():
    timer, trainer = CpuTimer(0.2), SimpleNamespace(should_stop=False)
    trainer.strategy = SimpleNamespace(broadcast=lambda value: value)
    assert timer.time_remaining() == 0.2
    timer.on_train_start(trainer, None)
    time.sleep(0.25)  # costs nothing
    timer.on_train_batch_end(trainer)
    assert not trainer.should_stop
    start = time.process_time()
    while time.process_time() < start + 0.2:
        pass
    timer.on_train_batch_end(trainer)
    assert trainer.should_stop


def test_contexts_are_those_of_the_particles_that_are_kept():
    jets = read_jets(SHIPPED, stop=50, max_objects=3).particles
    got = contexts_of(jets).c
    p = jets.x.double()[0][jets.mask[0]]
    functions = ((torch.cosh, 0), (torch.cos, 1), (torch.sin, 1), (torch.sinh, 0))
    four = torch.stack([(p[:, 2] * f(p[:, k])).sum() for f, k in functions])
    mass = (four[0] ** 2 - (four[1:] ** 2).sum()).sqrt()
    expected = torch.stack([mass, p[:, 2].sum()]).to(got)
    torch.testing.assert_close(got[0], expected, rtol=1e-5, atol=0)


def test_the_plain_encoder_does_not_see_what_stands_in_padding():
    field = redraw(PaddedEncoder(3)).double().eval()
    mask = torch.arange(6) < torch.tensor([[1], [3], [6]])
    x, t = torch.randn(3, 6, 3), torch.rand(3)
    other = torch.where(mask[..., None], x, 7.0)
    torch.testing.assert_close(field(other, t, mask=mask)[mask], field(x, t, mask=mask)[mask])
