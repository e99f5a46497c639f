"""The report of an evaluation: tables, figures and what they compare."""
