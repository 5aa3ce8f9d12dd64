"""A network of one cable between clients and the server: it loses answers, and it can be cut and mended.

While it is cut nobody listens, so a client's connection is refused, as by a machine without the server.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from types import TracebackType
from typing import NamedTuple, Self

from tests.programs import free_port

Hook = Callable[[], Awaitable[bool]]
"""Asked at each request or answer, which is counted then; False: it goes no further, and the connection is closed."""


class Said(NamedTuple):
    """What the server was asked, such as ``GET`` and ``/pull/log/a?checkpoint=1``, and the status that it answered."""

    method: str
    target: str
    status: int


class Wire:
    """A cable to a port of 127.0.0.1; ``async with`` mends it first and cuts it at the end.

    Attributes:
        url: for clients.
        seed: of the dice that decide which answers get lost.
        requests: how many came whole.
        said: every answer that the server gave, in order.
        lost: how many of those were kept from the client.
    """

    def __init__(self, to: int, lose: float = 0.0, seed: int = 7) -> None:
        self._to = to
        self._port = free_port()
        self._lose = lose
        self._dice = Random(seed)
        self.seed = seed
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self.url = f"http://127.0.0.1:{self._port}"
        self.requests = 0
        self.said: list[Said] = []
        self.lost = 0
        self.on_request: Hook | None = None
        self.on_answer: Hook | None = None

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        await self.settled()

    @property
    def writes(self) -> Counter[int]:
        """How often the server answered a POST with each status."""
        return Counter(one.status for one in self.said if one.method == "POST")

    async def mend(self) -> None:
        """Takes connections again."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)

    def cut(self) -> None:
        """Ends every connection and takes none."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._open:
            writer.transport.abort()

    async def settled(self) -> None:
        """Waits until the clients that there were are gone and the server has answered what they asked."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._open.add(writer)
        try:
            await self._relay(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # one of the two ends is gone: that is what this cable is for
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while True:
                request = await message(reader)
                self.requests += 1
                if self.on_request is not None and not await self.on_request():
                    return
                if there is None:
                    there = await asyncio.open_connection("127.0.0.1", self._to)
                    self._open.add(there[1])
                there[1].write(request)
                answer = await message(there[0])
                method, target, _ = request.split(b" ", 2)
                self.said.append(Said(method.decode(), target.decode(), int(answer.split(b" ", 2)[1])))
                heard = self.on_answer is None or await self.on_answer()
                if not heard or self._dice.random() < self._lose:
                    self.lost += 1
                    return
                writer.write(answer)
                await writer.drain()
                if b"connection: close" in answer.partition(b"\r\n\r\n")[0].lower():
                    return
        finally:
            if there is not None:
                self._open.discard(there[1])
                there[1].transport.abort()


async def message(reader: asyncio.StreamReader) -> bytes:
    """One request or answer, head and body; all of them say how long they are."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + await reader.readexactly(int(lengths[0][15:]) if lengths else 0)
