"""What a person asks: how is the queue, why is this entry not sent, what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from starfish_outbox.backoff import Backoff
from starfish_outbox.binding import Binding, Watch
from starfish_outbox.caches.base import EntryStore, Sent
from starfish_outbox.checks import check_id_type
from starfish_outbox.drawing import Drawn, draw
from starfish_outbox.entry import BUSY_HOLDS, FAILED, QUEUED, SENDING, LastError, StoredEntry
from starfish_outbox.errors import NotHydratedError
from starfish_outbox.jsontext import decode
from starfish_outbox.showing import printable
from starfish_outbox.state import Counts, State
from starfish_outbox.transitions import behind_the_rest

Situation: TypeAlias = Literal["unknown", "sent", "queued", "waiting", "sending", "failed", "foreign"]
Fate: TypeAlias = Literal["sent", "failed", "removed"]
Event: TypeAlias = Literal["enqueued", "claimed", "maybe sent", "failed", "not before", "sent"]

_LOOK_EVERY: Final = 5.0
"""Seconds after which somebody who waits looks at what other processes did."""


@dataclass(frozen=True)
class QueueStatus(Drawn):
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
        last_error: the latest failure that a live entry carries, or None.
        last_error_id: which entry that is, or None.
    """

    key: str | None
    counts: Counts
    oldest_ms: float | None
    bytes: int
    where: str
    durability: str
    set_aside: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()
    last_error: LastError | None = None
    last_error_id: str | None = None

    def __repr__(self) -> str:
        """In one line: whose queue, how many, where, and how much needs a person."""
        odd = (
            f"{len(these)} {name}" for name, these in (("set aside", self.set_aside), ("stuck", self.stuck)) if these
        )
        parts = [repr(self.key), repr(self.counts), printable(self.where), *odd]
        return f"QueueStatus({', '.join(parts)})"


class Explanation(NamedTuple):
    """Why an entry is not sent; ``print`` it.

    Attributes:
        id: which entry.
        situation: ``queued`` (the next pass takes it), ``waiting`` (not due yet), ``sending``, ``failed`` (parked),
            ``sent`` (delivered, says the ledger), ``foreign`` (another program's status), ``unknown``.
        reason: in words, with what to do.
    """

    id: str
    situation: Situation
    reason: str

    def __str__(self) -> str:
        """One sentence or two, in one line."""
        return printable(f"{self.id!r} {self.reason}")

    def _repr_html_(self) -> str:
        return draw(self)


class Happened(NamedTuple):
    """One thing that happened to an entry.

    Attributes:
        at_ms: when, in milliseconds since the Unix epoch.
        event: ``enqueued``, ``claimed`` (to be sent), ``maybe sent``, ``failed`` (a try), ``not before`` (still to
            come), or ``sent``.
        detail: in words; of ``sent`` what the remote answered, where receipts are kept.
    """

    at_ms: float
    event: Event
    detail: Any = ""

    def __str__(self) -> str:
        """When and what, in one line."""
        detail = f": {self.detail}" if self.detail not in ("", None) else ""
        return printable(f"{moment(self.at_ms)} {self.event}{detail}")


class History(Drawn, list[Happened]):
    """What happened to one id, the oldest first: a list; ``print`` it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<History: {'; '.join(map(str, self)) or 'nothing is known'}>"

    def __str__(self) -> str:
        """One event a line."""
        return "\n".join(map(str, self)) or "nothing is known"


@dataclass(frozen=True)
class Ledger:
    """The deliveries that a queue remembers, where its store keeps a ledger (SQLite, ``ledger=True``)."""

    _bound: Callable[[], Awaitable[Binding]]
    _now_ms: Callable[[], int]

    async def get(self, id: str) -> Sent | None:
        """What is known of the last delivery of this id.

        Raises:
            NotHydratedError: no identity is bound.
        """
        check_id_type(id)
        binding = await self._bound()
        return await binding.store.sent(binding.key, id)

    async def prune(self, *, days: float = 90.0) -> int:
        """Forget deliveries that are at least so many days old; how many. A forgotten id can be added and sent again.

        Raises:
            ValueError: ``days`` is no finite number from 0 on.
            NotHydratedError: no identity is bound.
        """
        if isinstance(days, bool) or not isinstance(days, int | float) or not 0 <= days < inf:
            raise ValueError(f"days is a number from 0 on, not {days!r}")
        binding = await self._bound()
        oldest = -(1 << 53)  # before any instant there is, and a number that every store can hold
        return await binding.store.forget_sent(binding.key, max(oldest, self._now_ms() - round(days * 86_400_000)))


def status(binding: Binding | None, store: EntryStore) -> QueueStatus:
    """Counts, age, size, where it lies, how durable it is, and what needs a person."""
    if binding is None:
        return QueueStatus(None, Counts(), None, 0, store.where, store.durability)
    state = binding.state
    oldest = next(iter(state), None)
    failure = _last_failure(state)
    return QueueStatus(
        binding.key,
        state.counts(),
        oldest.enqueued_at if oldest else None,
        state.bytes,
        store.where,
        store.durability,
        tuple(store.notes(binding.key)),
        tuple(_stuck(binding)),
        failure.last_error if failure else None,
        failure.id if failure else None,
    )


async def explain(binding: Binding, id: str, now_ms: int) -> Explanation:
    """Why it is not sent, as its store knows it now."""
    await binding.refresh()
    entry = binding.state.first(id)
    sent = await binding.store.sent(binding.key, id) if entry is None else None
    return explained(id, entry, sent, binding.store.owner, now_ms, held(binding.state, now_ms))


def held(entries: Iterable[StoredEntry], now_ms: int) -> float:
    """Seconds for which a server asked all to wait; 0: none did."""
    return max((_wait(entry, now_ms) for entry in entries if _holds_all(entry)), default=0.0)


def explained(
    id: str, entry: StoredEntry | None, sent: Sent | None, owner: str, now_ms: int, held: float = 0.0
) -> Explanation:
    """Why it is not sent, from what is known of it; ``held``: seconds for which a server asked all to wait."""
    if entry is None:
        if sent is not None:
            return Explanation(id, "sent", f"was delivered at {moment(sent.at_ms)}.")
        return Explanation(id, "unknown", "is not in this queue: it was never enqueued here, or was sent or removed.")
    error = f" The last try failed with {entry.last_error.type}: {entry.last_error.message}" if entry.last_error else ""
    tries = f"{entry.attempts} failed {'attempt' if entry.attempts == 1 else 'attempts'}"
    maybe = "" if entry.maybe_sent_ms is None else " It may have arrived already."
    if entry.status == FAILED:
        reason = f"is parked after {tries}: retry() sends it again, edit() corrects it.{maybe}{error}"
        return Explanation(id, "failed", reason)
    if entry.status == SENDING:
        newer = "" if entry.replacement is None else " A newer item waits for the end of that and then takes its place."
        return Explanation(id, "sending", f"is claimed: {_claimed_by(entry, owner)}.{maybe}{newer}")
    if entry.status != QUEUED:
        reason = f"has a status of another program, {entry.status!r}: no drain sends it; retry() queues it."
        return Explanation(id, "foreign", reason)
    wait = _wait(entry, now_ms)
    if wait and not _holds_all(entry):
        reason = f"is not due for another {wait:,.1f} s to drains with back-off, after {tries}.{maybe}{error}"
        return Explanation(id, "waiting", reason)
    if wait or held:
        seconds = max(wait, held)
        reason = f"is queued, but the server asked all to wait: drains with back-off do, for another {seconds:,.1f} s."
        return Explanation(id, "waiting", f"{reason}{maybe}")
    last = ", behind the others: it was sent before and no answer came" if behind_the_rest(entry) else ""
    return Explanation(id, "queued", f"is queued: the next pass takes it{last}.{maybe}{error}")


async def history(binding: Binding, id: str) -> History:
    """What is known to have happened, the oldest first."""
    await binding.refresh()
    sent = await binding.store.sent(binding.key, id)
    return happened(binding.state.first(id), sent, binding.store.owner)


def happened(entry: StoredEntry | None, sent: Sent | None, owner: str) -> History:
    """What happened, from what is known of an entry and of an earlier delivery; the oldest first."""
    events = History()
    if sent is not None:
        events.append(Happened(sent.at_ms, "sent", None if sent.receipt is None else decode(sent.receipt)))
    if entry is not None:
        events.append(Happened(entry.enqueued_at, "enqueued"))
        if entry.maybe_sent_ms is not None:
            events.append(Happened(entry.maybe_sent_ms, "maybe sent", "no answer came back"))
        if entry.last_error is not None:
            tries = f" (attempt {entry.attempts})" if entry.attempts else ""
            error = entry.last_error
            events.append(Happened(error.at_ms, "failed", f"{error.type}: {error.message}{tries}"))
        if entry.next_attempt_ms is not None:
            events.append(Happened(entry.next_attempt_ms, "not before"))
        if entry.claim is not None:
            events.append(Happened(entry.claim.at_ms, "claimed", _claimed_by(entry, owner)))
        if entry.replacement is not None:
            events.append(Happened(entry.replacement.enqueued_at, "enqueued", "a newer item, to take its place"))
    events.sort(key=lambda event: event.at_ms)
    return events


async def wait_for(binding: Binding, id: str, timeout: float | None) -> Fate:
    """What became of an entry.

    Raises:
        TimeoutError: nothing did in so many seconds.
        NotHydratedError: the queue moved on.
    """
    clock = asyncio.timeout(timeout)
    try:
        async with clock:
            with binding.watching(id) as watch:  # from the first moment, so that nothing is missed in between
                return await _fate(binding, id, watch)
    except TimeoutError as error:
        if not clock.expired():
            raise
        raise TimeoutError(f"{id!r} was neither sent, parked nor removed within {timeout:g} s") from error


async def _fate(binding: Binding, id: str, watch: Watch) -> Fate:
    if binding.state.first(id) is None and watch.ended is None:
        await binding.refresh()  # another process may have enqueued it
    known = await binding.store.sent(binding.key, id)
    while watch.ended is None and (entry := binding.state.first(id)) is not None:
        if entry.status == FAILED:
            return "failed"
        await watch.wait(_LOOK_EVERY)
        if watch.ended is None:
            await binding.refresh_after(_LOOK_EVERY)
    if watch.ended == "left":
        raise NotHydratedError(f"{binding.key!r} was left while somebody waited for {id!r}: hydrate it and ask anew")
    if watch.ended is not None and watch.ended != "gone":
        return watch.ended
    sent = await binding.store.sent(binding.key, id)
    if sent is None:
        return "removed"
    if watch.last is None:  # it was not live when the question was asked: the ledger knows whether it ever was
        return "sent"
    newest = watch.last.item if watch.last.replacement is None else watch.last.replacement.item
    return "sent" if sent != known or sent.is_of(newest) else "removed"


def moment(at_ms: float) -> str:
    """An instant, to the second, in UTC."""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return f"{at_ms} ms"


def _wait(entry: StoredEntry, now_ms: int) -> float:
    """Seconds for which drains with back-off leave it alone."""
    since_ms = entry.last_error.at_ms if entry.last_error is not None else None
    return Backoff().waits(entry.next_attempt_ms, now_ms, since_ms)


def _holds_all(entry: StoredEntry) -> bool:
    """Whether a server's word to all is kept with this entry."""
    return entry.status == QUEUED and entry.last_error is not None and entry.last_error.type == BUSY_HOLDS


def _claimed_by(entry: StoredEntry, owner: str) -> str:
    claim = entry.claim
    whose = "this process" if claim is not None and claim.owner == owner else "another process"
    by_hand = claim is not None and claim.kind == "bare"
    return f"{whose} holds it by claim(), not by a drain" if by_hand else f"{whose} is sending it"


def _last_failure(state: State) -> StoredEntry | None:
    failed = (entry for entry in state if entry.last_error is not None and entry.id is not None)
    return max(failed, key=lambda entry: entry.last_error.at_ms if entry.last_error else 0, default=None)


def _stuck(binding: Binding) -> Iterator[str]:
    for entry in binding.state:
        if entry.id is None:
            yield "an entry whose id is no string: never drained; another program wrote it"
        elif entry.status == SENDING and entry.claim is not None and entry.claim.kind == "bare":
            whose = "this process" if entry.claim.owner == binding.store.owner else "another process"
            yield f"{entry.id!r} is claimed by {whose} (claim(), not a drain)"
        elif entry.status not in (QUEUED, SENDING, FAILED):
            yield f"{entry.id!r} has the unknown status {entry.status!r}: never drained; retry() puts it back"
