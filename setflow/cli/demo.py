"""`setflow demo`: train, sample, evaluate and plot on the shipped sample of top jets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from setflow.cli.fit import fit
from setflow.jobs.sample import sample_to_hdf5
from setflow.model.model import SetFlow
from setflow.report.page import METRICS_FILE, PAGES, evaluate
from setflow.shipped import CONFIGURATIONS, JETS, known, paths
from setflow.solvers.fixed import Midpoint

__all__ = ["demo"]

_CONFIG, _TRAIN, _REFERENCE = "demo", "pythia-top/train.h5", "pythia-top/heldout.h5"
_RUN = Path("runs/demo")
_SOLVER_STEPS = 25


def demo(*, seed: int, steps: int | None, events: int) -> tuple[Path, Path]:
    """Run the whole chain and print where its results are; return the model and the report.

    Arguments:
        seed: of the training, the sample and the evaluation.
        steps: the number of training steps; None takes that of the configuration.
        events: the number of jets to sample.

    Raises:
        FileNotFoundError: if the installation has no such sample and configuration.
    """
    shipped = paths(CONFIGURATIONS) | paths(JETS)
    if missing := [name for name in (_CONFIG, _TRAIN, _REFERENCE) if name not in shipped]:
        raise FileNotFoundError(
            f"this installation of setflow lacks {missing[0]}, which the demo needs: "
            f"{known(JETS)}; install setflow from its wheel, or from a clone of the repository"
        )
    config = shipped[_CONFIG]
    console = Console()
    arguments = ["--config", str(config), "--name", _RUN.name, "--force"]
    arguments += ["--seed_everything", str(seed)]
    if steps is not None:
        arguments += ["--trainer.max_steps", str(steps)]
        arguments += ["--trainer.val_check_interval", str(max(1, steps // 3))]
    with _stage(console, "train"):
        trained = fit(arguments)
    model = trained.model
    if trained.warning is not None:
        console.print(f"warning: {trained.warning}", highlight=False)
    samples = _RUN / "samples.h5"
    with _stage(console, f"sample {events} jets"):
        sample_to_hdf5(
            SetFlow.load(model),
            samples,
            events=events,
            solver=Midpoint(_SOLVER_STEPS),
            seed=seed,
            overwrite=True,
        )
    report = _RUN / "report"
    with _stage(console, "evaluate"):
        result = evaluate(samples, _REFERENCE, report, train=_TRAIN, seed=seed, overwrite=True)
    console.print(result.table())
    console.print(f"model     {model}")
    console.print(f"jets      {samples}")
    console.print(f"metrics   {report / METRICS_FILE}")
    for page in PAGES:
        console.print(f"page      {report / page}")
    return model, report


@contextmanager
def _stage(console: Console, name: str) -> Iterator[None]:
    console.print(f"[bold]{name}[/bold]")
    start = time.perf_counter()
    yield
    console.print(f"[bold]{name}[/bold]: {time.perf_counter() - start:.0f} s")
