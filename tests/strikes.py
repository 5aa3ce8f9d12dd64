"""Real Ctrl-C: SIGINT to this process from any thread, at the moment that the thread chooses."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Strikes:
    """Sends the main thread SIGINT.

    Attributes:
        count: how many have come out as ``KeyboardInterrupt``.
    """

    def __init__(self) -> None:
        self.count = 0
        self._came = threading.Semaphore(0)

    def strike(self) -> None:
        """Returns once the main thread has been interrupted."""
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        if threading.current_thread() is not threading.main_thread():
            assert self._came.acquire(timeout=60), "the main thread took no notice"

    def handle(self, number: int, frame: Any) -> None:
        """Python's own handler, which also tells that it was called."""
        self.count += 1
        self._came.release()
        signal.default_int_handler(number, frame)


@contextmanager
def striking() -> Iterator[Strikes]:
    """While entered, SIGINT raises ``KeyboardInterrupt`` in the main thread, as in a script."""
    strikes = Strikes()
    before = signal.signal(signal.SIGINT, strikes.handle)
    try:
        yield strikes
    finally:
        signal.signal(signal.SIGINT, before)
