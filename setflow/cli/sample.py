"""`setflow sample`: events that a model generates, into a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jsonargparse import Namespace

import setflow
from setflow.cli.checks import check_numbers, check_resumable, events_file, model_folder
from setflow.cli.devices import check_device, device_of, made_on_devices, output_of
from setflow.cli.endings import judged_by, unused
from setflow.cli.solving import check_solver, solver_of

__all__ = ["sample_events"]


def sample_events(config: Namespace, ending: Callable[..., None]) -> None:
    """Sample events, or go on with a sample that was begun.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if arguments do not fit each other, the model or a file.
    """
    check_device(config.device)
    check_solver(config)
    check_numbers(config, "events", "steps", "oversample", "devices")
    _check_context(config)
    out, part = output_of(config)
    check_resumable(out, force=config.force)
    like = None if config.like is None else events_file(config.like)
    context = config.condition
    if config.context_from is not None:
        context = events_file(config.context_from)
    model = model_folder(config.model)
    there = made_on_devices(out, config)
    from setflow.jobs.sample import sample_to_hdf5
    from setflow.model.compiled import compile_field
    from setflow.schema import words_of
    from setflow.solvers.adaptive import IntegrationError

    flow = setflow.SetFlow.load(model, device=device_of(config.device))
    if config.compile:
        compile_field(flow)
    try:
        path = sample_to_hdf5(
            flow,
            config.out,
            events=config.events,
            like=like,
            context=context,
            oversample=config.oversample or 1,
            guidance=config.guidance,
            solver=solver_of(config),
            seed=config.seed,
            overwrite=config.force,
            layout=None if config.layout is None else int(config.layout),
            part=part,
        )
    except IntegrationError as error:
        raise ValueError(
            f"dopri5 does not get {len(error.events)} events beyond t = {error.time:.3g} on the "
            "way from 1 to 0; raise --steps, loosen --rtol and --atol, or take a solver of fixed "
            "steps, --solver midpoint"
        ) from error
    words = words_of(flow.features)
    following = _following(config, path, model, jets=words.event == "jet")
    ending(path, f"{_events_in(path):,} {words.events}", following, there=there)


def _following(config: Namespace, path: Path, model: Path, *, jets: bool) -> list[object]:
    """Return the words of the next command."""
    if config.part is not None:  # the others may not be there yet
        return ["setflow", "dataset", "check", path]
    if path.is_dir():
        return ["setflow", "dataset", "merge", path, "--out", unused(path.with_suffix(".h5"))]
    given = config.like or config.context_from
    truth = [given] if given else judged_by(model, jets=jets)
    if not truth:
        scores = unused(path.with_stem(f"{path.stem}-scores"))
        score = ["setflow", "score", config.model, path, "--out", scores]
        return [*score, "--estimator", "hutchinson"]
    report = unused(path.with_name(f"{path.stem}-report"))
    return ["setflow", "evaluate", path, *truth, "--fast", "--out", report]


def _check_context(config: Namespace) -> None:
    """Check that one source tells what is to be sampled, and how much."""
    sources = ("condition", "like", "context_from")
    given = [f"--{name.replace('_', '-')}" for name in sources if config[name] is not None]
    if len(given) > 1:
        raise ValueError(
            f"{' and '.join(given)} tell the context twice; give one of --condition VALUES, "
            "--like FILE (number of particles and context) and --context-from FILE (context alone)"
        )
    rows = given in (["--like"], ["--context-from"])
    if config.oversample is not None and not rows:
        instead = "leave it out and say how many by --events"
        if config.events is not None:
            instead = f"leave it out, or raise --events to {config.oversample * config.events}"
        raise ValueError(
            f"--oversample {config.oversample} makes so many events for each of a file; add "
            f"--like or --context-from, or {instead}"
        )
    counted = any(isinstance(value, dict) for value in (config.condition or {}).values())
    if config.events is None and not rows and not counted:
        raise ValueError(
            "say how many events to sample, by --events, or by a file of --like or --context-from"
            if config.condition is None
            else "--condition gives one context for all events; say how many by --events"
        )


def _events_in(path: Path) -> int:
    from setflow.data.header import read_header
    from setflow.data.merging import shards_of

    return sum(read_header(shard).n for shard in shards_of([path]))
