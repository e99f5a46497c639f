"""Heun's method."""

from __future__ import annotations

import setflow
from setflow.compat.nami.solvers.ode import IgnoresTolerances

__all__ = ["Heun"]


class Heun(IgnoresTolerances, setflow.Heun):
    """setflow's Heun, whose `integrate` accepts tolerances, with a warning.

    Arguments:
        steps: the number of steps when `integrate` is not given one.

    Raises:
        ValueError: if `steps` is not a positive integer.
    """
