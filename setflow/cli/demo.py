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

_CONFIG, _TRAIN, _REFERENCE = "top30-two-stages", "pythia-top/train.h5", "pythia-top/heldout.h5"
_RUN = Path("runs/demo")
_SOLVER_STEPS = 12
_OBJECTS, _FEWER = 60, 30  # of a jet; and cut to the hardest, as the models of 30 are judged
_STEPS, _BATCH = 2900, 64  # so many jets of 60 particles take as long as twice as many of 30


def demo(*, seed: int, steps: int | None, events: int) -> tuple[Path, Path]:
    """Run the whole chain and print where its results are; return the model and the report.

    Arguments:
        seed: of the training, the sample and the evaluation.
        steps: the number of training steps; None takes 2,900.
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
    steps = _STEPS if steps is None else steps
    for option, value in (
        ("trainer.max_time", "null"),
        ("trainer.max_steps", steps),
        ("trainer.val_check_interval", max(1, steps // 2)),
        ("data.max_objects", _OBJECTS),
        ("data.batch_size", _BATCH),
        ("model.flow.init_args.cardinality.init_args.max_objects", _OBJECTS),
    ):
        arguments += [f"--{option}", str(value)]
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
    for name, out, most in (
        ("evaluate", report, None),
        (f"evaluate the {_FEWER} hardest particles", _RUN / f"report-{_FEWER}", _FEWER),
    ):
        with _stage(console, name):
            result = evaluate(
                samples, _REFERENCE, out, max_objects=most, train=_TRAIN, seed=seed, overwrite=True
            )
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
