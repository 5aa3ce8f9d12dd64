"""Single calls (enqueue, claim, hydrate, remove) cancelled at every step of the loop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox import OutboxQueue
from tests.reporting import report
from tests.scenario import IDS, Stage, states, sweep
from tests.stepping import the_loop

KINDS = ["memory", "file", "sqlite"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_enqueue_cancelled_at_any_step_is_stored_or_not_and_can_be_tried_again(kind: str, tmp_path: Path) -> None:
    async def scenario(stage: Stage, step: int) -> bool:
        queue = await stage.open(IDS[:1])
        task = asyncio.create_task(queue.enqueue("new", {"n": 1}))
        cancelled = await struck(task, step)
        again = await queue.enqueue("new", {"n": 1})
        assert again or not cancelled or states(queue)[1:] == [("new", "queued", 0)]
        assert await stage.text() == states(queue) == [("plain", "queued", 0), ("new", "queued", 0)]
        await queue.close()
        return cancelled

    points = sweep(kind, tmp_path, scenario)
    report(f"{kind}: an enqueue was cancelled at {points} different steps", tmp_path)
    assert points >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_claim_cancelled_at_any_step_leaves_the_entry_to_be_claimed(kind: str, tmp_path: Path) -> None:
    async def scenario(stage: Stage, step: int) -> bool:
        queue = await stage.open(IDS[:1])
        task = asyncio.create_task(queue.claim("plain"))
        cancelled = await struck(task, step)
        assert await queue.claim("plain") is cancelled
        assert await stage.text() == states(queue) == [("plain", "sending", 0)]
        await queue.remove("plain")
        await queue.close()
        return cancelled

    points = sweep(kind, tmp_path, scenario)
    report(f"{kind}: a claim was cancelled at {points} different steps", tmp_path)
    assert points >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_hydrate_cancelled_at_any_step_gives_the_key_back(kind: str, tmp_path: Path) -> None:
    async def scenario(stage: Stage, step: int) -> bool:
        first = await stage.open(IDS[:1])
        await first.close()
        queue = OutboxQueue[Any](stage.cache)
        cancelled = await struck(asyncio.create_task(queue.hydrate(stage.key)), step)
        assert (queue.status().key is None) is cancelled
        await queue.close()
        text = await stage.cache.get_item(stage.key)
        assert text is not None
        await stage.cache.set_item(stage.key, text)  # refused while a queue has it open
        await queue.hydrate(stage.key)
        assert states(queue) == [("plain", "queued", 0)]
        assert await queue.enqueue("new", 1)
        await queue.close()
        return cancelled

    points = sweep(kind, tmp_path, scenario)
    report(f"{kind}: a hydrate was cancelled at {points} different steps", tmp_path)
    assert points >= 1


async def struck(task: asyncio.Task[Any], step: int) -> bool:
    the_loop().strike({step: task.cancel})
    try:
        await task
    except asyncio.CancelledError:
        return True
    finally:
        the_loop().strike({})
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_a_removal_cancelled_at_any_step_happened_or_can_be_tried_again(kind: str, tmp_path: Path) -> None:
    async def scenario(stage: Stage, step: int) -> bool:
        queue = await stage.open(IDS[:2])
        cancelled = await struck(asyncio.create_task(queue.remove("plain")), step)
        await queue.refresh()
        assert await stage.text() == states(queue)
        await queue.remove("plain")
        assert await stage.text() == states(queue) == [("fails once", "queued", 0)]
        await queue.close()
        return cancelled

    points = sweep(kind, tmp_path, scenario)
    report(f"{kind}: a removal was cancelled at {points} different steps", tmp_path)
    assert points >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_close_cancelled_at_any_step_still_gives_the_key_back(kind: str, tmp_path: Path) -> None:
    async def scenario(stage: Stage, step: int) -> bool:
        queue = await stage.open(IDS[:1])
        adding = asyncio.create_task(queue.enqueue("new", 1))
        await asyncio.sleep(0)
        began: list[int] = []

        async def close() -> None:
            began.append(step)
            await queue.close()

        cancelled = await struck(asyncio.create_task(close()), step)
        assert await adding
        if not began:
            await queue.close()
        assert queue.status().key is None
        again = OutboxQueue[Any](stage.cache)
        await again.hydrate(stage.key)
        assert states(again) == [("plain", "queued", 0), ("new", "queued", 0)]
        await again.close()
        return cancelled

    points = sweep(kind, tmp_path, scenario)
    report(f"{kind}: a close was cancelled at {points} different steps", tmp_path)
    assert points >= 1
