"""NumPy's arrays and lists of numbers stand where tensors do, and give the same to the last bit."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

import setflow
import setflow.diagnostics
import setflow.physics.metrics
from each import each
from setflow import physics
from setflow.compat import nami
from setflow.data import Standardizer, pad_collate
from setflow.sets.arrays import as_tensor

RNG = np.random.default_rng(0)
X, NOISE, C, T = (RNG.normal(size=shape) for shape in ((4, 5, 3), (4, 5, 3), (4, 2), (4,)))
T = 1 / (1 + np.exp(-T))
MASK = np.arange(5) < np.array([[3], [0], [5], [1]])
LENGTHS = np.array([1, 3, 3, 0])
SOLVER, BASE = setflow.RK4(2), setflow.StandardNormal((3,))


def field():
    torch.manual_seed(0)
    return setflow.TransformerField(3, hidden=8, layers=1, heads=1, condition_dim=2).double()


def flow(**options):
    return setflow.FlowMatching(field(), BASE, SOLVER)(**options)


def diffusion(**options):
    model = setflow.Diffusion(
        field(), setflow.VPSchedule(), SOLVER, parameterization="eps", event_shape=(3,)
    )
    return model(**options)


def set_flow():
    torch.manual_seed(0)
    model = setflow.SetFlow(
        field(), cardinality=setflow.EmpiricalCardinality(5), conditions=["pt", "mass"]
    )
    return model.fit_statistics(setflow.SetBatch(X, MASK, C))


CALLS = {
    "masked_fm_loss": lambda f: setflow.masked_fm_loss(
        field(), f(X), f(NOISE), f(MASK), f(T), f(C)
    ),
    "fm_loss": lambda f: setflow.fm_loss(field(), f(X), f(NOISE), f(T), f(C)),
    "masked_stochastic_fm_loss": lambda f: setflow.masked_stochastic_fm_loss(
        field(), f(X), f(NOISE), f(MASK), f(T), f(C), z=f(X)
    ),
    "masked_diffusion_loss": lambda f: setflow.masked_diffusion_loss(
        field(), f(X), setflow.VPSchedule(), f(MASK), f(T), f(C), noise=f(NOISE)
    ),
    "masked_sample": lambda f: setflow.masked_sample(
        field(), BASE, SOLVER, f(MASK), c=f(C), x_source=f(NOISE)
    ),
    "masked_sample without mask": lambda f: setflow.masked_sample(
        field(), BASE, SOLVER, None, c=f(C), x_source=f(NOISE)
    ),
    "masked_log_prob": lambda f: setflow.masked_log_prob(
        field(), BASE, SOLVER, f(X), f(MASK), c=f(C)
    ),
    "log_prob of a process": lambda f: flow(c=f(C), mask=f(MASK)).log_prob(f(X)),
    "sample of a process": lambda f: flow(c=f(C), mask=f(MASK)).sample(x_source=f(NOISE)),
    "log_prob of a diffusion": lambda f: diffusion(c=f(C), mask=f(MASK)).log_prob(f(X)),
    "sample of a diffusion": lambda f: diffusion(c=f(C), mask=f(MASK)).sample(x_source=f(NOISE)),
    "a divergence": lambda f: setflow.ExactDivergence()(field(), f(X), f(T), f(C), mask=f(MASK)),
    "a base": lambda f: BASE.log_prob(f(X), mask=f(MASK)),
    "the oracle": lambda f: setflow.GaussianSetField([0.0] * 3, [1.0] * 3).log_prob(f(X), f(MASK)),
    "a batch": lambda f: setflow.SetBatch(f(X), f(MASK), f(C)).lengths,
    "a collated batch": lambda f: pad_collate([(f(X[0]), f(C[0])), (f(X[1, :2]), f(C[1]))]).x,
    "a scaler": lambda f: Standardizer(3).fit(f(X), f(MASK)).log_det(f(X), f(MASK)),
    "p(N)": lambda f: setflow.EmpiricalCardinality(5).fit(f(LENGTHS)).log_prob(f(LENGTHS), f(C)),
    "p(N | c)": lambda f: setflow.ConditionalCardinality(5, 2).fit(f(LENGTHS)).sample(f(T), f(C)),
    "SetFlow.sample": lambda f: set_flow().sample(4, f(C), 1, lengths=f(LENGTHS), solver=SOLVER).x,
    "TimeSampling": lambda f: setflow.TimeSampling("logit_normal").from_uniform(f(T)),
    "jet_features": lambda f: physics.jet_features(f(X), f(MASK)),
    "tau21": lambda f: physics.tau21(f(X), f(MASK)),
    "energy_flow_polynomial": lambda f: physics.energy_flow_polynomial(f(X), f(MASK)),
    "multiplicity": lambda f: physics.multiplicity(f(X), f(MASK)),
    "delta_phi": lambda f: physics.delta_phi(f(X[..., 1]), f(NOISE[..., 1])),
    "w1": lambda f: torch.tensor(setflow.physics.metrics.w1(f(X[..., 0]), f(NOISE[..., 0]))),
    "broken_laws": lambda f: torch.tensor(
        len(setflow.diagnostics.broken_laws(field(), f(X), f(MASK), c=f(C)))
    ),
    "nami.masked_sample": lambda f: nami.masked_sample(
        setflow.GaussianSetField([0.0] * 3, [1.0] * 3), BASE, SOLVER, f(MASK)
    ).isfinite(),
}


@each("call", CALLS)
def test_arrays_stand_where_tensors_do(call):
    expected = CALLS[call](torch.as_tensor)
    assert torch.equal(CALLS[call](lambda array: array), expected)
    assert torch.equal(CALLS[call](lambda array: array.tolist()), expected)


def test_arrays_of_every_kind(tmp_path):
    numbers = np.array([[1.0, 2.0], [3.0, 4.0]])
    read_only = numbers.copy()
    read_only.flags.writeable = False
    for array in (
        numbers,
        read_only,
        numbers.astype(">f8"),
        numbers[::-1][::-1],
        numbers.astype("g"),
    ):
        tensor = as_tensor(array, "x")
        assert torch.equal(tensor, torch.tensor(numbers.tolist()).double())
        assert tensor.dtype == torch.float64
    assert as_tensor(numbers[::-1], "x")[0].tolist() == [3, 4]
    assert as_tensor(np.arange(3, dtype="u2"), "x").dtype == torch.int64
    assert as_tensor(np.arange(3, dtype="u1"), "x").dtype == torch.uint8
    assert as_tensor(numbers > 2, "x").dtype == torch.bool
    torch.set_default_dtype(torch.float32)
    assert as_tensor([0.5, 1.0], "x").dtype == torch.float32
    assert as_tensor([1, 2], "x").dtype == torch.int64
    with h5py.File(tmp_path / "a.h5", "w") as file:
        assert as_tensor(file.create_dataset("x", data=numbers), "x").tolist() == numbers.tolist()
    mine = torch.zeros(2)
    assert as_tensor(mine, "x") is mine


@each(
    ("value", "message"),
    [
        ("events", "mask is of type str and holds no plain numbers"),
        ({"a": 1}, "of type dict"),
        ([[1.0], [1.0, 2.0]], r"lists of numbers of equal length.*SetBatch\.from_ragged"),
        (np.array([1j]), "dtype complex128, expected real numbers"),
        (np.ma.array([1.0, 2.0], mask=[0, 1]), "masked array of NumPy, whose own mask would be"),
    ],
)
def test_what_holds_no_plain_numbers_is_refused(value, message):
    with pytest.raises(TypeError, match=message):
        as_tensor(value, "mask")


@pytest.mark.parametrize("form", [np.asarray, torch.as_tensor])
def test_complex_numbers_are_refused_and_not_cut_to_real_ones(form):
    """`Tensor.to` of a real dtype drops the imaginary part with no more than a warning."""
    x, mask, c, t = (form(value + 0j) for value in (X, MASK, C, T))
    scaler = Standardizer(3, mean=0, std=1)
    calls = {
        "batch": lambda: setflow.SetBatch(x, MASK),
        "mask of a batch": lambda: setflow.SetBatch(X, mask),
        "context of a batch": lambda: setflow.SetBatch(X, MASK, c),
        "from_ragged": lambda: setflow.SetBatch.from_ragged([x[0], x[1]]),
        "mask": lambda: setflow.masked_fm_loss(field(), X, NOISE, mask, c=C),
        "loss": lambda: setflow.masked_fm_loss(field(), x, NOISE, MASK, c=C),
        "noise": lambda: setflow.masked_fm_loss(field(), X, x, MASK, c=C),
        "time": lambda: setflow.masked_fm_loss(field(), X, NOISE, MASK, t=t, c=C),
        "context": lambda: setflow.masked_fm_loss(field(), X, NOISE, MASK, c=c),
        "source": lambda: setflow.masked_sample(field(), BASE, SOLVER, MASK, c=C, x_source=x),
        "context of a sample": lambda: setflow.masked_sample(field(), BASE, SOLVER, MASK, c=c),
        "density": lambda: setflow.masked_log_prob(field(), BASE, SOLVER, x, MASK, c=C),
        "process": lambda: flow(mask=MASK, c=c).sample(),
        "base": lambda: BASE.log_prob(x),
        "scaler": lambda: scaler(x, MASK),
        "fit": lambda: Standardizer(3).fit(x, MASK),
        "statistics": lambda: Standardizer(mean=x[0, 0], std=1),
        "counts": lambda: setflow.EmpiricalCardinality(counts=t),
        "lengths": lambda: setflow.EmpiricalCardinality(3).fit(form(LENGTHS + 0j)),
    }
    for call in calls.values():
        with pytest.raises(TypeError, match=r"complex.*, expected real numbers"):
            call()


GENERATED = {
    "masked_fm_loss": lambda g: setflow.masked_fm_loss(FIELD, DATA, DATA, ALL, generator=g),
    "masked_fm_loss at t": lambda g: setflow.masked_fm_loss(
        FIELD, DATA, DATA, ALL, 0.5, generator=g
    ),
    "diffusion": lambda g: setflow.masked_diffusion_loss(FIELD, DATA, SCHEDULE, ALL, generator=g),
    "masked_sample": lambda g: setflow.masked_sample(FIELD, BASE, SOLVER, ALL, generator=g),
    "masked_log_prob": lambda g: setflow.masked_log_prob(
        FIELD, BASE, SOLVER, DATA, ALL, generator=g
    ),
    "estimated": lambda g: setflow.masked_log_prob(
        FIELD, BASE, SOLVER, DATA, ALL, generator=g, estimator=setflow.HutchinsonDivergence(2)
    ),
    "base": lambda g: BASE.sample((2,), generator=g),
    "diagonal": lambda g: setflow.DiagonalNormal([0.0], [1.0]).sample((2,), generator=g),
    "process": lambda g: setflow.FlowMatching(FIELD, BASE, SOLVER)(mask=ALL).sample(generator=g),
    "density": lambda g: setflow.FlowMatching(FIELD, BASE, SOLVER)(mask=ALL).log_prob(
        DATA, generator=g
    ),
    "SetFlow.loss": lambda g: setflow.SetFlow(
        FIELD, scaler=setflow.data.Standardizer(3, mean=0, std=1)
    ).loss(setflow.SetBatch(DATA, ALL), generator=g),
    "times": lambda g: setflow.TimeSampling().sample(3, generator=g),
    "ring": lambda g: setflow.data.sample_ring(3, generator=g),
    "moons": lambda g: setflow.data.sample_moons(3, generator=g),
    "laws": lambda g: setflow.diagnostics.broken_laws(FIELD, DATA.double(), ALL, generator=g),
}
FIELD = setflow.GaussianSetField(torch.zeros(3), torch.ones(3))
BASE, SOLVER, SCHEDULE = setflow.StandardNormal((3,)), setflow.Euler(1), setflow.VPSchedule()
DATA, ALL = torch.ones(2, 3, 3), torch.ones(2, 3, dtype=torch.bool)


@each("call", GENERATED)
@each("seed", [3, "a"])
def test_a_seed_is_no_generator(call, seed):
    with pytest.raises(TypeError, match=r"generator is .*, expected a torch.Generator or None; t"):
        GENERATED[call](seed)
