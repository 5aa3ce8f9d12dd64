"""What `sql_insert` makes of connections: kept, in use while a send is cancelled, inherited, lost, not to be had."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from starfish_outbox.errors import OfflineError, RejectedError, UnackedError
from starfish_outbox.senders import sql_insert
from tests.loopback import refused_port
from tests.postgres import Postgres, running_postgres
from tests.sending import SECRET, entry, refused


@pytest.fixture(scope="module")
def started() -> Iterator[Postgres]:
    with running_postgres() as running:
        yield running


@pytest.fixture
def server(started: Postgres) -> Postgres:
    started.ask("DROP SCHEMA public CASCADE")
    started.ask("CREATE SCHEMA public")
    return started


def to(server: Postgres) -> Callable[[], psycopg.Connection[Any]]:
    return lambda: psycopg.connect(server.dsn())


TERMINATE = (
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
    "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


async def test_sessions_that_were_ended_while_idle_cost_one_unanswered_send_together(server: Postgres) -> None:
    server.ask("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    async with sql_insert(to(server), "seen") as send:
        await asyncio.gather(*(send(entry(id=f"nest-{number}")) for number in range(4)))
        server.ask(TERMINATE)
        assert type(await refused(send, entry(id="nest-4"))) is UnackedError
        for number in range(4, 8):
            await send(entry(id=f"nest-{number}"))
    assert server.ask("SELECT count(*) FROM seen") == [(8,)]


async def test_a_session_that_is_ended_while_it_inserts_is_as_no_answer(server: Postgres) -> None:
    server.ask("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    async with sql_insert(to(server), "seen") as send:
        with psycopg.connect(server.dsn()) as other:
            other.execute("LOCK TABLE seen")
            sending = asyncio.ensure_future(refused(send, entry()))
            await server.blocked(1)
            server.ask(f"{TERMINATE} AND wait_event_type = 'Lock'")
            assert type(await sending) is UnackedError
        await send(entry())


async def test_a_batch_of_which_the_connection_is_lost_half_way_says_what_became_of_each(server: Postgres) -> None:
    server.ask("CREATE TABLE seen (id text PRIMARY KEY, value integer)")
    async with sql_insert(to(server), "seen", columns=["value"]) as send:
        with psycopg.connect(server.dsn()) as other:
            other.execute("INSERT INTO seen VALUES ('nest-2', 4)")
            entries = [entry({"value": value}, f"nest-{at}") for at, value in enumerate([0, SECRET, 2, 3, 4, 5, 6])]
            sending = asyncio.ensure_future(send(entries))  # nest-2 waits for the other's
            await server.blocked(1)
            server.ask(f"{TERMINATE} AND wait_event_type = 'Lock'")
            answers = await sending
            other.rollback()
        kinds = [type(answer) for answer in answers]
        assert kinds == [type(None), RejectedError, UnackedError, *[OfflineError] * 4]
        assert await send(entries[2:]) == [None] * 5
    assert server.ask("SELECT count(*) FROM seen") == [(6,)]


async def test_a_server_that_crashes_while_it_inserts_and_one_that_is_down(server: Postgres) -> None:
    server.ask("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    async with sql_insert(to(server), "seen") as send:
        with psycopg.connect(server.dsn()) as other:
            other.execute("LOCK TABLE seen")
            sending = asyncio.ensure_future(refused(send, entry()))
            await server.blocked(1)
            server.kill()
            other.close()
        assert type(await sending) is UnackedError
        assert type(await refused(send, entry())) is OfflineError
        server.start()
        await send(entry())
    assert server.ask("SELECT id FROM seen") == [("nest-1",)]


async def test_nobody_there_no_name_and_no_answer_are_offline() -> None:
    with refused_port() as nobody, socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for where in (
            f"host=127.0.0.1 port={nobody}",
            "host=nowhere.invalid",
            f"host=127.0.0.1 port={port} connect_timeout=2",
        ):
            async with sql_insert(lambda where=where: psycopg.connect(where), "seen") as send:  # type: ignore[misc]
                assert type(await refused(send, entry())) is OfflineError


async def test_a_cancelled_send_ends_by_itself_and_leaves_no_transaction(server: Postgres) -> None:
    server.ask("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    made: list[psycopg.Connection[Any]] = []

    def connect() -> psycopg.Connection[Any]:
        made.append(psycopg.connect(server.dsn()))
        return made[-1]

    async with sql_insert(connect, "seen") as send:
        with psycopg.connect(server.dsn()) as other:
            other.execute("LOCK TABLE seen")
            first = asyncio.ensure_future(send(entry()))
            await server.blocked(1)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            again = asyncio.ensure_future(send(entry()))
            await server.blocked(2)
        await again
        await send(entry(id="nest-2"))
        assert len(made) == 2
    assert [connection.closed for connection in made] == [True, True]
    assert server.ask("SELECT id FROM seen ORDER BY id") == [("nest-1",), ("nest-2",)]


FORKS = """
import asyncio, os, sys
import psycopg
from starfish_outbox import OutboxEntry
from starfish_outbox.senders import sql_insert

send = sql_insert(lambda: psycopg.connect(sys.argv[1]), "forked", columns=[])

def deliver(id):
    asyncio.run(send(OutboxEntry(id, None, "queued", 0, 1)))

deliver("parent")
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
    deliver("parent again")
else:
    deliver("child")
    deliver("child again")
"""


def test_a_forked_child_connects_anew_and_leaves_the_parent_s_connection_alone(server: Postgres) -> None:
    server.ask("CREATE TABLE forked (id text PRIMARY KEY, session integer DEFAULT pg_backend_pid())")
    subprocess.run([sys.executable, "-c", FORKS, server.dsn()], check=True, timeout=60, cwd=Path(__file__).parents[1])
    sessions = dict(server.ask("SELECT id, session FROM forked"))
    assert sessions["parent"] == sessions["parent again"]
    assert sessions["child"] == sessions["child again"] != sessions["parent"]
