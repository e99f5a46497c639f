"""Jets in memory, and the names of the parts of a file in JetNet's layout."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from setflow.data.sample import EventSample
from setflow.schema import DATASETS, JET_FEATURES, PARTICLE_FEATURES, names
from setflow.sets.batch import SetBatch

__all__ = ["JetSample"]

LAYOUT_VERSION = 1
RESERVED = ("complete", "layout", "layout_version", "manifest", "n", "unphysical")
PARTICLES, JETS, TYPES, EVENTS, WEIGHTS = (spec.key for spec in DATASETS)
DTYPES = {spec.key: np.dtype(spec.dtype) for spec in DATASETS}
PHI = names(PARTICLE_FEATURES).index("phirel")
MASK = names(PARTICLE_FEATURES).index("mask")
NUM = "num_particles"
PARTICLE_NAMES, JET_NAMES = names(PARTICLE_FEATURES[:-1]), names(JET_FEATURES)


class JetSample(EventSample):
    """Jets as they stand in a file: events whose objects are particles.

    The arguments are those of `EventSample`; without a schema it is `JETNET`.

    >>> particles = SetBatch(torch.zeros(2, 5, 3), torch.ones(2, 5))
    >>> sample = JetSample(particles, torch.zeros(2, 4))
    >>> len(sample), sample[:1].jets.shape, sample.jet_features
    (2, torch.Size([1, 4]), ('pt', 'eta', 'mass', 'num_particles'))
    """

    @property
    def particles(self) -> SetBatch:
        """The objects."""
        return self.objects

    @property
    def jets(self) -> Tensor:
        """The features of the events: of the jets, with shape `(n, C)`."""
        return self.event

    @property
    def jet_features(self) -> tuple[str, ...]:
        """Their names: pt, eta, mass, num_particles, less what a file does not hold."""
        return self.event_features

    @property
    def jet_units(self) -> tuple[str, ...]:
        """Their units: `JET_UNITS`, or `RELATIVE_JET_UNITS` where the jet pT is not known."""
        return self.event_units
