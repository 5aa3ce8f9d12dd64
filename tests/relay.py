"""A relay on loopback that cuts a connection when the server has answered, before the answer gets through."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

Sees = Callable[[bytes], bool]


class Relay:
    """Passes bytes on both ways.

    Attributes:
        port: where it listens.
        cuts_left: how many answers it will still lose.
        cuts: how many it lost.
    """

    def __init__(self, upstream: int, sees: Sees) -> None:
        self._upstream = upstream
        self._sees = sees
        self.port = 0
        self.cuts_left = 0
        self.cuts = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            return
        up = asyncio.ensure_future(self._pass_on(reader, to_server, watched=False))
        down = asyncio.ensure_future(self._pass_on(from_server, writer, watched=True))
        try:
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        finally:
            to_server.transport.abort()  # first: what follows may be cancelled
            up.cancel()
            down.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, watched: bool) -> None:
        tail = b""
        with contextlib.suppress(ConnectionError):
            while data := await source.read(1 << 16):
                if watched and self.cuts_left and self._sees(tail + data):
                    self.cuts_left -= 1
                    self.cuts += 1
                    return
                tail = data[-16:]  # what it looks for may come in two parts
                target.write(data)
                await target.drain()


@contextlib.asynccontextmanager
async def relaying(upstream: int, sees: Sees) -> AsyncIterator[Relay]:
    """A relay to a port of this machine; ``sees`` is asked of what the server says, while there are cuts left."""
    relay = Relay(upstream, sees)
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await relay.handle(reader, writer)
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1")
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        await asyncio.sleep(0)  # a task that was never started would close nothing
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
