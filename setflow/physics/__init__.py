"""What a jet is measured by: four-momenta, substructure, distances between samples.

The function `setflow.physics.metrics.observables` is not exported here, where `observables` is the
module of the substructure.
"""

from setflow.physics.controls import shuffle_particles, swap_ptrel
from setflow.physics.efps import (
    EFP_GRAPHS,
    W1EFP_GRAPHS,
    d2,
    d2_of_efps,
    energy_flow_polynomials,
)
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
from setflow.physics.observables import energy_flow_polynomial, multiplicity, tau21, tau32

__all__ = [
    "EFP_GRAPHS",
    "JET_OBSERVABLES",
    "METRICS",
    "PARTICLE_OBSERVABLES",
    "W1EFP_GRAPHS",
    "Floor",
    "Metric",
    "Observables",
    "d2",
    "d2_of_efps",
    "delta_phi",
    "distances",
    "energy_flow_polynomial",
    "energy_flow_polynomials",
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
    "tau32",
    "truth_floor",
    "w1",
]
