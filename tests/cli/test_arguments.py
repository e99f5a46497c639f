"""Arguments: help that can be read alone, one word for one thing, errors of one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from each import each
from setflow.cli.arguments import COMMANDS, MAKE, SOLVERS, SPLIT, parser
from setflow.cli.fit_arguments import plain, prepared
from setflow.cli.parsing import whole
from setflow.shipped import CONFIGURATIONS, MODELS, paths

ALL = {**COMMANDS, "dataset make": MAKE, "dataset split": SPLIT}
REQUIRED = {
    "sample": ["m", "--out", "a.h5"],
    "score": ["m", "d.h5", "--out", "a.h5"],
    "evaluate": ["g.h5", "r.h5", "--out", "r"],
    "demo": [],
    "promote": ["runs/m", "models/m"],
    "info": ["a.h5"],
    "doctor": [],
    "dataset make": ["f", "--out", "a.h5"],
    "dataset split": ["f.h5", "--out", "a.h5", "--fractions", "1"],
    "fit": [],
}
ARGUMENTS = [(name, a) for name, command in ALL.items() for a in command.arguments]
COUNTS = [
    (name, word)
    for name, argument in ARGUMENTS
    if argument.metavar == "N" and name != "fit"
    for word in argument.names.split()
]


def parsed(command, *options):
    config = parser().parse_args([*command.split(), *REQUIRED[command], *options])
    config = config[command.split()[0]]
    return config.make if command == "dataset make" else config


def error(*arguments):
    with pytest.raises(ValueError) as caught:
        parser().parse_args(list(arguments))
    message = str(caught.value)
    assert "\n" not in message
    assert "usage: usage" not in message
    return message


@each(("command", "argument"), ARGUMENTS, ids=lambda value: getattr(value, "names", value))
def test_a_help_text_is_a_phrase_that_can_be_read_alone(command, argument):
    text = argument.help
    assert text[0].isupper()
    assert text.endswith(".")
    assert len(text.split()) >= 4
    # it begins with what it is or does, and not with the end of a sentence that the name begins
    assert text.split()[0] in {
        "The", "An", "A", "Overwrite", "Compile", "Start", "Go", "Leave", "Show",
    }  # fmt: skip
    if argument.choices is not None:
        for choice in argument.choices:
            assert choice in text, f"the help does not say what {choice} is"
    elif argument.metavar:
        assert argument.metavar.isupper() or argument.metavar == "DD:HH:MM:SS"


@each("command", sorted(ALL))
def test_the_help_of_a_command_shows_its_arguments_and_no_types_of_python(command, capsys):
    with pytest.raises(SystemExit) as stop:
        parser().parse_args([*command.split(), "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for argument in ALL[command].arguments:
        shown = (
            argument.metavar if not argument.names.startswith("-") else argument.names.split()[0]
        )
        assert shown in text
    for word in ("null", "None", "type:", "[options] ", "(required"):
        assert word not in text.replace("check_val_every_n_epoch: null", ""), word


@each(("command", "option"), COUNTS)
def test_whole_numbers_may_be_written_in_any_notation(command, option):
    more = () if command != "dataset make" or "events" in option else ("--events", "3")
    name = "events" if option == "--jets" else option.lstrip("-").replace("-", "_")
    for text, value in (("1e3", 1000), ("2000", 2000), ("3.0", 3)):
        assert parsed(command, *more, option, text)[name] == value
        assert parsed(command, *more, f"{option}={text}")[name] == value
    for text in ("1.5", "ten", "1e-3", "inf", "nan", ""):
        message = error(*command.split(), *REQUIRED[command], *more, option, text)
        assert f"{text!r} is no whole number" in message


def test_whole_keeps_large_numbers_exact():
    assert whole("9007199254740993") == 9007199254740993


def test_events_is_the_word_for_the_number_of_jets():
    for command in ("sample", "score", "evaluate", "demo", "dataset make"):
        assert parsed(command, "--events", "7").events == 7
    assert parsed("dataset make", "--jets", "7").events == 7


def test_sample_takes_the_solvers_of_score_with_their_options():
    sample, score = (
        {a.names: a for a in COMMANDS[name].arguments if a.names.split("-")[-1] in
         ("solver", "steps", "rtol", "atol")}
        for name in ("sample", "score")
    )  # fmt: skip
    assert sample.keys() == score.keys() == {"--solver", "--steps", "--rtol", "--atol"}
    for name in sample:
        assert sample[name].choices == score[name].choices
    assert sample["--solver"].choices == (*SOLVERS, "dopri5")


@each(
    ("arguments", "expected"),
    [
        ("smaple", "setflow has no command 'smaple', did you mean sample?"),
        ("--verison", "setflow has no option --verison, did you mean --version?"),
        ("sample m --out a.h5 --evnets 3", "has no option --evnets, did you mean --events?"),
        ("sample m --out a.h5 --event 3", "has no option --event, did you mean --events?"),
        ("sample m --out a.h5 --solver rk5", "no --solver called 'rk5', did you mean rk4?"),
        ("sample m --out a.h5 --rtol x", "'x' is no number, expected one such as 1e-5"),
        ("sample m --out a.h5 --guidance nan", "'nan' cannot be read at 'nan', expected a number"),
        ("sample m --out a.h5 --guidance inf", "'inf' cannot be read at 'inf', expected a number"),
        ("sample m --out a.h5 --guidance top:nan", "cannot be read at 'top:nan'"),
        ("sample m --out a.h5 --guidance top=2", "or NAME:NUMBER,... such as top:2,gluon:1.5"),
        ("sample m --out a.h5 --guidance 2:top", "'2:top' cannot be read at '2:top', expected a n"),
        ("sample m --out a.h5 --guidance 2,3", "'2,3' cannot be read at '2', expected a number"),
        ("sample m x --out a.h5", "sample does not know what to do with 'x'"),
        ("sample m --out", "--out: expected a value"),
        ("sample m", "setflow sample needs --out; usage: setflow sample MODEL --out FILE"),
        ("sample", "setflow sample needs MODEL and --out;"),
        ("score m d.h5 --out a.h5 --estimator exat", "'exat', did you mean exact?"),
        ("evaluate g.h5 --out r", "setflow evaluate needs REFERENCE;"),
        ("dataset", "setflow dataset needs an action, one of make"),
        ("dataset mkae", "setflow dataset has no action 'mkae', did you mean make?"),
        ("dataset make", "setflow dataset make needs RECIPE and --events and --out;"),
        ("dataset make f --jbos 2", "dataset make has no option --jbos, did you mean --jobs?"),
        ("info", "setflow info needs WHAT; usage: setflow info WHAT"),
        ("doctor now", "setflow doctor does not know what to do with 'now'"),
        ("demo --stpes 3", "setflow demo has no option --stpes, did you mean --steps?"),
        ("", "needs a command, one of fit, sample, score, evaluate, promote, info, doctor, demo, "),
        ("promote runs/m", "setflow promote needs TARGET; usage: setflow promote RUN TARGET"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_that_names_what_is_nearest(arguments, expected):
    assert expected in error(*arguments.split())


# --- fit, before Lightning's parser ---


@each(
    ("arguments", "expected"),
    [
        ("--confg c.yaml", "setflow fit has no option --confg, did you mean --config?"),
        ("--config c.yaml --nmae x", "setflow fit has no option --nmae, did you mean --name?"),
        ("c.yaml", "fit takes its configuration by name: --config c.yaml"),
        ("--config c.yaml", "there is no configuration c.yaml; "),
        ("--config top3", "there is no configuration top3; the shipped configurations are demo, "),
        ("--config top3", "did you mean top30?"),
        ("--init m --resume", "give one of them"),
        ("--resume --force", "give one of them"),
        ("--resume --name x", "there is no runs/x/config.yaml, so runs/x is nothing to resume"),
        ("--init m", "there is no m/config.yaml, so m is nothing to start from"),
    ],
)
def test_what_fit_refuses_at_once(arguments, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError)) as caught:
        prepared(arguments.split())
    assert expected in str(caught.value)


def test_fit_without_a_configuration_names_those_that_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        prepared([])
    message = str(caught.value)
    assert "the shipped configurations are demo, epic150" in message
    assert "setflow fit --help" in message
    assert "--init MODEL" in message
    for name in ("b", "a"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.yaml").touch()
    with pytest.raises(FileNotFoundError, match=r"models/a/config\.yaml, models/b/config\.yaml"):
        prepared(["--name", "x"])


@each("option", ["--config top30", "--config=top30", "-c models/top30/config.yaml"])
def test_a_shipped_configuration_is_found_by_name(option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = str(paths(CONFIGURATIONS)["top30"])
    assert any(word.endswith(expected) for word in prepared(option.split()))


def test_a_configuration_that_exists_is_meant_whatever_is_shipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "top30").write_text("name: mine")
    assert prepared(["--config", "top30"]) == ["--config", "top30"]


@each(
    ("words", "expected"),
    [
        ("--name x --config c.yaml", "--config c.yaml --name x"),
        ("--name x -c c.yaml --force", "-c c.yaml --name x --force"),
        ("--name=x --config=c.yaml", "--config=c.yaml --name=x"),
        ("--name x -cc.yaml", "-cc.yaml --name x"),
        (
            "--name x -c c.yaml --data.train d.h5 -c e.yaml",
            "-c c.yaml -c e.yaml --name x --data.tr",
        ),
    ],
)
def test_a_configuration_comes_before_the_options_that_overrule_it(
    words, expected, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("c.yaml", "e.yaml"):
        (tmp_path / name).write_text("name: mine")
    assert " ".join(prepared(words.split())).startswith(expected)


def test_a_shipped_model_is_found_by_name_to_start_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = paths(MODELS)["top30"]
    words = prepared(["--init", "top30"])
    assert words[:2] == ["--config", str(folder / "config.yaml")]
    assert words[-2:] == ["--init", str(folder)]


def test_the_configuration_follows_from_the_model_or_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("m", "runs/x"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.yaml").touch()
    assert prepared(["--init", "m"])[:2] == ["--config", "m/config.yaml"]
    resumed = prepared(["--name=x", "--resume"])
    assert resumed[:2] == ["--config", "runs/x/config.yaml"]
    assert "x" in resumed


def test_whole_numbers_of_fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("name: mine")
    (tmp_path / "1e3").touch()
    words = "--config=c.yaml --trainer.max_steps 1e3 --data.batch_size=2.0e1 --name 1e3"
    words += " --trainer.val_check_interval 1.0 --data.train=1e3 --model.warmup 0.1"
    expected = words.replace("steps 1e3", "steps 1000").replace("2.0e1", "20")
    assert prepared(words.split()) == expected.split()
    assert plain({"limit_val_batches": 1.0, "callbacks": [{"decay": 0.9, "n": 1e1}]}) == {
        "limit_val_batches": 1.0,
        "callbacks": [{"decay": 0.9, "n": 10}],
    }
    assert isinstance(plain({"limit_val_batches": 1.0})["limit_val_batches"], float)


LIGHT = [
    "--help", "--version", "sample --help", "fit --help", "doctor --help", "info --help",
    "sample --evnets 3", "smaple", "info nowhere",
]  # fmt: skip


@pytest.mark.parametrize("arguments", LIGHT)
def test_light_commands_answer_at_once(arguments):
    """They import little, which tells more than the clock of a machine that others use."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('modules', *sys.modules, file=sys.stderr))\n"
        "from setflow.cli import main\n"
        f"main({arguments.split()!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    modules = done.stderr.splitlines()[-1].split()[1:]
    assert not {"torch", "numpy", "h5py", "lightning", "matplotlib", "scipy"} & set(modules)
    assert 100 < len(modules) < 400
