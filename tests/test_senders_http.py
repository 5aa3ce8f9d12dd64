"""What `http_post` raises for each answer of a real server on loopback, and for each way of getting none."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from typing import Any

import httpx
import pytest

from starfish_outbox.entry import OutboxEntry
from starfish_outbox.errors import (
    AuthNeededError,
    BusyError,
    ConflictError,
    OfflineError,
    RejectedError,
    SendError,
    UnackedError,
)
from starfish_outbox.senders import http_post
from starfish_outbox.senders.http import MAX_RETRY_AFTER, retry_after_seconds
from tests.loopback import Endpoint, Peer, refused_port, reset, serving


def entry(item: Any = None, id: str = "nest-1") -> OutboxEntry[Any]:
    return OutboxEntry(id, {"mass": 3750} if item is None else item, "queued", 0, 1_700_000_000_000)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")  # a proxy that the environment names cannot reach this machine's loopback


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    it = Endpoint()
    async with serving(it.handle) as url:
        it.url = f"{url}observations"
        yield it


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_2xx_is_delivered(endpoint: Endpoint, status: int) -> None:
    endpoint.answers(status)
    async with http_post(endpoint.url) as send:
        await send(entry())
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (300, AuthNeededError),
        (301, AuthNeededError),
        (302, AuthNeededError),
        (304, AuthNeededError),
        (307, AuthNeededError),
        (308, AuthNeededError),
        (400, RejectedError),
        (401, AuthNeededError),
        (402, RejectedError),
        (403, RejectedError),
        (404, RejectedError),
        (405, RejectedError),
        (407, AuthNeededError),
        (408, BusyError),
        (409, ConflictError),
        (410, RejectedError),
        (411, RejectedError),
        (412, RejectedError),
        (413, RejectedError),
        (415, RejectedError),
        (422, RejectedError),
        (423, RejectedError),
        (425, BusyError),
        (426, RejectedError),
        (428, RejectedError),
        (429, BusyError),
        (431, RejectedError),
        (451, RejectedError),
        (499, RejectedError),
        (500, SendError),
        (501, SendError),
        (502, BusyError),
        (503, BusyError),
        (504, BusyError),
        (505, SendError),
        (507, SendError),
        (511, AuthNeededError),
        (599, SendError),
    ],
)
async def test_every_other_status_raises_what_the_drain_understands(
    endpoint: Endpoint, status: int, kind: type[SendError]
) -> None:
    # 304 has no body by RFC 9110, whatever its length says.
    endpoint.answers(status, b"" if status == 304 else b'{"detail":"because"}')
    async with http_post(endpoint.url) as send:
        with pytest.raises(SendError, match=str(status)) as caught:
            await send(entry())
    assert type(caught.value) is kind
    assert status == 304 or "because" in str(caught.value)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("location", "place"),
    [
        ("https://new.example/observations", "https://new.example/observations"),
        ("/v2/observations", "/v2/observations"),
    ],
)
async def test_a_redirect_is_not_followed_and_says_where_to_point_the_base_url(
    endpoint: Endpoint, location: str, place: str
) -> None:
    endpoint.answers(308, Location=location)
    async with http_post(endpoint.url) as send:
        with pytest.raises(AuthNeededError, match="make that the base URL") as caught:
            await send(entry())
    assert place in str(caught.value)
    assert "127.0.0.1" in str(caught.value) or location.startswith("https://new.example")


@pytest.mark.parametrize("location", ["http://[bad", "", "\x1b[31mred"])
async def test_a_redirect_to_nowhere_is_told_without_failing(endpoint: Endpoint, location: str) -> None:
    endpoint.answers(302, Location=location)
    async with http_post(endpoint.url) as send:
        with pytest.raises(SendError) as caught:
            await send(entry())
    assert "\x1b" not in str(caught.value)


async def test_a_client_that_follows_redirects_does_not_follow_them_here(endpoint: Endpoint) -> None:
    endpoint.answers(307, Location="/elsewhere")
    async with httpx.AsyncClient(follow_redirects=True) as client:
        with pytest.raises(AuthNeededError):
            await http_post(endpoint.url, client=client)(entry())
    assert [request.target for request in endpoint.requests] == ["/observations"]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("0", 0.0),
        ("99999999999999999999", MAX_RETRY_AFTER),
        ("86401", 86_400.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
        ("Mon, 01 Jan 1990 00:00:00 GMT", 0.0),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tuesday, 14-Nov-23 22:13:50 GMT", 30.0),
        ("Tue, 14 Nov 2023 22:13:50 -0000", 30.0),
        ("Fri, 99 Zzz 9999 99:99:99 GMT", None),
    ],
)
def test_retry_after_is_read_in_seconds_and_as_a_date_and_kept_within_a_day(
    header: str | None, seconds: float | None
) -> None:
    assert retry_after_seconds(header, 1_700_000_000.0) == seconds


async def test_a_busy_server_passes_its_retry_after_on_by_its_own_clock(endpoint: Endpoint) -> None:
    # The server's clock is a day ahead of ours: only the difference between its two dates counts.
    now = time.time() + 86_400
    endpoint.answers(503, Date=formatdate(now, usegmt=True), Retry_After=formatdate(now + 90, usegmt=True))
    async with http_post(endpoint.url) as send:
        with pytest.raises(BusyError) as caught:
            await send(entry())
    assert caught.value.retry_after == pytest.approx(90, abs=1)
    endpoint.answers(429)
    async with http_post(endpoint.url) as send:
        with pytest.raises(BusyError) as caught:
            await send(entry())
    assert caught.value.retry_after is None


@pytest.mark.parametrize(
    ("off", "words"),
    [
        (900.0, r"clock is (899|900|901) seconds behind"),
        (-900.0, r"clock is (899|900|901) seconds ahead of"),
        (60.0, "5 min"),
    ],
)
async def test_refused_credentials_tell_of_the_clock(endpoint: Endpoint, off: float, words: str) -> None:
    endpoint.answers(401, Date=formatdate(time.time() + off, usegmt=True))
    async with http_post(endpoint.url) as send:
        with pytest.raises(AuthNeededError, match=words):
            await send(entry())


async def test_a_conflict_carries_the_servers_version(endpoint: Endpoint) -> None:
    endpoint.answers(409, b"{}", ETag='"v7"')
    async with http_post(endpoint.url) as send:
        with pytest.raises(ConflictError) as caught:
            await send(entry())
    assert caught.value.remote == '"v7"'


async def test_the_servers_reason_is_one_short_line_without_control_characters(endpoint: Endpoint) -> None:
    endpoint.answers(400, ("bad\x1b[31m\r\n\x00 mass \u202e" + "x" * 5000 + "\udcff").encode("utf-8", "surrogatepass"))
    async with http_post(endpoint.url) as send:
        with pytest.raises(RejectedError) as caught:
            await send(entry())
    said = str(caught.value).removeprefix("the server answered 400: ")
    assert said.startswith("bad [31m mass x")
    assert len(said) == 200
    assert said.isprintable()


async def test_a_packed_reason_is_not_repeated_as_noise(endpoint: Endpoint) -> None:
    endpoint.answers(400, b"\x1f\x8b\x08garbage", Content_Encoding="gzip")
    async with http_post(endpoint.url) as send:
        with pytest.raises(RejectedError) as caught:
            await send(entry())
    assert str(caught.value) == "the server answered 400"
    assert endpoint.requests[0].headers["accept-encoding"] == "identity"


async def test_an_endless_answer_is_read_to_the_cap_and_its_status_counts() -> None:
    poured = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal poured
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while poured < 1 << 28:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()
            poured += 65536

    async with serving(pour) as url, http_post(url, max_response_bytes=100_000) as send:
        await send(entry())
    assert 0 < poured < 1 << 26


def hang_up(connection: socket.socket, _: Peer) -> None:
    connection.recv(65536)
    connection.close()


def hang_up_hard(connection: socket.socket, _: Peer) -> None:
    connection.recv(65536)
    reset(connection)


def answer_in_part(connection: socket.socket, _: Peer) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf")
    connection.close()


def talk_nonsense(connection: socket.socket, _: Peer) -> None:
    connection.recv(65536)
    connection.sendall(b"220 mail.example ESMTP\r\n")
    connection.close()


def say_nothing(_connection: socket.socket, _: Peer) -> None:
    """The connection stays open until the test ends."""


@pytest.mark.parametrize("behave", [hang_up, hang_up_hard, answer_in_part, talk_nonsense, say_nothing])
async def test_a_request_under_way_without_a_whole_answer_is_unacked(
    behave: Callable[[socket.socket, Peer], None],
) -> None:
    with Peer(behave) as peer:
        async with http_post(peer.url, timeout=0.3 if behave is say_nothing else 20) as send:
            with pytest.raises(SendError) as caught:
                await send(entry())
    assert type(caught.value) is UnackedError
    assert isinstance(caught.value.__cause__, httpx.TransportError)
    assert "127.0.0.1" in str(caught.value)


async def test_nobody_reached_is_offline() -> None:
    with refused_port() as port:
        async with http_post(f"http://127.0.0.1:{port}/") as send:
            with pytest.raises(OfflineError, match="nobody was reached"):
                await send(entry())
    async with http_post("http://nowhere.invalid/") as send:
        with pytest.raises(OfflineError, match=r"nowhere\.invalid"):
            await send(entry())


async def test_a_proxy_that_lets_nothing_through_is_offline() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with serving(refuse) as proxy, httpx.AsyncClient(proxy=proxy, trust_env=False) as client:
        with pytest.raises(OfflineError, match="502"):
            await http_post("https://lab.example/", client=client)(entry())


async def test_a_full_pool_is_offline_since_nothing_left() -> None:
    arrived = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        await reader.read()  # until the client hangs up

    one = httpx.Limits(max_connections=1)
    async with serving(hold) as url, httpx.AsyncClient(limits=one) as client:
        first = asyncio.create_task(http_post(url, client=client)(entry()))
        await arrived.wait()
        with pytest.raises(OfflineError, match="PoolTimeout"):
            await http_post(url, client=client, timeout=0.1)(entry(id="nest-2"))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
