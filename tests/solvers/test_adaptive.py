"""The adaptive solver: tolerance, the laws of the mask, what it reports, and how it fails."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import setflow
from each import each
from laws.laws import (
    LAWS,
    Outcome,
    cases,
    law_company,
    law_emptiness,
    law_length,
    padding_filled,
    to_device,
)
from problems import gaussian_field, ode_problems
from setflow.sets.events import call_field
from setflow.solvers import Dopri5, IntegrationError, SolveReport


class Mixing(nn.Module):
    """A nonlinear field without closed form, in which objects move one another."""

    event_ndim = 2
    takes_mask = True

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.7, -1.1, 0.9]))

    def forward(self, x, t, c=None, *, mask=None):
        n = x.shape[-2] if mask is None else mask.sum(-1).clamp(min=1)[..., None, None]
        mean = x.sum(-2, keepdim=True) / n
        return torch.sin(2 * x + t[..., None, None] * mean) + torch.tanh(x.flip(-1) * mean) * (
            self.weight
        )


class PlainNorm(Dopri5):
    """Averages the error over all slots, as solvers do that know no mask."""

    def _norm(self, scaled, n_real):
        return scaled.square().mean(-1).sqrt()


class SharedStep(Dopri5):
    """Takes one step size for the whole batch, as most solvers do."""

    def _norm(self, scaled, n_real):
        return super()._norm(scaled, n_real).square().mean().sqrt().expand(len(n_real))


def oracle_rates(field, mask):
    """The oracle's velocity and its divergence over real coordinates, in closed form."""
    n = mask.sum(-1)[..., None].double()
    across, along = field.scale**2, field.scale**2 * (1 + field.coupling * n)

    def f_aug(x, t):
        t = t[..., None]

        def rate(variance):
            return ((t - 1) * variance + t) / ((1 - t) ** 2 * variance + t**2)

        divergence = ((n - 1) * rate(across) + rate(along)).sum(-1)
        return call_field(field, x, t[..., 0], None, mask), divergence * (n[..., 0] > 0)

    return f_aug


def solve_of(field, solver):
    """Subject: the ends of an augmented solve, its cost per event, and its gradients."""

    def subject(case):
        def f_aug(x, t):
            v = call_field(field, x, t, None, case.mask)
            return v, (v * x.sin()).sum((-1, -2))

        x0 = case.x_source.clone().requires_grad_()
        x, logp = solver.integrate_augmented(
            f_aug, x0, torch.zeros_like(case.t), t0=1.0, t1=0.0, mask=case.mask, event_ndim=2
        )
        named = dict(field.named_parameters())
        value = x.asinh().sum() + logp.asinh().sum()
        to_x0, *to_parameters = torch.autograd.grad(value, [x0, *named.values()])
        evaluations = solver.last.evaluations - 8.0  # an empty event needs 8
        return Outcome(
            per_event={"logp": logp.detach(), "evaluations": evaluations},
            per_slot={"x": x.detach(), "gradient": to_x0},
            gradients=dict(zip(named, to_parameters, strict=True)),
        )

    return subject


def case_of(lead, device="cpu", dtype=torch.float64):
    """A case in float64, whatever the default: what float32 may cost has a test of its own."""
    case = to_device(dict(cases())[lead], torch.device(device))
    return replace(case, **{n: getattr(case, n).to(dtype) for n in ("x", "x_source", "t")})


FIELDS = {
    "oracle": lambda: gaussian_field(2.0, features=3).double(),
    "mixing": lambda: Mixing().double(),
}


# --- accuracy ---


def test_the_tableau_is_an_embedded_pair_of_orders_5_and_4():
    """By the order conditions (Hairer, Norsett and Wanner, II.2): 17 to order 5, 8 to order 4."""
    c = torch.tensor(Dopri5.nodes)
    a = torch.zeros(len(c), len(c))
    for i, row in enumerate(Dopri5.rows):
        a[i, : len(row)] = torch.tensor(row)
    b, e = torch.tensor(Dopri5.weights), torch.tensor(Dopri5.error_weights)
    ac, ac2 = a @ c, a @ c**2
    conditions = [  # the values of b at each tree of 1, 2, 3 and 4 nodes, then of 5
        (c**0, 1), (c, 1 / 2), (c**2, 1 / 3), (ac, 1 / 6),
        (c**3, 1 / 4), (c * ac, 1 / 8), (ac2, 1 / 12), (a @ ac, 1 / 24),
        (c**4, 1 / 5), (c**2 * ac, 1 / 10), (c * ac2, 1 / 15), (c * (a @ ac), 1 / 30),
        (ac**2, 1 / 20), (a @ c**3, 1 / 20), (a @ (c * ac), 1 / 40), (a @ ac2, 1 / 60),
        (a @ a @ ac, 1 / 120),
    ]  # fmt: skip
    torch.testing.assert_close(a.sum(-1), c)
    assert torch.equal(a[-1], b)  # the last stage is the new state: its slope is used again
    for value, expected in conditions:
        assert b @ value == pytest.approx(expected, abs=1e-14)
    assert all(abs(e @ value) < 1e-14 for value, _ in conditions[:8])
    assert max(abs(e @ value) for value, _ in conditions[8:]) > 1e-5


@pytest.mark.parametrize("name", ode_problems())
def test_the_error_follows_the_tolerance(name):
    problem = ode_problems()[name]
    errors = {}
    for rtol in (1e-4, 1e-6, 1e-8, 1e-10):
        x = Dopri5(rtol, rtol).integrate(problem.f, problem.x0, t0=0.0, t1=1.0, event_ndim=1)
        errors[rtol] = (x - problem.x1).abs().max().item()
        assert errors[rtol] < 20 * rtol
    slope = math.log10(errors[1e-4] / errors[1e-10]) / 6
    assert slope == pytest.approx(1, abs=0.15), errors


@pytest.mark.parametrize("name", ode_problems())
def test_backwards_in_time(name):
    problem = ode_problems()[name]
    x = Dopri5(1e-9, 1e-9).integrate(problem.f, problem.x1, t0=1.0, t1=0.0, event_ndim=1)
    torch.testing.assert_close(x, problem.x0, atol=1e-7, rtol=0)


@pytest.mark.parametrize("coupling", [0.0, 2.0])
@pytest.mark.parametrize("rtol", [1e-3, 1e-5, 1e-8])
def test_samples_of_the_oracle(coupling, rtol, device):
    field = gaussian_field(coupling, features=3).to(device)
    for _, case in cases():
        case = to_device(case, device)

        def f(x, t, mask=case.mask):
            return call_field(field, x, t, None, mask)

        x0 = case.x_source.double()
        x = Dopri5(rtol, rtol).integrate(f, x0, t0=1.0, t1=0.0, mask=case.mask)
        exact = field.sample_map(x0, case.mask)
        assert (x - exact).abs().max() < 50 * rtol


@pytest.mark.parametrize("coupling", [0.0, 2.0])
@pytest.mark.parametrize("rtol", [1e-4, 1e-7])
def test_augmented_solve_gives_the_likelihood_of_the_oracle(coupling, rtol):
    field = gaussian_field(coupling, features=3)
    for _, case in cases():
        x = case.x.double()
        z, integral = Dopri5(rtol, rtol).integrate_augmented(
            oracle_rates(field, case.mask), x, x.new_zeros(case.t.shape), t0=0.0, t1=1.0,
            mask=case.mask,
        )  # fmt: skip
        base = setflow.StandardNormal((x.shape[-2], 3), batch_shape=case.t.shape)
        log_p = base.log_prob(z, mask=case.mask) + integral
        exact = field.log_prob(x, case.mask)
        error = (log_p - exact).abs() / exact.abs().clamp(min=1)
        assert error.max() < 100 * rtol


@pytest.mark.parametrize("objects", [1, 300])
def test_the_log_density_counts_fully_however_many_coordinates_there_are(objects):
    """The state stands still; one number beside 900 must steer the steps as it does alone."""

    def wave(t):
        return 20 * torch.cos(20 * t)

    solver = Dopri5(1e-6, 1e-6)
    options = {"t0": 0.0, "t1": 1.0}
    alone = solver.integrate(lambda x, t: wave(t), torch.zeros(2), event_ndim=0, **options)
    evaluations = solver.last.evaluations
    _, logp = solver.integrate_augmented(
        lambda x, t: (torch.zeros_like(x), wave(t)),
        torch.zeros(2, objects, 3),
        torch.zeros(2),
        event_ndim=2,
        **options,
    )
    assert torch.equal(solver.last.evaluations, evaluations)
    torch.testing.assert_close(logp, alone)
    torch.testing.assert_close(logp, torch.full((2,), math.sin(20)), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("rtol", [1e-3, 1e-5])
def test_float32(name, rtol):
    double, single = FIELDS[name](), FIELDS[name]().float()
    mask = torch.tensor([[True, True, False, True], [False, True, False, False]])
    x0 = torch.randn(2, 4, 3, dtype=torch.float64)

    def f(x, t):
        assert x.dtype == t.dtype
        return call_field(double if x.dtype == torch.float64 else single, x, t, None, mask)

    options = {"t0": 1.0, "t1": 0.0, "mask": mask}
    x = Dopri5(rtol, rtol).integrate(f, x0.float(), **options)
    reference = Dopri5(rtol, rtol).integrate(f, x0.float().double(), **options)
    assert x.dtype == torch.float32
    error = (x - reference).abs() / reference.abs().clamp(min=1)
    assert error.max() < max(1e-5, 10 * rtol)


def test_the_log_density_keeps_its_wider_dtype():
    def f_aug(x, t):
        assert x.dtype == t.dtype == torch.float32
        return torch.zeros_like(x), torch.full((2,), 1 + 1e-9, dtype=torch.float64)

    x, logp = Dopri5().integrate_augmented(
        f_aug, torch.ones(2, 3, dtype=torch.float32), torch.zeros(2, dtype=torch.float64),
        t0=0.0, t1=1.0, event_ndim=1,
    )  # fmt: skip
    assert (x.dtype, logp.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(logp - 1, torch.full((2,), 1e-9).double(), atol=1e-13, rtol=0)


@pytest.mark.parametrize(
    ("lead", "event"), [((), ()), ((), (3,)), ((4,), ()), ((2, 3), (4, 2)), ((4,), (3, 2, 2))]
)
def test_every_lead_and_event_shape(lead, event):
    x0 = torch.randn((*lead, *event), dtype=torch.float64)

    def f(x, t):
        assert x.shape == x0.shape
        assert t.shape == lead
        return -x * (1 + t.reshape(lead + (1,) * len(event)))

    x = Dopri5(1e-9, 1e-9).integrate(f, x0, t0=0.0, t1=1.0, event_ndim=len(event))
    torch.testing.assert_close(x, x0 * math.exp(-1.5), atol=1e-7, rtol=0)


def test_gradients_reach_the_state_and_the_parameters():
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x0 = torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64, requires_grad=True)
    x = Dopri5(1e-10, 1e-10).integrate(lambda x, t: rate * x, x0, t0=0.0, t1=2.0, event_ndim=1)
    to_rate, to_x0 = torch.autograd.grad(x.sum(), (rate, x0))
    torch.testing.assert_close(to_rate, 2 * x.sum(), atol=1e-7, rtol=0)
    torch.testing.assert_close(to_x0, torch.full_like(x0, math.exp(1.4)), atol=1e-7, rtol=0)
    assert Dopri5.supports_rsample
    with torch.no_grad():
        x = Dopri5().integrate(lambda x, t: rate * x, x0, t0=0.0, t1=2.0, event_ndim=1)
    assert not x.requires_grad


def test_gradients_are_right_where_steps_are_rejected():
    height = torch.tensor([50.0, 1e-3], requires_grad=True)

    def f(x, t):  # still, then a kick: the first steps are too long
        return height[:, None] * torch.exp(-100 * (t[:, None] - 0.5) ** 2) + 0 * x

    solver = Dopri5(1e-8, 1e-8)
    x0 = torch.zeros(2, 1, requires_grad=True)
    x = solver.integrate(f, x0, t0=0.0, t1=1.0, event_ndim=1)
    to_height, to_x0 = torch.autograd.grad(x.sum(), (height, x0))
    assert solver.last.rejected[0] >= 3
    exact = math.sqrt(math.pi / 100) * math.erf(5)
    torch.testing.assert_close(to_height[0].item(), exact, atol=1e-7, rtol=0)
    torch.testing.assert_close(to_x0, torch.ones(2, 1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("augmented", [False, True])
def test_a_rejected_step_that_overflows_does_not_poison_the_gradients(augmented):
    """Events beyond 2 have no slope and an infinite derivative; they only try to go there."""
    rate = torch.tensor(7.0, requires_grad=True)
    share = torch.tensor([[1.0], [0.01], [1.0]])

    def f(x, t):
        push = share * rate * (t[:, None] - 0.5).clamp(min=0)
        return push + 1e-9 * rate * (2 - x).sqrt()

    x0 = torch.ones(3, 1, requires_grad=True)
    solver, options = Dopri5(1e-7, 1e-7), {"t0": 0.0, "t1": 1.0, "event_ndim": 1}
    if augmented:
        x, logp = solver.integrate_augmented(
            lambda x, t: (f(x, t), (2 - x[:, 0]).sqrt()), x0, torch.zeros(3), **options
        )
        assert torch.autograd.grad(logp.sum(), rate, retain_graph=True)[0].isfinite()
    else:
        x = solver.integrate(f, x0, **options)
    to_rate, to_x0 = torch.autograd.grad(x.sum(), (rate, x0))
    assert (solver.last.rejected > 0).any()
    assert solver.last.calls > solver.last.evaluations.max()  # some steps were repeated
    torch.testing.assert_close(to_rate.item(), 2.01 / 8, atol=1e-5, rtol=0)
    torch.testing.assert_close(to_x0, torch.ones(3, 1), atol=1e-5, rtol=0)
    if not augmented:
        with torch.no_grad():
            torch.testing.assert_close(solver.integrate(f, x0, **options), x, atol=1e-12, rtol=0)
        assert solver.last.calls == solver.last.evaluations.max()


# --- the laws of the mask ---


@pytest.mark.parametrize("name", FIELDS)
@each(
    ("law", "lead"),
    [
        (law, lead)
        for law in LAWS
        for lead in ("lead0", "lead1", "lead2")
        if (law, lead) != ("emptiness", "lead0")  # its one event has objects
    ],
)
def test_laws(law, lead, name, device):
    case = case_of(lead, device)
    LAWS[law](solve_of(FIELDS[name]().to(device), Dopri5(1e-3, 1e-3)), case)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-6])
def test_laws_in_float32(name, rtol):
    """Order, length and company at once, to ten times the tolerance or 1e-5."""
    case = case_of("lead1", dtype=torch.float32)
    field = FIELDS[name]().float()
    order = torch.randperm(case.mask.shape[-1], generator=torch.Generator().manual_seed(5))

    def solve(x, mask):
        return Dopri5(rtol, rtol).integrate(
            lambda x, t: call_field(field, x, t, None, mask), x, t0=1.0, t1=0.0, mask=mask
        )

    expected = solve(case.x_source, case.mask)
    for event in range(len(case.mask)):
        x = nn.functional.pad(case.x_source[event : event + 1, order], (0, 0, 3, 100))
        mask = nn.functional.pad(case.mask[event : event + 1, order], (3, 100))
        got = solve(x, mask)[0, 3:-100]
        error = (got - expected[event, order]).abs() / expected[event, order].abs().clamp(min=1)
        assert error.max() < max(1e-5, 10 * rtol)


@pytest.mark.parametrize("name", FIELDS)
def test_a_thousand_padded_slots_change_nothing(name):
    case = case_of("lead1")
    field = FIELDS[name]()

    def subject(case):
        solver = Dopri5(1e-4, 1e-4)
        x = solver.integrate(
            lambda x, t: call_field(field, x, t, None, case.mask),
            case.x_source,
            t0=1.0,
            t1=0.0,
            mask=case.mask,
        )
        return Outcome({"evaluations": solver.last.evaluations.double()}, {"x": x.detach()})

    law_length(subject, case, longer=993)


@pytest.mark.parametrize("name", FIELDS)
def test_a_plain_norm_breaks_the_law_of_length(name):
    case = case_of("lead1")
    with pytest.raises(AssertionError, match="differs by"):
        law_length(solve_of(FIELDS[name](), PlainNorm(1e-3, 1e-3)), case)


@pytest.mark.parametrize("name", FIELDS)
def test_a_shared_step_breaks_the_law_of_company(name):
    case = case_of("lead1")
    with pytest.raises(AssertionError, match="differs by"):
        law_company(solve_of(FIELDS[name](), SharedStep(1e-3, 1e-3)), case)


def test_padding_costs_a_plain_norm_its_accuracy():
    """Eight particles padded to 1,000: what the other laws' tolerances mean in numbers."""
    field, generator = Mixing(), torch.Generator().manual_seed(1)
    x0 = torch.randn(8, 8, 3, generator=generator)

    def solve(solver, slots):
        mask = (torch.arange(slots) < 8).expand(8, slots)
        x = nn.functional.pad(x0, (0, 0, 0, slots - 8))
        with torch.no_grad():
            return solver.integrate(
                lambda x, t: call_field(field, x, t, None, mask), x, t0=1.0, t1=0.0, mask=mask
            )[:, :8]

    exact = solve(Dopri5(1e-10, 1e-10), 8)
    errors = {
        (kind, slots): (solve(kind(1e-4, 1e-4), slots) - exact).abs().max().item()
        for kind in (Dopri5, PlainNorm)
        for slots in (8, 1000)
    }
    assert errors[Dopri5, 1000] == pytest.approx(errors[Dopri5, 8], rel=1e-6)
    assert errors[PlainNorm, 8] == pytest.approx(errors[Dopri5, 8], rel=1e-6)
    assert errors[PlainNorm, 1000] > 5 * errors[Dopri5, 1000], errors


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_padding_poisons_nothing_in_a_direct_call(garbage):
    case = padding_filled(case_of("lead1"), garbage)
    real = case.mask[..., None]

    def f(x, t):  # knows no mask, and answers with garbage in the padding
        return torch.where(real, -x, garbage)

    x0 = case.x_source.clone().requires_grad_()
    x = Dopri5(1e-8, 1e-8).integrate(f, x0, t0=0.0, t1=1.0, mask=case.mask)
    (gradient,) = torch.autograd.grad(x.sum(), x0)
    exact = torch.where(real, case.x_source * math.exp(-1), 0)
    torch.testing.assert_close(x, exact, atol=1e-6, rtol=0)
    torch.testing.assert_close(gradient, real * torch.full_like(x0, math.exp(-1)))


def test_an_event_without_objects_is_done_at_once():
    mask = torch.zeros(2, 3, dtype=torch.bool)
    solver = Dopri5()
    x, logp = solver.integrate_augmented(
        lambda x, t: (x + 1, x.sum((-1, -2))), torch.full((2, 3, 1), torch.nan), torch.ones(2),
        t0=1.0, t1=0.0, mask=mask,
    )  # fmt: skip
    assert x.abs().sum() == 0
    assert torch.equal(logp, torch.ones(2))
    assert solver.last.calls == 8
    for shape in ((2, 0, 3), (0, 4, 3)):
        x = solver.integrate(lambda x, t: x, torch.ones(shape), t0=1.0, t1=0.0, event_ndim=2)
        assert x.shape == shape
        assert solver.last.evaluations.shape == shape[:1]


def test_empty_events_obey_their_law_in_a_direct_call():
    case = case_of("lead2")

    def subject(case):
        x = Dopri5().integrate(
            lambda x, t: x + 1, case.x_source, t0=1.0, t1=0.0, mask=case.mask, event_ndim=2
        )
        return Outcome(per_slot={"x": x})

    law_emptiness(subject, case)


# --- what it reports ---


def counted(f):
    calls = []

    def counting(x, t):
        calls.append(t.clone())
        return f(x, t)

    return counting, calls


def oscillation(speeds):
    """Events that turn at different speeds, so that they need different numbers of steps."""

    def f(x, t):
        return speeds[:, None] * torch.stack([x[:, 1], -x[:, 0]], -1)

    return f


def test_report_counts_the_evaluations_of_each_event():
    speeds = torch.tensor([0.0, 1.0, 5.0, 30.0])
    f, calls = counted(oscillation(speeds))
    solver = Dopri5(1e-6, 1e-6)
    assert solver.last is None
    x = solver.integrate(f, torch.tensor([[1.0, 0.0]] * 4), t0=0.0, t1=1.0, event_ndim=1)
    report = solver.last
    assert isinstance(report, SolveReport)
    torch.testing.assert_close(x, torch.stack([speeds.cos(), -speeds.sin()], -1), atol=1e-4, rtol=0)
    assert report.calls == len(calls) == report.evaluations.max()
    assert torch.equal(report.evaluations, 2 + 6 * (report.accepted + report.rejected))
    assert report.evaluations.tolist() == sorted(set(report.evaluations.tolist()))
    assert report.evaluations[0] == 8
    for event in range(4):  # alone, an event needs what it needs in company
        f, calls = counted(oscillation(speeds[event : event + 1]))
        solver.integrate(f, torch.tensor([[1.0, 0.0]]), t0=0.0, t1=1.0, event_ndim=1)
        assert len(calls) == report.evaluations[event]


def test_report_counts_rejected_steps():
    solver = Dopri5(1e-8, 1e-8)

    def f(x, t):  # still, then a kick: the first steps are too long
        return 50 * torch.exp(-100 * (t[:, None] - 0.5) ** 2) + 0 * x

    x = solver.integrate(f, torch.zeros(1, 1), t0=0.0, t1=1.0, event_ndim=1)
    exact = 50 * math.sqrt(math.pi / 100) * math.erf(5)
    assert x.item() == pytest.approx(exact, abs=1e-6)
    assert solver.last.rejected.item() >= 3
    assert solver.last.accepted.item() >= 10


def test_times_stay_within_the_interval():
    for t0, t1 in ((1.0, 1e-20), (1e-20, 1.0), (0.1, 0.7), (-3.0, 2.0)):
        f, calls = counted(lambda x, t: -x)
        Dopri5().integrate(f, torch.ones(3, 1), t0=t0, t1=t1, event_ndim=1)
        times = torch.stack(calls)
        assert times.shape[1:] == (3,)
        assert times.min() == min(t0, t1)
        assert times.max() == max(t0, t1)


def test_no_way_to_go():
    solver = Dopri5()
    x0 = torch.randn(3, 2)
    x = solver.integrate(lambda x, t: x * torch.nan, x0, t0=0.5, t1=0.5, event_ndim=1)
    assert torch.equal(x, x0)
    assert solver.last.calls == solver.last.evaluations.sum() == 0


# --- how it fails ---


def test_max_nfe_is_obeyed():
    speeds = torch.tensor([1.0, 30.0, 1.0])
    x0 = torch.tensor([[1.0, 0.0]] * 3)
    solver = Dopri5()
    options = {"t0": 0.0, "t1": 1.0, "event_ndim": 1}
    expected = solver.integrate(oscillation(speeds), x0, **options)
    needed = solver.last.calls
    enough = Dopri5(max_nfe=needed).integrate(oscillation(speeds), x0, **options)
    assert torch.equal(enough, expected)
    for max_nfe in (8, 13, 14, needed - 1):
        f, calls = counted(oscillation(speeds))
        solver = Dopri5(max_nfe=max_nfe)
        with pytest.raises(IntegrationError, match="raise it") as caught:
            solver.integrate(f, x0, **options)
        assert max_nfe - 6 < len(calls) <= max_nfe
        assert solver.last.calls == len(calls)
        assert 0 < caught.value.time < 1
    assert caught.value.events == ((1,),)
    assert "event (1,) beyond t = " in str(caught.value)


def test_blow_up_is_named_with_event_and_time():
    x0 = torch.full((2, 3, 1), 0.1)
    x0[1, 0], x0[1, 2] = 1.0, 1.0  # x(t) = 1 / (1 - t)
    with pytest.raises(IntegrationError, match=r"events \(1, 0\), \(1, 2\) beyond") as caught:
        Dopri5().integrate(lambda x, t: x**2, x0, t0=0.0, t1=2.0, event_ndim=1)
    assert caught.value.events == ((1, 0), (1, 2))
    assert caught.value.time == pytest.approx(1, abs=1e-3)
    assert "the step has shrunk to nothing" in str(caught.value)


def test_a_velocity_that_is_not_finite_is_named_with_event_and_time():
    def f(x, t):
        bad = (t > 0.6) & (torch.arange(3) == 2)
        return torch.where(bad[:, None], torch.nan, -x)

    with pytest.raises(IntegrationError, match="not finite there") as caught:
        Dopri5().integrate(f, torch.ones(3, 2), t0=0.0, t1=1.0, event_ndim=1)
    assert caught.value.events == ((2,),)
    assert caught.value.time == pytest.approx(0.6, abs=1e-6)
    solver = Dopri5()
    with pytest.raises(IntegrationError, match="not finite there") as caught:
        solver.integrate(lambda x, t: x * torch.nan, torch.ones(()), t0=1.0, t1=0.0, event_ndim=0)
    assert (caught.value.events, caught.value.time) == (((),), 1.0)
    assert solver.last.calls < 200
    assert solver.last.accepted.item() == 0


def test_a_trial_step_that_overflows_is_tried_again():
    seen = []

    def f(x, t):  # undefined beyond 2; the solution ends at 1.875
        v = torch.where(x > 2, torch.nan, 7 * (t[:, None] - 0.5).clamp(min=0))
        seen.append(bool(v.isnan().any()))
        return v

    x = Dopri5(1e-7, 1e-7).integrate(f, torch.ones(3, 1), t0=0.0, t1=1.0, event_ndim=1)
    assert any(seen)
    torch.testing.assert_close(x, torch.full((3, 1), 1.875), atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [0.0, -1e-3, math.inf, math.nan])
def test_tolerances_must_be_positive(value):
    with pytest.raises(ValueError, match="rtol must be positive and finite, got"):
        Dopri5(value)
    with pytest.raises(ValueError, match="atol must be positive and finite, got"):
        Dopri5(atol=value)


@pytest.mark.parametrize("max_nfe", [0, 7, 100.0, True, "100"])
def test_max_nfe_must_allow_a_step(max_nfe):
    with pytest.raises(ValueError, match="max_nfe must be"):
        Dopri5(max_nfe=max_nfe)
    assert Dopri5(max_nfe=8).max_nfe == 8


def test_shapes_are_checked():
    def solve(f=lambda x, t: x, x0=None, **options):
        x0 = torch.ones(2, 3, 1) if x0 is None else x0
        return Dopri5().integrate(f, x0, t0=0.0, t1=1.0, **options)

    with pytest.raises(ValueError, match="neither mask nor event_ndim is given"):
        solve()
    for mask in (torch.ones(2, 4), torch.ones(3), torch.ones(1, 1, 2, 3)):
        with pytest.raises(ValueError, match="mask has shape"):
            solve(mask=mask > 0)
    with pytest.raises(ValueError, match="a mask needs an object dimension"):
        solve(mask=torch.ones(2, 3, 1) > 0, event_ndim=0)
    with pytest.raises(ValueError, match=r"f returned shape \(2, 1, 3\)"):
        solve(lambda x, t: x.mT, event_ndim=2)
    with pytest.raises(ValueError, match="must be floating point, got"):
        solve(x0=torch.ones(2, dtype=torch.int64), event_ndim=0)
    with pytest.raises(ValueError, match="must be finite, got nan"):
        Dopri5().integrate(lambda x, t: x, torch.ones(2), t0=math.nan, t1=1.0, event_ndim=0)
    for logp0, rate in ((torch.zeros(3), torch.zeros(2)), (torch.zeros(2), torch.zeros(2, 1))):
        with pytest.raises(ValueError, match=r"expected \(2,\)"):
            Dopri5().integrate_augmented(
                lambda x, t, rate=rate: (x, rate), torch.ones(2, 3), logp0,
                t0=0.0, t1=1.0, event_ndim=1,
            )  # fmt: skip


def test_of_log_densities_side_by_side_the_mean_keeps_the_tolerance():
    """Asking for the spread of several estimates changes no step, and so no number."""

    def rates(x, t):
        mean = torch.sin(20 * t) * x[..., 0]
        return -x, mean[..., None] + 100 * torch.tensor([1.0, -1.0, 0.0]) * torch.cos(t)[..., None]

    x0, options = torch.rand(4, 2) + 0.5, {"t0": 0.0, "t1": 1.0, "event_ndim": 1}
    solver = Dopri5(1e-6, 1e-6)
    x, several = solver.integrate_augmented(rates, x0, torch.zeros(4, 3), **options)
    calls = solver.last.calls
    mean = solver.integrate_augmented(
        lambda x, t: (rates(x, t)[0], rates(x, t)[1].mean(-1)), x0, torch.zeros(4), **options
    )
    assert solver.last.calls == calls
    torch.testing.assert_close(mean[0], x, atol=1e-12, rtol=0)
    torch.testing.assert_close(several.mean(-1), mean[1], atol=1e-9, rtol=0)
    torch.testing.assert_close(
        several[:, 0] - several[:, 2], torch.full((4,), 100 * math.sin(1.0)), atol=1e-3, rtol=0
    )
