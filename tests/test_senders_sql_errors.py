"""What `sql_insert` makes of the errors of a real PostgreSQL, each of them provoked."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from starfish_outbox.errors import (
    AuthNeededError,
    BusyError,
    RejectedError,
    SendError,
    UnackedError,
)
from starfish_outbox.senders import sql_insert
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


def to(server: Postgres, **more: str) -> Callable[[], psycopg.Connection[Any]]:
    return lambda: psycopg.connect(server.dsn(**more))


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("integer", SECRET, "22P02"),
        ("smallint", 40_000, "22003"),
        ("bigint", 10**30, "22003"),
        ("varchar(3)", SECRET, "22001"),
        ("date", f"2026-13-01 {SECRET}", "22007"),
        ("jsonb", "{", "22P02"),
        ("text", f"{SECRET}\0", "DataError"),
        ("integer", True, "42804"),
        ("integer NOT NULL", None, "23502 NotNullViolation, table 'seen', column 'value'"),
        ("text CHECK (value <> 'geheim')", SECRET, "23514 CheckViolation, table 'seen', constraint 'seen_value_check'"),
        ("text REFERENCES sites (name)", SECRET, "23503 ForeignKeyViolation"),
        (
            "text REFERENCES sites (name) DEFERRABLE INITIALLY DEFERRED",
            SECRET,
            "23503 ForeignKeyViolation",
        ),  # at COMMIT
        ("text UNIQUE", "taken", "23505 UniqueViolation, table 'seen', constraint 'seen_value_key'"),
        ("text, EXCLUDE USING btree (value WITH =)", "taken", "23P01 ExclusionViolation"),
    ],
)
async def test_a_value_that_does_not_fit_parks_its_entry_alone(
    server: Postgres, column: str, value: Any, said: str
) -> None:
    server.ask("CREATE TABLE sites (name text PRIMARY KEY)")
    server.ask(f"CREATE TABLE seen (id text PRIMARY KEY, value {column})")
    if value == "taken":
        server.ask("INSERT INTO seen VALUES ('another', 'taken')")
    async with sql_insert(to(server), "seen", columns=["value"]) as send:
        error = await refused(send, entry({"value": value, "other": SECRET}))
        assert type(error) is RejectedError
        assert said in str(error)
        # The connection is without a transaction again, and nothing is left of it.
        assert server.ask("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'") == [(0,)]
        assert server.ask("SELECT count(*) FROM seen WHERE id = 'nest-1'") == [(0,)]


async def test_an_id_that_no_index_takes_parks_its_entry(server: Postgres) -> None:
    server.ask("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    async with sql_insert(to(server), "seen") as send:
        error = await refused(send, entry(id=os.urandom(4_000).hex()))
    assert (type(error), "54000" in str(error)) == (RejectedError, True)


async def test_what_a_trigger_raises_costs_an_attempt_and_tells_nothing(server: Postgres) -> None:
    server.ask("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    server.ask(
        "CREATE FUNCTION f() RETURNS trigger AS 'BEGIN RAISE EXCEPTION ''no %'', NEW.item; END' LANGUAGE plpgsql"
    )
    server.ask("CREATE TRIGGER t BEFORE INSERT ON seen FOR EACH ROW EXECUTE FUNCTION f()")
    async with sql_insert(to(server), "seen") as send:
        error = await refused(send, entry())
    assert (type(error), str(error)) == (SendError, "P0001 RaiseException")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("CREATE TABLE other (id text)", 'relation "seen" does not exist'),
        ("CREATE TABLE seen (id text PRIMARY KEY, data text)", 'column "item" of relation "seen" does not exist'),
        ("CREATE TABLE seen (id text, item text)", "no unique or exclusion constraint"),
        ("CREATE TABLE seen (id text PRIMARY KEY DEFERRABLE, item text)", "deferrable unique constraints"),
        ("CREATE TABLE seen (id text PRIMARY KEY, item text GENERATED ALWAYS AS ('x') STORED)", "non-DEFAULT value"),
        ("CREATE VIEW seen AS SELECT 1 AS id, 2 AS item", "42P10|55000"),
    ],
)
async def test_a_table_that_is_not_as_the_program_believes_parks_nobody(
    server: Postgres, table: str, said: str
) -> None:
    server.ask(table)
    async with sql_insert(to(server), "seen") as send:
        error = await refused(send, entry())
        assert type(error) is AuthNeededError
        assert any(word in str(error) for word in said.split("|"))
        server.ask(table.replace("CREATE", "DROP").partition(" (")[0].partition(" AS")[0])
        server.ask("CREATE TABLE seen (id text PRIMARY KEY, item text)")
        await send(entry())  # the same connection goes on once somebody has put it right


async def test_insert_and_select_are_the_privileges_that_it_needs(server: Postgres) -> None:
    server.ask("DROP ROLE IF EXISTS field")
    server.ask("CREATE ROLE field LOGIN PASSWORD 'a'")
    server.ask("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    async with sql_insert(to(server, user="field", password="a"), "seen") as send:
        for grant in ("USAGE ON SCHEMA public", "INSERT ON seen", "SELECT ON seen"):
            error = await refused(send, entry())
            assert type(error) is AuthNeededError
            assert "42501" in str(error) or "does not exist" in str(error)
            server.ask(f"GRANT {grant} TO field")
        await send(entry())
        await send(entry())
    server.ask("DROP OWNED BY field")


@pytest.mark.parametrize(
    "wrong", [{"password": "no"}, {"password": ""}, {"user": "nobody"}, {"dbname": "nowhere"}, {"user": "nologin"}]
)
async def test_what_the_server_refuses_to_connect_is_no_entry_s_fault(server: Postgres, wrong: dict[str, str]) -> None:
    server.ask("DROP ROLE IF EXISTS nologin")
    server.ask("CREATE ROLE nologin NOLOGIN PASSWORD 'not a secret'")
    async with sql_insert(to(server, **wrong), "seen") as send:
        assert type(await refused(send, entry())) is AuthNeededError


@pytest.mark.parametrize(
    "connect",
    [
        lambda: psycopg.connect(f"{SECRET} = = host"),
        lambda: psycopg.connect("host=127.0.0.1 port=nonsense"),
        lambda: os.environ["NO_SUCH_DSN"],
        lambda: "postgresql://",
        lambda: psycopg.AsyncConnection.connect(""),
        lambda: None,
    ],
)
async def test_a_connect_that_makes_no_connection_is_no_entry_s_fault(connect: Callable[[], Any]) -> None:
    async with sql_insert(connect, "seen") as send:
        assert type(await refused(send, entry())) is AuthNeededError


async def test_a_driver_that_does_not_say_how_it_marks_parameters_is_no_entry_s_fault(tmp_path: Path) -> None:
    class Proxy:
        """As pools and wrappers hand them out."""

        def __init__(self) -> None:
            self._connection = sqlite3.connect(tmp_path / "target.db")
            self._connection.execute("CREATE TABLE IF NOT EXISTS seen (id text PRIMARY KEY, item text)")

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

    Proxy.__module__ = "nowhere"
    async with sql_insert(Proxy, "seen") as send:
        assert "give paramstyle=" in str(await refused(send, entry()))
    async with sql_insert(Proxy, "seen", paramstyle="qmark") as send:
        await send(entry())
        await send(entry())


async def test_too_many_connections_mean_later(server: Postgres) -> None:
    server.ask("DROP ROLE IF EXISTS narrow")
    server.ask("CREATE ROLE narrow LOGIN PASSWORD 'a' CONNECTION LIMIT 1")
    connect = to(server, user="narrow", password="a")
    with connect():
        async with sql_insert(connect, "seen") as send:
            assert type(await refused(send, entry())) is BusyError


async def test_more_connections_than_the_server_has_mean_later() -> None:
    with running_postgres("-c", "max_connections=4", "-c", "superuser_reserved_connections=0") as small:
        connections = [psycopg.connect(small.dsn()) for _ in range(4)]
        async with sql_insert(to(small), "seen") as send:
            error = await refused(send, entry())
            assert (type(error), "too many clients" in str(error)) == (BusyError, True)
        for connection in connections:
            connection.close()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 4 MiB that belongs to nobody, as whom the server runs where this may be mounted."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    folder = Path(tempfile.mkdtemp(prefix="small-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,uid=65534,gid=65534,mode=700", "none", str(folder)]
    if subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("this machine lets nobody mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


async def test_a_full_disk_means_later(server: Postgres, small_disk: Path) -> None:
    server.ask(f"CREATE TABLESPACE small LOCATION '{small_disk}'")
    try:
        server.ask("CREATE TABLE ballast (text text) TABLESPACE small")
        server.ask("CREATE TABLE seen (id text PRIMARY KEY, item text) TABLESPACE small")
        server.ask("INSERT INTO ballast SELECT repeat(md5(n::text), 50) FROM generate_series(1, 1000) n")
        async with sql_insert(to(server), "seen") as send:
            sent = 0
            with pytest.raises(BusyError, match="53100"):  # noqa: PT012  # it is the one that does not fit
                while sent < 100:
                    await send(entry(os.urandom(50_000).hex(), f"nest-{sent}"))
                    sent += 1
            server.ask("DROP TABLE ballast")
            server.ask("CHECKPOINT")
            await send(entry(os.urandom(50_000).hex(), f"nest-{sent}"))
        assert server.ask("SELECT count(*) FROM seen") == [(sent + 1,)]
        assert sent > 0
    finally:
        server.ask("DROP TABLE IF EXISTS seen, ballast")
        server.ask("DROP TABLESPACE small")


async def test_a_deadlock_means_later(server: Postgres) -> None:
    """We hold a and want b, another holds b and wants a; who looks first gives way, and that is us."""
    server.ask("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    server.ask(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END'"
    )
    server.ask("CREATE TRIGGER t BEFORE INSERT ON seen FOR EACH ROW WHEN (NEW.id = 'b') EXECUTE FUNCTION f()")
    patient = to(server, options="-c deadlock_timeout=100s")
    async with sql_insert(to(server, options="-c deadlock_timeout=10ms"), "seen") as send:
        with patient() as gate, patient() as other:
            other.execute("INSERT INTO seen VALUES ('b', '1')")
            other.commit()
            other.execute("DELETE FROM seen")
            gate.execute("SELECT pg_advisory_lock(1)")
            sending = asyncio.ensure_future(send([entry(id="a"), entry(id="b")]))
            await server.blocked(1)
            waiting = asyncio.ensure_future(asyncio.to_thread(other.execute, "INSERT INTO seen VALUES ('a', '1')"))
            await server.blocked(2)
            gate.execute("SELECT pg_advisory_unlock(1)")
            errors = await sending
            await waiting
    assert [(type(error), "40P01" in str(error)) for error in errors] == [(BusyError, True)] * 2
    assert server.ask("SELECT id FROM seen ORDER BY id") == [("a",)]


async def test_a_serialization_failure_means_later(server: Postgres) -> None:
    server.ask("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    strict = to(server, options="-c default_transaction_isolation=serializable")
    async with sql_insert(strict, "seen") as send:
        with psycopg.connect(server.dsn()) as other:
            other.execute("INSERT INTO seen VALUES ('nest-1', '\"geheim\"')")
            sending = asyncio.ensure_future(refused(send, entry()))
            await server.blocked(1)
        error = await sending
        assert (type(error), "40001" in str(error)) == (BusyError, True)
        await send(entry())


async def test_a_first_try_that_ends_while_the_second_runs_is_no_violation(server: Postgres) -> None:
    """Ours found no row with the id; then the first try's comes, and breaks another unique constraint than the id's."""
    server.ask("CREATE TABLE seen (id text, item text)")
    server.ask(
        "CREATE FUNCTION slow(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN "
        "IF current_setting(''application_name'') = ''ours'' THEN PERFORM pg_advisory_xact_lock_shared(1); END IF; "
        "RETURN $1; END'"
    )
    server.ask("CREATE UNIQUE INDEX ON seen (slow(item))")
    server.ask("ALTER TABLE seen ADD PRIMARY KEY (id)")  # its index is the later one
    async with sql_insert(to(server, application_name="ours"), "seen") as send:
        with psycopg.connect(server.dsn()) as gate, psycopg.connect(server.dsn()) as first:
            gate.execute("SELECT pg_advisory_xact_lock(1)")
            sending = asyncio.ensure_future(send([entry()]))
            await server.blocked(1)
            first.execute("INSERT INTO seen VALUES ('nest-1', '\"geheim\"')")
            first.commit()
            gate.rollback()
            assert await sending == [None]
        assert type(await refused(send, entry(id="nest-2"))) is RejectedError
    assert server.ask("SELECT id FROM seen") == [("nest-1",)]


async def test_a_lock_that_is_not_had_in_time_means_later(server: Postgres) -> None:
    server.ask("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    async with sql_insert(to(server, options="-c lock_timeout=20ms"), "seen") as send:
        with psycopg.connect(server.dsn()) as other:
            other.execute("LOCK TABLE seen")
            error = await refused(send, entry())
        assert (type(error), "55P03" in str(error)) == (BusyError, True)
        await send(entry())


async def test_a_server_that_only_reads_means_later(server: Postgres) -> None:
    server.ask("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    async with sql_insert(to(server, options="-c default_transaction_read_only=on"), "seen") as send:
        error = await refused(send, entry())
    assert (type(error), "25006" in str(error)) == (BusyError, True)


async def test_a_statement_that_takes_too_long_is_as_no_answer(server: Postgres) -> None:
    server.ask("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    async with sql_insert(to(server, options="-c statement_timeout=20ms"), "seen") as send:
        with psycopg.connect(server.dsn()) as other:
            other.execute("LOCK TABLE seen")
            error = await refused(send, entry())
        assert (type(error), "57014" in str(error)) == (UnackedError, True)
        await send(entry())
