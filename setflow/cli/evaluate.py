"""`setflow evaluate`: a report that compares generated events with true ones."""

from __future__ import annotations

import sys
from dataclasses import replace

from jsonargparse import Namespace

from setflow.cli.checks import check_numbers, events_file
from setflow.cli.devices import check_device, device_of
from setflow.cli.endings import Ending, warn
from setflow.files import METRICS, check_folder

__all__ = ["evaluate_events"]


def evaluate_events(config: Namespace, ending: Ending) -> None:
    """Write a report; status 1 if a metric exceeds what is required of it.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if arguments do not fit each other or the files.
    """
    check_device(config.device)
    check_numbers(config, "events", "max_objects")
    check_folder(config.out, marker=METRICS, overwrite=config.force)
    for given in (config.generated, config.reference, config.train):
        if given is not None:
            events_file(given)
    from rich.console import Console

    from setflow.physics.measures import FAST_MEASURES, MEASURES
    from setflow.report.page import METRICS_FILE, PAGES, evaluate

    report = evaluate(
        config.generated,
        config.reference,
        config.out,
        events=config.events,
        max_objects=config.max_objects,
        seed=config.seed,
        overwrite=config.force,
        weight=config.weight,
        train=config.train,
        measures=FAST_MEASURES if config.fast else MEASURES,
        protocol=config.protocol,
        require=config.require,
        device=device_of(config.device),
        say=lambda text: print(text, flush=True),
    )
    console = Console()
    with console.capture() as shown:  # for a pipe that nobody reads it would exit by itself
        console.print(replace(report, notes=()).table())  # they are warnings, below
    print(shown.get(), end="")
    for note in report.notes:
        warn(note)
    what = f"{', '.join(PAGES)}, {METRICS_FILE} and {len(report.pictures)} pictures"
    ending(config.out, what, ["setflow", "info", config.out])
    for sentence in report.broken:
        print(f"setflow: {sentence}", file=sys.stderr)
    if report.broken:
        sys.exit(1)
