"""What `sql_insert` makes of the errors of a real SQLite, each of them provoked."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox.errors import AuthNeededError, BusyError, OfflineError, RejectedError
from starfish_outbox.senders import sql_insert
from tests.sending import SECRET, entry, refused


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "target.db"


def run(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("text CHECK (length(value) < 3)", SECRET),
        ("text NOT NULL", None),
        ("text UNIQUE", "taken"),
        ("integer", 2**63),
    ],
)
async def test_sqlite_parks_what_does_not_fit(path: Path, column: str, value: Any) -> None:
    run(path, f"CREATE TABLE seen (id text PRIMARY KEY, value {column})")
    if value == "taken":
        run(path, "INSERT INTO seen VALUES ('another', 'taken')")
    async with sql_insert(lambda: sqlite3.connect(path), "seen", columns=["value"]) as send:
        assert type(await refused(send, entry({"value": value, "other": SECRET}))) is RejectedError


async def test_a_trigger_of_sqlite_parks_and_tells_nothing(path: Path) -> None:
    run(path, "CREATE TABLE seen (id text PRIMARY KEY, item text)")
    run(path, "CREATE TRIGGER t BEFORE INSERT ON seen BEGIN SELECT RAISE(ABORT, 'geheim'); END")
    async with sql_insert(lambda: sqlite3.connect(path), "seen") as send:
        assert type(await refused(send, entry())) is RejectedError


@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE other (id text)",
        "CREATE TABLE seen (id text PRIMARY KEY, data text)",
        "CREATE TABLE seen (id text, item text)",
    ],
)
async def test_a_table_of_sqlite_that_is_not_as_believed_parks_nobody(path: Path, table: str) -> None:
    run(path, table)
    async with sql_insert(lambda: sqlite3.connect(path), "seen") as send:
        assert type(await refused(send, entry())) is AuthNeededError


async def test_a_file_of_sqlite_that_cannot_be_written_or_is_none_parks_nobody(path: Path) -> None:
    run(path, "CREATE TABLE seen (id text PRIMARY KEY, item text)")
    async with sql_insert(lambda: sqlite3.connect(f"file:{path}?mode=ro", uri=True), "seen") as send:
        assert type(await refused(send, entry())) is AuthNeededError
    path.write_bytes(b"no database" * 1_000)
    async with sql_insert(lambda: sqlite3.connect(path), "seen") as send:
        assert type(await refused(send, entry())) is AuthNeededError


async def test_a_locked_and_a_full_database_of_sqlite_mean_later(path: Path) -> None:
    run(path, "CREATE TABLE seen (id text PRIMARY KEY, item text)")

    def small() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=0)
        connection.execute("PRAGMA max_page_count = 4")
        return connection

    async with sql_insert(small, "seen") as send:
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert type(await refused(send, entry())) is BusyError
        assert type(await refused(send, entry(SECRET * 10_000))) is BusyError
        await send(entry())


async def test_a_volume_that_is_not_there_is_offline(tmp_path: Path) -> None:
    async with sql_insert(lambda: sqlite3.connect(tmp_path / "usb" / "target.db"), "seen") as send:
        assert type(await refused(send, entry())) is OfflineError
