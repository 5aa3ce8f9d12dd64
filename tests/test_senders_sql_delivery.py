"""Whole queues through `sql_insert` into a real PostgreSQL that crashes, over a network that loses answers.

The relay cuts a connection after the server has committed and before its answer is through. What is asserted stands in
the table; the controls are sends as they are commonly written, and must fail in the same run.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

from starfish_outbox import DrainProgress, OutboxEntry, OutboxQueue, drain_outbox
from starfish_outbox.senders import sql_insert
from tests.postgres import Postgres, running_postgres
from tests.relay import Relay, relaying
from tests.sending import Counted, filled

TABLE = "CREATE TABLE seen (id text PRIMARY KEY, item jsonb NOT NULL)"


@pytest.fixture(scope="module")
def started() -> Iterator[Postgres]:
    with running_postgres() as running:
        yield running


@pytest.fixture
def server(started: Postgres) -> Postgres:
    started.ask("DROP SCHEMA public CASCADE")
    started.ask("CREATE SCHEMA public")
    return started


def items(count: int, prefix: str = "nest") -> dict[str, Any]:
    dice = Random(prefix)
    return {
        f"{prefix}-{number}": {"number": number, "mass": dice.uniform(1, 9), "ring": f"'; -- {dice.random()} 🐧"}
        for number in range(count)
    }


@asynccontextmanager
async def losing_answers(server: Postgres, share: float, seed: int) -> AsyncIterator[Relay]:
    """A relay that loses this share of the answers that say: it is committed."""
    dice = Random(seed)

    def loses(data: bytes) -> bool:
        committed = data.endswith(b"Z\0\0\0\5I") and (b"COMMIT\0" in data or b"INSERT 0 " in data)
        return committed and dice.random() < share

    async with relaying(server.port, loses) as relay:
        relay.cuts_left = 10_000
        yield relay


def connecting(server: Postgres, port: int, **more: Any) -> Callable[[], psycopg.Connection[Any]]:
    return lambda: psycopg.connect(server.dsn(port=port, connect_timeout="30"), **more)


@pytest.mark.parametrize(
    ("share", "autocommit", "options"),
    [
        (0.03, False, {}),
        (0.03, False, {"concurrency": 8}),
        (0.2, False, {"batch_size": 20}),
        (0.2, True, {"batch_size": 20, "concurrency": 4}),
    ],
    ids=["one by one", "8 at a time", "batches", "batches, 4 at a time, autocommit"],
)
async def test_a_thousand_entries_arrive_once_although_the_server_crashes(
    memory_path: Path, server: Postgres, share: float, autocommit: bool, options: dict[str, Any]
) -> None:
    server.ask(TABLE)
    entries = items(1_000)
    sent, passes, crashed = 0, 0, False

    def crash(progress: DrainProgress) -> None:
        nonlocal crashed
        if sent + progress.sent >= 400 and not crashed:
            server.kill()
            crashed = True

    async with (
        losing_answers(server, share, 11) as relay,
        filled(memory_path / "outbox.db", entries) as queue,
        sql_insert(connecting(server, relay.port, autocommit=autocommit), "seen") as sql,
    ):
        send = Counted(sql)
        while not crashed:
            result = await drain_outbox(queue, send, on_progress=crash, **options)
            sent += result.sent
            assert (result.failed, sent < 600) == (0, True)
        for _ in range(5):
            send.calls = 0
            result = await drain_outbox(queue, send, **options)
            assert (result.sent, result.failed, result.stopped) == (0, 0, "offline")
            assert send.calls <= 2
        server.start()
        while queue.get():
            result = await drain_outbox(queue, send, **options)
            passes += 1
            assert (result.failed, passes < 100) == (0, True)
    assert dict(server.ask("SELECT id, item FROM seen")) == entries  # the id is the primary key: none is twice
    assert server.ask("SELECT count(*) FROM seen") == [(1_000,)]
    print(f"\n{sent} before the crash, {relay.cuts} answers to COMMIT lost, {passes} passes afterwards")
    assert relay.cuts >= 5


async def test_the_usual_insert_doubles_or_parks_what_was_delivered(memory_path: Path, server: Postgres) -> None:
    """The control: without ON CONFLICT every lost answer is a second row, or with a key a parked entry."""
    entries = items(80)
    for key in ("", "PRIMARY KEY"):
        server.ask(f"CREATE TABLE seen (id text {key}, item jsonb)")
        async with losing_answers(server, 0.12, 11) as relay, filled(memory_path / f"{key}.db", entries) as queue:

            def insert(entry: OutboxEntry[Any], port: int = relay.port) -> None:
                with psycopg.connect(server.dsn(port=port)) as connection:
                    connection.execute("INSERT INTO seen VALUES (%s, %s)", (entry.id, json.dumps(entry.item)))

            async def send(entry: OutboxEntry[Any]) -> None:
                await asyncio.to_thread(insert, entry)

            while queue.counts().queued:
                await drain_outbox(queue, send)
            parked = [entry.id for entry in queue.get()]
        doubles = server.ask("SELECT count(*) - count(DISTINCT id) FROM seen")[0][0]
        print(
            f"\nplain INSERT, {key or 'no key'}: {relay.cuts} answers lost, {doubles} rows twice, {len(parked)} parked"
        )
        assert relay.cuts >= 5
        assert (doubles, len(parked)) == ((0, relay.cuts) if key else (relay.cuts, 0))
        assert server.ask("SELECT count(DISTINCT id) FROM seen") == [(80,)]
        server.ask("DROP TABLE seen")


async def test_two_outboxes_that_share_entries_fill_one_table(memory_path: Path, server: Postgres) -> None:
    server.ask(TABLE)
    shared = items(120, "shared")
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(losing_answers(server, 0.1, 3))
        queues = [
            await stack.enter_async_context(filled(memory_path / f"{name}.db", {**items(120, name), **shared}))
            for name in ("a", "b")
        ]

        async def drain(queue: OutboxQueue[Any], **options: Any) -> None:
            async with sql_insert(connecting(server, relay.port), "seen") as send:
                while queue.get():
                    result = await drain_outbox(queue, send, **options)
                    assert result.failed == 0

        async with asyncio.timeout(60):
            await asyncio.gather(drain(queues[0], concurrency=4), drain(queues[1], batch_size=25))
    assert dict(server.ask("SELECT id, item FROM seen")) == {**items(120, "a"), **items(120, "b"), **shared}
    assert relay.cuts >= 5


async def test_who_uses_an_id_for_two_things_is_told(memory_path: Path, server: Postgres) -> None:
    server.ask(TABLE)
    one, other = {"nest-1": {"eggs": 2}, "nest-2": 2}, {"nest-1": {"eggs": 3}, "nest-2": 2}
    for name, entries in (("a", one), ("b", other)):
        async with (
            filled(memory_path / f"{name}.db", entries) as queue,
            sql_insert(connecting(server, server.port), "seen") as send,
        ):
            result = await drain_outbox(queue, send)
            left = [(entry.id, entry.status, entry.last_error and entry.last_error.type) for entry in queue.get()]
    assert (result.sent, result.failed, left) == (1, 1, [("nest-1", "failed", "ConflictError")])
    assert server.ask("SELECT item FROM seen WHERE id = 'nest-1'") == [({"eggs": 2},)]


@pytest.mark.proof
async def test_what_a_week_offline_takes(memory_path: Path, server: Postgres) -> None:
    server.ask(TABLE)
    runs: list[tuple[int, dict[str, Any]]] = [
        (2_000, {}),
        (2_000, {"concurrency": 8}),
        (100_000, {"batch_size": 100}),
        (100_000, {"batch_size": 500}),
    ]
    for count, options in runs:
        server.ask("TRUNCATE seen")
        path = memory_path / f"{len(list(memory_path.iterdir()))}.db"
        async with (
            filled(path, items(count)) as queue,
            sql_insert(connecting(server, server.port), "seen") as send,
        ):
            began = time.perf_counter()
            result = await drain_outbox(queue, send, **options)
            took = time.perf_counter() - began
        assert (result.sent, result.stopped) == (count, "finished")
        assert server.ask("SELECT count(*) FROM seen") == [(count,)]
        print(f"\n{count:,} rows, {options or 'one by one'}: {took:.1f} s, {count / took:,.0f} a second", end="")
