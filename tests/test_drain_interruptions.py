"""A pass with several sends under way, struck everywhere: cancelled, interrupted, and by sends that raise anything.

Six entries that each take another way, three at a time, in batches, or by what keeps draining; each sweep counts how
many places it struck.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine, Sequence
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from starfish_outbox import (
    FileCache,
    MemoryCache,
    OutboxEntry,
    OutboxQueue,
    SQLiteCache,
    UnackedError,
    drain_outbox,
    keep_draining,
)
from starfish_outbox.backoff import Backoff
from starfish_outbox.caches.base import Update, wall_clock_ms
from starfish_outbox.drain.passes import Pass
from starfish_outbox.entry import StoredEntry
from tests.conftest import KEY
from tests.gates import GatedCache
from tests.reporting import report
from tests.scenario import IDS, Remote, Stage, cache_of, states, sweep
from tests.stepping import SteppingLoop, the_loop

SIX = ("first", *IDS, "second", "third")
SOME_ON_DISK = [("memory", 1), ("file", 5), ("sqlite", 5)]
ENOUGH = 40
HOWS = ["side by side", "batches", "kept up"]
AT_ONCE = Backoff(1e-9, 1e-9)


class Party:
    """The queue of a stage with the six entries, and a drain with several sends under way."""

    def __init__(self, stage: Stage, how: str) -> None:
        self.stage = stage
        self.remote = stage.remote
        self.how = how
        self.under_way: set[str] = set()
        self.asked: set[str] = set()

    async def open(self) -> OutboxQueue[Any]:
        return await self.stage.open(SIX, clock=wall_clock_ms if self.how == "kept up" else None)

    def drain(self, queue: OutboxQueue[Any]) -> Coroutine[Any, Any, object]:
        if self.how == "kept up":
            return self._keep_up(queue)
        if self.how == "side by side":
            return drain_outbox(queue, self.send, concurrency=3)
        return drain_outbox(queue, self.send_many, concurrency=2, batch_size=3)

    async def _keep_up(self, queue: OutboxQueue[Any]) -> None:
        """Until nothing is left, or it ends by itself."""
        draining = keep_draining(queue, self.send, concurrency=3, backoff=AT_ONCE)
        unsubscribe = queue.subscribe(lambda: None if queue.counts().total else draining.stop())
        try:
            await draining
        finally:
            unsubscribe()

    async def send(self, entry: OutboxEntry[Any]) -> None:
        self.asked.add(entry.id)
        self.under_way.add(entry.id)
        try:
            await self.remote.send(entry)
        except Exception:
            self.under_way.remove(entry.id)
            raise
        self.under_way.remove(entry.id)

    async def send_many(self, entries: Sequence[OutboxEntry[Any]]) -> list[object]:
        """One after the other, as a loop over a bulk interface does; an error is answered, not raised."""
        answers: list[object] = []
        self.asked |= {entry.id for entry in entries}
        for entry in entries:
            self.under_way.add(entry.id)
            try:
                await self.remote.send(entry)
            except Exception as error:  # noqa: BLE001  # this is what such a send is for
                answers.append(error)
            else:
                answers.append(None)
        self.under_way -= {entry.id for entry in entries}
        return answers

    def all_is_well(self, queue: OutboxQueue[Any], *, unsure: int = 0) -> None:
        """Nothing is lost; what was under way says that it may have arrived; nothing that failed was made up.

        Args:
            queue: the queue.
            unsure: failed attempts that may be counted twice, because the commit that counts them was interrupted.
        """
        live = {entry.id: entry for entry in queue.get()}
        assert set(SIX) <= {*self.remote.delivered, *live}, "lost"
        for id in self.under_way & set(live):
            assert live[id].maybe_sent_ms is not None, f"{id} was under way and does not say so"
        for id in {*self.remote.delivered} & set(live):
            assert live[id].maybe_sent_ms is not None, f"{id} was delivered and does not say so"
        # No answer while others got through costs an attempt as well.
        assert (
            sum(entry.attempts for entry in live.values())
            <= self.remote.failures + ("unanswered once" in live) + unsure
        )

    async def deliver_the_rest(self, queue: OutboxQueue[Any]) -> None:
        for _ in range(4):
            await drain_outbox(queue, self.remote.send)
            assert queue.counts().sending == 0
        assert queue.get() == []
        assert await self.stage.text() == []
        assert set(self.remote.delivered) == set(SIX)
        await queue.close()


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(("kind", "every"), SOME_ON_DISK)
def test_a_pass_cancelled_at_any_step_has_put_everything_back_when_it_returns(
    kind: str, every: int, how: str, memory_path: Path
) -> None:
    async def cancelled_at(stage: Stage, step: int) -> bool:
        party = Party(stage, how)
        queue = await party.open()
        draining = asyncio.create_task(party.drain(queue))
        the_loop().strike({step: draining.cancel})
        cancelled = await was_cancelled(draining)
        the_loop().strike({})
        assert queue.counts().sending == 0
        assert await stage.text() == states(queue)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "sends that nobody awaits go on"
        party.all_is_well(queue)
        never_asked = [entry for entry in queue.get() if entry.id not in party.asked]
        assert all(entry.maybe_sent_ms is None for entry in never_asked), "claimed and never sent"
        await party.deliver_the_rest(queue)
        return cancelled

    points = sweep(kind, memory_path, cancelled_at, every=every)
    report(f"{kind}: a drain {how} was cancelled at {points} different steps", memory_path)
    assert points >= ENOUGH // every


async def puts_nothing_back(self: Pass, ops: list[Update]) -> None:
    """A cancelled pass just ends."""


def makes_a_secret_of_it(self: Pass, entry: StoredEntry) -> StoredEntry:
    """What is put back does not say that it may have been sent."""
    return entry


def forgets_what_began(self: Pass, running: dict[Any, Any]) -> Coroutine[Any, Any, list[Any]]:
    """A pass that ends leaves the sends that are under way alone."""
    return asyncio.sleep(0, [])


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    ("name", "broken"),
    [("_put_back", puts_nothing_back), ("_maybe_sent", makes_a_secret_of_it), ("_land", forgets_what_began)],
)
def test_a_pass_that_is_careless_on_its_way_out_is_found_out(
    name: str, broken: Any, how: str, memory_path: Path
) -> None:
    """The two tests of cancellation and Ctrl-C find each of these."""
    with patch.object(Pass, name, broken):
        with pytest.raises(AssertionError):
            test_a_pass_cancelled_at_any_step_has_put_everything_back_when_it_returns("memory", 1, how, memory_path)
        with pytest.raises(AssertionError):
            test_ctrl_c_between_any_two_steps_loses_nothing("memory", 1, how, True, memory_path)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("later", [1, 2, 3, 5, 8])
def test_a_second_cancellation_while_the_first_is_being_recorded_loses_nothing(
    later: int, how: str, memory_path: Path
) -> None:
    twice = 0

    async def cancelled_at(stage: Stage, step: int) -> bool:
        nonlocal twice
        party = Party(stage, how)
        queue = await party.open()
        draining = asyncio.create_task(party.drain(queue))
        cancels: list[bool] = []

        def cancel() -> None:
            cancels.append(draining.cancel())

        the_loop().strike({step: cancel, step + later: cancel})
        cancelled = await was_cancelled(draining)
        the_loop().strike({})
        twice += cancels == [True, True]
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
        await queue.refresh()  # takes back what the pass could not record any more
        assert queue.counts().sending == 0
        party.all_is_well(queue)
        await party.deliver_the_rest(queue)
        return cancelled

    points = sweep("memory", memory_path, cancelled_at)
    report(f"a drain {how} was cancelled at {points} steps, {twice} of them again {later} later", memory_path)
    assert points >= ENOUGH
    assert twice >= ENOUGH // 4


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(("kind", "every"), SOME_ON_DISK)
def test_a_sign_out_at_any_step_starts_no_other_send_and_records_those_under_way(
    kind: str, every: int, how: str, memory_path: Path
) -> None:
    async def signed_out_at(stage: Stage, step: int) -> bool:
        party = Party(stage, how)
        queue = await party.open()
        under_way_then: list[set[str]] = []
        asked_after: list[str] = []

        async def send(entry: OutboxEntry[Any]) -> None:
            if under_way_then:
                asked_after.append(entry.id)
            await party.send(entry)

        def sign_out() -> None:
            under_way_then.append(set(party.under_way))
            queue.clear()

        work = drain_outbox(queue, send, concurrency=3) if how == "side by side" else party.drain(queue)
        draining: asyncio.Task[object] = asyncio.ensure_future(work)
        the_loop().strike({step: sign_out})
        await draining
        the_loop().strike({})
        assert asked_after == []
        assert {id for id, _, _ in await stage.text()} == {*SIX} - {*party.remote.answered}
        await queue.hydrate(stage.key)
        assert queue.counts().sending == 0
        party.all_is_well(queue)
        await party.deliver_the_rest(queue)
        return bool(under_way_then)

    points = sweep(kind, memory_path, signed_out_at, every=every)
    report(f"{kind}: a sign-out in the middle of a drain {how} at {points} different steps", memory_path)
    assert points >= ENOUGH // every


async def was_cancelled(task: asyncio.Task[Any]) -> bool:
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


class PulledError(BaseException):
    """What is no ``Exception``, and not one that the event loop treats in its own way."""


@pytest.mark.parametrize("error", [PulledError, asyncio.CancelledError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_send_that_raises_what_is_no_answer_at_any_of_its_awaits_loses_nothing(
    kind: str, how: str, error: type[BaseException], memory_path: Path
) -> None:
    """At every await of every call of a send: before the remote has it, after, and after it said so."""
    cache, points = cache_of(kind, memory_path), 0
    for number in count(1):
        raised = run_until_it_raises(Stage(cache, number), how, error, number)
        if not raised:
            break
        points += 1
    if isinstance(cache, FileCache | SQLiteCache):
        cache.close()
    report(f"{kind}: sends {how} raised {error.__name__} at {points} of their awaits", memory_path)
    assert points >= 3 * len(SIX)


class RaisingRemote(Remote):
    """Raises at the await of that number, counted over all its calls."""

    def __init__(self, number: int, error: type[BaseException]) -> None:
        super().__init__()
        self.left = number
        self.error = error

    async def send(self, entry: OutboxEntry[Any]) -> None:
        self.asked += 1
        self._pull()
        await asyncio.sleep(0)
        self._pull()
        self.take(entry)
        await asyncio.sleep(0)
        self._pull()
        if entry.id == "unanswered once" and self.delivered.count(entry.id) == 1:
            raise UnackedError("the answer was lost")
        await asyncio.sleep(0)
        self.answered.append(entry.id)

    def _pull(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error


def run_until_it_raises(stage: Stage, how: str, error: type[BaseException], number: int) -> bool:
    remote = RaisingRemote(number, error)
    stage.remote = remote
    party = Party(stage, how)
    raised = False
    with asyncio.Runner() as runner:
        queue = runner.run(party.open())
        try:
            runner.run(party.drain(queue))
        except error:
            raised = True
        assert raised is (remote.left <= 0)
        remote.left = 0  # from here on nothing is raised
    # The runner is closed, and with it every task that the interrupt left: a script or a kernel goes on after that.

    async def look() -> None:
        if error in (PulledError, asyncio.CancelledError):  # the pass ended by itself: it recorded all before it did
            assert queue.counts().sending == 0
            assert await stage.text() == states(queue)
        await queue.refresh()
        assert queue.counts().sending == 0
        party.all_is_well(queue, unsure=1)
        await party.deliver_the_rest(queue)

    asyncio.run(look())
    return raised


@pytest.mark.parametrize("handled", [True, False], ids=["SIGINT", "KeyboardInterrupt"])
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(("kind", "every"), [("memory", 1), ("sqlite", 4)])
def test_ctrl_c_between_any_two_steps_loses_nothing(
    kind: str, every: int, how: str, handled: bool, memory_path: Path
) -> None:
    """As a real signal, of which ``asyncio.run`` makes a cancellation, and as it comes where nobody handles it."""
    cache, points = cache_of(kind, memory_path), 0
    for step in count(1, every):
        if not interrupted_at(Stage(cache, step), how, step, handled=handled):
            break
        points += 1
    if isinstance(cache, SQLiteCache):
        cache.close()
    what = "SIGINT" if handled else "KeyboardInterrupt"
    report(f"{kind}: {what} between two steps of a drain {how} at {points} places", memory_path)
    assert points >= ENOUGH // every


def interrupted_at(stage: Stage, how: str, step: int, *, handled: bool) -> bool:
    party, interrupted = Party(stage, how), False

    def ctrl_c() -> None:
        if not handled:
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    async def struck(queue: OutboxQueue[Any]) -> None:
        the_loop().strike({step: ctrl_c})
        await party.drain(queue)
        the_loop().strike({})

    with asyncio.Runner(loop_factory=SteppingLoop) as runner:
        queue = runner.run(party.open())
        try:
            runner.run(struck(queue))
        except KeyboardInterrupt:
            interrupted = True

    async def look() -> None:
        if handled:  # the pass saw a cancellation: it recorded all before it ended
            assert queue.counts().sending == 0
            assert await stage.text() == states(queue)
        await queue.refresh()
        assert queue.counts().sending == 0
        party.all_is_well(queue, unsure=0 if handled else 1)
        await party.deliver_the_rest(queue)

    asyncio.run(look())
    return interrupted


async def test_what_was_answered_in_a_batch_is_recorded_although_the_second_asking_is_cancelled() -> None:
    queue, asked, again = OutboxQueue[Any](MemoryCache()), list[list[str]](), asyncio.Event()
    await queue.hydrate(KEY)
    await queue.enqueue_many([(id, 1) for id in ("first", "taken", "silent", "fails")])

    async def send(entries: Sequence[OutboxEntry[Any]]) -> list[object] | None:
        asked.append([entry.id for entry in entries])
        if len(asked) == 2:
            return [None, UnackedError("lost"), ValueError("500")]
        if len(asked) == 3:
            again.set()
            await asyncio.Event().wait()
        return None

    assert (await drain_outbox(queue, send, batch_size=1, limit=1)).sent == 1
    draining = asyncio.create_task(drain_outbox(queue, send, batch_size=3, concurrency=2))
    await again.wait()
    draining.cancel()
    assert await was_cancelled(draining)
    assert asked == [["first"], ["taken", "silent", "fails"], ["silent"]]
    left = [(entry.id, entry.status, entry.attempts, entry.maybe_sent_ms is not None) for entry in queue.get()]
    assert left == [("silent", "queued", 0, True), ("fails", "queued", 1, False)]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_storage_that_fails_while_a_cancelled_send_is_put_back_makes_no_secret_of_it(
    concurrency: int, caplog: pytest.LogCaptureFixture
) -> None:
    cache, here = GatedCache(), asyncio.Event()
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)
    await queue.enqueue_many([("a", 1), ("b", 2)])

    async def send(_: OutboxEntry[Any]) -> None:
        here.set()
        await asyncio.Event().wait()

    draining = asyncio.create_task(drain_outbox(queue, send, concurrency=concurrency))
    await here.wait()
    cache.fail("set", OSError(28, "no space left on device"))
    draining.cancel()
    with caplog.at_level(logging.ERROR):
        assert await was_cancelled(draining)
    assert "an interrupted send could not be recorded" in caplog.text
    await queue.refresh()
    assert [(entry.id, entry.status, entry.maybe_sent_ms is not None) for entry in queue.get()] == [
        ("a", "queued", True),
        ("b", "queued", False),
    ]
