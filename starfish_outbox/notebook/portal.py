"""One daemon thread with an event loop of its own, for callers that cannot await.

1. `Portal.run` hands a coroutine to that loop and blocks the calling thread until it has ended: in a cell (whose loop
   runs, and is not touched), in a function, in a widget's callback on whatever thread, in a script.
2. The coroutine runs in a copy of the caller's context: what it prints lands under the caller's cell.
3. While the caller waits, it does what it is asked to do in its own thread (`Caller.here`), such as showing progress.
4. Ctrl-C in the caller cancels the coroutine and waits for its end, so that what was begun is recorded, and is raised
   then. A second one stops the waiting: the coroutine comes to its end without it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterable
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, ParamSpec, TypeVar
from weakref import finalize

from starfish_outbox.caches.base import log

P = ParamSpec("P")
T = TypeVar("T")

_LOOK_EVERY: Final = 1.0
"""Seconds after which a caller looks whether the thread is still there. (On Windows no Ctrl-C ends a wait before.)"""


class PortalClosedError(RuntimeError):
    """The portal's thread has ended, or is about to."""


class Caller:
    """A thread that waits for a call, and what it is asked to do meanwhile."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._over = False

    def here(self, function: Callable[P, object]) -> Callable[P, None]:
        """The function, to be called on the loop: the waiting thread does it, in order; nobody waits for that."""

        def ask(*args: P.args, **kwargs: P.kwargs) -> None:
            self._asked.put(partial(function, *args, **kwargs))

        return ask

    def end(self) -> None:
        """The call has ended: do what was asked, and wait no longer."""
        self._over = True
        self._asked.put(None)

    def attend(self, alive: Callable[[], bool], *, idly: bool = False) -> None:
        """Returns when the call has ended; until then does what it is asked to, or, ``idly``, leaves it undone.

        Raises:
            PortalClosedError: nobody is there any more who could end it.
        """
        while not (self._over and self._asked.empty()):
            try:
                asked = self._asked.get(timeout=_LOOK_EVERY)
            except Empty:
                if not (self._over or alive()):
                    raise PortalClosedError("the thread that was to do this has ended") from None
                continue
            if asked is not None and not idly:
                asked()


class _Call(Generic[T]):
    """A coroutine on its way through the portal; ``start`` and ``cancel`` are called on the loop, in any order."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], caller: Caller, under_way: set[asyncio.Task[Any]]) -> None:
        self._coroutine = coroutine
        self._caller = caller
        self._under_way = under_way
        self._task: asyncio.Task[T] | None = None
        self.given_up = False

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._coroutine)
        self._under_way.add(self._task)
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:  # Ctrl-C came before it was handed over
            self._coroutine.close()
            self._caller.end()

    def drop(self) -> None:
        """There is no loop any more."""
        if self._task is None:
            self._coroutine.close()

    def result(self) -> T:
        if self._task is None or self._task.cancelled():
            raise RuntimeError("the call was cancelled: its outbox was closed, or a send said so")
        return self._task.result()

    def _ended(self, task: asyncio.Task[T]) -> None:
        self._under_way.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and self.given_up:  # nobody is there to raise it to
            log.error("what was interrupted ended with %s: %s", type(error).__name__, error)
        self._caller.end()


class Portal:
    """The thread and its loop: made running, ended by ``end``, when dropped, or with the program, which it never holds.

    Attributes:
        loop: the event loop of the thread.

    Raises:
        RuntimeError: this Python cannot start a thread (Pyodide): use ``await`` there.
    """

    def __init__(self, name: str = "starfish-outbox") -> None:
        self.loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        self._under_way: set[asyncio.Task[Any]] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=_serve, args=(self.loop, self._closing), name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self.loop.close()
            raise RuntimeError(f"{error}: without threads there is no BlockingOutbox; use await open_outbox") from error
        finalize(self, _begin_to_end, self._pid, self.loop, self._closing, self._under_way, None).atexit = False

    @property
    def closed(self) -> bool:
        """Whether its thread has ended, or is about to."""
        return self._closing.is_set() or not self._thread.is_alive()

    @property
    def forked(self) -> bool:
        """Whether this process is a child of the one whose thread it is."""
        return self._pid != os.getpid()

    @property
    def inside(self) -> bool:
        """Whether the calling thread is the portal's own."""
        return threading.get_ident() == self._thread.ident and not self.forked

    def run(self, coroutine: Coroutine[Any, Any, T], caller: Caller | None = None) -> T:
        """What the coroutine returns; blocks until then.

        Args:
            coroutine: runs on the portal's loop.
            caller: what the waiting thread is asked to do meanwhile.

        Raises:
            RuntimeError: the call comes from the portal's own thread, which would wait for itself, or from a forked
                child, which has no such thread; or the portal was closed.
            KeyboardInterrupt: Ctrl-C; see the module.
            BaseException: whatever the coroutine raises, or what the caller was asked to do meanwhile.
        """
        try:
            self._check()
        except RuntimeError:
            coroutine.close()
            raise
        caller = caller or Caller()
        call = _Call(coroutine, caller, self._under_way)
        try:
            self.loop.call_soon_threadsafe(call.start, context=copy_context())
            caller.attend(self._thread.is_alive)
        except BaseException:
            self._give_up(call, caller)
            raise
        return call.result()

    def do(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What a plain function returns that is called on the loop's thread; also from that thread itself.

        Raises:
            As ``run``.
        """

        async def call() -> T:
            return function(*args, **kwargs)

        return function(*args, **kwargs) if self.inside else self.run(call())

    async def others(self) -> None:
        """On the loop: returns when every other call that is under way now has ended."""
        others = self._under_way - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)

    def end(self, last: Coroutine[Any, Any, object] | None = None) -> None:
        """Begin to end, and do not wait for it: calls under way are cancelled, then ``last`` is done."""
        if not _begin_to_end(self._pid, self.loop, self._closing, self._under_way, last) and last is not None:
            last.close()

    def join(self, seconds: float | None = None) -> bool:
        """Wait for the end of the thread, so many seconds at most; whether it has ended."""
        if not (self.inside or self.forked):
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _check(self) -> None:
        if self.forked:
            raise RuntimeError(
                "this process was forked from the one that opened the outbox, whose thread it does not have; "
                "open a BlockingOutbox of its own here"
            )
        if self.inside:
            raise RuntimeError(
                "a blocking call from the outbox's own thread (an async send, a listener, progress of keep_draining) "
                "would wait for itself for ever; await the same method of outbox.queue there, or call it elsewhere"
            )
        if self.closed:
            raise PortalClosedError("this outbox is closed; open it anew")

    def _give_up(self, call: _Call[Any], caller: Caller) -> None:
        call.given_up = True
        try:
            self.loop.call_soon_threadsafe(call.cancel)
        except RuntimeError:  # the loop is closed
            call.drop()
        else:
            caller.attend(self._thread.is_alive, idly=True)


def _serve(loop: asyncio.AbstractEventLoop, closing: threading.Event) -> None:
    """The thread. It holds no reference to the portal: one that is dropped can be collected."""
    while True:
        try:
            loop.run_forever()
        except (KeyboardInterrupt, SystemExit):
            # A send of the user raised it. The loop passes it on besides giving it to the call, which raises it where
            # it belongs.
            continue
        if closing.is_set():
            break
    loop.close()


def _begin_to_end(
    pid: int,
    loop: asyncio.AbstractEventLoop,
    closing: threading.Event,
    calls: set[asyncio.Task[Any]],
    last: Coroutine[Any, Any, object] | None,
) -> bool:
    """Whether this has been begun now: neither before, nor is it the business of another process."""
    if pid != os.getpid() or closing.is_set():
        return False
    closing.set()
    try:
        loop.call_soon_threadsafe(_finish, loop, calls, last)
    except RuntimeError:  # the loop is closed already
        return False
    return True


def _finish(
    loop: asyncio.AbstractEventLoop, calls: set[asyncio.Task[Any]], last: Coroutine[Any, Any, object] | None
) -> None:
    async def finish() -> None:
        try:
            await _cancelled(calls)
            if last is not None:
                await last
            await _cancelled(asyncio.all_tasks() - {asyncio.current_task()})  # those that a send started
            await loop.shutdown_asyncgens()
        except Exception:  # noqa: BLE001  # nobody waits for this; the thread must end all the same
            log.exception("the outbox was not closed properly")
        finally:
            loop.stop()

    task = loop.create_task(finish())
    _finishing.add(task)
    task.add_done_callback(_finishing.discard)


_finishing: Final[set[asyncio.Task[None]]] = set()
"""A loop keeps no task alive by itself."""


async def _cancelled(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    """Returns when these have ended, each of which is cancelled."""
    chosen = [task for task in tasks if task is not None]
    for task in chosen:
        task.cancel()
    if chosen:
        await asyncio.wait(chosen)
