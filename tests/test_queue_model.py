"""The queue's calls, one after the other, against a model that is a list of dicts for each identity.

The model is written from the promises, not from the code: a call's answer, what `get` and `counts` show, and how often
listeners are told must agree after every step, also when the program is started again in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias
from unittest import TestCase

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from starfish_outbox import (
    ItemError,
    LocalCache,
    MemoryCache,
    NotHydratedError,
    OfflineError,
    OutboxEntry,
    OutboxQueue,
    RejectedError,
    SQLiteCache,
    UnackedError,
    drain_outbox,
)

Verdict: TypeAlias = Literal["sent", "offline", "rejected", "attempt", "unacked"]

KEYS = st.sampled_from(["outbox.ana", "outbox.ben"])
NAMES = ("a", "b", "c", "ü\x00")
IDS = st.sampled_from(NAMES)
TIMES = st.none() | st.integers(0, 2**53 - 1)
ITEMS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc\u2028é", max_size=3), inner, max_size=3),
    max_leaves=6,
)
UNFIT = st.sampled_from([math.nan, -math.inf, 2**53, b"bytes", {1: 2}, "\ud800", [object()]])
VERDICTS: st.SearchStrategy[Verdict] = st.sampled_from(["sent", "sent", "offline", "rejected", "attempt", "unacked"])

_RAISED: dict[Verdict, Exception] = {
    "offline": OfflineError("no network"),
    "rejected": RejectedError("never"),
    "attempt": ValueError("a bug"),
    "unacked": UnackedError("no answer"),
}


@dataclass(eq=False)
class Modelled:
    """One entry as it must look.

    Attributes:
        claimed_ms: when a bare claim that nothing ended yet was made.
        orphaned: the program that made it has ended.
    """

    id: str
    item: Any
    enqueued_at: int
    status: str = "queued"
    attempts: int = 0
    maybe_sent_ms: int | None = None
    last_error: tuple[str, str, int] | None = None
    claimed_ms: int | None = None
    orphaned: bool = False

    def shown(self) -> tuple[Any, ...]:
        error = self.last_error
        return (self.id, self.item, self.status, self.attempts, self.enqueued_at, self.maybe_sent_ms, error)

    def fail(self, max_attempts: int) -> None:
        self.attempts += 1
        self.back("failed" if self.attempts >= max_attempts else "queued")

    def back(self, status: str = "queued") -> None:
        self.status, self.claimed_ms, self.orphaned = status, None, False


@dataclass
class Expected:
    """What a pass must answer."""

    sent: int = 0
    failed: int = 0
    stopped: str = "finished"
    asked: list[str] = field(default_factory=list)


class QueueModel(RuleBasedStateMachine):
    """On a ``MemoryCache`` through the adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.closing = contextlib.ExitStack()
        self.run = self.closing.enter_context(asyncio.Runner()).run
        self.now_ms = 1_700_000_000_000
        self.entries: dict[str, list[Modelled]] = {}
        self.key: str | None = None
        self.disk: dict[str, list[Modelled]] = {}
        self.told = self.must_be_told = 0
        self.cache = self.make_cache()
        self.queue = self.make_queue()

    def make_cache(self) -> LocalCache:
        return MemoryCache()

    def same_place(self) -> LocalCache:
        """A cache on the same place, as a program that is started again makes it."""
        assert isinstance(self.cache, MemoryCache)
        fresh = MemoryCache()
        fresh._texts = dict(self.cache._texts)
        return fresh

    def open(self, key: str) -> None:
        """The text is read. It does not say whose a claim was, so what was claimed may have been sent."""
        self.entries[key] = [replace(entry) for entry in self.disk.get(key, [])]
        for entry in self.entries[key]:
            if entry.status == "sending":
                entry.maybe_sent_ms = entry.maybe_sent_ms or self.now_ms
                entry.back()

    def orphan(self) -> None:
        """The program has ended."""

    def teardown(self) -> None:
        self.run(self.queue.close())
        self.close_cache()
        self.closing.close()

    def close_cache(self) -> None:
        """A ``MemoryCache`` needs nothing."""

    def make_queue(self) -> OutboxQueue[Any]:
        queue = OutboxQueue[Any](self.cache, clock=lambda: self.now_ms)
        queue.subscribe(self._hear)
        return queue

    def _hear(self) -> None:
        self.told += 1

    def _written(self) -> None:
        """A call changed something, or wrote as if it had: the whole array is stored, and listeners are told.

        A hydrate writes nothing: what it takes back is stored with the next change.
        """
        if self.key is not None:
            self.disk[self.key] = [replace(entry) for entry in self.mine]
        self.must_be_told += 1

    @property
    def mine(self) -> list[Modelled]:
        return self.entries.setdefault(self.key, []) if self.key is not None else []

    def first(self, id: str) -> Modelled | None:
        return next((entry for entry in self.mine if entry.id == id), None)

    @initialize(key=KEYS)
    def start(self, key: str) -> None:
        """Signed in, with an entry of each id: calls on an empty queue are soon seen through."""
        self.hydrate(key)
        self.enqueue_many([(id, id) for id in NAMES])

    @rule(key=KEYS)
    def hydrate(self, key: str) -> None:
        again, self.key = key == self.key, key
        self.run(self.queue.hydrate(key))
        if not again:
            self.open(key)
        for entry in self.mine:
            if entry.claimed_ms is not None:
                entry.back()
        self.must_be_told += 1

    @rule()
    def clear(self) -> None:
        self.queue.clear()
        self.key = None
        self.must_be_told += 1

    @precondition(lambda self: self.key is None)
    @rule(id=IDS)
    def is_bound_to_nobody(self, id: str) -> None:
        for call in (self.queue.enqueue(id, 1), self.queue.claim(id), self.queue.remove(id), self.queue.retry(id)):
            with pytest.raises(NotHydratedError):
                self.run(call)
        asked: list[OutboxEntry[Any]] = []
        result = self.run(drain_outbox(self.queue, asked.append))
        assert not asked
        assert (result.sent, result.failed) == (0, 0)

    @precondition(lambda self: self.key is not None)
    @rule(id=IDS, item=ITEMS, ts=TIMES)
    def enqueue(self, id: str, item: Any, ts: int | None) -> None:
        added = self.run(self.queue.enqueue(id, item, ts))
        assert added == (self.first(id) is None)
        if added:
            self.mine.append(Modelled(id, item, self.now_ms if ts is None else ts))
            self._written()

    @precondition(lambda self: self.key is not None)
    @rule(id=IDS, item=UNFIT)
    def enqueue_what_is_no_json(self, id: str, item: Any) -> None:
        if self.first(id) is not None:  # dedup comes first, the item is not looked at
            assert not self.run(self.queue.enqueue(id, item))
            return
        with pytest.raises(ItemError):
            self.run(self.queue.enqueue(id, item))
        with pytest.raises(ItemError):  # all or none
            self.run(self.queue.enqueue_many([("fit", 1), (id, item)]))

    @precondition(lambda self: self.key is not None)
    @rule(pairs=st.lists(st.tuples(IDS, ITEMS), max_size=6))
    def enqueue_many(self, pairs: list[tuple[str, Any]]) -> None:
        expected = []
        for id, item in pairs:
            expected.append(self.first(id) is None)
            if expected[-1]:
                self.mine.append(Modelled(id, item, self.now_ms))
        assert self.run(self.queue.enqueue_many(pairs)) == expected
        if any(expected):
            self._written()

    @precondition(lambda self: self.key is not None)
    @rule(id=IDS)
    def claim(self, id: str) -> None:
        entry = self.first(id)
        claimed = self.run(self.queue.claim(id))
        assert claimed == (entry is not None and entry.status != "sending")
        if claimed and entry is not None:
            entry.status, entry.claimed_ms = "sending", self.now_ms
            self._written()

    @precondition(lambda self: self.key is not None)
    @rule(id=IDS)
    def remove(self, id: str) -> None:
        self.run(self.queue.remove(id))
        entry = self.first(id)
        if entry is not None:
            self.mine.remove(entry)
        self._written()

    @precondition(lambda self: self.key is not None)
    @rule(id=IDS, max_attempts=st.integers(1, 3))
    def record_failure(self, id: str, max_attempts: int) -> None:
        self.run(self.queue.record_failure(id, max_attempts))
        entry = self.first(id)
        if entry is not None:
            entry.fail(max_attempts)
        self._written()

    @precondition(lambda self: self.key is not None)
    @rule(id=IDS)
    def mark_failed(self, id: str) -> None:
        self.run(self.queue.mark_failed(id))
        entry = self.first(id)
        if entry is not None:
            entry.fail(1)
        self._written()

    @precondition(lambda self: self.key is not None)
    @rule(id=IDS, reset=st.booleans())
    def retry(self, id: str, reset: bool) -> None:
        self.run(self.queue.retry(id, reset_attempts=reset))
        entry = self.first(id)
        if entry is not None:
            entry.attempts = 0 if reset else entry.attempts
            entry.back()
        self._written()

    @precondition(lambda self: self.key is not None)
    @rule(verdicts=st.fixed_dictionaries(dict.fromkeys(NAMES, VERDICTS)), max_attempts=st.integers(1, 3))
    def drain(self, verdicts: dict[str, Verdict], max_attempts: int) -> None:
        asked: list[str] = []

        async def send(entry: OutboxEntry[Any]) -> None:
            asked.append(entry.id)
            verdict = verdicts[entry.id]
            if verdict != "sent":
                raise _RAISED[verdict]

        expected = self._drained(verdicts, max_attempts)
        result = self.run(drain_outbox(self.queue, send, max_attempts=max_attempts))
        assert asked == expected.asked
        assert (result.sent, result.failed, result.stopped) == (expected.sent, expected.failed, expected.stopped)
        assert result.left == sum(entry.status == "queued" for entry in self.mine)
        if asked:
            self._written()
        self.must_be_told = self.told  # a pass may tell of several changes at once

    def _drained(self, verdicts: dict[str, Verdict], max_attempts: int) -> Expected:
        """DESIGN section 5 and its rulings: who is asked, in which order, and what becomes of each."""
        result, silent = Expected(), 0
        todo = [entry for entry in self.mine if entry.status == "queued"]
        for entry in sorted(todo, key=lambda entry: entry.maybe_sent_ms is not None and entry.last_error is not None):
            verdict = verdicts[entry.id]
            result.asked += [entry.id] * (2 if verdict == "unacked" else 1)
            if verdict == "offline":
                result.stopped = "offline"
                break
            silent = silent + 1 if verdict == "unacked" else 0
            if verdict == "sent":
                result.sent += 1
                self.mine.remove(entry)
                continue
            error = _RAISED[verdict]
            entry.last_error = (type(error).__name__, str(error), self.now_ms)
            if verdict == "unacked":
                entry.maybe_sent_ms = entry.maybe_sent_ms or self.now_ms
            if verdict != "unacked" or result.sent:
                entry.fail(1 if verdict == "rejected" else max_attempts)
                result.failed += entry.status == "failed"
            if silent == 3:
                break
        if silent and result.stopped == "finished":
            result.stopped = "unacked"
        return result

    @rule(seconds=st.integers(1, 3600))
    def time_passes(self, seconds: int) -> None:
        self.now_ms += seconds * 1000

    @precondition(lambda self: self.key is not None)
    @rule()
    def refresh(self) -> None:
        self.run(self.queue.refresh())

    @precondition(lambda self: self.key is not None)
    @rule()
    def the_program_starts_again(self) -> None:
        assert self.key is not None
        self.run(self.queue.close())
        self.cache = self.same_place()
        self.queue = self.make_queue()
        self.run(self.queue.hydrate(self.key))
        self.orphan()
        self.open(self.key)
        self.must_be_told += 1

    @invariant()
    def shows_what_the_model_holds(self) -> None:
        shown = [
            (e.id, e.item, e.status, e.attempts, e.enqueued_at, e.maybe_sent_ms, e.last_error) for e in self.queue.get()
        ]
        assert shown == [entry.shown() for entry in self.mine]
        counts = Counter(entry.status for entry in self.mine)
        assert self.queue.counts() == (counts["queued"], counts["sending"], counts["failed"], 0)
        assert [entry.id for entry in self.queue.pending(bool)] == [entry.id for entry in self.mine if entry.item]
        assert self.told == self.must_be_told


class SQLiteModel(QueueModel):
    """The same on a SQLite file, where a claim is stored with its owner and its time."""

    def make_cache(self) -> LocalCache:
        self.folder = Path(self.closing.enter_context(tempfile.TemporaryDirectory()))
        return SQLiteCache(self.folder / "outbox.db")

    def same_place(self) -> LocalCache:
        self.close_cache()
        return SQLiteCache(self.folder / "outbox.db")

    def close_cache(self) -> None:
        assert isinstance(self.cache, SQLiteCache)
        self.cache.close()

    def open(self, key: str) -> None:
        """A claim of this program was given up, so nothing is in doubt; one of a program that ended is."""
        for entry in self.entries.get(key, []):
            if entry.orphaned:
                entry.maybe_sent_ms = entry.maybe_sent_ms or entry.claimed_ms
                entry.back()

    def orphan(self) -> None:
        for entry in [entry for entries in self.entries.values() for entry in entries]:
            entry.orphaned = entry.claimed_ms is not None


class LongQueueModel(QueueModel):
    """The same machine, run for longer."""


class LongSQLiteModel(SQLiteModel):
    """The same machine, run for longer."""


def _case(machine: type[QueueModel], examples: int) -> type[TestCase]:
    case: type[Any] = machine.TestCase
    case.settings = settings(max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=_SLOW)
    return case


_SLOW = [HealthCheck.too_slow]  # a store that waits for a disk draws its examples no faster than the disk allows

TestQueueModel = _case(QueueModel, 150)
TestSQLiteModel = _case(SQLiteModel, 15)
TestQueueModelForLong = pytest.mark.proof(_case(LongQueueModel, 3_000))
TestSQLiteModelForLong = pytest.mark.proof(_case(LongSQLiteModel, 300))
