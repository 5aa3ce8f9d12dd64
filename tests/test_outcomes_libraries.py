"""`classify` on real failures: each HTTP library against loopback sockets that fail in each way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import httpx
import pytest
import requests

from starfish_outbox.errors import OfflineError, UnackedError
from starfish_outbox.outcomes import classify
from tests.loopback import Endpoint, Peer, refused_port, reset, serving

BODY = {"a": 1}
SHORT = 0.3  # seconds that a client waits where the test is about waiting in vain
LONG = 20.0


def with_requests(url: str, saw_answer: threading.Event, seconds: float) -> None:
    with requests.Session() as session:
        session.trust_env = False
        with session.post(url, json=BODY, timeout=seconds, stream=True) as response:
            saw_answer.set()
            _ = response.content
            response.raise_for_status()


def with_httpx(url: str, saw_answer: threading.Event, seconds: float) -> None:
    with (
        httpx.Client(timeout=seconds, trust_env=False) as client,
        client.stream("POST", url, json=BODY) as response,
    ):
        saw_answer.set()
        response.read()
        response.raise_for_status()


async def with_async_httpx(url: str, saw_answer: threading.Event, seconds: float) -> None:
    async with (
        httpx.AsyncClient(timeout=seconds, trust_env=False) as client,
        client.stream("POST", url, json=BODY) as response,
    ):
        saw_answer.set()
        await response.aread()
        response.raise_for_status()


async def with_aiohttp(url: str, saw_answer: threading.Event, seconds: float) -> None:
    timeout = aiohttp.ClientTimeout(sock_connect=seconds, sock_read=seconds)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.post(url, json=BODY) as response:
        saw_answer.set()
        await response.read()
        response.raise_for_status()


def with_urllib(url: str, saw_answer: threading.Event, seconds: float) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, data=b'{"a":1}'), timeout=seconds) as response:
            saw_answer.set()
            response.read()
    except urllib.error.HTTPError as error:
        error.close()  # it is the response as well
        raise


Client = Callable[[str, threading.Event, float], Any]
CLIENTS: dict[str, Client] = {
    "requests": with_requests,
    "httpx": with_httpx,
    "httpx-async": with_async_httpx,
    "aiohttp": with_aiohttp,
    "urllib": with_urllib,
}


def read_request(connection: socket.socket) -> None:
    got = b""
    while not got.endswith(b"}") and (chunk := connection.recv(65536)):
        got += chunk


def answer_in_part(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")


def close_at_once(connection: socket.socket, _: Peer) -> None:
    connection.close()


def close_after_reading(connection: socket.socket, _: Peer) -> None:
    read_request(connection)
    connection.close()


def never_answer(_connection: socket.socket, _: Peer) -> None:
    """Nothing: the connection stays open until the test ends."""


def reset_before_the_answer(connection: socket.socket, _: Peer) -> None:
    read_request(connection)
    reset(connection)


def reset_in_the_answer(connection: socket.socket, peer: Peer) -> None:
    answer_in_part(connection)
    # A reset throws away what the client has not read yet; without waiting the answer would never have begun.
    assert peer.saw_answer.wait(10)
    reset(connection)


def end_in_the_answer(connection: socket.socket, peer: Peer) -> None:
    answer_in_part(connection)
    assert peer.saw_answer.wait(10)
    connection.close()


def run(client: Client, url: str, saw_answer: threading.Event, seconds: float) -> None:
    answer = client(url, saw_answer, seconds)
    if asyncio.iscoroutine(answer):
        asyncio.run(answer)


def failure(client: Client, url: str, saw_answer: threading.Event | None = None, seconds: float = LONG) -> Exception:
    """What the client really raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  # which class it is, is what the library decides
        run(client, url, saw_answer or threading.Event(), seconds)
    return caught.value


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Client:
    return CLIENTS[request.param]


@pytest.fixture
def full_backlog() -> Iterator[str]:
    """A port whose queue of new connections is full: the kernel drops what knocks, as a dead network does."""
    with socket.socket() as listener, contextlib.ExitStack() as knocking:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            knock = knocking.enter_context(socket.socket())
            knock.setblocking(False)
            knock.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def test_a_refused_connection_is_offline(client: Client) -> None:
    with refused_port() as port:
        assert classify(failure(client, f"http://127.0.0.1:{port}/")) is OfflineError


def test_a_name_that_does_not_resolve_is_offline(client: Client) -> None:
    assert classify(failure(client, "http://nowhere.invalid/")) is OfflineError


@pytest.mark.parametrize(
    ("behave", "answer_begins"),
    [
        (close_at_once, False),
        (close_after_reading, False),
        (never_answer, False),
        (reset_before_the_answer, False),
        (reset_in_the_answer, True),
        (end_in_the_answer, True),
    ],
)
def test_a_server_that_gives_no_whole_answer_leaves_the_entry_unacked(
    client: Client, behave: Callable[[socket.socket, Peer], None], answer_begins: bool
) -> None:
    with Peer(behave) as peer:
        error = failure(client, peer.url, peer.saw_answer, SHORT if behave is never_answer else LONG)
        assert peer.saw_answer.is_set() == answer_begins
    assert classify(error) is UnackedError


@pytest.mark.parametrize("name", ["requests", "httpx", "httpx-async", "aiohttp"])
def test_a_connection_that_times_out_is_offline_where_the_library_says_which_timeout_it_was(
    name: str, full_backlog: str
) -> None:
    assert classify(failure(CLIENTS[name], full_backlog, seconds=SHORT)) is OfflineError


def test_a_connection_that_times_out_in_urllib_is_unacked_since_nothing_tells_it_from_a_request(
    full_backlog: str,
) -> None:
    assert classify(failure(with_urllib, full_backlog, seconds=SHORT)) is UnackedError


async def test_an_answer_with_an_error_status_is_a_failed_attempt(client: Client) -> None:
    endpoint = Endpoint()
    endpoint.answers(500)
    async with serving(endpoint.handle) as url:
        error = await asyncio.to_thread(failure, client, url)
    assert "500" in str(error)
    assert classify(error) is None


def test_asyncio_that_finds_every_address_of_a_name_refusing_is_offline() -> None:
    class TwoAddresses(asyncio.SelectorEventLoop):
        async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*kind, ("127.0.0.1", port)), (*kind, ("127.0.0.2", port))]

    with socket.socket() as bound, contextlib.closing(TwoAddresses()) as loop:
        bound.bind(("0.0.0.0", 0))  # not listening: refused on every address of the loopback
        with pytest.raises(OSError, match="Multiple exceptions") as caught:
            loop.run_until_complete(asyncio.open_connection("survey.example", bound.getsockname()[1]))
    assert caught.value.__cause__ is None
    assert caught.value.errno is None
    assert classify(caught.value) is OfflineError


def test_httpx_that_tried_again_by_hand_shows_the_first_try_although_httpcore_hides_it() -> None:
    def twice(first: str, second: str) -> None:
        with httpx.Client(trust_env=False) as client:
            try:
                client.post(first, json=BODY)
            except httpx.TransportError:
                client.post(second, json=BODY)

    with Peer(close_after_reading) as peer, refused_port() as port, pytest.raises(httpx.ConnectError) as caught:
        twice(peer.url, f"http://127.0.0.1:{port}/")
    assert classify(caught.value) is UnackedError
