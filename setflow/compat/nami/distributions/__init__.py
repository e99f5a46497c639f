"""Bases."""

from setflow.compat.nami.distributions.base import expand_distribution, has_rsample
from setflow.compat.nami.distributions.normal import DiagonalNormal, StandardNormal

__all__ = ["DiagonalNormal", "StandardNormal", "expand_distribution", "has_rsample"]
