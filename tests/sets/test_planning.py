"""Plans of like lengths: every event once, no group too large, no cheaper cut, equal results."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import setflow
from each import each
from laws.laws import LAWS, cases, redraw
from laws.subjects import Pointwise, loss_of, sample_of
from setflow.divergence import exact, hutchinson
from setflow.sets import planning
from setflow.sets.events import Events, call_field
from setflow.sets.planning import cut_by_length, plan_velocity


def cost(groups, lengths, overhead, repeats):
    return sum(
        repeats(max(lengths[i] for i in group))
        * (overhead + len(group) * max(lengths[i] for i in group))
        for group in groups
    )


def every_cut(indices):
    """All ways to cut a sequence into runs."""
    if not indices:
        yield []
        return
    for size in range(1, len(indices) + 1):
        for rest in every_cut(indices[size:]):
            yield [indices[:size], *rest]


@pytest.mark.parametrize("overhead", [0, 1, 5, 40])
@pytest.mark.parametrize("repeats", [lambda n: 1, lambda n: 1 + 3 * n])
def test_no_cut_of_the_sorted_events_is_cheaper(overhead, repeats):
    lengths = [7, 2, 0, 9, 2, 5, 7, 1]
    groups = cut_by_length(lengths, overhead=overhead, largest=lambda n: 100, repeats=repeats)
    got = cost(groups, lengths, overhead, repeats)
    in_order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    best = min(cost(cut, lengths, overhead, repeats) for cut in every_cut(in_order))
    assert got == pytest.approx(best)


def test_any_grouping_of_few_events_is_no_cheaper_than_one_of_sorted_events():
    lengths = [4, 1, 3, 1]
    groups = cut_by_length(lengths, overhead=2, largest=lambda n: 100)
    got = cost(groups, lengths, 2, lambda n: 1)
    for order in permutations(range(4)):
        for cut in every_cut(list(order)):
            assert got <= cost(cut, lengths, 2, lambda n: 1)


def test_every_event_stands_in_one_group_that_is_small_enough():
    lengths = torch.randint(0, 900, (3000,), generator=torch.Generator().manual_seed(1)).tolist()
    groups = cut_by_length(lengths, overhead=300, largest=lambda n: 4096 // max(1, n))
    assert sorted(index for group in groups for index in group) == list(range(3000))
    for group in groups:
        longest = max(lengths[i] for i in group)
        assert len(group) <= max(1, 4096 // max(1, longest))
        assert longest == lengths[group[-1]]
    for shorter, longer in pairwise(groups):  # up to the unit in which lengths are told apart
        assert max(lengths[i] for i in shorter) <= min(lengths[i] for i in longer) + 15
    padded = sum(len(g) * lengths[g[-1]] for g in groups)
    assert padded < 1.1 * sum(lengths)


def test_no_event_and_equal_events():
    assert cut_by_length([], overhead=1, largest=lambda n: 1) == []
    assert cut_by_length([0, 0], overhead=1, largest=lambda n: 9) == [[0, 1]]
    assert cut_by_length([5, 5, 5], overhead=1, largest=lambda n: 2) == [[0, 1], [2]]
    assert cut_by_length([5, 5], overhead=1, largest=lambda n: 0) == [[0], [1]]


# --- fields ---


class Counting(nn.Module):
    """A field that records what it is evaluated on, behind another."""

    event_ndim = 2
    takes_mask = True

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field
        self.seen: list[torch.Tensor] = []
        self.slots = 0

    def forward(self, x, t, c=None, *, mask):
        self.seen.append(x.detach()[mask])
        self.slots += mask.numel()
        return self.field(x, t, c, mask=mask)


@pytest.fixture
def no_overhead(monkeypatch):
    """Without overhead every length stands alone: the most that a plan can do."""
    for module in (planning, exact, hutchinson):
        monkeypatch.setattr(module, "_CPU_OVERHEAD", 0)


def _context_set(lead):
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(*lead, 4, generator=generator) > 0.5
    return setflow.SetBatch(torch.randn(*lead, 4, 2, generator=generator), mask)


KINDS = {
    "no context": ({}, lambda case: None),
    "event": ({"condition_dim": 2}, lambda case: case.x[..., 0, :2]),
    "object": ({"object_condition_dim": 2}, lambda case: case.x_source[..., :2]),
    "set": ({"set_condition_dim": 2}, lambda case: _context_set(case.t.shape)),
}


def planned(field, events):
    """The velocity, evaluated by the plan of its events."""
    return plan_velocity(field, events).each(events, lambda part: part.velocity(field))


def is_cut(field, mask, x=None):
    """Whether events of such a mask are not evaluated at once, with all their slots."""
    calls = []
    hook = field.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].shape))
    if x is None:
        x = torch.randn(3, 6, 3) if mask is None else torch.randn(*mask.shape, 3)
    events = Events.of(field, x, mask, t=0.5)
    planned(field, events)
    hook.remove()
    return calls != [x.shape]


@pytest.mark.parametrize("kind", KINDS)
def test_a_planned_field_gives_what_the_field_gives(kind, no_overhead):
    options, context_of = KINDS[kind]
    field = redraw(setflow.TransformerField(3, hidden=8, layers=1, heads=2, **options)).double()
    for name, case in cases():
        spy = Counting(field)
        c, x = context_of(case), case.x.clone().requires_grad_()
        expected = call_field(field, x, case.t, c, case.mask)
        spy.slots, spy.seen = 0, []
        events = Events.of(spy, x, case.mask, t=case.t, c=c)
        got = planned(spy, events)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12, msg=name)
        gradients = [torch.autograd.grad(v.square().sum(), x)[0] for v in (got, expected)]
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-10, msg=name)
        # every real object once, and no slot but one for each event without objects
        seen, real = torch.cat(spy.seen), case.x[case.mask]
        assert len(seen) == len(real)
        torch.testing.assert_close(seen.sum(0), real.sum(0))
        empty = int((~case.mask.any(-1)).sum())
        assert spy.slots == len(real) + empty


@each("law", LAWS)
@pytest.mark.parametrize("verb", [loss_of, sample_of])
def test_verbs_keep_the_law_however_their_batches_are_cut(verb, law, no_overhead):
    field = redraw(setflow.TransformerField(3, hidden=8, layers=1, heads=2)).double()
    for name, case in cases():
        if law != "emptiness" or name != "lead0":
            LAWS[law](verb(field), case)


def test_the_real_mix_of_sizes_costs_its_real_objects():
    lengths = torch.randint(30, 151, (512,), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(150) < lengths[:, None]
    spy = Counting(setflow.GaussianSetField(torch.zeros(3), torch.ones(3)))
    base, solver = setflow.StandardNormal((3,)), setflow.Midpoint(steps=1)
    setflow.masked_sample(spy, base, solver, mask)
    real = int(mask.sum())
    assert spy.slots <= 2 * 1.08 * real  # two evaluations, and some padding within a group
    spy = Counting(spy.field)
    x = torch.randn(512, 150, 3)
    setflow.masked_fm_loss(spy, x, torch.randn_like(x), mask)
    assert spy.slots <= 1.08 * real


class PerSlot(Pointwise):
    """A field that takes no mask."""


def test_what_may_not_be_cut_is_left_whole(no_overhead):
    mask = torch.arange(6) < torch.tensor([[1], [6], [3]])
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=2)
    assert not is_cut(field, None)
    assert not is_cut(field, torch.ones(3, 6, dtype=torch.bool))
    assert not is_cut(field, mask[:0])
    assert not is_cut(PerSlot(), mask)
    field.holds_context = True
    assert not is_cut(field, mask)
    del field.holds_context
    assert is_cut(field, mask)
    seen, x = [], torch.randn(6, 3)
    torch.vmap(lambda row: (seen.append(is_cut(field, row, x)), row)[1])(mask)
    assert seen == [False]


def test_guidance_meets_the_whole_batch_and_the_field_its_plan(no_overhead):
    mask = torch.arange(6) < torch.tensor([[1], [6], [3]])
    rows = torch.randn(3, 1, 3)  # one for each event, in order
    spy = Counting(setflow.GaussianSetField(torch.zeros(3), torch.ones(3), coupling=1.0))
    x_source = torch.randn(3, 6, 3)
    arguments = {"guidance_fn": lambda x, t, v: v + rows, "x_source": x_source}
    models = [
        setflow.FlowMatching(spy, setflow.StandardNormal((3,)), setflow.Euler(steps=1)),
        setflow.Diffusion(
            spy, setflow.VPSchedule(), setflow.Euler(1), parameterization="x0", event_shape=(3,)
        ),
    ]
    for model in models:
        spy.slots = 0
        x = model(None, mask=mask).sample(**arguments)
        assert spy.slots == int(mask.sum())
        alone = [
            model(None, mask=mask[k : k + 1]).sample(
                guidance_fn=lambda x, t, v, k=k: v + rows[k], x_source=x_source[k : k + 1]
            )
            for k in range(3)
        ]
        torch.testing.assert_close(x, torch.cat(alone))


def test_gradients_of_each_event_pass_through_a_verb():
    """`vmap` over `grad` wraps the mask twice; and what records a mask keeps its batch whole."""
    field = redraw(setflow.TransformerField(3, hidden=8, layers=1, heads=2)).double()
    case = dict(cases())["lead1"]

    def loss(x, mask, t):
        rows = (x[None], torch.ones_like(x)[None], mask[None], t[None])
        return setflow.masked_fm_loss(field, *rows)

    with sdpa_kernel([SDPBackend.MATH]):
        together = torch.vmap(torch.func.grad(loss))(case.x, case.mask, case.t)
        one_by_one = [
            torch.func.grad(loss)(*event) for event in zip(case.x, case.mask, case.t, strict=True)
        ]
    torch.testing.assert_close(together, torch.stack(one_by_one), rtol=0, atol=1e-10)
    assert together[case.mask].abs().max() > 1e-3
    seen = []
    with FlopCounterMode(display=False):
        seen.append(is_cut(field, case.mask))
    seen.append(is_cut(field.to("meta"), case.mask.to("meta"), case.x.to("meta")))
    assert seen == [False, False]


def test_nothing_is_moved_where_nothing_is_gained():
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=2)
    mask = torch.ones(64, 30, dtype=torch.bool)
    mask[3, 29] = False
    assert not is_cut(field, mask)
    mask[3, 0] = False  # a hole: objects are moved together, events stay where they are
    spy = Counting(field)
    x = torch.randn(64, 30, 3)
    events = Events.of(spy, x, mask, t=0.5)
    planned(spy, events)
    torch.testing.assert_close(spy.seen[0], x[mask])


class Together(setflow.Midpoint):
    """A solver that does not say that an event needs nothing of the others."""

    steps_apart = False


class AdaptiveTogether(setflow.Dopri5):
    """A solver that does not say so, with steps of each event's own."""

    steps_apart = False


@pytest.mark.parametrize("kind", KINDS)
def test_events_that_are_solved_apart_arrive_where_they_arrive_together(kind, no_overhead):
    """In values and in gradients, with samples in front, holes and empty events."""
    options, context_of = KINDS[kind]
    field = redraw(setflow.TransformerField(3, hidden=8, layers=1, heads=2, **options)).double()
    base = setflow.StandardNormal((3,))
    for name, case in cases():
        if not case.mask.numel():
            continue
        ends, slopes = [], []
        for solver in (setflow.Midpoint(3), Together(3)):
            noise = case.x_source.expand(2, *case.x.shape).clone().requires_grad_()
            c = context_of(case)
            x = setflow.masked_sample(
                field, base, solver, case.mask, sample_shape=(2,), c=c, x_source=noise
            )
            ends.append(x.detach())
            slopes.append(torch.autograd.grad(x.square().sum(), noise)[0])
        torch.testing.assert_close(*ends, rtol=0, atol=1e-12, msg=name)
        torch.testing.assert_close(*slopes, rtol=0, atol=1e-10, msg=name)


def _mixed(count=12, slots=20, features=3):
    """A field, and events of unequal size whose states reach far apart, so that steps differ."""
    field = redraw(setflow.TransformerField(features, hidden=8, layers=1, heads=2)).double()
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(0, slots + 1, (count,), generator=generator)
    mask = torch.arange(slots) < lengths[:, None]
    x = torch.randn(count, slots, features, generator=generator, dtype=torch.float64)
    return field, x * torch.linspace(0.1, 2, count)[:, None, None], mask


def _numbers(report):
    fields = (report.evaluations, report.accepted, report.rejected)
    return [*(value.tolist() for value in fields), report.calls]


ESTIMATORS = {
    "exact": setflow.ExactDivergence(),
    "probes": setflow.HutchinsonDivergence(2),
    "renewed": setflow.HutchinsonDivergence(2, renew=True),
}


@pytest.mark.parametrize(
    ("kinds", "estimator"),
    [
        *(((setflow.Midpoint, Together), name) for name in ESTIMATORS),
        *(((setflow.Dopri5, AdaptiveTogether), name) for name in ("exact", "probes")),
    ],
)
def test_densities_and_reports_are_those_of_events_solved_together(kinds, estimator, no_overhead):
    """In values, gradients, probes and, of an adaptive solver, in the steps of each event."""
    adaptive = kinds[0] is setflow.Dopri5
    field, x, mask = _mixed(4, 4, features=2)
    x, mask = x.reshape(2, 2, 4, 2), mask.reshape(2, 2, 4)
    base, found = setflow.StandardNormal((2,)), []
    for kind in kinds:
        solver = kind(0.1, 0.1) if adaptive else kind(2)
        events = x.clone().requires_grad_()
        log_p = setflow.masked_log_prob(
            field, base, solver, events, mask, estimator=ESTIMATORS[estimator],
            generator=torch.Generator().manual_seed(1),
        )  # fmt: skip
        slope = torch.autograd.grad(log_p.sum(), events)[0]
        scored = setflow.masked_sample(
            field, base, solver, mask, x_source=x, estimator=ESTIMATORS[estimator],
            return_log_prob=True, generator=torch.Generator().manual_seed(1),
        )  # fmt: skip
        found.append((log_p.detach(), slope, scored.x.detach(), scored.log_prob.detach(), solver))
    for apart, together in zip(*(values[:4] for values in found), strict=True):
        torch.testing.assert_close(apart, together, rtol=0, atol=1e-9)
    if adaptive:
        apart, together = (_numbers(values[4].last) for values in found)
        assert apart == together
        assert found[0][4].last.evaluations.shape == (2, 2)


@torch.no_grad()
def test_the_report_of_a_solve_in_groups_is_that_of_the_batch(no_overhead):
    field, x, mask = _mixed()
    base, found = setflow.StandardNormal((3,)), []
    for kind in (setflow.Dopri5, AdaptiveTogether):
        solver = kind(1e-3, 1e-3)
        ends = setflow.masked_sample(field, base, solver, mask, x_source=x)
        found.append((ends, _numbers(solver.last)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-10)
    assert found[0][1] == found[1][1]
    assert len(set(found[0][1][0])) > 2  # steps differ from event to event


@torch.no_grad()
def test_a_failure_in_a_group_is_that_of_the_batch(no_overhead):
    field, x, mask = _mixed()
    base, needed = setflow.StandardNormal((3,)), setflow.Dopri5(1e-3, 1e-3)
    setflow.masked_sample(field, base, needed, mask, x_source=x)
    most, found = int(needed.last.evaluations.max()), []
    for kind in (setflow.Dopri5, AdaptiveTogether):
        solver = kind(1e-3, 1e-3, max_nfe=most - 1)
        with pytest.raises(setflow.solvers.IntegrationError) as sampling:
            setflow.masked_sample(field, base, solver, mask, x_source=x)
        reports = [_numbers(solver.last)]
        solver.max_nfe = 14
        with pytest.raises(setflow.solvers.IntegrationError) as scoring:
            setflow.masked_log_prob(
                field, base, solver, x, mask, estimator=setflow.HutchinsonDivergence(),
                generator=torch.Generator().manual_seed(1),
            )  # fmt: skip
        reports.append(_numbers(solver.last))
        errors = (sampling.value, scoring.value)
        found.append(([(e.events, round(e.time, 9), e.reason) for e in errors], reports))
    assert found[0] == found[1]
    assert len(found[0][0][1][0]) > 1


@torch.no_grad()
def test_planning_changes_no_number_that_a_solve_draws(monkeypatch):
    """Probes of every evaluation and the noise of a stochastic equation, bit for bit."""
    field, x, mask = _mixed()
    base, drawn = setflow.StandardNormal((3,)), []
    real_probes, real_noise = hutchinson.draw_probes, torch.randn

    def probes(*arguments):
        drawn[-1].append(real_probes(*arguments))
        return drawn[-1][-1]

    def noise(*arguments, **options):
        drawn[-1].append(real_noise(*arguments, **options))
        return drawn[-1][-1]

    monkeypatch.setattr(hutchinson, "draw_probes", probes)
    monkeypatch.setattr(torch, "randn", noise)
    ends = []
    for overhead in (0, 10**9):
        for module in (planning, exact, hutchinson):
            monkeypatch.setattr(module, "_CPU_OVERHEAD", overhead)
        drawn.append([])
        generator = torch.Generator().manual_seed(1)
        log_p = [
            setflow.masked_log_prob(
                field, base, setflow.Midpoint(2), x, mask, generator=generator,
                estimator=setflow.HutchinsonDivergence(2, renew=renew, probe=probe),
            )
            for renew in (False, True) for probe in ("rademacher", "gaussian")
        ]  # fmt: skip
        diffusion = setflow.Diffusion(
            field, setflow.VPSchedule(), setflow.EulerMaruyama(3), parameterization="eps",
            event_shape=(3,), t0=0.99,
        )  # fmt: skip
        ends.append([*log_p, diffusion(mask=mask).sample((2,), generator=generator)])
    assert len(drawn[0]) == 2 * (1 + 4) + 3 + 1  # fixed, renewed; three steps and the start
    assert len(drawn[0]) == len(drawn[1])
    assert all(map(torch.equal, *drawn))
    for cut, whole in zip(*ends, strict=True):
        torch.testing.assert_close(cut, whole, rtol=0, atol=1e-10)


class _Kernels(TorchDispatchMode):
    """Counts what is given to a device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += "view" not in str(function) and function not in _VIEWS
        return function(*args, **(kwargs or {}))


_VIEWS = {
    torch.ops.aten.expand.default, torch.ops.aten.unsqueeze.default, torch.ops.aten.t.default,
    torch.ops.aten.slice.Tensor, torch.ops.aten.split.Tensor, torch.ops.aten.select.int,
    torch.ops.aten.transpose.int, torch.ops.aten.permute.default, torch.ops.aten.detach.default,
    torch.ops.aten.alias.default, torch.ops.aten.squeeze.dim, torch.ops.aten.unbind.int,
}  # fmt: skip


@torch.no_grad()
def test_an_evaluation_of_a_solve_costs_little_more_than_the_field(no_overhead, monkeypatch):
    """Kernels of an evaluation and group within 1.2 times those of the field alone."""
    monkeypatch.setattr(planning, "is_readable", lambda mask: True)  # also while they are counted
    field = setflow.TransformerField(3, hidden=32, layers=4)
    lengths = torch.tensor([24, 24, 17, 17, 9, 9, 4, 4])
    mask = torch.arange(24) < lengths[:, None]
    base, noise = setflow.StandardNormal((3,)), torch.randn(8, 24, 3)

    def kernels(run):
        with _Kernels() as seen:
            run()
        return seen.count

    def steps(count):
        solver = setflow.Euler(count)
        return kernels(lambda: setflow.masked_sample(field, base, solver, mask, x_source=noise))

    own = sum(
        kernels(lambda n=n: field(torch.randn(2, n, 3), torch.rand(2), mask=torch.ones(2, n) > 0))
        - 4  # what makes its arguments
        for n in lengths.unique().tolist()
    )
    more = (steps(5) - steps(3)) / 2
    assert own < more < 1.2 * own


@torch.no_grad()
def test_an_evaluation_of_a_density_costs_little_more_than_the_field(no_overhead, monkeypatch):
    """As above, of the field and one product with its Jacobian."""
    monkeypatch.setattr(planning, "is_readable", lambda mask: True)
    field = setflow.TransformerField(3, hidden=32, layers=4)
    lengths = torch.tensor([24, 24, 17, 17, 9, 9, 4, 4])
    mask = torch.arange(24) < lengths[:, None]
    base, x = setflow.StandardNormal((3,)), torch.randn(8, 24, 3)

    def kernels(run):
        with _Kernels() as seen:
            run()
        return seen.count

    @torch.enable_grad()
    def alone(state, t, real):
        v = field(state, t, mask=real)
        torch.autograd.grad(v, state, v.detach(), retain_graph=True)

    own = 0
    for n in lengths.unique().tolist():
        state, real = torch.randn(2, n, 3, requires_grad=True), torch.ones(2, n) > 0
        own += kernels(lambda state=state, real=real: alone(state, torch.full((2,), 0.5), real)) - 1

    def steps(count, solver):
        estimator = setflow.HutchinsonDivergence()
        return kernels(
            lambda: setflow.masked_log_prob(
                field, base, solver(count), x, mask, estimator=estimator
            )
        )

    more = (steps(5, setflow.Euler) - steps(3, setflow.Euler)) / 2
    assert own < more < 1.2 * own
