"""The verbs inside the transforms of `torch.func`, against autograd and against one batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap

import setflow
from families import FAMILIES
from laws.laws import redraw
from setflow.data.scaling import Standardizer
from setflow.process import FlowMatching

MASK = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)
G = torch.Generator().manual_seed(0)
X = torch.randn(3, 4, 2, generator=G, dtype=torch.float64)
PADDED = torch.where(MASK[..., None], X, math.nan)
C = torch.randn(3, 1, generator=G, dtype=torch.float64)
DIRECTION = torch.randn(3, 4, 2, generator=G, dtype=torch.float64)
BASE, SOLVER = setflow.StandardNormal((2,)), setflow.RK4(3)


def transformer(condition_dim: int = 0) -> torch.nn.Module:
    field = setflow.TransformerField(2, hidden=8, layers=1, heads=2, condition_dim=condition_dim)
    return redraw(field).double()


FIELD = transformer()


def model() -> setflow.SetFlow:
    flow = setflow.SetFlow(
        transformer(1), features=("a", "b"), conditions=("c",),
        scaler=Standardizer(kinds=["positive", "real"]),
        cardinality=setflow.ConditionalCardinality(4, condition_dim=1),
    )  # fmt: skip
    return flow.fit_statistics(setflow.SetBatch(X.exp(), MASK, C))


FLOW = model()


def log_prob(x, mask):
    return setflow.masked_log_prob(FIELD, BASE, SOLVER, x, mask)


def hutchinson(x, mask):
    return setflow.masked_log_prob(
        FIELD, BASE, SOLVER, x, mask, estimator=setflow.HutchinsonDivergence(n_probes=2),
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip


def adaptive(x, mask):
    return setflow.masked_log_prob(FIELD, BASE, setflow.Dopri5(1e-2, 1e-3), x, mask)


def process(x, mask):
    return FlowMatching(FIELD, BASE, SOLVER)(mask=mask).log_prob(x)


def sample(x, mask):
    return setflow.masked_sample(FIELD, BASE, SOLVER, mask, x_source=x).sum((-1, -2))


def sample_density(x, mask):
    return setflow.masked_sample(
        FIELD, BASE, SOLVER, mask, x_source=x, return_log_prob=True
    ).log_prob


def loss(x, mask):
    return setflow.masked_fm_loss(FIELD, x, 0 * DIRECTION[: len(x)], mask, 0.4, reduction="none")


def divergence(x, mask):
    return setflow.ExactDivergence()(FIELD, x, 0.4, mask=mask)


def density_of_the_model(x, mask):
    real = torch.where(mask[..., None], x, 0).exp()  # the slope of exp at NaN is NaN
    return FLOW.log_prob(setflow.SetBatch(real, mask, C[: len(x)]), solver=SOLVER)


VERBS = [
    log_prob, hutchinson, adaptive, process, sample, sample_density, loss, divergence,
    density_of_the_model,
]  # fmt: skip
ALL = pytest.mark.parametrize("verb", VERBS, ids=[verb.__name__ for verb in VERBS])


def gradient(verb, x):
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(verb(x, MASK).sum(), x)
    return found


@ALL
@pytest.mark.parametrize("x", [X, PADDED], ids=["zeros", "nan"])
def test_gradients_are_those_of_autograd(verb, x):
    found = grad(lambda x: verb(x, MASK).sum())(x)
    torch.testing.assert_close(found, gradient(verb, x), rtol=1e-9, atol=1e-9)
    assert not found[~MASK].any()


@ALL
def test_forward_derivatives_are_those_of_autograd(verb):
    value, slope = jvp(lambda x: verb(x, MASK), (X,), (DIRECTION,))
    torch.testing.assert_close(value, verb(X, MASK))
    expected = (gradient(verb, X) * DIRECTION).sum((-1, -2))
    torch.testing.assert_close(slope, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "verb", [v for v in VERBS if v not in (adaptive, hutchinson, density_of_the_model, loss)]
)
@pytest.mark.parametrize("x", [X, PADDED], ids=["zeros", "nan"])
def test_mapped_over_events_they_are_those_of_one_batch(verb, x):
    for mask in (MASK, MASK.double()):
        torch.testing.assert_close(vmap(verb)(x, mask), verb(x, MASK), rtol=1e-9, atol=1e-9)
    each = vmap(grad(verb))(x, MASK)
    torch.testing.assert_close(each, gradient(verb, x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        vmap(lambda x: verb(x, None))(X), verb(X, None), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("estimator", [None, setflow.HutchinsonDivergence(n_probes=2)])
def test_a_model_mapped_over_events(estimator):
    x = PADDED.exp()

    def one(x, mask, c):
        batch = setflow.SetBatch(x[None], mask[None], c[None])
        return FLOW.log_prob(batch, solver=SOLVER, estimator=estimator)[0]

    alone = torch.stack([one(x[k], MASK[k], C[k]) for k in range(3)])
    torch.testing.assert_close(vmap(one)(x, MASK, C), alone, rtol=1e-9, atol=1e-9)


def test_derivatives_with_respect_to_parameters_and_ensembles_of_them():
    class Scored(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.field = transformer()

        def forward(self, x):
            return setflow.masked_log_prob(self.field, BASE, SOLVER, x, MASK)

    scored = Scored()
    parameters = {name: value.detach() for name, value in scored.named_parameters()}
    found = grad(lambda p: functional_call(scored, p, (PADDED,)).sum())(parameters)
    expected = torch.autograd.grad(scored(PADDED).sum(), list(scored.parameters()))
    for got, like in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(got, like, rtol=1e-8, atol=1e-8)
    many = {name: torch.stack([value, 1.1 * value]) for name, value in parameters.items()}
    both = vmap(lambda p: functional_call(scored, p, (PADDED,)))(many)
    torch.testing.assert_close(both[0], scored(PADDED), rtol=1e-9, atol=1e-9)
    assert (both[1] - both[0]).abs().max() > 1e-6


def test_second_derivatives_against_differences():
    x, h = X[:1], 1e-5
    found = hessian(lambda x: log_prob(x, MASK[:1]).sum())(x).reshape(8, 8)
    torch.testing.assert_close(found, found.T, rtol=1e-7, atol=1e-7)

    def slope(x):
        return grad(lambda x: log_prob(x, MASK[:1]).sum())(x).flatten()

    step = torch.zeros_like(x)
    step[0, 1, 0] = h
    expected = (slope(x + step) - slope(x - step)) / (2 * h)
    torch.testing.assert_close(found[2], expected, rtol=1e-5, atol=1e-5)
    rows = jacrev(lambda x: log_prob(x, MASK))(X)
    torch.testing.assert_close(rows.sum(0), gradient(log_prob, X), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["transformer", "transformer, pairs", "epic"])
def test_every_field_with_a_density_can_be_scored_inside(name):
    field = redraw(FAMILIES[name].make(2)).double()

    def score(x, mask):
        return setflow.masked_log_prob(field, BASE, setflow.Midpoint(1), x, mask)

    expected = score(PADDED, MASK)
    torch.testing.assert_close(vmap(score)(PADDED, MASK), expected, rtol=1e-8, atol=1e-8)
    found = grad(lambda x: score(x, MASK).sum())(PADDED)
    torch.testing.assert_close(found, gradient(score, PADDED), rtol=1e-7, atol=1e-7)


def test_the_end_of_an_adaptive_solve():
    t1 = torch.tensor(0.2, dtype=torch.float64)
    x_source = torch.where(MASK[..., None], X, 0)

    def end(t1):
        return setflow.masked_sample(
            FIELD, BASE, setflow.Dopri5(1e-8, 1e-9), MASK, x_source=x_source, t1=t1
        )

    x, slope = jvp(end, (t1,), (torch.ones_like(t1),))
    torch.testing.assert_close(slope, FIELD(x, t1, mask=MASK), rtol=1e-9, atol=1e-9)


def test_what_cannot_work_says_what_to_use_instead():
    with pytest.raises(
        ValueError, match=r"by the values of x, which vmap does not show.*RK4\(50\)"
    ):
        vmap(adaptive)(X, MASK)
    with pytest.raises(ValueError, match=r"cannot draw its probes inside vmap.*one batch"):
        vmap(
            lambda x: setflow.masked_log_prob(
                FIELD, BASE, SOLVER, x, None, estimator=setflow.HutchinsonDivergence()
            ),
            randomness="different",
        )(X)
    bad = torch.where(MASK[..., None], math.nan, X)
    with pytest.raises(ValueError, match="is not finite"):  # where values can be seen
        grad(lambda x: log_prob(x, MASK).sum())(bad)
    assert vmap(log_prob)(bad, MASK)[:2].isnan().all()
