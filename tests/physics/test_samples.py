"""W1 of a sample: shifts, weights, draws, published values; selection; the laws of the mask."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import wasserstein_distance

from each import each
from laws.laws import LAWS, SLOTS, Case, Outcome, cases
from setflow.physics import (
    METRICS,
    d2,
    distances,
    energy_flow_polynomials,
    hardest_first,
    samples,
    tau32,
    w1_estimates,
)
from setflow.physics.metrics import Observables, observables

F64 = torch.float64
NAMES = [metric.name for metric in METRICS]


def jets(n=200, slots=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    angles = 0.2 * torch.randn(n, slots, 2, generator=generator, dtype=F64)
    pt = 0.02 + torch.rand(n, slots, 1, generator=generator, dtype=F64)
    mask = torch.rand(n, slots, generator=generator) < 0.8
    return torch.cat([angles, pt], -1), mask


def test_a_sample_holds_what_the_functions_give():
    x, mask = jets(24)
    sample = observables(x.reshape(4, 6, 8, 3), mask.reshape(4, 6, 8))
    assert len(sample) == 24
    assert torch.equal(sample.x, hardest_first(x, mask)[0])
    for name, expected in (
        ("tau32", tau32(x, mask)),
        ("d2", d2(x, mask)),
        ("efp_16", energy_flow_polynomials(x, mask)[:, 16]),
        ("tau21", sample.tau21),
    ):
        torch.testing.assert_close(sample.column(name)[0], expected)
    chosen = torch.tensor([5, 2, 11])
    part, expected = sample.select(chosen), observables(x[chosen], mask[chosen])
    for name in ("tau32", "d2", "efp_35", "mass"):
        torch.testing.assert_close(part.column(name)[0], expected.column(name)[0])
    torch.testing.assert_close(part.x[part.mask], expected.x[expected.mask])
    for wrong in ("efp_36", "colour"):
        with pytest.raises(ValueError, match=f"no observable '{wrong}'"):
            sample.column(wrong)


def test_every_value_is_the_w1_of_its_observables():
    a, b = (observables(*jets(n, seed=n)) for n in (150, 200))
    found = w1_estimates(a, b, draws=2)
    assert list(found) == NAMES
    for metric in METRICS:
        parts = [wasserstein_distance(a.column(p)[0], b.column(p)[0]) for p in metric.parts]
        assert math.isclose(found[metric.name].value, sum(parts) / len(parts), rel_tol=1e-10)
    others = distances(a, b)
    for name in others.keys() & found.keys():
        assert math.isclose(found[name].value, others[name], rel_tol=1e-10)
    assert {value.value for value in w1_estimates(a, a, draws=2).values()} == {0.0}


def test_a_shift_moves_its_metric_by_that_much():
    x, mask = jets()
    moved = x.clone()
    moved[..., 1] += 0.25
    found = w1_estimates(observables(x, mask), observables(moved, mask), draws=5)
    assert math.isclose(found["w1p"].value, 0.25 / 3, rel_tol=1e-10)
    assert 0 < found["w1p"].error < 0.02
    for name in ("w1m", "w1efp", "w1_pt", "w1_tau32", "w1_d2"):
        assert found[name].value < 1e-10


def test_weights_count_as_repeated_jets_do():
    x, mask = jets(60)
    other = observables(*jets(90, seed=4))
    weight = torch.randint(1, 4, (60,), generator=torch.Generator().manual_seed(1))
    repeated = observables(x.repeat_interleave(weight, 0), mask.repeat_interleave(weight, 0))
    weighted = w1_estimates(observables(x, mask, weight), other, draws=2)
    for name, expected in w1_estimates(repeated, other, draws=2).items():
        assert math.isclose(weighted[name].value, expected.value, rel_tol=1e-10)


def test_the_error_is_the_scatter_of_the_value():
    """Between independent samples, over 20 pairs of them."""
    found = [
        w1_estimates(observables(*jets(300, seed=2 * k)), observables(*jets(300, seed=2 * k + 1)))
        for k in range(20)
    ]
    for name in ("w1m", "w1_pt", "w1efp"):
        values = torch.tensor([estimates[name].value for estimates in found])
        errors = torch.tensor([estimates[name].error for estimates in found])
        assert 0.5 < errors.mean() / values.std() < 2


def test_draws_give_the_published_values(published):
    """Batches, mean and spread: the package draws by the same generator from the same jets."""
    for name in ("same", "wide"):
        kept = published.values[name]
        found = w1_estimates(published.real, getattr(published, name), "jetnet", size=5000)
        assert found["w1m"].value == pytest.approx(kept["w1m"][0], rel=1e-6)
        assert found["w1m"].error == pytest.approx(kept["w1m"][1], rel=1e-5)
        for metric in ("w1p", "w1efp"):
            mean = sum(kept[metric][0]) / len(kept[metric][0])
            assert found[metric].value == pytest.approx(mean, rel=1e-9)
        # repeated jets add to a distance
        whole = w1_estimates(published.real, getattr(published, name), draws=2)
        assert name == "wide" or whole["w1m"].value < found["w1m"].value


def test_what_is_not_defined_is_refused():
    x, mask = jets(20)
    sample, empty = observables(x, mask), observables(x, torch.zeros_like(mask))
    with pytest.raises(ValueError, match="no protocol 'half', expected one of: whole, jetnet"):
        w1_estimates(sample, sample, "half")
    with pytest.raises(ValueError, match="draws=1"):
        w1_estimates(sample, sample, draws=1)
    with pytest.raises(ValueError, match=r"W1 of etarel .* are there jets, and particles"):
        w1_estimates(sample, empty)
    x[3, :, 0], mask[3] = float("nan"), True
    with pytest.raises(ValueError, match="not finite in 1 of 20 jets"):
        observables(x, mask)


# --- the laws ---


def sample_of(case: Case) -> Observables:
    x = case.x.double() * torch.tensor([0.4, 0.4, 1.0], dtype=F64)
    return observables(torch.cat([x[..., :2], x[..., 2:].abs()], -1), case.mask)


def numbers(case: Case) -> Outcome:
    sample = sample_of(case)
    x, mask = hardest_first(sample.x, sample.mask, SLOTS)
    values = {"x": x, "mask": mask.double(), "efps": sample.efps, "tau32": sample.tau32}
    return Outcome(gradients=values | {"d2": sample.d2})


def estimates(case: Case) -> Outcome:
    if case.mask is not None and not case.mask.any():
        return Outcome()
    found = w1_estimates(sample_of(case), observables(*jets(30)), "jetnet", draws=2, size=300)
    return Outcome(gradients={name: torch.tensor(v.value, dtype=F64) for name, v in found.items()})


@each("law", ["content", "length", "order", "agreement", "emptiness"])
@each("subject", [numbers, estimates])
def test_samples_keep_the_law(law, subject):
    for lead, case in cases():
        if law != "emptiness" or lead != "lead0":
            LAWS[law](subject, case)


@pytest.mark.parametrize("jets", [1, 4, 8, 9])
def test_particles_are_taken_in_the_order_of_their_jets(jets, monkeypatch):
    monkeypatch.setattr(samples, "_BLOCK", 4)
    generator = torch.Generator().manual_seed(jets)
    x = torch.rand(jets, 6, 3, generator=generator)
    mask = torch.rand(jets, 6, generator=generator) < 0.5
    mask[0, 0] = True
    sample = observables(x, mask)
    for k, name in enumerate(samples.PARTICLE_OBSERVABLES):
        values, jet = sample.column(name)
        assert torch.equal(values, sample.x[..., k][sample.mask])
        assert torch.equal(jet, sample.mask.nonzero()[:, 0])
