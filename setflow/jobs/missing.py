"""What a file of scores says of the probability that is missing from its densities.

Where the model has a Box-Cox transform with lambda above 0, the flow puts some events below the
smallest training value of a feature. They are sampled onto that value and belong to no density, so
that the densities in the file integrate to less than 1. By how much is estimated from a sample of
the model: an event counts if any of its objects stands on such a value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import h5py
import torch

from setflow.data.hdf5 import screen_events
from setflow.model.density import MissingMass, missing_mass
from setflow.model.model import SetFlow

__all__ = ["UNKNOWN_MASS", "attributes_of", "mass_of_rows", "missing_note"]

LEAST, MOST = 100, 1000  # sampled events: as many as are scored, which costs more, between these
UNKNOWN_MASS = MissingMass(math.nan, math.nan, 0)


def mass_of_rows(flow: SetFlow, data: Path, rows: int, seed: int) -> MissingMass:
    """Estimate the missing mass for events like those of a file.

    The numbers of objects come from p(N | c), or from the file where the model has none; the
    contexts come from the file, in turn, from rows that can be read.

    Arguments:
        flow: the model.
        data: the file of jets.
        rows: how many rows of it are scored.
        seed: the seed of the sample.

    Returns:
        The estimate, from as many events as there are rows, but at least `LEAST` and at most
        `MOST`; unknown if it needs rows and none can be read.
    """
    n = min(MOST, max(LEAST, rows))
    if not flow.scaler.has_bound or (flow.cardinality is not None and not flow.conditions):
        return missing_mass(flow, n, seed=seed)
    largest = None if flow.cardinality is None else flow.cardinality.max_objects
    sample, reasons = screen_events(
        data, stop=min(rows, n), max_objects=largest, features=flow.features,
        conditions=flow.conditions,
    )  # fmt: skip
    good = torch.ones(len(sample), dtype=torch.bool)
    good[list(reasons)] = False
    context = sample.context(flow.conditions) if flow.conditions else None
    if context is not None and flow.context_scaler is not None:
        good &= ~flow.context_scaler.outside(context[:, None])[:, 0].any(-1)
    if not bool(good.any()):
        return UNKNOWN_MASS
    turns = good.nonzero()[:, 0].repeat(-(-n // int(good.sum())))[:n]
    c = None if context is None else context[turns]
    lengths = sample.particles.lengths[turns] if flow.cardinality is None else None
    return missing_mass(flow, n, c, lengths=lengths, seed=seed)


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
    with h5py.File(scores) as file:
        told: Mapping[str, float] = dict(file.attrs)
    mass, error = told["missing_mass"], told["missing_mass_standard_error"]
    if mass == 0 and not told["missing_mass_events"]:
        return None
    share = "an unknown part" if math.isnan(mass) else f"{100 * mass:.1f} +- {100 * error:.1f} %"
    return (
        f"these densities leave out {share} of the model's events (of "
        f"{told['missing_mass_events']} that were sampled), which it puts below the smallest "
        "training value; a model with the logarithm, boxcox 0, leaves out nothing"
    )
