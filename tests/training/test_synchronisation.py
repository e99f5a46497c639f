"""A training step waits for no accelerator: nothing in it looks at the values of a tensor."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

import setflow
from setflow.data import LengthBatchSampler, SetDataset, pad_collate
from setflow.model.encoding import context_columns
from setflow.sets import masks, planning
from setflow.training.conditions import features_of
from setflow.training.data import PlacedDataset
from setflow.training.module import FlowMatchingModule

aten = torch.ops.aten
# what an accelerator must be waited for: its numbers make Python's, or the shape of a result
_WAITING = {
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero,
    aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount, aten.item,
}  # fmt: skip


class _NoLook(TorchDispatchMode):
    """Refuses what looks at values; indices by a boolean mask among it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        indexed = function.overloadpacket in (aten.index, aten.index_put, aten.index_put_)
        if function.overloadpacket in _WAITING or (
            indexed and any(i is not None and i.dtype == torch.bool for i in args[1])
        ):
            raise AssertionError(f"{function} looks at values")
        repeats = function.overloadpacket is aten.repeat_interleave
        if repeats and kwargs.get("output_size") is None:
            raise AssertionError(f"{function} looks at values")
        return function(*args, **kwargs)


@pytest.fixture
def accelerator(monkeypatch):
    """What holds on an accelerator: values are not at hand, and small batches are cut too."""
    monkeypatch.setattr(masks, "_AT_HAND", ())
    monkeypatch.setattr(planning, "_CPU_OVERHEAD", 4)
    monkeypatch.setattr(planning, "is_readable", lambda mask: True)  # also while it is watched


def _refuse(name):
    def refused(*arguments, **options):
        raise AssertionError(f"Tensor.{name} looks at values")

    return refused


@pytest.fixture
def no_look(monkeypatch):
    """Returns a context in which a look at the values of a tensor raises."""

    def within(run):
        with monkeypatch.context() as patch:
            for name in ("tolist", "item", "numpy", "cpu", "__bool__", "__int__", "__float__"):
                patch.setattr(torch.Tensor, name, _refuse(name))
            with _NoLook():
                return run()

    return within


def _data(conditions, count=24, slots=9):
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(0, slots + 1, (count,), generator=generator)
    mask = torch.arange(slots) < lengths[:, None]
    x = torch.randn(count, slots, 3, generator=generator)
    c = torch.randint(0, 3, (count, conditions), generator=generator) if conditions else None
    return setflow.SetBatch(x, mask, None if c is None else c.to(x.dtype))


def _placed(batch):
    data = PlacedDataset(SetDataset(batch))
    sampler = LengthBatchSampler(batch.lengths, 12, window=1)
    return next(iter(DataLoader(data, sampler=sampler, batch_size=None)))


def _collated(batch):
    events = batch.to_ragged()
    items = events if batch.c is None else list(zip(events, batch.c, strict=True))
    return next(iter(DataLoader(items, batch_size=12, collate_fn=pad_collate)))


def _flow(batch, **options):
    conditions = [] if batch.c is None else ["a", "b"]
    width = len(context_columns(features_of(options.get("schema"), conditions)))
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=2, condition_dim=width)
    flow = setflow.SetFlow(field, conditions=conditions, **options)
    return flow.fit_statistics(batch)


MODELS = {
    "no cardinality": (0, dict),
    "frequencies": (0, lambda: {"cardinality": setflow.EmpiricalCardinality(9)}),
    "trained numbers": (2, lambda: {"cardinality": setflow.ConditionalCardinality(9, 2)}),
    "categories": (
        2,
        lambda: {
            "cardinality": setflow.ConditionalCardinality(9, 4),
            "schema": {"event": ["a", {"name": "b", "kind": "category(up, down, strange)"}]},
        },
    ),
    "angles": (2, lambda: {"schema": {"event": ["b", {"name": "a", "kind": "angle"}]}}),
    "transforms": (
        0,
        lambda: {
            "scaler": setflow.data.Standardizer(kinds=["real", "real", "positive(boxcox=0.5)"])
        },
    ),
}


@pytest.mark.parametrize("loader", [_placed, _collated])
@pytest.mark.parametrize("model", MODELS)
def test_a_step_of_a_training_looks_at_no_value(model, loader, accelerator, no_look):
    conditions, parts = MODELS[model]
    events = _data(conditions)
    if model == "transforms":
        events.x[..., 2] = events.x[..., 2].exp()
    flow = _flow(events, **parts())
    times = setflow.TimeSampling("logit_normal", shift_type="sqrt", weight_shift=1.0)
    module = FlowMatchingModule(flow, times=times)
    module._trainer = SimpleNamespace(log_every_n_steps=50, global_step=0, global_rank=0)
    module.log = module.log_dict = lambda *arguments, **options: None
    batch = loader(events)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
    calls = []
    flow.field.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))

    def step():
        loss = module._loss("train", batch, 0, 1, times)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    seen = no_look(step)
    assert len(calls) > 1  # it was planned
    assert bool(seen.isfinite())


@pytest.mark.parametrize("model", MODELS)
def test_a_loss_looks_at_no_value(model, accelerator, no_look):
    conditions, parts = MODELS[model]
    events = _data(conditions)
    if model == "transforms":
        events.x[..., 2] = events.x[..., 2].exp()
    flow, batch = _flow(events, **parts()), events.counted()
    expected = flow.loss(events, generator=torch.Generator().manual_seed(1))
    got = no_look(lambda: flow.loss(batch, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(got, expected)


def test_without_lengths_a_plan_looks_at_the_mask_once(accelerator, no_look):
    batch = _data(0)
    flow = _flow(batch)
    with pytest.raises(AssertionError, match="looks at values"):
        no_look(lambda: flow.loss(batch))


def test_numbers_that_the_model_does_not_know_are_refused_by_the_lengths(accelerator, no_look):
    events = _data(2)
    flow = _flow(events, cardinality=setflow.ConditionalCardinality(9, 2))
    longer = _data(2, slots=12).counted()
    with pytest.raises(ValueError, match=r"lengths reach from 0 to 1\d, expected \[0, 9\]"):
        no_look(lambda: flow.loss(longer))


@torch.no_grad()
def test_known_lengths_change_no_loss(monkeypatch):
    """Events that are cut by lengths are cut as by the mask, to the bit."""
    monkeypatch.setattr(planning, "_CPU_OVERHEAD", 4)
    batch = _data(0)
    flow = _flow(batch, cardinality=setflow.EmpiricalCardinality(9))
    losses = [
        flow.loss(events, generator=torch.Generator().manual_seed(1))
        for events in (batch, batch.counted())
    ]
    assert torch.equal(*losses)
