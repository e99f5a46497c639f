"""Training under Lightning: module, data, optimiser and export. It needs the extra `train`."""

from setflow.training.data import SetDataModule
from setflow.training.export import ExportBestModel
from setflow.training.module import FlowMatchingModule
from setflow.training.optimizers import LAST_RATE, Muon, warmup_cosine

__all__ = [
    "LAST_RATE",
    "ExportBestModel",
    "FlowMatchingModule",
    "Muon",
    "SetDataModule",
    "warmup_cosine",
]
