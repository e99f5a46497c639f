"""Base measures on the real coordinates, noise by counter, and cardinality models."""

from setflow.distributions.base import FactorisedBase, as_base
from setflow.distributions.cardinality import EmpiricalCardinality
from setflow.distributions.counter import counter_normal, counter_uniform
from setflow.distributions.normal import DiagonalNormal, IsotropicNormal, StandardNormal

__all__ = [
    "DiagonalNormal",
    "EmpiricalCardinality",
    "FactorisedBase",
    "IsotropicNormal",
    "StandardNormal",
    "as_base",
    "counter_normal",
    "counter_uniform",
]
