"""The same dozen jets as other people store them, rightly and wrongly, with h5py alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

TOP = Path(__file__).resolve().parents[2] / "datasets/pythia-top/heldout.h5"
JETS, SLOTS = 12, 30
PARTICLE, JET = ("etarel", "phirel", "ptrel", "mask"), ("pt", "eta", "mass", "num_particles")

Attributes = dict[str, Sequence[str] | Any]


def truth() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The hardest particles with ptrel > 0.012, padded with zeros, and the features of the jets."""
    with h5py.File(TOP) as file:
        particles = file["particle_features"][:JETS, :SLOTS]
        jets = file["jet_features"][:JETS]
    particles[particles[..., 2] <= 0.012] = 0
    jets[:, 3] = particles[..., 3].sum(1)
    assert 0 < particles[..., 3].mean() < 1
    return particles, jets


def write(
    path: Path,
    particles: NDArray[Any] | None = None,
    jets: NDArray[Any] | None = None,
    *,
    particle_attributes: Attributes | None = None,
    jet_attributes: Attributes | None = None,
    more: dict[str, NDArray[Any]] | None = None,
    **storage: Any,
) -> Path:
    """Write a file in JetNet's layout; what is not given is the truth, `jets=[]` is none."""
    true_particles, true_jets = truth()
    contents: dict[str, Any] = {
        "particle_features": true_particles if particles is None else particles,
        "jet_features": true_jets if jets is None else jets,
        **(more or {}),
    }
    attributes = {"particle_features": particle_attributes, "jet_features": jet_attributes}
    with h5py.File(path, "w") as file:
        for key, values in contents.items():
            if len(values):
                file.create_dataset(key, data=values, **storage)
                file[key].attrs.update(attributes.get(key) or {})
    return path


def permuted(path: Path, **options: Any) -> Path:
    """Write a file that names its columns, in another order."""
    particles, jets = truth()
    order, of_jets = (2, 0, 1, 3), (3, 2, 0, 1)
    return write(
        path,
        particles[..., order],
        jets[:, of_jets],
        particle_attributes={"features": [PARTICLE[k] for k in order]},
        jet_attributes={"features": [JET[k] for k in of_jets]},
        **options,
    )


def wrong(path: Path, kind: str) -> Path:
    """Write a file that must not be read as if nothing were wrong."""
    particles, jets = truth()
    real = particles[..., 3:] == 1
    if kind == "ptrel holds GeV":
        particles[..., 2] *= jets[:, :1]
    elif kind == "mask of ones":
        particles[..., 3] = 1
    elif kind == "mask of halves":
        particles[..., 3] -= 0.5
    elif kind == "normalised":
        particles = particles / np.abs(particles[real[..., 0]]).max(0)
        particles[..., 2:] -= 0.5
    elif kind == "num_particles is a share":
        jets[:, 3] /= SLOTS
    elif kind == "phirel in degrees":
        particles[..., 1] = np.where(real[..., 0], 180 / np.pi * particles[..., 1], 0)
    else:
        raise AssertionError(kind)
    return write(path, particles, jets)
