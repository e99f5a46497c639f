"""The best weights of a training, exported as a model folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer

from setflow.model.folder import CONFIG, short_card
from setflow.model.model import SetFlow
from setflow.training.checkpoints import BestModel
from setflow.training.data import SetDataModule
from setflow.training.module import FlowMatchingModule
from setflow.training.record import facts_of, lines_of
from setflow.training.signals import StopSignals

__all__ = ["ExportBestModel"]


class ExportBestModel(BestModel):
    """Checkpoints, and the best weights as a model folder, which appears by rename.

    Arguments:
        run: the folder of the run; the model goes to `<run>/model`, and the configuration is read
            from `<run>/config.yaml` if it is there.
        command: the command line of the training, for the card.
        signals: those that end the training, or None.
        init: the name of the model from which the training starts, or None.
    """

    def __init__(
        self,
        run: str | Path,
        command: str | None = None,
        signals: StopSignals | None = None,
        init: str | None = None,
    ) -> None:
        super().__init__(run, signals)
        self._command, self._init = command, init
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
        state = {**super().state_dict(), "seconds": self.seconds, "init": self._init}
        return {**state, "data": self._data}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = state_dict.get("seconds", 0.0)
        self._init = state_dict.get("init")
        super().load_state_dict(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.data_facts(getattr(trainer, "datamodule", None))  # for the checkpoints
        super().on_train_start(trainer, pl_module)

    def on_new_best(self, module: LightningModule) -> None:
        self.export(module)

    def finish(self, module: LightningModule, ended: str | None = None) -> Path:
        """Return the folder of the exported model, written now.

        Where no validation has chosen weights they are the last ones, or their moving average if
        one is kept, and the card says so. Of several processes the first one writes.

        Arguments:
            module: the module that was trained.
            ended: what has ended the training, for the manifest: it has finished.
        """
        assert isinstance(module, FlowMatchingModule)
        if not module.trainer.is_global_zero:
            return self.run / "model"
        facts = {} if ended is None else {"ended": ended}
        if self.best_model_path:
            return self.export(module, facts)
        warning = self.unvalidated(module.trainer)
        facts["chosen"] = "the last ones, not validated"
        return self._save(module, self.last(module), facts, warning)

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
        data = self.data_facts(getattr(trainer, "datamodule", None))
        facts: dict[str, Any] = {**data, "seconds": round(self.seconds, 1)}
        if nodes is not None and isinstance(nodes.get("seed_everything"), int):
            facts["seed"] = nodes["seed_everything"]
        if self._command is not None:
            facts["command"] = self._command
        return facts | facts_of(trainer)

    def data_facts(self, data: Any) -> dict[str, Any]:
        """Return what is known of the events that a training reads; it is found out once."""
        if self._data is None:
            self._data = data.facts() if isinstance(data, SetDataModule) else {}
        return self._data

    def _nodes(self) -> dict[str, Any] | None:
        config = self.run / CONFIG
        return yaml.safe_load(config.read_text()) if config.is_file() else None

    def export(self, module: LightningModule, facts: dict[str, Any] | None = None) -> Path:
        """Write the weights of the best checkpoint as a model folder; return its path.

        Arguments:
            module: the module that is trained.
            facts: what the manifest is to say besides.
        """
        assert isinstance(module, FlowMatchingModule)
        flow, step = self.best(module)
        best = None if self.best_model_score is None else float(self.best_model_score)
        chosen = f"those of step {step:,}, where {self.monitor} is smallest, {best:.4g}"
        weights = {"chosen": chosen, "best_step": step, "best_val_flow_loss": best}
        return self._save(module, flow, {**(facts or {}), **weights})
