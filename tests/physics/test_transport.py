"""The energy mover's distance by hand and by linear programming; coverage and MMD; the laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from each import each
from laws.laws import LAWS, Case, Outcome, cases
from setflow.physics import coverage_and_mmd, energy_movers_distances
from setflow.physics.metrics import observables

pytest.importorskip("ot", reason="POT needs `pip install 'setflow[metrics]'`")

F64 = torch.float64


def jets(n=10, slots=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    angles = 0.3 * torch.randn(n, slots, 2, generator=generator, dtype=F64)
    pt = 0.02 + torch.rand(n, slots, 1, generator=generator, dtype=F64)
    mask = torch.rand(n, slots, generator=generator) < 0.8
    mask[0], mask[1] = False, True
    return torch.cat([angles, pt], -1), mask


def by_linear_programme(a, b):
    """The definition: flows f_ij, at most the momenta of both, as much as the smaller sum."""
    n, m = len(a), len(b)
    excess = abs(a[:, 2].sum() - b[:, 2].sum())
    if not n or not m:
        return excess
    cost = np.hypot(a[:, None, 0] - b[None, :, 0], a[:, None, 1] - b[None, :, 1])
    of_rows = np.kron(np.eye(n), np.ones(m))
    of_columns = np.kron(np.ones(n), np.eye(m))
    solved = linprog(
        cost.flatten(),
        A_ub=np.concatenate([of_rows, of_columns]),
        b_ub=np.concatenate([a[:, 2], b[:, 2]]),
        A_eq=np.ones((1, n * m)),
        b_eq=[min(a[:, 2].sum(), b[:, 2].sum())],
    )
    return solved.fun + excess


def test_distances_are_those_of_a_linear_programme():
    (x, mask), (y, y_mask) = jets(6), jets(5, slots=4, seed=3)
    found = energy_movers_distances(x, y, mask, y_mask)
    for i in range(6):
        for j in range(5):
            expected = by_linear_programme(x[i][mask[i]].numpy(), y[j][y_mask[j]].numpy())
            assert found[i, j] == pytest.approx(expected, rel=1e-7)
    torch.testing.assert_close(found, energy_movers_distances(y, x, y_mask, mask).T)


def test_known_distances():
    x, mask = jets()
    assert energy_movers_distances(x, x, mask, mask).diagonal().abs().max() < 1e-12
    moved = x + torch.tensor([0.125, 0.0, 0.0])
    found = energy_movers_distances(x, moved, mask, mask).diagonal()
    torch.testing.assert_close(found, 0.125 * torch.where(mask, x[..., 2], 0).sum(-1))
    harder = x * torch.tensor([1.0, 1.0, 1.5])
    found = energy_movers_distances(x, harder, mask, mask).diagonal()
    torch.testing.assert_close(found, 0.5 * torch.where(mask, x[..., 2], 0).sum(-1))
    across = torch.tensor([[[0.0, 3.1, 1.0]]], dtype=F64), torch.tensor([[[0.0, -3.1, 1.0]]])
    found = energy_movers_distances(*across)  # across the seam of the azimuth
    assert math.isclose(found, 2 * math.pi - 6.2, rel_tol=1e-6)
    negative = x.clone()
    negative[:, 0, 2] = -1.0
    without = mask.clone()
    without[:, 0] = False
    found = energy_movers_distances(negative, x, mask, mask)
    torch.testing.assert_close(found, energy_movers_distances(x, x, without, mask))


def test_coverage_and_mmd_of_known_samples():
    """Jets of one particle each, at places on a line; the distance is |eta - eta'|."""

    def at(places):
        places = torch.as_tensor(places, dtype=F64)
        rows = [places, torch.zeros_like(places), torch.ones_like(places)]
        return observables(torch.stack(rows, -1)[:, None])

    places = torch.arange(20) / 10
    found = coverage_and_mmd(at(places), at(places), size=10, draws=2)
    assert 0.3 < found["coverage"].value < 1
    one_spot = coverage_and_mmd(at(places), at(torch.zeros(20)), size=10, draws=2)
    assert one_spot["coverage"].value == 0.1  # one jet of ten is the nearest of all
    assert one_spot["mmd"].value == pytest.approx(places.mean().item())
    # the same batches on both sides are covered wholly
    again = torch.zeros(20)
    again[:] = 0.5
    assert coverage_and_mmd(at(again), at(again), size=10, draws=2)["mmd"].value < 1e-12


def test_the_published_protocol_gives_the_published_values(published):
    coverage, mmd = published.values["wide"]["cov_mmd"]
    found = coverage_and_mmd(published.real, published.wide, "jetnet", draws=2)
    assert found["coverage"].value == pytest.approx(coverage, abs=1e-12)
    assert found["mmd"].value == pytest.approx(mmd, rel=1e-6)


def test_what_is_not_defined_is_refused(monkeypatch):
    sample = observables(*jets())
    with pytest.raises(ValueError, match="no protocol 'half'"):
        coverage_and_mmd(sample, sample, "half")
    with pytest.raises(ValueError, match="size=6 of 10 real and 10 generated jets, expected at"):
        coverage_and_mmd(sample, sample, size=6)
    with pytest.raises(ValueError, match=r"x_b has shape \(5, 3\), expected \(jets, N, 3\)"):
        energy_movers_distances(sample.x, sample.x[0])
    with pytest.raises(ValueError, match="x_a holds real particles that are not finite"):
        energy_movers_distances(sample.x * math.nan, sample.x)
    monkeypatch.setitem(__import__("sys").modules, "ot", None)
    with pytest.raises(ImportError, match=r"POT is not installed; .* 'setflow\[metrics\]'"):
        energy_movers_distances(sample.x, sample.x)


@each("law", LAWS)
def test_distances_keep_the_law(law):
    other = jets(3)

    def subject(case: Case) -> Outcome:
        x = case.x.double() * torch.tensor([0.4, 0.4, 1.0], dtype=F64)
        x = torch.cat([x[..., :2], x[..., 2:].abs()], -1)
        lead, n = x.shape[:-2], math.prod(x.shape[:-2])
        mask = None if case.mask is None else case.mask.reshape(n, -1)
        table = energy_movers_distances(
            x.reshape(n, *x.shape[-2:]), other[0][1:], mask, other[1][1:]
        )
        pt = other[0][1:, :, 2].mul(other[1][1:]).sum(-1)  # an empty jet has this distance
        table = torch.where(torch.isclose(table, pt, rtol=1e-12), 0.0, table)
        return Outcome(per_event={str(k): table[:, k].reshape(lead) for k in range(2)})

    for lead, case in cases():
        if law != "emptiness" or lead != "lead0":
            LAWS[law](subject, case)
