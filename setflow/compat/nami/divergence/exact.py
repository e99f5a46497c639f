"""The exact divergence."""

from __future__ import annotations

from typing import Any

import setflow

__all__ = ["ExactDivergence"]


class ExactDivergence(setflow.ExactDivergence):
    """setflow's, with nami's default: events of more than 16 coordinates are refused.

    Arguments:
        max_dim: the largest number of real coordinates of an event that is accepted; None accepts
            any, which is setflow's default.
        others: what setflow adds.

    Raises:
        ValueError: if an argument is not positive.

    >>> ExactDivergence().max_dim
    16
    """

    def __init__(self, max_dim: int | None = 16, **others: Any) -> None:
        super().__init__(max_dim, **others)
