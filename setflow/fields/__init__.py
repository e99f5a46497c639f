"""Velocity fields."""

from setflow.fields.base import SetField, SetInputs, VectorField
from setflow.fields.denoiser import EDMDenoiser
from setflow.fields.embeddings import EventEmbedding, FourierFeatures, FourierTime
from setflow.fields.epic import EPiCField
from setflow.fields.gaussian import GaussianSetField
from setflow.fields.graph import GraphField
from setflow.fields.mlp import VelocityField
from setflow.fields.pairs import PairFeatures
from setflow.fields.probability_flow import ProbabilityFlowField
from setflow.fields.transformer import TransformerField

__all__ = [
    "EDMDenoiser",
    "EPiCField",
    "EventEmbedding",
    "FourierFeatures",
    "FourierTime",
    "GaussianSetField",
    "GraphField",
    "PairFeatures",
    "ProbabilityFlowField",
    "SetField",
    "SetInputs",
    "TransformerField",
    "VectorField",
    "VelocityField",
]
