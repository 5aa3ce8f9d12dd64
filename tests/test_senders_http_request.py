"""What `http_post` sends (body, headers, key, URL), over which connection, and what it refuses before it sends."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import given, strategies as st

from starfish_outbox.entry import OutboxEntry
from starfish_outbox.errors import RejectedError
from starfish_outbox.senders import HttpSender, http_post, idempotency_key
from tests.loopback import Endpoint, refused_port, serving


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


async def test_an_entry_is_posted_as_its_stored_json_under_its_id(endpoint: Endpoint) -> None:
    endpoint.answers(201, b'{"stored":true}')
    item = {"note": "Küken\n\ud800", "mass": 3750.0, "big": 2**60, "gaps": [None]}
    async with http_post(endpoint.url, headers={"Authorization": "Bearer t"}) as send:
        await send(entry(item))
    (request,) = endpoint.requests
    assert (request.method, request.target) == ("POST", "/observations")
    assert request.headers["idempotency-key"] == "nest-1"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == "Bearer t"
    assert request.body.decode() == '{"note":"Küken\\n\\ud800","mass":3750,"big":1152921504606846976,"gaps":[null]}'


async def test_an_own_client_keeps_its_connection(endpoint: Endpoint) -> None:
    endpoint.answers(200)
    async with http_post(endpoint.url) as send:
        for n in range(3):
            await send(entry(id=f"nest-{n}"))
    assert endpoint.connections == 1
    await send(entry())  # and a new one opens after it was given back
    assert endpoint.connections == 2
    await send.aclose()
    await send.aclose()


async def test_a_client_that_was_handed_in_stays_open(endpoint: Endpoint) -> None:
    endpoint.answers(200)
    async with httpx.AsyncClient(headers={"X-Lab": "3"}) as client:
        async with http_post(endpoint.url, client=client) as send:
            await send(entry())
        assert not client.is_closed
    assert endpoint.requests[0].headers["x-lab"] == "3"


@pytest.mark.parametrize("close", [True, False])
def test_one_sender_serves_two_event_loops_one_after_the_other(close: bool) -> None:
    async def once(send: HttpSender, port: int) -> int:
        it = Endpoint()
        it.answers(200, Connection="close")  # so that no connection of the first loop is left open
        async with serving(it.handle, port):
            await send(entry())
            await send(entry())
        if close:
            await send.aclose()
        return len(it.requests)

    with refused_port() as port:
        send = http_post(f"http://127.0.0.1:{port}/")
    assert asyncio.run(once(send, port)) == 2
    assert asyncio.run(once(send, port)) == 2


@pytest.mark.parametrize(
    ("base", "path", "target"),
    [
        ("", None, "/observations"),
        ("", "a/b", "/observations/a/b"),
        ("/", "/a", "/observations/a"),
        ("?token=t", "a", "/observations/a?token=t"),
        ("?token=t", None, "/observations?token=t"),
        ("", lambda e: e.id, "/observations/nest-1"),
        ("", lambda _: "//evil.example/x", "/observations/evil.example/x"),
        ("", lambda _: "@evil.example", "/observations/@evil.example"),
        ("", lambda _: "a?b#c d\r\nHost: evil%2e\\", "/observations/a%3Fb%23c%20d%0D%0AHost:%20evil%252e%5C"),
        ("", lambda _: "Küken", "/observations/K%C3%BCken"),
    ],
)
async def test_a_path_is_added_below_the_base_url_and_can_change_nothing_else(
    endpoint: Endpoint, base: str, path: Any, target: str
) -> None:
    endpoint.answers(200)
    async with http_post(endpoint.url + base, path=path) as send:
        await send(entry())
    assert [request.target for request in endpoint.requests] == [target]


async def test_a_path_with_dots_is_refused_for_that_entry(endpoint: Endpoint) -> None:
    async with http_post(endpoint.url, path=lambda e: f"{e.id}/x") as send:
        for id in ("..", "a/../../b", "."):
            with pytest.raises(RejectedError, match="could leave the base URL"):
                await send(entry(id=id))
    assert endpoint.requests == []
    with pytest.raises(ValueError, match="could leave the base URL"):
        http_post(endpoint.url, path="../admin")


async def test_a_body_function_chooses_what_is_posted(endpoint: Endpoint) -> None:
    endpoint.answers(200)
    async with http_post(endpoint.url, body=lambda e: {"id": e.id, "data": e.item}) as send:
        await send(entry())
    async with http_post(endpoint.url, body=lambda _: b"<xml/>", headers={"Content-Type": "text/xml"}) as send:
        await send(entry())
    async with http_post(endpoint.url, body=lambda _: {"x": float("nan")}) as send:
        with pytest.raises(RejectedError, match="not JSON"):
            await send(entry())
    first, second = endpoint.requests
    assert json.loads(first.body) == {"id": "nest-1", "data": {"mass": 3750}}
    assert (second.body, second.headers["content-type"]) == (b"<xml/>", "text/xml")


async def test_a_failing_body_function_is_passed_on_as_it_is(endpoint: Endpoint) -> None:
    async with http_post(endpoint.url, body=lambda e: e.item["nothing"]) as send:
        with pytest.raises(KeyError):
            await send(entry())
    assert endpoint.requests == []


async def test_credentials_reach_the_server_and_no_repr_or_error(endpoint: Endpoint) -> None:
    endpoint.answers(403, b"no")
    send = http_post(endpoint.url + "?token=s3cret", auth=("me", "hunter2"), headers={"X-Key": "s3cret"})
    async with send:
        with pytest.raises(RejectedError) as caught:
            await send(entry())
    assert endpoint.requests[0].headers["authorization"] == "Basic bWU6aHVudGVyMg=="
    assert repr(send) == f"http_post({endpoint.url!r})"
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_url": "lab.example/x"}, "https://host/path"),
        ({"base_url": "ftp://lab.example"}, "https://host/path"),
        ({"base_url": "https://"}, "https://host/path"),
        ({"base_url": "https://lab.example:port/"}, "base_url"),
        ({"base_url": "https://lab.example:99999/"}, "base_url"),
        ({"base_url": "https://[::1/"}, "base_url"),
        ({"base_url": "https://lab example/"}, "base_url"),
        ({"base_url": "https://me:hunter2@lab.example/"}, r"auth=\(name, password\)"),
        ({"base_url": "https://lab.example/#here"}, "never sent"),
        ({"id_header": "Idempotency Key"}, "id_header"),
        ({"id_header": ""}, "id_header"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"headers": {"Authorization": "Bearer hunter2\n"}}, "'Authorization'"),
        ({"headers": {"X-Süd": "x"}}, "is not the name of a header"),
    ],
    ids=repr,
)
def test_what_cannot_work_for_any_entry_is_said_when_the_sender_is_made(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        http_post(**{"base_url": "https://lab.example/", **options})
    assert "hunter2" not in str(caught.value)


def test_without_httpx_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ImportError, match=r"starfish-outbox\[http\]"):
        http_post("https://lab.example/")


@pytest.mark.parametrize(
    ("id", "key"),
    [
        ("PAL0708/N1A1", "PAL0708/N1A1"),
        ('a,b;c="d"', 'a,b;c="d"'),
        ("a b", "a%20b"),
        ("a%20b", "a%2520b"),
        ("Küken", "K%C3%BCken"),
        ("a\r\nX: y", "a%0D%0AX:%20y"),
        ("\ud800", "%ED%A0%80"),
    ],
)
def test_a_key_is_visible_ascii(id: str, key: str) -> None:
    assert idempotency_key(id) == key


@given(st.text(min_size=1))
def test_keys_are_distinct_since_each_gives_its_id_back(id: str) -> None:
    key = idempotency_key(id)
    assert all(0x21 <= ord(char) <= 0x7E for char in key)
    assert unquote(key, errors="surrogatepass") == id
