"""Training under Lightning: module, data, optimiser and export.

It needs the extra `train`, but for the optimiser, which needs torch alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from setflow.deferred import module_functions

__all__ = [
    "LAST_RATE",
    "ExportBestModel",
    "FlowMatchingModule",
    "MovingAverage",
    "Muon",
    "SetDataModule",
    "StepProgress",
    "warmup_cosine",
]

if TYPE_CHECKING:
    from setflow.training.averaging import MovingAverage
    from setflow.training.data import SetDataModule
    from setflow.training.export import ExportBestModel
    from setflow.training.module import FlowMatchingModule
    from setflow.training.optimizers import LAST_RATE, Muon, warmup_cosine
    from setflow.training.progress import StepProgress
else:
    __getattr__, __dir__ = module_functions(__name__)
