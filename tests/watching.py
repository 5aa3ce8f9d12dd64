"""``starfish-outbox`` as a process that goes on, and the server it talks to: for tests that wait for what happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from tests.cli import Ran, command
from tests.loopback import Request

Answer = Callable[[Request], Awaitable[bytes]]

SECONDS = 60  # until a test that waits for something gives up


def response(status: int, body: bytes = b"", **headers: str) -> bytes:
    """An HTTP answer; ``_`` in a header's name stands for ``-``."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def created(_: Request) -> bytes:
    return response(201)


class Service:
    """An HTTP server that answers each request as ``answer`` says, and keeps what it was asked, in order."""

    def __init__(self, answer: Answer = created) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self._news = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; one that is opened and closed without a word asks nothing."""
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n")
            length = next(int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            request = Request(head, await reader.readexactly(length))
            self.requests.append(request)
            self._news.set()
            writer.write(await self.answer(request))
            await writer.drain()

    @property
    def numbers(self) -> list[int]:
        """The ``n`` of every item that came."""
        return [json.loads(request.body)["n"] for request in self.requests]

    async def asked(self, count: int) -> None:
        """Returns once so many requests have come."""
        async with asyncio.timeout(SECONDS):
            while len(self.requests) < count:
                self._news.clear()
                await self._news.wait()


class Child:
    """A command that runs.

    Attributes:
        lines: what it said on standard error so far.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []

    async def says(self, words: str) -> str:
        """The next line on standard error that has these words in it."""
        assert self._process.stderr is not None
        async with asyncio.timeout(SECONDS):
            while line := (await self._process.stderr.readline()).decode():
                self.lines.append(line)
                if words in line:
                    return line
        raise AssertionError(f"it ended and never said {words!r}: {self.lines}")

    def is_told(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    async def ends(self) -> Ran:
        """How it ended, by itself or by a signal that was sent before."""
        async with asyncio.timeout(SECONDS):
            out, err = await self._process.communicate()
        assert self._process.returncode is not None
        return Ran(self._process.returncode, out.decode(), "".join(self.lines) + err.decode())


@contextlib.asynccontextmanager
async def running(*args: str | Path, **environment: str) -> AsyncIterator[Child]:
    """A command of the command line, while the block lasts; no proxy stands between it and the test."""
    plain: dict[str, Any] = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    process = await asyncio.create_subprocess_exec(
        *command(*args),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**plain, **environment},
    )
    try:
        yield Child(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@contextlib.contextmanager
def closed_port() -> Iterator[tuple[int, socket.socket]]:
    """A port that refuses connections until a server begins to listen on the socket, which is bound to it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1], bound
