"""For which contexts and numbers of objects events are asked, told by name or by a file."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from setflow.data.contexts import ContextSource
from setflow.data.hdf5 import read_events
from setflow.data.header import read_header, require_objects
from setflow.data.reader import EventReader
from setflow.data.sample import EventSample
from setflow.data.valid import impossible
from setflow.files import file_sha256
from setflow.model.encoding import require_names
from setflow.model.guidance import vector_of
from setflow.model.model import SetFlow
from setflow.model.stages import as_given, given_conditions
from setflow.schema import Angle, Category, Feature, words_of
from setflow.shipped import JETS, find
from setflow.spelling import nearest

__all__ = [
    "Asked",
    "Conditions",
    "asked_for",
    "context_options",
    "fixed_conditions",
    "in_words",
    "require_conditions",
    "strengths_of",
]

Conditions = Mapping[str, Any]
"""Values of conditions by name: one for all events, or a mapping from values to how many events."""


class Asked(NamedTuple):
    """The events that a model is asked for.

    Attributes:
        events: how many.
        lengths: their numbers of objects, with shape `(events,)`; None draws them from p(N | c).
        context: their physical context, with shape `(events, C)`; of a model that makes some of its
            conditions itself, the others by name, each with shape `(events,)`; None if nothing is
            to be told.
        attributes: what a file says of where these come from.
    """

    events: int
    lengths: Tensor | None
    context: Tensor | dict[str, Tensor] | None
    attributes: dict[str, str | int]

    def context_of(self, rows: slice) -> Tensor | dict[str, Tensor] | None:
        """Return the context of some of the events, as `SetFlow.sample` takes it."""
        if isinstance(self.context, dict):
            return {name: column[rows] for name, column in self.context.items()}
        return None if self.context is None else self.context[rows]


def asked_for(
    flow: SetFlow,
    *,
    events: int | None = None,
    like: str | Path | None = None,
    context: Conditions | str | Path | None = None,
    oversample: int = 1,
) -> Asked:
    """Return the events that are asked for, in their order.

    Arguments:
        flow: the model.
        events: how many; None takes as many as the contexts or the file of `like` tell.
        like: a file whose rows give number of objects and context.
        context: values of the conditions by name, or a file whose rows give the context alone.
        oversample: how many events are made for each row of the file: first all of row 0.

    Raises:
        ValueError: if the arguments contradict each other, do not say how many events there are to
            be, or do not fit the conditions of the model.
    """
    for name, number in (("events", events), ("oversample", oversample)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    _require_one_source(flow, like, context)
    by_name = isinstance(context, Mapping)
    if oversample > 1 and (by_name or (like is None and context is None)):
        raise ValueError(
            f"oversample is {oversample}, but there are no rows of a file to make so many events "
            "for; give a file by like or context, or the number of events by events"
        )
    if like is None and context is None:
        if events is None:
            what = words_of(flow.features).events
            raise ValueError(f"say how many {what} to sample, with events or with like")
        return Asked(events, None, None, {})
    if isinstance(context, Mapping):
        return _by_name(flow, events, context)
    kind, given = ("like", like) if context is None else ("context_from", context)
    assert given is not None
    path = find(JETS, given)
    rows = None if events is None else -(-events // oversample)
    found, of_file = _rows(flow, path, rows)
    n = len(found)
    if events is not None and n * oversample < events:
        times = f", of which {oversample} each make {n * oversample}"
        most = n * oversample
        raise ValueError(
            f"{path} holds {n} {words_of(flow.features).events}"
            f"{times if oversample > 1 else ''}, and {events} are asked for; ask for at most "
            f"{most} (--events {most}), leave the number out to take all, raise --oversample, or "
            "give a larger file"
        )
    lengths, rows_c = found, _possible(flow, of_file, path)
    if oversample > 1:
        lengths = lengths.repeat_interleave(oversample)
        rows_c = None if rows_c is None else rows_c.repeat_interleave(oversample, dim=0)
    told: dict[str, str | int] = {kind: path.name, f"{kind}_sha256": file_sha256(path)}
    told |= {"oversample": oversample} if oversample > 1 else {}
    return Asked(
        len(lengths[:events]),
        lengths[:events] if context is None else None,
        None if rows_c is None else rows_c[:events],
        told,
    )


def _possible(flow: SetFlow, rows: Tensor | None, path: Path) -> Tensor | None:
    """Return contexts of a file, with shape `(n, C)`.

    Raises:
        ValueError: if one is none that the model can be asked for.
    """
    encoder = flow.context_encoder
    if rows is None or encoder is None:
        return rows
    unknown = encoder.unknown(rows, flow.context_scaler)
    if bool(unknown.any()):
        row, k = unknown.nonzero()[0].tolist()
        raise ValueError(
            f"{path}: row {row}, condition '{flow.conditions[k]}' is {rows[row, k].item():g}, "
            f"{encoder.expected(k, flow.context_scaler)}"
        )
    return rows


def strengths_of(
    flow: SetFlow, asked: Asked, guidance: float | Mapping[str, float]
) -> Tensor | None:
    """Return how strongly each event that is asked for follows its context, with shape `(events,)`.

    Arguments:
        flow: the model.
        asked: the events.
        guidance: a number for all; or one for each name of a category, 1 for what is not named.

    Returns:
        The strengths, or None if all are 1.

    Raises:
        ValueError: if the model cannot be guided, or no condition has such a name.
    """
    if isinstance(guidance, Mapping):
        strengths = torch.ones(asked.events)
        for name, strength in guidance.items():
            strengths[_of_category(flow, asked, name)] = strength
    else:
        strengths = torch.full((asked.events,), float(guidance))
    if bool((strengths == 1).all()):
        return None
    vector_of(flow)
    return strengths


def _of_category(flow: SetFlow, asked: Asked, name: str) -> Tensor:
    """Return which events are of a category, boolean with shape `(events,)`.

    Raises:
        ValueError: if no condition has such a name, or the events are not told it.
    """
    known: list[str] = []
    for k, feature in enumerate(flow.context_features):
        if not isinstance(feature.kind, Category):
            continue
        known += feature.kind.names
        if name in feature.kind.names:
            c = asked.context
            assert c is not None  # what is a category no model makes
            column = c[feature.name] if isinstance(c, dict) else c[:, k]
            return column == feature.kind.code(name)
    raise ValueError(
        f"guidance names '{name}', and the categories of the model are "
        f"{', '.join(known) or 'none: give one number for all'}{nearest(name, known)}"
    )


def fixed_conditions(flow: SetFlow, given: Conditions | None) -> dict[str, float]:
    """Return the values, codes for categories, of conditions that are the same for all events.

    Raises:
        ValueError: if the model has no such condition, or a value is none that it can have.
    """
    known, fixed = {feature.name: feature for feature in flow.context_features}, {}
    for name, value in (given or {}).items():
        if name not in known:
            others = {other: 0 for other in known if other not in (given or {})}
            require_names({**(given or {}), **others}, list(known))
        if isinstance(value, Mapping):
            raise ValueError(
                f"condition '{name}' is {in_words({name: value})}, expected one value for all rows"
            )
        fixed[name] = _number(flow, known[name], value)
    return fixed


def context_options(flow: SetFlow, train: object) -> tuple[str, ...]:
    """Return options by which `setflow sample` is told a context, empty if the model needs none.

    Arguments:
        flow: the model.
        train: the file of its training, if it is one.
    """
    needed = given_conditions(flow)
    if not needed:
        return ()
    values: dict[str, Any] = {}
    encoder = flow.context_encoder
    for k, feature in enumerate(flow.context_features):
        if feature.name not in needed:
            continue
        kind, counted = feature.kind, any(isinstance(value, dict) for value in values.values())
        if isinstance(kind, Category):
            values[feature.name] = kind.names[0] if counted else dict.fromkeys(kind.names, 1000)
        elif encoder is not None:
            middle = ((encoder.low[k] + encoder.high[k]) / 2).item()
            values[feature.name] = "VALUE" if math.isnan(middle) else f"{float(f'{middle:.3g}'):g}"
    if any(isinstance(value, dict) for value in values.values()):
        return "--condition", in_words(values)
    if isinstance(train, str):
        return "--like", train
    return "--condition", in_words(values), "--events", "1000"


def in_words(given: Conditions) -> str:
    """Return values of conditions as the shell takes them.

    >>> in_words({"class": {"top": 5000, "gluon": 5000}, "pt": 900})
    'class=top:5000,gluon:5000,pt=900'
    """
    words = []
    for name, value in given.items():
        counted = value.items() if isinstance(value, Mapping) else ()
        told = ",".join(f"{each}:{count}" for each, count in counted) or str(value)
        words.append(f"{name}={told}")
    return ",".join(words)


def _require_one_source(flow: SetFlow, like: object, context: object) -> None:
    """Refuse two sources of a context, and none where the model needs one.

    Raises:
        ValueError: if there are two, or none.
    """
    if like is not None and context is not None:
        raise ValueError(
            "like and context both tell the context of the sample; give one of them: like, a file "
            f"of which each row gives number of {words_of(flow.features).objects} and context, or "
            "context"
        )
    if context is not None and not flow.conditions:
        raise ValueError("the model has no conditions, so it takes no context; leave it out")
    needed = given_conditions(flow)
    if needed and like is None and context is None:
        words, example = words_of(flow.features), " ".join(context_options(flow, None))
        raise ValueError(
            f"the model is conditioned on {', '.join(needed)}; say for which values to "
            f"sample: {example}, one value for all {words.events} or a "
            f"number of {words.events} for each; --like FILE, as many {words.objects} and the "
            f"context of its {words.events}; or "
            "--context-from FILE, their context alone (in Python context= or like=)"
        )


def _by_name(flow: SetFlow, events: int | None, given: Conditions) -> Asked:
    """Return the events asked for by values of the conditions."""
    whole = flow.context_model is None or as_given(flow, given) is None
    if whole:
        require_names(given, flow.conditions)
    counted = [name for name, value in given.items() if isinstance(value, Mapping)]
    if len(counted) > 1:
        raise ValueError(
            f"{' and '.join(counted)} both have a number of events for each value; give it for one "
            "of them, and one value for all events for the others"
        )
    if not counted and events is None:
        raise ValueError(
            f"one context for all {words_of(flow.features).events} does not say how many: give "
            "events (--events)"
        )
    counts = list(given[counted[0]].items()) if counted else []
    for value, count in counts:
        if not isinstance(count, int) or count < 1:
            raise ValueError(
                f"{counted[0]}={value} is asked for {count!r} times, expected a whole number of "
                "at least 1"
            )
    total = sum(count for _, count in counts) if counted else events
    assert total is not None
    if events is not None and events != total:
        raise ValueError(
            f"{in_words({counted[0]: given[counted[0]]})} are {total} "
            f"{words_of(flow.features).events}, and events is {events}; leave events (--events) out"
        )
    columns: dict[str, Tensor | float] = {}
    for feature in flow.context_features:
        if feature.name not in given:  # the model makes it
            continue
        name, value = feature.name, given[feature.name]
        if name in counted:
            columns[name] = torch.cat(
                [torch.full((count,), _number(flow, feature, each)) for each, count in counts]
            )
        else:
            columns[name] = _number(flow, feature, value)
    assert flow.context_encoder is not None
    if not whole:
        by_name = {name: torch.as_tensor(value).expand(total) for name, value in columns.items()}
        return Asked(total, None, by_name, {"condition": in_words(given)})
    rows = flow.context_encoder.rows(columns, total)
    return Asked(total, None, rows, {"condition": in_words(given)})


def _number(flow: SetFlow, feature: Feature, value: Any) -> float:
    """Return a value of a condition, given as a number or a text; of a category, its code.

    An angle comes in [-pi, pi).

    Raises:
        ValueError: if it is none that the condition can have.
    """
    if isinstance(feature.kind, Category) and isinstance(value, str):
        try:
            return float(feature.kind.code(value))
        except ValueError as error:
            raise ValueError(f"condition '{feature.name}': {error}") from None
    unit = f" of {feature.unit}" if feature.unit else ""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"condition '{feature.name}' is {value!r}, expected a number{unit}"
        ) from None
    encoder, k = flow.context_encoder, flow.conditions.index(feature.name)
    assert encoder is not None
    row = torch.full((1, len(flow.conditions)), math.nan, dtype=torch.float64)
    row[0, k] = number
    if bool(encoder.unknown(row, flow.context_scaler)[0, k]):
        expected = encoder.expected(k, flow.context_scaler)
        raise ValueError(f"condition '{feature.name}' is {value}, {expected}")
    if isinstance(feature.kind, Angle):
        return (number + math.pi) % (2 * math.pi) - math.pi
    if bool(impossible(row[:, k : k + 1].numpy(), [feature]).any()):
        expected = f"expected a number{unit} {feature.bounds}"
        raise ValueError(f"condition '{feature.name}' is {value}, {expected}")
    return number


def require_conditions(
    source: ContextSource, read: Callable[..., EventSample], instead: str
) -> None:
    """Look conditions up in a file before its rows are read.

    Arguments:
        source: where the contexts of the rows stand.
        read: reads no row of the file, and takes the `conditions` that must be there.
        instead: what to do where one is not there, with braces for its name.

    Raises:
        ValueError: if one is not there, or of another kind.
    """
    try:
        source.of(read(conditions=source.columns))
    except ValueError as error:
        lacking = next((name for name in source.columns if f"'{name}'" in str(error)), None)
        if lacking is None:
            raise
        raise ValueError(f"{error}; {instead.format(lacking)}") from error


def _rows(flow: SetFlow, path: Path, rows: int | None) -> tuple[Tensor, Tensor | None]:
    """Return what the first rows of a file ask for, of which only this is held in memory.

    Returns:
        The numbers of objects, cut to what the model knows, with shape `(n,)`, and the contexts,
        with shape `(n, C)`; None without conditions.
    """
    header = read_header(path)
    wanted = [flow.schema.object(name) for name in flow.features]
    require_objects(path, header, wanted, "the model knows", "give a file of such events")
    source = ContextSource(path, flow.context_features)
    read = functools.partial(read_events, path, flow.schema, stop=0, features=flow.features)
    require_conditions(
        source,
        read,
        "give a file that tells it, or the contexts by --condition, such as {}=VALUE (context= in "
        "Python), without numbers of objects",
    )
    made = "weights_sha256" in header.attributes  # by a model
    lengths, contexts = list[Tensor](), list[Tensor]()
    with (
        closing(source),
        EventReader(
            path,
            flow.schema,
            max_objects=None if flow.cardinality is None else flow.cardinality.max_objects,
            features=flow.features,
            conditions=source.columns,
            keep_unphysical=made,
        ) as reader,
    ):
        stop = reader.n if rows is None else min(rows, reader.n)
        for there in reader.blocks(0, stop):
            sample = reader.read(there.start, there.stop)
            lengths.append(sample.objects.lengths)
            if (c := source.of(sample, there.start)) is not None:
                contexts.append(c)
        reader.warn_unused()
    return torch.cat(lengths), torch.cat(contexts) if contexts else None
