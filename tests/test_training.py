"""The Lightning modules apart from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import setflow
from setflow.data import read_jets
from setflow.training import FlowMatchingModule, SetDataModule, warmup_cosine

SAMPLE = str(Path(__file__).resolve().parents[1] / "datasets/pythia-top/heldout.h5")


def test_both_jets_of_an_event_fall_on_the_same_side():
    data = SetDataModule(SAMPLE, max_objects=5, val_fraction=0.2, conditions=["pt"])
    train, val = data.train_events, data._val
    jets = read_jets(SAMPLE, max_objects=5)
    event_of = dict(zip(jets.jets[:, 0].tolist(), jets.event_number.tolist(), strict=True))
    sides = [{event_of[pt] for pt in side.c[:, 0].tolist()} for side in (train, val)]
    assert not sides[0] & sides[1]
    assert len(train) + len(val) == len(jets)
    assert len(val) == pytest.approx(0.2 * len(jets), rel=0.1)


def test_an_epoch_holds_every_training_jet_once():
    data = SetDataModule(SAMPLE, max_objects=5, batch_size=64, conditions=["pt"])
    data.setup("fit")
    seen = torch.cat([batch.c[:, 0] for batch in data.train_dataloader()])
    assert torch.equal(seen.sort().values, data.train_events.c[:, 0].sort().values)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_fraction_that_leaves_a_side_empty_is_refused(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        SetDataModule(SAMPLE, val_fraction=fraction)


def test_a_condition_that_the_file_lacks_is_named():
    with pytest.raises(ValueError, match="no jet feature 'tau32'"):
        SetDataModule(SAMPLE, conditions=["tau32"]).setup("fit")


def test_the_learning_rate_rises_and_falls():
    rates = [warmup_cosine(step, 100, 0.1) for step in range(101)]
    assert rates[9] == rates[10] == max(rates) == 1.0
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(1e-3)
    assert warmup_cosine(0, 1, 0.05) == 1.0  # a run of one step


def test_the_times_of_training_are_those_that_are_asked_for():
    """Times near the noise and a weight of 1 + 3 t: the loss is that of the same draw by hand."""
    flow = setflow.SetFlow(setflow.TransformerField(3, hidden=8, layers=1, heads=1))
    jets = setflow.SetBatch(torch.randn(64, 5, 3), torch.ones(64, 5))
    times = setflow.TimeSampling(shift_type="constant", constant=50.0, weight_shift=3.0)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 5, 3, generator=generator)
    t = times.sample((64,), lengths=jets.lengths, generator=generator)
    assert t.median() > 0.9
    losses = setflow.masked_fm_loss(flow.field, jets.x, noise, jets.mask, t, reduction="none")
    got = flow.loss(jets, times=times, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(got, ((1 + 3 * t) * losses).mean(), atol=1e-10, rtol=0)
    module = FlowMatchingModule(flow, times=times)
    assert module.times is times
