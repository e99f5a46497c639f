"""What the transformer has that other fields have not: pair features, context sets, QK-norm."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

import setflow
from laws.laws import redraw
from setflow.fields import PairFeatures
from setflow.fields.transformer import _allowed
from setflow.model.folder import describe


def four_vectors(y, phi, pt):
    return torch.stack([pt * y.cosh(), pt * phi.cos(), pt * phi.sin(), pt * y.sinh()], -1)


def test_pair_features_are_those_of_the_four_vectors():
    """Of two massless particles: m^2 = (E_a + E_b)^2 - |p_a + p_b|^2."""
    generator = torch.Generator().manual_seed(0)
    y = torch.linspace(-1, 1, 6) + 0.1 * torch.rand(6, generator=generator)
    phi = torch.linspace(-3, 3, 6)  # the first and the last are near each other
    pt = 10 * torch.rand(6, generator=generator) + 0.1
    loc, scale = (0.3, -0.2, 1.5), (0.5, 2.0, 0.7)
    physical = torch.stack([pt.log(), y, phi], -1)  # in another order than the columns
    order = torch.tensor(loc)[[2, 0, 1]], torch.tensor(scale)[[2, 0, 1]]
    x = (physical - order[0]) / order[1]
    got = PairFeatures(columns=(1, 2, 0), loc=loc, scale=scale)(x)
    p = four_vectors(y, phi, pt)
    total = p[:, None] + p[None]
    m2 = total[..., 0] ** 2 - (total[..., 1:] ** 2).sum(-1)
    dphi = (phi[:, None] - phi[None] + math.pi).remainder(2 * math.pi) - math.pi
    delta = torch.hypot(y[:, None] - y[None], dphi)
    softer = torch.minimum(pt[:, None], pt[None])
    z = softer / (pt[:, None] + pt[None])
    apart = ~torch.eye(6, dtype=torch.bool)
    for k, expected in enumerate((delta, softer * delta, z, m2)):
        torch.testing.assert_close(
            got[..., k].exp()[apart], expected[apart], rtol=1e-3, atol=0, msg=f"feature {k}"
        )
    torch.testing.assert_close(got, got.transpose(0, 1))
    assert delta[0, 5] < 2.2
    diagonal = got[range(6), range(6)]
    torch.testing.assert_close(diagonal[:, 0].exp(), torch.full((6,), 0.01))
    torch.testing.assert_close(diagonal[:, 2].exp(), torch.full((6,), 0.5))


def test_pair_features_are_smooth_where_particles_meet():
    x = torch.zeros(1, 2, 3, requires_grad=True)
    features = PairFeatures()(x)
    assert features.isfinite().all()
    for k in range(4):
        (gradient,) = torch.autograd.grad(features[..., k].sum(), x, retain_graph=True)
        assert gradient.isfinite().all()
    line = torch.linspace(-0.05, 0.05, 4001)
    particles = torch.zeros(4001, 2, 3)
    particles[:, 0, 0] = line
    steps = PairFeatures()(particles)[:, 0, 1].diff(dim=0).abs().max()
    assert steps < 1.1 * (0.1 / 4000) / 0.01  # at most one unit of the logarithm in 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pair_features_are_finite_for_distant_particles(dtype):
    """cosh overflows there; ln m^2 becomes ln pT + ln pT + |dy|."""
    x = torch.tensor([[0.0, 0.0, 1.0], [1000.0, 0.0, 2.0], [-1000.0, 3.0, -1.0]], dtype=dtype)
    features = PairFeatures()(x)
    assert features.isfinite().all()
    torch.testing.assert_close(features[0, 1, 3], torch.tensor(1003.0, dtype=dtype))


@pytest.mark.parametrize(
    "arguments",
    [
        {"scale": (math.nan, 1.0, 1.0)},
        {"loc": (0.0, math.inf, 0.0)},
        {"columns": (0, 1, 1.5)},
        {"columns": (0, 1)},
        {"loc": (0.0,)},
        {"scale": (1.0, 0.0, 1.0)},
        {"columns": (0, -1, 2)},
    ],
)
def test_bad_pair_features_are_refused(arguments):
    with pytest.raises(ValueError, match=r"expected three|must be (positive|finite|integers)"):
        PairFeatures(**arguments)


def test_heads_are_as_wide_as_32_features_unless_told():
    """The largest divisor of the width that leaves each head at least 32 features."""
    expected = {8: 1, 16: 1, 31: 1, 32: 1, 64: 2, 96: 3, 100: 2, 127: 1, 128: 4, 256: 8, 320: 10}
    for hidden, heads in expected.items():
        field = setflow.TransformerField(3, hidden=hidden, layers=1)
        assert field.heads == field.blocks[0].heads.heads == heads, hidden
        assert describe(field)["init_args"]["heads"] == heads
    assert setflow.TransformerField(3, layers=1, heads=8).heads == 8
    with pytest.raises(ValueError, match="sizes must be positive"):
        setflow.TransformerField(3, hidden=0)


def test_bad_transformers_are_refused():
    def made(**options):
        return setflow.TransformerField(3, **options)

    with pytest.raises(ValueError, match="hidden=10 must be a multiple of heads=4"):
        made(hidden=10, heads=4)
    with pytest.raises(ValueError, match="sizes must be positive"):
        made(layers=0)
    with pytest.raises(ValueError, match="columns of the 3 features"):
        made(pair_features=PairFeatures(columns=(0, 1, 3)))
    with pytest.raises(TypeError, match="must be PairFeatures or None, got 'yes'"):
        made(pair_features="yes")
    with pytest.raises(ValueError, match="object_condition_dim=2 excludes condition_dim=1"):
        made(object_condition_dim=2, condition_dim=1)
    with pytest.raises(ValueError, match=r"at least 0, got .*set_condition_dim=-1"):
        made(set_condition_dim=-1)
    with pytest.raises(ValueError, match=re.escape("expected (*lead, N, D) with")):
        PairFeatures()(torch.zeros(4, 5, 2))


def test_normalised_queries_and_keys_have_no_scale():
    """Ten times the weights of queries and keys are the same attention, with the norm alone."""
    x, t = torch.randn(4, 7, 3), torch.rand(4)
    for qk_norm in (True, False):
        field = redraw(setflow.TransformerField(3, hidden=8, layers=1, heads=2, qk_norm=qk_norm))
        before = field(x, t)
        with torch.no_grad():
            for value in (field.blocks[0].qkv.weight, field.blocks[0].qkv.bias):
                value[:16] *= 10
        change = (field(x, t) - before).abs().max()
        assert change < 1e-4 if qk_norm else change > 1e-2


# --- context sets ---


def _context(lead=(6,), slots=5, features=4, c=None):
    generator = torch.Generator().manual_seed(8)
    mask = torch.rand(*lead, slots, generator=generator) > 0.4
    mask[0] = False
    return setflow.SetBatch(torch.randn(*lead, slots, features, generator=generator), mask, c)


@pytest.fixture
def field():
    return redraw(
        setflow.TransformerField(3, hidden=8, layers=2, heads=2, set_condition_dim=4), seed=2
    )


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(6, 7, 3, generator=generator)
    return x, torch.rand(6, 7, generator=generator) > 0.3


def test_a_context_set_is_a_set(field, state):
    """Its order, its padding and what stands there change nothing; its objects do."""
    (x, mask), context, t = state, _context(), 0.4
    v = field(x, t, context, mask=mask)
    order = torch.tensor([3, 1, 4, 0, 2])
    others = {
        "order": setflow.SetBatch(context.x[:, order], context.mask[:, order]),
        "content": setflow.SetBatch(
            context.x.masked_fill(~context.mask[..., None], float("nan")), context.mask
        ),
        "length": setflow.SetBatch(
            torch.cat([torch.full((6, 9, 4), torch.nan), context.x], 1),
            torch.cat([torch.zeros(6, 9, dtype=torch.bool), context.mask], 1),
        ),
    }
    for name, other in others.items():
        torch.testing.assert_close(field(x, t, other, mask=mask), v, rtol=0, atol=1e-10, msg=name)
    moved = field(x, t, setflow.SetBatch(context.x + 0.1, context.mask), mask=mask)
    assert (moved - v)[0].abs().max() == 0  # its context has no objects
    assert (moved - v)[1:].abs().amax((1, 2)).min() > 1e-4
    fewer = context.mask.clone()
    fewer[1, fewer[1].nonzero()[0]] = False
    assert (field(x, t, setflow.SetBatch(context.x, fewer), mask=mask) - v)[1].abs().max() > 1e-4
    nothing = setflow.SetBatch(context.x[:, :0], context.mask[:, :0])
    empty = field(x, t, nothing, mask=mask)
    torch.testing.assert_close(empty[0], v[0], rtol=0, atol=1e-10)


class Bound(nn.Module):
    """The field with its context in a closure, which holds a row per event."""

    event_ndim = 2
    takes_mask = True
    holds_context = True

    def __init__(self, field, context):
        super().__init__()
        self.field = field
        self.context = context

    def forward(self, x, t, c=None, *, mask=None):
        return self.field(x, t, self.context, mask=mask)


def test_every_verb_takes_a_context_set(field, state):
    """As if the field held it; and its gradient arrives."""
    (x, mask), context = state, _context()
    x_source = torch.randn_like(x)
    base, solver = setflow.StandardNormal((3,)), setflow.Heun(steps=2)
    bound = Bound(field, context)

    def everything(field, c):
        t = torch.linspace(0.1, 0.9, 6)
        yield setflow.masked_fm_loss(field, x, x_source, mask, t, c, reduction="none")
        yield setflow.masked_diffusion_loss(
            field, x, setflow.VPSchedule(), mask, t, c, noise=x_source, reduction="none"
        )
        yield setflow.masked_sample(field, base, solver, mask, c=c, x_source=x_source)
        yield setflow.masked_log_prob(field, base, solver, x, mask, c=c)
        yield setflow.FlowMatching(field, base, solver)(c, mask=mask).sample(x_source=x_source)
        yield setflow.FlowMatching(field, base, solver)(c, mask=mask).log_prob(x)
        yield setflow.Diffusion(
            field, setflow.VPSchedule(), solver, parameterization="x0", event_shape=(3,)
        )(c, mask=mask).sample(x_source=x_source)
        yield setflow.ExactDivergence()(field, x, 0.3, c, mask=mask)
        yield setflow.ExactDivergence().velocity_and_divergence(field, x, 0.3, c, mask=mask)[1]

    context.x.requires_grad_()
    pairs = zip(everything(field, context), everything(bound, None), strict=True)
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
        (gradient,) = torch.autograd.grad(got.sum(), context.x)
        assert gradient.isfinite().all()
        assert gradient[1].abs().max() > 1e-6
        assert (gradient[~context.mask] == 0).all()


def test_samples_share_their_context_set(field):
    """Sample dimensions in front of the batch of the context."""
    mask, context = torch.ones(6, 3, dtype=torch.bool), _context()
    base, solver = setflow.StandardNormal((3,)), setflow.Heun(steps=2)
    x_source = torch.randn(2, 6, 3, 3)
    both = setflow.masked_sample(
        field, base, solver, mask, sample_shape=2, c=context, x_source=x_source
    )
    for k in range(2):
        one = setflow.masked_sample(field, base, solver, mask, c=context, x_source=x_source[k])
        torch.testing.assert_close(both[k], one, rtol=0, atol=1e-10)
    log_p = setflow.masked_log_prob(field, base, solver, both, mask, c=context)
    assert log_p.shape == (2, 6)


def test_a_context_set_that_does_not_fit_is_refused(field, state):
    x, mask = state
    good = _context()
    with pytest.raises(ValueError, match="expected a SetBatch as c, got none"):
        field(x, 0.5, mask=mask)
    with pytest.raises(ValueError, match=r"expected a SetBatch as c, got a tensor with shape"):
        field(x, 0.5, torch.zeros(6, 4), mask=mask)
    with pytest.raises(ValueError, match=r"expected \(6, 5, 4\)"):
        field(x, 0.5, _context(features=3), mask=mask)
    with pytest.raises(ValueError, match=r"expected \(6, 5, 4\)"):
        field(x, 0.5, _context(lead=(5,)), mask=mask)
    with pytest.raises(ValueError, match="takes none; build it with condition_dim=2"):
        field(x, 0.5, _context(c=torch.zeros(6, 2)), mask=mask)
    image = setflow.SetBatch(torch.zeros(6, 5, 2, 2), good.mask)
    with pytest.raises(ValueError, match="one row of features per object"):
        setflow.masked_fm_loss(field, x, torch.randn_like(x), mask, c=image)
    with pytest.raises(ValueError, match="one set per event"):
        setflow.masked_fm_loss(field, x, torch.randn_like(x), mask, c=_context(lead=(5,)))


def test_the_compiler_takes_the_allowed_kernels_as_constant():
    """The mark is that of torch, whose own function would import the compiler at once."""
    marked = torch.compiler.assume_constant_result(lambda: None)
    assert vars(marked)
    assert vars(_allowed) == vars(marked)


def test_the_number_of_objects_is_seen():
    """Attention alone is a mean: two copies of one object look like one."""
    field = redraw(setflow.TransformerField(3, hidden=16, layers=2, heads=4))
    one = torch.randn(1, 1, 3)
    difference = field(one.expand(1, 2, 3), 0.5)[:, :1] - field(one, 0.5)
    assert difference.abs().max() > 1e-3


def test_sets_without_slots():
    field = redraw(setflow.TransformerField(3, hidden=16, layers=2, heads=4))
    x, mask = torch.zeros(4, 0, 3), torch.zeros(4, 0, dtype=torch.bool)
    assert field(x, 0.5, mask=mask).shape == (4, 0, 3)
