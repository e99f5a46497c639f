"""Quality at equal cost: families of fields on the same jets, steps, optimiser and CPU time a step.

    PYTHONPATH=tests python -m bench.quality train epic --data top50k.h5 --seed 1 --out results
    PYTHONPATH=tests python -m bench.quality table --out results

Each run trains one field on the 30 hardest particles of 50,000 top jets, samples 5,000 jets and
compares them with the 5,000 held-out jets of the repository, which nothing was trained or chosen
on. Widths are such that a training step costs each field about the same on one CPU thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn

import setflow
from bench.machine import REPOSITORY, described
from setflow.data import Standardizer, read_jets
from setflow.fields import SetField
from setflow.fields.embeddings import EventEmbedding
from setflow.report.page import compare
from setflow.sets.events import Events
from setflow.training import MovingAverage, Muon, SetDataModule
from setflow.training.module import FlowMatchingModule

HELD_OUT = REPOSITORY / "datasets/pythia-top/heldout.h5"
OBJECTS, BATCH, SAMPLES, SOLVER_STEPS = 30, 128, 5000, 25


class DeepSets(SetField):
    """The plain baseline: rows that see each other through their mean alone.

    Zaheer et al., "Deep Sets" (arXiv:1703.06114), with residual layers h <- h + SiLU(A h + B
    mean(h) + C e), where e embeds time and number of objects.
    """

    def __init__(self, dim: int, *, hidden: int = 128, layers: int = 6) -> None:
        super().__init__(dim)
        self.condition = EventEmbedding(0, hidden)
        self.embed = nn.Linear(dim, hidden)
        self.own = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        self.mean = nn.ModuleList(nn.Linear(2 * hidden, hidden, bias=False) for _ in range(layers))
        self.out = nn.Linear(hidden, dim)

    def velocity(self, events: Events) -> Tensor:
        n = events.lengths.to(events.x.dtype)
        e = self.condition(events.t, n, None)
        real = events.x.new_ones(events.x.shape[:2]) if events.mask is None else events.mask
        share = (real / n.clamp(min=1)[:, None])[:, None]
        h = self.embed(events.x)
        for own, mean in zip(self.own, self.mean, strict=True):
            whole = mean(torch.cat([(share @ h)[:, 0], e], dim=-1))
            h = h + nn.functional.silu(own(h) + whole[:, None])
        return self.out(h)


def _configured(name: str) -> nn.Module:
    """Return the field that a configuration of `models/` describes."""
    import yaml

    config = yaml.safe_load((REPOSITORY / "models" / name / "config.yaml").read_text())
    return setflow.SetFlow.from_node(config["model"]["flow"]).field


VARIANTS = {
    "deepsets": lambda: DeepSets(3, hidden=176, layers=7),
    "epic": partial(_configured, "epic30"),
    "graph": partial(_configured, "graph30"),
    "transformer": partial(_configured, "demo"),
    "transformer-heads8": lambda: setflow.TransformerField(3, hidden=64, layers=4, heads=8),
    "transformer-qknorm": lambda: setflow.TransformerField(
        3, hidden=64, layers=4, heads=2, qk_norm=True
    ),
}


def train(name: str, *, data: Path, seed: int, steps: int, jets: int, out: Path) -> None:
    """Train, sample and compare one field; write a line of the table as JSON."""
    seed_everything(seed, verbose=False)
    flow = setflow.SetFlow(
        VARIANTS[name](),
        scaler=Standardizer(kinds=["real", "real", "positive(boxcox=0.3)"]),
        cardinality=setflow.EmpiricalCardinality(OBJECTS),
    )
    sample = read_jets(data, stop=jets, max_objects=OBJECTS)
    module = FlowMatchingModule(flow, optimizer=partial(Muon, lr=5e-3, weight_decay=1e-4))
    events = _Jets(str(data), max_objects=OBJECTS, batch_size=BATCH, val_fraction=0.02, seed=seed)
    events.use(sample.particles)
    flow.fit_statistics(events.train_events)
    trainer = Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", gradient_clip_val=1.0, logger=False,
        callbacks=[MovingAverage(decay=0.99)], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        limit_val_batches=0,
    )  # fmt: skip
    start, cpu = time.perf_counter(), time.process_time()
    trainer.fit(module, events)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    flow.eval()
    start = time.process_time()
    generated = flow.sample(SAMPLES, seed=seed, solver=setflow.Midpoint(SOLVER_STEPS))
    sampling = time.process_time() - start
    report = compare(generated, read_jets(HELD_OUT, max_objects=OBJECTS).particles, None, seed=1)
    out.mkdir(parents=True, exist_ok=True)
    line = {
        "variant": name,
        "seed": seed,
        "steps": steps,
        "jets": len(sample),
        "parameters": sum(p.numel() for p in flow.field.parameters()),
        "train_seconds": seconds,
        "train_cpu_seconds": cpu_seconds,
        "sample_cpu_seconds": sampling,
        "threads": torch.get_num_threads(),
        "machine": described(),
        "metrics": {
            metric: {"value": result.value, "floor": result.floor, "spread": result.floor_spread}
            for metric, result in report.metrics.items()
        },
    }
    (out / f"{name}-{seed}.json").write_text(json.dumps(line, indent=2) + "\n")


class _Jets(SetDataModule):
    """The first jets of a file, split by whole events."""

    def use(self, particles: setflow.SetBatch) -> None:
        held = int(len(particles) * self.val_fraction) // 2 * 2  # both jets of an event
        self._train, self._val = particles[held:], particles[:held]


def table(out: Path) -> str:
    """Return the runs as a table in Markdown, one line per variant, mean and spread over seeds."""
    runs: dict[str, list[dict]] = {}
    for path in sorted(out.glob("*.json")):
        run = json.loads(path.read_text())
        runs.setdefault(run["variant"], []).append(run)
    first = next(iter(runs.values()))[0]
    sizes = {(run["steps"], run["jets"]) for group in runs.values() for run in group}
    if len(sizes) > 1:
        raise ValueError(f"{out} holds runs of different (steps, jets): {sorted(sizes)}")
    metrics = list(first["metrics"])
    lines = ["| field | parameters | steps | seeds | train CPU s | sample CPU s | "]
    lines[0] += " | ".join(metrics) + " |"
    lines.append("|---" * (6 + len(metrics)) + "|")
    for name, group in runs.items():
        cells = [
            name,
            f"{group[0]['parameters']:,}",
            str(group[0]["steps"]),
            str(len(group)),
            _spread([run["train_cpu_seconds"] for run in group], ".0f"),
            _spread([run["sample_cpu_seconds"] for run in group], ".0f"),
        ]
        cells += [_spread([r["metrics"][m]["value"] for r in group], ".2e") for m in metrics]
        lines.append("| " + " | ".join(cells) + " |")
    floor = [
        f"{first['metrics'][m]['floor']:.2e} ± {first['metrics'][m]['spread']:.1e}" for m in metrics
    ]
    lines.append("| *floor* | | | | | | " + " | ".join(floor) + " |")
    return "\n".join([*lines, "", *_origins(runs)])


def _origins(runs: dict[str, list[dict]]) -> list[str]:
    """Return where the runs were made: the head of the file tells where the table was."""
    lines = []
    for name, group in runs.items():
        for run in group:
            lines.append(f"- {name}, seed {run['seed']}: {'; '.join(run['machine'])}")
    return lines


def _spread(values: list[float], form: str) -> str:
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values):{form}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("order", choices=["train", "table"])
    parser.add_argument("variant", nargs="?", choices=list(VARIANTS))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--jets", type=int, default=50_000)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    given = parser.parse_args()
    if given.order == "table":
        sys.stdout.write(table(given.out) + "\n")
        return
    train(
        given.variant, data=given.data, seed=given.seed, steps=given.steps, jets=given.jets,
        out=given.out,
    )  # fmt: skip


if __name__ == "__main__":
    main()
