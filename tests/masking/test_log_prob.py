"""Log-densities: oracle, brute force, total probability, measured order, and wrong signs."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy.special import gammaln
from scipy.stats import lognorm, multivariate_normal, norm
from torch import nn

import setflow
from laws import saboteurs
from laws.laws import cases, redraw
from laws.saboteurs import CrossObjectTrace, WrongSign
from laws.subjects import Pointwise
from problems import (
    ConditionalGaussian,
    gaussian_field,
    scipy_log_prob,
    small_transformer,
    trained_transformer,
)
from setflow.data import Standardizer

BASE = setflow.StandardNormal((2,))


def data(field, case):
    """The case with data that the field's distribution could have drawn."""
    return field.sample_map(case.x_source, case.mask)


@pytest.mark.parametrize("coupling", [0.0, 2.0])
@pytest.mark.parametrize("path", [None, setflow.CosinePath()])
@pytest.mark.parametrize("lead", ["lead0", "lead2"])
def test_the_oracle(lead, path, coupling):
    """Any number of objects, holes, padding, an empty event; against scipy too."""
    field, case = gaussian_field(coupling, path=path), dict(cases((2,)))[lead]
    x = data(field, case)
    with torch.no_grad():
        got = setflow.masked_log_prob(field, BASE, setflow.RK4(steps=200), x, case.mask)
    torch.testing.assert_close(got, field.log_prob(x, case.mask), atol=1e-8, rtol=0)
    flat, masks = x.reshape(-1, 7, 2), case.mask.reshape(-1, 7)
    by_scipy = [scipy_log_prob(field, event[mask]) for event, mask in zip(flat, masks, strict=True)]
    torch.testing.assert_close(got.reshape(-1), torch.tensor(by_scipy), atol=1e-8, rtol=0)


class Kutta3:
    """A user's solver as documents of other libraries have it: Kutta's rule of order 3."""

    requires_steps = True

    def __init__(self, steps):
        self.steps = steps

    def integrate(self, f, x0, t0=0.0, t1=1.0, steps=None):
        h, x = (t1 - t0) / steps, x0
        for i in range(steps):
            t = t0 + i * h
            k1 = f(x, t)
            k2 = f(x + h / 2 * k1, t + h / 2)
            k3 = f(x + h * (2 * k2 - k1), t + h)
            x = x + h / 6 * (k1 + 4 * k2 + k3)
        return x


@pytest.mark.parametrize(
    ("solver", "atol"),
    [
        (setflow.Midpoint(steps=300), 3e-4),
        (setflow.Heun(steps=300), 3e-4),
        (setflow.Dopri5(rtol=1e-9, atol=1e-9), 1e-6),
        (Kutta3(steps=150), 1e-5),
    ],
    ids=["midpoint", "heun", "dopri5", "own"],
)
def test_every_solver_agrees_with_the_oracle(solver, atol):
    field, case = gaussian_field(2.0), dict(cases((2,)))["lead1"]
    x = data(field, case)
    with torch.no_grad():
        got = setflow.masked_log_prob(field, BASE, solver, x, case.mask)
    torch.testing.assert_close(got, field.log_prob(x, case.mask), atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("solver", "order"), [(setflow.Euler, 1), (setflow.Heun, 2), (setflow.RK4, 4)]
)
def test_measured_order(solver, order):
    field, case = gaussian_field(2.0), dict(cases((2,)))["lead1"]
    x = data(field, case)
    errors = []
    for steps in (40, 80):
        with torch.no_grad():
            got = setflow.masked_log_prob(field, BASE, solver(steps), x, case.mask)
        errors.append((got - field.log_prob(x, case.mask)).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35), errors


class Wavy(nn.Module):
    """A nonlinear field on sets of any size, bounded and mixing."""

    event_ndim = 2
    takes_mask = True

    def forward(self, x, t, c=None, *, mask=None):
        total = torch.sin(x).sum(-2, keepdim=True)
        v = torch.sin(x + 1) * torch.cos(total) + 0.5 * x * (1 - t[..., None, None])
        return v if mask is None else torch.where(mask[..., None], v, 0.0)


@pytest.mark.parametrize("field", [Wavy, lambda: trained_transformer(2)], ids=["wavy", "trained"])
def test_the_density_is_that_of_the_samples(field):
    """log p of a sample is the base's density minus log|det| of the sampled map."""
    field, solver = field(), setflow.RK4(steps=40)
    mask = torch.tensor([True, False, True, True])
    z = torch.randn(3, 2)

    def sampled(objects):
        noise = torch.zeros(4, 2).index_put((mask.nonzero()[:, 0],), objects)
        x = setflow.masked_sample(field, BASE, solver, mask, x_source=noise)
        return x[mask]

    x = torch.zeros(4, 2).index_put((mask.nonzero()[:, 0],), sampled(z).detach())
    jacobian = torch.autograd.functional.jacobian(sampled, z).reshape(6, 6)
    expected = -0.5 * (z**2).sum() - 3 * math.log(2 * math.pi) - jacobian.slogdet().logabsdet
    with torch.no_grad():
        got = setflow.masked_log_prob(field, BASE, solver, x, mask)
    assert (x[mask] - z).abs().max() > 0.1, "the map must do something"
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


class Weighted(Wavy):
    """The same with a parameter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(
            0.5 * torch.randn(2, 2, generator=torch.Generator().manual_seed(1))
        )

    def forward(self, x, t, c=None, *, mask=None):
        return super().forward(x @ self.weight, t, mask=mask)


class Shuffling(nn.Module):
    """A linear field whose Jacobian has no dominant direction: its estimates are nearly normal."""

    event_ndim = 2

    def __init__(self, coordinates):
        super().__init__()
        self.matrix = 0.3 * torch.randn(coordinates, coordinates, generator=seeded())

    def forward(self, x, t, c=None):
        return ((x.flatten(-2) @ self.matrix) * (1 + t[..., None])).reshape(x.shape)


class Conditional(Wavy):
    """A field that the context moves."""

    def forward(self, x, t, c=None, *, mask=None):
        return super().forward(x, t, mask=mask) + c[..., None, :]


def scored(*arguments, **options):
    return setflow.masked_sample(*arguments, return_log_prob=True, **options)


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


ESTIMATORS = {
    "exact": setflow.ExactDivergence,
    "hutchinson": lambda: setflow.HutchinsonDivergence(n_probes=2),
}


def difference_from_the_way_back(verb, solver, estimator=None):
    """The largest difference of both ways, over events with holes and without objects."""
    field, case = Conditional(), dict(cases((2,), context=2))["lead2"]
    options = {"c": case.c, "estimator": estimator}
    with torch.no_grad():
        x, log_p = verb(
            field, BASE, solver, case.mask, sample_shape=(2,),
            x_source=torch.randn(2, *case.x.shape), generator=seeded(), **options,
        )  # fmt: skip
        back = setflow.masked_log_prob(
            field, BASE, solver, x, case.mask, generator=seeded(), **options
        )
    assert log_p.shape == back.shape == (2, 2, 3)
    assert (log_p[:, ~case.mask.any(-1)] == 0).all()
    return (log_p - back).abs().max().item()


@pytest.mark.parametrize(
    ("solver", "estimator", "atol"),
    [
        (setflow.RK4(30), "exact", 1e-4),
        (setflow.RK4(30), "hutchinson", 1e-4),
        (setflow.Dopri5(rtol=1e-7, atol=1e-7), "exact", 1e-4),
        (setflow.Dopri5(rtol=1e-7, atol=1e-7), "hutchinson", 1e-4),
    ],
)
def test_a_sample_and_its_density_come_from_one_solve(solver, estimator, atol):
    """The density is that of the same point computed backwards, also with the same probes."""
    assert difference_from_the_way_back(scored, solver, ESTIMATORS[estimator]()) < atol


def test_a_scored_sample_with_the_wrong_sign_is_seen():
    wrong = saboteurs.scored_sample_with_the_wrong_sign
    assert difference_from_the_way_back(wrong, setflow.RK4(10)) > 0.1


@pytest.mark.parametrize("solver", [setflow.RK4(200), setflow.Dopri5(rtol=1e-10, atol=1e-10)])
def test_the_oracle_scores_samples(solver):
    """Noise drawn from the base; the samples are those of a solve without density."""
    field, case = gaussian_field(2.0), dict(cases((2,)))["lead1"]
    with torch.no_grad():
        x, log_p = scored(field, BASE, solver, case.mask, generator=seeded())
        alone = setflow.masked_sample(field, BASE, solver, case.mask, generator=seeded())
    torch.testing.assert_close(x, alone, atol=1e-8, rtol=0)
    torch.testing.assert_close(log_p, field.log_prob(x, case.mask), atol=1e-8, rtol=0)


# --- the terms of a model's density ---


def flow_with_known_density(coupling):
    """Two features, the second positive: normal and lognormal, with means that the context moves.

    The field lives on scaled features and context.
    """
    flow = setflow.SetFlow(
        ConditionalGaussian(gaussian_field(coupling), torch.tensor([[0.5], [-0.3]])),
        scaler=Standardizer(kinds=["real", "positive"]),
        cardinality=setflow.EmpiricalCardinality(7),
        features=["etarel", "pt"],
        conditions=["energy"],
    )
    flow.scaler.mean.copy_(torch.tensor([0.1, 2.0]))
    flow.scaler.std.copy_(torch.tensor([0.3, 0.8]))
    flow.context_scaler.mean.fill_(500.0)
    flow.context_scaler.std.fill_(100.0)
    flow.cardinality.probabilities.copy_(torch.arange(1.0, 9.0) / 36)
    return flow


@pytest.mark.parametrize("coupling", [0.0, 2.0])
def test_the_terms_are_those_of_a_density_written_with_scipy(coupling):
    flow, case = flow_with_known_density(coupling), dict(cases((2,), context=1))["lead1"]
    x = torch.stack([0.1 + 0.3 * case.x[..., 0], (2.0 + 0.8 * case.x[..., 1]).exp()], -1)
    c = 500 + 100 * case.c
    with torch.no_grad():
        terms = flow.log_prob_terms(setflow.SetBatch(x, case.mask, c), solver=setflow.RK4(100))
    loc, scale = (value.numpy() for value in (flow.field.field.loc, flow.field.field.scale))
    expected = []
    for objects, mask, energy in zip(x.numpy(), case.mask.numpy(), c.numpy(), strict=True):
        n = int(mask.sum())
        eta, pt = objects[mask].T
        means = loc + np.array([0.5, -0.3]) * (energy - 500) / 100
        spread = np.eye(n) + coupling * np.ones((n, n))
        scaled = physical = 0.0
        for i, (f, mean, std) in enumerate(((eta, 0.1, 0.3), (np.log(pt), 2.0, 0.8))):
            if n:
                at, cov = np.full(n, means[i]), scale[i] ** 2 * spread
                scaled += multivariate_normal(at, cov).logpdf((f - mean) / std)
                physical += multivariate_normal(mean + std * at, std**2 * cov).logpdf(f)
        if coupling == 0:  # then pt has a lognormal density, which scipy has
            physical = norm(0.1 + 0.3 * means[0], 0.3 * scale[0]).logpdf(eta).sum()
            median = np.exp(2.0 + 0.8 * means[1])
            physical += lognorm(0.8 * scale[1], scale=median).logpdf(pt).sum()
        else:
            physical -= np.log(pt).sum()
        ordering, number = gammaln(n + 1), np.log((n + 1) / 36)
        total = physical + ordering + number
        expected.append((total, scaled, physical - scaled, ordering, number, 0.0))
    assert terms._fields == (
        "total", "objects", "scaling", "ordering", "cardinality", "standard_error",
    )  # fmt: skip
    for name, got, value in zip(
        terms._fields, terms, torch.tensor(np.array(expected)).T, strict=True
    ):
        torch.testing.assert_close(got, value, atol=1e-7, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    assert terms.total.dtype == torch.float64


# --- total probability, and what sees a wrong divergence ---


def integral(log_prob, low=-8.0, high=8.0, n=160):
    """The integral of exp(log_prob) over a square, by the midpoint rule."""
    edges = torch.linspace(low, high, n + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    grid = torch.cartesian_prod(middle, middle)  # (n * n, 2)
    return (log_prob(grid).exp().sum() * ((high - low) / n) ** 2).item()


def test_total_probability_of_an_event_of_two_objects_is_one():
    """Two objects with one feature: the ordered density over the plane."""
    base, solver = setflow.StandardNormal((1,)), setflow.RK4(steps=20)

    def log_prob(points):
        x = torch.cat([points, torch.full((len(points), 1), float("nan"))], 1)[..., None]
        mask = torch.tensor([True, True, False]).expand(len(points), 3)
        with torch.no_grad():
            return setflow.masked_log_prob(Wavy(), base, solver, x, mask)

    assert integral(log_prob) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("estimator", [WrongSign(), CrossObjectTrace()], ids=["sign", "trace"])
def test_total_probability_sees_a_wrong_divergence(estimator):
    base, solver = setflow.StandardNormal((1,)), setflow.RK4(steps=10)

    def log_prob(points):
        with torch.no_grad():
            return setflow.masked_log_prob(
                Wavy(), base, solver, points[..., None], None, estimator=estimator
            )

    assert abs(integral(log_prob, n=80) - 1) > 0.03


@pytest.mark.parametrize(
    ("estimator", "caught_without_coupling"), [(WrongSign(), True), (CrossObjectTrace(), False)]
)
def test_the_oracle_sees_a_wrong_divergence_if_it_has_a_coupling(
    estimator, caught_without_coupling
):
    """Without coupling the Jacobian between objects vanishes: the oracle is blind to its sum."""
    case = dict(cases((2,)))["lead1"]
    for coupling, caught in ((0.0, caught_without_coupling), (2.0, True)):
        field = gaussian_field(coupling)
        x = data(field, case)
        got = setflow.masked_log_prob(
            field, BASE, setflow.RK4(steps=50), x, case.mask, estimator=estimator
        )
        several = case.mask.sum(-1) > 1
        error = (got - field.log_prob(x, case.mask)).abs()[several]
        assert bool((error > 1e-2).all()) == caught, error


def test_total_probability_of_plain_vectors_is_one():
    """A field without sets, as the tutorial's, by the process."""
    field = redraw(setflow.VelocityField(2, hidden=16)).double()
    flow = setflow.FlowMatching(field, setflow.StandardNormal((2,)), setflow.RK4(steps=20))

    def log_prob(points, estimator=None):
        with torch.no_grad():
            return flow(None).log_prob(points, estimator=estimator)

    assert integral(log_prob, n=120) == pytest.approx(1, abs=1e-3)
    assert abs(integral(lambda p: log_prob(p, WrongSign()), n=60) - 1) > 0.05


# --- estimates and their stated errors ---


@pytest.mark.parametrize(
    "estimator",
    [
        setflow.HutchinsonDivergence(n_probes=2),
        setflow.HutchinsonDivergence(2, "gaussian"),
        setflow.HutchinsonDivergence(n_probes=2, renew=True),
    ],
    ids=["signs", "gaussian", "renewed"],
)
def test_estimates_are_unbiased(estimator):
    """Their mean over many probes, within its own error, is the exact value of the same solve."""
    field, case = gaussian_field(2.0), dict(cases((2,)))["lead1"]
    x, solver = data(field, case), setflow.Heun(steps=4)
    many = x.expand(400, *x.shape)  # the probes differ from event to event
    with torch.no_grad():
        exact = setflow.masked_log_prob(field, BASE, solver, x, case.mask)
        values = setflow.masked_log_prob(
            field, BASE, solver, many, case.mask, estimator=estimator, generator=seeded(1)
        )
    error = values.std(0) / len(values) ** 0.5
    assert ((values.mean(0) - exact).abs() <= 4 * error + 1e-10).all()
    assert values.std(0).max() > 0.05


@pytest.mark.parametrize("renew", [False, True])
def test_the_stated_standard_error_is_right(renew):
    """Its square is the variance, and pulls are those of Student's t with n_probes - 1 degrees.

    The variance for any distribution of the estimates; the pulls for the nearly normal ones of a
    field whose Jacobian has no dominant direction.
    """
    n_probes, solver = 12, setflow.Heun(steps=2)
    estimator = setflow.HutchinsonDivergence(n_probes=n_probes, renew=renew)
    wanted = (n_probes - 1) / (n_probes - 3)
    field = gaussian_field(2.0, features=3)
    base, x = setflow.StandardNormal((3,)), torch.randn(1, 12, 3)
    mask = torch.arange(12) != 4
    for judged, normal in ((field, False), (Shuffling(36), True)):
        many = x.expand(1500, 12, 3)
        with torch.no_grad():
            exact = setflow.masked_log_prob(judged, base, solver, x, mask)
            got, stated = setflow.masked_log_prob(
                judged, base, solver, many, mask, estimator=estimator, generator=seeded(2),
                return_standard_error=True,
            )  # fmt: skip
        assert stated.min() > 0
        excess = (got - exact) ** 2 - stated**2
        assert excess.mean().abs() < 4 * excess.std() / len(excess) ** 0.5
        pulls = ((got - exact) / stated) ** 2
        error = pulls.std().item() / len(pulls) ** 0.5
        assert error < 0.1 * wanted
        if normal:
            assert abs(pulls.mean().item() - wanted) < 4 * error


def test_an_exact_divergence_leaves_nothing_uncertain():
    field, case = gaussian_field(2.0), dict(cases((2,)))["lead1"]
    got, error = setflow.masked_log_prob(
        field, BASE, setflow.Heun(2), case.x, case.mask, return_standard_error=True
    )
    assert torch.equal(error, torch.zeros(6))
    alone = setflow.masked_log_prob(field, BASE, setflow.Heun(2), case.x, case.mask)
    assert torch.equal(got, alone)


# --- what a number must not depend on ---


@pytest.mark.parametrize("name", ["exact", "hutchinson"])
@pytest.mark.parametrize("field", [small_transformer, Pointwise], ids=["transformer", "pointwise"])
def test_padding_and_company_change_nothing(name, field):
    """Padded to 30, 60 and 150 with NaN; alone and among 64; permuted, for given probes."""
    field = redraw(field(3) if field is small_transformer else field()).double()
    base, solver, estimator = setflow.StandardNormal((3,)), setflow.Heun(2), ESTIMATORS[name]()
    objects = torch.randn(8, 3)

    def padded(slots, at):
        x = torch.full((slots, 3), float("nan")).index_put((at,), objects)
        return x, torch.zeros(slots, dtype=torch.bool).index_fill(0, at, True)

    def score(x, mask):
        with torch.no_grad():
            return setflow.masked_log_prob(
                field, base, solver, x, mask, estimator=estimator, generator=seeded()
            )

    expected = score(objects[None], None)
    for slots in (8, 30, 60, 150):
        for at in (torch.arange(8), torch.arange(8) * (slots // 8), slots - 8 + torch.arange(8)):
            x, mask = padded(slots, at)
            torch.testing.assert_close(score(x[None], mask[None]), expected, atol=1e-10, rtol=1e-10)
    x, mask = padded(30, torch.arange(8) * 3)
    others = torch.rand(63, 30) < torch.linspace(0, 1, 63)[:, None]
    company = torch.cat([x[None], torch.randn(63, 30, 3)]), torch.cat([mask[None], others])
    torch.testing.assert_close(score(*company)[:1], expected, atol=1e-10, rtol=1e-10)
    if name == "exact":  # probes follow the rank of an object
        order = torch.randperm(30)
        got = score(x[None, order], mask[None, order])
        torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("memory", [None, 1, 20_000])
@pytest.mark.parametrize("batched", [None, True, False])
def test_chunks_and_lanes_change_nothing(memory, batched):
    """Neither the numbers nor their gradients."""
    field, case = redraw(small_transformer(3)), dict(cases())["lead2"]
    base, x = setflow.StandardNormal((3,)), case.x.clone().requires_grad_()

    def score(estimator):
        with torch.no_grad():
            plain = setflow.masked_log_prob(
                field, base, setflow.Euler(2), x, case.mask, estimator=estimator
            )
        value = setflow.masked_log_prob(
            field, base, setflow.Euler(2), x, case.mask, estimator=estimator
        )
        return plain, value, *torch.autograd.grad(value.sum(), [x, *field.parameters()])

    expected = score(setflow.ExactDivergence())
    got = score(setflow.ExactDivergence(memory=memory, batched=batched))
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_arithmetic_is_that_of_the_data(name):
    """Short weights are widened, and autocast is left, also for gradients and samples."""
    case, base = dict(cases())["lead1"], setflow.StandardNormal((3,))
    short = redraw(small_transformer(3)).bfloat16()
    x, estimator = case.x.float(), ESTIMATORS[name]()

    def score(field, x):
        return setflow.masked_log_prob(
            field, base, setflow.Heun(2), x, case.mask, estimator=estimator, generator=seeded()
        )

    for wide, values in (
        (copy.deepcopy(short).float(), x),
        (copy.deepcopy(short).double(), case.x),
    ):
        expected = score(wide, values)
        assert expected.dtype == values.dtype
        got = score(short, values)
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(score(short, values), got, atol=0, rtol=0)
            torch.testing.assert_close(score(wide, values), expected, atol=0, rtol=0)
            gradients = torch.autograd.grad(score(wide, values).sum(), list(wide.parameters()))
        plain = torch.autograd.grad(expected.sum(), list(wide.parameters()))
        for mine, theirs in zip(gradients, plain, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)
    half = score(short, x.bfloat16())
    assert half.dtype == torch.float32
    rounded = score(copy.deepcopy(short).float(), x.bfloat16().float())
    torch.testing.assert_close(half, rounded, atol=1e-6, rtol=1e-6)


class CountingBackend:
    """A compiler that runs what it is given, and counts."""

    def __init__(self):
        self.graphs = self.runs = 0

    def __call__(self, module, inputs):
        self.graphs += 1

        def run(*arguments):
            self.runs += 1
            return module.forward(*arguments)

        return run


@pytest.fixture
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("name", ["exact", "hutchinson"])
def test_a_compiled_field_stays_compiled(name):
    """The products are those of the compiler, at every one of many times, from few graphs."""
    field, case, backend = Weighted(), dict(cases((2,)))["lead1"], CountingBackend()

    def score(field, solver):
        return setflow.masked_log_prob(
            field, BASE, solver, case.x, case.mask, estimator=ESTIMATORS[name](),
            generator=seeded(),
        )  # fmt: skip

    compiled = torch.compile(field, backend=backend)
    with torch.no_grad():
        got = score(compiled, setflow.RK4(5))
        torch.testing.assert_close(got, score(field, setflow.RK4(5)), atol=1e-10, rtol=1e-10)
    assert backend.runs >= 20, "one evaluation of 20 was not compiled"
    assert backend.graphs <= 4, "the time of a step is no reason to compile anew"
    gradients = [
        torch.autograd.grad(score(f, setflow.Heun(2)).sum(), field.weight)[0]
        for f in (compiled, field)
    ]
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=1e-10)


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("name", ["exact", "hutchinson"])
def test_a_field_compiled_ahead_of_time_gives_the_same_number(name):
    field, case = Weighted(), dict(cases((2,)))["lead1"]
    with torch.no_grad():
        got, expected = (
            setflow.masked_log_prob(
                f, BASE, setflow.Euler(1), case.x, case.mask, estimator=ESTIMATORS[name](),
                generator=seeded(),
            )
            for f in (torch.compile(field, backend="aot_eager"), field)
        )  # fmt: skip
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-10)


# --- gradients ---


def test_gradients_reach_parameters_and_data():
    """Against central differences, and against the closed form of the score."""
    field, case = gaussian_field(2.0), dict(cases((2,)))["lead1"]
    x = data(field, case).requires_grad_()
    log_p = setflow.masked_log_prob(field, BASE, setflow.RK4(steps=40), x, case.mask)
    (got,) = torch.autograd.grad(log_p.sum(), x)
    (expected,) = torch.autograd.grad(field.log_prob(x, case.mask).sum(), x)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)

    model = redraw(Pointwise()).double()
    weight, base, solver = model.net[0].weight, setflow.StandardNormal((3,)), setflow.Heun(steps=5)
    case = dict(cases((3,)))["lead1"]

    def total():
        return setflow.masked_log_prob(model, base, solver, case.x, case.mask).sum()

    (gradient,) = torch.autograd.grad(total(), weight)
    with torch.no_grad():
        step, before = 1e-5, weight[2, 1].item()
        weight[2, 1] = before + step
        up = total().item()
        weight[2, 1] = before - step
        down = total().item()
    assert gradient[2, 1].item() == pytest.approx((up - down) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("estimator", ["exact", "hutchinson"])
@pytest.mark.parametrize("verb", ["score", "sample"])
def test_gradients_are_differences(verb, estimator):
    """With respect to parameters, buffers that a field holds, context and data, at given probes."""
    field = ConditionalGaussian(gaussian_field(2.0), torch.tensor([[0.5], [-0.3]]))
    case = dict(cases((2,), context=1))["lead1"]
    names = {
        "x": case.x, "c": case.c, "loc": field.field.loc, "slope": field.slope.data,
    }  # fmt: skip

    def total(values):
        field.field.loc, field.slope.data = values["loc"], values["slope"]
        how = {"c": values["c"], "estimator": ESTIMATORS[estimator](), "generator": seeded()}
        if verb == "score":
            return setflow.masked_log_prob(
                field, BASE, setflow.Heun(3), values["x"], case.mask, **how
            ).sum()
        x, log_p = scored(field, BASE, setflow.Heun(3), case.mask, x_source=values["x"], **how)
        return (x**2).sum() + log_p.sum()

    leaves = {name: value.clone().requires_grad_() for name, value in names.items()}
    found = dict(
        zip(
            leaves,
            torch.autograd.grad(
                total(leaves),
                [field.slope if name == "slope" else leaf for name, leaf in leaves.items()],
            ),
            strict=True,
        )
    )
    for name, value in names.items():
        direction = torch.randn(value.shape, generator=seeded())
        with torch.no_grad():
            up, down = (
                total(names | {name: value + step * direction}).item() for step in (1e-5, -1e-5)
            )
        slope = (found[name] * direction).sum().item()
        assert slope == pytest.approx((up - down) / 2e-5, rel=1e-6), name
        assert abs(slope) > 1e-2, name


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(mode):
    field, case = gaussian_field(2.0), dict(cases((2,)))["lead1"]
    x = data(field, case)
    with mode():
        inside = x.clone()
        got = setflow.masked_log_prob(field, BASE, setflow.RK4(steps=100), inside, case.mask)
    assert not got.requires_grad
    torch.testing.assert_close(got.clone(), field.log_prob(x, case.mask), atol=1e-6, rtol=0)


def test_everything_may_be_made_in_inference_mode():
    """Tensors that autograd may not save: context, mask and times too; and a torch base."""
    case = dict(cases((2,), context=2))["lead1"]
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), 1.0), 1)
    expected = setflow.masked_log_prob(
        Conditional(), BASE, setflow.Heun(3), case.x, case.mask, c=case.c
    )
    with torch.inference_mode():
        x, mask, c = case.x.clone(), case.mask.clone(), case.c.clone()
        got = setflow.masked_log_prob(Conditional(), base, setflow.Heun(3), x, mask, c=c)
    torch.testing.assert_close(got.clone(), expected.detach(), atol=1e-12, rtol=0)


def test_sample_dimensions_share_mask_and_context():
    case = dict(cases((2,), context=2))["lead1"]
    x = torch.randn(3, *case.x.shape)
    together = setflow.masked_log_prob(Conditional(), BASE, setflow.Heun(3), x, case.mask, c=case.c)
    for got, part in zip(together, x, strict=True):
        alone = setflow.masked_log_prob(
            Conditional(), BASE, setflow.Heun(3), part, case.mask, c=case.c
        )
        torch.testing.assert_close(got, alone, atol=1e-12, rtol=0)
    unmasked = setflow.masked_log_prob(Conditional(), BASE, setflow.Heun(3), x, None, c=case.c)
    full = torch.ones_like(case.mask)
    masked = setflow.masked_log_prob(Conditional(), BASE, setflow.Heun(3), x, full, c=case.c)
    torch.testing.assert_close(unmasked, masked, atol=1e-12, rtol=0)


def test_float32_sums_are_accumulated_in_float64():
    field, case = gaussian_field(2.0).float(), dict(cases((2,)))["lead1"]
    x = data(field.double(), case)
    expected = field.log_prob(x, case.mask)
    got = setflow.masked_log_prob(field.float(), BASE, setflow.RK4(steps=50), x.float(), case.mask)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, atol=2e-5, rtol=1e-5)


def test_bad_input_is_refused():
    field, x, solver = gaussian_field(0.0), torch.randn(4, 5, 2), setflow.Heun(2)
    with pytest.raises(ValueError, match="solves stochastic equations"):
        setflow.masked_log_prob(field, BASE, setflow.EulerMaruyama(2), x, None)
    with pytest.raises(ValueError, match=r"mask has shape \(4, 6\), expected \(4, 5\)"):
        setflow.masked_log_prob(field, BASE, solver, x, torch.ones(4, 6))
    with pytest.raises(ValueError, match=r"mask has shape \(3, 5\), expected \(4, 5\)"):
        setflow.masked_log_prob(field, BASE, solver, x, torch.ones(3, 5))
    with pytest.raises(ValueError, match=r"c has shape \(3, 1\)"):
        setflow.masked_log_prob(field, BASE, solver, x, torch.ones(4, 5), c=torch.ones(3, 1))
    with pytest.raises(ValueError, match="event_ndim=1, expected at least 2"):
        setflow.masked_log_prob(setflow.VelocityField(2), BASE, solver, x, torch.ones(4, 5))
    with pytest.raises(TypeError, match="estimator must be callable"):
        setflow.masked_log_prob(field, BASE, solver, x, None, estimator="exact")
    with pytest.raises(ValueError, match="expected a floating dtype"):
        setflow.masked_log_prob(field, BASE, solver, x > 0, None)

    class Scalar(WrongSign):
        def velocity_and_divergence(self, *args, **kwargs):
            v, divergence = super().velocity_and_divergence(*args, **kwargs)
            return v, divergence.sum()

    for estimator in (Scalar(), lambda field, x, t, c: x.sum((-1, -2))[:, None]):
        with pytest.raises(ValueError, match=r"expected \(4,\): one value per event"):
            setflow.masked_log_prob(field, BASE, solver, x, None, estimator=estimator)

    class PerObject(setflow.StandardNormal):
        def log_prob(self, value, *, mask=None):
            return -0.5 * (value**2).sum(-1)

    with pytest.raises(ValueError, match="the base returned a log-density with shape"):
        setflow.masked_log_prob(field, PerObject((2,)), solver, x, None)


def test_more_bad_input_is_refused():
    field, x, solver = gaussian_field(0.0), torch.randn(4, 5, 2), setflow.Heun(2)
    mask = torch.arange(5) < torch.tensor([[5], [3], [0], [4]])

    def score(field=field, base=BASE, solver=solver, x=x, mask=mask, **options):
        return setflow.masked_log_prob(field, base, solver, x, mask, **options)

    for value in (float("nan"), float("inf"), -float("inf")):
        broken = x.index_put((torch.tensor([1, 1]), torch.tensor([2, 4])), torch.tensor(value))
        with pytest.raises(
            ValueError, match=r"x\[1, 2, 0\] of a real object is not finite.*padding"
        ):
            score(x=broken)
        assert score(x=broken, mask=mask & (torch.arange(5) != 2)).isfinite().all()
    with pytest.raises(ValueError, match=r"no integer attribute event_ndim.*set it to the number"):
        score(field=nn.Linear(2, 2))
    for estimator in (ESTIMATORS[name]() for name in ESTIMATORS):
        with pytest.raises(ValueError, match="no integer attribute event_ndim"):
            estimator(nn.Linear(2, 2), x, 0.5)
    sde = setflow.EulerMaruyama(2)
    with pytest.raises(ValueError, match=r"solves stochastic equations.*expected an ODE solver"):
        scored(field, BASE, sde, mask, x_source=x)
    joint = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    for call in (score, lambda base: scored(field, base, solver, mask, x_source=x)):
        with pytest.raises(ValueError, match=r"does not factorise per coordinate.*StandardNormal"):
            call(base=joint)
    per_slot = setflow.DiagonalNormal(torch.randn(5, 2), torch.ones(5, 2), event_ndim=2)
    with pytest.raises(ValueError, match="one set for each of the 5 slots"):
        score(base=per_slot)
    of_five_events = setflow.DiagonalNormal(torch.randn(5, 2), torch.ones(5, 2))
    for masked in (mask, None):
        with pytest.raises(ValueError, match=r"batch shape \(5,\)"):
            score(base=of_five_events, mask=masked)
    one = setflow.HutchinsonDivergence()
    with pytest.raises(ValueError, match=r"needs two or more independent.*n_probes=8"):
        score(estimator=one, return_standard_error=True)
    with pytest.raises(ValueError, match="tells no standard error"):
        score(estimator=lambda field, x, t, c: x.sum((-1, -2)), return_standard_error=True)
    renewing = setflow.HutchinsonDivergence(renew=True)
    with pytest.raises(ValueError, match=r"new probes at every evaluation.*renew=False, or"):
        score(estimator=renewing, solver=setflow.Dopri5())


def test_events_that_miss_the_tolerance_are_named():
    """The second and the fourth event run away; the others, alone, do not."""

    class Runaway(Wavy):
        def forward(self, x, t, c=None, *, mask=None):
            v = torch.where(x.abs().amax((-1, -2), keepdim=True) > 3, 50 * x**3, -x)
            return v if mask is None else torch.where(mask[..., None], v, 0.0)

    x = torch.randn(5, 4, 2).clamp(-1, 1)
    x[[1, 3], 0] = 5.0
    solver = setflow.Dopri5(max_nfe=100)
    with pytest.raises(setflow.solvers.IntegrationError, match=r"events \(1,\), \(3,\)") as caught:
        setflow.masked_log_prob(Runaway(), BASE, solver, x, torch.ones(5, 4))
    assert caught.value.events == ((1,), (3,))
    calm = setflow.masked_log_prob(Runaway(), BASE, solver, x[[0, 2, 4]], torch.ones(3, 4))
    assert calm.isfinite().all()
    scaler = Standardizer(2, mean=0, std=1)
    flow = setflow.SetFlow(
        Runaway(), scaler=scaler, features=["a", "b"]
    )  # rows of the caller, in any batch
    lengths = torch.tensor([4, 2, 3, 1, 4])
    batch = setflow.SetBatch(x, torch.arange(4) < lengths[:, None])
    with pytest.raises(setflow.solvers.IntegrationError) as caught:
        flow.log_prob_terms(batch, solver=solver)
    assert sorted(caught.value.events) == [(1,), (3,)]


def test_events_without_slots_have_log_density_zero():
    field, x = gaussian_field(2.0), torch.zeros(4, 0, 2)
    for mask in (None, torch.ones(4, 0, dtype=torch.bool)):
        got = setflow.masked_log_prob(field, BASE, setflow.Heun(2), x, mask)
        assert torch.equal(got, torch.zeros(4))
    none = setflow.masked_log_prob(field, BASE, setflow.Heun(2), torch.zeros(0, 5, 2), None)
    assert none.shape == (0,)


def test_probes_come_from_the_generator_of_the_verb():
    field, x = gaussian_field(2.0), torch.randn(3, 4, 2)
    flow = setflow.FlowMatching(field, BASE, setflow.Heun(2))

    def drawn(seed, how):
        options = {
            "estimator": setflow.HutchinsonDivergence(),
            "generator": torch.Generator().manual_seed(seed),
        }
        if how == "verb":
            return setflow.masked_log_prob(field, BASE, setflow.Heun(2), x, None, **options)
        if how == "process":
            return flow(None).log_prob(x, **options)
        schedule = setflow.VESchedule(0.1, 1.0)
        diffusion = setflow.Diffusion(
            field, schedule, setflow.Heun(2), parameterization="velocity", event_shape=(2,)
        )
        return diffusion(None, mask=torch.ones(3, 4)).log_prob(x, **options)

    for how in ("verb", "process", "diffusion"):
        assert torch.equal(drawn(1, how), drawn(1, how))
        assert not torch.equal(drawn(1, how), drawn(2, how))
