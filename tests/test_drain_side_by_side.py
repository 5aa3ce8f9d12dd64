"""Passes with several sends under way: how many, in which lanes, how fast, in how many commits, and what ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from itertools import pairwise
from typing import Any

import pytest

from starfish_outbox import (
    AuthNeededError,
    BusyError,
    DrainProgress,
    OfflineError,
    OutboxEntry,
    RejectedError,
    UnackedError,
    drain_outbox,
)
from starfish_outbox.backoff import Backoff
from starfish_outbox.drain.options import DrainOptions, OnParked
from starfish_outbox.drain.pace import Pace
from starfish_outbox.drain.passes import one_pass
from tests.conftest import KEY, Opener, Place
from tests.drains import Clock, Commits, Server, in_virtual_time, opened_with, states

PLACES = pytest.mark.parametrize("place", ["memory", "file", "sqlite"], indirect=True)


def by_item(entry: OutboxEntry[Any]) -> Hashable:
    return str(entry.item)


class Together:
    """A ``send`` whose calls, after the first of the pass, all end in one step of the loop, once so many are there."""

    def __init__(self, count: int) -> None:
        self.asked: list[str] = []
        self.here = 0
        self._count = count
        self._all_here = asyncio.Event()

    async def send(self, entry: OutboxEntry[Any]) -> None:
        self.asked.append(entry.id)
        if len(self.asked) == 1:
            return
        self.here += 1
        if self.here == self._count:
            self._all_here.set()
        await self._all_here.wait()


@PLACES
async def test_so_many_sends_are_under_way_after_the_first_that_went_alone(place: Place, opened: Opener) -> None:
    queue, together = await opened(place.cache), Together(7)
    await queue.enqueue_many([(f"e{number}", number) for number in range(8)])
    result = await drain_outbox(queue, together.send, concurrency=7)
    assert (result.sent, result.left, result.stopped, result.done) == (8, 0, "finished", 8)
    assert together.asked == [f"e{number}" for number in range(8)]
    assert await place.text(KEY) == "[]"


@PLACES
async def test_what_ends_together_is_recorded_in_one_commit_with_the_claims_of_what_comes_next(
    place: Place, opened: Opener
) -> None:
    queue, together = await opened(place.cache), Together(50)
    await queue.enqueue_many([(f"e{number:03}", number) for number in range(51)])
    commits = Commits(place.cache)
    assert (await drain_outbox(queue, together.send, concurrency=50)).sent == 51
    assert commits.sizes == [1, 1 + 50, 50]


async def test_one_after_the_other_costs_one_commit_each_and_one_to_begin(place: Place, opened: Opener) -> None:
    queue, server = await opened(place.cache), Server()
    await queue.enqueue_many([(f"e{number}", number) for number in range(5)])
    commits = Commits(place.cache)
    assert (await drain_outbox(queue, server.send)).sent == 5
    assert commits.sizes == [1, 2, 2, 2, 2, 1]


def test_eight_at_a_time_are_eight_times_as_fast_and_no_more_are_ever_under_way() -> None:
    async def took(concurrency: int) -> tuple[float, int]:
        queue, server = await opened_with(81), Server(seconds=1.0)
        assert (await drain_outbox(queue, server.send, concurrency=concurrency)).sent == 81
        assert sorted(server.taken) == sorted(f"e{number}" for number in range(81))
        return asyncio.get_running_loop().time(), server.most_at_once

    assert in_virtual_time(took(1)) == (81.0, 1)
    assert in_virtual_time(took(8)) == (11.0, 8)


@pytest.mark.parametrize("seed", range(5))
def test_a_send_that_takes_long_holds_up_nobody_else(seed: int) -> None:
    async def main() -> None:
        queue, server = await opened_with(20), Server(seconds=1.0)

        async def send(entry: OutboxEntry[Any]) -> None:
            await asyncio.sleep(100.0 if entry.id == "e1" else 0)
            await server.send(entry)

        result = await drain_outbox(queue, send, concurrency=3)
        assert (result.sent, server.taken[-1]) == (20, "e1")
        assert asyncio.get_running_loop().time() == pytest.approx(102.0)

    in_virtual_time(main(), seed)


def test_within_a_lane_one_follows_the_other_and_lanes_run_side_by_side() -> None:
    async def main() -> None:
        queue, server = await opened_with(0), Server(seconds=1.0)
        await queue.enqueue_many([(f"{lane}{number}", lane) for number in range(5) for lane in "abcd"])
        result = await drain_outbox(queue, server.send, concurrency=8, lane=by_item)
        assert (result.sent, server.most_at_once) == (20, 4)
        for lane in "abcd":
            own = [(at, id) for at, id in server.calls if id[0] == lane]
            assert [id for _, id in own] == [f"{lane}{number}" for number in range(5)]
            assert all(later >= earlier + 1.0 for (earlier, _), (later, _) in pairwise(own))
        assert asyncio.get_running_loop().time() == 6.0

    in_virtual_time(main())


@pytest.mark.parametrize("concurrency", [1, 3])
def test_nobody_overtakes_one_that_is_to_be_tried_again_in_its_lane(concurrency: int) -> None:
    async def main() -> None:
        queue, server = await opened_with(0), Server(seconds=1.0)
        await queue.enqueue_many([("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a"), ("b2", "b")])
        server.script["a2"].append(ValueError("500"))
        result = await drain_outbox(queue, server.send, concurrency=concurrency, lane=by_item)
        assert (result.sent, result.left, result.waiting, result.stopped) == (3, 2, 1, "finished")
        assert states(queue) == [("a2", "queued", 1, False), ("a3", "queued", 0, False)]
        await drain_outbox(queue, server.send, concurrency=concurrency, lane=by_item)
        assert [id for id in server.taken if id[0] == "a"] == ["a1", "a2", "a3"]

    in_virtual_time(main())


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("how", ["rejected", "last attempt"])
@pytest.mark.parametrize(("on_parked", "sent"), [("free", ["a1", "a3"]), ("hold", ["a1"])])
async def test_an_entry_that_is_parked_in_the_pass_frees_its_lane_or_holds_it(
    on_parked: OnParked, sent: list[str], how: str, concurrency: int
) -> None:
    queue, server = await opened_with(0), Server()
    await queue.enqueue_many([("a1", "a"), ("a2", "a"), ("a3", "a")])
    server.script["a2"].append(RejectedError("422") if how == "rejected" else ValueError("500"))
    result = await drain_outbox(
        queue, server.send, concurrency=concurrency, lane=by_item, on_parked=on_parked, max_attempts=1
    )
    assert (server.taken, result.failed, result.left) == (sent, 1, 3 - 1 - len(sent))
    again = await drain_outbox(queue, server.send, concurrency=concurrency, lane=by_item, on_parked=on_parked)
    assert (again.sent, server.taken, again.waiting) == (0, sent, again.left)
    await queue.remove("a2")
    await drain_outbox(queue, server.send, concurrency=concurrency, lane=by_item, on_parked=on_parked)
    assert server.taken == ["a1", "a3"]


async def test_what_is_removed_or_parked_by_somebody_before_its_turn_holds_nobody_up() -> None:
    queue, server = await opened_with(0), Server()
    await queue.enqueue_many([(id, id[0]) for id in ("a1", "a2", "a3", "b1", "b2")])

    async def send(entry: OutboxEntry[Any]) -> None:
        if entry.id == "a1":
            await queue.remove("a2")
            await queue.mark_failed("b1")
        await server.send(entry)

    result = await drain_outbox(queue, send, concurrency=2, lane=by_item)
    assert sorted(server.taken) == ["a1", "a3", "b2"]
    assert (result.sent, result.failed, result.superseded, result.left) == (3, 0, 0, 0)


@PLACES
async def test_progress_is_told_once_for_each_and_only_of_what_is_stored(place: Place, opened: Opener) -> None:
    queue, server, told = await opened(place.cache), Server(), list[DrainProgress]()
    await queue.enqueue_many([(f"e{number}", number) for number in range(9)])
    server.script["e2"].append(RejectedError("422"))
    server.script["e5"].append(ValueError("500"))

    def on_progress(progress: DrainProgress) -> None:
        told.append(progress)
        live = {entry.id: entry.status for entry in queue.get()}
        assert live.get(progress.id) == {"sent": None, "failed": "failed", "attempt": "queued"}[progress.outcome]

    await drain_outbox(queue, server.send, concurrency=4, on_progress=on_progress)
    assert [progress.done for progress in told] == list(range(1, 10))
    assert {progress.total for progress in told} == {9}
    assert sorted((progress.id, progress.outcome) for progress in told if progress.outcome != "sent") == [
        ("e2", "failed"),
        ("e5", "attempt"),
    ]
    assert (told[-1].sent, told[-1].failed) == (7, 1)


@pytest.mark.parametrize("error", [OfflineError("no route"), BusyError("429"), AuthNeededError("401")])
async def test_a_pass_that_reaches_nobody_costs_one_call_however_many_may_run(error: Exception) -> None:
    queue, server = await opened_with(100), Server()
    server.for_all.extend([error] * 100)
    result = await drain_outbox(queue, server.send, concurrency=8)
    assert (len(server.calls), result.sent, result.left) == (1, 0, 100)
    assert all(state[1:] == ("queued", 0, False) for state in states(queue))


async def test_three_different_entries_without_an_answer_end_the_pass_and_cost_no_attempt() -> None:
    queue, server = await opened_with(100), Server()
    server.for_all.extend([UnackedError("timeout") for _ in range(100)])
    result = await drain_outbox(queue, server.send, concurrency=8)
    assert (result.stopped, result.left) == ("unacked", 100)
    assert server.asked == ["e0", "e0", "e1", "e1", "e2", "e2"]
    assert states(queue)[:4] == [(f"e{n}", "queued", 0, n < 3) for n in range(4)]


@pytest.mark.parametrize("error", [OfflineError("gone"), BusyError("429", 7.0), AuthNeededError("401")])
def test_what_is_under_way_when_the_pass_ends_is_recorded_and_nothing_else_starts(error: Exception) -> None:
    async def main() -> None:
        queue, server = await opened_with(50), Server(seconds=1.0)

        async def send(entry: OutboxEntry[Any]) -> None:
            if entry.id == "e3":
                await asyncio.sleep(0.5)
                raise error
            await server.send(entry)

        result = await drain_outbox(queue, send, concurrency=8)
        assert server.taken == ["e0", *(id for id in server.taken if id != "e0")]
        assert sorted(server.taken) == ["e0", "e1", "e2", "e4", "e5", "e6", "e7", "e8"]
        assert (result.sent, result.left) == (8, 42)
        assert result.stopped in ("offline", "busy", "auth")
        assert queue.counts().sending == 0

    in_virtual_time(main())


@PLACES
@pytest.mark.parametrize("how", ["clear", "another", "close"])
async def test_after_a_change_of_identity_what_is_under_way_is_recorded_and_nothing_else_starts(
    place: Place, opened: Opener, how: str
) -> None:
    queue, server = await opened(place.cache), Server()
    await queue.enqueue_many([(f"e{number}", number) for number in range(20)])
    others: list[Any] = []
    switched = asyncio.Event()

    async def send(entry: OutboxEntry[Any]) -> None:
        if entry.id == "e2":
            await asyncio.sleep(0)  # the others begin
            if how == "clear":
                queue.clear()
            elif how == "close":
                others.append(asyncio.ensure_future(queue.close()))
            else:
                await queue.hydrate("outbox.ben")
                await queue.enqueue("his", 1)
            switched.set()
        if entry.id != "e0":
            await switched.wait()
        await server.send(entry)

    result = await drain_outbox(queue, send, concurrency=4)
    await asyncio.gather(*others)
    assert result.stopped == "switched"
    assert "his" not in server.asked
    assert sorted(server.asked) == ["e0", "e1", "e2", "e3", "e4"]
    mine = await opened(place.fresh())
    assert states(mine) == [(f"e{number}", "queued", 0, False) for number in range(5, 20)]


async def test_what_was_claimed_and_not_begun_when_the_identity_changed_is_not_sent() -> None:
    queue, server = await opened_with(20), Server()

    async def send(entry: OutboxEntry[Any]) -> None:
        if entry.id == "e1":  # the first of four whose sends begin one after the other
            queue.clear()
        await server.send(entry)

    result = await drain_outbox(queue, send, concurrency=4)
    assert (result.stopped, result.sent, server.asked) == ("switched", 2, ["e0", "e1"])
    await queue.hydrate(KEY)
    assert states(queue) == [(f"e{number}", "queued", 0, False) for number in range(2, 20)]


@PLACES
async def test_what_is_enqueued_during_the_pass_waits_and_what_is_removed_is_superseded(
    place: Place, opened: Opener
) -> None:
    queue, server = await opened(place.cache), Server()
    await queue.enqueue_many([(f"e{number}", number) for number in range(6)])

    async def send(entry: OutboxEntry[Any]) -> None:
        await queue.enqueue(f"after {entry.id}", 1)
        if entry.id == "e2":
            await queue.remove("e2")
        await server.send(entry)

    result = await drain_outbox(queue, send, concurrency=3)
    assert (result.sent, result.superseded, result.left, result.done) == (6, 1, 6, 6)
    assert sorted(entry.id for entry in queue.get()) == [f"after e{number}" for number in range(6)]


@PLACES
async def test_two_passes_side_by_side_share_the_entries_and_send_none_twice(place: Place, opened: Opener) -> None:
    first, second = await opened(place.cache), await opened(place.cache)
    await first.enqueue_many([(f"e{number}", number) for number in range(40)])
    server = Server()
    results = await asyncio.gather(
        drain_outbox(first, server.send, concurrency=4), drain_outbox(second, server.send, concurrency=4)
    )
    assert sum(result.sent for result in results) == 40
    assert sorted(server.taken) == sorted(f"e{number}" for number in range(40))
    assert first.get() == second.get() == []


def test_the_next_of_a_lane_starts_with_the_commit_that_records_the_one_before_it_or_later() -> None:
    """Also where that one ended while others were being claimed."""

    async def main() -> None:
        queue, server = await opened_with(0), Server()
        await queue.enqueue_many([(f"{lane}{number}", lane) for number in range(6) for lane in "abc"])

        async def send(entry: OutboxEntry[Any]) -> None:
            lane, number = entry.id[0], int(entry.id[1:])
            assert next(live.id for live in queue.get() if live.id[0] == lane) == entry.id
            assert number == server.taken.count(lane)
            await server.send(entry)
            server.taken[-1] = lane

        assert (await drain_outbox(queue, send, concurrency=3, lane=by_item)).sent == 18

    for seed in range(10):
        in_virtual_time(main(), seed)


@pytest.mark.parametrize("backoff", [None, Backoff(base=8.0, cap=8.0)])
async def test_only_with_a_back_off_a_failed_entry_is_left_alone(backoff: Backoff | None) -> None:
    clock = Clock()
    queue, server = await opened_with(3, clock=clock), Server()
    server.script["e1"].append(ValueError("500"))
    options = DrainOptions(server.send, concurrency=2, backoff=backoff, dice=lambda: 0.5)
    await one_pass(queue, options, Pace(2, None, adaptive=False))
    (left,) = queue.get()
    assert left.id == "e1"
    if backoff is None:
        assert left.next_attempt_ms is None
        return
    assert left.next_attempt_ms == pytest.approx(clock() + 4_000, abs=500)
    result = await one_pass(queue, options, Pace(2, None, adaptive=False))
    assert (result.sent, result.waiting, result.next_attempt_ms) == (0, 1, left.next_attempt_ms)
    assert (await drain_outbox(queue, server.send)).sent == 1, "a drain without a back-off does not honour it"


async def test_a_plain_send_may_not_run_side_by_side() -> None:
    queue = await opened_with(1)
    with pytest.raises(ValueError, match="async"):
        await drain_outbox(queue, lambda _: None, concurrency=2)


@pytest.mark.parametrize("unfit", [{"concurrency": None}, {"rate": float("inf")}, {"rate": 0}, {"batch_size": 0}])
async def test_an_option_that_makes_no_sense_is_refused_before_anything_is_touched(unfit: dict[str, Any]) -> None:
    queue, server = await opened_with(1), Server()
    with pytest.raises((TypeError, ValueError)):
        await drain_outbox(queue, server.send, **unfit)
    assert server.asked == []


def test_entries_that_the_lane_fails_for_go_one_after_the_other_and_the_log_names_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        queue, server = await opened_with(3), Server()
        result = await drain_outbox(queue, server.send, concurrency=2, lane=lambda _: 1 // 0)
        assert (result.sent, result.failed) == (3, 0)
        assert [id for _, id in server.calls] == ["e0", "e1", "e2"]
        assert server.most_at_once == 1

    in_virtual_time(main())
    said = [record.getMessage() for record in caplog.records if "lane=" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("lane= found none for 'e0' and 2 others (ZeroDivisionError(")
