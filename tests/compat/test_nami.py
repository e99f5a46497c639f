"""What nami's users rely on: its shapes and defaults, its documents' examples, and the right signs.

The examples are those of its README, its tutorial and its page on masks, told in other words.
"""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

import setflow
import setflow.compat.nami as nami
from setflow.compat.nami.core.broadcast import broadcast
from setflow.compat.nami.core.specs import flatten_event, unflatten_event, validate_shapes
from setflow.compat.nami.debug import describe
from setflow.compat.nami.distributions.base import expand_distribution, has_rsample
from setflow.compat.nami.fields import diffusion as conversions
from setflow.compat.nami.paths.base import ProbabilityPath
from setflow.compat.nami.schedules.base import NoiseSchedule


class Decay(nn.Module):
    """v = -x + the sum of the context: x(0) = e x(1) - (e - 1) sum."""

    def __init__(self, event_ndim):
        super().__init__()
        self._event_ndim = event_ndim

    @property
    def event_ndim(self):
        return self._event_ndim

    def forward(self, x, t, c=None):
        shift = 0 if c is None else c.sum(-1).reshape(c.shape[:-1] + (1,) * self.event_ndim)
        return -x + shift


# --- the shape of masked samples ---


def mask_of(*lead):
    mask = torch.ones(*lead, 6)
    mask[..., 4:] = 0
    return mask


@pytest.mark.parametrize(
    ("mask", "sample_shape", "base_batch", "lead"),
    [
        ((4,), (4,), (), (4,)),  # one sample per row of the mask
        ((), (2, 3), (), (2, 3)),
        ((4,), (2, 4), (), (2, 4)),
        ((1,), (4,), (), (4,)),
        ((4,), (2,), (4,), (2, 4)),
        ((4,), (4,), (4,), (4, 4)),
        ((), (2,), (4,), (2, 4)),
        ((4,), (), (), (4,)),  # refused in nami
        ((4,), (2,), (), (2, 4)),  # refused in nami
    ],
)
def test_masked_samples_have_namis_shape(mask, sample_shape, base_batch, lead):
    base = nami.StandardNormal((6, 3), batch_shape=base_batch)
    x = nami.masked_sample(
        Decay(2), base, nami.RK4(steps=4), mask_of(*mask), sample_shape=sample_shape
    )
    assert x.shape == (*lead, 6, 3)
    assert (x[..., 4:, :] == 0).all()
    assert (x[..., :4, :] != 0).all()


def test_the_library_keeps_sample_shape_and_batch():
    base, mask = setflow.StandardNormal((6, 3)), mask_of(4)
    x = setflow.masked_sample(Decay(2), base, setflow.RK4(4), mask, sample_shape=(4,))
    assert x.shape == (4, 4, 6, 3)


@pytest.mark.parametrize("sample_shape", [(4,), (2, 4)])
def test_a_context_goes_with_its_row_of_the_mask(sample_shape):
    """x(1) = 0, so that x(0) tells the context."""
    base = nami.DiagonalNormal(torch.zeros(3), torch.full((3,), 1e-9))
    c = torch.arange(4.0)[:, None]
    x = nami.masked_sample(
        Decay(2), base, nami.RK4(steps=50), mask_of(4), sample_shape=sample_shape, c=c
    )
    expected = ((1 - math.e) * c[..., None] * mask_of(4)[..., None]).expand(*sample_shape, 6, 3)
    torch.testing.assert_close(x, expected, atol=1e-6, rtol=0)


def test_every_event_has_its_own_padding():
    counts = torch.tensor([0, 3, 1, 6])
    mask = (torch.arange(6) < counts[:, None]).long()
    base = nami.StandardNormal((6, 3))
    x = nami.masked_sample(Decay(2), base, nami.Heun(steps=3), mask, sample_shape=(4,))
    assert torch.equal((x != 0).all(-1), mask.bool())


# --- tolerances ---


@pytest.mark.parametrize("solver", [nami.RK4(steps=8), nami.Heun(steps=8)])
def test_tolerances_are_accepted_with_a_warning_and_do_nothing(solver):
    def f(x, t):
        return -x

    def f_aug(x, t):
        return -x, -torch.ones(5)

    x0, ends = torch.ones(5), {"t0": 0.0, "t1": 1.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = solver.integrate(f, x0, **ends)
        both = solver.integrate_augmented(f_aug, x0, torch.zeros(5), **ends)
    for tolerances in ({"atol": 1e-6}, {"rtol": 1e-5}, {"atol": 1e-6, "rtol": 1e-5}):
        with pytest.warns(UserWarning, match="fixed steps ignores atol and rtol") as first:
            got = solver.integrate(f, x0, **ends, **tolerances)
        with pytest.warns(UserWarning, match="fixed steps ignores atol and rtol") as second:
            got_both = solver.integrate_augmented(f_aug, x0, torch.zeros(5), **ends, **tolerances)
        assert {warning.filename for warning in [*first, *second]} == {__file__}
        assert torch.equal(got, plain)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(got_both, both, strict=True))
    assert (plain - math.exp(-1)).abs().max() < 5e-3
    with pytest.raises(TypeError, match="atol"):
        setflow.RK4(8).integrate(f, x0, **ends, atol=1e-6)


def test_solvers_serve_the_verbs_of_the_library():
    field = setflow.GaussianSetField(torch.zeros(3), torch.full((3,), 0.5), coupling=2.0)
    noise, mask = torch.randn(4, 6, 3), mask_of(4)
    draws = [
        setflow.masked_sample(field, setflow.StandardNormal((3,)), solver, mask, x_source=noise)
        for solver in (nami.RK4(steps=5), setflow.RK4(steps=5))
    ]
    assert torch.equal(*draws)


# --- defaults ---


def test_a_velocity_field_has_namis_width_and_counts_hidden_layers():
    def numbers(field):
        return sum(p.numel() for p in field.parameters())

    assert numbers(nami.VelocityField(2, hidden=128)) == 33_794  # printed in the tutorial
    assert numbers(nami.VelocityField(2)) == numbers(setflow.VelocityField(2, hidden=256))
    two = nami.VelocityField(2, hidden=8, condition_dim=1, layers=2)
    assert sum(isinstance(part, nn.SiLU) for part in two.net) == 2
    x, t, c = torch.randn(5, 2), torch.rand(5), torch.randn(5, 1)
    torch.testing.assert_close(two(x, t, c), two.net(torch.cat([x, t[:, None], c], -1)))


def test_the_exact_divergence_refuses_more_than_16_coordinates():
    x, t = torch.randn(2, 17), torch.rand(2)
    with pytest.raises(ValueError, match="16"):
        nami.ExactDivergence()(Decay(1), x, t)
    for divergence in (nami.ExactDivergence(max_dim=17), setflow.ExactDivergence()):
        torch.testing.assert_close(divergence(Decay(1), x, t), torch.full((2,), -17.0))
    torch.testing.assert_close(
        nami.ExactDivergence()(Decay(1), x[:, :16], t), torch.full((2,), -16.0)
    )


# --- what is in nami alone ---


@pytest.mark.parametrize(
    ("x", "t", "c", "lead"),
    [
        ((5, 2, 3), (5,), (5, 4), (5,)),
        ((2, 3), (5,), None, (5,)),
        ((7, 5, 2, 3), (), (5, 4), (7, 5)),
        ((5, 2, 3), None, (1, 4), (5,)),
    ],
)
def test_broadcast_gives_all_one_lead_shape(x, t, c, lead):
    x, t, c = (None if shape is None else torch.randn(shape) for shape in (x, t, c))
    wide, time, context = broadcast(x, t, c, event_ndim=2)
    torch.testing.assert_close(wide, x + torch.zeros(*lead, 2, 3))
    if t is not None:
        torch.testing.assert_close(time, t + torch.zeros(lead))
    if c is not None:
        torch.testing.assert_close(context, c + torch.zeros(*lead, 4))
    assert (time is None, context is None) == (t is None, c is None)


def test_broadcast_refuses_what_does_not_fit():
    x, t, c = torch.zeros(5, 3), torch.zeros(4), torch.zeros(())
    with pytest.raises(ValueError, match="do not broadcast"):
        broadcast(x, t, None, event_ndim=1)
    with pytest.raises(RuntimeError):
        broadcast(x, t, None, event_ndim=1, validate_args=False)
    with pytest.raises(ValueError, match="expected a context"):
        broadcast(x, None, c, event_ndim=1)
    assert broadcast(x, None, c, event_ndim=1, validate_args=False)[2] is c


def test_describe_tells_shapes():
    text = describe(torch.zeros(8, 30, 3), torch.zeros(8, 2), torch.zeros(8), event_ndim=2)
    x, c, t = text.splitlines()
    assert x.startswith("x: shape (8, 30, 3), lead (8,), event (30, 3), torch.float")
    assert c.startswith("c: shape (8, 2), torch.float")
    assert t.endswith("cpu")
    assert describe() == ""


def test_bases_are_expanded_by_a_function():
    base = nami.StandardNormal((3,))
    assert expand_distribution(base, ()) is base
    assert expand_distribution(base, (8,)).sample((2,)).shape == (2, 8, 3)
    laplace = torch.distributions.Laplace(0.0, 1.0)
    assert expand_distribution(laplace, (8,)).batch_shape == (8,)
    with pytest.raises(ValueError, match="no method expand"):
        expand_distribution(setflow.as_base(laplace), (8,))
    assert has_rsample(base)
    assert has_rsample(laplace)
    assert not has_rsample(torch.distributions.Poisson(1.0))


@pytest.mark.parametrize("lead", [(), (5,)])
def test_conversions_by_coefficients(lead):
    alpha, sigma = 0.2 + torch.rand(lead), 0.2 + torch.rand(lead)
    x0, eps = torch.randn(5, 4, 3), torch.randn(5, 4, 3)
    a, s = (value.reshape(*lead, 1, 1) for value in (alpha, sigma))
    x, score = a * x0 + s * eps, -eps / s
    torch.testing.assert_close(conversions.eps_to_score(eps, sigma), score)
    torch.testing.assert_close(conversions.score_to_eps(score, sigma), eps)
    torch.testing.assert_close(conversions.eps_to_x0(x, eps, alpha, sigma), x0)
    torch.testing.assert_close(conversions.x0_to_eps(x, x0, alpha, sigma), eps)
    torch.testing.assert_close(conversions.score_to_x0(x, score, alpha, sigma), x0)
    torch.testing.assert_close(conversions.x0_to_score(x, x0, alpha, sigma), score)


# --- signs: right here, wrong there ---


def test_log_densities_integrate_to_one():
    """nami has the volume with the other sign: a density of e^2, or e^-2, in all."""
    process = nami.FlowMatching(Decay(1), nami.StandardNormal((1,)), nami.RK4(steps=40))(None)
    x = torch.linspace(-25, 25, 4001)[:, None]
    for estimator in (None, nami.ExactDivergence()):
        total = process.log_prob(x, estimator=estimator).exp().sum() * (50 / 4000)
        assert total.item() == pytest.approx(1, abs=1e-5)


def test_a_score_is_the_gradient_of_the_log_density():
    """Data at zero, noise at zero: x_t = gamma z, of which log p = -x^2 / (2 gamma^2)."""
    gamma = nami.BrownianGamma()

    class Noise(nn.Module):
        event_ndim = 1

        def forward(self, x, t, c=None):
            return x / gamma.gamma(t)[:, None]

    x, t = torch.randn(9, 2), torch.linspace(0.1, 0.9, 9)
    score = nami.ScoreFromNoise(Noise(), gamma)(x, t)
    torch.testing.assert_close(score, -x / (t * (1 - t))[:, None])


# --- the documents' examples ---


class TwoLayers(nn.Module):
    """A field as nami's README has its users write it."""

    def __init__(self, dim, context=0, width=32):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim + 1 + context, width), nn.SiLU(), nn.Linear(width, dim)
        )

    @property
    def event_ndim(self):
        return 1

    def forward(self, x, t, c=None):
        time = t.unsqueeze(-1).expand(*x.shape[:-1], 1)
        return self.net(torch.cat([x, time] if c is None else [x, time, c], -1))


def test_train_bind_and_sample():
    field = TwoLayers(8)
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        x_target = 3 + 0.1 * torch.randn(64, 8)
        loss = nami.fm_loss(field, x_target, torch.randn_like(x_target))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    fm = nami.FlowMatching(field, nami.StandardNormal(event_shape=(8,)), nami.RK4(steps=32))
    with torch.no_grad():
        x = fm(None).sample((64,))
    assert x.shape == (64, 8)
    assert (x.mean() - 3).abs() < 1


def test_sample_for_a_context():
    field = TwoLayers(8, context=4)
    fm = nami.FlowMatching(field, nami.StandardNormal(event_shape=(8,)), nami.RK4(steps=8))
    process = fm(torch.randn(16, 4))
    assert process.sample((1,)).shape == (1, 16, 8)
    assert process.rsample((2,)).requires_grad
    x = torch.randn(16, 8)
    log_p = process.log_prob(x, estimator=nami.HutchinsonDivergence(probe="rademacher"))
    assert log_p.shape == (16,)


@pytest.mark.parametrize("solver", [nami.RK4(steps=20), nami.EulerMaruyama(steps=20), nami.Heun(9)])
@pytest.mark.parametrize("parameterization", ["eps", "score", "x0"])
def test_diffusion_with_any_solver(solver, parameterization):
    diffusion = nami.Diffusion(
        model=TwoLayers(8),
        schedule=nami.VPSchedule(beta_min=0.1, beta_max=20.0),
        solver=solver,
        parameterization=parameterization,
        event_shape=(8,),
        t1=1e-3,
    )
    with torch.no_grad():
        x = diffusion(None).sample((16,))
    assert x.shape == (16, 8)
    assert x.isfinite().all()


def test_diffusion_of_numbers():
    """Events without dimensions, and a context whose batch stands behind the samples."""

    class Nothing(nn.Module):
        event_ndim = 0

        def forward(self, x, t, c=None):
            return torch.zeros_like(x)

    model = nami.UnconditionalField(Nothing())
    diffusion = nami.Diffusion(
        model, nami.EDMSchedule(), nami.Heun(4), parameterization="eps", event_shape=(), t1=1e-3
    )
    assert diffusion().sample(sample_shape=(10, 2)).shape == (10, 2)
    assert diffusion(torch.randn(3, 2)).sample((5,)).shape == (5, 3)


def test_schedules_have_the_printed_coefficients():
    t = torch.linspace(0, 1, 11)
    vp, ve = nami.VPSchedule(0.1, 20.0), nami.VESchedule(sigma_min=0.01, sigma_max=50.0)
    edm = nami.EDMSchedule(sigma_min=0.002, sigma_max=80.0)
    torch.testing.assert_close(vp.alpha(t) ** 2 + vp.sigma(t) ** 2, torch.ones(11))
    torch.testing.assert_close(ve.sigma(t), 0.01 * 5000**t)
    assert edm.sigma(t)[-1].item() == pytest.approx(80)


def test_a_path_a_solver_and_a_schedule_of_ones_own():
    class Quadratic(ProbabilityPath):
        def sample_xt(self, x_target, x_source, t):
            share = t[:, None] ** 2
            return (1 - share) * x_target + share * x_source

        def target_ut(self, x_target, x_source, t):
            return 2 * t[:, None] * (x_source - x_target)

    class Once:
        is_sde = False

        def __init__(self, steps=32):
            self.steps = steps

        def integrate(self, f, x0, t0=0.0, t1=1.0, steps=None):
            return x0 + (t1 - t0) * f(x0, t0)

    class Constant(NoiseSchedule):
        def alpha(self, t):
            return torch.exp(-4 * t)

        def sigma(self, t):
            return torch.sqrt(-torch.expm1(-8 * t))

        def drift(self, x, t):
            return -4 * x

        def diffusion(self, t):
            return 8**0.5 * torch.ones_like(t)

    x_target, x_source, t = torch.randn(6, 2), torch.randn(6, 2), torch.rand(6)
    path = Quadratic()
    loss = nami.fm_loss(Decay(1), x_target, x_source, t, path=path, reduction="none")
    error = -path.sample_xt(x_target, x_source, t) - path.target_ut(x_target, x_source, t)
    torch.testing.assert_close(loss, error.square().mean(-1))
    process = nami.FlowMatching(Decay(1), nami.StandardNormal((2,)), Once())(None)
    x = process.sample((6,), x_source=x_source)
    torch.testing.assert_close(x, 2 * x_source)
    diffusion = nami.Diffusion(
        TwoLayers(2), Constant(), nami.RK4(4), parameterization="eps", event_shape=(2,)
    )
    assert diffusion(None).sample((3,)).shape == (3, 2)
    torch.testing.assert_close(Constant().snr(t), torch.exp(-8 * t) / -torch.expm1(-8 * t))


def test_utilities_for_shapes():
    x = torch.randn(2, 3, 4, 5)
    flat = flatten_event(x, event_ndim=2)
    assert flat.shape == (2, 3, 20)
    assert torch.equal(unflatten_event(flat, event_shape=(4, 5)), x)
    validate_shapes(x, event_ndim=2, expected_event_shape=(4, 5), batch_shape=(2, 3))
    with pytest.raises(ValueError, match="event_shape mismatch"):
        validate_shapes(x, event_ndim=2, expected_event_shape=(4, 4))
    spec = nami.core.TensorSpec(event_shape=(4, 5))
    assert (spec.event_ndim, spec.numel) == (2, 20)


def test_diagnostics_of_a_field():
    x, t = torch.randn(20, 2), torch.rand(20)
    stats = nami.diagnostics.field_stats(Decay(1), x, t)
    torch.testing.assert_close(stats["mean"], x.norm(dim=-1).mean())
    spread = nami.diagnostics.divergence_stats(Decay(1), x, t, estimator=nami.ExactDivergence())
    assert spread["max"].item() == -2
    error = nami.diagnostics.reversibility_error(
        field=Decay(1), solver=nami.RK4(steps=50), x=x, t0=1.0, t1=0.0
    )
    assert error["max"] < 1e-6


def test_the_loss_of_real_objects():
    """By hand: two objects count, with means 2.5 and 12.5 of their squares."""
    x_target = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])

    class Nothing(nn.Module):
        event_ndim = 2

        def forward(self, x, t, c=None):
            return torch.zeros_like(x)

    mask = torch.tensor([[1.0, 1.0, 0.0]])
    loss = nami.masked_fm_loss(
        Nothing(), x_target, torch.zeros(1, 3, 2), mask, torch.tensor([0.5]), reduction="none"
    )
    torch.testing.assert_close(loss, torch.tensor([7.5]))
    same = nami.stochastic_fm_loss(
        Nothing(), x_target, torch.zeros(1, 3, 2), torch.tensor([0.5]), gamma=nami.ZeroGamma()
    )
    torch.testing.assert_close(same, x_target.square().mean())


def test_nami_has_the_kind_of_the_probes_first():
    estimator = nami.HutchinsonDivergence("gaussian", 3)
    assert isinstance(estimator, setflow.HutchinsonDivergence)
    assert (estimator.probe, estimator.n_probes) == ("gaussian", 3)
    assert nami.HutchinsonDivergence().n_probes == 1
    field, x = setflow.GaussianSetField([0.0, 0.0], [1.0, 1.0]), torch.zeros(4, 3, 2)
    signs = nami.HutchinsonDivergence("rademacher", 3)(field, x, 1.0)
    assert torch.equal(signs, torch.full((4,), 6.0))  # of a diagonal Jacobian, exactly
    with pytest.raises(ValueError, match="must be 'rademacher' or 'gaussian', got 4"):
        nami.HutchinsonDivergence(4)
