"""What a jet is measured by: four-momenta, substructure, distances between samples.

The function `setflow.physics.metrics.observables` is not exported here, where `observables` is the
module of the substructure.
"""

from setflow.physics.classifier import Split, auc, transformer_auc, trees_auc
from setflow.physics.controls import shuffle_particles, swap_ptrel
from setflow.physics.efps import (
    EFP_GRAPHS,
    W1EFP_GRAPHS,
    d2,
    d2_of_efps,
    energy_flow_polynomials,
)
from setflow.physics.frechet import fpd, frechet_distance
from setflow.physics.kernel import kpd
from setflow.physics.kinematics import (
    delta_phi,
    hardest_first,
    jet_eta,
    jet_features,
    jet_four_momentum,
    jet_mass,
    jet_pt,
)
from setflow.physics.measures import FAST_MEASURES, MEASURES, fidelity, fidelity_floor
from setflow.physics.memorisation import nearest_neighbour_ratio
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
    w1_estimates,
)
from setflow.physics.observables import energy_flow_polynomial, multiplicity, tau21, tau32
from setflow.physics.protocols import PROTOCOLS, Estimate
from setflow.physics.transport import coverage_and_mmd, energy_movers_distances

__all__ = [
    "EFP_GRAPHS",
    "FAST_MEASURES",
    "JET_OBSERVABLES",
    "MEASURES",
    "METRICS",
    "PARTICLE_OBSERVABLES",
    "PROTOCOLS",
    "W1EFP_GRAPHS",
    "Estimate",
    "Floor",
    "Metric",
    "Observables",
    "Split",
    "auc",
    "coverage_and_mmd",
    "d2",
    "d2_of_efps",
    "delta_phi",
    "distances",
    "energy_flow_polynomial",
    "energy_flow_polynomials",
    "energy_movers_distances",
    "fidelity",
    "fidelity_floor",
    "fpd",
    "frechet_distance",
    "hardest_first",
    "jet_eta",
    "jet_features",
    "jet_four_momentum",
    "jet_mass",
    "jet_pt",
    "kpd",
    "multiplicity",
    "nearest_neighbour_ratio",
    "shuffle_particles",
    "swap_ptrel",
    "tau21",
    "tau32",
    "transformer_auc",
    "trees_auc",
    "truth_floor",
    "w1",
    "w1_estimates",
]
