"""`EPiCField`: its formula written out, its size, its inputs, and what may be done with it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.func import jvp, vjp, vmap

import setflow
from bench.published import PublishedEPiC, published_twin
from laws import LAWS, cases, redraw, to_device
from setflow.fields import EPiCField, epic
from subjects import log_prob_of, loss_of, sample_of, velocity_of
from test_normalisation import ratios_in_the_plane, total_on_the_line

SMALL = {"hidden": 16, "latent": 4, "layers": 2}
FIELDS = {
    "epic": ({}, {}),
    "epic with context": ({"condition_dim": 2}, {"context": 2}),
    "epic with object context": ({"object_condition_dim": 2}, {"object_context": 2}),
}
SUBJECTS = {
    "velocity": velocity_of,
    "loss": loss_of,
    "sample": sample_of,
    "log_prob": log_prob_of,
}


def built(name):
    """A field with redrawn weights, and a batch with holes and an empty event to call it with."""
    sizes, options = FIELDS[name]
    case = dict(cases(**options))["lead1"]
    field = redraw(EPiCField(3, **sizes, **SMALL))
    return field, case, case.c if case.c_object is None else case.c_object


def size_of(module):
    return sum(parameter.numel() for parameter in module.parameters())


# --- the laws ---


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("name", FIELDS)
def test_the_laws(name, subject, law, device):
    field = built(name)[0].to(device)
    for lead, case in cases(**FIELDS[name][1]):
        if law != "emptiness" or lead != "lead0":  # its one event has objects
            LAWS[law](SUBJECTS[subject](field), to_device(case, device))


def pooled_over_slots(state, inputs):
    return POOLED(state, inputs._replace(mask=None))


def mean_over_slots(state, inputs):
    mean, total = POOLED(state, inputs).chunk(2, -1)
    return torch.cat([mean * inputs.n[:, None] / inputs.x.shape[1], total], -1)


POOLED = epic._State.pooled


@pytest.mark.parametrize("mistake", [pooled_over_slots, mean_over_slots])
def test_a_wrong_pooling_is_caught(monkeypatch, mistake):
    field, case, _ = built("epic")
    monkeypatch.setattr(epic._State, "pooled", mistake)
    with pytest.raises(AssertionError, match="differs"):
        LAWS["length"](velocity_of(field), case)


def test_one_object_moves_another():
    field, case, _ = built("epic")
    moved = case.x.clone()
    moved[1, 0] += 1.0
    before, after = (field(x, case.t, mask=case.mask) for x in (case.x, moved))
    assert (after - before)[1, 1:].abs().max() > 1e-3


def test_two_copies_of_an_object_are_not_one():
    field, x = built("epic")[0], torch.randn(1, 1, 3)
    difference = field(x.expand(1, 2, 3), 0.5)[:, :1] - field(x, 0.5)
    assert difference.abs().max() > 1e-3


# --- the formula ---


def row_map(layer, *parts):
    linear = getattr(layer, "linear", layer)
    return linear.weight @ torch.cat(parts) + linear.bias


def written_out(field, x, t, c, c_object):
    """The velocity of the n real objects x of one event, object by object."""
    n, objects = len(x), range(len(x))
    e = torch.cat([field.time(t), torch.tensor([math.log(1 + n)]), c])

    def pooled(h):
        total = sum(h, torch.zeros(field.hidden))
        return torch.cat([total / max(n, 1), total / 100])

    h = [F.silu(row_map(field.embed, c_object[i], x[i], e)) for i in objects]
    h = [F.silu(row_map(field.embed_update, c_object[i], h[i], e) + h[i]) for i in objects]
    g = F.silu(row_map(field.pooled, pooled(h), e))
    g = F.silu(row_map(field.pooled_update, g, e))
    for block in field.blocks:
        u = F.silu(row_map(block.pooled, pooled(h), g, e))
        g = g + row_map(block.pooled_update, u, e)
        u = [F.silu(row_map(block.local, c_object[i], h[i], g, e)) for i in objects]
        h = [h[i] + row_map(block.local_update, c_object[i], u[i], e) for i in objects]
    gain = row_map(field.skip, e)
    return [row_map(field.out, c_object[i], h[i], e) + gain * x[i] for i in objects]


@pytest.mark.parametrize("name", FIELDS)
def test_the_velocity_is_the_formula_on_real_objects(name):
    field, case, context = built(name)
    got = field(case.x, case.t, context, mask=case.mask)
    for k, real in enumerate(case.mask):
        c = torch.zeros(0) if case.c is None else case.c[k]
        rows = torch.zeros(len(real), 0) if case.c_object is None else case.c_object[k]
        expected = written_out(field, case.x[k, real], case.t[k], c, rows[real])
        assert len(expected) == real.sum()
        for v, value in zip(got[k, real], expected, strict=True):
            torch.testing.assert_close(v, value)
        assert (got[k, ~real] == 0).all()


@pytest.mark.parametrize("condition_dim", [0, 2])
def test_the_published_arithmetic_gives_the_same_velocity(condition_dim):
    """Joined rows and normalised weights, with the published residuals moved to our place."""
    field = redraw(EPiCField(3, condition_dim=condition_dim, **SMALL))
    torch.nn.init.zeros_(field.skip.weight)
    torch.nn.init.zeros_(field.skip.bias)
    case = dict(cases(context=condition_dim))["lead1"]
    c = case.mask.sum(-1, keepdim=True).to(case.x.dtype).log1p()
    c = c if case.c is None else torch.cat([c, case.c], -1)
    expected = published_twin(field)(case.x, case.t, c, mask=case.mask)
    torch.testing.assert_close(field(case.x, case.t, case.c, mask=case.mask), expected)


def test_size():
    published = size_of(PublishedEPiC(3))
    assert published == 561_330
    assert size_of(EPiCField(3)) == 561_432
    assert abs(size_of(EPiCField(3)) / published - 1) < 0.02


def test_the_velocity_before_training_is_zero():
    assert EPiCField(3, **SMALL)(torch.randn(4, 6, 3), 0.5).abs().max() == 0


@pytest.mark.parametrize("name", FIELDS)
def test_every_parameter_learns(name):
    field, case, context = built(name)
    field(case.x, case.t, context, mask=case.mask).square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in field.parameters())


def test_a_thousand_objects_keep_the_scale():
    torch.manual_seed(1)
    field = EPiCField(3)
    torch.nn.init.normal_(field.out.linear.weight, std=0.1)
    sizes = [
        field(torch.randn(16, n, 3), 0.5).square().mean().sqrt().item() for n in (10, 100, 1000)
    ]
    assert max(sizes) < 4 * min(sizes)


# --- inputs ---


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_any_lead_shape(lead):
    field = redraw(EPiCField(3, condition_dim=2, **SMALL))
    x, t, c = torch.randn(*lead, 5, 3), torch.rand(lead), torch.randn(*lead, 2)
    mask = torch.rand(*lead, 5) > 0.3
    flat = field(x.reshape(-1, 5, 3), t.reshape(-1), c.reshape(-1, 2), mask=mask.reshape(-1, 5))
    torch.testing.assert_close(field(x, t, c, mask=mask), flat.reshape(x.shape))


@pytest.mark.parametrize("shape", [(4, 0, 3), (0, 5, 3)])
def test_nothing_in_the_batch(shape):
    field, mask = built("epic")[0], torch.ones(shape[:-1], dtype=torch.bool)
    assert field(torch.zeros(shape), 0.5, mask=mask).shape == shape


@pytest.mark.parametrize(
    "sizes", [{"hidden": 0}, {"latent": 0}, {"layers": 0}, {"condition_dim": -1}]
)
def test_sizes_must_be_positive(sizes):
    with pytest.raises(ValueError, match="sizes must be positive, got"):
        EPiCField(3, **sizes)


def test_two_kinds_of_context_exclude_each_other():
    with pytest.raises(ValueError, match="excludes condition_dim=2"):
        EPiCField(3, condition_dim=2, object_condition_dim=2)


@pytest.mark.parametrize(
    ("sizes", "features", "c", "message"),
    [
        ({}, 4, None, r"got x with shape \(6, 5, 4\), expected features \(3,\)"),
        ({}, 3, torch.zeros(6, 2), r"takes none; build it with condition_dim=2"),
        ({"condition_dim": 2}, 3, None, r"got no context, expected c with shape \(6, 2\)"),
        ({"condition_dim": 2}, 3, torch.zeros(6, 1), r"got c with shape \(6, 1\), expected"),
        ({"condition_dim": 2}, 3, torch.zeros(2), r"got c with shape \(2,\), expected"),
        ({"object_condition_dim": 2}, 3, None, r"expected c with shape \(6, 5, 2\)"),
        ({"object_condition_dim": 2}, 3, torch.zeros(6, 2), r"expected c with shape \(6, 5, 2\)"),
        (
            {},
            3,
            setflow.SetBatch(torch.zeros(6, 5, 3), torch.ones(6, 5)),
            "got a SetBatch as context but takes none",
        ),
    ],
)
def test_what_does_not_fit_is_refused(sizes, features, c, message):
    with pytest.raises(ValueError, match=message):
        EPiCField(3, **sizes, **SMALL)(torch.zeros(6, 5, features), 0.5, c)


# --- total probability, compilation, transforms ---


def slowly_changing(dim):
    """Weights and frequencies that a rule of few points resolves, though objects still meet."""
    field = redraw(EPiCField(dim, hidden=16, latent=4, layers=1))
    field.time.frequencies.mul_(0.1)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.mul_(0.8)
    return field.double()


def test_total_probability():
    field, x = slowly_changing(1), torch.tensor([[[0.0], [0.5], [1.0]]])
    moved = x + torch.tensor([[1.0], [0.0], [0.0]])
    assert (field(moved, 0.5) - field(x, 0.5))[0, 1:].abs().max() > 1e-3
    assert total_on_the_line(field, nodes=14) == pytest.approx(1, abs=4e-3)
    ratios = ratios_in_the_plane(slowly_changing(2))
    error = ratios.std().item() / len(ratios) ** 0.5
    assert error < 0.02
    assert abs(ratios.mean().item() - 1) < 4 * error


@pytest.mark.parametrize("name", FIELDS)
def test_compiles_without_a_break(name):
    torch.compiler.reset()
    field, case, context = built(name)
    compiled = torch.compile(field, fullgraph=True, backend="aot_eager")
    for mask in (case.mask, None):
        outcome = [f(case.x, case.t, context, mask=mask) for f in (compiled, field)]
        torch.testing.assert_close(*outcome)
        gradients = [torch.autograd.grad(v.square().sum(), [*field.parameters()]) for v in outcome]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", FIELDS)
def test_forward_and_reverse_mode_agree(name):
    field, case, context = built(name)
    tangent, cotangent = torch.randn_like(case.x), torch.randn_like(case.x)

    def velocity(x):
        return field(x, case.t, context, mask=case.mask)

    v, pushed = jvp(velocity, (case.x,), (tangent,))
    _, pull = vjp(velocity, case.x)
    step = 1e-5
    slope = (velocity(case.x + step * tangent) - velocity(case.x - step * tangent)) / (2 * step)
    torch.testing.assert_close(v, velocity(case.x))
    torch.testing.assert_close(pushed, slope, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((pushed * cotangent).sum(), (tangent * pull(cotangent)[0]).sum())


@pytest.mark.parametrize("name", FIELDS)
def test_vmap_over_tangents(name):
    field, case, context = built(name)
    tangents = torch.randn(4, *case.x.shape)

    def velocity(x):
        return field(x, case.t, context, mask=case.mask)

    def push(tangent):
        return jvp(velocity, (case.x,), (tangent,))[1]

    _, pull = vjp(velocity, case.x)
    torch.testing.assert_close(vmap(push)(tangents), torch.stack([push(u) for u in tangents]))
    (pulled,) = vmap(pull)(tangents)
    torch.testing.assert_close(pulled, torch.stack([pull(u)[0] for u in tangents]))


@pytest.mark.parametrize("name", FIELDS)
def test_vmap_over_events(name):
    field, case, context = built(name)
    expected = field(case.x, case.t, context, mask=case.mask)
    if context is None:
        got = vmap(lambda x, t, mask: field(x, t, mask=mask))(case.x, case.t, case.mask)
    else:
        got = vmap(lambda x, t, c, mask: field(x, t, c, mask=mask))(
            case.x, case.t, context, case.mask
        )
    torch.testing.assert_close(got, expected)


def test_vmap_over_times():
    field, case, _ = built("epic")
    got = vmap(lambda t: field(case.x, t.expand(6), mask=case.mask))(case.t)
    torch.testing.assert_close(got[2], field(case.x, case.t[2].item(), mask=case.mask))
