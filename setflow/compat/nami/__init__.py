"""nami's tree of modules: `import setflow.compat.nami as nami` is the whole move.

Each module of the tree re-exports what nami has there; `from nami.core.specs import TensorSpec`
becomes `from setflow.compat.nami.core.specs import TensorSpec`. Almost all of it is setflow's own.
Adapters stand where an argument, a default or a shape is another one:

    solvers.heun, solvers.ode   `integrate` takes `atol` and `rtol`, and warns that they do nothing
    masking                     `masked_sample` has the shape of nami's result
    fields.velocity             `VelocityField` is 256 wide and counts its hidden layers
    fields.diffusion            conversions take alpha and sigma in place of a schedule
    divergence.exact            `ExactDivergence` refuses events of more than 16 coordinates
    divergence.hutchinson       `HutchinsonDivergence` takes the kind of the probes first
    distributions.base          `expand_distribution` and `has_rsample` are functions
    core.broadcast, core.typing, debug   are in nami alone

Numbers are right where nami's are not: a log-density adds the integral of the divergence, and a
score is the gradient of a log-density. `docs/names.md` lists these and what else differs.
"""

from setflow.compat.nami import (
    core,
    debug,
    diagnostics,
    distributions,
    divergence,
    fields,
    interpolants,
    lazy,
    losses,
    masking,
    paths,
    processes,
    schedules,
    solvers,
)
from setflow.compat.nami.distributions.normal import DiagonalNormal, StandardNormal
from setflow.compat.nami.divergence.exact import ExactDivergence
from setflow.compat.nami.divergence.hutchinson import HutchinsonDivergence
from setflow.compat.nami.fields.velocity import VelocityField
from setflow.compat.nami.interpolants.gamma import BrownianGamma, ScaledBrownianGamma, ZeroGamma
from setflow.compat.nami.interpolants.transforms import (
    DriftFromVelocityScore,
    MirrorVelocityFromScore,
    ScoreFromNoise,
)
from setflow.compat.nami.lazy import (
    LazyDistribution,
    LazyField,
    UnconditionalDistribution,
    UnconditionalField,
)
from setflow.compat.nami.losses.fm import fm_loss
from setflow.compat.nami.losses.stochastic_fm import stochastic_fm_loss
from setflow.compat.nami.masking import masked_fm_loss, masked_sample
from setflow.compat.nami.paths.cosine import CosinePath
from setflow.compat.nami.paths.linear import LinearPath
from setflow.compat.nami.processes.diffusion import Diffusion, DiffusionProcess
from setflow.compat.nami.processes.fm import FlowMatching, FlowMatchingProcess
from setflow.compat.nami.schedules.edm import EDMSchedule
from setflow.compat.nami.schedules.ve import VESchedule
from setflow.compat.nami.schedules.vp import VPSchedule
from setflow.compat.nami.solvers.heun import Heun
from setflow.compat.nami.solvers.ode import RK4
from setflow.compat.nami.solvers.sde import EulerMaruyama

__all__ = [
    "RK4",
    "BrownianGamma",
    "CosinePath",
    "DiagonalNormal",
    "Diffusion",
    "DiffusionProcess",
    "DriftFromVelocityScore",
    "EDMSchedule",
    "EulerMaruyama",
    "ExactDivergence",
    "FlowMatching",
    "FlowMatchingProcess",
    "Heun",
    "HutchinsonDivergence",
    "LazyDistribution",
    "LazyField",
    "LinearPath",
    "MirrorVelocityFromScore",
    "ScaledBrownianGamma",
    "ScoreFromNoise",
    "StandardNormal",
    "UnconditionalDistribution",
    "UnconditionalField",
    "VESchedule",
    "VPSchedule",
    "VelocityField",
    "ZeroGamma",
    "core",
    "debug",
    "diagnostics",
    "distributions",
    "divergence",
    "fields",
    "fm_loss",
    "interpolants",
    "lazy",
    "losses",
    "masked_fm_loss",
    "masked_sample",
    "masking",
    "paths",
    "processes",
    "schedules",
    "solvers",
    "stochastic_fm_loss",
]
