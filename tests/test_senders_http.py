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
from starfish_outbox.senders.answers import MAX_RETRY_AFTER, retry_after_seconds
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


@pytest.mark.parametrize(
    ("age", "kind"),
    [(None, ConflictError), (0, UnackedError), (3500, UnackedError), (3700, ConflictError), (-3700, ConflictError)],
)
async def test_a_conflict_soon_after_a_try_without_an_answer_may_be_with_that_try(
    endpoint: Endpoint, age: float | None, kind: type[SendError]
) -> None:
    endpoint.answers(409, b"it is being processed", ETag='"7"')
    asked = entry()
    asked.maybe_sent_ms = None if age is None else round(1000 * (time.time() - age))
    async with http_post(endpoint.url) as send:
        with pytest.raises(SendError, match="409: it is being processed") as caught:
            await send(asked)
    assert type(caught.value) is kind


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


async def test_an_answer_that_trickles_is_read_until_the_timeout_and_its_status_counts() -> None:
    """Each byte comes well within the timeout of one step, and the last one never."""
    heads = {
        "/taken": b"HTTP/1.1 201 Created\r\nContent-Length: 1000000\r\nLocation: /7\r\n\r\n[",
        "/busy": b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n",
        "/nothing": b"HTTP/1.1 201 Created\r\nX-Endless: ",
    }
    trickled: dict[str, int] = dict.fromkeys(heads, 0)

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode()
        writer.write(heads[path])
        while not writer.is_closing():
            writer.write(b"1\r\n1\r\n" if path == "/busy" else b"1")
            await writer.drain()
            trickled[path] += 1
            await asyncio.sleep(0.02)  # the pace of the server, not of the test

    async with (
        serving(trickle) as url,
        http_post(url, path=lambda entry: entry.id, timeout=1) as send,
        asyncio.timeout(60),
    ):
        receipt = await send(entry(id="taken"))
        assert receipt["answer"].startswith("[1")
        assert receipt == {"status": 201, "answer": receipt["answer"], "location": "/7"}
        with pytest.raises(BusyError) as busy:
            await send(entry(id="busy"))
        assert busy.value.retry_after == 7
        with pytest.raises(UnackedError, match=r"no whole answer came from 127\.0\.0\.1:\d+ within 1 s"):
            await send(entry(id="nothing"))
        assert min(trickled.values()) > 1


async def test_each_answer_has_the_timeout_to_itself() -> None:
    """Credentials that the server asks for first make two requests of one send."""
    refusals = 0

    async def refuse_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal refusals
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(b'{"mass":3750}'))
            await asyncio.sleep(1.2)
            if b"Authorization: Digest" in head:
                writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
            else:
                refusals += 1
                challenge = b'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
                writer.write(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n" + challenge + b"\r\n\r\n")
            await writer.drain()

    async with serving(refuse_slowly) as url, http_post(url, auth=httpx.DigestAuth("ana", "x"), timeout=2) as send:
        assert (await send(entry()))["status"] == 201
    assert refusals == 1


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
    assert isinstance(caught.value.__cause__, httpx.TransportError | TimeoutError)
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
