"""Fields one by one: sizes, shapes, errors, and what a contract test cannot ask of all."""

from __future__ import annotations

import pytest
import torch

import setflow
from laws import redraw

TRANSFORMER = {"hidden": 16, "layers": 2, "heads": 4}


def test_velocity_field_has_the_documented_size():
    assert sum(p.numel() for p in setflow.VelocityField(dim=2, hidden=128).parameters()) == 33_794


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_velocity_field_acts_on_single_vectors(lead):
    field = setflow.VelocityField(3, hidden=8, condition_dim=2, layers=1)
    x, t, c = torch.randn(*lead, 3), torch.rand(lead), torch.randn(*lead, 2)
    v = field(x, t, c)
    assert v.shape == x.shape
    if lead:
        torch.testing.assert_close(
            v.flatten(0, -2)[-1], field(x.flatten(0, -2)[-1], t.flatten()[-1], c.flatten(0, -2)[-1])
        )


def test_the_velocity_of_an_untrained_transformer_is_zero():
    """Gates start at zero: training begins at the mean."""
    x = torch.randn(4, 6, 3)
    assert setflow.TransformerField(3, **TRANSFORMER)(x, 0.5).abs().max() == 0


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_transformer_takes_any_lead_shape(lead):
    field = redraw(setflow.TransformerField(3, condition_dim=2, **TRANSFORMER))
    x, t, c = torch.randn(*lead, 5, 3), torch.rand(lead), torch.randn(*lead, 2)
    mask = torch.rand(*lead, 5) > 0.3
    v = field(x, t, c, mask=mask)
    assert v.shape == x.shape
    flat = field(x.reshape(-1, 5, 3), t.reshape(-1), c.reshape(-1, 2), mask=mask.reshape(-1, 5))
    torch.testing.assert_close(v.reshape(-1, 5, 3), flat)


def test_transformer_sees_how_many_objects_there_are():
    """Attention alone is a mean: two copies of one object look like one."""
    field = redraw(setflow.TransformerField(3, **TRANSFORMER))
    one = torch.randn(1, 1, 3)
    difference = field(one.expand(1, 2, 3), 0.5)[:, :1] - field(one, 0.5)
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["time", "context"])
def test_transformer_listens_to(name):
    field = redraw(setflow.TransformerField(3, condition_dim=2, **TRANSFORMER))
    x, c = torch.randn(1, 4, 3), torch.randn(1, 2)
    other = field(x, 0.9, c) if name == "time" else field(x, 0.2, c + 1)
    assert (other - field(x, 0.2, c)).abs().max() > 1e-3


def test_transformer_on_sets_without_slots():
    field = redraw(setflow.TransformerField(3, **TRANSFORMER))
    assert field(torch.zeros(4, 0, 3), 0.5, mask=torch.zeros(4, 0, dtype=torch.bool)).shape == (
        4,
        0,
        3,
    )


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_transformer_is_the_same_in_training_and_evaluation(mode):
    field = redraw(setflow.TransformerField(3, **TRANSFORMER))
    x, mask = torch.randn(3, 5, 3), torch.tensor([[1] * 5, [0] * 5, [1, 0, 1, 0, 0]]).bool()
    expected = field(x, 0.3, mask=mask)
    with torch.no_grad():
        torch.testing.assert_close(getattr(field, mode)()(x, 0.3, mask=mask), expected)


def test_transformer_under_bfloat16_autocast():
    field = redraw(setflow.TransformerField(3, **TRANSFORMER)).float()
    x, mask = torch.randn(3, 5, 3).float(), torch.tensor([[1] * 5, [0] * 5, [1, 0, 1, 0, 0]]).bool()
    exact = field(x, 0.3, mask=mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        v = field(x, 0.3, mask=mask)
    assert v[1].abs().max() == 0
    assert (v - exact).norm() < 0.05 * exact.norm()


def test_transformer_compiles_without_graph_breaks():
    field = redraw(setflow.TransformerField(3, **TRANSFORMER)).float()
    x, t = torch.randn(3, 5, 3).float(), torch.rand(3).float()
    mask = torch.rand(3, 5) > 0.3
    compiled = torch.compile(field, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, t, mask=mask), field(x, t, mask=mask))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(2, 5, 4)}, r"expected features \(3,\)"),
        ({"t": torch.zeros(5)}, "expected a scalar or"),
        ({"t": torch.zeros(2, 1, 1)}, "expected a scalar or"),
        ({"c": None}, "got no context"),
        ({"c": torch.zeros(2, 3)}, r"expected \(2, 2\)"),
        ({"c": torch.zeros(2)}, r"expected \(2, 2\)"),
        ({"mask": torch.ones(5)}, r"expected \(2, 5\)"),
    ],
)
def test_transformer_refuses(arguments, message):
    field = setflow.TransformerField(3, condition_dim=2, **TRANSFORMER)
    good = {"x": torch.zeros(2, 5, 3), "t": torch.zeros(2), "c": torch.zeros(2, 2), "mask": None}
    with pytest.raises(ValueError, match=message):
        field(**(good | arguments))


def test_a_field_without_context_refuses_one():
    with pytest.raises(ValueError, match="condition_dim=4"):
        setflow.VelocityField(3)(torch.zeros(2, 3), 0.5, torch.zeros(2, 4))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="multiple of heads"):
        setflow.TransformerField(3, hidden=10, heads=4)
