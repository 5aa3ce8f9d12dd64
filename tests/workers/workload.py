"""A random workload on one queue that reports each operation when it begins and when it is acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

from starfish_outbox import OutboxEntry, OutboxQueue, drain_outbox
from starfish_outbox.drain import DrainProgress
from tests.workers.stores import as_seen, faults, open_queue
from tests.workers.zygote import Wire

MAX_ATTEMPTS = 3
MOST_ENTRIES = 40


def item_of(id: str, padding: int) -> dict[str, Any]:
    """The item that belongs to this id, so that a reader can tell whether it is whole."""
    return {"id": id, "note": f"ü{id}\u2028", "padding": id * padding}


class Work:
    """Operations in random order, each between two lines on the wire.

    Attributes:
        failing: the share of sends that fail.
    """

    failing = 0.2

    def __init__(
        self, wire: Wire, queue: OutboxQueue[Any], rng: Random, *, padding: int = 1, early: bool = False
    ) -> None:
        self._wire = wire
        self._queue = queue
        self._rng = rng
        self._padding = padding
        self._early = early  # the broken variant: acknowledges before the change is durable
        self._next = max((int(entry.id) for entry in queue.get()), default=0) + 1

    async def step(self) -> None:
        """One operation, or several at once."""
        ids = [entry.id for entry in self._queue.get()]
        if len(ids) > MOST_ENTRIES or (ids and self._rng.random() < 0.2):
            await self.drain(self._rng.randint(1, 8) if len(ids) <= MOST_ENTRIES else None)
        elif not ids or self._rng.random() < 0.35:
            await self.enqueue(self._rng.choice((1, 1, 2, 5)))
        else:
            chosen = self._rng.sample(ids, min(len(ids), self._rng.choice((1, 1, 3))))
            await asyncio.gather(*(self.change(id) for id in chosen))

    async def enqueue(self, count: int) -> None:
        """New entries: one, several at once, or one list of them."""
        new = [f"{self._next + number:07}" for number in range(count)]
        self._next += count
        pairs = [(id, item_of(id, self._padding)) for id in new]
        if count == 5:
            await self.acknowledge("enqueue", new, lambda: self._queue.enqueue_many(pairs))
        else:
            calls = [partial(self._queue.enqueue, id, item) for id, item in pairs]
            await asyncio.gather(
                *(self.acknowledge("enqueue", [id], call) for id, call in zip(new, calls, strict=True))
            )

    async def change(self, id: str, name: str = "") -> None:
        """One of the operations by id."""
        name = name or self._rng.choice(["claim", "claim", "remove", "record_failure", "mark_failed", "retry", "again"])
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "claim": lambda: self._queue.claim(id),
            "remove": lambda: self._queue.remove(id),
            "record_failure": lambda: self._queue.record_failure(id, MAX_ATTEMPTS),
            "mark_failed": lambda: self._queue.mark_failed(id),
            "retry": lambda: self._queue.retry(id),
            "again": lambda: self._queue.enqueue(id, "another item"),
        }
        await self.acknowledge(name, [id], calls[name])

    async def drain(self, limit: int | None) -> None:
        """A pass whose sends do nothing, and fail now and then."""

        def send(entry: OutboxEntry[Any]) -> None:
            fails = self._rng.random() < self.failing
            self._wire.say("send", entry.id, "fails" if fails else "works")
            if fails:
                raise ValueError("refused by the workload")

        def settled(progress: DrainProgress) -> None:
            self._wire.say("settled", progress.id)

        async def run() -> int:
            return (
                await drain_outbox(self._queue, send, max_attempts=MAX_ATTEMPTS, limit=limit, on_progress=settled)
            ).sent

        await self.acknowledge("drain", [], run)

    async def acknowledge(self, name: str, ids: list[str], call: Callable[[], Awaitable[object]]) -> None:
        """Say that it begins, do it, say what it answered."""
        self._wire.say("begin", name, ids)
        if self._early and name in ("enqueue", "remove"):
            self._wire.say("done", name, ids, [True] * len(ids) if name == "enqueue" else None)
            await call()
        else:
            self._wire.say("done", name, ids, await call())


def run(wire: Wire, kind: str, where: str, seed: int, padding: int) -> None:
    """A worker: opens the queue, reports what it finds, and works until it is killed."""

    async def main() -> None:
        before = faults(kind, where) if kind.startswith("file") else []
        queue = await open_queue(kind.removesuffix(", early"), where)
        wire.say("opened", as_seen(queue), list(queue.status().set_aside), before + faults(kind, where))
        work = Work(wire, queue, Random(seed), padding=padding, early=kind.endswith(", early"))
        while True:
            await work.step()

    asyncio.run(main())
