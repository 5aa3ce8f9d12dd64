"""Servers on loopback for tests: sockets that fail in a chosen way, and an endpoint that answers what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Self

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.contextmanager
def refused_port() -> Iterator[int]:
    """A port that refuses connections: bound and not listening, so that nobody else can take it meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def reset(connection: socket.socket) -> None:
    """Closes a connection so that the other side gets a reset, not an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Peer:
    """A server in a thread that treats each connection as ``behave`` says, until the ``with`` block ends.

    Attributes:
        saw_answer: set by the client once it has the head of an answer.
    """

    def __init__(self, behave: Callable[[socket.socket, Peer], None]) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self.saw_answer = threading.Event()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed by __exit__
            self._open.append(connection)
            with contextlib.suppress(ConnectionError):  # the client may be gone first; it is the client that is tested
                self._behave(connection, self)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # macOS refuses to shut a listening socket down; close wakes accept there
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        assert not self._thread.is_alive()
        for connection in self._open:
            connection.close()


@contextlib.asynccontextmanager
async def serving(handler: Handler, port: int = 0, *, sock: socket.socket | None = None) -> AsyncIterator[str]:
    """The URL of a server on loopback; on the way out each connection is closed and its handler has ended.

    With ``sock`` it listens on that socket, which is bound already.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client hung up, or the test is over: asyncio would log it as a failure of the server
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    if sock is None:
        server = await asyncio.start_server(handle, "127.0.0.1", port)
    else:
        server = await asyncio.start_server(handle, sock=sock)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Request:
    """What a server read: the method, the target, the headers by lower-case name, the body."""

    def __init__(self, head: bytes, body: bytes) -> None:
        start, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = start.split(" ")
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        self.body = body


class Endpoint:
    """An HTTP server that sends what `answers` made, and keeps what it was asked.

    Attributes:
        requests: every request, in order.
        connections: how many were opened.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.url = ""
        self._answer = b""

    def answers(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Makes the answer to all requests from here on; ``_`` in a header's name stands for ``-``."""
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._answer = "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, for as many requests as the client sends over it."""
        self.connections += 1
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            if b"expect: 100-continue" in lines:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            length = next((int(line[16:]) for line in lines if line.startswith(b"content-length:")), 0)
            self.requests.append(Request(head, await reader.readexactly(length)))
            writer.write(self._answer)
            await writer.drain()
