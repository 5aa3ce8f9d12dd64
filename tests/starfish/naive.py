"""The control: the published outbox and SDK, and the least that a program does with them.

Operations as in ``device.py``. The queue lies in one JSON file, which is replaced at each change. Nothing of this
checkout can be imported here, so what it shares with ``device.py`` it has once more.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx
from starfish_sdk import StarfishClient

from starfish_outbox import OutboxQueue, drain_outbox


class OneFile:
    """The cache that the published queue asks for."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    async def get_item(self, key: str) -> str | None:
        return self.path.read_text("utf-8") if self.path.exists() else None

    async def set_item(self, key: str, value: str) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(value, "utf-8")
        os.replace(fresh, self.path)  # noqa: PTH105  # the same in fewer words

    async def remove_item(self, key: str) -> None:
        self.path.unlink(missing_ok=True)


class Counting(httpx.AsyncHTTPTransport):
    """httpx's own way to the network; counts the requests that are tried."""

    tried = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.tried += 1
        return await super().handle_async_request(request)


class Naive:
    """One process of a user of the published packages."""

    async def where(self) -> dict[str, Any]:
        import starfish_outbox

        return {"outbox": starfish_outbox.__file__}

    async def make(self, name: str, kind: str, url: str, path: str) -> None:
        self.transport = Counting()
        self.client = StarfishClient(url, client=httpx.AsyncClient(transport=self.transport, trust_env=False))
        self.kind, self.path = kind, path

    async def send(self, entry: Any) -> None:
        path = self.path.replace("{id}", entry.id)
        if self.kind == "append":
            await self.client.append(path, entry.item)
        elif self.kind == "push":
            await self.client.push(path, entry.item, None)
        else:  # one document for all: on the version that is there at this moment
            base = (await self.client.pull(path.replace("/push/", "/pull/"))).hash
            await self.client.push(path, entry.item, base)

    async def open(self, path: str) -> int:
        self.queue: OutboxQueue[Any] = OutboxQueue(OneFile(path))
        await self.queue.hydrate("outbox.ana")
        return len(self.queue.get())

    async def enqueue(self, pairs: list[tuple[str, Any]]) -> int:
        for id, item in pairs:
            await self.queue.enqueue(id, item)
        return len(pairs)

    async def drain(self, name: str) -> dict[str, Any]:
        before = self.transport.tried
        await drain_outbox(self.queue, self.send)
        entries = self.queue.get()
        return {
            "queued": [entry.id for entry in entries if entry.status != "failed"],
            "parked": [entry.id for entry in entries if entry.status == "failed"],
            "calls": self.transport.tried - before,
        }


async def answer(target: object) -> None:
    """Answers questions until the input ends."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        question = json.loads(line)
        said = await getattr(target, question.pop("op"))(**question)
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(answer(Naive()))
