"""Distances of known value, the floor and its scaling, what the controls keep and destroy."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from each import each
from laws.laws import LAWS, SLOTS, Case, Outcome, cases
from setflow.physics import (
    JET_OBSERVABLES,
    METRICS,
    PARTICLE_OBSERVABLES,
    W1EFP_GRAPHS,
    Observables,
    distances,
    hardest_first,
    jet_mass,
    shuffle_particles,
    swap_ptrel,
    truth_floor,
    w1,
)
from setflow.physics.metrics import observables

F64 = torch.float64
NAMES = [metric.name for metric in METRICS]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def jets(n=400, slots=12, seed=0, *, correlated=True):
    """Jets whose particles share a width, and are the harder the wider it is, if correlated."""
    generator = seeded(seed)
    mask = torch.rand(n, slots, generator=generator) < 0.8
    mask[0], mask[1] = False, True
    angles = torch.randn(n, slots, 2, generator=generator, dtype=F64)
    pt = 0.02 + torch.rand(n, slots, 1, generator=generator, dtype=F64) ** 3
    common = torch.rand(n, 1, 1, generator=generator, dtype=F64)
    if not correlated:
        common = torch.rand(n, slots, 1, generator=generator, dtype=F64)
    return torch.cat([0.05 + 0.4 * common * angles, (0.1 + common) * pt], -1), mask


# --- W1 ---


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (50, 50), (50, 31), (400, 3)])
def test_w1_is_that_of_scipy(n, m):
    a = torch.randn(n, generator=seeded(n), dtype=F64)
    b = 0.3 + 2 * torch.randn(m, generator=seeded(m), dtype=F64)
    for x, y in ((a, b), (a.round(), b.round())):  # with ties and without
        assert math.isclose(w1(x, y), wasserstein_distance(x, y), rel_tol=1e-12, abs_tol=1e-15)
        assert math.isclose(w1(x, y), w1(y, x), rel_tol=1e-12)


def test_w1_of_known_samples():
    a = torch.rand(1000, generator=seeded(0), dtype=F64)
    assert w1(a, a.flip(0)) == 0.0
    assert math.isclose(w1(a, a + 0.25), 0.25, rel_tol=1e-12)
    assert math.isclose(w1(torch.tensor([0.0]), torch.tensor([-1.0, 5.0])), 3.0)
    assert math.isclose(w1(a, 3 * a), 2 * a.mean().item(), rel_tol=1e-12)
    assert math.isclose(w1(a.float(), a.float() + 1), 1.0, rel_tol=1e-6)


def test_w1_without_values_is_refused():
    with pytest.raises(ValueError, match="0 and 3 values is not defined"):
        w1(torch.zeros(0), torch.zeros(3))


# --- observables and distances ---


def test_metrics_stand_in_the_order_of_the_report_and_have_known_parts():
    assert NAMES[:2] == ["w1m", "w1p"]
    assert len(set(NAMES)) == len(NAMES)
    efps = {f"efp_{graph}" for graph in W1EFP_GRAPHS}
    known = {*JET_OBSERVABLES, *PARTICLE_OBSERVABLES, *efps}
    assert {part for metric in METRICS for part in metric.parts} == known
    sample = observables(*jets(50))
    assert list(distances(sample, sample)) == NAMES
    assert set(distances(sample, sample).values()) == {0.0}


def test_every_value_of_the_report_is_a_w1_of_an_observable():
    a, b = (observables(*jets(n, seed=n)) for n in (200, 150))
    values = distances(a, b)
    for metric in METRICS:
        parts = [wasserstein_distance(a.column(p)[0], b.column(p)[0]) for p in metric.parts]
        assert math.isclose(values[metric.name], sum(parts) / len(parts), rel_tol=1e-10)
    names = ("w1p_etarel", "w1p_phirel", "w1p_ptrel")
    assert math.isclose(values["w1p"], sum(values[name] for name in names) / 3)


def test_a_shift_of_one_feature_moves_its_metric_by_that_much():
    x, mask = jets(100)
    moved = x.clone()
    moved[..., 0] += 0.125
    values = distances(observables(x, mask), observables(moved, mask))
    assert math.isclose(values["w1p_etarel"], 0.125, rel_tol=1e-10)
    assert math.isclose(values["w1p"], 0.125 / 3, rel_tol=1e-10)
    for name in ("w1m", "w1p_phirel", "w1_tau21", "w1efp", "w1_pt"):
        assert values[name] < 1e-10


def test_observables_of_a_subset_are_those_of_its_jets():
    x, mask = jets(60)
    chosen = torch.randperm(60, generator=seeded(3))[:25]
    got, expected = observables(x, mask).select(chosen), observables(x[chosen], mask[chosen])
    for name in JET_OBSERVABLES:
        torch.testing.assert_close(got.column(name)[0], expected.column(name)[0])
    for name in PARTICLE_OBSERVABLES:
        (mine, of_mine), (theirs, of_theirs) = got.column(name), expected.column(name)
        assert torch.equal(mine, theirs)
        assert torch.equal(of_mine, of_theirs)
        assert torch.equal(of_mine.bincount(minlength=25), mask[chosen].sum(-1))
    assert max(distances(got, expected).values()) < 1e-12


def test_any_batch_shape_counts_as_jets():
    x, mask = jets(24)
    expected = observables(x, mask)
    for shape in ((24,), (4, 6), (2, 3, 4)):
        got = observables(x.reshape(*shape, 12, 3), mask.reshape(*shape, 12))
        for field in dataclasses.fields(Observables):
            mine, theirs = getattr(got, field.name), getattr(expected, field.name)
            assert mine is theirs or torch.equal(mine, theirs)
    one = observables(x[3], mask[3])
    assert len(one) == 1
    with pytest.raises(ValueError, match="no observable 'colour', expected one of: mass"):
        one.column("colour")


def test_undefined_comparisons_are_refused():
    x, mask = jets(20)
    sample = observables(x, mask)
    with pytest.raises(ValueError, match="no jet"):
        observables(x[:0], mask[:0])
    empty = observables(x, torch.zeros_like(mask))
    for a, b in ((sample, empty), (empty, sample)):
        with pytest.raises(ValueError, match=r"W1 of etarel .* are there jets, and particles"):
            distances(a, b)
    x[7, 2, 1], mask[7, 2] = float("nan"), True
    with pytest.raises(ValueError, match=r"phirel is not finite in 1 of 20 jets, the first .* 7"):
        observables(x, mask)


# --- the floor ---


def synthetic(n, seed, particles=3):
    """Observables drawn directly: the floor needs nothing else."""
    generator = seeded(seed)
    values = torch.randn(n, len(JET_OBSERVABLES), generator=generator, dtype=F64).unbind(-1)
    counts = torch.randint(1, 2 * particles, (n,), generator=generator)
    mask = torch.arange(2 * particles) < counts[:, None]
    x = torch.full((*mask.shape, 3), math.nan, dtype=F64)
    x[mask] = torch.randn(int(counts.sum()), 3, generator=generator, dtype=F64)
    per_jet = dict(zip(JET_OBSERVABLES, values, strict=True))
    efps = torch.randn(n, 36, generator=generator, dtype=F64)
    return Observables(**per_jet, efps=efps, x=x, mask=mask)


def test_jets_in_place_of_their_observables_are_told():
    x = torch.rand(5, 4, 3)
    measured = observables(x)
    told = r"got a Tensor of shape \(5, 4, 3\), expected the observables .*observables\(x, mask\)"
    for use in (
        lambda: distances(x, measured),
        lambda: distances(measured, x),
        lambda: truth_floor(x, 2, 2, generator=torch.Generator()),
    ):
        with pytest.raises(TypeError, match=told):
            use()


def test_the_floor_has_the_exact_sizes_when_the_reference_suffices():
    floor = truth_floor(synthetic(1000, 0), 300, 700, pairs=5, generator=seeded(1))
    assert (floor.sizes, floor.scaled, floor.factor) == ((300, 700), False, 1.0)
    assert list(floor.mean) == list(floor.spread) == NAMES
    assert all(value > 0 for value in (floor.mean | floor.spread).values())


def test_the_floor_of_a_small_reference_is_scaled_and_says_so():
    floor = truth_floor(synthetic(1001, 0), 300, 900, pairs=5, generator=seeded(1))
    assert (floor.sizes, floor.scaled) == ((500, 500), True)
    assert math.isclose(floor.factor, math.sqrt((1 / 300 + 1 / 900) / (2 / 500)))
    even = truth_floor(synthetic(1000, 0), 600, 900, pairs=2, generator=seeded(1))
    assert math.isclose(even.factor, math.sqrt((1 / 600 + 1 / 900) / (4 / 1000)))


def test_the_floor_is_what_its_generator_says():
    sample = synthetic(500, 0)
    one, same, other = (
        truth_floor(sample, 200, 200, pairs=4, generator=seeded(seed)) for seed in (1, 1, 2)
    )
    assert one == same
    assert one.mean["w1m"] != other.mean["w1m"]


def test_the_pairs_of_the_floor_are_disjoint_and_their_distances_right():
    """Against drawing the same jets and calling `distances`."""
    sample, generator = synthetic(120, 0), seeded(9)
    floor = truth_floor(sample, 40, 60, pairs=3, generator=seeded(9))
    draws = []
    for _ in range(3):
        drawn = torch.randperm(120, generator=generator)
        draws.append(distances(sample.select(drawn[:40]), sample.select(drawn[40:100])))
    for name in NAMES:
        values = torch.tensor([draw[name] for draw in draws], dtype=F64)
        assert math.isclose(floor.mean[name], values.mean(), rel_tol=1e-10)
        assert math.isclose(floor.spread[name], values.std(), rel_tol=1e-10)


@pytest.mark.parametrize(("n_gen", "n_ref"), [(400, 400), (300, 1500)])
def test_scaled_halves_give_the_floor_at_the_exact_sizes(n_gen, n_ref):
    """Means over many references: equal within 8%, where without scaling a quarter is missing."""
    total = 500
    assert total < n_gen + n_ref
    exact, scaled, raw = [], [], []
    for seed in range(100):
        full = synthetic(n_gen + n_ref, seed)
        exact.append(truth_floor(full, n_gen, n_ref, pairs=6, generator=seeded(seed)).mean)
        small = full.select(torch.arange(total))
        floor = truth_floor(small, n_gen, n_ref, pairs=6, generator=seeded(seed))
        scaled.append(floor.mean)
        raw.append({name: value / floor.factor for name, value in floor.mean.items()})

    def means(rows):
        return torch.tensor([[row[name] for name in NAMES] for row in rows], dtype=F64).mean(0)

    assert (means(scaled) / means(exact) - 1).abs().max() < 0.08
    assert (means(raw) / means(exact) - 1).abs().min() > 0.15


def test_a_sample_of_the_same_truth_lies_at_the_floor_and_another_above():
    reference = observables(*jets(2000, seed=1))
    floor = truth_floor(reference, 1000, 1000, generator=seeded(0))
    part = reference.select(torch.arange(1000))
    same = distances(observables(*jets(1000, seed=2)), part)
    other = distances(observables(*jets(1000, seed=2, correlated=False)), part)
    for name in NAMES:
        assert abs(same[name] - floor.mean[name]) < 6 * floor.spread[name]
    assert other["w1m"] > floor.mean["w1m"] + 6 * floor.spread["w1m"]


@pytest.mark.parametrize(
    ("n", "n_gen", "n_ref", "pairs", "match"),
    [
        (10, 0, 5, 20, "n_gen=0"),
        (10, 5, 0, 20, "n_ref=0"),
        (10, 5, 5, 1, "pairs=1"),
        (1, 5, 5, 20, "has 1 jets"),
    ],
)
def test_an_undefined_floor_is_refused(n, n_gen, n_ref, pairs, match):
    with pytest.raises(ValueError, match=match):
        truth_floor(synthetic(n, 0), n_gen, n_ref, pairs=pairs, generator=seeded(0))


def test_a_floor_without_particles_is_refused():
    x, mask = jets(8)
    with pytest.raises(ValueError, match="the floor of W1 of etarel"):
        truth_floor(observables(x, torch.zeros_like(mask)), 4, 4, pairs=2, generator=seeded(0))


# --- the controls ---

CONTROLS = {"shuffled": shuffle_particles, "swapped": swap_ptrel}


@pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)
def test_controls_keep_multiplicities_and_the_spectra_of_each_rank(control):
    x, mask = jets()
    sorted_x, sorted_mask = hardest_first(x, mask)
    got_x, got_mask = control(x, mask, seeded(0))
    assert torch.equal(got_mask, sorted_mask)
    for rank in range(x.shape[1]):
        for k in range(3):
            before, after = (side[sorted_mask[:, rank], rank, k] for side in (sorted_x, got_x))
            assert torch.equal(before.sort().values, after.sort().values)
    values = distances(observables(got_x, got_mask), observables(x, mask))
    for name in ("w1p", "w1p_etarel", "w1p_phirel", "w1p_ptrel", "w1_multiplicity"):
        assert values[name] == 0.0


@pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)
def test_controls_destroy_correlations(control):
    x, mask = jets(2000)
    reference = observables(x, mask)
    floor = truth_floor(reference, 1000, 1000, generator=seeded(0))
    values = distances(observables(*control(x, mask, seeded(0))), reference)
    assert values["w1m"] > floor.mean["w1m"] + 5 * floor.spread["w1m"]


def test_shuffling_moves_whole_particles():
    x, mask = jets()
    sorted_x, sorted_mask = hardest_first(x, mask)
    got, _ = shuffle_particles(x, mask, seeded(0))
    for rank in range(x.shape[1]):
        rows = [side[sorted_mask[:, rank], rank].tolist() for side in (sorted_x, got)]
        assert sorted(rows[0]) == sorted(rows[1])
    stayed = (got == sorted_x).all(-1)[sorted_mask].double().mean()
    assert stayed < 0.05


def test_swapping_keeps_directions_and_moves_whole_lists_between_equals():
    x, mask = jets()
    sorted_x, sorted_mask = hardest_first(x, mask)
    got, _ = swap_ptrel(x, mask, seeded(0))
    assert torch.equal(got[..., :2], sorted_x[..., :2])
    counts = sorted_mask.sum(-1)
    for count in counts.unique():
        group = (counts == count).nonzero()[:, 0]
        before, after = ([sorted_x[jet, :, 2].tolist() for jet in group], got[group, :, 2].tolist())
        assert sorted(before) == sorted(after)
        moved = [a != b for a, b in zip(before, after, strict=True)]
        assert all(moved) if len(group) > 1 and count > 0 else not any(moved)


def test_a_jet_alone_in_its_multiplicity_keeps_its_list():
    x, _ = jets(3, slots=4)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
    got, got_mask = swap_ptrel(x, mask, seeded(0))
    assert torch.equal(got, hardest_first(x, mask)[0])
    assert torch.equal(got_mask, mask)


@pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)
def test_controls_leave_their_input_alone_and_obey_their_generator(control):
    x, mask = jets()
    before = x.clone()
    one, same, other = (control(x, mask, seeded(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(x, before)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    shaped, shaped_mask = control(x.reshape(20, 20, 12, 3), mask.reshape(20, 20, 12), seeded(1))
    assert torch.equal(shaped.flatten(0, 1), one)
    assert shaped_mask.shape == (20, 20, 12)


# --- the laws, for what belongs to a whole sample ---


def sample_of(case: Case):
    x = case.x.double() * torch.tensor([0.4, 0.4, 1.0], dtype=F64)
    return torch.cat([x[..., :2], x[..., 2:].abs()], -1), case.mask


def distances_subject(case: Case) -> Outcome:
    x, mask = sample_of(case)
    if mask is not None and not mask.any():
        return Outcome()
    values = distances(observables(x, mask), observables(*jets(30)))
    return Outcome(gradients={name: torch.tensor(v, dtype=F64) for name, v in values.items()})


def floor_subject(case: Case) -> Outcome:
    x, mask = sample_of(case)
    if x.ndim < 3 or (mask is not None and not mask.any()):
        return Outcome()
    mask = None if mask is None else torch.cat([mask] * 3)
    sample = observables(torch.cat([x] * 3), mask)
    floor = truth_floor(sample, 8, 8, pairs=3, generator=seeded(2))
    return Outcome(gradients={n: torch.tensor(v, dtype=F64) for n, v in floor.mean.items()})


def control_subject(control):
    def subject(case: Case) -> Outcome:
        x, mask = control(*sample_of(case), seeded(4))
        assert x.shape == case.x.shape
        x, mask = hardest_first(x, mask, SLOTS)
        return Outcome(gradients={"x": x, "mask": mask.double()})

    return subject


SUBJECTS = {
    "distances": distances_subject,
    "floor": floor_subject,
    **{name: control_subject(control) for name, control in CONTROLS.items()},
}


@each("law", ["content", "length", "order", "agreement", "emptiness"])
@pytest.mark.parametrize("name", SUBJECTS)
def test_metrics_floor_and_controls_keep_the_law(name, law):
    for lead, case in cases():
        if law != "emptiness" or lead != "lead0":
            LAWS[law](SUBJECTS[name], case)


def pooled_without_mask(case: Case) -> Outcome:
    x, _ = sample_of(case)
    return Outcome(gradients={"w1": torch.tensor(w1(x[..., 0].flatten(), torch.zeros(3)))})


def shuffled_without_ranks(case: Case) -> Outcome:
    x, mask = sample_of(case)
    flat = torch.where(mask[..., None], x, 0.0).flatten(0, -3)
    order = torch.randperm(len(flat), generator=seeded(0))
    return Outcome(gradients={"mass": jet_mass(flat[order].roll(1, -2), mask.flatten(0, -2))})


@pytest.mark.parametrize(
    ("law", "saboteur"),
    [
        ("content", pooled_without_mask),
        ("length", pooled_without_mask),
        ("order", shuffled_without_ranks),
    ],
)
def test_a_saboteur_is_caught(law, saboteur):
    case = dict(cases())["lead1"]
    with pytest.raises(AssertionError):
        LAWS[law](saboteur, case)


# --- weights ---


def test_a_weighted_w1_is_that_of_scipy():
    generator = seeded(5)
    for n, m in ((1, 1), (7, 3), (200, 150)):
        a, b = torch.randn(n, generator=generator), 0.3 + torch.randn(m, generator=generator)
        a[: n // 2], b[: m // 2] = a[: n // 2].round(), b[: m // 2].round()  # some coincide
        u, v = (torch.rand(k, generator=generator, dtype=F64) + 0.01 for k in (n, m))
        for one, other in ((u, v), (u, None), (None, v)):
            expected = wasserstein_distance(a.double(), b.double(), one, other)
            assert w1(a, b, one, other) == pytest.approx(expected, rel=1e-12, abs=1e-14)
        repeated = torch.randint(1, 5, (n,), generator=generator)
        assert w1(a, b, repeated) == pytest.approx(w1(a.repeat_interleave(repeated), b), rel=1e-12)
        assert w1(a, b, 7 * u, v / 3) == pytest.approx(w1(a, b, u, v), rel=1e-12)


def test_a_w1_of_negative_weights_is_the_largest_difference_of_means():
    """By linear programming: the supremum over functions whose slope is at most 1."""
    from scipy.optimize import linprog

    generator = seeded(6)
    for _ in range(5):
        x = torch.randn(9, generator=generator, dtype=F64).sort().values
        u, v = (torch.randn(9, generator=generator, dtype=F64) + 1 for _ in range(2))
        u, v = u / u.sum(), v / v.sum()
        assert (u < 0).any() or (v < 0).any()
        slopes = np.eye(9)[1:] - np.eye(9)[:-1]
        limits = np.concatenate([x.diff(), x.diff()])
        bounds = [(0, 0)] + 8 * [(None, None)]
        gain, steps = (v - u).numpy(), np.concatenate([slopes, -slopes])
        found = linprog(gain, A_ub=steps, b_ub=limits, bounds=bounds)
        assert w1(x, x, u, v) == pytest.approx(-found.fun, rel=1e-9)
    cancelling = [1.0, 1.0, 1.0, -1.0], [1.0, 2.0, 5.0, 5.0]
    assert w1(cancelling[1], [1.0, 2.0], weight_a=cancelling[0]) == pytest.approx(0, abs=1e-15)


@each(
    ("weight", "message"),
    [
        ([1.0, -1.0], "weights of a sum to 0, expected a positive sum: 1 of 2 weights is negative"),
        ([-1.0, -1.0], "2 of 2 weights are negative"),
        ([1.0], r"weight has shape \(1,\), expected \(2,\)"),
        ([1.0, math.nan], "1 of 2 weights are NaN"),
    ],
)
def test_weights_without_a_distance(weight, message):
    with pytest.raises(ValueError, match=message):
        w1([0.0, 1.0], [1.0], weight_a=weight)
    x, mask = jets(2)
    with pytest.raises(ValueError, match=message.replace("weights of a", "weights of the jets")):
        observables(x, mask, weight)


def test_distances_of_weighted_jets_are_those_of_repeated_jets():
    (x, mask), (y, real) = jets(60), jets(50, seed=1)
    times = torch.randint(1, 4, (60,), generator=seeded(1))
    weighted = observables(x, mask, 0.1 * times)
    many = observables(*(part.repeat_interleave(times, dim=0) for part in (x, mask)))
    truth = observables(y, real)
    for one, other in ((weighted, truth), (truth, weighted)):
        got = distances(one, other)
        expected = distances(*(many if side is weighted else side for side in (one, other)))
        assert got == pytest.approx(expected, rel=1e-10)
    assert max(distances(weighted, many).values()) < 1e-12
    assert weighted.effective == pytest.approx(float(times.sum() ** 2 / (times**2).sum()))
    assert torch.equal(weighted.select(torch.tensor([3, 1])).weight, 0.1 * times[[3, 1]].double())


def test_the_floor_of_weights_of_one_is_that_without():
    x, mask = jets(90)
    plain, ones = observables(x, mask), observables(x, mask, torch.ones(90))
    for sizes in ((30, 40), (80, 60)):
        got, expected = (
            truth_floor(side, *sizes, pairs=3, generator=seeded(0)) for side in (ones, plain)
        )
        assert (got.sizes, got.scaled) == (expected.sizes, expected.scaled)
        assert got.factor == pytest.approx(expected.factor)
        assert got.mean == pytest.approx(expected.mean, rel=1e-9)


def test_the_floor_of_weighted_jets_has_parts_of_the_worth_that_is_compared():
    n = 4000
    weight = torch.where(torch.arange(n) % 10 == 0, 10.0, 1.0)
    reference = dataclasses.replace(synthetic(n, 1), weight=weight.double())
    worth = reference.effective / n
    assert worth < 0.4
    floor = truth_floor(reference, 200.0, 300.0, pairs=40, generator=seeded(0))
    assert floor.sizes == (round(200 / worth), round(300 / worth))
    assert not floor.scaled
    plain = truth_floor(synthetic(n, 1), 200, 300, pairs=40, generator=seeded(0))
    for name in ("w1m", "w1_pt"):  # the same truth, scattering as much
        assert floor.mean[name] == pytest.approx(plain.mean[name], rel=0.3)
    small = truth_floor(reference, 900.0, 800.0, pairs=3, generator=seeded(0))
    assert small.scaled
    assert small.sizes == (2000, 2000)
    assert small.factor == pytest.approx(math.sqrt((1 / 900 + 1 / 800) / (2 / (2000 * worth))))
