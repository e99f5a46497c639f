"""A field that tells its own divergence, as nami's may."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import setflow
from laws.laws import redraw
from setflow.diagnostics import divergence_stats
from setflow.process import FlowMatching

MASK = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)
BASE = setflow.StandardNormal((2,), dtype=torch.float64)
SOLVER = setflow.RK4(8)


class Pull(nn.Module):
    """v = a(t, c) x + b tanh(x) - the mean of the others, with a divergence in closed form."""

    event_ndim, takes_mask = 2, True

    def __init__(self):
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.calls = 0

    def rate(self, t, c):
        return (t if c is None else t * c[..., 0])[..., None, None]

    def forward(self, x, t, c=None, *, mask=None):
        real = torch.ones_like(x) if mask is None else mask[..., None].to(x)
        count = real.sum(-2, keepdim=True).clamp(min=1)
        mean = (real * x).sum(-2, keepdim=True) / count
        return self.rate(t, c) * x + self.strength * torch.tanh(x) - mean

    def call_and_divergence(self, x, t, c=None, *, mask=None, estimator=None):
        self.calls += 1
        real = torch.ones_like(x) if mask is None else mask[..., None].to(x)
        slope = self.rate(t, c) + self.strength * (1 - torch.tanh(x) ** 2)
        trace = (slope * real).sum((-2, -1)) - x.shape[-1]
        junk = torch.full_like(x, math.nan)  # what stands in padding is not read
        return torch.where(real > 0, self(x, t, c, mask=mask), junk), trace


class Plain(Pull):
    """The same velocity; the divergence must be derived."""

    call_and_divergence = None


def pair() -> tuple[Pull, Plain]:
    return Pull(), Plain()


def events():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 2, generator=g, dtype=torch.float64)
    c = torch.rand(3, 1, generator=g, dtype=torch.float64)
    return torch.where(MASK[..., None], x, math.nan), c


def scored(field, x, mask, c):
    return setflow.masked_log_prob(field, BASE, SOLVER, x, mask, c=c)


def sampled(field, x, mask, c):
    return setflow.masked_sample(
        field, BASE, SOLVER, mask, c=c, x_source=x, return_log_prob=True
    ).log_prob


def process(field, x, mask, c):
    return FlowMatching(field, BASE, SOLVER)(c, mask=mask).log_prob(x)


def divergence(field, x, mask, c):
    t = torch.full(x.shape[:1], 0.3, dtype=x.dtype)
    return setflow.ExactDivergence()(field, x, t, c, mask=mask)


def statistics(field, x, mask, c):
    return divergence_stats(field, x, 0.3, c, mask=mask)["max"]


def adaptive(field, x, mask, c):
    solver = setflow.Dopri5(1e-8, 1e-9)
    return setflow.masked_log_prob(field, BASE, solver, x, mask, c=c)


VERBS = [scored, sampled, process, divergence, statistics, adaptive]


@pytest.mark.parametrize("given_context", [False, True])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("verb", VERBS, ids=[verb.__name__ for verb in VERBS])
def test_the_divergence_of_the_field_is_the_one_that_is_used(verb, masked, given_context):
    own, plain = pair()
    x, c = events()
    x, mask, c = x if masked else x.nan_to_num(1.0), MASK if masked else None, c
    arguments = x, mask, c if given_context else None
    found, expected = verb(own, *arguments), verb(plain, *arguments)
    assert own.calls > 0
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    if found.requires_grad:
        slopes = [
            torch.autograd.grad(v.sum(), f.strength) for v, f in ((found, own), (expected, plain))
        ]
        torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-8)


def test_the_density_of_a_model_uses_it():
    x, _ = events()
    values = []
    for field in pair():
        flow = setflow.SetFlow(field, features=("a", "b"))
        flow.scaler.fit(x[:1])
        values.append(flow.log_prob(setflow.SetBatch(x, MASK), solver=SOLVER))
        assert getattr(field, "calls", 0) > 0 or isinstance(field, Plain)
    torch.testing.assert_close(*values)


def test_compiled_fields_are_asked_too():
    own, plain = pair()
    x, _ = events()
    found = scored(torch.compile(own, backend="eager"), x, MASK, None)
    assert own.calls > 0
    torch.testing.assert_close(found, scored(plain, x, MASK, None))


class NotImplementedThere(Plain):
    def call_and_divergence(self, x, t, c=None, *, mask=None, estimator=None):
        raise NotImplementedError


class AnotherForward(Pull):
    def forward(self, x, t, c=None, *, mask=None):
        return 2 * super().forward(x, t, c, mask=mask)


class OneByOne(nn.Module):
    """Knows no mask: its divergence counts every slot."""

    event_ndim = 2

    def forward(self, x, t, c=None):
        return -x

    def call_and_divergence(self, x, t, c=None):
        return -x, torch.full(x.shape[:-2], -math.prod(x.shape[-2:]), dtype=x.dtype)


def test_where_it_does_not_serve_it_is_derived():
    x, _ = events()
    torch.testing.assert_close(
        scored(NotImplementedThere(), x, MASK, None), scored(Plain(), x, MASK, None)
    )
    doubled, derived = AnotherForward(), AnotherForward()
    derived.call_and_divergence = None
    torch.testing.assert_close(scored(doubled, x, MASK, None), scored(derived, x, MASK, None))
    torch.testing.assert_close(divergence(OneByOne(), x, MASK, None), -2.0 * MASK.sum(-1).double())
    torch.testing.assert_close(
        divergence(OneByOne(), x, None, None), torch.full((3,), -8.0).double()
    )
    half, plain = Pull().half(), Plain().half()
    with torch.no_grad():
        found, expected = (scored(f, x.float(), MASK, None) for f in (half, plain))
    torch.testing.assert_close(found, expected)


def test_a_stochastic_estimator_is_used_where_it_is_asked_for():
    own, plain = pair()
    x, _ = events()
    values = [
        setflow.masked_log_prob(
            f, BASE, SOLVER, x, MASK, estimator=setflow.HutchinsonDivergence(n_probes=2),
            generator=torch.Generator().manual_seed(1),
        )
        for f in (own, plain)
    ]  # fmt: skip
    assert own.calls == 0
    torch.testing.assert_close(*values)


def test_what_it_returns_is_checked():
    class Maskless(Pull):
        forward = Pull.forward

        def call_and_divergence(self, x, t, c=None):
            return self(x, t, c), x.sum((-2, -1))

    class PerObject(Pull):
        def call_and_divergence(self, x, t, c=None, *, mask=None):
            return self(x, t, c, mask=mask), x.sum(-1)

    x, _ = events()
    with pytest.raises(ValueError, match="takes no mask; add mask=None to its arguments"):
        scored(Maskless(), x, MASK, None)
    with pytest.raises(ValueError, match=r"returned shapes \(3, 4, 2\) and \(3, 4\), expected"):
        scored(PerObject(), x, MASK, None)


def test_a_field_of_vectors_as_nami_has_them():
    class Linear(nn.Module):
        event_ndim = 1

        def forward(self, x, t, c=None):
            return 0.5 * x

        def call_and_divergence(self, x, t, c=None, *, estimator=None):
            return 0.5 * x, torch.full(x.shape[:-1], 0.5 * x.shape[-1], dtype=x.dtype)

    x = torch.randn(5, 3, dtype=torch.float64)
    base = setflow.StandardNormal((3,), dtype=torch.float64)
    found = setflow.masked_log_prob(Linear(), base, setflow.RK4(50), x, None)
    expected = base.log_prob(x * math.exp(0.5)) + 1.5
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_fields_of_the_library_have_none():
    assert not hasattr(redraw(setflow.VelocityField(2)), "call_and_divergence")
