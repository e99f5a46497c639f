"""Which dimensions are events: setflow's own, whose errors say more."""

from setflow.sets.shapes import (
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
    "event_numel",
    "flatten_event",
    "split_event",
    "unflatten_event",
    "validate_shapes",
]
