"""Sampling: values by hand, shapes, errors. The laws of the mask are in `laws/test_laws.py`."""

from __future__ import annotations

import pytest
import torch

import setflow
from each import each
from laws.laws import masks, redraw
from laws.subjects import Pointwise
from recorders import Constant


@each("sample_shape", [(), (4,), (2, 3), 5])
@each("lead", [(), (6,), (2, 3)])
def test_sample_shapes(sample_shape, lead):
    mask = torch.rand(*lead, 5) > 0.3
    x = setflow.masked_sample(
        Constant(),
        setflow.StandardNormal((5, 3)),
        setflow.Euler(2),
        mask,
        sample_shape=sample_shape,
    )
    sample = (sample_shape,) if isinstance(sample_shape, int) else sample_shape
    assert x.shape == (*sample, *lead, 5, 3)
    hidden = ~mask.expand(*sample, *lead, 5)
    assert x[hidden].abs().sum() == 0


def test_samples_of_one_event_differ():
    mask = torch.ones(2, 3, dtype=torch.bool)
    base = setflow.StandardNormal((3, 1))
    x = setflow.masked_sample(Constant(), base, setflow.Euler(1), mask, sample_shape=(4,))
    assert len(x.flatten().unique()) == x.numel()


def test_sampling_integrates_from_noise_to_data():
    field = Constant()
    mask, noise = torch.ones(1, 2), torch.zeros(1, 2, 1)
    base = setflow.StandardNormal((1,))
    x = setflow.masked_sample(field, base, setflow.Euler(4), mask, x_source=noise)
    torch.testing.assert_close(x, torch.full((1, 2, 1), -1.0))
    assert [t.item() for _, t, _ in field.calls] == [1.0, 0.75, 0.5, 0.25]
    back = setflow.masked_sample(field, base, setflow.Euler(4), mask, x_source=x, t0=0.0, t1=1.0)
    torch.testing.assert_close(back, noise)


def test_every_solver_step_has_zero_padding():
    states = []

    class Recording(setflow.Midpoint):
        def integrate(self, f, x0, *, t0, t1, steps=None):
            def recorded(x, t):
                states.append(x)
                return f(x, t)

            return super().integrate(recorded, x0, t0=t0, t1=t1, steps=steps)

    mask = masks()["lead1"]
    noise = torch.randn(*mask.shape, 3).masked_fill(~mask[..., None], torch.nan)
    setflow.masked_sample(
        Constant(), setflow.StandardNormal((3,)), Recording(5), mask, x_source=noise
    )
    assert len(states) == 10
    for x in states:
        assert x[~mask].abs().sum() == 0


def test_a_users_solver_that_inherits_nothing():
    class Mine:
        def integrate(self, f, x0, t0=0.0, t1=1.0, steps=None):
            x = x0 + 1e3  # it even writes into the padding
            for k in range(10):
                x = x + (t1 - t0) / 10 * f(x, torch.tensor(t0 + k * (t1 - t0) / 10))
            return x - 1e3

    mask = masks()["lead1"]
    x = setflow.masked_sample(Constant(), setflow.StandardNormal((3,)), Mine(), mask)
    assert x[~mask].abs().sum() == 0
    assert x.isfinite().all()


def test_samples_have_the_distribution_of_the_oracle():
    field = setflow.GaussianSetField(torch.tensor([1.0]), torch.tensor([0.5]), coupling=2.0)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    x = setflow.masked_sample(
        field, setflow.StandardNormal((1,)), setflow.RK4(20), mask,
        sample_shape=(40_000,), generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    pair = torch.cov(x[:, 0, :2, 0].T)
    torch.testing.assert_close(pair, 0.25 * (torch.eye(2) + 2), atol=0.02, rtol=0)
    single = x[:, 1, 0, 0]
    assert single.var().item() == pytest.approx(0.75, abs=0.02)
    assert single.mean().item() == pytest.approx(1.0, abs=0.02)


def test_a_gradient_reaches_parameters_and_noise_through_sampling():
    field, mask = redraw(Pointwise()), masks()["lead1"]
    noise = torch.randn(*mask.shape, 3, requires_grad=True)
    x = setflow.masked_sample(
        field, setflow.StandardNormal((3,)), setflow.RK4(3), mask, x_source=noise
    )
    x.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in field.parameters())
    assert noise.grad[mask].abs().min() > 0
    assert noise.grad[~mask].abs().sum() == 0


@each(
    ("change", "error", "message"),
    [
        ({"mask": torch.full((2, 5), 3)}, ValueError, "holds the value 3"),
        ({"mask": torch.ones(2, 6)}, ValueError, r"event shape \(5, 3\), expected 2 dimensions"),
        ({"base": setflow.StandardNormal((5, 3), batch_shape=(4,))}, ValueError, "batch shape"),
        ({"base": setflow.StandardNormal((3,), batch_shape=(7,))}, ValueError, r"\(7,\), expected"),
        ({"x_source": torch.zeros(2, 4, 3)}, ValueError, "x_source has shape"),
        ({"x_source": torch.zeros(3, 5, 3)}, ValueError, "x_source has shape"),
        ({"c": torch.zeros(3, 1)}, ValueError, "one context row per event"),
        ({"field": setflow.VelocityField(3)}, ValueError, "at least 2"),
    ],
)
def test_bad_input_of_sampling(change, error, message):
    arguments = {
        "field": Constant(),
        "base": setflow.StandardNormal((5, 3)),
        "solver": setflow.Euler(1),
        "mask": torch.ones(2, 5),
    }
    with pytest.raises(error, match=message):
        setflow.masked_sample(**(arguments | change))


def test_a_stochastic_solver_is_refused():
    class Stochastic:
        is_sde = True

    with pytest.raises(ValueError, match="solves stochastic equations"):
        setflow.masked_sample(
            Constant(), setflow.StandardNormal((3,)), Stochastic(), torch.ones(2, 5)
        )


@each(
    ("base", "mask", "error", "message"),
    [
        (
            setflow.StandardNormal,
            torch.ones(2, 5),
            TypeError,
            "base is the class StandardNormal, ex",
        ),
        (setflow.Midpoint(2), torch.ones(2, 5), TypeError, "base is Midpoint, expected a distrib"),
        (torch.zeros(2, 5, 3), torch.ones(2, 5), TypeError, "base is Tensor, expected a distrib"),
        (setflow.StandardNormal((3,)), None, ValueError, "for a base of one object give a mask"),
    ],
)
def test_what_is_no_base_is_named(base, mask, error, message):
    field = setflow.GaussianSetField(torch.zeros(3), torch.ones(3))
    with pytest.raises(error, match=message):
        setflow.masked_sample(field, base, setflow.Midpoint(2), mask)
    if mask is not None:
        with pytest.raises(error, match=message):
            setflow.masked_log_prob(field, base, setflow.Midpoint(2), torch.zeros(2, 5, 3), mask)


@each("solver", [5, None, setflow.StandardNormal((3,)), setflow.Midpoint, "midpoint"])
def test_what_is_no_solver_is_named(solver):
    field, base = setflow.GaussianSetField([0.0, 0.0], [1.0, 1.0]), setflow.StandardNormal((2,))
    x, mask = torch.zeros(2, 5, 2), torch.ones(2, 5)
    with pytest.raises(TypeError, match="expected a solver object such as"):
        setflow.masked_sample(field, base, solver, mask)
    with pytest.raises(TypeError, match="expected a solver object such as"):
        setflow.masked_log_prob(field, base, solver, x, mask)


def test_the_base_describes_the_objects_of_x_source():
    """A field that takes any width would not miss it."""
    mask, x_source = torch.ones(2, 5, dtype=torch.bool), torch.randn(2, 5, 3)
    field, solver = Constant(), setflow.Euler(1)
    for base in (setflow.StandardNormal((4,)), setflow.StandardNormal((6, 3))):
        with pytest.raises(
            ValueError, match=r"expected a base of the same objects, such as .*\(3,"
        ):
            setflow.masked_sample(field, base, solver, mask, x_source=x_source)
    for base in (setflow.StandardNormal((3,)), setflow.StandardNormal((5, 3))):
        assert setflow.masked_sample(field, base, solver, mask, x_source=x_source).shape[-1] == 3


@each("shape", [-1, 2.5, "2"])
def test_a_sample_shape_is_made_of_integers(shape):
    with pytest.raises((TypeError, ValueError), match="at least 0"):
        setflow.masked_sample(
            Constant(), setflow.StandardNormal((3,)), setflow.Euler(1), [[1, 0]], sample_shape=shape
        )
