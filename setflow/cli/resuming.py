"""Whether `setflow fit` starts a run, goes on with it, or finds it finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from setflow.cli.endings import warn
from setflow.files import MANIFEST, check_target, load_yaml, read_bounded, shortened
from setflow.model.folder import differences
from setflow.training.checkpoints import Checkpoint, last_checkpoint
from setflow.training.export import ExportBestModel
from setflow.training.processes import is_first_process

__all__ = [
    "BOUNDS",
    "CONFIG",
    "begun_with",
    "find_run",
    "finished_facts",
    "require_same_data",
    "require_same_settings",
]

CONFIG = "config.yaml"
BOUNDS = ("trainer.max_steps", "trainer.max_epochs", "trainer.max_time")
"""What may be raised, so that a run that has finished goes on."""

_MAY_DIFFER = (
    *BOUNDS,
    *(f"trainer.{name}" for name in ("accelerator", "devices", "num_nodes", "strategy")),
    *(f"trainer.{name}" for name in ("enable_progress_bar", "enable_model_summary", "profiler")),
    *("trainer.log_every_n_steps", "trainer.detect_anomaly", "name", "data.workers"),
)
_FILES = ("data.train", "data.val")  # compared by what they hold
_OURS = {CONFIG, "csv", "tensorboard", "checkpoints", "model", f".{CONFIG}.part", ".model.part"}


def find_run(folder: Path, *, resume: str, force: bool) -> Checkpoint | None:
    """Return the checkpoint from which a run goes on, or None if it starts.

    Arguments:
        folder: that of the run.
        resume: `auto` starts where there is nothing to go on from, `only` does not.
        force: start anew whatever there is.

    Raises:
        OSError: if the run cannot be written to, or holds something else than a run.
        FileNotFoundError: if there is nothing to go on from, and it may not start.
        ValueError: if no checkpoint of it can be read.
    """
    runs = folder.parent
    if force:
        check_target(folder if runs.exists() else runs, overwrite=True)
        return None
    try:
        found = last_checkpoint(folder / "checkpoints")
    except ValueError as error:
        raise ValueError(
            f"the run {folder} cannot go on: {error}. Bring one back from a copy, or start anew: "
            "--force overwrites it, another --name leaves it"
        ) from error
    if found is not None:
        check_target(folder, overwrite=True)
        for told in found.damaged if is_first_process() else ():
            warn(f"{told}; the run goes on from {found.path.name}, which is of step {found.step:,}")
        return found
    if resume == "only":
        raise FileNotFoundError(
            f"no checkpoint at {folder / 'checkpoints' / 'last.ckpt'} to resume from; leave "
            "--resume out to start anew"
        )
    check_target(folder if runs.exists() else runs, overwrite=True)
    if folder.is_dir():
        there = {path.name for path in folder.iterdir()}
        trained = "model" in there and _facts(folder).get("steps") != 0
        if trained or not there <= _OURS:
            what = "a model" if trained else "something else than a run"
            raise FileExistsError(
                f"{folder} exists already and holds {what}, and no checkpoint to go on from; "
                "choose another --name, or overwrite it with --force"
            )
    elif folder.exists():
        raise FileExistsError(f"{folder} exists already and is a file; choose another --name")
    return None


def begun_with(folder: Path) -> dict[str, Any]:
    """Return the configuration with which a run was begun, its nodes.

    Raises:
        ValueError: if it is not there, or is none.
    """
    path = folder / CONFIG
    try:
        nodes = load_yaml(read_bounded(path).decode())
        nodes["model"]["flow"], nodes["data"], nodes["trainer"]
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the run {folder} has a checkpoint, but {path} does not tell with which configuration "
            f"it was begun ({told}); start anew: --force overwrites it, another --name leaves it"
        ) from error
    return dict(nodes)


def require_same_settings(
    found: Checkpoint, begun: Mapping[str, Any], now: Mapping[str, Any], init: str | None
) -> None:
    """Refuse to go on with a run under settings that would make another run of it.

    Arguments:
        found: its checkpoint.
        begun: the nodes of the configuration with which it was begun.
        now: those of the configuration with which it is to go on.
        init: the model from which it would start, or None.

    Raises:
        ValueError: if a setting differs that is not one of those that may.
    """
    state = found.state_of(ExportBestModel)
    may = (*_MAY_DIFFER, *(_FILES if state.get("data") else ()))
    different = {}
    for section in begun.keys() & now.keys():
        for place, pair in differences(begun[section], now[section], section).items():
            added = pair[0] is None and not _stands_in(begun, place)  # by a later version
            if not added and not any(place == name or place.startswith(f"{name}.") for name in may):
                different[place] = pair
    if init is not None and "init" in state and state["init"] != init:
        different["init"] = (state["init"], init)
    if different:
        folder = found.path.parents[1]
        raise _of_another(folder, "another configuration", different)


def require_same_data(found: Checkpoint, now: Mapping[str, Any]) -> None:
    """Refuse to go on with a run on other events than those with which it was begun.

    Arguments:
        found: its checkpoint.
        now: what is known of the events, as `SetDataModule.facts` tells.

    Raises:
        ValueError: if they differ; files may have other names.
    """
    before = found.state_of(ExportBestModel).get("data")
    if before:
        different = differences(_unnamed(before), _unnamed(now), "data")
        if different:
            raise _of_another(found.path.parents[1], "other data", different)


def finished_facts(folder: Path, found: Checkpoint) -> dict[str, Any] | None:
    """Return what the manifest says of a training that has finished, or None if it has not.

    Arguments:
        folder: that of the run.
        found: its checkpoint.
    """
    facts = _facts(folder)
    return facts if facts.get("ended") and facts.get("steps") == found.step else None


def _facts(folder: Path) -> dict[str, Any]:
    """Return what the manifest of the model of a run says of its training; nothing if it cannot."""
    try:
        return dict(json.loads(read_bounded(folder / "model" / MANIFEST))["training"])
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _of_another(folder: Path, what: str, different: Mapping[str, tuple[Any, Any]]) -> ValueError:
    place, (there, here) = next(iter(different.items()))
    others = [*different][1:4]
    more = f" ({', '.join(others)}{' ...' if len(different) > 4 else ''} too)" if others else ""
    return ValueError(
        f"the run {folder} was begun with {what}: {place} is {shortened(there)} there and "
        f"{shortened(here)} now{more}; go on without the change (setflow fit --resume --name "
        f"{folder.name} takes what it was begun with), choose another --name, or overwrite it with "
        "--force"
    )


def _stands_in(nodes: Any, place: str) -> bool:
    for key in place.split("."):
        if isinstance(nodes, Mapping) and key not in nodes and "init_args" in nodes:
            nodes = nodes["init_args"]
        if not isinstance(nodes, Mapping) or key not in nodes:
            return False
        nodes = nodes[key]
    return True


def _unnamed(facts: Any) -> Any:
    """Return facts on files without their names: a file may have been moved."""
    if isinstance(facts, Mapping):
        return {key: _unnamed(value) for key, value in facts.items() if key != "file"}
    return [_unnamed(value) for value in facts] if isinstance(facts, list) else facts
