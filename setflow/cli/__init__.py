"""The command line: the roof, the only place that parses, prints and exits.

Help, the version and errors about arguments need neither torch nor what is built on it: the names
of what can be chosen stand in `setflow.cli.arguments`, and what they mean is imported when they are
needed.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from jsonargparse import Namespace
from yaml import YAMLError

import setflow
from setflow.cli.arguments import SOLVERS, parser
from setflow.cli.devices import make_on_devices
from setflow.cli.endings import Ending, Interrupted, held_out, trained_on, unused, warn
from setflow.cli.going_on import going_on
from setflow.files import check_hdf5_name, check_target, has_manifest, require_regular
from setflow.parts import Part
from setflow.shipped import JETS, MODELS, find, known
from setflow.telling import told_as

if TYPE_CHECKING:
    from setflow.divergence import DivergenceEstimator
    from setflow.sets.protocols import Solver

__all__ = ["main"]

_LONGEST = 3000  # characters of an error
_PROBES, _STEPS, _EVENTS = 8, 50, 10_000
_TRAINED = "setflow fit writes one to runs/<name>/model"


def main(argv: Sequence[str] | None = None) -> None:
    """Run `setflow ...`; errors of the user go to standard error and exit with status 2."""
    try:
        try:
            _main(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # who reads the output has ended, as in `setflow doctor | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left to flush
        sys.exit(128 + signal.SIGPIPE)


def _main(arguments: list[str], run: Callable[[list[str]], None] | None = None) -> None:
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: warn(" ".join(str(message).split()))
            (_run if run is None else run)(arguments)
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError, YAMLError) as error:
        _fail(str(error).replace("overwrite=True", "--force"))  # as it is called in Python
    except MemoryError as error:
        _fail(f"the memory of this machine does not suffice: {error or 'an array is too large'}")
    except RuntimeError as error:
        if not _is_of_memory(error):
            raise
        _fail(f"the memory of the device does not suffice: {error}")
    except Interrupted as stop:
        print(f"setflow: {stop}", file=sys.stderr)
        sys.exit(stop.status)
    except KeyboardInterrupt as stop:
        on = f"; go on with: {stop}" if str(stop) else ""
        print(f"setflow: interrupted{on}", file=sys.stderr)
        sys.exit(130)


def _fail(text: str) -> NoReturn:
    """End with an error of one line, which may hold what a stranger has written."""
    sys.stdout.flush()
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 4 :]}"
    shown = "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
    print(f"setflow: error: {shown}", file=sys.stderr)
    sys.exit(2)


def _is_of_memory(error: RuntimeError) -> bool:
    """Return whether torch, which has no class for it on a CPU, has found too little memory."""
    return "OutOfMemory" in type(error).__name__ or "can't allocate memory" in str(error)


def _run(arguments: Sequence[str]) -> None:
    ending = Ending()
    if arguments[:1] == ["fit"] and not {"-h", "--help"} & {*arguments}:
        _fit(arguments[1:], ending)  # Lightning's own parser takes over
    else:
        config = parser().parse_args(arguments)
        given = config[config.command]
        action = given.get("action")
        told = given if action is None else given[action]
        told.given = list(arguments)
        with told_as(told.get("progress", "auto")), going_on(config.command, told, arguments):
            _COMMANDS[config.command](given, ending)


def _make_part(arguments: list[str]) -> None:
    """Be one of several processes of a command: make a part, and say nothing but errors."""
    from setflow.training.signals import Stopped, StopSignals

    def run(arguments: list[str]) -> None:
        config = parser().parse_args(arguments)
        given = config[config.command]
        with StopSignals(), told_as(given.progress):
            _COMMANDS[config.command](given, lambda *_, **__: None)

    try:
        _main(arguments, run)
    except Stopped as stop:
        sys.exit(stop.status)


# --- what is checked before anything heavy is imported ---


def _check_output(path: str, *, force: bool) -> None:
    check_target(check_hdf5_name(path), overwrite=force)


def _check_resumable(out: Path, *, force: bool) -> None:
    """Check an output that may be there already, made by the same command."""
    if out.suffix:
        check_hdf5_name(out)
    if not force and out.exists() and has_manifest(out):
        return
    check_target(out, overwrite=force)


def _jets(given: str) -> Path:
    path = find(JETS, given)
    if path.exists() and not path.is_dir():
        require_regular(path)
    if path.is_file() and path.suffix.lower() not in (".h5", ".hdf5"):
        from setflow.data.formats.recognise import of_bytes, told_of

        if (alien := of_bytes(path)) is not None:
            raise ValueError(told_of(path, *alien))
    if path.is_dir():
        advice = "name one"
        if has_manifest(path) and any(path.glob("*.h5")):
            merge = ["setflow", "dataset", "merge", given, "--out", unused(path.with_suffix(".h5"))]
            advice = f"make one of its files: {shlex.join(map(str, merge))}"
        raise IsADirectoryError(f"{given} is a folder, expected an HDF5 file of events; {advice}")
    check_hdf5_name(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{given} does not exist, expected an HDF5 file of events; {known(JETS, given)}"
        )
    return path


def _model(given: str) -> Path:
    path = find(MODELS, given)
    if path.is_file():
        raise NotADirectoryError(
            f"{given} is a file, expected the folder of a model; {_TRAINED}; {known(MODELS)}"
        )
    if not path.is_dir():
        raise FileNotFoundError(f"no model folder at {given}; {_TRAINED}; {known(MODELS, given)}")
    return path


def _check_numbers(config: Namespace, *names: str) -> None:
    """Check numbers that must be positive, by name, and the seed, which all commands have."""
    for name in names:
        value = config[name]
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}, expected at least 1")
    seed = config.get("seed")
    if seed is not None and not 0 <= seed < 2**63:
        raise ValueError(f"--seed is {seed}, expected a whole number from 0 to 2**63 - 1")


def _check_device(name: str) -> None:
    kind, colon, index = name.partition(":")
    numbered = kind == "cuda" and (index.isdigit() or not colon)
    if name not in ("auto", "cpu") and not numbered:
        raise ValueError(f"--device is {name!r}, expected auto, cpu, cuda or cuda:<number>")


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


def _check_solver(config: Namespace) -> None:
    for name in ("rtol", "atol"):
        value = config[name]
        if value is None:
            continue
        if config.solver != "dopri5":
            raise ValueError(f"{config.solver} has no tolerance --{name}; add --solver dopri5")
        if not 0 < value < float("inf"):
            raise ValueError(f"--{name} is {value:g}, expected a positive number such as 1e-5")


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not name.startswith("cuda"):
        return name
    if not torch.cuda.is_available():
        raise ValueError(f"--device is {name!r}, but torch finds no CUDA device here; use cpu")
    found, index = torch.cuda.device_count(), int(name.partition(":")[2] or 0)
    if index >= found:
        raise ValueError(f"--device is {name!r}, but there are {found}, counted from cuda:0")
    return name


# --- the commands ---


def _fit(arguments: Sequence[str], ending: Ending) -> None:
    from setflow.cli.fit import fit
    from setflow.training.processes import is_first_process

    done = fit(arguments)
    if not is_first_process():  # of several processes the first one says what there is
        return
    if done.warning is not None:
        warn(done.warning)
    sampled = unused(done.model.parent / done.sampled)
    following = ["setflow", "sample", done.model, "--out", sampled]
    following += done.context or ["--events", _EVENTS]
    if done.finished:
        print(f"{done.model} is written already: {done.what}. {done.finished}")
        print(f"next: {shlex.join(map(str, following))}", flush=True)
    else:
        ending(done.model, done.what, done.goes_on or following)
    if done.status:
        sys.exit(done.status)


def _sample(config: Namespace, ending: Callable[..., None]) -> None:
    _check_device(config.device)
    _check_solver(config)
    _check_numbers(config, "events", "steps", "oversample", "devices")
    _check_context(config)
    part = None if config.part is None else Part(*config.part)
    out = Path(config.out) if part is None else part.path(Path(config.out))
    _check_resumable(out, force=config.force)
    like = None if config.like is None else _jets(config.like)
    context = config.condition
    if config.context_from is not None:
        context = _jets(config.context_from)
    model = _model(config.model)
    there = _is_there(out, config)
    from setflow.jobs.sample import sample_to_hdf5
    from setflow.model.compiled import compile_field
    from setflow.schema import words_of
    from setflow.solvers.adaptive import IntegrationError

    flow = setflow.SetFlow.load(model, device=_device(config.device))
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
            solver=_solver(config),
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
    reference = config.like or config.context_from or held_out(model)
    if part is not None:  # the others may not be there yet
        following = ["setflow", "dataset", "check", path]
    elif path.is_dir():
        following = ["setflow", "dataset", "merge", path, "--out", unused(path.with_suffix(".h5"))]
    elif reference is None:
        scores = unused(path.with_stem(f"{path.stem}-scores"))
        following = ["setflow", "score", config.model, path, "--out", scores]
        following += ["--estimator", "hutchinson"]
    else:
        report = unused(path.with_name(f"{path.stem}-report"))
        following = ["setflow", "evaluate", path, reference, "--fast", "--out", report]
        train = None if config.like or config.context_from else trained_on(model)
        if words.event == "jet" and train is not None:
            following[4:4] = ["--train", train]
    what = f"{_events_in(path):,} {words.events}"
    ending(path, what, following, there=there)


def _is_there(out: Path, config: Namespace) -> bool:
    """Return whether an output is there already; let several devices make it if they are to."""
    there = out.exists() and not config.force
    if config.devices > 1 and not there:
        make_on_devices(config, config.given, _make_part)
        config.force = False  # it is there by now, and what follows only looks at it
    return there


def _events_in(path: Path) -> int:
    from setflow.data.header import read_header
    from setflow.data.merging import shards_of

    return sum(read_header(shard).n for shard in shards_of([path]))


def _score(config: Namespace, ending: Callable[..., None]) -> None:
    _check_device(config.device)
    _check_solver(config)
    _check_numbers(config, "events", "steps", "probes", "devices")
    if config.estimator == "exact" and config.probes is not None:
        raise ValueError("an exact divergence has no probes; add --estimator hutchinson")
    part = None if config.part is None else Part(*config.part)
    out = Path(config.out) if part is None else part.path(Path(config.out))
    check_hdf5_name(out)
    _check_resumable(out, force=config.force)
    if Path(config.model).is_file() and find(MODELS, config.data).is_dir():
        raise ValueError(
            f"the model comes before the events: setflow score {config.data} {config.model}"
        )
    data, model = _jets(config.data), _model(config.model)
    there = _is_there(out, config)
    from setflow.jobs.missing import missing_note
    from setflow.jobs.score import score_to_hdf5
    from setflow.jobs.summary import summarize_scores

    path = score_to_hdf5(
        setflow.SetFlow.load(model, device=_device(config.device)),
        data,
        config.out,
        estimator=_estimator(config),
        solver=_solver(config),
        events=config.events,
        condition=config.condition,
        seed=config.seed,
        overwrite=config.force,
        part=part,
    )
    summary, missing = summarize_scores(path), missing_note(path)
    notes = summary.lines() if missing is None else [*summary.lines(), missing]
    look = "import sys, h5py; print(h5py.File(sys.argv[1])['log_prob'][:10])"
    following = f'python -c "{look}" {shlex.quote(str(path))}'
    what = f"log-densities of {summary.rows:,} {summary.words.events}"
    ending(path, what, following, notes=notes, there=there)
    if summary.rows and not summary.scored:
        print(f"setflow: none of the rows of {data} could be scored", file=sys.stderr)
        sys.exit(1)


def _estimator(config: Namespace) -> DivergenceEstimator:
    if config.estimator == "exact":
        return setflow.ExactDivergence()
    probes = _PROBES if config.probes is None else config.probes
    fixed = config.solver in SOLVERS  # then new probes cost nothing and are worth many
    return setflow.HutchinsonDivergence(probes, renew=fixed)


def _solver(config: Namespace) -> Solver:
    if config.solver != "dopri5":
        steps = _STEPS if config.steps is None else config.steps
        solver: Solver = getattr(setflow, SOLVERS[config.solver])(steps=steps)
        return solver
    options: dict[str, Any] = {}
    if config.rtol is not None:
        options |= {"rtol": config.rtol, "atol": config.rtol / 10}
    if config.atol is not None:
        options |= {"atol": config.atol}
    if config.steps is not None:  # two evaluations choose the first step, and each step takes six
        options |= {"max_nfe": 2 + 6 * config.steps}
    return setflow.Dopri5(**options)


def _evaluate(config: Namespace, ending: Ending) -> None:
    _check_device(config.device)
    _check_numbers(config, "events")
    check_target(config.out, overwrite=config.force)
    for given in (config.generated, config.reference, config.train):
        if given is not None:
            _jets(given)
    from rich.console import Console

    from setflow.physics.measures import FAST_MEASURES, MEASURES
    from setflow.report.page import METRICS_FILE, PAGES, evaluate

    report = evaluate(
        config.generated,
        config.reference,
        config.out,
        events=config.events,
        seed=config.seed,
        overwrite=config.force,
        weight=config.weight,
        train=config.train,
        measures=FAST_MEASURES if config.fast else MEASURES,
        protocol=config.protocol,
        require=config.require,
        device=_device(config.device),
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


def _dataset(config: Namespace, ending: Ending) -> None:
    if config.action == "convert":
        from setflow.cli.convert import convert_files

        return convert_files(config.convert, ending)
    if config.action == "merge":
        return _merge(config.merge, ending)
    if config.action == "check":
        from setflow.cli.dataset import check_dataset

        return check_dataset(config.check)
    if config.action == "split":
        from setflow.cli.dataset import split_dataset

        _jets(config.split.file)
        return split_dataset(config.split, ending)
    if config.action == "show":
        from setflow.cli.dataset import show_dataset

        return show_dataset(config.show, ending)
    make = config.make
    _check_numbers(make, "events", "jobs")
    _check_output(make.out, force=make.force)
    from setflow.data.recipes import Recipe, make_dataset

    stores = Recipe.load(make.folder).stores
    try:
        path = make_dataset(
            make.folder,
            events=make.events,
            out=make.out,
            jobs=make.jobs,
            seed=make.seed,
            overwrite=make.force,
        )
    except RuntimeError as error:  # of Pythia, or of cuts that nothing passes
        raise ValueError(str(error)) from error
    named = "top30" if stores == "jets" else "ttbar-events"
    following = ["setflow", "fit", "--config", named, "--data.train", path, "--name", path.stem]
    return ending(path, f"{make.events:,} {stores}", following)


def _merge(config: Namespace, ending: Ending) -> None:
    _check_output(config.out, force=config.force)
    from setflow.data.merging import merge, shards_of

    files = shards_of([Path(given) for given in config.files])
    path = merge(files, Path(config.out), overwrite=config.force, virtual=config.virtual)
    what = f"the events of {len(files)} file{'' if len(files) == 1 else 's'}"
    ending(path, what, ["setflow", "info", path])


def _demo(config: Namespace, ending: Ending) -> None:
    _check_numbers(config, "events")
    from setflow.cli.demo import demo

    model, report = demo(seed=config.seed, steps=config.steps, events=config.events)
    more = unused(model.parent / "more.h5")
    following = ["setflow", "sample", model, "--events", _EVENTS, "--seed", config.seed + 1]
    ending(report, "a report, of the model beside it", [*following, "--out", more])


def _promote(config: Namespace, ending: Ending) -> None:
    target = check_target(config.target, overwrite=config.force)
    run = Path(config.run)
    if not run.is_dir():
        raise FileNotFoundError(f"there is no folder {run}, expected that of a run; {_TRAINED}")
    from setflow.jobs.promote import promote

    promote(run, target, report=config.report, overwrite=config.force)
    ending(target, "a model, its card and its metrics", ["setflow", "info", target])


def _info(config: Namespace, ending: Ending) -> None:
    from setflow.cli.info import info

    info(config.what)


def _doctor(config: Namespace, ending: Ending) -> None:
    from setflow.cli.doctor import doctor

    if doctor():
        sys.exit(1)


_COMMANDS: dict[str, Callable[[Namespace, Any], None]] = {
    "sample": _sample,
    "score": _score,
    "evaluate": _evaluate,
    "dataset": _dataset,
    "demo": _demo,
    "promote": _promote,
    "info": _info,
    "doctor": _doctor,
}
