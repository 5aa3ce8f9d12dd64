"""A lock for coroutines that may run on different event loops (``asyncio.Lock`` belongs to one)."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from types import TracebackType


class Turnstile:
    """First come, first served: ``async with turnstile.turn() as inherited``.

    A waiter that is cancelled hands its turn on. A turn whose loop was closed over it is taken from it: ``inherited``
    is then True, and whatever it was doing stands half done.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._holder: Turn | None = None
        self._waiting: deque[Turn] = deque()

    def turn(self) -> Turn:
        """A turn, to be entered once."""
        return Turn(self)

    def enter(self, turn: Turn) -> bool | None:
        """Whether the turn is inherited, or None when it has to wait."""
        with self._mutex:
            holder = self._holder
            if holder is not None and not holder.loop.is_closed():
                self._waiting.append(turn)
                return None
            self._holder = turn
            return holder is not None

    def leave(self, turn: Turn) -> None:
        """Hand on; nothing happens when the turn was taken from its loop, or never came."""
        with self._mutex:
            if turn in self._waiting:
                self._waiting.remove(turn)
            if self._holder is not turn:
                return
            self._holder = None
            while self._waiting:
                following = self._waiting.popleft()
                try:
                    following.loop.call_soon_threadsafe(following.grant)
                except RuntimeError:  # its loop is closed, and it with it
                    continue
                self._holder = following
                return


class Turn:
    """One turn of a ``Turnstile``."""

    def __init__(self, turnstile: Turnstile) -> None:
        self._turnstile = turnstile
        self.loop = asyncio.get_running_loop()
        self._granted: asyncio.Future[None] = self.loop.create_future()

    async def __aenter__(self) -> bool:
        inherited = self._turnstile.enter(self)
        if inherited is not None:
            return inherited
        try:
            await self._granted
        except BaseException:
            self._turnstile.leave(self)
            raise
        return False

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._turnstile.leave(self)

    def grant(self) -> None:
        """On the turn's own loop: it is its turn now. A waiter that was cancelled hands it on by itself."""
        if not self._granted.done():
            self._granted.set_result(None)
