"""Brings a campaign home: its tables into the results, its model into `models/` if it is better.

    PYTHONPATH=tests python -m bench.campaign.land DIR [--model models/top30]

Both models, the new and the one that is there, sample the same number of jets with the same solver
and are compared with the held-out jets. The new one takes the place if it is nearer to them in both
W1M and tau21; how much each is better or worse is told either way. A model folder that
`setflow fit` wrote can be landed too.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open

import setflow
from bench.campaign.record import HELD_OUT, read_numbers
from bench.machine import REPOSITORY, described
from bench.zoo import SEED, STEPS, block_of
from setflow.data import read_jets
from setflow.physics.metrics import METRICS
from setflow.report.outcome import Report
from setflow.report.page import compare

__all__ = ["land", "land_model"]

RESULTS = REPOSITORY / "tests/bench/results"
_DECIDE = ("w1m", "w1_tau21")
_NAMES = {metric.name: metric.title for metric in METRICS}


def land(folder: Path, model: Path, results: Path, events: int) -> list[str]:
    """Copy the tables of a campaign and land its model; return what was done, line by line."""
    numbers = read_numbers(folder)
    if not numbers:
        raise FileNotFoundError(f"{folder} holds no numbers.json, so it is no campaign")
    device = next((line for line in numbers["machine"] if line.startswith("GPU: ")), "CPU")
    name = re.sub(r"\W+", "-", device.removeprefix("GPU: ").split(",")[0]).strip("-")
    target = results / f"campaign-{name}"
    target.mkdir(parents=True, exist_ok=True)
    kept = [path for path in sorted(folder.iterdir()) if path.suffix in {".md", ".json", ".txt"}]
    for path in kept:
        shutil.copy(path, target / path.name)
    lines = [f"{len(kept)} files to {target}"]
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return [*lines, "no model: the training left none"]
    flow, config, story = _carried(weights)
    return lines + land_model(flow, config, story, model, events)


def land_model(
    flow: setflow.SetFlow, config: dict[str, Any], story: list[str], model: Path, events: int
) -> list[str]:
    """Put a model into the place of another if it is better in what decides.

    Arguments:
        flow: the new model.
        config: its configuration.
        story: how it was trained, in sentences, for the card.
        model: the folder of the model that it may replace, which need not exist.
        events: how many jets each samples.
    """
    held_out = read_jets(HELD_OUT, max_objects=30).particles
    new = _judged(flow, held_out, events)
    lines, better = [], True
    if model.is_dir():
        old = _judged(setflow.SetFlow.load(model), held_out, events)
        for metric in _DECIDE:
            now, before = new.metrics[metric].value, old.metrics[metric].value
            better &= now < before
            lines.append(
                f"{_NAMES[metric]}: {now:.3e} for {before:.3e}, a factor of {now / before:.2f} "
                f"(floor {new.metrics[metric].floor:.2e})"
            )
    if not better:
        return [*lines, f"not landed: {model} stays, the new one is not better in both"]
    card = _card(model.name, flow, config, story, new)
    flow.save(model, overwrite=model.is_dir(), config=config, card=card)
    return [*lines, f"landed in {model}"]


def _judged(flow: setflow.SetFlow, held_out: setflow.SetBatch, events: int) -> Report:
    generated = flow.sample(events, seed=SEED, solver=setflow.Midpoint(STEPS))
    return compare(generated, held_out, None, seed=SEED)


def _carried(path: Path) -> tuple[setflow.SetFlow, dict[str, Any], list[str]]:
    """Return model, configuration and story of the file that a campaign leaves."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    config = yaml.safe_load(metadata["config"])
    flow = setflow.SetFlow.from_node(config["model"]["flow"])
    flow.load_state_dict(weights)
    told = json.loads(metadata["training"])
    story = [
        f"{told['jets']:,} jets of `make campaign-data`, {told['steps']:,} steps of "
        f"{told['batch']:,} jets ({told['steps'] * told['batch'] / told['jets']:.0f} epochs) in "
        f"{told['seconds']:.0f} seconds",
        *told["machine"],
    ]
    return flow.eval(), config, story


def _card(
    name: str, flow: setflow.SetFlow, config: dict[str, Any], story: list[str], report: Report
) -> str:
    parameters = sum(weight.numel() for weight in flow.field.parameters())
    told = "\n".join(f"- {line}" for line in story)
    truth = "held-out jets of `datasets/pythia-top/heldout.h5`, which nothing was trained by"
    block = block_of(report.to_dict(), truth, STEPS)
    field = type(flow.field).__name__
    return f"""# {name}

A model of top jets: the 30 hardest particles, as (etarel, phirel, ptrel). A `{field}` of
{parameters:,} parameters, trained by masked flow matching on the straight path.

```python
import setflow

flow = setflow.SetFlow.load("models/{name}")
batch = flow.sample(1000, seed=1)
```

**Training.** `config.yaml` holds all settings; `setflow fit --config models/{name}/config.yaml`
trains the same on the shipped sample, and on a larger file given as `--data.train`.

{told}

{block}

**Limits.** The model is unconditional: it gives p(N) and the particles given N, in units of the jet
pT. The scaling of ptrel is no logarithm, so that densities leave out what lies below the smallest
ptrel of training. No detector simulation, no pile-up (see the card of the data).

`manifest.json` holds the sha256 of `config.yaml` and `weights.safetensors`; loading verifies them.
MIT licence.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="make campaign-land", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="the folder of a campaign, or of a model")
    parser.add_argument("--model", type=Path, default=REPOSITORY / "models/top30")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where tables go")
    parser.add_argument("--events", type=int, default=5000, help="how many jets are compared")
    parser.add_argument("--told", nargs="*", default=[], help="how a model folder was trained")
    given = parser.parse_args()
    torch.manual_seed(SEED)
    if (given.source / "manifest.json").is_file():
        config = yaml.safe_load((given.source / "config.yaml").read_text())
        flow = setflow.SetFlow.load(given.source)
        lines = land_model(flow, config, [*given.told, *described()], given.model, given.events)
    else:
        lines = land(given.source, given.model, given.results, given.events)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
