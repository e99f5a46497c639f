"""A model of a run becomes one to share: its folder, with how good it is, in a place of its own.

What is shared has to say what it is. So a model is promoted only if its hashes fit, its manifest
tells the training data by their hashes, its card tells the training and the limits, which only a
person knows, and a report of `setflow evaluate` compares events of these very weights with events
of a file that is neither one of the training nor of the validation. The numbers go into the folder
as `metrics.json`, with their hash in the manifest, and onto the card.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from setflow.files import NewFolder, as_path, file_sha256
from setflow.model.folder import CARD, CONFIG, MANIFEST, WEIGHTS
from setflow.model.model import SetFlow
from setflow.physics.measures import title_of
from setflow.report.page import METRICS_FILE
from setflow.shipped import JETS, find

__all__ = ["promote"]

_SECTIONS = {
    "Training": "how it was trained; setflow fit writes it",
    "Limits": "what is wrong with the model, and what it must not be used for",
}

_SHARED = 0.01  # of the reference may stand in the training, as in `setflow fit`


def promote(
    run: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    report: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Copy the model of a run, with the numbers of a report, into a folder to share.

    Arguments:
        run: the folder of a run, whose model is `<run>/model`, or that of a model.
        target: the folder to write, such as `models/top30`; it appears when it is complete.
        report: the folder of the report on the model; None takes the one in the folder of the run
            that is on these weights.
        overwrite: replace the model that stands there.

    Returns:
        The folder.

    Raises:
        FileExistsError: if there is something, and it is not to be replaced or no model.
        FileNotFoundError: if there is no model, no report on it, or no reference of the report.
        ValueError: if a hash does not fit, the card lacks a section, the manifest does not tell
            the training data, or the report is on another model or compares with the training
            data.
    """
    run, target = as_path(run), as_path(target)
    if run.absolute().name == "model" and (run / MANIFEST).is_file():
        run = run.parent if run.name else run / ".."  # of the run, whose reports stand beside it
    inside = run / "model"
    model = inside if (inside / MANIFEST).is_file() else run
    with NewFolder(target, overwrite=overwrite, marker=MANIFEST) as new:
        SetFlow.load(model)  # verifies the hashes, and that it is one
        manifest = json.loads((model / MANIFEST).read_text())
        card = _card(model)
        found = _report(
            run, manifest["files"][WEIGHTS], None if report is None else as_path(report)
        )
        numbers = json.loads(found.read_text())
        reference = _held_out(numbers, manifest, found.parent, model)
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(model / name, new / name)
        shutil.copyfile(found, new / METRICS_FILE)
        manifest["files"][METRICS_FILE] = file_sha256(found)
        manifest["reference"] = {"file": reference.name, "sha256": file_sha256(reference)}
        (new / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        card = _renamed(card, model.absolute().name, target)
        text = _with_fidelity(card, _fidelity(numbers, manifest["reference"]))
        (new / CARD).write_text(text, encoding="utf-8")
    return target


def _card(model: Path) -> str:
    """Return the card of a model.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it lacks a section.
    """
    path = model / CARD
    if not path.is_file():
        raise FileNotFoundError(f"{model} has no card, {CARD}; write one, see the page on sharing")
    card = path.read_text(encoding="utf-8")
    for section, what in _SECTIONS.items():
        if not card.partition(f"\n**{section}.**")[2].partition("\n**")[0].strip():
            raise ValueError(
                f"{path} has no paragraph that begins with **{section}.**: {what}; add it, and "
                "promote the model then"
            )
    return card


def _report(run: Path, sha256: str, given: Path | None) -> Path:
    """Return the numbers of the report on a model.

    Arguments:
        run: the folder that may hold reports.
        sha256: the hash of the weights.
        given: the folder of the report, if it was named.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is on another model, or there are several.
    """
    if given is not None and given.is_file():
        raise NotADirectoryError(
            f"{given} is a file, expected the folder that setflow evaluate has written, such as "
            f"{given.parent}"
        )
    if given is not None and not (given / METRICS_FILE).is_file():
        raise FileNotFoundError(
            f"{given} is no folder of a report: it lacks {METRICS_FILE}; setflow evaluate "
            "writes one"
        )
    there = sorted(run.glob(f"*/{METRICS_FILE}")) if given is None else [given / METRICS_FILE]
    if given is None:  # a model that was promoted has the numbers of its report
        there = [path for path in there if not (path.parent / WEIGHTS).exists()]
    fitting = [path for path in there if _weights_of(path) == sha256]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(str(path.parent) for path in fitting)
        raise ValueError(f"there are several reports on this model, {names}; name one by --report")
    if given is not None:
        other = _weights_of(there[0])
        what = "events of unknown weights" if other is None else f"other weights ({other[:12]})"
        raise ValueError(
            f"{given} is a report on {what}, expected those of the model ({sha256[:12]}); sample "
            "from this model and evaluate again"
        )
    raise FileNotFoundError(
        f"there is no report on this model in {run}: setflow sample makes events of it, and "
        f"setflow evaluate GENERATED HELD_OUT --out {run / 'report'} compares them; --report "
        "names one that stands elsewhere"
    )


def _weights_of(path: Path) -> str | None:
    """Return the hash of the weights of the model that a report is on, if it tells it.

    Raises:
        ValueError: if the file holds no numbers of a report.
    """
    try:
        sha256 = json.loads(path.read_text())["generated"].get("weights_sha256")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no numbers of setflow evaluate; evaluate again") from error
    return None if sha256 is None else str(sha256)


def _held_out(
    numbers: Mapping[str, Any], manifest: Mapping[str, Any], report: Path, model: Path
) -> Path:
    """Return the file of the true events that a model was compared with.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if the model has seen it in its training, or no one knows, or it was generated.
    """
    seen = set(_hashes_in(manifest.get("training", {})))
    if not seen:
        raise ValueError(
            f"{model / MANIFEST} does not tell what the model was trained on, so that nobody knows "
            "whether the reference of a report is held out; train it with setflow fit"
        )
    side = numbers["reference"]
    if side.get("weights_sha256") is not None:
        raise ValueError(f"{report} compares with generated events; compare with true ones")
    path = find(JETS, side["name"])
    if not path.is_file():
        raise FileNotFoundError(
            f"the reference of {report}, {side['name']}, is not there, so that its hash cannot be "
            "compared with those of the training data; call it where the report was made"
        )
    if file_sha256(path) in seen:
        raise ValueError(
            f"{report} compares with {side['name']}, which the model has seen in its training; "
            "evaluate it against a file of other events"
        )
    known = numbers.get("training")
    if known and known["reference"] > _SHARED * side["events"]:
        raise ValueError(
            f"{report} compares with {side['name']}, of which {known['reference']:,} of "
            f"{side['events']:,} {numbers['compared']} stand in the training too; evaluate it "
            "against a file of other events"
        )
    return path


def _hashes_in(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the hashes of the files that a training has read."""
    for side in ("train", "validation"):
        told = facts.get(side, {})
        for file in told.get("files", [told]):
            if "sha256" in file:
                yield str(file["sha256"])


def _counted(shared: int) -> str:
    return f"{shared:,} of them stand" if shared else "none of them stands"


def _fidelity(numbers: Mapping[str, Any], reference: Mapping[str, str]) -> str:
    """Return the paragraph of a card that says how good a model is."""
    one, other, what = numbers["generated"], numbers["reference"], numbers["compared"]
    known = numbers.get("training")
    rows = [
        f"| {title_of(name)} | {_with_error(found)} | {found['floor']:.2e} ± "
        f"{found['floor_spread']:.1e} | {found['shuffled']:.2e} | {found['swapped']:.2e} | "
        f"{found['verdict']} |"
        for name, found in numbers["metrics"].items()
    ]
    notes = "".join(f"\n- {note}" for note in numbers["notes"])
    return (
        f"**Fidelity.** {numbers['summary']}\n\n"
        f"{one['events']:,} {what} against {other['events']:,} of `{reference['file']}` (sha256 "
        f"`{reference['sha256'][:16]}`), a file that the training has not read"
        + (f" ({_counted(known['reference'])} in its data too)" if known else "")
        + f"; `{METRICS_FILE}` holds the numbers. Controls: true events with objects shuffled "
        f"between them, and with {numbers['swapped']} swapped.\n\n"
        "| distance | value | floor | shuffled | swapped | verdict |\n|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + (f"\n{notes}" if notes else "")
        + "\n"
    )


def _with_error(found: Mapping[str, Any]) -> str:
    error = "" if found.get("error") is None else f" ± {found['error']:.1e}"
    return f"{found['value']:.2e}{error}"


def _renamed(card: str, before: str, target: Path) -> str:
    """Return a card whose head and first example name the new folder, and no place of a machine."""
    card = card.replace(f"# {before}\n", f"# {target.name}\n", 1)
    own = target.is_absolute() or ".." in target.parts
    shown = target.name if own else target.as_posix()
    old = rf'SetFlow\.load\("([^"]*/)?{re.escape(before)}"\)'
    return re.sub(old, lambda _: f'SetFlow.load("{shown}")', card)


def _with_fidelity(card: str, paragraph: str) -> str:
    """Return a card with this paragraph before its limits, in the place of an older one."""
    head, word, rest = card.partition("\n**Fidelity.**")
    if word:
        _, mark, behind = rest.partition("\n**")
        card = head + mark + behind
    head, word, rest = card.partition("\n**Limits.**")
    return f"{head.rstrip()}\n\n{paragraph}{word}{rest}"
