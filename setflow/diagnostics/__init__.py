"""Diagnostics of a velocity field: how large it is, whether its flow inverts, which law it breaks.

A field is measured as the verbs call it, in the mode that it is in (`field.eval()` first, to judge
it as it is used), and left as it was.
"""

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
    "divergence_stats",
    "field_stats",
    "length_error",
    "padding_leakage",
    "permutation_error",
    "reversibility_error",
]
