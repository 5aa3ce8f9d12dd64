"""A queue's tie to one identity: a mirror of the entries, and the one door for every change.

Changes that wait are flushed together, one flush at a time (**group commit**, no timer): a lone change pays one commit,
a thousand concurrent ones share a few. Only what is durable becomes visible. A drain, and every change that has begun,
hold *this* object, so that nothing they do can land under another identity.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from math import inf
from typing import Literal, TypeAlias
from weakref import WeakMethod, finalize

from starfish_outbox.caches.base import EntryStore, Insert, Member, Op, Outcome, Seen
from starfish_outbox.entry import FAILED, Claim, StoredEntry
from starfish_outbox.errors import CacheError, CacheWriteError
from starfish_outbox.state import State


class Claimant:
    """Makes claims that live until it is closed or collected."""

    def __init__(self, store: EntryStore, kind: Literal["drain", "bare"], now_ms: Callable[[], int]) -> None:
        self._number = store.new_claimant()
        self._store = store
        self._kind = kind
        self._now_ms = now_ms
        self._serials = count(1)
        self.close = finalize(self, store.drop_claimant, self._number)

    def token(self) -> Claim:
        """A claim that equals no other."""
        return Claim(self._store.owner, self._number, next(self._serials), self._kind, self._now_ms())


End: TypeAlias = Literal["sent", "failed", "gone", "left"]


class Watch:
    """Waits for the end of one entry: ``sent``, ``failed`` (parked), ``gone``, or ``left`` (the queue moved on).

    Attributes:
        ended: the first of these that happened, or None so far.
        last: the entry as it stood before that, where it is known.
    """

    def __init__(self) -> None:
        self.ended: End | None = None
        self.last: StoredEntry | None = None
        self._event = asyncio.Event()

    def end(self, how: End, last: StoredEntry | None) -> None:
        """It happened; only the first counts."""
        if self.ended is None:
            self.ended, self.last = how, last
            self._event.set()

    async def wait(self, seconds: float) -> None:
        """Returns when it has happened, or after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()


class Binding:
    """See the module. Made unopened; ``open`` reads the key, ``detach`` lets go of it once nothing is in flight.

    Attributes:
        state: the mirror: what is durable, as of the last refresh plus what was changed here.
        detached: the queue has moved on; what is still recorded here is late.
        bare: makes the claims of ``queue.claim``.
    """

    def __init__(
        self,
        store: EntryStore,
        key: str,
        now_ms: Callable[[], int],
        notify: Callable[[], None],
        write_timeout: float | None,
    ) -> None:
        self.store = store
        self.key = key
        self.state = State()
        self.detached = False
        self._now_ms = now_ms
        self._listener = WeakMethod(notify)  # a drain that goes on must not keep a dropped queue alive
        self._write_timeout = write_timeout
        self._waiting: list[tuple[Sequence[Op], asyncio.Future[list[Outcome]]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._watched: dict[str, list[Watch]] = {}
        self._refreshed = -inf
        self._users = 0
        self._pid = os.getpid()
        self._member = Member(now_ms, self._absorb, self._reload)
        self._leave = finalize(self, store.leave, key, self._member, collected=True)
        self._leave.atexit = False
        self.bare = Claimant(store, "bare", now_ms)

    async def open(self) -> None:
        """Read the key. Again on an open binding: what the store has now; claims made by ``bare`` are given up.

        Raises:
            CacheError: it cannot be read, is owned by another process, or is not understood.
        """
        self.attach()
        self.bare.close()
        self.bare = Claimant(self.store, "bare", self._now_ms)
        with self.in_use(), self._reading():
            await self.store.open(self.key, self._member)
        self._member.stale = False

    def attach(self) -> None:
        """Belong to the running loop; what was not flushed on an earlier one died with it.

        Raises:
            RuntimeError: another loop that still runs uses this queue.
        """
        loop = asyncio.get_running_loop()
        if self._member.loop is loop:
            return
        if self._member.loop is not None:
            if self._member.loop.is_running() and self._pid == os.getpid():
                raise RuntimeError(
                    "this queue is used by another event loop that is still running; "
                    "open a queue of its own (on the same cache) in each thread"
                )
            self._waiting, self._flusher, self._member.stale = [], None, True
            self._watched, self._refreshed = {}, -inf
        self._member.loop, self._pid = loop, os.getpid()

    async def refresh(self) -> None:
        """Learn what other processes changed, and take back the claims of those that are gone.

        Raises:
            CacheError: the store cannot be read.
        """
        self.attach()
        with self._reading():
            await self.store.refresh(self.key, self._member)
        self._refreshed = asyncio.get_running_loop().time()

    async def refresh_after(self, seconds: float) -> None:
        """As ``refresh``, unless it was done less than so many seconds ago: many may ask, one look serves all.

        Raises:
            CacheError: the store cannot be read.
        """
        if asyncio.get_running_loop().time() - self._refreshed >= seconds:
            await self.refresh()

    def apply(self, ops: Sequence[Op]) -> asyncio.Future[list[Outcome]]:
        """Hand operations in, now; the future tells what became of them once they are durable, all or none.

        Cancelling who waits does not take them back: await it shielded.

        Raises (in the future):
            CacheWriteError: nothing changed in memory; on disk unknown.
        """
        self.attach()
        future: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieve)
        if not self._flushing():  # first, so that Ctrl-C between the two leaves nothing waiting without a flusher
            self._flusher = asyncio.get_running_loop().create_task(self._flush())
            self._flusher.add_done_callback(self._flushed)
        self._waiting.append((ops, future))
        return future

    async def durably(self, ops: Sequence[Op]) -> list[Outcome]:
        """What became of the operations, once durable; a caller that is cancelled does not take them back.

        Raises:
            CacheWriteError: as ``apply``.
        """
        return await asyncio.shield(self.apply(ops))

    @contextmanager
    def watching(self, id: str) -> Iterator[Watch]:
        """While entered, the watch learns what becomes of the entry with this id."""
        watch = Watch()
        watchers = self._watched.setdefault(id, [])
        watchers.append(watch)
        if self.detached:
            watch.end("left", None)
        try:
            yield watch
        finally:
            watchers.remove(watch)
            if not watchers and self._watched.get(id) is watchers:
                del self._watched[id]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While entered, the key is kept although the queue may move on."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._let_go()

    def detach(self) -> None:
        """The queue moves on: bare claims are given up now, the key once the last late change is recorded."""
        self.detached = True
        for watch in [watch for watchers in self._watched.values() for watch in watchers]:
            watch.end("left", None)
        self.bare.close()
        self._let_go()

    async def drained(self) -> None:
        """After ``detach``: returns when what waited is flushed and, if no drain runs, the key given back."""
        self.attach()
        if self._flusher is not None and self._flushing():
            await asyncio.wait([self._flusher])
        await self.store.left(self.key)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except CacheError:
            raise
        except Exception as error:
            raise CacheError(f"{self.key!r} could not be read from {self.store.where}: {error}") from error

    def _let_go(self) -> None:
        idle = not self._users and not self._waiting and not self._flushing()
        if self.detached and idle and self._leave.detach() is not None:
            self.store.leave(self.key, self._member)

    def _flushing(self) -> bool:
        return self._flusher is not None and not self._flusher.done()

    async def _flush(self) -> None:
        calls: list[tuple[Sequence[Op], asyncio.Future[list[Outcome]]]] = []
        try:
            if self._member.stale:
                await self.refresh()
            while self._waiting:
                calls, self._waiting = self._waiting, []
                await self._flush_one(calls)
        except GeneratorExit:  # collected after its loop was closed: nobody waits any more
            raise
        except BaseException as error:
            failure = CacheWriteError(f"{self.key!r}: the write was interrupted; trying the same id again is safe")
            failure.__cause__ = error
            _fail([*calls, *self._waiting], failure)
            self._waiting = []
            if not isinstance(error, Exception):
                self._member.stale = True  # Ctrl-C can strike between two lines: the mirror is read anew
                raise

    def _flushed(self, flusher: asyncio.Task[None]) -> None:
        if flusher is self._flusher and self._waiting:  # cancelled before its first step, it never saw who waits
            _fail(self._waiting, CacheWriteError(f"{self.key!r}: the write was cancelled before it began"))
            self._waiting = []
        self._let_go()

    async def _flush_one(self, calls: list[tuple[Sequence[Op], asyncio.Future[list[Outcome]]]]) -> None:
        ops = [op for call in calls for op in call[0]]
        try:
            async with asyncio.timeout(self._write_timeout):
                outcomes = await self.store.apply(self.key, self._member, ops, late=self.detached)
        except Exception as error:  # noqa: BLE001  # whatever a cache raises, the change is not stored
            ids = ", ".join(repr(op.entry.id if isinstance(op, Insert) else op.id or op.seq) for op in ops[:3])
            more = f" and {len(ops) - 3} more" if len(ops) > 3 else ""
            failure = CacheWriteError(
                f"{self.key!r}: could not store the change of {ids}{more} in {self.store.where}: "
                f"{str(error) or type(error).__name__}. Trying the same id again is safe."
            )
            failure.__cause__ = error
            _fail(calls, failure)
            return
        if any(o.applied or (not isinstance(op, Insert) and op.rewrite) for o, op in zip(outcomes, ops, strict=True)):
            self._notify()
        start = 0
        for part, future in calls:
            if not future.done():
                future.set_result(outcomes[start : start + len(part)])
            start += len(part)

    def _notify(self) -> None:
        listener = self._listener()
        if listener is not None:
            listener()

    def _absorb(self, changes: Sequence[Seen], own: bool) -> None:
        for seq, entry, sent in changes:
            before = self.state.put(seq, entry)
            if self._watched:
                self._tell_watchers(before, entry, sent=sent)
        if not own:
            self._notify()

    def _tell_watchers(self, before: StoredEntry | None, entry: StoredEntry | None, *, sent: bool) -> None:
        known = before or entry
        if known is None or known.id is None or (entry is not None and entry.status != FAILED):
            return
        for watch in self._watched.get(known.id, ()):
            watch.end("failed" if entry is not None else "sent" if sent else "gone", before)

    def _reload(self, entries: Sequence[StoredEntry], own: bool) -> None:
        before, self.state = self.state, State(entries)
        for id in self._watched:
            self._tell_watchers(before.first(id), self.state.first(id), sent=False)
        if not own:
            self._notify()


def _fail(calls: Sequence[tuple[Sequence[Op], asyncio.Future[list[Outcome]]]], error: CacheWriteError) -> None:
    for _, future in calls:
        if not future.done():
            future.set_exception(error)


def _retrieve(future: asyncio.Future[list[Outcome]]) -> None:
    """An error nobody waited for (its caller was cancelled) is not worth a message at the end of the program."""
    if not future.cancelled():
        future.exception()
