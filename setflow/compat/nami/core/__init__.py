"""Shapes, broadcasting and contracts."""

from setflow.compat.nami.core import broadcast, specs, typing
from setflow.compat.nami.core.specs import (
    TensorSpec,
    as_tuple,
    event_numel,
    flatten_event,
    split_event,
    unflatten_event,
    validate_shapes,
)

__all__ = [
    "TensorSpec",
    "as_tuple",
    "broadcast",
    "event_numel",
    "flatten_event",
    "specs",
    "split_event",
    "typing",
    "unflatten_event",
    "validate_shapes",
]
