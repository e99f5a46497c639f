"""`setflow fit`: a run is started, or goes on, and its best weights are exported."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import signal
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from torch import distributed

from setflow.cli.endings import Interrupted, warn
from setflow.cli.fit_arguments import prepared
from setflow.cli.fit_data import accept_data, tell_data, with_advice
from setflow.cli.fit_parts import ALLOWED_CLASSES, FitCLI, built
from setflow.cli.parsing import of_optional_part
from setflow.cli.resuming import (
    BOUNDS,
    CONFIG,
    begun_with,
    finished_facts,
    require_same_data,
    require_same_settings,
)
from setflow.distributions.cardinality import EmpiricalCardinality
from setflow.files import in_use_by_one, shortened
from setflow.jobs.contexts import context_options
from setflow.model.compiled import compile_field
from setflow.model.folder import architecture, require_same
from setflow.model.model import SetFlow
from setflow.model.statistics import SampleStatistics
from setflow.schema import left_out_of, words_of
from setflow.sets.batch import SetBatch
from setflow.telling import told_as
from setflow.training.checkpoints import Checkpoint, asked_for_steps, last_checkpoint
from setflow.training.export import ExportBestModel
from setflow.training.module import FlowMatchingModule
from setflow.training.processes import is_first_process, this_process
from setflow.training.record import command_line
from setflow.training.signals import Stopped, StopSignals

__all__ = ["ALLOWED_CLASSES", "FitResult", "fit"]

_NOT_FOR_THE_USER = (
    "LightningCLI's args parameter",  # the arguments are those of the command line, less `fit`
    "(?s).*(was deprecated in v4|JSONARGPARSE_DEPRECATION_WARNINGS|skip_none parameter)",
    "(?s).*LeafSpec.*is deprecated",  # Lightning's own use of jsonargparse and of torch
    "Checkpoint directory .* exists",  # that of the run which is resumed
    "You're resuming from a checkpoint that ended before the epoch",  # the sampler goes on there
    ".*does not have many workers",  # jets in memory come in whole batches: none is faster
    "The number of training batches .* is smaller than the logging interval",  # counted over epochs
    ".*`self.log\\(.*sync_dist=True",  # what is logged is the mean over processes already
)


_GOES_ON = 85  # the exit status by which HTCondor knows that a job has written a checkpoint
_LONGER = (
    "The training has finished; to train longer, raise --trainer.max_steps, --trainer.max_epochs "
    "or --trainer.max_time, whichever has ended it; another --name makes another run, and --force "
    "makes this one anew."
)


class FitResult(NamedTuple):
    """What a training has left.

    Attributes:
        model: the folder of the exported model, `runs/<name>/model`.
        what: what that is, in words.
        warning: what is to be known of its weights, or None.
        context: the options by which `setflow sample` is told a context, empty if it needs none.
        sampled: how the file of a sample may be called.
        status: the exit status of the command.
        goes_on: the command that goes on with it where time has ended it before its steps, or None.
        finished: what to do where there was nothing left to do, empty if there was.
    """

    model: Path
    what: str
    warning: str | None
    context: tuple[str, ...]
    sampled: str
    status: int = 0
    goes_on: tuple[str, ...] | None = None
    finished: str = ""


def fit(argv: Sequence[str]) -> FitResult:
    """Train a model as `setflow fit` does: start it, or go on where a call before has stopped.

    Arguments:
        argv: the command line behind `setflow fit`.

    Raises:
        BlockingIOError: if another process trains the same run.
        FileExistsError: if the folder of the run holds something else.
        FileNotFoundError: if there is no configuration, or no checkpoint to resume from.
        KeyboardInterrupt: if a signal stops it; it says how to go on.
        ValueError: if an argument is wrong, the run was begun with other settings or data, or the
            model of `--init` is not that of the configuration.
    """
    same, command, argv = shlex.join(["setflow", "fit", *argv]), command_line(argv), prepared(argv)
    with warnings.catch_warnings(), StopSignals() as signals:
        for message in _NOT_FOR_THE_USER if is_first_process() else ("",):
            warnings.filterwarnings("ignore", message)
        try:
            return _fit(argv, command, signals, same)
        except Stopped as stop:
            raise _interrupted(stop, None, same) from None
        except MisconfigurationException as error:
            raise ValueError(" ".join(str(error).split())) from error
        except RuntimeError as error:
            if this_process()[1] == 1 or not _is_of_connection(error):
                raise
            raise ConnectionError(
                "another process of the training has ended, or cannot be reached; it goes on from "
                f"its last checkpoint with: {same}"
            ) from error
        except ValueError as error:
            seed = "--seed_everything: " if "numpy accepts from" in str(error) else ""
            raise ValueError(seed + of_optional_part(str(error))) from error


def _is_of_connection(error: RuntimeError) -> bool:
    """Return whether a collective of torch has failed, which has no class for it with gloo."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _fit(argv: Sequence[str], command: str, signals: StopSignals, same: str) -> FitResult:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    cli = built(argv, command, signals)
    try:
        cli.model.flow.describe()
    except TypeError as error:  # what cannot be exported is not trained
        raise ValueError(f"model.flow: {error}") from error
    try:
        with told_as(cli.config.progress):
            return _run(cli)
    except Stopped as stop:
        raise _interrupted(stop, cli.folder, same) from None
    except ValueError as error:
        raise ValueError(with_advice(str(error))) from error


def _run(cli: FitCLI) -> FitResult:
    """Prepare the model of a run, train it, and return what that has left."""
    accept_data(cli)
    if cli.found is None and cli.config.init is not None:
        _start_from(Path(cli.config.init), cli.model.flow)  # it brings its statistics
    if cli.found is not None:
        done = _require_same_run(cli, cli.found)
        if done is not None:
            return done
    sample = cli.datamodule.training_sample(cli.model.flow)
    _require_room(cli.model.flow, sample, cli.datamodule.max_objects)
    if (told := left_out_of(cli.model.flow.schema, cli.model.flow.features)) is not None:
        warn(told)
    if cli.found is None:
        tell_data(cli)
    if cli.found is not None:
        pass  # its checkpoint holds weights and statistics
    elif cli.config.init is not None:
        _widen_range(cli.model.flow, sample)
        _require_possible(cli.model.flow, sample, cli.config.init)
    else:
        cli.datamodule.fit_statistics(cli.model.flow)
    if cli.config.compile:
        compile_field(cli.model.flow)
    new = not cli.folder.exists()
    cli.folder.mkdir(parents=True, exist_ok=True)
    with in_use_by_one(cli.folder) if is_first_process() else contextlib.nullcontext():
        return _trained(cli, new=new)


def _trained(cli: FitCLI, *, new: bool) -> FitResult:
    """Train, or go on, and return what that has left.

    Arguments:
        cli: the parts of the training.
        new: whether its folder was not there before.
    """
    found = cli.found
    if not is_first_process():
        pass  # what an old run has left is a matter of the first one
    elif found is None:  # all that can be wrong is known by now: what an old run has left goes
        for part in ("checkpoints", "model"):
            shutil.rmtree(cli.folder / part, ignore_errors=True)
    elif found.damaged:  # out of the way of the next one, which would take the place of a good one
        os.replace(found.path.with_name("last.ckpt"), found.path.with_name("damaged.ckpt"))
    path = None if found is None else found.path
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=path, weights_only=True)
    except Exception:
        if new and cli.trainer.global_step == 0:  # what the loggers began is nothing to keep
            shutil.rmtree(cli.folder, ignore_errors=True)
        raise
    except SystemExit:  # so Lightning ends when it is interrupted
        raise Stopped(signal.SIGINT) from None
    ended, on = _ended(cli.trainer), ("setflow", "fit", "--resume", "--name", str(cli.config.name))
    model = cli.exporter.finish(cli.model, ended)
    warning = cli.exporter.unvalidated(cli.trainer)
    what = _in_words(cli.trainer.global_step, warning, cli.exporter.best_model_score)
    context = context_options(cli.model.flow, cli.config.data.train)
    done = FitResult(model, what, warning, context, _sampled(cli.model.flow))
    if ended == "max_time":
        asked = asked_for_steps(cli.trainer)
        given = cli.config.status_on_time
        status = given if given is not None else _GOES_ON if asked else 0
        done = done._replace(status=status, goes_on=on if asked else None)
    if found is not None and found.step == cli.trainer.global_step and done.goes_on is None:
        done = done._replace(finished=_LONGER)
    return done


def _in_words(steps: int, warning: str | None, best: Any) -> str:
    kind = "its best weights" if warning is None else "its last weights, which were not validated"
    what = f"a model after {steps:,} {'step' if steps == 1 else 'steps'}, {kind}"
    if warning is None and best is not None:
        what += f", validation loss {float(best):.4g}"
    return what


def _sampled(flow: SetFlow) -> str:
    """Return how the file of a sample may be called."""
    return f"{words_of(flow.features).events}.h5"


def _ended(trainer: Trainer) -> str:
    """Return what has ended a training."""
    epochs = trainer.max_epochs
    if 0 <= trainer.max_steps <= trainer.global_step:
        return "max_steps"
    if epochs is not None and 0 <= epochs <= trainer.current_epoch:
        return "max_epochs"
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    left = [each.time_remaining() for each in callbacks if isinstance(each, Timer)]
    return "max_time" if any(time is not None and time <= 0 for time in left) else "early stopping"


def _interrupted(stop: Stopped, run: Path | None, same: str) -> BaseException:
    """Return the error that says where a training was when a signal came, and how it goes on.

    Arguments:
        stop: what has ended it.
        run: the folder of the run, None where the command line was not read yet.
        same: the command line as it was given.
    """
    if not is_first_process():  # of several processes the first one says it, and ends with it
        return SystemExit(stop.status if stop.step is None else 0)
    found = None
    if run is not None:
        with contextlib.suppress(OSError, ValueError):
            found = last_checkpoint(run / "checkpoints")
    text = f"stopped by {stop.name}"
    if run is None or found is None:
        return Interrupted(f"{text} before the first checkpoint; begin with: {same}", stop.status)
    if stop.step is not None:
        text += f" at step {stop.step:,}, whose checkpoint is written"
    else:
        text += f"; the last checkpoint is of step {found.step:,}"
    return Interrupted(f"{text}; go on with: setflow fit --resume --name {run.name}", stop.status)


def _require_same_run(cli: FitCLI, found: Checkpoint) -> FitResult | None:
    """Refuse to go on with another run than that of the configuration.

    Returns:
        What the run has left if it has finished, or None if there is more to do.

    Raises:
        ValueError: if a setting, or the data, differ.
    """
    _require_same_shapes(found, cli.model)
    begun, now = begun_with(cli.folder), cli.nodes()
    init = None if cli.config.init is None else str(cli.config.init)
    if found.state_of(ExportBestModel).get("init") is not None:  # which brought its statistics
        for nodes in (begun, now):
            nodes["model"]["flow"] = architecture(SetFlow.from_node(nodes["model"]["flow"]))
    require_same_settings(found, begun, now, init)
    files = ("train", "val")
    if any(begun["data"].get(name) != now["data"].get(name) for name in files):
        require_same_data(found, cli.exporter.data_facts(cli.datamodule))
    facts = finished_facts(cli.folder, found)
    bounds = [place.partition(".")[2] for place in BOUNDS]
    same = all(begun["trainer"].get(name) == now["trainer"].get(name) for name in bounds)
    if facts is not None and same and (facts["ended"] != "max_time" or not cli.steps_asked):
        with contextlib.suppress(OSError, ValueError):  # a model that is damaged is written again
            flow = SetFlow.load(cli.folder / "model")
            best = facts.get("best_val_flow_loss")
            what = _in_words(found.step, None if best is not None else "", best)
            context = context_options(flow, cli.config.data.train)
            on_time = facts["ended"] == "max_time" and cli.config.status_on_time
            sampled = _sampled(flow)
            return FitResult(
                cli.folder / "model", what, None, context, sampled, on_time or 0, finished=_LONGER
            )
    require_same_data(found, cli.exporter.data_facts(cli.datamodule))
    return None


def _start_from(folder: Path, flow: SetFlow) -> None:
    """Give a model the weights and statistics of a model folder of the same architecture."""
    stored = SetFlow.load(folder)
    instead = "train with the configuration of the folder (leave --config out), or without --init"
    require_same(architecture(stored), architecture(flow), str(folder), instead)
    flow.load_state_dict(stored.state_dict())


def _widen_range(flow: SetFlow, events: SetBatch | SampleStatistics) -> None:
    """Let a model know the contexts with which its training goes on."""
    if flow.context_encoder is not None and events.c is not None:
        flow.context_encoder.learn_range(events.c, anew=False)


def _require_room(flow: SetFlow, events: SetBatch | SampleStatistics, kept: int) -> None:
    """Refuse jets of more particles than the p(N) of a model knows; `kept` are kept of each."""
    lengths = events.lengths
    longest = int(lengths.max()) if len(lengths) else 0
    if flow.cardinality is not None and longest > flow.cardinality.max_objects:
        known = flow.cardinality.max_objects
        raise ValueError(
            f"the training {words_of(flow.features).events} have up to {longest} "
            f"{words_of(flow.features).objects}, but the cardinality model knows up "
            f"to {known}: cut them with --data.max_objects={known}, or raise "
            f"--model.flow.init_args.cardinality.init_args.max_objects to {kept}"
        )


def _require_possible(flow: SetFlow, events: SetBatch | SampleStatistics, folder: str) -> None:
    """Refuse a training sample whose numbers of objects the p(N) of the model rules out."""
    if not isinstance(flow.cardinality, EmpiricalCardinality) or not len(events):
        return
    lengths = events.lengths
    never = flow.cardinality.log_prob(lengths).isneginf()
    if bool(never.all()):
        raise ValueError(
            f"all training events have a number of objects, {int(lengths.min())} to "
            f"{int(lengths.max())}, that the p(N) of {folder} rules out: it would sample no such "
            "events; check --data.max_objects, or train without --init"
        )


def _require_same_shapes(found: Checkpoint, model: FlowMatchingModule) -> None:
    """Refuse to go on from the checkpoint of another model."""
    mine = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    stored = found.content["state_dict"].items()
    theirs = {name: tuple(getattr(value, "shape", ())) for name, value in stored}
    different = sorted(name for name in mine | theirs if mine.get(name) != theirs.get(name))
    if different:
        name = different[0]
        raise ValueError(
            f"{found.path} is of another model: {shortened(name)} has shape {theirs.get(name)} "
            f"there and {mine.get(name)} in this configuration; go on with the configuration of "
            f"the run, {found.path.parents[1] / CONFIG}"
        )
