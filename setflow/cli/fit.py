"""`setflow fit`: LightningCLI with the run folder, the allowed classes and the export."""

from __future__ import annotations

import logging
import operator
import os
import re
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from pydoc import locate
from typing import Any, NamedTuple, NoReturn

import torch
from jsonargparse import get_loader, set_loader, set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from yaml import YAMLError, safe_dump, safe_load

from setflow.cli.endings import warn
from setflow.cli.fit_arguments import FIT_ONLY, plain, prepared
from setflow.cli.parsing import OneLineErrors, nearest, of_optional_part
from setflow.distributions.cardinality import EmpiricalCardinality
from setflow.files import check_target, require_single_keys, write_text
from setflow.jobs.contexts import context_options
from setflow.model.compiled import compile_field
from setflow.model.folder import CLASSES, architecture, describe_model, require_same
from setflow.model.model import SetFlow
from setflow.schema import Positive, left_out_of, words_of
from setflow.sets.batch import SetBatch
from setflow.training.conditions import complete
from setflow.training.data import SetDataModule
from setflow.training.export import ExportBestModel
from setflow.training.module import FlowMatchingModule
from setflow.training.progress import StepProgress
from setflow.training.record import command_line

__all__ = ["ALLOWED_CLASSES", "FitResult", "fit"]

# what a configuration may name besides the classes of setflow itself; everything else is refused
# before it is imported
ALLOWED_CLASSES = (
    "lightning.pytorch.callbacks.EMAWeightAveraging",
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.callbacks.GradientAccumulationScheduler",
    "lightning.pytorch.callbacks.Timer",
    "torch.optim.Adam",
    "torch.optim.AdamW",
    "torch.optim.NAdam",
    "torch.optim.RAdam",
    "torch.optim.SGD",
)

_NOT_FOR_THE_USER = (
    "LightningCLI's args parameter",  # the arguments are those of the command line, less `fit`
    "(?s).*(was deprecated in v4|JSONARGPARSE_DEPRECATION_WARNINGS|skip_none parameter)",
    "(?s).*LeafSpec.*is deprecated",  # Lightning's own use of jsonargparse and of torch
    "Checkpoint directory .* exists",  # that of the run which is resumed
    "You're resuming from a checkpoint that ended before the epoch",  # the sampler goes on there
    ".*does not have many workers",  # jets in memory come in whole batches: none is faster
    "The number of training batches .* is smaller than the logging interval",  # counted over epochs
)


class FitResult(NamedTuple):
    """What a training has left.

    Attributes:
        model: the folder of the exported model, `runs/<name>/model`.
        what: what that is, in words.
        warning: what is to be known of its weights, or None.
        context: the options by which `setflow sample` is told a context, empty if it needs none.
        sampled: how the file of a sample may be called.
    """

    model: Path
    what: str
    warning: str | None
    context: tuple[str, ...]
    sampled: str


def fit(argv: Sequence[str]) -> FitResult:
    """Train a model as `setflow fit` does.

    Arguments:
        argv: the command line behind `setflow fit`.

    Raises:
        FileExistsError: if the run exists and is neither resumed nor overwritten.
        FileNotFoundError: if there is no configuration, or no checkpoint to resume from.
        KeyboardInterrupt: if it is interrupted; it says how to go on.
        ValueError: if an argument is wrong, or the model of `--init` is not that of the
            configuration.
    """
    command, argv = command_line(argv), prepared(argv)
    with warnings.catch_warnings():
        for message in _NOT_FOR_THE_USER:
            warnings.filterwarnings("ignore", message)
        try:
            return _fit(argv, command)
        except MisconfigurationException as error:
            raise ValueError(" ".join(str(error).split())) from error
        except ValueError as error:
            seed = "--seed_everything: " if "numpy accepts from" in str(error) else ""
            raise ValueError(seed + of_optional_part(str(error))) from error


def _fit(argv: Sequence[str], command: str) -> FitResult:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=["setflow", *ALLOWED_CLASSES, *map(_home, ALLOWED_CLASSES)],
    )
    set_loader("plain", _read_yaml, (YAMLError,))
    cli = _built(argv, command)
    try:
        cli.model.flow.describe()
    except TypeError as error:  # what cannot be exported is not trained
        raise ValueError(f"model.flow: {error}") from error
    checkpoint = cli.last_checkpoint
    if checkpoint is not None:
        _require_same_model(checkpoint, cli.model)  # it also holds the statistics
    _require_room(cli.model.flow, cli.datamodule)
    if (told := left_out_of(cli.model.flow.schema)) is not None:
        warn(told)
    if checkpoint is None and cli.config.init is not None:
        _start_from(Path(cli.config.init), cli.model.flow)  # it brings its statistics
        _widen_range(cli.model.flow, cli.datamodule.train_events)
        _require_possible(cli.model.flow, cli.datamodule.train_events, cli.config.init)
    elif checkpoint is None:
        cli.model.flow.fit_statistics(cli.datamodule.train_events)
    if cli.config.compile:
        compile_field(cli.model.flow)
    if cli.config.force:  # all that can be wrong is known by now: the old run goes
        for part in ("checkpoints", "model"):
            shutil.rmtree(cli.folder / part, ignore_errors=True)
    new = not cli.folder.exists()
    try:
        cli.trainer.fit(
            cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True
        )
    except Exception:
        if new and cli.trainer.global_step == 0:  # what the loggers began is nothing to keep
            shutil.rmtree(cli.folder, ignore_errors=True)
        raise
    except SystemExit:  # so Lightning ends when it is interrupted
        saved = (cli.folder / "checkpoints" / "last.ckpt").is_file()
        on = f"setflow fit --resume --name {cli.config.name}" if saved else ""
        raise KeyboardInterrupt(on) from None
    model = cli.exporter.finish(cli.model)
    warning = cli.exporter.unvalidated(cli.trainer)
    kind = "its best weights" if warning is None else "its last weights, which were not validated"
    what = f"a model after {cli.trainer.global_step:,} steps, {kind}"
    best = cli.exporter.best_model_score
    if warning is None and best is not None:
        what += f", validation loss {float(best):.4g}"
    flow = cli.model.flow
    sampled = f"{words_of(flow.features).events}.h5"
    context = context_options(flow, cli.config.data.train)
    return FitResult(model, what, warning, context, sampled)


def _built(argv: Sequence[str], command: str) -> _FitCLI:
    """Return the parsed command line and the parts of the training that it describes."""
    return _FitCLI(
        FlowMatchingModule,
        SetDataModule,
        command=command,
        args=list(argv),
        run=False,
        auto_configure_optimizers=False,
        save_config_callback=_SaveConfig,
        save_config_kwargs={"save_to_log_dir": False},
        seed_everything_default=0,
        parser_class=_FitParser,
        parser_kwargs={
            "prog": "setflow fit",
            "parser_mode": "plain",
            "allow_abbrev": False,
            "description": "Train a model. A configuration may name the classes of setflow and "
            + ", ".join(ALLOWED_CLASSES),
        },
    )


def _read_yaml(text: str) -> Any:
    """Return what YAML says, with whole numbers as integers.

    Raises:
        YAMLError: if it is none, or gives a key twice, of which the parser would drop the first.
    """
    if text == "None":  # so the parser passes null on to a part
        return None
    require_single_keys(text)
    value = plain(get_loader("yaml")(text))
    if "boxcox:" in text and isinstance(value, dict):
        _refuse_former(value)
    return value


def _refuse_former(config: dict[str, Any]) -> None:
    """Refuse a configuration whose scaler has the argument that `kinds` has replaced."""
    try:
        arguments = config["model"]["flow"]["init_args"]["scaler"]["init_args"]
        powers = {int(place): float(power) for place, power in arguments["boxcox"].items()}
        kinds = ["real"] * max(int(arguments.get("dim") or 0), 1 + max(powers))
    except (AttributeError, KeyError, TypeError, ValueError):
        return
    for place, power in powers.items():
        kinds[place] = str(Positive(boxcox=power))
    raise ValueError(
        "model.flow.scaler has boxcox, which the kinds of features have replaced: write init_args: "
        f"{{kinds: [{', '.join(kinds)}]}}"
    )


def _start_from(folder: Path, flow: SetFlow) -> None:
    """Give a model the weights and statistics of a model folder of the same architecture."""
    stored = SetFlow.load(folder)
    instead = "train with the configuration of the folder (leave --config out), or without --init"
    require_same(architecture(stored), architecture(flow), str(folder), instead)
    flow.load_state_dict(stored.state_dict())


def _widen_range(flow: SetFlow, events: SetBatch) -> None:
    """Let a model know the contexts with which its training goes on."""
    if flow.context_encoder is not None and events.c is not None:
        flow.context_encoder.learn_range(events.c, anew=False)


def _require_room(flow: SetFlow, data: SetDataModule) -> None:
    """Refuse jets of more particles than the p(N) of a model knows."""
    lengths = data.train_events.lengths
    longest = int(lengths.max()) if len(lengths) else 0
    if flow.cardinality is not None and longest > flow.cardinality.max_objects:
        known = flow.cardinality.max_objects
        raise ValueError(
            f"the training {words_of(flow.features).events} have up to {longest} "
            f"{words_of(flow.features).objects}, but the cardinality model knows up "
            f"to {known}: cut them with --data.max_objects={known}, or raise "
            f"--model.flow.init_args.cardinality.init_args.max_objects to {data.max_objects}"
        )


def _require_possible(flow: SetFlow, events: SetBatch, folder: str) -> None:
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


def _require_same_model(checkpoint: Path, model: FlowMatchingModule) -> None:
    """Refuse to resume from the checkpoint of another model."""
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    mine = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in stored.items()}
    different = sorted(name for name in mine | theirs if mine.get(name) != theirs.get(name))
    if different:
        name = different[0]
        raise ValueError(
            f"{checkpoint} is of another model: {name} has shape {theirs.get(name)} there and "
            f"{mine.get(name)} in this configuration; resume with the configuration of the run, "
            f"{checkpoint.parents[1] / 'config.yaml'}"
        )
    written = safe_load((checkpoint.parents[1] / "config.yaml").read_text())
    began = SetFlow.from_node(written["model"]["flow"])
    nodes = architecture(began), architecture(model.flow)
    require_same(*nodes, str(checkpoint), "resume without --config")


def _home(name: str) -> str:
    """Return the path of the module where a class stands, which the parser asks for too."""
    cls = locate(name)
    assert isinstance(cls, type), f"{name} is not a class"
    return f"{cls.__module__}.{cls.__qualname__}"


class _FitParser(OneLineErrors, LightningArgumentParser):
    """Lightning's parser, with errors of one line.

    One that is made without a name is that of a part of the configuration. It stays nameless, or
    argparse would call it after the file of the program, which is `setflow`, as the whole.
    """

    def __init__(self, *args: Any, prog: str = "", **options: Any) -> None:
        super().__init__(*args, prog=prog, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if found := re.search(r"Importing '(.*?)' is not allowed", message):
            raise ValueError(
                f"{found[1]} is not allowed in a configuration"
                f"{nearest(found[1], ALLOWED_CLASSES)}; expected a class of setflow, or one of "
                f"{', '.join(ALLOWED_CLASSES)}"
            )
        if found := re.search(r"class_path '(\S+?)': module '[\w.]+' has no attribute", message):
            raise ValueError(f"there is no class {found[1]}{nearest(found[1], list(CLASSES))}")
        super().error(message, ex)


class _FitCLI(LightningCLI):
    exporter: ExportBestModel

    def __init__(self, *args: Any, command: str, **kwargs: Any) -> None:
        self.command = command  # before the parts are built, which is at once
        super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for argument in FIT_ONLY:
            argument.add_to(parser)
        for names in ("features", "conditions", "schema"):  # those of the model
            value = operator.attrgetter(f"flow.{names}")
            parser.link_arguments("model", f"data.{names}", value, apply_on="instantiate")

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path("runs") / str(self.config.name)

    @property
    def last_checkpoint(self) -> Path | None:
        """The checkpoint to go on from, or None to start anew."""
        return self.folder / "checkpoints" / "last.ckpt" if self.config.resume else None

    def before_instantiate_classes(self) -> None:
        complete(self.config.model.flow.init_args, self.config.data.train)
        name, checkpoint = str(self.config.name), self.last_checkpoint
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise ValueError(
                f"the run is named {name!r}, expected letters, digits and . + - _: a name, no path"
            )
        if checkpoint is None:
            runs = self.folder.parent
            check_target(self.folder if runs.exists() else runs, overwrite=self.config.force)
        elif not checkpoint.is_file():
            raise FileNotFoundError(
                f"no checkpoint at {checkpoint} to resume from; leave --resume out to start anew"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        given = self.config_init.trainer
        for option in ("logger", "default_root_dir"):
            if given[option] is not None:
                raise ValueError(
                    f"trainer.{option} cannot be set: logs and results go to {self.folder}; "
                    "choose another --name"
                )
        _check_times(given)
        cuda = ("gpu", "cuda")
        if given.accelerator not in ("auto", "cpu", *cuda):
            raise ValueError(
                f"--trainer.accelerator is {given.accelerator!r}, expected auto, cpu or cuda"
            )
        if given.accelerator in cuda and not torch.cuda.is_available():
            raise ValueError(
                f"--trainer.accelerator is {given.accelerator!r}, but torch finds no CUDA device "
                "here; use cpu, or auto"
            )
        on_cuda = given.accelerator in ("auto", *cuda) and torch.cuda.is_available()
        # float64 statistics need a CPU or CUDA, so `auto` takes one of these
        accelerator = "cpu" if given.accelerator == "auto" and not on_cuda else given.accelerator
        self.exporter = ExportBestModel(self.folder, self.command)
        callbacks = [
            *(given.callbacks or []),
            self.exporter,
            LearningRateMonitor(),
            *([StepProgress()] if given.enable_progress_bar is not False else []),
        ]
        if (
            any(isinstance(callback, EarlyStopping) for callback in callbacks)
            and given.max_steps == -1
            and given.max_epochs is None
            and given.max_time is None
        ):
            kwargs["max_epochs"] = -1  # Lightning would stop after 1000 epochs
        loggers = [
            CSVLogger(self.folder, name="csv"),
            TensorBoardLogger(self.folder, name="tensorboard"),
        ]
        _check_devices(given.devices, accelerator)
        return super().instantiate_trainer(
            default_root_dir=self.folder,
            accelerator=accelerator,
            precision=given.precision or ("bf16-mixed" if on_cuda else "32-true"),
            callbacks=callbacks,
            logger=loggers,
            num_sanity_val_steps=given.num_sanity_val_steps or 0,
            enable_model_summary=bool(given.enable_model_summary),
            **kwargs,
        )


def _check_times(given: Any) -> None:
    """Refuse texts that are no times, which Lightning would name after its own parts.

    Arguments:
        given: the options of the trainer.

    Raises:
        ValueError: if there is one.
    """
    for option, others in (("max_time", ""), ("val_check_interval", "a number of steps, or ")):
        value = given[option]
        if isinstance(value, str) and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", value):
            raise ValueError(
                f"--trainer.{option} is {value!r}, expected {others}days:hours:minutes:seconds, "
                "such as 00:00:05:00 for five minutes"
            )


def _check_devices(devices: Any, accelerator: str) -> None:
    """Refuse a number of devices that there are not.

    Arguments:
        devices: what was asked for.
        accelerator: cpu, or that of CUDA.

    Raises:
        ValueError: if it is none, or there are fewer.
    """
    number = str(devices)
    on_cpu = accelerator == "cpu"
    if number == "auto" or (not on_cpu and not number.isdigit()):  # of GPUs there may be a list
        return
    found = (os.cpu_count() or 1) if on_cpu else torch.cuda.device_count()
    if not number.isdigit() or not 1 <= int(number) <= found:
        kind = "processes, for this machine has so many cores" if on_cpu else "CUDA devices"
        raise ValueError(
            f"--trainer.devices is {devices!r}, expected auto or a number from 1 to {found}, of "
            f"{kind}"
        )


class _SaveConfig(SaveConfigCallback):
    """Writes the resolved configuration into the folder of the run."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        config = self.config.clone()
        # orders for this run, not for who trains from its file
        for order in ("resume", "force", "init", "compile"):
            config.pop(order)
        nodes = safe_load(self.parser.dump(config, skip_unset=False))
        assert isinstance(pl_module, FlowMatchingModule)
        nodes["model"]["flow"] = describe_model(pl_module.flow, fitted=False)  # no default is open
        write_text(folder / "config.yaml", safe_dump(nodes, sort_keys=False))
