"""How a command line is described and read: arguments, numbers, help, and errors of one line.

Nothing here needs torch.
"""

from __future__ import annotations

import argparse
import difflib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from setflow.telling import FORMS

__all__ = [
    "Argument",
    "Command",
    "Help",
    "OneLineErrors",
    "conditions",
    "decimals",
    "integer",
    "listed",
    "nearest",
    "nearest_option",
    "number",
    "numbers",
    "strengths",
    "whole",
]


def number(text: str | float) -> float:
    """Return the number that a text says.

    Raises:
        argparse.ArgumentTypeError: if it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number, expected one such as 1e-5"
        ) from None


def whole(text: str | int) -> int:
    """Return the integer that a text says, in any notation.

    Raises:
        argparse.ArgumentTypeError: if it is none.

    >>> whole("1e3"), whole("2_000"), whole("-4.0")
    (1000, 2000, -4)
    """
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        value = 0.5
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, expected one such as 1000")
    return int(value)


def listed(text: str | list[str]) -> list[str]:
    """Return the names that a text lists with commas.

    >>> listed("etarel, phirel")
    ['etarel', 'phirel']
    """
    return [part.strip() for part in text.split(",")] if isinstance(text, str) else text


def numbers(text: str | list[int]) -> list[int]:
    """Return the whole numbers that a text lists with commas.

    Raises:
        argparse.ArgumentTypeError: if one is none.

    >>> numbers("45,16,9")
    [45, 16, 9]
    """
    return [whole(part) for part in listed(text)] if isinstance(text, str) else text


def decimals(text: str | list[float]) -> list[float]:
    """Return the numbers that a text lists with commas.

    Raises:
        argparse.ArgumentTypeError: if one is none.

    >>> decimals("0.9,0.1")
    [0.9, 0.1]
    """
    return [number(part) for part in listed(text)] if isinstance(text, str) else text


def conditions(text: str | dict[str, Any]) -> dict[str, Any]:
    """Return the values of conditions by name, each a text, or numbers of events by value.

    Raises:
        argparse.ArgumentTypeError: if the text is of another form.

    >>> conditions("pt=900,mass=172")
    {'pt': '900', 'mass': '172'}
    >>> conditions("class=top:5000,gluon:5000,pt=900")
    {'class': {'top': 5000, 'gluon': 5000}, 'pt': '900'}
    """
    if not isinstance(text, str):
        return text
    given: dict[str, Any] = {}
    name, form = "", "expected NAME=VALUE,... or NAME=VALUE:COUNT,VALUE:COUNT,..."
    for piece in text.split(","):
        left, equals, right = piece.partition("=")
        if equals:
            name = left.strip()
            if name in given:
                raise argparse.ArgumentTypeError(f"{text!r} has {name} twice; give it once")
        value, colon, count = (right if equals else left).strip().rpartition(":")
        if not name or not (value or count) or (not equals and not (colon and name in given)):
            raise argparse.ArgumentTypeError(f"{text!r} cannot be read at {piece!r}, {form}")
        if not colon:
            given[name] = count
            continue
        counts = given.setdefault(name, {})
        if not isinstance(counts, dict) or value in counts or not value:
            raise argparse.ArgumentTypeError(f"{text!r} cannot be read at {piece!r}, {form}")
        counts[value.strip()] = whole(count)
    return given


def strengths(text: str | float | dict[str, float]) -> float | dict[str, float]:
    """Return how strongly samples are guided: a number, or one for each name of a category.

    Raises:
        argparse.ArgumentTypeError: if the text is of another form.

    >>> strengths("2"), strengths("top:2.5,gluon:1")
    (2.0, {'top': 2.5, 'gluon': 1.0})
    """
    if not isinstance(text, str):
        return text
    given: dict[str, float] = {}
    for piece in text.split(","):
        name, _, value = (part.strip() for part in piece.rpartition(":"))
        try:
            strength = float(value)
        except ValueError:
            strength = math.nan
        if not math.isfinite(strength) or name in given or (not name and "," in text):
            raise argparse.ArgumentTypeError(
                f"{text!r} cannot be read at {piece!r}, expected a number such as 2, or "
                "NAME:NUMBER,... such as top:2,gluon:1.5"
            )
        given[name] = strength
    return given.get("", given)


def _part_of_slurm(told: Mapping[str, str]) -> tuple[int, int]:
    """Return which process of which task of an array this is, and how many there are in all."""
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "STEP")]
    processes = told.get("SLURM_STEP_NUM_TASKS", "1")  # srun sets it, and a batch script has none
    alone = processes != "1" and names[0] not in told
    given = [told.get(name, "1" if name == names[3] else "0" * alone) for name in names]
    given += [processes, told.get("SLURM_PROCID", "") if processes != "1" else "0"]
    if not all(value.isdigit() for value in given) or int(given[3]) < 1:
        raise argparse.ArgumentTypeError(
            f"slurm asks for {', '.join(names[:3])}, which are set in a job array and not here, "
            "nor has srun started several processes; expected a part such as 3/100"
        )
    task, first, last, step, of, process = map(int, given)
    return (task - first) // step * of + process, ((last - first) // step + 1) * of


def part_of_run(text: str | tuple[int, int]) -> tuple[int, int]:
    """Return which part of a run is meant, from 0, and of how many.

    `slurm` asks the environment of a job array for both, whatever the numbers of its tasks, and of
    the processes that srun has started.

    Raises:
        argparse.ArgumentTypeError: if the text says neither, or there is no such part or array.

    >>> part_of_run("3/100")
    (3, 100)
    """
    if not isinstance(text, str):
        return text
    if text == "slurm":
        return _part_of_slurm(os.environ)
    number, _, of = text.partition("/")
    if not (number.isdigit() and of.isdigit() and int(number) < int(of)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no part of a run, expected K/M with K from 0 to M - 1, such as 3/100, or "
            "slurm"
        )
    return int(number), int(of)


@dataclass(frozen=True)
class Argument:
    """One argument of a command.

    Arguments:
        names: its name, with dashes if it is an option, and then its aliases.
        help: what it is, a whole phrase.
        metavar: what stands for its value in the help; empty for a switch.
        type: makes the value from its text.
        default: the value without it; None if the help says what happens then.
        choices: the values that it may take.
        required: whether the command needs it.
        bare: the value where the option stands without one; None if it needs one.
        several: whether there may be several values of it.
    """

    names: str
    help: str
    metavar: str = ""
    type: Any = str
    default: Any = None
    choices: tuple[str, ...] | None = None
    required: bool = False
    bare: Any = None
    several: bool = False

    def add_to(self, parser: Any) -> None:
        """Add it to a parser."""
        options: dict[str, Any] = {"help": self.help}
        if self.choices is not None:
            options |= {"choices": self.choices, "default": self.default}
            options |= {} if self.bare is None else {"nargs": "?", "const": self.bare}
        elif self.metavar:
            options |= {"metavar": self.metavar, "type": self.type}
        else:
            options |= {"action": "store_true"}
        if self.names.startswith("-"):
            options |= {"required": True} if self.required else {"default": self.default}
        if options.get("action") is not None:
            del options["default"]
        if self.several:
            options["nargs"] = "+"
        parser.add_argument(*self.names.split(), **options)


def integer(names: str, help: str, **options: Any) -> Argument:
    return Argument(names, help, "N", whole, **options)


PROGRESS = Argument(
    "--progress",
    "The form in which progress is told: auto, a bar in a terminal and a line a minute elsewhere; "
    "lines, these lines everywhere; json, each as an object of JSON; none, nothing.",
    choices=FORMS,
    default="auto",
)


@dataclass(frozen=True)
class Command:
    """One command.

    Arguments:
        usage: how it is called.
        summary: what it does, for the list of commands.
        description: what it does, for its own help.
        arguments: what it takes.
        epilog: what stands at the end of its help.
    """

    usage: str
    summary: str
    description: str
    arguments: tuple[Argument, ...]
    epilog: str = ""


class Help(DefaultHelpFormatter):
    """Help without the names of Python's types and values."""

    def __init__(self, prog: str, **options: Any) -> None:
        options = {"max_help_position": 28, **options}
        super().__init__(prog, **options)  # type: ignore[no-untyped-call]

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if isinstance(action, argparse._HelpAction):
            return "Show this help and exit."
        if action.required and action.option_strings:
            return f"{text} Required."
        none = action.default is None or action.default in (True, argparse.SUPPRESS)
        if none or action.default is False or not action.option_strings:
            return text
        return f"{text} Default: %(default)s."

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n  " in text:  # lines that are to be copied
            return text
        return super()._fill_text(text, width, indent)


class OneLineErrors(ArgumentParser):
    """A parser whose errors are one line that names what is nearest to a misspelt word."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        source = getattr(ex, "subcommand_parser", None) or self
        raise ValueError(_explained(source, message))


def of_optional_part(message: str) -> str:
    """Return why a part that may also be missing could not be built, without the choices."""
    reasons = re.search(r"Errors:\s+- (.*?)\s+- Expected a <class '\w+'>", message, re.DOTALL)
    return " ".join(reasons[1].split()) if reasons else message


_UNION = re.compile(
    r"((?:\S+: )*)(?:- Expected a path .*? - )?Does not validate against any of the Union subtypes "
    r"Subtypes: \[(.*?)\] Errors: (.*) Given value type: .*? Given value: (.*)"
)
_NO_CLASS = re.compile(
    r"((?:\S+: )*)- Expected a path but (.*) either not accessible .* dot import path string: \2"
)

_CLASSES = {
    "flow": "setflow.SetFlow",
    "field": "setflow.TransformerField",
    "cardinality": "setflow.EmpiricalCardinality",
    "path": "setflow.CosinePath",
    "scaler": "setflow.data.Standardizer",
    "context_scaler": "setflow.data.Standardizer",
    "times": "setflow.TimeSampling",
    "callbacks": "lightning.pytorch.callbacks.EarlyStopping",
}
"""A class for each part of a configuration, as an example; an optimizer for all others."""
_ANY_CLASS = "a class, by class_path and init_args"


def _class_of(place: str) -> str:
    """Return a class that may stand at a place such as `model.flow: field: `."""
    return _CLASSES.get(re.split(r"[:. ]+", place.rstrip(": "))[-1], "torch.optim.AdamW")


def _explained(source: Any, message: str) -> str:
    """Return an error of a parser as one line, with the next step."""
    name = " ".join(word for word in source.prog.split() if word.isalnum() and word.islower())
    line = " ".join(message.split())
    line = re.sub(r'Parser key "(.*?)":', r"\1:", line)
    line = re.sub(r"Expected a <class '(\w+)'>. Got value: (.*)", _expected, line)
    if found := _UNION.fullmatch(line):
        why = _of_several(*found.group(2, 3, 4))
        place = found[1].removesuffix(": ") + " " if why.startswith("has no") else found[1]
        line = place + why.replace(_ANY_CLASS, f"a class such as {_class_of(found[1])}")
    if found := _NO_CLASS.fullmatch(line):
        line = f"{found[1]}there is no class {found[2]}, expected one such as {_class_of(found[1])}"
    if found := re.search(r"Group '(\w+)' does not accept option '(\w+)'", line):
        near = nearest(f"{found[1]}.{found[2]}", [action.dest for action in source._actions])
        line = f"{found[1]} has no option {found[2]}{near}"
    if found := re.search(r"(?:Option|Key) '(\w+)(\.\S+)?' is not (?:accepted|expected)$", line):
        line += _place_of(found[1], [action.dest for action in source._actions])
    if found := re.search(r"attrgetter\('flow\.(\w+)'\)\(model\) --> data\.\w+", line):
        followed = f"model.flow.init_args.{found[1]}"
        line = (
            f"data.{found[1]} follows the model; leave it out, and say it by --{followed}, or by "
            f"{followed} in the configuration"
        )
    if not name:  # of a part of a configuration: the parser of the whole goes on with it
        return line
    more = f"{name} --help explains its arguments"
    if found := re.search(r"unrecognized arguments: (-\S+)", line):
        option = found[1].partition("=")[0]
        return f"{name} has no option {option}{nearest_option(option, _options(source))}; {more}"
    if found := re.search(r"unrecognized arguments: (.*)", line):
        return f"{name} does not know what to do with {found[1]!r}; {more}"
    if found := re.search(r"argument (\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)", line):
        words = found[3].replace("'", "").split(", ")
        what = {"COMMAND": "command", "ACTION": "action"}.get(found[1], f"{found[1]} called")
        hint = nearest(found[2], words)
        return (
            f"{name} has no {what} {found[2]!r}{hint}; expected one of {', '.join(words)}; {more}"
        )
    if found := re.search(r'expected "(.*?)" to be one of .*, but it was not provided', line):
        return _missing_command(source, found[1].split(".")[:-1])
    if found := re.search(r"arguments are required: (.*)", line):
        return _missing(source, found[1].split(", "))
    line = line.replace("argument -", "-").replace("expected one argument", "expected a value")
    return f"{name}: {line}; {more}"


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "NoneType": "null",
}


def _expected(found: re.Match[str]) -> str:
    return f"expected {_KINDS.get(found[1], found[1])}, got {found[2]}"


def _of_several(kinds: str, errors: str, value: str) -> str:
    """Return what is wrong with a value that may be of several kinds.

    Arguments:
        kinds: their names, as the parser writes them.
        errors: why it is none of each, in their order, each behind a dash.
        value: the value.
    """
    whys = [why for why in re.split(r"(?:^| )- ", errors) if why and not why.startswith("Expected")]
    nested = re.match(r"NestedArg\(key='(\w+)'", value)
    known = [why for why in whys if not nested or nested[1] in why]
    if known:  # of an argument of a part that may also be missing
        return known[0]
    if nested:
        return f"has no argument {nested[1]}"
    names = re.findall(r"<class '(\w+)'>", kinds)
    words = [_KINDS[name] for name in names if name in _KINDS]
    if "float" in names and "int" in names:
        words.remove(_KINDS["int"])
    choices = re.findall(r"Literal\[(.*?)\]", kinds)
    if choices:
        every = dict.fromkeys(", ".join(choices).replace("'", "").split(", "))
        words.insert(0, f"one of {', '.join(every)}")
    if re.search(r"class '(?!torch\.Tensor)\w+\.[\w.]+'", kinds):
        words.append(_ANY_CLASS)
    if "Mapping[" in kinds:
        words.insert(0, "a mapping")
    if "Sequence[" in kinds:
        words.insert(0, "a list")
    return f"expected {' or '.join(words)}, got {value}" if words else f"{value} does not fit"


def _place_of(key: str, known: Sequence[str]) -> str:
    """Return where a key belongs that stands at the top of a configuration, or the nearest key."""
    inner = [name for name in known if name.count(".") == 1 and name.endswith(f".{key}")]
    if inner:
        return f" at the top: it stands under {inner[0].partition('.')[0]}, as {inner[0]}"
    return nearest(key, list({name.split(".")[0] for name in known}))


def _missing(source: Any, keys: Sequence[str]) -> str:
    """Return what to say where arguments are missing, given by their keys in the root parser."""
    *path, _ = keys[0].split(".")
    source = _at(source, path)
    wanted = {key.split(".")[-1] for key in keys} if path else set(keys)
    shown = [
        action.option_strings[0] if action.option_strings else action.metavar
        for action in source._actions
        if action.dest in wanted
    ]
    if not shown:  # of a part of a configuration
        return f"{', '.join(keys)} {'is' if len(keys) == 1 else 'are'} missing"
    return f"{' '.join(['setflow', *path])} needs {' and '.join(shown)}; usage: {source.usage}"


def _missing_command(source: Any, path: Sequence[str]) -> str:
    """Return what to say where a command is missing behind those of a path."""
    source = _at(source, path)
    name, known = " ".join(["setflow", *path]), source._subcommands_action._name_parser_map
    what = "an action" if path else "a command"
    return f"{name} needs {what}, one of {', '.join(known)}; {name} --help explains them"


def _at(source: Any, path: Sequence[str]) -> Any:
    """Return the parser of the command that a path leads to."""
    for name in path if source.prog == "setflow" else ():
        source = source._subcommands_action._name_parser_map[name]
    return source


def nearest(word: str, known: Sequence[str]) -> str:
    """Return `, did you mean X?` for the nearest of the words that are known, or nothing.

    The word itself is none: what is known of it is known elsewhere.
    """
    others = [one for one in known if one != word]
    close = difflib.get_close_matches(word, others, n=1, cutoff=0.6)
    return f", did you mean {close[0]}?" if close else ""


def nearest_option(option: str, known: Sequence[str]) -> str:
    """Return `, did you mean --X?` for the nearest of the options that are known, or nothing.

    >>> nearest_option("--seed", ["--seed_everything", "--send"])
    ', did you mean --seed_everything?'
    >>> nearest_option("--data.trian", ["--data", "--data.train"])
    ', did you mean --data.train?'
    >>> nearest_option("--data.format", ["--data", "--data.val"])
    ''
    """
    leaf = option.lstrip("-")
    longer = [name for name in known if name.endswith(f".{leaf}") or name.startswith(f"{option}_")]
    if longer:
        return f", did you mean {longer[0]}?"
    group, _, leaf = option.rpartition(".")  # a group that is right makes nothing alike
    inside = [name for name in known if group and name.rpartition(".")[0] == group]
    return nearest(leaf, [name.rpartition(".")[2] for name in inside]).replace(
        "mean ", f"mean {group}."
    ) or nearest(option, [name for name in known if name not in (group, *inside)])


def _options(source: Any) -> list[str]:
    return [name for action in source._actions for name in action.option_strings]
