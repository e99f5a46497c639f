"""Hutchinson's estimate of the divergence."""

from __future__ import annotations

from typing import Any

import setflow
from setflow.divergence.hutchinson import Probe

__all__ = ["HutchinsonDivergence"]


class HutchinsonDivergence(setflow.HutchinsonDivergence):
    """setflow's, with nami's order of arguments: the kind of the probes comes first.

    Arguments:
        probe: `rademacher` or `gaussian`.
        n_probes: how many probes to average.
        others: what setflow adds.

    Raises:
        ValueError: if `probe` is another word or `n_probes` is not a positive integer.

    >>> HutchinsonDivergence("gaussian")
    HutchinsonDivergence(1, probe='gaussian')
    """

    def __init__(self, probe: Probe = "rademacher", n_probes: int = 1, **others: Any) -> None:
        super().__init__(n_probes, probe, **others)
