"""``OutboxQueue``: the public face: arguments checked, items encoded, listeners told. Changes go through a binding."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar

from starfish_outbox import codec, transitions
from starfish_outbox.binding import Binding
from starfish_outbox.caches import LocalCache, store_of
from starfish_outbox.caches.base import Insert, Op, Outcome, Update, wall_clock_ms
from starfish_outbox.checks import check_id, check_id_type, check_key, check_limit, check_max_attempts, check_ts
from starfish_outbox.entry import FAILED, QUEUED, SENDING, OutboxEntry, StoredEntry
from starfish_outbox.errors import ItemError, NotHydratedError, OutboxFullError
from starfish_outbox.jsontext import encode_item
from starfish_outbox.listeners import Listeners
from starfish_outbox.state import Counts, size_of
from starfish_outbox.transitions import Step

T = TypeVar("T")


@dataclass(frozen=True)
class QueueStatus:
    """What a person wants to know of a queue.

    Attributes:
        key: the cache key, or None when the queue is bound to no identity.
        counts: entries by status.
        oldest_ms: when the oldest live entry was enqueued (milliseconds since the Unix epoch), or None.
        bytes: UTF-8 size of all items.
        where: where the queue lies.
        durability: what an acknowledged change survives.
        set_aside: what could not be read, or was read differently from what was written.
        stuck: entries that no drain will send, and why.
    """

    key: str | None
    counts: Counts
    oldest_ms: float | None
    bytes: int
    where: str
    durability: str
    set_aside: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()


class OutboxQueue(Generic[T]):
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
        max_bytes: UTF-8 size of all live items; more raise ``OutboxFullError``. (Both limits count what other
            processes added as of the last refresh.)
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
        limits = {"max_item_bytes": max_item_bytes, "max_depth": max_depth, "max_entries": max_entries}
        for name, value in {**limits, "max_bytes": max_bytes}.items():
            check_limit(name, value)
        self._store = store_of(cache)
        self._clock = clock or wall_clock_ms
        self._default = default
        self._big_ints = big_ints
        self._max_item_bytes = max_item_bytes
        self._max_depth = max_depth
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._write_timeout = write_timeout
        self._binding: Binding | None = None
        self._hydrating: asyncio.Event | None = None
        self._generation = 0
        self._target: str | None = None
        self._era = 0
        self._reserved: dict[str, int] = {}  # on its way into the queue and not yet counted: id -> bytes
        self._listeners = Listeners()

    def __repr__(self) -> str:
        key = self._binding.key if self._binding else None
        return f"OutboxQueue(key={key!r}, {self.counts()}, {self._store.where})"

    async def __aenter__(self) -> OutboxQueue[T]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def get(self) -> list[OutboxEntry[T]]:
        """A new list with a copy of every entry, oldest first; empty when unbound."""
        return [codec.public(entry) for entry in self._mirror()]

    def pending(self, predicate: Callable[[T], bool] | None = None) -> list[OutboxEntry[T]]:
        """As ``get``, only the entries whose item satisfies the predicate."""
        return [entry for entry in self.get() if predicate is None or predicate(entry.item)]

    def counts(self) -> Counts:
        """How many entries have which status; the same cost at any length."""
        return self._binding.state.counts() if self._binding else Counts()

    def status(self) -> QueueStatus:
        """Counts, age, size, where it lies, how durable it is, and what needs a person."""
        binding = self._binding
        if binding is None:
            return QueueStatus(None, Counts(), None, 0, self._store.where, self._store.durability)
        oldest = next(iter(binding.state), None)
        return QueueStatus(
            binding.key,
            binding.state.counts(),
            oldest.enqueued_at if oldest else None,
            binding.state.bytes,
            self._store.where,
            self._store.durability,
            tuple(self._store.notes(binding.key)),
            tuple(_stuck(binding.state, self._store.owner)),
        )

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

    async def enqueue(self, id: str, item: T, ts: int | None = None) -> bool:
        """Add one entry; True when it was added, False when its id is live already or, with a ledger, was sent.

        Either way the entry would survive a power cut when this returns.

        Args:
            id: unique among live entries, and the idempotency key on the wire. A live id's item is not looked at.
            item: JSON that Python and JavaScript read back equal.
            ts: milliseconds since the Unix epoch, the present by default.

        Raises:
            ValueError, TypeError: the id or ts is unfit.
            ItemError: the item is unfit; ``.path`` says where.
            OutboxFullError: a limit is reached.
            NotHydratedError: no identity is bound.
            CacheWriteError: it could not be stored; trying the same id again is safe.
        """
        check_id(id)
        check_ts(ts)
        binding = await self._bound()
        if binding.state.first(id) is not None:
            (touched,) = await _durable(binding, [Update(_touch, id=id)])
            if touched.entry is not None:
                return False
        text = self._encode(id, item)
        (outcome,) = await self._insert(binding, [self._entry(id, text, ts)])
        return outcome.applied

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
            entries.append(self._entry(id, self._encode(id, item), None))
        if not entries:
            return []
        return [outcome.applied for outcome in await self._insert(binding, entries)]

    async def claim(self, id: str) -> bool:
        """Claim the entry for this caller; False when it is unknown or being sent. A failed entry can be claimed.

        The claim lasts until ``remove``, ``record_failure``, ``mark_failed`` or ``retry``, the queue's next ``hydrate``
        or its end.
        """
        check_id_type(id)
        binding = await self._bound()
        token = binding.bare.token()
        try:
            (outcome,) = await _durable(binding, [Update(transitions.claim(token), id=id)])
        except asyncio.CancelledError:
            # Handed in, not awaited: it stands in line behind the claim that it undoes.
            _ = binding.apply([Update(transitions.release(token), id=id)])
            raise
        return outcome.applied

    async def remove(self, id: str) -> None:
        """Remove the entry, whatever it is doing; nothing happens when it is unknown."""
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
        return await self._store.was_sent(binding.key, id)

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

    def _encode(self, id: str, item: T) -> str:
        try:
            return encode_item(
                item,
                big_ints=self._big_ints,
                default=self._default,
                max_depth=self._max_depth,
                max_bytes=self._max_item_bytes,
            )
        except ItemError as error:
            key = self._binding.key if self._binding else None
            raise ItemError(f"{key!r}, id {id!r}: {error}", error.path) from error.__cause__

    def _entry(self, id: str, text: str, ts: int | None) -> StoredEntry:
        return StoredEntry(0, id, text, QUEUED, 0, self._clock() if ts is None else ts)

    async def _insert(self, binding: Binding, entries: list[StoredEntry]) -> list[Outcome]:
        ops = [Insert(entry) for entry in entries]
        if self._max_entries is None and self._max_bytes is None:
            return await _durable(binding, ops)
        fresh = await self._reserve(binding, entries)
        inserted = binding.apply(ops)
        # Not when the caller goes: what is cancelled can still land, and needs its room.
        inserted.add_done_callback(lambda _: [self._reserved.pop(id, None) for id in fresh])
        return await asyncio.shield(inserted)

    async def _reserve(self, binding: Binding, entries: list[StoredEntry]) -> list[str]:
        """Keep room for the entries while they are on their way; which ids need some.

        Raises:
            OutboxFullError: a limit leaves none.
        """
        sizes = {entry.id: size_of(entry.item) for entry in entries if entry.id is not None}
        delivered: set[str] = set()
        while True:
            reserved = self._reserved
            fresh = [id for id in sizes if id not in reserved and id not in delivered and not binding.state.first(id)]
            full = self._is_full(binding, len(fresh), sum(sizes[id] for id in fresh)) if fresh else ""
            if not full:
                reserved.update({id: sizes[id] for id in fresh})
                return fresh
            known = {id for id in fresh if await self._store.was_sent(binding.key, id)}
            if not known:
                raise OutboxFullError(f"{binding.key!r}: {fresh[0]!r} was not stored; {full}")
            delivered |= known  # what the ledger knows is not added again

    def _is_full(self, binding: Binding, entries: int, size: int) -> str:
        """Why there is no room for so many entries and bytes; empty when there is."""
        total = len(binding.state) + len(self._reserved)
        if self._max_entries is not None and total + entries > self._max_entries:
            return f"there are {total} entries of at most {self._max_entries}"
        if self._max_bytes is not None:
            used = binding.state.bytes + sum(self._reserved.values())
            if used + size > self._max_bytes:
                return f"it needs {size} bytes, and {used} of at most {self._max_bytes} are in use"
        return ""

    async def _change(self, id: str, step: Step) -> None:
        check_id_type(id)
        await _durable(await self._bound(), [Update(step, id=id, rewrite=True)])


async def _durable(binding: Binding, ops: Sequence[Op]) -> list[Outcome]:
    """What became of the operations, once durable; a caller that is cancelled does not take them back."""
    return await asyncio.shield(binding.apply(ops))


def _touch(entry: StoredEntry) -> None:
    """Changes nothing: asks the store whether an entry that the mirror shows is still there, and durable."""


def _stuck(entries: Iterable[StoredEntry], owner: str) -> Iterator[str]:
    for entry in entries:
        if entry.id is None:
            yield "an entry whose id is no string: never drained; another program wrote it"
        elif entry.status == SENDING and entry.claim is not None and entry.claim.kind == "bare":
            whose = "this process" if entry.claim.owner == owner else "another process"
            yield f"{entry.id!r} is claimed by {whose} (claim(), not a drain)"
        elif entry.status not in (QUEUED, SENDING, FAILED):
            yield f"{entry.id!r} has the unknown status {entry.status!r}: never drained; retry() puts it back"
