"""Normal bases: setflow's own, which are no torch distributions but know masks."""

from setflow import DiagonalNormal, StandardNormal

__all__ = ["DiagonalNormal", "StandardNormal"]
