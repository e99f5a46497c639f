"""nami's tree of modules: every name is there, and takes its arguments in nami's order."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import setflow.compat.nami as nami

# the public names of each module, as nami has them
TREE = {
    "core": "TensorSpec as_tuple event_numel flatten_event split_event unflatten_event "
    "validate_shapes",
    "core.broadcast": "broadcast",
    "core.specs": "TensorSpec as_tuple event_numel flatten_event split_event unflatten_event "
    "validate_shapes",
    "core.typing": "DivergenceEstimator NoiseSchedule ODESolver ProbabilityPath SDESolver",
    "debug": "describe",
    "diagnostics": "divergence_stats field_stats reversibility_error",
    "distributions.base": "expand_distribution has_rsample",
    "distributions.normal": "DiagonalNormal StandardNormal",
    "divergence.base": "DivergenceEstimator",
    "divergence.exact": "ExactDivergence",
    "divergence.hutchinson": "HutchinsonDivergence",
    "fields.base": "VectorField",
    "fields.diffusion": "eps_to_score eps_to_x0 score_to_eps score_to_x0 x0_to_eps x0_to_score",
    "fields.velocity": "VelocityField",
    "interpolants": "BrownianGamma DriftFromVelocityScore GammaSchedule MirrorVelocityFromScore "
    "ScaledBrownianGamma ScoreFromNoise ZeroGamma",
    "interpolants.gamma": "BrownianGamma GammaSchedule ScaledBrownianGamma ZeroGamma",
    "interpolants.transforms": "DriftFromVelocityScore MirrorVelocityFromScore ScoreFromNoise",
    "lazy": "LazyDistribution LazyField UnconditionalDistribution UnconditionalField",
    "losses": "fm_loss stochastic_fm_loss",
    "losses.fm": "fm_loss",
    "losses.stochastic_fm": "stochastic_fm_loss",
    "masking": "masked_fm_loss masked_sample",
    "paths": "CosinePath LinearPath",
    "paths.base": "ProbabilityPath",
    "paths.cosine": "CosinePath",
    "paths.linear": "LinearPath",
    "processes.diffusion": "Diffusion DiffusionProcess",
    "processes.fm": "FlowMatching FlowMatchingProcess",
    "schedules.base": "NoiseSchedule",
    "schedules.edm": "EDMSchedule",
    "schedules.ve": "VESchedule",
    "schedules.vp": "VPSchedule",
    "solvers": "EulerMaruyama Heun RK4",
    "solvers.heun": "Heun",
    "solvers.ode": "RK4",
    "solvers.sde": "EulerMaruyama",
}
ROOF = """
    BrownianGamma CosinePath DiagonalNormal Diffusion DiffusionProcess DriftFromVelocityScore
    EDMSchedule EulerMaruyama ExactDivergence FlowMatching FlowMatchingProcess Heun
    HutchinsonDivergence LazyDistribution LazyField LinearPath MirrorVelocityFromScore RK4
    ScaledBrownianGamma ScoreFromNoise StandardNormal UnconditionalDistribution UnconditionalField
    VESchedule VPSchedule VelocityField ZeroGamma debug diagnostics fm_loss masked_fm_loss
    masked_sample stochastic_fm_loss
    """


@pytest.mark.parametrize("module", TREE)
def test_every_name_of_the_tree_is_there(module):
    loaded = importlib.import_module(f"setflow.compat.nami.{module}")
    assert set(TREE[module].split()) <= set(loaded.__all__)
    assert all(getattr(loaded, name) is not None for name in loaded.__all__)


def test_every_name_of_the_roof_is_there():
    assert set(ROOF.split()) <= set(nami.__all__)


def test_one_import_brings_the_whole_tree():
    code = "import setflow.compat.nami as nami\n" + "\n".join(f"nami.{name}" for name in TREE)
    subprocess.run([sys.executable, "-c", code], check=True)


def test_each_thing_is_one_thing():
    """The same object at the roof, in its package and in its module."""
    for module, names in TREE.items():
        loaded = importlib.import_module(f"setflow.compat.nami.{module}")
        for name in set(names.split()) & set(nami.__all__):
            assert getattr(loaded, name) is getattr(nami, name)


# nami's arguments in nami's order; what stands behind the * is given by keyword there
SIGNATURES = {
    "core.broadcast.broadcast": "x t c * event_ndim validate_args=True",
    "core.specs.TensorSpec": "event_shape dtype=None",
    "core.specs.as_tuple": "x",
    "core.specs.event_numel": "event_shape",
    "core.specs.flatten_event": "x event_ndim",
    "core.specs.split_event": "x event_ndim",
    "core.specs.unflatten_event": "x event_shape",
    "core.specs.validate_shapes": "tensor event_ndim expected_event_shape=None batch_shape=None",
    "core.typing.DivergenceEstimator.__call__": "field x t c",
    "core.typing.NoiseSchedule.drift": "x t",
    "core.typing.ODESolver.integrate": "f x0 * t0 t1",
    "core.typing.ProbabilityPath.sample_xt": "x_target x_source t",
    "core.typing.SDESolver.integrate": "drift diffusion x0 * t0 t1 steps",
    "debug.describe": "x=None c=None t=None event_ndim=None",
    "diagnostics.divergence_stats": "field x t c=None * estimator=None",
    "diagnostics.field_stats": "field x t c=None",
    "diagnostics.reversibility_error": "field solver x * t0=1.0 t1=0.0 steps=None c=None",
    "distributions.base.expand_distribution": "dist batch_shape",
    "distributions.base.has_rsample": "dist",
    "distributions.normal.DiagonalNormal": "loc scale * event_ndim=1 validate_args=True",
    "distributions.normal.StandardNormal": "event_shape * batch_shape=None device=None dtype=None "
    "validate_args=True",
    "distributions.normal.StandardNormal.expand": "batch_shape",
    "distributions.normal.StandardNormal.log_prob": "value",
    "distributions.normal.StandardNormal.sample": "sample_shape=()",
    "divergence.exact.ExactDivergence": "max_dim=16",
    "divergence.exact.ExactDivergence.__call__": "field x t c",
    "divergence.hutchinson.HutchinsonDivergence": "probe='rademacher'",
    "divergence.hutchinson.HutchinsonDivergence.__call__": "field x t c",
    "fields.diffusion.eps_to_score": "eps sigma",
    "fields.diffusion.eps_to_x0": "x eps alpha sigma",
    "fields.diffusion.score_to_eps": "score sigma",
    "fields.diffusion.score_to_x0": "x score alpha sigma",
    "fields.diffusion.x0_to_eps": "x x0 alpha sigma",
    "fields.diffusion.x0_to_score": "x x0 alpha sigma",
    "fields.velocity.VelocityField": "dim hidden=256 condition_dim=0 layers=3",
    "fields.velocity.VelocityField.forward": "x t c=None",
    "interpolants.gamma.BrownianGamma": "eps=1e-12",
    "interpolants.gamma.BrownianGamma.gamma": "t",
    "interpolants.gamma.BrownianGamma.gamma_dot": "t",
    "interpolants.gamma.BrownianGamma.gamma_gamma_dot": "t",
    "interpolants.gamma.ScaledBrownianGamma": "scale=1.0 eps=1e-12",
    "interpolants.gamma.ZeroGamma": "",
    "interpolants.transforms.DriftFromVelocityScore": "velocity_model score_model gamma_schedule",
    "interpolants.transforms.MirrorVelocityFromScore": "score_model gamma_schedule",
    "interpolants.transforms.ScoreFromNoise": "eta_model gamma_schedule eps=1e-12",
    "interpolants.transforms.ScoreFromNoise.forward": "x t c=None",
    "lazy.UnconditionalDistribution": "dist",
    "lazy.UnconditionalDistribution.forward": "c=None",
    "lazy.UnconditionalField": "field",
    "lazy.UnconditionalField.forward": "c=None",
    "losses.fm.fm_loss": "field x_target x_source t=None c=None * path=None reduction='mean'",
    "losses.stochastic_fm.stochastic_fm_loss": "field x_target x_source t=None c=None * path=None "
    "gamma=None z=None reduction='mean'",
    "masking.masked_fm_loss": "field x_target x_source mask t=None c=None * path=None "
    "reduction='mean'",
    "masking.masked_sample": "field base solver mask * sample_shape=() c=None t0=1.0 t1=0.0",
    "paths.cosine.CosinePath": "",
    "paths.linear.LinearPath": "",
    "paths.linear.LinearPath.sample_xt": "x_target x_source t",
    "paths.linear.LinearPath.target_ut": "x_target x_source t",
    "processes.diffusion.Diffusion": "model schedule solver * parameterization t0=1.0 t1=0.0 "
    "base=None event_shape=None validate_args=True",
    "processes.diffusion.Diffusion.forward": "c=None",
    "processes.diffusion.DiffusionProcess": "model schedule solver * parameterization t0=1.0 "
    "t1=0.0 base context=None validate_args=True",
    "processes.diffusion.DiffusionProcess.rsample": "sample_shape=() * guidance_fn=None",
    "processes.diffusion.DiffusionProcess.sample": "sample_shape=() * guidance_fn=None",
    "processes.fm.FlowMatching": "field base solver * t0=1.0 t1=0.0 event_ndim=None "
    "validate_args=True",
    "processes.fm.FlowMatching.forward": "c=None",
    "processes.fm.FlowMatchingProcess": "field base solver * t0=1.0 t1=0.0 context=None "
    "validate_args=True",
    "processes.fm.FlowMatchingProcess.log_prob": "x * estimator=None",
    "processes.fm.FlowMatchingProcess.rsample": "sample_shape=()",
    "processes.fm.FlowMatchingProcess.sample": "sample_shape=()",
    "schedules.edm.EDMSchedule": "sigma_min=0.002 sigma_max=80.0 rho=7.0",
    "schedules.ve.VESchedule": "sigma_min=0.01 sigma_max=50.0",
    "schedules.vp.VPSchedule": "beta_min=0.1 beta_max=20.0",
    "schedules.vp.VPSchedule.alpha": "t",
    "schedules.vp.VPSchedule.diffusion": "t",
    "schedules.vp.VPSchedule.drift": "x t",
    "schedules.vp.VPSchedule.sigma": "t",
    "schedules.vp.VPSchedule.snr": "t",
    "solvers.heun.Heun": "steps=32",
    "solvers.heun.Heun.integrate": "f x0 * t0 t1 steps=None",
    "solvers.heun.Heun.integrate_augmented": "f_aug x0 logp0 * t0 t1 steps=None",
    "solvers.ode.RK4": "steps=32",
    "solvers.ode.RK4.integrate": "f x0 * t0 t1 atol=None rtol=None steps=None",
    "solvers.ode.RK4.integrate_augmented": "f_aug x0 logp0 * t0 t1 atol=None rtol=None steps=None",
    "solvers.sde.EulerMaruyama": "steps=64",
    "solvers.sde.EulerMaruyama.integrate": "drift diffusion x0 * t0 t1 steps=None",
}
# what setflow calls otherwise, where nobody passes it by name
RENAMED = {("core.specs.as_tuple", "x"): "shape"}
# no default there, one here
OPTIONAL = {
    "divergence.exact.ExactDivergence.__call__": ["c"],
    "divergence.hutchinson.HutchinsonDivergence.__call__": ["c"],
}


def located(name):
    module = max((m for m in TREE if name.startswith(f"{m}.")), key=len)
    thing = importlib.import_module(f"setflow.compat.nami.{module}")
    for part in name[len(module) + 1 :].split("."):
        thing = getattr(thing, part)
    return thing


@pytest.mark.parametrize("name", SIGNATURES)
def test_arguments_are_those_of_nami_in_its_order(name):
    parameters = inspect.signature(located(name)).parameters
    mine = {key: value for key, value in parameters.items() if key != "self"}
    given = [key for key, value in mine.items() if value.kind is not value.KEYWORD_ONLY]
    positional, _, by_keyword = SIGNATURES[name].partition("*")
    for place, spec in enumerate(positional.split()):
        key, _, default = spec.partition("=")
        key = RENAMED.get((name, key), key)
        assert given[place] == key
        assert_default(name, mine[key], default)
    for spec in by_keyword.split():
        key, _, default = spec.partition("=")
        assert mine[key].kind in (mine[key].KEYWORD_ONLY, mine[key].POSITIONAL_OR_KEYWORD)
        assert_default(name, mine[key], default)
    known = {spec.partition("=")[0] for spec in SIGNATURES[name].split()}
    known |= {here for (where, _), here in RENAMED.items() if where == name}
    for key, value in mine.items():  # what setflow adds can be left out
        assert key in known or value.default is not value.empty or value.kind is value.VAR_KEYWORD


def assert_default(name, parameter, default):
    if default:
        assert repr(parameter.default) == default
    elif parameter.name not in OPTIONAL.get(name, []):
        assert parameter.default is parameter.empty


def test_every_function_and_class_of_the_tree_has_its_signature_checked():
    abstract = {"GammaSchedule", "LazyDistribution", "LazyField", "VectorField"}
    abstract |= {"DivergenceEstimator", "NoiseSchedule", "ProbabilityPath"}
    abstract |= {"ODESolver", "SDESolver"}
    for module, names in TREE.items():
        if any(other.startswith(f"{module}.") for other in TREE):
            continue  # a package: its modules are checked
        assert {name for name in names.split() if f"{module}.{name}" not in SIGNATURES} <= abstract
