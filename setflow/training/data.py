"""The events of a training, and those that are held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from setflow.data.collate import LengthBatchSampler, SetDataset
from setflow.data.hdf5 import read_events
from setflow.data.jets import PARTICLE_NAMES
from setflow.data.sample import EventSample
from setflow.files import same_file
from setflow.random import derive
from setflow.schema import Schema
from setflow.sets.batch import SetBatch
from setflow.shipped import JETS, find
from setflow.training.record import file_facts

__all__ = ["PlacedBatch", "PlacedDataset", "SetDataModule"]


class PlacedBatch(NamedTuple):
    """Events with their places: what their noise in training depends on, whatever batch it is.

    Attributes:
        events: the events.
        place: the number of each event, int64, with shape `(B,)`: its row among the events of the
            epoch as they stand in memory, before they are shuffled.
    """

    events: SetBatch
    place: Tensor


class PlacedDataset(Dataset[PlacedBatch]):
    """A data set of sets in memory whose batches tell the places of their events.

    Arguments:
        data: the data set, which is read a whole batch at a time.

    >>> data = SetDataset(SetBatch(torch.zeros(10, 5, 3), torch.ones(10, 5)))
    >>> PlacedDataset(data)[[7, 3]].place
    tensor([7, 3])
    """

    def __init__(self, data: SetDataset) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    @property
    def events(self) -> SetBatch:
        """All events, in the order of their places."""
        return self._data.events

    def __getitem__(self, index: int | list[int]) -> PlacedBatch:
        """Return the event `index` as a batch of one, or the events of a list as one batch."""
        place = torch.as_tensor(index).reshape(-1)
        return PlacedBatch(self._data[place], place)


class SetDataModule(LightningDataModule):
    """Events from files, in memory, in random batches.

    Arguments:
        train: the training file.
        val: the validation file; None sets a fraction of the training events aside. Both jets of
            one event fall on the same side.
        max_objects: how many of the hardest objects of each jet to keep.
        batch_size: the number of jets in a batch.
        val_fraction: the fraction that is set aside if there is no validation file.
        conditions: the jet features that the model is conditioned on, in its order.
        seed: the seed of that split and of the order of the events.
        features: the features of an object that the model knows, in its order.
        schema: the `setflow.schema.Schema` of the model, by which they are looked up; None takes
            that of the files.

    Raises:
        ValueError: if `val_fraction` does not lie between 0 and 1; when the files are read, if both
            are the same, or a side holds no jets.
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
        features: Sequence[str] = PARTICLE_NAMES,
        schema: Any = None,
    ) -> None:
        super().__init__()
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
        self.train_path = train
        self.val_path = val
        self.max_objects = max_objects
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.features, self.conditions = tuple(features), tuple(conditions)
        self.schema: Schema | None = schema
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
        train = self._read(self.train_path)
        if self.val_path is not None:
            if same_file(*(find(JETS, path) for path in (self.train_path, self.val_path))):
                raise ValueError(
                    f"the validation file {self.val_path} is the training file, so the weights "
                    "would be chosen by how well they know it by heart; leave --data.val out, and "
                    "--data.val_fraction of the training jets is held out, or give other jets"
                )
            val = self._read(self.val_path)
        else:
            held = _whole_events(train, self.val_fraction, self.seed)
            train, val = train[~held], train[held]
        for name, sample in (("training", train), ("validation", val)):
            if len(sample) == 0:
                raise ValueError(
                    f"the {name} sample is empty; give a larger file or another val_fraction"
                )
        self._train, self._val = self._events(train), self._events(val)

    def _read(self, path: str) -> EventSample:
        return read_events(
            path,
            self.schema,
            max_objects=self.max_objects,
            features=self.features,
            conditions=self.conditions,
        )

    def _events(self, sample: EventSample) -> SetBatch:
        context = sample.context(self.conditions) if self.conditions else None
        return SetBatch(sample.objects.x, sample.objects.mask, context)

    def facts(self) -> dict[str, Any]:
        """Return what the events are, for the card of a model: files, sha256, numbers of jets."""
        self.setup("fit")
        assert self._train is not None
        assert self._val is not None
        val = {} if self.val_path is None else file_facts(self.val_path)
        return {
            "train": {**file_facts(self.train_path), "jets": len(self._train)},
            "validation": {**val, "jets": len(self._val)},
            "batch_size": self.batch_size,
            "max_objects": self.max_objects,
        }

    def train_dataloader(self) -> DataLoader[PlacedBatch]:
        return self._loader(self._train, shuffle=True)

    def val_dataloader(self) -> DataLoader[PlacedBatch]:
        return self._loader(self._val, shuffle=False)

    def _loader(self, events: SetBatch | None, *, shuffle: bool) -> DataLoader[PlacedBatch]:
        assert events is not None
        # random batches: the loss itself evaluates like lengths together
        sampler = LengthBatchSampler(
            events.lengths, self.batch_size, shuffle=shuffle, seed=self.seed, window=1
        )
        return DataLoader(PlacedDataset(SetDataset(events)), sampler=sampler, batch_size=None)


def _whole_events(sample: EventSample, fraction: float, seed: int) -> Tensor:
    """Return which jets to hold out, a boolean tensor, so that no event is on both sides."""
    number = sample.event_number
    event = torch.arange(len(sample))
    if number is not None:
        event = torch.unique(number.view(torch.int64), return_inverse=True)[1]
    events = int(event.max()) + 1 if len(sample) else 0
    generator = torch.Generator().manual_seed(derive(seed, "events held out"))
    order = torch.randperm(events, generator=generator)
    held = torch.zeros(events, dtype=torch.bool)
    held[order[: round(fraction * events)]] = True
    return held[event]
