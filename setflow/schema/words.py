"""What events and objects are called: jets of particles, or events of objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from setflow.schema.features import Schema
from setflow.schema.jets import JETNET

__all__ = ["EVENT_WORDS", "JET_WORDS", "Words", "kept_objects", "left_out_of", "words_of"]


class Words(NamedTuple):
    """What the parts of a sample are called.

    Arguments:
        event: one event.
        events: several.
        object: one object.
        objects: several.
        an_event: one event, with the article.
        an_object: one object, with the article.
    """

    event: str
    events: str
    object: str
    objects: str
    an_event: str
    an_object: str


JET_WORDS = Words("jet", "jets", "particle", "particles", "a jet", "a particle")
EVENT_WORDS = Words("event", "events", "object", "objects", "an event", "an object")


def words_of(features: Sequence[str]) -> Words:
    """Return what events whose objects have some features are called.

    >>> words_of(["ptrel", "etarel", "phirel"]).events, words_of(["x", "y"]).events
    ('jets', 'events')
    """
    return JET_WORDS if set(JETNET.generated) <= set(features) else EVENT_WORDS


def kept_objects(schema: Schema, n: int) -> str:
    """Return which objects are kept where events are cut to n, in words.

    >>> kept_objects(JETNET, 30)
    'the 30 particles of a jet with the largest ptrel'
    """
    words, by = words_of(schema.generated), schema.order_by
    if by is None:
        return f"the first {n} {words.objects} of {words.an_event} in the file"
    return f"the {n} {words.objects} of {words.an_event} with the largest {by}"


def left_out_of(schema: Schema, made: Sequence[str] = ()) -> str | None:
    """Return the line that says what a model leaves out, or None if it is nothing.

    Arguments:
        schema: the schema.
        made: the names of the features that the model makes.

    >>> left_out_of(Schema.from_node({"objects": ["x", {"name": "q", "kind": "category(a, b)"}]}))
    'a model leaves out what it does not generate yet: q (category(a, b))'
    """
    left = [name for name in schema.left_out if name not in made]
    if not left:
        return None
    told = ", ".join(f"{name} ({schema.object(name).kind})" for name in left)
    return f"a model leaves out what it does not generate yet: {told}"
