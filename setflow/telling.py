"""The form in which a command tells its progress, said once for all that is under way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["FORMS", "is_told_as", "told_as"]

FORMS = ("auto", "lines", "json", "none")
"""How progress is told: a bar in a terminal and lines elsewhere, lines, lines of JSON, or not."""

_form = "auto"


@contextmanager
def told_as(form: str) -> Iterator[None]:
    """Tell all progress in one of `FORMS` while the block runs.

    >>> with told_as("json"):
    ...     is_told_as("json")
    True
    """
    global _form
    before, _form = _form, form
    try:
        yield
    finally:
        _form = before


def is_told_as(form: str) -> bool:
    """Return whether progress is told in a form of `FORMS` just now."""
    return _form == form
