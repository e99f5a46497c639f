"""Conversions of rectified flow: formulas event by event, round-off, the ends of time, masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from each import each
from laws.laws import LAWS, Outcome, cases, law_content
from setflow.rectified import (
    add_noise,
    pred_noise_to_pred_x0,
    pred_x0_from_flow,
    rf_alpha,
    rf_sigma,
    x0_to_eps,
    x0_to_flow,
)

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


# each function of two tensors and the time, with its formula
FORMULAS = {
    add_noise: lambda x0, eps, t: (1 - t) * x0 + t * eps,
    pred_noise_to_pred_x0: lambda eps, x_t, t: (x_t - t * eps) / (1 - t),
    pred_x0_from_flow: lambda flow, x_t, t: x_t - t * flow,
    x0_to_eps: lambda x0, x_t, t: (x_t - (1 - t) * x0) / t,
    x0_to_flow: lambda x0, x_t, t: (x_t - x0) / t,
}


FUNCTIONS = each("function", FORMULAS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def times(*shape, seed=3):
    return 0.05 + 0.9 * torch.rand(shape, generator=generator(seed), dtype=torch.float64)


def test_rf_alpha_and_rf_sigma():
    t = torch.tensor([0.0, 0.3, 1.0])
    assert torch.equal(rf_alpha(t), torch.tensor([1.0, 0.7, 0.0]))
    assert torch.equal(rf_sigma(t), t)
    rf_sigma(t).zero_()
    assert t[1] == 0.3  # the result is the caller's own


@FUNCTIONS
@each("lead", [(), (4,), (2, 3)])
def test_formulas_event_by_event(function, lead):
    a, b = normal(*lead, 5, 2, seed=1), normal(*lead, 5, 2, seed=2)
    t = times(*lead)
    got = function(a, b, t)
    for key in np.ndindex(*lead):
        expected = FORMULAS[function](a[key].numpy(), b[key].numpy(), t[key].item())
        np.testing.assert_allclose(got[key].numpy(), expected, rtol=1e-13, atol=1e-15)
    for scalar in (0.25, torch.tensor(0.25), torch.tensor(0.25).half()):
        expected = FORMULAS[function](a, b, 0.25)
        torch.testing.assert_close(function(a, b, scalar), expected, rtol=1e-13, atol=1e-15)


@each("t", [1e-3, 0.3, 0.999])
def test_conversions_undo_each_other(t):
    x0, eps = normal(6, 4, 3, seed=1), normal(6, 4, 3, seed=2)
    x_t, flow = add_noise(x0, eps, t), eps - x0
    close = {"rtol": 0, "atol": 1e-11}
    torch.testing.assert_close(pred_noise_to_pred_x0(eps, x_t, t), x0, **close)
    torch.testing.assert_close(pred_x0_from_flow(flow, x_t, t), x0, **close)
    torch.testing.assert_close(x0_to_eps(x0, x_t, t), eps, **close)
    torch.testing.assert_close(x0_to_flow(x0, x_t, t), flow, **close)


@pytest.mark.parametrize("t", [1e-6, 1e-3, 0.3, 1.0])
def test_flow_to_x0_and_back_is_exact_to_round_off(t):
    """The difference x_t - x_0 carries one rounding of each of its terms, divided by t."""
    flow, x_t = normal(2000, seed=1), normal(2000, seed=2)
    back = x0_to_flow(pred_x0_from_flow(flow, x_t, t), x_t, t)
    x0 = x_t - t * flow
    round_off = torch.finfo(torch.float64).eps * (x0.abs() / t + 2 * flow.abs())
    assert ((back - flow).abs() <= round_off).all()


def test_ends_of_the_path():
    x0, eps = normal(3, 4, seed=1), normal(3, 4, seed=2)
    assert torch.equal(add_noise(x0, eps, torch.zeros(3)), x0)
    assert torch.equal(add_noise(x0, eps, torch.ones(3)), eps)
    assert torch.equal(pred_noise_to_pred_x0(eps, x0, 0.0), x0)
    assert torch.equal(pred_x0_from_flow(eps, x0, 0.0), x0)
    assert torch.equal(x0_to_eps(x0, eps, 1.0), eps)


@pytest.mark.parametrize("tiny", [0.0, 1e-9])
def test_denominators_are_never_below_a_millionth(tiny):
    a, b = torch.tensor([1.0, -2.0]), torch.tensor([4.0, 3.0])
    at_data, at_noise = torch.tensor(tiny), torch.tensor(1 - tiny)
    expected = {"rtol": 1e-7, "atol": 0}
    torch.testing.assert_close(x0_to_flow(a, b, at_data), (b - a) * 1e6, **expected)
    torch.testing.assert_close(x0_to_eps(a, b, at_data), (b - a) * 1e6, **expected)
    torch.testing.assert_close(pred_noise_to_pred_x0(a, b, at_noise), (b - a) * 1e6, **expected)


@FUNCTIONS
@each("dtype", FLOATS)
def test_results_saturate_at_the_largest_number_of_the_dtype(function, dtype):
    largest = torch.finfo(dtype).max
    a = torch.tensor([-largest, largest, largest, 0.0], dtype=dtype)
    b = torch.tensor([largest, -largest, largest, 0.0], dtype=dtype)
    for t in (0.0, 1e-6, 0.5, 1 - 1e-6, 1.0):
        got = function(a, b, t)
        assert got.dtype == dtype
        assert got.isfinite().all()
        assert got[3] == 0
    assert x0_to_flow(a, b, 0.5).tolist() == [largest, -largest, 0.0, 0.0]
    assert x0_to_eps(a, b, 0.25).tolist()[:2] == [largest, -largest]
    assert pred_noise_to_pred_x0(a, b, 0.75).tolist()[:2] == [largest, -largest]
    assert pred_x0_from_flow(a, b, 0.75).tolist()[:2] == [largest, -largest]


@FUNCTIONS
@each("dtype", FLOATS[:3])
def test_arithmetic_is_in_float64_and_rounds_once(function, dtype):
    a, b = normal(500, 3, seed=1).to(dtype), normal(500, 3, seed=2).to(dtype)
    t = times(500).to(dtype)
    got = function(a, b, t)
    expected = FORMULAS[function](a.double(), b.double(), t.double()[:, None]).to(dtype)
    assert got.dtype == dtype
    assert torch.equal(got, expected)
    assert not torch.equal(FORMULAS[function](a, b, t[:, None]), expected)


def test_results_have_the_dtype_of_the_state():
    half, single = torch.ones(2).half(), torch.full((2,), 0.5).float()
    assert add_noise(half, single, 0.5).dtype == torch.float16
    assert pred_noise_to_pred_x0(half, single, 0.5).dtype == torch.float32
    assert pred_x0_from_flow(half, single, 0.5).dtype == torch.float32
    assert x0_to_eps(half, single, 0.5).dtype == torch.float16
    assert x0_to_flow(single, half, torch.tensor(0.5).double()).dtype == torch.float32


@FUNCTIONS
def test_gradients_are_those_of_the_formula(function):
    a, b = (normal(3, 2, seed=seed).requires_grad_() for seed in (1, 2))
    t = times(3).requires_grad_()
    assert torch.autograd.gradcheck(function, (a, b, t))


def subject_of(function):
    def subject(case):
        weight = torch.tensor(0.1, requires_grad=True)
        out = function(case.x + weight, case.x_source, weight + 0.8 * case.t, mask=case.mask)
        (gradient,) = torch.autograd.grad(out.sum(), weight)
        return Outcome(per_slot={"out": out.detach()}, gradients={"weight": gradient})

    return subject


@FUNCTIONS
@each("law", LAWS)
def test_laws_of_the_mask(function, law):
    for _, case in cases():
        if law == "emptiness" and case.mask.any(-1).all():
            continue
        LAWS[law](subject_of(function), case)


@FUNCTIONS
def test_multiplying_by_the_mask_is_caught(function):
    def saboteur(a, b, t, mask):
        keep = mask[..., None]
        return function(a * keep, b * keep, t)

    case = dict(cases())["lead1"]
    with pytest.raises(AssertionError, match="not finite"):
        law_content(subject_of(saboteur), case)


@FUNCTIONS
def test_padding_comes_out_as_zero_and_real_slots_as_without_a_mask(function):
    a, b = normal(3, 4, 2, seed=1), normal(3, 4, 2, seed=2)
    t = torch.tensor([0.2, 0.5, 0.8])
    mask = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]])
    got, full = function(a, b, t, mask=mask), function(a, b, t)
    real = mask.bool()
    assert torch.equal(got[real], full[real])
    assert (got[~real] == 0).all()
    assert (full != 0).all()


@FUNCTIONS
@each(
    ("shapes", "t", "mask", "message"),
    [
        (((4, 5, 3), (4, 5, 2)), 0.5, None, "expected equal shapes"),
        (((4, 5, 3), (4, 1, 3)), 0.5, None, "expected equal shapes"),
        (((4, 5, 3), (4, 5, 3)), (5,), None, r"t has shape \(5,\), expected a scalar or the first"),
        (((4, 5, 3), (4, 5, 3)), (1,), None, "one time for each event"),
        (((4, 5, 3), (4, 5, 3)), (4, 1, 1), None, "one time for each event"),
        (((4, 5, 3), (4, 5, 3)), (4, 5, 3, 1), None, "one time for each event"),
        (((5, 3), (5, 3)), (5,), (5,), r"expected a scalar or \(\)"),  # one time per object
        (((4, 5, 3), (4, 5, 3)), (4, 5), (4, 5), r"expected a scalar or \(4,\)"),
        (((5, 5, 3), (5, 5, 3)), (5, 5), (5, 5), r"expected a scalar or \(5,\)"),
        (((4, 5, 3), (4, 5, 3)), 0.5, (4, 6), r"expected mask \(\*lead, N\)"),
        (((4, 5, 3), (4, 5, 3)), 0.5, (4, 5, 3), r"expected mask \(\*lead, N\)"),
        (((4, 5, 3), (4, 5, 3)), 0.5, (5,), r"expected mask \(\*lead, N\)"),
    ],
)
def test_nothing_broadcasts(function, shapes, t, mask, message):
    first, second = (normal(*shape) for shape in shapes)
    t = t if isinstance(t, float) else torch.full(t, 0.5)
    mask = None if mask is None else torch.ones(mask, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        function(first, second, t, mask=mask)


@FUNCTIONS
def test_bad_values_are_refused(function):
    x = normal(2, 3, 1)
    with pytest.raises(ValueError, match=r"has dtype torch.bool, expected a floating dtype"):
        function(x > 0, x, 0.5)
    with pytest.raises(ValueError, match=r"has dtype torch.bool, expected a floating dtype"):
        function(x, x > 0, 0.5)
    with pytest.raises(ValueError, match=r"mask holds the value 0.5"):
        function(x, x, 0.5, mask=torch.full((2, 3), 0.5))
