"""Velocity fields."""

from setflow.fields.base import SetField, VectorField
from setflow.fields.embeddings import EventEmbedding, FourierFeatures, FourierTime
from setflow.fields.epic import EPiCField
from setflow.fields.gaussian import GaussianSetField
from setflow.fields.graph import GraphField
from setflow.fields.guidance import GuidedField
from setflow.fields.interpolants import (
    DriftFromVelocityScore,
    MirrorVelocityFromScore,
    ScoreFromNoise,
)
from setflow.fields.mlp import VelocityField
from setflow.fields.pairs import PairFeatures
from setflow.fields.self_conditioned import SelfConditionedField
from setflow.fields.transformer import TransformerField

__all__ = [
    "DriftFromVelocityScore",
    "EPiCField",
    "EventEmbedding",
    "FourierFeatures",
    "FourierTime",
    "GaussianSetField",
    "GraphField",
    "GuidedField",
    "MirrorVelocityFromScore",
    "PairFeatures",
    "ScoreFromNoise",
    "SelfConditionedField",
    "SetField",
    "TransformerField",
    "VectorField",
    "VelocityField",
]
