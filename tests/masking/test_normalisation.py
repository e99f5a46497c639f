"""Total probability: the one test of a density that sees consistent mistakes and jumps.

Three objects in one dimension by quadrature over the ordered region, where the set density
integrates to 1; in two dimensions by importance sampling of the ordered density over everything.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_t
from torch import nn

import setflow
from families import FAMILIES as SET_FIELDS
from laws import saboteurs
from laws.laws import redraw
from problems import (
    ConditionalGaussian,
    gaussian_field,
    quadrature,
    small_transformer,
    trained_transformer,
)
from setflow.data import Standardizer
from setflow.fields import FourierTime

SOLVER = setflow.RK4(steps=6)


class PerObject(nn.Module):
    """A field on single objects as one on sets."""

    event_ndim = 2

    def __init__(self, field):
        super().__init__()
        self.field = field

    def forward(self, x, t, c=None):
        return self.field(x, t[..., None].expand(x.shape[:-1]))


def shrunk(field):
    """Smaller weights: those of the laws make densities that no rule of integration resolves."""
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.mul_(0.35)
    return field.double()


def slow_epic(dim):
    """Weights and frequencies that a rule of few points resolves, though objects still meet."""
    field = redraw(setflow.EPiCField(dim, hidden=16, latent=4, layers=1))
    field.condition.time.turns = (0.025, 0.8)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.mul_(0.8)
    return field.double()


def near(dim, **options):
    """A graph on which each of three objects hears the nearer one, unless told otherwise."""
    options = {"hidden": 8, "layers": 1, "messages": 8, "k": 1} | options
    return shrunk(redraw(setflow.GraphField(dim, **options)))


# one entry for each family: dim -> field
FAMILIES = {
    "gaussian": lambda dim: gaussian_field(0.0, features=dim),
    "coupled gaussian": lambda dim: gaussian_field(2.0, features=dim),
    "mlp per object": lambda dim: PerObject(redraw(setflow.VelocityField(dim, hidden=8)).double()),
    "transformer": lambda dim: shrunk(redraw(small_transformer(dim))),
    "trained transformer": trained_transformer,
    "transformer, pairs": lambda dim: shrunk(redraw(SET_FIELDS["transformer, pairs"].make(dim))),
    "transformer, normalised": lambda dim: shrunk(
        redraw(setflow.TransformerField(dim, hidden=8, layers=1, heads=2, qk_norm=True), seed=7)
    ),
    "epic": slow_epic,
    "graph, attention": lambda dim: near(dim, aggregation="attention"),
    "graph, edgeconv": lambda dim: near(dim, aggregation="edgeconv"),
    "graph, complete": lambda dim: near(dim, k=None),
}


class Given(nn.Module):
    """A field on three objects, given one context for all events, and a hole in their mask."""

    event_ndim = 2

    def __init__(self, field, context=0, object_context=0):
        super().__init__()
        self.field = field
        generator = torch.Generator().manual_seed(5)
        shape = (4, object_context) if object_context else (context,)
        self.c = torch.randn(shape, generator=generator, dtype=torch.float64)

    def forward(self, x, t, c=None):
        hole = torch.full_like(x[..., :1, :], math.nan)
        slots = torch.cat([x[..., :1, :], hole, x[..., 1:, :]], dim=-2)
        mask = torch.tensor([True, False, True, True]).expand(slots.shape[:-1])
        c = self.c.expand(*x.shape[:-2], *self.c.shape)
        return self.field(slots, t, c, mask=mask)[..., [0, 2, 3], :]


def sampled(field, dim, events=2000):
    """Samples of three objects, which tell where the density is."""
    noise = torch.randn(events, 3, dim, generator=torch.Generator().manual_seed(1))
    base, solver = setflow.StandardNormal((dim,)), setflow.Midpoint(steps=5)
    with torch.no_grad():
        return setflow.masked_sample(field, base, solver, None, x_source=noise)


def total_on_the_line(field, nodes, estimator=None, *, ordered=True):
    """The integral of the set density of three objects over x1 < x2 < x3, or of theirs over all."""
    points, weights = quadrature(3, nodes, ordered=ordered)
    deviation, mean = torch.std_mean(sampled(field, 1, 500))
    scale = deviation * math.sqrt(3) / math.pi  # of the logistic distribution that is as broad
    with torch.no_grad():
        log_p = setflow.masked_log_prob(
            field, setflow.StandardNormal((1,)), SOLVER, (mean + scale * points)[..., None], None,
            estimator=estimator,
        )  # fmt: skip
    orders = 6 if ordered else 1
    return (weights * scale**3 * orders * log_p.exp()).sum().item()


def ratios_in_the_plane(field, estimator=None):
    """p / q of the ordered density of three objects, for points drawn from a broad q.

    q is Student's distribution with the mean and covariance of samples of the model.
    """
    flat = sampled(field, 2).flatten(1).numpy()
    q = multivariate_t(flat.mean(0), np.cov(flat.T), df=6, seed=np.random.default_rng(2))
    drawn = q.rvs(2500)
    x = torch.from_numpy(drawn).reshape(-1, 3, 2)
    with torch.no_grad():
        log_p = setflow.masked_log_prob(
            field, setflow.StandardNormal((2,)), SOLVER, x, None, estimator=estimator
        )
    return (log_p - torch.from_numpy(q.logpdf(drawn))).exp()


@pytest.mark.parametrize("family", FAMILIES)
def test_total_probability_on_the_line(family):
    assert total_on_the_line(FAMILIES[family](1), nodes=14) == pytest.approx(1, abs=4e-3)


# all families and all kinds of context, though not each pair of them
GIVEN = ("epic, object context", "graph, edgeconv", "transformer, context set with context")


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=() if name in GIVEN else pytest.mark.wide)
        for name in SET_FIELDS
        if SET_FIELDS[name].cases
    ],
)
def test_total_probability_given_a_context(family):
    field = shrunk(redraw(SET_FIELDS[family].make(1)))
    for part in field.modules():
        if isinstance(part, FourierTime):
            part.turns = (0.025, 0.8)
    options = SET_FIELDS[family].cases
    alike = "object_context" not in options  # else each object has a density of its own
    total = total_on_the_line(Given(field, **options), nodes=14, ordered=alike)
    assert total == pytest.approx(1, abs=4e-3)


# all families are judged on the line
IN_THE_PLANE = ("coupled gaussian", "trained transformer", "epic", "graph, attention")


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=() if family in IN_THE_PLANE else pytest.mark.wide)
        for family in FAMILIES
    ],
)
def test_total_probability_in_the_plane(family):
    ratios = ratios_in_the_plane(FAMILIES[family](2))
    error = ratios.std().item() / len(ratios) ** 0.5
    assert error < 0.02
    assert abs(ratios.mean().item() - 1) < 4 * error


@pytest.mark.parametrize(
    "estimator", [saboteurs.WrongSign(), saboteurs.CrossObjectTrace()], ids=["sign", "trace"]
)
def test_a_wrong_divergence_is_seen(estimator):
    for field in (gaussian_field(2.0, features=1), trained_transformer(1)):
        assert abs(total_on_the_line(field, 8, estimator) - 1) > 0.1
    ratios = ratios_in_the_plane(gaussian_field(2.0), estimator)
    assert abs(ratios.mean().item() - 1) > 10 * ratios.std().item() / len(ratios) ** 0.5


def test_a_field_that_jumps_loses_probability():
    """No estimator sees what a jump does: 0.36 is left, and nothing in the number tells."""
    assert total_on_the_line(saboteurs.NearestNeighbour(), nodes=12) < 0.6


class Inside(nn.Module):
    """A wrapper that does not say what its field declares."""

    event_ndim = 2
    takes_mask = True

    def __init__(self, field):
        super().__init__()
        self.field = field

    def forward(self, x, t, c=None, *, mask=None):
        return 0.5 * self.field(x, t, c, mask=mask)


class Declared(saboteurs.NearestNeighbour):
    is_discontinuous = True


@pytest.mark.parametrize(
    "wrapper", [lambda field: field, Inside, lambda field: Inside(Inside(field))]
)
def test_a_field_that_declares_its_jumps_has_no_density(wrapper):
    field, base, x = wrapper(Declared()), setflow.StandardNormal((1,)), torch.randn(4, 3, 1)
    message = "Declared declares is_discontinuous.*make the field continuous"
    with pytest.raises(ValueError, match=message):
        setflow.masked_log_prob(field, base, SOLVER, x, None)
    with pytest.raises(ValueError, match=message):
        setflow.masked_sample(field, base, SOLVER, None, x_source=x, return_log_prob=True)
    flow = setflow.SetFlow(field, scaler=Standardizer(mean=[0], std=[1]), features=["x"])
    with pytest.raises(ValueError, match=message):
        flow.log_prob_terms(setflow.SetBatch(x, torch.ones(4, 3)))
    assert setflow.masked_sample(field, base, SOLVER, None, x_source=x).shape == x.shape


def flow_of_one_feature():
    """Positive numbers: lognormal, coupled within an event, with a mean that the context moves."""
    flow = setflow.SetFlow(
        ConditionalGaussian(gaussian_field(2.0, features=1), torch.tensor([[0.4]])),
        scaler=Standardizer(kinds=["positive"]),
        cardinality=setflow.EmpiricalCardinality(3),
        features=["pt"],
        conditions=["energy"],
    )
    flow.scaler.mean.fill_(1.5)
    flow.scaler.std.fill_(0.6)
    flow.context_scaler.mean.fill_(200.0)
    flow.context_scaler.std.fill_(50.0)
    flow.cardinality.probabilities.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    return flow


@pytest.mark.parametrize("ordered", [True, False])
def test_the_full_density_sums_and_integrates_to_one(ordered):
    """Over N = 0 .. 3 in physical units; the ordered density (without log N!) over everything."""
    flow, parts = flow_of_one_feature(), []
    for n in range(4):
        points, weights = quadrature(n, 12, ordered=ordered)
        f = 1.5 + 0.6 * points
        x = f.exp()  # dx = 0.6 x du
        batch = setflow.SetBatch(
            x[..., None], torch.ones(len(x), n), torch.full((len(x), 1), 230.0)
        )
        with torch.no_grad():
            terms = flow.log_prob_terms(batch, solver=setflow.RK4(8))
        log_p = terms.total if ordered else terms.total - terms.ordering
        parts.append((weights * (log_p + (0.6 * x).log().sum(-1)).exp()).sum().item())
    assert parts == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=2e-3)
    assert sum(parts) == pytest.approx(1, abs=4e-3)
