"""A real server and real clients of it, for tests of one send at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.starfish.environment import ROOT, Program


class Bench:
    """A server that is up, a device with this package's senders, another device, and names that nobody used before.

    Attributes:
        url: of the server.
        port: of the server.
        identity: whose path ``/push/mine/…`` is.
    """

    def __init__(self, device: Program, other: Program, port: int) -> None:
        self.device = device
        self.other = other
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        where = device.ask_now("where")
        assert where["outbox"] == str(ROOT / "starfish_outbox/__init__.py"), "this package, beside the published SDK"
        self.identity = where["identity"]
        self._numbers = itertools.count()
        other.ask_now("make", name="other", kind="push", url=self.url, path="/push/obs/{id}")

    def fresh(self) -> str:
        """An id."""
        return f"n{next(self._numbers)}"

    async def sender(self, kind: str, path: str, *, url: str | None = None, **options: Any) -> Sender:
        """A sender of the device."""
        name = self.fresh()
        await self.device.ask("make", name=name, kind=kind, url=url or self.url, path=path, **options)
        return Sender(self.device, name)

    async def others_push(self, path: str, data: Any) -> str:
        """Another device writes a document; its hash."""
        there = (await self.document(path)) or None
        base = there and await self.other.ask("hash", data=there)
        return str(await self.other.ask("push", name="other", path=path, data=data, base=base))

    async def others_append(self, path: str, data: Any) -> int:
        """Another device appends an element; the server's time of it."""
        return int(await self.other.ask("append", name="other", path=path, data=data))

    async def document(self, path: str) -> Any:
        """What the server has there."""
        return await self.other.ask("pull", name="other", path=path.replace("/push/", "/pull/"))

    async def elements(self, path: str) -> list[Any]:
        """What the server has in a log, without the times."""
        found = await self.other.ask("elements", name="other", path=path.replace("/push/", "/pull/"))
        return [envelope["data"] for envelope in found]


class Sender:
    """A sender of the device; called with an id, an item and what else the entry has it answers what came of it."""

    def __init__(self, device: Program, name: str) -> None:
        self._device = device
        self._name = name

    async def __call__(self, id: str, item: Any, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self._device.ask("send", name=self._name, id=id, item=item, **more)
        return answer


@contextmanager
def running(folder: Path) -> Iterator[Bench]:
    """The bench; its programs are gone afterwards."""
    with (
        Program("server", folder / "server.log") as server,
        Program("device", folder / "device.log") as device,
        Program("device", folder / "other.log") as other,
    ):
        yield Bench(device, other, server.ask_now("serve", port=0, store=str(folder / "store")))
