"""``OutboxQueue``: the public face: arguments checked, items encoded, listeners told. Changes go through a binding."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from types import TracebackType
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from starfish_outbox import codec, knowing, transitions
from starfish_outbox.admission import Admission
from starfish_outbox.binding import Binding
from starfish_outbox.caches import LocalCache, store_of
from starfish_outbox.caches.base import Update, wall_clock_ms
from starfish_outbox.checks import check_id, check_id_type, check_key, check_max_attempts, check_ts
from starfish_outbox.drawing import Drawn
from starfish_outbox.entry import QUEUED, OutboxEntry, OutboxStatus, StoredEntry
from starfish_outbox.errors import DuplicateIdError, NotHydratedError
from starfish_outbox.knowing import Explanation, Fate, History, Ledger, QueueStatus
from starfish_outbox.listeners import Listeners
from starfish_outbox.showing import printable
from starfish_outbox.state import Counts
from starfish_outbox.transitions import Step

T = TypeVar("T")

OnDuplicate: TypeAlias = Literal["ignore", "replace", "raise"]


class OutboxQueue(Drawn, Generic[T]):
    """A durable queue of writes for one identity at a time, deduplicated by id, oldest first.

    Made unbound, with or without a running loop; ``await hydrate(key)`` binds it. One loop at a time uses it; another
    thread opens its own queue on the same cache.

    Args:
        cache: where it lives: ``MemoryCache``, ``FileCache``, ``SQLiteCache``, or anything with the three methods.
        clock: milliseconds since the Unix epoch; the wall clock by default.
        default: turns an object that is no JSON into one that is (as in ``json.dumps``).
        big_ints: accept integers past 2**53 - 1, which JavaScript would round: for Python-only use.
        max_item_bytes: UTF-8 size of one item.
        max_depth: nesting of one item.
        max_entries: live entries; more raise ``OutboxFullError``.
        max_bytes: UTF-8 size of all live items, and of those that wait to replace one; more raise ``OutboxFullError``.
            (Both limits count what other processes added as of the last refresh.)
        write_timeout: seconds until a write that hangs raises ``CacheWriteError``.
    """

    def __init__(
        self,
        cache: LocalCache,
        *,
        clock: Callable[[], int] | None = None,
        default: Callable[[Any], Any] | None = None,
        big_ints: bool = False,
        max_item_bytes: int = 1 << 20,
        max_depth: int = 128,
        max_entries: int | None = None,
        max_bytes: int | None = None,
        write_timeout: float | None = None,
    ) -> None:
        self._admission = Admission(
            default=default,
            big_ints=big_ints,
            max_item_bytes=max_item_bytes,
            max_depth=max_depth,
            max_entries=max_entries,
            max_bytes=max_bytes,
        )
        self._store = store_of(cache)
        self._clock = clock or wall_clock_ms
        self._write_timeout = write_timeout
        self._binding: Binding | None = None
        self._hydrating: asyncio.Event | None = None
        self._generation = 0
        self._target: str | None = None
        self._era = 0
        self._listeners = Listeners()

    def __repr__(self) -> str:
        key = self._binding.key if self._binding else None
        return f"OutboxQueue(key={key!r}, {self.counts()}, {printable(self._store.where)})"

    async def __aenter__(self) -> OutboxQueue[T]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __contains__(self, id: object) -> bool:
        """Whether an entry with this id is live, as of the last refresh plus own changes."""
        return isinstance(id, str) and self._binding is not None and self._binding.state.first(id) is not None

    def get(self) -> list[OutboxEntry[T]]:
        """A new list with a copy of every entry, oldest first; empty when unbound."""
        return [codec.public(entry) for entry in self._mirror()]

    def pending(self, predicate: Callable[[T], bool] | None = None) -> list[OutboxEntry[T]]:
        """As ``get``, only the entries whose item satisfies the predicate."""
        return [entry for entry in self.get() if predicate is None or predicate(entry.item)]

    def page(
        self, offset: int = 0, limit: int | None = 50, *, status: OutboxStatus | None = None
    ) -> list[OutboxEntry[T]]:
        """Some of what ``get`` has, oldest first; the items of no others are decoded.

        Args:
            offset: entries to leave out before the first.
            limit: how many at most; None: all that are left.
            status: only the entries with this one.
        """
        entries = iter(self._binding.state) if self._binding else iter(())
        some = (one for one in entries if one.id is not None and status in (None, one.status))
        return [codec.public(entry) for entry in islice(some, offset, None if limit is None else offset + limit)]

    def counts(self) -> Counts:
        """How many entries have which status; the same cost at any length."""
        return self._binding.state.counts() if self._binding else Counts()

    def status(self) -> QueueStatus:
        """Counts, age, size, where it lies, how durable it is, and what needs a person."""
        return knowing.status(self._binding, self._store)

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener()`` after every change, once it is durable; the answer ends this subscription.

        Listeners are called in the order of subscription. One that raises is logged and does not disturb the others.

        Raises:
            TypeError: the listener is not callable, or is a coroutine function, which nobody would await.
        """
        return self._listeners.add(listener)

    async def hydrate(self, cache_key: str) -> None:
        """Bind to the identity whose entries are stored under ``cache_key``, and read them.

        Bound to it already: read again; entries that only a bare ``claim`` holds go back to ``queued``. When two calls
        overlap, the later one wins.

        Raises:
            ValueError, TypeError: the key is empty, no string, or names a quarantine.
            CacheError: it cannot be read; the queue is then unbound, and nothing was changed.
        """
        check_key(cache_key)
        if self._binding is not None:
            self._binding.attach()  # refuses a second live loop before anything is taken from the first
        self._turn_to(cache_key)
        generation = self._generation
        binding = self._binding
        if binding is None or binding.key != cache_key:
            self._unbind()
            binding = Binding(self._store, cache_key, self._clock, self._listeners.notify, self._write_timeout)
        if self._hydrating is None:
            self._hydrating = asyncio.Event()
        try:
            await binding.open()
        except BaseException:
            if binding is not self._binding:
                binding.detach()
            if generation == self._generation:
                self._unbind()
                self._hydrated()
            raise
        if generation != self._generation:
            if binding is not self._binding:
                binding.detach()
            return
        self._binding = binding
        self._hydrated()
        self._listeners.notify()

    def clear(self) -> None:
        """Forget the identity: the queue is empty and unbound, what is stored stays stored (as at a sign-out)."""
        self._turn_to(None)
        self._unbind()
        self._hydrated()
        self._listeners.notify()

    async def close(self) -> None:
        """Let go of the identity, without a word to listeners; bare claims are given up, stored entries stay."""
        binding = self._binding
        if binding is not None:
            binding.attach()
        self._turn_to(None)
        self._unbind()
        self._hydrated()
        if binding is not None:
            await binding.drained()

    async def enqueue(self, id: str, item: T, ts: int | None = None, *, on_duplicate: OnDuplicate = "ignore") -> bool:
        """Add one entry; True when it was added, False when its id is live already or, with a ledger, was sent.

        Either way the entry would survive a power cut when this returns.

        Args:
            id: unique among live entries, and the idempotency key on the wire.
            item: JSON that Python and JavaScript read back equal.
            ts: milliseconds since the Unix epoch, the present by default.
            on_duplicate: what happens where the id is live. ``ignore``: nothing, the item is not looked at. ``raise``:
                an error, also where the ledger knows the id as sent with this item. ``replace``: this item takes the
                other's place in the queue, with no failures behind it, and is queued also where the other was parked;
                one that is being sent is never touched: the new one waits for the end of that send, whatever it is,
                and then stands in its place; the last of several wins. True, or False where this very item is queued
                or being sent already. The remote may then see an id twice, with another item: it must take the last.

        Raises:
            DuplicateIdError: see ``on_duplicate``.
            ValueError, TypeError: the id, ts or ``on_duplicate`` is unfit.
            ItemError: the item is unfit; ``.path`` says where.
            OutboxFullError: a limit is reached.
            NotHydratedError: no identity is bound.
            CacheWriteError: it could not be stored; trying the same id again is safe.
        """
        check_id(id)
        check_ts(ts)
        if on_duplicate not in ("ignore", "replace", "raise"):
            raise ValueError(f"on_duplicate is 'ignore', 'replace' or 'raise', not {on_duplicate!r}")
        binding = await self._bound()
        if on_duplicate == "replace":
            return await self._put(binding, self._entry(id, item, ts))
        if binding.state.first(id) is not None:
            (touched,) = await binding.durably([Update(_touch, id=id)])
            if touched.entry is not None:
                return _refused(id, "live", on_duplicate)
        (outcome,) = await self._admission.insert(binding, [self._entry(id, item, ts)])
        return outcome.applied or _refused(id, outcome.why, on_duplicate)

    async def enqueue_many(self, pairs: Iterable[tuple[str, T]]) -> list[bool]:
        """Add many (id, item) pairs in one commit, all or none; what ``enqueue`` would have answered for each.

        Raises:
            As ``enqueue``; every pair is checked before the first is added.
        """
        binding = await self._bound()
        if isinstance(pairs, Mapping):
            raise TypeError("enqueue_many takes pairs of id and item; of a mapping, pass mapping.items()")
        entries = []
        for number, pair in enumerate(pairs):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise TypeError(f"enqueue_many takes pairs of id and item; number {number} is {type(pair).__name__}")
            id, item = pair
            check_id(id)
            entries.append(self._entry(id, item, None))
        if not entries:
            return []
        return [outcome.applied for outcome in await self._admission.insert(binding, entries)]

    async def claim(self, id: str) -> bool:
        """Claim the entry for this caller; False when it is unknown or being sent. A failed entry can be claimed.

        The claim lasts until ``remove``, ``record_failure``, ``mark_failed`` or ``retry``, the queue's next ``hydrate``
        or its end.
        """
        check_id_type(id)
        binding = await self._bound()
        token = binding.bare.token()
        try:
            (outcome,) = await binding.durably([Update(transitions.claim(token), id=id)])
        except asyncio.CancelledError:
            # Handed in, not awaited: it stands in line behind the claim that it undoes.
            _ = binding.apply([Update(transitions.release(token), id=id)])
            raise
        return outcome.applied

    async def remove(self, id: str) -> None:
        """Remove the entry, whatever it is doing; nothing happens when it is unknown.

        After a ``claim`` it says that the send is done: an item that waits to replace the one sent takes its place.
        """
        await self._change(id, transitions.remove)

    async def record_failure(self, id: str, max_attempts: int) -> None:
        """Count one more failed attempt: ``failed`` when that makes ``max_attempts``, else ``queued``.

        Raises:
            ValueError, TypeError: ``max_attempts`` is no whole number of at least 1.
        """
        check_max_attempts(max_attempts)
        await self._change(id, transitions.record_failure(max_attempts))

    async def mark_failed(self, id: str) -> None:
        """Park the entry now; counts as an attempt."""
        await self._change(id, transitions.mark_failed)

    async def retry(self, id: str, *, reset_attempts: bool = False) -> None:
        """Put the entry back to ``queued``; attempts are kept unless reset. Does nothing while a drain holds it."""
        await self._change(id, transitions.retry(reset_attempts=reset_attempts))

    async def cancel(self, id: str) -> bool:
        """Take back what was enqueued last under this id, unless it is being sent; True when that is so.

        An entry that is being sent stays; an item that waits to replace it is dropped.
        """
        check_id_type(id)
        (outcome,) = await (await self._bound()).durably([Update(transitions.cancel, id=id)])
        return outcome.applied

    async def edit(self, id: str, item: T) -> bool:
        """Give a parked entry another item and queue it again, its attempts forgotten; False where none is parked.

        Raises:
            As ``enqueue``.
        """
        check_id_type(id)
        binding = await self._bound()
        step = transitions.correct(self._admission.encode(binding.key, id, item))
        return (await self._admission.change(binding, id, step)).applied

    async def explain(self, id: str) -> Explanation:
        """Why this entry is not sent; ``print`` it.

        Raises:
            NotHydratedError: no identity is bound.
            CacheError: the store cannot be read.
        """
        check_id_type(id)
        return await knowing.explain(await self._bound(), id, self._clock())

    async def history(self, id: str) -> History:
        """What is known to have happened to this id, the oldest first: from its entry and from the ledger.

        Raises:
            NotHydratedError: no identity is bound.
            CacheError: the store cannot be read.
        """
        check_id_type(id)
        return await knowing.history(await self._bound(), id)

    async def wait_for(self, id: str, *, timeout: float | None = None) -> Fate:
        """Returns what became of an entry: ``sent``, ``failed`` (parked), or ``removed`` without a known delivery.

        Where a newer item waits to replace the one that is being sent, the newer one is waited for. What another
        process delivered is known where there is a ledger, and noticed within seconds; elsewhere it was ``removed``.

        Raises:
            TimeoutError: nothing became of it in so many seconds.
            NotHydratedError: no identity is bound, or it was left meanwhile.
            CacheError: the store cannot be read.
        """
        check_id_type(id)
        return await knowing.wait_for(await self._bound(), id, timeout)

    @property
    def ledger(self) -> Ledger:
        """The deliveries that are remembered."""
        return Ledger(self._bound, self._clock)

    async def refresh(self) -> None:
        """Learn what other processes changed, and take back claims of processes that are gone.

        Raises:
            NotHydratedError: no identity is bound.
            CacheError: the store cannot be read.
        """
        await (await self._bound()).refresh()

    async def was_sent(self, id: str) -> bool:
        """Whether the ledger knows this id as delivered; False where no ledger is kept."""
        check_id(id)
        binding = await self._bound()
        return await self._store.sent(binding.key, id) is not None

    async def bound_or_none(self) -> Binding | None:
        """What a drain works on: the identity's own object, once a hydrate that is under way is done.

        None when no identity is bound, or when the one that the call was made for was left while it waited.
        """
        era = self._era
        while self._hydrating is not None and era == self._era:
            await self._hydrating.wait()
        if self._binding is None or era != self._era:
            return None
        self._binding.attach()
        return self._binding

    def encode(self, id: str, item: T) -> str:
        """The JSON text that an entry with this id and item is stored with; nothing is enqueued.

        Raises:
            ItemError: the item is unfit; ``.path`` says where.
        """
        return self._admission.encode(self._binding.key if self._binding else None, id, item)

    def now_ms(self) -> int:
        """The queue's clock: milliseconds since the Unix epoch."""
        return self._clock()

    async def _bound(self) -> Binding:
        binding = await self.bound_or_none()
        if binding is None:
            raise NotHydratedError(
                "the queue is bound to no identity (any more): await hydrate(key), or open it anew with open_outbox"
            )
        return binding

    def _turn_to(self, key: str | None) -> None:
        """A hydrate, clear or close begins: earlier ones that still read are superseded.

        Calls that wait belong to the identity for which they were made: another one begins a new era.
        """
        self._generation += 1
        if key is None or key != self._target:
            self._era += 1
        self._target = key

    def _mirror(self) -> list[StoredEntry]:
        return [entry for entry in self._binding.state if entry.id is not None] if self._binding else []

    def _unbind(self) -> None:
        binding, self._binding = self._binding, None
        if binding is not None:
            binding.detach()

    def _hydrated(self) -> None:
        if self._hydrating is not None:
            self._hydrating.set()
            self._hydrating = None

    def _entry(self, id: str, item: T, ts: int | None) -> StoredEntry:
        return StoredEntry(0, id, self.encode(id, item), QUEUED, 0, self._clock() if ts is None else ts)

    async def _put(self, binding: Binding, entry: StoredEntry) -> bool:
        """Make this the item of its id: in the place of what is live, or as a new entry."""
        id = entry.id or ""
        step = transitions.supersede(entry.item, int(entry.enqueued_at))
        while True:  # an entry can come and go between two looks
            if binding.state.first(id) is not None:
                outcome = await self._admission.change(binding, id, step)
                if outcome.entry is not None:
                    return outcome.applied
            (outcome,) = await self._admission.insert(binding, [entry])
            if outcome.why != "live":
                return outcome.applied

    async def _change(self, id: str, step: Step) -> None:
        check_id_type(id)
        await (await self._bound()).durably([Update(step, id=id, rewrite=True)])


def _touch(entry: StoredEntry) -> None:
    """Changes nothing: asks the store whether an entry that the mirror shows is still there, and durable."""


def _refused(id: str, why: str, on_duplicate: OnDuplicate) -> Literal[False]:
    if on_duplicate == "raise":
        what = "was sent before, with this very item" if why == "sent" else "is live: it waits to be sent, or is parked"
        raise DuplicateIdError(f"the id {id!r} {what}", id)
    return False
