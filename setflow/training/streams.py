"""Both sides of a training on files that do not fit memory, with what is known of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from setflow.model.model import SetFlow
from setflow.model.statistics import SampleStatistics
from setflow.sets.batch import SetBatch
from setflow.sets.weights import in_words, require_positive
from setflow.training.processes import PlacedBatch
from setflow.training.sources import EventFiles
from setflow.training.statistics import Known, known_of
from setflow.training.streaming import (
    EpochShares,
    Side,
    StreamedEvents,
    free_memory,
    of_side,
)
from setflow.training.types import require_known_types

__all__ = ["Streams"]

_LOOKED_AT = 32  # blocks
_SHARE = 4  # of the free memory one part may be taken by events


class Streams:
    """The events of a training and those that are held out, read as they are needed.

    Where there is a CUDA device, to which a disk is slow, and the events take at most a quarter of
    the free memory, what was read stays there; that changes nothing but the speed.

    Arguments:
        train: the training files.
        val: the validation files; None holds out a fraction of the training events.
        val_fraction: that fraction.
        seed: the seed of the choice, and of the order.
        size: how many bytes the events take in memory.
    """

    def __init__(
        self,
        train: EventFiles,
        val: EventFiles | None,
        *,
        val_fraction: float,
        seed: int,
        size: int,
    ) -> None:
        self._train, self._val, self._seed = train, val, seed
        self._sides: list[Side | None] = [None]
        if val is None:
            self._sides = [Side(seed, val_fraction, held) for held in (False, True)]
        self._blocks = train.blocks()
        self._val_blocks = self._blocks if val is None else val.blocks()
        self._keep = torch.cuda.is_available() and size * _SHARE < free_memory()
        self._found: tuple[Known, Known] | None = None

    def _known(self, flow: SetFlow | None = None) -> tuple[Known, Known]:
        """Return what is known of both sides, each as the first row."""
        if self._found is not None and (flow is None or self._found[0].sample is not None):
            return self._found
        types = None if flow is None else flow.types
        train = known_of(self._train, self._blocks, self._sides, flow, types)
        if self._val is None:
            val = Known(train.counts[1:], train.weights[1:], train.first[1:], None)
        else:
            val = known_of(self._val, self._val_blocks, [None], types=types)
        if self._train.wanted.weight is not None:
            for name, known in (("validation", val), ("training", train)):
                total, _, size, negative = known.weights[0]
                n = int(known.counts[0].sum())
                if n:
                    require_positive(total, size, f"{name} events: their weights", int(negative), n)
        self._found = (train, val)
        return self._found

    def sample(self, flow: SetFlow) -> SampleStatistics:
        """Return what the statistics of a model need of the training events.

        Raises:
            ValueError: if an event has an object of a type that the training lacks.
        """
        train, val = self._known(flow)
        if flow.types is not None:
            files = self._train if self._val is None else self._val
            require_known_types(flow, (self._train, train.first[0]), (files, val.first[0]))
        assert train.sample is not None
        return train.sample

    def sizes(self) -> tuple[int, int]:
        """Return the numbers of events of the training and of those held out."""
        train, val = (int(known.counts[0].sum()) for known in self._known())
        return train, val

    def worth(self) -> str | None:
        """Return what weighted training events are worth, in words; None without weights."""
        if self._train.wanted.weight is None:
            return None
        total, squares, _, negative = self._known()[0].weights[0].tolist()
        told = in_words(int(negative), self.sizes()[0])
        return f"worth {round(total**2 / squares):,} equal ones; {told}"

    def looked_at(self, *, train: bool) -> Iterator[SetBatch]:
        """Yield events of a side, those of at most `_LOOKED_AT` blocks that lie all over the files.

        Arguments:
            train: the training side, or the other one.
        """
        files = self._train if train or self._val is None else self._val
        blocks = self._blocks if train else self._val_blocks
        side = self._sides[0 if train else -1] if self._val is None else None
        step = max(1, len(blocks) // _LOOKED_AT)
        for block in blocks[::step][:_LOOKED_AT]:
            yield of_side(files.read(block), side).events
        files.close()

    def loader(self, batch_size: int, *, train: bool, workers: int) -> DataLoader[PlacedBatch]:
        """Return a loader of the batches of a side.

        Arguments:
            batch_size: the number of events in a step, of all processes together.
            train: the training side, shuffled, or the other one, in order.
            workers: how many processes read ahead.
        """
        trained, other = self._known()
        known = trained if train else other
        total = trained.weights[0, 0]
        factor = float(trained.counts[0].sum() / total) if total else 1.0
        events = StreamedEvents(
            self._train if train or self._val is None else self._val,
            self._blocks if train else self._val_blocks,
            known.counts[0],
            self._sides[0 if train else -1] if self._val is None else None,
            seed=self._seed,
            shuffle=train,
            factor=factor,
            keep=self._keep,
        )
        sampler = EpochShares(len(events), batch_size)
        return DataLoader(
            events,
            sampler=sampler,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
