"""Energy flow polynomials against sums over all particles and by hand; D2; the laws of the mask."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from each import each
from laws.laws import LAWS, Case, Outcome, cases
from setflow.data import read_jets
from setflow.physics import d2, energy_flow_polynomial, energy_flow_polynomials, jet_mass
from setflow.physics import tables as tables_module
from setflow.physics.efps import EFP_GRAPHS, W1EFP_GRAPHS, d2_of_efps

F64 = torch.float64
ROOT = Path(__file__).resolve().parents[2]


def jets(n=12, slots=5, seed=0, phi=0.0):
    generator = torch.Generator().manual_seed(seed)
    angles = 0.4 * torch.randn(n, slots, 2, generator=generator, dtype=F64)
    angles[..., 1] = torch.remainder(angles[..., 1] + phi + math.pi, 2 * math.pi) - math.pi
    pt = 0.01 + torch.rand(n, slots, 1, generator=generator, dtype=F64)
    mask = torch.rand(n, slots, generator=generator) < 0.7
    mask[0], mask[1], mask[2] = False, True, torch.arange(slots) == 1
    return torch.cat([angles, pt], -1), mask


def by_brute_force(particles, graph):
    """Sum over all ways to put particles on the vertices of the graph, one by one of its parts."""
    z = particles[:, 2]
    apart = np.abs(particles[:, None, :2] - particles[None, :, :2])
    apart[..., 1] = np.minimum(apart[..., 1], 2 * math.pi - apart[..., 1])
    distance = np.hypot(apart[..., 0], apart[..., 1])
    vertices = 1 + max((max(edge) for edge in graph), default=0)
    total = 0.0
    for places in itertools.product(range(len(z)), repeat=vertices):
        term = np.prod(z[list(places)])
        for a, b in graph:
            term = term * distance[places[a], places[b]]
        total += term
    return float(total)


def test_graphs_are_the_36_of_up_to_four_edges():
    assert len(EFP_GRAPHS) == len(set(EFP_GRAPHS)) == 36
    edges = [len(graph) for graph in EFP_GRAPHS]
    assert [edges.count(d) for d in range(5)] == [1, 1, 3, 8, 23]
    for graph in EFP_GRAPHS[1:]:
        assert set(itertools.chain(*graph)) == set(range(1 + max(map(max, graph))))

    def shape(graph):  # the smallest way to write the graph, whatever the vertices are called
        names = range(1 + max(map(max, graph), default=0))
        return min(
            sorted(tuple(sorted((order[a], order[b]))) for a, b in graph)
            for order in itertools.permutations(names)
        )

    small = [graph for graph in EFP_GRAPHS if len(set(itertools.chain(*graph))) < 7]
    assert len({tuple(shape(graph)) for graph in small}) == len(small)
    for number in W1EFP_GRAPHS:
        assert len(EFP_GRAPHS[number]) == 4
        assert set(itertools.chain(*EFP_GRAPHS[number])) == set(range(4))


@pytest.mark.parametrize("phi", [0.0, math.pi], ids=["centred", "wrapping"])
def test_polynomials_are_those_of_a_sum_over_particles(phi):
    x, mask = jets(n=5, slots=4, phi=phi)
    x[4, :, 2] *= -1  # a polynomial, whatever a generator makes
    got = energy_flow_polynomials(x, mask)
    for jet in range(len(x)):
        particles = x[jet][mask[jet]].numpy()
        few = particles[:2]  # seven and eight vertices: two particles tell as well
        got_few = energy_flow_polynomials(torch.tensor(few))
        for k, graph in enumerate(EFP_GRAPHS):
            vertices = 1 + max(map(max, graph), default=0)
            value, those = (got[jet, k], particles) if vertices < 7 else (got_few[k], few)
            expected = by_brute_force(those, graph)
            assert math.isclose(value, expected, rel_tol=1e-12, abs_tol=1e-15), (jet, graph)


def test_two_particles_by_hand():
    """Each edge needs both ends apart: of the vertices' 2^V ways those that 2-colour the graph."""
    jet = torch.tensor([[0.0, 0.1, 0.5], [0.3, 0.5, 0.25]], dtype=F64)  # R = 0.5
    got = energy_flow_polynomials(jet)
    for k, graph in enumerate(EFP_GRAPHS):
        vertices = 1 + max(map(max, graph), default=0)
        expected = 0.0
        for colours in itertools.product((0, 1), repeat=vertices):
            if all(colours[a] != colours[b] for a, b in graph):
                expected += math.prod((0.5, 0.25)[c] for c in colours) * 0.5 ** len(graph)
        assert math.isclose(got[k], expected, rel_tol=1e-12)
    assert got[[9, 10, 16]].tolist() == [0.0] * 3  # no triangle of two particles


def test_the_square_is_what_the_single_polynomial_gives():
    x, mask = jets(slots=20)
    got = energy_flow_polynomials(x, mask)[..., 17]
    torch.testing.assert_close(got, energy_flow_polynomial(x, mask), rtol=1e-12, atol=1e-15)


def test_polynomials_and_masses_are_those_of_the_published_packages():
    """`jetnet.utils.efps(jets, efpset_args=[("d<=", 4)])` and `jet_features(jets)["mass"]`, for the
    first jets of the shipped sample; the file of values says how they were made."""
    kept = json.loads((Path(__file__).parent / "jetnet_values.json").read_text())
    sample = read_jets(ROOT / "datasets/pythia-top/heldout.h5", stop=20, max_objects=30).particles
    x, mask = sample.x.double(), sample.mask
    expected = torch.tensor(kept["efps"], dtype=F64)
    got = energy_flow_polynomials(x, mask)[: len(expected)]
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=0)
    masses = torch.tensor(kept["masses"], dtype=F64)
    torch.testing.assert_close(jet_mass(x, mask), masses, rtol=1e-7, atol=1e-9)


def test_chunks_memory_and_dtype(monkeypatch):
    x, mask = jets(n=40, slots=15)
    expected = energy_flow_polynomials(x, mask)
    assert not energy_flow_polynomials(x.clone().requires_grad_(), mask).requires_grad
    single = x.float()
    got = energy_flow_polynomials(single, mask)
    assert got.dtype == torch.float32
    assert torch.equal(got, energy_flow_polynomials(single.double(), mask).float())
    largest = []
    table = tables_module.squared_distances

    def watched(eta, phi):
        result = table(eta, phi)
        largest.append(result.numel())
        return result

    monkeypatch.setattr("setflow.physics.efps.squared_distances", watched)
    monkeypatch.setattr(tables_module, "_TABLE", 400)
    torch.testing.assert_close(energy_flow_polynomials(x, mask), expected, rtol=1e-12, atol=1e-15)
    assert max(largest) <= 400


def test_a_nan_stays_in_its_jet():
    x, mask = jets()
    mask[4, 2] = True
    broken = x.clone()
    broken[4, 2, 0] = float("nan")
    got, expected = energy_flow_polynomials(broken, mask), energy_flow_polynomials(x, mask)
    others = torch.arange(len(x)) != 4
    assert got[4, 1:].isnan().all()
    assert torch.equal(got[others], expected[others])


def test_cuda_gives_what_the_cpu_gives(device):
    x, mask = jets(n=50, slots=20)
    got = energy_flow_polynomials(x.to(device), mask.to(device)).cpu()
    torch.testing.assert_close(got, energy_flow_polynomials(x, mask), rtol=1e-12, atol=1e-15)


# --- D2 ---


def d2_by_loops(particles):
    total = sum(p[2] for p in particles)

    def apart(a, b):
        return math.hypot(a[0] - b[0], a[1] - b[1])

    e2 = sum(a[2] * b[2] * apart(a, b) for a, b in itertools.combinations(particles, 2))
    e3 = sum(
        a[2] * b[2] * c[2] * apart(a, b) * apart(b, c) * apart(a, c)
        for a, b, c in itertools.combinations(particles, 3)
    )
    return (e3 / total**3) / (e2 / total**2) ** 3 if len(particles) > 2 else 0.0


def test_d2_is_that_of_loops():
    x, mask = jets(slots=7)
    got = d2(x, mask)
    for jet in range(len(x)):
        expected = d2_by_loops(x[jet][mask[jet]].tolist())
        assert math.isclose(got[jet], expected, rel_tol=1e-12, abs_tol=1e-15)
    torch.testing.assert_close(d2_of_efps(energy_flow_polynomials(x, mask)), got)


def test_d2_of_known_jets():
    side, z = 0.3, 0.2
    height = side * math.sqrt(3) / 2
    triangle = [[0.0, 0.0, z], [side, 0.0, z], [side / 2, height, z]]
    # e2 = 3 (1/9) s and e3 = s^3 / 27 of equal momenta, so D2 = 1 whatever the side
    assert math.isclose(d2(torch.tensor(triangle, dtype=F64)), 1.0, rel_tol=1e-12)
    on_one_spot = torch.tensor([[0.1, 0.2, 0.3]] * 5, dtype=F64)
    assert d2(on_one_spot).item() == 0
    assert d2(torch.zeros(4, 3), torch.zeros(4)).item() == 0


# --- the laws ---

SUBJECTS = {"polynomials": energy_flow_polynomials, "d2": lambda x, mask: d2(x, mask)[..., None]}


@each("law", LAWS)
@each("name", SUBJECTS)
def test_polynomials_keep_the_law(name, law):
    def subject(case: Case) -> Outcome:
        x = case.x.double() * torch.tensor([0.4, 0.4, 1.0], dtype=F64)
        x = torch.cat([x[..., :2], x[..., 2:].abs()], -1)
        values = SUBJECTS[name](x, case.mask).unbind(-1)
        return Outcome(per_event={str(k): value for k, value in enumerate(values)})

    for lead, case in cases():
        if law != "emptiness" or lead != "lead0":  # the one jet of lead0 has particles
            LAWS[law](subject, case)


def multiplies(x, mask):
    return energy_flow_polynomials(x if mask is None else x * mask[..., None], None)


def reads_first_slots(x, mask):
    if mask is not None:
        mask = torch.arange(mask.shape[-1]) < mask.sum(-1, keepdim=True)
    return energy_flow_polynomials(x, mask)


def of_the_batch(x, mask):
    efps = energy_flow_polynomials(x, mask)
    return efps / efps.abs().flatten(0, -2).amax(0).clamp(min=1e-3)


@pytest.mark.parametrize(
    ("law", "saboteur"),
    [
        ("content", multiplies),
        ("content", reads_first_slots),
        ("order", reads_first_slots),
        ("company", of_the_batch),
    ],
)
def test_a_saboteur_is_caught(law, saboteur):
    def subject(case: Case) -> Outcome:
        values = saboteur(case.x.double().abs(), case.mask).unbind(-1)
        return Outcome(per_event={str(k): value for k, value in enumerate(values)})

    with pytest.raises(AssertionError):
        LAWS[law](subject, dict(cases())["lead1"])
