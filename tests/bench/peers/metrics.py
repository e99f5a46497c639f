"""Metrics: the observables of jets and the distances of samples, in float64.

energyflow holds numpy below 2, so that it runs in a process of its own, which is told the jets by a
file and says its CPU seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from bench.machine import REPOSITORY
from bench.peers.table import Comparison, Spent, agree
from setflow.data import read_jets
from setflow.physics import (
    energy_flow_polynomial,
    energy_flow_polynomials,
    hardest_first,
    jet_mass,
    tau21,
    w1,
)

__all__ = ["ENERGYFLOW", "comparisons"]

ENERGYFLOW = "ENERGYFLOW_PYTHON"
"""The variable that names the Python of the environment with energyflow."""

_SCRIPT = Path(__file__).with_name("energyflow_values.py")
_EXACT = 1e-9


def comparisons(*, trial: bool) -> Iterator[Comparison]:
    """Yield what is compared; fewer jets for a trial."""
    jets = read_jets(
        REPOSITORY / "datasets/pythia-top/train.h5", stop=50 if trial else 1000
    ).particles
    x, mask = jets.x.double(), jets.mask
    sizes = f"{len(jets)} top jets (mean {jets.lengths.float().mean():.0f})"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "jets.npz"
        np.savez(file, x=x.numpy(), mask=mask.numpy())
        for what, function, label in (
            ("efp", energy_flow_polynomial, "energy flow polynomial of the square"),
            ("mass", jet_mass, "jet mass"),
        ):
            yield _by_energyflow(f"{label}: {sizes}", what, function, x, mask, file)
        hardest = hardest_first(x, mask, 30)
        np.savez(file, x=hardest[0].numpy(), mask=hardest[1].numpy())
        yield _by_energyflow(
            f"36 energy flow polynomials: the 30 hardest particles of {len(jets)} top jets",
            "efps",
            energy_flow_polynomials,
            *hardest,
            file,
            aim=10.0,
        )
    yield Comparison(
        f"tau21: {sizes}",
        "fastjet, jet by jet",
        lambda: _tau21_by_fastjet(x, mask),
        lambda: tau21(x, mask),
        1.0,
        lambda: agree(tau21(x, mask), _tau21_by_fastjet(x, mask), 1e-6),
    )
    count = 10_000 if trial else 1_000_000
    a, b = torch.randn(count).double(), torch.randn(count + 1).double()
    yield Comparison(
        f"W1 of {count:,} and one more values",
        "scipy.stats.wasserstein_distance",
        lambda: wasserstein_distance(a.numpy(), b.numpy()),
        lambda: w1(a, b),
        1.0,
        lambda: agree(
            torch.tensor(w1(a, b)),
            torch.tensor(float(wasserstein_distance(a.numpy(), b.numpy()))),
            1e-6,
        ),
    )


def _by_energyflow(
    label: str,
    what: str,
    function: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    mask: Tensor,
    file: Path,
    aim: float = 1.0,
) -> Comparison:
    def asked() -> dict[str, Any]:
        command = [os.environ[ENERGYFLOW], str(_SCRIPT), str(file), what]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(ran.stdout)
        return found

    return Comparison(
        label,
        "energyflow, jet by jet",
        lambda: Spent(float(asked()["seconds"])),
        lambda: function(x, mask),
        aim,
        lambda: agree(
            function(x, mask), torch.tensor(asked()["values"], dtype=torch.float64), _EXACT
        ),
    )


def _tau21_by_fastjet(x: Tensor, mask: Tensor) -> Tensor:
    """Return the ratio of N-subjettiness with the axes of fastjet, winner-take-all kT subjets."""
    import fastjet

    definition = fastjet.JetDefinition(
        fastjet.kt_algorithm, fastjet.JetDefinition.max_allowable_R, fastjet.WTA_pt_scheme
    )
    values = []
    for rows, real in zip(x.numpy(), mask.numpy(), strict=True):
        eta, phi, pt = rows[real].T
        if len(pt) < 3:
            values.append(0.0)
            continue
        momenta = np.stack(
            [pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)]
        )
        inputs = [fastjet.PseudoJet(*momentum) for momentum in momenta.T.tolist()]
        sequence = fastjet.ClusterSequence(inputs, definition)
        tau = []
        for count in (1, 2):
            axes = np.array([(a.eta(), a.phi_std()) for a in sequence.exclusive_jets(count)])
            apart = np.abs(phi[:, None] - axes[:, 1])
            apart = np.minimum(apart, 2 * np.pi - apart)
            tau.append(pt @ np.hypot(eta[:, None] - axes[:, 0], apart).min(1))
        values.append(tau[1] / tau[0])
    return torch.tensor(values, dtype=torch.float64)
