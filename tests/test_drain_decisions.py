"""The retry decision table: what one outcome does to the entry, to the pass, and to what keeps draining.

And no schedule of outcomes parks an entry for being offline.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings, strategies as st

from starfish_outbox import (
    AuthNeededError,
    BusyError,
    ConflictError,
    OfflineError,
    OutboxEntry,
    RejectedError,
    UnackedError,
    drain_outbox,
)
from starfish_outbox.backoff import Backoff
from starfish_outbox.drain.keeping import DrainState, KeepDraining
from starfish_outbox.drain.options import DrainOptions
from starfish_outbox.drain.settling import Answer, Judge, Settlement
from starfish_outbox.entry import Claim, LastError, StoredEntry
from tests.drains import NOW, Server, in_virtual_time, opened_with

RULE = Backoff(base=4.0, cap=60.0)


@dataclass(frozen=True)
class Row:
    """An error of ``send`` and what follows, with dice that fall on 1.

    Attributes:
        error: what is raised.
        status: of the entry after it.
        attempts: of the entry after it.
        calls: how often it was asked.
        wait: seconds until its ``nextAttemptAt``, or None.
        stopped: why the pass ended.
        kept: the state of what keeps draining after it.
        next_call: seconds until that asks somebody again (it would find everything well), or None: never by itself.
    """

    error: Exception
    status: str
    attempts: int
    calls: int
    wait: float | None
    stopped: str
    kept: str
    next_call: float | None


TABLE = [
    Row(OfflineError("no route"), "queued", 0, 1, None, "offline", "offline", 4),
    Row(ConnectionRefusedError(), "queued", 0, 1, None, "offline", "offline", 4),
    Row(UnackedError("lost"), "queued", 0, 2, None, "unacked", "waiting", 4),
    Row(ConnectionResetError(), "queued", 0, 2, None, "unacked", "waiting", 4),
    Row(TimeoutError(), "queued", 0, 2, None, "unacked", "waiting", 4),
    Row(BusyError("503"), "queued", 0, 1, None, "busy", "waiting", 4),
    Row(BusyError("429", 2.0), "queued", 0, 1, 2 + 4, "busy", "waiting", 2 + 4),
    Row(BusyError("429", 600.0), "queued", 0, 1, 600 + 4, "busy", "waiting", 600 + 4),
    Row(BusyError("429", 1e9), "queued", 0, 1, 86_400 + 4, "busy", "waiting", 86_400 + 4),
    Row(BusyError("429", 0.0), "queued", 0, 1, None, "busy", "waiting", 4),
    Row(AuthNeededError("401"), "queued", 0, 1, None, "auth", "paused", None),
    Row(RejectedError("422"), "failed", 1, 1, None, "finished", "idle", None),
    Row(ConflictError("409"), "failed", 1, 1, None, "finished", "idle", None),
    Row(ValueError("500"), "queued", 1, 1, 4, "finished", "waiting", 4),
]


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("row", TABLE, ids=lambda row: repr(row.error))
def test_what_an_outcome_does(row: Row, concurrency: int) -> None:
    async def main() -> None:
        queue, server = await opened_with(1), Server()
        server.for_all.extend([row.error] * row.calls)
        options = DrainOptions(server.send, adaptive=True, dice=lambda: 1.0, concurrency=concurrency)
        draining = KeepDraining(queue, options, RULE, 100_000.0, None)
        async with draining:
            await asyncio.sleep(1.0)
            (entry,) = queue.get()
            assert (entry.status, entry.attempts, len(server.calls)) == (row.status, row.attempts, row.calls)
            assert entry.next_attempt_ms == (None if row.wait is None else NOW + 1_000 * row.wait)
            assert (entry.maybe_sent_ms is not None) is (row.stopped == "unacked")
            assert draining.state.result is not None
            assert (draining.state.result.stopped, draining.state.name) == (row.stopped, row.kept)
            await asyncio.sleep(90_000)
            assert server.times[row.calls :] == ([] if row.next_call is None else [pytest.approx(row.next_call)])
            assert (queue.get() == []) is (row.next_call is not None)

    in_virtual_time(main())


@pytest.mark.parametrize("row", TABLE, ids=lambda row: repr(row.error))
@pytest.mark.parametrize("max_attempts", [1, 2, 5])
async def test_what_an_outcome_costs_however_often_it_comes(row: Row, max_attempts: int) -> None:
    queue, server = await opened_with(1), Server()
    server.for_all.extend([row.error] * 100)
    for _ in range(8):
        await drain_outbox(queue, server.send, max_attempts=max_attempts)
    (entry,) = queue.get()
    if not row.attempts:
        assert (entry.status, entry.attempts) == ("queued", 0)
    else:
        assert (entry.status, entry.attempts) == ("failed", 1 if row.status == "failed" else max_attempts)


async def test_silence_costs_an_attempt_only_where_others_got_through_in_that_pass() -> None:
    queue, server = await opened_with(3), Server()
    server.script["e1"].extend([UnackedError("lost") for _ in range(100)])
    for attempts in range(1, 4):
        await drain_outbox(queue, server.send, max_attempts=3)
        (entry,) = [one for one in queue.get() if one.id == "e1"]
        assert (entry.attempts, entry.status) == (attempts, "failed" if attempts == 3 else "queued")
        await queue.enqueue(f"more {attempts}", 1)


OUTCOMES: dict[str, Callable[[], Exception | None]] = {
    "ok": lambda: None,
    "offline": lambda: OfflineError("no route"),
    "refused": ConnectionRefusedError,
    "unacked": lambda: UnackedError("lost"),
    "busy": lambda: BusyError("429", 20.0),
    "busy some time": lambda: BusyError("503"),
    "auth": lambda: AuthNeededError("401"),
    "failed": lambda: ValueError("500"),
    "rejected": lambda: RejectedError("422"),
}
PATIENCE = [
    (["offline"] * 60, 3, 1, None, False, 0),
    (["offline", "unacked", "busy", "auth", "refused", "busy some time"] * 10, 3, 2, None, True, 1),
    (["unacked"] * 60, 3, 2, None, False, 2),
]
schedules = st.lists(st.sampled_from(sorted(OUTCOMES)), max_size=60)


@given(
    schedules,
    st.integers(1, 6),
    st.integers(1, 3),
    st.sampled_from([None, 2]),
    st.booleans(),
    st.integers(0, 2**16),
)
@example(*PATIENCE[0])
@example(*PATIENCE[1])
@example(*PATIENCE[2])
@settings(max_examples=100, deadline=None)
def test_no_schedule_of_outcomes_parks_an_entry_that_nobody_spoke_about(
    schedule: list[str], concurrency: int, max_attempts: int, lanes: int | None, slow: bool, seed: int
) -> None:
    """An attempt is counted only for an answer about the entry, or for silence while others got through."""
    follow(schedule, concurrency, max_attempts, lanes, slow, seed)


def follow(schedule: list[str], concurrency: int, max_attempts: int, lanes: int | None, slow: bool, seed: int) -> None:
    """Two hours of keeping on, in which the sends end as the schedule says, and well when it is over."""

    async def main() -> None:
        queue, server, about = await opened_with(8), Server(1.0 if slow else 0.0), Counter[str]()
        silent, taken_before = Counter[str](), 0  # in this pass
        to_come = [*reversed(schedule)]

        async def send(entry: OutboxEntry[Any]) -> None:
            outcome = to_come.pop() if to_come else "ok"
            if outcome in ("failed", "rejected"):
                about[entry.id] += 1 if outcome != "rejected" else max_attempts
            silent[entry.id] += outcome == "unacked"
            server.script[entry.id].append(OUTCOMES[outcome]())
            await server.send(entry)

        def watch(state: DrainState) -> None:
            nonlocal taken_before
            if len(server.taken) > taken_before:
                about.update(silent)
            silent.clear()
            taken_before = len(server.taken)
            if state.name == "paused":
                asyncio.get_running_loop().call_later(1.0, draining.resume)

        draining = KeepDraining(
            queue,
            DrainOptions(
                send,
                max_attempts=max_attempts,
                concurrency=concurrency,
                lane=(lambda entry: entry.item % lanes) if lanes else None,
                adaptive=True,
                dice=lambda: 0.5,
            ),
            Backoff(1.0, 30.0),
            60.0,
            None,
        )
        draining.subscribe(watch)
        async with draining:
            await asyncio.sleep(7_200.0)
        assert queue.counts().sending == 0
        for entry in queue.get():
            assert entry.status == "failed", f"{entry.id} was never sent: {draining.state}"
            assert about[entry.id] >= max_attempts, f"{entry.id} was parked for nothing"
        assert len(server.taken) == len(set(server.taken)) == 8 - len(queue.get())
        assert draining.sent == len(server.taken)
        assert draining.failed == len(queue.get())

    in_virtual_time(main(), seed)


def counting(*verdicts: str) -> Callable[..., Settlement]:
    """A judge that takes these for a failed attempt of the entry."""
    settle = Judge.settle

    def counted(self: Judge, entry: StoredEntry, token: Claim, answer: Answer) -> Settlement:
        counts = answer.verdict in verdicts
        return settle(self, entry, token, answer._replace(verdict="attempt") if counts else answer)

    return counted


def gives_up_in_silence(self: Judge, entry: StoredEntry, token: Claim, error: LastError, reason: str) -> Settlement:
    """No answer costs an attempt, whether others got through or nobody was there."""
    return self._settle_attempt(entry, token, error, "unacked", self._now_ms())


@pytest.mark.parametrize(
    ("name", "broken", "example"),
    [
        ("settle", counting("offline"), 0),
        ("settle", counting("offline"), 1),
        ("settle", counting("busy"), 1),
        ("settle", counting("auth"), 1),
        ("_settle_silence", gives_up_in_silence, 2),
    ],
)
def test_a_judge_that_parks_entries_for_what_nobody_said_about_them_is_found_out(
    name: str, broken: Any, example: int
) -> None:
    with patch.object(Judge, name, broken), pytest.raises(AssertionError, match="parked for nothing"):
        follow(*PATIENCE[example])
