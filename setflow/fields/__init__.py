"""Velocity fields."""

from setflow.fields.base import VectorField
from setflow.fields.denoiser import EDMDenoiser
from setflow.fields.embeddings import FourierFeatures, FourierTime
from setflow.fields.gaussian import GaussianSetField
from setflow.fields.mlp import VelocityField
from setflow.fields.probability_flow import ProbabilityFlowField
from setflow.fields.transformer import TransformerField

__all__ = [
    "EDMDenoiser",
    "FourierFeatures",
    "FourierTime",
    "GaussianSetField",
    "ProbabilityFlowField",
    "TransformerField",
    "VectorField",
    "VelocityField",
]
