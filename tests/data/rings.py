"""Rings of points with five features, which are no jets, as others may store them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from setflow.data.event_writing import EventWriter
from setflow.schema import Feature, Limits, Schema
from setflow.sets.batch import SetBatch

RINGS = Schema(
    [
        Feature("x", "mm", label="$x$"),
        Feature("y", "mm", label="$y$"),
        Feature("energy", "GeV", "positive", label="$E$"),
        Feature("share", kind="bounded(0, 1)"),
        Feature("time", "ns", limits=Limits(-100, 100)),
        Feature("phi", "rad", "angle", label=r"$\phi$"),
        Feature("side", kind="category(left, right)"),
    ],
    [Feature("radius", "mm", "positive"), Feature("noise", kind="category(quiet, loud)")],
    order_by="energy",
)
"""Six features that can be generated, one of them an angle, a category; and two of the event."""


def make_rings(
    n: int, slots: int = 8, seed: int = 0, dtype: str = "f4"
) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[Any]]:
    """Return features (n, N, 7) with rubbish in the padding, a mask with holes, and the events."""
    rng = np.random.default_rng(seed)
    mask = rng.random((n, slots)) < 0.6
    if n > 2:
        mask[0], mask[1] = True, False
    radius = rng.uniform(5, 15, (n, 1))
    angle = rng.uniform(-np.pi, np.pi, (n, slots))
    x, y = (radius * f(angle) + 0.5 * rng.standard_normal((n, slots)) for f in (np.cos, np.sin))
    energy = rng.exponential(2.0, (n, slots)) + 1e-3
    share = rng.beta(2, 3, (n, slots)) * 0.98 + 0.01
    time = rng.standard_normal((n, slots)) + radius / 5
    side = (x > 0).astype(float)
    features = np.stack([x, y, energy, share, time, angle, side], -1)
    features[~mask] = np.nan
    event = np.concatenate([radius, rng.integers(0, 2, (n, 1))], 1)
    features, event = features.astype(dtype), event.astype(dtype)
    features[..., 5] = np.clip(features[..., 5], -3.14, 3.14)
    return features, mask, event


def write_rings(path: Path, n: int = 40, slots: int = 8, seed: int = 0, **options: Any) -> Path:
    """Write rings with our own writer, in slots or, with `objects=None`, one behind the other."""
    x, mask, event = map(torch.from_numpy, make_rings(n, slots, seed))
    with EventWriter(path, RINGS, **{"objects": slots, **options}) as writer:
        writer.write(SetBatch(x, mask), event)
    return path


def store(
    path: Path,
    contents: dict[str, Any],
    features: dict[str, dict[str, Any]] | None = None,
    attributes: dict[str, Any] | None = None,
    **storage: Any,
) -> Path:
    """Write a file with h5py alone: datasets, the attributes of each, and those of the file."""
    with h5py.File(path, "w") as file:
        for key, values in contents.items():
            values = np.asarray(values)
            file.create_dataset(key, data=values, **(storage if values.size else {}))
            file[key].attrs.update((features or {}).get(key, {}))
        file.attrs.update(attributes or {})
    return path
