"""Models of sets whose objects have types: density, samples, laws, folders."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

import setflow
from laws.laws import redraw
from setflow.fields.base import SetField
from setflow.model.statistics import SampleStatistics, statistics_of, take_statistics
from setflow.schema import Feature, ObjectTypes, Schema
from setflow.sets.context import PerObject

SCHEMA = Schema(
    [
        Feature("x", "mm"),
        Feature("kind", kind="category(lepton, jet)"),
        Feature("mass", "GeV", "positive", absent=["lepton"]),
        Feature("charge", kind="category(minus, plus)"),
    ],
    [Feature("ht", "GeV"), Feature("class", kind="category(a, b)")],
)
TYPES = 4
MOST = 5


def events(n=200, seed=0, most=MOST, weight=False):
    """Events of leptons of both charges and jets, all called minus: three of the four types."""
    g = torch.Generator().manual_seed(seed)
    x = torch.empty(n, most, 4)
    kind = torch.randint(0, 2, (n, most), generator=g)
    x[..., 0] = torch.randn(n, most, generator=g) + 5 * kind
    x[..., 1] = kind
    x[..., 2] = torch.where(kind == 1, torch.rand(n, most, generator=g) + 0.1, 0)
    x[..., 3] = torch.where(kind == 0, torch.randint(0, 2, (n, most), generator=g), 0)
    mask = torch.arange(most) < torch.randint(0, most + 1, (n, 1), generator=g)
    c = torch.stack([torch.rand(n, generator=g), torch.randint(0, 2, (n,), generator=g)], -1)
    w = torch.rand(n, generator=g) if weight else None
    return setflow.SetBatch(x, mask, c, w)


def model(conditions=(), composition=None, columns=None, fitted=True, **options):
    width = {(): 0, ("ht",): 1, ("ht", "class"): 3}[conditions]
    field = setflow.TransformerField(
        2, hidden=16, layers=1, heads=2, object_condition_dim=width + 4
    )
    flow = setflow.SetFlow(
        redraw(field),
        schema=SCHEMA,
        features=("x", "kind", "mass", "charge"),
        conditions=conditions,
        cardinality=setflow.EmpiricalComposition(TYPES, MOST)
        if composition is None
        else composition,
        **options,
    )
    if not fitted:
        return flow
    batch = events()
    c = batch.c[:, : len(conditions)] if conditions else None
    return flow.fit_statistics(setflow.SetBatch(batch.x, batch.mask, c))


def without_context(batch):
    return setflow.SetBatch(batch.x, batch.mask)


SOLVER = setflow.Midpoint(3)


# --- the law of the density ---


class Oracle(SetField):
    """The velocity whose data are independent normal numbers, of mean and width by the type."""

    def __init__(self, loc, scale, first=0):
        super().__init__(loc.shape[1], object_condition_dim=len(loc) + first)
        self.loc, self.scale, self.first = loc, scale, first

    def velocity(self, events):
        kinds = events.context.rows[..., self.first :]
        m, s = kinds @ self.loc, kinds @ self.scale
        t = events.t[:, None, None]
        y = events.x - (1 - t) * m
        return -m + (t - (1 - t) * s**2) / ((1 - t) ** 2 * s**2 + t**2) * y


LOC = torch.tensor([[0.5], [-1.0]], dtype=torch.float64)
SCALE = torch.tensor([[0.7], [1.5]], dtype=torch.float64)
COUNTS = torch.tensor([[1, 0], [2, 1], [2, 1], [0, 3], [1, 2], [0, 0], [1, 2], [0, 1]])


def oracle():
    """A model of two types and one feature, whose density is known."""
    schema = Schema([Feature("kind", kind="category(a, b)"), Feature("x")])
    flow = setflow.SetFlow(
        Oracle(LOC, SCALE), schema=schema, features=("kind", "x"),
        cardinality=setflow.EmpiricalComposition(2, 3),
    )  # fmt: skip
    numbers = torch.tensor([0.0, 1.0])[:, None] * torch.ones(2, 40)
    x = torch.stack([numbers.flatten(), torch.linspace(-3, 4, 80)], -1)[:, None]
    flow.fit_statistics(setflow.SetBatch(x))
    flow.cardinality.fit(COUNTS)
    return flow


def scaled(flow, kinds, x):
    mean = torch.stack([flow.scaler.parts[str(k)].mean[0] for k in range(2)])
    std = torch.stack([flow.scaler.parts[str(k)].std[0] for k in range(2)])
    return (x - mean[kinds]) / std[kinds], std[kinds]


def log_normal(flow, kinds, x):
    """log p(x | type) of each object."""
    z, std = scaled(flow, kinds, x)
    return torch.distributions.Normal(LOC[kinds, 0], SCALE[kinds, 0]).log_prob(z) - std.log()


def test_the_density_of_a_set_is_the_sum_over_all_assignments():
    """Brute force for three objects of two types: the ordered tuple is listed by a random
    permutation of the objects, so that p(set) is the sum of p(tuple) over all of them."""
    flow = oracle()
    kinds, x = torch.tensor([1, 0, 1]), torch.tensor([0.3, -0.2, 2.0])
    batch = setflow.SetBatch(torch.stack([kinds.double(), x], -1)[None])
    terms = flow.log_prob_terms(batch, solver=setflow.RK4(100))
    counts = torch.tensor([[1, 2]])
    log_counts = flow.cardinality.log_prob(counts)[0]
    total = 0.0
    for order in itertools.permutations(range(3)):
        listed = torch.tensor(order)
        # n_1! n_2! / N! of the orders have these types in these places
        tuple_p = log_counts + math.log(2 / 6) + log_normal(flow, kinds[listed], x[listed]).sum()
        total += tuple_p.exp()
    assert terms.total.item() == pytest.approx(total.log().item(), abs=1e-5)
    assert terms.ordering.item() == pytest.approx(math.log(2))
    assert terms.cardinality.item() == pytest.approx(log_counts.item())
    parts = terms.objects + terms.scaling + terms.ordering + terms.cardinality
    torch.testing.assert_close(terms.total, parts)
    # the density of the tuple in the order given, by the verb: set = tuple + log N!
    z, std = scaled(flow, kinds, x)
    rows = torch.nn.functional.one_hot(kinds, 2).double()[None]
    log_tuple = setflow.masked_log_prob(
        flow.field, flow.base, setflow.RK4(100), z[None, :, None], None, c=rows
    )
    by_tuple = log_tuple - std.log().sum() + log_counts + math.log(2 / 6) + math.log(6)
    torch.testing.assert_close(by_tuple[0], terms.total[0], atol=1e-8, rtol=0)


def test_the_density_is_that_of_the_oracle():
    flow = oracle()
    g = torch.Generator().manual_seed(1)
    kinds = torch.randint(0, 2, (50, 3), generator=g)
    x, mask = torch.randn(50, 3, generator=g), torch.arange(3) < torch.randint(0, 4, (50, 1))
    batch = setflow.SetBatch(torch.stack([kinds.double(), x], -1), mask)
    counts = flow.types.counts_of(batch.x, batch.mask)
    known = (flow.cardinality.log_prob(counts)).isfinite()
    expected = (log_normal(flow, kinds, x) * mask).sum(-1)
    expected = expected + torch.lgamma(counts + 1.0).sum(-1) + flow.cardinality.log_prob(counts)
    found = flow.log_prob(batch, solver=setflow.RK4(100))
    torch.testing.assert_close(found[known], expected[known], atol=1e-5, rtol=0)
    assert known.sum() > 30
    probes = setflow.HutchinsonDivergence(2)  # exact, for the Jacobian is diagonal
    estimated = flow.log_prob(batch, solver=setflow.RK4(100), estimator=probes)
    torch.testing.assert_close(estimated[known], expected[known], atol=1e-5, rtol=0)


def test_the_total_is_one():
    """Over all compositions of up to two objects, each by quadrature over its ordered region."""
    flow = oracle()
    flow.cardinality = setflow.EmpiricalComposition(2, 2).fit(
        torch.tensor([[1, 0], [0, 1], [1, 1], [1, 1], [0, 2], [2, 0], [0, 0], [2, 0]])
    )
    line = torch.linspace(-12, 12, 81)
    step = line[1] - line[0]
    total = flow.cardinality.log_prob(torch.tensor([[0, 0]])).exp()[0]
    for kinds in ([0], [1], [0, 0], [0, 1], [1, 1]):
        grid = torch.cartesian_prod(*[line] * len(kinds)).reshape(-1, len(kinds))
        types = torch.tensor(kinds).double().expand(len(grid), -1)
        p = flow.log_prob(
            setflow.SetBatch(torch.stack([types, grid], -1)), solver=setflow.RK4(20),
            batch_size=30_000,
        ).exp()  # fmt: skip
        alike = len(kinds) == 2 and kinds[0] == kinds[1]
        total = total + p.sum() * step ** len(kinds) / (2 if alike else 1)
    assert total.item() == pytest.approx(1, abs=1e-3)


def test_a_sample_has_the_types_and_features_of_the_law():
    flow = oracle()
    batch = flow.sample(6000, seed=1, solver=setflow.Midpoint(20))
    counts = flow.types.counts_of(batch.x, batch.mask)
    listed = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    p = flow.cardinality.log_prob(listed[listed.sum(-1) <= 3]).exp()
    got = (counts[:, None] == listed[listed.sum(-1) <= 3]).all(-1).double().mean(0)
    torch.testing.assert_close(got, p, atol=0.03, rtol=0)
    for k in range(2):
        x = batch.x[..., 1][batch.mask & (batch.x[..., 0] == k)]
        z, _ = scaled(flow, torch.full((len(x),), k), x)
        assert z.mean().item() == pytest.approx(LOC[k].item(), abs=0.08)
        assert z.std().item() == pytest.approx(SCALE[k].item(), abs=0.08)


# --- laws ---


def test_permuting_objects_with_their_types_changes_nothing():
    flow, batch = model(), without_context(events(40))
    order = torch.randperm(MOST, generator=torch.Generator().manual_seed(3))
    moved = setflow.SetBatch(batch.x[:, order], batch.mask[:, order])
    a, b = (flow.log_prob(one, solver=SOLVER) for one in (batch, moved))
    torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)
    noise, t = torch.randn(40, MOST, 2), torch.rand(40)
    for coupling in (None, "event"):
        a = flow.loss(batch, noise=noise, t=t, coupling=coupling)
        b = flow.loss(moved, noise=noise[:, order], t=t, coupling=coupling)
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)
    other = batch.x.clone()  # and types matter
    other[..., 3] = torch.where(other[..., 1] == 0, 1 - other[..., 3], other[..., 3])
    assert (flow.log_prob(setflow.SetBatch(other, batch.mask), solver=SOLVER) != a).any()


@pytest.mark.parametrize("filling", [0.0, 1e30, math.inf, math.nan])
def test_what_stands_in_padding_and_in_absent_features_does_not_matter(filling):
    flow, batch = model(), without_context(events(30))
    lepton = batch.x[..., 1] == 0
    x = batch.x.clone()
    x[~batch.mask] = filling
    if not filling > 0:  # a number there is refused
        x[..., 2] = torch.where(lepton, filling, x[..., 2])
    filled = setflow.SetBatch(x, batch.mask)
    torch.testing.assert_close(
        flow.log_prob(filled, solver=SOLVER), flow.log_prob(batch, solver=SOLVER)
    )
    noise, t = torch.randn(30, MOST, 2), torch.rand(30)
    spoilt = noise.clone()
    spoilt[..., 1] = torch.where(lepton, filling, spoilt[..., 1])
    gradients = []
    for one, e in ((batch, noise), (filled, spoilt)):
        flow.zero_grad()
        loss = flow.loss(one, noise=e, t=t, coupling="event")
        loss.backward()
        gradients.append([p.grad.clone() for p in flow.field.parameters()])
        gradients[-1].append(loss.detach())
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_an_absent_feature_costs_no_dimension():
    """A lepton has one number: its density is that of a model of one number, whatever the base
    would give for the other."""
    flow = model()
    x = torch.tensor([[[0.3, 0.0, 0.0, 1.0]]])
    terms = flow.log_prob_terms(setflow.SetBatch(x), solver=SOLVER)
    part = flow.scaler.parts["1"]
    assert part.dim == 1
    line = torch.linspace(-20, 20, 401)
    grid = torch.zeros(401, 1, 4)
    grid[..., 0, 0], grid[..., 0, 3] = line, 1
    with torch.no_grad():
        found = flow.log_prob_terms(setflow.SetBatch(grid), solver=setflow.RK4(20))
    integral = (found.objects + found.scaling).exp().sum() * (line[1] - line[0])
    assert integral.item() == pytest.approx(1, abs=0.02)
    assert terms.scaling.item() == pytest.approx(-part.std.log().item())


def test_an_event_is_the_same_in_whatever_company_and_batches():
    flow = model(("ht", "class"), setflow.ConditionalComposition(TYPES, MOST, 3, hidden=8))
    redraw(flow.cardinality)
    c = {"ht": torch.rand(30), "class": ["a", "b"] * 15}
    whole = flow.sample(30, c, seed=3, solver=SOLVER)
    again = flow.sample(30, c, seed=3, solver=SOLVER, batch_size=7)
    torch.testing.assert_close(whole.x, again.x, atol=1e-10, rtol=1e-10)
    part = {"ht": c["ht"][10:14], "class": c["class"][10:14]}
    some = flow.sample(4, part, seed=3, first=10, solver=SOLVER)
    torch.testing.assert_close(whole.x[10:14], some.x, atol=1e-10, rtol=1e-10)
    counts = flow.types.counts_of(whole.x, whole.mask)
    given = flow.sample(30, c, seed=3, lengths=counts, solver=SOLVER)
    torch.testing.assert_close(given.x, whole.x[:, : given.x.shape[1]], atol=1e-10, rtol=1e-10)
    assert whole.x[..., 2][whole.mask & (whole.x[..., 1] == 0)].abs().sum() == 0
    assert (whole.x[..., 2][whole.mask & (whole.x[..., 1] == 1)] > 0).all()


def test_empty_events_are_nothing():
    flow = model()
    empty = setflow.SetBatch(torch.zeros(2, 3, 4), torch.zeros(2, 3))
    terms = flow.log_prob_terms(empty, solver=SOLVER)
    assert terms.objects.tolist() == terms.scaling.tolist() == terms.ordering.tolist() == [0, 0]
    assert flow.loss(empty).item() == 0


# --- coupling and guidance ---


def test_noise_is_exchanged_among_objects_of_one_type_only():
    from setflow.couplings import coupled_noise
    from setflow.sets.events import Events

    flow, batch = model(), without_context(events(20))
    kinds = flow.types.kinds(batch.x, batch.mask)
    z = flow.scaler(batch.x, batch.mask)
    rows = flow.types.rows(kinds, None, z.dtype)
    noise = torch.randn(20, MOST, 2)
    given = Events.of(2, z, batch.mask, c=rows, present=flow.types.present(kinds))
    noise = given.noise(noise, "noise")
    coupled = coupled_noise(given, noise, "event")
    assert not torch.equal(coupled, noise)
    for event, k in itertools.product(range(20), range(TYPES)):
        of_type = batch.mask[event] & (kinds[event] == k)
        before, after = noise[event][of_type], coupled[event][of_type]
        assert torch.equal(before.sort(0).values, after.sort(0).values)
        if 0 < of_type.sum() < 5:  # the least cost, by brute force
            cost = [
                ((z[event][of_type] - before[list(order)]) ** 2).sum()
                for order in itertools.permutations(range(int(of_type.sum())))
            ]
            torch.testing.assert_close(((z[event][of_type] - after) ** 2).sum(), min(cost))


def test_events_of_different_objects_have_nothing_to_couple():
    flow = model(("ht",))
    x = torch.tensor([[[0.3, 0.0, 0.0, 1.0], [5.0, 1.0, 0.4, 0.0]]])
    batch = setflow.SetBatch(x, c=torch.tensor([[0.37]]))
    noise, t = torch.randn(1, 2, 2), torch.rand(1)
    assert flow.loss(batch, noise=noise, t=t) == flow.loss(
        batch, noise=noise, t=t, coupling="event"
    )


def test_guidance_leaves_the_types():
    """With a strength of 0 the context is that which stands for none, and the types are those."""
    flow = model(("ht", "class"), drop_context=0.5)
    flow.no_context.data.normal_()
    counts = torch.tensor([[1, 1, 2, 0]] * 6)
    c = {"ht": torch.rand(6), "class": "b"}
    guided = flow.sample(6, c, seed=1, lengths=counts, guidance=0.0, solver=SOLVER)
    assert torch.equal(flow.types.counts_of(guided.x, guided.mask), counts)
    kinds = flow.types.kinds(guided.x, guided.mask)
    rows = flow.types.rows(kinds, flow.no_context.detach().expand(6, 3), guided.x.dtype)
    noise = setflow.distributions.counter_normal(1, torch.arange(6), guided.mask, (2,))
    z = setflow.masked_sample(
        flow.field, flow.base, SOLVER, guided.mask, c=rows, x_source=noise,
        present=flow.types.present(kinds),
    )  # fmt: skip
    torch.testing.assert_close(flow.scaler(guided.x, guided.mask), z.detach())
    plain = flow.sample(6, c, seed=1, lengths=counts, solver=SOLVER)
    one = flow.sample(6, c, seed=1, lengths=counts, guidance=torch.ones(6), solver=SOLVER)
    torch.testing.assert_close(one.x, plain.x)
    batch = events(8)
    losses = [
        flow.loss(batch, noise=torch.ones(8, MOST, 2), t=torch.full((8,), 0.5), drop_context=drop)
        for drop in (torch.zeros(8, dtype=torch.bool), torch.ones(8, dtype=torch.bool))
    ]
    assert losses[0] != losses[1]


# --- what it is made of ---


@pytest.mark.parametrize("network", [False, True])
def test_a_folder_comes_back_as_the_same_model(tmp_path, network):
    composition = setflow.EmpiricalComposition(TYPES, MOST, kept=30)
    if network:
        composition = setflow.ConditionalComposition(TYPES, MOST, 3, hidden=8)
    flow = model(("ht", "class"), composition)
    redraw(flow.cardinality) if network else None
    flow.save(tmp_path / "model")
    back = setflow.SetFlow.load(tmp_path / "model")
    batch = events(10)
    for one in (batch, flow.sample(10, batch.c, seed=2, solver=SOLVER)):
        torch.testing.assert_close(
            back.log_prob(one, solver=SOLVER), flow.log_prob(one, solver=SOLVER)
        )
    assert back.scaler.occurring == flow.scaler.occurring == (0, 1, 2)
    assert back.schema == flow.schema
    assert "types" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cardinality.table", "cardinality.table holds values that are no probabilities"),
        ("cardinality.shares", "cardinality.shares holds values that are no probabilities"),
        ("scaler.parts.0.std", "expected positive and finite values"),
    ],
)
def test_statistics_that_cannot_be_are_not_loaded(tmp_path, name, message):
    flow = model()
    flow.state_dict()[name].fill_(-2)
    flow.save(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        setflow.SetFlow.load(tmp_path / "model")


@pytest.mark.parametrize("weighted", [False, True])
def test_statistics_of_parts_are_those_of_the_whole(weighted):
    """Also where a type has so few objects that others lend it their statistics."""
    batch = without_context(events(300)) if not weighted else events(300, weight=True)
    x, mask = batch.x.clone(), batch.mask.clone()
    x[0, 0] = torch.tensor([4.0, 1.0, 0.5, 1.0])  # the only jet that is called plus
    mask[0, 0] = True
    batch = setflow.SetBatch(x, mask, weight=batch.weight)
    whole, parts = model(fitted=False).fit_statistics(batch), model(fitted=False)
    total = statistics_of(parts, batch[:90])
    for k in range(90, 300, 70):
        total = total + statistics_of(parts, batch[k : k + 70])
    take_statistics(parts, SampleStatistics.from_tensors(total.tensors()))
    for name, expected in whole.state_dict().items():
        if not name.startswith("field."):
            torch.testing.assert_close(parts.state_dict()[name], expected, rtol=1e-11, atol=1e-11)


def test_statistics_are_those_of_each_type():
    batch = events(300, weight=True)
    flow = model()
    flow.fit_statistics(setflow.SetBatch(batch.x, batch.mask, weight=batch.weight), refit=True)
    kinds = flow.types.kinds(batch.x, batch.mask)
    for k in (0, 1, 2):
        part = flow.scaler.parts[str(k)]
        own = setflow.data.Standardizer(kinds=part.kinds)
        columns = [0] if k < 2 else [0, 2]
        own.fit(batch.x[..., columns], batch.mask & (kinds == k), batch.weight)
        torch.testing.assert_close(part.mean, own.mean)
        torch.testing.assert_close(part.std, own.std)
    counts = flow.types.counts(kinds, batch.mask)
    expected = (batch.weight[:, None] * counts).sum(0)
    torch.testing.assert_close(flow.cardinality.fractions, expected / expected.sum())


def test_rare_types_share_the_statistics_of_all_that_have_their_features():
    batch = without_context(events())
    x = batch.x.clone()
    x[0, 0] = torch.tensor([4.0, 1.0, 0.5, 1.0])  # the only jet that is called plus
    mask = batch.mask.clone()
    mask[0, 0] = True
    flow = model()
    flow.fit_statistics(setflow.SetBatch(x, mask), refit=True)
    assert flow.scaler.occurring == (0, 1, 2, 3)
    kinds = flow.types.kinds(x, mask)
    jets = x[mask & (kinds >= 2)]
    part = flow.scaler.parts["3"]
    torch.testing.assert_close(part.mean, torch.stack([jets[:, 0], jets[:, 2].log()], -1).mean(0))


def test_terms_and_kept_gradients_of_training():
    composition = setflow.ConditionalComposition(TYPES, MOST, 3, hidden=8)
    flow = model(("ht", "class"), composition)
    redraw(flow.cardinality)
    batch = events(20)
    terms = flow.loss_terms(batch)
    assert set(terms) == {"flow", "cardinality"}
    context = flow.scaled_context(batch.c, 20)
    counts = flow.types.counts_of(batch.x, batch.mask)
    torch.testing.assert_close(terms["cardinality"], -composition.log_prob(counts, context).mean())
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in flow.parameters() if p.requires_grad)


# --- bad input ---


def bad(change):
    batch = without_context(events(4, seed=5))
    x, mask = batch.x.clone(), torch.ones_like(batch.mask)
    change(x)
    return setflow.SetBatch(x, mask)


def unseen(x):
    x[2, 1] = torch.tensor([4.0, 1.0, 0.5, 1.0])


def unknown(x):
    x[2, 1, 1] = 7


def given(x):
    x[2, 1] = torch.tensor([4.0, 0.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            unseen,
            r"event 2 has an object of type 'jet, charge=plus', and the training had lepton, ",
        ),
        (
            unknown,
            r"feature 'kind' of an object of event 2 is 7, expected the code of a category: ",
        ),
        (given, r"of event 2 is of type 'lepton, charge=plus', which has no mass, and holds 0.5"),
    ],
)
def test_objects_that_cannot_be_are_named(change, message):
    flow, batch = model(), bad(change)
    for call in (flow.loss, flow.log_prob):
        with pytest.raises(ValueError, match=message):
            call(batch)
    outside = flow.scaler.outside(batch.x, batch.mask)
    assert outside.nonzero()[0].tolist()[:2] == [2, 1]


def test_more_objects_than_known_and_types_that_are_not_are_refused():
    flow = model()
    longer = bad(lambda x: None)
    longer = setflow.SetBatch(
        torch.cat([longer.x, longer.x], 1), torch.cat([longer.mask, longer.mask], 1)
    )
    with pytest.raises(ValueError, match=r"lengths reach from 0 to 6, expected \[0, 5\]"):
        flow.log_prob(longer)
    for lengths, message in (
        ([[0, 0, 0, 1]], "type 'jet, charge=plus', and the training had"),
        ([[3, 3, 3, 0]], r"lengths are 9, expected \[0, 5\]"),
        ([[1, 1]], r"expected \(1,\) integers, the number of objects of each event, or \(1, 4\)"),
        ([[-1, 1, 0, 0]], "must not be negative"),
        ([7], r"lengths are 7, expected \[0, 5\]"),
    ):
        with pytest.raises(ValueError, match=message):
            flow.sample(1, lengths=lengths)


FIELD = {"hidden": 8, "layers": 1, "heads": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"object_condition_dim": 0},
            "object_condition_dim=0 .* build it with object_condition_dim",
        ),
        ({"condition_dim": 4, "object_condition_dim": 0}, "and without condition_dim"),
        ({"cardinality": setflow.EmpiricalCardinality(3)}, r"give setflow.EmpiricalComposition\(4"),
        (
            {"cardinality": setflow.EmpiricalComposition(2, 3)},
            "for 2 types, but there are 4 types of",
        ),
        ({"scaler": setflow.data.Standardizer(2, mean=0, std=1)}, "leave scaler out"),
        ({"features": ("kind",)}, "hold no number"),
    ],
)
def test_parts_that_do_not_fit_are_refused(options, message):
    sizes = {"object_condition_dim": 4}
    sizes |= {k: options.pop(k) for k in list(options) if k.endswith("_dim")}
    field = setflow.TransformerField(2, **FIELD, **sizes)
    with pytest.raises(ValueError, match=message):
        setflow.SetFlow(
            field, schema=SCHEMA, **{"features": ("x", "kind", "mass", "charge"), **options}
        )


def test_a_law_of_types_needs_types():
    field = setflow.TransformerField(1, **FIELD)
    with pytest.raises(ValueError, match="no feature of an object is a category"):
        setflow.SetFlow(field, features=["x"], cardinality=setflow.EmpiricalComposition(2, 3))


def test_a_composition_takes_the_categories_of_the_schema():
    field = setflow.TransformerField(2, **FIELD, object_condition_dim=4)
    flow = setflow.SetFlow(
        field, schema=SCHEMA, cardinality=setflow.EmpiricalComposition(TYPES, MOST)
    )
    assert flow.features == ("x", "kind", "mass", "charge")
    plain = replace(SCHEMA, objects=[replace(entry, absent=[]) for entry in SCHEMA.objects])
    flow = setflow.SetFlow(setflow.TransformerField(2, **FIELD), schema=plain)
    assert flow.features == ("x", "mass")
    assert flow.types is None


def test_a_quantity_that_other_objects_determine_is_refused():
    schema = Schema([Feature("x"), Feature("ht", "GeV", derived=True)])
    assert schema.generated == ("x",)
    assert Schema.from_node(schema.node()) == schema
    with pytest.raises(ValueError, match="'ht' is derived: other objects determine it"):
        setflow.SetFlow(setflow.TransformerField(2, **FIELD), schema=schema, features=["x", "ht"])


def test_a_context_that_the_objects_determine_is_told():
    schema = Schema([Feature("x")], [Feature("sum", derived=True)])
    flow = setflow.SetFlow(
        setflow.TransformerField(1, **FIELD, condition_dim=1), schema=schema, conditions=["sum"]
    )
    x = torch.randn(20, 3, 1)
    batch = setflow.SetBatch(x, c=x.sum(1))
    flow.fit_statistics(batch)
    with pytest.warns(
        UserWarning, match="conditioned on sum, which the objects determine: objects"
    ):
        flow.log_prob(batch, solver=SOLVER)


def test_absent_features_are_those_of_types_that_exist():
    with pytest.raises(ValueError, match=r"absent in 'lepto', .*mean 'lepton'"):
        Schema([*SCHEMA.objects[:2], Feature("mass", absent=["lepto"])])
    with pytest.raises(ValueError, match="'ht' is a feature of the event and absent in a type"):
        Schema(SCHEMA.objects, [Feature("ht", absent=["jet"])])
    assert Schema.from_node(SCHEMA.node()) == SCHEMA
    types = ObjectTypes(SCHEMA.objects)
    assert types.present == ((True, False), (True, False), (True, True), (True, True))


def test_absent_features_need_types():
    field, law = setflow.TransformerField(2, hidden=8, layers=1), setflow.EmpiricalCardinality(MOST)
    with pytest.raises(
        ValueError, match=r"'mass' is absent in lepton.*leave 'mass' out of features"
    ):
        setflow.SetFlow(field, schema=SCHEMA, cardinality=law)


def test_a_type_without_features_is_told_where_it_occurs():
    schema = Schema([Feature("kind", kind="category(a, b)"), Feature("x", absent=["b"])])
    flow = setflow.SetFlow(
        setflow.TransformerField(1, **FIELD, object_condition_dim=2), schema=schema,
        features=["kind", "x"],
    )  # fmt: skip
    x = torch.stack([torch.arange(40) % 2, torch.randn(40) * (torch.arange(40) % 2 == 0)], -1)
    with pytest.raises(ValueError, match="20 objects of type 'b', which has none of the features"):
        flow.fit_statistics(setflow.SetBatch(x[:, None]))


def test_a_constant_of_a_type_is_named():
    batch = without_context(events())
    x = batch.x.clone()
    x[..., 2] = torch.where(x[..., 1] == 1, 0.1, x[..., 2])
    with pytest.raises(ValueError, match="'mass' of type 'jet, charge=minus' is constant"):
        model().fit_statistics(setflow.SetBatch(x, batch.mask), refit=True)


# --- the verbs ---


def trace(field, x, t, c):
    """An estimator of a user, which knows neither masks nor what is present."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        v = field(x, t, c).flatten(1)
        slopes = [
            torch.autograd.grad(v[:, k].sum(), x, retain_graph=True)[0].flatten(1)[:, k]
            for k in range(v.shape[1])
        ]
    return torch.stack(slopes).sum(0)


def test_verbs_take_which_features_are_present():
    """As if the others were not there: by an oracle whose numbers are independent."""
    field = setflow.GaussianSetField(torch.tensor([0.3, -0.5]), torch.tensor([0.7, 1.3]))
    one = setflow.GaussianSetField(torch.tensor([0.3]), torch.tensor([0.7]))
    x = torch.randn(6, 4, 2)
    mask = torch.arange(4) < torch.tensor([[0], [1], [2], [3], [4], [4]])
    present = torch.ones(6, 4, 2, dtype=torch.bool)
    present[..., 1] = False
    base, solver = setflow.StandardNormal((2,)), setflow.RK4(30)
    expected = setflow.masked_log_prob(one, setflow.StandardNormal((1,)), solver, x[..., :1], mask)
    spoilt = torch.where(present, x, torch.nan)
    for estimator in (None, setflow.HutchinsonDivergence(1), trace):
        found = setflow.masked_log_prob(
            field, base, solver, spoilt, mask, present=present, estimator=estimator
        )
        torch.testing.assert_close(found, expected)
    diagonal = setflow.DiagonalNormal(torch.zeros(2), torch.ones(2))
    torch_base = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
    for other in (diagonal, torch_base):
        found = setflow.masked_log_prob(field, other, solver, spoilt, mask, present=present)
        torch.testing.assert_close(found, expected)
    adaptive = setflow.Dopri5(1e-7, 1e-8)
    found = setflow.masked_log_prob(field, base, adaptive, spoilt, mask, present=present)
    alone = setflow.masked_log_prob(
        one, setflow.StandardNormal((1,)), setflow.Dopri5(1e-7, 1e-8), x[..., :1], mask
    )
    torch.testing.assert_close(found, alone, atol=1e-12, rtol=0)
    noise = torch.randn(6, 4, 2)
    sample = setflow.masked_sample(
        field, base, solver, mask, x_source=torch.where(present, noise, torch.nan), present=present
    )
    alone = setflow.masked_sample(
        one, setflow.StandardNormal((1,)), solver, mask, x_source=noise[..., :1]
    )
    torch.testing.assert_close(sample[..., :1], alone)
    assert sample[..., 1].abs().sum() == 0
    t = torch.rand(6)
    loss = setflow.masked_fm_loss(field, spoilt, noise, mask, t, present=present, reduction="none")
    alone = setflow.masked_fm_loss(one, x[..., :1], noise[..., :1], mask, t, reduction="none")
    torch.testing.assert_close(loss, alone)
    v, divergence = setflow.ExactDivergence().velocity_and_divergence(
        field, spoilt, 0.5, mask=mask, present=present
    )
    assert v[..., 1].abs().sum() == 0
    torch.testing.assert_close(
        divergence, setflow.ExactDivergence()(one, x[..., :1], 0.5, mask=mask)
    )


def test_no_gradient_reaches_absent_features():
    field = redraw(setflow.TransformerField(2, **FIELD))
    x = torch.randn(3, 4, 2, requires_grad=True)
    present = torch.rand(3, 4, 2) > 0.4
    loss = setflow.masked_fm_loss(
        field, x, torch.randn(3, 4, 2), None, torch.rand(3), present=present
    )
    (gradient,) = torch.autograd.grad(loss, x)
    assert (gradient[~present] == 0).all()
    assert (gradient[present] != 0).any()
    log_p = setflow.masked_log_prob(
        field, setflow.StandardNormal((2,)), SOLVER, x, None, present=present
    )
    (gradient,) = torch.autograd.grad(log_p.sum(), x)
    assert (gradient[~present] == 0).all()


@pytest.mark.parametrize(
    ("present", "message"),
    [
        (torch.ones(3, 4), r"present has shape \(3, 4\), expected \(3, 4, 2\)"),
        (torch.full((3, 4, 2), 0.5), "holds the value 0.5"),
    ],
)
def test_what_does_not_tell_features_is_refused(present, message):
    field, x = setflow.TransformerField(2, **FIELD), torch.randn(3, 4, 2)
    with pytest.raises(ValueError, match=message):
        setflow.masked_fm_loss(field, x, x, None, present=present)


def test_contexts_of_objects_are_their_rows():
    """Rows of a context per object carry the context of the event in front of the type."""
    flow, batch = model(("ht",)), events(3)
    kinds = flow.types.kinds(batch.x, batch.mask)
    c = flow.scaled_context(batch.c[:, :1], 3)
    rows = flow.types.rows(kinds, c, batch.x.dtype)
    assert rows.shape == (3, MOST, 1 + 4)
    assert torch.equal(rows[..., 0], c.expand(3, MOST))
    assert torch.equal(rows[..., 1:3].argmax(-1), kinds // 2)
    assert torch.equal(rows[..., 3:].argmax(-1), kinds % 2)
    assert isinstance(PerObject(rows), PerObject)
    assert replace(PerObject(rows), rows=rows).given is rows
