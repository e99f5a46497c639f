"""What a model with features that are angles asks of its field, noise and conditions, and tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from setflow.distributions.wrapped import WIDEST, WrappedNormal

if TYPE_CHECKING:
    from setflow.model.model import SetFlow

__all__ = ["check_angles", "check_directions", "check_uniform", "told_of_angles"]


def check_angles(field: nn.Module, angles: Sequence[int]) -> None:
    """Check that a field has the period 2 pi in the features that are angles, and in no other.

    Arguments:
        field: the field, which tells them by its attribute `angles`.
        angles: the positions of the features that are angles.

    Raises:
        ValueError: if it has not.
    """
    known = sorted(getattr(field, "angles", None) or ())
    if known != list(angles):
        name = type(field).__name__
        raise ValueError(
            f"field has angles={known}, and the features of kind angle are {list(angles)}, counted "
            f"from 0: the velocity of {name} must have the period of each; build a field with "
            f"angles={list(angles)}, such as setflow.TransformerField, or one of your own that "
            "declares them"
        )


def check_directions(flow: SetFlow) -> None:
    """Check that nothing around a field of relative angles tells it a direction.

    Raises:
        ValueError: if a type of objects has no such angle, or a condition is an angle.
    """
    relative = _relative(flow)
    types = None if flow.types is None else flow.types.types
    for k in relative:
        has = {} if types is None else dict(zip(types.names, types.present, strict=True))
        if lacking := [name for name, present in has.items() if not present[k]]:
            raise ValueError(
                f"field has relative_angles={list(relative)}, but objects of type '{lacking[0]}' "
                f"have no '{_names(flow)[k]}', and what has no direction cannot turn with the "
                "event; build the field without relative_angles"
            )
    angles = [entry.name for entry in flow.context_features if entry.of_kind.is_angle]
    if relative and angles:
        raise ValueError(
            f"condition '{angles[0]}' is an angle, and field has relative_angles={list(relative)}: "
            f"it sees differences of '{_names(flow)[relative[0]]}' between objects only, and never "
            "where these stand to the condition; build the field without relative_angles, or, if "
            "the condition does not turn with the event, give its cosine and sine as two numbers"
        )


def check_uniform(flow: SetFlow) -> None:
    """Check, once the statistics are there, that the noise of relative angles is uniform.

    Raises:
        ValueError: if the training events have a mean direction, around which it would stand.
    """
    relative = _relative(flow)
    if not relative:
        return
    assert isinstance(flow.base, WrappedNormal)
    uniform = flow.base.uniform
    if narrow := [k for k in relative if k not in uniform]:
        width = float(flow.base.scale[narrow[0]])
        raise ValueError(
            f"feature '{_names(flow)[narrow[0]]}' of the training events has a mean direction, "
            f"with a circular width of {width:.3g} rad, and field has "
            f"relative_angles={list(relative)}: a model that knows no direction needs angles all "
            f"around, of a width above {WIDEST:g} rad; turn each event by a random angle, or build "
            "the field without relative_angles"
        )


def told_of_angles(flow: SetFlow) -> dict[str, str]:
    """Return what is to be known of each feature that is an angle, in words, by its name."""
    told = {}
    for k in flow.angles:
        assert isinstance(flow.base, WrappedNormal)
        noise = "as wide as the training data"
        if flow.scaler.is_fitted:
            normal = f"wrapped normal, {float(flow.base.scale[k]):.3g} rad wide"
            noise = "uniform" if k in flow.base.uniform else normal
        told[_names(flow)[k]] = f"on a circle, its noise {noise}" + (
            "; the field sees its differences between objects only, so that turning an event "
            "changes no density"
            if k in _relative(flow)
            else ""
        )
    return told


def _relative(flow: SetFlow) -> tuple[int, ...]:
    """Return the positions of the angles that a field sees differences of."""
    return tuple(getattr(flow.field, "relative_angles", ()))


def _names(flow: SetFlow) -> tuple[str, ...]:
    """Return the names of the numbers of an object, which are the columns of the state."""
    if flow.types is None:
        return flow.features
    return tuple(flow.features[k] for k in flow.types.types.numbers)
