"""A damaged database: copied aside as it is, and every row that can still be read put into a new one."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from starfish_outbox.caches import contents, rows
from starfish_outbox.caches.owner import create_private, sync_directory

_SIDE_FILES = ("-journal", "-wal", "-shm")
_MOST_PROBES = 1_000_000
_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)  # the second: a damaged name of a column cannot even be decoded
_TABLES = ("keys", "entries", "ledger", "receipts")


def salvage(path: Path, reason: str) -> str:
    """Copy the damaged file aside (``<path>.corrupt.<n>``) and put a new one of what can be read in its place.

    The caller is alone with it. ``path`` is never missing nor half filled: a kill leaves the damaged file, and the
    next opener starts again. Says what it did.
    """
    aside = next(
        beside for number in count(1) if not (beside := path.with_name(f"{path.name}.corrupt.{number}")).exists()
    )
    for suffix in ("", *_SIDE_FILES):  # a journal belongs to its database by name
        side = path.with_name(path.name + suffix)
        if side.exists():
            _copy_durably(side, aside.with_name(aside.name + suffix))
    fresh = path.with_name(f"{path.name}.salvaging")
    for suffix in ("", *_SIDE_FILES):
        fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
    grafted = path.with_name(f"{path.name}.grafted")
    connection = rows.connect(fresh)
    try:
        with contents.transaction(connection):
            found = _copy_all(path, connection)
            if not found["entries"]:
                _graft(path, fresh, grafted)
                found = _copy_all(grafted, connection)
            _name_keys(connection)
    finally:
        connection.close()
        grafted.unlink(missing_ok=True)
    for suffix in _SIDE_FILES:  # SQLite would play the damaged file's journal back into the new one
        path.with_name(path.name + suffix).unlink(missing_ok=True)
        fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
    sync_directory(path.parent)
    fresh.replace(path)
    sync_directory(path.parent)
    return (
        f"{path} was damaged ({reason}); it is kept as {aside.name}, and {found['entries']} entries and "
        f"{found['ledger']} ids of the ledger were saved from it"
    )


def _copy_durably(source: Path, target: Path) -> None:
    create_private(target)
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer)
        writer.flush()
        os.fsync(writer.fileno())


def _graft(damaged: Path, fresh: Path, target: Path) -> None:
    """A copy of the damaged file whose first page is that of a fresh outbox.

    The first page holds the header and the schema, which is the same in every file of one version, root pages included:
    the tables are always made in the same order. In the header, the file's length in pages is set, and the list of free
    pages emptied (sqlite.org/fileformat.html, offsets 28 and 32). Rows are believed by their checksum, as ever.
    Receipts are lost with the first page: their table was made later, and nothing else says where it began.
    """
    page = int.from_bytes(fresh.read_bytes()[16:18], "big")
    data = bytearray(damaged.read_bytes())
    data[:page] = fresh.read_bytes()[:page]
    data[28:32] = max(1, len(data) // page).to_bytes(4, "big")
    data[32:40] = bytes(8)
    create_private(target)
    target.write_bytes(data)


def _copy_all(damaged: Path, connection: sqlite3.Connection) -> dict[str, int]:
    """Copy what can be read of every table; the number of rows of each."""
    source = sqlite3.connect(damaged, isolation_level=None)
    source.text_factory = rows.text_or_bytes
    try:
        source.execute("PRAGMA writable_schema = ON")  # accepts a file that is shorter than its header says
        return {table: _copy(source, connection, table) for table in _TABLES}
    except _DAMAGE:
        return dict.fromkeys(_TABLES, 0)
    finally:
        source.close()


def _name_keys(connection: sqlite3.Connection) -> None:
    """Know the keys of all rows that are whole; a row with a damaged key must stay nobody's, to be found as damaged."""
    for row in connection.execute(f"SELECT {rows.COLUMNS} FROM entries").fetchall():
        try:
            rows.to_entry(row)
        except rows.BadRowError:
            continue
        connection.execute("INSERT OR IGNORE INTO keys (key) VALUES (?)", (row[1],))


def _copy(damaged: sqlite3.Connection, connection: sqlite3.Connection, table: str) -> int:
    """Copy what can be read of one table; the number of rows."""
    copied = 0
    for row in _readable(damaged, table):
        if table == "receipts":  # not in every database
            connection.execute(rows.RECEIPTS)
        marks = ", ".join("?" * len(row))
        copied += connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row).rowcount
    return copied


def _readable(damaged: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...]]:
    """Rows from the front up to the damage and from the back up to it, then single entries between by their number."""
    order = "seq" if table == "entries" else "key"
    yield from _rows(damaged, f"SELECT * FROM {table} ORDER BY {order}")
    yield from _rows(damaged, f"SELECT * FROM {table} ORDER BY {order} DESC")
    if table == "entries":
        lowest, highest = _hidden(damaged)
        for seq in range(lowest, highest):
            yield from _rows(damaged, "SELECT * FROM entries WHERE seq = ?", (seq,))


def _hidden(damaged: sqlite3.Connection) -> tuple[int, int]:
    """The numbers between which neither direction came through; (0, 0) when the table reads from end to end."""
    from_front = [seq for (seq,) in _rows(damaged, "SELECT seq FROM entries NOT INDEXED ORDER BY seq")]
    from_back = [seq for (seq,) in _rows(damaged, "SELECT seq FROM entries NOT INDEXED ORDER BY seq DESC")]
    if from_front[-1:] == from_back[:1]:
        return (0, 0)
    lowest = from_front[-1] + 1 if from_front else 1
    given = max((int(seq) for (seq,) in _rows(damaged, "SELECT seq FROM sqlite_sequence")), default=0)
    highest = from_back[-1] if from_back else given + 1
    return lowest, min(highest, lowest + _MOST_PROBES)  # a damaged number may be far too high


def _rows(damaged: sqlite3.Connection, statement: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Rows until the first that cannot be read: damage ends a statement, not the connection.

    What no statement finds lies in the file set aside.
    """
    try:
        yield from damaged.execute(statement, values)
    except _DAMAGE:
        return
