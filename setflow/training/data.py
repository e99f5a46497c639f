"""The events of a training, and those that are held out: in memory, or read as they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from setflow.data.collate import LengthBatchSampler, SetDataset
from setflow.data.jets import PARTICLE_NAMES
from setflow.data.object_types import TypeEncoder
from setflow.data.selection import selection_of
from setflow.model.model import SetFlow
from setflow.model.statistics import SampleStatistics, take_statistics
from setflow.random import derive
from setflow.schema import Category, Feature, Schema, Words, names, schema_of, words_of
from setflow.sets.batch import SetBatch
from setflow.sets.shapes import whole_number
from setflow.sets.weights import count_negative, effective_number, total_weight
from setflow.training.conditions import described, features_of
from setflow.training.files import CLASS, DataFile, classes_of, files_of, in_both
from setflow.training.foreign import readable
from setflow.training.processes import PlacedBatch, Rows, SharedBatches
from setflow.training.record import files_facts
from setflow.training.sources import EventFiles, Wanted
from setflow.training.streams import Streams
from setflow.training.types import first_of_each, require_known_types

__all__ = [
    "PlacedBatch",
    "PlacedDataset",
    "SetDataModule",
    "event_loader",
    "held_out",
    "normalised",
]

_PART = 2**14  # events that are looked at together
HELD_BYTES = 2**26
"""Events whose features take no more are held in memory where nothing else is said."""


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

    def __getitem__(self, index: int | list[int] | Rows) -> PlacedBatch:
        """Return the event `index` as a batch of one, or the events of a list as one batch."""
        if not isinstance(index, Rows):
            index = Rows([index] if isinstance(index, int) else index)
        place = torch.as_tensor(index.rows)
        return PlacedBatch(self._data[place], place, index.of, index.idle)


class SetDataModule(LightningDataModule):
    """Events from files, in random batches.

    Events whose features take little memory are held there and shuffled as a whole. Of others a
    part is read at a time (`setflow.training.streaming`), with a shuffle within parts that lie all
    over the files, so that memory does not depend on the size of the files.

    Arguments:
        train: the training file, or a list of files, which are taken together; a name with `*` or
            `?` stands for all files that it matches, a folder for its HDF5 files, and
            `jets.h5[0:50000]` for these rows. A mapping from names of classes to such gives each
            jet a condition `class`.
        val: the validation files, likewise; None sets a fraction of the training events aside. Both
            jets of one event fall on the same side.
        max_objects: how many of the hardest objects of each jet to keep.
        batch_size: the number of jets of a step; several processes share them.
        val_fraction: the fraction that is set aside if there is no validation file.
        conditions: the features of a jet that the model is conditioned on, in its order: names of
            columns of the files, and `class`.
        seed: the seed of that split and of the order of the events.
        features: the features of a particle that the model knows, in its order.
        weight: the name of the dataset in the files that holds the weights of the jets, such as
            `weight`; None takes none. They are normalised once, to mean 1 over the training jets,
            and those of the validation jets by the same factor.
        schema: what features and conditions are; None takes what the first training file says of
            them, in whose units all others are read, and a `class` as the category of the classes
            of `train`. One that lists the event alone is of conditions.
        select: which events are taken, for training and validation alike, by conditions on their
            features such as `pt > 500 and abs(eta) < 2` (`setflow.data.selection`).
        in_memory: whether all events are held in memory; None does so up to 64 MiB of features.
            The order of the events and which are held out are not the same in both ways.
        workers: how many processes read ahead where events are not held in memory.
        format: the format of the files, if it is another one, `jetclass`, or a mapping with its
            `name` and what `setflow dataset convert` would be told; they are converted once, into
            the user's cache (`setflow.training.foreign`).

    Raises:
        ValueError: if `val_fraction` does not lie between 0 and 1, a number is below 1, or classes
            and conditions do not fit; when the files are read, if both sides have one in common, a
            side holds no jets, or the weights of a side do not sum to a positive number.
    """

    def __init__(
        self,
        train: dict[str, str | list[str]] | list[str] | str,
        val: dict[str, str | list[str]] | list[str] | str | None = None,
        max_objects: int = 150,
        batch_size: int = 256,
        val_fraction: float = 0.1,
        conditions: Sequence[str] = (),
        seed: int = 0,
        features: Sequence[str] = PARTICLE_NAMES,
        weight: str | None = None,
        schema: dict[str, Any] | Schema | str | None = None,
        select: str | None = None,
        in_memory: bool | None = None,
        workers: int = 0,
        format: str | dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
        self.max_objects = whole_number(max_objects, "max_objects", 1)
        self.batch_size = whole_number(batch_size, "batch_size", 1)
        files = readable(train, format)
        self.train_files = files_of(files)
        others = None if val is None else readable(val, format)
        self.val_files = None if others is None else files_of(others, "data.val")
        self.val_fraction = val_fraction
        self.features, self.conditions = tuple(features), tuple(conditions)
        self._classes, self._given = classes_of(files), (schema, files)
        self.context_features = features_of(schema, self.conditions, self._classes)
        _check_classes("data.train", self.train_files, self.context_features)
        if self.val_files is not None:
            _check_classes("data.val", self.val_files, self.context_features)
            if (self.train_files[0].label is None) != (self.val_files[0].label is None):
                raise ValueError(
                    "one of data.train and data.val has a class for each of its files and the "
                    "other has none; give both the same way"
                )
        whole = schema is not None and not (isinstance(schema, dict) and "objects" not in schema)
        self._schema = schema_of(schema) if whole and schema is not None else None
        self.seed, self.weight = seed, weight
        self.select = None if select is None else selection_of(select)
        self.in_memory, self.workers = in_memory, whole_number(workers, "workers")
        self._train: SetBatch | None = None
        self._val: SetBatch | None = None
        self._streams: Streams | None = None
        self._rows: tuple[tuple[EventFiles, Tensor], ...] = ()  # of both sides, in memory
        self.accepted: frozenset[str] = frozenset()
        """What is not refused of the files, by the names of `setflow.data.tally.ACCEPTED`."""

    @property
    def train_events(self) -> SetBatch:
        """The training events, with the conditions as context, where they are held in memory.

        Raises:
            ValueError: if they are not.
        """
        self.setup("fit")
        if self._train is None:
            raise ValueError(
                "the training events are read as they are needed, and not held in memory; take "
                "data.fit_statistics(flow) for the statistics of a model, or "
                "SetDataModule(..., in_memory=True)"
            )
        return self._train

    def looked_at(self, *, train: bool) -> Iterator[SetBatch]:
        """Yield events of a side in parts: all that are in memory, or some of the others."""
        self.setup("fit")
        events = self._train if train else self._val
        if events is None:
            assert self._streams is not None
            yield from self._streams.looked_at(train=train)
            return
        for start in range(0, len(events), _PART):
            yield events[start : start + _PART]

    def sizes(self) -> tuple[int, int]:
        """Return the numbers of events of the training and of those held out."""
        self.setup("fit")
        return self._sides()[0]

    def training_sample(self, flow: SetFlow) -> SetBatch | SampleStatistics:
        """Return the training events, or what the statistics of a model need of them.

        Both know the numbers of objects that occur, `lengths`, and contexts `c` that span those of
        the training.

        Raises:
            ValueError: if an event has an object of a type that the training lacks.
        """
        self.setup("fit")
        if self._streams is None:
            if flow.types is not None:
                self._require_known_types(flow, flow.types)
            return self.train_events
        sample = self._streams.sample(flow)
        self._require_some(*self._streams.sizes())
        return sample

    def _require_known_types(self, flow: SetFlow, types: TypeEncoder) -> None:
        sides = zip(self._rows, (self._train, self._val), strict=True)
        train, val = (
            (files, first_of_each(types, events, rows))
            for (files, rows), events in sides
            if events is not None
        )
        require_known_types(flow, train, val)

    def fit_statistics(self, flow: SetFlow) -> SetFlow:
        """Fit what a model needs to know of the training events; return the model.

        It is `SetFlow.fit_statistics`, in one pass over the files where events are not held in
        memory; its result is kept in the user's cache (`setflow.training.statistics`).
        """
        sample = self.training_sample(flow)
        if isinstance(sample, SetBatch):
            return flow.fit_statistics(sample)
        return take_statistics(flow, sample)

    def setup(self, stage: str) -> None:
        if self._train is not None or self._streams is not None:
            return
        if self._schema is None:  # the first file tells of conditions that nobody knows
            schema, given = self._given
            told = described(schema, self.conditions, given)
            self.context_features = features_of(told, self.conditions, self._classes)
        train = self._opened(self.train_files, self._schema)
        common = None if self.val_files is None else in_both(self.val_files, self.train_files)
        if common and "same" not in self.accepted:
            raise ValueError(
                f"the validation file {common} is the training file, so the weights "
                "would be chosen by how well they know it by heart; leave --data.val out, and "
                f"--data.val_fraction of the training {self._words.events} is held out, or "
                f"give other {self._words.events}"
            )
        val = None if self.val_files is None else self._opened(self.val_files, train.schema)
        size = train.held_bytes + (0 if val is None else val.held_bytes)
        if size <= HELD_BYTES if self.in_memory is None else self.in_memory:
            self._hold(train, val)
        else:
            self._streams = Streams(
                train, val, val_fraction=self.val_fraction, seed=self.seed, size=size
            )

    def _opened(self, files: Sequence[DataFile], schema: Schema | None) -> EventFiles:
        wanted = Wanted(
            self.features,
            self.context_features,
            schema,
            self.max_objects,
            self.weight,
            self.select,
            counts="counts" not in self.accepted,
        )
        return EventFiles(files, wanted)

    def _hold(self, files: EventFiles, others: EventFiles | None) -> None:
        """Read all events, and set some aside where no others are given."""
        train = files.all()
        if others is not None:
            val = others.all()
        else:
            held = held_out(train.numbers, self.val_fraction, self.seed)
            train, val = train.of(~held), train.of(held)
        self._require_some(len(train.events), len(val.events))
        self._rows = ((files, train.rows), (others or files, val.rows))
        self._train, self._val = normalised(train.events, val.events, self._words)

    def _require_some(self, train: int, val: int) -> None:
        for name, number in (("training", train), ("validation", val)):
            if number == 0:
                raise ValueError(self._why_empty(name, train + val))

    @property
    def _words(self) -> Words:
        return words_of(self.features)

    def _why_empty(self, name: str, events: int) -> str:
        """Return why a sample is empty; `events` is the number of those that were shared out."""
        what = self._words.events
        files = self.train_files if name == "training" or not self.val_files else self.val_files
        paths = ", ".join(file.path for file in files)
        if self.select is not None:
            paths += f", selected by {self.select.text!r},"
        if self.val_files is not None:
            return f"the {name} sample is empty: {paths} holds no {what}; give a file that has some"
        if not events:
            return f"{paths} holds no {what}, so there is nothing to train on"
        return (
            f"the {name} sample is empty: of the {events} {what} in {paths} a fraction of "
            f"{self.val_fraction:g} is held out, those of one collision together; give a larger "
            "file, "
            f"another val_fraction, or {what} to validate on, --data.val"
        )

    def facts(self) -> dict[str, Any]:
        """Return what the events are, for the card of a model: files, sha256, numbers of jets."""
        self.setup("fit")
        sides, weights = self._sides()
        quick = self._streams is not None  # no hash of all that stands in them
        val = {} if self.val_files is None else files_facts(self.val_files, quick=quick)
        what = self._words.events
        facts: dict[str, Any] = {
            "train": {**files_facts(self.train_files, quick=quick), what: sides[0]},
            "validation": {**val, what: sides[1]},
            "batch_size": self.batch_size,
            "max_objects": self.max_objects,
        }
        if self.select is not None:
            facts["select"] = self.select.text
        if weights is not None:
            facts["weights"] = f"{self.weight}, {weights}"
        return facts

    def _sides(self) -> tuple[tuple[int, int], str | None]:
        """Return the numbers of events of both sides, and what those of the training are worth."""
        if self._streams is not None:
            return self._streams.sizes(), self._streams.worth()
        assert self._train is not None
        assert self._val is not None
        weights, worth = self._train.weight, None
        if weights is not None:
            worth = f"worth {round(effective_number(weights)):,} equal ones; "
            worth += count_negative(weights)
        return (len(self._train), len(self._val)), worth

    def train_dataloader(self) -> DataLoader[PlacedBatch]:
        return self._loader(self._train, shuffle=True)

    def val_dataloader(self) -> DataLoader[PlacedBatch]:
        return self._loader(self._val, shuffle=False)

    def _loader(self, events: SetBatch | None, *, shuffle: bool) -> DataLoader[PlacedBatch]:
        if events is not None:
            return event_loader(events, self.batch_size, seed=self.seed, shuffle=shuffle)
        assert self._streams is not None
        self._require_some(*self._streams.sizes())
        return self._streams.loader(self.batch_size, train=shuffle, workers=self.workers)


def event_loader(
    events: SetBatch, batch_size: int, *, seed: int, shuffle: bool
) -> DataLoader[PlacedBatch]:
    """Return a loader of random batches: the loss itself evaluates like lengths together."""
    sampler = LengthBatchSampler(events.lengths, batch_size, shuffle=shuffle, seed=seed, window=1)
    shared = SharedBatches(sampler)
    return DataLoader(PlacedDataset(SetDataset(events)), sampler=shared, batch_size=None)


def _check_classes(what: str, files: Sequence[DataFile], features: Sequence[Feature]) -> None:
    """Refuse classes of files that are none of the condition `class`.

    Raises:
        ValueError: if there is no such condition, or no such class; it tells the nearest.
    """
    labels = [file.label for file in files if file.label is not None]
    if not labels:
        return
    if CLASS not in names(tuple(features)):
        raise ValueError(
            f"{what} has the classes {', '.join(dict.fromkeys(labels))}, but the model is not "
            f"conditioned on '{CLASS}'; add it to conditions "
            f"(--model.flow.init_args.conditions), or give {what} a list of files"
        )
    kind = next(entry.kind for entry in features if entry.name == CLASS)
    if not isinstance(kind, Category):
        raise ValueError(
            f"{what} has the classes {', '.join(dict.fromkeys(labels))}, but '{CLASS}' is of kind "
            f"{kind} in the schema; expected category({', '.join(dict.fromkeys(labels))})"
        )
    for label in labels:
        try:
            kind.code(label)
        except ValueError as error:
            raise ValueError(f"{what}: condition '{CLASS}': {error}") from None


def normalised(train: SetBatch, val: SetBatch, words: Words) -> tuple[SetBatch, SetBatch]:
    """Return both sides with weights of mean 1 over the training events, if they have some.

    Arguments:
        train: the training events.
        val: those that are held out.
        words: what events are called.

    Raises:
        ValueError: if those of a side do not sum to a positive number.
    """
    factor = 1.0
    for name, sample in (("validation", val), ("training", train)):  # the last one tells it
        if sample.weight is not None:
            total = total_weight(sample.weight, f"{name} {words.events}: their weights")
            factor = len(sample) / float(total)
    return _weighed(train, factor), _weighed(val, factor)


def _weighed(batch: SetBatch, factor: float) -> SetBatch:
    """Return events with their weights, if they have some, times a factor."""
    weight = None if batch.weight is None else factor * batch.weight
    return SetBatch(batch.x, batch.mask, batch.c, weight)


def held_out(number: Tensor, fraction: float, seed: int) -> Tensor:
    """Return which jets to hold out, a boolean tensor, so that no event is on both sides.

    Arguments:
        number: that of the event of each jet, with shape `(n,)`.
        fraction: of the events.
        seed: the seed of the choice.
    """
    event = torch.unique(number, return_inverse=True)[1]
    events = int(event.max()) + 1 if len(event) else 0
    generator = torch.Generator().manual_seed(derive(seed, "events held out"))
    order = torch.randperm(events, generator=generator)
    held = torch.zeros(events, dtype=torch.bool)
    held[order[: round(fraction * events)]] = True
    return held[event]
