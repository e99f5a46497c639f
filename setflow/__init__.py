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

Names are imported when they are first asked for; `import setflow` alone imports not even torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from setflow.deferred import module_functions
from setflow.version import __version__ as __version__

__all__ = [
    "RK4",
    "BrownianGamma",
    "Composition",
    "ConditionalCardinality",
    "ConditionalComposition",
    "CosinePath",
    "DiagonalNormal",
    "Diffusion",
    "DiffusionProcess",
    "Dopri5",
    "DriftFromVelocityScore",
    "EDMDenoiser",
    "EDMSchedule",
    "EDMWeighting",
    "EPiCField",
    "EmpiricalCardinality",
    "EmpiricalComposition",
    "Euler",
    "EulerMaruyama",
    "ExactDivergence",
    "FlowMatching",
    "FlowMatchingProcess",
    "FourierFeatures",
    "GaussianSetField",
    "GraphField",
    "Heun",
    "HutchinsonDivergence",
    "IsotropicNormal",
    "LazyDistribution",
    "LazyField",
    "LinearPath",
    "Midpoint",
    "MinSNRWeighting",
    "MirrorVelocityFromScore",
    "NoiseSchedule",
    "PairFeatures",
    "ProbabilityFlowField",
    "ProbabilityPath",
    "SNRWeighting",
    "ScaledBrownianGamma",
    "ScheduledPath",
    "ScoreFromNoise",
    "SelfConditionedField",
    "SetBatch",
    "SetFlow",
    "StandardNormal",
    "TimeSampling",
    "TransformerField",
    "UnconditionalDistribution",
    "UnconditionalField",
    "VESchedule",
    "VPSchedule",
    "VectorField",
    "VelocityField",
    "WrappedNormal",
    "WrappedPath",
    "ZeroGamma",
    "as_base",
    "diagnostics",
    "diffusion_loss",
    "fm_loss",
    "masked_diffusion_loss",
    "masked_fm_loss",
    "masked_log_prob",
    "masked_sample",
    "masked_stochastic_fm_loss",
    "rectified",
    "stochastic_fm_loss",
    "timesteps",
]

if TYPE_CHECKING:
    from setflow import diagnostics, rectified, timesteps
    from setflow.diffusion import (
        Diffusion,
        DiffusionProcess,
        EDMDenoiser,
        EDMSchedule,
        EDMWeighting,
        EulerMaruyama,
        MinSNRWeighting,
        NoiseSchedule,
        ProbabilityFlowField,
        ScheduledPath,
        SNRWeighting,
        VESchedule,
        VPSchedule,
        diffusion_loss,
        masked_diffusion_loss,
    )
    from setflow.distributions import (
        Composition,
        ConditionalCardinality,
        ConditionalComposition,
        DiagonalNormal,
        EmpiricalCardinality,
        EmpiricalComposition,
        IsotropicNormal,
        StandardNormal,
        WrappedNormal,
        as_base,
    )
    from setflow.divergence import ExactDivergence, HutchinsonDivergence
    from setflow.fields import (
        DriftFromVelocityScore,
        EPiCField,
        FourierFeatures,
        GaussianSetField,
        GraphField,
        MirrorVelocityFromScore,
        PairFeatures,
        ScoreFromNoise,
        SelfConditionedField,
        TransformerField,
        VectorField,
        VelocityField,
    )
    from setflow.lazy import (
        LazyDistribution,
        LazyField,
        UnconditionalDistribution,
        UnconditionalField,
    )
    from setflow.losses import masked_stochastic_fm_loss, stochastic_fm_loss
    from setflow.masking import fm_loss, masked_fm_loss, masked_log_prob, masked_sample
    from setflow.model import SetFlow
    from setflow.paths import (
        BrownianGamma,
        CosinePath,
        LinearPath,
        ProbabilityPath,
        ScaledBrownianGamma,
        WrappedPath,
        ZeroGamma,
    )
    from setflow.process import FlowMatching, FlowMatchingProcess
    from setflow.sets.batch import SetBatch
    from setflow.solvers import RK4, Dopri5, Euler, Heun, Midpoint
    from setflow.timesteps import TimeSampling
    from setflow.training.fitting import fit  # noqa: F401  # not in __all__: it brings Lightning
else:
    __getattr__, __dir__ = module_functions(__name__)
