"""What pauses, stops and ends ``keep_draining``, what it tells of itself, and that it keeps to one identity."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from starfish_outbox import (
    AuthNeededError,
    BusyError,
    MemoryCache,
    OfflineError,
    OutboxQueue,
    keep_draining,
)
from starfish_outbox.drain.keeping import DrainState
from starfish_outbox.drain.results import DrainProgress
from tests.conftest import KEY
from tests.drains import NOW, Clock, Server, in_virtual_time, keeping, now, opened_with, states, until
from tests.gates import GatedCache


def test_refused_credentials_pause_it_until_it_is_told_to_go_on() -> None:
    async def main() -> None:
        queue, server = await opened_with(3), Server()
        server.for_all.append(AuthNeededError("401"))
        async with keeping(queue, server.send, concurrency=4) as draining:
            await until(1_000)
            draining.wake()
            await queue.enqueue("later", 1)
            await until(2_000)
            assert (draining.state.name, draining.state.reason, len(server.calls)) == (
                "paused",
                "AuthNeededError: 401",
                1,
            )
            draining.resume()
            await until(2_001)
            assert (server.times[1:], draining.state.name) == ([2_000] * 4, "idle")

    in_virtual_time(main())


def test_a_listener_may_resume_what_it_was_told_is_paused() -> None:
    async def main() -> None:
        queue, server = await opened_with(2), Server()
        server.for_all.append(AuthNeededError("401"))
        draining = keeping(queue, server.send)

        def renew(state: DrainState) -> None:
            if state.name == "paused":
                draining.resume()

        draining.subscribe(renew)
        async with draining:
            await until(1)
        assert server.asked == ["e0", "e0", "e1"]

    in_virtual_time(main())


@pytest.mark.parametrize("by", ["on_progress", "another task"])
def test_credentials_that_are_renewed_during_the_pass_that_is_refused_pause_nothing(by: str) -> None:
    async def main() -> None:
        queue, server, told = await opened_with(2), Server(seconds=10.0), list[str]()
        server.for_all.append(AuthNeededError("401"))

        def renew(progress: DrainProgress) -> None:
            if by == "on_progress" and progress.outcome == "auth":
                draining.resume()

        draining = keeping(queue, server.send, on_progress=renew)
        draining.subscribe(lambda state: told.append(state.name))
        async with draining:
            if by == "another task":
                asyncio.get_running_loop().call_later(5.0, draining.resume)
            await until(100)
        assert (server.asked, told[:3]) == (["e0", "e0", "e1"], ["draining", "draining", "idle"])

    in_virtual_time(main())


def test_a_pause_lets_what_is_under_way_end_and_starts_nothing_until_it_is_over() -> None:
    async def main() -> None:
        queue, server = await opened_with(20), Server(seconds=10.0)
        async with keeping(queue, server.send, concurrency=4) as draining:
            await until(15)
            draining.pause("the ship is in port")
            await until(500)
            assert len(server.taken) == len(server.calls) == 5
            assert (draining.state.name, draining.state.reason) == ("paused", "the ship is in port")
            assert queue.counts() == (15, 0, 0, 0)
            draining.pause("still")
            await until(501)
            assert draining.state.reason == "still"
            draining.resume()
            await until(600)
            assert (len(server.taken), draining.state.name) == (20, "idle")

    in_virtual_time(main())


def test_a_pause_before_it_begins_and_a_stop_while_it_is_paused() -> None:
    async def main() -> None:
        queue, server = await opened_with(2), Server()
        draining = keeping(queue, server.send)
        draining.pause()
        running = asyncio.ensure_future(draining)
        await until(100)
        assert (server.calls, draining.state.name) == ([], "paused")
        draining.stop()
        await running
        assert (draining.state.name, now()) == ("ended", 100)

    in_virtual_time(main())


@pytest.mark.parametrize(("at", "sent", "ended"), [(5, 1, 10), (15, 5, 20), (100, 9, 100)])
def test_a_stop_ends_what_is_awaited_once_the_sends_under_way_are_recorded(at: int, sent: int, ended: int) -> None:
    async def main() -> None:
        queue, server = await opened_with(9), Server(seconds=10.0)
        draining = keeping(queue, server.send, concurrency=4)
        asyncio.get_running_loop().call_later(at, draining.stop)
        await draining
        assert len(server.calls) == len(server.taken) == draining.sent == sent
        assert now() == ended
        assert states(queue) == [(f"e{n}", "queued", 0, False) for n in range(9) if f"e{n}" not in server.taken]

    in_virtual_time(main())


def test_leaving_the_body_records_what_is_under_way_and_an_error_in_it_cuts_that_off() -> None:
    async def main() -> None:
        queue, server = await opened_with(9), Server(seconds=10.0)
        async with keeping(queue, server.send, concurrency=4):
            await until(15)
        assert (len(server.taken), now(), queue.counts()) == (5, 20, (4, 0, 0, 0))
        began = len(server.calls)
        draining = keeping(queue, server.send, concurrency=4)

        async def fails() -> None:
            async with draining:
                await until(35)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fails()
        assert (now(), draining.state.name) == (35, "ended")
        assert len(server.calls) == began + 4
        assert [maybe for _, _, _, maybe in states(queue)] == [True, True, True]
        assert queue.counts().sending == 0

    in_virtual_time(main())


def test_a_cancellation_while_the_body_is_left_cuts_off_what_is_under_way() -> None:
    async def main() -> None:
        queue, server = await opened_with(3), Server(seconds=1_000.0)

        async def work() -> None:
            async with keeping(queue, server.send):
                await until(10)

        working = asyncio.ensure_future(work())
        await until(20)
        assert not working.done()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert now() == 20
        assert states(queue)[0] == ("e0", "queued", 0, True)

    in_virtual_time(main())


def test_it_can_be_entered_again_and_not_twice_at_a_time() -> None:
    async def main() -> None:
        queue, server = await opened_with(1), Server()
        draining = keeping(queue, server.send)
        for turn in range(3):
            async with draining:
                await until(10 * turn + 5)
                with pytest.raises(RuntimeError, match="already"):
                    await draining
                with pytest.raises(RuntimeError, match="already"):
                    async with draining:
                        pass
            await queue.enqueue(f"turn {turn}", 1)
        assert len(server.taken) == 3

    in_virtual_time(main())


@pytest.mark.parametrize("state", ["idle", "offline", "waiting", "paused", "draining"])
@pytest.mark.parametrize("how", ["clear", "another", "close"])
def test_it_ends_with_its_identity_whatever_it_was_doing_and_never_touches_another(state: str, how: str) -> None:
    async def main() -> None:
        cache = MemoryCache()
        other = OutboxQueue[Any](cache, clock=Clock())
        await other.hydrate("outbox.ben")
        await other.enqueue("his", 1)
        queue, server = await opened_with(2, cache, Clock()), Server(seconds=3.0 if state == "draining" else 0)
        if state in ("offline", "waiting", "paused"):
            error = {"offline": OfflineError, "waiting": BusyError, "paused": AuthNeededError}[state]
            server.for_all.extend([error("no")] * 10)
        draining = keeping(queue, server.send)
        running = asyncio.ensure_future(draining)
        await until(100 if state != "draining" else 2)
        assert draining.state.name == state
        before = len(server.calls)
        if how == "clear":
            queue.clear()
        elif how == "close":
            await queue.close()
        else:
            await queue.hydrate("outbox.ben")
        began = now()
        await running
        assert now() - began <= 5.0
        assert (draining.state.name, "identity" in draining.state.reason) == ("ended", True)
        await until(1_000)
        assert len(server.calls) == before
        assert [entry.id for entry in other.get()] == ["his"]

    for seed in range(3):
        in_virtual_time(main(), seed)


def test_a_queue_that_is_bound_to_nobody_ends_it_at_once() -> None:
    async def main() -> None:
        queue, server = OutboxQueue[Any](MemoryCache()), Server()
        await keeping(queue, server.send)
        async with keeping(queue, server.send) as draining:
            await queue.hydrate(KEY)
            await queue.enqueue("a", 1)
            await until(100)
        assert (server.calls, draining.state.name) == ([], "ended")

    in_virtual_time(main())


def test_the_same_key_hydrated_again_does_not_end_it() -> None:
    async def main() -> None:
        queue, server = await opened_with(1), Server()
        async with keeping(queue, server.send):
            await until(10)
            await queue.hydrate(KEY)
            await queue.enqueue("later", 1)
            await until(20)
        assert server.asked == ["e0", "later"]

    in_virtual_time(main())


def test_a_storage_that_fails_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        cache = GatedCache()
        queue, server = await opened_with(3, cache, Clock()), Server()
        cache.broken = OSError(28, "no space left on device")
        async with keeping(queue, server.send) as draining:
            await until(10)
            assert draining.state.name == "waiting"
            assert "no space left" in draining.state.reason
            assert server.calls == []
            assert cache.calls("set") <= 2 + 4 * 4
            cache.broken = None
            await until(20)
        assert server.taken == ["e0", "e1", "e2"]
        assert server.times == pytest.approx([15, 15, 15], abs=0.01)

    with caplog.at_level(logging.ERROR):
        in_virtual_time(main())
    assert "draining goes on after a failure of the storage" in caplog.text


def test_every_state_is_told_in_order_and_a_listener_that_fails_disturbs_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        queue, server = await opened_with(2), Server()
        server.for_all.extend([OfflineError("no route"), BusyError("429", 10.0), AuthNeededError("401")])
        draining = keeping(queue, server.send)
        told: list[DrainState] = []

        def fails(_: DrainState) -> None:
            raise ZeroDivisionError

        once: list[DrainState] = []
        first = draining.subscribe(once.append)
        draining.subscribe(fails)
        draining.subscribe(told.append)
        first()
        last = draining.subscribe(once.append)
        first()  # again: ends nobody else's
        async with draining:
            await until(30)
            draining.resume()
            await until(40)
            assert len(once) == len(told) > 0
            last()
        assert [(state.name, state.reason, state.until_ms and state.until_ms - NOW) for state in told] == [
            ("draining", "", None),
            ("offline", "OfflineError: no route", 1_000),
            ("draining", "", None),
            ("waiting", "BusyError: 429", 12_000),
            ("draining", "", None),
            ("paused", "AuthNeededError: 401", None),
            ("draining", "", None),
            ("idle", "", 90_000),
            ("ended", "", None),
        ]
        assert [state.result.stopped for state in told if state.result][:2] == ["offline", "offline"]
        assert repr(draining) == "<keep_draining: ended, 2 sent, 0 failed>"

    in_virtual_time(main())
    assert "a listener of keep_draining failed" in caplog.text


def test_what_the_callers_classify_raises_comes_out_and_is_the_reason() -> None:
    async def main() -> None:
        queue, server = await opened_with(1), Server()
        server.for_all.append(ValueError("500"))

        def broken(_: Any) -> Any:
            raise ZeroDivisionError("a slip")

        draining = keeping(queue, server.send, classify=broken)
        with pytest.raises(ZeroDivisionError):
            await draining
        assert (draining.state.name, draining.state.reason) == ("ended", "ZeroDivisionError: a slip")
        assert queue.counts().sending == 0

    in_virtual_time(main())


@pytest.mark.parametrize(
    "unfit",
    [{"interval": 0}, {"interval": None}, {"interval": float("inf")}, {"probe": 1}, {"concurrency": 0}, {"rate": -1}],
)
def test_an_option_that_makes_no_sense_is_refused(unfit: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        _ = keep_draining(OutboxQueue[Any](MemoryCache()), Server().send, **unfit)


@pytest.mark.parametrize("listener", [None, "told", asyncio.sleep])
def test_a_listener_that_nobody_could_call_is_refused(listener: Any) -> None:
    draining = keep_draining(OutboxQueue[Any](MemoryCache()), Server().send)
    with pytest.raises(TypeError, match="plain function"):
        draining.subscribe(listener)
