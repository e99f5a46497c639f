"""Losses: against sums written out by hand, against each other, and at their minimiser."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import setflow
from each import each
from laws.laws import cases, redraw
from laws.subjects import Pointwise
from recorders import Recorder
from setflow.paths import ZeroGamma


@each("reduction", ["mean", "sum", "none"])
@each("shape", [(6,), (6, 3), (2, 3, 4, 2), (2, 3, 4, 5)])
def test_fm_loss_is_the_mean_squared_error_of_the_velocity(shape, reduction):
    event_ndim = {1: 0, 2: 1, 4: 2}[len(shape)]
    lead = shape[: len(shape) - event_ndim]
    x_target, x_source, t = torch.randn(shape), torch.randn(shape), torch.rand(lead)
    field = Recorder(event_ndim, lambda x, t: 2 * x)
    time = t.reshape(lead + (1,) * event_ndim)
    x_t = (1 - time) * x_target + time * x_source
    squares = ((2 * x_t - (x_source - x_target)) ** 2).reshape(*lead, -1).mean(-1)
    expected = {"mean": squares.mean(), "sum": squares.sum(), "none": squares}[reduction]
    got = setflow.fm_loss(field, x_target, x_source, t, reduction=reduction)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(field.x, x_t, atol=1e-12, rtol=0)


def test_fm_loss_of_images():
    field = Recorder(3)
    x, noise = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    got = setflow.fm_loss(field, x, noise, reduction="none")
    torch.testing.assert_close(got, ((noise - x) ** 2).mean((1, 2, 3)))


def test_masked_losses_agree_with_the_plain_ones_where_all_objects_are_real():
    field, case = redraw(Pointwise()), dict(cases())["lead1"]
    full = torch.ones_like(case.mask)
    x, noise, t = case.x, case.x_source, case.t
    schedule, z = setflow.VESchedule(), torch.randn_like(x)
    pairs = [
        (setflow.fm_loss(field, x, noise, t), setflow.masked_fm_loss(field, x, noise, full, t)),
        (
            setflow.stochastic_fm_loss(field, x, noise, t, z=z),
            setflow.masked_stochastic_fm_loss(field, x, noise, full, t, z=z),
        ),
        (
            setflow.diffusion_loss(field, x, schedule, t, noise=noise),
            setflow.masked_diffusion_loss(field, x, schedule, full, t, noise=noise),
        ),
    ]
    for plain, masked in pairs:
        assert plain > 0.01
        torch.testing.assert_close(masked, plain, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["fm", "stochastic", "diffusion"])
def test_masked_losses_are_those_of_the_real_objects_alone(name):
    """One event at a time, its real objects cut out; 0 for an event without any."""
    field, case = redraw(Pointwise()), dict(cases())["lead2"]
    z = torch.randn_like(case.x)

    def loss(masked, x, noise, t, z, *mask):
        options = {"reduction": "none"}
        if name == "diffusion":
            verb = setflow.masked_diffusion_loss if masked else setflow.diffusion_loss
            return verb(field, x, setflow.VPSchedule(), *mask, t, noise=noise, **options)
        if name == "stochastic":
            verb = setflow.masked_stochastic_fm_loss if masked else setflow.stochastic_fm_loss
            return verb(field, x, noise, *mask, t, z=z, **options)
        verb = setflow.masked_fm_loss if masked else setflow.fm_loss
        return verb(field, x, noise, *mask, t, **options)

    t = 0.1 + 0.8 * case.t
    got = loss(True, case.x, case.x_source, t, z, case.mask)
    for i in range(2):
        for j in range(3):
            keep = case.mask[i, j]
            if not keep.any():
                assert got[i, j] == 0
                continue
            cut = (value[i, j, keep][None] for value in (case.x, case.x_source, z))
            x, noise, cut_z = cut
            alone = loss(False, x, noise, t[i, j][None], cut_z)
            torch.testing.assert_close(got[i, j], alone[0], atol=1e-12, rtol=0)


def test_stochastic_loss_with_zero_gamma_is_the_plain_loss():
    field = redraw(setflow.VelocityField(3, hidden=8))
    x, noise, t = torch.randn(64, 3), torch.randn(64, 3), torch.rand(64)
    plain = setflow.fm_loss(field, x, noise, t)
    zero = setflow.stochastic_fm_loss(field, x, noise, t, gamma=ZeroGamma())
    torch.testing.assert_close(zero, plain, atol=0, rtol=0)
    brownian = setflow.stochastic_fm_loss(field, x, noise, t, z=torch.randn(64, 3))
    assert (brownian - plain).abs() > 1e-2


def test_stochastic_loss_adds_gamma_to_point_and_velocity():
    x, noise, z, t = torch.randn(8, 3), torch.randn(8, 3), torch.randn(8, 3), torch.rand(8)
    field = Recorder(1)
    got = setflow.stochastic_fm_loss(field, x, noise, t, z=z, reduction="none")
    gamma = (t * (1 - t)).sqrt()[:, None]
    gamma_dot = (1 - 2 * t)[:, None] / (2 * gamma)
    expected_x = (1 - t[:, None]) * x + t[:, None] * noise + gamma * z
    torch.testing.assert_close(field.x, expected_x, atol=1e-12, rtol=0)
    target = noise - x + gamma_dot * z
    torch.testing.assert_close(got, (target**2).mean(-1), atol=1e-10, rtol=0)


def test_stochastic_times_stay_where_the_target_has_a_variance():
    x, field = torch.randn(20_000, 1), Recorder(1)
    for gamma in (None, setflow.ScaledBrownianGamma(0.5)):
        setflow.stochastic_fm_loss(field, x, torch.randn_like(x), gamma=gamma)
        assert 1e-3 <= field.t.min() < 2e-3
        assert 0.998 < field.t.max() <= 0.999
    setflow.stochastic_fm_loss(field, x, torch.randn_like(x), gamma=ZeroGamma())
    assert field.t.min() < 1e-3
    given = torch.zeros(20_000)
    setflow.stochastic_fm_loss(field, x, torch.randn_like(x), given, gamma=ZeroGamma())
    assert torch.equal(field.t, given)


def test_the_minimiser_of_the_stochastic_loss_is_the_drift_of_the_interpolant():
    """For normal data every mean given x is linear in x: the best slope is a ratio of moments."""
    generator = torch.Generator().manual_seed(0)
    s, t, n = 0.5, 0.3, 400_000
    x, noise, z = (torch.randn(n, 1, generator=generator) for _ in range(3))
    slope = nn.Parameter(torch.zeros(()))
    field = Recorder(1, lambda x, t: slope * x)
    variance = (1 - t) ** 2 * s**2 + t**2 + t * (1 - t)
    best = (-(1 - t) * s**2 + t + 0.5 * (1 - 2 * t)) / variance
    losses = []
    for value in (best - 0.02, best + 0.02, best):
        slope.data.fill_(value)
        losses.append(setflow.stochastic_fm_loss(field, s * x, noise, t, z=z))
    assert losses[2] < min(losses[0], losses[1])
    curvature = (losses[0] + losses[1] - 2 * losses[2]).item() / 0.02**2
    (gradient,) = torch.autograd.grad(losses[2], slope)
    assert abs(gradient.item() / curvature) < 5e-3


def test_time_sampling_gives_times_and_weights():
    case, field = dict(cases())["lead1"], Recorder(2)
    times = setflow.TimeSampling(
        density="logit_normal", shift_type="linear", base_shift=-2.0, max_shift=2.0, max_len=7,
        weight_shift=3.0,
    )  # fmt: skip

    def loss(**options):
        return setflow.masked_fm_loss(
            field, case.x, case.x_source, case.mask, reduction="none",
            generator=torch.Generator().manual_seed(2), **options,
        )  # fmt: skip

    weighted = loss(times=times)
    expected_t = times.sample(
        (6,), lengths=case.mask.sum(-1), generator=torch.Generator().manual_seed(2)
    )
    torch.testing.assert_close(field.t, expected_t, atol=0, rtol=0)
    plain = loss(t=expected_t)
    torch.testing.assert_close(weighted, (1 + 3 * expected_t) * plain, atol=1e-12, rtol=0)
    given = loss(t=expected_t, times=times)
    torch.testing.assert_close(given, weighted, atol=0, rtol=0)


def test_every_loss_takes_time_sampling_and_draws_from_its_generator():
    """Weights times the loss at the drawn times; the same seed draws the same noise and times."""
    x = torch.randn(16, 3)
    times = setflow.TimeSampling(shift_type="constant", constant=3.0, weight_shift=2.0)
    schedule, weighting = setflow.VPSchedule(), setflow.MinSNRWeighting()
    verbs = {
        "stochastic": lambda field, **o: setflow.stochastic_fm_loss(field, x, x.flip(0), **o),
        "diffusion": lambda field, **o: setflow.diffusion_loss(field, x, schedule, **o),
        "weighted": lambda field, **o: setflow.diffusion_loss(
            field, x, schedule, weighting=weighting, **o
        ),
    }
    for name, verb in verbs.items():

        def loss(seed, verb=verb, **options):
            field = Recorder(1, lambda x, t: torch.sin(x))
            generator = torch.Generator().manual_seed(seed)
            value = verb(field, generator=generator, reduction="none", **options)
            return field, value

        (field, weighted), (other, again) = loss(1, times=times), loss(1, times=times)
        assert torch.equal(weighted, again), name
        assert torch.equal(field.x, other.x), name
        assert not torch.equal(loss(2, times=times)[0].x, field.x), name
        assert field.t.median() > 0.55, name
        # the same noise with the times given, and no weight
        noise = {"stochastic": "z"}.get(name, "noise")
        drawn = {}
        if name != "stochastic":
            alpha, sigma = schedule.alpha(field.t)[:, None], schedule.sigma(field.t)[:, None]
            drawn[noise] = (field.x - alpha * x) / sigma
        else:
            line = (1 - field.t[:, None]) * x + field.t[:, None] * x.flip(0)
            drawn[noise] = (field.x - line) / (field.t * (1 - field.t)).sqrt()[:, None]
        plain = verb(Recorder(1, lambda x, t: torch.sin(x)), t=field.t, reduction="none", **drawn)
        torch.testing.assert_close(weighted, (1 + 2 * field.t) * plain, atol=1e-8, rtol=1e-8)


def test_a_plain_vector_is_one_object():
    """Times that depend on the number of objects see one, whatever the number of features."""
    times = setflow.TimeSampling(shift_type="linear", base_shift=0.0, max_shift=3.0, max_len=10)
    vectors, sets = torch.randn(8, 7), torch.randn(8, 7, 2)
    for x, count in ((vectors, 1), (sets, 7)):
        field = Recorder(x.ndim - 1)
        generator = torch.Generator().manual_seed(0)
        setflow.fm_loss(field, x, x, times=times, generator=generator)
        lengths = torch.full((8,), count)
        expected = times.sample((8,), lengths=lengths, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(field.t, expected, atol=0, rtol=0)


@pytest.mark.parametrize("word", ["median", "", None])
def test_an_unknown_reduction_is_refused(word):
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none'"):
        setflow.fm_loss(Recorder(1), x, x, reduction=word)


def test_bad_input_is_refused():
    x = torch.randn(4, 5, 3)
    field, schedule = Recorder(2), setflow.VPSchedule()
    with pytest.raises(ValueError, match="unknown parameterization 'noise'"):
        setflow.diffusion_loss(field, x, schedule, parameterization="noise")
    with pytest.raises(ValueError, match=r"noise has shape \(4, 5, 1\)"):
        setflow.diffusion_loss(field, x, schedule, noise=x[..., :1])
    with pytest.raises(ValueError, match=r"z has shape \(5, 3\)"):
        setflow.stochastic_fm_loss(field, x, x, z=x[0])
    with pytest.raises(ValueError, match=r"x_source has shape \(4, 5, 1\)"):
        setflow.fm_loss(field, x, x[..., :1])
    with pytest.raises(ValueError, match=r"t has shape \(5,\), expected a scalar or \(4,\)"):
        setflow.fm_loss(field, x, x, torch.rand(5))
    with pytest.raises(ValueError, match="expected a floating dtype"):
        setflow.fm_loss(field, x > 0, x)
    with pytest.raises(ValueError, match=r"x_source has dtype .*float32, x_target .*float64"):
        setflow.fm_loss(field, x, x.float())
    with pytest.raises(ValueError, match="event_ndim"):
        setflow.fm_loss(nn.Linear(3, 3), x, x)
    for verb in (setflow.masked_fm_loss, setflow.masked_stochastic_fm_loss):
        with pytest.raises(ValueError, match="event_ndim=1, expected at least 2"):
            verb(Recorder(1), x, x, torch.ones(4, 5))
        with pytest.raises(ValueError, match=r"mask has shape \(4,\)"):
            verb(field, x, x, torch.ones(4))
    with pytest.raises(ValueError, match="event_ndim=1, expected at least 2"):
        setflow.masked_diffusion_loss(Recorder(1), x, schedule, torch.ones(4, 5))
    for weighting in (setflow.MinSNRWeighting, setflow.EDMWeighting):
        with pytest.raises(ValueError, match="must be positive"):
            weighting(0.0)


class Zero(nn.Module):
    event_ndim = 1

    def forward(self, x, t, c=None):
        return torch.zeros_like(x)


class ShortPath(setflow.ProbabilityPath):
    def sample_xt(self, x_target, x_source, t):
        return x_target

    def target_ut(self, x_target, x_source, t):
        return x_target[..., :1]


class ShortGamma:
    def gamma(self, t):
        return t[:1]

    def gamma_dot(self, t):
        return t


def test_nothing_that_a_user_supplies_is_broadcast():
    """A path, a gamma, a weighting or a schedule that gives another shape is refused."""
    x, field, vp = torch.randn(6, 8), Zero(), setflow.VPSchedule()

    class MeanSigma(setflow.VPSchedule):
        def sigma(self, t):
            return super().sigma(t).mean()

    with pytest.raises(ValueError, match=r"target with shape \(6, 1\)"):
        setflow.fm_loss(field, x, x, path=ShortPath())
    with pytest.raises(ValueError, match=r"gamma has shape \(1,\) at t of shape \(6,\)"):
        setflow.stochastic_fm_loss(field, x, x, gamma=ShortGamma())
    for weighting in (lambda snr: snr[:, None], lambda snr: snr.mean()):
        with pytest.raises(ValueError, match="expected \\(6,\\): one per event"):
            setflow.diffusion_loss(field, x, vp, weighting=weighting)
    with pytest.raises(ValueError, match=r"sigma has shape \(\) at t of shape \(6,\)"):
        setflow.diffusion_loss(field, x, MeanSigma())
    with pytest.raises(TypeError, match="expected a NoiseSchedule"):
        setflow.diffusion_loss(field, x, "vp")
