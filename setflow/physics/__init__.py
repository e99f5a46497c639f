"""What a jet is measured by: four-momenta, substructure, distances between samples.

The function `setflow.physics.metrics.observables` is not exported here, where `observables` is the
module of the substructure.
"""

from setflow.physics.controls import shuffle_particles, swap_ptrel
from setflow.physics.kinematics import (
    delta_phi,
    hardest_first,
    jet_eta,
    jet_features,
    jet_four_momentum,
    jet_mass,
    jet_pt,
)
from setflow.physics.metrics import (
    JET_OBSERVABLES,
    METRICS,
    PARTICLE_OBSERVABLES,
    Floor,
    Metric,
    Observables,
    distances,
    truth_floor,
    w1,
)
from setflow.physics.observables import energy_flow_polynomial, multiplicity, tau21

__all__ = [
    "JET_OBSERVABLES",
    "METRICS",
    "PARTICLE_OBSERVABLES",
    "Floor",
    "Metric",
    "Observables",
    "delta_phi",
    "distances",
    "energy_flow_polynomial",
    "hardest_first",
    "jet_eta",
    "jet_features",
    "jet_four_momentum",
    "jet_mass",
    "jet_pt",
    "multiplicity",
    "shuffle_particles",
    "swap_ptrel",
    "tau21",
    "truth_floor",
    "w1",
]
