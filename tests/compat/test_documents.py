"""The examples of the documents that setflow's names come from, told again under setflow.

`docs/names.md` lists the documents. Every example of theirs that needs no network is here, in other
words, and ends in something that must be true. They run in float32, torch's own default, as a
reader would run them.
"""

from __future__ import annotations

import math
from contextlib import contextmanager

import pytest
import torch
from torch import nn

import setflow
from setflow import diagnostics
from setflow.data import sample_gaussians, sample_moons, sample_two_clusters
from setflow.diffusion import convert
from setflow.diffusion.schedule import NoiseSchedule
from setflow.paths.base import ProbabilityPath
from setflow.rectified import (
    SampleTimestepConfig,
    add_noise,
    pred_noise_to_pred_x0,
    pred_x0_from_flow,
    rf_alpha,
    rf_sigma,
    sample_from_t_list,
    sample_timesteps,
    x0_to_eps,
    x0_to_flow,
)
from setflow.sets.protocols import declares, event_ndim_of
from setflow.sets.shapes import (
    align_right,
    as_tuple,
    event_numel,
    flatten_event,
    unflatten_event,
    validate_shapes,
)
from setflow.timesteps import (
    compute_density_for_timestep_sampling,
    get_flow_match_loss_weight,
    time_shift,
)

STEPS, BATCH = 3000, 4096  # of the tutorial


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """So that the trained networks do not depend on the machine; they are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def rng(_default_dtype):
    torch.set_default_dtype(torch.float32)
    return torch.Generator().manual_seed(0)


@contextmanager
def reproducible():
    """Seeds and dtype for what is trained once and shared by several tests."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(42)
            yield
    finally:
        torch.set_default_dtype(before)


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def train(field, loss_of, steps, lr=1e-3):
    """Adam on `loss_of()`; returns the losses."""
    optimizer, losses = torch.optim.Adam(field.parameters(), lr=lr), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses)


def distance_to_the_moons(x):
    """The distance of each point to the nearer of the two arcs."""
    angle = torch.linspace(0, math.pi, 400)
    upper = torch.stack([angle.cos(), angle.sin()], -1)
    return torch.cdist(x, torch.cat([upper, torch.tensor([1.0, 0.5]) - upper])).amin(-1)


# --- nami README: flow matching ---


class TwoLayers(nn.Module):
    """A field as a user writes it: three linear layers, and `event_ndim` as a property."""

    def __init__(self, dim, context=0, width=64):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim + 1 + context, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, dim),
        )

    @property
    def event_ndim(self):
        return 1

    def forward(self, x, t, c=None):
        time = t.unsqueeze(-1).expand(*x.shape[:-1], 1)
        return self.net(torch.cat([x, time] if c is None else [x, time, c], -1))


def test_a_field_of_ones_own_trains_and_samples(rng):
    """Eight correlated coordinates around 2: bind, sample, and find mean and covariance again."""
    torch.manual_seed(0)
    field = TwoLayers(8)
    mixing = 0.5 * torch.eye(8) + 0.3 * torch.ones(8, 1) @ torch.linspace(0, 1, 8)[None]

    def loss():
        x_target = 2 + torch.randn(256, 8, generator=rng) @ mixing
        x_source = torch.randn(x_target.shape, generator=rng)
        return setflow.fm_loss(field, x_target, x_source, generator=rng)

    losses = train(field, loss, 600, lr=3e-3)
    assert losses[-50:].mean() < 0.5 * losses[:5].mean()
    process = setflow.FlowMatching(
        field, setflow.StandardNormal(event_shape=(8,)), setflow.RK4(steps=32)
    )(None)
    with torch.no_grad():
        assert process.sample((64,), generator=rng).shape == (64, 8)
        x = process.sample((4000,), generator=rng)
    assert (x.mean(0) - 2).abs().max() < 0.15
    assert (x.T.cov() - mixing.T @ mixing).abs().max() < 0.25


def test_the_base_draws_standard_normal_noise(rng):
    base = setflow.StandardNormal(event_shape=(3,))
    x = base.sample((40_000,), generator=rng)
    assert x.shape == (40_000, 3)
    assert x.mean(0).abs().max() < 0.03
    assert (x.T.cov() - torch.eye(3)).abs().max() < 0.03


def test_conditional_generation(rng):
    """One sample for each of 16 contexts, and each listens to its own."""
    torch.manual_seed(0)
    field = TwoLayers(8, context=4)
    fm = setflow.FlowMatching(field, setflow.StandardNormal((8,)), setflow.RK4(steps=32))
    context, noise = normal(16, 4), normal(1, 16, 8, seed=2)
    with torch.no_grad():
        assert fm(context).sample((1,), generator=rng).shape == (1, 16, 8)
        x = fm(context).sample((1,), x_source=noise)
        changed = context.clone()
        changed[3] += 1
        other = fm(changed).sample((1,), x_source=noise)
    moved = (other - x).abs().amax((0, -1)) > 1e-3
    assert moved.nonzero().flatten().tolist() == [3]


def test_the_librarys_field_takes_a_context():
    torch.manual_seed(0)
    field = setflow.VelocityField(dim=8, condition_dim=4)
    x, t, c = normal(16, 8), torch.rand(16), normal(16, 4, seed=2)
    expected = field.net(torch.cat([x, t[:, None], c], -1))
    torch.testing.assert_close(field(x, t, c), expected)
    assert (field(x, t, c.flip(0)) - expected).abs().max() > 1e-2


def test_models_are_configured_once_and_bound_often():
    """Binding gives a process and leaves the model as it was; t0 and t1 say which way."""
    field = setflow.VelocityField(dim=2, condition_dim=1)
    fm = setflow.FlowMatching(
        field=field, base=setflow.StandardNormal((2,)), solver=setflow.Heun(steps=3), t0=1.0, t1=0.0
    )
    first, second = fm(torch.zeros(5, 1)), fm(torch.ones(7, 1))
    assert isinstance(first, setflow.FlowMatchingProcess)
    assert (first.batch_shape, second.batch_shape) == ((5,), (7,))
    assert first.field is second.field
    assert first.event_shape == (2,)


def test_log_prob_with_hutchinsons_estimator(rng):
    """v = x sends N(0, e^-2) to N(0, 1): from data (t = 0) everything grows by e."""

    class Growth(nn.Module):
        event_ndim = 1

        def forward(self, x, t, c=None):
            return x

    process = setflow.FlowMatching(Growth(), setflow.StandardNormal((3,)), setflow.RK4(20))()
    x = 0.5 * normal(10, 3)
    expected = torch.distributions.Normal(0.0, math.exp(-1)).log_prob(x).sum(-1)
    for estimator in (setflow.HutchinsonDivergence(), setflow.ExactDivergence(), None):
        log_p = process.log_prob(x, estimator=estimator, generator=rng)
        torch.testing.assert_close(log_p, expected, atol=1e-4, rtol=0)


# --- nami README: diffusion ---


class StandardNormalNoise(nn.Module):
    """E[eps | x_t] for standard normal data under a variance-preserving schedule: sigma x."""

    event_ndim = 1

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def forward(self, x, t, c=None):
        return align_right(self.schedule.sigma(t), x.ndim) * x


def test_diffusion_with_an_sde_solver(rng):
    """A perfect noise prediction for N(0, 1) gives N(0, 1); an untrained field gives a shape."""
    schedule = setflow.VPSchedule(beta_min=0.1, beta_max=20.0)
    options = {"parameterization": "eps", "event_shape": (8,)}
    solver = setflow.EulerMaruyama(steps=100)
    perfect = setflow.Diffusion(StandardNormalNoise(schedule), schedule, solver, **options)
    x = perfect(None).sample((5000,), generator=rng)
    assert x.mean(0).abs().max() < 0.06
    assert (x.T.cov() - torch.eye(8)).abs().max() < 0.12
    torch.manual_seed(0)
    diffusion = setflow.Diffusion(model=TwoLayers(8), schedule=schedule, solver=solver, **options)
    with torch.no_grad():
        x = diffusion(None).sample((64,), generator=rng)
    assert x.shape == (64, 8)
    assert x.isfinite().all()


def test_the_probability_flow_of_standard_normal_data_stands_still():
    """Under a variance-preserving schedule nothing has to move, and off the data something has."""
    schedule = setflow.VPSchedule()
    flow = setflow.ProbabilityFlowField(StandardNormalNoise(schedule), schedule, "eps")
    x, t = normal(20, 3), torch.linspace(0.05, 1, 20)
    torch.testing.assert_close(flow(x, t), torch.zeros(20, 3), atol=1e-5, rtol=0)

    class Points(nn.Module):  # E[eps | x_t] if all data are at zero
        event_ndim = 1

        def forward(self, x, t, c=None):
            return x / schedule.sigma(t)[..., None]

    flow = setflow.ProbabilityFlowField(Points(), schedule, "eps")
    rate = schedule.sigma_dot(t) / schedule.sigma(t)  # so that x / sigma stays
    torch.testing.assert_close(flow(x, t), rate[:, None] * x, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("parameterization", ["eps", "score", "x0", "velocity"])
def test_any_parameterization_with_any_solver(parameterization, rng):
    schedule = setflow.VPSchedule()
    eps = StandardNormalNoise(schedule)

    class Predictor(nn.Module):
        event_ndim = 1

        def forward(self, x, t, c=None):
            source = {"source": "eps", "target": parameterization}
            return convert(eps(x, t), x, t, schedule, **source)

    for solver in (setflow.RK4(steps=50), setflow.EulerMaruyama(steps=100)):
        x = setflow.Diffusion(
            Predictor(), schedule, solver, parameterization=parameterization, event_shape=(1,)
        )(None).sample((4000,), generator=rng)
        assert abs(x.mean()) < 0.06
        assert abs(x.std() - 1) < 0.06


# --- nami README: components of one's own ---


def test_a_path_of_ones_own():
    """x_t = (1 - t^2) x_target + t^2 x_source, in a loss with a known value."""

    class Quadratic(ProbabilityPath):
        def sample_xt(self, x_target, x_source, t):
            share = align_right(t**2, x_target.ndim)
            return (1 - share) * x_target + share * x_source

        def target_ut(self, x_target, x_source, t):
            return align_right(2 * t, x_target.ndim) * (x_source - x_target)

    path = Quadratic()
    x_target, x_source, t = normal(6, 2), normal(6, 2, seed=2), torch.linspace(0.1, 1, 6)
    x_t, u_t = path.sample_xt(x_target, x_source, t), path.target_ut(x_target, x_source, t)
    by_hand = x_target + t[:, None] ** 2 * (x_source - x_target)
    torch.testing.assert_close(x_t, by_hand)
    torch.testing.assert_close(u_t, 2 * t[:, None] * (x_source - x_target))
    torch.manual_seed(0)
    field = setflow.VelocityField(dim=2)
    loss = setflow.fm_loss(field, x_target, x_source, t, path=path)
    torch.testing.assert_close(loss, (field(by_hand, t) - u_t).square().mean())
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (ProbabilityPath,), {"sample_xt": Quadratic.sample_xt})()


class Growth(nn.Module):
    """v = rate x on vectors."""

    event_ndim = 1

    def forward(self, x, t, c=None):
        return -0.5 * x


def test_an_ode_solver_of_ones_own():
    """Defaults of its own, nothing inherited: sampling and densities work with it."""

    class ThirdOrder:
        is_sde = False

        def __init__(self, steps=32):
            self.steps = steps

        def integrate(self, f, x0, t0=0.0, t1=1.0, steps=None):
            x, n = x0, steps or self.steps
            h = (t1 - t0) / n
            for k in range(n):
                t = t0 + k * h
                a = f(x, t)
                b = f(x + h / 2 * a, t + h / 2)
                x = x + h / 6 * (a + 4 * b + f(x + h * (2 * b - a), t + h))
            return x

    process = setflow.FlowMatching(Growth(), setflow.StandardNormal((2,)), ThirdOrder())(None)
    noise = normal(7, 2)
    x = process.sample((7,), x_source=noise)
    torch.testing.assert_close(x, math.exp(0.5) * noise, atol=1e-5, rtol=0)
    expected = torch.distributions.Normal(0.0, math.exp(0.5)).log_prob(x).sum(-1)
    torch.testing.assert_close(process.log_prob(x), expected, atol=1e-4, rtol=0)
    mask = torch.tensor([[1, 1, 0]])
    sets = setflow.masked_sample(
        setflow.TransformerField(2, hidden=8, layers=1, heads=1),
        setflow.StandardNormal((2,)), ThirdOrder(4), mask, x_source=normal(1, 3, 2),
    )  # fmt: skip
    torch.testing.assert_close(sets[0, :2], normal(1, 3, 2)[0, :2])  # untrained: no velocity
    assert torch.equal(sets[0, 2], torch.zeros(2))


def test_an_sde_solver_of_ones_own(rng):
    """Like the library's, written again: the same noise gives the same draw."""

    class MySolver:
        is_sde = True
        requires_steps = True
        supports_rsample = True

        def __init__(self, steps=50):
            self.steps = steps

        def integrate(self, drift, diffusion, x0, t0, t1, steps, generator=None):
            x, h = x0, (t1 - t0) / steps
            for k in range(steps):
                t = t0 + k * h
                z = torch.randn(x.shape, generator=generator)
                x = x + drift(x, t) * h + diffusion(t) * abs(h) ** 0.5 * z
            return x

    schedule = setflow.VPSchedule()
    draws = [
        setflow.Diffusion(
            StandardNormalNoise(schedule), schedule, solver, parameterization="eps",
            event_shape=(2,),
        )(None).sample((2000,), generator=torch.Generator().manual_seed(0))
        for solver in (MySolver(), setflow.EulerMaruyama(50))
    ]  # fmt: skip
    torch.testing.assert_close(draws[0], draws[1], atol=1e-4, rtol=0)
    assert abs(draws[0].std() - 1) < 0.1
    flow = setflow.FlowMatching(Growth(), setflow.StandardNormal((2,)), MySolver())
    with pytest.raises(ValueError, match="MySolver solves stochastic equations"):
        flow(None).sample((3,), generator=rng)


def test_what_the_solvers_declare():
    """What a solver does not say counts as False, in one place."""

    class Silent:
        pass

    for flag in ("is_sde", "requires_steps", "supports_rsample"):
        assert not declares(Silent(), flag)
        assert declares(setflow.EulerMaruyama(4), flag)
        assert declares(setflow.RK4(4), flag) == (flag != "is_sde")


def test_a_schedule_of_ones_own(rng):
    """A constant rate of noise: alpha^2 = exp(-8 t). N(0, 1) stays what it is."""

    class Constant(NoiseSchedule):
        def alpha(self, t):
            return torch.exp(-4 * t)

        def sigma(self, t):
            return torch.sqrt(-torch.expm1(-8 * t))

        def drift(self, x, t):
            return -4 * x

        def diffusion(self, t):
            return 8**0.5 * torch.ones_like(t)

    schedule, t = Constant(), torch.linspace(0.1, 1, 10)
    decay = torch.exp(-8 * t)
    torch.testing.assert_close(schedule.alpha(t) ** 2, decay)
    torch.testing.assert_close(schedule.sigma(t) ** 2, 1 - decay)
    torch.testing.assert_close(schedule.alpha_dot(t), -4 * decay.sqrt())
    torch.testing.assert_close(schedule.sigma_dot(t), 4 * decay / (1 - decay).sqrt())
    torch.testing.assert_close(schedule.snr(t), decay / (1 - decay))
    torch.testing.assert_close(schedule.drift(torch.ones(10), t), -4 * torch.ones(10))
    torch.testing.assert_close(schedule.diffusion(t) ** 2, 8 * torch.ones(10))
    diffusion = setflow.Diffusion(
        StandardNormalNoise(schedule), schedule, setflow.EulerMaruyama(100),
        parameterization="eps", event_shape=(2,),
    )  # fmt: skip
    x = diffusion(None).sample((5000,), generator=rng)
    assert (x.T.cov() - torch.eye(2)).abs().max() < 0.1


# --- nami README: utilities and diagnostics ---


def test_event_dimensions_are_flattened_and_restored():
    x = normal(2, 3, 4, 5)
    flat = flatten_event(x, event_ndim=2)
    assert flat.shape == (2, 3, 20)
    assert torch.equal(flat[1, 2], x[1, 2].flatten())
    assert torch.equal(unflatten_event(flat, event_shape=(4, 5)), x)
    validate_shapes(x, event_ndim=2, expected_event_shape=(4, 5), batch_shape=(2, 3))
    with pytest.raises(ValueError, match="expected"):
        validate_shapes(x, event_ndim=2, expected_event_shape=(5, 4), batch_shape=(2, 3))


def test_shapes_are_counted():
    assert event_numel((4, 5)) == 20
    assert event_numel(()) == 1
    assert as_tuple(3) == (3,)
    assert as_tuple(torch.Size([2, 3])) == (2, 3)


def test_diagnostics_are_scalars_to_print():
    x, t = normal(50, 2), torch.rand(50)
    stats = diagnostics.field_stats(Growth(), x, t)
    norms = 0.5 * x.norm(dim=-1)
    assert f"{stats['mean']:.3f} +/- {stats['std']:.3f}" == (
        f"{norms.mean():.3f} +/- {norms.std(correction=0):.3f}"
    )
    error = diagnostics.reversibility_error(Growth(), setflow.Euler(10), x)
    # there (1 - h / 2)^10, and back (1 + h / 2)^10
    expected = (1 - (1 - 0.05**2) ** 10) * x.norm(dim=-1).mean()
    assert error["mean"].item() == pytest.approx(expected.item(), rel=1e-3)
    assert "e-" in f"{error['mean']:.2e}"


# --- the masking page ---


def test_the_masked_loss_excludes_padding():
    torch.manual_seed(0)
    field = nn.Module()
    field.event_ndim = 2
    field.forward = lambda x, t, c=None: t[..., None, None] * x
    x_target, x_source, t = normal(4, 6, 3), normal(4, 6, 3, seed=2), torch.rand(4)
    mask = torch.arange(6) < torch.tensor([[6], [3], [1], [0]])
    losses = setflow.masked_fm_loss(field, x_target, x_source, mask.float(), t, reduction="none")
    for k, n in enumerate((6, 3, 1, 0)):
        a, b = x_target[k, :n], x_source[k, :n]
        error = t[k] * ((1 - t[k]) * a + t[k] * b) - (b - a)
        expected = error.square().mean() if n else torch.tensor(0.0)
        torch.testing.assert_close(losses[k], expected)
    mean = setflow.masked_fm_loss(field, x_target, x_source, mask, t)
    torch.testing.assert_close(mean, losses.mean())
    spoilt = torch.where(mask[..., None], x_target, math.nan)
    assert torch.equal(setflow.masked_fm_loss(field, spoilt, x_source, mask, t), mean)


def test_masked_samples_are_zero_in_padding_at_every_step(rng):
    seen = []

    class Field(nn.Module):
        event_ndim = 2

        def forward(self, x, t, c=None):
            seen.append(x)
            return 1 + x

    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    base, solver = setflow.StandardNormal((4, 3)), setflow.RK4(steps=5)
    x = setflow.masked_sample(Field(), base, solver, mask, sample_shape=(2,), generator=rng)
    assert x.shape == (2, 2, 4, 3)
    assert all(torch.equal(state[:, 0, 2:], torch.zeros(2, 2, 3)) for state in [*seen, x])
    # x + 1 shrinks by e on the way from noise to data
    torch.testing.assert_close(x[:, 1], (seen[0][:, 1] + 1) / math.e - 1, atol=1e-3, rtol=0)


def test_a_mask_needs_an_object_dimension():
    x, mask = normal(4, 3), torch.ones(4)
    with pytest.raises(ValueError, match="expected at least 2"):
        setflow.masked_fm_loss(setflow.VelocityField(3), x, x, mask)
    assert event_ndim_of(setflow.TransformerField(3), at_least=2) == 2
    assert event_ndim_of(setflow.VelocityField(3)) == 1


# --- nami tutorial: data, network, training ---


@pytest.fixture(scope="module")
def moons(request):
    """The tutorial's data, and its field after training, with the losses of each step.

    With `--all` these are the tutorial's 3,000 steps, else the first 1,000.
    """
    steps = STEPS if request.config.getoption("--all") else STEPS // 3
    with reproducible():
        data = sample_moons(10_000, noise=0.05)
        field = setflow.VelocityField(dim=2, hidden=128)

        def loss():
            x_target = data[torch.randint(len(data), (BATCH,))]
            return setflow.fm_loss(field, x_target, torch.randn_like(x_target))

        losses = train(field, loss, steps)
    return data, field, losses


def test_the_documents_field_has_33_794_parameters():
    field = setflow.VelocityField(dim=2, hidden=128)
    assert sum(p.numel() for p in field.parameters()) == 33_794
    assert field.event_ndim == 1


def test_the_losses_are_in_the_printed_range(moons):
    """Printed after every 500 steps: 1.03, 0.98, 0.93, 0.91, 0.94, 0.93, of single batches."""
    data, _, losses = moons
    assert distance_to_the_moons(data).mean() < 0.06
    assert losses[:10].mean() > 1.5
    printed = losses.reshape(-1, 500)[:, -50:].mean(1)
    assert ((printed > 0.9) & (printed < 1.03)).all(), printed
    assert printed[-1] < printed[0]


def test_samples_of_the_trained_field_are_moons(moons, rng):
    _, field, _ = moons
    base, solver = setflow.StandardNormal(event_shape=(2,), device="cpu"), setflow.RK4(steps=100)
    fm = setflow.FlowMatching(field=field, base=base, solver=solver, t0=1.0, t1=0.0)
    with torch.no_grad():
        x = fm(None).sample((2000,), generator=rng)
    assert x.shape == (2000, 2)
    assert distance_to_the_moons(x).median() < 0.1
    assert distance_to_the_moons(normal(2000, 2)).median() > 0.3
    assert (x.mean(0) - torch.tensor([0.5, 0.25])).abs().max() < 0.08


def test_a_trajectory_by_hand_is_eulers_method():
    """A loop with a time per point: (51, 200, 2), and its last picture is the solver's result."""
    torch.manual_seed(0)
    field, n_steps = setflow.VelocityField(2), 50
    x, dt, t = normal(200, 2), -1.0 / 50, 1.0
    start, trajectory = x, [x]
    with torch.no_grad():
        for _ in range(n_steps):
            v = field(x, torch.full((200,), t))
            x, t = x + v * dt, t + dt
            trajectory.append(x)
        trajectory = torch.stack(trajectory)
        process = setflow.FlowMatching(field, setflow.StandardNormal((2,)), setflow.Euler(n_steps))
        got = process(None).sample(x_source=start)
        halfway = setflow.Euler(25).integrate(field, start, t0=1.0, t1=0.5)
    assert trajectory.shape == (51, 200, 2)
    torch.testing.assert_close(trajectory[-1], got, atol=1e-5, rtol=0)
    torch.testing.assert_close(trajectory[25], halfway, atol=1e-5, rtol=0)
    assert (got - start).abs().max() > 0.05


# --- nami tutorial: diffusion ---


def test_the_table_of_schedules():
    """What the tutorial plots on a grid of 100 times, and its table with our corrections."""
    t = torch.linspace(0, 1, 100)
    vp = setflow.VPSchedule(beta_min=0.1, beta_max=20.0)
    alpha_bar = torch.exp(-(0.1 * t + 19.9 * t**2 / 2))
    torch.testing.assert_close(vp.alpha(t), alpha_bar.sqrt())
    torch.testing.assert_close(vp.sigma(t), (1 - alpha_bar).sqrt(), atol=1e-4, rtol=0)
    assert vp.alpha(t)[-1] < 0.01
    ve = setflow.VESchedule(sigma_min=0.01, sigma_max=50.0)
    torch.testing.assert_close(ve.sigma(t), 0.01 * 5000**t)
    edm = setflow.EDMSchedule(sigma_min=0.002, sigma_max=80.0)
    torch.testing.assert_close(edm.sigma(t)[[0, -1]], torch.tensor([0.002, 80.0]))
    torch.testing.assert_close(
        edm.sigma(t) ** (1 / 7), torch.linspace(0.002 ** (1 / 7), 80 ** (1 / 7), 100)
    )
    for schedule in (ve, edm):
        assert torch.equal(schedule.alpha(t), torch.ones(100))
    for schedule in (vp, ve, edm):
        assert (schedule.sigma(t).numpy()[1:] > schedule.sigma(t).numpy()[:-1]).all()


def test_weightings_by_the_signal_to_noise_ratio():
    snr = torch.tensor([0.25, 4.0])
    torch.testing.assert_close(setflow.SNRWeighting()(snr), snr)
    # (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 at sigma = 2 and 0.5, where alpha = 1
    expected = torch.tensor([4.25 / 1.0, 0.5 / 0.0625])
    torch.testing.assert_close(setflow.EDMWeighting(sigma_data=0.5)(snr), expected)


def test_the_preconditioned_network_of_edm():
    """D(x) = c_skip x + c_out F(c_in x, ln(sigma) / 4), here with a network that is one."""

    class Ones(nn.Module):
        event_ndim = 1

        def forward(self, x, t, c=None):
            return torch.ones_like(x)

    schedule, x, t = setflow.EDMSchedule(), normal(5, 2), torch.linspace(0.2, 1, 5)
    sigma = schedule.sigma(t)[:, None]
    got = setflow.EDMDenoiser(Ones(), schedule, sigma_data=0.5)(x, t)
    total = sigma**2 + 0.25
    torch.testing.assert_close(got, 0.25 / total * x + sigma * 0.5 / total.sqrt())


def test_the_loop_of_the_tutorial_is_in_the_package():
    """Its lines (draw a time, add noise, compare with what is predicted) are `diffusion_loss`."""
    torch.manual_seed(0)
    model, schedule = setflow.VelocityField(2), setflow.EDMSchedule(0.001, 5.0)
    x0, eps, t = normal(100, 2), normal(100, 2, seed=2), torch.rand(100)
    x_t = schedule.alpha(t)[:, None] * x0 + schedule.sigma(t)[:, None] * eps
    by_hand = (model(x_t, t) - eps).pow(2).mean()
    loss = setflow.diffusion_loss(model, x0, schedule, t, noise=eps)
    torch.testing.assert_close(loss, by_hand)


@pytest.fixture(scope="module")
def noise_predictor(moons):
    """The tutorial's second network, trained on batches of 512 for 1,500 steps, and its losses."""
    data, schedule = moons[0], setflow.EDMSchedule(sigma_min=0.001, sigma_max=5.0)
    with reproducible():
        model = setflow.VelocityField(dim=2, hidden=128)

        def loss():
            x0 = data[torch.randint(len(data), (512,))]
            return setflow.diffusion_loss(model, x0, schedule, parameterization="eps")

        losses = train(model, loss, 1500)
    return model, schedule, losses


def test_the_losses_of_the_noise_predictor_are_in_the_printed_range(noise_predictor):
    """Printed after 500 steps of larger batches: 0.63; after 1,500: 0.60; after 3,000: 0.55."""
    losses = noise_predictor[2]
    assert losses[:5].mean() > 0.9
    assert 0.6 < losses[400:500].mean() < 0.7
    assert 0.55 < losses[-100:].mean() < 0.64


@pytest.mark.parametrize("t1", [1e-3, 0.0])
@pytest.mark.parametrize("solver", [setflow.RK4(steps=100), setflow.EulerMaruyama(steps=500)])
def test_diffusion_samples_are_moons(noise_predictor, solver, t1, rng):
    """By the ODE and by the SDE, stopped early as in the tutorial and carried through to zero."""
    model, schedule, _ = noise_predictor
    diffusion = setflow.Diffusion(
        model=model, schedule=schedule, solver=solver, parameterization="eps", event_shape=(2,),
        t1=t1,
    )  # fmt: skip
    with torch.no_grad():
        x = diffusion(None).sample((500,), generator=rng)
    assert x.shape == (500, 2)
    assert distance_to_the_moons(x).median() < 0.15
    assert (x.mean(0) - torch.tensor([0.5, 0.25])).abs().max() < 0.25
    assert (x[:, 0].std() - 0.87).abs() < 0.2


# --- nami tutorial: conditions ---


def test_two_clusters_told_by_their_label(rng):
    """Train with a context, bind one class at a time, and find each cluster where it belongs."""
    x_data, c_data = sample_two_clusters(1000, generator=rng)
    for label in (0, 1):
        cluster = x_data[c_data[:, 0] == label]
        assert len(cluster) == 500
        centre = torch.tensor([2.0 * label - 1, 0.0])
        assert (cluster.mean(0) - centre).abs().max() < 0.06
    torch.manual_seed(42)
    field = setflow.VelocityField(dim=2, condition_dim=1, hidden=128, layers=2)

    def loss():
        rows = torch.randint(len(x_data), (512,), generator=rng)
        x_target, c = x_data[rows], c_data[rows]
        noise = torch.randn(x_target.shape, generator=rng)
        return setflow.fm_loss(field, x_target, noise, c=c, generator=rng)

    losses = train(field, loss, 600)
    assert 0.43 < losses[-100:].mean() < 0.52  # printed: 0.45 to 0.50
    fm = setflow.FlowMatching(
        field=field, base=setflow.StandardNormal(event_shape=(2,)), solver=setflow.RK4(steps=50)
    )
    for label in (0.0, 1.0):
        with torch.no_grad():
            x = fm(torch.full((500, 1), label)).sample((1,), generator=rng)
        assert x.shape == (1, 500, 2)
        x = x.squeeze(0)
        assert (x.mean(0) - torch.tensor([2 * label - 1, 0.0])).abs().max() < 0.12
        assert (x.std(0) - 0.3).abs().max() < 0.12


# --- nami tutorial: likelihood ---


def test_the_log_likelihood_of_the_moons_has_the_other_sign(moons):
    """The tutorial prints mean -5.17, from -9.87 to -1.36: worse than noise, which has -2.5."""
    data, field, _ = moons
    base = setflow.StandardNormal((2,))
    process = setflow.FlowMatching(field, base, setflow.RK4(steps=20))(None)
    points = data[:100]
    estimator = setflow.HutchinsonDivergence(probe="rademacher")
    with torch.no_grad():
        log_p = process.log_prob(points, estimator=estimator)
        exact = process.log_prob(points)
        z = process.solver.integrate(field, points, t0=0.0, t1=1.0)
    wrong = 2 * base.log_prob(z) - exact  # the divergence subtracted
    assert -1.2 < exact.mean() < 0
    assert (log_p.mean() - exact.mean()).abs() < 0.3
    assert base.log_prob(points).mean() < exact.mean() - 1
    assert -6.5 < wrong.mean() < -4  # what is printed there

    grid = torch.cartesian_prod(torch.linspace(-3, 4, 90), torch.linspace(-3, 3.5, 90))
    cell = (7 / 89) * (6.5 / 89)
    with torch.no_grad():
        log_p = process.log_prob(grid)
        z = process.solver.integrate(field, grid, t0=0.0, t1=1.0)
    total = cell * log_p.double().exp().sum()
    flipped = cell * (2 * base.log_prob(z) - log_p).double().exp().sum()
    assert total.item() == pytest.approx(1, abs=0.02)
    assert abs(flipped.item() - 1) > 0.2


def test_the_picture_of_the_density(moons, rng):
    """A grid of 50 x 50 as the tutorial lays it; the ridge is where the data are."""
    _, field, _ = moons
    xx, yy = torch.meshgrid(torch.linspace(-2, 3, 50), torch.linspace(-2, 2, 50), indexing="xy")
    points = torch.stack([xx.flatten(), yy.flatten()], dim=1)
    process = setflow.FlowMatching(field, setflow.StandardNormal((2,)), setflow.RK4(10))(None)
    estimator = setflow.HutchinsonDivergence()
    with torch.no_grad():
        log_p = process.log_prob(points, estimator=estimator, generator=rng).reshape(50, 50)
    assert log_p.isfinite().all()
    high = points[log_p.flatten().topk(50).indices]
    assert distance_to_the_moons(high).max() < 0.2
    low = points[(-log_p).flatten().topk(50).indices]
    assert distance_to_the_moons(low).min() > 0.5


def test_divergences_are_called_with_field_x_t_and_c(rng):
    """v = A x + c has the divergence tr A everywhere, and e^T A e is tr A on average."""
    matrix = normal(3, 3)

    class Affine(nn.Module):
        event_ndim = 1

        def forward(self, x, t, c=None):
            return x @ matrix.T + c

    x, t, c = normal(2000, 3), torch.rand(2000, generator=rng), normal(2000, 3, seed=2)
    exact = setflow.ExactDivergence()(Affine(), x, t, c)
    torch.testing.assert_close(exact, torch.full((2000,), matrix.trace().item()))
    torch.manual_seed(0)
    for probe in ("rademacher", "gaussian"):
        estimated = setflow.HutchinsonDivergence(probe=probe, n_probes=10)(Affine(), x, t, c)
        assert estimated.shape == (2000,)
        assert abs(estimated.mean() - matrix.trace()) < 0.1
        assert estimated.std() > 0.1
    with pytest.raises(ValueError, match="probe must be"):
        setflow.HutchinsonDivergence(probe="uniform")


# --- nami tutorial: extra topics ---


def test_more_steps_of_a_solver_are_better_up_to_round_off(moons):
    _, field, _ = moons
    noise, found = normal(100, 2), {}
    for n_steps in (5, 15, 50, 100, 1000):
        fm = setflow.FlowMatching(field, setflow.StandardNormal((2,)), setflow.RK4(steps=n_steps))
        with torch.no_grad():
            found[n_steps] = fm(None).sample((100,), x_source=noise)
    errors = [(found[n] - found[1000]).norm(dim=-1).mean().item() for n in (5, 15, 50, 100)]
    assert errors[0] > 10 * errors[1] > 30 * errors[2]
    assert errors[3] < 1e-4


def test_the_trained_field_is_diagnosed_as_in_the_tutorial(moons):
    """Printed: norms from 0.05 to 1.5 with mean 0.76 and standard deviation 0.35; 1e-7 there and
    back, for the 4 bytes of float32."""
    data, field, _ = moons
    x = data[:100]
    t = torch.rand(100, generator=torch.Generator().manual_seed(0))
    stats = diagnostics.field_stats(field, x, t)
    assert 0.6 < stats["mean"].item() < 0.95
    assert 0.2 < stats["std"].item() < 0.6
    assert 0 < stats["min"].item() < 0.3
    assert 1.2 < stats["max"].item() < 3
    error = diagnostics.reversibility_error(
        field=field, solver=setflow.RK4(steps=50), x=x, t0=1.0, t1=0.0
    )
    assert 1e-8 < error["mean"].item() < 1e-6
    assert error["mean"] < error["max"] < 5e-6


def test_images_are_sample_batch_and_event(rng):
    """(16,) samples for 4 contexts of images with 3 x 5 x 6 values."""

    class Images(nn.Module):
        event_ndim = 3

        def forward(self, x, t, c=None):
            return x - c[..., None, None]  # one value per channel

    context = normal(4, 3)
    process = setflow.FlowMatching(Images(), setflow.StandardNormal((3, 5, 6)), setflow.RK4(20))(
        context
    )
    noise = normal(16, 4, 3, 5, 6)
    x = process.sample((16,), x_source=noise)
    assert process.sample((16,), generator=rng).shape == (16, 4, 3, 5, 6)
    expected = context[..., None, None] + (noise - context[..., None, None]) / math.e
    torch.testing.assert_close(x, expected, atol=1e-5, rtol=0)


def test_fourier_features_help_where_the_target_is_sharp(rng):
    """A step in one coordinate: the same perceptron with and without them."""
    waves = setflow.FourierFeatures(1, 32, scale=2.0, generator=rng)
    x = torch.linspace(-1, 1, 256)[:, None]
    angle = 2 * math.pi * x * waves.matrix.flatten()
    torch.testing.assert_close(waves(x), torch.cat([angle.cos(), angle.sin()], -1))
    target = torch.sign(torch.sin(9 * x))
    errors = []
    for embed, inputs in ((lambda x: x, 1), (waves, 32)):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(inputs, 64), nn.SiLU(), nn.Linear(64, 1))
        losses = train(net, lambda: (net(embed(x)) - target).square().mean(), 300, lr=1e-2)  # noqa: B023
        errors.append(losses[-1].item())
    assert errors[1] < 0.3 * errors[0]


# --- the two pages on rectified flow ---


def test_times_are_drawn_shifted_and_weighed(rng):
    """Draw, shift by the length of the sequence, weigh: a training step of the first page."""
    even = (torch.arange(1000) + 0.5) / 1000
    for scheme, expected in (
        ("uniform", even),
        ("logit_normal", torch.special.ndtri(even).sigmoid()),
        ("mode", 1 - even - 1.29 * (torch.cos(math.pi * even / 2) ** 2 - 1 + even)),
    ):
        u = compute_density_for_timestep_sampling(scheme, 20_000, generator=rng)
        assert u.shape == (20_000,)
        assert ((u >= 0) & (u <= 1)).all()
        quantiles = torch.linspace(0.05, 0.95, 19)
        torch.testing.assert_close(
            u.quantile(quantiles), expected.quantile(quantiles), atol=0.02, rtol=0
        )
    t = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(time_shift(t, 1024), torch.tensor([0.0, 0.75, 1.0]))
    m = max(1.0, 3 * math.sqrt(65_536 / 16_384))
    torch.testing.assert_close(time_shift(t, 65_536, "sqrt"), torch.tensor([0.0, m / (m + 1), 1.0]))
    m = math.exp(0.5 + (1.15 - 0.5) * 2048 / 4096)
    torch.testing.assert_close(time_shift(t, 2048, "linear"), torch.tensor([0.0, m / (m + 1), 1.0]))
    torch.testing.assert_close(get_flow_match_loss_weight(t), torch.tensor([1.0, 2.5, 4.0]))
    with pytest.raises(ValueError, match="quadratic"):
        time_shift(t, 2048, "quadratic")


@pytest.mark.parametrize("kind", ["uniform", "logitnormal", "lognormal", "shifted", "polynomial"])
def test_a_training_step_of_a_student(kind, rng):
    """Noise data at drawn times, predict, and turn every prediction into every other."""
    cfg = SampleTimestepConfig(time_dist_type=kind)
    t = sample_timesteps(64, cfg, device=torch.device("cpu"), generator=rng)
    assert t.dtype == torch.float32
    assert ((t >= 0.001) & (t <= 0.999)).all()
    assert len(t.unique()) > 40
    x0, eps = normal(64, 5, 3), normal(64, 5, 3, seed=2)
    x_t = add_noise(x0, eps, t)
    per_event = t[:, None, None]
    torch.testing.assert_close(x_t, rf_alpha(per_event) * x0 + rf_sigma(per_event) * eps)
    flow = eps - x0
    torch.testing.assert_close(pred_x0_from_flow(flow, x_t, t), x0, atol=1e-5, rtol=0)
    close = {"atol": 2e-2, "rtol": 0}  # round-off of float32 over denominators of a thousandth
    torch.testing.assert_close(pred_noise_to_pred_x0(eps, x_t, t), x0, **close)
    torch.testing.assert_close(x0_to_eps(x0, x_t, t), eps, **close)
    torch.testing.assert_close(x0_to_flow(x0, x_t, t), flow, **close)
    exact = x0_to_flow(pred_x0_from_flow(flow.double(), x_t.double(), t), x_t.double(), t)
    torch.testing.assert_close(exact, flow.double(), atol=1e-11, rtol=0)


def test_a_student_of_many_steps_starts_at_every_rung(rng):
    t_list = [0.999, 0.75, 0.5, 0.25, 0.0]
    t = sample_from_t_list(4000, t_list, device=torch.device("cpu"), generator=rng)
    values, counts = t.unique(return_counts=True)
    torch.testing.assert_close(values.sort(descending=True).values, torch.tensor(t_list[:-1]))
    assert (counts - 1000).abs().max() < 120
    with pytest.raises(ValueError, match="0"):
        sample_from_t_list(4, [1.0, 0.5], device=torch.device("cpu"))


def test_a_trajectory_of_times_is_kept_by_its_configuration():
    assert SampleTimestepConfig(t_list=[0.9, 0.5, 0.0]).t_list == (0.9, 0.5, 0.0)
    assert SampleTimestepConfig().t_list is None


def test_one_value_per_event_meets_its_event():
    t, x = torch.tensor([2.0, 3.0]), torch.ones(2, 4, 3)
    scaled = align_right(t, x.ndim) * x
    assert torch.equal(scaled[0], torch.full((4, 3), 2.0))
    assert torch.equal(scaled[1], torch.full((4, 3), 3.0))


def test_data_of_the_readers_own(rng):
    """The README's placeholder for data, filled with the eight Gaussians."""
    x = sample_gaussians(400, generator=rng)
    loss = setflow.fm_loss(setflow.VelocityField(2), x, normal(400, 2), generator=rng)
    assert loss.item() == pytest.approx((normal(400, 2) - x).square().mean().item(), rel=0.1)
