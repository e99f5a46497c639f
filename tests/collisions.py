"""Whole events by hand and at random, as rows of the features of `setflow.schema.COLLISIONS`."""

from __future__ import annotations

import math

import numpy as np
import torch

from setflow.schema import COLLISIONS, OBJECT_TYPES
from setflow.sets.batch import SetBatch

TYPE = {name: float(code) for code, name in enumerate(OBJECT_TYPES)}


def row(kind, pt, eta=0.0, phi=0.0, mass=0.0, charge=0.0, b=0.0):
    """Return an object; charge and b are codes of their categories."""
    return [pt, eta, phi, mass, TYPE[kind], charge, b]


def batch(*events):
    """Return events, each a list of objects, with NaN in the padding."""
    slots = max(map(len, events))
    x = torch.full((len(events), slots, len(COLLISIONS.objects)), math.nan, dtype=torch.float64)
    mask = torch.zeros(len(events), slots, dtype=torch.bool)
    for k, objects in enumerate(events):
        for slot, one in enumerate(objects):
            x[k, slot], mask[k, slot] = torch.tensor(one, dtype=torch.float64), True
    return SetBatch(x, mask)


def drawn(n=200, seed=0):
    """Return events of random objects, each a list of objects."""
    rng = np.random.default_rng(seed)
    events = []
    for _ in range(n):
        kinds = rng.choice(OBJECT_TYPES[:4], rng.integers(3, 12), p=[0.1, 0.1, 0.1, 0.7]).tolist()
        kinds += ["missing_momentum"] * int(rng.random() < 0.7)
        rng.shuffle(kinds)
        events.append(
            [
                row(
                    kind,
                    25 + rng.exponential(50),
                    0.0 if kind == "missing_momentum" else rng.normal(),
                    rng.uniform(-math.pi, math.pi),
                    rng.exponential(10) if kind == "jet" else 0.0,
                    float(rng.integers(1, 3)) if kind in ("electron", "muon") else 0.0,
                    float(kind == "jet" and rng.random() < 0.4),
                )
                for kind in kinds
            ]
        )
    return events
