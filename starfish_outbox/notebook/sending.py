"""Plain functions as ``send``: each call in a thread, so that one that blocks holds up nothing else.

A thread cannot be killed, and what it was told must not be lost. So an answer is waited for also where the drain was
cancelled (Ctrl-C): nothing else is sent, the answer is recorded, and the drain ends. After ``timeout`` the drain goes
on (``UnackedError``: maybe sent), and so does the call: when the same entry is tried again, that try joins the call, or
takes the success that it had meanwhile, rather than send twice.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any, Final, NamedTuple

from starfish_outbox.entry import OutboxEntry
from starfish_outbox.errors import BusyError, UnackedError
from starfish_outbox.jsontext import encode_foreign
from starfish_outbox.senders.workers import Workers

_MOST_LEFT: Final = 32
"""Calls that timed out and go on, past which no other is begun: a remote that swallows threads gets no more of them."""


class _Said(NamedTuple):
    """What a call returned, or raised (not as an exception: not every one can pass through a future)."""

    value: object
    error: BaseException | None


class _Call:
    """One call in its thread; ``waits``: whether somebody is there to hear its answer."""

    def __init__(self, function: Callable[..., object], args: tuple[Any, ...], task: asyncio.Task[_Said]) -> None:
        self.function = function
        self.args = args
        self.task = task
        self.waits = True

    @property
    def failed(self) -> bool:
        return self.task.done() and (self.task.cancelled() or self.task.result().error is not None)


class Threads:
    """The threads of one outbox, and the calls in them that somebody may still want to hear of.

    Attributes:
        abandoned: the outbox ends now: nobody waits for a call any more.
    """

    def __init__(self) -> None:
        self._workers = Workers("starfish-outbox-send")
        self._calls: list[_Call] = []
        self.abandoned = False

    def call(self, function: Callable[..., object], args: tuple[Any, ...]) -> _Call:
        """This very call, where an earlier try of it goes on or got through, else a new one.

        Raises:
            BusyError: too many calls that timed out are still under way.
        """
        self._calls = [call for call in self._calls if call.waits or not call.failed]  # a late failure is no news
        for call in self._calls:
            if not call.waits and call.function == function and _same(call.args, args):
                call.waits = True
                return call
        left = sum(not (call.waits or call.task.done()) for call in self._calls)
        if left >= _MOST_LEFT:
            raise BusyError(f"{left} calls that timed out are still under way in their threads: none is begun")
        context = copy_context()  # what the function prints lands where the drain's does
        work = self._workers.run(lambda _worker: context.run(_do, function, args))
        task = asyncio.get_running_loop().create_task(work)
        self._calls.append(call := _Call(function, args, task))
        return call

    def abandon(self) -> None:
        """On the loop: nobody waits for a call any more; who does is cancelled."""
        self.abandoned = True
        for call in self._calls:
            call.task.cancel()

    def heard(self, call: _Call) -> _Said:
        """What an ended call said, which is then forgotten; raises ``CancelledError`` where it was abandoned."""
        self._calls.remove(call)
        return call.task.result()

    @staticmethod
    def inside() -> bool:
        """Whether the caller is called by such a call."""
        return _inside.get()

    def end(self) -> None:
        """End the threads that have nothing to do; the others end with their call."""
        self._workers.end()


class InThread:
    """An async function that calls a plain one in a thread; as a ``send`` see the module.

    Args:
        function: the plain function.
        threads: where.
        timeout: seconds for one call, or None.
        on_cancel: called when it is cancelled and stays to hear the answer: it should see to it that no other call is
            begun. None: it does not stay.

    Attributes:
        cancelled: it was; no call is begun any more.
    """

    def __init__(
        self,
        function: Callable[..., object],
        threads: Threads,
        timeout: float | None,
        on_cancel: Callable[[], object] | None,
    ) -> None:
        self._function = function
        self._threads = threads
        self._timeout = timeout
        self._on_cancel = on_cancel
        self.cancelled = False

    async def __call__(self, *args: Any) -> object:
        """What the function answers; raises what it raises, or ``UnackedError`` after ``timeout``."""
        if self.cancelled:
            raise asyncio.CancelledError
        call = self._threads.call(self._function, args)
        try:
            await self._wait(call)
        finally:
            call.waits = False
        value, error = self._threads.heard(call)
        if error is not None:
            raise error
        if not inspect.isawaitable(value):
            return value
        try:  # a plain function that answers a coroutine, such as ``lambda entry: post(entry)``
            async with asyncio.timeout(self._timeout) as clock:
                return await value
        except TimeoutError as error:
            if clock.expired():
                raise self._too_late() from error
            raise

    async def _wait(self, call: _Call) -> None:
        loop = asyncio.get_running_loop()
        until = None if self._timeout is None else loop.time() + self._timeout
        while not call.task.done():
            rest = None if until is None else until - loop.time()
            if rest is not None and rest <= 0:
                raise self._too_late()
            try:
                await asyncio.wait([call.task], timeout=rest)
            except asyncio.CancelledError:
                if self._on_cancel is None or self._threads.abandoned:
                    raise
                self.cancelled = True
                self._on_cancel()
                if (me := asyncio.current_task()) is not None:
                    me.uncancel()

    def _too_late(self) -> UnackedError:
        return UnackedError(f"no answer within {self._timeout:g} s")


_inside: Final[ContextVar[bool]] = ContextVar("starfish_outbox_inside_a_send", default=False)


def _do(function: Callable[..., object], args: tuple[Any, ...]) -> _Said:
    _inside.set(True)
    try:
        return _Said(function(*args), None)
    except BaseException as error:  # noqa: BLE001  # it is raised where the answer is awaited
        return _Said(None, error)


def _same(these: tuple[Any, ...], those: tuple[Any, ...]) -> bool:
    """Whether two calls are about the same entries, with the same items."""
    return [*map(_what, these)] == [*map(_what, those)]


def _what(argument: Any) -> object:
    if isinstance(argument, list):
        return [*map(_what, argument)]
    return (argument.id, encode_foreign(argument.item)) if isinstance(argument, OutboxEntry) else argument
