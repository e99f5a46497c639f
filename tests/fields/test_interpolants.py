"""Score and drift of stochastic interpolants, against densities that are known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import setflow
from each import each
from laws.laws import LAWS, Case, cases, law_same, redraw
from laws.subjects import Pointwise, sample_of, velocity_of
from setflow.fields import DriftFromVelocityScore, MirrorVelocityFromScore, ScoreFromNoise
from setflow.paths import BrownianGamma, GammaSchedule, ScaledBrownianGamma, ZeroGamma
from setflow.paths.gamma import as_gamma
from user_gammas import PlainGamma, SineGamma, derivative, named


class Known(nn.Module):
    """A function of (x, t), for x of shape (*lead, 1) and t of shape (*lead, 1), as a field."""

    event_ndim = 1

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x, t, c=None):
        return self.f(x, t[..., None])


@dataclass(frozen=True)
class Mixture:
    """x_t = I + gamma z in one dimension; data are a mixture, the source is N(0, 1).

    With `mirror`, I = x_target at all times; otherwise I = (1 - t) x_target + t x_source.
    """

    gamma: GammaSchedule
    mirror: bool = False
    weights: tuple[float, ...] = (0.3, 0.7)
    locs: tuple[float, ...] = (-1.5, 1.0)
    scales: tuple[float, ...] = (0.3, 0.5)

    def parts(self, t):
        """Mean and variance of each component, and the covariance of dI/dt with x_t."""
        loc, scale = torch.tensor(self.locs), torch.tensor(self.scales)
        noise = self.gamma.gamma(t) ** 2
        if self.mirror:
            return loc + 0 * t, scale**2 + noise, 0 * loc * t
        mean, variance = (1 - t) * loc, ((1 - t) * scale) ** 2 + t**2 + noise
        return mean, variance, t - (1 - t) * scale**2

    def weighted_logs(self, x, t):
        mean, variance, _ = self.parts(t)
        log_p = -((x - mean) ** 2) / (2 * variance) - (2 * math.pi * variance).log() / 2
        return log_p + torch.tensor(self.weights).log()

    def log_density(self, x, t):
        return self.weighted_logs(x, t).logsumexp(-1, keepdim=True)

    def cdf(self, x, t):
        mean, variance, _ = self.parts(t)
        part = torch.special.ndtr((x - mean) / variance.sqrt())
        return (part * torch.tensor(self.weights)).sum(-1, keepdim=True)

    def posterior_mean(self, per_component, x, t):
        return (self.weighted_logs(x, t).softmax(-1) * per_component).sum(-1, keepdim=True)

    def eta(self, x, t):
        """E[z | x]: in each component Cov(z, x_t) / Var(x_t) is gamma / variance."""
        mean, variance, _ = self.parts(t)
        return self.posterior_mean(self.gamma.gamma(t) * (x - mean) / variance, x, t)

    def velocity(self, x, t):
        mean, variance, covariance = self.parts(t)
        drift_of_mean = 0.0 if self.mirror else -torch.tensor(self.locs)
        return self.posterior_mean(drift_of_mean + covariance / variance * (x - mean), x, t)

    def score(self, x, t):
        mean, variance, _ = self.parts(t)
        return self.posterior_mean((mean - x) / variance, x, t)


SCHEDULES = (BrownianGamma(), ScaledBrownianGamma(2.5), SineGamma())


POINTS = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None]


def single(gamma: GammaSchedule) -> Mixture:
    return Mixture(gamma, weights=(1.0,), locs=(1.5,), scales=(0.4,))


@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
@pytest.mark.parametrize("gamma", [*SCHEDULES, PlainGamma()], ids=named)
def test_score_from_noise_is_the_gradient_of_the_log_density(gamma, t):
    mixture, x = Mixture(as_gamma(gamma)), POINTS.clone().requires_grad_()
    (expected,) = torch.autograd.grad(mixture.log_density(x, torch.tensor(t)).sum(), x)
    score = ScoreFromNoise(Known(mixture.eta), gamma)(POINTS, t)
    torch.testing.assert_close(score, expected)
    torch.testing.assert_close(mixture.score(POINTS, torch.tensor(t)), expected)
    assert (score + expected).abs().max() > 1  # the opposite sign is another answer


@pytest.mark.parametrize("t", [0.0, 0.05, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("gamma", SCHEDULES, ids=named)
def test_drift_from_velocity_score_moves_mean_and_width_of_a_gaussian(gamma, t):
    """For N(m(t), V(t)) the drift is m' + V' / (2 V) (x - m): closed form, V' by autograd."""
    problem, time = single(gamma), torch.tensor(t)
    drift = DriftFromVelocityScore(Known(problem.velocity), Known(problem.score), gamma)(POINTS, t)
    (mean,), (variance,), _ = problem.parts(time)
    plain = derivative(lambda t: ((1 - t) * 0.4) ** 2 + t**2, time)  # and the noise, at its limit
    growth = plain + 2 * gamma.gamma_gamma_dot(time)
    torch.testing.assert_close(drift, -1.5 + growth / (2 * variance) * (POINTS - mean))


def test_noise_score_and_drift_are_the_regressions_of_simulated_interpolants():
    """Among Gaussians a mean given x_t is a line, and its slope a ratio of simulated moments."""
    generator = torch.Generator().manual_seed(7)
    n, gamma, t = 400_000, ScaledBrownianGamma(2.0), torch.tensor(0.3)
    target = 1.5 + 0.4 * torch.randn(n, generator=generator)
    source = torch.randn(n, generator=generator)
    z = torch.randn(n, generator=generator)
    x = (1 - t) * target + t * source + gamma.gamma(t) * z

    def regressed(y: Tensor):
        slope = ((x - x.mean()) * (y - y.mean())).mean() / x.var()
        return lambda at, time: y.mean() + slope * (at - x.mean())

    score = ScoreFromNoise(Known(regressed(z)), gamma)
    problem = single(gamma)
    tolerance = {"rtol": 0, "atol": 0.03}
    torch.testing.assert_close(score(POINTS, t), problem.score(POINTS, t), **tolerance)
    path_velocity = source - target
    drift = DriftFromVelocityScore(Known(regressed(path_velocity)), score, gamma)(POINTS, t)
    expected = regressed(path_velocity + gamma.gamma_dot(t) * z)(POINTS, t)
    torch.testing.assert_close(drift, expected)  # an identity of regressions: no noise in it
    exact = DriftFromVelocityScore(Known(problem.velocity), Known(problem.score), gamma)(POINTS, t)
    torch.testing.assert_close(drift, exact, **tolerance)
    assert (2 * gamma.gamma_gamma_dot(t) * score(POINTS, t)).abs().max() > 1  # the other sign


def worst_change_of_cdf(mixture: Mixture, drift, start: float, end: float) -> float:
    """In one dimension a flow carries rho_start into rho_end if and only if F_t(x(t)) stands."""
    grid = torch.linspace(-1.5, 1.5, 31)[:, None]
    with torch.no_grad():
        moved = setflow.RK4(100).integrate(drift, grid, t0=start, t1=end)
    before = mixture.cdf(grid, torch.tensor(start))
    return (mixture.cdf(moved, torch.tensor(end)) - before).abs().max().item()


@pytest.mark.parametrize("gamma", [*SCHEDULES, ZeroGamma()], ids=named)
def test_the_flow_of_drift_from_velocity_score_carries_noise_into_data(gamma):
    mixture = Mixture(gamma)
    velocity, score = Known(mixture.velocity), Known(mixture.score)
    assert worst_change_of_cdf(mixture, DriftFromVelocityScore(velocity, score, gamma), 1, 0) < 1e-6
    if not isinstance(gamma, ZeroGamma):
        flipped = DriftFromVelocityScore(velocity, Known(lambda x, t: -mixture.score(x, t)), gamma)
        assert worst_change_of_cdf(mixture, flipped, 1, 0.5) > 0.01


def test_the_whole_chain_from_noise_prediction_to_data():
    """eta gives the score, the score the drift, the drift the data; inside the time range."""
    mixture = Mixture(BrownianGamma())
    score = ScoreFromNoise(Known(mixture.eta), mixture.gamma)
    drift = DriftFromVelocityScore(Known(mixture.velocity), score, mixture.gamma)
    low, high = mixture.gamma.time_range
    assert worst_change_of_cdf(mixture, drift, high, low) < 1e-6


@pytest.mark.parametrize("gamma", SCHEDULES, ids=named)
def test_mirror_velocity_from_score_carries_data_into_noisier_data_and_back(gamma):
    mixture = Mixture(gamma, mirror=True)
    mirror = MirrorVelocityFromScore(Known(mixture.score), gamma)
    assert worst_change_of_cdf(mixture, mirror, 0.0, 0.5) < 1e-6
    flipped = MirrorVelocityFromScore(Known(lambda x, t: -mixture.score(x, t)), gamma)
    assert worst_change_of_cdf(mixture, flipped, 0.0, 0.25) > 0.01
    grid = torch.linspace(-2, 2, 21)[:, None]
    half_way = setflow.RK4(100).integrate(mirror, grid, t0=0.0, t1=0.5)
    assert (half_way - grid).abs().max() > 0.1
    torch.testing.assert_close(
        setflow.RK4(100).integrate(mirror, half_way, t0=0.5, t1=1.0), grid, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_score_is_finite_where_gamma_vanishes(dtype):
    score = ScoreFromNoise(Known(lambda x, t: x), ZeroGamma())
    x = torch.tensor([[1e-3], [-1e-3]], dtype=dtype)
    value = score(x, 0.0)
    assert value.isfinite().all()
    assert value[0] < -1 < 1 < value[1]
    coarse = ScoreFromNoise(Known(lambda x, t: x), ZeroGamma(), eps=0.5)
    torch.testing.assert_close(coarse(x, 0.0), -2 * x)


def test_without_added_noise_the_drift_is_the_velocity():
    v, score = Known(lambda x, t: x * t), Known(lambda x, t: 3 * x)
    assert torch.equal(DriftFromVelocityScore(v, score, ZeroGamma())(POINTS, 0.3), 0.3 * POINTS)
    mirrored = MirrorVelocityFromScore(score, ZeroGamma())(POINTS, 0.3)
    assert torch.equal(mirrored, 0 * POINTS)


def wrappers(model, other, gamma=BrownianGamma()):  # noqa: B008 (frozen)
    return {
        "score": ScoreFromNoise(model, gamma),
        "drift": DriftFromVelocityScore(model, ScoreFromNoise(other, gamma), gamma),
        "mirror": MirrorVelocityFromScore(model, gamma),
    }


@pytest.mark.parametrize("name", ["score", "drift", "mirror"])
def test_each_event_has_its_own_time(name):
    wrapper = wrappers(Known(lambda x, t: x), Known(lambda x, t: x * t))[name]
    x, t = torch.randn(4, 3, 1), torch.rand(4, 3)
    expected = torch.stack([wrapper(x[i, j], t[i, j]) for i in range(4) for j in range(3)])
    torch.testing.assert_close(wrapper(x, t).flatten(0, 1), expected)
    for wrong in (torch.rand(3), torch.rand(4, 3, 1), torch.rand(4, 1)):
        with pytest.raises(ValueError, match="one time per event"):
            wrapper(x, wrong)


@pytest.mark.parametrize("name", ["score", "drift", "mirror"])
def test_the_context_reaches_every_model(name):
    fields = [redraw(setflow.VelocityField(2, 8, condition_dim=1), seed) for seed in (1, 2)]
    wrapper = wrappers(*fields)[name]
    x = torch.randn(5, 2)
    one, other = (wrapper(x, 0.3, torch.full((5, 1), c)) for c in (0.0, 1.0))
    assert (one - other).abs().min() > 1e-6
    with pytest.raises(ValueError, match="got no context"):
        wrapper(x, 0.3)
    scores = [
        DriftFromVelocityScore(Known(lambda x, t: x), fields[0], BrownianGamma())(x, 0.3, c)
        for c in (torch.zeros(5, 1), torch.ones(5, 1))
    ]
    assert (scores[0] - scores[1]).abs().min() > 1e-6


def test_models_of_different_events_do_not_combine():
    with pytest.raises(ValueError, match="event_ndim=1 and score_model has event_ndim=2"):
        DriftFromVelocityScore(Known(torch.mul), Pointwise(), BrownianGamma())
    with pytest.raises(ValueError, match="no integer attribute event_ndim"):
        ScoreFromNoise(nn.Linear(2, 2), BrownianGamma())


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="eps must be positive, got 0"):
        ScoreFromNoise(Pointwise(), BrownianGamma(), eps=0.0)
    score = ScoreFromNoise(Known(torch.mul), BrownianGamma())
    with pytest.raises(ValueError, match="event_ndim=1, expected at least 2"):
        score(torch.zeros(4, 1), 0.5, mask=torch.ones(4))
    sets = ScoreFromNoise(Pointwise(), BrownianGamma())
    for mask in (torch.ones(5), torch.ones(2, 4), torch.full((2, 5), 0.5)):
        with pytest.raises(ValueError, match=r"mask (has shape|holds the value)"):
            sets(torch.zeros(2, 5, 3), 0.5, mask=mask)


def test_a_schedule_must_answer_with_one_value_per_time():
    class Wide(SineGamma):
        def gamma(self, t):
            return torch.ones(5)

        def gamma_gamma_dot(self, t):
            return torch.ones(5)

    for wrapper in wrappers(Pointwise(), Pointwise(), Wide()).values():
        with pytest.raises(ValueError, match="expected one value per time"):
            wrapper(torch.zeros(2, 5, 3), 0.5)


def test_a_learned_schedule_is_trained_with_its_wrapper():
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.size = nn.Parameter(torch.tensor(0.7))

        def gamma(self, t):
            return self.size * torch.sin(math.pi * t)

        def gamma_dot(self, t):
            return self.size * math.pi * torch.cos(math.pi * t)

    for wrapper in wrappers(Pointwise(), Pointwise(), Learned()).values():
        names = [name for name, _ in wrapper.named_parameters() if name.endswith("schedule.size")]
        assert names
        wrapper(torch.randn(2, 5, 3), 0.3).square().sum().backward()
        assert wrapper.gamma_schedule.size.grad.abs() > 0


def _transformer(seed: int) -> nn.Module:
    return redraw(setflow.TransformerField(3, hidden=16, layers=1, heads=2), seed)


MODELS = {
    "mixing": lambda: (_transformer(1), _transformer(2)),
    "pointwise": lambda: (redraw(Pointwise(), 1), redraw(Pointwise(), 2)),
    "one of each": lambda: (_transformer(1), redraw(Pointwise(), 2)),
}


@each("law", LAWS)
@each("models", MODELS)
@each("name", ["score", "drift", "mirror"])
def test_the_laws_hold_for_sets(name, models, law):
    wrapper = wrappers(*MODELS[models]())[name]
    for lead, case in cases():
        if law != "emptiness" or lead != "lead0":  # the one event of lead0 has objects
            LAWS[law](velocity_of(wrapper), case)


@pytest.mark.parametrize("models", MODELS)
def test_the_laws_hold_for_samples_of_the_drift(models):
    """Through the verb: the drift declares `takes_mask` when one of its models does."""
    velocity, score = MODELS[models]()
    drift = DriftFromVelocityScore(velocity, score, BrownianGamma())
    assert drift.takes_mask == (models != "pointwise")
    case: Case = dict(cases())["lead1"]
    for law in ("content", "length", "order", "emptiness"):
        LAWS[law](sample_of(drift), case)


@pytest.mark.parametrize("name", ["score", "drift", "mirror"])
def test_models_that_know_masks_are_given_them(name):
    for _, case in cases():
        law_same(lambda probe: velocity_of(wrappers(probe, probe)[name]), case)


@pytest.mark.parametrize("name", ["score", "drift", "mirror"])
def test_mixing_survives_the_wrappers(name):
    wrapper, x = wrappers(*MODELS["mixing"]())[name], torch.randn(2, 5, 3)
    mask = torch.ones(2, 5).bool()
    moved = x.clone()
    moved[:, 0] += 1
    change = wrapper(moved, 0.3, mask=mask) - wrapper(x, 0.3, mask=mask)
    assert change[:, 1:].abs().amax((1, 2)).min() > 1e-3
