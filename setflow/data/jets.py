"""Jets in memory, as they stand in a file, and the names of the file's parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from setflow.schema import (
    DATASETS,
    JET_FEATURES,
    JET_UNITS,
    PARTICLE_FEATURES,
    names,
)
from setflow.sets.batch import SetBatch

__all__ = ["JetSample"]

LAYOUT_VERSION = 1
RESERVED = ("complete", "layout", "layout_version", "n", "unphysical")
PARTICLES, JETS, TYPES, EVENTS, WEIGHTS = (spec.key for spec in DATASETS)
DTYPES = {spec.key: np.dtype(spec.dtype) for spec in DATASETS}
PHI = names(PARTICLE_FEATURES).index("phirel")
MASK = names(PARTICLE_FEATURES).index("mask")
NUM = "num_particles"
PARTICLE_NAMES, JET_NAMES = names(PARTICLE_FEATURES[:-1]), names(JET_FEATURES)


@dataclass(frozen=True)
class JetSample:
    """Jets as they stand in a file.

    Arguments:
        particles: the features of the particles, with `x` of shape `(n, N, D)`, zero in padded
            slots, `mask` of shape `(n, N)`, and the weights of the jets, if they were asked for.
        jets: the features of the jets, with shape `(n, C)`.
        particle_type: codes of `PARTICLE_TYPES`, with shape `(n, N)`, int8, or None.
        event_number: the collision that each jet comes from, with shape `(n,)`, int64 or uint64, or
            None.
        jet_units: the unit of each jet feature: of `JET_UNITS`, or of `RELATIVE_JET_UNITS`.
        features: the names of the D features of a particle: etarel, phirel [rad] and ptrel, unless
            others were asked for.
        jet_features: the names of the C features of a jet: pt, eta, mass, num_particles, less what
            a file does not hold.

    Raises:
        ValueError: if the shapes do not belong together.

    >>> particles = SetBatch(torch.zeros(2, 5, 3), torch.ones(2, 5))
    >>> sample = JetSample(particles, torch.zeros(2, 4))
    >>> len(sample), sample[:1].jets.shape
    (2, torch.Size([1, 4]))
    """

    particles: SetBatch
    jets: Tensor
    particle_type: Tensor | None = None
    event_number: Tensor | None = None
    jet_units: tuple[str, ...] = JET_UNITS
    features: tuple[str, ...] = PARTICLE_NAMES
    jet_features: tuple[str, ...] = JET_NAMES

    def __post_init__(self) -> None:
        mask = tuple(self.particles.mask.shape)
        expected = {
            "particles.x": (self.particles.x, (*mask, len(self.features))),
            "jets": (self.jets, (*mask[:-1], len(self.jet_features))),
            "particle_type": (self.particle_type, mask),
            "event_number": (self.event_number, mask[:-1]),
        }
        for name, (tensor, shape) in expected.items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}, expected {shape} beside a mask "
                    f"of shape {mask}"
                )
        if len(self.jet_units) != len(self.jet_features):
            raise ValueError(
                f"jet_units has {len(self.jet_units)} entries, expected one for each of "
                f"{', '.join(self.jet_features)}"
            )

    def context(self, columns: Sequence[str]) -> Tensor:
        """Return columns of the jet features, by name, with shape `(n, len(columns))`.

        Raises:
            ValueError: if a column does not exist, or does not stand in the unit of the layout.
        """
        known, layout = self.jet_features, dict(zip(JET_NAMES, JET_UNITS, strict=True))
        columns = [columns] if isinstance(columns, str) else columns  # no list of letters
        for column in columns:
            if column not in known:
                raise ValueError(
                    f"there is no jet feature {column!r}, expected some of {', '.join(known)}"
                )
            unit = self.jet_units[known.index(column)]
            expected = layout.get(column, unit)
            if unit != expected:
                raise ValueError(
                    f"the jets hold {column} in units of {unit!r}, expected {expected!r}: a "
                    "generated file does not know it; give a file of full jets"
                )
        return self.jets[:, [known.index(column) for column in columns]]

    def __len__(self) -> int:
        return len(self.particles)

    def __getitem__(self, index: Any) -> JetSample:
        """Select jets (an integer, slice, list or tensor)."""
        return replace(
            self,
            particles=self.particles[index],
            jets=self.jets[index],
            particle_type=None if self.particle_type is None else self.particle_type[index],
            event_number=None if self.event_number is None else self.event_number[index],
        )
