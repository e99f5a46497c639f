"""`SetFlow`, the model of sets as one object, and the folder that it is kept in."""

from setflow.model.model import LogDensity, SetFlow

__all__ = ["LogDensity", "SetFlow"]
