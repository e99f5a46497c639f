"""`setflow fit` on several processes, which are started, stopped and killed."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cli.shell import run
from cli.test_resuming import BY_STEPS, FIT, left

ROOT = Path(__file__).resolve().parents[2]
# of 150 jets and 50 to validate on: a last batch of 3, and one of 1, which not all can share
OPTIONS = (*FIT, *BY_STEPS, "--data.batch_size=49", "--trainer.log_every_n_steps=1")
DISTURBED = """
import os, signal, sys
from setflow.cli import main
from setflow.training.module import FlowMatchingModule
ordinary, (kind, rank, at) = FlowMatchingModule.training_step, sys.argv.pop(1).split(",")

def step(self, batch, index):
    if self.trainer.global_step == int(at) and self.global_rank == int(rank):
        os.kill(os.getpid(), getattr(signal, kind))
    return ordinary(self, batch, index)

FlowMatchingModule.training_step = step
# another process of the launcher finds the same command line
sys.argv[1:1], arguments = [",".join((kind, rank, at))], sys.argv[1:]
if __name__ == "__main__":
    main(arguments)
"""
NEVER = "SIGTERM,0,-1"


def ended(disturb, *arguments, torchrun=0, limit=150):
    """Run a training that one of its processes disturbs; return its status and what it says."""
    Path("disturbed.py").write_text(DISTURBED)
    start = [sys.executable]
    if torchrun:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={torchrun}"]
    process = subprocess.Popen(
        [*start, "disturbed.py", disturb, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, errors = process.communicate(timeout=limit)
    finally:
        with contextlib.suppress(ProcessLookupError):  # nobody is left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode, said, errors


def losses(name):
    """The losses of a run by their steps."""
    found = {}
    for path in sorted(Path("runs", name, "csv").rglob("metrics.csv")):
        with open(path) as file:
            for row in csv.DictReader(file):
                for key in ("train_loss", "val_loss"):
                    if row.get(key):
                        found[key, int(row["step"])] = float(row[key])
    return found


def assert_alike(one, other):
    """Two runs are the same but for rounding."""
    (steps, mine), (others, theirs) = left(one), left(other)
    assert steps == others
    for what, numbers in mine.items():
        for name, value in numbers.items():
            torch.testing.assert_close(value, theirs[what][name], rtol=1e-3, atol=2e-5)
    expected, found = losses(one), losses(other)
    assert found.keys() <= expected.keys()
    assert len(found) >= len(expected) - 1, "all but that of a step that a signal ended"
    assert found == pytest.approx({key: expected[key] for key in found}, rel=1e-5)


def test_two_processes_train_as_one_does(folder):
    run(*OPTIONS, "--name", "one")
    status, said, errors = ended(NEVER, *OPTIONS, "--name=two", "--trainer.devices=2")
    assert (status, errors) == (0, "")
    assert said.count("data: ") == 3, "the first process speaks"
    assert said.count("wrote runs/two/model: a model after 14 steps, its best weights") == 1
    assert "2 processes of 1 thread" in Path("runs/two/model/README.md").read_text()
    assert_alike("one", "two")


def test_what_ends_one_of_two_processes_ends_both_and_the_run_goes_on(folder):
    """Stopped in the middle of an epoch, killed in that of another, and ended by one process."""
    options = (*OPTIONS, "--data.in_memory=false")
    run(*options, "--name", "whole")
    options += ("--name", "broken")
    status, _, errors = ended("SIGTERM,0,5", *options, "--trainer.devices=2")
    assert status == 143, errors
    assert errors == (
        "setflow: stopped by SIGTERM at step 6, whose checkpoint is written; go on with: setflow "
        "fit --resume --name broken\n"
    )
    status, _, errors = ended("SIGKILL,1,10", *options, "--trainer.devices=2")
    assert status not in (0, 1), errors
    assert "Traceback" not in errors
    run(*options)
    assert_alike("whole", "broken")


@pytest.mark.wide
def test_four_processes_of_torchrun_train_as_one_does(folder):
    run(*OPTIONS, "--name", "one")
    status, _, errors = ended("SIGKILL,3,6", *OPTIONS, "--name=four", torchrun=4)
    assert status != 0, errors
    status, said, errors = ended(NEVER, *OPTIONS, "--name=four", torchrun=4)
    assert status == 0, errors
    assert said.count("wrote runs/four/model") == 1
    assert_alike("one", "four")
    status, _, errors = ended("SIGUSR1,2,6", *OPTIONS, "--name=other", torchrun=4)
    assert status != 0
    assert "stopped by SIGUSR1 at step 7, whose checkpoint is written" in errors
