"""Whether a generator repeats its training: how near its jets are to those it was trained on.

With d(S, T) the distances of the jets of a sample S to their nearest neighbours in the training T,

    ratio = median d(generated, T) / median d(held out, T):

1 for jets as far from the training as jets that it has not seen, less for copies, 0 if more than
half are copies. More than 1 is no praise: such jets are simply wrong. Less than 1 can have another
reason than copies: jets that are too ordinary have near neighbours too. A model that is wrong in
another way can hide copies; read it beside the metrics. The space is that of energy flow
polynomials, each divided by its standard deviation over the training, with the Euclidean distance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from setflow.physics.protocols import Estimate
from setflow.physics.samples import Metric
from setflow.sets import arrays
from setflow.sets.arrays import as_tensor

__all__ = ["LEAST", "MEMORISATION", "Training", "distance_ratio", "nearest_neighbour_ratio"]

MEMORISATION = Metric("memorisation", "training ratio", (), "", 1.0)
"""The nearest-neighbour ratio, as a report calls it."""

LEAST = 400
"""With fewer jets on a side the ratio is mostly chance."""

Array = NDArray[np.float64]


class Training:
    """The jets that a model was trained on, to find the nearest one of each of others.

    Arguments:
        jets: their features, such as `energy_flow_polynomials` gives, with shape `(t, F)`.

    Raises:
        ValueError: if there is no row, or a value is not finite.
    """

    def __init__(self, jets: arrays.Array) -> None:
        from scipy.spatial import cKDTree  # here, so that importing setflow stays light

        rows = _rows(jets, "training")
        spread = rows.std(0)
        spread[spread == 0] = 1.0
        self._spread: Array = spread
        self._tree = cKDTree(rows / spread)

    def distances(self, jets: arrays.Array, name: str = "jets") -> Array:
        """Return the distance of each jet to the nearest one of the training, exactly.

        Arguments:
            jets: the same features of other jets, with shape `(n, F)`.
            name: what an error calls them.

        Raises:
            ValueError: if there is no row, or one of another number of features or not finite.
        """
        rows = _rows(jets, name)
        if rows.shape[1] != self._tree.m:
            raise ValueError(
                f"{name} has shape {rows.shape} and training {(self._tree.n, self._tree.m)}, "
                "expected rows of as many features"
            )
        found: Array = self._tree.query(rows / self._spread)[0]
        return found


def _rows(jets: arrays.Array, name: str) -> Array:
    rows: Array = as_tensor(jets, name).detach().cpu().double().numpy()
    if rows.ndim != 2 or not len(rows):
        raise ValueError(
            f"{name} has shape {rows.shape}, expected (jets, features), one jet at least"
        )
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} holds values that are not finite; count and cut such jets")
    return rows


def distance_ratio(near: Array, far: Array, *, draws: int = 100, seed: int = 42) -> Estimate:
    """Return the ratio of the medians of two sets of distances, with the error of the bootstrap.

    Arguments:
        near: the distances of generated jets to the training, with shape `(n,)`.
        far: those of held-out jets, with shape `(m,)`.
        draws: how many times the distances are drawn with replacement for the error.
        seed: the seed of these draws.

    Raises:
        ValueError: if half the held-out jets are copies, or `draws` is below 2.
    """
    if draws < 2:
        raise ValueError(f"got draws={draws}, expected at least 2")
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


def nearest_neighbour_ratio(
    generated: arrays.Array,
    held_out: arrays.Array,
    training: arrays.Array,
    *,
    draws: int = 100,
    seed: int = 42,
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
    known = Training(training)
    near, far = (
        known.distances(side, name)
        for name, side in (("generated", generated), ("held_out", held_out))
    )
    return distance_ratio(near, far, draws=draws, seed=seed)
