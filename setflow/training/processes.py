"""Several processes of one training: which this one is, and how they share a batch.

A step takes the same events whatever the number of processes: each gets its share of them. DDP
takes the mean of the gradients of the processes, each of which is that of the mean loss of a share,
so a loss is multiplied by the size of its share relative to an even one (`PlacedBatch.worth`).
Where a batch has fewer events than there are processes, those that get none take one and count it
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, distributed
from torch.utils.data.distributed import DistributedSampler

from setflow.data.collate import LengthBatchSampler
from setflow.sets.batch import SetBatch

__all__ = [
    "PlacedBatch",
    "Rows",
    "SharedBatches",
    "is_first_process",
    "launched",
    "mean_over_processes",
    "this_process",
    "which_process",
]


class PlacedBatch(NamedTuple):
    """Events with their places: what their noise in training depends on, whatever batch it is.

    Attributes:
        events: the events.
        place: the number of each event, int64, with shape `(B,)`: its row among the events of the
            epoch as they stand in memory, before they are shuffled.
        of: how many events the processes take together in this step; None if this one is alone.
        idle: whether none of them is left for this process, so that `events` count nothing.
    """

    events: SetBatch
    place: Tensor
    of: int | None = None
    idle: bool = False

    @property
    def worth(self) -> float:
        """By what the loss is multiplied, so that the mean over processes is that of all events."""
        if self.of is None:
            return 1.0
        return 0.0 if self.idle else len(self.place) * this_process()[1] / self.of


class Rows(NamedTuple):
    """The rows of events in memory that a process takes; `of` and `idle` as in `PlacedBatch`."""

    rows: list[int]
    of: int | None = None
    idle: bool = False


class SharedBatches(DistributedSampler[Rows]):
    """The batches of a sampler, of each of which this process takes its share.

    A share has every k-th event of a batch, so that all have events of like sizes. It is a sampler
    of torch's distributed kind, so that Lightning puts none in its place.

    Arguments:
        batches: the sampler of the batches of all processes.
        rank: the number of this process, of `processes`; None asks torch.distributed.
        processes: how many share the events.

    >>> batches = LengthBatchSampler([1, 1, 1, 1, 1], 4, shuffle=False)
    >>> [shared.rows for shared in SharedBatches(batches, rank=1, processes=2)]
    [[1, 3], [4]]
    """

    def __init__(
        self,
        batches: LengthBatchSampler,
        *,
        rank: int | None = None,
        processes: int | None = None,
    ) -> None:
        self.rank, self.num_replicas = which_process(rank, processes)
        self.shuffle, self.drop_last = False, False  # nothing of torch's own is used
        self._batches = batches

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of `epoch`."""
        self._batches.set_epoch(epoch)

    def skip(self, batches: int) -> None:
        """Begin the next iteration after so many of its batches, to go on with a stopped one."""
        self._batches.skip(batches)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Rows]:
        for batch in self._batches:
            if self.num_replicas == 1:
                yield Rows(batch)
                continue
            rows = batch[self.rank :: self.num_replicas]
            yield Rows(rows or batch[:1], len(batch), not rows)


def is_first_process() -> bool:
    """Return whether this process is the one that writes and speaks, also before they have met."""
    return not getattr(rank_zero_only, "rank", 0)


def launched() -> tuple[int, int] | None:
    """Return how many processes of a node, and nodes, torchrun or srun has started; None if none.

    Raises:
        ValueError: if srun has started several processes and their number on a node is open.
    """
    told = os.environ
    if "TORCHELASTIC_RUN_ID" in told:
        there = int(told["LOCAL_WORLD_SIZE"])
        return there, int(told["WORLD_SIZE"]) // there
    tasks = int(told.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks == 1:
        return None
    if "SLURM_NTASKS_PER_NODE" not in told:
        raise ValueError(
            f"srun has started {tasks} processes, and nothing tells how many on each node; give "
            "--ntasks-per-node to sbatch in place of --ntasks"
        )
    return int(told["SLURM_NTASKS_PER_NODE"]), int(told.get("SLURM_NNODES", 1))


def this_process() -> tuple[int, int]:
    """Return the number of this process of a training, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def which_process(rank: int | None, processes: int | None) -> tuple[int, int]:
    """Return the number of a process and how many there are; None asks torch.distributed."""
    return this_process() if rank is None or processes is None else (rank, processes)


def mean_over_processes(values: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes of a training, without gradient."""
    values = values.detach().clone()
    distributed.all_reduce(values)
    return values / this_process()[1]
