"""The arguments of all commands: one table, from which parser, help and errors follow.

A help text is a whole phrase that can be read alone: what the argument is, its unit or form, and
what happens without it. Nothing here needs torch.
"""

from __future__ import annotations

import setflow
from setflow.cli.fit_arguments import FIT
from setflow.cli.parsing import (
    PROGRESS,
    Argument,
    Command,
    Help,
    OneLineErrors,
    conditions,
    decimals,
    integer,
    listed,
    number,
    numbers,
    part_of_run,
    strengths,
)

__all__ = ["COMMANDS", "CONVERT", "FORMATS", "MAKE", "MERGE", "SOLVERS", "parser"]

SOLVERS = {"euler": "Euler", "midpoint": "Midpoint", "heun": "Heun", "rk4": "RK4"}
"""The solvers of fixed steps: their names here, and those of their classes."""

FORMATS: tuple[str, ...] = (
    "jetnet",
    "jetclass",
    "toptag",
    "energyflow",
    "omnilearn",
    "ftag",
    "epic",
    "mpgan",
)
FORMATS += ("lhco", "calo", "npy", "ragged", "custom")
"""The layouts of others that `setflow dataset convert` reads."""

_MODEL = Argument(
    "model",
    "The folder of a trained model, such as runs/top30/model, or the name of a shipped one, top30.",
    "MODEL",
)
_DEVICE = Argument(
    "--device",
    "The device to compute on: cpu, cuda, cuda:<number>, or auto, which takes CUDA if there is "
    "a device and the CPU otherwise.",
    "DEVICE",
    default="auto",
)
_COMPILE = Argument(
    "--compile",
    "Compile the field with torch: about a minute at the beginning, which pays for samples that "
    "take more than some ten minutes.",
)
_FORCE = Argument("--force", "Overwrite an output that exists already.")
_PART = Argument(
    "--part",
    "The part of the events to compute, for jobs side by side: K/M, the part K, from 0, of M, into "
    "a file of its own, such as jets-03-of-10.h5 for --out jets.h5; or slurm, by the number of the "
    "task in its job array. The events are the same whatever the cut; setflow dataset merge puts "
    "the files together.",
    "K/M",
    part_of_run,
)
_DEVICES = integer(
    "--devices",
    "The number of devices to compute on, by a process for each, or of processes on a CPU; the "
    "events are the same whatever it is.",
    default=1,
)


def _out(what: str) -> Argument:
    return Argument(
        "--out",
        f"The HDF5 file to write {what} to; its name ends in .h5 or .hdf5.",
        "FILE",
        required=True,
    )


def _solver(default: str) -> tuple[Argument, ...]:
    return (
        Argument(
            "--solver",
            "The solver of the differential equation: euler, midpoint, heun and rk4 take steps of "
            "fixed size and have the orders 1, 2, 2 and 4; dopri5 adapts the steps of each event "
            "to a tolerance.",
            choices=(*SOLVERS, "dopri5"),
            default=default,
        ),
        integer(
            "--steps",
            "The number of steps of a solver of fixed steps (50 if it is not given); with dopri5, "
            "the largest number of steps that an event may take.",
        ),
        Argument(
            "--rtol",
            "The relative tolerance of dopri5 (1e-5 if it is not given).",
            "NUMBER",
            number,
        ),
        Argument(
            "--atol",
            "The absolute tolerance of dopri5 (a tenth of the relative one if it is not given).",
            "NUMBER",
            number,
        ),
    )


COMMANDS = {
    "fit": FIT,
    "sample": Command(
        "setflow sample MODEL --out FILE|FOLDER (--events N | --like FILE | --context-from FILE | "
        "--condition VALUES) [options]",
        "Sample events from a trained model into a file.",
        "Sample jets, or events of other objects, from a trained model into an HDF5 file; after a "
        "kill the same command goes on.",
        (
            _MODEL,
            Argument(
                "--out",
                "The HDF5 file to write the events to, whose name ends in .h5 or .hdf5; or, by a "
                "name without an ending, a folder for files of 65,536 events each.",
                "FILE",
                required=True,
            ),
            integer(
                "--events",
                "The number of events to sample; without it, as many as the file of --like or "
                "--context-from holds, or as the numbers of --condition make together.",
            ),
            Argument(
                "--like",
                "An HDF5 file of events that tell the number of objects of each sampled event, and "
                "its context if the model is conditioned; without it, the numbers are drawn from "
                "the model's p(N).",
                "FILE",
            ),
            Argument(
                "--layout",
                "The layout of the file: 1 is that of JetNet, which holds etarel, phirel and ptrel "
                "and is taken for models that make these; 2 holds any features, and the contexts.",
                choices=("1", "2"),
            ),
            Argument(
                "--condition",
                "The context that a conditional model is asked for: values by name for all jets, "
                "pt=900,mass=172 or class=top, or numbers of jets for each value of one of them, "
                "class=top:5000,gluon:5000.",
                "VALUES",
                conditions,
            ),
            Argument(
                "--context-from",
                "An HDF5 file of jets that tell the context of each sampled jet; the numbers of "
                "particles are drawn from the model's p(N) in this context.",
                "FILE",
            ),
            integer(
                "--oversample",
                "The number of jets to sample for each jet of the file of --like or "
                "--context-from: first all for the first one (1 if it is not given).",
            ),
            Argument(
                "--guidance",
                "The strength by which samples follow their context: 1 as the data do, more than 1 "
                "more than that, in twice the time; or a number for each class, top:2,gluon:1.5. "
                "The model has to be trained with drop_context.",
                "STRENGTH",
                strengths,
                default=1.0,
            ),
            *_solver("midpoint"),
            _PART,
            _DEVICES,
            integer("--seed", "The seed of the sample.", default=0),
            _COMPILE,
            _DEVICE,
            PROGRESS,
            _FORCE,
        ),
    ),
    "score": Command(
        "setflow score MODEL DATA --out FILE [options]",
        "Score the events of a file: their log-densities under a trained model.",
        "Write the log-density of every event of a file under a trained model, row for row, into "
        "an HDF5 file; after a kill the same command goes on.",
        (
            _MODEL,
            Argument("data", "The HDF5 file of events to score.", "DATA"),
            _out("the scores"),
            Argument(
                "--estimator",
                "The way in which the divergence of the field is computed: exact, or estimated by "
                "hutchinson from random probes, faster, with a standard error from two probes on.",
                choices=("exact", "hutchinson"),
                default="exact",
            ),
            integer(
                "--probes",
                "The number of probes of the estimator hutchinson (8 if it is not given); they are "
                "drawn anew at every evaluation unless the solver is dopri5.",
            ),
            *_solver("rk4"),
            integer(
                "--events",
                "The number of events to score, the first ones; without it, all of them.",
            ),
            Argument(
                "--condition",
                "The values of conditions of the model that are the same for all jets, by name and "
                "whatever the file says: class=top,pt=900.",
                "VALUES",
                conditions,
            ),
            _PART,
            _DEVICES,
            integer("--seed", "The seed of the probes of the estimator hutchinson.", default=0),
            _DEVICE,
            PROGRESS,
            _FORCE,
        ),
    ),
    "evaluate": Command(
        "setflow evaluate GENERATED REFERENCE --out FOLDER [options]",
        "Compare generated events with true ones: numbers, verdicts, and a page of pictures.",
        "Compare generated jets, or events of other objects, with true ones, say in one line how "
        "good they are, and write numbers with their floor, a page (report.html, report.pdf) and "
        "pictures into a folder. Of jets it trains classifiers and compares jets by the energy "
        "mover's distance, which takes minutes to an hour; see --fast.",
        (
            Argument("generated", "The HDF5 file of generated events.", "GENERATED"),
            Argument(
                "reference",
                "The HDF5 file of true events, which the model has not been trained on, or the "
                "name of a shipped one, pythia-top/heldout.h5.",
                "REFERENCE",
            ),
            Argument("--out", "The folder to write the report to.", "FOLDER", required=True),
            integer(
                "--events",
                "The largest number of events of each file to compare, the first ones; without it, "
                "all of them.",
            ),
            integer(
                "--max-objects",
                "The largest number of objects of an event to compare, the hardest particles of a "
                "jet; without it, as many as both files have room for.",
            ),
            Argument(
                "--weight",
                "The name of the dataset that holds the weights of the jets, such as weight, in "
                "one of the files or both; without it, all jets count equally.",
                "NAME",
            ),
            Argument(
                "--train",
                "The HDF5 file of the jets that the model has been trained on, or the name of a "
                "shipped one: the report then says whether the generated jets are nearer to these "
                "than true ones are, as copies would be.",
                "FILE",
            ),
            Argument(
                "--protocol",
                "The way in which distances of jets are taken: whole, all jets once; or jetnet, "
                "the mean and spread of batches drawn with replacement, as published numbers are.",
                choices=("whole", "jetnet"),
                default="whole",
            ),
            Argument(
                "--fast",
                "Leave out the classifier on particles, coverage and MMD: seconds for 5,000 jets.",
            ),
            Argument(
                "--require",
                "The limits that numbers have to keep, such as w1m<2e-3,auc<0.7, where auc is the "
                "largest one: the exit status is 1 if one is not kept.",
                "LIMITS",
            ),
            integer(
                "--seed",
                "The seed of the parts of the reference that make the floor, and of the controls.",
                default=0,
            ),
            _DEVICE,
            _FORCE,
        ),
    ),
    "promote": Command(
        "setflow promote RUN TARGET [options]",
        "Copy the model of a run, with how good it is, into a folder to share.",
        "Copy the model of a run into a folder to share, with the numbers of setflow evaluate on "
        "its card and beside it. It is refused unless the card tells training and limits, the "
        "manifest tells the training data by their hashes, and a report compares events of these "
        "weights with others than those of the training.",
        (
            Argument("run", "The folder of a run, such as runs/top30, or of a model.", "RUN"),
            Argument("target", "The folder to write, such as models/top30.", "TARGET"),
            Argument(
                "--report",
                "The folder that setflow evaluate has written; without it, the one in the folder "
                "of the run whose events were made by these weights.",
                "FOLDER",
            ),
            _FORCE,
        ),
    ),
    "info": Command(
        "setflow info WHAT",
        "Say what a file or a model is, where it came from, and what to do next.",
        "Say on one screen what a file of events or of scores, a model, a run, a configuration, a "
        "recipe or a report is, where it came from, and what to do next.",
        (
            Argument(
                "what",
                "The file or folder to look at, or the name of something that is shipped, such as "
                "top30 or pythia-top/heldout.h5.",
                "WHAT",
            ),
        ),
    ),
    "doctor": Command(
        "setflow doctor",
        "Say what this installation has and lacks, and what mends it.",
        "Say on one screen which versions, devices, kernels of attention, filters of HDF5 and "
        "extras this installation has, and give the command that mends what is missing. The exit "
        "status is 1 if something that is needed is missing, too old or broken.",
        (),
    ),
    "demo": Command(
        "setflow demo [options]",
        "Train, sample, evaluate and draw on the shipped sample of top jets.",
        "Train, sample, evaluate and draw on the shipped sample of top jets; what it makes goes to "
        "the folder runs/demo, and it takes about ten minutes on two cores.",
        (
            integer(
                "--seed", "The seed of the training, the sample and the evaluation.", default=1
            ),
            integer(
                "--steps",
                "The number of training steps; without it, 2,900.",
            ),
            integer("--events", "The number of jets to sample.", default=5000),
        ),
    ),
}

MAKE = Command(
    "setflow dataset make RECIPE --events N --out FILE [options]",
    "Simulate jets or whole events by a recipe.",
    "Simulate true jets or whole events with Pythia 8 and FastJet by a recipe, and write them to "
    "an HDF5 file: jets in the JetNet layout, and events in that of setflow; after a kill the same "
    "command goes on.",
    (
        Argument(
            "folder",
            "The folder of a recipe, or the name of a shipped one, such as pythia-top.",
            "RECIPE",
        ),
        integer("--events --jets", "The number of jets or events to write.", required=True),
        _out("the jets or events"),
        integer(
            "--jobs",
            "The number of processes to simulate with; the file is the same for every number.",
            default=1,
        ),
        integer("--seed", "The seed of the simulation; without it, that of the recipe."),
        PROGRESS,
        _FORCE,
    ),
)

_OF_FORMAT = (
    Argument(
        "--format",
        "The layout of the files; without it they must be such as setflow reads itself. custom "
        "takes a mapping, and npy and ragged the names of columns.",
        choices=FORMATS,
    ),
    Argument(
        "--mapping",
        "A YAML file that says for the format custom where objects, mask, events, class, "
        "weight and units stand.",
        "FILE",
    ),
    Argument(
        "--columns",
        "The names of the columns of an array of the format npy or ragged, in their order and "
        "with commas; _ leaves one out.",
        "NAMES",
        listed,
    ),
    Argument(
        "--mask",
        "The rule that says for the format npy which slots hold an object: nonzero:NAME,... "
        "(at least one of them is not 0), field:NAME (1 or 0), above:NAME:VALUE, count:NAME, "
        "or all.",
        "RULE",
    ),
    Argument(
        "--features",
        "The names of the features of objects to take, with commas; without it, those that the "
        "format has by default.",
        "NAMES",
        listed,
    ),
    Argument(
        "--classes",
        "The names of the classes that the files tell by numbers, in the order of these and "
        "with commas.",
        "NAMES",
        listed,
    ),
    Argument(
        "--voxels",
        "A table of the number, x, y and z of each voxel of the format calo: text, or .npy.",
        "FILE",
    ),
    Argument(
        "--shape",
        "The numbers of layers and of voxels within them of the format calo, with commas, such "
        "as 45,16,9.",
        "NUMBERS",
        numbers,
    ),
)
"""What tells how files of others are read."""

CONVERT = Command(
    "setflow dataset convert FILE... --out FILE [--format F] [options]",
    "Convert files of others, or into those of others.",
    "Convert files of events into one file, block by block: into HDF5 that every command reads, in "
    "the layout of jets where the features are JetNet's; or into ROOT or parquet, by the name of "
    "the file. The same command goes on where it was killed, by the blocks in FILE.part.",
    (
        Argument(
            "files",
            "The files to convert, one after the other: paths, patterns with * in quotes, or "
            "CLASS=PATH, which gives all events of a file the class of this name.",
            "FILE",
            several=True,
        ),
        Argument(
            "--out",
            "The file to write; its name ends in .h5 or .hdf5, .root or .parquet.",
            "FILE",
            required=True,
        ),
        *_OF_FORMAT,
        Argument(
            "--keep-unphysical",
            "Write values that cannot be, such as a ptrel of 0, and count them; without it they "
            "are an error.",
        ),
        Argument(
            "--follow-links",
            "Read what HDF5 files have in other files, by external links or external storage; "
            "without it such files are an error, as they may lead to any file.",
        ),
        PROGRESS,
        _FORCE,
    ),
)

MERGE = Command(
    "setflow dataset merge FILE|FOLDER... --out FILE [options]",
    "Put the files of a run together.",
    "Put the files of a run of setflow sample or setflow score together, those of its parts or of "
    "a folder: all events, each once, in their order, compared with the manifests of the files.",
    (
        Argument(
            "files",
            "The files to put together, in any order, folders of them, or patterns in quotes.",
            "FILE",
            several=True,
        ),
        _out("the events"),
        Argument(
            "--virtual",
            "Copy no events: the file leads to the others, which must stay where they are relative "
            "to it.",
        ),
        _FORCE,
    ),
)


CHECK = Command(
    "setflow dataset check FILE... [--format F] [options]",
    "Say what files hold, and what of it cannot be.",
    "Say what files of events, of samples or of scores hold, each read once, block by block: the "
    "range and the quantiles of each feature, numbers of objects, what is all 0, what stands "
    "twice, in one file or in several. The exit status is 1 if something cannot be, such as NaN, "
    "a mask of 2, or another number of objects than the mask says.",
    (
        Argument(
            "files",
            "The files to look at: paths, or patterns with * in quotes.",
            "FILE",
            several=True,
        ),
        *_OF_FORMAT,
    ),
)


SPLIT = Command(
    "setflow dataset split FILE --out FILE FILE... --fractions NUMBERS [options]",
    "Share the events of a file out among several.",
    "Share the events of a file out among several, such as training and validation, by a hash: "
    "an event goes to the same part wherever it stands, those of one collision together, and keeps "
    "all that the file holds of it.",
    (
        Argument("file", "The HDF5 file of events to share out.", "FILE"),
        Argument(
            "--out",
            "The HDF5 files to write, one for each part; their names end in .h5 or .hdf5.",
            "FILE",
            required=True,
            several=True,
        ),
        Argument(
            "--fractions",
            "The fractions of the events that go to each of them, such as 0.9,0.1 or 0.9 0.1; they "
            "sum to 1.",
            "NUMBERS",
            decimals,
            required=True,
            several=True,
        ),
        _FORCE,
    ),
)

SHOW = Command(
    "setflow dataset show FILE --out FIGURE [--format F] [options]",
    "Draw what a file of events holds.",
    "Draw how every feature of the events of a file is spread, with its unit, and their numbers of "
    "objects, into one picture; the file is read once, block by block.",
    (
        Argument("file", "The file of events to draw.", "FILE"),
        Argument(
            "--out",
            "The picture to write; its name ends in .png, .pdf or .svg.",
            "FIGURE",
            required=True,
        ),
        *_OF_FORMAT,
        _FORCE,
    ),
)


ACTIONS = {
    "make": MAKE,
    "convert": CONVERT,
    "merge": MERGE,
    "check": CHECK,
    "split": SPLIT,
    "show": SHOW,
}
"""The actions of `setflow dataset`."""


def parser() -> OneLineErrors:
    """Return the parser of `setflow`."""
    root = OneLineErrors(
        prog="setflow",
        usage="setflow COMMAND ...",
        description="Flow matching for sets of variable size: train, sample and evaluate jets.",
        epilog="setflow COMMAND --help explains a command and its arguments.",
        version=setflow.__version__,
        formatter_class=Help,
        allow_abbrev=False,
    )
    commands = root.add_subcommands(dest="command", metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        commands.add_subcommand(name, _parser_of(command), help=command.summary)
    dataset = OneLineErrors(
        usage="setflow dataset ACTION ...",
        description="Make, convert, look at and share out data sets.",
    )
    commands.add_subcommand(
        "dataset", dataset, help="Make, convert, look at and share out data sets."
    )
    actions = dataset.add_subcommands(dest="action", metavar="ACTION", title="actions")
    for name, command in ACTIONS.items():
        actions.add_subcommand(name, _parser_of(command), help=command.summary)
    return root


def _parser_of(command: Command) -> OneLineErrors:
    made = OneLineErrors(
        usage=command.usage, description=command.description, epilog=command.epilog or None
    )
    for argument in command.arguments:
        argument.add_to(made)
    return made
