"""A symmetry of the field beside augmentation: whole events turned around the beam.

    PYTHONPATH=tests python -m bench.symmetry --seconds 90

Three fields, otherwise those of `models/ttbar-events`, train for the same CPU seconds of a thread:
one of plain angles, one of plain angles to which each event is shown in a new random turn, and one
of relative angles. Of held-out events it prints the log-density, in double precision, and the root
mean square and the largest change of it when an event is turned.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import yaml
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader

import setflow
from bench.ablations.runs import CpuTimer
from bench.machine import REPOSITORY
from setflow.data import read_events
from setflow.schema import COLLISIONS, names
from setflow.sets.angles import wrap
from setflow.training import MovingAverage, Muon
from setflow.training.conditions import complete
from setflow.training.data import event_loader
from setflow.training.module import FlowMatchingModule
from setflow.training.processes import PlacedBatch

EVENTS = REPOSITORY / "datasets/pythia-ttbar-events"
CONFIGURATION = REPOSITORY / "models/ttbar-events/config.yaml"
FIELDS = {"plain": False, "plain, events turned": False, "relative angles": True}
BATCH, SOLVER = 256, setflow.Midpoint(10)


@dataclass(frozen=True)
class Settings:
    """What all rows have alike: CPU seconds of a training, scored events, and turns of some."""

    seconds: float = 90.0
    events: int = 200
    turned: int = 100
    turns: int = 4


def read(name: str, stop: int | None = None) -> setflow.SetBatch:
    """Return events of a shipped file, with the decay channel as context."""
    features = names(COLLISIONS.objects)
    sample = read_events(EVENTS / name, stop=stop, features=features, conditions=["class"])
    return replace(sample.objects, c=sample.context(["class"]))


def turned(batch: setflow.SetBatch, phi: int, angle: torch.Tensor) -> setflow.SetBatch:
    """Return events turned by angles, with shape `(B,)`; phi is the column of the azimuth."""
    x = batch.x.clone()
    x[..., phi] = wrap(x[..., phi] + angle[:, None].to(x))
    return replace(batch, x=x)


class Turned:
    """A loader whose events stand in a new turn each time."""

    def __init__(self, loader: DataLoader[PlacedBatch], phi: int, seed: int) -> None:
        self.loader = loader
        self.phi = phi
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[PlacedBatch]:
        for batch in self.loader:
            angle = 2 * math.pi * torch.rand(len(batch.events), generator=self.generator)
            yield batch._replace(events=turned(batch.events, self.phi, angle))


def model(relative: bool) -> setflow.SetFlow:
    """Return the model of the configuration, with the angles of its field as they are asked for."""
    node = yaml.safe_load(CONFIGURATION.read_text())["model"]["flow"]
    if not relative:
        del node["init_args"]["field"]["init_args"]["relative_angles"]
    complete(node["init_args"], str(EVENTS / "train.h5"))
    return setflow.SetFlow.from_node(node)


def trained(name: str, seconds: float, seed: int) -> tuple[setflow.SetFlow, int]:
    """Return the model of a row after its training, and the number of steps."""
    seed_everything(seed, verbose=False)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    flow, events = model(FIELDS[name]), read("train.h5")
    flow.fit_statistics(events)
    loader = event_loader(events, BATCH, seed=seed, shuffle=True)
    if name.endswith("turned"):
        loader = Turned(loader, flow.features.index("phi"), seed)
    module = FlowMatchingModule(flow, partial(Muon, lr=5e-3, weight_decay=1e-4))
    trainer = Trainer(
        max_steps=-1, max_epochs=-1, accelerator="cpu", gradient_clip_val=1.0, logger=False,
        callbacks=[MovingAverage(decay=0.99), CpuTimer(seconds)], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")  # of Lightning, about what is meant
        trainer.fit(module, loader)
    return flow.eval().double(), trainer.global_step


@torch.no_grad()
def judged(flow: setflow.SetFlow, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log p of held-out events, and its change in each of some turns, `(turns, turned)`."""
    held = read("heldout.h5", settings.events)
    held = replace(held, x=held.x.double())
    log_p = flow.log_prob(held, solver=SOLVER)
    some, phi = held[: settings.turned], flow.features.index("phi")
    angles = 2 * math.pi * torch.rand(
        settings.turns, len(some), generator=torch.Generator().manual_seed(1)
    )  # fmt: skip
    others = [flow.log_prob(turned(some, phi, angle), solver=SOLVER) for angle in angles]
    return log_p, torch.stack(others) - log_p[: len(some)]


def table(settings: Settings, seed: int) -> str:
    """Train and judge all fields; return the table in Markdown."""
    lines = [
        f"{settings.seconds:g} CPU seconds of training each, {settings.events:,} held-out events, "
        f"{settings.turned:,} of them in {settings.turns} turns; log p of an event in nats.",
        "",
        "| field | parameters | steps | ms a step | log p | rms change | largest change |",
        "|---" * 7 + "|",
    ]
    for name in FIELDS:
        flow, steps = trained(name, settings.seconds, seed)
        log_p, change = judged(flow, settings)
        error = log_p.std() / len(log_p) ** 0.5
        parameters = sum(weight.numel() for weight in flow.field.parameters())
        step = 1e3 * settings.seconds / max(1, steps)
        lines.append(
            f"| {name} | {parameters:,} | {steps:,} | {step:.0f} | {log_p.mean():.2f} ± "
            f"{error:.2f} | {change.square().mean().sqrt():.2g} | {change.abs().max():.2g} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=Settings.seconds, help="CPU time of a row")
    parser.add_argument("--events", type=int, default=Settings.events, help="events to be scored")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    settings = Settings(given.seconds, given.events, turned=min(Settings.turned, given.events))
    sys.stdout.write(table(settings, given.seed) + "\n")


if __name__ == "__main__":
    main()
