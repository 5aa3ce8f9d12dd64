"""Whatever is asked of a queue, what it stores keeps the format, and is the same on every cache."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings, strategies as st
from jsonschema import Draft202012Validator

from starfish_outbox import (
    AuthNeededError,
    BusyError,
    ConflictError,
    OfflineError,
    OutboxEntry,
    OutboxError,
    OutboxQueue,
    RejectedError,
    UnackedError,
    drain_outbox,
)
from starfish_outbox.schema import schema
from tests.conftest import KEY, ManualClock, Place
from tests.lexical import rules_broken
from tests.stored_texts import array_texts, mutated_texts, values

EXAMPLES = int(os.environ.get("OUTBOX_EXAMPLES", "40"))
often = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
WRITER = Draft202012Validator(schema("writer"))

ids = st.sampled_from(["a", "b", "x", "é", "\U0001f427", "c\0", "__proto__"])
# As the key of an item: its texts hold no lone surrogate, its integers are safe.
items = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
errors = st.sampled_from(
    [
        None,
        OfflineError("no route"),
        UnackedError("silence"),
        BusyError("later", retry_after=3.0),
        AuthNeededError("who?"),
        RejectedError("never"),
        ConflictError("theirs", remote="hash"),
        RuntimeError(""),
        RuntimeError("é\0\n\ud800" * 300),
        type("\U0001f427Error", (Exception,), {})("s"),
    ]
)
attempts = st.integers(1, 3)
plans = st.dictionaries(ids, errors, max_size=4)
operations = st.one_of(
    st.tuples(st.just("enqueue"), ids, items | values, st.none() | st.integers(0, 2**53 - 1)),
    st.tuples(st.just("enqueue"), ids, items, st.none()),
    st.tuples(st.just("enqueue_many"), st.lists(st.tuples(ids, items), max_size=4)),
    st.tuples(st.sampled_from(["claim", "remove", "mark_failed", "retry"]), ids),
    st.tuples(st.just("record_failure"), ids, attempts),
    st.tuples(st.just("reset"), ids),
    st.tuples(st.just("drain"), plans, errors, attempts, st.none() | attempts),
    st.tuples(st.just("drain"), plans, errors, attempts, st.none()),
    st.tuples(st.sampled_from(["hydrate", "restart", "refresh", "later"])),
)


class Trace(NamedTuple):
    """What a sequence of operations showed on the way, and what it left under the key and in the quarantine."""

    steps: list[Any]
    text: str
    quarantine: list[str]


class Run:
    """One cache, one queue at a time, a clock of its own."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.clock = ManualClock()
        self.queue = OutboxQueue[Any](place.cache, clock=self.clock)

    async def drain(
        self, plan: dict[str, Exception | None], other: Exception | None, tries: int, limit: int | None
    ) -> Any:
        sent: list[str] = []

        async def send(entry: OutboxEntry[Any]) -> None:
            sent.append(json.dumps(entry.to_dict()))
            self.clock.advance(1)
            error = plan.get(entry.id, other)
            if error is not None:
                raise error

        result = await drain_outbox(self.queue, send, max_attempts=tries, limit=limit)
        return vars(result), sent

    async def call(self, name: str, *arguments: Any) -> Any:
        if name == "drain":
            return await self.drain(*arguments)
        if name == "reset":
            return await self.queue.retry(*arguments, reset_attempts=True)
        if name == "later":
            return self.clock.advance(10)
        if name == "hydrate":
            return await self.queue.hydrate(KEY)
        if name == "restart":
            await self.queue.close()
            self.queue = OutboxQueue[Any](self.place.fresh(), clock=self.clock)
            return await self.queue.hydrate(KEY)
        return await getattr(self.queue, name)(*arguments)

    async def do(self, name: str, *arguments: Any) -> Any:
        """What the operation answers or raises, and what the queue shows then."""
        try:
            answer = await self.call(name, *arguments)
        except OutboxError as error:
            answer = repr(error)
        return name, answer, self.shown()

    async def trace(self, text: str | None, sequence: list[tuple[Any, ...]]) -> Trace:
        if text is not None:
            await self.place.put(KEY, text)
        # What a hydrate gave back is written with the next change, where the whole text is one value: at the end, one
        # that changes nothing.
        steps = [await self.do(*step) for step in [("hydrate",), *sequence, ("remove", "nobody")]]
        await self.queue.close()
        beside = json.loads(await self.place.text(f"{KEY}.quarantine") or "[]")
        # A database has no text of a queue that never held an entry.
        return Trace(steps, await self.place.text(KEY) or "[]", [element["text"] for element in beside])

    def shown(self) -> Any:
        return (
            [json.dumps(entry.to_dict()) for entry in self.queue.get()],
            self.queue.counts(),
            self.queue.status().oldest_ms,
        )


def traced(kind: str, text: str | None, sequence: list[tuple[Any, ...]]) -> Trace:
    with tempfile.TemporaryDirectory() as folder:
        place = Place(kind, Path(folder))
        try:
            return asyncio.run(Run(place).trace(text, sequence))
        finally:
            place.close()


@settings(often, max_examples=4 * EXAMPLES)
@given(sequence=st.lists(operations, max_size=15))
def test_what_is_stored_satisfies_the_writer_form_and_breaks_no_lexical_rule(sequence: list[tuple[Any, ...]]) -> None:
    text = traced("plain", None, sequence).text
    WRITER.validate(json.loads(text))
    # R27: keys stand in the order of insertion.
    assert rules_broken(text.encode()) <= {"r27"}


@often
@given(sequence=st.lists(operations, max_size=15))
def test_every_cache_shows_and_stores_the_same(sequence: list[tuple[Any, ...]]) -> None:
    expected = traced("plain", None, sequence)
    for kind in ("file", "sqlite"):
        assert traced(kind, None, sequence) == expected


@often
@given(text=array_texts | array_texts | mutated_texts(), sequence=st.lists(operations, max_size=8))
def test_every_cache_makes_the_same_of_what_other_programs_stored(text: str, sequence: list[tuple[Any, ...]]) -> None:
    expected = traced("plain", text, sequence)
    for kind in ("file", "sqlite"):
        assert traced(kind, text, sequence) == expected
