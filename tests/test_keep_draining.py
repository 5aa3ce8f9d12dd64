"""``keep_draining`` in virtual time: when it drains, how long it leaves whom alone, and what pauses and ends it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from starfish_outbox import (
    BusyError,
    DrainState,
    MemoryCache,
    OfflineError,
    OutboxEntry,
    UnackedError,
    keep_draining,
)
from starfish_outbox.backoff import Backoff
from tests.conftest import KEY
from tests.drains import NOW, Clock, Server, in_virtual_time, keeping, now, opened_with, until


def test_it_drains_what_is_there_and_whatever_is_enqueued_at_once() -> None:
    async def main() -> None:
        queue, server = await opened_with(3), Server()
        async with keep_draining(queue, server.send) as draining:
            await until(100)
            assert (server.taken, draining.state.name) == (["e0", "e1", "e2"], "idle")
            for second in (101, 102.5, 300):
                await until(second)
                await queue.enqueue(f"at {second}", 1)
            await until(400)
        assert [at for at, _ in server.calls[3:]] == pytest.approx([101, 102.5, 300], abs=1e-6)
        assert (draining.sent, draining.failed, draining.state.name) == (6, 0, "ended")

    for seed in range(5):
        in_virtual_time(main(), seed)


def test_what_is_enqueued_while_it_drains_waits_for_no_timer() -> None:
    async def main() -> None:
        queue, server = await opened_with(1), Server(seconds=2.0)

        async def send(entry: OutboxEntry[Any]) -> None:
            if entry.item in range(5):
                await queue.enqueue(f"after {entry.id}", entry.item + 1)
            await server.send(entry)

        async with keep_draining(queue, send):
            await until(12.5)
        assert len(server.taken) == 6
        assert server.times == pytest.approx([0, 2, 4, 6, 8, 10])

    for seed in range(5):
        in_virtual_time(main(), seed)


class Shared:
    """A cache that other programs write without the lock: texts that more than one of these see."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts
        self.seen: dict[str, str | None] = {}
        self.identity = object()

    async def get_item(self, key: str) -> str | None:
        return self.texts.get(key)

    async def set_item(self, key: str, value: str) -> None:
        self.texts[key] = value

    async def remove_item(self, key: str) -> None:
        del self.texts[key]

    async def acquire(self, key: str) -> None:
        """There is no lock."""

    def release(self, key: str, *, now: bool = False) -> None:
        """There is no lock."""

    def check_growth(self, key: str, text: str) -> None:
        """No text is too long."""

    async def read_owned(self, key: str) -> str | None:
        self.seen[key] = self.texts.get(key)
        return self.seen[key]

    async def write_owned(self, key: str, value: str) -> None:
        self.texts[key] = self.seen[key] = value

    async def changed(self, key: str) -> bool:
        return self.texts.get(key) != self.seen.get(key)


@pytest.mark.parametrize(("dice", "next_look"), [(0.0, 30.0), (0.5, 45.0), (1.0, 60.0)])
def test_what_another_program_enqueues_is_found_by_the_timer_which_is_jittered(dice: float, next_look: float) -> None:
    async def main() -> None:
        texts: dict[str, str] = {}
        queue, server = await opened_with(1, Shared(texts), Clock()), Server()
        async with keeping(queue, server.send, dice=dice):
            await until(10)
            theirs = {"id": "theirs", "item": 1, "status": "queued", "attempts": 0, "enqueuedAt": NOW}
            texts[KEY] = json.dumps([theirs])
            await until(100)
        assert server.calls == [(0.0, "e0"), (pytest.approx(next_look, abs=0.01), "theirs")]

    in_virtual_time(main())


def test_what_another_queue_object_of_this_process_enqueues_is_drained_at_once() -> None:
    async def main() -> None:
        cache, server = MemoryCache(), Server()
        queue, other = await opened_with(0, cache, Clock()), await opened_with(0, cache, Clock())
        async with keep_draining(queue, server.send):
            await until(10)
            await other.enqueue("theirs", 1)
            await until(20)
        assert server.calls == [(10.0, "theirs")]

    in_virtual_time(main())


def test_while_nobody_answers_one_call_tries_ever_more_rarely_and_enqueues_do_not_hurry_it() -> None:
    async def main() -> None:
        queue, server = await opened_with(50), Server()
        server.for_all.extend([OfflineError("no route")] * 12)
        async with keeping(queue, server.send, concurrency=8) as draining:
            for second in range(1, 1_400, 7):
                await until(second)
                await queue.enqueue(f"at {second}", 1)
            assert draining.state.name == "offline"
            assert draining.state.reason == "OfflineError: no route"
            assert draining.state.until_ms == NOW + 1_411_000
            await until(1_412)
            assert queue.get() == []
        assert server.times[:13] == pytest.approx([0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 811, 1_111, 1_411], abs=0.01)
        assert len(server.calls) == 12 + 250

    in_virtual_time(main())


def test_when_it_is_woken_it_tries_at_once_and_patience_begins_anew_when_somebody_answered() -> None:
    async def main() -> None:
        queue, server = await opened_with(2), Server()
        server.for_all.extend([OfflineError("no route")] * 6)
        async with keeping(queue, server.send) as draining:
            await until(40)
            assert server.times == pytest.approx([0, 1, 3, 7, 15, 31], abs=0.01)
            draining.wake()
            await until(41)
            assert server.times[6:] == [40, 40]
            server.for_all.append(OfflineError("no route"))
            await queue.enqueue("later", 1)
            await until(50)
            assert server.times[8:] == pytest.approx([41, 42], abs=0.01)

    in_virtual_time(main())


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_probe_is_asked_instead_of_a_send_while_nobody_answers(kind: str) -> None:
    async def main() -> None:
        queue, server, asked = await opened_with(5), Server(), list[float]()
        server.for_all.append(OfflineError("no route"))

        def probe() -> bool:
            asked.append(now())
            if len(asked) == 2:
                raise ConnectionRefusedError("nobody is there")
            return len(asked) > 4

        async def slow_probe() -> bool:
            await asyncio.sleep(0)
            return probe()

        draining = keeping(queue, server.send, probe=probe if kind == "plain" else slow_probe)
        told: list[tuple[str, str]] = []
        draining.subscribe(lambda state: told.append((state.name, state.reason)))
        async with draining:
            await until(60)
        assert asked == pytest.approx([1, 3, 7, 15, 31], abs=0.01)
        assert server.times == pytest.approx([0, 31, 31, 31, 31, 31], abs=0.01)
        assert ("offline", "ConnectionRefusedError: nobody is there") in told
        assert [name for name, _ in told if name != "offline"] == ["draining", "draining", "idle", "ended"]

    in_virtual_time(main())


def test_a_probe_that_hangs_is_given_up_after_the_timeout() -> None:
    async def main() -> None:
        queue, server = await opened_with(1), Server()
        server.for_all.append(OfflineError("no route"))

        async def probe() -> bool:
            await asyncio.sleep(10_000)
            return True

        async with keeping(queue, server.send, probe=probe, timeout=5.0) as draining:
            await until(7)
            assert (draining.state.name, draining.state.reason) == ("offline", "TimeoutError")
        assert now() == 7

    in_virtual_time(main())


@pytest.mark.parametrize("dice", [0.0, 1.0])
def test_a_busy_server_is_left_alone_for_as_long_as_it_asked_whoever_wakes_or_enqueues(dice: float) -> None:
    async def main() -> None:
        queue, server = await opened_with(20), Server()
        server.script["e3"].extend([BusyError("429", 30.0), BusyError("429", 120.0)])
        async with keeping(queue, server.send, dice=dice, concurrency=4, adaptive=True) as draining:
            await until(5)
            assert (draining.state.name, draining.state.reason) == ("waiting", "BusyError: 429")
            draining.wake()
            await until(6)
            await queue.enqueue("later", 1)
            await until(29.9)
            before = len(server.calls)
            assert set(server.times) == {0.0}
            await until(32)
            assert len(server.calls) > before
            first_again = server.times[before]
            assert 30.0 <= first_again <= 31.01
            await until(300)
            assert queue.get() == []
        third = [at for at, id in server.calls if id == "e3"][2]
        assert first_again + 120.0 <= third <= first_again + 125  # it is not the first, and the pace is slow now

    in_virtual_time(main())


def test_a_busy_server_that_does_not_say_when_is_left_alone_ever_longer_until_something_gets_through() -> None:
    async def main() -> None:
        queue, server = await opened_with(3), Server()
        server.for_all.extend([BusyError("503")] * 4)
        server.script["e1"].extend([BusyError("503")] * 2)
        async with keeping(queue, server.send):
            await until(100)
        # Four times nobody gets through; then e0 does, so that patience begins anew.
        assert server.times == pytest.approx([0, 1, 3, 7, 15, 15, 16, 18, 18], abs=0.01)

    in_virtual_time(main())


def test_silence_is_waited_out_like_an_absent_network() -> None:
    async def main() -> None:
        queue, server = await opened_with(5), Server()
        server.for_all.extend([UnackedError("timeout") for _ in range(12)])
        async with keeping(queue, server.send, concurrency=4) as draining:
            await until(0.5)
            assert draining.state.name == "waiting"
            await until(10)
        assert [server.times.count(at) for at in sorted(set(server.times))] == [6, 6, 5]
        assert sorted(set(server.times)) == pytest.approx([0, 1, 3], abs=0.01)
        assert queue.get() == []

    in_virtual_time(main())


@pytest.mark.parametrize("others", [True, False])
def test_silence_about_one_entry_holds_nobody_up_where_others_got_through(others: bool) -> None:
    """What is enqueued while it waits for that one goes at once; where nobody answered it waits for the network."""

    async def main() -> None:
        queue, server = await opened_with(2 if others else 1), Server()
        server.script["e1" if others else "e0"].extend(UnackedError("lost") for _ in range(4))
        async with keeping(queue, server.send, backoff=Backoff(100.0, 100.0)) as draining:
            await until(10)
            assert draining.state.name == "waiting"
            await queue.enqueue("new", 1)
            await until(11)
            assert ("new" in server.taken) is others
            await until(1_000)
        assert queue.get() == []

    in_virtual_time(main())


def test_a_laptop_that_slept_goes_on_within_seconds_of_waking() -> None:
    async def main() -> None:
        clock = Clock()
        queue, server = await opened_with(2, clock=clock), Server()
        server.for_all.extend([OfflineError("no route")] * 10)
        async with keeping(queue, server.send):
            await until(600)
            tries = len(server.calls)
            assert tries == 10
            clock.jump(8 * 3_600)  # the wall clock went on, the loop's did not
            await until(605.01)
            assert len(server.calls) == tries + 2

    in_virtual_time(main())


def test_a_clock_that_creeps_back_does_not_make_it_spin() -> None:
    async def main() -> None:
        clock = Clock()
        queue, server = await opened_with(1, clock=clock), Server()
        server.for_all.extend([OfflineError("no")] * 1_000)
        async with keeping(queue, server.send):
            for tenth in range(1_000):
                await until(tenth / 10)
                clock.jump(-0.01)
        assert len(server.calls) < 30

    in_virtual_time(main())


def test_an_entry_that_failed_is_tried_again_when_it_is_due_and_says_so() -> None:
    async def main() -> None:
        queue, server = await opened_with(2), Server()
        server.script["e0"].extend([ValueError("500")] * 2)
        async with keeping(queue, server.send, backoff=Backoff(8.0, 100.0)) as draining:
            await until(4)
            assert (draining.state.name, draining.state.until_ms) == ("waiting", NOW + 8_000)
            await queue.enqueue("later", 1)
            await until(200)
        assert server.calls == [
            (0, "e0"),
            (0, "e1"),
            (4, "later"),
            (pytest.approx(8, abs=0.01), "e0"),
            (pytest.approx(24, abs=0.01), "e0"),
        ]

    in_virtual_time(main())


@pytest.mark.parametrize("back", [-1.0, -30.0, -7_200.0, -400 * 86_400.0])
@pytest.mark.parametrize("error", [OfflineError("no"), BusyError("429", 60.0), ValueError("500"), BusyError("503")])
def test_a_clock_that_is_put_back_delays_nothing_by_more_than_the_wait_itself(error: Exception, back: float) -> None:
    async def main() -> None:
        clock = Clock()
        queue, server = await opened_with(1, clock=clock), Server()
        server.for_all.append(error)
        async with keeping(queue, server.send, backoff=Backoff(60.0, 60.0)):
            await until(20)
            assert len(server.calls) == 1
            clock.jump(back)
            await until(245)  # a wait is 60 s, or 60 asked for and as many of jitter: no more than twice that
        assert server.taken == ["e0"]

    in_virtual_time(main())


def test_a_state_tells_itself_in_a_line() -> None:
    assert str(DrainState("idle")) == "idle"
    assert str(DrainState("paused", "AuthNeededError: expired")) == "paused: AuthNeededError: expired"
    waits = DrainState("offline", "no route", 1_700_000_000_000)
    assert str(waits) == "offline until 2023-11-14 22:13:20 UTC: no route"
