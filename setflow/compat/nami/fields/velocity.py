"""A multilayer perceptron on single vectors."""

from __future__ import annotations

import setflow

__all__ = ["VelocityField"]


class VelocityField(setflow.VelocityField):
    """setflow's, with nami's default width and its way of counting layers.

    Arguments:
        dim: the number of features.
        hidden: the width; 128 in setflow.
        condition_dim: the number of context features.
        layers: the number of hidden layers, one more than the maps between them that setflow
            counts. The default is the same network in both.

    Raises:
        ValueError: if a size is not positive.

    >>> field, same = VelocityField(2), setflow.VelocityField(2, hidden=256)
    >>> [p.shape for p in field.parameters()] == [p.shape for p in same.parameters()]
    True
    """

    def __init__(
        self, dim: int, hidden: int = 256, condition_dim: int = 0, layers: int = 3
    ) -> None:
        super().__init__(dim, hidden, condition_dim, layers - 1)
