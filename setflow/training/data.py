"""The events of a training, and those that are held out."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from setflow.data.collate import LengthBatchSampler, SetDataset
from setflow.data.contexts import ContextSource
from setflow.data.hdf5 import read_events
from setflow.data.jets import PARTICLE_NAMES
from setflow.random import derive
from setflow.schema import (
    Category,
    Feature,
    Schema,
    Words,
    lists_objects,
    names,
    schema_of,
    words_of,
)
from setflow.sets.batch import SetBatch
from setflow.sets.weights import count_negative, effective_number, total_weight
from setflow.training.conditions import described, features_of
from setflow.training.files import CLASS, DataFile, classes_of, files_of, in_both
from setflow.training.record import files_facts

__all__ = [
    "PlacedBatch",
    "PlacedDataset",
    "SetDataModule",
    "event_loader",
    "held_out",
    "normalised",
]


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
        train: the training file, or a list of files, which are taken together; a name with `*` or
            `?` stands for all files that it matches. A mapping from names of classes to such gives
            each jet a condition `class`.
        val: the validation files, likewise; None sets a fraction of the training events aside. Both
            jets of one event fall on the same side.
        max_objects: how many of the hardest objects of each jet to keep.
        batch_size: the number of jets in a batch.
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

    Raises:
        ValueError: if `val_fraction` does not lie between 0 and 1, or classes and conditions do not
            fit; when the files are read, if both sides have one in common, a side holds no jets, or
            the weights of a side do not sum to a positive number.
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
    ) -> None:
        super().__init__()
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
        self.train_files = files_of(train)
        self.val_files = None if val is None else files_of(val, "data.val")
        self.max_objects = max_objects
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.features, self.conditions = tuple(features), tuple(conditions)
        self._classes, self._given = classes_of(train), (schema, train)
        self.context_features = features_of(schema, self.conditions, self._classes)
        _check_classes("data.train", self.train_files, self.context_features)
        if self.val_files is not None:
            _check_classes("data.val", self.val_files, self.context_features)
            if (self.train_files[0].label is None) != (self.val_files[0].label is None):
                raise ValueError(
                    "one of data.train and data.val has a class for each of its files and the "
                    "other has none; give both the same way"
                )
        self._schema = schema_of(schema) if lists_objects(schema) else None
        self.seed, self.weight = seed, weight
        self._told: Schema | None = None
        self._train: SetBatch | None = None
        self._val: SetBatch | None = None
        self.accepted: frozenset[str] = frozenset()
        """What is not refused of the files, by the names of `setflow.data.tally.ACCEPTED`."""

    @property
    def train_events(self) -> SetBatch:
        """The training events, with the conditions as context."""
        self.setup("fit")
        assert self._train is not None
        return self._train

    @property
    def val_events(self) -> SetBatch:
        """The events that are held out, with the conditions as context."""
        self.setup("fit")
        assert self._val is not None
        return self._val

    def setup(self, stage: str) -> None:
        if self._train is not None:
            return
        if self._schema is None:  # the first file tells of conditions that nobody knows
            schema, files = self._given
            told = described(schema, self.conditions, files)
            self.context_features = features_of(told, self.conditions, self._classes)
        train, numbers = self._read(self.train_files)
        if self.val_files is not None:
            common = in_both(self.val_files, self.train_files)
            if common and "same" not in self.accepted:
                raise ValueError(
                    f"the validation file {common} is the training file, so the weights "
                    "would be chosen by how well they know it by heart; leave --data.val out, and "
                    f"--data.val_fraction of the training {self._words.events} is held out, or "
                    f"give other {self._words.events}"
                )
            val, _ = self._read(self.val_files)
        else:
            held = held_out(numbers, self.val_fraction, self.seed)
            train, val = train[~held], train[held]
        for name, sample in (("training", train), ("validation", val)):
            if len(sample) == 0:
                raise ValueError(self._why_empty(name, len(train) + len(val)))
        self._train, self._val = normalised(train, val, self._words)

    @property
    def _words(self) -> Words:
        return words_of(self.features)

    def _why_empty(self, name: str, events: int) -> str:
        """Return why a sample is empty; `events` is the number of those that were shared out."""
        what = self._words.events
        files = self.train_files if name == "training" or not self.val_files else self.val_files
        paths = ", ".join(str(path) for path, _ in files)
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

    def _read(self, files: Sequence[DataFile]) -> tuple[SetBatch, Tensor]:
        """Return the events of files, and numbers that are the same for those of one collision."""
        batches: list[SetBatch] = []
        numbers: list[Tensor] = []
        schema = self._told if self._schema is None else self._schema
        for path, label in files:
            fixed = {CLASS: float(self._codes[label])} if label is not None else {}
            source = ContextSource(path, self.context_features, fixed)
            sample = read_events(
                path,
                schema,
                max_objects=self.max_objects,
                features=self.features,
                conditions=source.columns,
                weight=self.weight,
                counts="counts" not in self.accepted,
            )
            if schema is None:  # what the first file says holds of all
                schema = self._told = self._of_all(sample.schema)
            objects = sample.objects
            x, mask, weight = objects.x, objects.mask, objects.weight
            batches.append(SetBatch(x, mask, source.of(sample), weight))
            number = sample.event_number
            if number is None:  # each jet by itself, apart from all that have numbers
                start = sum(len(some) for some in numbers)
                number = torch.arange(start, start + len(sample)) - 2**62
            numbers.append(number.view(torch.int64))
        return _together(batches), torch.cat(numbers)

    def _of_all(self, first: Schema) -> Schema:
        """Return what all files are read by, given what the first one holds."""
        known = {entry.name: entry for entry in self.context_features}
        event = [known[entry.name] for entry in first.event if entry.name in known]
        return Schema(first.objects, event, first.order_by)

    @property
    def _codes(self) -> dict[str | None, int]:
        kinds = [entry.kind for entry in self.context_features if entry.name == CLASS]
        listed = kinds[0].names if kinds and isinstance(kinds[0], Category) else ()
        return {name: code for code, name in enumerate(listed)}

    def facts(self) -> dict[str, Any]:
        """Return what the events are, for the card of a model: files, sha256, numbers of jets."""
        self.setup("fit")
        assert self._train is not None
        assert self._val is not None
        val = {} if self.val_files is None else files_facts(self.val_files)
        what = self._words.events
        facts: dict[str, Any] = {
            "train": {**files_facts(self.train_files), what: len(self._train)},
            "validation": {**val, what: len(self._val)},
            "batch_size": self.batch_size,
            "max_objects": self.max_objects,
        }
        if self._train.weight is not None:
            effective = round(effective_number(self._train.weight))
            negative = count_negative(self._train.weight)
            facts["weights"] = f"{self.weight}, worth {effective:,} equal ones; {negative}"
        return facts

    def train_dataloader(self) -> DataLoader[PlacedBatch]:
        return self._loader(self._train, shuffle=True)

    def val_dataloader(self) -> DataLoader[PlacedBatch]:
        return self._loader(self._val, shuffle=False)

    def _loader(self, events: SetBatch | None, *, shuffle: bool) -> DataLoader[PlacedBatch]:
        assert events is not None
        return event_loader(events, self.batch_size, seed=self.seed, shuffle=shuffle)


def event_loader(
    events: SetBatch, batch_size: int, *, seed: int, shuffle: bool
) -> DataLoader[PlacedBatch]:
    """Return a loader of random batches: the loss itself evaluates like lengths together."""
    sampler = LengthBatchSampler(events.lengths, batch_size, shuffle=shuffle, seed=seed, window=1)
    return DataLoader(PlacedDataset(SetDataset(events)), sampler=sampler, batch_size=None)


def _check_classes(what: str, files: Sequence[DataFile], features: Sequence[Feature]) -> None:
    """Refuse classes of files that are none of the condition `class`.

    Raises:
        ValueError: if there is no such condition, or no such class; it tells the nearest.
    """
    labels = [label for _, label in files if label is not None]
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


def _together(batches: Sequence[SetBatch]) -> SetBatch:
    """Return the events of several batches as one, padded to the longest."""
    if len(batches) == 1:
        return batches[0]
    slots = max(batch.mask.shape[1] for batch in batches)
    dtype = functools.reduce(torch.promote_types, (batch.x.dtype for batch in batches))
    x, mask, c = [], [], []
    for batch in batches:
        missing = slots - batch.mask.shape[1]
        x.append(torch.nn.functional.pad(batch.x.to(dtype), (0, 0, 0, missing)))
        mask.append(torch.nn.functional.pad(batch.mask, (0, missing)))
        if batch.c is not None:
            c.append(batch.c)
    wide = functools.reduce(torch.promote_types, (rows.dtype for rows in c), torch.float16)
    context = torch.cat([rows.to(wide) for rows in c]) if c else None
    weights = [batch.weight for batch in batches if batch.weight is not None]
    return SetBatch(torch.cat(x), torch.cat(mask), context, torch.cat(weights) if weights else None)


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
