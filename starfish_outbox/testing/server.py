"""``MisbehavingServer``: a small HTTP server on loopback that fails as planned and keeps a record."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import unquote

from starfish_outbox.testing.faults import (
    SERVER_FAULTS,
    Answer,
    Hang,
    Lost,
    Plan,
    ServerFault,
    Slow,
    Truncated,
    kind_of,
)

_WINDOW: Final = 1.0  # seconds over which a limit counts
_STORING: Final = frozenset({"POST", "PUT", "PATCH"})


@dataclass
class Request:
    """One request that was read to its end.

    Attributes:
        at: seconds since the server began, when it had arrived.
        method: such as POST.
        path: with the query.
        headers: by name in lower case.
        body: as it came.
        at_once: requests under way when it arrived, itself included.
        fault: what it met, by the name of its class; empty: nothing.
        status: what was answered, or None where nothing was.
        retry_after: seconds that the answer asked to wait, or None.
        ended: seconds since the server began, just before the answer was written or the connection cut; None: it is
            under way.
    """

    at: float
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at_once: int = 0
    fault: str = ""
    status: int | None = None
    retry_after: int | None = None
    ended: float | None = None

    @property
    def key(self) -> str | None:
        """What makes it known when it comes again: its ``Idempotency-Key``, percent-decoded; a PUT's path; or None."""
        key = self.headers.get("idempotency-key")
        return unquote(key) if key is not None else (self.path if self.method == "PUT" else None)

    @property
    def item(self) -> Any:
        """The body as JSON, or as it came where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return self.body


class MisbehavingServer:
    """An HTTP server on 127.0.0.1 in a thread of its own, for as long as the ``with`` block lasts.

    What it stores it knows again by its ``Idempotency-Key`` (or a PUT's path): 201 the first time, 200 when the same
    comes again, 422 for another body under a known key. Everything without a key is stored each time. Any other method
    is answered 200, and nothing is stored. A blocking ``send`` can be tested as well as an async one.

    ```python
    from starfish_outbox import MemoryCache, OutboxQueue, drain_outbox
    from starfish_outbox.senders import http_post  # or your own send
    from starfish_outbox.testing import Answer, Lost, MisbehavingServer, Truncated

    queue = OutboxQueue(MemoryCache())
    await queue.hydrate("outbox.me")
    await queue.enqueue_many([(f"nest-{number}", {"eggs": number}) for number in range(20)])
    with MisbehavingServer(odds={Lost(): 0.2}, seed=7) as server:
        server.plan(Answer(503, retry_after=1), Truncated())  # the first two requests
        async with http_post(server.url, timeout=5) as send:
            while queue.counts().queued:
                await drain_outbox(queue, send)
    assert server.duplicates == []  # a send that forgets the Idempotency-Key fails here
    assert server.stored == {f"nest-{number}": {"eggs": number} for number in range(20)}
    assert server.injected["Lost"] > 0
    ```

    Args:
        latency: seconds that pass before every answer.
        limit: requests a second that are let through; what is above is answered 429. None: all.
        retry_after: whole seconds that such an answer asks to wait.
        odds: how often what happens to requests for which nothing is planned, such as ``{Lost(): 0.03}``.
        seed: of the dice; requests with one key meet the same faults with the same seed, whoever else comes.

    Attributes:
        url: where it listens, without a slash at the end.
        requests: every request, in the order in which they arrived.
        stored: what was stored, by key; without one under ``"METHOD path #number of the request"``.
        duplicates: paths of requests without a key whose path and body had been stored before.
        most_at_once: how many requests were ever under way together.
    """

    def __init__(
        self,
        *,
        latency: float = 0.0,
        limit: int | None = None,
        retry_after: int = 2,
        odds: Mapping[ServerFault, float] | None = None,
        seed: int = 0,
    ) -> None:
        self._latency = latency
        self._limit = limit
        self._retry_after = retry_after
        self._plan: Plan[ServerFault] = Plan(SERVER_FAULTS, odds, seed)
        self._let_through: deque[float] = deque()
        self._bodies: dict[str, bytes] = {}
        self._without_key: set[tuple[str, bytes]] = set()
        self._under_way = 0
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._problems: list[BaseException] = []
        self.url = ""
        self.requests: list[Request] = []
        self.stored: dict[str, Any] = {}
        self.duplicates: list[str] = []
        self.most_at_once = 0

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._began = self._loop.time()
        self._thread = threading.Thread(target=self._loop.run_forever, name="MisbehavingServer", daemon=True)
        self._thread.start()
        self._do(self._listen(0))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._hang_up())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._problems and error is None:
            raise RuntimeError(
                "the server failed at a request: it was no HTTP/1.1, or what overrides the server is broken"
            ) from self._problems[0]

    def plan(self, *faults: ServerFault | None, path: str | None = None) -> None:
        """Plan what the next requests meet, one fault each: those to this path or, without one, those to any.

        `Lost`: stored, then the connection is cut. `Slow`: stored, answered late. `Hang`: half open, so that no answer
        ever comes. `Answer`: such as ``Answer(429, retry_after=2)`` or, ten in a row, ``*[Answer(503)] * 10``.
        `Truncated`: stored, and half of the answer comes. None: all goes well. What is planned for a path is met first.
        """
        self._plan.add(path, faults)

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """While this lasts nobody listens: open connections are cut and new ones refused; then it goes on."""
        held = self._do(self._go_down())
        try:
            yield
        finally:
            self._do(self._listen(held))

    @property
    def injected(self) -> Counter[str]:
        """How many faults of each kind have happened: look at it before you believe a test."""
        return self._plan.injected

    def assert_plan_used_up(self) -> None:
        """Raises ``AssertionError`` when a planned fault has not happened: a test without faults passes everything."""
        self._plan.assert_used_up()

    def impatient(self, slack: float = 0.005) -> list[Request]:
        """Requests that arrived although an earlier answer had asked to wait for longer.

        A sender of one entry at a time should have none. Where several are under way, those that were on their way
        while the first was told are here too.

        Args:
            slack: seconds by which the sender's clock and the server's may differ.
        """
        asked = [
            (request.ended, request.ended + request.retry_after)
            for request in self.requests
            if request.retry_after is not None and request.ended is not None
        ]
        return [one for one in self.requests if any(said < one.at < until - slack for said, until in asked)]

    async def pause(self, request: Request) -> None:
        """What passes before an answer: the latency. To override, for other conditions; runs in the server's thread."""
        await asyncio.sleep(self._latency)

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self, held: socket.socket | int) -> None:
        if isinstance(held, int):
            held = _bound(held)
        self._listener = await asyncio.start_server(self._connected, sock=held)
        self.url = f"http://127.0.0.1:{held.getsockname()[1]}"

    async def _go_down(self) -> socket.socket:
        """Stops listening; answers a socket that keeps the port from others, and refuses."""
        if self._listener is None:
            raise RuntimeError("it is down already")
        port = int(self.url.rpartition(":")[2])
        await self._hang_up()
        return _bound(port)

    async def _hang_up(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # for the type checker: a coroutine that runs has one
        self._connections.add(task)
        try:
            while await self._serve(reader, writer):
                pass
            writer.close()
            await writer.wait_closed()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client hung up, which is its right
        except asyncio.CancelledError:
            pass  # the server hangs up; asyncio would log it as a failure
        except Exception as error:  # noqa: BLE001  # raised where the block ends
            self._problems.append(error)
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection stays open for another."""
        request = await self._read(reader)
        self._under_way += 1
        request.at_once = self._under_way
        self.most_at_once = max(self.most_at_once, self._under_way)
        self.requests.append(request)
        try:
            return await self._treat(request, len(self.requests), reader, writer)
        finally:
            self._under_way -= 1
            if request.ended is None:
                request.ended = self._now()

    async def _treat(
        self, request: Request, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        fault: ServerFault | None = self._plan.next(request.path.partition("?")[0], request.key or request.path)
        if fault is None and self._is_over_limit():
            fault = Answer(429, self._retry_after)
            request.fault = "limit"
        elif fault is not None:
            request.fault = kind_of(fault)
        stored = not isinstance(fault, Answer) and (not isinstance(fault, Hang | Truncated) or fault.stored)
        answer = fault if isinstance(fault, Answer) else self._store(request, number) if stored else Answer(200)
        await self.pause(request)
        match fault:
            case Slow(seconds):
                await asyncio.sleep(seconds)
            case Hang():
                await reader.read()  # until one of the two hangs up
                return False
            case Lost():
                request.ended = self._now()
                return False
        text = _response(answer, head_only=request.method == "HEAD")
        request.ended = self._now()
        if isinstance(fault, Truncated):
            writer.write(text[:-10])
            return False
        request.status, request.retry_after = answer.status, answer.retry_after
        writer.write(text)
        await writer.drain()
        return request.headers.get("connection", "").lower() != "close"

    def _store(self, request: Request, number: int) -> Answer:
        if request.method not in _STORING:
            return Answer(200)
        key = request.key
        if key is None:
            again = (request.path, request.body) in self._without_key
            self._without_key.add((request.path, request.body))
            if again:
                self.duplicates.append(request.path)
            key = f"{request.method} {request.path} #{number}"
        elif key in self._bodies:
            return Answer(200 if self._bodies[key] == request.body else 422)
        self._bodies[key] = request.body
        self.stored[key] = request.item
        return Answer(201)

    def _is_over_limit(self) -> bool:
        if self._limit is None:
            return False
        now = self._now()
        while self._let_through and self._let_through[0] <= now - _WINDOW:
            self._let_through.popleft()
        if len(self._let_through) >= self._limit:
            return True
        self._let_through.append(now)
        return False

    async def _read(self, reader: asyncio.StreamReader) -> Request:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").removesuffix("\r\n\r\n")
        start, *lines = head.split("\r\n")
        method, path, _ = start.split(" ")
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = await _chunks(reader)
        else:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Request(self._now(), method, path, headers, body)

    def _now(self) -> float:
        return asyncio.get_running_loop().time() - self._began


def _bound(port: int) -> socket.socket:
    """A socket that has the port and does not listen."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that were cut linger
    held.bind(("127.0.0.1", port))
    return held


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """A body that says its length bit by bit (RFC 9112, 7.1)."""
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # trailers
    return body


def _response(answer: Answer, *, head_only: bool) -> bytes:
    status = answer.status
    reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Whatever"
    body = answer.body.encode() or json.dumps({"status": status, "detail": reason}).encode()
    lines = [f"HTTP/1.1 {status} {reason}", f"Date: {formatdate(usegmt=True)}", "Content-Type: application/json"]
    if answer.retry_after is not None:
        lines.append(f"Retry-After: {answer.retry_after}")
    if status in (204, 304):
        return "\r\n".join([*lines, "", ""]).encode()
    text = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()
    return text if head_only else text + body
