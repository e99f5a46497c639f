"""The model zoo measured: every number of fidelity on a card, on jets that no model has seen.

    PYTHONPATH=tests python -m bench.zoo --data FOLDER [--models top30 ...] [--events N] [--fast]
        [--steps N]

For each shipped model with weights: N jets sampled, compared by `setflow evaluate` with those of
its recipe, `FOLDER/<recipe>.h5` of `make zoo-data`, and written into its card, between `BEGIN` and
`END`. The numbers are kept as `<model>.json`, the metrics.json of the report. What is in the folder
already, of the same weights and as many jets, is taken: a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import setflow
from bench import machine
from bench.machine import REPOSITORY
from setflow.cli.endings import judged_by
from setflow.data.header import read_header
from setflow.jobs.identity import described, identity_of
from setflow.jobs.sample import sample_to_hdf5
from setflow.model.stages import given_conditions
from setflow.physics import FAST_MEASURES, MEASURES
from setflow.physics.measures import title_of
from setflow.report.page import METRICS_FILE, evaluate

__all__ = ["BEGIN", "END", "block_of", "measure", "written"]

KEPT = REPOSITORY / "tests/bench/results/zoo"
SEED, STEPS = 1, 25
BEGIN = "<!-- measured: by `make zoo-eval`, which writes what stands from here on anew -->"
END = "<!-- end of what was measured -->"
_CONTROLS = "shuffled", "swapped"
_TIMED = 200  # jets


def block_of(numbers: Mapping[str, Any], truth: str, steps: int, lines: Sequence[str] = ()) -> str:
    """Return what a card says of the fidelity of a model.

    Arguments:
        numbers: what `metrics.json` holds.
        truth: the true jets, in words.
        steps: those of the solver.
        lines: what else was measured, a sentence for each.
    """
    rows = []
    for name, r in numbers["metrics"].items():
        value = f"{r['value']:.2e}{_error(r)}"
        controls = (f"{r[control]:.2e}" if r[control] else "0" for control in _CONTROLS)
        cells = [title_of(name), value, f"{r['floor']:.2e} ± {r['floor_spread']:.2e}", *controls]
        rows.append(f"| {' | '.join([*cells, r['verdict']])} |")
    head = ["distance", "value", "floor", "particles shuffled", "ptrel swapped", "verdict"]
    halves = ""
    if numbers["floor"]["scaled"]:
        halves = f" (from halves of the true jets, times {numbers['floor']['factor']:.3f})"
    told = (
        f"{numbers['generated']['events']:,} jets (midpoint, {steps} steps, seed {SEED}) against "
        f"{numbers['reference']['events']:,} {truth}; beside them truth against truth{halves} and "
        "two controls, true jets spoilt on purpose. Units are those of the report."
    )
    left_out = [f"Not measured: {', '.join(numbers['missing'])}.", ""]
    parts = [
        BEGIN,
        _filled(f"**Fidelity.** {numbers['summary']}"),
        "",
        _filled(told),
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *rows,
        "",
        *(left_out if numbers["missing"] else []),
        *lines,
        END,
    ]
    return "\n".join(parts)


def _filled(text: str) -> str:
    return textwrap.fill(text, 105, break_long_words=False, break_on_hyphens=False)


def _error(result: Mapping[str, Any]) -> str:
    return "" if result["error"] is None else f" ± {result['error']:.1e}"


def written(card: str, block: str) -> str:
    """Return a card with another block of measured numbers.

    Raises:
        ValueError: if the card has no place for it, or several.
    """
    if [card.count(mark) for mark in (BEGIN, END)] != [1, 1] or card.index(BEGIN) > card.index(END):
        raise ValueError(
            f"the card has to hold the lines {BEGIN!r} and {END!r} once each, in this order: what "
            "was measured is written between them"
        )
    return card[: card.index(BEGIN)] + block + card[card.index(END) + len(END) :]


def measure(model: Path, data: Path, kept: Path, *, events: int, steps: int, fast: bool) -> str:
    """Measure a model, write its card and keep the numbers; return the line on all of them.

    Arguments:
        model: its folder.
        data: the folder of true jets, a file for each recipe; samples and reports go there, too.
        kept: the folder for the numbers.
        events: how many jets to sample.
        steps: those of the solver.
        fast: leave out what takes long.
    """
    card = model / "README.md"
    text = card.read_text(encoding="utf-8")
    written(text, "")  # before the work, not after it
    judge = judged_by(model, jets=False)
    recipe = Path(judge[0]).parent.name if judge else ""
    truth = data / f"{recipe}.h5"
    if not truth.is_file():
        raise FileNotFoundError(
            f"{truth} does not exist, true jets like those of {model.name}; make zoo-data writes it"
        )
    flow = setflow.SetFlow.load(model)
    sample, report = data / f"{model.name}-sample.h5", data / f"{model.name}-report"
    timed = data / "timed.h5"
    timed.unlink(missing_ok=True)  # what is there would be taken
    start = time.process_time()
    _sample(flow, timed, _TIMED, steps, truth)
    speed = 1e3 * (time.process_time() - start) / _TIMED
    if not _is_there(sample, flow, events, steps):
        _sample(flow, sample, events, steps, truth)
    measures = FAST_MEASURES if fast else MEASURES
    evaluate(sample, truth, report, measures=measures, seed=SEED, overwrite=True, say=_say)
    numbers = json.loads((report / METRICS_FILE).read_text(encoding="utf-8"))
    for side, path in (("generated", sample), ("reference", truth)):
        numbers[side]["name"] = path.name
    kept.mkdir(parents=True, exist_ok=True)
    told = {"measured_on": machine.described(), **numbers}
    text_of_numbers = json.dumps(told, indent=2, allow_nan=False)
    (kept / f"{model.name}.json").write_text(text_of_numbers + "\n", encoding="utf-8")
    seed = read_header(truth).attributes.get("seed", "unknown")
    of = f"jets of the recipe {recipe}, seed {seed}, which nothing was trained or chosen by"
    lines = [
        f"**Speed.** {speed:.0f} ms a jet of one core (midpoint, {steps} steps; {_TIMED} jets).",
    ]
    card.write_text(written(text, block_of(numbers, of, steps, lines)), encoding="utf-8")
    summary: str = numbers["summary"]
    return summary


def _is_there(sample: Path, flow: setflow.SetFlow, events: int, steps: int) -> bool:
    """Return whether a file is the sample that is asked for."""
    if not sample.is_file():
        return False
    header = read_header(sample)
    told = header.attributes
    mine = {"weights_sha256": identity_of(flow)["weights_sha256"], "seed": SEED}
    mine["solver"] = described(setflow.Midpoint(steps))
    same = all(str(told.get(key)) == str(value) for key, value in mine.items())
    return same and header.n == events


def _sample(flow: setflow.SetFlow, out: Path, events: int, steps: int, truth: Path) -> None:
    """Sample jets into a file, given what the true ones are given if the model asks for that."""
    like, solver = truth if given_conditions(flow) else None, setflow.Midpoint(steps)
    sample_to_hdf5(flow, out, events=events, like=like, solver=solver, seed=SEED, overwrite=True)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _shipped() -> list[Path]:
    """Return the folders of the models of jets that have weights.

    Numbers of a model of whole events are those of its report, which `setflow promote` has taken.
    """
    folders = sorted(path.parent for path in (REPOSITORY / "models").glob("*/manifest.json"))
    return [folder for folder in folders if not given_conditions(setflow.SetFlow.load(folder))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="make zoo-eval", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of make zoo-data")
    parser.add_argument(
        "--models", type=Path, nargs="*", help="their folders; without, all shipped"
    )
    parser.add_argument("--kept", type=Path, default=KEPT, help="where the numbers go")
    parser.add_argument("--events", type=int, default=30_000, help="how many jets are sampled")
    parser.add_argument("--steps", type=int, default=STEPS, help="those of the solver, midpoint")
    parser.add_argument("--fast", action="store_true", help="leave out what takes an hour")
    given = parser.parse_args()
    torch.manual_seed(SEED)
    for model in given.models or _shipped():
        summary = measure(
            model, given.data, given.kept, events=given.events, steps=given.steps, fast=given.fast
        )
        _say(f"{model.name}: {summary}")


if __name__ == "__main__":
    main()
