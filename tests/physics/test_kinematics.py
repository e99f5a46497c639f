"""Four-momenta against loops in pure Python, and where rounding would spoil them."""

from __future__ import annotations

import math

import pytest
import torch

from each import each
from setflow.physics import (
    delta_phi,
    hardest_first,
    jet_eta,
    jet_features,
    jet_four_momentum,
    jet_mass,
    jet_pt,
)

F64 = torch.float64


def jets(n=20, slots=9, seed=0, spread=0.4, dtype=F64):
    """Jets with holes, a padded first slot, an empty and a full one among them."""
    generator = torch.Generator().manual_seed(seed)
    angles = spread * torch.randn(n, slots, 2, generator=generator, dtype=F64)
    pt = torch.rand(n, slots, 1, generator=generator, dtype=F64) ** 3
    mask = torch.rand(n, slots, generator=generator) < 0.6
    mask[0], mask[1], mask[2, 0] = False, True, False
    return torch.cat([angles, pt], -1).to(dtype), mask


def momentum_by_loops(x, mask):
    total = [0.0, 0.0, 0.0, 0.0]
    for (eta, phi, pt), real in zip(x.tolist(), mask.tolist(), strict=True):
        if real:
            parts = (math.cosh(eta), math.cos(phi), math.sin(phi), math.sinh(eta))
            total = [t + pt * part for t, part in zip(total, parts, strict=True)]
    return total


def test_momenta_are_those_of_loops():
    x, mask = jets()
    momentum, mass, pt, eta = (f(x, mask) for f in (jet_four_momentum, jet_mass, jet_pt, jet_eta))
    for jet in range(len(x)):
        e, px, py, pz = momentum_by_loops(x[jet], mask[jet])
        torch.testing.assert_close(momentum[jet], torch.tensor([e, px, py, pz], dtype=F64))
        assert math.isclose(pt[jet], math.hypot(px, py), abs_tol=1e-12)
        assert math.isclose(
            mass[jet], math.sqrt(max(0.0, e**2 - px**2 - py**2 - pz**2)), abs_tol=1e-7
        )
        if pt[jet] > 0:
            assert math.isclose(eta[jet], math.asinh(pz / math.hypot(px, py)), abs_tol=1e-12)


def test_the_mass_of_wide_jets_is_that_of_loops_to_ten_digits():
    x, mask = jets(spread=1.5)
    for jet in range(1, len(x)):
        e, px, py, pz = momentum_by_loops(x[jet], mask[jet])
        if mask[jet].sum() > 2:
            expected = math.sqrt(e**2 - px**2 - py**2 - pz**2)
            assert math.isclose(jet_mass(x[jet], mask[jet]), expected, rel_tol=1e-10)


@pytest.mark.parametrize("distance", [1e-1, 1e-4, 1e-7, 1e-10])
def test_the_mass_of_a_collinear_pair_keeps_its_digits(distance):
    """E^2 - p^2 has none left: the distance is far below the rounding of 1."""
    eta, phi = 0.3 * distance, 0.4 * distance
    pair = torch.tensor([[0.2, 0.1, 0.7], [0.2, 0.1, 0.4]], dtype=F64)
    pair[1, 0] += eta
    pair[1, 1] += phi
    eta, phi = float(pair[1, 0] - pair[0, 0]), float(pair[1, 1] - pair[0, 1])
    product = 4 * 0.7 * 0.4 * (math.sinh(eta / 2) ** 2 + math.sin(phi / 2) ** 2)
    assert math.isclose(jet_mass(pair), math.sqrt(product), rel_tol=1e-6)
    if distance >= 1e-4:
        assert math.isclose(jet_mass(pair), math.sqrt(product), rel_tol=1e-10)


def test_the_mass_does_not_depend_on_where_the_axis_points():
    x, mask = jets()
    moved = x.clone()
    moved[..., 0] += 1.3
    moved[..., 1] = delta_phi(moved[..., 1] + 3.0, torch.zeros((), dtype=F64))
    torch.testing.assert_close(jet_mass(moved, mask), jet_mass(x, mask), rtol=1e-10, atol=1e-12)


def test_one_particle_has_no_mass_and_none_has_nothing():
    one = torch.tensor([[1.7, -2.9, 0.3]], dtype=F64)
    assert jet_mass(one).item() < 1e-15
    for f in (jet_four_momentum, jet_mass, jet_pt, jet_eta, jet_features):
        assert f(one, torch.tensor([False])).abs().sum().item() == 0
        assert f(one[:0]).abs().sum().item() == 0


def test_negative_momenta_and_nan_do_not_make_a_mass_up():
    spacelike = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, -1.0]], dtype=F64)
    assert jet_mass(spacelike).item() == 0
    batch = torch.stack([spacelike.abs(), spacelike.abs()])
    batch[0, 0, 0] = float("nan")
    assert jet_mass(batch).isnan().tolist() == [True, False]


def test_the_dtype_is_that_of_the_input_and_the_sums_are_not():
    x, mask = jets(dtype=torch.float32)
    for f in (jet_four_momentum, jet_mass, jet_pt, jet_eta, jet_features):
        got = f(x, mask)
        assert got.dtype == torch.float32
        assert torch.equal(got, f(x.double(), mask).float())


def test_gradients_are_finite_also_for_empty_jets():
    x, mask = jets()
    x = x.masked_fill(~mask[..., None], float("nan")).requires_grad_()
    for f in (jet_four_momentum, jet_mass, jet_pt, jet_eta):
        (grad,) = torch.autograd.grad(f(x, mask).sum(), x)
        assert grad.isfinite().all()
        assert grad[~mask].abs().sum().item() == 0
    full = jets()[0][1:2].requires_grad_()
    assert torch.autograd.gradcheck(jet_mass, (full,))


def test_jet_features_are_pt_eta_mass_and_number():
    x, mask = jets()
    expected = torch.stack(
        [jet_pt(x, mask), jet_eta(x, mask), jet_mass(x, mask), mask.sum(-1).double()], -1
    )
    assert torch.equal(jet_features(x, mask), expected)


@each(
    ("difference", "expected"),
    [
        (0.0, 0.0),
        (1e-17, 1e-17),
        (-3.0, -3.0),
        (math.pi, -math.pi),
        (-math.pi, -math.pi),
        (4.0, 4.0 - 2 * math.pi),
        (-4.0, 2 * math.pi - 4.0),
        (9.0 * math.pi + 0.25, -math.pi + 0.25),
    ],
)
def test_delta_phi_wraps(difference, expected):
    got = delta_phi(torch.tensor(difference, dtype=F64), torch.tensor(0.0, dtype=F64))
    assert math.isclose(got, expected, rel_tol=1e-14, abs_tol=1e-14 * (abs(difference) > 4))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_delta_phi_stays_in_its_interval_at_the_edges(dtype):
    edge = torch.tensor([-3, -1, 1, 3], dtype=dtype) * math.pi
    inf = torch.full_like(edge, float("inf"))
    near = torch.cat([edge, edge.nextafter(inf), edge.nextafter(-inf)])
    got = delta_phi(near, torch.zeros((), dtype=dtype))
    assert bool((got >= -math.pi).all())
    assert bool((got <= torch.tensor(math.pi, dtype=dtype)).all())


def test_hardest_first_is_a_stable_sort_of_the_real_particles():
    x, mask = jets(slots=12)
    x[3, :, 2] = 0.5  # ties keep their order
    x[4, :, 2] -= 0.4  # negative ones are still real
    x = x.masked_fill(~mask[..., None], float("nan"))
    sorted_x, sorted_mask = hardest_first(x, mask)
    for jet in range(len(x)):
        rows = x[jet][mask[jet]].tolist()
        expected = sorted(rows, key=lambda row: -row[2])
        assert sorted_x[jet][sorted_mask[jet]].tolist() == expected
        assert sorted_mask[jet].tolist() == [True] * len(rows) + [False] * (12 - len(rows))
    assert sorted_x[~sorted_mask].abs().sum().item() == 0


@pytest.mark.parametrize("n", [0, 1, 5, 12, 20])
def test_hardest_first_returns_exactly_n_slots(n):
    x, mask = jets(slots=12)
    all_x, all_mask = hardest_first(x, mask)
    cut_x, cut_mask = hardest_first(x, mask, n)
    assert cut_x.shape == (len(x), n, 3)
    assert cut_mask.shape == (len(x), n)
    kept = min(n, 12)
    assert torch.equal(cut_x[:, :kept], all_x[:, :kept])
    assert torch.equal(cut_mask[:, :kept], all_mask[:, :kept])
    assert not cut_mask[:, kept:].any()
    assert cut_x[:, kept:].abs().sum().item() == 0


@pytest.mark.parametrize(
    ("x", "mask", "error", "match"),
    [
        (torch.zeros(4, 2), None, ValueError, "etarel, phirel, ptrel"),
        (torch.zeros(3), None, ValueError, r"\(\*batch, N, 3\)"),
        (torch.zeros(4, 3), torch.ones(5), ValueError, "mask has shape"),
        (torch.zeros(4, 3), torch.full((4,), 0.5), ValueError, "0.5"),
        (torch.zeros(4, 3, dtype=torch.bool), None, TypeError, "bool"),
        ([[0.0, 0.0, "1"]], None, TypeError, "holds no plain numbers"),
    ],
)
def test_what_is_no_jet_is_refused(x, mask, error, match):
    for f in (jet_mass, hardest_first, jet_features):
        with pytest.raises(error, match=match):
            f(x, mask)


def test_a_negative_number_of_slots_is_refused():
    with pytest.raises(ValueError, match="n must be at least 0, got -1"):
        hardest_first(torch.zeros(4, 3), None, -1)
