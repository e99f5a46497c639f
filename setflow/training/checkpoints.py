"""The checkpoints of a training: how they are written, found again, and which is the best.

Three files lie in the folder `checkpoints` of a run: `last.ckpt`, `previous.ckpt`, which was the
last one before it, and `best.ckpt`. Each appears whole (`setflow.files.NewFile`), so a kill at any
time leaves one from which the training goes on. No path stands in them: a run may be moved.
"""

from __future__ import annotations

import copy
import io
import os
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from setflow.files import NewFile, require_regular, shortened
from setflow.model.model import SetFlow
from setflow.training.module import FlowMatchingModule
from setflow.training.signals import Stopped, StopSignals

__all__ = [
    "BestModel",
    "Checkpoint",
    "StagedCheckpoints",
    "asked_for_steps",
    "last_checkpoint",
    "read_checkpoint",
]

_LAST, _PREVIOUS, _BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
_NEEDED = ("state_dict", "global_step", "callbacks", "loops", "optimizer_states")
_UNREADABLE = (
    zipfile.BadZipFile, pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError,
    AttributeError, ArithmeticError, RuntimeError, MemoryError,
)  # fmt: skip


class StagedCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its target, syncs it, and gives it the name.

    Lightning's own way is by a file in the temporary folder, which it copies where that is on
    another file system: a kill leaves half of it. What `last.ckpt` was before remains as
    `previous.ckpt`.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        path, content = Path(path), io.BytesIO()
        torch.save(checkpoint, content)  # here, for torch ends the process where a disk is full
        path.parent.mkdir(parents=True, exist_ok=True)
        with NewFile(path, overwrite=True) as part:
            part.write_bytes(content.getbuffer())
            if path.name == _LAST and path.exists():
                _keep(path, path.with_name(_PREVIOUS))


def _keep(path: Path, name: Path) -> None:
    """Give a file a second name, in the place of another file that has it."""
    beside = name.with_name(f".{name.name}.part")
    beside.unlink(missing_ok=True)
    try:
        os.link(path, beside)
    except OSError:  # a file system without links
        shutil.copyfile(path, beside)
    os.replace(beside, name)


class Checkpoint(NamedTuple):
    """A checkpoint that was found.

    Attributes:
        path: where.
        content: what it holds.
        damaged: what is wrong with those that would come before it, by their names.
    """

    path: Path
    content: dict[str, Any]
    damaged: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """How many steps the training had taken."""
        return int(self.content["global_step"])

    def state_of(self, kind: type) -> dict[str, Any]:
        """Return the state of the callback of a class, empty if it has none."""
        states = self.content["callbacks"].items()
        return next((state for key, state in states if key.startswith(kind.__qualname__)), {})


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds: numbers, tensors and texts; nothing in it is run.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it is damaged, or something else; it says which.
    """
    require_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums of tensors
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed")
            if (part := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {shortened(part)} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        told = " ".join(str(error).split()).partition(". ")[0][:160]
        raise ValueError(f"{path} is damaged, or no checkpoint: {told}") from error
    missing = [key for key in _NEEDED if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(f"{path} is no checkpoint of a training: it lacks {', '.join(missing)}")
    return dict(content)


def last_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the last checkpoint of a run that can be read, or None if it has written none.

    Arguments:
        folder: where they lie.

    Raises:
        OSError: if one cannot be opened.
        ValueError: if there are some, and none can be read.
    """
    damaged: list[str] = []
    for name in (_LAST, _PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            return Checkpoint(path, read_checkpoint(path), tuple(damaged))
        except ValueError as error:
            damaged.append(str(error))
    if damaged:
        raise ValueError("; ".join(damaged))
    return None


class BestModel(ModelCheckpoint):
    """Checkpoints of the last and of the best weights.

    The best are those with the smallest `val_flow_loss`: the field decides. The sum of both terms
    would not do: a squared error per coordinate and nats per event have no common scale, and the
    small network of p(N | c), which is done long before the field, would send the field back to the
    step where it began to overfit by a hundredth of a nat. `val_cardinality_loss` shows if it
    overfits by more; then it should be smaller. The weights are those that the checkpoint calls the
    model's: the moving average if one is kept.

    The last are written after each validation, at the end, and when a signal asks for it; always
    where the training goes on as if it had not stopped: after a whole step, and after the
    validation that is due there.

    Arguments:
        run: the folder of the run; checkpoints go to `<run>/checkpoints`.
        signals: those that end the training, or None.
    """

    def __init__(self, run: str | Path, signals: StopSignals | None = None) -> None:
        self.run = Path(run)
        self.signals = signals
        self._step = 0
        super().__init__(
            dirpath=self.run / "checkpoints",
            filename="best",
            monitor="val_flow_loss",
            save_last=True,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = StagedCheckpoints()

    # --- when ---

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._step = trainer.global_step
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:  # a kill came between the last checkpoint and the end
            if isinstance(callback, EarlyStopping) and callback.wait_count >= callback.patience:
                trainer.should_stop = True
        if self.signals is not None:
            self.signals.begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped, self._step = trainer.global_step > self._step, trainer.global_step
        if not stepped:  # gradients of earlier batches are kept in no checkpoint
            return
        number = self._asked(trainer)
        if (number is None and not _is_last_step(trainer)) or _validates_now(trainer):
            return
        self._save_last(trainer)
        if number is not None:
            raise Stopped(number, trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before = self.best_model_score
        super().on_validation_end(trainer, pl_module)
        self._save_last(trainer)  # Lightning does only where the best one is new
        if self.best_model_score is not before and trainer.is_global_zero:
            self.on_new_best(pl_module)
        number = self._asked(trainer)
        if number is not None:
            raise Stopped(number, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last step has written the last checkpoint; by now averages stand for the weights."""
        if self.signals is not None:
            self.signals.end()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self.signals is not None:
            self.signals.end()

    def on_new_best(self, module: LightningModule) -> None:
        """Do what is to be done with weights that a validation has found to be the best so far."""

    def _asked(self, trainer: Trainer) -> int | None:
        """Return the signal that one of the processes has received, or None."""
        number = None if self.signals is None else self.signals.received
        if trainer.world_size > 1 and self.signals is not None:
            heard = torch.tensor(number or 0, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(heard, reduce_op="max")) or None
        return number

    def _save_last(self, trainer: Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    # --- what is kept of them ---

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Where a number of steps is asked for, each call has its own time."""
        if asked_for_steps(trainer):
            checkpoint["callbacks"].pop("Timer", None)

    def state_dict(self) -> dict[str, Any]:
        return {"best_model_score": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best checkpoint that lies there with the score that it tells of itself.

        It may be of a later step than the state: a kill came between the two. Then it is the one
        that the same step would write again.
        """
        best = Path(str(self.dirpath)) / _BEST
        score = None
        if best.exists():
            try:
                found = Checkpoint(best, read_checkpoint(best))
                score = found.state_of(type(self)).get("best_model_score")
            except ValueError as error:
                warnings.warn(f"{error}; the best weights are looked for anew", stacklevel=2)
        elif state_dict.get("best_model_score") is not None:
            warnings.warn(f"there is no {best}; the best weights are looked for anew", stacklevel=2)
        if score is None:
            return
        self.best_model_path = self.kth_best_model_path = str(best)
        self.best_model_score = self.current_score = self.kth_value = score
        self.best_k_models = {str(best): score}

    def unvalidated(self, trainer: Trainer) -> str | None:
        """Return what to say of weights that no validation has chosen, or None if one has."""
        if self.best_model_path:
            return None
        steps = trainer.global_step
        if steps == 0:
            return (
                "the training took 0 steps: the weights are those that it began with, and nothing "
                "has validated them"
            )
        every, by_epoch = trainer.val_check_interval, trainer.check_val_every_n_epoch
        when = "in each epoch" if by_epoch in (None, 1) else f"every {by_epoch} epochs"
        if isinstance(every, int):
            when = f"every {every} steps"
        return (
            f"no validation took place in {steps} step{'s' if steps > 1 else ''}, for it is due "
            f"{when}: the weights are the last ones and not the best, and nothing has validated "
            "them; lower --trainer.val_check_interval or train longer"
        )

    def best(self, module: LightningModule) -> tuple[SetFlow, int]:
        """Return a copy of the model with the best weights, and the step that they are from."""
        return self._model_of(Path(self.best_model_path), module)

    def last(self, module: LightningModule) -> SetFlow:
        """Return a copy of the model with the last weights, those it has if none were written."""
        path = Path(str(self.dirpath)) / _LAST
        if not path.exists():
            assert isinstance(module, FlowMatchingModule)
            return module.flow
        return self._model_of(path, module)[0]

    @staticmethod
    def _model_of(path: Path, module: LightningModule) -> tuple[SetFlow, int]:
        assert isinstance(module, FlowMatchingModule)
        checkpoint = read_checkpoint(path)
        return with_weights(module.flow, checkpoint["state_dict"]), int(checkpoint["global_step"])


def asked_for_steps(trainer: Trainer) -> bool:
    """Return whether the number of steps is given, by steps or epochs, and not left open."""
    epochs = trainer.max_epochs
    return trainer.max_steps >= 0 or (epochs is not None and epochs >= 0)


def with_weights(flow: SetFlow, state: Mapping[str, Any]) -> SetFlow:
    """Return a copy of a model with the weights that a module of a training has of it."""
    flow, prefix = copy.deepcopy(flow), "flow."
    flow.load_state_dict(
        {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
    )
    return flow


def _is_last_step(trainer: Trainer) -> bool:
    """Return whether the training ends with the step that has just been taken."""
    if trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step:
        return True
    epochs = trainer.max_epochs
    last = epochs is not None and 0 <= epochs <= trainer.current_epoch + 1
    return last and bool(trainer.is_last_batch)


def _validates_now(trainer: Trainer) -> bool:
    """Return whether a validation follows on the step that has just been taken.

    Nothing public tells. A checkpoint that is written before it would leave it out when the
    training goes on.
    """
    loop: Any = trainer.fit_loop
    return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))
