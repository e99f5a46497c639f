"""Training with Lightning: the module.

Nothing that Lightning has is written again here: the loop, precision, gradient clipping, moving
averages of the weights, checkpoints and progress bars are its own.

The noise and the time of an event in an epoch are a function of (seed, epoch, place of the event)
only (`PlacedBatch`). So neither the size of the batches nor the number of processes that share them
changes what a field is trained on, and a resumed run goes on as if it had not stopped.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Timer
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from setflow.couplings import Coupling, check_coupling
from setflow.data.collate import LengthBatchSampler
from setflow.model.finite import first_not_finite, not_finite_weight, reason_of
from setflow.model.folder import architecture, require_same
from setflow.model.model import SetFlow
from setflow.model.stages import CONTEXT_DRAWS
from setflow.random import counter_normal, counter_uniform, derive
from setflow.sets.batch import SetBatch, listed
from setflow.sets.masks import is_at_hand
from setflow.timesteps import TimeSampling
from setflow.training.data import PlacedDataset, SetDataModule
from setflow.training.optimizers import warmup_cosine
from setflow.training.processes import (
    PlacedBatch,
    SharedBatches,
    mean_over_processes,
    this_process,
)
from setflow.training.streaming import EpochShares

__all__ = ["FlowMatchingModule"]

_SAMPLERS = (LengthBatchSampler, SharedBatches, EpochShares)
_FEW = 3  # steps
_UNBOUNDED_WARMUP = 1000  # steps, of a training whose length nothing tells
_VALIDATION = derive(0, "validation")  # the same in every validation, so that losses compare


def _adamw(parameters: Iterable[torch.nn.Parameter]) -> Optimizer:
    return AdamW(parameters, lr=1e-3)


class FlowMatchingModule(LightningModule):
    """Trains a `SetFlow`: its field by masked flow matching and its p(N | c) by likelihood.

    It logs `train_loss` and `val_loss`, the sums of the terms of `SetFlow.loss_terms`, and each
    term: `train_flow_loss`, `val_flow_loss`, and `train_cardinality_loss`, `val_cardinality_loss`
    if p(N | c) is trained. A loss that is not finite ends the training, with the event and the
    feature that make it so: on a CPU at once; on an accelerator at the next step that is logged, if
    weights are not finite then, or more than three losses in a row. Weights that are not finite
    are never written to a checkpoint.

    Arguments:
        flow: the model, its statistics given or fitted (`SetFlow.fit_statistics`); they stay as
            they are.
        optimizer: makes the optimizer from the parameters; its learning rate is the largest one of
            the schedule.
        warmup: the fraction of the training in which the learning rate rises; then it falls along a
            cosine. The training is as long as its steps (`max_steps`, `max_epochs`) say, however
            many calls share them; where steps are left open, as long as its time (`max_time`).
            Where neither is bounded (`max_epochs: -1`, and early stopping, say) the rate rises over
            1,000 steps and stays.
        times: the density of the times at which the field is trained, and their weight; None takes
            uniform times and no weight.
        coupling: `event` pairs the noise of each event with its objects at least distance, in
            training and in validation, so that a loss with it is another number than one without;
            see `setflow.couplings`. None leaves them independent.

    Raises:
        ValueError: if `warmup` is no fraction, or there is no such coupling.
    """

    def __init__(
        self,
        flow: SetFlow,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], Optimizer] = _adamw,
        warmup: float = 0.05,
        times: TimeSampling | None = None,
        coupling: Coupling | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup must lie in [0, 1), got {warmup}: a fraction of the training")
        check_coupling(coupling)
        self.times = times
        self.coupling: Coupling | None = coupling
        self._batches_into_epoch = 0
        self._in_a_row: Tensor | int = 0  # steps whose loss was not finite, counted on the device
        self.flow = flow
        self.optimizer = optimizer
        self.warmup = warmup

    def __deepcopy__(self, memo: dict[int, Any]) -> FlowMatchingModule:
        """Copy all but the function that makes the optimizer: a parser's holds its locks."""
        memo[id(self.optimizer)] = self.optimizer
        memo[id(self)] = made = type(self).__new__(type(self))
        made.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        return made

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for state in ("state_dict", "current_model_state"):  # the second is beside an average
            self._require_finite(checkpoint.get(state, {}))
        checkpoint["batches_into_epoch"] = self._batches_into_epoch
        checkpoint["architecture"] = self._architecture()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._batches_into_epoch = int(checkpoint["batches_into_epoch"])
        theirs, mine = checkpoint.get("architecture"), self._architecture()
        if theirs is not None and mine is not None:  # shapes tell not all that weights mean
            instead = "give the module the model of the checkpoint"
            require_same(theirs, mine, "the checkpoint", instead)

    def _architecture(self) -> dict[str, Any] | None:
        """Return the node of the model, or None if it has parts that no file can name."""
        try:
            return architecture(self.flow)
        except TypeError:
            return None

    def on_fit_start(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, SetDataModule):
            return
        for what in ("features", "conditions"):
            mine, theirs = getattr(self.flow, what), getattr(data, what)
            if mine != theirs:
                raise ValueError(
                    f"the model has the {what} {', '.join(mine) or 'none'}, and the data "
                    f"{', '.join(theirs) or 'none'}; give SetDataModule(..., {what}=flow.{what})"
                )

    def on_train_start(self) -> None:
        loader = self.trainer.train_dataloader
        sampler = getattr(loader, "sampler", None)
        if isinstance(sampler, _SAMPLERS):  # go on in the middle of an epoch
            sampler.skip(self._batches_into_epoch % len(sampler))

    def on_train_batch_start(self, batch: PlacedBatch | SetBatch, batch_idx: int) -> None:
        self._batches_into_epoch = batch_idx + 1  # of a checkpoint that is written after it

    def on_train_epoch_end(self) -> None:
        self._batches_into_epoch = 0

    def training_step(self, batch: PlacedBatch | SetBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch.

        A plain `SetBatch` of a loader of one's own does not tell the places of its events: they are
        then numbered within the batch, under a seed for each batch of each process.
        """
        seed = derive(torch.initial_seed(), "training", self.current_epoch)
        return self._loss("train", batch, batch_idx, seed, self.times)

    def validation_step(self, batch: PlacedBatch | SetBatch, batch_idx: int) -> None:
        self._loss("val", batch, batch_idx, _VALIDATION, None)

    def on_validation_epoch_end(self) -> None:
        loss = self.trainer.callback_metrics.get("val_loss")  # on its way to the logger
        if loss is not None and not bool(loss.isfinite()):
            self._refuse("val", loss)

    def _loss(
        self,
        stage: str,
        batch: PlacedBatch | SetBatch,
        batch_idx: int,
        seed: int,
        times: TimeSampling | None,
    ) -> Tensor:
        """Return and log the loss of a batch, at noise and times of its places under a seed."""
        worth, of = 1.0, None
        if isinstance(batch, PlacedBatch):
            events, place, of, _ = batch
            worth = batch.worth
        else:
            batch = listed(batch, "FlowMatchingModule")
            events, place = batch, torch.arange(len(batch), device=batch.x.device)
            seed = derive(seed, "batch", batch_idx, self.global_rank)
        noise = counter_normal(seed, place, events.mask, tuple(self.flow.base.event_shape))
        t = counter_uniform(seed, place)
        if times is not None:
            t = times.from_uniform(t, lengths=events.lengths)
        more: dict[str, Any] = {}
        if stage == "train" and self.flow.drop_context:
            chance = counter_uniform(derive(seed, "context"), place)
            more["drop_context"] = chance < self.flow.drop_context
        if self.flow.context_model is not None:
            width = len(self.flow.context_model.features)
            draws = events.mask.new_ones(len(events), CONTEXT_DRAWS)
            drawn = counter_normal(derive(seed, "conditions"), place, draws, (width,))
            more["context_noise"] = drawn
        if self.coupling is not None:
            more["coupling"] = self.coupling
        terms = self.flow.loss_terms(events, t=t, times=times, noise=noise, **more)
        if worth != 1.0:
            terms = {name: worth * term for name, term in terms.items()}
        loss = self._logged(stage, terms, len(events) if of is None else of)
        if self._is_lost(stage, loss):
            self._refuse(stage, loss, events, place if isinstance(batch, PlacedBatch) else None)
        return loss

    def _is_lost(self, stage: str, loss: Tensor) -> bool:
        """Return whether a training does not recover from a loss that is not finite.

        On a CPU a look costs nothing, and one such loss ends it. On an accelerator they are counted
        there and looked at when the loss is logged: a few in a row are those of a scaler of
        gradients in search of its scale, which leaves such steps out, unless weights have become
        something else than numbers, too.
        """
        bad = ~loss.detach().isfinite()
        if is_at_hand(loss):
            return bool(bad)
        if stage != "train":  # `on_validation_epoch_end` looks
            return False
        self._in_a_row = (self._in_a_row + 1) * bad
        if not self._is_written():
            return False
        steps = int(self._in_a_row)
        return steps > _FEW or (steps > 0 and not_finite_weight(self.flow) is not None)

    def _require_finite(self, state: dict[str, Any]) -> None:
        """Refuse to keep weights that are not finite, in the place of those that were.

        Raises:
            ValueError: if there are some.
        """
        for name, _ in self.named_parameters():
            if name in state and not bool(state[name].isfinite().all()):
                raise ValueError(
                    f"the weights {name} are not finite at step {self.trainer.global_step}: the "
                    "training has diverged, so no checkpoint is written and the last one is kept; "
                    "take a smaller learning rate or clip gradients (gradient_clip_val)"
                )

    def _refuse(
        self,
        stage: str,
        loss: Tensor,
        events: SetBatch | None = None,
        place: Tensor | None = None,
    ) -> NoReturn:
        """End the training for a loss that is not finite, and say why it is not.

        Arguments:
            stage: `train` or `val`.
            loss: the loss.
            events: those of the batch, if there is one.
            place: what numbers they have among all events, with shape `(B,)`, if that is known.

        Raises:
            ValueError: always.
        """
        flow, what = self.flow, {"train": "training", "val": "validation"}[stage]
        of = " of the batch" if place is None else f" of the {what} events"
        culprit = None
        if events is not None:
            culprit = first_not_finite(flow.selected(events), flow.features, flow.conditions)
        if culprit is None:  # an event of another step may have spoilt the weights
            loader = getattr(self.trainer, f"{stage}_dataloader{'s' * (stage == 'val')}", None)
            data = getattr(loader, "dataset", None)
            if isinstance(data, PlacedDataset):
                all_events = flow.selected(data.events)
                culprit = first_not_finite(all_events, flow.features, flow.conditions)
                place, of = None, f" of the {what} events"
        raise ValueError(
            f"{stage}_loss is {loss.item():g} at step {self.trainer.global_step}. "
            + reason_of(culprit, flow.field, place, of)
        )

    def _logged(self, stage: str, terms: dict[str, Tensor], events: int) -> Tensor:
        """Log the sum of the terms and each of them; return the sum.

        Several processes log their mean: in training where it is written, for they wait for it.

        Arguments:
            stage: `train` or `val`.
            terms: the terms.
            events: how many events they are the mean of, of all processes.
        """
        values = torch.stack(list(terms.values()))
        told = values
        if this_process()[1] > 1 and (stage == "val" or self._is_written()):
            told = mean_over_processes(values)
        self.log(f"{stage}_loss", told.sum(), prog_bar=True, batch_size=events)
        named = zip(terms, told.unbind(), strict=True)
        self.log_dict({f"{stage}_{name}_loss": term for name, term in named}, batch_size=events)
        return values.sum()

    def _is_written(self) -> bool:
        """Return whether the loss of this step is one of those that the logger writes."""
        trainer: Any = self.trainer  # its types lack these options
        return not (trainer.global_step + 1) % max(1, trainer.log_every_n_steps)

    def configure_optimizers(self) -> Any:
        try:
            optimizer = self.optimizer(self.parameters())
        except TypeError as error:
            raise ValueError(
                f"the optimizer cannot be made of what it was given: {error}; see model.optimizer"
            ) from error
        schedule = LambdaLR(optimizer, lambda step: self._rate(step))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _rate(self, step: int) -> float:
        """Return the learning rate of a step as a fraction of the largest one."""
        trainer: Any = self.trainer  # its callbacks carry no types
        steps = trainer.estimated_stepping_batches  # inf where nothing bounds them
        if steps != math.inf:  # in the middle of the step; of none there is no rate
            return warmup_cosine((step + 0.5) / max(steps, 1), self.warmup)
        done = []
        for timer in (timer for timer in trainer.callbacks if isinstance(timer, Timer)):
            left, spent = timer.time_remaining(), timer.time_elapsed()
            if left is not None:
                done.append(spent / max(spent + left, 1e-9))
        if not done:
            return min(1.0, (step + 1) / _UNBOUNDED_WARMUP)
        # clocks differ, and the weights of all processes must not
        return warmup_cosine(trainer.strategy.broadcast(max(done)), self.warmup)
