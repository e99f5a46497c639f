"""A run of `setflow fit` that is stopped, killed, moved, damaged, or called twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Timer

import setflow
from cli.shell import CONFIG, fails, run, write_jets
from setflow.training.checkpoints import read_checkpoint
from setflow.training.export import ExportBestModel
from setflow.training.module import FlowMatchingModule

ROOT = Path(__file__).resolve().parents[2]
FIT = ("fit", "--config", "config.yaml")
BY_STEPS = (
    "--trainer.max_steps=14",
    "--trainer.max_epochs=-1",
    "--trainer.val_check_interval=4",
    "--trainer.check_val_every_n_epoch=null",
)
CHECKPOINTS = Path("runs/tiny/checkpoints")
HEADS = "--model.flow.init_args.field.init_args.heads"


def left(name):
    """The numbers that a run has left: those to go on with, the best ones, and the model's."""
    folder = Path("runs") / name
    last = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    numbers = {"last": last["state_dict"], "current": last["current_model_state"]}
    best = folder / "checkpoints/best.ckpt"
    if best.exists():
        numbers["best"] = torch.load(best, weights_only=True)["state_dict"]
    numbers["model"] = setflow.SetFlow.load(folder / "model").state_dict()
    return last["global_step"], numbers


def assert_same(one, other):
    (steps, mine), (others, theirs) = left(one), left(other)
    assert steps == others
    assert mine.keys() == theirs.keys()
    for what, numbers in mine.items():
        for name, value in numbers.items():
            assert torch.equal(value, theirs[what][name]), f"{what} {name}"


def ended(*arguments):
    """Run a command; return its exit status."""
    try:
        run(*arguments)
    except SystemExit as stop:
        return stop.code
    return 0


def stopped(monkeypatch, capsys, number, step, *options):
    """Run `fit`, which gets a signal in a step; return how it ends and what it says."""
    ordinary = FlowMatchingModule.training_step

    def signalled(self, batch, batch_idx):
        if self.trainer.global_step == step:
            os.kill(os.getpid(), number)
        return ordinary(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(FlowMatchingModule, "training_step", signalled)
        status = ended(*FIT, *options)
    assert status != 2, capsys.readouterr().err
    return status, capsys.readouterr().err


# --- signals ---


@pytest.mark.parametrize(
    ("number", "status", "step"),
    [
        (signal.SIGTERM, 143, 0),  # before the first validation
        (signal.SIGUSR1, 138, 3),  # where one is due
        (signal.SIGINT, 130, 6),  # in the middle of an epoch and of an interval
        (signal.SIGTERM, 143, 9),  # at the end of an epoch
    ],
)
def test_a_signal_leaves_a_checkpoint_and_the_same_command_ends_as_if_there_had_been_none(
    folder, monkeypatch, capsys, number, status, step
):
    run(*FIT, *BY_STEPS, "--name", "whole")
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    options = (*BY_STEPS, "--name", "broken")
    code, told = stopped(monkeypatch, capsys, number, step, *options)
    after = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    assert after == before
    assert code == status
    name = signal.Signals(number).name
    assert told == (
        f"setflow: stopped by {name} at step {step + 1}, whose checkpoint is written; go on with: "
        "setflow fit --resume --name broken\n"
    )
    assert not Path("runs/broken/model").exists() or step >= 3
    run(*FIT, *options)
    assert_same("whole", "broken")


def test_a_run_that_nothing_validates_is_stopped_and_goes_on_too(folder, monkeypatch, capsys):
    never = (*BY_STEPS, "--trainer.val_check_interval=1000")
    run(*FIT, *never, "--name", "whole")
    assert stopped(monkeypatch, capsys, signal.SIGTERM, 6, *never, "--name", "broken")[0] == 143
    run("fit", "--resume", "--name", "broken")
    assert_same("whole", "broken")


def test_gradients_that_are_gathered_over_batches_are_not_lost(folder, monkeypatch, capsys):
    gathered = ("--trainer.max_epochs=4", "--trainer.accumulate_grad_batches=2")
    run(*FIT, *gathered, "--name", "whole")
    options = (*gathered, "--name", "broken")
    assert stopped(monkeypatch, capsys, signal.SIGUSR1, 4, *options)[0] == 138
    run(*FIT, *options)
    assert_same("whole", "broken")


def test_a_signal_before_the_training_says_that_nothing_is_lost(folder, monkeypatch, capsys):
    def read(self, stage):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(setflow.training.SetDataModule, "setup", read)
    with pytest.raises(SystemExit) as stop:
        run(*FIT)
    assert stop.value.code == 143
    told = capsys.readouterr().err
    assert "stopped by SIGTERM before the first checkpoint; begin with: setflow fit --con" in told


def test_slurm_does_not_requeue_by_itself(folder, monkeypatch, capsys):
    """Lightning would, in the middle of a step, and write a checkpoint that it prefers to ours."""
    variables = {
        "JOB_ID": 7,
        "JOB_NAME": "fit",
        "NTASKS": 1,
        "PROCID": 0,
        "LOCALID": 0,
        "NODEID": 0,
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setattr(subprocess, "call", lambda *_: pytest.fail("scontrol was called"))
    code, told = stopped(monkeypatch, capsys, signal.SIGUSR1, 2)
    assert code == 138
    assert "at step 3" in told
    assert not list(Path("runs/tiny").glob("hpc_ckpt*"))


def test_kills_at_any_time_lose_nothing(folder):
    """Signals and `kill -9` of a process of its own, then the same command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    slow = (  # steps that a signal can fall between
        "import time\n"
        "from setflow.cli import main\n"
        "from setflow.training.module import FlowMatchingModule as Module\n"
        "step = Module.training_step\n"
        "Module.training_step = lambda *a: (time.sleep(0.03), step(*a))[1]\n"
    )
    options = (*BY_STEPS, "--trainer.max_steps=40", "--trainer.val_check_interval=3")
    run(*FIT, *options, "--name", "whole")
    kinds = (signal.SIGKILL, signal.SIGTERM)
    arguments = [*FIT, *options, "--name", "broken"]
    ends = []
    for kind, delay in zip(kinds, (0.1, 0.25), strict=True):
        process = subprocess.Popen(
            [sys.executable, "-c", f"{slow}main({arguments!r})"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        seen = _saved()
        deadline = time.monotonic() + 60
        while _saved() == seen and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(kind)
        told = process.communicate(timeout=60)[1]
        ends.append(process.returncode)
        assert "Traceback" not in told
        assert process.returncode in (0, 128 + kind, -kind), told
    assert any(ends), "nothing was killed"
    run(*arguments)
    assert_same("whole", "broken")
    assert not list(Path("runs/broken").rglob("*.part"))


def _saved():
    path = Path("runs/broken/checkpoints/last.ckpt")
    return path.stat().st_mtime_ns if path.exists() else 0


# --- the same command again ---


def test_a_run_that_has_finished_says_so(model, capsys):
    files = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    capsys.readouterr()
    run(*FIT)
    out = capsys.readouterr().out
    assert "runs/tiny/model is written already: a model after 10 steps, its best weights" in out
    assert "to train longer, raise --trainer.max_steps, --trainer.max_epochs or --trainer" in out
    assert "next: setflow sample runs/tiny/model" in out
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == files


def test_a_kill_before_the_export_is_mended_by_the_same_command(folder, monkeypatch):
    run(*FIT, "--name", "whole")

    def killed(self, module, ended=None):
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(ExportBestModel, "finish", killed)
        assert ended(*FIT, "--name", "broken") == 9
    shutil.rmtree("runs/broken/model")
    run(*FIT, "--name", "broken")
    assert_same("whole", "broken")


def test_a_longer_training_goes_on(model):
    run(*FIT, "--trainer.max_epochs", "3")
    assert left("tiny")[0] == 15
    written = yaml.safe_load(Path("runs/tiny/config.yaml").read_text())
    assert written["trainer"]["max_epochs"] == 3


@pytest.mark.parametrize(
    ("options", "place"),
    [
        (("--seed_everything", "4"), "seed_everything is 3 there and 4 now"),
        ((HEADS, "1"), "model.flow.field.heads is 2 there and 1 now"),
        (("--model.optimizer.init_args.lr", "0.1"), "model.optimizer.lr is 0.01 there and 0.1 now"),
        (("--model.warmup", "0.2"), "model.warmup is 0.05 there and 0.2 now"),
        (("--data.batch_size", "16"), "data.batch_size is 32 there and 16 now"),
        (("--trainer.gradient_clip_val", "2"), "trainer.gradient_clip_val is 1"),
        (("--data.train", "other.h5"), "begun with other data: data.train.sha256 is '"),
        (("--init", "runs/tiny/model"), "init is None there and 'runs/tiny/model' now"),
    ],
)
def test_a_run_does_not_go_on_as_another(model, capsys, options, place):
    write_jets(Path("other.h5"), seed=9)
    files = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    for more in ((), ("--trainer.max_epochs", "3"), ("--resume", "only")):
        if "--init" in options and more == ("--resume", "only"):
            continue
        told = fails(capsys, *FIT, *options, *more)
        assert place in told
        assert told.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == files


def test_the_data_may_have_moved(model, capsys):
    shutil.move("jets.h5", "elsewhere.h5")
    run(*FIT, "--data.train", "elsewhere.h5", "--trainer.max_epochs", "3")
    assert left("tiny")[0] == 15
    write_jets(Path("elsewhere.h5"), seed=9)
    told = fails(capsys, "fit", "--resume", "--name", "tiny", "--trainer.max_epochs", "4")
    assert "data.train.sha256" in told


def test_a_moved_run_keeps_its_best_score(folder, monkeypatch, capsys):
    run(*FIT, *BY_STEPS, "--name", "whole")
    options = (*BY_STEPS, "--name", "broken")
    assert stopped(monkeypatch, capsys, signal.SIGTERM, 9, *options)[0] == 143
    assert str(folder) not in str(read_checkpoint(Path("runs/broken/checkpoints/last.ckpt")))
    shutil.move("runs/broken", "runs/moved")
    Path("away").mkdir()
    shutil.move("runs", "away/runs")
    shutil.copy("jets.h5", "away/jets.h5")
    monkeypatch.chdir("away")
    run("fit", "--resume", "--name", "moved")
    assert_same("whole", "moved")
    assert "warning" not in capsys.readouterr().err


def test_to_resume_and_to_overwrite_exclude_each_other_in_a_configuration_too(model, capsys):
    files = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    config = yaml.safe_load(Path("config.yaml").read_text())
    Path("both.yaml").write_text(yaml.safe_dump({**config, "resume": "only", "force": True}))
    assert "give one of them" in fails(capsys, "fit", "--config", "both.yaml")
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == files


def test_a_folder_that_is_no_run_is_left_alone(folder, capsys):
    Path("runs/tiny").mkdir(parents=True)
    Path("runs/tiny/thesis.tex").write_text("...")
    assert "holds something else than a run" in fails(capsys, *FIT)
    assert [path.name for path in Path("runs/tiny").iterdir()] == ["thesis.tex"]


def test_of_two_processes_on_one_run_the_second_is_refused(folder, capsys):
    from setflow.files import in_use_by_one

    Path("runs/tiny").mkdir(parents=True)
    with in_use_by_one(Path("runs/tiny")):
        assert "runs/tiny is in use by another process" in fails(capsys, *FIT)
    run(*FIT)


# --- checkpoints that are damaged ---


def _spoil(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "flipped":
        content[len(content) // 2] ^= 255
    elif how == "text":
        content = bytearray(b"no checkpoint")
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("how", ["cut", "flipped", "text"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    folder, monkeypatch, capsys, how
):
    run(*FIT, *BY_STEPS, "--name", "whole")
    options = (*BY_STEPS, "--name", "broken")
    assert stopped(monkeypatch, capsys, signal.SIGTERM, 9, *options)[0] == 143
    checkpoints = Path("runs/broken/checkpoints")
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        "best.ckpt", "last.ckpt", "previous.ckpt",
    ]  # fmt: skip
    _spoil(checkpoints / "last.ckpt", how)
    run(*FIT, *BY_STEPS, "--name", "broken")
    told = capsys.readouterr().err
    assert "warning: runs/broken/checkpoints/last.ckpt is damaged, or no checkpoint: " in told
    assert "goes on from previous.ckpt, which is of step 8" in told
    assert told.count("\n") == 1
    assert_same("whole", "broken")


def test_where_no_checkpoint_can_be_read_nothing_is_destroyed(model, capsys):
    for name in ("last", "previous"):
        _spoil(CHECKPOINTS / f"{name}.ckpt", "cut")
    files = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    told = fails(capsys, *FIT)
    assert "last.ckpt is damaged" in told
    assert "previous.ckpt is damaged" in told
    assert "--force overwrites it" in told
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == files
    run(*FIT, "--force")


class Trap:
    def __reduce__(self):
        return (Path("sprung").touch, ())


def test_a_checkpoint_runs_no_code(model, capsys):
    content = read_checkpoint(CHECKPOINTS / "last.ckpt")
    for name in ("last", "previous"):
        torch.save({**content, "more": Trap()}, CHECKPOINTS / f"{name}.ckpt")
    told = fails(capsys, *FIT, "--trainer.max_epochs", "3")
    assert "last.ckpt is damaged, or no checkpoint: Weights only load failed" in told
    assert told.count("\n") == 1
    assert len(told) < 1000
    assert not Path("sprung").exists()


PIPE = "is a pipe, expected a regular file"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.yaml", PIPE),
        ("checkpoints/last.ckpt", PIPE),
        ("checkpoints/best.ckpt", PIPE),
        ("model/manifest.json", "runs/tiny/model is not a folder that this command made"),
    ],
)
def test_a_pipe_in_a_run_is_not_waited_for(model, capsys, name, message):
    path = Path("runs/tiny", name)
    path.unlink()
    os.mkfifo(path)
    told = fails(capsys, *FIT, "--trainer.max_epochs", "3")
    assert message in told
    assert told.count("\n") == 1


# --- time ---


def test_time_that_ends_a_training_of_open_length_has_finished_it(folder, capsys):
    opened = ("--trainer.max_epochs=-1", "--trainer.max_time=00:00:00:01")
    run(*FIT, *opened)
    assert "next: setflow sample" in capsys.readouterr().out
    steps = left("tiny")[0]
    run(*FIT, *opened)
    assert "is written already" in capsys.readouterr().out
    assert left("tiny")[0] == steps
    run(*FIT, "--trainer.max_epochs=-1", "--trainer.max_time=00:00:00:02")
    assert left("tiny")[0] > steps


def test_time_that_ends_a_training_before_its_steps_says_85_and_each_call_has_its_own(
    folder, capsys
):
    asked = ("--trainer.max_epochs=100000", "--trainer.max_time=00:00:00:01")
    for status, more in ((85, ()), (85, ()), (7, ("--status-on-time", "7")), (0, (_STATUS, "0"))):
        before = left("tiny")[0] if Path("runs/tiny").exists() else 0
        assert ended(*FIT, *asked, *more) == status
        assert left("tiny")[0] > before
        assert "next: setflow fit --resume --name tiny" in capsys.readouterr().out
    assert json.loads(Path("runs/tiny/model/manifest.json").read_text())["training"]["ended"]


_STATUS = "--status-on-time"


def test_slices_of_time_end_as_one_training(folder, monkeypatch):
    """The learning rate follows the steps that were asked for, however the time cuts them."""
    asked = (*BY_STEPS, "--trainer.max_steps=60", "--trainer.val_check_interval=20")
    run(*FIT, *asked, "--name", "whole")

    def check(self, trainer):
        self.looks = getattr(self, "looks", -1) + 1  # the first one is before the first step
        trainer.should_stop = trainer.should_stop or self.looks >= 17

    monkeypatch.setattr(Timer, "_check_time_remaining", check)
    monkeypatch.setattr(Timer, "time_remaining", lambda self, stage="train": 0.0)
    cut = (*FIT, *asked, "--name", "cut", "--trainer.max_time=00:00:00:10")
    assert [ended(*cut) for _ in range(4)] == [85, 85, 85, 0]
    assert left("cut")[0] == 60
    last = [torch.load(f"runs/{name}/checkpoints/last.ckpt") for name in ("whole", "cut")]
    for name, value in last[0]["current_model_state"].items():
        assert torch.equal(value, last[1]["current_model_state"][name]), name


# --- early stopping ---


def test_a_run_with_early_stopping_goes_on_after_any_step(folder, monkeypatch, capsys):
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    stopping = {"monitor": "val_flow_loss", "patience": 2, "min_delta": 1e3}
    name = "lightning.pytorch.callbacks.EarlyStopping"
    config["trainer"]["callbacks"].append({"class_path": name, "init_args": stopping})
    config["trainer"]["max_epochs"] = 10
    Path("config.yaml").write_text(yaml.safe_dump(config))
    run(*FIT, "--name", "whole")
    steps = left("whole")[0]
    assert steps == 15
    for step in (2, 4, 9):
        options = ("--name", f"broken{step}")
        assert stopped(monkeypatch, capsys, signal.SIGTERM, step, *options)[0] == 143
        run(*FIT, *options)
        assert_same("whole", f"broken{step}")


# --- what is not finite, disks and memory ---


def test_a_diverged_training_ends_with_an_error_and_keeps_what_was_good(
    folder, monkeypatch, capsys
):
    ordinary = FlowMatchingModule.training_step

    def diverging(self, batch, batch_idx):
        if self.trainer.global_step == 7:
            with torch.no_grad():
                self.flow.field.out.weight.fill_(float("nan"))
        return ordinary(self, batch, batch_idx)

    monkeypatch.setattr(FlowMatchingModule, "training_step", diverging)
    told = fails(capsys, *FIT)
    assert "train_loss is nan at step 7" in told
    assert torch.load(CHECKPOINTS / "last.ckpt")["global_step"] == 5
    setflow.SetFlow.load("runs/tiny/model")


def test_weights_that_are_not_finite_reach_no_checkpoint(folder, monkeypatch, capsys):
    """The last update has spoilt them, after a loss that was finite."""

    def spoil(self, batch, batch_idx):
        loss = ordinary(self, batch, batch_idx)
        if self.trainer.global_step == 9:
            loss = loss + (self.flow.field.out.bias * 0).sum().sqrt()  # its gradient is infinite
        return loss

    ordinary = FlowMatchingModule.training_step
    monkeypatch.setattr(FlowMatchingModule, "training_step", spoil)
    never = ("--trainer.limit_val_batches", "0", "--trainer.gradient_clip_val", "null")
    told = fails(capsys, *FIT, *never, "--trainer.max_epochs", "null", "--trainer.max_steps", "10")
    assert "the weights flow.field.out.bias are not finite at step 10" in told
    assert not CHECKPOINTS.exists()
    assert not Path("runs/tiny/model").exists()


def test_a_full_disk_ends_in_one_line_and_is_resumable(folder, monkeypatch, capsys):
    run(*FIT, "--name", "whole")
    write, count = Path.write_bytes, [0]

    def full(self, content):
        if self.name == ".last.ckpt.part":
            count[0] += 1
            if count[0] == 2:
                raise OSError(28, "No space left on device", str(self))
        return write(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        told = fails(capsys, *FIT)
    assert "No space left on device" in told
    assert told.count("\n") == 1
    run(*FIT)
    assert_same("whole", "tiny")


@pytest.mark.parametrize(
    "error",
    [MemoryError("72 GiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")],
)
def test_too_little_memory_ends_in_one_line(folder, monkeypatch, capsys, error):
    def full(self, stage):
        raise error

    monkeypatch.setattr(setflow.training.SetDataModule, "setup", full)
    told = fails(capsys, *FIT)
    assert "the memory of " in told
    assert told.count("\n") == 1


def test_an_error_prints_no_novel(folder, capsys):
    name = "\x1b[31m" + "x" * 10**6
    told = fails(capsys, *FIT, "--name", name)
    assert len(told) < 4000
    assert "\x1b" not in told


def test_outputs_have_the_modes_of_the_umask(folder):
    before = os.umask(0o027)
    try:
        run(*FIT)
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode & 0o777 for path in Path("runs").rglob("*")}
    wrong = {str(path): oct(mode) for path, mode in modes.items()
             if mode != (0o750 if path.is_dir() else 0o640)}  # fmt: skip
    assert not wrong
