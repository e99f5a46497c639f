"""Velocity fields, and conversions of what a diffusion model predicts."""

from setflow.compat.nami.fields.base import VectorField
from setflow.compat.nami.fields.diffusion import (
    eps_to_score,
    eps_to_x0,
    score_to_eps,
    score_to_x0,
    x0_to_eps,
    x0_to_score,
)
from setflow.compat.nami.fields.velocity import VelocityField

__all__ = [
    "VectorField",
    "VelocityField",
    "eps_to_score",
    "eps_to_x0",
    "score_to_eps",
    "score_to_x0",
    "x0_to_eps",
    "x0_to_score",
]
