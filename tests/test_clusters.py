"""The job scripts of the page on clusters, run by local processes with the variables of a queue."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import setflow
from cli.shell import write_jets
from setflow.cli.parsing import part_of_run

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/clusters.md").read_text()
ARRAY = {"SLURM_ARRAY_TASK_MIN": 0, "SLURM_ARRAY_TASK_MAX": 9}


def block(heading, language="bash"):
    """The first block of code below a heading."""
    text = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.search(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)[1]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A small model named as the pages do, and the command `setflow`, which trains it."""
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1)
    scaler = setflow.data.Standardizer(3, mean=[0, 0, 0.5], std=[0.01, 0.01, 0.01])
    p_of_n = setflow.EmpiricalCardinality(counts=[0, 1, 1])
    setflow.SetFlow(field, scaler=scaler, cardinality=p_of_n).eval().save(tmp_path / "top30")
    write_jets(tmp_path / "jets-train.h5", jets=60)
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    command = bin_ / "setflow"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m setflow.cli "$@"\n')
    (bin_ / "scontrol").write_text('#!/bin/sh\necho "scontrol $*" >> said\n')
    for path in bin_.iterdir():
        path.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }


def shell(script, environment, **variables):
    told = {name: str(value) for name, value in variables.items()}
    return subprocess.run(
        ["bash", "-c", script], env={**environment, **told}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip


def test_an_array_and_its_merge_make_the_sample(here):
    script = block("SLURM: samples and scores in an array")
    script = script.replace("1000000", "20 --steps 2").replace("top30", "./top30")
    for task in (1, 3, 5):  # an array of its own numbers
        bounds = {"MIN": 1, "MAX": 5, "STEP": 2, "ID": task}
        done = shell(script, here, **{f"SLURM_ARRAY_TASK_{name}": k for name, k in bounds.items()})
        assert done.returncode == 0, done.stderr
    merge = re.search(r"setflow dataset merge .*", PAGE)[0].replace("of-10", "of-3")
    done = shell(merge, here)
    assert done.returncode == 0, done.stderr
    assert "the events of 3 files" in done.stdout


def test_the_part_of_condor_is_written_where_its_file_says():
    text = PAGE.partition("## HTCondor: samples in parts")[2]
    arguments = re.search(r"^arguments += (.*)$", text, flags=re.M)[1]
    output = re.search(r"^transfer_output_files += (.*)$", text, flags=re.M)[1]
    queue = int(re.search(r"^queue (\d+)$", text, flags=re.M)[1])
    for process in range(queue):
        words = arguments.replace("$(Process)", str(process)).split()
        part = setflow.parts.Part(*part_of_run(words[words.index("--part") + 1]))
        assert part.of == queue
        name = output.replace("$INT(Process,%02d)", f"{process:02d}")
        assert str(part.path(Path(words[words.index("--out") + 1]))) == name


def test_a_training_is_requeued_after_its_warning_and_goes_on(here, tmp_path):
    """SIGUSR1 of the queue reaches the script, and the script's status is that of the run."""
    script = block("SLURM: one training").replace("--config top30", "--config tiny.yaml")
    script = script.replace("--trainer.max_steps 200000", "--trainer.max_steps 30")
    import yaml

    from cli.shell import CONFIG

    config = {**CONFIG, "data": {**CONFIG["data"], "train": "jets-train.h5"}}
    config["trainer"] = {**CONFIG["trainer"], "max_epochs": -1}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    slow = (  # the command takes the signal in the middle of its work
        "import os, signal, sys, time\n"
        "from setflow.cli import main\n"
        "from setflow.training.module import FlowMatchingModule as Module\n"
        "step = Module.training_step\n"
        "def told(self, batch, k):\n"
        "    if self.trainer.global_step == 5:\n"
        "        os.kill(os.getppid(), signal.SIGUSR1)\n"
        "        time.sleep(1)\n"
        "    return step(self, batch, k)\n"
        "Module.training_step = told\n"
        "main(sys.argv[1:])\n"
    )
    (tmp_path / "slow.py").write_text(slow)
    command = tmp_path / "bin/setflow"
    ordinary = command.read_text()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/slow.py "$@"\n')
    done = shell(script, here, SLURM_JOB_ID=17)
    assert done.returncode == 138, done.stderr
    assert Path("said").read_text() == "scontrol requeue 17\n"
    command.write_text(ordinary)
    done = shell(script, here, SLURM_JOB_ID=17)
    assert done.returncode == 0, done.stderr
    assert "a model after 30 steps" in done.stdout


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": 3}, (3, 10)),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": 3, "SLURM_NTASKS": 4, "SLURM_PROCID": 0}, (3, 10)),
        (
            {**ARRAY, "SLURM_ARRAY_TASK_ID": 3, "SLURM_STEP_NUM_TASKS": 4, "SLURM_PROCID": 2},
            (14, 40),
        ),
        ({"SLURM_STEP_NUM_TASKS": 4, "SLURM_PROCID": 2}, (2, 4)),
    ],
)
def test_slurm_tells_the_part(told, expected, monkeypatch):
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    assert part_of_run("slurm") == expected
