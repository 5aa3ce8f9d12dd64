"""Threads for libraries that block: the event loop never waits for them, and neither does the end of the program."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Worker:
    """A thread that does one call after another.

    It is a daemon: a call that hangs in a dead network keeps no interpreter alive, as a `ThreadPoolExecutor` would.

    Attributes:
        kept: what a call leaves here for the next, such as a connection; it is closed when the thread ends.
        ended: done once the thread is.
    """

    def __init__(self, name: str) -> None:
        self.kept: Any = None
        self.ended: Future[None] = Future()
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, call: Callable[[], R]) -> Future[R]:
        """Do this after what was submitted before."""
        future: Future[R] = Future()
        self._calls.put((future, call))
        return future

    def end(self) -> None:
        """End the thread after what was submitted."""
        self._calls.put(None)

    def drop(self) -> None:
        """Close what is kept. In the worker's own thread."""
        kept, self.kept = self.kept, None
        if kept is not None:
            with contextlib.suppress(Exception):  # it is of no use any more, whatever it says
                kept.close()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            _do(*call)
            del call  # a thread that waits keeps nothing of its last call alive
        self.drop()
        self.ended.set_result(None)


class Workers:
    """As many workers as there are calls at a time; a worker whose call hangs is not waited for by the others.

    Their threads end with `end`, or when nobody has this object any more.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._inherited: list[Worker] = []
        self._pid = os.getpid()
        self._wanted = object()  # the workers that began under another one end with their call
        weakref.finalize(self, _end_all, self._idle)

    async def run(self, function: Callable[Concatenate[Worker, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function, called with a worker in its thread, answers.

        Where the caller is cancelled, a call that began goes on to its end and its answer is dropped.
        """
        self._after_fork()
        with self._lock:
            worker = self._idle.pop() if self._idle else Worker(self._name)
        weak, wanted = weakref.ref(self), self._wanted

        def release(_: object) -> None:
            workers = weak()
            if workers is not None:
                workers.take_back(worker, wanted)
            else:
                worker.end()

        future = worker.submit(lambda: function(worker, *args, **kwargs))
        future.add_done_callback(release)
        return await asyncio.wrap_future(future)

    def end(self) -> list[Future[None]]:
        """End the threads: those that have nothing to do now (their ends are answered), others after their call."""
        self._after_fork()
        with self._lock:
            self._wanted = object()
            return _end_all(self._idle)

    def take_back(self, worker: Worker, wanted: object) -> None:
        """A worker whose call is done: it waits for the next, unless all were ended meanwhile."""
        with self._lock:
            if wanted is self._wanted:
                self._idle.append(worker)
                return
        worker.end()

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            # Threads do not survive a fork; and to close what they kept would end the parent's session.
            self._inherited += self._idle
            self._idle.clear()
            self._lock, self._pid = threading.Lock(), os.getpid()


def _end_all(idle: list[Worker]) -> list[Future[None]]:
    ended = []
    while idle:
        worker = idle.pop()
        worker.end()
        ended.append(worker.ended)
    return ended


def _do(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001  # it is raised where the answer is awaited
        future.set_exception(error)
