"""What `s3_put` does with boto3 on a real S3 server, and what it makes of the answers that Amazon documents."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest

from starfish_outbox.errors import (
    AuthNeededError,
    BusyError,
    ConflictError,
    OfflineError,
    RejectedError,
    SendError,
    UnackedError,
)
from starfish_outbox.senders import s3_put
from tests.loopback import Endpoint, Peer, refused_port, reset, serving
from tests.s3 import BUCKET, S3, client_for, running_s3
from tests.sending import SECRET, entry, refused


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with running_s3(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A part of the bucket for each test."""
    return f"{abs(hash(request.node.name))}/"


def stored(server: S3, prefix: str) -> dict[str, bytes]:
    return {key.removeprefix(prefix): body for key, body in server.objects().items() if key.startswith(prefix)}


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


async def test_an_entry_is_one_object_however_often_it_is_sent(server: S3, prefix: str) -> None:
    async with s3_put(BUCKET, client=server.client(), prefix=prefix) as send:
        first = await send(entry({"mass": 1.5}))
        again = await send(entry({"mass": 1.5}))
    assert first == again == {"key": f"{prefix}nest-1", "etag": first["etag"]}
    assert stored(server, prefix) == {"nest-1": b'{"mass":1.5}'}


async def test_another_content_under_the_key_is_a_conflict_and_stays(server: S3, prefix: str) -> None:
    async with s3_put(BUCKET, client=server.client(), prefix=prefix) as send:
        first = await send(entry(1))
        for other in (2, 11, ""):
            error = await refused(send, entry(other))
            assert isinstance(error, ConflictError)
            assert error.remote == first["etag"]
    assert stored(server, prefix) == {"nest-1": b"1"}


async def test_of_many_puts_of_one_key_at_once_one_wins_and_the_others_are_told(server: S3, prefix: str) -> None:
    async with s3_put(BUCKET, client=server.client(), prefix=prefix) as send:
        same = await asyncio.gather(*(send(entry(1, "same")) for _ in range(8)))
        others = await asyncio.gather(*(send(entry(at, "one")) for at in range(8)), return_exceptions=True)
    assert len({told["etag"] for told in same}) == 1
    assert [type(told) for told in others].count(ConflictError) == 7
    assert len(stored(server, prefix)) == 2


async def test_body_content_type_and_extra_are_the_caller_s(server: S3, prefix: str) -> None:
    client = server.client()
    asked: list[dict[str, Any]] = []
    client.meta.events.register("provide-client-params.s3.PutObject", lambda params, **_: asked.append(dict(params)))
    async with s3_put(
        BUCKET,
        client=client,
        prefix=prefix,
        key=lambda one: f"{one.item['site']}/{one.id}.csv",
        body=lambda one: f"mass\n{one.item['mass']}\n".encode(),
        content_type="text/csv",
        extra={"Metadata": {"survey": "2026"}},
    ) as send:
        await send(entry({"site": "A", "mass": 3}))
    assert stored(server, prefix) == {"A/nest-1.csv": b"mass\n3\n"}
    (params,) = asked
    assert (params["ContentType"], params["Metadata"], params["IfNoneMatch"]) == ("text/csv", {"survey": "2026"}, "*")
    async with s3_put(BUCKET, client=server.client(), prefix=prefix, body=lambda one: [one.id, 1.0]) as send:
        await send(entry())
    assert stored(server, prefix)["nest-1"] == b'["nest-1",1]'


@pytest.mark.parametrize(
    ("id", "key"),
    [
        ("nest-1_a.b~c", "nest-1_a.b~c"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("../../other", "..%2F..%2Fother"),
        ("/absolute", "%2Fabsolute"),
        ("a b+c%2F?x=1#y&z", "a%20b%2Bc%252F%3Fx%3D1%23y%26z"),
        ("ü 漢🐧\n", "%C3%BC%20%E6%BC%A2%F0%9F%90%A7%0A"),
        ("a\\b:c*|<>", "a%5Cb%3Ac%2A%7C%3C%3E"),
    ],
)
async def test_an_id_stays_below_the_prefix_whatever_it_spells(server: S3, prefix: str, id: str, key: str) -> None:
    async with s3_put(BUCKET, client=server.client(), prefix=prefix) as send:
        assert (await send(entry(id=id)))["key"] == prefix + key
        await send(entry(id=id))
    assert stored(server, prefix) == {key: b'"geheim"'}


async def test_what_a_key_function_gives_is_encoded_between_its_slashes(server: S3, prefix: str) -> None:
    async with s3_put(BUCKET, client=server.client(), prefix=prefix, key=lambda one: f"../a b/{one.id}") as send:
        assert (await send(entry(id="..")))["key"] == f"{prefix}%2E%2E/a%20b/%2E%2E"


async def test_a_key_that_is_too_long_and_a_body_that_is_no_json_park_their_entry(server: S3) -> None:
    async with s3_put(BUCKET, client=server.client()) as send:
        assert type(await refused(send, entry(id="ü" * 171))) is RejectedError
    async with s3_put(BUCKET, client=server.client(), body=lambda _: float("nan")) as send:
        with pytest.raises(RejectedError):
            await send(entry())


@pytest.mark.parametrize(
    ("bucket", "options", "said"),
    [
        ("", {}, "bucket"),
        (BUCKET, {"client": object()}, "put_object"),
        (BUCKET, {"prefix": "a/../b"}, "prefix"),
        (BUCKET, {"extra": {"Key": "a"}}, "extra holds Key"),
    ],
)
def test_what_cannot_work_is_refused_when_the_sender_is_made(bucket: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        s3_put(bucket, **{"client": client_for(1), **options})


async def test_without_a_client_boto3_makes_one_of_the_environment(
    server: S3, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": "field",
        "AWS_SECRET_ACCESS_KEY": "not a secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "*",
    }.items():
        monkeypatch.setenv(name, value)
    async with s3_put(BUCKET, prefix=prefix) as send:
        await send(entry())
        assert send._client.meta.config.retries["total_max_attempts"] == 1
    assert stored(server, prefix) == {"nest-1": b'"geheim"'}


async def test_a_bucket_that_is_missing_is_no_entry_s_fault(server: S3) -> None:
    async with s3_put("nowhere-2026", client=server.client()) as send:
        error = await refused(send)
    assert (type(error), "NoSuchBucket" in str(error)) == (AuthNeededError, True)


async def test_no_credentials_are_no_entry_s_fault(server: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = boto3.session.Session().client("s3", region_name="us-east-1", endpoint_url="http://127.0.0.1:1")
    async with s3_put(BUCKET, client=client) as send:
        assert type(await refused(send)) is AuthNeededError


ANSWERS: list[tuple[int, str, type[SendError]]] = [
    (400, "AuthorizationHeaderMalformed", AuthNeededError),
    (400, "ExpiredToken", AuthNeededError),
    (400, "KMS.DisabledException", AuthNeededError),
    (400, "EntityTooLarge", RejectedError),
    (400, "InvalidArgument", RejectedError),
    (400, "BadDigest", SendError),
    (400, "RequestTimeout", BusyError),
    (401, "Unauthorized", AuthNeededError),
    (403, "AccessDenied", AuthNeededError),
    (403, "InvalidAccessKeyId", AuthNeededError),
    (403, "RequestTimeTooSkewed", AuthNeededError),
    (403, "SignatureDoesNotMatch", AuthNeededError),
    (404, "NoSuchBucket", AuthNeededError),
    (405, "MethodNotAllowed", AuthNeededError),
    (409, "ConditionalRequestConflict", UnackedError),
    (409, "OperationAborted", BusyError),
    (411, "MissingContentLength", RejectedError),
    (429, "TooManyRequests", BusyError),
    (500, "InternalError", SendError),
    (501, "NotImplemented", AuthNeededError),
    (503, "SlowDown", BusyError),
    (503, "ServiceUnavailable", BusyError),
    (504, "GatewayTimeout", BusyError),
]


async def test_what_the_answers_of_amazon_s_list_mean() -> None:
    endpoint = Endpoint()
    async with serving(endpoint.handle) as url, s3_put(BUCKET, client=client_for(port_of(url))) as send:
        for status, code, kind in ANSWERS:
            body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Says so</Message></Error>"
            endpoint.answers(status, body.encode(), Content_Type="application/xml", Retry_After="7")
            endpoint.requests.clear()
            error = await refused(send)
            assert (type(error), code) == (kind, code)
            assert f"answered {status} {code}: Says so" in str(error)
            assert [(one.method, one.headers["if-none-match"]) for one in endpoint.requests] == [("PUT", "*")]
            if isinstance(error, BusyError):
                assert error.retry_after == 7


async def test_an_answer_without_words_is_judged_by_its_number() -> None:
    endpoint = Endpoint()
    endpoint.answers(403, b"<html>no</html>")
    async with serving(endpoint.handle) as url, s3_put(BUCKET, client=client_for(port_of(url))) as send:
        assert type(await refused(send)) is AuthNeededError


async def test_who_may_write_and_not_read_takes_the_key_for_the_entry_s(server: S3, prefix: str) -> None:
    """A policy as field devices have it: the server's own 412, and 403 for what it says of the object."""
    client = server.client()
    async with s3_put(BUCKET, client=client, prefix=prefix) as send:
        await send(entry(1))
        endpoint = Endpoint()
        endpoint.answers(403, b"<Error><Code>AccessDenied</Code></Error>", Content_Type="application/xml")
        async with serving(endpoint.handle) as url:
            elsewhere = client_for(port_of(url))
            client.get_object = elsewhere.get_object
            assert await send(entry(2)) == {"key": f"{prefix}nest-1"}
            endpoint.answers(404, b"<Error><Code>NoSuchKey</Code></Error>", Content_Type="application/xml")
            assert type(await refused(send, entry(2))) is BusyError
    assert stored(server, prefix) == {"nest-1": b"1"}


async def test_nobody_there_and_no_name_are_offline() -> None:
    with refused_port() as port:
        async with s3_put(BUCKET, client=client_for(port)) as send:
            assert type(await refused(send)) is OfflineError
    client = boto3.client(
        "s3",
        endpoint_url="http://nowhere.invalid",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        region_name="us-east-1",
        config=boto3.session.Config(retries={"total_max_attempts": 1}, proxies={}),
    )
    async with s3_put(BUCKET, client=client) as send:
        assert type(await refused(send)) is OfflineError


def _hang_up(connection: socket.socket, _: Peer) -> None:
    connection.recv(1 << 16)
    connection.close()


def _reset(connection: socket.socket, _: Peer) -> None:
    connection.recv(1 << 16)
    reset(connection)


def _break_off(connection: socket.socket, _: Peer) -> None:
    connection.recv(1 << 16)
    connection.sendall(b"HTTP/1.1 20")
    connection.close()


def _say_nothing(connection: socket.socket, _: Peer) -> None:
    connection.recv(1 << 16)


@pytest.mark.parametrize("behave", [_hang_up, _reset, _break_off, _say_nothing])
async def test_no_whole_answer_is_maybe_sent(behave: Any) -> None:
    with Peer(behave) as peer:
        client = client_for(port_of(peer.url), read_timeout=1)
        async with s3_put(BUCKET, client=client) as send:
            assert type(await refused(send)) is UnackedError


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "starfish-outbox-s3"]


async def test_its_threads_end_when_it_is_closed_or_nobody_has_it(server: S3, prefix: str) -> None:
    send = s3_put(BUCKET, client=server.client(), prefix=prefix)
    for _ in range(2):
        await asyncio.gather(*(send(entry(id=str(number))) for number in range(4)))
        mine = threads()
        assert 1 <= len(mine) <= 4
        await send.aclose()
        for thread in mine:
            await asyncio.to_thread(thread.join, 30)
        assert threads() == []
    await send(entry())
    (thread,) = threads()
    del send
    gc.collect()
    await asyncio.to_thread(thread.join, 30)
    assert not thread.is_alive()
    assert json.loads(stored(server, prefix)["nest-1"]) == SECRET


def test_the_representation_names_the_place_alone() -> None:
    assert repr(s3_put(BUCKET, client=client_for(1), prefix="a/")) == "s3_put('survey-2026', prefix='a/')"
