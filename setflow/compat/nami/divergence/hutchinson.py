"""Hutchinson's estimate of the divergence: setflow's own."""

from setflow import HutchinsonDivergence

__all__ = ["HutchinsonDivergence"]
