"""``starfish_outbox.testing``: the plan of faults, `FlakySender`, `FaultyCache` and `ManualClock`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from starfish_outbox import (
    BusyError,
    CacheError,
    CacheWriteError,
    MemoryCache,
    OfflineError,
    OutboxEntry,
    OutboxQueue,
    RejectedError,
    UnackedError,
    drain_outbox,
)
from starfish_outbox.testing import Answer, FaultyCache, FlakySender, Hang, Lost, ManualClock, Slow
from starfish_outbox.testing.faults import CALL_FAULTS, CallFault, Plan
from tests.conftest import KEY
from tests.drains import in_virtual_time, opened_with, states
from tests.gates import PlainFunctions


def entry(id: str = "a", item: Any = 1) -> OutboxEntry[Any]:
    return OutboxEntry(id, item, "queued", 0, 1_700_000_000_000)


def test_planned_faults_come_in_order_by_name_before_those_for_anybody_and_before_dice() -> None:
    plan: Plan[CallFault] = Plan(CALL_FAULTS, {Lost(): 1.0}, seed=0)
    plan.add(None, [Slow(1), None])
    plan.add("a", [Slow(2), Hang()])
    assert [plan.next("b"), plan.next("a"), plan.next("a")] == [Slow(1), Slow(2), Hang()]
    assert plan.left == []
    assert [plan.next("a"), plan.next("a")] == [None, Lost()]
    assert plan.injected == {"Slow": 2, "Hang": 1, "Lost": 1}


def test_dice_fall_as_often_as_they_were_told_and_alike_whoever_comes_between() -> None:
    def rolls(seed: int, names: list[str]) -> dict[str, list[CallFault | None]]:
        plan: Plan[CallFault] = Plan(CALL_FAULTS, {Lost(): 0.1, OfflineError: 0.2}, seed)
        fell: dict[str, list[CallFault | None]] = {}
        for name in names:
            fell.setdefault(name, []).append(plan.next(name))
        return fell

    names = [f"e{number}" for number in range(1000)]
    once = rolls(1, [name for name in names for _ in range(2)])
    assert rolls(1, [*reversed(names), *names]) == once
    assert rolls(2, [*names, *names]) != once
    fell = [fault for faults in once.values() for fault in faults]
    assert 150 < fell.count(Lost()) < 250
    assert 340 < fell.count(OfflineError) < 460


@pytest.mark.parametrize("odds", [{Lost(): 1.1}, {Lost(): -0.1}, {Lost(): 0.6, Slow(1): 0.6}])
def test_odds_that_are_no_shares_are_refused(odds: dict[CallFault, float]) -> None:
    with pytest.raises(ValueError, match="shares of all calls"):
        FlakySender(odds=odds)


@pytest.mark.parametrize("fault", ["lost", 3, Lost, KeyboardInterrupt(), Answer(503)])
def test_what_is_no_fault_is_refused_when_it_is_planned(fault: Any) -> None:
    with pytest.raises(TypeError, match="a fault is one of Lost, Slow, Hang, Exception"):
        FlakySender().plan(fault)
    with pytest.raises(TypeError, match="a fault is one of"):
        FaultyCache(MemoryCache(), odds={fault: 0.5})


def test_a_drain_meets_each_planned_fault_and_the_remote_has_everything_in_the_end() -> None:
    async def main() -> None:
        queue, remote = await opened_with(5), FlakySender()
        remote.plan(OfflineError("no network"))
        remote.plan(Lost(), id="e1")
        remote.plan(BusyError("later", 30), id="e2")
        remote.plan(RejectedError("no such site"), id="e3")
        remote.plan(RuntimeError("out of order"), id="e4")
        stops = []
        for _ in range(4):
            result = await drain_outbox(queue, remote)
            stops.append((result.stopped, result.retry_after))
        assert stops == [("offline", None), ("busy", 30), ("finished", None), ("finished", None)]
        remote.assert_delivered(["e0", "e1", "e2", "e4"], in_order=True)
        remote.assert_plan_used_up()
        assert states(queue) == [("e3", "failed", 1, False)]
        assert (remote.repeated, remote.duplicates) == ({"e1": 2}, [])
        assert [call.id for call in remote.calls if call.fault] == ["e0", "e1", "e2", "e3", "e4"]
        assert remote.injected == {
            "OfflineError": 1, "Lost": 1, "BusyError": 1, "RejectedError": 1, "RuntimeError": 1,
        }  # fmt: skip

    in_virtual_time(main())


def test_an_own_send_is_called_just_where_the_network_lets_it_through() -> None:
    async def main() -> None:
        asked: list[str] = []

        async def send(entry: OutboxEntry[Any]) -> str:
            asked.append(entry.id)
            return "stored as 7"

        remote = FlakySender(send)
        remote.plan(OfflineError(), Lost(), None)
        with pytest.raises(OfflineError):
            await remote(entry())
        assert asked == []
        with pytest.raises(UnackedError):
            await remote(entry())
        assert await remote(entry()) == "stored as 7"
        assert asked == ["a", "a"]
        plain = FlakySender(lambda entry: entry.id.upper())
        assert await plain(entry()) == "A"

    in_virtual_time(main())


def test_what_the_own_send_raises_is_no_arrival() -> None:
    async def main() -> None:
        async def send(entry: OutboxEntry[Any]) -> None:
            raise BusyError("later")

        remote = FlakySender(send)
        with pytest.raises(BusyError):
            await remote(entry())
        assert remote.delivered == {}
        with pytest.raises(AssertionError, match=r"1 never arrived: \['a'\]"):
            remote.assert_delivered(["a"])

    in_virtual_time(main())


def test_slow_hang_and_latency_take_the_loops_time() -> None:
    async def main() -> None:
        remote = FlakySender(latency=0.5)
        remote.plan(Slow(2), Hang(), Hang(stored=True))
        await remote(entry("slow"))
        assert asyncio.get_running_loop().time() == 2.5
        for id in ("not stored", "stored"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60):
                    await remote(entry(id))
        assert list(remote.delivered) == ["slow", "stored"]
        assert [call.at for call in remote.calls] == [0, 2.5, 62.5]

    in_virtual_time(main())


def test_calls_that_hang_go_on_when_they_are_let_go() -> None:
    async def main() -> None:
        remote = FlakySender()
        remote.plan(Hang(), Hang(stored=True))
        sending = [asyncio.create_task(remote(entry(id))) for id in "ab"]
        await asyncio.sleep(1)
        assert remote.let_go() == 2
        await asyncio.gather(*sending)
        assert sorted(remote.delivered) == ["a", "b"]

    in_virtual_time(main())


def test_a_timeout_of_the_drain_ends_a_send_that_hangs() -> None:
    async def main() -> None:
        queue, remote = await opened_with(2), FlakySender()
        remote.plan(Hang(stored=True), id="e0")
        result = await drain_outbox(queue, remote, timeout=5)
        assert (result.sent, result.stopped) == (2, "finished")
        assert remote.repeated == {"e0": 2}

    in_virtual_time(main())


async def test_who_is_sent_again_after_it_was_acknowledged_is_a_duplicate() -> None:
    remote = FlakySender()
    remote.plan(Lost(), None, None, id="a")
    with pytest.raises(UnackedError):
        await remote(entry())
    await remote(entry())
    await remote(entry("a", item="a correction under the same id"))
    remote.assert_delivered(["a"])
    await remote(entry())
    assert remote.duplicates == ["a"]
    with pytest.raises(AssertionError, match=r"sent again after they were acknowledged: \['a'\]"):
        remote.assert_delivered(["a"])


async def test_what_was_to_arrive_is_checked_exactly() -> None:
    remote = FlakySender()
    for id in "bac":
        await remote(entry(id))
    remote.assert_delivered("abc")
    with pytest.raises(AssertionError, match=r"1 never arrived: \['d'\]; 1 unexpected: \['b'\]"):
        remote.assert_delivered(["a", "c", "d"])
    with pytest.raises(AssertionError, match="out of order: number 0 was 'b', not 'a'"):
        remote.assert_delivered("abc", in_order=True)


async def test_a_fault_that_nobody_met_fails_the_test_that_planned_it() -> None:
    remote, cache = FlakySender(), FaultyCache(MemoryCache())
    remote.plan(None, Lost(), id="never sent")
    cache.plan(OSError())
    for one in (remote, cache):
        with pytest.raises(AssertionError, match="1 planned faults have not happened"):
            one.assert_plan_used_up()


def test_a_batch_meets_the_faults_of_its_entries() -> None:
    async def main() -> None:
        batches: list[list[str]] = []

        async def send(entries: list[OutboxEntry[Any]]) -> list[Exception | None]:
            batches.append([entry.id for entry in entries])
            return [RejectedError("too old") if entry.id == "e3" else None for entry in entries]

        queue, remote = await opened_with(5), FlakySender(send)
        remote.plan(Lost(), id="e1")
        remote.plan(BusyError("later", 3), id="e2")
        remote.plan(Slow(2), id="e4")
        result = await drain_outbox(queue, remote.send_many, batch_size=5)
        assert (result.sent, result.failed, result.stopped) == (3, 1, "busy")
        assert asyncio.get_running_loop().time() == 2
        assert batches == [["e0", "e1", "e3", "e4"], ["e1"]]
        await drain_outbox(queue, remote.send_many, batch_size=5)
        remote.assert_delivered(["e0", "e1", "e2", "e4"])
        assert remote.repeated == {"e1": 2}

    in_virtual_time(main())


def test_a_batch_without_an_own_send_arrives_and_can_hang() -> None:
    async def main() -> None:
        queue, remote = await opened_with(4), FlakySender()
        remote.plan(Hang(), id="e1")
        result = await drain_outbox(queue, remote.send_many, batch_size=4, timeout=9)
        assert result.sent == 4
        remote.assert_delivered(["e0", "e1", "e2", "e3"])
        assert remote.repeated == {}

    in_virtual_time(main())


@pytest.mark.parametrize("inner", [MemoryCache, PlainFunctions])
async def test_a_cache_fails_as_planned_and_the_queue_says_so(inner: Callable[[], Any]) -> None:
    texts = inner()
    cache = FaultyCache(texts)
    async with OutboxQueue[Any](cache) as queue:
        cache.plan(OSError(5, "Input/output error"), call="get_item")
        with pytest.raises(CacheError):
            await queue.hydrate(KEY)
        await queue.hydrate(KEY)
        cache.plan(OSError(28, "No space left on device"), None, Lost())
        with pytest.raises(CacheWriteError):
            await queue.enqueue("a", 1)
        assert await queue.enqueue("a", 1)
        with pytest.raises(CacheWriteError):
            await queue.enqueue("b", 2)
        assert [entry.id for entry in queue.get()] == ["a"]
    async with OutboxQueue[Any](texts) as queue:
        await queue.hydrate(KEY)
        assert [entry.id for entry in queue.get()] == ["a", "b"]  # it was stored, and nobody was told
    cache.assert_plan_used_up()
    assert cache.injected == {"OSError": 2, "Lost": 1}
    assert ("set_item", KEY) in cache.calls


def test_a_cache_is_slow_hangs_and_is_let_go() -> None:
    async def main() -> None:
        texts = MemoryCache()
        cache = FaultyCache(texts, latency=1)
        cache.plan(Slow(2), Hang(), Hang(stored=True))
        await cache.set_item("a", "1")
        assert asyncio.get_running_loop().time() == 3
        writing = [asyncio.create_task(cache.set_item("b", text)) for text in ("2", "3")]
        await asyncio.sleep(100)
        assert await texts.get_item("b") == "3"
        assert cache.let_go() == 2
        await asyncio.gather(*writing)
        assert await cache.get_item("b") == "2"  # the one that hung before it was stored came late
        await cache.remove_item("b")
        assert await texts.get_item("b") is None

    in_virtual_time(main())


def test_a_cache_has_no_other_calls() -> None:
    with pytest.raises(ValueError, match="call is one of get_item, set_item, remove_item, not 'set'"):
        FaultyCache(MemoryCache()).plan(OSError(), call="set")  # type: ignore[arg-type]  # what a slip looks like


async def test_dice_of_a_cache_fail_some_of_its_calls_and_nothing_acknowledged_is_lost() -> None:
    texts = MemoryCache()
    cache = FaultyCache(texts, odds={OSError: 0.2, Lost(): 0.1}, seed=3)
    acknowledged = []
    async with OutboxQueue[Any](cache) as queue:
        while True:
            try:
                await queue.hydrate(KEY)
                break
            except CacheError:
                continue
        for number in range(200):
            try:
                await queue.enqueue(f"e{number}", number)
                acknowledged.append(f"e{number}")
            except CacheWriteError:
                continue
    assert cache.injected["OSError"] > 10
    assert cache.injected["Lost"] > 5
    async with OutboxQueue[Any](texts) as queue:
        await queue.hydrate(KEY)
        stored = {entry.id for entry in queue.get()}
    assert len(acknowledged) > 100
    assert stored >= set(acknowledged)


def test_a_manual_clock_passes_and_jumps_only_when_told() -> None:
    clock = ManualClock()
    began = clock()
    assert clock() == began == 1_700_000_000_000
    clock.advance(1.5)
    assert clock() - began == 1500
    clock.jump(-3600)
    assert clock() - began == 1500 - 3_600_000
    with pytest.raises(ValueError, match="does not pass backwards"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="does not pass backwards"):
        clock.advance(float("nan"))
