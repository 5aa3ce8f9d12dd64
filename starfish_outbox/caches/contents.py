"""What stands in the tables under one key: rows read as entries, texts taken apart, the unreadable set aside."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any, TypeAlias

from starfish_outbox import codec
from starfish_outbox.caches import rows
from starfish_outbox.caches.base import CORRUPT, QUARANTINE
from starfish_outbox.entry import StoredEntry
from starfish_outbox.errors import CorruptQueueError
from starfish_outbox.transitions import catch_up

Note: TypeAlias = Callable[[str], None]
"""Told, in words, what was set aside or read differently from what was written."""


@contextmanager
def transaction(connection: sqlite3.Connection, *, exclusive: bool = False) -> Iterator[None]:
    """All or nothing; the write lock is taken first, so that what is read inside is what is changed.

    ``exclusive``: others cannot even read meanwhile.
    """
    connection.execute("BEGIN EXCLUSIVE" if exclusive else "BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def load(connection: sqlite3.Connection, key: str, now_ms: int, note: Note) -> list[StoredEntry]:
    """All entries; rows that cannot be read are moved to the quarantine, and hide no other."""
    entries: list[StoredEntry] = []
    bad: list[int] = []
    try:
        for row in connection.execute(rows.ALL, (key,)):
            _sort(row, key, entries, bad)
    except sqlite3.OperationalError as error:
        if not _is_no_text(error):
            raise
        entries, bad = [], []
        for (seq,) in connection.execute(rows.ALL_SEQS, (key,)).fetchall():
            try:
                _sort(connection.execute(rows.BY_SEQ, (seq,)).fetchone(), key, entries, bad)
            except sqlite3.OperationalError as no_text:
                if not _is_no_text(no_text):
                    raise
                bad.append(seq)
    if bad:
        with transaction(connection):
            for seq in bad:
                one(connection, key, rows.BY_SEQ, (seq,), now_ms, note)
    return entries


def one(
    connection: sqlite3.Connection, key: str, select: str, values: tuple[Any, ...], now_ms: int, note: Note
) -> StoredEntry | None:
    """The entry that ``BY_SEQ`` or ``BY_ID`` finds, inside a transaction; a row that cannot be read is quarantined."""
    try:
        row = connection.execute(select, values).fetchone()
        if row is None:
            return None
        entry = rows.to_entry(row)
    except (sqlite3.OperationalError, rows.BadRowError) as error:
        if isinstance(error, sqlite3.OperationalError) and not _is_no_text(error):
            raise
        by_id = select == rows.BY_ID
        seq = connection.execute(rows.SEQ_OF_ID, values).fetchone()[0] if by_id else values[0]
        _quarantine_row(connection, key, seq, str(error), now_ms, note)
        return None
    return entry if row[1] == key else None


def _sort(row: tuple[Any, ...] | None, key: str, entries: list[StoredEntry], bad: list[int]) -> None:
    if row is None:  # gone meanwhile
        return
    try:
        entry = rows.to_entry(row)
    except rows.BadRowError:
        bad.append(row[0])
    else:
        if row[1] == key:
            entries.append(entry)


def _is_no_text(error: sqlite3.OperationalError) -> bool:
    """Whether a stored text is no UTF-8, which ends the statement that comes to it."""
    return "decode to UTF-8" in str(error)


def _quarantine_row(connection: sqlite3.Connection, key: str, seq: int, reason: str, now_ms: int, note: Note) -> None:
    columns = ", ".join(f"CAST({name} AS BLOB)" for name in ("id", "status", "item", "more"))
    row = connection.execute(f"SELECT {columns} FROM entries WHERE seq = ?", (seq,)).fetchone()
    text = "\x1f".join((value or b"").decode("utf-8", "backslashreplace") for value in row)
    connection.execute(rows.DELETE, (seq,))
    _quarantine(connection, key, [codec.Rejected(text, f"entry {seq}: {reason}")], now_ms, note)


def _quarantine(
    connection: sqlite3.Connection, key: str, rejected: list[codec.Rejected], now_ms: int, note: Note
) -> None:
    beside = key + QUARANTINE
    text = codec.add_to_quarantine(text_of(connection, beside), rejected, now_ms)
    if text is not None:
        put_text(connection, beside, text)
    for element in rejected:
        note(f"{element.reason}: set aside under {beside!r}")


def take_apart(connection: sqlite3.Connection, key: str, now_ms: int, note: Note) -> None:
    """Take a text that was stored whole apart into rows."""
    if text_of(connection, key) is None:
        return
    with transaction(connection):
        text = text_of(connection, key)
        if text is None:
            return
        try:
            reading = codec.read(text)
        except codec.NotAQueueError as error:
            raise CorruptQueueError(f"{key!r}: {error}. Nothing was changed.") from error
        if reading.damage is not None:
            beside = next(
                name for number in count(1) if text_of(connection, name := f"{key}{CORRUPT}{number}") in (None, text)
            )
            put_text(connection, beside, text)
            note(f"no JSON array ({reading.damage}); the text is kept under {beside!r}")
        for text_note in reading.notes:
            note(text_note)
        if reading.rejected:
            _quarantine(connection, key, reading.rejected, now_ms, note)
        for entry in reading.entries:
            connection.execute(rows.INSERT, rows.to_row(key, replace(catch_up(entry), seq=0)))
        connection.execute("UPDATE keys SET text = NULL WHERE key = ?", (key,))


def text_of(connection: sqlite3.Connection, key: str) -> str | None:
    """A text that is stored whole, byte for byte; None where rows are the queue, or nothing is stored."""
    found = connection.execute("SELECT CAST(text AS BLOB) FROM keys WHERE key = ?", (key,)).fetchone()
    return None if found is None or found[0] is None else bytes(found[0]).decode("utf-8", "surrogateescape")


def put_text(connection: sqlite3.Connection, key: str, text: str) -> None:
    """Store a text whole."""
    data = text.encode("utf-8", "surrogateescape")
    connection.execute("INSERT OR REPLACE INTO keys (key, text) VALUES (?, CAST(? AS TEXT))", (key, data))
