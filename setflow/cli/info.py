"""`setflow info`: what a file or folder is, where it came from, and what to do next.

What it is decides which function describes it; each yields lines of a label and a text, and `next`
is the label of a command.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setflow.cli.checks import UNFINISHED
from setflow.cli.endings import judged_by, labelled
from setflow.cli.parsing import nearest
from setflow.files import (
    file_sha256,
    has_manifest,
    read_bounded,
    require_regular,
    require_single_keys,
)
from setflow.shipped import CONFIGURATIONS, JETS, MODELS, RECIPES, find, known, paths

if TYPE_CHECKING:
    from setflow.model.model import SetFlow

__all__ = ["info"]

Line = tuple[str, str]
_LONG = 400  # characters of an attribute that are shown
_MANY = 8  # folders that are named
_LABEL = 16  # characters of a label


def info(given: str) -> None:
    """Print what something is.

    Raises:
        FileNotFoundError: if there is no such thing.
        OSError, ValueError: if it is none of what setflow reads and writes.
    """
    for label, text in _described(given, _found(given)):
        if label == "next":  # to be copied, in one line
            print(f"next: {text}")
            continue
        print(labelled(label, text, _LABEL))


def _found(given: str) -> Path:
    for kind in (MODELS, JETS, RECIPES, CONFIGURATIONS):
        path = find(kind, given)
        if path.exists():
            return path
    kinds = (MODELS, CONFIGURATIONS, RECIPES, JETS)
    near = nearest(given, [name for kind in kinds for name in paths(kind)])
    names = "; ".join(known(kind) for kind in kinds)
    raise FileNotFoundError(f"there is no file or folder {given}{near}; {names}")


def _described(given: str, path: Path) -> Iterator[Line]:
    if path.is_dir():
        return _folder(given, path)
    if path.name == "recipe.yaml":
        return _recipe(given, path.parent)
    if path.suffix in (".yaml", ".yml"):
        return _configuration(given, path)
    if path.suffix == ".ckpt":
        run = path.parent.parent if path.parent.name == "checkpoints" else Path("runs/NAME")
        raise ValueError(
            f"{given} is a checkpoint, from which setflow fit --resume goes on; the model of its "
            f"run is the folder {run / 'model'}"
        )
    return _hdf5(given, path)


def _folder(given: str, path: Path) -> Iterator[Line]:
    holds = [name for name in _FOLDERS if (path / name).is_file()]
    if has_manifest(path) and any(path.glob("*.h5")):
        return _files(given, path)
    if holds:
        return _FOLDERS[holds[0]](given, path)
    inside = [e for e in sorted(path.iterdir()) if any((e / name).is_file() for name in _FOLDERS)]
    if inside:
        return _several(given, inside)
    names = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
    raise ValueError(
        f"{given} is a folder that holds {names}; expected that of a model, a run, a recipe or a "
        "report"
    )


def _several(given: str, inside: Sequence[Path]) -> Iterator[Line]:
    names = ", ".join(entry.name for entry in inside[:_MANY])
    more = f" and {len(inside) - _MANY} more" if len(inside) > _MANY else ""
    yield "folder", f"{given}, of {len(inside)} that setflow knows: {names}{more}"
    newest = max(inside, key=lambda entry: entry.stat().st_mtime)
    yield "next", f"setflow info {shlex.quote(str(newest))}"


def _files(given: str, path: Path) -> Iterator[Line]:
    """Describe a folder of files that belong to one run of `sample`."""
    from setflow.data.manifest import read_folder

    told = read_folder(path)
    first, stop = told["first"], told["stop"]
    files = sorted(told["files"])
    if not files:  # it stands in the manifest when all are there
        made = sorted(entry.stem for entry in path.glob("[0-9]*.h5"))
        done = sum(int(name.split("-")[1]) - int(name.split("-")[0]) for name in made)
        yield (
            "folder",
            f"{given}, {done:,} of {stop - first:,} events; {UNFINISHED}",
        )
        return
    many = "a file" if len(files) == 1 else f"{len(files)} files"
    yield "folder", f"{given}, the events from {first:,} to {stop:,} of a run, in {many}"
    yield "files", ", ".join(files[:_MANY]) + (" ..." if len(files) > _MANY else "")
    yield "next", f"setflow dataset check {shlex.quote(given)}"


# --- models ---


def _is_of(folder: Path, name: str, sha256: str) -> bool:
    """Return whether a folder holds a file of this name and hash."""
    return name in os.listdir(folder) and file_sha256(folder / name) == sha256


def _model(given: str, path: Path) -> Iterator[Line]:
    from setflow.model.angles import told_of_angles
    from setflow.model.folder import types_of
    from setflow.model.model import SetFlow
    from setflow.schema import Category
    from setflow.sets.protocols import in_short, parts_that_declare
    from setflow.training.record import lines_of

    flow = SetFlow.load(path)
    manifest = json.loads((path / "manifest.json").read_text())
    known = (*flow.schema.objects, *flow.schema.event)
    units = {feature.name: f" [{feature.unit}]" if feature.unit else "" for feature in known}
    parameters = sum(p.numel() for p in flow.field.parameters())
    changed = [name for name, sha256 in manifest["files"].items() if not _is_of(path, name, sha256)]
    told = "its files are those of its manifest"
    if changed:  # never what the model is loaded from, which is verified
        told = f"{', '.join(changed)} differs from its manifest; fetch or promote the model again"
    yield "model", f"{given}, a SetFlow; {told}"
    yield "field", f"{type(flow.field).__name__}, {parameters:,} parameters"
    yield "features", ", ".join(name + units.get(name, "") for name in flow.features)
    if left := [name for name in flow.schema.left_out if name not in flow.features]:
        yield "left out", f"{', '.join(left)}: the model does not make them"
    if flow.types is not None:
        yield "types", types_of(flow)
        for feature in flow.types.types.features:
            if feature.absent:
                yield "absent", f"{feature.name} in {', '.join(feature.absent)}"
    yield from (("angle", f"{angle}, {what}") for angle, what in told_of_angles(flow).items())
    conditions = ", ".join(
        f"{entry.name} ({', '.join(entry.kind.names)})"
        if isinstance(entry.kind, Category)
        else entry.name + (f" [{entry.unit}]" if entry.unit else "")
        for entry in flow.context_features
    )
    yield "conditions", conditions or "none: it needs no context"
    if flow.context_model is not None:
        field = flow.context_model.field
        made = " and ".join(flow.context_model.features)
        yield "made first", f"{made}, by a model of their own, a {in_short(field)}"
    if flow.cardinality is None:
        yield "objects", "no p(N): sampling needs a file that tells the numbers, --like"
    else:
        kind = type(flow.cardinality).__name__
        yield "objects", f"at most {flow.cardinality.max_objects}, their number from {kind}"
    bounded = [flow.features[index] for index in flow.scaler.has_bound]
    if parts_that_declare(flow.field, "samples_only"):
        yield "densities", "none: the field is for samples alone"
    elif bounded:
        smallest = ", ".join(bounded)
        yield "densities", f"leave out what lies below the smallest {smallest} of the training"
    yield "weights", f"sha256 {manifest['files']['weights.safetensors']}"
    training = manifest.get("training")
    lines = _of_card(path) if training is None else lines_of(training)
    for number, line in enumerate(lines or ["not told, neither by the manifest nor by the card"]):
        yield "" if number else "training", line
    yield "sampling", "50 steps of midpoint, 100 evaluations of the field, unless --steps is given"
    yield from _after_model(given, path, flow, training)


def _after_model(
    given: str, path: Path, flow: SetFlow, training: Mapping[str, Any] | None
) -> Iterator[Line]:
    """Yield the commands to sample from a model, and to judge the sample."""
    from setflow.jobs.contexts import context_options
    from setflow.model.stages import given_conditions
    from setflow.schema import words_of

    words, options = words_of(flow.features), "--events 10000"
    if given_conditions(flow) or flow.cardinality is None:
        train = (training or {}).get("train", {}).get("file", "JETS.h5")
        options = shlex.join(context_options(flow, train) or ("--like", train))
    made = f"{words.events}.h5"
    yield "next", f"setflow sample {shlex.quote(given)} {options} --out {made}"
    if truth := judged_by(path, jets=words.event == "jet"):
        yield "next", f"setflow evaluate {made} {shlex.join(truth)} --fast --out report"


def _of_card(path: Path) -> list[str]:
    """Return what the card of a model says of its training, its list behind that word."""
    card = path / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    part = text.partition("**Training.**")[2].partition("\n**")[0]
    return [" ".join(item.partition("\n\n")[0].split()) for item in part.split("\n- ")[1:]]


def _run(given: str, path: Path) -> Iterator[Line]:
    yield "run", f"{given}, the folder of a training; its model is {path / 'model'}"
    yield from _model(str(path / "model"), path / "model")


def _configuration(given: str, path: Path) -> Iterator[Line]:
    import yaml

    from setflow.model.angles import told_of_angles
    from setflow.model.model import SetFlow
    from setflow.training.conditions import complete
    from setflow.training.files import is_there
    from setflow.training.foreign import readable

    path = path / "config.yaml" if path.is_dir() else path
    try:
        text = read_bounded(path).decode()
        nodes = yaml.safe_load(text)
        node, data = nodes["model"]["flow"], dict(nodes.get("data") or {})
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} has no node model: flow:, so it is no configuration of setflow fit"
        ) from error
    try:
        require_single_keys(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {error}") from error
    train = data.get("train")
    waits = ""
    if train and isinstance(node, dict):
        try:
            files = readable(train, data.get("format"), make=False)
            complete(node.setdefault("init_args", {}), files)
        except FileNotFoundError as error:  # then the configuration alone is told
            waits = str(error)
    try:
        flow = SetFlow.from_node(node, where=f"{path}: model.flow")
    except ValueError as error:
        if train and not is_there(train):
            raise FileNotFoundError(
                f"{error}; the training file {train}, which may tell what is missing, does not "
                "exist"
            ) from error
        if waits:
            raise ValueError(f"{error}; {waits}") from error
        raise
    parameters = sum(p.numel() for p in flow.field.parameters())
    yield "configuration", f"{given}, for setflow fit; it has no weights"
    yield "field", f"{type(flow.field).__name__}, {parameters:,} parameters"
    yield "features", ", ".join(flow.features)
    yield from (("angle", f"{angle}, {what}") for angle, what in told_of_angles(flow).items())
    yield "conditions", ", ".join(flow.conditions) or "none"
    for key in ("train", "val", "max_objects", "batch_size"):
        if data.get(key) is not None:
            yield key, str(data[key])
    trainer = nodes.get("trainer") or {}
    lengths = ("max_steps", "max_epochs", "max_time")
    told = [f"{key} {trainer[key]}" for key in lengths if trainer.get(key) not in (None, -1)]
    yield "length", ", ".join(told) or "not bounded"
    name = path if path.name == given else given
    yield "next", f"setflow fit --config {shlex.quote(str(name))} --name NAME"


# --- data ---


def _recipe(given: str, path: Path) -> Iterator[Line]:
    from setflow.data.recipes import Recipe

    recipe = Recipe.load(path)
    yield "recipe", f"{given}: {recipe.description}"
    yield recipe.stores, recipe.selection()
    made = ", ".join(f"{name} {version}" for name, version in recipe.made_with.items())
    yield "made with", made
    for name, sample in recipe.samples.items():
        there = (path / name).is_file()
        what = "" if there else ", not here"
        what = f"{sample['events']:,} {recipe.stores}, seed {sample['seed']}{what}"
        yield "sample", f"{path.name}/{name}: {what}"
    name = str(path) if Path(given).is_file() else given
    yield (
        "next",
        f"setflow dataset make {shlex.quote(name)} --events 10000 --out {recipe.stores}.h5",
    )


def _report(given: str, path: Path) -> Iterator[Line]:
    told = json.loads((path / "metrics.json").read_text())
    yield "report", f"{given}, of setflow evaluate"
    if "summary" in told:
        yield "summary", told["summary"]
    what = told.get("compared", "jets")
    for side in ("generated", "reference"):
        one = told[side]
        model = f", weights sha256 {one['weights_sha256']}" if one.get("weights_sha256") else ""
        yield side, f"{one['name']}: {one['events']:,} of {one['available']:,} {what}{model}"
    for name, result in told["metrics"].items():
        unit = f" {result['unit']}" if result["unit"] else ""
        yield (
            "metric",
            (
                f"{name}: {result['value']:.3g}, floor {result['floor']:.3g} "
                f"± {result['floor_spread']:.1g}{unit}"
            ),
        )
    for note in told.get("notes", ()):
        yield "note", note
    if (page := path / "report.html").is_file():
        yield "page", str(page)
    yield "pictures", f"{len(told['pictures'])} in {path}"


def _hdf5(given: str, path: Path) -> Iterator[Line]:
    import h5py

    from setflow.data.formats.recognise import of_bytes, told_of
    from setflow.data.header import open_events

    require_regular(path)
    if not h5py.is_hdf5(path):
        if (alien := of_bytes(path)) is not None:
            raise ValueError(told_of(path, *alien))
        raise ValueError(
            f"{given} is no HDF5 file; setflow info knows files of events and of scores, "
            "configurations, and the folders of models, runs, recipes and reports"
        )
    with open_events(path) as file:
        told = {name: _text(value) for name, value in file.attrs.items()}
        scores = "log_prob" in file and "reason" in file
        columns = {
            name: (str(file[name].attrs.get("unit", "")), str(file[name].attrs.get("meaning", "")))
            for name in file
            if scores and name != "particle_features"
        }
    return _scores(given, path, told, columns) if scores else _events(given, path, told)


def _text(value: Any) -> str:
    return " ".join(str(value.decode() if isinstance(value, bytes) else value).split())


def _origin(told: Mapping[str, str]) -> Iterator[Line]:
    """Yield where a file came from, by its attributes."""
    if "weights_sha256" in told:
        yield "model", f"weights sha256 {told['weights_sha256']}"
    if "recipe" in told:
        yield "recipe", f"{told['recipe']}: {told.get('description', '')}"
    skipped = ("model", "weights_sha256", "recipe", "description", "layout", "layout_version", "n",
               "complete", "format", "schema", "manifest")  # fmt: skip
    rest = [f"{key} {value[:_LONG]}" for key, value in told.items()
            if value and key not in skipped and not key.startswith("missing_mass")]  # fmt: skip
    yield "attributes", ", ".join(rest) or "none: the file does not say where it came from"


def _events(given: str, path: Path, told: Mapping[str, str]) -> Iterator[Line]:
    from setflow.data.summary import summarize_events
    from setflow.data.valid import next_step
    from setflow.schema import JETNET, names, words_of

    summary = summarize_events(path)
    header = summary.header
    words, jetnet = words_of(header.features), header.layout_version == 1
    sampled = "weights_sha256" in told
    kind = f"{words.events} that a model has sampled" if sampled else words.events
    layout = "the layout of JetNet" if jetnet else "the layout of setflow, version 2"
    yield words.events, f"{given}, {header.n:,} {kind}, in {layout}: {', '.join(header.keys)}"
    if jetnet and header.columns[:4] != (*names(JETNET.objects), "mask"):
        yield "columns", f"particle_features: {', '.join(header.columns)}; they are read by name"
    if header.schema.left_out:
        left = ", ".join(header.schema.left_out)
        yield "left out", f"{left}: read when asked for, as a model with types does"
    told_objects = (
        f"{summary.least} to {summary.most} of {words.an_event}, {summary.mean:.1f} on average, in "
        f"{header.objects} slots"
    )
    yield words.objects, told_objects if header.n else f"none, for there are no {words.events}"
    for name, (unit, low, high) in summary.ranges.items():
        text = f"{low:.5g} to {high:.5g}{f' {unit}' if unit else ''}"
        yield name, text if low <= high else "no values"
    for name, counts in summary.counts.items():
        yield name, ", ".join(f"{code} {count:,}" for code, count in counts.items())
    for reason, count in summary.reasons.items():
        rows = f"{count:,} row{'' if count == 1 else 's'}"
        yield "malformed", f"{rows}: {reason}{next_step(reason)}"
    yield from _origin(told)
    if sum(summary.reasons.values()) >= header.n:  # nothing can be done with it
        return
    yield from _next_of_events(given, path, told, jets=words.event == "jet")


def _next_of_events(
    given: str, path: Path, told: Mapping[str, str], *, jets: bool
) -> Iterator[Line]:
    name = shlex.quote(given)
    if "weights_sha256" in told:
        reference = f"{told['recipe']}/heldout.h5" if "recipe" in told else "TRUE.h5"
        yield "next", f"setflow evaluate {name} {reference} --fast --out report"
    elif path.stem == "heldout":
        yield (
            "next",
            f"setflow evaluate {'JETS' if jets else 'EVENTS'}.h5 {name} --fast --out report",
        )
    else:
        config = "top30" if jets else "CONFIG.yaml"
        yield "next", f"setflow fit --config {config} --data.train {name} --name NAME"
        yield "next", f"setflow score MODEL {name} --out scores.h5"


def _scores(
    given: str, path: Path, told: Mapping[str, str], columns: Mapping[str, tuple[str, str]]
) -> Iterator[Line]:
    from setflow.jobs.missing import missing_note
    from setflow.jobs.summary import summarize_scores

    if told.get("complete") not in (None, "True"):
        done = f"{told.get('n')} rows are done"
        yield "scores", f"{given}, not finished: {done}; the command that began it goes on with it"
        yield from _origin(told)
        return
    summary = summarize_scores(path)
    yield "scores", f"{given}, log-densities of {summary.rows:,} {summary.words.events}"
    for line in summary.lines():
        yield "", line
    for reason, count in sorted(summary.reasons.items(), key=lambda pair: -pair[1])[:5]:
        yield "no score", f"{count:,} rows: {reason}"
    if "missing_mass" in told and (note := missing_note(path)) is not None:
        yield "", note
    for name, (unit, meaning) in columns.items():
        yield name, f"{f'[{unit}] ' if unit else ''}{meaning}"
    yield from _origin(told)
    look = "import sys, h5py; print(h5py.File(sys.argv[1])['log_prob'][:10])"
    yield "next", f'python -c "{look}" {shlex.quote(given)}'


_FOLDERS = {
    "manifest.json": _model,
    "model/manifest.json": _run,
    "recipe.yaml": _recipe,
    "metrics.json": _report,
    "config.yaml": _configuration,
}
