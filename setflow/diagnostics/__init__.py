"""Diagnostics of a velocity field: its size, whether its flow inverts, jumps and broken laws.

A field is measured as the verbs call it, in the mode that it is in (`field.eval()` first, to judge
it as it is used), and left as it was.
"""

from setflow.diagnostics.continuity import continuity_error
from setflow.diagnostics.laws import (
    company_error,
    length_error,
    padding_leakage,
    permutation_error,
)
from setflow.diagnostics.statistics import divergence_stats, field_stats, reversibility_error
from setflow.diagnostics.verdict import BrokenLaw, broken_laws

__all__ = [
    "BrokenLaw",
    "broken_laws",
    "company_error",
    "continuity_error",
    "divergence_stats",
    "field_stats",
    "length_error",
    "padding_leakage",
    "permutation_error",
    "reversibility_error",
]
