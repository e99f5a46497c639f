"""Losses, and the masked means that they share."""

from setflow.losses.means import Reduction, event_means, reduce_events

__all__ = ["Reduction", "event_means", "reduce_events"]
