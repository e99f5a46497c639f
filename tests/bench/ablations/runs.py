"""The rows trained and measured, each once, and the table of what they come to."""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Timer
from torch import Tensor

import setflow
from bench.ablations.rows import OBJECTS, ROWS, Row, contexts_of, model_of
from bench.machine import REPOSITORY, described
from setflow.data import read_jets
from setflow.data.header import read_header
from setflow.files import write_text
from setflow.physics import controls
from setflow.physics.measures import fidelity, fidelity_floor, least_jets
from setflow.physics.samples import Observables, observables
from setflow.training.averaging import MovingAverage
from setflow.training.data import event_loader
from setflow.training.module import FlowMatchingModule

__all__ = ["Settings", "run", "table", "trial"]

HELD_OUT = REPOSITORY / "datasets/pythia-top/heldout.h5"
SHIPPED = REPOSITORY / "datasets/pythia-top/train.h5"
SHOWN = {"w1m": "W1M", "w1_tau21": "tau21", "fpd": "FPD", "w1_pt": "jet pT"}
TRUTH = "truth"


@dataclass(frozen=True)
class Settings:
    """What all rows of a table have alike.

    Arguments:
        data: the name of the file of training jets; rows are compared if it is equal.
        seconds: the CPU time of a training.
        jets: how many jets of the file are taken at most.
        samples: how many jets are generated and compared.
        held_out: how many held-out jets they are compared with, at most.
        evaluations: of the network along the way of a sample.
    """

    data: str
    seconds: float = 1200.0
    jets: int = 150_000
    samples: int = 5000
    held_out: int = 5000
    evaluations: tuple[int, ...] = (8, 16, 50)

    @property
    def measures(self) -> list[str]:
        """What is measured: what so many jets suffice for."""
        return [name for name in ("w1", "fpd") if self.samples >= least_jets(name)]

    def written(self) -> dict[str, Any]:
        """Return them as they stand in the file of a row."""
        return {**asdict(self), "data": Path(self.data).name, "evaluations": [*self.evaluations]}


class CpuTimer(Timer):
    """Ends a training after so much CPU time of the process, which the learning rate follows."""

    def __init__(self, seconds: float) -> None:
        super().__init__(timedelta(seconds=seconds), verbose=False)
        self._from: float | None = None

    def on_train_start(self, *arguments: Any) -> None:
        super().on_train_start(*arguments)
        self._from = time.process_time()

    def time_elapsed(self, stage: str = "train") -> float:
        return 0.0 if self._from is None else time.process_time() - self._from


def run(settings: Settings, names: Sequence[str], seeds: Sequence[int], out: Path) -> list[str]:
    """Train and measure the rows that are missing; return their names.

    Raises:
        ValueError: if the folder holds rows of other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    _read(out, settings)
    reference = _first(HELD_OUT, settings.held_out)
    real = observables(reference.x, reference.mask)
    missing = [
        (name, seed) for seed in seeds for name in names if not _path(out, name, seed).is_file()
    ]
    if not _path(out, TRUTH, 0).is_file():
        _keep(out, TRUTH, 0, settings, _truth(settings, reference, real))
    jets = _first(Path(settings.data), settings.jets)
    for name, seed in missing:
        _keep(out, name, seed, settings, _trained(ROWS[name], seed, settings, jets, real))
    return [f"{name}-{seed}" for name, seed in missing]


def _first(path: Path, jets: int) -> setflow.SetBatch:
    """Return the first jets of a file, so many or all that there are."""
    return read_jets(path, stop=min(jets, read_header(path).n), max_objects=OBJECTS).particles


def _path(out: Path, name: str, seed: int) -> Path:
    return out / f"{name}-{seed}.json"


def _keep(out: Path, name: str, seed: int, settings: Settings, found: dict[str, Any]) -> None:
    told = {"row": name, "seed": seed, "settings": settings.written(), **found}
    write_text(_path(out, name, seed), json.dumps(told, indent=2) + "\n")


def _read(out: Path, settings: Settings | None = None) -> list[dict[str, Any]]:
    """Return the rows of a folder.

    Raises:
        ValueError: if they are of several settings, or of others than those that are given.
    """
    found = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    those = [row["settings"] for row in found] + ([settings.written()] if settings else [])
    for other in those[1:]:
        if other != those[0]:
            differ = [key for key in other if other[key] != those[0][key]]
            raise ValueError(
                f"{out} holds rows with another {', '.join(differ)}, with which no row compares; "
                "take another folder"
            )
    return found


def _trained(
    row: Row, seed: int, settings: Settings, jets: setflow.SetBatch, real: Observables
) -> dict[str, Any]:
    """Return what a row comes to: its steps, times and metrics."""
    seed_everything(seed, verbose=False)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    jets = contexts_of(jets) if row.contexts else jets
    flow = model_of(row, jets)
    module = FlowMatchingModule(flow, row.optimizer, times=row.times, coupling=row.coupling)
    timer = CpuTimer(settings.seconds)
    trainer = Trainer(
        max_steps=-1, max_epochs=-1, accelerator="cpu", gradient_clip_val=1.0, logger=False,
        callbacks=[MovingAverage(row.average), timer], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")  # of Lightning, about what is meant
        trainer.fit(module, event_loader(jets, row.batch, seed=seed, shuffle=True))
    spent = timer.time_elapsed()
    flow.eval()
    found, sampling = {}, {}
    for count in settings.evaluations:
        solver = setflow.Midpoint(max(1, count // (2 * row.passes)))
        start = time.process_time()
        generated = flow.sample(settings.samples, seed=seed, solver=solver)
        sampling[str(count)] = (time.process_time() - start) / settings.samples
        found[str(count)] = _measured(settings, real, generated.x, generated.mask)
    return {
        "what": row.what,
        "steps": trainer.global_step,
        "jets": len(jets),
        "parameters": sum(weight.numel() for weight in flow.parameters()),
        "train_cpu_seconds": spent,
        "sample_cpu_seconds": sampling,
        "metrics": found,
        "machine": described(),
    }


def _measured(
    settings: Settings, real: Observables, x: Tensor, mask: Tensor
) -> dict[str, list[float]]:
    found = fidelity(real, observables(x, mask), measures=settings.measures)
    return {name: [found[name].value, found[name].error] for name in SHOWN if name in found}


def _truth(settings: Settings, jets: setflow.SetBatch, real: Observables) -> dict[str, Any]:
    """Return the floor and the two controls, at the sizes of the rows."""
    sizes = settings.samples, len(jets)
    floor = fidelity_floor(real, measures=settings.measures, sizes=sizes)
    held = {
        "floor": {name: [floor[name].value, floor[name].error] for name in SHOWN if name in floor}
    }
    some = jets[: settings.samples]
    for name, control in (
        ("particles shuffled", controls.shuffle_particles),
        ("ptrel swapped", controls.swap_ptrel),
    ):
        x, mask = control(some.x, some.mask, torch.Generator().manual_seed(1))
        held[name] = _measured(settings, real, x, mask)
    return {"metrics": held}


def table(out: Path) -> str:
    """Return the rows as a table in Markdown, each value with its error.

    Of several seeds the mean, with the larger of the mean error and the error of the mean.

    Raises:
        ValueError: if there is no row, or rows are of several settings.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in _read(out):
        rows.setdefault(row["row"], []).append(row)
    truth = rows.pop(TRUTH, [{"metrics": {}}])[0]["metrics"]
    if not rows:
        raise ValueError(f"{out} holds no rows; run them first")
    order = sorted(rows, key=list(ROWS).index)
    settings = rows[order[0]][0]["settings"]
    first = next(iter(rows[order[0]][0]["metrics"].values()))
    shown = [name for name in SHOWN if name in first]
    lines = [
        f"{settings['seconds']:g} CPU seconds of training each, {settings['samples']:,} jets, "
        f"{settings['data']}; W1M, tau21 and jet pT in units of 1e-3, FPD likewise.",
        "",
        f"| row | evaluations | steps | seeds | {' | '.join(SHOWN[name] for name in shown)} |",
        "|---" * (4 + len(shown)) + "|",
    ]
    for name, values in truth.items():
        lines.append(f"| *{name}* | | | | {_cells([values], shown)} |")
    for name in order:
        group = rows[name]
        steps = f"{statistics.mean(row['steps'] for row in group):,.0f}"
        for count in settings["evaluations"]:
            cells = _cells([row["metrics"][str(count)] for row in group], shown)
            lines.append(f"| {name} | {count} | {steps} | {len(group)} | {cells} |")
    lines += ["", *(f"- {name}: {rows[name][0]['what']}" for name in order), ""]
    made = {row["machine"][0]: None for group in rows.values() for row in group}
    return "\n".join([*lines, *(f"- made on: {line}" for line in made)])


def _cells(found: Sequence[dict[str, list[float]]], shown: Sequence[str]) -> str:
    cells = []
    for name in shown:
        values = [1e3 * one[name][0] for one in found]
        error = 1e3 * statistics.mean(one[name][1] for one in found)
        if len(values) > 1:
            error = max(error, statistics.stdev(values) / len(values) ** 0.5)
        cells.append(f"{statistics.mean(values):.2f} ± {error:.2f}")
    return " | ".join(cells)


def trial(names: Sequence[str] = tuple(ROWS), *, seconds: float = 2.0, samples: int = 200) -> str:
    """Return the table of a run that says nothing but that all rows run; it keeps nothing."""
    settings = Settings(
        str(SHIPPED), seconds, jets=2000, samples=samples, held_out=2 * samples, evaluations=(8,)
    )
    with tempfile.TemporaryDirectory() as folder:
        run(settings, names, [1], Path(folder))
        return table(Path(folder))
