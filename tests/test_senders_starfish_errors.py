"""What a refusal, a bad network or a wrong clock comes to in the Starfish senders: the published SDK and server."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from starfish_outbox import OutboxEntry
from starfish_outbox.senders import starfish_append, starfish_push
from tests.loopback import Endpoint, Peer, refused_port, reset, serving
from tests.starfish.bench import Bench, running
from tests.starfish.wire import message

pytestmark = pytest.mark.timeout(1800)  # whoever comes first makes the environment


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with running(tmp_path_factory.mktemp("starfish")) as made:
        yield made


def nested(depth: int) -> Any:
    return {"x": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    ("path", "item", "raised", "says"),
    [
        ("/push/nowhere/{id}", {}, "RejectedError", "404"),
        ("/push/shaped/{id}", {"mass": "secret"}, "RejectedError", "400: the schema of the collection refuses $.mass"),
        ("/push/obs/{id}", nested(70), "RejectedError", "400: Body nesting too deep"),
        ("/push/small/{id}", {"x": "x" * 300}, "RejectedError", "413"),
        ("/push/pictures/{id}", {}, "RejectedError", "415"),
        ("/push/mine/somebody/{id}", {}, "AuthNeededError", "401"),
        ("/push/slow/{id}", {}, "BusyError", "503"),
    ],
)
async def test_what_the_server_refuses(bench: Bench, path: str, item: Any, raised: str, says: str) -> None:
    answer = await (await bench.sender("push", path))(bench.fresh(), item)
    assert (answer["raised"], answer["retry_after"], answer["calls"]) == (raised, None, 1)
    assert f"the server answered {says}" in answer["says"]
    assert "secret" not in answer["says"]


async def test_a_rate_limit_is_busy_without_a_time(bench: Bench) -> None:
    send = await bench.sender("push", "/push/limited/{id}")
    first, second = await send(bench.fresh(), {}), await send(bench.fresh(), {})
    assert "returned" in first
    assert (second["raised"], second["retry_after"]) == ("BusyError", None)
    assert "429" in second["says"]


async def test_somebody_elses_path_is_refused(bench: Bench) -> None:
    ours = await bench.sender("push", f"/push/mine/{bench.identity}/{{id}}", by_cap=True)
    assert "returned" in await ours(bench.fresh(), {})
    theirs = await bench.sender("push", f"/push/mine/{'0' * 32}/{{id}}", by_cap=True)
    answer = await theirs(bench.fresh(), {})
    assert answer["raised"] == "RejectedError"
    assert "403" in answer["says"]


@pytest.mark.parametrize("seconds", [-400.0, 400.0])
async def test_a_wrong_clock_looks_like_wrong_credentials_and_is_named(bench: Bench, seconds: float) -> None:
    send = await bench.sender("push", f"/push/mine/{bench.identity}/{{id}}", by_cap=True)
    answer = await send(id := bench.fresh(), {}, clock=seconds)
    assert answer["raised"] == "AuthNeededError"
    assert "401" in answer["says"]
    assert "this computer's clock: more than 5 minutes off" in answer["says"]
    assert "returned" in await send(id, {}, clock=seconds * 0.6), "within 5 minutes"


@pytest.mark.parametrize("kind", ["push", "append"])
@pytest.mark.parametrize(
    ("status", "raised"),
    [
        *[(status, "AuthNeededError") for status in (301, 302, 307, 401, 407, 511)],
        *[(status, "BusyError") for status in (408, 425, 429, 502, 503, 504)],
        *[(status, "RejectedError") for status in (400, 403, 404, 405, 413, 415, 422)],
        *[(status, "SendError") for status in (500, 501, 507)],
        *[(status, "UnackedError") for status in (200, 202, 204)],  # a login page, a proxy that keeps it for later
    ],
)
async def test_a_status_that_anything_on_the_way_may_answer(bench: Bench, kind: str, status: int, raised: str) -> None:
    endpoint = Endpoint()
    async with serving(endpoint.handle) as url:
        endpoint.answers(status, b"<html>log in</html>", Location="https://login.example/")
        answer = await (await bench.sender(kind, "/push/obs/all", url=url))("a", {})
    assert (answer["raised"], answer["remote"]) == (raised, None)
    assert all(request.target.split("/")[1] in ("push", "pull") for request in endpoint.requests), "nobody is followed"


@pytest.mark.parametrize("there", [{"x": 1}, {"x": 2}, None])
@pytest.mark.parametrize(
    ("said", "told"),
    [
        *[(said, None) for said in (b"", b"busy", b"{}", b'{"error": 7}', b'{"currentHash": 7}')],
        (b'{"error": "hash_mismatch"}', None),
        (b'{"error": "hash_mismatch", "currentHash": "of a later protocol"}', "of a later protocol"),
    ],
)
async def test_a_409_that_does_not_tell_our_hash_is_only_a_success_where_our_document_is_there(
    bench: Bench, said: bytes, told: str | None, there: Any
) -> None:
    found = json.dumps({"data": there or {}, "hash": "h" if there else "", "timestamp": 1}).encode()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            pushed = (await message(reader)).startswith(b"POST")
            status, body = ("409 Conflict", said) if pushed else ("200 OK", found)
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()

    async with serving(handle) as url:
        answer = await (await bench.sender("push", "/push/obs/{id}", url=url))("a", {"x": 1})
    assert answer["calls"] == 2
    if there == {"x": 1}:
        assert answer["returned"] == {"hash": "h"}
    else:
        assert (answer["raised"], answer["remote"]) == ("ConflictError", told)


@pytest.mark.parametrize(
    "answer", [{"detail": [{"loc": ["x"], "input": "secret"}]}, {"error": {"x": "secret"}}, ["secret"]]
)
async def test_nothing_that_could_be_a_value_is_repeated(bench: Bench, answer: Any) -> None:
    endpoint = Endpoint()
    async with serving(endpoint.handle) as url:
        endpoint.answers(422, json.dumps(answer).encode())
        said = await (await bench.sender("push", "/push/obs/{id}", url=url))("a", {"x": "secret"})
    assert (said["raised"], said["says"]) == ("RejectedError", "the server answered 422")


@pytest.mark.parametrize("kind", ["push", "append"])
async def test_where_nobody_listens_nothing_was_sent(bench: Bench, kind: str) -> None:
    with refused_port() as port:
        answer = await (await bench.sender(kind, "/push/obs/all", url=f"http://127.0.0.1:{port}"))("a", {})
    assert (answer["raised"], answer["calls"]) == ("OfflineError", 1)


def hangs_up(connection: socket.socket, _: Peer) -> None:
    connection.recv(65536)
    connection.close()


def resets(connection: socket.socket, _: Peer) -> None:
    connection.recv(65536)
    reset(connection)


def says_half(connection: socket.socket, _: Peer) -> None:
    connection.recv(65536)
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"hash":')
    connection.close()


def is_silent(connection: socket.socket, _: Peer) -> None:
    """Until the client gives up."""
    while connection.recv(65536):
        pass


@pytest.mark.parametrize("behave", [hangs_up, resets, says_half, is_silent])
async def test_without_a_whole_answer_it_may_have_been_sent(bench: Bench, behave: Any) -> None:
    with Peer(behave) as peer:
        send = await bench.sender("push", "/push/obs/{id}", url=peer.url.rstrip("/"), timeout=0.5)
        answer = await send("a", {})
    assert (answer["raised"], answer["calls"]) == ("UnackedError", 1)


async def test_a_server_of_no_kind_that_the_client_knows_is_never_asked_again(bench: Bench) -> None:
    answer = await (await bench.sender("push", "/push/obs/{id}", url="ftp://127.0.0.1"))("a", {})
    assert answer["raised"] == "RejectedError"


async def test_what_the_callers_own_functions_raise_comes_through() -> None:
    entry = OutboxEntry[Any]("a", {}, "sending", 0, 0)
    for make in (starfish_push, starfish_append):
        with pytest.raises(ZeroDivisionError):
            await make(None, path="/push/obs/{id}", body=lambda _: {"x": 1 / 0})(entry)
        with pytest.raises(ZeroDivisionError):
            await make(None, path=lambda _: str(1 / 0))(entry)
