"""The parts of a training from a command line: LightningCLI with the allowed classes.

It settles what Lightning leaves to its caller: where a run writes, which classes a configuration
may name, and whether the run starts or goes on.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Sequence
from pathlib import Path
from pydoc import locate
from typing import Any, NoReturn

import torch
from jsonargparse import get_loader, set_loader, set_parsing_settings
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from yaml import YAMLError, safe_load

from setflow.cli.fit_arguments import FIT_ONLY, plain
from setflow.cli.parsing import OneLineErrors, nearest
from setflow.cli.resuming import CONFIG, find_run
from setflow.files import dump_yaml, require_single_keys, shortened, write_text
from setflow.model.folder import CLASSES, describe_model
from setflow.schema import Positive
from setflow.training.checkpoints import Checkpoint, asked_for_steps
from setflow.training.conditions import complete
from setflow.training.data import SetDataModule
from setflow.training.export import ExportBestModel
from setflow.training.foreign import readable
from setflow.training.module import FlowMatchingModule
from setflow.training.processes import launched
from setflow.training.progress import StepProgress
from setflow.training.signals import StopSignals

__all__ = ["ALLOWED_CLASSES", "FitCLI", "built"]

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


def built(argv: Sequence[str], command: str, signals: StopSignals) -> FitCLI:
    """Return the parsed command line and the parts of the training that it describes."""
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=["setflow", *ALLOWED_CLASSES, *map(_home, ALLOWED_CLASSES)],
    )
    set_loader("plain", _read_yaml, (YAMLError,))
    return FitCLI(
        FlowMatchingModule,
        SetDataModule,
        command=command,
        signals=signals,
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


class FitCLI(LightningCLI):
    exporter: ExportBestModel

    found: Checkpoint | None = None

    def __init__(self, *args: Any, command: str, signals: StopSignals, **kwargs: Any) -> None:
        self.command, self.signals = command, signals  # before the parts are built: at once
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
    def steps_asked(self) -> bool:
        """Whether the number of steps is given, and not left open."""
        return asked_for_steps(self.trainer)

    def nodes(self) -> dict[str, Any]:
        """Return the resolved configuration, without the orders for this call."""
        return _resolved(self.parser, self.config, self.model)

    def before_instantiate_classes(self) -> None:
        name, config = str(self.config.name), self.config
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise ValueError(
                f"the run is named {shortened(name)}, expected letters, digits and . + - _: a "
                "name, no path"
            )
        if config.resume == "only" and config.force:
            raise ValueError(
                "resume: only goes on with what the run has left and force overwrites it; give one "
                "of them"
            )
        status = config.status_on_time
        if status is not None and not 0 <= status < 256:
            raise ValueError(f"--status-on-time is {status}, expected a number from 0 to 255")
        files = readable(config.data.train, config.data.format)
        complete(config.model.flow.init_args, files)
        self.found = find_run(self.folder, resume=config.resume, force=config.force)

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
        init = None if self.config_init.init is None else str(self.config_init.init)
        self.exporter = ExportBestModel(self.folder, self.command, self.signals, init)
        for callback in given.callbacks or []:
            if isinstance(callback, EarlyStopping) and callback._check_on_train_epoch_end is None:
                # at the end of an epoch it would look for a loss that no checkpoint holds
                callback._check_on_train_epoch_end = False
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
        if (processes := launched()) is None:
            _check_devices(given.devices, accelerator)
        elif given.devices == "auto":  # whoever has started them has said how many
            kwargs["devices"], kwargs["num_nodes"] = processes
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
    """Refuse texts that are no times, and steps that are none, which Lightning would name its way.

    Arguments:
        given: the options of the trainer.

    Raises:
        ValueError: if there is one.
    """
    for option in ("max_steps", "max_epochs"):
        value = given[option]
        if isinstance(value, int) and value < -1:
            raise ValueError(
                f"--trainer.{option} is {value}, expected a whole number of at least 0, or -1 for "
                "no limit"
            )
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
        nodes = _resolved(self.parser, self.config, pl_module)
        write_text(folder / CONFIG, dump_yaml(nodes))


def _resolved(parser: Any, config: Any, module: LightningModule) -> dict[str, Any]:
    """Return a configuration as plain nodes, without orders for one call and open defaults."""
    config = config.clone()
    for order in ("resume", "force", "init", "compile", "status_on_time", "accept", "progress"):
        config.pop(order)
    nodes: dict[str, Any] = safe_load(parser.dump(config, skip_unset=False))
    assert isinstance(module, FlowMatchingModule)
    nodes["model"]["flow"] = describe_model(module.flow, fitted=False)
    return nodes
