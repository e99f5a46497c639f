"""The table of names in `docs/names.md`: complete, true, and tested by tests that can fail.

For every row the thing named here is replaced by a mutant that returns zeros of the right shape
(see `mutants`). Each test in the last column must then fail by an assertion about values, and pass
again when the mutant is gone. Those tests run in a pytest session inside this one.
"""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import setflow
import setflow.rectified
from each import each
from laws.mutants import locate, mutated

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs/names.md"

# what is zero by its nature is replaced by ones
ZERO_BY_NATURE = {
    "setflow.EDMSchedule.alpha_dot",
    "setflow.EDMSchedule.drift",
    "setflow.FlowMatching.t1",
    "setflow.VESchedule.alpha_dot",
    "setflow.VESchedule.drift",
    "setflow.ZeroGamma",
    "setflow.ZeroGamma.gamma",
    "setflow.ZeroGamma.gamma_dot",
    "setflow.ZeroGamma.gamma_gamma_dot",
    "setflow.rectified.SampleTimestepConfig.p_mean",
}


@dataclass(frozen=True)
class Row:
    document: str
    there: str
    here: str
    tests: tuple[str, ...]


def rows() -> list[Row]:
    found = []
    table = TABLE.read_text().partition("| document |")[2]  # smaller tables stand in front
    for line in table.splitlines()[1:]:
        if not line.startswith("|") or line.startswith("|---"):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        assert len(cells) == 4, line
        document, there, here, tests = cells
        assert re.fullmatch(r"`[^`]+`", there), line
        assert re.fullmatch(r"`[\w.]+`", here), line
        assert re.fullmatch(r"`tests/[\w/]+\.py::\w+`( `tests/[\w/]+\.py::\w+`)*", tests), line
        found.append(Row(document, there[1:-1], here[1:-1], tuple(tests.strip("`").split("` `"))))
    return found


ROWS = rows()
CLAIMS = sorted({(row.here, test) for row in ROWS for test in row.tests})


# --- the table ---


def test_no_cell_is_empty_and_no_row_is_double():
    assert all(row.document and row.there and row.here and row.tests for row in ROWS)
    assert len(set(ROWS)) == len(ROWS)
    assert {row.document for row in ROWS} == set(NAMES)


@each("name", sorted({row.here for row in ROWS}))
def test_every_name_resolves(name):
    assert name.startswith("setflow.")
    locate(name)


@each("test", sorted({test for _, test in CLAIMS}))
def test_every_test_exists(test):
    path, name = test.split("::")
    tree = ast.parse((ROOT / path).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


# what the documents name, written down while reading them
NAMES = {
    "nami.masking": """
        masked_fm_loss masked_sample fm_loss mask field.event_ndim field.forward reduction
        nami.paths.base.ProbabilityPath LinearPath solver.integrate Distribution sample_shape t0 t1
        """,
    "nami tutorial": """
        VelocityField VelocityField.event_ndim fm_loss LinearPath StandardNormal RK4 Heun
        EulerMaruyama FlowMatching FlowMatching(...)(c) process.sample process.log_prob
        VPSchedule VPSchedule.alpha VPSchedule.sigma VESchedule VESchedule.alpha VESchedule.sigma
        EDMSchedule EDMSchedule.alpha EDMSchedule.sigma derivative drift diffusion Diffusion
        reverse-time probability-flow parameterization NoisePredictor NoisePredictor.event_ndim
        NoisePredictor.forward score eps x0 velocity training weighting preconditioned
        util._flow_diagram util._interpolation_path util._flow_field_gif util._learned_flow_gif
        util.sample_moons sample_conditional_data sample_trajectory inpainting partial
        ExactDivergence HutchinsonDivergence HutchinsonDivergence.probe diagnostics.field_stats
        diagnostics.reversibility_error diagnostics sample_shape batch_shape event_shape event_ndim
        Fourier forward
        """,
    "nami README": """
        VelocityField VelocityField.event_ndim VelocityField.forward ConditionalField
        sample_your_data StandardNormal DiagonalNormal RK4 Heun EulerMaruyama fm_loss FlowMatching
        FlowMatchingProcess process.sample process.log_prob LazyDistribution Diffusion
        parameterization VPSchedule VESchedule EDMSchedule LinearPath CosinePath ExactDivergence
        HutchinsonDivergence nami.paths.base.ProbabilityPath MyPath.sample_xt MyPath.target_ut
        MySolver.integrate is_sde requires_steps supports_rsample
        nami.schedules.base.NoiseSchedule MySchedule MySchedule.alpha MySchedule.sigma
        MySchedule.drift MySchedule.diffusion nami.core.specs.flatten_event
        nami.core.specs.unflatten_event nami.core.specs.validate_shapes diagnostics
        diagnostics.field_stats diagnostics.reversibility_error sample_shape batch_shape event_shape
        event_ndim time
        """,
    "nami source": """
        masked_log_prob stochastic_fm_loss diffusion_loss losses.stochastic_fm_loss
        losses.diffusion_loss DiffusionProcess FlowMatchingProcess.rsample DiffusionProcess.rsample
        guidance_fn LazyField UnconditionalField UnconditionalDistribution
        interpolants.BrownianGamma interpolants.ScaledBrownianGamma interpolants.ZeroGamma
        BrownianGamma.gamma BrownianGamma.gamma_dot BrownianGamma.gamma_gamma_dot
        ScaledBrownianGamma.gamma ScaledBrownianGamma.gamma_dot ScaledBrownianGamma.gamma_gamma_dot
        ZeroGamma.gamma ZeroGamma.gamma_dot ZeroGamma.gamma_gamma_dot interpolants.ScoreFromNoise
        interpolants.DriftFromVelocityScore interpolants.MirrorVelocityFromScore
        c_skip c_out c_in c_noise core.specs.split_event core.specs.event_numel
        core.specs.as_tuple core.specs.TensorSpec
        diagnostics.divergence_stats diagnostics.padding_leakage diagnostics.permutation_error
        diagnostics.company_error VPSchedule.snr VESchedule.snr EDMSchedule.snr NoiseSchedule.snr
        adaptive spirals checkerboard ring Gaussians atol rtol Heun.integrate
        core.broadcast.broadcast distributions.base.expand_distribution
        distributions.base.has_rsample fields.diffusion.eps_to_score fields.diffusion.score_to_eps
        fields.diffusion.eps_to_x0 fields.diffusion.x0_to_eps fields.diffusion.score_to_x0
        fields.diffusion.x0_to_score
        """,
    "NeMo Automodel time_shift_utils": """
        compute_density_for_timestep_sampling get_flow_match_loss_weight time_shift
        """,
    "Model Optimizer fastgen flow_matching": """
        add_noise pred_noise_to_pred_x0 pred_x0_from_flow rf_alpha rf_sigma sample_from_t_list
        sample_timesteps x0_to_eps x0_to_flow SampleTimestepConfig expand_like _sigmas
        SampleTimestepConfig.time_dist_type SampleTimestepConfig.min_t SampleTimestepConfig.max_t
        SampleTimestepConfig.shift SampleTimestepConfig.p_mean SampleTimestepConfig.p_std
        SampleTimestepConfig.t_list
        """,
}


@each("document", NAMES)
def test_every_name_of_the_documents_is_in_the_table(document):
    listed = " ".join(row.there for row in ROWS if row.document == document)
    words = set(listed.split()) | set(re.findall(r"[\w.-]*\w", listed))
    assert [name for name in NAMES[document].split() if name not in words] == []


# --- arguments and defaults ---

REQUIRED = inspect.Parameter.empty
SIGNATURES: dict[str, dict[str, Any]] = {
    "setflow.masked_fm_loss": {
        "field": REQUIRED, "x_target": REQUIRED, "x_source": REQUIRED, "mask": REQUIRED,
        "t": None, "c": None, "path": None, "reduction": "mean",
    },
    "setflow.masked_sample": {
        "field": REQUIRED, "base": REQUIRED, "solver": REQUIRED, "mask": REQUIRED,
        "sample_shape": (), "c": None, "t0": 1.0, "t1": 0.0,
    },
    "setflow.masked_log_prob": {
        "field": REQUIRED, "base": REQUIRED, "solver": REQUIRED, "x": REQUIRED, "mask": REQUIRED,
        "c": None, "t0": 1.0, "t1": 0.0, "estimator": None, "generator": None,
    },
    "setflow.fm_loss": {
        "field": REQUIRED, "x_target": REQUIRED, "x_source": REQUIRED, "t": None, "c": None,
        "path": None, "reduction": "mean",
    },
    "setflow.stochastic_fm_loss": {
        "field": REQUIRED, "x_target": REQUIRED, "x_source": REQUIRED, "t": None, "c": None,
        "path": None, "gamma": None, "z": None, "reduction": "mean",
    },
    "setflow.FlowMatching": {
        "field": REQUIRED, "base": REQUIRED, "solver": REQUIRED, "t0": 1.0, "t1": 0.0,
        "event_ndim": None, "validate_args": True,
    },
    "setflow.Diffusion": {
        "model": REQUIRED, "schedule": REQUIRED, "solver": REQUIRED, "parameterization": REQUIRED,
        "t0": 1.0, "t1": 0.0, "base": None, "event_shape": None, "validate_args": True,
    },
    "setflow.FlowMatchingProcess.sample": {"sample_shape": (), "guidance_fn": None},
    "setflow.DiffusionProcess.sample": {"sample_shape": (), "guidance_fn": None},
    "setflow.FlowMatchingProcess.log_prob": {"x": REQUIRED, "estimator": None},
    "setflow.DiffusionProcess.log_prob": {"x": REQUIRED, "estimator": None},
    "setflow.StandardNormal": {"event_shape": REQUIRED},
    "setflow.DiagonalNormal": {"loc": REQUIRED, "scale": REQUIRED},
    "setflow.VelocityField": {"dim": REQUIRED, "hidden": 128, "condition_dim": 0, "layers": 2},
    "setflow.VPSchedule": {"beta_min": 0.1, "beta_max": 20.0},
    "setflow.VESchedule": {"sigma_min": 0.01, "sigma_max": 50.0},
    "setflow.EDMSchedule": {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0},
    "setflow.ExactDivergence": {"max_dim": None},
    "setflow.HutchinsonDivergence": {"n_probes": 1, "probe": "rademacher"},
    "setflow.diagnostics.field_stats": {"field": REQUIRED, "x": REQUIRED, "t": REQUIRED},
    "setflow.diagnostics.reversibility_error": {
        "field": REQUIRED, "solver": REQUIRED, "x": REQUIRED, "t0": 1.0, "t1": 0.0,
    },
    "setflow.sets.shapes.flatten_event": {"x": REQUIRED, "event_ndim": REQUIRED},
    "setflow.sets.shapes.unflatten_event": {"x": REQUIRED, "event_shape": REQUIRED},
    "setflow.sets.shapes.validate_shapes": {
        "tensor": REQUIRED, "event_ndim": REQUIRED, "expected_event_shape": None,
        "batch_shape": None,
    },
    "setflow.timesteps.compute_density_for_timestep_sampling": {
        "weighting_scheme": REQUIRED, "batch_size": REQUIRED, "logit_mean": 0.0, "logit_std": 1.0,
        "mode_scale": 1.29,
    },
    "setflow.timesteps.get_flow_match_loss_weight": {"sigma": REQUIRED, "shift": 3.0},
    "setflow.timesteps.time_shift": {
        "t": REQUIRED, "image_seq_len": REQUIRED, "shift_type": "constant", "base_shift": 0.5,
        "max_shift": 1.15, "constant": 3.0,
    },
    "setflow.rectified.add_noise": {"x0": REQUIRED, "eps": REQUIRED, "t": REQUIRED},
    "setflow.rectified.pred_noise_to_pred_x0": {
        "pred_noise": REQUIRED, "noisy_latents": REQUIRED, "t": REQUIRED,
    },
    "setflow.rectified.pred_x0_from_flow": {
        "pred_flow": REQUIRED, "noisy_latents": REQUIRED, "t": REQUIRED,
    },
    "setflow.rectified.rf_alpha": {"t": REQUIRED},
    "setflow.rectified.rf_sigma": {"t": REQUIRED},
    "setflow.rectified.sample_from_t_list": {
        "n": REQUIRED, "t_list": REQUIRED, "dtype": torch.float32,
    },
    "setflow.rectified.sample_timesteps": {
        "n": REQUIRED, "cfg": REQUIRED, "dtype": torch.float32,
    },
    "setflow.rectified.x0_to_eps": {"x0": REQUIRED, "x_t": REQUIRED, "t": REQUIRED},
    "setflow.rectified.x0_to_flow": {"x0": REQUIRED, "x_t": REQUIRED, "t": REQUIRED},
    "setflow.rectified.SampleTimestepConfig": {
        "time_dist_type": "shifted", "min_t": 0.001, "max_t": 0.999, "shift": 5.0, "p_mean": 0.0,
        "p_std": 1.0, "t_list": None,
    },
}  # fmt: skip


@each("name", SIGNATURES)
def test_arguments_and_defaults_are_those_of_the_documents(name):
    """Each in its order; what setflow adds can be left out."""
    holder, attribute, _ = locate(name)
    parameters = inspect.signature(getattr(holder, attribute)).parameters
    parameters = {key: value for key, value in parameters.items() if key != "self"}
    documented = SIGNATURES[name]
    assert [key for key in parameters if key in documented] == list(documented)
    assert {key: parameters[key].default for key in documented} == documented
    for key, parameter in parameters.items():
        optional = parameter.default is not REQUIRED
        assert key in documented or optional, key


# --- the mutants ---


@dataclass
class InnerSession:
    """A plugin that runs the tests of each claim with its mutant, then without."""

    claims: list[tuple[str, str]]
    complaints: dict[tuple[str, str], str] = field(default_factory=dict)
    seen: pytest.ExceptionInfo[BaseException] | None = None
    phase: str = ""
    sound: dict[str, bool] = field(default_factory=dict)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items: dict[str, list[pytest.Item]] = {}
        for item in session.items:
            items.setdefault(item.nodeid.split("[")[0], []).append(item)
        for name, test in self.claims:
            self.complaints[name, test] = self.judge(name, test, items.get(test, []))
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        if call.excinfo is not None:
            self.seen, self.phase = call.excinfo, call.when

    def judge(self, name: str, test: str, items: list[pytest.Item]) -> str:
        """Return what is wrong with a claim, or nothing."""
        fill = 1.0 if name in ZERO_BY_NATURE else 0.0
        for item in items:
            with mutated(name, fill):
                error = self.run(item)
            if error is None:
                continue  # parametrised: another case has to see it
            if not self.is_about_values():
                return f"{item.nodeid} fails at {self.phase} with {error!r}, not by an assertion"
            if item.nodeid not in self.sound:
                self.sound[item.nodeid] = self.run(item) is None
            return "" if self.sound[item.nodeid] else f"{item.nodeid} fails without the mutant"
        return f"{test} passes although {name} returns {fill}" if items else f"no test {test}"

    def is_about_values(self) -> bool:
        """Return whether the test itself found something wrong: no accident, no assert of ours."""
        assert self.seen is not None
        return (
            self.phase == "call"
            and isinstance(self.seen.value, AssertionError | pytest.fail.Exception)
            and ROOT / "setflow" not in Path(self.seen.traceback[-1].path).parents
        )

    def run(self, item: pytest.Item) -> BaseException | None:
        self.seen, self.phase = None, ""
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        return None if self.seen is None else self.seen.value


def complaints_about(
    claims: list[tuple[str, str]], config: pytest.Config
) -> dict[tuple[str, str], str]:
    """Judge claims in a session of their own, which prints nothing."""
    inner = InnerSession(claims)
    options = [f"--{name}={config.getoption(name)}" for name in ("device", "dtype")]
    options += [f"--rootdir={ROOT}", f"--confcutdir={ROOT}", "-s"]
    options += ["-o", "addopts=--import-mode=importlib --strict-markers"]
    options += [
        f"-pno:{name}" for name in ("terminal", "cacheprovider", "benchmark", "faulthandler")
    ]
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_num_threads(1)  # small problems lose by more
    tests = sorted({f"{ROOT}/{test}" for _, test in claims})
    status = pytest.main([*tests, *options], plugins=[inner])
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    assert status == pytest.ExitCode.TESTS_FAILED  # those of the mutants
    return inner.complaints


@pytest.mark.parametrize("file", sorted({test.split("::")[0] for _, test in CLAIMS}))
def test_the_mutants_of_a_file_are_caught(file, request):
    """One session a file, so that no process runs what another one has run."""
    claims = [claim for claim in CLAIMS if claim[1].startswith(f"{file}::")]
    found = complaints_about(claims, request.config)
    assert set(found) == set(claims)
    assert [said for said in found.values() if said] == []


def test_a_claim_that_does_not_hold_is_found(request):
    weak = ("setflow.rectified.add_noise", "tests/sets/test_masks.py::test_masks_of_any_dtype")
    accident = (
        "setflow.sets.shapes.event_numel",
        "tests/sets/test_shapes.py::test_events_are_the_trailing_dimensions",
    )
    found = complaints_about([weak, accident], request.config)
    assert found[weak].endswith("passes although setflow.rectified.add_noise returns 0.0")
    assert found[accident].endswith("not by an assertion")


# --- the mutants themselves ---


def test_a_function_is_mutated_wherever_it_is_known_and_restored():
    known_before = setflow.sets.shapes.flatten_event
    x = torch.ones(2, 3, 4)
    with mutated("setflow.sets.shapes.flatten_event"):
        assert torch.equal(known_before(x, 2), torch.zeros(2, 12))
        with pytest.raises(ValueError, match="event_ndim"):
            known_before(x, 9)
    assert torch.equal(known_before(x, 2), torch.ones(2, 12))


def test_a_validator_becomes_blind():
    with mutated("setflow.sets.shapes.validate_shapes"):
        setflow.sets.shapes.validate_shapes(torch.zeros(2, 3), 9)
    with pytest.raises(ValueError, match="event_ndim"):
        setflow.sets.shapes.validate_shapes(torch.zeros(2, 3), 9)


def test_one_class_is_mutated_and_not_its_siblings():
    base = setflow.StandardNormal((3,))
    with mutated("setflow.StandardNormal"):
        assert base.sample((2,)).abs().max() == 0
        assert setflow.IsotropicNormal((3,), 2.0).sample((2,)).abs().max() > 0
    assert base.sample((2,)).abs().max() > 0
    assert "sample" not in vars(setflow.StandardNormal)


def test_abstract_methods_are_mutated_in_those_that_implement_them():
    path, t = setflow.LinearPath(), torch.full((2,), 0.5)
    x = torch.ones(2, 3)
    with mutated("setflow.ProbabilityPath.sample_xt"):

        class Later(setflow.ProbabilityPath):
            def sample_xt(self, x_target, x_source, t):
                return x_target

            def target_ut(self, x_target, x_source, t):
                return x_target

        assert path.sample_xt(x, x, t).abs().max() == 0
        assert path.target_ut(x, 2 * x, t).abs().max() == 1
        assert Later().sample_xt(x, x, t).abs().max() == 0
    assert path.sample_xt(x, x, t).abs().max() == 1
    assert "__init_subclass__" not in vars(setflow.ProbabilityPath)


def test_a_wrong_gradient_is_no_accident():
    """A loss of zero can still be differentiated, so that a test fails by what it finds."""
    field, x = setflow.VelocityField(2), torch.ones(4, 2)
    with mutated("setflow.fm_loss"):
        loss = setflow.fm_loss(field, x, x)
        loss.backward()
    assert loss.item() == 0
    assert all(p.grad.abs().max() == 0 for p in field.parameters())


def test_an_attribute_reads_as_zero():
    config = setflow.rectified.SampleTimestepConfig()
    with mutated("setflow.rectified.SampleTimestepConfig.shift"):
        assert config.shift == 0
        assert config.max_t == 0.999
    assert config.shift == 5.0
    with mutated("setflow.EulerMaruyama.is_sde"):
        assert setflow.EulerMaruyama.is_sde is False
    assert setflow.EulerMaruyama.is_sde is True
