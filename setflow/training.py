"""Training with Lightning: the module, the data module, and the export of the best weights.

Nothing that Lightning has is written again here: the loop, precision, gradient clipping, moving
averages of the weights, checkpoints and progress bars are its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from setflow.core.batch import SetBatch
from setflow.data.collate import LengthBatchSampler, SetDataset
from setflow.data.hdf5 import JetSample, read_jets
from setflow.generator import SetFlow
from setflow.optimizers import warmup_cosine
from setflow.timesteps import TimeSampling

__all__ = ["ExportBestModel", "FlowMatchingModule", "SetDataModule"]

_UNBOUNDED_WARMUP = 1000  # steps, of a training whose length nothing tells
_VALIDATION_SEED = 20  # the same noise and times in every validation, so that losses compare


def _adamw(parameters: Iterable[torch.nn.Parameter]) -> Optimizer:
    return AdamW(parameters, lr=1e-3)


class FlowMatchingModule(LightningModule):
    """Trains a `SetFlow`: its field by masked flow matching and its p(N | c) by likelihood.

    It logs `train_loss` and `val_loss`, the sums of the terms of `SetFlow.loss_terms`, and each
    term: `train_flow_loss`, `val_flow_loss`, and `train_cardinality_loss`, `val_cardinality_loss`
    if p(N | c) is trained.

    Arguments:
        flow: the model.
        optimizer: makes the optimizer from the parameters; its learning rate is the largest one of
            the schedule.
        warmup: the fraction of the training in which the learning rate rises; then it falls along a
            cosine. The training is as long as its steps (`max_steps`, `max_epochs`) or its time
            (`max_time`) allow, whichever ends first. Where neither is bounded (`max_epochs: -1`,
            and early stopping, say) the rate rises over 1,000 steps and stays.
        times: the density of the times at which the field is trained, and their weight; None takes
            uniform times and no weight.

    Raises:
        ValueError: if `warmup` is no fraction.
    """

    def __init__(
        self,
        flow: SetFlow,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], Optimizer] = _adamw,
        warmup: float = 0.05,
        times: TimeSampling | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup must lie in [0, 1), got {warmup}: a fraction of the training")
        self.times = times
        self._batches_into_epoch = 0
        self.flow = flow
        self.optimizer = optimizer
        self.warmup = warmup

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["batches_into_epoch"] = self._batches_into_epoch

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._batches_into_epoch = int(checkpoint["batches_into_epoch"])

    def on_train_start(self) -> None:
        loader = self.trainer.train_dataloader
        sampler = getattr(loader, "sampler", None)
        if isinstance(sampler, LengthBatchSampler):  # go on in the middle of an epoch
            sampler.skip(self._batches_into_epoch % len(sampler))

    def on_train_batch_end(self, outputs: Any, batch: SetBatch, batch_idx: int) -> None:
        self._batches_into_epoch = batch_idx + 1

    def on_train_epoch_end(self) -> None:
        self._batches_into_epoch = 0

    def training_step(self, batch: SetBatch, batch_idx: int) -> Tensor:
        # a function of (seed, batch, rank), so that a resumed run goes on as if it had not stopped
        seed = hash((torch.initial_seed(), self.current_epoch, batch_idx, self.global_rank))
        generator = torch.Generator(self.device).manual_seed(seed)
        terms = self.flow.loss_terms(batch, times=self.times, generator=generator)
        return self._logged("train", terms, batch)

    def validation_step(self, batch: SetBatch, batch_idx: int) -> None:
        generator = torch.Generator(self.device).manual_seed(_VALIDATION_SEED + batch_idx)
        terms = self.flow.loss_terms(batch, generator=generator)
        self._logged("val", terms, batch, sync_dist=True)

    def _logged(
        self, stage: str, terms: dict[str, Tensor], batch: SetBatch, *, sync_dist: bool = False
    ) -> Tensor:
        """Log the sum of the terms and each of them; return the sum."""
        loss = torch.stack(list(terms.values())).sum()
        named = {f"{stage}_{name}_loss": term for name, term in terms.items()}
        self.log(f"{stage}_loss", loss, prog_bar=True, batch_size=len(batch), sync_dist=sync_dist)
        self.log_dict(named, batch_size=len(batch), sync_dist=sync_dist)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        schedule = LambdaLR(optimizer, lambda step: self._rate(step))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _rate(self, step: int) -> float:
        """Return the learning rate of a step as a fraction of the largest one."""
        trainer: Any = self.trainer  # its callbacks carry no types
        steps = trainer.estimated_stepping_batches  # inf where nothing bounds them
        timers = [timer for timer in trainer.callbacks if isinstance(timer, Timer)]
        done = [(step + 0.5) / steps]  # in the middle of the step
        for timer in timers:
            left, spent = timer.time_remaining(), timer.time_elapsed()
            if left is not None:
                done.append(spent / max(spent + left, 1e-9))
        if len(done) > 1:  # clocks differ, and the weights of all processes must not
            return warmup_cosine(trainer.strategy.broadcast(max(done)), self.warmup)
        if steps == math.inf:
            return min(1.0, (step + 1) / _UNBOUNDED_WARMUP)
        return warmup_cosine(done[0], self.warmup)


class SetDataModule(LightningDataModule):
    """Jets from files of the JetNet layout, in memory, in random batches.

    Arguments:
        train: the training file.
        val: the validation file; None sets a fraction of the training events aside. Both jets of
            one event fall on the same side.
        max_objects: how many of the hardest objects of each jet to keep.
        batch_size: the number of jets in a batch.
        val_fraction: the fraction that is set aside if there is no validation file.
        conditions: the jet features that the model is conditioned on, in its order.
        seed: the seed of that split and of the order of the batches.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        max_objects: int = 150,
        batch_size: int = 256,
        val_fraction: float = 0.1,
        conditions: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
        self.train_path = train
        self.val_path = val
        self.max_objects = max_objects
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.conditions = tuple(conditions)
        self.seed = seed
        self._train: SetBatch | None = None
        self._val: SetBatch | None = None

    @property
    def train_events(self) -> SetBatch:
        """The training events, with the conditions as context."""
        self.setup("fit")
        assert self._train is not None
        return self._train

    def setup(self, stage: str) -> None:
        if self._train is not None:
            return
        train = read_jets(self.train_path, max_objects=self.max_objects)
        if self.val_path is not None:
            val = read_jets(self.val_path, max_objects=self.max_objects)
        else:
            held = _whole_events(train, self.val_fraction, self.seed)
            train, val = train[~held], train[held]
        for name, sample in (("training", train), ("validation", val)):
            if len(sample) == 0:
                raise ValueError(
                    f"the {name} sample is empty; give a larger file or another val_fraction"
                )
        self._train, self._val = self._events(train), self._events(val)

    def _events(self, sample: JetSample) -> SetBatch:
        context = sample.context(self.conditions) if self.conditions else None
        return SetBatch(sample.particles.x, sample.particles.mask, context)

    def train_dataloader(self) -> DataLoader[SetBatch]:
        return self._loader(self._train, shuffle=True)

    def val_dataloader(self) -> DataLoader[SetBatch]:
        return self._loader(self._val, shuffle=False)

    def _loader(self, events: SetBatch | None, *, shuffle: bool) -> DataLoader[SetBatch]:
        assert events is not None
        # random batches: the loss itself evaluates like lengths together
        sampler = LengthBatchSampler(
            events.lengths, self.batch_size, shuffle=shuffle, seed=self.seed, window=1
        )
        return DataLoader(SetDataset(events), sampler=sampler, batch_size=None)


def _whole_events(sample: JetSample, fraction: float, seed: int) -> Tensor:
    """Return which jets to hold out, a boolean tensor, so that no event is on both sides."""
    number = sample.event_number
    event = torch.arange(len(sample))
    if number is not None:
        event = torch.unique(number, return_inverse=True)[1]
    events = int(event.max()) + 1 if len(sample) else 0
    order = torch.randperm(events, generator=torch.Generator().manual_seed(seed))
    held = torch.zeros(events, dtype=torch.bool)
    held[order[: round(fraction * events)]] = True
    return held[event]


class ExportBestModel(ModelCheckpoint):
    """Checkpoints, and the best weights as a model folder, which appears by rename.

    The best are those with the smallest `val_flow_loss`: the field decides. The sum of both terms
    would not do: a squared error per coordinate and nats per event have no common scale, and the
    small network of p(N | c), which is done long before the field, would send the field back to the
    step where it began to overfit by a hundredth of a nat. `val_cardinality_loss` shows if it
    overfits by more; then it should be smaller.

    The weights that are exported are those that the checkpoint calls the model's: the moving
    average if one is kept.

    Arguments:
        run: the folder of the run; checkpoints go to `<run>/checkpoints`, the model to
            `<run>/model`, and the configuration is read from `<run>/config.yaml` if it is there.
    """

    def __init__(self, run: str | Path) -> None:
        self.run = Path(run)
        super().__init__(
            dirpath=self.run / "checkpoints",
            filename="best",
            monitor="val_flow_loss",
            save_last=True,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before = self.best_model_score
        super().on_validation_end(trainer, pl_module)
        if self.best_model_score is not before and trainer.is_global_zero:
            self.export(pl_module)

    def finish(self, module: LightningModule) -> Path:
        """Return the folder of the exported model, written now if no validation has written one.

        The weights are then the last ones, or their moving average if one is kept.
        """
        assert isinstance(module, FlowMatchingModule)
        if self.best_model_path:
            return self.export(module)
        return module.flow.save(self.run / "model", overwrite=True, config=self._nodes())

    def _nodes(self) -> dict[str, Any] | None:
        config = self.run / "config.yaml"
        return yaml.safe_load(config.read_text()) if config.is_file() else None

    def export(self, module: LightningModule) -> Path:
        """Write the weights of the best checkpoint as a model folder; return its path."""
        assert isinstance(module, FlowMatchingModule)
        checkpoint = torch.load(self.best_model_path, map_location="cpu", weights_only=True)
        flow = SetFlow.from_node(module.flow.describe())
        prefix = "flow."
        flow.load_state_dict(
            {
                key.removeprefix(prefix): value
                for key, value in checkpoint["state_dict"].items()
                if key.startswith(prefix)
            }
        )
        return flow.save(self.run / "model", overwrite=True, config=self._nodes())
