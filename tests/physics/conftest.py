"""The shipped jets, measured once, and what published packages say of them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from setflow.data import read_jets
from setflow.physics.metrics import observables

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def published() -> SimpleNamespace:
    """Samples of 5,000 jets, `real`, `same` and `wide`, and `values` of the jetnet package.

    The file of values says which jets these are and how the values were made.
    """
    particles = {}
    for name in ("heldout", "train"):
        file = HERE.parents[1] / f"datasets/pythia-top/{name}.h5"
        jets = read_jets(file, stop=5000, max_objects=30).particles
        particles[name] = jets.x.double(), jets.mask
    x, mask = particles["train"]
    wide = x.clone()
    wide[..., 0] *= 1.05
    return SimpleNamespace(
        values=json.loads((HERE / "jetnet_values.json").read_text()),
        real=observables(*particles["heldout"]),
        same=observables(x, mask),
        wide=observables(wide, mask),
    )
