"""Statistics of a velocity field: setflow's own, which compute without gradients."""

from setflow.diagnostics import divergence_stats, field_stats, reversibility_error

__all__ = ["divergence_stats", "field_stats", "reversibility_error"]
