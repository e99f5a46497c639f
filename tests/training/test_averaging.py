"""The moving average of weights, on weights that a test moves from step to step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

import setflow
from bench.machine import REPOSITORY
from setflow.training import MovingAverage, fitting
from setflow.training.averaging import _move

CONFIGURATIONS = sorted((REPOSITORY / "models").glob("*/config.yaml"))


class Walk(LightningModule):
    """Its weights after step n are the n-th of these values."""

    def __init__(self, values: Sequence[float], **buffers: torch.Tensor) -> None:
        super().__init__()
        self.values = values
        self.weight = nn.Parameter(torch.full((2, 3), 1e9))  # no average may see the first ones
        self.single = nn.Parameter(torch.full((1,), 1e9, dtype=torch.float32))
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        now = self.values[self.trainer.global_step]
        self.weight.data.fill_(now)
        self.single.data.fill_(now)
        if hasattr(self, "moving"):
            self.moving.fill_(now)
        return self.weight.sum() * 0 + self.single.sum() * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trained(walk: Walk, average: WeightAveraging, steps: int, folder=None, resumed=None) -> Walk:
    """Return the walk at the end of a training, its weights the average."""
    trainer = Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, callbacks=[average],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")  # of Lightning, about the loader
        trainer.fit(walk, DataLoader(torch.zeros(7, 1)), ckpt_path=resumed, weights_only=True)
    if folder is not None:
        trainer.save_checkpoint(folder)
    return walk.requires_grad_(False)


def mean(decay: float, values: Sequence[float]) -> float:
    """The average by its definition, one value after the other."""
    kept = values[0]
    for n, value in enumerate(values[1:], start=1):
        share = min(decay, (1 + n) / (10 + n))
        kept = share * kept + (1 - share) * value
    return kept


@pytest.mark.parametrize("steps", [1, 2, 10, 100])
def test_until_the_decay_says_fewer_the_average_lags_by_a_tenth_of_the_steps(steps: int) -> None:
    """Step k counts as C(k + 8, 8) does, and the first as if there were one more before it."""
    walk = trained(Walk(range(1, steps + 1)), MovingAverage(decay=0.999), steps)
    wanted = 0.9 * steps + 1 / math.comb(steps + 9, 9)
    torch.testing.assert_close(walk.weight, torch.full((2, 3), wanted), rtol=1e-13, atol=0)
    assert walk.single.dtype == torch.float32
    assert walk.single.item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("decay", [0.3, 0.6, 0.9])
def test_then_it_lags_as_its_decay_says(decay: float) -> None:
    steps = 300
    walk = trained(Walk(range(1, steps + 1)), MovingAverage(decay), steps)
    wanted = torch.full((2, 3), mean(decay, range(1, steps + 1)))
    torch.testing.assert_close(walk.weight, wanted, rtol=1e-13, atol=0)
    assert float(walk.weight[0, 0]) == pytest.approx(steps - decay / (1 - decay), rel=1e-9)


@pytest.mark.parametrize(
    ("average", "least", "most"),
    [(MovingAverage(), 0.0, 0.01), (EMAWeightAveraging(decay=0.999), 0.9, 1.0)],
    ids=["ours", "a plain one, of which this must be told apart"],
)
def test_the_first_weights_hardly_count(average, least: float, most: float) -> None:
    walk = trained(Walk([1.0] * 10 + [0.0] * 90), average, 100)
    assert least <= float(walk.weight[0, 0]) < most


def test_buffers_are_averaged_and_what_is_no_real_number_is_kept() -> None:
    """Of whole numbers a mean would be rounded down: 7 to 6."""
    fixed = {
        "whole": torch.tensor([0, 7, 10**15 + 1]),
        "switch": torch.tensor([True, False]),
        "lowest": torch.tensor([-torch.inf, 0.1, torch.inf]),
        "scalar": torch.tensor(0.3),
        "empty": torch.zeros(0),
    }
    moving = {"moving": torch.zeros(2), "count": torch.tensor(0)}
    given = {name: value.clone() for name, value in (fixed | moving).items()}
    walk = trained(Walk(range(1, 51), **given), MovingAverage(), 50)
    for name, value in fixed.items():
        torch.testing.assert_close(getattr(walk, name), value, rtol=1e-14, atol=0)
    torch.testing.assert_close(walk.moving, walk.weight[0, :2], rtol=0, atol=0)


def test_a_step_looks_once_at_the_number_of_steps_however_many_weights_there_are() -> None:
    """On an accelerator a look is a wait for all that is under way."""

    class Looks(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += function.overloadpacket is torch.ops.aten._local_scalar_dense
            return function(*args, **(kwargs or {}))

    averages, weights = ([torch.full((k, 2), value) for k in range(9)] for value in (0.0, 1.0))
    with Looks() as looks:
        _move(0.999, averages, weights, torch.tensor(8))
    assert looks.count == 1
    assert all((average == 0.5).all() for average in averages)


def test_a_resumed_training_has_the_same_average(tmp_path) -> None:
    values = torch.randn(60).tolist()
    unbroken = trained(Walk(values), MovingAverage(0.8), 60)
    kept = tmp_path / "half.ckpt"
    half = trained(Walk(values), MovingAverage(0.8), 33, folder=kept)
    assert not torch.equal(half.weight, unbroken.weight)
    resumed = trained(Walk(values), MovingAverage(0.8), 60, resumed=kept)
    assert torch.equal(resumed.weight, unbroken.weight)


@pytest.mark.parametrize("decay", [0, 1, 1.5, -0.1, float("nan")])
def test_a_decay_that_is_no_fraction_is_refused(decay: float) -> None:
    told = f"decay must lie between 0 and 1, both excluded, got {decay}"
    with pytest.raises(ValueError, match=told):
        MovingAverage(decay)


def test_fit_in_memory_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float32)
    made = []
    monkeypatch.setattr(
        fitting, "MovingAverage", lambda decay: made.append(MovingAverage(decay)) or made[-1]
    )
    setflow.fit(setflow.SetBatch(torch.randn(60, 3, 2)), steps=2, progress=False)
    assert [average.decay for average in made] == [fitting._AVERAGE]
    assert int(made[0]._average_model.n_averaged) == 2


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.parent.name)
def test_shipped_configurations_take_it(path) -> None:
    callbacks = yaml.safe_load(path.read_text())["trainer"]["callbacks"]
    classes = [callback["class_path"] for callback in callbacks]
    assert classes.count("setflow.training.MovingAverage") == 1
    assert [name for name in classes if "WeightAveraging" in name] == []
