"""Whole queues through `s3_put` into a real S3 server that crashes, over a network that loses answers."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from starfish_outbox import DrainProgress, OutboxEntry, drain_outbox
from starfish_outbox.jsontext import encode_foreign
from starfish_outbox.senders import s3_put
from tests.relay import Relay, relaying
from tests.s3 import BUCKET, S3, running_s3
from tests.sending import Counted, filled


@pytest.fixture
def server(memory_path: Path) -> Iterator[S3]:
    with running_s3(memory_path) as running:
        yield running


def items(count: int, prefix: str = "nest") -> dict[str, Any]:
    dice = Random(prefix)
    return {f"{prefix}-{number}": {"number": number, "mass": dice.uniform(1, 9)} for number in range(count)}


@asynccontextmanager
async def losing_answers(server: S3, share: float, seed: int) -> AsyncIterator[Relay]:
    """A relay that loses this share of the answers that say: stored."""
    dice = Random(seed)
    async with relaying(server.port, lambda data: b" 200 OK\r\n" in data and dice.random() < share) as relay:
        relay.cuts_left = 10_000
        yield relay


async def arrives_once(server: S3, path: Path, count: int, share: float, concurrency: int) -> None:
    entries = items(count)
    sent, passes, crashed = 0, 0, False

    def crash(progress: DrainProgress) -> None:
        nonlocal crashed
        if sent + progress.sent >= count * 0.4 and not crashed:
            server.kill()
            crashed = True

    async with losing_answers(server, share, 5) as relay, filled(path / "outbox.db", entries) as queue:
        async with s3_put(BUCKET, client=server.client(relay.port), prefix="nests/") as put:
            send = Counted(put)
            while not crashed:
                result = await drain_outbox(queue, send, on_progress=crash, concurrency=concurrency, receipts=True)
                sent += result.sent
                assert (result.failed, sent < count * 0.6) == (0, True)
        async with s3_put(BUCKET, client=server.client(), prefix="nests/") as put:
            send = Counted(put)
            for _ in range(5):
                send.calls = 0
                result = await drain_outbox(queue, send, concurrency=concurrency, receipts=True)
                assert (result.sent, result.failed, result.stopped) == (0, 0, "offline")
                assert send.calls <= 2
        server.start()
        async with s3_put(BUCKET, client=server.client(relay.port), prefix="nests/") as send_again:
            while queue.get():
                result = await drain_outbox(queue, send_again, concurrency=concurrency, receipts=True)
                passes += 1
                assert (result.failed, passes < 100) == (0, True)
        for id in (f"nest-{number}" for number in range(0, count, 50)):
            told = (await queue.history(id))[-1]
            assert (told.event, told.detail["key"]) == ("sent", f"nests/{id}")
            assert told.detail["etag"] == f'"{hashlib.md5(encode_foreign(entries[id]).encode()).hexdigest()}"'
    print(f"\n{sent} before the crash, {relay.cuts} answers lost, {passes} passes afterwards")
    assert server.objects() == {f"nests/{id}": encode_foreign(item).encode() for id, item in entries.items()}
    assert relay.cuts >= 5


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_all_entries_arrive_once_although_the_server_crashes(
    memory_path: Path, tmp_path: Path, server: S3, concurrency: int
) -> None:
    await arrives_once(server, tmp_path, 150, 0.1, concurrency)


@pytest.mark.proof
@pytest.mark.parametrize("concurrency", [1, 8])
async def test_a_thousand_entries_arrive_once_although_the_server_crashes(
    tmp_path: Path, server: S3, concurrency: int
) -> None:
    await arrives_once(server, tmp_path, 1_000, 0.03, concurrency)


async def test_two_outboxes_with_one_id_for_two_things(tmp_path: Path, server: S3) -> None:
    """The second is told. The control, the usual put, writes over the first and says that all is well."""
    one, other = {"nest-1": {"eggs": 2}, "nest-2": 2}, {"nest-1": {"eggs": 3}, "nest-2": 2}
    client = server.client()

    async def usual(entry: OutboxEntry[Any]) -> None:
        body = json.dumps(entry.item, separators=(",", ":")).encode()
        await asyncio.to_thread(client.put_object, Bucket=BUCKET, Key=f"usual/{entry.id}", Body=body)

    async with s3_put(BUCKET, client=client, prefix="put/") as put:
        sends: dict[str, Any] = {"put": put, "usual": usual}
        for kind, send in sends.items():
            for name, entries in {"a": one, "b": other}.items():
                async with filled(tmp_path / f"{kind}-{name}.db", entries) as queue:
                    result = await drain_outbox(queue, send)
                    left = [(entry.id, entry.status, entry.last_error) for entry in queue.get()]
                if (kind, name) == ("put", "b"):
                    assert (result.sent, result.failed) == (1, 1)
                    ((id, status, error),) = left
                    assert error is not None
                    assert (id, status, error.type) == ("nest-1", "failed", "ConflictError")
                else:
                    assert (result.sent, result.failed, left) == (2, 0, [])
    objects = server.objects()
    assert objects["put/nest-1"] == b'{"eggs":2}'
    assert objects["usual/nest-1"] == b'{"eggs":3}'  # a lost observation, which the test above would not miss
