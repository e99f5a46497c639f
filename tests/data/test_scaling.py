"""The standardizer: statistics over real objects, inverse, log-determinant, laws."""

from __future__ import annotations

import math

import pytest
import torch

from laws.laws import GARBAGE, masks
from setflow.data import Standardizer
from setflow.schema import kind_of

POWERS = pytest.mark.parametrize("power", [0.0, 0.3, 0.9])


def _events():
    mask = masks()["lead1"]
    return torch.rand(*mask.shape, 3) + 0.1, mask


@POWERS
def test_real_objects_get_mean_zero_and_deviation_one(power):
    x, mask = _events()
    z = Standardizer(kinds=["real", "real", f"positive(boxcox={power})"]).fit(x, mask)(x, mask)
    torch.testing.assert_close(z[mask].mean(0), torch.zeros(3), atol=1e-12, rtol=0)
    torch.testing.assert_close(z[mask].std(0), torch.ones(3), atol=1e-12, rtol=0)
    assert z[~mask].abs().sum() == 0


def test_statistics_by_hand():
    x = torch.tensor([[[1.0, 1.0], [3.0, torch.e]], [[5.0, torch.e**2], [99.0, -1.0]]])
    mask = torch.tensor([[1, 1], [1, 0]])
    scaler = Standardizer(kinds=["real", "positive"]).fit(x, mask)
    torch.testing.assert_close(scaler.mean, torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(scaler.std, torch.tensor([2.0, 1.0]))


@POWERS
@pytest.mark.parametrize("garbage", GARBAGE)
def test_padding_cannot_matter(garbage, power):
    x, mask = _events()
    dirty = x.masked_fill(~mask[..., None], garbage)
    one, other = (
        Standardizer(kinds=["real", "real", f"positive(boxcox={power})"]).fit(v, mask)
        for v in (x, dirty)
    )
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.std, other.std)
    assert torch.equal(one(x, mask), one(dirty, mask))
    assert torch.equal(one.inverse(x, mask), one.inverse(dirty, mask))
    assert torch.equal(one.log_det(x, mask), one.log_det(dirty, mask))


@POWERS
def test_padding_cannot_reach_a_gradient(power):
    x, mask = _events()
    scaler = Standardizer(kinds=["real", "real", f"positive(boxcox={power})"]).fit(x, mask)
    for function in (scaler, scaler.inverse, scaler.log_det):
        dirty = x.masked_fill(~mask[..., None], torch.nan).requires_grad_()
        function(dirty, mask).sum().backward()
        assert dirty.grad.isfinite().all()
        assert dirty.grad[~mask].abs().sum() == 0


@POWERS
def test_inverse_undoes(power):
    x, mask = _events()
    scaler = Standardizer(kinds=["real", "real", f"positive(boxcox={power})"]).fit(x, mask)
    torch.testing.assert_close(scaler.inverse(scaler(x, mask), mask)[mask], x[mask])


def test_log_det_is_that_of_the_jacobian():
    x, mask = _events()
    scaler = Standardizer(kinds=["positive", "real", "positive(boxcox=0.3)"]).fit(x, mask)
    log_det = scaler.log_det(x, mask)
    for event, real, got in zip(x, mask, log_det, strict=True):
        jacobian = torch.func.jacrev(lambda v, real=real: scaler(v, real)[real])(event)
        size = 3 * int(real.sum())
        expected = jacobian[:, :, real].reshape(size, size).det().abs().log()  # det of () is 1
        torch.testing.assert_close(got, expected)


def test_dtype_is_kept_and_the_state_is_float64():
    x, mask = _events()
    scaler = Standardizer(3).fit(x.float(), mask)
    assert scaler(x.float(), mask).dtype == torch.float32
    assert scaler.log_det(x.float(), mask).dtype == torch.float32
    assert scaler.mean.dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[..., :2], r"expected \(\*batch, N, 3\)"),
        (lambda x: x * torch.tensor([1.0, 0.0, 1.0]), "feature 1 is constant"),
        (lambda x: x * torch.tensor([1.0, 1.0, -1.0]), "not above 0"),
        (lambda x: x + torch.tensor([torch.nan, 0.0, 0.0]), "feature 0 holds NaN"),
    ],
)
def test_bad_data(change, message):
    x, mask = _events()
    with pytest.raises(ValueError, match=message):
        Standardizer(kinds=["real", "real", "positive"]).fit(change(x), mask)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["real", "real"], "2 kinds for dim=3"),
        (["real", "real", "positive(boxcox=1)"], "below 1"),
        (["real", "real", "posiitve"], "did you mean 'positive'"),
        (["real", "real", "category(a, b)"], "no number on a line"),
    ],
)
def test_a_transform_that_cannot_be(kinds, message):
    with pytest.raises(ValueError, match=message):
        Standardizer(3, kinds=kinds)


def test_what_lies_below_the_training_sample_is_put_onto_its_smallest_value():
    x, mask = _events()
    scaler = Standardizer(kinds=["real", "real", "positive(boxcox=0.3)"]).fit(x, mask)
    low = torch.full((1, 1, 3), -50.0)
    back = scaler.inverse(low)[0, 0]
    torch.testing.assert_close(back[2], x[mask][:, 2].min())
    assert back[0] < x[mask][:, 0].min() - 1  # other features have no bound
    logarithm = Standardizer(kinds=["real", "real", "positive"]).fit(x, mask).inverse(low)[0, 0, 2]
    assert 0 < logarithm < x[mask][:, 2].min()


@POWERS
def test_values_that_a_transform_does_not_accept_are_found(power):
    x, mask = _events()
    scaler = Standardizer(kinds=["real", "real", f"positive(boxcox={power})"]).fit(x, mask)
    assert not scaler.outside(x, mask).any()
    bad = x.clone()
    bad[..., :2] = -1  # features without a transform accept anything
    bad[0, 0, 2], bad[1, 1, 2], bad[2, 2, 2] = 0.0, -1e-300, torch.nan
    expected = torch.zeros_like(x, dtype=torch.bool)
    expected[[0, 1, 2], [0, 1, 2], 2] = True
    assert torch.equal(scaler.outside(bad), expected)
    assert torch.equal(scaler.outside(bad, mask), expected & mask[..., None])
    for row in range(len(x)):  # it finds what `forward` refuses
        if scaler.outside(bad[row], mask[row]).any():
            with pytest.raises(ValueError, match="feature 2 is of kind positive"):
                scaler(bad[row], mask[row])
        else:
            assert scaler(bad[row], mask[row]).isfinite().all()
    assert not Standardizer(3).outside(bad).any()


@pytest.mark.parametrize("given", ["positive", [2], [None]])
def test_kinds_are_a_sequence_of_texts(given):
    with pytest.raises(TypeError, match=r"expected (a sequence|one of real, positive)"):
        Standardizer(1, kinds=given)


KINDS = {
    "real": (-1e3, 1e3),
    "positive": (1e-3, 1e3),
    "positive(low=-2)": (-1.9, 50.0),
    "positive(boxcox=0.3)": (1e-3, 1e3),
    "positive(low=3, boxcox=0.5)": (3.1, 50.0),
    "bounded(-1, 3)": (-0.99, 2.99),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_inverse_and_the_logarithm_of_its_slope(kind):
    low, high = KINDS[kind]
    x = torch.linspace(low, high, 101).reshape(1, 101, 1).requires_grad_()
    scaler = Standardizer(kinds=[kind]).fit(x.detach())
    z = scaler(x)
    torch.testing.assert_close(scaler.inverse(z), x, atol=1e-9, rtol=1e-9)
    (slope,) = torch.autograd.grad(z.sum(), x)
    assert (slope > 0).all()
    each = torch.stack([scaler.log_det(x[:, k : k + 1]) for k in range(101)])
    torch.testing.assert_close(each.flatten(), slope.log().flatten(), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", [*KINDS][1:])
def test_what_is_generated_obeys_the_bounds_of_its_kind(kind, dtype):
    """Also where rounding would put it onto a bound: e^-200 is 0 in float32, its logit is 1."""
    x = torch.linspace(*KINDS[kind], 11).reshape(1, 11, 1)
    scaler = Standardizer(kinds=[kind]).fit(x)
    z = torch.tensor([-1e4, -400.0, -40, 0, 40, 60, 1e4], dtype=dtype)
    made = scaler.inverse(z.reshape(1, -1, 1))
    low, high = kind_of(kind).bounds
    assert made.dtype == dtype
    assert (made.double() > low).all()
    assert (made.double() < high).all() or high == math.inf
    assert not scaler.outside(made.double()[made.isfinite()].reshape(1, -1, 1)).any()


@pytest.mark.parametrize("kind", [*KINDS][1:])
def test_padding_is_safe_in_every_kind(kind):
    x = torch.linspace(*KINDS[kind], 8).reshape(2, 4, 1)
    mask = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0]]).bool()
    scaler = Standardizer(kinds=[kind]).fit(x, mask)
    z = scaler(x, mask)
    for function, given in ((scaler, x), (scaler.inverse, z), (scaler.log_det, x)):
        dirty = given.masked_fill(~mask[..., None], torch.nan).requires_grad_()
        function(dirty, mask).sum().backward()
        assert dirty.grad.isfinite().all()
        assert dirty.grad[~mask].abs().sum() == 0


def test_a_bounded_density_is_one_over_its_interval():
    """exp(log p(z) + log|det dz/dx|) of a standard normal z integrates to 1 between the bounds."""
    scaler = Standardizer(kinds=["bounded(-1, 3)"], mean=0.3, std=1.4)
    x = torch.linspace(-1, 3, 200_001)[1:-1].reshape(-1, 1, 1)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(scaler(x))[..., 0, 0]
    total = torch.trapezoid((normal + scaler.log_det(x)).exp(), x.flatten())
    torch.testing.assert_close(total, torch.tensor(1.0), atol=1e-5, rtol=0)
