"""A process that enqueues a newer item while it sends the older one, and never comes to an end."""

from __future__ import annotations

import asyncio
from typing import Any

from starfish_outbox import OutboxEntry, drain_outbox
from tests.workers.stores import open_queue
from tests.workers.zygote import Wire


def replace_and_hang(wire: Wire, kind: str, where: str) -> None:
    async def main() -> None:
        queue = await open_queue(kind, where)
        await queue.enqueue("a", {"v": 1})

        async def send(entry: OutboxEntry[Any]) -> None:
            wire.say("replaced", await queue.enqueue("a", {"v": 2}, on_duplicate="replace"))
            await asyncio.Event().wait()

        await drain_outbox(queue, send)

    asyncio.run(main())
