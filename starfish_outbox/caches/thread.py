"""One thread that does the blocking work of one store, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_PARKED: Final[list[object]] = []


def park(thing: object) -> None:
    """Keep what a forked child inherited from ever being used, closed or collected there.

    Closing a parent's SQLite connection in the child could roll back or unlock what the parent still does.
    """
    _PARKED.append(thing)


class OneThread:
    """A thread that is started when first needed, and again in a forked child (threads do not survive a fork)."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pid = 0
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run the function on the thread, after what was submitted before."""
        if self._pool is None or self._pid != os.getpid():
            if self._pool is not None:
                park(self._pool)
            self._pool = ThreadPoolExecutor(1, thread_name_prefix=self._name)
            self._pid = os.getpid()
        return self._pool.submit(function, *args, **kwargs)

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The function's answer; a caller that is cancelled does not stop it."""
        return await asyncio.wrap_future(self.submit(function, *args, **kwargs))

    def close(self) -> None:
        """End the thread after what was submitted; it starts again when it is used again."""
        if self._pool is not None and self._pid == os.getpid():
            self._pool.shutdown(wait=True)
        self._pool = None
