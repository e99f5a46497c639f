"""`setflow promote`: the model of a run becomes one to share."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from setflow.cli.checks import TRAINED
from setflow.cli.endings import Ending
from setflow.files import MANIFEST, check_folder

__all__ = ["promote_model"]


def promote_model(config: Namespace, ending: Ending) -> None:
    """Promote a model.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if something that a shared model has to say is missing or wrong.
    """
    target = check_folder(config.target, marker=MANIFEST, overwrite=config.force)
    run = Path(config.run)
    if not run.is_dir():
        raise FileNotFoundError(f"there is no folder {run}, expected that of a run; {TRAINED}")
    from setflow.jobs.promote import promote

    promote(run, target, report=config.report, overwrite=config.force)
    ending(target, "a model, its card and its metrics", ["setflow", "info", target])
