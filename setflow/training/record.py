"""How a model was trained, in facts: they go into its manifest and, as lines, onto its card.

A fact that is not known is left out. No path stands there, only names of files.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from setflow.data.fingerprint import fingerprint
from setflow.data.header import read_header
from setflow.environment import commit, processor, versions
from setflow.files import file_sha256
from setflow.progress import clock
from setflow.shipped import JETS, find
from setflow.training.files import DataFile

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["command_line", "facts_of", "files_facts", "lines_of"]

_PACKAGES = ("torch", "lightning", "numpy")


def command_line(argv: Sequence[str]) -> str:
    """Return a command line of `fit` with the names of files and folders only.

    >>> command_line(["--config", "/home/a/top.yaml", "--data.train=/data/top.h5"])
    'setflow fit --config top.yaml --data.train=top.h5'
    """
    words = []
    for word in argv:
        option, equals, value = word.rpartition("=")
        path = Path(value)
        words.append(f"{option}{equals}{path.name if path.is_absolute() else value}")
    return shlex.join(["setflow", "fit", *words])


def files_facts(files: Sequence[DataFile], *, quick: bool = False) -> dict[str, Any]:
    """Return what files of jets are: name, sha256, and the recipe and seed that made each.

    These facts stand by themselves for one file without a class, and as the list `files` for more.

    Arguments:
        files: the files.
        quick: tell the fingerprint of each (`setflow.data.fingerprint`) in place of its sha256,
            for which all of it is read.
    """
    listed = []
    for given, label, start, stop in files:
        path = find(JETS, given)
        told = read_header(path).attributes
        digest = {"fingerprint": fingerprint(path)} if quick else {"sha256": file_sha256(path)}
        facts: dict[str, Any] = {"file": path.name, **digest}
        facts |= {} if label is None else {"class": label}
        facts |= {} if (start, stop) == (0, None) else {"rows": [start, stop]}
        if "recipe" in told:
            facts["recipe"] = str(told["recipe"])
            facts |= {"seed": int(told["seed"])} if "seed" in told else {}
        listed.append(facts)
    alone = len(listed) == 1 and "class" not in listed[0]
    return listed[0] if alone else {"files": listed}


def facts_of(trainer: Trainer) -> dict[str, Any]:
    """Return where a training stands and what it runs on."""
    accelerator = processor()
    if trainer.strategy.root_device.type == "cuda":
        accelerator = torch.cuda.get_device_name(trainer.strategy.root_device)
    logged = trainer.callback_metrics.items()
    losses = {name: float(value) for name, value in logged if name.endswith("_loss")}
    return {
        "steps": trainer.global_step,
        "epochs": _epochs(trainer),
        "last_losses": {name: value for name, value in losses.items() if value == value},
        "average": _average(trainer),
        "hardware": {
            "device": accelerator,
            "threads": torch.get_num_threads(),
            "processes": trainer.world_size,
            "precision": str(trainer.precision),
        },
        "versions": versions(*_PACKAGES),
        "commit": commit(),
    }


def _average(trainer: Trainer) -> str | None:
    """Return the class of the moving average of the weights, with the decay of ours."""
    from lightning.pytorch.callbacks import WeightAveraging

    from setflow.training.averaging import MovingAverage

    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, MovingAverage):
            return f"{type(callback).__name__}, decay {callback.decay}"
        if isinstance(callback, WeightAveraging):
            return type(callback).__name__
    return None


def _epochs(trainer: Trainer) -> float:
    """Return how often the training has passed through its events, parts of a pass included."""
    batches = trainer.num_training_batches
    if batches in (0, math.inf):
        return 0
    return round(trainer.fit_loop.epoch_loop.batch_progress.total.completed / batches, 2)


def lines_of(facts: Mapping[str, Any]) -> list[str]:
    """Return the facts as lines, for a card or the screen.

    >>> facts = {"steps": 1000, "epochs": 10, "batch_size": 64, "seconds": 75.0, "seed": 1}
    >>> lines_of(facts | {"chosen": "the last ones, not validated", "average": None})
    ['1,000 steps of 64 sets (10 epochs), in 1:15, seed 1', 'weights: the last ones, not validated']
    """
    lines = []
    for name, use in (("train", "training"), ("validation", "validation")):
        if name in facts:
            several = "files" in facts.get("train", {})
            lines += _data_lines(facts[name], use, "files" if several else "file")
    if "weights" in facts:
        what = _events_of(facts.get("train", {}))
        lines.append(f"weights of the training {what}: {facts['weights']}")
    batch = f" of {facts['batch_size']} sets" if "batch_size" in facts else ""
    length = f"{_count(facts['steps'], 'step')}{batch} ({_count(facts['epochs'], 'epoch')}), in "
    length += clock(facts["seconds"])
    lines.append(length + (f", seed {facts['seed']}" if "seed" in facts else ""))
    average = f"moving average ({facts['average']}) of " if facts.get("average") else ""
    lines.append(f"weights: {average}{facts['chosen']}")
    if losses := facts.get("last_losses"):
        told = ", ".join(f"{name} {value:.4g}" for name, value in sorted(losses.items()))
        lines.append(f"last losses: {told}")
    if hardware := facts.get("hardware"):
        lines.append(
            f"hardware: {hardware['device']}, {_count(hardware['processes'], 'process', 'es')} of "
            f"{_count(hardware['threads'], 'thread')}, {hardware['precision']}"
        )
        named = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        lines.append(f"versions: {named}")
    if facts.get("commit"):
        lines.append(f"commit: {facts['commit']}")
    if "command" in facts:
        lines.append(f"command: `{facts['command']}`")
    return lines


def _count(number: float, what: str, plural: str = "s") -> str:
    return f"{number:,.10g} {what}{'' if number == 1 else plural}"


def _events_of(facts: Mapping[str, Any]) -> str:
    """Return what the events of a side are called."""
    return "events" if "events" in facts else "jets"


def _data_lines(facts: Mapping[str, Any], use: str, held_out_of: str) -> list[str]:
    what = _events_of(facts)
    number = f"{facts[what]:,} {what} for {use}"
    if "files" in facts:
        listed = "; ".join(map(_file_line, facts["files"]))
        return [f"{number}, of {_count(len(facts['files']), 'file')}: {listed}"]
    if "file" not in facts:
        return [f"{number}, held out of the same {held_out_of}"]
    return [f"{number}: {_file_line(facts)}"]


def _file_line(facts: Mapping[str, Any]) -> str:
    line = f"{facts['class']}: " if "class" in facts else ""
    line += f"`{facts['file']}`"
    line += "" if "rows" not in facts else ", rows {} to {}".format(*map(_row, facts["rows"]))
    line += f", recipe {facts['recipe']}" if "recipe" in facts else ""
    line += f" with seed {facts['seed']}" if "seed" in facts else ""
    digest = "sha256" if "sha256" in facts else "fingerprint"
    return f"{line}, {digest} `{facts[digest][:16]}`"


def _row(row: int | None) -> str:
    return "the end" if row is None else f"{row:,}"
