"""Signals that end a training: they ask for a checkpoint after the step that is under way.

A batch system sends SIGTERM or SIGUSR1 some time before it kills, a user presses Ctrl-C. Lightning
has handlers of its own: that of SIGTERM ends a validation half way, where no state can be kept, and
that of SIGUSR1, under SLURM, writes a checkpoint in the middle of a step and puts the job into the
queue again. Ours stand in their place: after the step, and the validation if one is due, a
checkpoint is written and the training ends; whoever started it decides what happens then.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["StopSignals", "Stopped"]

_NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")  # SIGUSR1 is unknown to Windows
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


class Stopped(BaseException):
    """A signal has ended the work.

    Arguments:
        number: that of the signal.
        step: the step that the checkpoint holds; None if none was written for it.
    """

    def __init__(self, number: int, step: int | None = None) -> None:
        super().__init__(number, step)
        self.number, self.step = number, step

    @property
    def status(self) -> int:
        """The exit status by which a shell knows the signal.

        >>> Stopped(signal.SIGTERM).status
        143
        """
        return 128 + self.number

    @property
    def name(self) -> str:
        """The name of the signal."""
        return signal.Signals(self.number).name


class StopSignals:
    """Takes SIGTERM, SIGUSR1 and SIGINT while a block runs.

    Before a training has begun, and after its end, they raise `Stopped` at once; in between they
    are noted, for whoever looks between two steps. A second SIGINT raises it there too.

    Attributes:
        received: the first signal that was noted, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._training = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self._install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            if _may_set():
                signal.signal(number, handler)

    def begin(self) -> None:
        """From now on they are noted: a training has begun, and Lightning has set its handlers."""
        self._training = True
        self._install()

    def end(self) -> None:
        """From now on they raise again."""
        self._training = False

    def _install(self) -> None:
        for number in _SIGNALS:
            if _may_set():
                signal.signal(number, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        again = number == signal.SIGINT and self.received is not None
        if again or not self._training:
            raise Stopped(number)
        if self.received is None:
            self.received = number


def _may_set() -> bool:
    return threading.current_thread() is threading.main_thread()
