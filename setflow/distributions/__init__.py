"""Base measures on the real coordinates, noise by counter, and cardinality models."""

from setflow.core.counter import counter_normal, counter_uniform
from setflow.distributions.base import FactorisedBase, as_base
from setflow.distributions.cardinality import (
    CardinalityModel,
    ConditionalCardinality,
    EmpiricalCardinality,
)
from setflow.distributions.normal import DiagonalNormal, IsotropicNormal, StandardNormal

__all__ = [
    "CardinalityModel",
    "ConditionalCardinality",
    "DiagonalNormal",
    "EmpiricalCardinality",
    "FactorisedBase",
    "IsotropicNormal",
    "StandardNormal",
    "as_base",
    "counter_normal",
    "counter_uniform",
]
