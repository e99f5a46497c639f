"""The progress of a training in steps, in a terminal and elsewhere."""

from __future__ import annotations

import io
import re

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.console import Console

from setflow.training.progress import StepProgress

LINE = re.compile(
    r"step (\d+)(?:/(\d+))?, loss ([\d.e-]+)"
    r"(?:, best validation ([\d.e-]+))?(?:, time left (\d+:\d\d))?"
)


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        self.log("train_loss", self.weight**2, prog_bar=True)
        return self.weight**2

    def validation_step(self, batch, batch_idx):
        self.log("val_flow_loss", self.weight**2)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trained(tmp_path, console, **bounds):
    data = torch.utils.data.DataLoader(torch.zeros(5), batch_size=1)
    best = ModelCheckpoint(tmp_path, monitor="val_flow_loss", save_on_train_epoch_end=False)
    trainer = pl.Trainer(
        callbacks=[StepProgress(console), best], logger=False, accelerator="cpu",
        enable_model_summary=False, num_sanity_val_steps=0, **bounds,
    )  # fmt: skip
    trainer.fit(Module(), data, data)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*is deprecated")
@pytest.mark.parametrize(
    ("bounds", "last"),
    [
        ({"max_steps": 7, "max_epochs": -1}, "step 7/7"),
        ({"max_epochs": 2}, "step 10/10"),
        ({"max_time": {"seconds": 1}, "max_epochs": -1}, "step "),
    ],
    ids=["steps", "epochs", "time"],
)
@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_told_in_steps(tmp_path, bounds, last, terminal):
    torch.set_default_dtype(torch.float32)
    console = Console(file=io.StringIO(), width=120, force_terminal=terminal)
    trained(tmp_path, console, **bounds)
    text = console.file.getvalue()
    assert "Epoch" not in text
    found = list(LINE.finditer(text))
    assert found[-1][0].startswith(last)
    assert found[-1][4] is not None  # the best validation
    assert found[-1][5] is not None  # the time left
    if terminal:
        assert "\x1b[" in text
        assert text.count("━") > 0 or "max_time" in bounds
    else:
        assert text.count("\n") == len(found) == 2  # the first step and the end
        assert found[0][1] == "1"
