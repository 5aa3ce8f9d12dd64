"""Ctrl-C and exits: raised by send, raised between any two steps of the loop, and as real signals to a real process."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox import FileCache, OutboxEntry, OutboxQueue, SQLiteCache, drain_outbox
from tests import outbox_child
from tests.conftest import KEY
from tests.reporting import fresh_seed, report
from tests.scenario import Stage, cache_of, states
from tests.stepping import stepping, the_loop

KINDS = ["memory", "file", "sqlite"]
INTERRUPTS = [KeyboardInterrupt, SystemExit]
ROOT = Path(__file__).parents[1]


def closed(stage: Stage) -> None:
    if isinstance(stage.cache, FileCache | SQLiteCache):
        stage.cache.close()


@pytest.mark.parametrize("interrupt", INTERRUPTS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_raised_by_an_async_send_leaves_nothing_stuck_wherever_it_comes(
    kind: str, interrupt: type[BaseException], tmp_path: Path
) -> None:
    points = 0
    cache = cache_of(kind, tmp_path)
    for nth in range(1, 4):
        for wait in range(4):
            points += 1
            stage = Stage(cache, points)
            queue = asyncio.run(stage.open())

            async def send(entry: OutboxEntry[Any], stage: Stage = stage, nth: int = nth, wait: int = wait) -> None:
                mine = stage.remote.asked + 1 == nth
                sending = asyncio.ensure_future(stage.remote.send(entry))
                for _ in range(wait if mine else 0):
                    await asyncio.sleep(0)
                if mine:
                    sending.cancel()
                    raise interrupt
                await sending

            with pytest.raises(interrupt):
                asyncio.run(drain_outbox(queue, send))
            assert {status for _, status, _ in asyncio.run(stage.text())} == {"queued"}
            stage.nothing_is_lost(queue)
            asyncio.run(stage.deliver_the_rest(queue))
    report(f"{kind}: {interrupt.__name__} out of an async send at {points} places", tmp_path)
    assert points == 12
    closed(stage)


@pytest.mark.parametrize("interrupt", INTERRUPTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("taken", [False, True], ids=["before it is taken", "after it is taken"])
def test_an_interrupt_raised_by_a_plain_send_puts_the_entry_back_as_maybe_sent(
    kind: str, interrupt: type[BaseException], taken: bool, tmp_path: Path
) -> None:
    cache = cache_of(kind, tmp_path)
    for nth in range(1, 4):
        stage = Stage(cache, nth)
        queue = asyncio.run(stage.open())
        order: list[str] = []

        def send(entry: OutboxEntry[Any], stage: Stage = stage, nth: int = nth, order: list[str] = order) -> None:
            order.append(entry.id)
            if len(order) < nth or taken:
                stage.remote.take(entry)
            if len(order) == nth:
                raise interrupt

        if taken:
            stage.remote.failures = 1  # it takes each at once
        with pytest.raises(interrupt):
            asyncio.run(drain_outbox(queue, send))
        interrupted = order[-1]
        assert all(status == "queued" for _, status, _ in asyncio.run(stage.text()))
        assert [e.id for e in queue.get() if e.maybe_sent_ms is not None] == [interrupted]
        stage.nothing_is_lost(queue)
        asyncio.run(stage.deliver_the_rest(queue))
    closed(stage)


@pytest.mark.parametrize(("kind", "every"), [("memory", 1), ("file", 2), ("sqlite", 2)])
def test_ctrl_c_between_any_two_steps_of_the_loop_loses_nothing(kind: str, every: int, tmp_path: Path) -> None:
    """What a program sees that has no handler: the loop stops, its tasks are cancelled, and ``asyncio.run`` is over."""
    cache = cache_of(kind, tmp_path)
    points = 0

    def ctrl_c() -> None:
        raise KeyboardInterrupt

    for step in range(1, 1000, every):
        stage = Stage(cache, step)
        queue = asyncio.run(stage.open())

        async def drain(step: int = step, stage: Stage = stage, queue: OutboxQueue[Any] = queue) -> None:
            the_loop().strike({step: ctrl_c})
            await drain_outbox(queue, stage.remote.send)
            the_loop().strike({})

        try:
            stepping(drain())
        except KeyboardInterrupt:
            struck = True
        else:
            struck = False

        async def go_on(stage: Stage = stage, queue: OutboxQueue[Any] = queue) -> None:
            await queue.refresh()
            assert await stage.text() == states(queue) or queue.counts().sending == 0
            stage.nothing_is_lost(queue)
            await stage.deliver_the_rest(queue)

        asyncio.run(go_on())
        if not struck:
            break
        points += 1
    report(f"{kind}: Ctrl-C between two steps of a drain at {points} of them", tmp_path)
    assert points >= 40 // every
    closed(stage)


@pytest.mark.parametrize("what", ["drain", "drain_plainly"])
@pytest.mark.parametrize("store", ["file", "sqlite"])
def test_a_real_sigint_under_asyncio_run_loses_nothing_and_doubles_nothing_unsaid(
    store: str, what: str, tmp_path: Path
) -> None:
    seed = fresh_seed()
    chance, hits, in_flight, rounds = random.Random(seed), 0, 0, 4
    for n in range(rounds):
        path, log = tmp_path / f"{store}{n}", tmp_path / f"remote{n}"
        ids = [f"e{m}" for m in range(80)]
        queue = OutboxQueue[Any](outbox_child.cache_of(store, path))
        asyncio.run(filled(queue, ids))
        with subprocess.Popen(
            [sys.executable, "-m", "tests.outbox_child", store, str(path), what, str(log)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "draining\n"
            time.sleep(chance.uniform(0, 0.15))  # a moment is what is sampled here
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        hits += process.returncode != 0
        delivered = log.read_text("utf-8").split("\n")[:-1] if log.exists() else []
        left = asyncio.run(finish(store, path, log))
        in_flight += any(maybe for _, maybe in left)
        assert {line.split()[0] for line in delivered} | {id for id, _ in left} == set(ids)
        every = log.read_text("utf-8").split("\n")[:-1]
        assert {line.split()[0] for line in every} == set(ids)
        firsts = [line.split()[0] for line in every if line.endswith("first")]
        assert len(firsts) == len(set(firsts))
        assert len(every) - len(ids) <= 1  # a drain has one entry in flight
    report(f"{store}, {what}: {hits} of {rounds} SIGINTs struck a drain, {in_flight} a send (seed {seed})", tmp_path)
    assert hits >= 1


async def filled(queue: OutboxQueue[Any], ids: list[str]) -> None:
    async with queue:
        await queue.hydrate(KEY)
        await queue.enqueue_many([(id, 1) for id in ids])


async def finish(store: str, path: Path, log: Path) -> list[tuple[str, bool]]:
    """What was left (and whether it said that it may be sent), delivered now."""
    async with OutboxQueue[Any](outbox_child.cache_of(store, path)) as queue:
        await queue.hydrate(KEY)
        assert queue.counts().sending == 0  # the owner is gone
        left = [(entry.id, entry.maybe_sent_ms is not None) for entry in queue.get()]
        await drain_outbox(queue, lambda entry: outbox_child.deliver(log, entry))
        assert queue.get() == []
        return left
