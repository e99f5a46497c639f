"""Work that goes on beside the computation: calls one after the other in a thread of their own.

Signals raise in the main thread alone, so a call here is never cut in two by Ctrl-C.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import connection

__all__ = ["Background", "end_with_parent"]

_AHEAD = 2  # calls that may wait: what is computed meanwhile is kept in memory


class Background:
    """Calls functions in their order in one thread; after one that fails it calls no other.

    >>> done = []
    >>> background = Background()
    >>> background.do(lambda: done.append(1))
    >>> background.wait()
    >>> background.close(lambda: done.append(2))
    >>> done
    [1, 2]
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "setflow-background")
        self._waiting: deque[Future[None]] = deque()
        self.failed = False

    def do(self, call: Callable[[], object]) -> None:
        """Let something be called; wait first if too much is waiting already.

        Raises:
            BaseException: what a call before it raised.
        """
        while len(self._waiting) >= _AHEAD:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._run, call))

    def wait(self) -> None:
        """Wait until everything is done.

        Raises:
            BaseException: what a call raised.
        """
        while self._waiting:
            self._waiting.popleft().result()

    def close(self, last: Callable[[], object] | None = None) -> BaseException | None:
        """End the thread when what it was given is done; failures are not raised.

        Arguments:
            last: what is called at the end, also after a failure.

        Returns:
            What it raised, or None.
        """
        failure = None if last is None else self._thread.submit(last).exception()
        self._thread.shutdown()
        self._waiting.clear()
        return failure

    def _run(self, call: Callable[[], object]) -> None:
        if self.failed:
            return
        try:
            call()
        except BaseException:
            self.failed = True  # what follows would build on it
            raise


def end_with_parent() -> None:
    """Let this process of `multiprocessing` end with the one that has started it, by SIGTERM.

    Otherwise it waits for ever for work from one that was killed.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
