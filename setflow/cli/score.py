"""`setflow score`: the log-density of the events of a file, into another."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

import setflow
from setflow.cli.arguments import SOLVERS
from setflow.cli.checks import check_numbers, check_resumable, events_file, model_folder
from setflow.cli.devices import check_device, device_of, made_on_devices, output_of
from setflow.cli.solving import check_solver, solver_of
from setflow.files import check_hdf5_name
from setflow.shipped import MODELS, find

if TYPE_CHECKING:
    from setflow.divergence import DivergenceEstimator

__all__ = ["score_events"]

_PROBES = 8


def score_events(config: Namespace, ending: Callable[..., None]) -> None:
    """Score events, or go on with scores that were begun; status 1 if no row could be scored.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if arguments do not fit each other, the model or a file.
    """
    check_device(config.device)
    check_solver(config)
    check_numbers(config, "events", "steps", "probes", "devices")
    if config.estimator == "exact" and config.probes is not None:
        raise ValueError("an exact divergence has no probes; add --estimator hutchinson")
    out, part = output_of(config)
    check_hdf5_name(out)
    check_resumable(out, force=config.force)
    if Path(config.model).is_file() and find(MODELS, config.data).is_dir():
        raise ValueError(
            f"the model comes before the events: setflow score {config.data} {config.model}"
        )
    data, model = events_file(config.data), model_folder(config.model)
    there = made_on_devices(out, config)
    from setflow.jobs.missing import missing_note
    from setflow.jobs.score import score_to_hdf5
    from setflow.jobs.summary import summarize_scores

    path = score_to_hdf5(
        setflow.SetFlow.load(model, device=device_of(config.device)),
        data,
        config.out,
        estimator=_estimator(config),
        solver=solver_of(config),
        events=config.events,
        condition=config.condition,
        seed=config.seed,
        overwrite=config.force,
        part=part,
    )
    summary, missing = summarize_scores(path), missing_note(path)
    notes = summary.lines() if missing is None else [*summary.lines(), missing]
    look = "import sys, h5py; print(h5py.File(sys.argv[1])['log_prob'][:10])"
    following = f'python -c "{look}" {shlex.quote(str(path))}'
    what = f"log-densities of {summary.rows:,} {summary.words.events}"
    ending(path, what, following, notes=notes, there=there)
    if summary.rows and not summary.scored:
        print(f"setflow: none of the rows of {data} could be scored", file=sys.stderr)
        sys.exit(1)


def _estimator(config: Namespace) -> DivergenceEstimator:
    if config.estimator == "exact":
        return setflow.ExactDivergence()
    probes = _PROBES if config.probes is None else config.probes
    fixed = config.solver in SOLVERS  # then new probes cost nothing and are worth many
    return setflow.HutchinsonDivergence(probes, renew=fixed)
