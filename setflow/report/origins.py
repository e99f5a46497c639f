"""Where the two sides of a comparison come from: what their files say, beside the objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from setflow.data.contexts import context_features, read_context
from setflow.data.header import EventHeader
from setflow.data.recipe_keys import Recipe
from setflow.data.sample import EventSample
from setflow.schema import Category, Feature
from setflow.sets.batch import SetBatch
from setflow.shipped import RECIPES, paths

__all__ = ["Origin", "class_of", "origin_of"]


@dataclass(frozen=True)
class Origin:
    """Where events come from.

    Arguments:
        name: the file, or what was given instead of one.
        short: what they are in two words, for a picture; empty if it is not known.
        lines: what the file says of them.
        weights_sha256: the hash of the weights of the model that made them; None if not known.
        jet_pt: the jet pT of each event in GeV, with shape `(n,)`; None if it is not known.
        classes: the class of each event, an index into `class_names`, with shape `(n,)`; or None.
        class_names: the names of the classes.
        file: the file; None if they come from none.
        there: how many events it holds, where only the first are given; None says that all are.
    """

    name: str
    short: str = ""
    lines: tuple[str, ...] = ()
    weights_sha256: str | None = None
    jet_pt: Tensor | None = None
    classes: Tensor | None = None
    class_names: tuple[str, ...] = ()
    file: Path | None = None
    there: int | None = None

    def of_class(self, batch: SetBatch, name: str) -> Tensor:
        """Return the places of the events of a class in a batch of the first events."""
        assert self.classes is not None
        of_it = self.classes[: len(batch)] == self.class_names.index(name)
        return of_it.nonzero()[:, 0].to(batch.x.device)


def class_of(path: Path, header: EventHeader) -> Feature | None:
    """Return the feature of the events that tells their class, or None if there is none.

    Arguments:
        path: the file.
        header: its header.
    """
    told = (*context_features(path), *header.schema.event)
    return next((feature for feature in told if isinstance(feature.kind, Category)), None)


def origin_of(
    name: str, path: Path, header: EventHeader, sample: EventSample, of_class: Feature | None
) -> Origin:
    """Return where the events of a file come from.

    Arguments:
        name: what the file is called in the report.
        path: the file.
        header: its header.
        sample: its events, from the first one on.
        of_class: the feature that tells the class of each, if there is one.
    """
    told = header.attributes
    lines = [str(told[key]) for key in ("description",) if key in told]
    recipe = str(told.get("recipe", ""))
    if recipe:
        seed = f", seed {told['seed']}" if "seed" in told else ""
        lines.append(f"recipe {recipe}{seed}{_cuts(recipe)}")
    sha256 = told.get("weights_sha256")
    if sha256 is not None:
        how = [f"solver {told['solver']}"] if "solver" in told else []
        how += [f"seed {told['seed']}"] if "seed" in told and not recipe else []
        how += [f"setflow {told['setflow_version']}"] if "setflow_version" in told else []
        lines.append(", ".join([f"sampled by the model with weights {str(sha256)[:16]}", *how]))
    short = recipe or (f"model {str(sha256)[:8]}" if sha256 is not None else "")
    codes, names = _classes(path, sample, of_class)
    return Origin(
        name=name,
        short=re.sub(r"[^\w .-]", "", short)[:40],
        lines=tuple(line[:300] for line in lines),
        weights_sha256=None if sha256 is None else str(sha256),
        jet_pt=_jet_pt(sample),
        classes=codes,
        class_names=names,
        file=path,
        there=header.n,
    )


def _cuts(name: str) -> str:
    """Return the cuts of a shipped recipe, in words."""
    folder = paths(RECIPES).get(name)
    if folder is None:
        return ""
    recipe = Recipe.load(folder)
    return f"; {recipe.stores}: {recipe.selection()}"


def _jet_pt(sample: EventSample) -> Tensor | None:
    for k, feature in enumerate(sample.schema.event):
        if feature.name == "pt" and feature.unit == "GeV" and len(sample):
            return sample.event[:, k]
    return None


def _classes(
    path: Path, sample: EventSample, of_class: Feature | None
) -> tuple[Tensor | None, tuple[str, ...]]:
    if of_class is None or not isinstance(of_class.kind, Category):
        return None, ()
    held: Sequence[Feature] = sample.schema.event
    if of_class.name in sample.event_features:
        k = sample.event_features.index(of_class.name)
        kind = held[k].kind
        codes = sample.event[:, k]
    else:
        kind = of_class.kind
        codes = torch.from_numpy(read_context(path, [of_class], stop=len(sample))[:, 0])
    return codes.long(), kind.names if isinstance(kind, Category) else ()
