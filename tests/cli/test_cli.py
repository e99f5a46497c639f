"""The command line, from a configuration to a report, in a folder of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

import setflow
from cli.shell import UNPHYSICAL, fails, run
from setflow import shipped
from setflow.data import read_jets
from setflow.data.reader import EventReader
from setflow.jobs import score

pytestmark = UNPHYSICAL


def test_fit_exports_the_moving_average_of_the_best_weights(model):
    flow = setflow.SetFlow.load(model)
    best = torch.load("runs/tiny/checkpoints/best.ckpt", weights_only=True)
    weights = {k.removeprefix("flow."): v for k, v in best["state_dict"].items()}
    raw = {k.removeprefix("flow."): v for k, v in best["current_model_state"].items()}
    for name, value in flow.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert not torch.equal(raw["field.out.weight"], weights["field.out.weight"])
    train = read_jets("jets.h5").particles
    assert flow.cardinality.probabilities[0] == 0
    assert abs(flow.scaler.mean[2] - train.x[train.mask][:, 2].log().mean()) < 0.05
    config = yaml.safe_load((model / "config.yaml").read_text())
    assert config["data"]["train"] == "jets.h5"
    assert Path("runs/tiny/csv/version_0/metrics.csv").read_text().count("val_loss") == 1
    assert list(Path("runs/tiny/tensorboard/version_0").glob("events*"))


def test_an_exported_configuration_trains_again(model):
    run("fit", "--config", model / "config.yaml", "--name", "again")
    one, other = (setflow.SetFlow.load(path).state_dict() for path in (model, "runs/again/model"))
    assert all(torch.equal(one[name], other[name]) for name in one)


EVERY_TWO_STEPS = ("--trainer.val_check_interval=2", "--trainer.check_val_every_n_epoch=null")


@pytest.mark.parametrize(
    ("options", "killed_at"),
    [((), 10), (EVERY_TWO_STEPS, 8)],
    ids=["at the end of an epoch", "in the middle of one"],
)
def test_a_resumed_run_ends_where_an_unbroken_one_does(folder, options, killed_at):
    options = ("--config", "config.yaml", "--trainer.max_epochs=4", *options)
    run("fit", *options, "--name", "whole")
    # the schedule is that of the four epochs of five batches, before the kill and after it
    code = (
        "import os, lightning.pytorch as pl\n"
        "from setflow.cli import main\n"
        "from setflow.training.export import ExportBestModel\n"
        "done = ExportBestModel.on_validation_end\n"
        "def die(self, trainer, module):\n"
        "    done(self, trainer, module)\n"
        f"    if trainer.global_step == {killed_at}: os._exit(9)\n"
        "ExportBestModel.on_validation_end = die\n"
        f"main(['fit', *{options!r}, '--name', 'broken'])"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == 9, killed.stderr
    run("fit", *options, "--name", "broken", "--resume")
    last = [
        torch.load(f"runs/{name}/checkpoints/last.ckpt", weights_only=True)
        for name in ("whole", "broken")
    ]
    assert last[0]["global_step"] == last[1]["global_step"]
    for key in ("state_dict", "current_model_state"):
        for name, value in last[0][key].items():
            torch.testing.assert_close(last[1][key][name], value, msg=f"{key} {name}")


def test_a_run_is_not_overwritten_or_resumed_by_accident(model, capsys):
    other = ("--seed_everything", "4")
    assert "overwrite it with --force" in fails(capsys, "fit", "--config", "config.yaml", *other)
    assert "no checkpoint" in fails(
        capsys, "fit", "--config", "config.yaml", "--name", "new", "--resume"
    )
    before = json.loads((model / "manifest.json").read_text())
    run("fit", "--config", "config.yaml", "--force")
    assert json.loads((model / "manifest.json").read_text())["files"] == before["files"]


def test_a_run_that_cannot_start_loses_nothing(model, capsys):
    files = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    bad = ("fit", "--config", "config.yaml", "--data.train", "nowhere.h5")
    assert "nowhere.h5" in fails(capsys, *bad, "--force")
    assert "expected letters" in fails(capsys, *bad, "--name", str(model.parent.resolve()))
    assert "expected letters" in fails(capsys, *bad, "--name", "../runs/tiny", "--force")
    other = ("--resume", "--model.flow.init_args.field.init_args.hidden", "32")
    assert "is of another model" in fails(capsys, "fit", "--config", "config.yaml", *other)
    assert "cannot be set" in fails(
        capsys, "fit", "--config", "config.yaml", "--force", "--trainer.default_root_dir", "x"
    )
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == files


def test_a_run_where_nothing_can_be_written_does_not_begin(folder, capsys, monkeypatch):
    access, ours = os.access, os.W_OK | os.X_OK
    monkeypatch.setattr(os, "access", lambda path, mode: mode != ours and access(path, mode))
    monkeypatch.setattr(setflow.SetFlow, "fit_statistics", pytest.fail)
    for _ in range(2):
        message = fails(capsys, "fit", "--config", "config.yaml")
        assert "cannot be written to; change its permissions" in message
        Path("runs").mkdir(exist_ok=True)
    assert not list(Path("runs").iterdir())


def test_a_run_without_a_validation_exports_its_last_weights(model):
    stale = (model / "manifest.json").read_bytes()
    run("fit", "--config", "config.yaml", "--force", "--trainer.max_steps", "2")
    assert (model / "manifest.json").read_bytes() != stale
    assert setflow.SetFlow.load(model).sample(2, solver=setflow.Euler(1)).x.isfinite().all()


def test_sample_and_evaluate(model, capsys):
    run("sample", model, "--events", 64, "--out", "new.h5", "--steps", 3, "--seed", 1)
    new = read_jets("new.h5", keep_unphysical=True)
    assert len(new) == 64
    assert new.jet_units[0] == new.jet_units[2] == "jet pT"
    expected = setflow.SetFlow.load(model).sample(64, seed=1, solver=setflow.Midpoint(3))
    torch.testing.assert_close(new.particles.x, expected.x)
    run("sample", model, "--like", "jets.h5", "--out", "like.h5", "--steps", 3, "--solver", "rk4")
    assert torch.equal(
        read_jets("like.h5", keep_unphysical=True).particles.lengths,
        read_jets("jets.h5").particles.lengths,
    )
    run("evaluate", "new.h5", "jets.h5", "--fast", "--out", "report")
    assert "W1M" in capsys.readouterr().out
    metrics = json.loads(Path("report/metrics.json").read_text())
    assert metrics["generated"]["events"] == 64
    assert list(Path("report").glob("*.png"))


def test_outputs_are_not_overwritten(model, capsys):
    arguments = ("sample", model, "--events", 8, "--out", "new.h5", "--steps", 1)
    run(*arguments)
    before = Path("new.h5").read_bytes()
    assert "exists" in fails(capsys, *arguments, "--seed", 9)
    assert "at least 1" in fails(capsys, *arguments, "--events", -5, "--force")
    assert Path("new.h5").read_bytes() == before
    run(*arguments, "--seed", 9, "--force")
    assert Path("new.h5").read_bytes() != before
    run("evaluate", "new.h5", "jets.h5", "--fast", "--out", "report")
    assert "exists" in fails(capsys, "evaluate", "new.h5", "jets.h5", "--out", "report")
    run("evaluate", "new.h5", "jets.h5", "--out", "report", "--fast", "--force")


@pytest.mark.parametrize(
    ("options", "solver", "estimator"),
    [
        (("--steps", 2), setflow.RK4(2), setflow.ExactDivergence()),
        (
            ("--solver", "midpoint", "--steps", 3, "--estimator", "hutchinson", "--seed", 5),
            setflow.Midpoint(3),
            setflow.HutchinsonDivergence(8, renew=True),
        ),
        (
            ("--solver", "dopri5", "--rtol", 1e-3, "--estimator", "hutchinson", "--probes", 2),
            setflow.Dopri5(1e-3, 1e-4),
            setflow.HutchinsonDivergence(2),
        ),
    ],
)
def test_score(model, capsys, options, solver, estimator):
    run("score", model, "jets.h5", "--out", "scores.h5", "--events", 9, *options)
    assert "wrote scores.h5: log-densities of 9 jets" in capsys.readouterr().out
    particles = read_jets("jets.h5", stop=9, max_objects=8).particles
    seed = 5 if "--seed" in options else 0
    with torch.no_grad():
        expected = setflow.SetFlow.load(model).log_prob_terms(
            particles, solver=solver, estimator=estimator, seed=seed
        )
    with h5py.File("scores.h5") as file:
        assert file["reason"].asstr()[:].tolist() == [""] * 9
        assert np.array_equal(file["n_objects"], particles.lengths)
        for name, values in expected._asdict().items():
            got = file["log_prob" if name == "total" else name][:]
            np.testing.assert_allclose(got, values, rtol=1e-5, atol=1e-5, err_msg=name)
        manifest = json.loads((model / "manifest.json").read_text())
        assert file.attrs["weights_sha256"] == manifest["files"]["weights.safetensors"]


def test_scores_are_continued_and_not_overwritten(model, capsys, monkeypatch):
    arguments = ("score", model, "jets.h5", "--out", "scores.h5", "--steps", 1, "--events", 9)
    run(*arguments[:3], "--out", "whole.h5", *arguments[5:])
    monkeypatch.setitem(score.BLOCK_ROWS, "cpu", 5)
    with monkeypatch.context() as patch:
        blocks = iter([EventReader.screen])
        patch.setattr(EventReader, "screen", lambda *a, **o: next(blocks)(*a, **o))
        with pytest.raises(StopIteration):
            run(*arguments)
    assert "seed was 0, is 1" in fails(capsys, *arguments, "--seed", 1)
    run(*arguments)
    assert "9/9" in capsys.readouterr().out
    with h5py.File("scores.h5") as file, h5py.File("whole.h5") as whole:
        assert file.attrs["n"] == 9
        np.testing.assert_allclose(file["log_prob"], whole["log_prob"], rtol=1e-5)
    before = Path("scores.h5").read_bytes()
    run(*arguments)
    assert "scores.h5 is written already: log-densities of 9 jets" in capsys.readouterr().out
    assert "exists already" in fails(capsys, *arguments, "--seed", 1)
    assert Path("scores.h5").read_bytes() == before
    run(*arguments, "--estimator", "hutchinson", "--force")
    assert Path("scores.h5").read_bytes() != before


def test_steps_bound_an_adaptive_solver_and_no_score_at_all_is_a_failure(model, capsys):
    with pytest.raises(SystemExit) as stop:
        run("score", model, "jets.h5", "--out", "scores.h5", "--events", 4, "--solver", "dopri5",
            "--rtol", 1e-6, "--steps", 1)  # fmt: skip
    assert stop.value.code == 1
    assert "none of the rows of jets.h5 could be scored" in capsys.readouterr().err
    with h5py.File("scores.h5") as file:
        assert all(reason.startswith("the solver") for reason in file["reason"].asstr()[:])
        assert file.attrs["solver"] == "Dopri5(rtol=1e-06, atol=1e-07, max_nfe=8)"


def test_files_are_the_same_bit_for_bit(model):
    for name in ("one.h5", "two.h5"):
        run("sample", model, "--events", 8, "--out", name, "--steps", 2)
    assert Path("one.h5").read_bytes() == Path("two.h5").read_bytes()


def test_a_conditional_model_from_the_shell(folder, capsys):
    config = yaml.safe_load(Path("config.yaml").read_text())
    flow = config["model"]["flow"]["init_args"]
    flow["conditions"] = ["pt", "mass"]
    flow["field"]["init_args"]["condition_dim"] = 2
    Path("config.yaml").write_text(yaml.safe_dump(config))
    run("fit", "--config", "config.yaml")
    model = Path("runs/tiny/model")
    assert "conditioned on pt, mass" in fails(
        capsys, "sample", model, "--events", 8, "--out", "new.h5"
    )
    with h5py.File("jets.h5") as file:
        features = file["jet_features"][:]
    pt, mass = setflow.SetFlow.load(model).context_scaler.mean.tolist()
    assert pt == pytest.approx(features[:, 0].mean(), rel=0.02)
    assert mass == pytest.approx(features[:, 2].mean(), rel=0.2)
    run("sample", model, "--like", "jets.h5", "--events", 8, "--out", "new.h5", "--steps", 2)
    assert len(read_jets("new.h5")) == 8
    run("sample", model, "--like", "new.h5", "--out", "newer.h5", "--steps", 2)
    with h5py.File("new.h5") as one, h5py.File("newer.h5") as other:
        assert (one["context"][:] == features[:8, [0, 2]]).all()
        assert (other["context"][:] == one["context"][:]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"]["flow"].update(class_path="os.system"), "not allowed"),
        (
            lambda c: c["trainer"].update(callbacks=[{"class_path": "subprocess.Popen"}]),
            "subprocess",
        ),
        (
            lambda c: c["model"]["optimizer"].update(class_path="shutil.rmtree"),
            "not allowed",
        ),
        (lambda c: c["data"].update(bach_size=3), "bach_size"),
        (lambda c: c.update(modle={"warmup": 0.1}), "modle"),
        (lambda c: c["model"]["flow"]["init_args"]["field"]["init_args"].update(hiden=3), "hiden"),
        (lambda c: c["data"].update(train="nowhere.h5"), "nowhere.h5"),
    ],
)
def test_a_configuration_that_is_refused(folder, capsys, change, message):
    config = yaml.safe_load(Path("config.yaml").read_text())
    change(config)
    Path("config.yaml").write_text(yaml.safe_dump(config))
    assert message in fails(capsys, "fit", "--config", "config.yaml")
    assert not Path("runs").exists()


def test_a_class_that_is_not_allowed_is_not_even_imported(folder):
    Path("trap.py").write_text("open('sprung', 'w').close()\nclass Trap: pass\n")
    config = yaml.safe_load(Path("config.yaml").read_text())
    config["model"]["optimizer"] = {"class_path": "trap.Trap"}
    Path("config.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "setflow.cli", "fit", "--config", "config.yaml"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )
    assert done.returncode == 2
    assert "trap.Trap" in done.stderr
    assert not Path("sprung").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sample", "nowhere", "--events", "3", "--out", "a.h5"), "no model folder"),
        (("sample", "nowhere", "--out", "a.h5", "--device", "gpu"), "expected auto, cpu, cuda"),
        (("score", "nowhere", "jets.h5", "--out", "a.h5"), "no model folder"),
        (
            ("score", "jets.h5", "jets.h5", "--out", "a.h5"),
            "jets.h5 is a file, expected the folder of a model",
        ),
        (
            ("sample", "jets.h5", "--events", "3", "--out", "a.h5"),
            "jets.h5 is a file, expected the folder of a model; setflow fit writes one",
        ),
        (("score", "nowhere", "jets.h5", "--out", "a.h5", "--probes", "4"), "has no probes"),
        (("score", "nowhere", "jets.h5", "--out", "a.h5", "--rtol", "1e-4"), "has no tolerance"),
        (("score", "nowhere", "jets.h5", "--out", "a.h5", "--estimator", "exat"), "exat"),
        (
            ("sample", "m", "--events", "3", "--out", "a.h5", "--seed", "-1"),
            "--seed is -1, expected",
        ),
        (("sample", "m", "--events", "3", "--out", "a.h5", "--seed", 2**64), "0 to 2**63 - 1"),
        (("score", "m", "jets.h5", "--out", "a.h5", "--seed", "-1"), "--seed is -1, expected a"),
        (("evaluate", "jets.h5", "jets.h5", "--out", "r", "--seed", "-1"), "--seed is -1, expecte"),
        (("dataset", "make", "m", "--events", 3, "--out", "a.h5", "--seed", "-1"), "--seed is -1"),
        (("demo", "--seed", "-1"), "--seed is -1, expected a whole number"),
        (("evaluate", "nowhere.h5", "jets.h5", "--out", "r"), "nowhere.h5"),
        (("evaluate", "config.yaml", "jets.h5", "--out", "r"), "config.yaml"),
        (("dataset", "make", "nowhere", "--jets", "3", "--out", "a.h5"), "nowhere"),
        (("sample", "top3", "--events", "3", "--out", "a.h5"), "did you mean top30?"),
        (("score", "m", "pythia-top/train", "--out", "a.h5"), "not named like an HDF5 file"),
        (
            ("score", "m", "pythia-top/tran.h5", "--out", "a.h5"),
            "did you mean pythia-top/train.h5?",
        ),
        (
            ("dataset", "make", "pythia-tpo", "--jets", "3", "--out", "a.h5"),
            "did you mean pythia-top?",
        ),
        (("sample", "m", "--events", "3", "--out", "new/a.h5"), "there is no folder new"),
        (("score", "m", "jets.h5", "--out", "new/a.h5"), "there is no folder new"),
        (("evaluate", "jets.h5", "jets.h5", "--out", "new/r"), "there is no folder new"),
        (("dataset", "make", "m", "--jets", "3", "--out", "new/a.h5"), "there is no folder new"),
        (("smaple",), "smaple"),
        ((), "setflow needs a command, one of fit, sample"),
    ],
)
def test_commands_that_cannot_work(folder, capsys, arguments, message):
    assert message in fails(capsys, *arguments)
    assert not Path("a.h5").exists()
    assert not Path("r").exists()


def test_a_run_is_no_model_but_says_where_its_model_is(model, capsys):
    message = fails(capsys, "sample", "runs/tiny", "--events", "3", "--out", "a.h5")
    assert "its model is runs/tiny/model" in message


def test_the_demo_says_what_an_installation_lacks(folder, capsys, monkeypatch):
    monkeypatch.setattr(shipped, "_COPIES", folder / "no copies")
    monkeypatch.setattr(shipped, "clone", lambda: None)
    assert "lacks top30-two-stages" in fails(capsys, "demo")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("--help",),
        ("sample", "--help"),
        ("score", "--help"),
        ("evaluate", "--help"),
        ("dataset", "--help"),
        ("dataset", "make", "--help"),
        ("demo", "--help"),
        ("promote", "--help"),
        ("promote", "nowhere", "other"),
        ("info", "--help"),
        ("info",),
        ("info", "nowhere"),
        ("doctor", "--help"),
        ("doctor", "--fix"),
        (),
        ("smaple",),
        ("dataset", "mkae"),
        ("sample", "model"),
        ("sample", "model", "--out", "a.h5", "--evnets", "3"),
        ("sample", "model", "--out", "a.h5", "--events", "three"),
        ("sample", "model", "--out", "a.h5"),
        ("sample", "model", "--out", "a.h5", "--events", "3", "--solver", "rk5"),
        ("sample", "model", "--out", "a.h5", "--events", "3", "--device", "gpu"),
        ("sample", "model", "--out", "jets.h5", "--events", "3"),
        ("sample", "model", "--out", "nowhere/a.h5", "--events", "3"),
        ("score", "model", "jets.h5", "--out", "a.h5", "--estimator", "exat"),
        ("score", "model", "jets.h5", "--out", "a.h5", "--probes", "4"),
        ("score", "model", "jets.h5", "--out", "a.h5", "--rtol", "1e-4"),
        ("score", "model", "jets.h5", "--out", "jets.h5"),
        ("evaluate", "jets.h5"),
        ("evaluate", "jets.h5", "jets.h5", "--out", "jets.h5"),
        ("dataset", "make", "recipe", "--out", "a.h5"),
        ("demo", "--stpes", "3"),
        ("fit", "--help"),
        ("sample", "model", "--out", "a.root", "--events", "3"),
        ("sample", "model", "--out", "a.h5", "--events", "1.5"),
        ("sample", "model", "--out", "a.h5", "--events", "3", "--rtol", "1e-4"),
        ("sample", "model", "--out", "a.h5", "--events", "0"),
        ("score", "model", "jets.npz", "--out", "a.h5"),
        ("evaluate", "jets.root", "jets.h5", "--out", "report"),
        ("dataset", "make", "recipe", "--events", "3", "--out", "a"),
    ],
    ids=" ".join,
)
def test_what_needs_no_torch_imports_none(folder, arguments):
    """Help and errors about arguments are there at once."""
    code = (
        "import atexit, sys\n"
        "heavy = ('torch', 'numpy', 'h5py', 'lightning', 'matplotlib', 'rich')\n"
        "atexit.register(lambda: print('imported', [m for m in heavy if m in sys.modules]))\n"
        "from setflow.cli import main\n"
        f"main({list(arguments)!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    # an output that is there is looked into: the same command may have made it
    looked = "['numpy', 'h5py']" if "--out jets.h5" in " ".join(arguments[:5]) else "[]"
    looked = "[]" if "evaluate" in arguments else looked
    assert done.stdout.endswith(f"imported {looked}\n"), done.stdout + done.stderr
    helps = arguments[-1:] in [("--help",), ("--version",)]
    assert done.returncode == (0 if helps else 2)
    assert ("error: " in done.stderr) != helps


def test_a_warning_is_one_line_of_its_own(folder):
    with h5py.File("jets.h5", "r+") as file:
        file["jet_features"].attrs["units"] = ["TeV", "", "TeV", ""]
    command = [sys.executable, "-m", "setflow.cli", "fit", "--config", "config.yaml"]
    done = subprocess.run(command, capture_output=True, text=True)
    (line,) = (line for line in done.stderr.splitlines() if "TeV" in line)
    assert line.startswith("setflow: warning: jets.h5: jet_features: pt from TeV to GeV, mass")
    assert "Warning:" not in done.stderr
    assert ".py" not in done.stderr


def test_a_shell_gets_version_help_and_status():
    def shell(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "setflow.cli", *arguments], capture_output=True, text=True
        )

    assert shell("--version").stdout == f"setflow {setflow.__version__}\n"
    help_text = shell("--help").stdout
    commands = (
        "fit",
        "sample",
        "score",
        "evaluate",
        "promote",
        "dataset",
        "demo",
        "info",
        "doctor",
    )
    assert all(command in help_text for command in commands)
    assert shell("sample", "nowhere", "--out", "x.h5").returncode == 2


def test_the_logarithm_is_one_option_and_its_scores_lack_nothing(folder, capsys):
    """As the README asks for it; with an exponent above 0 the command says what is missing."""
    config = yaml.safe_load(Path("config.yaml").read_text())
    parts = config["model"]["flow"]["init_args"]
    parts["scaler"]["init_args"]["kinds"] = ["real", "real", "positive(boxcox=0.3)"]
    Path("other.yaml").write_text(yaml.safe_dump(config))
    option = "--model.flow.init_args.scaler.init_args.kinds"
    run("fit", "--config", "other.yaml", "--name", "boxcox")
    run("fit", "--config", "other.yaml", "--name", "log", option, "[real, real, positive]")
    score = ("jets.h5", "--events", "3", "--estimator", "hutchinson", "--steps", "2", "--out")
    capsys.readouterr()
    run("score", "runs/log/model", *score, "log.h5")
    assert "leave out" not in capsys.readouterr().out
    run("score", "runs/boxcox/model", *score, "boxcox.h5")
    told = " ".join(capsys.readouterr().out.split())
    assert "wrote boxcox.h5" in told
    assert re.search(r"these densities leave out \d+\.\d ± \d+\.\d % of the model", told)


@pytest.mark.parametrize("extra", [(), ("--force",)])
def test_a_folder_of_another_kind_is_not_said_to_be_overwritten(extra, model, capsys):
    """The advice to overwrite it with --force was refused when it was taken."""
    Path("mine").mkdir()
    Path("mine", "thesis.tex").touch()
    for arguments in (
        ("promote", model, "mine"),
        ("evaluate", "jets.h5", "jets.h5", "--out", "mine"),
        ("sample", model, "--events", 3, "--out", "mine"),
    ):
        message = fails(capsys, *arguments, *extra)
        assert "mine is not a folder that this command made" in message
        assert message.endswith("choose another name\n")
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.tex"]
