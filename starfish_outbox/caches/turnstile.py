"""A lock for coroutines that may run on different event loops (``asyncio.Lock`` belongs to one)."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from types import TracebackType
from typing import Any


class Turnstile:
    """First come, first served: ``async with turnstile.turn() as inherited``.

    A waiter that is cancelled hands its turn on. A turn is taken from a task that ended without leaving (Ctrl-C can
    strike between any two lines) and from a loop that was closed over it; the next one is then told by ``inherited``
    that whatever was being done stands half done.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._holder: Turn | None = None
        self._waiting: deque[Turn] = deque()
        self._broken = False

    def turn(self) -> Turn:
        """A turn, to be entered once."""
        return Turn(self)

    def enter(self, turn: Turn) -> bool:
        """Whether it is this one's turn at once; else it is called when it is."""
        with self._mutex:
            if self._holder is not None and not self._holder.loop.is_closed():
                self._waiting.append(turn)
                return False
            self._broken = self._broken or self._holder is not None
            self._holder = turn
            return True

    def leave(self, turn: Turn, *, broken: bool = False) -> None:
        """Hand on; nothing happens when the turn was taken from its loop, or never came."""
        with self._mutex:
            if turn in self._waiting:
                self._waiting.remove(turn)
            if self._holder is not turn:
                return
            self._holder = None
            self._broken = self._broken or broken
            while self._waiting:
                following = self._waiting.popleft()
                try:
                    following.loop.call_soon_threadsafe(following.grant)
                except RuntimeError:  # its loop is closed, and it with it
                    continue
                self._holder = following
                return

    def inherited(self) -> bool:
        """Whether an earlier turn ended in the middle of what it did; asked once."""
        broken, self._broken = self._broken, False
        return broken


class Turn:
    """One turn of a ``Turnstile``."""

    def __init__(self, turnstile: Turnstile) -> None:
        self._turnstile = turnstile
        self.loop = asyncio.get_running_loop()
        self._granted: asyncio.Future[None] = self.loop.create_future()
        self._task: asyncio.Task[Any] | None = asyncio.current_task()

    async def __aenter__(self) -> bool:
        if self._task is not None:
            self._task.add_done_callback(self._ended)
        if not self._turnstile.enter(self):
            try:
                await self._granted
            except BaseException:
                self._turnstile.leave(self)
                raise
        return self._turnstile.inherited()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._turnstile.leave(self)
        if self._task is not None:
            self._task.remove_done_callback(self._ended)

    def grant(self) -> None:
        """On the turn's own loop: it is its turn now. A waiter that was cancelled hands it on by itself."""
        if not self._granted.done():
            self._granted.set_result(None)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._turnstile.leave(self, broken=True)
