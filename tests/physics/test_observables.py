"""Substructure against loops in pure Python and against fastjet; the laws over every observable."""

from __future__ import annotations

import functools
import itertools
import math
import sys

import pytest
import torch

from each import each
from laws.laws import LAWS, SLOTS, Case, Outcome, cases
from setflow.physics import (
    energy_flow_polynomial,
    hardest_first,
    jet_eta,
    jet_features,
    jet_four_momentum,
    jet_mass,
    jet_pt,
    multiplicity,
    tau21,
    tau32,
)

F64 = torch.float64


def jets(n=24, slots=10, seed=0, phi=0.0, spread=0.4):
    generator = torch.Generator().manual_seed(seed)
    angles = spread * torch.randn(n, slots, 2, generator=generator, dtype=F64)
    angles[..., 1] = torch.remainder(angles[..., 1] + phi + math.pi, 2 * math.pi) - math.pi
    pt = 0.01 + torch.rand(n, slots, 1, generator=generator, dtype=F64) ** 3
    mask = torch.rand(n, slots, generator=generator) < 0.7
    mask[0], mask[1], mask[2, 0] = False, True, False
    return torch.cat([angles, pt], -1), mask


# --- in pure Python ---


def distance(a, b):
    wrapped = abs(a[1] - b[1]) % (2 * math.pi)
    return math.hypot(a[0] - b[0], min(wrapped, 2 * math.pi - wrapped))


def exclusive_subjets(particles, n):
    """Merge the pair with the smallest kT distance until n are left; the harder one leads."""
    clusters = [list(particle) for particle in particles]
    while len(clusters) > n:
        i, j = min(
            itertools.combinations(range(len(clusters)), 2),
            key=lambda ij: (
                min(clusters[ij[0]][2], clusters[ij[1]][2])
                * distance(clusters[ij[0]], clusters[ij[1]])
            ),
        )
        hard, soft = sorted((clusters[i], clusters[j]), key=lambda c: -c[2])
        merged = [hard[0], hard[1], hard[2] + soft[2]]
        clusters = [c for k, c in enumerate(clusters) if k not in (i, j)] + [merged]
    return clusters


def tau(particles, axes):
    return sum(p[2] * min(distance(p, axis) for axis in axes) for p in particles)


def tau21_by_loops(particles):
    if len(particles) < 3:
        return 0.0
    one, two = (exclusive_subjets(particles, n) for n in (1, 2))
    return tau(particles, two) / tau(particles, one)


def tau32_by_loops(particles):
    if len(particles) < 4:
        return 0.0
    two, three = (exclusive_subjets(particles, n) for n in (2, 3))
    return tau(particles, three) / tau(particles, two)


def efp_by_loops(particles):
    total = 0.0
    for i, j, k, m in itertools.product(particles, repeat=4):
        z = i[2] * j[2] * k[2] * m[2]
        total += z * distance(i, j) * distance(j, k) * distance(k, m) * distance(m, i)
    return total


@pytest.mark.parametrize("phi", [0.0, math.pi], ids=["centred", "wrapping"])
@pytest.mark.parametrize("spread", [0.1, 0.4, 2.0])
def test_ratios_of_subjettiness_are_those_of_loops(phi, spread):
    x, mask = jets(slots=12, phi=phi, spread=spread)
    mask[3] = torch.arange(12) < 3
    for ratio, by_loops in ((tau21, tau21_by_loops), (tau32, tau32_by_loops)):
        got = ratio(x, mask)
        for jet in range(len(x)):
            expected = by_loops(x[jet][mask[jet]].tolist())
            assert math.isclose(got[jet], expected, rel_tol=1e-10, abs_tol=1e-12)


@pytest.mark.parametrize("phi", [0.0, math.pi], ids=["centred", "wrapping"])
def test_the_efp_is_that_of_four_loops(phi):
    x, mask = jets(n=12, slots=6, phi=phi)
    x[5, :, 2] *= -1  # a polynomial, whatever a generator makes
    got = energy_flow_polynomial(x, mask)
    for jet in range(len(x)):
        expected = efp_by_loops(x[jet][mask[jet]].tolist())
        assert math.isclose(got[jet], expected, rel_tol=1e-10, abs_tol=1e-14)


def test_tau21_is_that_of_fastjet():
    fastjet = pytest.importorskip("fastjet", reason="fastjet is an extra; loops check the same")
    definition = fastjet.JetDefinition(
        fastjet.kt_algorithm, fastjet.JetDefinition.max_allowable_R, fastjet.WTA_pt_scheme
    )
    x, mask = jets(n=40, slots=40, phi=2.0, seed=4)
    got = tau21(x, mask)
    for jet in range(len(x)):
        particles = x[jet][mask[jet]].tolist()
        if len(particles) < 3:
            continue
        inputs = [
            fastjet.PseudoJet(
                pt * math.cos(phi), pt * math.sin(phi), pt * math.sinh(eta), pt * math.cosh(eta)
            )
            for eta, phi, pt in particles
        ]
        sequence = fastjet.ClusterSequence(inputs, definition)
        one, two = (
            [[axis.eta(), axis.phi(), axis.pt()] for axis in sequence.exclusive_jets(n)]
            for n in (1, 2)
        )
        expected = tau(particles, two) / tau(particles, one)
        assert math.isclose(got[jet], expected, rel_tol=1e-6)


def test_prongs_are_seen():
    """Sprays around 1, 2 and 3 directions: only two axes describe two of them so well."""
    generator = torch.Generator().manual_seed(1)
    n, slots = 200, 30
    centres = torch.tensor([[-0.3, 0.0], [0.3, 0.1], [0.0, 0.4]], dtype=F64)
    medians = []
    for prongs in (1, 2, 3):
        spray = 0.02 * torch.randn(n, slots, 2, generator=generator, dtype=F64)
        angles = spray + centres[torch.arange(slots) % prongs]
        pt = torch.rand(n, slots, 1, generator=generator, dtype=F64)
        medians.append(tau21(torch.cat([angles, pt], -1)).median().item())
    one, two, three = medians
    assert two < 0.2 < min(one, three)
    assert max(medians) < 1


def test_tau32_sees_three_prongs():
    """Sprays around 2, 3 and 4 directions: only three axes describe three of them so well."""
    generator = torch.Generator().manual_seed(1)
    n, slots = 200, 30
    centres = torch.tensor([[-0.3, 0.0], [0.3, 0.1], [0.0, 0.4], [0.1, -0.4]], dtype=F64)
    medians = []
    for prongs in (2, 3, 4):
        spray = 0.02 * torch.randn(n, slots, 2, generator=generator, dtype=F64)
        angles = spray + centres[torch.arange(slots) % prongs]
        pt = torch.rand(n, slots, 1, generator=generator, dtype=F64)
        medians.append(tau32(torch.cat([angles, pt], -1)).median().item())
    two, three, four = medians
    assert three < 0.2 < min(two, four)


@pytest.mark.parametrize("real", [0, 1, 2])
def test_few_particles_have_no_subjettiness(real):
    x, _ = jets(n=4)
    mask = torch.arange(10) < real
    assert tau21(x, mask.expand(4, 10)).tolist() == [0.0] * 4
    assert tau32(x, mask.expand(4, 10)).tolist() == [0.0] * 4


def test_degenerate_jets_are_zero_and_not_nan():
    on_one_spot = torch.tensor([[0.1, 0.2, 0.3]] * 5, dtype=F64)
    without_momentum = torch.tensor([[0.1 * k, 0.2, 0.0] for k in range(5)], dtype=F64)
    one_with = without_momentum.clone()
    one_with[2, 2] = 0.5
    for jet in (on_one_spot, without_momentum, one_with):
        assert tau21(jet).item() == 0
        assert tau32(jet).item() == 0
        assert energy_flow_polynomial(jet).item() == 0


def test_a_negative_momentum_counts_as_none_in_tau21():
    x, mask = jets()
    x[:, 3, 2] = -0.4
    zero = x.clone()
    zero[:, 3, 2] = 0.0
    assert torch.equal(tau21(x, mask), tau21(zero, mask))


def test_ties_do_not_depend_on_the_order():
    """Equal momenta on a lattice: everything ties with everything."""
    grid = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double() / 10
    x = torch.cat([grid, torch.full((16, 1), 0.1, dtype=F64)], -1)
    expected = tau21(x)
    for seed in range(10):
        order = torch.randperm(16, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(tau21(x[order]), expected)


def test_a_nan_stays_in_its_jet():
    x, mask = jets()
    mask[4] = True
    for k, value in enumerate((float("nan"), float("inf"))):
        broken = x.clone()
        broken[4, 2, k] = value
        for f in (tau21, tau32, energy_flow_polynomial, jet_mass):
            got, expected = f(broken, mask), f(x, mask)
            others = torch.arange(len(x)) != 4
            assert not got[4].isfinite()
            assert torch.equal(got[others], expected[others])


def test_many_chunks_give_what_one_gives(monkeypatch):
    x, mask = jets(n=60, slots=15)
    observables = (tau21, tau32, energy_flow_polynomial)
    expected = [f(x, mask) for f in observables]
    module = sys.modules["setflow.physics.tables"]
    monkeypatch.setattr(module, "_TABLE", 300)
    for f, value in zip(observables, expected, strict=True):
        torch.testing.assert_close(f(x, mask), value, rtol=1e-12, atol=1e-14)


def test_float32_is_computed_in_float64():
    x, mask = jets()
    x = x.float()
    for f in (multiplicity, tau21, tau32, energy_flow_polynomial):
        assert f(x, mask).dtype == torch.float32
        assert torch.equal(f(x, mask), f(x.double(), mask).float())


def test_values_carry_no_graph():
    x, mask = jets()
    assert not tau21(x.requires_grad_(), mask).requires_grad
    assert not energy_flow_polynomial(x, mask).requires_grad


# --- the laws ---

PER_JET = {
    "four-momentum": jet_four_momentum,
    "mass": jet_mass,
    "pt": jet_pt,
    "eta": jet_eta,
    "features": jet_features,
    "multiplicity": multiplicity,
    "tau21": tau21,
    "tau32": tau32,
    "efp": energy_flow_polynomial,
    "hardest first": lambda x, mask: hardest_first(x, mask, SLOTS)[0],
    "hardest first, mask": lambda x, mask: hardest_first(x, mask, SLOTS)[1].double(),
    "hardest four": lambda x, mask: hardest_first(x, mask, 4)[0],
}


def subject_of(observable):
    """Particles with positive momenta, as jets have them; garbage stays garbage."""

    def subject(case: Case) -> Outcome:
        x = case.x.double() * torch.tensor([0.4, 0.4, 1.0], dtype=F64)
        x = torch.cat([x[..., :2], x[..., 2:].abs()], -1)
        return Outcome(per_event={"value": observable(x, case.mask)})

    return subject


def cases_for(law):
    for name, case in cases():
        if law != "emptiness" or name != "lead0":  # the one jet of lead0 has particles
            yield case


@each("law", LAWS)
@each("name", PER_JET)
def test_observables_keep_the_law(name, law):
    for case in cases_for(law):
        LAWS[law](subject_of(PER_JET[name]), case)


def multiplies(x, mask, observable):
    mask = torch.ones(x.shape[:-1], dtype=torch.bool) if mask is None else mask
    return observable(x * mask[..., None], None)


def reads_first_slots(x, mask, observable):
    if mask is not None:
        mask = torch.arange(mask.shape[-1]) < mask.sum(-1, keepdim=True)
    return observable(x, mask)


def counts_slots(x, mask):
    return torch.full(x.shape[:-2], float(x.shape[-2]))


def mass_per_pt(x, mask):
    return jet_mass(x, mask) / jet_pt(x, mask)


def relative_to_the_batch(x, mask):
    return jet_mass(x, mask) / jet_mass(x, mask).max()


def first_slot_is_the_axis(x, mask):
    x, mask = hardest_first(x, mask, x.shape[-2]) if mask is None else (x, mask)
    x = torch.where(mask[..., None], x, 0.0)
    return ((x[..., :2] - x[..., :1, :2]).norm(dim=-1) * x[..., 2] * mask).sum(-1)


@pytest.mark.parametrize(
    ("law", "saboteur"),
    [
        ("content", functools.partial(multiplies, observable=jet_mass)),
        ("content", functools.partial(multiplies, observable=tau21)),
        ("content", functools.partial(reads_first_slots, observable=energy_flow_polynomial)),
        ("order", functools.partial(reads_first_slots, observable=tau21)),
        ("length", counts_slots),
        ("length", functools.partial(multiplies, observable=multiplicity)),
        ("order", first_slot_is_the_axis),
        ("emptiness", mass_per_pt),
        ("agreement", lambda x, mask: jet_mass(x[..., : 7 - (mask is None), :], mask)),
        ("company", relative_to_the_batch),
    ],
)
def test_a_saboteur_is_caught(law, saboteur):
    caught = 0
    for case in cases_for(law):
        try:
            LAWS[law](subject_of(saboteur), case)
        except AssertionError:
            caught += 1
    assert caught > 0, f"the law of {law} accepts its saboteur"
