"""Read files of events, checked: `setflow.data.reader` in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence

from setflow.data.jets import PARTICLE_NAMES, JetSample
from setflow.data.reader import EventReader, ScreenedEvents
from setflow.data.sample import EventSample
from setflow.schema import JETNET, Schema

__all__ = ["ScreenedEvents", "read_events", "read_jets", "screen_events"]


def read_events(
    path: str | os.PathLike[str],
    schema: Schema | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
    max_objects: int | None = None,
    features: Sequence[str] | None = None,
    conditions: Sequence[str] = (),
    keep_unphysical: bool = False,
    weight: str | None = None,
    counts: bool = True,
) -> EventSample:
    """Read events from a file, block by block, so that little more than the result is in memory.

    Arguments:
        path: the HDF5 file.
        schema: what the features are that are looked up by name, and in which units they are to
            come; None takes the schema of the file, for JetNet's layout `JETNET`.
        start: the first row to read.
        stop: the row to stop before; None reads to the end.
        max_objects: keep at most so many objects of each event: where the schema names `order_by`,
            those with the largest, largest first, and the first ones otherwise. None keeps all, in
            the order of the file.
        features: the names of the features of an object that are read, in this order; None reads
            those that a model can generate (`Schema.generated`), and where some types of objects
            lack one of them the categories that tell the type. What the schema does not know is
            taken in the unit of the file.
        conditions: the names of features of the event that must be there; those that the schema
            does not know stand behind those that it does.
        keep_unphysical: keep values that cannot be, such as a ptrel below 0, which the sample of a
            model may hold.
        weight: the name of the dataset that holds the weights of the events, such as `weight`; None
            reads none. They come with the objects, as they stand in the file.
        counts: whether the number of objects that the file tells of an event must be that of the
            mask; the mask counts in any case.

    Returns:
        The events. Features are float64 if the file's are, else float32. `num_particles` is counted
        from the mask.

    Warns:
        UserWarning: if a unit was converted, or the file holds weights that are not used.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if the file is not HDF5, truncated or otherwise broken.
        ValueError: if it does not have a layout, a name or a known unit; if a row is malformed: a
            mask is neither 0 nor 1, a real object, an event or a weight holds NaN or Inf, or a
            value beyond what its feature can be (`setflow.schema`), or it has another number of
            objects than the mask says; if the rows asked for, or the weights, do not exist.

    >>> read_events("pythia-top/heldout.h5", stop=3, features=["ptrel", "etarel"]).objects.x.shape
    torch.Size([3, 150, 2])
    """
    with EventReader(
        path,
        schema,
        max_objects=max_objects,
        features=features,
        conditions=conditions,
        keep_unphysical=keep_unphysical,
        weight=weight,
        counts=counts,
    ) as reader:
        sample = reader.read(start, stop)
        reader.warn_unused()
        return sample


def screen_events(
    path: str | os.PathLike[str],
    schema: Schema | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
    max_objects: int | None = None,
    features: Sequence[str] | None = None,
    conditions: Sequence[str] = (),
) -> ScreenedEvents:
    """Read events as `read_events` does, but keep malformed rows in their place, with a reason.

    The arguments are those of `read_events`; a malformed row comes as one without objects.

    Warns:
        UserWarning: if a unit was converted.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if the file is not HDF5, truncated or otherwise broken.
        ValueError: if it does not have a layout, a name or a known unit, or the rows asked for do
            not exist.
    """
    with EventReader(
        path, schema, max_objects=max_objects, features=features, conditions=conditions
    ) as reader:
        return reader.screen(start, stop)


def read_jets(
    path: str | os.PathLike[str],
    *,
    start: int = 0,
    stop: int | None = None,
    max_objects: int | None = None,
    features: Sequence[str] = PARTICLE_NAMES,
    conditions: Sequence[str] = (),
    with_types: bool = False,
    keep_unphysical: bool = False,
    weight: str | None = None,
) -> JetSample:
    """Read jets as `read_events` does with the schema `JETNET`, and call them so.

    Arguments:
        path: the HDF5 file.
        start: the first row to read.
        stop: the row to stop before; None reads to the end.
        max_objects: keep at most so many particles of each jet, the hardest by ptrel, hardest
            first; None keeps all, in the order of the file.
        features: the names of the features of a particle that are read, in this order.
        conditions: the names of jet features that must be there; those that the layout does not
            know stand behind pt, eta, mass and num_particles.
        with_types: read `particle_type`, too, if the file has it.
        keep_unphysical: keep values that cannot be, such as a ptrel below 0, which the sample of a
            model may hold.
        weight: the name of the dataset that holds the weights of the events, such as `weight`; None
            reads none. They come with the objects, as they stand in the file.

    Warns:
        UserWarning: if a unit was converted.

    Raises:
        FileNotFoundError, OSError, ValueError: as `read_events`; or if a type is unknown.
    """
    with EventReader(
        path,
        JETNET,
        max_objects=max_objects,
        features=features,
        conditions=conditions,
        keep_unphysical=keep_unphysical,
        weight=weight,
        with_types=with_types,
    ) as reader:
        sample = JetSample(**vars(reader.read(start, stop)))
        reader.warn_unused()
        return sample
