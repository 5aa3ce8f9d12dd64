"""Waits that were noted for entries are kept across a pass of the published TypeScript package, which knows of none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

import pytest

from starfish_outbox import Backoff, BusyError, FileCache, OutboxEntry, OutboxQueue, SQLiteCache, drain_outbox
from starfish_outbox.conformance.driver import Request
from starfish_outbox.testing import ManualClock
from tests.interop import typescript_driver

KEY = "outbox.ana"
RULE = Backoff(base=1_000.0, cap=1_000.0)
OPTIONS = ("nextAttemptAt", "lastError", "maybeSent")


class Program:
    """Ours, on a store of its own kind; started anew each time."""

    def __init__(self, store: Literal["files", "sqlite"], path: Path, clock: ManualClock) -> None:
        self._cache = FileCache(path) if store == "files" else SQLiteCache(path)
        self.queue = OutboxQueue[Any](self._cache, clock=clock)
        self.asked: list[str] = []
        self.raises: dict[str, Exception] = {}

    async def __aenter__(self) -> Self:
        await self.queue.hydrate(KEY)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.queue.close()
        self._cache.close()

    async def drain(self) -> str:
        """Why the pass ended."""
        return (await drain_outbox(self.queue, self._send, backoff=RULE)).stopped

    async def _send(self, entry: OutboxEntry[Any]) -> None:
        self.asked.append(entry.id)
        if entry.id in self.raises:
            raise self.raises[entry.id]

    def noted(self) -> dict[str, tuple[Any, ...]]:
        return {e.id: (e.next_attempt_ms, e.last_error, e.maybe_sent_ms) for e in self.queue.get()}


def unreachable(entry: OutboxEntry[Any], asked: list[str]) -> None:
    asked.append(entry.id)
    raise ConnectionRefusedError


@pytest.mark.parametrize("store", ["files", "sqlite"])
@pytest.mark.parametrize("busy", [True, False])
async def test_a_pass_of_the_typescript_package_forgets_no_wait(
    store: Literal["files", "sqlite"], busy: bool, tmp_path: Path
) -> None:
    path, clock = tmp_path / "outbox.db", ManualClock()
    async with Program(store, path, clock) as ours:
        await ours.queue.enqueue_many([("fails", 1), ("told to wait", 2), ("new", 3)])
        ours.raises = {"fails": ValueError("500")}
        if busy:
            ours.raises["told to wait"] = BusyError("429", 3_600)
        assert await ours.drain() == ("busy" if busy else "finished")
        noted = ours.noted()
    waits = {id for id, (until, *_) in noted.items() if until is not None}
    assert waits == ({"fails", "told to wait"} if busy else {"fails"})
    with typescript_driver() as typescript:
        # It does not keep to the times: it sends what is queued. Here it gets nothing through but what is new.
        outcomes = {id: ["error"] for id in noted if id != "new"}
        steps: list[Request] = [
            {"op": "open", "store": store, "path": str(path)},
            {"op": "hydrate", "key": KEY},
            {"op": "drain", "outcomes": outcomes, "look": KEY},
            {"op": "close"},
        ]
        answers = typescript.ask_many(steps)
    assert [answer.error for answer in answers] == [None] * 4
    assert [json.loads(send)["id"] for send in answers[2].value["sends"]] == list(noted)
    stored = {entry["id"]: {name: entry.get(name) for name in OPTIONS} for entry in json.loads(answers[2].text or "")}
    assert stored.keys() == outcomes.keys()
    assert {id for id, keys in stored.items() if keys["nextAttemptAt"] is not None} == waits
    async with Program(store, path, clock) as ours:
        assert ours.noted() == {id: noted[id] for id in outcomes}
        assert [entry.attempts for entry in ours.queue.get()] == ([2, 1] if busy else [2])
        with_a_rule = await ours.drain()
        plain = list[str]()
        await drain_outbox(ours.queue, lambda entry: unreachable(entry, plain))
        assert plain == [
            "fails"
        ]  # without the rule it would have been asked: the wait is what the rule makes of the key
        assert with_a_rule == ("busy" if busy else "finished")
        assert ours.asked == []
        clock.advance(4_602 if busy else 1_001)
        await ours.drain()
        assert ours.asked == list(outcomes)
        assert ours.queue.get() == []
