"""Processes that own something: a claim, a file, or what a fork gave them."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
from pathlib import Path
from typing import Any

from starfish_outbox import (
    CacheError,
    FileCache,
    OutboxEntry,
    OutboxQueue,
    QueueLockedError,
    drain_outbox,
    open_outbox,
)
from tests.workers.stores import KEY, KINDS, make_cache, open_queue
from tests.workers.zygote import Wire


def states(queue: OutboxQueue[Any]) -> dict[str, str]:
    """Id and status of every entry, and a ``+`` where it may have been sent."""
    return {e.id: e.status + ("+" if e.maybe_sent_ms is not None else "") for e in queue.get()}


def send_when_told(wire: Wire, kind: str, where: str) -> None:
    """Claims the oldest entry by a drain and holds it: the send ends when the test says so."""

    def send(entry: OutboxEntry[Any]) -> None:
        wire.say("sending", entry.id)
        wire.hear()

    async def main() -> None:
        queue = await open_queue(kind, where)
        result = await drain_outbox(queue, send, limit=1)
        wire.say("sent", result.sent, result.superseded, states(queue))

    asyncio.run(main())


def obey(wire: Wire, kind: str, where: str) -> None:
    """Opens the queue and does, order by order, what the test wants; answers each."""

    async def main() -> None:
        queue: OutboxQueue[Any] = OutboxQueue(make_cache(kind, where))
        sent: list[str] = []
        wire.say("ready")
        while True:
            match wire.hear():
                case "open":
                    try:
                        await queue.hydrate(KEY)
                        wire.say("open", states(queue))
                    except QueueLockedError as error:
                        wire.say("locked", error.owner, str(error))
                    except CacheError as error:
                        wire.say("failed", type(error).__name__, str(error))
                case "refresh":
                    await queue.refresh()
                    wire.say("seen", states(queue))
                case "drain":
                    sent.clear()
                    await drain_outbox(queue, lambda entry: sent.append(entry.id))
                    wire.say("sent", list(sent), states(queue))
                case ["claim", id]:
                    wire.say("claimed", await queue.claim(id))
                case ["enqueue", ids]:
                    wire.say("enqueued", [await queue.enqueue(id, {"id": id}) for id in ids])
                case "close":
                    await queue.close()
                    wire.say("closed")
                case order:
                    raise AssertionError(order)

    asyncio.run(main())


def fork_with_open_queue(wire: Wire, kind: str, where: str) -> None:
    """Opens a queue, claims ``a`` and forks; the child tries what it inherited, ends, and then the parent goes on."""
    queue = asyncio.run(_open_and_claim(kind, where))
    wire.say("parent", os.getpid(), states(queue))
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(_as_child(wire, queue, kind, where))
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    wire.say("child has ended")
    wire.hear()
    wire.say("parent enqueued", asyncio.run(queue.enqueue("of the parent", 1)))
    wire.hear()


async def _open_and_claim(kind: str, where: str) -> OutboxQueue[Any]:
    queue = await open_queue(kind, where)
    for id in ("a", "b"):
        await queue.enqueue(id, 1)
    await queue.claim("a")
    return queue


async def _as_child(wire: Wire, queue: OutboxQueue[Any], kind: str, where: str) -> None:
    answers: list[object] = []
    for call in (queue.refresh, lambda: queue.claim("a"), lambda: queue.enqueue("of the child", 1)):
        try:
            answers.append(await call())
        except CacheError as error:
            answers.append(type(error).__name__)
    wire.say("inherited", answers, states(queue))
    try:
        fresh = await open_queue(kind, where)
    except QueueLockedError as error:
        wire.say("locked", error.owner)
    else:
        sent: list[str] = []
        await drain_outbox(fresh, lambda entry: sent.append(entry.id))
        wire.say("reopened", sent, states(fresh))


def fork_amid_a_transaction(wire: Wire, kind: str, where: str) -> None:
    """Forks again and again while the store's thread writes; each child must be able to write at once."""

    async def child_writes(number: int) -> None:
        queue = await open_queue(kind, where)
        wire.say("child", number, await queue.enqueue(f"child {number}", 1))

    async def main() -> None:
        queue = await open_queue(kind, where)
        for number in range(8):
            pairs = [(f"{number} {n}", n) for n in range(1500)]
            writing = asyncio.create_task(queue.enqueue_many(pairs))
            await asyncio.sleep(0.001 * number)  # somewhere in the transaction
            busy = not writing.done()
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    asyncio.run(child_writes(number))
                    status = 0
                finally:
                    os._exit(status)
            wire.say("forked", busy)
            assert all(await writing)
            assert (await asyncio.to_thread(os.waitpid, child, 0))[1] == 0
        await queue.refresh()
        wire.say("end", queue.counts().total)

    asyncio.run(main())


def orphan(wire: Wire, kind: str, where: str) -> None:
    """Claims ``a``, forks and waits to be killed; the child, told to, looks whether the claim is free."""
    queue = asyncio.run(_open_and_claim(kind, where))
    if os.fork() == 0:
        wire.say("child", os.getpid())
        wire.hear()

        async def look() -> None:
            queue = await open_queue(kind, where)
            wire.say("child sees", states(queue))

        asyncio.run(look())
        os._exit(0)
    wire.say("parent", states(queue))
    os.waitpid(-1, 0)


def modes(wire: Wire, where: str, umask: int) -> None:
    """Makes an outbox of each kind under a umask; reports the mode of every file and directory while they are open."""
    os.umask(umask)

    async def main() -> None:
        for kind in KINDS:
            folder = Path(where) / kind / "made" / "on the way"
            cache = open_outbox("ana", f"{folder}/outbox.db" if kind == "sqlite" else f"{folder}/")
            queue = await cache
            await queue.enqueue("a", 1)
            _KEPT.append(queue)
        texts = FileCache(Path(where) / "texts")
        await texts.set_item(KEY, "[1]")
        queue = OutboxQueue(texts)
        await queue.hydrate(KEY)
        _KEPT.append(queue)
        wire.say(*((str(path.relative_to(where)), path.stat().st_mode & 0o777) for path in Path(where).rglob("*")))

    asyncio.run(main())


_KEPT: list[OutboxQueue[Any]] = []


def peek(wire: Wire, where: str) -> None:
    """Enqueues while another connection of this process reads, closes and opens again."""

    async def main() -> None:
        queue = await open_queue("sqlite", where)
        acknowledged = []
        for number in range(40):
            ids = [f"{number:02}.{n}" for n in range(5)]
            writing = asyncio.create_task(queue.enqueue_many([(id, 1) for id in ids]))
            await asyncio.sleep(0)
            other = sqlite3.connect(f"{where}/outbox.db")
            wire.say("counted", other.execute("SELECT count(*) FROM entries").fetchone()[0])
            await writing
            acknowledged += ids
            other.close()
        wire.say("peeked", acknowledged)
        wire.hear()

    asyncio.run(main())


def come_and_go(wire: Wire, where: str, name: str, times: int) -> None:
    """Opens the outbox, enqueues one entry, closes queue and cache; again and again."""

    async def main() -> None:
        wire.say("ready")
        wire.hear()
        for number in range(times):
            async with open_outbox("ana", f"{where}/outbox.db") as queue:
                assert await queue.enqueue(f"{name} {number}", 1)
                await queue.claim(f"{name} {number}")
        wire.say("done")

    asyncio.run(main())


def drop(wire: Wire, kind: str, where: str) -> None:
    """Opens a queue and claims ``a``, drops the queue without a word, and opens another; without help from the GC."""
    gc.disable()
    asyncio.run(_open_and_claim(kind, where))

    async def look() -> None:
        queue = await open_queue(kind, where)
        wire.say("after", states(queue))

    asyncio.run(look())
