"""A machine that replaces, cancels and edits while entries are being sent, beside a model of a page (`Live`).

Every item that is offered is another number, so that each can be followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from starfish_outbox import (
    DuplicateIdError,
    FileCache,
    MemoryCache,
    OfflineError,
    OutboxEntry,
    OutboxQueue,
    RejectedError,
    SQLiteCache,
    UnackedError,
    drain_outbox,
)
from tests.conftest import KEY

Verdict: TypeAlias = Literal["sent", "rejected", "attempt", "offline", "unacked", "cancelled"]
Duplicate: TypeAlias = Literal["ignore", "replace", "raise"]

IDS = st.sampled_from(["a", "b"])
VERDICTS: st.SearchStrategy[Verdict] = st.sampled_from(
    ["sent", "sent", "rejected", "attempt", "offline", "unacked", "cancelled"]
)
NEWER = st.sampled_from([1, 0, 2])
MAX_ATTEMPTS = 2
_IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
RAISED: dict[Verdict, Exception] = {
    "rejected": RejectedError("never"),
    "attempt": ValueError("a bug"),
    "offline": OfflineError("no network"),
    "unacked": UnackedError("no answer"),
}


@dataclass
class Live:
    """The model: one entry, and what waits to take its place."""

    item: int
    status: str = "queued"
    attempts: int = 0
    waits: int | None = None
    by_hand: bool = False
    maybe_sent: bool = False
    error: bool = False

    def put(self, item: int) -> None:
        """A newer item: in its place, or behind the send that is under way."""
        if self.status == "sending":
            self.waits = item
        else:
            self.item, self.status, self.attempts, self.error = item, "queued", 0, False

    def end(self, status: str, *, failed: bool = False, error: bool = False, unsure: bool = False) -> None:
        """The send is over, and the entry is queued or parked, or what waited stands in its place."""
        self.status, self.by_hand = status, False
        self.attempts += failed
        self.error |= error
        self.maybe_sent |= unsure
        if self.waits is not None:
            newer, self.waits = self.waits, None
            self.put(newer)


@dataclass(eq=False)
class Flight:
    """A pass that takes one entry; its send ends as it is told."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    end: asyncio.Future[Verdict] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    seen: list[tuple[str, int]] = field(default_factory=list)

    async def send(self, entry: OutboxEntry[Any]) -> None:
        self.seen.append((entry.id, entry.item))
        self.begun.set()
        verdict = await asyncio.shield(self.end)
        if verdict != "sent":
            raise RAISED[verdict]


class Coalescing(RuleBasedStateMachine):
    """On a ``MemoryCache``; the others differ in where the entries lie.

    Attributes:
        met: what happened to newer items that waited, over all runs of the machine.
    """

    met: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.closing = contextlib.ExitStack()
        self.run = self.closing.enter_context(asyncio.Runner()).run
        self.folder = Path(self.closing.enter_context(tempfile.TemporaryDirectory(dir=_IN_MEMORY)))
        self.live: dict[str, Live] = {}
        self.wanted: dict[str, int] = {}
        self.acknowledged: list[tuple[str, int]] = []
        self.flights: dict[str, tuple[Flight, asyncio.Task[Any]]] = {}
        self.numbers = count(1)
        self.places = count(1)
        self.cache: Any = None

    def make_cache(self, folder: Path) -> Any:
        fresh = MemoryCache()
        if self.cache is not None:
            fresh._texts = dict(self.cache._texts)
        return fresh

    def open(self) -> None:
        self.cache = self.make_cache(self.folder)
        self.queue = OutboxQueue[Any](self.cache)
        self.run(self.queue.hydrate(KEY))

    def teardown(self) -> None:
        self.cut_off_all()
        self.run(self.queue.close())
        getattr(self.cache, "close", lambda: None)()
        self.closing.close()

    @initialize()
    def start(self) -> None:
        self.open()
        for id in ("a", "b"):
            self.enqueue(id, "ignore")

    @rule(id=IDS, how=st.sampled_from(["ignore", "replace", "replace", "raise"]))
    def enqueue(self, id: str, how: Duplicate) -> None:
        item, entry = next(self.numbers), self.live.get(id)
        call = self.queue.enqueue(id, item, on_duplicate=how)
        if entry is not None and how == "raise":
            with pytest.raises(DuplicateIdError):
                self.run(call)
            return
        assert self.run(call) == (entry is None or how == "replace")
        if entry is None:
            self.live[id] = Live(item)
        elif how == "replace":
            entry.put(item)
        if entry is None or how == "replace":
            self.wanted[id] = item

    @rule(id=IDS, what_waits=st.booleans())
    def offer_what_is_there(self, id: str, what_waits: bool) -> None:
        """The item that is queued or being sent takes a newer one back; the one that waits changes nothing."""
        if (entry := self.live.get(id)) is None:
            return
        item = entry.waits if what_waits and entry.waits is not None else entry.item
        takes_back = entry.waits is not None and item == entry.item
        changes = entry.status == "failed" or takes_back
        assert self.run(self.queue.enqueue(id, item, on_duplicate="replace")) == changes
        if takes_back:
            entry.waits, self.wanted[id] = None, item
        elif changes:
            entry.put(item)

    @rule(id=IDS)
    def cancel(self, id: str) -> None:
        entry = self.live.get(id)
        taken_back = entry is not None and (entry.status != "sending" or entry.waits is not None)
        assert self.run(self.queue.cancel(id)) == taken_back
        if entry is not None and entry.status == "sending":
            self.met["taken back"] += entry.waits is not None
            entry.waits, self.wanted[id] = None, entry.item
        elif entry is not None:
            del self.live[id], self.wanted[id]

    @rule(id=IDS)
    def edit(self, id: str) -> None:
        item, entry = next(self.numbers), self.live.get(id)
        parked = entry is not None and entry.status == "failed"
        assert self.run(self.queue.edit(id, item)) == parked
        if entry is not None and parked:
            entry.put(item)
            self.wanted[id] = item

    @rule(id=IDS)
    def retry(self, id: str) -> None:
        self.run(self.queue.retry(id))
        entry = self.live.get(id)
        if entry is not None and id not in self.flights:
            entry.end("queued")  # also what is sent by hand

    @rule(id=IDS, newer=NEWER, how=st.sampled_from([None, "remove", "record_failure", "mark_failed"]))
    def send_by_hand(self, id: str, newer: int, how: str | None) -> None:
        """Perhaps newer items come meanwhile, and perhaps it does not end yet."""
        entry = self.live.get(id)
        assert self.run(self.queue.claim(id)) == (entry is not None and entry.status != "sending")
        if entry is None or id in self.flights:
            return
        entry.status, entry.by_hand = "sending", True
        for _ in range(newer):
            self.enqueue(id, "replace")
        if how is None:
            return
        self.met[f"waited for {how}"] += entry.waits is not None
        if how == "remove":
            self.run(self.queue.remove(id))
            self.delivered(id)
        elif how == "mark_failed":
            self.run(self.queue.mark_failed(id))
            entry.end("failed", failed=True)
        else:
            self.run(self.queue.record_failure(id, MAX_ATTEMPTS))
            entry.end("failed" if entry.attempts + 1 >= MAX_ATTEMPTS else "queued", failed=True)

    def delivered(self, id: str, *, answered: bool = False) -> None:
        entry = self.live[id]
        self.acknowledged.append((id, entry.item))
        if entry.waits is None:
            del self.live[id]
        else:
            entry.maybe_sent &= not answered
            entry.end("queued")

    @rule(newer=NEWER, verdict=st.none() | VERDICTS)
    def send(self, newer: int, verdict: Verdict | None) -> None:
        """Perhaps newer items come meanwhile, and perhaps it does not end yet."""
        id = self.a_send_begins()
        if id is not None:
            for _ in range(newer):
                self.enqueue(id, "replace")
            if verdict is not None:
                self.it_ends(id, verdict)

    @precondition(lambda self: self.flights)
    @rule(data=st.data(), verdict=VERDICTS)
    def a_send_ends(self, data: st.DataObject, verdict: Verdict) -> None:
        self.it_ends(data.draw(st.sampled_from(sorted(self.flights))), verdict)

    def a_send_begins(self) -> str | None:
        async def begin() -> tuple[Flight, asyncio.Task[Any]]:
            flight = Flight()
            drain = drain_outbox(self.queue, flight.send, limit=1, max_attempts=MAX_ATTEMPTS)
            task = asyncio.create_task(drain)
            begun = asyncio.create_task(flight.begun.wait())
            await asyncio.wait([task, begun], return_when=asyncio.FIRST_COMPLETED)
            begun.cancel()
            return flight, task

        queued = [(id, entry) for id, entry in self.live.items() if entry.status == "queued"]
        queued.sort(key=lambda one: one[1].maybe_sent and one[1].error)  # asked without an answer: behind the rest
        flight, task = self.run(begin())
        assert flight.seen == [(id, entry.item) for id, entry in queued[:1]]
        assert not set(flight.seen) & set(self.acknowledged)
        if not queued:
            return None
        id, entry = queued[0]
        entry.status = "sending"
        self.flights[id] = flight, task
        return id

    def it_ends(self, id: str, verdict: Verdict) -> None:
        entry = self.live[id]
        item = entry.item
        self.met[f"waited for: {verdict}"] += entry.waits is not None
        flight, task = self.flights.pop(id)
        asked = self.end(flight, task, verdict)
        assert asked == [(id, item)] * (2 if verdict == "unacked" else 1)
        match verdict:
            case "sent":
                self.delivered(id, answered=True)
            case "rejected":
                entry.end("failed", failed=True, error=True)
            case "attempt":
                entry.end("failed" if entry.attempts + 1 >= MAX_ATTEMPTS else "queued", failed=True, error=True)
            case "offline":
                entry.end("queued")
            case "unacked":
                entry.end("queued", error=True, unsure=True)
            case "cancelled":
                entry.end("queued", unsure=True)

    def end(self, flight: Flight, task: asyncio.Task[Any], verdict: Verdict) -> list[tuple[str, int]]:
        """What its send was asked, once it has ended so."""

        async def work() -> None:
            if verdict == "cancelled":
                task.cancel()
            else:
                flight.end.set_result(verdict)
            await asyncio.wait([task])

        self.run(work())
        assert task.cancelled() == (verdict == "cancelled")
        return flight.seen

    def cut_off_all(self) -> None:
        for flight, task in self.flights.values():
            self.end(flight, task, "cancelled")
        self.flights.clear()

    @rule(how=st.sampled_from(["the program ends", "the power fails", "all is sent"]))
    def everything_ends(self, how: str) -> None:
        if how == "the program ends":
            self.the_program_ends_and_starts_again()
        elif how == "the power fails":
            self.the_power_fails()
        else:
            self.in_the_end_the_last_item_of_each_id_arrives()

    def the_program_ends_and_starts_again(self) -> None:
        self.cut_off_all()
        self.run(self.queue.close())
        getattr(self.cache, "close", lambda: None)()
        self.open()
        self.claimers_are_gone()

    def the_power_fails(self) -> None:
        """What lies there at this moment is all that is left."""
        place = self.folder.with_name(f"{self.folder.name}-{next(self.places)}")
        shutil.copytree(self.folder, place)
        self.closing.callback(shutil.rmtree, place)
        before, queue, self.folder = self.cache, self.queue, place
        self.cache = self.make_cache(place)
        self.cut_off_all()
        self.run(queue.close())
        getattr(before, "close", lambda: None)()
        self.queue = OutboxQueue[Any](self.cache)
        self.run(self.queue.hydrate(KEY))
        self.claimers_are_gone()

    def claimers_are_gone(self) -> None:
        for entry in self.live.values():
            if entry.status == "sending":
                self.met["waited for an end of the program"] += entry.waits is not None
                entry.end("queued", unsure=True)

    def in_the_end_the_last_item_of_each_id_arrives(self) -> None:
        for id in list(self.flights):
            flight, task = self.flights.pop(id)
            self.end(flight, task, "sent")
            self.delivered(id, answered=True)
        for id in list(self.live):
            self.retry(id)
        arrived: list[tuple[str, int]] = []
        expected = [(id, entry.item) for id, entry in self.live.items()]
        self.run(drain_outbox(self.queue, lambda entry: arrived.append((entry.id, entry.item))))
        assert sorted(arrived) == sorted(expected)
        assert not set(arrived) & set(self.acknowledged)
        self.acknowledged += arrived
        self.live.clear()
        assert {id: dict(self.acknowledged)[id] for id in self.wanted} == self.wanted

    @invariant()
    def shows_what_the_model_holds(self) -> None:
        shown = [
            (e.id, e.item, e.status, e.attempts, e.replacement and e.replacement.item, e.maybe_sent_ms is not None)
            for e in self.queue.get()
        ]
        assert shown == [(id, e.item, e.status, e.attempts, e.waits, e.maybe_sent) for id, e in self.live.items()]


class CoalescingInFiles(Coalescing):
    def make_cache(self, folder: Path) -> FileCache:
        return FileCache(folder)


class CoalescingInSQLite(Coalescing):
    def make_cache(self, folder: Path) -> SQLiteCache:
        return SQLiteCache(folder / "outbox.db")
