"""Whether a generator repeats its training: how near its jets are to those it was trained on.

With d(S, T) the distances of the jets of a sample S to their nearest neighbours in the training T,

    ratio = median d(generated, T) / median d(held out, T):

1 for jets as far from the training as jets that it has not seen, less for copies, 0 if more than
half are copies. More than 1 is no praise: such jets are simply wrong. The space is that of energy
flow polynomials, each divided by its standard deviation over the training, with the Euclidean
distance. A model that is wrong in another way can hide copies; read it beside the metrics.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from setflow.physics.protocols import Estimate
from setflow.sets.arrays import Array, as_tensor

__all__ = ["nearest_neighbour_ratio"]


def nearest_neighbour_ratio(
    generated: Array, held_out: Array, training: Array, *, draws: int = 100, seed: int = 42
) -> Estimate:
    """Return how near generated jets are to the training, relative to held-out jets.

    Arguments:
        generated: features of generated jets, their `energy_flow_polynomials`, with shape `(n, F)`.
        held_out: those of jets of the same truth that were not trained on, with shape `(m, F)`.
        training: those of the jets that were trained on, with shape `(t, F)`.
        draws: how many times the distances are drawn with replacement for the error.
        seed: the seed of these draws.

    The error is that of the bootstrap over generated and held-out jets. Neighbours are exact.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, or half the held-out jets are
            copies of the training.

    >>> jets = torch.randn(3000, 5, generator=torch.Generator().manual_seed(0))
    >>> nearest_neighbour_ratio(jets[2000:2500], jets[:1000], jets[2000:]).value  # copies
    0.0
    """
    from scipy.spatial import cKDTree  # here, so that importing setflow stays light

    sides: dict[str, NDArray[np.float64]] = {}
    for name, side in (("training", training), ("generated", generated), ("held_out", held_out)):
        sides[name] = values = as_tensor(side, name).detach().cpu().double().numpy()
        if values.ndim != 2 or values.shape[1] != sides["training"].shape[1] or not len(values):
            raise ValueError(
                f"{name} has shape {values.shape} and training {sides['training'].shape}, expected "
                "at least one row each of as many features"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds values that are not finite; count and cut such jets")
    if draws < 2:
        raise ValueError(f"got draws={draws}, expected at least 2")
    spread = sides["training"].std(0)
    spread[spread == 0] = 1.0
    tree = cKDTree(sides["training"] / spread)
    near, far = (tree.query(sides[name] / spread)[0] for name in ("generated", "held_out"))
    if np.median(far) == 0:
        raise ValueError(
            "half of the held-out jets are in the training, expected jets that it has not seen; "
            "give another file, or the held-out part of the split"
        )
    rng = np.random.default_rng(seed)
    medians = np.array(
        [[np.median(rng.choice(side, len(side))) for side in (near, far)] for _ in range(draws)]
    )
    ratio = np.median(near) / np.median(far)
    deviations = medians.std(0, ddof=1) / np.median(far)
    return Estimate(float(ratio), float(np.hypot(deviations[0], ratio * deviations[1])))
