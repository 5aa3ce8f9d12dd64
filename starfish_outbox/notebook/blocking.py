"""``BlockingOutbox``: the words of an outbox without ``await``, for cells, functions, widget callbacks and scripts."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import finalize

from starfish_outbox.backoff import Backoff
from starfish_outbox.caches import LocalCache
from starfish_outbox.caches.base import Sent, log
from starfish_outbox.drain import (
    DrainProgress,
    DrainResult,
    KeepDraining,
    Lane,
    OnParked,
    Probe,
    Send,
    SendMany,
    keep_draining as keep_draining_async,
)
from starfish_outbox.drain.options import DrainOptions, check_number, is_async
from starfish_outbox.drain.pace import Pace
from starfish_outbox.drain.passes import one_pass
from starfish_outbox.drawing import draw
from starfish_outbox.entry import OutboxEntry, OutboxStatus
from starfish_outbox.errors import NotHydratedError
from starfish_outbox.knowing import Explanation, Fate, History, Ledger, QueueStatus
from starfish_outbox.notebook.draining import BlockingDraining, Progress
from starfish_outbox.notebook.ending import LAST_SECONDS, closed, end, left, left_open
from starfish_outbox.notebook.portal import Caller, Portal, PortalClosedError
from starfish_outbox.notebook.sending import InThread, Threads
from starfish_outbox.opening import cache_at, open_outbox
from starfish_outbox.outcomes import Classify
from starfish_outbox.queue import OnDuplicate, OutboxQueue
from starfish_outbox.state import Counts

T = TypeVar("T")


class BlockingOutbox:
    """The outbox of one identity, open until ``close``, the end of a ``with``, or the end of the program.

    ```python
    outbox = BlockingOutbox("me")
    outbox.enqueue("reading-17", {"celsius": 21.5})
    print(outbox.drain(send))  # send may block: requests.post, time.sleep
    ```

    Every method does what the one of the same name of ``OutboxQueue`` does, and returns when it is done. The queue
    lives on an event loop in a thread of its own, so it makes no difference whether a loop runs here (a cell) or not (a
    script), and which thread calls. A plain ``send`` runs in a thread, so that one that blocks holds up nothing; an
    async one runs on the outbox's loop. Listeners, and the progress of a ``keep_draining`` that is not waited for, are
    called in the outbox's thread: there they may look (``get``, ``counts``, ``status``) but not call what waits.

    Ctrl-C, or interrupting the kernel, stops any call: async sends are cut off (queued again as ``maybe_sent``), no
    other is begun, the answer of a plain one is waited for and recorded, and then it is raised. Ctrl-C once more does
    not wait: the answer is recorded when it comes.

    Args:
        identity: whose writes these are; stored under the key ``outbox.<identity>``.
        path: as for ``open_outbox``: a database, a directory, or any cache.
        ledger: remember delivered ids for 90 days (SQLite only).
        options: as for ``OutboxQueue``.

    Attributes:
        queue: the ``OutboxQueue`` inside; it belongs to the loop of ``portal``.
        portal: the thread with that loop: ``portal.run(coroutine)`` blocks until the coroutine has ended there.

    Raises:
        ValueError, TypeError: the identity or path is unfit.
        CacheError: it cannot be opened.
    """

    def __init__(
        self,
        identity: str,
        path: str | os.PathLike[str] | LocalCache | None = None,
        *,
        ledger: bool = True,
        **options: Any,
    ) -> None:
        made = cache_at(path, ledger=ledger) if path is None or isinstance(path, str | os.PathLike) else None
        opening = open_outbox(identity, path if made is None else made, **options)
        self._threads = Threads()
        self.drainings: list[KeepDraining] = []  # those that were started, for its end
        self.portal = Portal()
        try:
            self.queue: OutboxQueue[Any] = self.portal.run(_opened(opening))
        except BaseException:
            self.portal.end(closed(None, made, self.drainings, self._threads))
            raise
        # Not at exit: that comes after the threads of the stores have ended.
        self.abandon = finalize(self, end, self.portal, self.queue, made, self.drainings, self._threads)
        self.abandon.atexit = False
        left_open.add(self)

    def __repr__(self) -> str:
        name = repr(self.queue).removeprefix("OutboxQueue")
        return f"BlockingOutbox{name}" + (" (closed)" if self.closed else "")

    def _repr_html_(self) -> str:
        return self._look(lambda: draw(self.queue))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self.portal.closed and not self.portal.forked

    def close(self) -> None:
        """Let go of the outbox: what is under way elsewhere comes to its end first, what waits stays stored.

        Ctrl-C does not wait for that: calls under way are cut off, and answers of plain sends that come later are lost
        (their entries are ``maybe_sent``). In a forked child nothing happens: it is the parent's.

        Raises:
            RuntimeError: called by a send, for whose end it would wait.
            CacheError: as ``OutboxQueue.close``.
        """
        if self.portal.forked or self.portal.closed:
            return
        if Threads.inside():
            raise RuntimeError("close() from inside a send would wait for the end of that send")
        try:
            self.portal.run(left(self.queue, self.drainings, self.portal))
        finally:
            if not self.portal.inside:
                self.abandon()
                if not self.portal.join(LAST_SECONDS):
                    log.error("the thread of the outbox has not ended: a send does not let go of it")

    def __contains__(self, id: object) -> bool:
        return self._look(lambda: id in self.queue)

    def get(self) -> list[OutboxEntry[Any]]:
        """A new list with a copy of every entry, oldest first; empty when unbound."""
        return self._look(self.queue.get)

    def pending(self, predicate: Callable[[Any], bool] | None = None) -> list[OutboxEntry[Any]]:
        """As ``get``, only the entries whose item satisfies the predicate."""
        return [entry for entry in self.get() if predicate is None or predicate(entry.item)]

    def page(
        self, offset: int = 0, limit: int | None = 50, *, status: OutboxStatus | None = None
    ) -> list[OutboxEntry[Any]]:
        """Some of what ``get`` has; see ``OutboxQueue.page``."""
        return self._look(lambda: self.queue.page(offset, limit, status=status))

    def counts(self) -> Counts:
        """How many entries have which status; the same cost at any length."""
        return self._look(self.queue.counts)

    def status(self) -> QueueStatus:
        """Counts, age, size, where it lies, how durable it is, and what needs a person."""
        return self._look(self.queue.status)

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener()`` in the outbox's thread after every change; the answer ends this subscription.

        Raises:
            TypeError: the listener is not callable, or is a coroutine function, which nobody would await.
        """
        return self.queue.subscribe(listener)

    def encode(self, id: str, item: Any) -> str:
        """The JSON text that ``enqueue`` would store; raises what it would raise."""
        return self._look(lambda: self.queue.encode(id, item))

    def hydrate(self, cache_key: str) -> None:
        """Bind to the identity whose entries are stored under ``cache_key``, and read them.

        Raises:
            As ``OutboxQueue.hydrate``.
        """
        self.run(self.queue.hydrate(cache_key))

    def clear(self) -> None:
        """Forget the identity: the queue is empty and unbound, what is stored stays stored (as at a sign-out)."""
        self._look(self.queue.clear)

    def enqueue(self, id: str, item: Any, ts: int | None = None, *, on_duplicate: OnDuplicate = "ignore") -> bool:
        """Add one entry; True when it was added. It would survive a power cut when this returns.

        Args:
            id: unique among live entries, and the idempotency key on the wire.
            item: JSON that Python and JavaScript read back equal.
            ts: milliseconds since the Unix epoch, the present by default.
            on_duplicate: ``ignore`` (answers False), ``replace`` or ``raise``: see ``OutboxQueue.enqueue``.

        Raises:
            As ``OutboxQueue.enqueue``.
        """
        return self.run(self.queue.enqueue(id, item, ts, on_duplicate=on_duplicate))

    def enqueue_many(self, pairs: Iterable[tuple[str, Any]]) -> list[bool]:
        """Add many (id, item) pairs in one commit, all or none; what ``enqueue`` would have answered for each.

        Raises:
            As ``OutboxQueue.enqueue_many``.
        """
        # Iterated here: what it reads from (a cursor, a file) may belong to this thread.
        return self.run(self.queue.enqueue_many(pairs if isinstance(pairs, Mapping) else list(pairs)))

    def claim(self, id: str) -> bool:
        """Claim the entry for this caller; False when it is unknown or being sent. A failed entry can be claimed."""
        return self.run(self.queue.claim(id))

    def remove(self, id: str) -> None:
        """Remove the entry, as after a delivery by your own means."""
        self.run(self.queue.remove(id))

    def record_failure(self, id: str, max_attempts: int) -> None:
        """Count one more failed attempt: ``failed`` when that makes ``max_attempts``, else ``queued``."""
        self.run(self.queue.record_failure(id, max_attempts))

    def mark_failed(self, id: str) -> None:
        """Park the entry now; counts as an attempt."""
        self.run(self.queue.mark_failed(id))

    def retry(self, id: str, *, reset_attempts: bool = False) -> None:
        """Put the entry back to ``queued``; attempts are kept unless reset. Does nothing while a drain holds it."""
        self.run(self.queue.retry(id, reset_attempts=reset_attempts))

    def cancel(self, id: str) -> bool:
        """Take back what was enqueued last under this id, unless it is being sent; True when that is so."""
        return self.run(self.queue.cancel(id))

    def edit(self, id: str, item: Any) -> bool:
        """Give a parked entry another item and queue it again, its attempts forgotten; False where none is parked."""
        return self.run(self.queue.edit(id, item))

    def explain(self, id: str) -> Explanation:
        """Why this entry is not sent; ``print`` it."""
        return self.run(self.queue.explain(id))

    def history(self, id: str) -> History:
        """What is known to have happened to this id, the oldest first."""
        return self.run(self.queue.history(id))

    def wait_for(self, id: str, *, timeout: float | None = None) -> Fate:
        """Returns what became of an entry: ``sent``, ``failed`` (parked), or ``removed``; waits so many seconds for it.

        Raises:
            TimeoutError: nothing became of it in so many seconds.
        """
        return self.run(self.queue.wait_for(id, timeout=timeout))

    @property
    def ledger(self) -> BlockingLedger:
        """The deliveries that are remembered."""
        return BlockingLedger(self, self.queue.ledger)

    def refresh(self) -> None:
        """Learn what other processes changed, and take back claims of processes that are gone."""
        self.run(self.queue.refresh())

    def was_sent(self, id: str) -> bool:
        """Whether the ledger knows this id as delivered; False where no ledger is kept."""
        return self.run(self.queue.was_sent(id))

    def drain(
        self,
        send: Send | SendMany,
        *,
        max_attempts: int = 5,
        limit: int | None = None,
        timeout: float | None = None,
        on_progress: Callable[[DrainProgress], object] | None = None,
        classify: Classify | None = None,
        backoff: Backoff | None = None,
        concurrency: int = 1,
        lane: Lane | None = None,
        on_parked: OnParked = "free",
        batch_size: int | None = None,
        rate: float | None = None,
        receipts: bool = False,
    ) -> DrainResult:
        """Send what is queued, once, and say what happened; the options are those of `drain_outbox`.

        A plain ``send`` takes ``timeout`` and ``concurrency`` too (its thread goes on after a timeout; the next try of
        the entry joins it). ``on_progress`` is called in the calling thread, under the calling cell.

        Raises:
            As `drain_outbox`.
        """
        caller = Caller()
        progress = _progress(on_progress)
        if progress is not None:
            progress.caller = caller
        interrupted = threading.Event()
        sender, seconds = self._sender(send, timeout, interrupted.set)
        options = DrainOptions(
            sender,
            max_attempts=max_attempts,
            limit=limit,
            timeout=seconds,
            on_progress=progress,
            classify=classify,
            backoff=backoff,
            concurrency=concurrency,
            lane=lane,
            on_parked=on_parked,
            batch_size=batch_size,
            rate=rate,
            receipts=receipts,
        )
        pace = Pace(concurrency, rate, adaptive=False)
        return self.run(one_pass(self.queue, options, pace, halt=interrupted.is_set), caller)

    def keep_draining(
        self,
        send: Send | SendMany,
        *,
        max_attempts: int = 5,
        timeout: float | None = None,
        on_progress: Callable[[DrainProgress], object] | None = None,
        classify: Classify | None = None,
        backoff: Backoff | None = None,
        concurrency: int = 1,
        lane: Lane | None = None,
        on_parked: OnParked = "free",
        batch_size: int | None = None,
        rate: float | None = None,
        adaptive: bool = True,
        receipts: bool = False,
        interval: float = 60.0,
        probe: Probe | None = None,
    ) -> BlockingDraining:
        """Drain whenever there is something to send; the options are those of `keep_draining`.

        ```python
        with outbox.keep_draining(send, concurrency=8):  # beside the body
            collect_all_day(outbox)

        draining = outbox.keep_draining(send).start()  # beside the cells that follow, until draining.stop()
        outbox.keep_draining(send).run()  # a script that does nothing else
        ```

        ``on_progress`` is called in the calling thread by ``run``, and else in the outbox's. A plain ``probe`` runs in
        a thread, as a plain ``send`` does.

        Raises:
            ValueError, TypeError: an argument is unfit.
        """
        progress = _progress(on_progress)

        def stop() -> None:
            inner.stop()

        sender, seconds = self._sender(send, timeout, stop)
        if callable(probe) and not is_async(probe):
            probe = InThread(probe, self._threads, timeout, None)
        inner = keep_draining_async(
            self.queue,
            sender,
            max_attempts=max_attempts,
            timeout=seconds,
            on_progress=progress,
            classify=classify,
            backoff=backoff,
            concurrency=concurrency,
            lane=lane,
            on_parked=on_parked,
            batch_size=batch_size,
            rate=rate,
            adaptive=adaptive,
            receipts=receipts,
            interval=interval,
            probe=probe,
        )
        return BlockingDraining(self, inner, progress)

    @contextmanager
    def using(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Enter an ``async with`` on the outbox's loop, such as a ready-made ``send``.

        ```python
        with outbox.using(http_post("https://lab.example/readings")) as send:
            print(outbox.drain(send, concurrency=8))
        ```
        """
        entered = self.run(_entered(manager))
        try:
            yield entered
        finally:
            self.run(_exited(manager))

    def run(self, coroutine: Coroutine[Any, Any, T], caller: Caller | None = None) -> T:
        """What a coroutine returns that runs on the outbox's loop: as ``portal.run``.

        Raises:
            NotHydratedError: the outbox is closed.
            RuntimeError: as ``Portal.run``.
        """
        try:
            return self.portal.run(coroutine, caller)
        except PortalClosedError as error:
            raise NotHydratedError("this outbox is closed: open it anew, with BlockingOutbox(...)") from error

    def _look(self, function: Callable[[], T]) -> T:
        """What a function finds that must not look while the queue changes; a closed one changes no more."""
        return function() if self.closed else self.portal.do(function)

    def _sender(
        self, send: Send | SendMany, timeout: float | None, on_cancel: Callable[[], object]
    ) -> tuple[Callable[..., Any], float | None]:
        """The send for the outbox's loop, and the seconds after which the drain should cut it off by itself."""
        if is_async(send) or not callable(send):
            return send, timeout
        check_number("timeout", timeout, "seconds")
        return InThread(send, self._threads, timeout, on_cancel), None


@dataclass(frozen=True)
class BlockingLedger:
    """The deliveries that an outbox remembers, where its store keeps a ledger (SQLite, ``ledger=True``)."""

    _outbox: BlockingOutbox
    _ledger: Ledger

    def get(self, id: str) -> Sent | None:
        """What is known of the last delivery of this id."""
        return self._outbox.run(self._ledger.get(id))

    def prune(self, *, days: float = 90.0) -> int:
        """Forget deliveries that are at least so many days old; how many."""
        return self._outbox.run(self._ledger.prune(days=days))


def _progress(show: Callable[[DrainProgress], object] | None) -> Progress | None:
    if show is None:
        return None
    DrainOptions(_nothing, on_progress=show)  # raises where it cannot be called
    return Progress(show)


def _nothing(entry: object) -> None:
    pass


async def _opened(opening: Any) -> OutboxQueue[Any]:
    queue: OutboxQueue[Any] = await opening
    return queue


async def _entered(manager: AbstractAsyncContextManager[T]) -> T:
    return await manager.__aenter__()


async def _exited(manager: AbstractAsyncContextManager[Any]) -> None:
    await manager.__aexit__(None, None, None)
