"""What is held open while a `with` statement runs: one way to open it and to close it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from types import TracebackType
from typing import Self

__all__ = ["Opened"]


class Opened(ABC):
    """A context manager that gives itself, and closes what it opened in the reverse order.

    A subclass says in `_enter` what is opened. If one of the steps fails, those before it are
    closed at once. What is opened later, while the block runs, is given to `_open`.

    >>> class Notes(Opened):
    ...     def _enter(self, stack):
    ...         self.lines = []
    ...         stack.callback(print, "closed")
    >>> with Notes() as notes:
    ...     notes.lines.append("open")
    closed
    """

    _open: ExitStack

    @abstractmethod
    def _enter(self, stack: ExitStack) -> None:
        """Open what is needed, on a stack that closes it."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._enter(stack)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, traceback)
