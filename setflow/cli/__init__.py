"""The command line: the roof, the only place that parses, prints and exits.

Help, the version and errors about arguments need neither torch nor what is built on it: here stand
the names of what can be chosen, and what they mean is imported when a command runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from yaml import YAMLError

import setflow
from setflow.files import check_target

if TYPE_CHECKING:
    from setflow.divergence import DivergenceEstimator
    from setflow.sets.protocols import Solver

__all__ = ["main"]

_SOLVERS = {"euler": "Euler", "midpoint": "Midpoint", "heun": "Heun", "rk4": "RK4"}
_PROBES, _STEPS = 8, 50


def main(argv: Sequence[str] | None = None) -> None:
    """Run `setflow ...`; errors of the user go to standard error and exit with status 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["fit"]:  # Lightning's own parser takes over
            from setflow.cli.fit import fit

            print(fit(arguments[1:]))
        else:
            config = _parser().parse_args(arguments)
            _COMMANDS[config.command](config[config.command])
    except (ValueError, OSError, ImportError, YAMLError) as error:
        sys.stdout.flush()
        print(f"setflow: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("setflow: interrupted", file=sys.stderr)
        sys.exit(130)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="setflow",
        description="Flow matching for sets of variable size: train, sample and evaluate jets.",
        version=setflow.__version__,
    )
    commands = parser.add_subcommands(dest="command", metavar="COMMAND")
    fit = ArgumentParser(description="Train a model; setflow fit --help lists the options.")
    commands.add_subcommand("fit", fit, help="train a model from a configuration file")

    sample = ArgumentParser(description="Sample jets from a model folder into an HDF5 file.")
    sample.add_argument("model", help="the model folder")
    sample.add_argument("--out", required=True, help="the file to write")
    sample.add_argument("--events", type=int, help="how many jets; default: as many as --like has")
    sample.add_argument(
        "--like", help="a file whose jets give the number of particles (default: the model's p(N))"
    )
    sample.add_argument("--solver", default="midpoint", choices=tuple(_SOLVERS))
    sample.add_argument("--steps", type=int, default=_STEPS, help="the number of solver steps")
    sample.add_argument("--seed", type=int, default=0)
    _add_device(sample)
    _add_force(sample)
    commands.add_subcommand("sample", sample, help="sample jets into a file")

    score = ArgumentParser(description="Score jets: their log-densities, row for row, as HDF5.")
    score.add_argument("model", help="the model folder")
    score.add_argument("data", help="the file of jets")
    score.add_argument("--out", required=True, help="the file to write")
    score.add_argument(
        "--estimator",
        default="exact",
        choices=("exact", "hutchinson"),
        help="of the divergence; hutchinson comes with a standard error",
    )
    score.add_argument(
        "--probes",
        type=int,
        help="of hutchinson (default: 8); new at every evaluation unless the solver is dopri5",
    )
    score.add_argument("--solver", default="rk4", choices=(*_SOLVERS, "dopri5"))
    score.add_argument(
        "--steps",
        type=int,
        help="the number of solver steps (default: 50); of dopri5 the most that a jet may take",
    )
    score.add_argument(
        "--rtol", type=float, help="tolerance of dopri5 (default: 1e-5); atol is a tenth of it"
    )
    score.add_argument("--events", type=int, help="score the first jets only; default: all")
    score.add_argument("--seed", type=int, default=0, help="of the probes")
    _add_device(score)
    _add_force(score)
    commands.add_subcommand("score", score, help="score the jets of a file")

    evaluate = ArgumentParser(description="Compare generated jets with reference jets.")
    evaluate.add_argument("generated", help="the file of generated jets")
    evaluate.add_argument("reference", help="the file of true jets that the model has not seen")
    evaluate.add_argument("--out", required=True, help="the folder of the report")
    evaluate.add_argument("--events", type=int, help="compare at most this many jets of each file")
    evaluate.add_argument("--seed", type=int, default=0, help="of the floor and the controls")
    _add_force(evaluate)
    commands.add_subcommand("evaluate", evaluate, help="compare generated with true jets")

    make = ArgumentParser(description="Generate true jets with Pythia 8 and FastJet.")
    make.add_argument("folder", help="the folder of the recipe, such as datasets/pythia-top")
    make.add_argument("--jets", type=int, required=True, help="how many jets")
    make.add_argument("--out", required=True, help="the file to write")
    make.add_argument("--jobs", type=int, default=1, help="processes; they do not change the file")
    make.add_argument("--seed", type=int, help="default: the seed of the recipe")
    _add_force(make)
    dataset = ArgumentParser(description="Data sets.")
    commands.add_subcommand("dataset", dataset, help="make data sets from recipes")
    actions = dataset.add_subcommands(dest="action", metavar="ACTION")
    actions.add_subcommand("make", make, help="generate jets from a recipe")

    demo = ArgumentParser(
        description="Train, sample, evaluate and plot on the shipped sample (about six minutes)."
    )
    demo.add_argument("--seed", type=int, default=1)
    demo.add_argument("--steps", type=int, help="training steps; default: those of the recipe")
    demo.add_argument("--events", type=int, default=5000, help="how many jets to sample")
    commands.add_subcommand("demo", demo, help="all of it on the shipped sample")
    return parser


def _add_device(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, or auto (cuda if there is one)"
    )


def _add_force(parser: ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="overwrite an output that exists")


def _solver(name: str, steps: int) -> Solver:
    solver: Solver = getattr(setflow, _SOLVERS[name])(steps=steps)
    return solver


def _check_device(name: str) -> None:
    if name != "auto" and name.split(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"--device is {name!r}, expected auto, cpu, cuda or cuda:<number>")


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device is {name!r}, but torch finds no CUDA device here; use cpu")
    return name


def _sample(config: Namespace) -> None:
    _check_device(config.device)
    if config.events is None and config.like is None:
        raise ValueError("say how many jets to sample, with --events or with --like")
    check_target(config.out, overwrite=config.force)
    from setflow.jobs.sample import sample_to_hdf5

    path = sample_to_hdf5(
        setflow.SetFlow.load(config.model, device=_device(config.device)),
        config.out,
        events=config.events,
        like=config.like,
        solver=_solver(config.solver, config.steps),
        seed=config.seed,
        overwrite=config.force,
    )
    print(path)


def _score(config: Namespace) -> None:
    _check_device(config.device)
    if config.estimator == "exact" and config.probes is not None:
        raise ValueError("an exact divergence has no probes; add --estimator hutchinson")
    if config.solver != "dopri5" and config.rtol is not None:
        raise ValueError(f"{config.solver} has no tolerance; add --solver dopri5")
    check_target(config.out, overwrite=config.force)
    from setflow.jobs.missing import missing_note
    from setflow.jobs.score import score_to_hdf5

    path = score_to_hdf5(
        setflow.SetFlow.load(config.model, device=_device(config.device)),
        config.data,
        config.out,
        estimator=_estimator(config),
        solver=_score_solver(config),
        events=config.events,
        seed=config.seed,
        overwrite=config.force,
    )
    note = missing_note(path)
    if note is not None:
        print(f"setflow: note: {note}", file=sys.stderr)
    print(path)


def _estimator(config: Namespace) -> DivergenceEstimator:
    if config.estimator == "exact":
        return setflow.ExactDivergence()
    probes = _PROBES if config.probes is None else config.probes
    fixed = config.solver in _SOLVERS  # then new probes cost nothing and are worth many
    return setflow.HutchinsonDivergence(probes, renew=fixed)


def _score_solver(config: Namespace) -> Solver:
    if config.solver != "dopri5":
        return _solver(config.solver, _STEPS if config.steps is None else config.steps)
    # two evaluations choose the first step, and each step takes six
    limit = {} if config.steps is None else {"max_nfe": 2 + 6 * config.steps}
    tolerance = () if config.rtol is None else (config.rtol, config.rtol / 10)
    return setflow.Dopri5(*tolerance, **limit)


def _evaluate(config: Namespace) -> None:
    check_target(config.out, overwrite=config.force)
    from rich.console import Console

    from setflow.report.page import evaluate

    report = evaluate(
        config.generated,
        config.reference,
        config.out,
        events=config.events,
        seed=config.seed,
        overwrite=config.force,
    )
    Console().print(report.table())
    print(config.out)


def _dataset(config: Namespace) -> None:
    make = config.make
    check_target(make.out, overwrite=make.force)
    from setflow.data.recipes import make_dataset

    make_dataset(
        make.folder,
        jets=make.jets,
        out=make.out,
        jobs=make.jobs,
        seed=make.seed,
        overwrite=make.force,
    )
    print(make.out)


def _demo(config: Namespace) -> None:
    from setflow.cli.demo import demo

    demo(seed=config.seed, steps=config.steps, events=config.events)


_COMMANDS = {
    "sample": _sample,
    "score": _score,
    "evaluate": _evaluate,
    "dataset": _dataset,
    "demo": _demo,
}
