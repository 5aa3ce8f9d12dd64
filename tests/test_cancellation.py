"""A drain struck at every step of the loop: cancelled once and twice, signed out, hydrated again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox import DrainResult, OutboxQueue, drain_outbox
from tests.reporting import report
from tests.scenario import IDS, Stage, states, sweep
from tests.stepping import the_loop

KINDS = ["memory", "file", "sqlite"]
SOME_ON_DISK = [("memory", 1), ("file", 3), ("sqlite", 3)]
"""Every step in memory, each third where a disk makes it slow."""
ENOUGH = 40
"""Steps that a drain of the three entries takes at least, on any cache: fewer, and the sweep missed something."""

Task = asyncio.Task[DrainResult]


@pytest.mark.parametrize("kind", KINDS)
def test_a_drain_cancelled_at_any_step_has_put_everything_back_when_it_returns(kind: str, tmp_path: Path) -> None:
    async def cancelled_at(stage: Stage, step: int) -> bool:
        queue = await stage.open()
        draining = asyncio.create_task(drain_outbox(queue, stage.remote.send))
        the_loop().strike({step: draining.cancel})
        try:
            await draining
        except asyncio.CancelledError:
            cancelled = True
        else:
            cancelled = False
        the_loop().strike({})
        assert queue.counts().sending == 0
        assert await stage.text() == states(queue)
        stage.nothing_is_lost(queue)
        assert sum(entry.attempts for entry in queue.get()) <= stage.remote.failures
        await stage.deliver_the_rest(queue)
        return cancelled

    points = sweep(kind, tmp_path, cancelled_at)
    report(f"{kind}: a drain was cancelled at {points} different steps", tmp_path)
    assert points >= ENOUGH


@pytest.mark.parametrize(("kind", "later"), [("memory", 1), ("memory", 2), ("memory", 4), ("file", 1), ("sqlite", 1)])
def test_a_second_cancellation_while_the_first_is_being_recorded_loses_nothing(
    kind: str, later: int, tmp_path: Path
) -> None:
    twice = 0

    async def cancelled_at(stage: Stage, step: int) -> bool:
        nonlocal twice
        queue = await stage.open()
        draining = asyncio.create_task(drain_outbox(queue, stage.remote.send))
        cancels: list[bool] = []

        def cancel() -> None:
            cancels.append(draining.cancel())

        the_loop().strike({step: cancel, step + later: cancel})
        try:
            await draining
        except asyncio.CancelledError:
            cancelled = True
        else:
            cancelled = False
        the_loop().strike({})
        twice += cancels == [True, True]
        stage.nothing_is_lost(queue)
        await stage.deliver_the_rest(queue)
        return cancelled

    points = sweep(kind, tmp_path, cancelled_at)
    report(f"{kind}: a drain was cancelled at {points} steps, {twice} of them again {later} later", tmp_path)
    assert points >= ENOUGH
    assert twice >= ENOUGH // 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_sign_out_at_any_step_starts_no_other_send_and_records_the_one_in_flight(kind: str, tmp_path: Path) -> None:
    async def signed_out_at(stage: Stage, step: int) -> bool:
        queue = await stage.open()
        asked_before: list[int] = []

        def sign_out() -> None:
            asked_before.append(stage.remote.asked)
            queue.clear()

        draining = asyncio.create_task(drain_outbox(queue, stage.remote.send))
        the_loop().strike({step: sign_out})
        result = await draining
        the_loop().strike({})
        if asked_before:
            assert stage.remote.asked == asked_before[0]
        assert result.sent == len(stage.remote.answered)
        assert {id for id, _, _ in await stage.text()} == {*IDS} - {*stage.remote.answered}
        await queue.hydrate(stage.key)
        assert queue.counts().sending == 0
        stage.nothing_is_lost(queue)
        await stage.deliver_the_rest(queue)
        assert stage.remote.delivered.count("plain") == stage.remote.delivered.count("fails once") == 1
        return bool(asked_before)

    points = sweep(kind, tmp_path, signed_out_at)
    report(f"{kind}: a sign-out in the middle of a drain at {points} different steps", tmp_path)
    assert points >= ENOUGH


@pytest.mark.parametrize(("kind", "every"), SOME_ON_DISK)
def test_a_second_hydrate_at_any_step_neither_loses_nor_doubles_anything(kind: str, every: int, tmp_path: Path) -> None:
    async def hydrated_at(stage: Stage, step: int) -> bool:
        queue = await stage.open()
        hydrating: list[asyncio.Task[None]] = []
        draining = asyncio.create_task(drain_outbox(queue, stage.remote.send))
        the_loop().strike({step: lambda: hydrating.append(asyncio.create_task(queue.hydrate(stage.key)))})
        result = await draining
        the_loop().strike({})
        struck = bool(hydrating)
        await asyncio.gather(*hydrating)
        assert (result.sent, result.left) == (2, 1)
        assert await stage.text() == states(queue) == [("fails once", "queued", 1)]
        await stage.deliver_the_rest(queue)
        assert sorted(stage.remote.delivered) == sorted([*IDS, "unanswered once"])
        return struck

    points = sweep(kind, tmp_path, hydrated_at, every=every)
    report(f"{kind}: the key was hydrated again at {points} different steps of a drain", tmp_path)
    assert points >= ENOUGH // every


@pytest.mark.parametrize(("kind", "every"), SOME_ON_DISK)
def test_an_enqueue_at_any_step_of_a_drain_is_stored_and_visible(kind: str, every: int, tmp_path: Path) -> None:
    async def enqueued_at(stage: Stage, step: int) -> bool:
        queue = await stage.open()
        other = OutboxQueue[Any](stage.cache)
        await other.hydrate(stage.key)
        adding: list[asyncio.Task[bool]] = []
        draining = asyncio.create_task(drain_outbox(queue, stage.remote.send))

        def enqueue() -> None:
            adding.append(asyncio.create_task(other.enqueue("late", 1)))
            adding.append(asyncio.create_task(queue.enqueue("later", 1)))

        the_loop().strike({step: enqueue})
        await draining
        the_loop().strike({})
        struck = bool(adding)
        assert all(await asyncio.gather(*adding))
        waiting = [id for id, _, _ in await stage.text()]
        assert sorted(waiting) == sorted(["fails once", *(["late", "later"] if struck else [])])
        assert [entry.id for entry in queue.get()] == [entry.id for entry in other.get()] == waiting
        await drain_outbox(queue, stage.remote.send)
        assert await stage.text() == states(queue) == states(other) == []
        await other.close()
        await queue.close()
        return struck

    points = sweep(kind, tmp_path, enqueued_at, every=every)
    report(f"{kind}: two queues enqueued at {points} different steps of a drain", tmp_path)
    assert points >= ENOUGH // every
