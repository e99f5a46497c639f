"""Base measures on the real coordinates, noise by counter, and cardinality models."""

from setflow.distributions.base import FactorisedBase, as_base
from setflow.distributions.cardinality import (
    CardinalityModel,
    ConditionalCardinality,
    EmpiricalCardinality,
)
from setflow.distributions.composition import (
    Composition,
    ConditionalComposition,
    EmpiricalComposition,
)
from setflow.distributions.normal import DiagonalNormal, IsotropicNormal, StandardNormal
from setflow.distributions.wrapped import WrappedNormal
from setflow.random import counter_normal, counter_uniform

__all__ = [
    "CardinalityModel",
    "Composition",
    "ConditionalCardinality",
    "ConditionalComposition",
    "DiagonalNormal",
    "EmpiricalCardinality",
    "EmpiricalComposition",
    "FactorisedBase",
    "IsotropicNormal",
    "StandardNormal",
    "WrappedNormal",
    "as_base",
    "counter_normal",
    "counter_uniform",
]
