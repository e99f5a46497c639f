"""Scores of a file: row for row, by name, with a reason where there is none, kill or no kill."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

import setflow
from setflow.data import EventWriter, JetWriter, SetBatch, Standardizer, read_jets
from setflow.data.hdf5 import screen_events
from setflow.data.header import read_header, require_objects
from setflow.data.reader import EventReader
from setflow.jobs import missing
from setflow.jobs import score as scoring
from setflow.jobs.contexts import asked_for
from setflow.jobs.identity import described
from setflow.jobs.score import score_to_hdf5
from setflow.model import missing_mass
from setflow.model.density import wrapped_share
from setflow.model.folder import describe_model
from setflow.report.page import evaluate
from setflow.schema import RELATIVE_JET_UNITS, Feature, Schema
from setflow.solvers import IntegrationError

NATS = ("log_prob", "objects", "scaling", "ordering", "cardinality", "standard_error")
COLUMNS = (*NATS, "n_objects", "reason")
ROWS, SLOTS, LARGEST = 23, 7, 5
EULER = setflow.Euler(2)
HUTCHINSON = setflow.HutchinsonDivergence(2)


def make_jets(path: Path, rows: int = ROWS, **attributes: Any) -> Path:
    """Jets with holes, an empty one and one that fills its slots, and rubbish in the padding."""
    rng = np.random.default_rng(5)
    particles = rng.normal(0, 0.3, (rows, SLOTS, 4))
    particles[..., 2] = np.exp(rng.normal(-2, 1, (rows, SLOTS)))
    particles[..., 3] = rng.random((rows, SLOTS)) < rng.random((rows, 1))
    if rows:
        particles[0, :, 3], particles[-1, :, 3] = 1, 0
    particles[particles[..., 3] == 0, :3] = np.nan
    jets = rng.uniform(1, 2, (rows, 4))
    jets[:, 3] = particles[..., 3].sum(1)
    with h5py.File(path, "w") as file:
        file["particle_features"] = particles.astype("f4")
        file["jet_features"] = jets.astype("f4")
        file.attrs.update(attributes)
    return path


def make_flow(conditions: tuple[str, ...] = (), *, seed: int = 0) -> setflow.SetFlow:
    """A model with parameters drawn anew, which knows up to five particles but never four."""
    flow = setflow.SetFlow(
        setflow.TransformerField(3, hidden=8, layers=1, heads=2, condition_dim=len(conditions)),
        scaler=Standardizer(kinds=["real", "real", "positive"]),
        cardinality=setflow.EmpiricalCardinality(LARGEST),
        conditions=conditions,
        context_scaler=(
            Standardizer(kinds=["positive", "real"][: len(conditions)], mean=0, std=1)
            if conditions
            else None
        ),
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
        flow.scaler.mean.copy_(torch.tensor([0.1, -0.1, -2.0]))
        flow.scaler.std.copy_(torch.tensor([0.3, 0.4, 0.9]))
    flow.cardinality.fit(torch.tensor([0, 1, 2, 2, 3, 3, 3, 5]))
    return flow.eval()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_jets(tmp_path / "jets.h5")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five blocks: four of five rows and one of three."""
    monkeypatch.setitem(scoring.BLOCK_ROWS, "cpu", 5)


def score(flow: setflow.SetFlow, data: Path, out: Path, **options: Any) -> dict[str, Any]:
    options = {"solver": EULER, "progress": False, **options}
    return read(score_to_hdf5(flow, data, out, **options))


def read(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        assert tuple(file) == tuple(sorted(COLUMNS))
        columns = {name: file[name][:] for name in NATS}
        columns["n_objects"] = file["n_objects"][:]
        columns["reason"] = file["reason"].asstr()[:]
        return columns


def why_unscored(got: dict[str, Any]) -> Any:
    """Return the reasons but those of rows with log p = -inf, whose number cannot occur."""
    return np.where(np.isneginf(got["log_prob"]), "", got["reason"])


def assert_same_bits(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name in COLUMNS:
        assert np.array_equal(one[name], other[name], equal_nan=name in NATS), name


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- what the columns are ------------------------------------------------------------------------


@pytest.mark.parametrize("conditions", [(), ("pt", "mass")])
def test_each_term_against_its_definition(tmp_path: Path, data: Path, conditions: Any) -> None:
    flow = make_flow(conditions)
    got = score(flow, data, tmp_path / "s.h5")
    sample = read_jets(data, max_objects=LARGEST)
    x, mask = sample.particles.x.to(torch.get_default_dtype()), sample.particles.mask
    c = None
    if conditions:
        pt, mass = sample.jets[:, 0], sample.jets[:, 2]
        c = torch.stack([pt.log(), mass], -1).to(x)  # this context scaler has mean 0, deviation 1
    base = setflow.StandardNormal((3,))
    z = torch.where(mask[..., None], x, 1.0)
    z = torch.stack([z[..., 0], z[..., 1], z[..., 2].log()], -1)
    z = (z - flow.scaler.mean) / flow.scaler.std
    with torch.no_grad():
        objects = setflow.masked_log_prob(
            flow.field, base, EULER, z, mask, c=c, estimator=setflow.ExactDivergence()
        )
    slope = -x[..., 2].log() - flow.scaler.std.log().sum()  # of log ptrel, and of the scaling
    expected = {
        "objects": objects,
        "scaling": torch.where(mask, slope, 0.0).sum(-1),
        "ordering": torch.lgamma(mask.sum(-1) + 1.0),
        "cardinality": torch.tensor([1, 1, 2, 3, 0, 1]).div(8).log()[mask.sum(-1)],
        "standard_error": torch.zeros(ROWS),
    }
    expected["log_prob"] = sum(expected[name] for name in NATS[1:5])
    for name in NATS:
        np.testing.assert_allclose(got[name], expected[name].numpy(), rtol=1e-6, atol=1e-6)
    assert got["n_objects"].tolist() == mask.sum(-1).tolist()
    assert set(why_unscored(got)) == {""}
    assert np.ptp(got["objects"]) > 1


def test_jets_are_cut_to_the_hardest_that_the_model_knows(tmp_path: Path, data: Path) -> None:
    cut = read_jets(data, max_objects=LARGEST)
    assert (read_jets(data).particles.lengths > LARGEST).sum() > 1
    with JetWriter(tmp_path / "cut.h5", objects=LARGEST) as writer:
        writer.write(cut.particles, cut.jets)
    got = score(make_flow(), data, tmp_path / "s.h5")
    assert_same_bits(got, score(make_flow(), tmp_path / "cut.h5", tmp_path / "t.h5"))
    assert got["n_objects"].max() == LARGEST


def test_a_number_that_the_model_has_never_seen_has_no_probability(
    tmp_path: Path, data: Path
) -> None:
    got = score(make_flow(), data, tmp_path / "s.h5")
    four = got["n_objects"] == 4
    assert 0 < four.sum() < ROWS
    assert (got["log_prob"][four] == -np.inf).all()
    assert (got["cardinality"][four] == -np.inf).all()
    assert np.isfinite(got["objects"]).all()
    assert np.isfinite(got["log_prob"][~four]).all()
    assert set(got["reason"][~four]) == {""}
    assert set(got["reason"][four]) == {"the model gives this number of objects no probability"}


def test_a_model_without_cardinality_scores_given_the_number(tmp_path: Path, data: Path) -> None:
    flow = make_flow()
    with_number = score(flow, data, tmp_path / "s.h5", events=9)
    flow.cardinality = None
    got = score(flow, data, tmp_path / "t.h5", events=9)
    assert len(got["reason"]) == 9
    assert (got["cardinality"] == 0).all()
    assert got["n_objects"].max() == SLOTS, "nothing is cut"
    whole = got["n_objects"] <= LARGEST
    np.testing.assert_allclose(got["objects"][whole], with_number["objects"][whole], rtol=1e-12)
    with h5py.File(tmp_path / "t.h5") as file:
        assert "given its number" in file["log_prob"].attrs["meaning"]


def test_attributes_say_what_it_is_and_how_it_came_about(tmp_path: Path, data: Path) -> None:
    flow = make_flow(("pt",))
    flow.save(tmp_path / "model")
    score(flow, data, tmp_path / "s.h5", estimator=HUTCHINSON, events=3, seed=7)
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    with h5py.File(tmp_path / "s.h5") as file:
        attributes = dict(file.attrs)
        meanings = {name: file[name].attrs["meaning"] for name in COLUMNS}
        units = {name: file[name].attrs["unit"] for name in COLUMNS}
    assert json.loads(attributes.pop("manifest"))["stop"] == 3
    assert yaml.safe_load(attributes.pop("model")) == describe_model(flow, fitted=False)
    assert "HutchinsonDivergence" in (estimator := attributes.pop("estimator"))
    assert "rademacher" in estimator
    assert attributes.pop("missing_mass") == 0
    for name in ("standard_error", "events", "meaning"):
        attributes.pop(f"missing_mass_{name}")
    assert "2" in estimator
    assert attributes == {
        "layout": "scores",
        "weights_sha256": manifest["files"]["weights.safetensors"],
        "conditions": "pt",
        "data": "jets.h5",
        "data_sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
        "events": 3,
        "cut_to": 5,
        "kept": "the 5 particles of a jet with the largest ptrel",
        "rows": "jets",
        "solver": "Euler(steps=2)",
        "seed": 7,
        "device": "cpu",
        "setflow_version": setflow.__version__,
        "n": 3,
        "complete": True,
    }
    assert units == dict.fromkeys(NATS, "nat") | {"n_objects": "", "reason": ""}
    assert meanings["log_prob"].startswith("log p(N, {x_1 .. x_N} | c), the density of the set")
    assert "etarel, phirel [rad], ptrel" in meanings["log_prob"]
    assert "ordered tuple of scaled features" in meanings["objects"]
    assert meanings["cardinality"].startswith("log p(N | c)")


def test_a_file_without_rows(tmp_path: Path) -> None:
    data = make_jets(tmp_path / "none.h5", rows=0)
    got = score(make_flow(), data, tmp_path / "s.h5")
    assert all(len(got[name]) == 0 for name in COLUMNS)


# --- rows that cannot be scored ------------------------------------------------------------------

ETA, PHI, PT, MASK = range(4)


@pytest.mark.parametrize(
    ("dataset", "where", "value", "reason"),
    [
        ("particle_features", ETA, np.nan, "particle 0, column 'etarel' holds nan though"),
        ("particle_features", PT, np.inf, "particle 0, column 'ptrel' holds inf though"),
        ("particle_features", MASK, 0.5, "particle 0, column 'mask' holds 0.5, expected 1"),
        ("particle_features", MASK, np.nan, "particle 0, column 'mask' holds nan"),
        ("particle_features", PHI, 4.0, "particle 0, column 'phirel' holds 4, expected radians"),
        ("particle_features", PT, 0.0, "particle 0, column 'ptrel' holds 0, expected above 0"),
        ("particle_features", PT, -1e-3, "particle 0, column 'ptrel' holds -0.001"),
        ("jet_features", 0, np.nan, "column 'pt' of jet_features holds nan"),
        ("jet_features", 0, -2.0, "column 'pt' of jet_features holds -2, expected above 0"),
        ("jet_features", 3, 0.5, "column 'num_particles' of jet_features holds 0.5, the mask"),
        ("jet_features", 1, -2.0, "'eta' of the jet is -2, expected a positive value"),
    ],
)
def test_a_malformed_row_gets_a_reason_and_moves_no_other(
    tmp_path: Path, data: Path, small_blocks: None,
    dataset: str, where: int, value: float, reason: str,
) -> None:  # fmt: skip
    flow = make_flow(("eta",))
    options = {"estimator": HUTCHINSON, "seed": 3}
    bad = [0, 6, 7, ROWS - 1]
    with h5py.File(data, "r+") as file:
        for row in bad:
            file["particle_features"][row] = 0
            file["particle_features"][row, :2] = [[0.1, 0.2, 0.3, 1.0]] * 2
            file["jet_features"][row, 3] = 2
    clean = score(flow, data, tmp_path / "clean.h5", **options)
    with h5py.File(data, "r+") as file:
        for row in bad:
            index = (row, 0, where) if dataset == "particle_features" else (row, where)
            file[dataset][index] = value
    got = score(flow, data, tmp_path / "s.h5", **options)
    good = np.setdiff1d(np.arange(ROWS), bad)
    for name in NATS:
        np.testing.assert_allclose(got[name][good], clean[name][good], rtol=1e-10, err_msg=name)
        assert np.isnan(got[name][bad]).all(), name
    assert np.array_equal(got["n_objects"][good], clean["n_objects"][good])
    assert (why_unscored(got)[good] == "").all()
    for row in bad:
        assert got["reason"][row].startswith(reason)
    read = "expected a positive" in reason  # the row can be read, but not scored
    assert not read or got["reason"][0].endswith("for the model transforms it")
    assert np.array_equal(got["n_objects"][bad], clean["n_objects"][bad] if read else [-1] * 4)


def test_reasons_fit_into_their_column(tmp_path: Path, data: Path) -> None:
    with h5py.File(data, "r+") as file:
        particles = file["particle_features"][:].astype("f8")
        del file["particle_features"]
        file["particle_features"] = np.tile(particles, (1, 100, 1))  # slots with three digits
        for row, (column, value) in enumerate(
            [(ETA, -np.inf), (PHI, -1.2345678901234567e-300 - 4), (MASK, -1.2345678901234567e-300)]
        ):
            file["particle_features"][row, :, MASK] = 0
            file["particle_features"][row, SLOTS * 100 - 1] = [0.1, 0.1, 0.1, 1.0]
            file["particle_features"][row, SLOTS * 100 - 1, column] = value
        file["jet_features"][3, 3] = -np.inf
    got = score(make_flow(), data, tmp_path / "s.h5", events=4)
    for reason, end in zip(
        got["reason"], ["a finite value", "wrap the angles", "(padding)", "value"], strict=True
    ):
        assert reason.endswith(end)
    assert "particle 699" in got["reason"][0]
    assert max(len(scoring._UNREACHED), len(scoring._NOT_FINITE)) <= 128
    assert scoring._fitting("é" * 64) == ("é" * 64).encode()
    cut = scoring._fitting("expected one of " + ", ".join(["größer"] * 20))
    assert len(cut) <= 128
    assert cut.decode().endswith("größer, ...")


def test_padding_may_hold_anything(tmp_path: Path, data: Path) -> None:
    got = score(make_flow(), data, tmp_path / "s.h5")
    with h5py.File(data, "r+") as file:
        particles = file["particle_features"][:]
        padding = particles[..., MASK] == 0
        assert np.isnan(particles[padding, :3]).all()
        particles[padding, :3] = -5.0  # neither an angle nor the argument of a logarithm
        file["particle_features"][:] = particles
    assert_same_bits(score(make_flow(), data, tmp_path / "t.h5"), got)


class Failing:
    """`SetFlow.log_prob_terms` that fails for some rows, as an adaptive solver does."""

    def __init__(self, flow: setflow.SetFlow, rows: set[int]) -> None:
        self.rows, self.calls, self.solved = rows, 0, 0
        self.terms = flow.log_prob_terms

    def __call__(self, batch: SetBatch, *, first: Any, **options: Any) -> Any:
        self.calls += 1
        failing = [(k,) for k, row in enumerate(first.tolist()) if row in self.rows]
        if failing:
            raise IntegrationError("Stub()", failing[:1], 0.5, "for the first of them")
        self.solved += len(batch)
        return self.terms(batch, first=first, **options)


def test_a_row_that_the_solver_cannot_take_fails_alone(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = make_flow()
    clean = score(flow, data, tmp_path / "s.h5")
    failing = Failing(flow, {2, 11, 12})
    monkeypatch.setattr(flow, "log_prob_terms", failing)
    got = score(flow, data, tmp_path / "t.h5")
    assert set(np.flatnonzero(why_unscored(got))) == failing.rows
    for row in failing.rows:
        assert got["reason"][row].startswith("the solver does not reach its tolerance")
        assert all(np.isnan(got[name][row]) for name in NATS)
    good = [row for row in range(ROWS) if row not in failing.rows]
    for name in NATS:
        np.testing.assert_allclose(got[name][good], clean[name][good], rtol=1e-12, err_msg=name)
    assert failing.solved == len(good), "no row was solved twice to the end"


def test_many_rows_that_fail_cost_no_solve_each_of_a_whole_block(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = make_flow()
    failing = Failing(flow, set(range(ROWS)))
    monkeypatch.setattr(flow, "log_prob_terms", failing)
    sizes: list[int] = []
    monkeypatch.setattr(
        flow, "log_prob_terms", lambda batch, **o: (sizes.append(len(batch)), failing(batch, **o))
    )
    got = score(flow, data, tmp_path / "t.h5")
    assert (got["reason"] != "").all()
    assert sum(sizes) < ROWS * 6, "as often as 23 can be halved"


def test_a_density_that_is_not_finite_is_no_score(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = make_flow()
    terms = flow.log_prob_terms

    def broken(batch: SetBatch, **options: Any) -> Any:
        found = terms(batch, **options)
        found.objects[3], found.objects[5] = torch.nan, -torch.inf
        return found._replace(total=sum(found[1:5]))

    clean = score(flow, data, tmp_path / "s.h5")
    monkeypatch.setattr(flow, "log_prob_terms", broken)
    got = score(flow, data, tmp_path / "t.h5")
    for row in (3, 5):
        assert got["reason"][row].startswith("the log-density is not finite: it lies")
    assert np.isnan(got["log_prob"][[3, 5]]).all()
    rest = np.setdiff1d(np.arange(ROWS), [3, 5])
    assert np.array_equal(got["log_prob"][rest], clean["log_prob"][rest])


def test_an_adaptive_solver_fails_for_the_rows_that_need_more_steps(
    tmp_path: Path, data: Path
) -> None:
    flow, solver = make_flow(), setflow.Dopri5(1e-2, 1e-2)
    whole = score(flow, data, tmp_path / "s.h5", solver=solver)
    assert solver.last is not None
    steps = (solver.last.accepted + solver.last.rejected).numpy()
    enough = int(np.median(steps))
    assert steps.max() > enough
    solver = setflow.Dopri5(1e-2, 1e-2, max_nfe=2 + 6 * enough)
    got = score(flow, data, tmp_path / "t.h5", solver=solver)
    reached = steps <= enough
    assert np.array_equal(why_unscored(got) == "", reached)
    assert np.isnan(got["objects"][~reached]).all()
    np.testing.assert_allclose(got["objects"][reached], whole["objects"][reached], rtol=1e-9)


# --- blocks, kills and resumption ----------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_blocks_change_nothing(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    options = {"estimator": HUTCHINSON, "seed": 1}
    expected = score(make_flow(), data, tmp_path / "s.h5", **options)
    monkeypatch.setitem(scoring.BLOCK_ROWS, "cpu", rows)
    got = score(make_flow(), data, tmp_path / "t.h5", **options)
    for name in NATS:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-10, err_msg=name)
    other = score(make_flow(), data, tmp_path / "u.h5", **(options | {"seed": 2}))
    moved = np.abs(other["objects"] - got["objects"]) > 1e-6
    assert moved.sum() > ROWS / 2, "the seed has an effect"


def interrupted(after: int, error: type[BaseException]) -> Callable[..., Any]:
    """A reading of rows that raises in the block after so many."""
    blocks, ordinary = 0, EventReader.screen

    def screen(*arguments: Any, **options: Any) -> Any:
        nonlocal blocks
        if blocks == after:
            raise error("in the middle")
        blocks += 1
        return ordinary(*arguments, **options)

    return screen


@pytest.mark.parametrize("after", [1, 4])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("estimator", [setflow.ExactDivergence(), HUTCHINSON])
def test_an_interrupted_call_goes_on_and_gives_the_same_bits(
    tmp_path: Path, data: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch,
    after: int, error: type[BaseException], estimator: Any,
) -> None:  # fmt: skip
    flow = make_flow()
    options = {"estimator": estimator, "seed": 4}
    score(flow, data, tmp_path / "whole.h5", **options)
    with monkeypatch.context() as patch:
        patch.setattr(EventReader, "screen", interrupted(after, error))
        with pytest.raises(error, match="in the middle"):
            score(flow, data, tmp_path / "s.h5", **options)
    assert not (tmp_path / "s.h5").exists()
    with h5py.File(tmp_path / "s.h5.part") as file:
        assert file.attrs["n"] == 5 * after
        assert not file.attrs["complete"]
        assert np.isnan(file["log_prob"][5 * after :]).all()
    with monkeypatch.context() as patch:
        patch.setattr(EventReader, "screen", interrupted(5 - after, RuntimeError))  # so many left
        score(flow, data, tmp_path / "s.h5", **options)
    assert (tmp_path / "s.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert names(tmp_path) == ["jets.h5", "s.h5", "whole.h5"]


def test_interrupted_after_each_block_it_still_gives_the_same_bits(
    tmp_path: Path, data: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = make_flow()
    expected = score(flow, data, tmp_path / "whole.h5", estimator=HUTCHINSON)
    for _ in range(5):
        with monkeypatch.context() as patch:
            patch.setattr(EventReader, "screen", interrupted(1, InterruptedError))
            with suppress(InterruptedError):
                score(flow, data, tmp_path / "s.h5", estimator=HUTCHINSON)
    assert_same_bits(read(tmp_path / "s.h5"), expected)


KILLED = """
import os, signal, sys, torch
sys.path.insert(0, {tests!r})
torch.set_default_dtype(torch.float64)
from jobs import test_score as t
from setflow.jobs import score as scoring
scoring.BLOCK_ROWS["cpu"] = 1
screen, blocks = scoring.EventReader.screen, 0
def slow(*arguments, **options):
    global blocks
    blocks += 1
    if blocks == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    if blocks == 2:
        print("begun", flush=True)
    return screen(*arguments, **options)
scoring.EventReader.screen = slow
t.score(t.make_flow(), {data!r}, t.Path({out!r}), estimator=t.HUTCHINSON)
"""


def killed(data: Path, out: Path, after: int) -> subprocess.Popen[str]:
    tests = str(Path(__file__).parents[1])
    code = KILLED.format(tests=tests, data=str(data), out=str(out), after=after)
    return subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE)


def test_a_kill_loses_a_block_at_most(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.h5"
    process = killed(data, out, after=9)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with h5py.File(tmp_path / "s.h5.part") as file:
        assert file.attrs["n"] == 8
    monkeypatch.setitem(scoring.BLOCK_ROWS, "cpu", 1)
    expected = score(make_flow(), data, tmp_path / "whole.h5", estimator=HUTCHINSON)
    monkeypatch.setattr(EventReader, "screen", interrupted(ROWS - 8, RuntimeError))
    assert_same_bits(score(make_flow(), data, out, estimator=HUTCHINSON), expected)


def test_kills_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = make_jets(tmp_path / "jets.h5", rows=80), tmp_path / "s.h5"
    monkeypatch.setitem(scoring.BLOCK_ROWS, "cpu", 1)
    expected = score(make_flow(), data, tmp_path / "whole.h5", estimator=HUTCHINSON)
    reached = [0]
    for wait in (0.05, 0.15):
        process = killed(data, out, after=-1)
        process.stdout.readline()
        time.sleep(wait)
        process.kill()
        process.communicate()
        if out.exists():
            break
        with h5py.File(tmp_path / "s.h5.part") as file:
            reached.append(int(file.attrs["n"]))
    assert reached == sorted(set(reached)), "each call goes on"
    assert_same_bits(score(make_flow(), data, out, estimator=HUTCHINSON), expected)


@pytest.fixture
def begun(tmp_path: Path, data: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A call that was interrupted after ten rows; returns what it left."""
    with monkeypatch.context() as patch:
        patch.setattr(EventReader, "screen", interrupted(2, RuntimeError))
        with pytest.raises(RuntimeError, match="in the middle"):
            score(make_flow(), data, tmp_path / "s.h5")
    return tmp_path / "s.h5.part"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"estimator": HUTCHINSON}, r"estimator was ExactDivergence\(.*\), is HutchinsonDiver"),
        ({"solver": setflow.RK4(2)}, r"solver was Euler\(steps=2\), is RK4\(steps=2\)"),
        ({"solver": setflow.Dopri5(0.1, 0.1)}, r"is Dopri5\(rtol=0.1, atol=0.1, max_nfe=10000\)"),
        ({"events": 12}, f"events was {ROWS}, is 12"),
    ],
)
def test_other_arguments_do_not_continue(
    data: Path, begun: Path, change: dict[str, Any], message: str
) -> None:
    before = begun.read_bytes()
    out = begun.with_suffix("")
    with pytest.raises(ValueError, match=message) as caught:
        score(make_flow(), data, out, **change)
    assert "begin anew with overwrite=True" in str(caught.value)
    assert str(begun) in str(caught.value)
    assert begun.read_bytes() == before
    assert not out.exists()
    got = score(make_flow(), data, out, **change, overwrite=True)
    assert_same_bits(got, score(make_flow(), data, out.with_name("new.h5"), **change))
    assert not begun.exists()


def test_another_model_or_other_data_do_not_continue(data: Path, begun: Path) -> None:
    out = begun.with_suffix("")
    with pytest.raises(ValueError, match=r"weights_sha256 was \w{64}, is \w{64}"):
        score(make_flow(seed=1), data, out)
    flow = make_flow()
    flow.path = setflow.CosinePath()
    with pytest.raises(ValueError, match="begun otherwise: model was "):
        score(flow, data, out)
    with h5py.File(data, "r+") as file:
        file["particle_features"][20, 0, 0] += 1e-3
    with pytest.raises(ValueError, match="begun otherwise: data_sha256 was"):
        score(make_flow(), data, out)
    begun.unlink()
    score(make_flow(), data, out)


@pytest.mark.parametrize(
    "name", ["model", "weights_sha256", "conditions", "data", "device", "setflow_version"]
)
def test_whatever_the_scores_depend_on_must_be_the_same(data: Path, begun: Path, name: str) -> None:
    with h5py.File(begun, "r+") as file:
        is_now = str(file.attrs[name])
        file.attrs[name] = "another"
    with pytest.raises(ValueError, match=rf"begun otherwise: {name} was another, is ") as caught:
        score(make_flow(), data, begun.with_suffix(""))
    assert is_now[:60] in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "rubbish", "empty", "foreign", "counter"])
def test_a_damaged_beginning_is_an_error(data: Path, begun: Path, damage: str) -> None:
    whole, out = begun.read_bytes(), begun.with_suffix("")
    if damage in ("truncated", "rubbish", "empty"):
        begun.write_bytes(
            {"truncated": whole[:-9], "rubbish": b"no HDF5" * 99, "empty": b""}[damage]
        )
    else:
        with h5py.File(begun, "w" if damage == "foreign" else "r+") as file:
            file.attrs["n"] = ROWS + 1
    with pytest.raises(
        OSError, match=r"s\.h5\.part cannot be continued, it is damaged .*overwrite=True"
    ):
        score(make_flow(), data, out)
    assert not out.exists()
    assert begun.exists()
    got = score(make_flow(), data, out, overwrite=True)
    assert_same_bits(got, score(make_flow(), data, out.with_name("new.h5")))


def test_metadata_overwritten_with_zeros_are_an_error(data: Path, begun: Path) -> None:
    whole = bytearray(begun.read_bytes())
    with h5py.File(begun) as file:
        first = file["cardinality"].id.get_offset()
    whole[96:first] = bytes(first - 96)
    begun.write_bytes(whole)
    with pytest.raises(OSError, match="cannot be continued, it is damaged"):
        score(make_flow(), data, begun.with_suffix(""))


def test_nothing_of_a_beginning_changes_but_its_values(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A structure that is not written cannot be torn."""
    contents: list[bytes] = []
    ordinary = EventReader.screen

    def looked_at(*arguments: Any, **options: Any) -> Any:
        contents.append((tmp_path / "s.h5.part").read_bytes())
        return ordinary(*arguments, **options)

    monkeypatch.setattr(EventReader, "screen", looked_at)
    score(make_flow(), data, tmp_path / "s.h5")
    before, after = contents[0], (tmp_path / "s.h5").read_bytes()
    with h5py.File(tmp_path / "s.h5") as file:
        places = [file[name].id for name in COLUMNS]
        places = [(place.get_offset(), place.get_storage_size()) for place in places]
    values = np.zeros(len(before), bool)
    for start, size in places:
        values[start : start + size] = True
    assert len(before) == len(after)
    changed = np.frombuffer(before, "u1") != np.frombuffer(after, "u1")
    assert changed[values].any()
    told = 9 + 64 * len(COLUMNS)
    assert changed[~values].sum() <= told, "the row counter, the flag of completeness, the hashes"


def test_a_beginning_in_use_is_left_alone(data: Path, begun: Path) -> None:
    out = begun.with_suffix("")
    before = begun.read_bytes()
    with begun.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for overwrite in (False, True):
            with pytest.raises(OSError, match=r"s\.h5\.part is in use by another process"):
                score(make_flow(), data, out, overwrite=overwrite)
    assert begun.read_bytes() == before


def test_what_another_process_has_begun_is_not_published(
    tmp_path: Path, data: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = EventReader.screen

    def replaced(*arguments: Any, **options: Any) -> Any:
        other = tmp_path / "other"
        other.write_text("of another process")
        os.replace(other, tmp_path / "s.h5.part")
        return ordinary(*arguments, **options)

    monkeypatch.setattr(EventReader, "screen", replaced)
    with pytest.raises(OSError, match="in use by another process"):
        score(make_flow(), data, tmp_path / "s.h5")
    assert names(tmp_path) == ["jets.h5", "s.h5.part"]
    assert (tmp_path / "s.h5.part").read_text() == "of another process"


def test_an_error_in_the_first_block_leaves_nothing(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EventReader, "screen", interrupted(0, RuntimeError))
    with pytest.raises(RuntimeError, match="in the middle"):
        score(make_flow(), data, tmp_path / "s.h5")
    assert names(tmp_path) == ["jets.h5"]


def test_a_solver_of_ones_own_is_the_same_in_each_process() -> None:
    class Mine:
        def __init__(self) -> None:
            self.steps, self.name, self.state = 3, "mine", object()

    assert described(Mine()) == "Mine(steps=3, name='mine')"
    assert described(setflow.RK4(2)) == "RK4(steps=2)"


# --- what is refused at once ---------------------------------------------------------------------


def refused(
    flow: setflow.SetFlow, data: Path, out: Path, error: type[Exception], match: str, **options: Any
) -> None:
    before = names(data.parent)
    flow.log_prob_terms = pytest.fail  # it must not come so far
    with pytest.raises(error, match=match):
        score(flow, data, out, **options)
    assert names(data.parent) == before


def test_an_existing_file_is_kept(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "s.h5"
    out.write_text("precious")
    refused(make_flow(), data, out, FileExistsError, r"exists already; .*overwrite=True")
    assert out.read_text() == "precious"
    score(make_flow(), data, out, overwrite=True)
    assert names(tmp_path) == ["jets.h5", "s.h5"]


def test_a_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow, out = make_flow(), tmp_path / "s.h5"
    terms = flow.log_prob_terms

    def slow(*arguments: Any, **options: Any) -> Any:
        out.write_text("of somebody else")
        return terms(*arguments, **options)

    monkeypatch.setattr(flow, "log_prob_terms", slow)
    with pytest.raises(FileExistsError):
        score(flow, data, out)
    assert out.read_text() == "of somebody else"
    monkeypatch.setattr(flow, "log_prob_terms", pytest.fail)  # all of it is done
    out.unlink()
    assert len(score(flow, data, out)["reason"]) == ROWS


def test_where_nothing_can_be_written(tmp_path: Path, data: Path) -> None:
    refused(
        make_flow(),
        data,
        data / "s.h5",
        NotADirectoryError,
        r"jets\.h5 is a file, expected a folder",
    )
    (tmp_path / "folder").mkdir()
    refused(make_flow(), data, tmp_path / "folder", FileExistsError, "exists already")
    refused(
        make_flow(), data, tmp_path / "folder", IsADirectoryError, "is a folder", overwrite=True
    )
    refused(make_flow(), data, data, ValueError, "is the data themselves", overwrite=True)


def test_data_and_model_that_do_not_fit(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "s.h5"
    refused(make_flow(), tmp_path / "no.h5", out, FileNotFoundError, "no.h5 does not exist")
    refused(make_flow(("charge",)), data, out, ValueError, "jet_features has no column 'charge'")
    other = setflow.SetFlow(make_flow().field, features=("px", "py", "pz"))
    told = "holds jets with etarel, phirel, ptrel, and the model knows events with px, py, pz"
    refused(other, data, out, ValueError, told)
    refused(make_flow(), data, out, ValueError, "holds 23 jets, and 24 of them", events=24)
    refused(make_flow(), data, out, ValueError, "holds 23 jets, and -1 of them", events=-1)
    sample = read_jets(data)
    relative = tmp_path / "relative.h5"
    with JetWriter(relative, objects=SLOTS, jet_units=RELATIVE_JET_UNITS) as writer:
        writer.write(sample.particles, sample.jets)
    refused(make_flow(("pt",)), relative, out, ValueError, "pt in units of 'jet pT'")
    score(make_flow(), relative, out)
    with h5py.File(data, "r+") as file:
        del file["jet_features"]
    refused(
        make_flow(("pt",)),
        data,
        out,
        ValueError,
        "no dataset .jet_features. that could hold pt",
        overwrite=True,
    )


# --- what the densities leave out ---


def boxcox(flow: setflow.SetFlow, power: float = 0.3) -> setflow.SetFlow:
    """The same model with an exponent above 0, cut where a quarter of the particles lie below."""
    lowest = [-np.inf, -np.inf, flow.scaler.mean[2].item() - 0.6 * flow.scaler.std[2].item()]
    kinds = ["real", "real", f"positive(boxcox={power})"]
    given = {"mean": flow.scaler.mean, "std": flow.scaler.std, "lowest": lowest}
    flow.scaler = Standardizer(kinds=kinds, **given)
    return flow


@pytest.mark.parametrize("conditions", [(), ("pt", "mass")])
@pytest.mark.parametrize("numbers", [True, False])
def test_the_missing_mass_is_told(tmp_path, data, conditions, numbers, monkeypatch):
    monkeypatch.setattr(missing, "LEAST", 60)
    with h5py.File(data, "r+") as file:
        file["jet_features"][0, 0] = np.nan  # a row that has no context
    flow = boxcox(make_flow(conditions))
    flow.cardinality = flow.cardinality if numbers else None
    score(flow, data, tmp_path / "s.h5", solver=setflow.Euler(1))
    with h5py.File(tmp_path / "s.h5") as file:
        told = dict(file.attrs)
    assert told["complete"]
    assert 0 < told["missing_mass"] < 1
    assert told["missing_mass_events"] == 60
    assert 0.01 < told["missing_mass_standard_error"] < 0.1
    assert "smallest training value of ptrel" in told["missing_mass_meaning"]
    jets = screen_events(data, max_objects=LARGEST if numbers else None)
    good = [row for row in range(len(jets.sample)) if row not in jets.reasons]
    rows = torch.tensor(good).repeat(60)[:60]
    c = jets.sample.context(conditions)[rows] if conditions else None
    lengths = None if numbers else jets.sample.objects.lengths[rows]
    expected = missing_mass(flow, 60, c, lengths=lengths, seed=0)
    assert told["missing_mass"] == expected.mass
    note = missing.missing_note(tmp_path / "s.h5")
    assert f"{100 * expected.mass:.1f} ± {100 * expected.standard_error:.1f} %" in note
    assert "of 60 that were sampled" in note


def test_nothing_is_told_to_be_missing_with_the_logarithm(tmp_path, data):
    score(make_flow(), data, tmp_path / "s.h5", solver=setflow.Euler(1))
    with h5py.File(tmp_path / "s.h5") as file:
        assert file.attrs["missing_mass"] == file.attrs["missing_mass_events"] == 0
        assert "maps onto the whole line" in file.attrs["missing_mass_meaning"]
    assert missing.missing_note(tmp_path / "s.h5") is None


def test_the_missing_mass_is_unknown_where_no_row_tells_a_context(tmp_path, data):
    flow = boxcox(make_flow(("pt",)))
    score(flow, data, tmp_path / "s.h5", events=0)
    with h5py.File(tmp_path / "s.h5") as file:
        assert np.isnan(file.attrs["missing_mass"])
    assert "leave out an unknown part" in missing.missing_note(tmp_path / "s.h5")


@pytest.mark.parametrize("conditions", [(), ("pt", "mass")])
def test_a_model_whose_angles_a_file_wraps_is_refused(data, tmp_path, conditions) -> None:
    """A phi of standard deviation 2 rad: its density integrates to 0.885 over the circle."""
    flow = make_flow(conditions)
    with torch.no_grad():
        flow.scaler.mean[1], flow.scaler.std[1] = 0.0, 2.0
        for parameter in flow.field.parameters():
            parameter.zero_()  # no velocity: what is made is normal
    out = tmp_path / "scores.h5"
    with pytest.raises(ValueError, match=r"phirel as a number on a line, and 1[12] % of those"):
        score(flow, data, out)
    assert names(tmp_path) == ["jets.h5"]
    with torch.no_grad():
        flow.scaler.std[1] = 0.6  # 1.6e-7 lie outside
    score(flow, data, out)


def test_a_number_that_a_file_wraps_is_refused_whatever_the_model_says(tmp_path) -> None:
    """The file of an angle holds it in [-pi, pi); the model takes it as a number on a line."""
    number, angle = (Schema([Feature("phi", "rad", kind)]) for kind in ("real", "angle"))
    field = setflow.GaussianSetField(torch.zeros(1), torch.ones(1))
    given = {"mean": [0.0], "std": [2.0]}
    flow = setflow.SetFlow(field, schema=number, scaler=setflow.data.Standardizer(**given))
    x = setflow.physics.delta_phi(torch.randn(20, 3, 1) * 2, torch.zeros(()))
    for name, schema in (("number.h5", number), ("angle.h5", angle)):
        with EventWriter(tmp_path / name, schema) as writer:
            writer.write(SetBatch(x))
    out = tmp_path / "scores.h5"
    with pytest.raises(ValueError, match=r"phi as a number on a line, and 1[12] % of those"):
        score(flow, tmp_path / "angle.h5", out)
    score(flow, tmp_path / "number.h5", out)  # its writer wraps nothing


def test_a_number_in_degrees_that_a_file_wraps_is_judged_in_degrees() -> None:
    field = setflow.GaussianSetField(torch.zeros(1), torch.ones(1))
    schema = Schema([Feature("phi", "deg")])
    for std, wide in ((20.0, False), (120.0, True)):
        scaler = setflow.data.Standardizer(mean=[0.0], std=[std])
        flow = setflow.SetFlow(field, schema=schema, scaler=scaler)
        share = wrapped_share(flow, 500, lengths=[10] * 500, wrapped=["phi"])
        assert (share != {}) == wide
        if wide:  # beyond 1.5 standard deviations
            assert share["phi"] == pytest.approx(0.1336, abs=0.02)
        assert wrapped_share(flow, 5, lengths=[1] * 5) == {}


def test_jets_and_events_that_are_mixed_up_are_told_apart(tmp_path: Path) -> None:
    """Scores, contexts and comparisons name what each of both holds, and what to do."""
    of_sets = [Feature("x", "mm"), Feature("y", "mm")]
    kinds = [[*of_sets, Feature("side", kind=f"category({names})")] for names in ("a, b", "b, c")]
    x, mask = torch.rand(4, 3, 3) * 0.3, torch.ones(4, 3, dtype=torch.bool)
    jets = tmp_path / "jets.h5"
    with JetWriter(jets, objects=3) as writer:
        writer.write(SetBatch(x, mask), torch.tensor([[1.0, 0.0, 0.1, 3.0]] * 4))
    files = []
    for k, schema in enumerate(kinds):
        files.append(tmp_path / f"sets{k}.h5")
        with EventWriter(files[-1], Schema(schema), objects=3) as writer:
            writer.write(SetBatch(x.round() if k else x.floor(), mask))
    told = r"jets.h5 holds jets with etarel, phirel, ptrel.*, and .*sets0.h5 holds events with x, y"
    with pytest.raises(ValueError, match=told + "; compare a sample with"):
        evaluate(files[0], jets, tmp_path / "report")
    told = r"sets0.h5 holds events with x, y, side, and .*jets.h5 holds jets with etarel, phirel, "
    with pytest.raises(ValueError, match=told + "ptrel; compare a sample with"):
        evaluate(jets, files[0], tmp_path / "report")
    with pytest.raises(ValueError, match=told + "ptrel; compare a sample with"):
        evaluate(jets, jets, tmp_path / "report", train=files[0])
    flow = setflow.SetFlow.load("top30")
    told = "sets0.h5 holds events with x, y, side, and the model knows jets with etarel, phirel, pt"
    with pytest.raises(ValueError, match=told + "rel; give a file of such events, or the model"):
        score_to_hdf5(flow, files[0], tmp_path / "scores.h5")
    with pytest.raises(ValueError, match=told + "rel; give a file of such events"):
        asked_for(flow, like=files[0])
    header = read_header(files[1])
    told = r"holds events with side as category\(b, c\), and the model knows events with side as c"
    with pytest.raises(ValueError, match=told + r"ategory\(a, b\); another"):
        require_objects(files[1], header, kinds[0], "the model knows", "another")
    with h5py.File(files[1], "r+") as file:
        del file.attrs["schema"]  # a file that does not tell its own is read by that of the model
    require_objects(files[1], read_header(files[1]), kinds[0], "the model knows", "another")
