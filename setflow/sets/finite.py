"""Which of the numbers that a verb was given make its result NaN or infinite."""

from __future__ import annotations

from torch import Tensor

from setflow.sets.events import Events

__all__ = ["refuse_not_finite"]


def refuse_not_finite(what: str, events: Events, **given: Tensor) -> None:
    """Raise if a number that was given is not finite; the values are looked at.

    For a result that is not finite itself, on a device where a look costs nothing. If all that was
    given is finite, it is the field's arithmetic that overflows, and nothing is raised.

    Arguments:
        what: what is not finite, as in "the loss".
        events: the events, whose context is looked at.
        given: what was given, by name: states with the shape of the events, zero in padded slots.

    Raises:
        ValueError: if there is such a number; it says which.

    >>> x = torch.tensor([[[1.0], [float("inf")]]])
    >>> refuse_not_finite("the loss", Events.of(2, x, None), x_target=x)
    Traceback (most recent call last):
        ...
    ValueError: the loss is not finite, for x_target[0, 1, 0] is inf; leave such events out...
    """
    of_object, padding = "", ""
    if events.mask is not None:
        of_object, padding = " of a real object", ", or mark the object as padding in the mask"
    found = [(name, of_object, padding, value) for name, value in given.items()]
    if events.context is not None:
        found += [("the context c", "", "", value) for value in events.context.values]
    for name, of, advice, value in found:
        bad = ~value.isfinite()
        if bool(bad.any()):
            place = bad.nonzero()[0].tolist()
            raise ValueError(
                f"{what} is not finite, for {name}[{', '.join(map(str, place))}]{of} is "
                f"{value[tuple(place)].item():g}; leave such events out{advice}"
            )
