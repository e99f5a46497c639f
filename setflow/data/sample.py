"""Events in memory, as they stand in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from setflow.schema import JETNET, RELATIVE_JET_UNITS, Feature, Schema, names
from setflow.sets.batch import SetBatch

__all__ = ["Described", "EventSample"]

RELATIVE = RELATIVE_JET_UNITS[0]
"""The unit of pt and mass in files that do not know the jet pT; it is kept."""


class Described:
    """What has a schema, and tells the names in it."""

    schema: Schema

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the D features of an object."""
        return names(self.schema.objects)

    @property
    def event_features(self) -> tuple[str, ...]:
        """The names of the C features of an event."""
        return names(self.schema.event)

    @property
    def event_units(self) -> tuple[str, ...]:
        """Their units."""
        return units(self.schema.event)


@dataclass(frozen=True)
class EventSample(Described):
    """Events as they stand in a file.

    Arguments:
        objects: the objects, with `x` of shape `(n, N, D)`, zero in padded slots, and `mask` of
            shape `(n, N)`.
        event: the features of the events, with shape `(n, C)`.
        schema: what the columns are: the D features of an object and the C features of an event,
            in their order, with the units in which they stand here.
        particle_type: codes of `PARTICLE_TYPES`, with shape `(n, N)`, int8, or None.
        event_number: the collision that each event comes from, with shape `(n,)`, int64 or uint64,
            or None.
        target: the class of each event, a whole number, with shape `(n,)`, int64, or None.

    Raises:
        ValueError: if the shapes do not belong together.

    >>> from setflow.schema import Feature, Schema
    >>> rings = Schema([Feature("x", "mm"), Feature("y", "mm")], [Feature("radius", "mm")])
    >>> sample = EventSample(SetBatch(torch.zeros(2, 5, 2)), torch.ones(2, 1), rings)
    >>> len(sample), sample[:1].features, sample.context(["radius"]).shape
    (2, ('x', 'y'), torch.Size([2, 1]))
    >>> sample
    EventSample(
      objects: SetBatch(2 sets of 5 objects, 2 features, no context, float32 on cpu)
      features of objects: x [mm], y [mm]
      features of event: radius [mm]
    )
    """

    objects: SetBatch
    event: Tensor
    schema: Schema = JETNET
    particle_type: Tensor | None = None
    event_number: Tensor | None = None
    target: Tensor | None = None

    def __post_init__(self) -> None:
        mask = tuple(self.objects.mask.shape)
        expected = {
            "objects.x": (self.objects.x, (*mask, len(self.features))),
            "event": (self.event, (*mask[:-1], len(self.event_features))),
            "particle_type": (self.particle_type, mask),
            "event_number": (self.event_number, mask[:-1]),
            "target": (self.target, mask[:-1]),
        }
        for name, (tensor, shape) in expected.items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}, expected {shape} beside a mask of "
                    f"shape {mask} and the features {', '.join(self.features)} of an object and "
                    f"{', '.join(self.event_features) or 'none'} of an event"
                )

    def context(self, columns: Sequence[str]) -> Tensor:
        """Return features of the events, by name, with shape `(n, len(columns))`.

        Raises:
            ValueError: if one does not exist, or stands in units of a jet pT that is not known.
        """
        columns = [columns] if isinstance(columns, str) else columns  # no list of letters
        for column in columns:
            feature = self.schema.of_event(column)
            if feature.unit == RELATIVE:
                raise ValueError(
                    f"the events hold {column} in units of {RELATIVE!r}, expected 'GeV': a "
                    "generated file does not know it; give a file of full jets"
                )
        return self.event[:, [self.event_features.index(column) for column in columns]]

    def __repr__(self) -> str:
        """Say on a few lines what there is, and no value."""
        held = [f"objects: {self.objects!r}"]
        for what, features in (("objects", self.schema.objects), ("event", self.schema.event)):
            told = [f"{entry.name}{f' [{entry.unit}]' if entry.unit else ''}" for entry in features]
            held.append(f"features of {what}: {', '.join(told) or 'none'}")
        more = [name for name in ("particle_type", "event_number", "target")
                if getattr(self, name) is not None]  # fmt: skip
        held += [f"also {', '.join(more)}"] if more else []
        return "\n  ".join([f"{type(self).__name__}(", *held]) + "\n)"

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: Any) -> Self:
        """Select events (an integer, slice, list or tensor)."""
        rows = ("objects", "event", "particle_type", "event_number", "target")
        parts = {name: getattr(self, name) for name in rows}
        return replace(
            self, **{name: part[index] for name, part in parts.items() if part is not None}
        )


def units(features: Sequence[Feature]) -> tuple[str, ...]:
    """Return the units of features.

    >>> units([Feature("x", "mm"), Feature("y")])
    ('mm', '')
    """
    return tuple(feature.unit for feature in features)
