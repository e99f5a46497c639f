"""The command line of `fit`: what its help shows, and what is settled before Lightning's parser.

What that parser cannot know is settled here: where the configuration comes from if none is named,
and that 1e3 is a whole number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from yaml import YAMLError, safe_load

from setflow.cli.parsing import (
    PROGRESS,
    Argument,
    Command,
    integer,
    listed,
    nearest_option,
    number,
)
from setflow.files import read_bounded
from setflow.shipped import CONFIGURATIONS, MODELS, find, known, paths

__all__ = ["FIT", "FIT_ONLY", "plain", "prepared"]

FIT_ONLY = (
    Argument(
        "--name",
        "The name of the run; all that it writes goes to the folder runs/<name>.",
        "NAME",
        default="run",
    ),
    Argument(
        "--init",
        "The folder of a trained model to start from, or the name of a shipped one: its weights, "
        "p(N) and scaling are kept. Its architecture must be that of the configuration, which "
        "without --config is its own.",
        "MODEL",
    ),
    Argument(
        "--resume",
        "Go on from the last checkpoint of the run. Without the option, or with auto, a run that "
        "has none is started; only, or the option without a value, refuses to start. It goes on "
        "with the settings and data that it was begun with, but max_steps, max_epochs and max_time "
        "may be raised.",
        choices=("auto", "only"),
        default="auto",
        bare="only",
    ),
    Argument(
        "--compile",
        "Compile the field with torch: about a minute at the beginning, for steps that are a tenth "
        "faster on a CPU.",
    ),
    integer(
        "--status-on-time",
        "The exit status where --trainer.max_time ends the training; without it, 85 if a number of "
        "steps was asked for, for the same command goes on, else 0.",
    ),
    PROGRESS,
    Argument(
        "--accept",
        "The names of what is not refused of the data, with commas: zeros, real objects that are "
        "all 0; ptrel, one that sums to more than 1.5; counts, numbers that are not those of the "
        "mask; same, training events among the validation.",
        "NAMES",
        listed,
    ),
    Argument("--force", "Start a run that exists already anew."),
)
"""The options of `fit` that are not those of Lightning or of the parts of a training."""

_CONFIGURATION = """\
A small configuration, for a file top.h5 of jets:

  name: small
  model:
    flow:
      class_path: setflow.SetFlow
      init_args:
        field:
          class_path: setflow.TransformerField
          init_args: {dim: 3, hidden: 64, layers: 4, heads: 2}
        schema: jetnet
        cardinality:
          class_path: setflow.EmpiricalCardinality
          init_args: {max_objects: 30}
  data: {train: top.h5, max_objects: 30, batch_size: 128}
  trainer:
    max_steps: 3000
    max_epochs: -1
    check_val_every_n_epoch: null
    val_check_interval: 500
    gradient_clip_val: 1.0
"""

_FIT = (
    Argument(
        "--config -c",
        "The configuration to train, a YAML file or the name of a shipped one such as top30; what "
        "stands in it can also be given here, and what is given here counts.",
        "FILE",
    ),
    *FIT_ONLY,
    integer(
        "--seed_everything",
        "The seed of the training: of the first weights, the noise and the times.",
        default=0,
    ),
    Argument(
        "--data.train",
        "The HDF5 file of jets to train on, or the name of a shipped one such as "
        "pythia-top/train.h5; several as a list, [a.h5, b.h5], a pattern, 'g/*.h5', or a folder; "
        "some rows, 'a.h5[0:50000]'; or those of each class, {top: [a.h5, b.h5], gluon: "
        "g/*.h5}.",
        "FILE",
    ),
    Argument(
        "--data.val",
        "The HDF5 file of jets to validate on, or several as for --data.train; without it, a part "
        "of the training jets is held out.",
        "FILE",
    ),
    Argument(
        "--data.val_fraction",
        "The fraction of the training jets that is held out without --data.val.",
        "NUMBER",
        number,
        default=0.1,
    ),
    Argument(
        "--data.select",
        "The jets that are taken, for training and validation, by their features, such as "
        "'pt > 500 and abs(eta) < 2'; without it, all.",
        "CONDITIONS",
    ),
    Argument(
        "--data.format",
        "The format of these files, if it is another one, such as jetclass, or a node with its "
        "name and what dataset convert takes; they are converted once, into the user's cache.",
        "FORMAT",
    ),
    Argument(
        "--data.in_memory",
        "The way in which jets are held: true, all in memory; false, a part at a time; without it, "
        "in memory if their particles take up to 64 MiB.",
        "BOOL",
    ),
    integer(
        "--data.workers",
        "The number of processes that read ahead where jets are not held in memory.",
        default=0,
    ),
    integer(
        "--data.batch_size", "The number of jets in a step, which processes share.", default=256
    ),
    integer(
        "--data.max_objects",
        "The largest number of particles of a jet that is kept, the hardest ones.",
        default=150,
    ),
    Argument(
        "--data.weight",
        "The name of the dataset that holds the weights of the jets; without it, all count "
        "equally.",
        "NAME",
    ),
    Argument(
        "--model.flow.init_args.field.init_args.hidden",
        "The width of the field; every argument of a part of the model can be given like this.",
        "N",
    ),
    Argument(
        "--model.optimizer.init_args.lr",
        "The largest learning rate of the schedule.",
        "NUMBER",
    ),
    Argument(
        "--model.warmup",
        "The fraction of the training in which the learning rate rises.",
        "NUMBER",
        number,
        default=0.05,
    ),
    integer(
        "--trainer.max_steps",
        "The number of steps after which the training ends; -1 for no bound.",
        default=-1,
    ),
    integer(
        "--trainer.max_epochs",
        "The number of passes over the training jets after which the training ends; -1 for no "
        "bound.",
    ),
    Argument(
        "--trainer.max_time",
        "The time after which the training ends, as days:hours:minutes:seconds; of all calls "
        "together, or of each call where a number of steps or epochs is given.",
        "DD:HH:MM:SS",
    ),
    Argument(
        "--trainer.val_check_interval",
        "The number of steps between two validations, or as a fraction, that of an epoch; the best "
        "weights of these are exported.",
        "NUMBER",
    ),
    Argument(
        "--trainer.accelerator",
        "The device to train on: cpu, cuda, or auto, CUDA if there is one.",
        "DEVICE",
        default="auto",
    ),
    Argument("--help-all", "Show all options, those of Lightning among them, and exit."),
)


FIT = Command(
    "setflow fit (--config FILE | --init MODEL | --name RUN) [options]",
    "Train a model from a configuration file.",
    "Train a model and export its best weights as the folder runs/<name>/model.",
    _FIT,
    _CONFIGURATION,
)
"""The command `fit` for its help; what it takes besides is Lightning's."""

_NUMBER = re.compile(r"\d[\d_]*(\.\d*)?([eE]\+?\d+)?")
_FRACTION = re.compile(r"val_check_interval|limit_\w+_batches|overfit_batches")
_CONFIGURED = ("-c", "--config")
_DATA_TEXTS = ("--data.train", "--data.val", "--data.weight", "--data.select")
_TEXTS = ("-c", "--config", "--name", "--init", *_DATA_TEXTS)


def plain(value: Any, key: str = "") -> Any:
    """Return what was read with whole numbers as integers, those of nested values too.

    Where a fraction of an epoch may stand for a number of batches, 1.0 remains one.

    Arguments:
        value: a mapping, a list or a leaf.
        key: the name under which it stands.

    >>> plain({"max_steps": 1e3, "val_check_interval": 1.0, "lr": 1.5})
    {'max_steps': 1000, 'val_check_interval': 1.0, 'lr': 1.5}
    """
    if isinstance(value, dict):
        return {name: plain(each, str(name)) for name, each in value.items()}
    if isinstance(value, list):
        return [plain(each, key) for each in value]
    if not isinstance(value, float) or not value.is_integer():
        return value
    return value if _FRACTION.search(key) and value <= 1 else int(value)


def prepared(argv: Sequence[str]) -> list[str]:
    """Return the arguments of `fit` as Lightning's parser takes them.

    Raises:
        FileNotFoundError: if no configuration is named, and none follows from another argument.
        ValueError: if an option does not exist, or a run is to be resumed and begun at once.
    """
    arguments = ["--help" if word == "--help-all" else word for word in _numbers(argv)]
    if "--help" in arguments or any(word.startswith("--print_config") for word in arguments):
        return arguments
    _check_options(arguments)
    arguments = _configurations_first(_resolved(arguments))
    resume = _resumes_only(arguments)
    init, name = _value(arguments, "--init"), _value(arguments, "--name") or "run"
    if resume and init is not None:
        raise ValueError(
            "--resume goes on from the weights of the run and --init starts from those of a model; "
            "give one of them"
        )
    if resume and "--force" in arguments:
        raise ValueError(
            "--resume goes on with what the run has left and --force overwrites it; give one of "
            "them"
        )
    named = _value(arguments, "--config") or _value(arguments, "-c")
    if named is not None:
        _check_configuration(named)
    if named is not None or any(re.match(r"-c.|--model\.flow$", word) for word in arguments):
        return arguments
    if files := [word for word in arguments if re.fullmatch(r"[^-].*\.ya?ml", word)]:
        raise ValueError(f"fit takes its configuration by name: --config {files[0]}")
    if arguments and arguments[0] in paths(CONFIGURATIONS):
        raise ValueError(f"fit takes its configuration by name: --config {arguments[0]}")
    folder = Path(init) if init is not None else Path("runs") / name
    config = folder / "config.yaml"
    anew = not resume and ("--force" in arguments or not config.is_file())
    if init is None and anew:
        raise FileNotFoundError(
            f"fit needs a configuration, --config FILE; {_known_configurations()}"
        )
    if not config.is_file():
        what = "to start from" if init is not None else "to resume"
        raise FileNotFoundError(
            f"there is no {config}, so {folder} is nothing {what}; give the folder of a model, or "
            f"the name of a run that has begun; {known(MODELS, init)}"
        )
    return ["--config", str(config), "--name", name, *arguments]


def _resumes_only(arguments: Sequence[str]) -> bool:
    """Return whether a run is to go on, and not to start.

    >>> _resumes_only(["--resume", "--name", "x"]), _resumes_only(["--resume", "auto"])
    (True, False)
    """
    given = _value(arguments, "--resume")
    return given is not None and given != "auto"


def _configurations_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the configurations in front, for of two values the later counts.

    >>> _configurations_first(["--name", "a", "--config", "b.yaml", "--force"])
    ['--config', 'b.yaml', '--name', 'a', '--force']
    """
    first: list[str] = []
    others: list[str] = []
    before = ""
    for word in arguments:
        named = before in _CONFIGURED or re.match(r"--config=|--config$|-c", word)
        (first if named else others).append(word)
        before = word
    return [*first, *others]


def _check_configuration(named: str) -> None:
    """Say at once that a configuration does not exist, or is none.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, no text, or no YAML that names settings.
    """
    if not Path(named).is_file():
        inside = Path(named, "config.yaml")
        other = f"did you mean --config {inside}?" if inside.is_file() else None
        raise FileNotFoundError(
            f"there is no configuration {named}; {other or _known_configurations(named)}"
        )
    copied = "expected YAML such as the configuration that ends setflow fit --help"
    try:
        text = read_bounded(Path(named)).decode().strip()
    except UnicodeDecodeError:
        raise ValueError(f"{named} is no configuration, for it holds no text; {copied}") from None
    try:
        read = safe_load(text)
    except YAMLError as error:
        why = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise ValueError(f"{named} cannot be read as YAML: {why}; {copied}") from None
    if text and not isinstance(read, dict):
        raise ValueError(f"{named} is no configuration, for it names no settings; {copied}")
    if not text:
        raise ValueError(f"the configuration {named} is empty; {copied}")


def _numbers(argv: Sequence[str]) -> list[str]:
    """Return the arguments with whole numbers in digits, but for what is a text."""
    arguments, before = [], ""
    for word in argv:
        option, equals, value = word.rpartition("=")
        if _NUMBER.fullmatch(value) and (option or before) not in _TEXTS:
            whole = plain(float(value), option or before)
            if isinstance(whole, int):
                word = f"{option}{equals}{whole}"
        arguments.append(word)
        before = word
    return arguments


def _value(arguments: Sequence[str], option: str) -> str | None:
    """Return the last value of an option."""
    found = None
    for word, following in pairwise([*arguments, ""]):
        if word == option:
            found = following
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found


def _check_options(arguments: Sequence[str]) -> None:
    """Say at once that an option does not exist, but for those that only Lightning's parser knows.

    Raises:
        ValueError: if there is one that nobody knows.
    """
    options = ["--print_config", *(name for argument in _FIT for name in argument.names.split())]
    for word in arguments:
        option = word.partition("=")[0]
        inner = re.match(r"--(data|model|trainer)(\.|$)", option)
        if option.startswith("--") and option not in options and not inner:
            raise ValueError(
                f"setflow fit has no option {option}{nearest_option(option, options)}; "
                "setflow fit --help explains its arguments"
            )


def _resolved(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the paths of what is shipped instead of its names."""
    kinds = {"--config": CONFIGURATIONS, "-c": CONFIGURATIONS, "--init": MODELS}
    resolved, before = [], ""
    for word in arguments:
        option, equals, value = word.partition("=")
        if before in kinds:
            word = str(find(kinds[before], word))
        elif equals and option in kinds:
            word = f"{option}={find(kinds[option], value)}"
        resolved.append(word)
        before = word
    return resolved


def _known_configurations(named: str | None = None) -> str:
    here = sorted(map(str, Path("models").glob("*/config.yaml")))
    there = known(CONFIGURATIONS, named)
    return (f"here are {', '.join(here)}; " if here else "") + (
        f"{there}; or write one, setflow fit --help ends with a small one to copy; or start from "
        "a trained model with --init MODEL"
    )
