"""A lock for coroutines that may run on different event loops (``asyncio.Lock`` belongs to one)."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from types import TracebackType


class Turnstile:
    """First come, first served; ``async with`` it. A waiter that is cancelled hands its turn on."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held = False
        self._waiting: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()

    async def __aenter__(self) -> None:
        with self._mutex:
            if not self._held:
                self._held = True
                return
            loop = asyncio.get_running_loop()
            place = (loop, loop.create_future())
            self._waiting.append(place)
        try:
            await place[1]
        except BaseException:
            with self._mutex:
                still_waiting = place in self._waiting
                if still_waiting:
                    self._waiting.remove(place)
            if not still_waiting:  # the turn was already ours
                self._hand_on()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hand_on()

    def _hand_on(self) -> None:
        with self._mutex:
            while self._waiting:
                loop, turn = self._waiting.popleft()
                try:
                    loop.call_soon_threadsafe(_grant, turn)
                except RuntimeError:  # that loop is closed, and its waiter with it
                    continue
                return
            self._held = False


def _grant(turn: asyncio.Future[None]) -> None:
    if not turn.done():  # a cancelled waiter has handed its turn on by itself
        turn.set_result(None)
