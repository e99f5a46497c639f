"""Velocity fields."""

from setflow.fields.base import VectorField
from setflow.fields.embeddings import FourierTime
from setflow.fields.gaussian import GaussianSetField
from setflow.fields.mlp import VelocityField
from setflow.fields.transformer import TransformerField

__all__ = ["FourierTime", "GaussianSetField", "TransformerField", "VectorField", "VelocityField"]
