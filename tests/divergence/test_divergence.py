"""Divergences: against the trace of the full Jacobian, and the estimator's own statistics."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

import setflow
from each import each
from laws.laws import cases, redraw
from setflow.divergence import FixedProbeDivergence, as_estimator, exact
from setflow.divergence.linearization import wide_weights
from setflow.sets.events import Events


class Swirl(nn.Module):
    """A nonlinear field on plain vectors, whose Jacobian is neither diagonal nor constant."""

    event_ndim = 1

    def __init__(self, dim: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.matrix = nn.Parameter(torch.randn(dim, dim, generator=generator))

    def forward(self, x, t, c=None):
        return torch.tanh(x @ self.matrix) * (1 + t[..., None]) + x.square().roll(1, -1)


class Sets(Swirl):
    """The same on sets, with a sum over objects that mixes them."""

    event_ndim = 2
    takes_mask = True

    def forward(self, x, t, c=None, *, mask=None):
        total = x.sum(-2, keepdim=True)
        return torch.tanh((x + total) @ self.matrix) * (1 + t[..., None, None])


class Scalars(nn.Module):
    """A field on single numbers."""

    event_ndim = 0

    def forward(self, x, t, c=None):
        return x**3 + t


def brute_force(field, x, t, mask=None):
    """The trace of each event's Jacobian over its real coordinates, by torch's own Jacobian."""
    event_ndim = field.event_ndim
    lead = x.shape[: x.ndim - event_ndim]
    flat, times = x.reshape(-1, *x.shape[len(lead) :]), t.reshape(-1)
    masks = None if mask is None else mask.reshape(-1, mask.shape[-1])
    traces = []
    for i, event in enumerate(flat):

        def v(values, i=i):
            if masks is None:
                return field(values[None], times[i : i + 1])[0]
            real = torch.where(masks[i, :, None], values, 0.0)
            out = field(real[None], times[i : i + 1], mask=masks[i : i + 1])[0]
            return torch.where(masks[i, :, None], out, 0.0)

        numel = max(1, event.numel())
        jacobian = torch.autograd.functional.jacobian(v, event).reshape(numel, numel)
        keep = torch.ones(numel, dtype=torch.bool)
        if masks is not None:
            keep = masks[i].repeat_interleave(event[0].numel())
        traces.append(jacobian.diagonal()[keep].sum())
    return torch.stack(traces).reshape(lead)


def solve_of(estimator, field, x, t, c=None, mask=None, generator=None):
    """The divergence as a function of (x, t, c), with the probes of one solve."""
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    evaluate = estimator.for_solve(field, Events.of(field, x, mask, t=t, c=c), generator)
    return lambda x, t, c=None: evaluate(Events.of(field, x, mask, t=t, c=c))[1].mean(-1)


@pytest.mark.parametrize("lead", [(), (5,), (2, 3)])
@pytest.mark.parametrize("field", [Swirl(), Scalars(), redraw(setflow.VelocityField(3, hidden=8))])
def test_exact_divergence_is_the_trace_of_the_jacobian(field, lead):
    field = field.double()
    x = torch.randn((*lead, *([3] * field.event_ndim)))
    t = torch.rand(lead)
    v, divergence = setflow.ExactDivergence().velocity_and_divergence(field, x, t)
    torch.testing.assert_close(v, field(x, t), atol=1e-12, rtol=0)
    torch.testing.assert_close(divergence, brute_force(field, x, t), atol=1e-10, rtol=0)
    called = setflow.ExactDivergence()(field, x, t, None)
    torch.testing.assert_close(called, divergence, atol=0, rtol=0)


@pytest.mark.parametrize(
    "field",
    [
        lambda: Sets(),
        lambda: redraw(setflow.TransformerField(3, hidden=16, layers=2, heads=2)),
        lambda: setflow.GaussianSetField(torch.zeros(3), torch.ones(3), coupling=2.0),
    ],
    ids=["sums", "transformer", "gaussian"],
)
def test_exact_divergence_of_sets_counts_real_coordinates(field):
    for _, case in cases():
        model = field().double()
        got = setflow.ExactDivergence()(model, case.x, case.t, mask=case.mask)
        expected = brute_force(model, case.x, case.t, case.mask)
        torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_and_its_variance_falls_with_the_number_of_probes(probe):
    field, generator = Sets().double(), torch.Generator().manual_seed(3)
    case = dict(cases())["lead1"]
    exact = setflow.ExactDivergence()(field, case.x, case.t, mask=case.mask)

    def estimates(n_probes, rounds):
        estimator = setflow.HutchinsonDivergence(n_probes, probe)
        return torch.stack(
            [
                solve_of(estimator, field, case.x, case.t, None, case.mask, generator)(
                    case.x, case.t
                )
                for _ in range(rounds)
            ]
        )

    single, several = estimates(1, 800), estimates(8, 100)
    standard_error = (single.var(0) / len(single)).sqrt()
    assert ((single.mean(0) - exact).abs() <= 4 * standard_error + 1e-12).all()
    spread = single.var(0)[exact.abs() > 0] / several.var(0)[exact.abs() > 0].clamp(min=1e-12)
    several_objects = case.mask.sum(-1)[exact.abs() > 0] > 1
    assert (spread[several_objects] > 4).all()
    assert (spread[several_objects] < 16).all()


def test_rademacher_probes_are_exact_for_a_diagonal_jacobian_and_gaussian_ones_are_not():
    field = setflow.GaussianSetField(torch.zeros(3), torch.full((3,), 0.5), coupling=0.0).double()
    case = dict(cases())["lead1"]
    exact = setflow.ExactDivergence()(field, case.x, case.t, mask=case.mask)
    signs = setflow.HutchinsonDivergence()(field, case.x, case.t, mask=case.mask)
    torch.testing.assert_close(signs, exact, atol=1e-12, rtol=0)
    normal = setflow.HutchinsonDivergence(probe="gaussian")(field, case.x, case.t, mask=case.mask)
    assert (normal - exact).abs().max() > 1e-3


def test_probes_come_from_the_generator():
    field, x, t = Swirl().double(), torch.randn(4, 3), torch.rand(4)

    def draw(seed):
        estimator = setflow.HutchinsonDivergence(n_probes=2)
        generator = torch.Generator().manual_seed(seed)
        return solve_of(estimator, field, x, t, generator=generator)(x, t)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "estimator", [setflow.ExactDivergence(), setflow.HutchinsonDivergence(n_probes=2)]
)
def test_divergences_work_where_gradients_are_off(mode, estimator):
    field = redraw(setflow.TransformerField(3, hidden=16, layers=1, heads=2)).double()
    case = dict(cases())["lead1"]
    fixed = solve_of(estimator, field, case.x, case.t, None, case.mask)
    expected = fixed(case.x, case.t).detach()
    with mode():
        x = case.x.clone()  # in inference mode, a tensor that autograd may not save
        got = fixed(x, case.t)
    assert not got.requires_grad
    torch.testing.assert_close(got.clone(), expected, atol=1e-12, rtol=0)


class Kernels(TorchDispatchMode):
    """Counts the evaluations of attention by PyTorch's fused kernel for a CPU."""

    fused = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.fused += "scaled_dot_product_flash_attention_for_cpu" in str(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1.5e-5), (torch.float64, 1e-10)])
def test_fused_attention_serves_single_products_and_plain_attention_all_others(dtype, close):
    """Many products in one pass, and second derivatives, have no fused kernel."""
    field = redraw(setflow.TransformerField(3, hidden=16, layers=2, heads=2)).to(dtype)
    x, t = torch.randn(3, 5, 3, dtype=dtype), torch.rand(3, dtype=dtype)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]]).bool()
    expected = brute_force(field, x, t, mask)
    probes = FixedProbeDivergence(torch.ones(1, 3, 5, 3, dtype=dtype))
    for estimator, fused in (
        (setflow.ExactDivergence(batched=False), True),
        (setflow.ExactDivergence(batched=True), False),
        (probes, True),
    ):
        own = solve_of(estimator, field, x, t, None, mask)
        with sdpa_kernel([SDPBackend.MATH]):
            plain = own(x, t)
        if estimator is not probes:
            torch.testing.assert_close(plain, expected.to(plain), atol=close, rtol=close)
        with torch.no_grad(), Kernels() as seen:
            torch.testing.assert_close(own(x, t), plain.detach(), atol=close, rtol=close)
        assert bool(seen.fused) is fused
        (gradient,) = torch.autograd.grad(own(x, t).sum(), field.embed.weight)
        (plain_gradient,) = torch.autograd.grad(plain.sum(), field.embed.weight)
        torch.testing.assert_close(gradient, plain_gradient, atol=10 * close, rtol=10 * close)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float64])
def test_weights_are_widened_once_for_a_solve_and_get_their_gradients(half, monkeypatch):
    """Weights in bfloat16 under states in float32; those as wide as the states stay as they are."""
    field = redraw(setflow.TransformerField(3, hidden=16, layers=1, heads=2)).to(half)
    looked: list[int] = []
    monkeypatch.setattr(exact, "wide_weights", lambda *a: looked.append(1) or wide_weights(*a))
    x = torch.randn(2, 4, 3, dtype=torch.promote_types(half, torch.float32))
    base, solver = setflow.StandardNormal((3,)), setflow.RK4(3)
    with torch.no_grad():
        expected = setflow.masked_log_prob(field, base, solver, x, None)
        once = len(looked)
        setflow.masked_log_prob(field, base, setflow.RK4(6), x, None)
    assert len(looked) == 2 * once
    log_p = setflow.masked_log_prob(field, base, solver, x, None)
    torch.testing.assert_close(log_p.detach(), expected, atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(log_p.sum(), field.embed.weight)
    wide = redraw(setflow.TransformerField(3, hidden=16, layers=1, heads=2)).to(x.dtype)
    wide.load_state_dict(field.state_dict())
    log_p = setflow.masked_log_prob(wide, base, solver, x, None)
    (expected,) = torch.autograd.grad(log_p.sum(), wide.embed.weight)
    torch.testing.assert_close(gradient.to(x.dtype), expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("estimator", [setflow.ExactDivergence(), setflow.HutchinsonDivergence()])
def test_divergences_are_differentiable(estimator):
    """d div / d theta and d div / d x against finite differences."""
    field, t = Sets().double(), torch.tensor([0.3, 0.8])
    x = torch.randn(2, 4, 3).requires_grad_()
    fixed = solve_of(estimator, field, x, t)
    inputs = (x, field.matrix)

    def divergence(x, matrix):
        with torch.no_grad():
            field.matrix.copy_(matrix)
        return fixed(x, t).sum()

    gradients = torch.autograd.grad(fixed(x, t).sum(), inputs)
    for index, gradient in enumerate(gradients):
        moved = [value.detach().clone() for value in inputs]
        step = 1e-5
        moved[index].view(-1)[4] += step
        up = divergence(*moved).item()
        moved[index].view(-1)[4] -= 2 * step
        down = divergence(*moved).item()
        moved[index].view(-1)[4] += step
        divergence(*moved)
        assert gradient.flatten()[4].item() == pytest.approx((up - down) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("estimator", [setflow.ExactDivergence(), setflow.HutchinsonDivergence()])
def test_a_context_that_was_computed_from_x_is_held_fixed(estimator):
    class Shifted(Swirl):
        def forward(self, x, t, c=None):
            return super().forward(x, t) + torch.sin(x * c)

    field, t = Shifted().double(), torch.rand(4)
    x = torch.randn(4, 3).requires_grad_()
    fixed = solve_of(estimator, field, x, t, x.sum(-1, keepdim=True))
    expected = fixed(x.detach(), t, x.detach().sum(-1, keepdim=True))
    got = fixed(x, t, x.sum(-1, keepdim=True))
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


def test_a_constant_field_has_no_divergence():
    class Constant(nn.Module):
        event_ndim = 1

        def forward(self, x, t, c=None):
            return torch.ones_like(x)

    x = torch.randn(5, 3)
    for estimator in (setflow.ExactDivergence(), setflow.HutchinsonDivergence()):
        v, divergence = estimator.velocity_and_divergence(Constant(), x, 0.5)
        assert v.sum() == 15
        assert torch.equal(divergence, torch.zeros(5))


def test_a_users_estimator_sees_a_field_with_its_mask_bound():
    """The sum over all slots of a central difference: the mask need not be known."""

    def differences(field, x, t, c):
        total, step = torch.zeros(x.shape[:-2]), 1e-5
        for n in range(x.shape[-2]):
            for d in range(x.shape[-1]):
                moved = torch.zeros_like(x)
                moved[..., n, d] = step
                change = field(x + moved, t, c) - field(x - moved, t, c)
                total += change[..., n, d] / (2 * step)
        return total

    field, case = Sets().double(), dict(cases())["lead2"]
    estimator = as_estimator(differences)
    v, got = estimator.velocity_and_divergence(field, case.x, case.t, mask=case.mask)
    expected = setflow.ExactDivergence().velocity_and_divergence(
        field, case.x, case.t, mask=case.mask
    )
    torch.testing.assert_close(v, expected[0], atol=0, rtol=0)
    torch.testing.assert_close(got, expected[1], atol=1e-6, rtol=0)


def test_errors():
    field, x = Swirl().double(), torch.randn(2, 3)
    with pytest.raises(ValueError, match="3 coordinates, more than max_dim=2"):
        setflow.ExactDivergence(max_dim=2)(field, x, 0.5)
    assert setflow.ExactDivergence(max_dim=3)(field, x, 0.5).shape == (2,)
    with pytest.raises(ValueError, match="max_dim must be positive"):
        setflow.ExactDivergence(max_dim=0)
    with pytest.raises(ValueError, match="'rademacher' or 'gaussian', got 'normal'"):
        setflow.HutchinsonDivergence(4, "normal")
    for n_probes in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="n_probes must be a positive integer"):
            setflow.HutchinsonDivergence(n_probes=n_probes)
    with pytest.raises(ValueError, match="the shape of x behind the number of probes"):
        FixedProbeDivergence(torch.ones(1, 2, 4))(field, x, 0.5)
    with pytest.raises(TypeError, match="estimator must be callable"):
        as_estimator("exact")
    with pytest.raises(ValueError, match="event_ndim"):
        setflow.ExactDivergence()(nn.Linear(3, 3), x, 0.5)
    with pytest.raises(TypeError, match="estimator must be callable"):
        as_estimator(setflow.ExactDivergence)


@pytest.mark.parametrize("slots", [0, 1, 3])
@pytest.mark.parametrize(
    "estimator",
    [
        setflow.ExactDivergence(),
        setflow.HutchinsonDivergence(2, "gaussian", renew=True),
    ],
)
def test_few_slots_few_objects_and_no_event_at_all(estimator, slots):
    field = Sets().double()
    for x in (torch.randn(4, slots, 3), torch.randn(0, slots, 3), torch.randn(slots, 3)):
        lead = x.shape[:-2]
        none = torch.zeros(*lead, slots, dtype=torch.bool)
        v, divergence = estimator.velocity_and_divergence(field, x, 0.5, mask=none)
        assert torch.equal(v, torch.zeros_like(x))
        assert torch.equal(divergence, torch.zeros(lead))
        v, divergence = estimator.velocity_and_divergence(field, x, 0.5)
        assert divergence.shape == lead


def test_estimators_say_what_they_are():
    for text in (
        "ExactDivergence()",
        "ExactDivergence(max_dim=9, memory=1024, batched=False)",
        "HutchinsonDivergence(8, probe='gaussian', renew=True)",
        "HutchinsonDivergence(1, probe='rademacher')",
    ):
        assert repr(eval(f"setflow.{text}")) == text


def test_the_number_of_probes_comes_first():
    """And a kind in its place is told where it belongs."""
    estimator = setflow.HutchinsonDivergence(4)
    assert (estimator.n_probes, estimator.probe, estimator.renews) == (4, "rademacher", False)
    assert setflow.HutchinsonDivergence(3, "gaussian").probe == "gaussian"
    again = eval(repr(estimator), {"HutchinsonDivergence": setflow.HutchinsonDivergence})
    assert repr(again) == repr(estimator)
    message = r"the number of probes comes first, HutchinsonDivergence\(4, probe='gaussian'\)"
    with pytest.raises(ValueError, match=message):
        setflow.HutchinsonDivergence("gaussian")
    field, x = setflow.GaussianSetField([0.0, 0.0], [1.0, 1.0]), torch.zeros(2, 3, 2)
    _, estimates = estimator.for_solve(field, Events.of(field, x, None, t=1.0))(
        Events.of(field, x, None, t=1.0)
    )
    assert estimates.shape == (2, 4)


@each(
    ("call", "message"),
    [
        (lambda: setflow.Dopri5(50), "rtol must be below 1, got 50: Dopri5 takes tolerances"),
        (lambda: setflow.BrownianGamma(0.5), r"floor of gamma\^2; the amplitude is that of Scaled"),
        (lambda: setflow.ScaledBrownianGamma(1.0, 1.0), r"below the maximum of gamma\^2, 0\.25"),
        (lambda: setflow.ExactDivergence("gaussian"), "has no kind of probes"),
        (lambda: setflow.divergence.FixedProbeDivergence(4), "HutchinsonDivergence.4. draws four"),
        (lambda: setflow.PairFeatures(4), "columns must be three positions, got 4"),
        (lambda: setflow.data.Standardizer(torch.zeros(3)), "dim must be a positive integer"),
        (lambda: setflow.EmpiricalCardinality([3, 4]), "max_objects must be a positive integer"),
    ],
)
def test_a_first_argument_that_means_something_else_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class _Detached(torch.nn.Module):
    """v = 2 x, by a way that carries no gradient to x, and a weight that has one."""

    event_ndim, takes_mask = 2, False

    def __init__(self, way):
        super().__init__()
        self.way, self.weight = way, torch.nn.Parameter(torch.ones(()))

    def forward(self, x, t, c=None):
        return 2 * self.weight * self.way(x)


@pytest.mark.parametrize("weighed", [True, False])
@pytest.mark.parametrize(
    "way",
    [torch.Tensor.detach, lambda x: torch.from_numpy(x.detach().numpy())],
    ids=["torch", "numpy"],
)
@pytest.mark.parametrize(
    "estimator",
    [setflow.ExactDivergence(), setflow.HutchinsonDivergence(2)],
    ids=["exact", "probes"],
)
def test_a_velocity_that_hides_how_it_depends_on_x_is_refused(estimator, way, weighed):
    """Its divergence is 2 for each real coordinate, and came out as 0."""
    x, mask = torch.randn(3, 6, 2), torch.rand(3, 6) > 0.3
    field = _Detached(way).requires_grad_(weighed)
    with pytest.raises(ValueError, match="no gradient leads from it to x"), torch.no_grad():
        setflow.masked_log_prob(
            field, setflow.StandardNormal((2,)), setflow.RK4(2), x, mask, estimator=estimator
        )


def test_a_velocity_that_does_not_depend_on_x_has_no_divergence():
    x, mask = torch.randn(3, 6, 2), torch.rand(3, 6) > 0.3
    field = _Detached(torch.ones_like)
    for estimator in (setflow.ExactDivergence(), setflow.HutchinsonDivergence(2)):
        assert (estimator(field, x, 0.5, mask=mask) == 0).all()
