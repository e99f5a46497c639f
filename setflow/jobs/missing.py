"""What a file of scores says of the probability that is missing from its densities.

Where the model has a Box-Cox transform with lambda above 0, the flow puts some events below the
smallest training value of a feature. They are sampled onto that value and belong to no density, so
that the densities in the file integrate to less than 1. By how much is estimated from a sample of
the model: an event counts if any of its objects stands on such a value.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from setflow.data.contexts import ContextSource
from setflow.data.hdf5 import screen_events
from setflow.data.header import open_events, read_header
from setflow.model.density import MissingMass, missing_mass, wide_angles, wrapped_share
from setflow.model.encoding import OutsideTrainingWarning
from setflow.model.model import SetFlow

__all__ = ["UNKNOWN_MASS", "attributes_of", "mass_of_rows", "missing_note", "refuse_wrapped"]

LEAST, MOST = 100, 1000  # sampled events: as many as are scored, which costs more, between these
WRAPPED = 1e-4  # of the objects: more is no proper density
UNKNOWN_MASS = MissingMass(math.nan, math.nan, 0)


def mass_of_rows(flow: SetFlow, source: ContextSource, rows: int, seed: int) -> MissingMass:
    """Estimate the missing mass for events like those of a file.

    The numbers of objects come from p(N | c), or from the file where the model has none; the
    contexts come from the file, in turn, from rows that can be read.

    Arguments:
        flow: the model.
        source: the file of events, and where the contexts of its rows stand.
        rows: how many rows of it are scored.
        seed: the seed of the sample.

    Returns:
        The estimate, from as many events as there are rows, but at least `LEAST` and at most
        `MOST`; unknown if it needs rows and none can be read.
    """
    n = min(MOST, max(LEAST, rows))
    if not flow.scaler.has_bound:
        return MissingMass(0.0, 0.0, 0)
    like = _like_rows(flow, source, rows, n)
    if like is None:
        return UNKNOWN_MASS
    with warnings.catch_warnings(action="ignore", category=OutsideTrainingWarning):
        return missing_mass(flow, n, **like, seed=seed)


def refuse_wrapped(flow: SetFlow, source: ContextSource, rows: int, seed: int) -> None:
    """Refuse to score with a model that makes angles which a file has to wrap.

    Arguments:
        flow: the model.
        source: the file of events, which tells contexts and numbers of objects where needed.
        rows: how many rows of it are to be scored.
        seed: the seed of the sample by which it is found out, where it is not plain.

    Raises:
        ValueError: if this happens to more than one in 10,000 of the objects that it makes.
    """
    held = read_header(source.path).schema.objects
    wrapped = [feature.name for feature in held if feature.of_kind.is_angle]
    if not wide_angles(flow, wrapped):
        return
    like = _like_rows(flow, source, rows, MOST)
    if like is None:
        return
    with warnings.catch_warnings(action="ignore", category=OutsideTrainingWarning):
        shares = wrapped_share(flow, MOST, **like, seed=seed, wrapped=wrapped)
    for name, share in shares.items():
        if share > WRAPPED:
            raise ValueError(
                f"the model takes the angle {name} as a number on a line, and {100 * share:.2g} % "
                "of those that it makes lie outside [-pi, pi), where a file wraps them: its "
                "density is not that of the angles in the file, and its integral over them is "
                f"{1 - share:.3g}. A density needs an angle that is narrow, such as one relative "
                "to the axis of the set"
            )


def _like_rows(flow: SetFlow, source: ContextSource, rows: int, n: int) -> dict[str, Any] | None:
    """Return context and lengths of `n` events to be sampled, as far as the model needs them.

    None says that they are needed and no row can be read.
    """
    if flow.cardinality is not None and not flow.conditions:
        return {}
    largest = None if flow.cardinality is None else flow.cardinality.max_objects
    sample, reasons = screen_events(
        source.path, flow.schema, stop=min(rows, n), max_objects=largest, features=flow.features,
        conditions=source.columns,
    )  # fmt: skip
    good = torch.ones(len(sample), dtype=torch.bool)
    good[list(reasons)] = False
    context = source.of(sample)
    if context is not None and flow.context_encoder is not None:
        good &= ~flow.context_encoder.unknown(context, flow.context_scaler).any(-1)
    if not bool(good.any()):
        return None
    turns = good.nonzero()[:, 0].repeat(-(-n // int(good.sum())))[:n]
    like = {} if context is None else {"c": context[turns]}
    if flow.cardinality is not None:
        return like
    objects = sample.objects
    counts = None if flow.types is None else flow.types.counts_of(objects.x, objects.mask)
    return like | {"lengths": (objects.lengths if counts is None else counts)[turns]}


def attributes_of(flow: SetFlow, mass: MissingMass) -> dict[str, float | int | str]:
    """Return the attributes of a file of scores that tell its missing mass."""
    bounded = [flow.features[index] for index in flow.scaler.has_bound]
    meaning = "0: every transform of the model maps onto the whole line"
    if bounded:
        meaning = (
            "the probability of an event with an object below the smallest training value of "
            f"{', '.join(bounded)}, which is sampled onto that value and belongs to no density: "
            "the densities integrate to 1 minus this; the fraction of missing_mass_events sampled "
            "events, and its standard error"
        )
    return {
        "missing_mass": mass.mass,
        "missing_mass_standard_error": mass.standard_error,
        "missing_mass_events": mass.events,
        "missing_mass_meaning": meaning,
    }


def missing_note(scores: str | Path) -> str | None:
    """Return the sentence on the missing mass of a file of scores, or None if nothing is missing.

    Arguments:
        scores: the file.
    """
    with open_events(Path(scores)) as file:
        told: Mapping[str, float] = dict(file.attrs)
    mass, error = told["missing_mass"], told["missing_mass_standard_error"]
    if mass == 0 and not told["missing_mass_events"]:
        return None
    share = "an unknown part" if math.isnan(mass) else f"{100 * mass:.1f} ± {100 * error:.1f} %"
    return (
        f"these densities leave out {share} of the model's events (of "
        f"{told['missing_mass_events']} that were sampled), which it puts below the smallest "
        "training value; a model with the logarithm, kind positive, leaves out nothing"
    )
