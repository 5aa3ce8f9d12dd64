"""What `sql_insert` does on a real PostgreSQL and a real SQLite."""

from __future__ import annotations

import asyncio
import gc
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row, namedtuple_row, tuple_row

from starfish_outbox.entry import OutboxEntry
from starfish_outbox.errors import ConflictError, RejectedError, SendError
from starfish_outbox.senders import sql_insert
from tests.postgres import Postgres, running_postgres


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_postgres() as running:
        yield running


class Database:
    """One of the kinds of database and driver, with no table in it.

    Attributes:
        connect: makes a connection as a user's function does.
    """

    def __init__(self, kind: str, path: Path, server: Postgres) -> None:
        self.kind = kind
        self.connect: Callable[[], Any]
        self._path, self._server = path, server
        if kind == "sqlite":
            self.connect = lambda: sqlite3.connect(path)
        else:
            self.connect = lambda: psycopg.connect(server.dsn())

    def sessions(self) -> int:
        """Those of senders that the server knows of."""
        if self.kind == "sqlite":
            return 0
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'postgres' AND pid <> pg_backend_pid()"
        for _ in range(300):
            if not self._server.ask(others)[0][0]:
                return 0
            time.sleep(0.01)  # a server process takes a moment to end
        return int(self._server.ask(others)[0][0])

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self._path)) as connection, connection:
                return connection.execute(statement).fetchall()
        return self._server.ask(statement)


@pytest.fixture(params=["sqlite", "psycopg"])
def database(request: pytest.FixtureRequest, tmp_path: Path, server: Postgres) -> Database:
    server.ask("DROP SCHEMA public CASCADE")
    server.ask("CREATE SCHEMA public")
    return Database(request.param, tmp_path / "target.db", server)


class IsA:
    """Equal to what is of this class."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def __eq__(self, other: object) -> bool:
        return isinstance(other, self._kind)

    __hash__ = None  # type: ignore[assignment]


def entry(item: Any = None, id: str = "nest-1") -> OutboxEntry[Any]:
    return OutboxEntry(id, {"mass": 3750} if item is None else item, "queued", 0, 1_700_000_000_000)


async def test_an_entry_is_one_row_however_often_it_is_sent(database: Database) -> None:
    database.run("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    async with sql_insert(database.connect, "seen") as send:
        await send(entry())
        await send(entry())
    assert database.run("SELECT * FROM seen") == [("nest-1", '{"mass":3750}')]


@pytest.mark.parametrize("kind", ["text", "json", "jsonb"])
async def test_a_row_with_another_item_is_a_conflict_and_stays(database: Database, kind: str) -> None:
    database.run(f"CREATE TABLE seen (id text PRIMARY KEY, item {kind})")
    item = {"b": [1e22, 0.1, -0.0, 5e-324, None, True], "a": {"ü 🐧": "\u2028"}, "": 2**53 - 1}
    async with sql_insert(database.connect, "seen") as send:
        await send(entry(item))
        await send(entry(dict(reversed(item.items()))))
        with pytest.raises(ConflictError):
            await send(entry({**item, "a": {}}))
        others = [entry({"mass": 1}, "nest-2"), entry("other"), entry(item), entry({"mass": 2}, "nest-2")]
        answers = await send(others)
    assert answers == [None, IsA(ConflictError), None, IsA(ConflictError)]
    rows = database.run("SELECT id, CAST(item AS text) FROM seen ORDER BY id")
    assert [(id, json.loads(text)) for id, text in rows] == [("nest-1", item), ("nest-2", {"mass": 1})]


async def test_a_text_that_is_no_json_is_another_item(database: Database) -> None:
    database.run("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    database.run("INSERT INTO seen VALUES ('nest-1', 'nobody''s JSON')")
    async with sql_insert(database.connect, "seen") as send:
        with pytest.raises(ConflictError):
            await send(entry())


async def test_columns_of_a_row_that_is_there_are_not_compared(database: Database) -> None:
    database.run("CREATE TABLE seen (id text PRIMARY KEY, mass real)")
    async with sql_insert(database.connect, "seen", columns=["mass"]) as send:
        await send(entry({"mass": 0.1}))
        await send(entry({"mass": 0.1}))
        await send(entry({"mass": 0.2}))
    assert database.run("SELECT mass FROM seen") == [(pytest.approx(0.1),)]


async def test_a_row_that_is_neither_inserted_nor_there_is_no_success(database: Database) -> None:
    database.run("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    if database.kind == "sqlite":
        database.run("CREATE TRIGGER t BEFORE INSERT ON seen BEGIN SELECT RAISE(IGNORE); END")
    else:
        database.run("CREATE FUNCTION f() RETURNS trigger AS 'BEGIN RETURN NULL; END' LANGUAGE plpgsql")
        database.run("CREATE TRIGGER t BEFORE INSERT ON seen FOR EACH ROW EXECUTE FUNCTION f()")
    async with sql_insert(database.connect, "seen") as send:
        with pytest.raises(SendError, match="neither inserted nor there"):
            await send(entry())


async def test_columns_take_values_of_the_item_by_name(database: Database) -> None:
    database.run("CREATE TABLE seen (nest text PRIMARY KEY, mass integer, sex text, ring text)")
    item = {"mass": 3750, "ring": ["red", 1.5], "note": "goes nowhere"}
    async with sql_insert(database.connect, "seen", columns=["mass", "sex", "ring"], id_column="nest") as send:
        await send(entry(item))
    assert database.run("SELECT * FROM seen") == [("nest-1", 3750, None, '["red",1.5]')]


async def test_columns_take_what_functions_make_of_the_entry(database: Database) -> None:
    database.run("CREATE TABLE seen (id text PRIMARY KEY, enqueued_at bigint, mass real)")
    columns = {"enqueued_at": lambda one: one.enqueued_at, "mass": lambda one: one.item["mass"] / 1000}
    async with sql_insert(database.connect, "seen", columns=columns) as send:
        await send(entry())
    assert database.run("SELECT * FROM seen") == [("nest-1", 1_700_000_000_000, 3.75)]


async def test_a_batch_is_answered_entry_by_entry(database: Database) -> None:
    database.run("CREATE TABLE seen (id text PRIMARY KEY, mass integer CHECK (mass > 0))")
    entries = [entry({"mass": mass}, f"nest-{mass}") for mass in (1, 2, -3, 4)]
    entries.insert(1, entry("no object", "nest-x"))
    async with sql_insert(database.connect, "seen", columns=["mass"]) as send:
        answers = await send([*entries, entries[0]])
    assert answers == [None, IsA(RejectedError), None, IsA(RejectedError), None, None]
    assert database.run("SELECT id FROM seen ORDER BY mass") == [("nest-1",), ("nest-2",), ("nest-4",)]


async def test_a_batch_that_fits_is_one_transaction(database: Database) -> None:
    if database.kind == "sqlite":
        database.run("CREATE TABLE seen (id text PRIMARY KEY, item text, at integer)")
        commits: list[int] = []

        class Counting(sqlite3.Connection):
            def commit(self) -> None:
                commits.append(1)
                super().commit()

        async with sql_insert(lambda: sqlite3.connect(database._path, factory=Counting), "seen") as send:
            assert await send([entry(id=f"nest-{number}") for number in range(50)]) == [None] * 50
        assert commits == [1]
    else:
        database.run("CREATE TABLE seen (id text PRIMARY KEY, item text, at text DEFAULT pg_current_xact_id()::text)")
        async with sql_insert(database.connect, "seen") as send:
            assert await send([entry(id=f"nest-{number}") for number in range(50)]) == [None] * 50
        assert database.run("SELECT count(*), count(DISTINCT at) FROM seen") == [(50, 1)]


async def test_a_batch_may_be_of_any_size(database: Database) -> None:
    database.run("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    entries = [entry(number, f"nest-{number}") for number in range(1_234)]
    async with sql_insert(database.connect, "seen") as send:
        assert await send(entries[::3]) == [None] * 412
        assert await send(entries) == [None] * 1_234
        assert await send([]) == []
    assert database.run("SELECT count(*) FROM seen") == [(1_234,)]


async def test_the_last_of_two_halves_is_found_whichever_it_is(database: Database) -> None:
    database.run("CREATE TABLE seen (id text PRIMARY KEY, mass integer CHECK (mass > 0))")
    async with sql_insert(database.connect, "seen", columns=["mass"]) as send:
        for bad in range(7):
            entries = [entry({"mass": 0 if at == bad else 1}, f"{bad}-{at}") for at in range(7)]
            answers = await send(entries)
            assert [isinstance(answer, RejectedError) for answer in answers] == [at == bad for at in range(7)]
    assert database.run("SELECT count(*), min(mass) FROM seen") == [(42, 1)]


async def test_ids_may_be_of_any_type_of_the_database(server: Postgres) -> None:
    server.ask("DROP TABLE IF EXISTS typed")
    server.ask("CREATE TABLE typed (id uuid PRIMARY KEY, item jsonb)")
    id = "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"
    async with sql_insert(lambda: psycopg.connect(server.dsn()), "typed") as send:
        for _ in range(2):
            assert await send([entry(id=id), entry(id="17"), entry(id=id.lower())]) == [
                None,
                IsA(RejectedError),
                None,
            ]
    assert server.ask("SELECT count(*) FROM typed") == [(1,)]


@pytest.mark.parametrize("factory", [tuple_row, dict_row, namedtuple_row])
async def test_rows_may_come_as_the_caller_likes_them(server: Postgres, factory: Any) -> None:
    server.ask("DROP TABLE IF EXISTS made")
    server.ask("CREATE TABLE made (id text PRIMARY KEY, item jsonb)")
    async with sql_insert(lambda: psycopg.connect(server.dsn(), row_factory=factory), "made") as send:
        await send(entry())
        await send(entry())
        with pytest.raises(ConflictError):
            await send(entry("another"))


async def test_rows_of_sqlite3_and_autocommit_go_as_well(tmp_path: Path) -> None:
    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(tmp_path / "target.db", isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("CREATE TABLE IF NOT EXISTS seen (id text PRIMARY KEY, item text)")
        return connection

    async with sql_insert(connect, "seen") as send:
        await send(entry())
        await send(entry())


HOSTILE = [
    "'); DROP TABLE seen; --",
    '"',
    "%s %(id)s ? :1 $1 {}",
    "\\x00",
    "\n\t\r\x1b[31m",
    "a" * 10_000,
    "ü 漢 🐧 \u202e",
    " nest",
    "NULL",
]


async def test_ids_and_items_are_data_whatever_they_spell(database: Database) -> None:
    database.run(
        "CREATE TABLE seen (id text, item text, PRIMARY KEY (id))"
        if database.kind == "sqlite"
        else "CREATE TABLE seen (id text PRIMARY KEY, item text)"
    )
    size = 10_000 if database.kind == "sqlite" else 2_000  # PostgreSQL's index rows end at some 2,700 bytes
    ids = [id[:size] for id in HOSTILE]
    async with sql_insert(database.connect, "seen", columns=["item"]) as send:
        for _ in range(2):
            assert await send([entry({"item": id}, id) for id in ids]) == [None] * len(ids)
            await send(entry({"item": ids[0]}, ids[0]))
    assert sorted(database.run("SELECT id, item FROM seen")) == sorted((id, id) for id in ids)


async def test_names_are_quoted_whatever_they_spell(database: Database) -> None:
    table, id, column = 'se"en; DROP TABLE x; -- %s ?', 'i"d %(x)s', "m:1 %"
    quoted = ['"' + name.replace('"', '""') + '"' for name in (table, id, column)]
    database.run("CREATE TABLE {} ({} text PRIMARY KEY, {} integer)".format(*quoted))
    columns = {column: lambda one: one.item["mass"]}
    async with sql_insert(database.connect, [table], columns=columns, id_column=id) as send:
        await send(entry())
        assert await send([entry(), entry(id="nest-2")]) == [None, None]
    assert len(database.run(f"SELECT * FROM {quoted[0]}")) == 2


async def test_upper_and_lower_case_of_a_name_count(database: Database) -> None:
    database.run('CREATE TABLE "Seen" (id text PRIMARY KEY, "Item" text)')
    async with sql_insert(database.connect, "Seen", columns={"Item": lambda one: one.id}) as send:
        await send(entry())
    assert database.run('SELECT "Item" FROM "Seen"') == [("nest-1",)]


async def test_sends_go_side_by_side(database: Database) -> None:
    database.run("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    async with sql_insert(database.connect, "seen") as send:
        await asyncio.gather(*(send(entry(id=f"nest-{number}")) for number in range(8)))
    assert database.run("SELECT count(*) FROM seen") == [(8,)]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "starfish-outbox-sql"]


async def test_a_connection_serves_one_send_after_the_other_and_no_two_at_once(database: Database) -> None:
    database.run("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    made: list[Any] = []

    def connect() -> Any:
        made.append(database.connect())
        return made[-1]

    async with sql_insert(connect, "seen") as send:
        for number in range(5):
            await send(entry(id=f"a-{number}"))
        assert len(made) == 1
        await asyncio.gather(*(send(entry(id=f"b-{number}")) for number in range(3)))
        assert len(threads()) == len(made) <= 3
    for thread in threads():
        await asyncio.to_thread(thread.join, 30)
    assert threads() == []


async def test_the_threads_of_a_sender_that_nobody_has_end_with_their_connections(database: Database) -> None:
    database.run("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    send = sql_insert(database.connect, "seen")
    await send(entry())
    (thread,) = threads()
    del send
    gc.collect()
    await asyncio.to_thread(thread.join, 30)
    assert not thread.is_alive()
    assert database.sessions() == 0


async def test_a_sender_goes_on_after_it_was_closed(database: Database) -> None:
    database.run("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    send = sql_insert(database.connect, "seen")
    for number in range(2):
        await send(entry(id=f"nest-{number}"))
        await send.aclose()
    assert database.run("SELECT count(*) FROM seen") == [(2,)]


def test_a_sender_goes_on_in_another_event_loop(database: Database) -> None:
    database.run("CREATE TABLE seen (id text PRIMARY KEY, item text)")
    send = sql_insert(database.connect, "seen")

    async def one(id: str) -> None:
        await send(entry(id=id))

    asyncio.run(one("nest-1"))
    asyncio.run(one("nest-2"))
    asyncio.run(send.aclose())
    assert database.run("SELECT count(*) FROM seen") == [(2,)]


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("",), {}, "1 to 63 bytes"),
        (("a" * 64,), {}, "1 to 63 bytes"),
        (("schema..seen",), {}, "1 to 63 bytes"),
        (("se\0en",), {}, "zero byte"),
        (("se\ud800en",), {}, "no Unicode"),
        ((["schema", 3],), {}, "a name is a string"),
        (("seen",), {"id_column": ""}, "id_column"),
        (("seen",), {"columns": ["a", ""]}, "columns"),
        (("seen",), {"columns": ["a", "a"]}, "twice"),
        (("seen",), {"columns": ["id"]}, "takes the entry's id"),
        (("seen",), {"columns": "item"}, "not a string"),
        (("seen",), {"columns": {"item": "mass"}}, "a function of the entry"),
        (("seen",), {"paramstyle": "named"}, "paramstyle"),
    ],
)
def test_what_cannot_work_is_refused_when_the_sender_is_made(
    arguments: tuple[Any, ...], options: dict[str, Any], said: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        sql_insert(lambda: sqlite3.connect(":memory:"), *arguments, **options)


async def made_async() -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect("")


def test_what_is_no_function_that_makes_connections_is_refused() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        for connect in ("postgresql://owner@localhost/db", None, connection, made_async):
            with pytest.raises(TypeError, match="a function that makes a blocking connection"):
                sql_insert(connect, "seen")  # type: ignore[arg-type]


def test_the_representation_names_the_table_alone() -> None:
    assert repr(sql_insert(lambda: sqlite3.connect("secret.db"), "lab.seen")) == 'sql_insert("lab"."seen")'
