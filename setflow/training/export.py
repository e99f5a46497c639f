"""The best weights of a training, exported as a model folder."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from setflow.model.folder import CONFIG, short_card
from setflow.model.model import SetFlow
from setflow.training.data import SetDataModule
from setflow.training.module import FlowMatchingModule
from setflow.training.record import facts_of, lines_of

__all__ = ["BestModel", "ExportBestModel"]


class BestModel(ModelCheckpoint):
    """Checkpoints of the last and of the best weights.

    The best are those with the smallest `val_flow_loss`: the field decides. The sum of both terms
    would not do: a squared error per coordinate and nats per event have no common scale, and the
    small network of p(N | c), which is done long before the field, would send the field back to the
    step where it began to overfit by a hundredth of a nat. `val_cardinality_loss` shows if it
    overfits by more; then it should be smaller. The weights are those that the checkpoint calls the
    model's: the moving average if one is kept.

    Arguments:
        run: the folder of the run; checkpoints go to `<run>/checkpoints`.
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
        assert isinstance(module, FlowMatchingModule)
        checkpoint = torch.load(self.best_model_path, map_location="cpu", weights_only=True)
        flow, prefix = copy.deepcopy(module.flow), "flow."
        flow.load_state_dict(
            {
                key.removeprefix(prefix): value
                for key, value in checkpoint["state_dict"].items()
                if key.startswith(prefix)
            }
        )
        return flow, checkpoint["global_step"]


class ExportBestModel(BestModel):
    """Checkpoints, and the best weights as a model folder, which appears by rename.

    Arguments:
        run: the folder of the run; the model goes to `<run>/model`, and the configuration is read
            from `<run>/config.yaml` if it is there.
        command: the command line of the training, for the card.
    """

    def __init__(self, run: str | Path, command: str | None = None) -> None:
        super().__init__(run)
        self._command = command
        self._began, self._before = time.monotonic(), 0.0
        self._data: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """The time that the training took, before it was interrupted and since."""
        return self._before + time.monotonic() - self._began

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = state_dict.pop("seconds", 0.0)
        super().load_state_dict(state_dict)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before = self.best_model_score
        super().on_validation_end(trainer, pl_module)
        if self.best_model_score is not before and trainer.is_global_zero:
            self.export(pl_module)

    def finish(self, module: LightningModule) -> Path:
        """Return the folder of the exported model, written now if no validation has written one.

        The weights are then the last ones, or their moving average if one is kept, and the card
        says so. Of several processes the first one writes.
        """
        assert isinstance(module, FlowMatchingModule)
        if not module.trainer.is_global_zero:
            return self.run / "model"
        if self.best_model_path:
            return self.export(module)
        warning = self.unvalidated(module.trainer)
        return self._save(module, module.flow, {"chosen": "the last ones, not validated"}, warning)

    def _save(
        self,
        module: FlowMatchingModule,
        flow: SetFlow,
        weights: dict[str, Any],
        warning: str | None = None,
    ) -> Path:
        self.run.mkdir(parents=True, exist_ok=True)
        folder = self.run / "model"
        nodes = self._nodes()
        facts = self._facts(module.trainer, nodes) | weights
        card = short_card(flow, folder.name)
        if warning is not None:
            card += f"\n**Not validated.** {warning[0].upper()}{warning[1:]}.\n"
        lines = "\n".join(f"- {line}" for line in lines_of(facts))
        card += f"\n**Training.** `{CONFIG}` holds all settings.\n\n{lines}\n"
        return flow.save(folder, overwrite=True, config=nodes, card=card, training=facts)

    def _facts(self, trainer: Trainer, nodes: dict[str, Any] | None) -> dict[str, Any]:
        """Return what is known of the training; that of the data is found out once."""
        if self._data is None:
            data = getattr(trainer, "datamodule", None)
            self._data = data.facts() if isinstance(data, SetDataModule) else {}
        facts: dict[str, Any] = {**self._data, "seconds": round(self.seconds, 1)}
        if nodes is not None and isinstance(nodes.get("seed_everything"), int):
            facts["seed"] = nodes["seed_everything"]
        if self._command is not None:
            facts["command"] = self._command
        return facts | facts_of(trainer)

    def _nodes(self) -> dict[str, Any] | None:
        config = self.run / CONFIG
        return yaml.safe_load(config.read_text()) if config.is_file() else None

    def export(self, module: LightningModule) -> Path:
        """Write the weights of the best checkpoint as a model folder; return its path."""
        assert isinstance(module, FlowMatchingModule)
        flow, step = self.best(module)
        best = None if self.best_model_score is None else float(self.best_model_score)
        chosen = f"those of step {step:,}, where {self.monitor} is smallest, {best:.4g}"
        weights = {"chosen": chosen, "best_step": step, "best_val_flow_loss": best}
        return self._save(module, flow, weights)
