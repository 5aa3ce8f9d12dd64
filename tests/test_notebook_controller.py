"""What a panel does, without any front end: real queues and real drains, in virtual time where time matters."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox import AuthNeededError, OutboxEntry, OutboxQueue, RejectedError, SQLiteCache
from starfish_outbox.notebook.blocking import BlockingOutbox
from starfish_outbox.notebook.controller import PanelController
from starfish_outbox.notebook.throttle import UPDATES_PER_SECOND
from tests.drains import Server, in_virtual_time, now, opened_with, states, until
from tests.panels import done, drained, idle, seen


def controller_of(queue: OutboxQueue[Any], send: Any, **options: Any) -> PanelController:
    return PanelController(queue, send, loop=asyncio.get_running_loop(), **options)


def mode_of(controller: PanelController) -> str:
    return controller.state.mode


def said(controller: PanelController) -> str:
    return "\n".join(line.text for line in controller.log)


async def test_drain_sends_what_is_queued_once_and_tells_what_became_of_it() -> None:
    queue, server = await opened_with(5), Server()
    server.script["e3"].append(RejectedError("HTTP 422"))
    controller = controller_of(queue, server.send)

    state = await drained(controller)

    assert server.asked == ["e0", "e1", "e2", "e3", "e4"]
    assert (state.sent, state.parked, state.retried) == (4, 1, 0)
    assert state.counts == queue.counts() == (0, 0, 1, 0)
    assert state.progress is not None
    assert state.progress[:2] == (5, 5)
    assert state.error == "'e3' was parked: RejectedError: HTTP 422"
    assert "Pass ended (finished): 4 sent, 1 parked, nothing is left" in said(controller)


async def test_what_is_in_the_error_strip_goes_with_the_next_pass_or_by_hand() -> None:
    queue, server = await opened_with(1), Server()
    server.script["e0"].append(RejectedError("no"))
    controller = controller_of(queue, server.send)
    await drained(controller)
    assert controller.state.error
    await done(controller.dismiss())
    assert not controller.state.error
    await done(controller.edit("e0", "{"))
    assert "this is not JSON" in controller.state.error
    await done(controller.retry("e0"))
    assert not (await drained(controller)).error


def test_a_drain_of_thousands_is_told_8_times_a_second_and_ends_exact() -> None:
    async def main() -> None:
        queue, server = await opened_with(3000), Server(0.001)
        controller = controller_of(queue, server.send)
        told: list[tuple[float, int]] = []
        controller.subscribe(lambda: told.append((now(), controller.state.sent)))
        await drained(controller)
        await asyncio.sleep(1)
        assert told[-1][1] == controller.state.sent == 3000
        assert len(told) <= 8 * (now() - 1) + 3
        print(f"3,000 entries in {now() - 1:.1f} s: told {len(told)} times")

    in_virtual_time(main())


def test_a_pass_that_is_paused_sends_nothing_and_goes_on_where_it_was() -> None:
    async def main() -> None:
        queue, server = await opened_with(10), Server(1.0)
        controller = controller_of(queue, server.send)
        await done(controller.drain())
        await until(3.5)
        await done(controller.pause())
        assert mode_of(controller) == "pausing"
        await until(60)
        assert mode_of(controller) == "paused"
        assert server.asked == ["e0", "e1", "e2", "e3"]  # what was under way came to its end
        assert queue.counts() == (6, 0, 0, 0)
        await done(controller.pause())  # again: nothing
        await done(controller.resume())
        state = await idle(controller)
        assert server.taken == [f"e{number}" for number in range(10)]
        assert state.progress is not None
        assert (state.progress.done, state.progress.total, state.sent) == (10, 10, 10)

    in_virtual_time(main())


def test_drain_goes_on_with_a_pass_that_is_paused() -> None:
    async def main() -> None:
        queue, server = await opened_with(4), Server(1.0)
        controller = controller_of(queue, server.send)
        await done(controller.drain())
        await until(0.5)
        await done(controller.pause())
        await until(10)
        await done(controller.drain())
        await idle(controller)
        assert server.asked == ["e0", "e1", "e2", "e3"]

    in_virtual_time(main())


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("keeps", [False, True])
def test_stop_lets_what_is_under_way_end_and_leaves_the_rest_queued(*, paused: bool, keeps: bool) -> None:
    async def main() -> None:
        queue, server = await opened_with(5), Server(1.0)
        controller = controller_of(queue, server.send)
        await done(controller.keep(True) if keeps else controller.drain())
        await until(1.5)
        if paused:
            await done(controller.pause())
            await until(5)
        await done(controller.stop())
        assert not controller.state.running
        assert not controller.state.keeps
        assert server.taken == ["e0", "e1"]
        assert states(queue) == [(f"e{number}", "queued", 0, False) for number in (2, 3, 4)]
        assert (await drained(controller)).sent == 5

    in_virtual_time(main())


def test_the_network_is_switched_off_in_the_middle_and_nothing_is_lost() -> None:
    async def main() -> None:
        queue, server = await opened_with(10), Server(1.0)
        controller = controller_of(queue, server.send)
        await done(controller.drain())
        await until(3.5)
        await done(controller.switch(False))
        state = await idle(controller)
        assert state.counts == (6, 0, 0, 0)
        assert (state.sent, state.turned_away, state.online) == (4, 1, False)
        assert "Nobody was reached" in state.error
        assert all(attempts == 0 and not maybe for _, _, attempts, maybe in states(queue))
        assert len(server.calls) == 4  # the switch stands before send
        await done(controller.switch(True))
        assert (await drained(controller)).sent == 10
        assert server.taken == [f"e{number}" for number in range(10)]
        assert [text for _, text in controller.timeline.marks] == ["offline", "online"]

    in_virtual_time(main())


def test_what_keeps_draining_goes_on_when_the_network_is_back_and_when_something_is_enqueued() -> None:
    async def main() -> None:
        queue, server = await opened_with(3), Server(1.0)
        controller = controller_of(queue, server.send)
        await done(controller.switch(False))
        await done(controller.keep(True))
        state = await seen(controller, lambda state: state.mode == "offline")
        assert state.until_ms is not None
        await until(100)
        assert server.taken == []
        await done(controller.switch(True))
        back = now()
        await seen(controller, lambda state: state.sent == 3)
        assert now() - back < 4  # it was not waited for the end of the back-off
        await done(controller.enqueue("note", "{}"))
        await seen(controller, lambda state: state.sent == 4)
        await done(controller.keep(False))
        assert not (await idle(controller)).keeps

    in_virtual_time(main())


def test_keep_draining_can_be_switched_on_in_the_middle_of_a_pass() -> None:
    async def main() -> None:
        queue, server = await opened_with(3), Server(1.0)
        controller = controller_of(queue, server.send)
        await done(controller.drain())
        await done(controller.keep(True))
        await seen(controller, lambda state: state.sent == 3 and state.mode == "idle")
        await done(controller.enqueue("late", "1"))
        await seen(controller, lambda state: state.sent == 4)
        await done(controller.close())
        assert controller.state.mode == "closed"

    in_virtual_time(main())


def test_other_limits_hold_from_the_next_pass_on() -> None:
    async def main() -> None:
        queue, server = await opened_with(8), Server(1.0)
        controller = controller_of(queue, server.send)
        await done(controller.set_limits(concurrency=4))
        await drained(controller)
        assert server.most_at_once == 4
        await done(controller.keep(True))
        await done(controller.set_limits(max_attempts=1, concurrency=2))
        server.most_at_once = 0
        server.script["x-1"].append(OSError("bad"))
        await done(controller.enqueue("x", "0", 4))
        state = await seen(controller, lambda state: state.sent == 11)
        assert (state.parked, server.most_at_once) == (1, 2)
        await done(controller.set_limits(concurrency=0))
        assert "Limits: ValueError" in controller.state.error
        assert controller.state.concurrency == 2
        await done(controller.close())

    in_virtual_time(main())


def test_answers_get_lost_and_nothing_else_does() -> None:
    async def main() -> None:
        queue, server = await opened_with(300), Server(0.001)
        controller = controller_of(queue, server.send, seed=7)
        await done(controller.lose_answers(0.3))
        for _ in range(100):
            if not (await drained(controller)).counts.queued:
                break
        state = controller.state
        print(f"{state.lost} answers lost in {len(server.calls)} calls")
        assert state.lost > 50
        assert sorted(set(server.taken)) == sorted(f"e{number}" for number in range(300))
        assert len(server.taken) == 300 + state.lost
        assert (state.sent, state.counts.total) == (300, 0)
        await done(controller.lose_answers(1.5))
        assert "Lose answers: ValueError" in controller.state.error

    in_virtual_time(main())


async def test_failed_entries_are_retried_corrected_and_removed() -> None:
    queue, server = await opened_with(3), Server()
    for number in range(3):
        server.script[f"e{number}"].append(RejectedError("no"))
    controller = controller_of(queue, server.send)
    assert (await drained(controller)).counts.failed == 3
    await done(controller.select("e0"))
    assert controller.state.selected is not None
    assert controller.state.selected.parked
    assert "RejectedError: no" in controller.state.selected.reason
    await done(controller.edit("e0", '{"better": true}'))
    assert [(entry.id, entry.item, entry.attempts) for entry in queue.page(status="queued")] == [
        ("e0", {"better": True}, 0)
    ]
    await seen(controller, lambda state: state.selected is not None and state.selected.status == "queued")
    await done(controller.remove("e0"))
    await seen(controller, lambda state: state.selected is None)
    assert len(queue.get()) == 2
    await done(controller.remove("e0"))
    assert "Remove: ValueError" in controller.state.error
    await done(controller.retry_failed())
    assert states(queue) == [("e1", "queued", 0, False), ("e2", "queued", 0, False)]
    assert (await drained(controller)).sent == 2


async def test_only_a_parked_entry_is_corrected() -> None:
    queue = await opened_with(1)
    controller = controller_of(queue, Server().send)
    await done(controller.edit("e0", "1"))
    assert controller.state.error == "Save and requeue: ValueError: 'e0' is not parked (any more)"


async def test_entries_are_added_by_hand() -> None:
    queue = await opened_with(0)
    controller = controller_of(queue, Server().send)
    await done(controller.enqueue("note", '{"n": 1}', 3))
    await done(controller.enqueue("note-2", "2"))
    assert [(entry.id, entry.item) for entry in queue.get()] == [(f"note-{n}", {"n": 1}) for n in (1, 2, 3)]
    assert "3 entries were added." in said(controller)
    assert "0 entries were added; 1 were there already" in said(controller)
    await done(controller.enqueue("", "2"))
    assert "Add: ValueError" in controller.state.error


async def test_what_is_looked_at_closely_follows_the_entry() -> None:
    queue, server = await opened_with(1), Server()
    controller = controller_of(queue, server.send)
    await done(controller.select("e0"))
    assert controller.state.selected is not None
    assert controller.state.selected.item == "0"
    await drained(controller)
    state = await seen(controller, lambda state: state.selected is not None and state.selected.status == "gone")
    assert state.selected is not None
    assert not state.selected.parked


async def test_the_table_is_about_one_status_or_all() -> None:
    queue, server = await opened_with(4), Server()
    server.script["e1"].append(RejectedError("no"))
    controller = controller_of(queue, server.send, limit=2)
    await drained(controller)
    assert [entry.id for entry in controller.rows(0, 10)] == ["e1", "e2", "e3"]
    assert [entry.id for entry in controller.rows(1, 1)] == ["e2"]
    await done(controller.show_only("failed"))
    assert [entry.id for entry in controller.rows(0, 10)] == ["e1"]
    assert controller.state.shown == 1


async def test_commands_come_from_any_thread_and_any_loop(tmp_path: Path) -> None:
    queue, server = await opened_with(50, SQLiteCache(tmp_path / "outbox.db")), Server()
    controller = controller_of(queue, server.send)
    own = threading.get_ident()
    threads = set()
    controller.subscribe(lambda: threads.add(threading.get_ident()))

    def press(number: int) -> None:
        async def in_another_loop() -> None:
            assert threading.get_ident() != own
            controller.enqueue(f"t{number}", "{}")
            await asyncio.wrap_future(controller.drain())

        asyncio.run(in_another_loop())

    with ThreadPoolExecutor(8) as pool:
        await asyncio.gather(*(asyncio.get_running_loop().run_in_executor(pool, press, n) for n in range(40)))
    await idle(controller)
    await drained(controller)  # what was enqueued while the last pass ran
    assert queue.counts().total == 0
    assert threads == {own}
    assert sorted(server.taken) == sorted([f"e{n}" for n in range(50)] + [f"t{n}" for n in range(40)])
    await done(controller.close())
    await queue.close()


def test_two_panels_on_one_queue_see_the_same_and_send_nothing_twice() -> None:
    async def main() -> None:
        queue, server = await opened_with(40), Server(0.01)
        one, other = controller_of(queue, server.send), controller_of(queue, server.send)
        await done(one.drain())
        await done(other.drain())
        await idle(one)
        await idle(other)
        await asyncio.sleep(1)
        assert sorted(server.taken) == sorted(f"e{number}" for number in range(40))
        assert one.state.sent + other.state.sent == 40
        assert min(one.state.sent, other.state.sent) > 0
        assert one.state.counts == other.state.counts == (0, 0, 0, 0)
        assert one.timeline is other.timeline
        assert one.timeline.totals["sent"] == 40

    in_virtual_time(main())


def test_refused_credentials_pause_what_keeps_draining_until_it_is_resumed() -> None:
    async def main() -> None:
        queue, server = await opened_with(2), Server()
        server.for_all.append(AuthNeededError("the token has expired"))
        controller = controller_of(queue, server.send)
        await done(controller.keep(True))
        state = await seen(controller, lambda state: state.mode == "paused")
        assert "the token has expired" in state.reason
        await until(1000)
        assert len(server.calls) == 1
        await done(controller.resume())
        await seen(controller, lambda state: state.sent == 2)
        await done(controller.close())

    in_virtual_time(main())


async def test_a_drain_that_breaks_says_so_and_can_be_begun_again() -> None:
    queue, server = await opened_with(2), Server()
    server.for_all.append(ValueError("500"))

    def classify(error: BaseException) -> None:
        raise LookupError("no rule") from error

    controller = controller_of(queue, server.send, classify=classify)
    state = await drained(controller)
    assert "The drain ended: LookupError: no rule" in state.error
    assert (await drained(controller)).counts.total == 0


def test_a_queue_that_moves_on_ends_what_keeps_draining() -> None:
    async def main() -> None:
        queue, server = await opened_with(1), Server()
        controller = controller_of(queue, server.send)
        await done(controller.keep(True))
        await seen(controller, lambda state: state.sent == 1)
        await queue.hydrate("outbox.other")
        assert not (await idle(controller)).keeps

    in_virtual_time(main())


async def test_a_plain_send_runs_in_a_thread_and_the_loop_goes_on() -> None:
    queue, gate, threads = await opened_with(2), threading.Event(), set()

    def send(entry: OutboxEntry[Any]) -> None:
        threads.add(threading.get_ident())
        assert gate.wait(30)

    controller = controller_of(queue, send, concurrency=2)
    await done(controller.drain())
    await seen(controller, lambda state: state.counts.sending == 1)
    gate.set()
    assert (await idle(controller)).sent == 2
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(
    "options", [{"concurrency": 0}, {"max_attempts": "x"}, {"interval": -1}, {"limit": 0}, {"timeout": 0}, {"no": 1}]
)
async def test_unfit_options_are_refused_at_once(options: dict[str, Any]) -> None:
    queue = await opened_with(0)
    with pytest.raises((ValueError, TypeError)):
        controller_of(queue, Server().send, **options)


async def test_a_send_that_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="send is a function"):
        controller_of(await opened_with(0), "https://example.org")


async def test_a_closed_panel_drains_no_more_and_hears_no_more() -> None:
    queue, server = await opened_with(1), Server()
    controller = controller_of(queue, server.send)
    await done(controller.close())
    await done(controller.close())
    told: list[int] = []
    controller.subscribe(lambda: told.append(1))
    await queue.enqueue("late", 1)
    await asyncio.sleep(0)
    assert not told
    await done(controller.drain())
    await done(controller.keep(True))
    assert server.calls == []


def test_a_panel_on_a_blocking_outbox_lives_on_its_portal(tmp_path: Path) -> None:
    got: list[str] = []

    def send(entry: OutboxEntry[Any]) -> None:
        got.append(entry.id)

    with BlockingOutbox("me", tmp_path / "outbox.db") as outbox:
        outbox.enqueue_many([(f"e{number}", number) for number in range(20)])
        controller = PanelController(outbox.queue, send, loop=outbox.portal.loop)
        controller.drain().result(30)
        outbox.wait_for("e19", timeout=30)
        controller.stop().result(30)
        assert controller.state.sent == 20
        assert got == [f"e{number}" for number in range(20)]
        controller.close().result(30)
    controller.drain().result(30)  # the loop is gone: it says so, and nothing raises
    assert "the outbox was closed" in controller.state.error


def run_for_real(main: Coroutine[Any, Any, float]) -> float:
    return asyncio.run(main)


def test_what_changes_costs_next_to_nothing() -> None:
    """No assertion on time: the number of drawings is what does not depend on the machine."""

    async def main() -> float:
        queue = await opened_with(0)
        controller = controller_of(queue, Server().send)
        drawings: list[int] = []
        controller.subscribe(lambda: drawings.append(1))
        began = time.perf_counter()
        for number in range(20_000):
            controller._board.change(sent=number + 1)
            if number % 100 == 0:
                await asyncio.sleep(0)
        spent = time.perf_counter() - began
        await asyncio.sleep(0.2)
        assert controller.state.sent == 20_000
        assert len(drawings) <= 3 + UPDATES_PER_SECOND * (spent + 0.2)
        return spent

    print(f"20,000 changes took {run_for_real(main()):.2f} s")
