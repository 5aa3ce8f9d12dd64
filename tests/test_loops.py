"""One queue over several event loops, one after the other; several loops and threads on one store."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox import (
    CacheWriteError,
    FileCache,
    LocalCache,
    OutboxEntry,
    OutboxQueue,
    SQLiteCache,
    drain_outbox,
)
from tests.conftest import KEY, Place
from tests.gates import GatedCache, ids, short
from tests.scenario import Stage, cache_of

KINDS = ["memory", "file", "sqlite"]


def closed(cache: LocalCache) -> None:
    if isinstance(cache, FileCache | SQLiteCache):
        cache.close()


def test_a_queue_and_its_cache_are_made_with_no_loop_running(place: Place) -> None:
    queue = OutboxQueue[Any](place.cache)
    assert (queue.get(), queue.pending(), queue.counts().total, queue.status().key) == ([], [], 0, None)
    queue.subscribe(lambda: None)()
    queue.clear()


def test_two_runs_one_after_the_other_use_one_queue(place: Place) -> None:
    queue, sent = OutboxQueue[Any](place.cache), list[str]()

    async def collect() -> None:
        await queue.hydrate(KEY)
        await queue.enqueue_many([("a", 1), ("b", 2)])
        assert await queue.claim("b")

    async def send(entry: OutboxEntry[Any]) -> None:
        await asyncio.sleep(0)
        sent.append(entry.id)

    asyncio.run(collect())
    assert [(entry.id, entry.status) for entry in queue.get()] == [("a", "queued"), ("b", "sending")]
    assert asyncio.run(queue.enqueue("c", 3))
    assert asyncio.run(queue.enqueue("c", 3)) is False
    assert asyncio.run(drain_outbox(queue, send)).sent == 2
    asyncio.run(queue.remove("b"))
    assert (sent, queue.get()) == (["a", "c"], [])
    assert asyncio.run(place.text(KEY)) == "[]"
    asyncio.run(queue.close())


def test_a_listener_hears_changes_of_every_run(place: Place) -> None:
    queue, heard = OutboxQueue[Any](place.cache), list[int]()
    queue.subscribe(lambda: heard.append(queue.counts().total))
    asyncio.run(queue.hydrate(KEY))
    asyncio.run(queue.enqueue("a", 1))
    asyncio.run(queue.enqueue("b", 1))
    assert heard[-2:] == [1, 2]
    asyncio.run(queue.close())


@pytest.mark.parametrize("kind", KINDS)
def test_a_drain_in_the_background_when_asyncio_run_ends_leaves_nothing_stuck(kind: str, tmp_path: Path) -> None:
    cache = cache_of(kind, tmp_path)
    stages = 0
    for rounds in range(0, 60, 2 if kind == "memory" else 6):
        stages += 1
        stage = Stage(cache, rounds)

        background: list[asyncio.Task[Any]] = []

        async def leave_it_running(
            stage: Stage = stage, rounds: int = rounds, background: list[asyncio.Task[Any]] = background
        ) -> OutboxQueue[Any]:
            queue = await stage.open()
            background.append(asyncio.create_task(drain_outbox(queue, stage.remote.send)))
            for _ in range(rounds):
                await asyncio.sleep(0)
            return queue

        queue = asyncio.run(leave_it_running())
        assert background[0].done()

        async def go_on(stage: Stage = stage, queue: OutboxQueue[Any] = queue) -> None:
            await queue.refresh()
            assert queue.counts().sending == 0
            stage.nothing_is_lost(queue)
            await stage.deliver_the_rest(queue)

        asyncio.run(go_on())
    assert stages >= 10
    closed(cache)


def test_an_enqueue_in_the_background_when_asyncio_run_ends_is_stored_or_can_be_tried_again(place: Place) -> None:
    queue = OutboxQueue[Any](place.cache)
    asyncio.run(queue.hydrate(KEY))
    for rounds in range(8):
        background: list[asyncio.Task[bool]] = []

        async def leave_it_running(rounds: int = rounds, background: list[asyncio.Task[bool]] = background) -> None:
            background.append(asyncio.create_task(queue.enqueue(f"e{rounds}", 1)))
            for _ in range(rounds):
                await asyncio.sleep(0)

        asyncio.run(leave_it_running())
        (task,) = background
        acknowledged = not task.cancelled() and task.exception() is None
        again = asyncio.run(queue.enqueue(f"e{rounds}", 1))
        assert not (acknowledged and again)
        assert [entry.id for entry in queue.get()] == ids(asyncio.run(place.text(KEY)))
    assert ids(asyncio.run(place.text(KEY))) == [f"e{n}" for n in range(8)]
    asyncio.run(queue.close())


def test_a_write_that_was_under_way_when_a_run_ended_holds_up_no_later_run() -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache)

    async def first() -> None:
        await queue.hydrate(KEY)
        gate = cache.hold("set")
        tasks.append(asyncio.create_task(queue.enqueue("a", 1)))
        await gate.reached()

    async def second() -> None:
        async with asyncio.timeout(10):
            assert await queue.enqueue("b", 1)
            await queue.enqueue("a", 1)

    tasks: list[asyncio.Task[bool]] = []
    asyncio.run(first())
    assert tasks[0].done()
    asyncio.run(second())
    assert sorted(ids(cache.texts[KEY])) == ["a", "b"]
    assert [entry.id for entry in queue.get()] == ids(cache.texts[KEY])


def test_a_loop_closed_with_a_write_under_way_holds_up_no_later_loop() -> None:
    """Not asyncio.run, which cancels what is left, but a loop of one's own that is closed over it."""
    cache = GatedCache()
    queue = OutboxQueue[Any](cache)
    errors: list[dict[str, Any]] = []

    async def first() -> None:
        await queue.hydrate(KEY)
        gate = cache.hold("set")
        tasks.append(asyncio.ensure_future(queue.enqueue("a", 1)))
        await gate.reached()

    async def second() -> None:
        async with asyncio.timeout(10):
            assert await queue.enqueue("b", 1)
            await queue.enqueue("a", 1)

    tasks: list[asyncio.Future[bool]] = []
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context))  # "Task was destroyed but it is pending!"
    loop.run_until_complete(first())
    loop.close()
    asyncio.run(second())
    assert sorted(ids(cache.texts[KEY])) == ["a", "b"]


async def test_a_second_live_loop_in_another_thread_is_refused_and_the_first_goes_on(place: Place) -> None:
    queue = OutboxQueue[Any](place.cache)
    await queue.hydrate(KEY)
    refused: list[str] = []

    async def elsewhere() -> None:
        for call in (
            queue.enqueue("b", 1),
            queue.enqueue_many([("b", 1)]),
            queue.claim("a"),
            queue.remove("a"),
            queue.refresh(),
            queue.hydrate(KEY),
            queue.hydrate("outbox.bo"),
            drain_outbox(queue, lambda _: None),
        ):
            try:
                await call
            except RuntimeError as error:
                refused.append(str(error))

    await queue.enqueue("a", 1)
    await asyncio.to_thread(asyncio.run, elsewhere())
    assert len(refused) == 8
    assert all("another event loop" in message for message in refused)
    assert [(entry.id, entry.status) for entry in queue.get()] == [("a", "queued")]
    assert await queue.enqueue("b", 1)
    assert short(await place.text(KEY)) == ["a:queued", "b:queued"]
    await queue.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_thread_with_its_own_queue_sees_and_is_seen(kind: str, tmp_path: Path) -> None:
    cache = cache_of(kind, tmp_path)
    mine = OutboxQueue[Any](cache)
    await mine.hydrate(KEY)
    await mine.enqueue("a", 1)
    answers: list[Any] = []

    async def elsewhere() -> None:
        async with OutboxQueue[Any](cache) as theirs:
            await theirs.hydrate(KEY)
            answers.append([entry.id for entry in theirs.get()])
            answers.append(await theirs.enqueue("b", 2))
            answers.append(await theirs.claim("a"))
            await asyncio.to_thread(asked.wait, 10)
            answers.append([entry.id for entry in theirs.get()])

    asked = threading.Event()
    heard = asyncio.Event()
    mine.subscribe(lambda: heard.set() if mine.counts() == (1, 1, 0, 0) else None)
    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    async with asyncio.timeout(10):
        await heard.wait()
    assert not await mine.claim("a")
    assert await mine.enqueue("c", 3)
    asked.set()
    await asyncio.to_thread(thread.join, 10)
    assert answers == [["a"], True, True, ["a", "b", "c"]]
    await mine.refresh()
    assert [(entry.id, entry.status) for entry in mine.get()] == [("a", "queued"), ("b", "queued"), ("c", "queued")]
    await mine.close()
    closed(cache)


@pytest.mark.parametrize("kind", KINDS)
def test_drains_in_four_threads_send_each_entry_once(kind: str, tmp_path: Path) -> None:
    cache, sent, lock = cache_of(kind, tmp_path), list[str](), threading.Lock()
    queue = OutboxQueue[Any](cache)

    async def fill() -> None:
        await queue.hydrate(KEY)
        await queue.enqueue_many([(f"e{n}", n) for n in range(60)])

    async def work() -> None:
        async with OutboxQueue[Any](cache) as own:
            await own.hydrate(KEY)

            async def send(entry: OutboxEntry[Any]) -> None:
                await asyncio.sleep(0)
                with lock:
                    sent.append(entry.id)

            results.append((await drain_outbox(own, send)).sent)

    results: list[int] = []
    asyncio.run(fill())
    threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(sent) == sorted(f"e{n}" for n in range(60))
    assert sum(results) == 60
    assert asyncio.run(drain_outbox(queue, lambda _: None)).left == 0
    assert queue.get() == []
    asyncio.run(queue.close())
    closed(cache)


async def test_a_hydrate_while_another_queue_commits_shows_what_was_committed(place: Place) -> None:
    """Two tasks of one loop; the answer of a store's thread may come in two rounds of the loop."""
    first, second = OutboxQueue[Any](place.cache), OutboxQueue[Any](place.cache)
    await first.hydrate(KEY)
    await second.hydrate(KEY)
    for n in range(20):
        busy = n / 2000
        hydrating = asyncio.create_task(first.hydrate(KEY))
        adding = asyncio.create_task(second.enqueue(f"e{n}", n))
        for _ in range(n % 5):
            await asyncio.sleep(0)
        threading.Event().wait(busy)  # a callback that keeps the loop busy for a while
        await asyncio.gather(hydrating, adding)
        assert [entry.id for entry in first.get()] == ids(await place.text(KEY))
    await first.close()
    await second.close()


async def test_a_queue_that_was_closed_can_be_hydrated_again_and_its_changes_are_refused_before(place: Place) -> None:
    queue = OutboxQueue[Any](place.cache)
    await queue.hydrate(KEY)
    await queue.enqueue("a", 1)
    await queue.close()
    await queue.close()
    assert queue.get() == []
    with pytest.raises(RuntimeError):
        await queue.enqueue("b", 1)
    await queue.hydrate(KEY)
    assert await queue.enqueue("b", 1)
    await queue.close()


async def test_an_interrupted_flush_fails_who_waits_and_the_next_starts_anew() -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)
    cache.fail("set", asyncio.CancelledError())
    with pytest.raises(CacheWriteError, match=r"interrupted|could not store"):
        await asyncio.wait_for(queue.enqueue("a", 1), 10)
    assert queue.get() == []
    assert await queue.enqueue("a", 1)
    assert ids(cache.texts[KEY]) == ["a"]
