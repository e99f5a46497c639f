"""setflow: flow matching for sets of variable size, masking first.

A set has N slots with D features, `x` of shape `(*batch, N, D)`; a mask of shape `(*batch, N)` says
which slots are real. A velocity field v(x, t) is trained on points between data (t = 0) and noise
(t = 1) and integrated from 1 to 0 to sample::

    import setflow, torch

    field = setflow.TransformerField(3)
    loss = setflow.masked_fm_loss(field, x_target, torch.randn_like(x_target), mask)
    x = setflow.masked_sample(
        field, setflow.StandardNormal((3,)), setflow.Midpoint(steps=50), mask
    )

Padding is never read: neither loss nor sample depends on what stands there or how long it is.
"""

from setflow.core.batch import SetBatch
from setflow.distributions import DiagonalNormal, EmpiricalCardinality, StandardNormal, as_base
from setflow.fields import GaussianSetField, TransformerField, VectorField, VelocityField
from setflow.generator import SetFlow
from setflow.masking import masked_fm_loss, masked_sample
from setflow.paths import CosinePath, LinearPath, ProbabilityPath
from setflow.solvers import RK4, Euler, Heun, Midpoint

__version__ = "0.1.0"

__all__ = [
    "RK4",
    "CosinePath",
    "DiagonalNormal",
    "EmpiricalCardinality",
    "Euler",
    "GaussianSetField",
    "Heun",
    "LinearPath",
    "Midpoint",
    "ProbabilityPath",
    "SetBatch",
    "SetFlow",
    "StandardNormal",
    "TransformerField",
    "VectorField",
    "VelocityField",
    "as_base",
    "masked_fm_loss",
    "masked_sample",
]
