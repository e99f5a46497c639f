"""`GraphField`: its formula written out, its continuity, its graphs, torch-scatter; SetBatch there
and back to torch-geometric. The contract of every field is in `test_fields.py`."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import jvp, vjp, vmap
from torch_geometric.data import Batch, Data

import setflow
from each import each
from laws.laws import LAWS, cases, redraw, to_device
from laws.subjects import log_prob_of, loss_of, sample_of
from masking.test_normalisation import shrunk, total_on_the_line
from setflow import GraphField, SetBatch
from setflow.fields.graph import _neighbours
from setflow.sets.events import Events

SMALL = {"hidden": 8, "layers": 2, "messages": 8}
# name: options of the field, options of the cases
GRAPHS = {
    "attention": ({"k": 2}, {}),
    "edgeconv": (
        {"k": 2, "aggregation": "edgeconv", "coordinates": [0, 2], "condition_dim": 2},
        {"context": 2},
    ),
    "complete": ({"k": None}, {}),
    "more neighbours than objects": ({"k": 50, "coordinates": [1]}, {}),
    "fixed": (
        {"k": 2, "object_condition_dim": 3, "graph_from": "context", "coordinates": [0, 2]},
        {"object_context": 3},
    ),
}
VERBS = {"loss": loss_of, "sample": sample_of, "log_prob": log_prob_of}


def built(name, layers=2):
    """A field with redrawn weights, and a batch with holes and an empty event to call it with."""
    options, context = GRAPHS[name]
    case = dict(cases(**context))["lead1"]
    field = redraw(GraphField(3, hidden=8, layers=layers, messages=8, **options))
    return field, case, case.c if case.c_object is None else case.c_object


@each("law", LAWS)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ["edgeconv", "fixed"])  # `test_laws` has attention
def test_the_verbs_keep_the_law(name, verb, law, device):
    field = built(name, layers=1)[0].to(device)
    for lead, case in cases(**GRAPHS[name][1]):
        if law != "emptiness" or lead != "lead0":  # its one event has objects
            LAWS[law](VERBS[verb](field), to_device(case, device))


# --- the formula ---


def written_out(field: GraphField, x: Tensor, t: Tensor, c: Tensor | None, c_object: Tensor | None):
    """The velocity of one event of real objects, `(n, dim)`, edge by edge."""
    n = len(x)
    positions = x if field.graph_from == "state" else c_object
    if field.coordinates is not None:
        positions = torch.stack([positions[:, column] for column in field.coordinates], -1)
    features = x if c_object is None else torch.cat([x, c_object], -1)
    neighbours = []  # of each object: (index, weight, squared distance)
    for i in range(n):
        apart = {j: sum((positions[j] - positions[i]) ** 2) for j in range(n) if j != i}
        nearest = sorted(apart, key=apart.get)
        if field.k is None or len(nearest) <= field.k:
            neighbours.append([(j, 1.0, apart[j]) for j in nearest])
        else:
            cutoff = apart[nearest[field.k]]
            u = {j: (cutoff - apart[j]) / (cutoff + 1e-4) for j in nearest[: field.k]}
            neighbours.append([(j, 3 * u[j] ** 2 - 2 * u[j] ** 3, apart[j]) for j in u])
    condition = field.condition(t, torch.tensor(float(n)), c)

    def norm(h, shift, scale):
        return F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift

    h = field.embed(features)
    for block in field.blocks:
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = block.modulation(condition).chunk(6)
        nodes = torch.cat([norm(h, shift_a, scale_a), features], -1)
        received = [arrives(block.receive, nodes, i, neighbours[i]) for i in range(n)]
        h = h + gate_a * block.project(torch.stack(received))
        mean = sum(F.layer_norm(row, row.shape, eps=1e-6) for row in h) / n
        shift_f = shift_f + block.whole(mean)
        h = h + gate_f * block.down(F.gelu(block.up(norm(h, shift_f, scale_f))))
    shift, scale = field.final_modulation(condition).chunk(2)
    return field.out(norm(h, shift, scale)) + field.skip(condition) * x


def arrives(layer, nodes, i, neighbours):
    heads = layer.heads or 1
    total, strengths = torch.zeros(heads, layer.receiver.out_features // heads), torch.ones(heads)
    for j, weight, squared in neighbours:
        distance = [torch.as_tensor(weight), torch.log(1 + squared), torch.log(1 + 100 * squared)]
        message = F.silu(
            layer.receiver(nodes[i]) + layer.sender(nodes[j]) + layer.edge(torch.stack(distance))
        )
        score = 5 * torch.tanh(layer.score(message) / 5) if layer.heads else torch.zeros(1)
        strength = weight * torch.exp(score)
        total = total + strength[:, None] * message.reshape(heads, -1)
        strengths = strengths + strength
    return (total / strengths[:, None]).flatten()


@pytest.mark.parametrize("name", GRAPHS)
def test_it_is_its_formula_edge_by_edge(name):
    field, case, context = built(name)
    v = field(case.x, case.t, context, mask=case.mask)
    for event, real in enumerate(case.mask):
        if real.any():
            c = None if case.c is None else case.c[event]
            c_object = None if case.c_object is None else case.c_object[event, real]
            expected = written_out(field, case.x[event, real], case.t[event], c, c_object)
            torch.testing.assert_close(v[event, real], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("aggregation", ["attention", "edgeconv"])
def test_memory_that_is_used_again_changes_nothing(aggregation):
    """Without gradients the messages are computed in place, also under transforms."""
    field = redraw(GraphField(3, k=2, aggregation=aggregation, **SMALL))
    x, u = torch.randn(2, 4, 6, 3)
    t = torch.rand(4)

    def results():
        v, forward = jvp(lambda x: field(x, t), (x,), (u,))
        pulled = vjp(lambda x: field(x, t), x)[1](u)[0]
        many = vmap(lambda u: jvp(lambda x: field(x, t), (x,), (u,))[1])(torch.stack([u, x]))
        return [v, forward, pulled, many, vmap(field)(x, t)]

    expected = results()
    with torch.no_grad():
        got = results()
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def _kept_for_the_way_back(field: GraphField, x: Tensor) -> int:
    """The bytes of what a loss keeps for its gradient, without the weights."""
    kept = {}

    def pack(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value  # alive, so that no address comes twice
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        loss = setflow.masked_fm_loss(field, x, torch.zeros_like(x), None, 0.5)
    for weights in field.parameters():
        kept.pop(weights.untyped_storage().data_ptr(), None)
    loss.backward()
    return sum(value.untyped_storage().nbytes() for value in kept.values())


def test_a_training_keeps_little_for_the_way_back_and_the_same_gradients():
    """At most 30 kB an object in float32 at the default size; what is on the edges comes again."""
    x = torch.randn(8, 40, 3, dtype=torch.float32)
    field = redraw(GraphField(3).float())
    gradients = {}
    for training, (low, high) in ((True, (5e3, 30e3)), (False, (60e3, 100e3))):
        field.train(training).zero_grad()
        assert low < _kept_for_the_way_back(field, x) / 320 < high
        gradients[training] = [weights.grad.clone() for weights in field.parameters()]
    for twice, once in zip(gradients[True], gradients[False], strict=True):
        assert torch.equal(twice, once)


def test_second_derivatives_and_transforms_of_a_field_in_training_are_those_of_any_other():
    field, case, _ = built("attention")
    weights = {name: value.detach() for name, value in field.named_parameters()}
    t = torch.full(case.x.shape[:1], 0.3)

    def penalty():
        loss = field(case.x, t, mask=case.mask).square().sum()
        first = torch.autograd.grad(loss, list(field.parameters()), create_graph=True)
        return torch.autograd.grad(sum(part.square().sum() for part in first), field.embed.weight)

    def loss(weights):
        out = torch.func.functional_call(field, weights, (case.x, t), {"mask": case.mask})
        return out.square().sum()

    field.eval()
    expected = penalty()
    slopes = torch.func.grad(loss)(weights)
    field.train()
    torch.testing.assert_close(penalty(), expected)
    torch.testing.assert_close(torch.func.grad(loss)(weights), slopes)


def test_as_many_neighbours_as_others_is_the_complete_graph():
    complete = built("complete")[0]
    x, t = torch.randn(4, 6, 3), torch.rand(4)
    for k, same in [(4, False), (5, True), (6, True), (30, True)]:
        nearest = GraphField(3, k=k, **SMALL)
        nearest.load_state_dict(complete.state_dict())
        difference = (nearest(x, t) - complete(x, t)).abs().max()
        assert (difference < 1e-12) == same


def test_a_fixed_graph_does_not_follow_the_state():
    """Moving an object is felt by those alone whose neighbour it is in the context."""
    field, x = (
        GraphField(
            1, k=1, object_condition_dim=1, graph_from="context", hidden=8, layers=1, messages=8
        ),
        torch.zeros(1, 4, 1),
    )
    redraw(field)
    with torch.no_grad():
        field.blocks[0].whole.weight.zero_()  # what all objects see
    c = torch.tensor([0.0, 1.0, 5.0, 6.5])[None, :, None]
    moved = x.clone()
    moved[0, 3] = 0.9
    changed = (field(moved, 0.5, c) - field(x, 0.5, c)).abs().squeeze() > 1e-6
    assert changed.tolist() == [False, False, True, True]


# --- continuity ---


class HardGraph(GraphField):
    """The same field with an edge or none: what everybody else builds."""

    def _edges(self, events: Events):
        edges = super()._edges(events)
        weight = (edges.weight > 0).to(edges.weight)
        features = torch.cat([weight[..., None], edges.features[..., 1:]], -1)
        return edges._replace(weight=weight, features=features)


def largest_steps(field, count):
    """The largest change of the velocity between neighbouring points of a walk through the set."""
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(7)).repeat(count, 1, 1)
    x[:, 0, 0] = torch.linspace(-2, 2, count)
    with torch.no_grad():
        v = field(x, 0.4)
    return v.diff(dim=0).abs().max().item()


@pytest.mark.parametrize("aggregation", ["attention", "edgeconv"])
def test_the_velocity_is_continuous_where_neighbours_change(aggregation):
    options = {"k": 2, "aggregation": aggregation, "coordinates": [0, 1]}
    soft, hard = (redraw(kind(3, **options, **SMALL)) for kind in (GraphField, HardGraph))
    coarse, fine = (largest_steps(soft, count) for count in (2001, 4001))
    assert fine < 0.6 * coarse
    assert fine < 0.1 * largest_steps(hard, 4001)
    assert largest_steps(hard, 4001) > 0.9 * largest_steps(hard, 2001)


def total(kind, aggregation):
    """The total probability of a field whose messages matter."""
    field = kind(1, hidden=8, layers=1, messages=8, k=1, aggregation=aggregation)
    field = shrunk(redraw(field))
    with torch.no_grad():
        field.blocks[0].project.weight.mul_(3)
    return total_on_the_line(field, nodes=18)


def test_a_hard_graph_loses_probability():
    assert total(HardGraph, "edgeconv") < 0.97
    assert total(GraphField, "edgeconv") == pytest.approx(1, abs=3e-3)


# --- neighbours ---


def test_neighbours_are_the_nearest_real_ones_and_fade_to_nothing():
    x = torch.tensor([[0.0], [9.0], [1.0], [-2.0], [4.0], [0.5]])[None]
    mask = torch.tensor([[True, False, True, True, True, False]])
    sender, exists, squared, weight = _neighbours(x, mask, 2)
    assert sender[0, 0].tolist() == [2, 3]
    assert squared[0, 0].tolist() == [1.0, 4.0]
    u = torch.tensor([15.0, 12.0]) / 16.0001
    torch.testing.assert_close(weight[0, 0], u**2 * (3 - 2 * u))
    assert exists[0].any(-1).tolist() == mask[0].tolist()
    assert (weight[0, ~mask[0]] == 0).all()
    sender, exists, _, weight = _neighbours(x, mask, 3)  # all the others
    assert weight[0, 0].tolist() == [1.0, 1.0, 1.0]
    assert exists.sum() == 12


@pytest.mark.parametrize("k", [1, 2, 3])
def test_ties_and_heaps_do_not_depend_on_the_order(k):
    """A square, whose corners have two neighbours at one distance, and objects in one place."""
    corners = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    heap = torch.tensor([[0.3, 0.3]]).repeat(4, 1)
    places = torch.stack([torch.cat([corners, heap]), corners.repeat(2, 1)])
    x = torch.cat([places, torch.randn(2, 8, 1)], -1).requires_grad_()
    field = redraw(GraphField(3, k=k, coordinates=[0, 1], **SMALL))
    v = field(x, 0.3)
    (gradient,) = torch.autograd.grad(v.square().sum(), x)
    assert gradient.isfinite().all()
    for seed in range(5):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(field(x[:, order], 0.3), v[:, order], rtol=1e-10, atol=1e-10)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of inductor's own imports
def test_compiled_neighbours_are_those_of_batches_of_any_shape():
    """With a size of min(k + 1, N), dynamic, inductor once read beyond the end."""
    torch.compiler.reset()
    compiled = torch.compile(_neighbours, fullgraph=True, dynamic=True)
    generator = torch.Generator().manual_seed(1)
    for events, slots in [(6, 9), (9, 5)]:
        x = torch.randn(events, slots, 2, generator=generator)
        mask = torch.rand(events, slots, generator=generator) > 0.3
        got, expected = compiled(x, mask, 3), _neighbours(x, mask, 3)
        exists = expected[1]
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(ours[exists], theirs[exists])


def test_distances_keep_their_digits_in_short_arithmetic():
    """Far from the origin, where bfloat16 cannot tell the objects apart."""
    x = 100 + torch.randn(2, 9, 3).float()
    field = GraphField(3, k=2, **SMALL).float()
    events = Events(x, None, 2, torch.rand(2))
    expected = field._edges(events)
    with torch.autocast("cpu", torch.bfloat16):
        got = field._edges(events)
    assert got.weight.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "positive integers, got hidden=0"),
        ({"layers": 0}, "layers=0"),
        ({"k": 0}, "k must be a positive integer, got 0"),
        ({"messages": 6}, "multiple of 4"),
        ({"aggregation": "max"}, "expected 'attention' or 'edgeconv'"),
        ({"graph_from": "x"}, "expected 'state' or 'context'"),
        ({"graph_from": "context"}, "object_condition_dim=0"),
        ({"coordinates": [3]}, "counted from 0 to 2"),
        ({"coordinates": [-1]}, "counted from 0 to 2"),
        ({"coordinates": [0.0, 1.0]}, "counted from 0 to 2"),
        ({"coordinates": [1, 1]}, "different columns"),
        ({"coordinates": []}, "different columns"),
        (
            {"graph_from": "context", "object_condition_dim": 2, "coordinates": [2]},
            "columns of the context, counted from 0 to 1",
        ),
        ({"condition_dim": 1, "object_condition_dim": 1}, "excludes"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GraphField(3, **options)


def test_torch_geometric_is_imported_with_the_first_field():
    source = (
        "import sys, setflow; assert 'torch_geometric' not in sys.modules;"
        "setflow.GraphField(1, hidden=8, layers=1); assert 'torch_geometric' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", source], check=True)


# --- torch-scatter ---


def derivatives(field, x, t, mask, vectors):
    """The velocity, its gradients, and products with its Jacobian in each mode, one and several."""

    def f(x):
        return field(x, t, mask=mask)

    x = x.clone().requires_grad_()
    v = f(x)
    gradients = torch.autograd.grad(
        v.square().sum(), [x, *field.parameters()], retain_graph=True, create_graph=True
    )
    again = torch.autograd.grad(gradients[0].square().sum(), x, retain_graph=True)
    several = torch.autograd.grad(v, x, vectors, is_grads_batched=True, retain_graph=True)
    forward = vmap(lambda vector: jvp(f, (x.detach(),), (vector,))[1])(vectors)
    each = vmap(lambda x, t, mask: field(x, t, mask=mask))(x, t, mask)
    return [v, *gradients, *again, *several, forward, each]


@pytest.mark.parametrize("aggregation", ["attention", "edgeconv"])
def test_torch_scatter_gives_the_same_numbers(aggregation, monkeypatch):
    pytest.importorskip("torch_scatter", reason="torch-scatter is not installed: make test-scatter")
    import torch_geometric.typing
    from torch_geometric.utils import _segment

    used = []
    kernel = _segment.torch_scatter.segment_csr
    monkeypatch.setattr(
        _segment.torch_scatter, "segment_csr", lambda *a, **o: used.append(1) or kernel(*a, **o)
    )
    field = redraw(GraphField(3, k=3, aggregation=aggregation, **SMALL))
    case = dict(cases())["lead1"]
    arguments = (field, case.x, case.t, case.mask, torch.randn(3, *case.x.shape))
    with_it = derivatives(*arguments)
    assert used
    used.clear()
    monkeypatch.setattr(torch_geometric.typing, "WITH_TORCH_SCATTER", False)
    without = derivatives(*arguments)
    assert not used
    for got, expected in zip(with_it, without, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


# --- SetBatch and torch-geometric ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("features", [(3,), (2, 2)])
def test_sets_become_graphs_and_come_back(features, dtype, device):
    mask = torch.tensor([[0, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    x = torch.randn(4, 5, *features).masked_fill(
        ~mask.bool().reshape(4, 5, *(1 for _ in features)), math.nan
    )
    batch = SetBatch(x, mask, torch.randn(4, 2)).to(device, dtype)
    graphs = batch.to_pyg()
    assert isinstance(graphs, Batch)
    assert graphs.num_graphs == 4
    assert graphs.x.shape == (8, *features)
    assert graphs.batch.tolist() == [0] * 3 + [2] * 5
    assert graphs.ptr.tolist() == [0, 3, 3, 8, 8]
    assert torch.equal(graphs[2].x, batch.x[2])
    back = SetBatch.from_pyg(graphs)
    assert back.lengths.tolist() == [3, 0, 5, 0]
    assert back.mask[0].tolist() == [True, True, True, False, False]
    assert torch.equal(back.x[0, :3], batch.x[0, batch.mask[0]])
    assert torch.equal(back.x[2], batch.x[2])
    assert torch.equal(back.c, batch.c)
    assert (back.x.dtype, back.c.dtype) == (dtype, dtype)
    assert back.x.device == back.mask.device == batch.x.device
    assert SetBatch.from_pyg(graphs, length=9).x.shape == (4, 9, *features)
    again = SetBatch.from_pyg(back.to_pyg())
    assert torch.equal(again.x, back.x)


def test_graphs_of_others_are_read_with_their_edges_left_out():
    edges = torch.tensor([[0, 1], [1, 0]])
    one = Data(x=torch.randn(2, 3), edge_index=edges)
    assert SetBatch.from_pyg(one).x.shape == (1, 2, 3)
    empty = Data(x=torch.zeros(0, 3), edge_index=edges[:, :0])
    both = SetBatch.from_pyg(Batch.from_data_list([one, empty, one]))
    assert both.lengths.tolist() == [2, 0, 2]
    assert both.c is None
    nothing = SetBatch(torch.randn(2, 5, 3), torch.zeros(2, 5)).to_pyg()
    assert nothing.num_graphs == 2
    assert SetBatch.from_pyg(nothing).x.shape == (2, 0, 3)


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda: SetBatch(torch.zeros(5, 3), torch.ones(5)).to_pyg(), "one batch dimension"),
        (lambda: SetBatch(torch.zeros(2, 2, 5, 3), torch.ones(2, 2, 5)).to_pyg(), r"\(2, 2\)"),
        (lambda: SetBatch(torch.zeros(0, 5, 3), torch.ones(0, 5)).to_pyg(), "at least one event"),
        (lambda: SetBatch.from_pyg(Data(num_nodes=2)), "expected the objects as `x`"),
        (
            lambda: SetBatch.from_pyg(Data(x=torch.zeros(2, 3), batch=torch.zeros(2))),
            "from_data_list",
        ),
        (
            lambda: SetBatch.from_pyg(Data(x=torch.zeros(2, 3), c=torch.zeros(3, 1))),
            "one row per event",
        ),
        (lambda: SetBatch.from_pyg(Data(x=torch.zeros(2, 3)), length=1), "does not fit"),
    ],
)
def test_what_is_no_batch_of_sets_is_refused(convert, message):
    with pytest.raises(ValueError, match=message):
        convert()


def test_a_field_samples_what_a_graph_network_reads():
    """From noise through the field to graphs, events without objects included."""
    mask = torch.arange(6) < torch.tensor([3, 0, 6])[:, None]
    field = redraw(GraphField(2, k=2, **SMALL))
    x = setflow.masked_sample(
        field, setflow.StandardNormal((2,)), setflow.Midpoint(steps=2), mask,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert SetBatch(x.detach(), mask).to_pyg().x.shape == (9, 2)
