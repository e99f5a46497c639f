"""The one table of names, shapes, units and meanings of a file of jets.

The layout is that of JetNet: a jet is a set of at most `N` particles, padded with zeros, and the
fourth particle feature says which slots are real (1) and which are padding (0). Relative features
are relative to the jet: etarel = eta - eta_jet, phirel = phi - phi_jet wrapped into [-pi, pi),
ptrel = pT / pT_jet, where the jet is the *full* one, so that the ptrel of the stored particles sum
to less than 1 when some were cut away.

A file of generated sets has no jet pT. Its jet features are then in units of that unknown jet pT
(`RELATIVE_JET_UNITS`) and the file says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from setflow.schema.features import Feature, Limits, Schema
from setflow.schema.kinds import Category, Positive, Real

__all__ = [
    "DATASETS",
    "JETNET",
    "JET_FEATURES",
    "JET_UNITS",
    "KEPT_FEATURES",
    "PARTICLE_FEATURES",
    "PARTICLE_TYPES",
    "PARTICLE_UNITS",
    "RELATIVE_JET_UNITS",
    "TYPE",
    "TYPED_JETNET",
    "DatasetSpec",
    "GivenSchema",
    "ParticleType",
    "event_of",
    "lists_objects",
    "schema_of",
]


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset of a file: its key, shape in words, dtype, meaning, and whether it must exist."""

    key: str
    shape: str
    dtype: str
    meaning: str
    required: bool


@dataclass(frozen=True)
class ParticleType:
    """One code of `particle_type`: the code, its name, electric charge in units of e, and label."""

    code: int
    name: str
    charge: int
    label: str


PARTICLE_FEATURES: tuple[Feature, ...] = (
    Feature(
        "etarel",
        label=r"$\eta^\mathrm{rel}$",
        meaning="pseudorapidity minus that of the jet",
        limits=Limits(-20, 20),
    ),
    Feature(
        "phirel",
        "rad",
        Real(wrapped=True),
        r"$\phi^\mathrm{rel}$",
        "azimuth minus that of the jet, in [-pi, pi)",
    ),
    Feature(
        "ptrel",
        kind=Positive(),
        label=r"$p_T^\mathrm{rel}$",
        meaning="transverse momentum over that of the jet",
        limits=Limits(0, 2, strict=True),
    ),
    Feature("mask", meaning="1 = real particle, 0 = padding"),
)

JET_FEATURES: tuple[Feature, ...] = (
    Feature(
        "pt",
        "GeV",
        label=r"jet $p_T$",
        meaning="transverse momentum of the full jet",
        limits=Limits(0, strict=True),
    ),
    Feature("eta", label=r"jet $\eta$", meaning="pseudorapidity of the full jet"),
    Feature(
        "mass", "GeV", label="jet mass", meaning="invariant mass of the full jet", limits=Limits(0)
    ),
    Feature("num_particles", label="number of particles", meaning="number of stored particles"),
)

KEPT_FEATURES: tuple[Feature, ...] = (
    Feature(
        "pt_rel",
        label=r"$p_T$ of the kept particles / jet $p_T$",
        meaning="transverse momentum of the particles that are kept, over that of the full jet",
        limits=Limits(0),
        derived=True,
    ),
    Feature(
        "mass_rel",
        label=r"mass of the kept particles / jet $p_T$",
        meaning="invariant mass of the particles that are kept, over the pT of the full jet",
        limits=Limits(0),
        derived=True,
    ),
)
"""What the kept particles of a jet determine: computed in reading where a file does not hold it."""

JETNET = Schema(PARTICLE_FEATURES[:-1], JET_FEATURES, order_by="ptrel")
"""The schema of files in the layout of JetNet."""

PARTICLE_UNITS: tuple[str, ...] = tuple(column.unit for column in PARTICLE_FEATURES)

JET_UNITS: tuple[str, ...] = tuple(column.unit for column in JET_FEATURES)

#: Units of the jet features of a generated file, in which the jet pT is not known. Its eta is that
#: of the sum of the particles relative to the jet axis.
RELATIVE_JET_UNITS: tuple[str, ...] = ("jet pT", "", "jet pT", "")

PARTICLE_TYPES: tuple[ParticleType, ...] = (
    ParticleType(0, "padding", 0, "padding"),
    ParticleType(1, "photon", 0, r"$\gamma$"),
    ParticleType(2, "charged hadron +", 1, r"$h^+$"),
    ParticleType(3, "charged hadron -", -1, r"$h^-$"),
    ParticleType(4, "neutral hadron", 0, r"$h^0$"),
    ParticleType(5, "electron -", -1, r"$e^-$"),
    ParticleType(6, "electron +", 1, r"$e^+$"),
    ParticleType(7, "muon -", -1, r"$\mu^-$"),
    ParticleType(8, "muon +", 1, r"$\mu^+$"),
)

TYPE = Feature(
    "type",
    kind=Category(tuple(kind.name for kind in PARTICLE_TYPES[1:])),
    meaning="what kind of particle it is",
)
"""The type of a particle as a feature: what JetNet's layout holds as `particle_type`, from 0."""

TYPED_JETNET = Schema([*JETNET.objects, TYPE], JETNET.event, JETNET.order_by)
"""The same of jets whose particles have types."""

DATASETS: tuple[DatasetSpec, ...] = (
    DatasetSpec("particle_features", "(n, N, 4)", "float32", "etarel, phirel, ptrel, mask", True),
    DatasetSpec("jet_features", "(n, 4)", "float32", "pt, eta, mass, num_particles", False),
    DatasetSpec("particle_type", "(n, N)", "int8", "code of each particle, 0 = padding", False),
    DatasetSpec("event_number", "(n,)", "int64", "the collision that a jet comes from", False),
    DatasetSpec("weight", "(n,)", "float64", "how much a jet counts; may be negative", False),
)


GivenSchema = Schema | Mapping[str, Any] | str | None
"""A schema as a configuration gives it: itself, its node, which need not list the objects, its name
(`jetnet`), or None."""


def lists_objects(given: GivenSchema) -> TypeGuard[Schema | Mapping[str, Any] | str]:
    """Return whether a schema says what the objects are, and not of the event alone.

    >>> lists_objects("jetnet"), lists_objects({"event": ["radius"]}), lists_objects(None)
    (True, False, False)
    """
    return given is not None and not (isinstance(given, Mapping) and "objects" not in given)


def event_of(given: GivenSchema) -> tuple[Feature, ...]:
    """Return the features of an event that a schema lists, whether or not it lists the objects.

    Raises:
        ValueError: if it is malformed.

    >>> [entry.name for entry in event_of({"event": ["radius"]})], event_of(None)
    (['radius'], ())
    """
    if isinstance(given, Mapping) and "objects" not in given:
        given = Schema.from_node({"objects": ["x"], **given})
    return () if given is None else tuple(schema_of(given).event)


def schema_of(given: Schema | Mapping[str, Any] | str) -> Schema:
    """Return a schema from itself, from its node, or from its name.

    Arguments:
        given: the schema, a node as `Schema.node` returns it, or `jetnet`.

    Raises:
        ValueError: if it is malformed, or the name is another.

    >>> schema_of("jetnet").generated, schema_of({"objects": ["x", "y"]}).generated
    (('etarel', 'phirel', 'ptrel'), ('x', 'y'))
    """
    if isinstance(given, Schema):
        return given
    if given == "jetnet":
        return JETNET
    if not isinstance(given, Mapping):
        raise ValueError(
            f"the schema is {given!r}, expected jetnet, which is that of jets, or a mapping that "
            "lists the features: {objects: [{name: x, unit: mm, kind: real}, ...]}; in Python it "
            "may be a setflow.schema.Schema([Feature(...), ...])"
        )
    return Schema.from_node(given)
