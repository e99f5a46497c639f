"""`SetFlow`, the model of sets as one object, and the folder that it is kept in."""

from setflow.model.density import LogDensity, MissingMass, missing_mass, wrapped_share
from setflow.model.encoding import OutsideTrainingWarning
from setflow.model.model import SetFlow

__all__ = [
    "LogDensity",
    "MissingMass",
    "OutsideTrainingWarning",
    "SetFlow",
    "missing_mass",
    "wrapped_share",
]
