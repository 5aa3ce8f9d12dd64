"""A server, a bad network and the outboxes of devices: each can be killed and comes back with what it stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tests.programs import free_port
from tests.starfish.environment import Program
from tests.starfish.wire import Wire

_MOST_PASSES: Final = 300


class Field:
    """A server and the wire to it; ``async with`` starts both, and at its end every program is gone.

    Attributes:
        wire: what devices reach the server by.
    """

    def __init__(self, folder: Path, *, lose: float = 0.0) -> None:
        self.folder = folder
        self._port = free_port()
        self._ending = AsyncExitStack()
        self.wire = Wire(self._port, lose)

    async def __aenter__(self) -> Self:
        self.folder.mkdir()
        await self._ending.enter_async_context(self.wire)
        await self._start_server()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._ending.aclose()

    def run(self, name: str, *, published: bool = False) -> Program:
        """A program, until the end."""
        return self._ending.enter_context(Program(name, self.folder / f"{name}.log", published=published))

    async def _start_server(self) -> None:
        self._server = self.run("server")
        await self._server.ask("serve", port=self._port, store=str(self.folder / "store"))

    def kill_server(self) -> None:
        """SIGKILL, and nobody listens any more."""
        self._server.kill()
        self.wire.cut()

    async def restart_server(self) -> None:
        """The same port, the same store."""
        await self._start_server()
        await self.wire.mend()

    def documents(self) -> dict[str, Any]:
        """The documents of the collection ``obs`` in the server's store, by id."""
        return {path.name: json.loads(path.read_text("utf-8"))["data"] for path in self.folder.glob("store/obs/*")}

    def elements(self) -> list[Any]:
        """The elements of the log ``all`` in the server's store."""
        path = self.folder / "store/log/all"
        stored = json.loads(path.read_text("utf-8"))["data"]["items"] if path.exists() else []
        return [element["data"] for element in stored]


@dataclass(frozen=True)
class Software:
    """What runs on a device.

    Attributes:
        name: what a report calls it.
        broken: in which way its sender is broken: see ``device.py``.
        published: it is the published outbox with the plain send of its README: see ``naive.py``.
    """

    name: str
    broken: str = ""
    published: bool = False


class Outbox:
    """A device with some software, and an outbox in a file.

    Attributes:
        queued: the ids that wait to be sent, as of the last pass.
        parked: the ids that wait for a person.
        calls: requests that the last pass tried.
    """

    def __init__(self, place: Field, software: Software, kind: str, path: str, name: str = "ana") -> None:
        self._place = place
        self._software = software
        self._sender = {"name": name, "kind": kind, "url": place.wire.url, "path": path}
        if software.broken:
            self._sender["broken"] = software.broken
        self._file = str(place.folder / f"{name}.outbox")
        self.queued: set[str] = set()
        self.parked: set[str] = set()
        self.calls = 0

    async def start(self) -> None:
        """A process with what the outbox holds."""
        name = "naive" if self._software.published else "device"
        self._program = self._place.run(name, published=self._software.published)
        await self._program.ask("open", path=self._file)
        await self._program.ask("make", **self._sender)

    async def enqueue(self, items: Mapping[str, Any]) -> None:
        """New entries, in this order."""
        assert await self._program.ask("enqueue", pairs=list(items.items())) == len(items)

    async def drain(self, **options: Any) -> None:
        """One pass."""
        left = await self._program.ask("drain", name=self._sender["name"], **options)
        self.queued, self.parked, self.calls = set(left["queued"]), set(left["parked"]), left["calls"]

    async def drain_all(self, **options: Any) -> None:
        """Passes until nothing is queued, or for a long time."""
        for _ in range(_MOST_PASSES):
            await self.drain(**options)
            if not self.queued:
                return

    def kill(self) -> None:
        """SIGKILL."""
        self._program.kill()
