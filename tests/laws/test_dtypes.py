"""The same whole numbers in every dtype give the same loss, sample and log-density."""

from __future__ import annotations

import pytest
import torch

import setflow
from setflow import physics, rectified
from setflow.data import pad_collate
from setflow.data.scaling import Standardizer
from setflow.diagnostics import broken_laws, continuity_error, divergence_stats, field_stats
from setflow.process import FlowMatching

DTYPES = {
    name: getattr(torch, name)
    for name in ("uint8", "int16", "int32", "int64", "float16", "float32", "float64")
}
SEED = torch.Generator().manual_seed(3)
X = torch.randint(1, 9, (6, 4, 2), generator=SEED).double()
MASK = torch.arange(4) < torch.tensor([4, 3, 2, 1, 0, 4])[:, None]
C = torch.randint(0, 3, (6, 1), generator=SEED).double()  # its standard deviation is below 1
NOISE = torch.randn(6, 4, 2, generator=SEED, dtype=torch.float64)
BASE, SOLVER = setflow.StandardNormal((2,)), setflow.Midpoint(5)
T = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)


def field_for(dtype: torch.dtype, condition_dim: int = 0) -> setflow.TransformerField:
    """Return a field in the dtype of the data, or of integers in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        field = setflow.TransformerField(
            2, hidden=8, layers=1, heads=2, condition_dim=condition_dim
        ).double()
        for parameter in field.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return field.to(dtype if dtype.is_floating_point else torch.float64)


def noise_for(field: torch.nn.Module) -> torch.Tensor:
    return NOISE.to(next(field.parameters()).dtype)


def flow_for(dtype: torch.dtype) -> setflow.SetFlow:
    torch.manual_seed(0)
    field = field_for(torch.float32 if dtype == torch.float16 else dtype, 1)
    flow = setflow.SetFlow(
        field,
        features=("a", "b"),
        conditions=("label",),
        cardinality=setflow.ConditionalCardinality(4, condition_dim=1),
    )
    flow.fit_statistics(setflow.SetBatch(X.to(dtype), MASK, C.to(dtype)))
    with torch.no_grad():
        flow.cardinality.net[-1].weight.fill_(0.3)
    return flow


def batch(dtype):
    return setflow.SetBatch(X.to(dtype), MASK, C.to(dtype))


def fm_loss(dtype):
    field = field_for(dtype, 1)
    return setflow.masked_fm_loss(field, X.to(dtype), noise_for(field), MASK, T, C.to(dtype))


def fm_loss_of_whole_noise(dtype):
    field = field_for(dtype)
    return setflow.masked_fm_loss(field, X.to(dtype), X.flip(0).to(dtype), MASK, T)


def stochastic_loss(dtype):
    field = field_for(dtype)
    z = noise_for(field)
    return setflow.masked_stochastic_fm_loss(field, X.to(dtype), z.flip(0), MASK, T, z=z)


def diffusion_loss(dtype):
    field = field_for(dtype)
    return setflow.masked_diffusion_loss(
        field, X.to(dtype), setflow.VPSchedule(), MASK, T, noise=noise_for(field)
    )


def sample(dtype):
    field = field_for(dtype, 1)
    return setflow.masked_sample(field, BASE, SOLVER, MASK, x_source=X.to(dtype), c=C.to(dtype))


def log_prob(dtype):
    return setflow.masked_log_prob(
        field_for(dtype, 1), BASE, SOLVER, X.to(dtype), MASK, c=C.to(dtype)
    )


def process_sample(dtype):
    process = FlowMatching(field_for(dtype, 1), BASE, SOLVER)(C.to(dtype), mask=MASK)
    return process.sample(x_source=X.to(dtype))


def process_log_prob(dtype):
    process = FlowMatching(field_for(dtype, 1), BASE, SOLVER)(C.to(dtype), mask=MASK)
    return process.log_prob(X.to(dtype))


def diffusion_log_prob(dtype):
    process = setflow.Diffusion(
        field_for(dtype),
        setflow.VPSchedule(),
        SOLVER,
        parameterization="x0",
        t1=0.1,
        event_shape=(2,),
    )(mask=MASK)
    return process.log_prob(X.to(dtype))


def setflow_loss(dtype):
    flow = flow_for(dtype)
    return flow.loss(batch(dtype), t=T, noise=NOISE)


def setflow_sample(dtype):
    return flow_for(dtype).sample(6, C.to(dtype), lengths=MASK.sum(-1), solver=SOLVER).x


def setflow_cardinality(dtype):
    return flow_for(dtype).sample(6, C.to(dtype), solver=setflow.Euler(1)).lengths


def setflow_log_prob(dtype):
    terms = flow_for(dtype).log_prob_terms(batch(dtype), solver=SOLVER)
    return torch.stack(terms[:5])


def scaled(dtype):
    scaler = Standardizer(kinds=["positive", "positive(boxcox=0.5)"]).fit(X.to(dtype), MASK)
    return torch.cat([scaler.mean, scaler.std, scaler(X.to(dtype), MASK).double().flatten()])


def unscaled(dtype):
    return (
        Standardizer(kinds=["positive", "real"])
        .fit(X, MASK)
        .inverse((X / 4).round().to(dtype), MASK)
    )


def log_det(dtype):
    return (
        Standardizer(kinds=["positive", "positive(boxcox=0.5)"])
        .fit(X, MASK)
        .log_det(X.to(dtype), MASK)
    )


def outside(dtype):
    return Standardizer(kinds=["positive", "real"]).outside((X - 1).to(dtype), MASK).double()


def ragged(dtype):
    events = [X[0].to(dtype), X[1] + 0.25]
    collated = pad_collate([(x, c) for x, c in zip(events, (C[0].to(dtype), C[1]), strict=True)])
    assert collated.c is not None
    return torch.cat([collated.x.flatten(), collated.c.flatten()])


def isotropic(dtype):
    return setflow.IsotropicNormal((2,), 2.5).log_prob(X.to(dtype), mask=MASK)


def diagonal(dtype):
    loc = torch.tensor([0.25, 0.5], dtype=dtype if dtype.is_floating_point else None)
    return setflow.DiagonalNormal(loc, 2.5).log_prob(X.to(dtype), mask=MASK)


def torch_base(dtype):
    exponential = torch.distributions.Exponential(torch.full((2,), 1.5))
    return setflow.distributions.FactorisedBase(exponential).log_prob(X.to(dtype), mask=MASK)


def base_per_event(dtype):
    loc = torch.linspace(-0.5, 0.5, 6)[:, None].expand(6, 2)
    base = setflow.distributions.as_base(setflow.DiagonalNormal(loc, 2.5), 4, 2)
    return base.log_prob(X.to(dtype), mask=MASK)


def particles(dtype):
    return torch.cat([X, X[..., :1] / 2], -1).round().to(dtype)


def observed(dtype):
    x = particles(dtype)
    values = [
        physics.jet_mass(x, MASK), physics.jet_pt(x, MASK), physics.jet_eta(x, MASK),
        physics.tau21(x, MASK), physics.multiplicity(x, MASK),
        physics.jet_features(x, MASK)[..., 0],
    ]  # fmt: skip
    return torch.stack(values)


def all_observables(dtype):
    seen = physics.metrics.observables(particles(dtype), MASK)
    return torch.cat(
        [seen.mass, seen.tau21, seen.tau32, seen.efps.flatten(), seen.x[seen.mask].flatten()]
    )


def diagnosed(dtype):
    dtype = torch.float64 if dtype == torch.float16 else dtype  # it is refused
    field = field_for(dtype)
    seen = field_stats(field, X.to(dtype), 0.5, mask=MASK)
    spread = divergence_stats(field, X.to(dtype), 0.5, mask=MASK)
    assert broken_laws(field, X.to(dtype), MASK) == []
    assert continuity_error(field, X.to(dtype), 0.5, mask=MASK)["max"] < 1e-2
    return torch.stack([seen["mean"], seen["max"], spread["mean"]])


def rectified_flow(dtype):
    x0, eps = X.to(dtype), X.flip(0).to(dtype)
    return torch.stack([rectified.add_noise(x0, eps, 0.5), rectified.x0_to_flow(x0, eps, 0.5)])


def cardinality(dtype):
    lengths = MASK.sum(-1).to(torch.int64 if dtype.is_floating_point else dtype)
    model = setflow.ConditionalCardinality(300, condition_dim=1).fit(lengths, C.to(dtype))
    with torch.no_grad():
        model.net[-1].weight.fill_(0.3)
        for layer in (model.net[0], model.net[2]):
            layer.weight.fill_(0.1), layer.bias.fill_(0.2)
        return torch.cat([model.log_prob(lengths, C.to(dtype)), model.sample(T, C.to(dtype))])


def divergence(dtype):
    field = field_for(torch.float32 if dtype == torch.float16 else dtype)
    v, trace = setflow.ExactDivergence().velocity_and_divergence(field, X.to(dtype), 0.5, mask=MASK)
    return torch.cat([v.flatten(), trace])


PLACES = [
    fm_loss, fm_loss_of_whole_noise, stochastic_loss, diffusion_loss, sample, log_prob,
    process_sample, process_log_prob, diffusion_log_prob, setflow_loss, setflow_sample,
    setflow_cardinality, setflow_log_prob, scaled, unscaled, log_det, outside, ragged, isotropic,
    diagonal, torch_base, base_per_event, observed, all_observables, diagnosed, rectified_flow,
    cardinality, divergence,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("place", PLACES, ids=[place.__name__ for place in PLACES])
def test_the_same_numbers_give_the_same_result_in_every_dtype(place, dtype):
    if place in (log_prob, process_log_prob, diffusion_log_prob) and dtype == torch.float16:
        pytest.skip("a half-precision field is judged in tests/masking/test_log_prob.py")
    expected, found = place(torch.float64), place(dtype)
    coarse = {torch.float16: 2e-2, torch.float64: 1e-12}.get(dtype, 1e-5)
    torch.testing.assert_close(found.double(), expected.double(), rtol=coarse, atol=coarse)


def test_an_integer_that_the_field_cannot_mean_is_still_refused():
    field = field_for(torch.float64)
    with pytest.raises(ValueError, match="expected a floating dtype"):
        setflow.masked_fm_loss(field, X > 3, NOISE, MASK)
    with pytest.raises(TypeError, match="expected real numbers"):
        setflow.masked_fm_loss(field, X.to(torch.complex64), NOISE, MASK)
