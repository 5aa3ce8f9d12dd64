"""``MisbehavingServer``: what it stores, how it fails, and what it writes down, as httpx and requests see it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from itertools import count

import httpx
import pytest
import requests

from starfish_outbox.testing import Answer, Hang, Lost, MisbehavingServer, Slow, Truncated
from starfish_outbox.testing.server import Request


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")  # a proxy that the environment names cannot reach this machine's loopback


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as running:
        yield running


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=30) as one:
        yield one


IMPATIENT = httpx.Timeout(60, read=0.2)


def connected(server: MisbehavingServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def test_a_key_is_stored_once_and_known_again(server: MisbehavingServer, client: httpx.Client) -> None:
    url = f"{server.url}/nests"
    assert [client.post(url, json={"eggs": 2}, headers=keyed("n%201")).status_code for _ in range(2)] == [201, 200]
    assert client.post(url, json={"eggs": 3}, headers=keyed("n%201")).status_code == 422
    assert [client.put(f"{url}/2", content=b"\x00no JSON").status_code for _ in range(2)] == [201, 200]
    assert server.stored == {"n 1": {"eggs": 2}, "/nests/2": b"\x00no JSON"}
    assert server.duplicates == []
    assert [request.at_once for request in server.requests] == [1] * 5
    assert [request.status for request in server.requests] == [201, 200, 422, 201, 200]


def test_what_has_no_key_is_stored_each_time_and_called_a_duplicate(
    server: MisbehavingServer, client: httpx.Client
) -> None:
    for eggs in (2, 3, 2):
        assert client.post(f"{server.url}/nests", json=eggs).status_code == 201
    assert server.stored == {"POST /nests #1": 2, "POST /nests #2": 3, "POST /nests #3": 2}
    assert server.duplicates == ["/nests"]


def test_a_probe_stores_nothing(server: MisbehavingServer, client: httpx.Client) -> None:
    assert client.get(server.url).json() == {"status": 200, "detail": "OK"}
    assert client.head(server.url).status_code == 200
    assert client.delete(server.url).status_code == 200
    assert server.stored == {}


def test_a_body_may_come_in_chunks(server: MisbehavingServer, client: httpx.Client) -> None:
    assert client.post(server.url, content=iter([b'{"eg', b'gs":', b"2}"]), headers=keyed("a")).status_code == 201
    assert client.post(server.url, json=3, headers=keyed("b")).status_code == 201
    assert server.stored == {"a": {"eggs": 2}, "b": 3}


def test_a_lost_answer_is_stored_and_cuts_the_connection(server: MisbehavingServer, client: httpx.Client) -> None:
    server.plan(Lost())
    with pytest.raises(httpx.RemoteProtocolError, match="disconnected"):
        client.post(server.url, json=1, headers=keyed("a"))
    assert server.stored == {"a": 1}
    assert client.post(server.url, json=1, headers=keyed("a")).status_code == 200


def test_an_answer_stands_in_for_storing(server: MisbehavingServer, client: httpx.Client) -> None:
    server.plan(Answer(429, retry_after=7, body="slowly"), *[Answer(503)] * 3, Answer(599), Answer(204), None)
    first = client.post(server.url, json=1, headers=keyed("a"))
    assert (first.status_code, first.headers["Retry-After"], first.text) == (429, "7", "slowly")
    statuses = [client.post(server.url, json=1, headers=keyed("a")).status_code for _ in range(6)]
    assert statuses == [503, 503, 503, 599, 204, 201]
    assert server.injected == {"Answer": 6}
    assert [request.retry_after for request in server.requests] == [7, None, None, None, None, None, None]


@pytest.mark.parametrize("stored", [True, False])
def test_a_truncated_answer_breaks_off(server: MisbehavingServer, client: httpx.Client, stored: bool) -> None:
    server.plan(Truncated(stored=stored))
    with pytest.raises(httpx.RemoteProtocolError, match="complete message body"):
        client.post(server.url, json=1, headers=keyed("a"))
    assert server.stored == ({"a": 1} if stored else {})


@pytest.mark.parametrize("stored", [True, False])
def test_a_half_open_connection_never_answers(stored: bool) -> None:
    class Watched(MisbehavingServer):
        arrived = threading.Event()

        async def pause(self, request: Request) -> None:
            self.arrived.set()

    with Watched() as server:
        server.plan(Hang(stored=stored))
        with httpx.Client(timeout=IMPATIENT) as client, pytest.raises(httpx.ReadTimeout):
            client.post(server.url, json=1, headers=keyed("a"))
        assert server.arrived.wait(60)
    assert server.stored == ({"a": 1} if stored else {})
    assert server.requests[0].status is None


def test_slow_answers_and_latency_are_as_late_as_they_were_told(client: httpx.Client) -> None:
    with MisbehavingServer(latency=0.02) as server:
        server.plan(Slow(0.1))
        client.post(server.url, json=1, headers=keyed("a"))
        client.post(server.url, json=1, headers=keyed("b"))
    slow, usual = (request.ended - request.at for request in server.requests if request.ended is not None)
    assert slow >= 0.119
    assert usual >= 0.019
    assert [request.fault for request in server.requests] == ["Slow", ""]


def test_what_is_above_the_limit_is_told_to_come_back_later(client: httpx.Client) -> None:
    class Ticking(MisbehavingServer):
        """Each look at the clock takes a millisecond."""

        ticks = count()
        slept = 0.0

        def _now(self) -> float:
            return self.slept + next(self.ticks) / 1000

    with Ticking(limit=2, retry_after=3) as server:

        def ask() -> int:
            return client.post(server.url, json=1, headers=keyed(str(len(server.requests)))).status_code

        assert [ask() for _ in range(3)] == [201, 201, 429]
        assert (server.requests[2].retry_after, server.requests[2].fault) == (3, "limit")
        assert server.impatient() == []
        server.slept = 1.0
        assert [ask() for _ in range(3)] == [201, 201, 429]
        assert server.impatient() == server.requests[3:]
        server.slept = 4.1
        assert ask() == 201
        assert server.impatient() == server.requests[3:6]
    assert sorted(server.stored) == ["0", "1", "3", "4", "6"]


def test_faults_are_planned_by_path_and_rolled_by_key(client: httpx.Client) -> None:
    with MisbehavingServer(odds={Answer(503): 0.5}, seed=1) as server:
        server.plan(Answer(404), Answer(404), path="/b")
        server.plan(Answer(400))
        asked = [client.get(f"{server.url}{path}").status_code for path in ("/b?x=1", "/a", "/b")]
        assert asked == [404, 400, 404]
        server.assert_plan_used_up()

        def fates(keys: list[str]) -> dict[str, int]:
            return {key: client.post(server.url, json=1, headers=keyed(key)).status_code for key in keys}

        first = fates([str(number) for number in range(40)])
    assert 8 < list(first.values()).count(503) < 32
    with MisbehavingServer(odds={Answer(503): 0.5}, seed=1) as server:
        assert fates([str(number) for number in reversed(range(40))]) == first
        server.plan(Lost(), path="/never")
        with pytest.raises(AssertionError, match="1 planned faults have not happened"):
            server.assert_plan_used_up()


def test_while_it_is_down_nobody_is_reached_and_then_it_goes_on_at_the_same_place(client: httpx.Client) -> None:
    with MisbehavingServer() as server:
        url = server.url
        client.post(url, json=1, headers=keyed("a"))
        for _ in range(3):
            with server.down():
                with pytest.raises(httpx.TransportError):
                    client.get(url)  # perhaps over a connection that was cut
                with pytest.raises(httpx.ConnectError):
                    client.get(url)
                with pytest.raises(RuntimeError, match="down already"), server.down():
                    pass
            assert client.post(url, json=1, headers=keyed("a")).status_code == 200
    with pytest.raises(httpx.ConnectError):
        client.get(url)


async def test_a_blocking_client_does_not_block_it(server: MisbehavingServer) -> None:
    assert requests.post(server.url, json=1, headers=keyed("a"), timeout=30).status_code == 201  # on the loop's thread
    assert server.stored == {"a": 1}


async def test_requests_under_way_at_a_time_are_counted() -> None:
    class Meeting(MisbehavingServer):
        """Answers nobody before three are there."""

        async def pause(self, request: Request) -> None:
            if request.at_once == 3:
                complete.set()
            await complete.wait()

    complete = asyncio.Event()
    with Meeting() as server:
        async with httpx.AsyncClient(timeout=30) as client:
            await asyncio.gather(*(client.get(server.url) for _ in range(3)))
        assert [request.at_once for request in server.requests] == [1, 2, 3]
        assert server.most_at_once == 3


def test_the_block_ends_although_connections_are_open_and_hang() -> None:
    with contextlib.ExitStack() as connections:
        with MisbehavingServer() as server:
            server.plan(Hang())
            idle = connections.enter_context(connected(server))
            client = connections.enter_context(httpx.Client(timeout=IMPATIENT))
            with pytest.raises(httpx.ReadTimeout):
                client.get(server.url)
        assert idle.recv(1) == b""


def test_what_is_no_http_fails_the_block_and_an_error_in_it_comes_first() -> None:
    def talk(then: Callable[[], object]) -> None:
        with MisbehavingServer() as server, connected(server) as connection:
            connection.sendall(b"\x16\x03\x01 a TLS greeting\r\n\r\n")
            assert connection.recv(1) == b""
            then()

    with pytest.raises(RuntimeError, match=r"no HTTP/1\.1"):
        talk(lambda: None)
    with pytest.raises(ZeroDivisionError):
        talk(lambda: 1 / 0)
