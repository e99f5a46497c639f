"""`EPiCField`: its formula written out, its size, a wrong pooling; the contract has the rest."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from bench.published import PublishedEPiC, published_twin
from laws.laws import LAWS, cases, redraw
from laws.subjects import velocity_of
from setflow.fields import EPiCField, epic

SMALL = {"hidden": 16, "latent": 4, "layers": 2}
FIELDS = {
    "epic": ({}, {}),
    "epic with context": ({"condition_dim": 2}, {"context": 2}),
    "epic with object context": ({"object_condition_dim": 2}, {"object_context": 2}),
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


def pooled_over_slots(state, real, n):
    return POOLED(state, None, n)


def mean_over_slots(state, real, n):
    mean, total = POOLED(state, real, n).chunk(2, -1)
    return torch.cat([mean * n[:, None] / state.h.shape[1], total], -1)


POOLED = epic._State.pooled


@pytest.mark.parametrize("mistake", [pooled_over_slots, mean_over_slots])
def test_a_wrong_pooling_is_caught(monkeypatch, mistake):
    field, case, _ = built("epic")
    monkeypatch.setattr(epic._State, "pooled", mistake)
    with pytest.raises(AssertionError, match="differs"):
        LAWS["length"](velocity_of(field), case)


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
    e = torch.cat([field.condition.time(t), torch.tensor([math.log(1 + n)]), c])

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


def test_a_thousand_objects_keep_the_scale():
    torch.manual_seed(1)
    field = EPiCField(3)
    torch.nn.init.normal_(field.out.linear.weight, std=0.1)
    sizes = [
        field(torch.randn(16, n, 3), 0.5).square().mean().sqrt().item() for n in (10, 100, 1000)
    ]
    assert max(sizes) < 4 * min(sizes)


# --- inputs ---


@pytest.mark.parametrize(
    "sizes", [{"hidden": 0}, {"latent": 0}, {"layers": 0}, {"condition_dim": -1}]
)
def test_sizes_must_be_positive(sizes):
    with pytest.raises(ValueError, match=r"sizes must be .*integers.*, got"):
        EPiCField(3, **sizes)


def test_two_kinds_of_context_exclude_each_other():
    with pytest.raises(ValueError, match="excludes condition_dim=2"):
        EPiCField(3, condition_dim=2, object_condition_dim=2)
