"""Parts that become a field or a distribution when a context is given: setflow's own."""

from setflow import LazyDistribution, LazyField, UnconditionalDistribution, UnconditionalField

__all__ = ["LazyDistribution", "LazyField", "UnconditionalDistribution", "UnconditionalField"]
