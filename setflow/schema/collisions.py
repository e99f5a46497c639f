"""Whole events of a collider: leptons, photons, jets and missing momentum, each with its type.

Missing transverse momentum is an object of a type of its own, with pt and phi alone. What a type
does not have stands as 0 in files, and the schema says so (`Feature.absent`): eta of the missing
momentum, and the mass of all but jets. Charge and b flag are categories that all objects have.
"""

from __future__ import annotations

from setflow.schema.features import Feature, Limits, Schema
from setflow.schema.kinds import Category

__all__ = ["COLLISIONS", "OBJECT_TYPES", "TOP_PAIR_CHANNELS"]

OBJECT_TYPES: tuple[str, ...] = ("electron", "muon", "photon", "jet", "missing_momentum")
"""The types of the objects of an event, in the order in which files list them."""

TOP_PAIR_CHANNELS: tuple[str, ...] = (
    "all_hadronic",
    "electron_jets",
    "muon_jets",
    "tau_jets",
    "dileptonic",
)
"""How the two W bosons of a pair of top quarks decay; two leptons of any flavours are one class."""

COLLISIONS = Schema(
    [
        Feature("pt", "GeV", "positive", r"$p_T$", "transverse momentum"),
        Feature(
            "eta",
            "",
            "real",
            r"$\eta$",
            "pseudorapidity",
            Limits(-20, 20),
            ["missing_momentum"],
        ),
        Feature("phi", "rad", "angle", r"$\phi$", "azimuth"),
        Feature(
            "mass",
            "GeV",
            "positive",
            "mass",
            "invariant mass of a jet",
            absent=[name for name in OBJECT_TYPES if name != "jet"],
        ),
        Feature("type", kind=Category(OBJECT_TYPES), meaning="what the object is"),
        Feature(
            "charge",
            kind=Category(("none", "minus", "plus")),
            meaning="charge of an electron or muon; none for all else, jets included",
        ),
        Feature(
            "b_hadron",
            kind=Category(("no", "yes")),
            label="$b$ hadron",
            meaning="whether a jet holds a b hadron; no for all else",
        ),
    ],
    [
        Feature(
            "class",
            kind=Category(TOP_PAIR_CHANNELS),
            label="decay channel",
            meaning="how the two W bosons decay",
        ),
        Feature(
            "m_tt",
            "GeV",
            "positive",
            r"$m_{t\bar t}$",
            "invariant mass of the top quarks after radiation and before their decay",
        ),
        Feature(
            "ht",
            "GeV",
            label="$H_T$",
            meaning="sum of the pt of the jets",
            limits=Limits(0),
            derived=True,
        ),
    ],
    order_by="pt",
)
"""The schema of files of whole events, such as those of `datasets/pythia-ttbar-events`."""
