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

import math
from dataclasses import dataclass

__all__ = [
    "DATASETS",
    "JET_FEATURES",
    "JET_UNITS",
    "PARTICLE_FEATURES",
    "PARTICLE_TYPES",
    "PARTICLE_UNITS",
    "RELATIVE_JET_UNITS",
    "Column",
    "DatasetSpec",
    "Limits",
    "ParticleType",
    "axis_label",
    "names",
]


@dataclass(frozen=True)
class Limits:
    """What a feature can be: from `low` to `high`, or above `low` if it is `strict`.

    A value beyond is none that was measured: it tells of another unit, of padding that is called
    real, or of a model that is wrong.

    >>> str(Limits(0, 2, strict=True)), str(Limits(-20, 20)), str(Limits(0)), str(Limits())
    ('above 0 and at most 2', 'from -20 to 20', 'at least 0', 'any')
    """

    low: float = -math.inf
    high: float = math.inf
    strict: bool = False

    def __str__(self) -> str:
        if not self.strict and math.isfinite(self.low) and math.isfinite(self.high):
            return f"from {self.low:g} to {self.high:g}"
        parts = [f"{'above' if self.strict else 'at least'} {self.low:g}"]
        parts = parts if self.low > -math.inf else []
        parts += [f"at most {self.high:g}"] if self.high < math.inf else []
        return " and ".join(parts) or "any"


@dataclass(frozen=True)
class Column:
    """One feature: its name, unit ("" if dimensionless), meaning, label in mathtext, and limits."""

    name: str
    unit: str
    meaning: str
    label: str
    limits: Limits = Limits()


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


PARTICLE_FEATURES: tuple[Column, ...] = (
    Column(
        "etarel",
        "",
        "pseudorapidity minus that of the jet",
        r"$\eta^\mathrm{rel}$",
        Limits(-20, 20),
    ),
    Column("phirel", "rad", "azimuth minus that of the jet, in [-pi, pi)", r"$\phi^\mathrm{rel}$"),
    Column(
        "ptrel",
        "",
        "transverse momentum over that of the jet",
        r"$p_T^\mathrm{rel}$",
        Limits(0, 2, strict=True),
    ),
    Column("mask", "", "1 = real particle, 0 = padding", "mask"),
)

JET_FEATURES: tuple[Column, ...] = (
    Column(
        "pt", "GeV", "transverse momentum of the full jet", r"jet $p_T$", Limits(0, strict=True)
    ),
    Column("eta", "", "pseudorapidity of the full jet", r"jet $\eta$"),
    Column("mass", "GeV", "invariant mass of the full jet", "jet mass", Limits(0)),
    Column("num_particles", "", "number of stored particles", "number of particles"),
)

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

DATASETS: tuple[DatasetSpec, ...] = (
    DatasetSpec("particle_features", "(n, N, 4)", "float32", "etarel, phirel, ptrel, mask", True),
    DatasetSpec("jet_features", "(n, 4)", "float32", "pt, eta, mass, num_particles", False),
    DatasetSpec("particle_type", "(n, N)", "int8", "code of each particle, 0 = padding", False),
    DatasetSpec("event_number", "(n,)", "int64", "the collision that a jet comes from", False),
    DatasetSpec("weight", "(n,)", "float64", "how much a jet counts; may be negative", False),
)


def names(columns: tuple[Column, ...]) -> tuple[str, ...]:
    """Return the names of a table's columns.

    >>> names(PARTICLE_FEATURES)
    ('etarel', 'phirel', 'ptrel', 'mask')
    """
    return tuple(column.name for column in columns)


def axis_label(column: Column, unit: str | None = None) -> str:
    """Return the label of a plot axis: what it shows and, in brackets, its unit.

    Arguments:
        column: the feature.
        unit: the unit to print; None takes the column's own.

    >>> axis_label(JET_FEATURES[2]), axis_label(JET_FEATURES[3])
    ('jet mass [GeV]', 'number of particles')
    >>> axis_label(JET_FEATURES[2], unit="jet pT")
    'jet mass [jet pT]'
    """
    unit = column.unit if unit is None else unit
    return f"{column.label} [{unit}]" if unit else column.label
