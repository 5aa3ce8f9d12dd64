"""What stands in the tables under one key: rows read as entries, texts taken apart, the unreadable set aside."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import TypeAlias

from starfish_outbox import codec
from starfish_outbox.caches import rows
from starfish_outbox.caches.base import CORRUPT, QUARANTINE
from starfish_outbox.entry import StoredEntry
from starfish_outbox.errors import CorruptQueueError

Note: TypeAlias = Callable[[str], None]
"""Told, in words, what was set aside or read differently from what was written."""


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; the write lock is taken first, so that what is read inside is what is changed."""
    connection.execute("BEGIN IMMEDIATE")
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
    bad: list[tuple[int, str]] = []
    try:
        for row in connection.execute(rows.ALL, (key,)):
            try:
                entries.append(rows.to_entry(row))
            except rows.BadRowError as error:
                bad.append((row[0], str(error)))
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):
            raise
        entries, bad = _load_one_by_one(connection, key)
    if bad:
        with transaction(connection):
            _quarantine_rows(connection, key, bad, now_ms, note)
    return entries


def _load_one_by_one(connection: sqlite3.Connection, key: str) -> tuple[list[StoredEntry], list[tuple[int, str]]]:
    """As ``_load`` where some text is no UTF-8, which ends a statement at its row."""
    entries: list[StoredEntry] = []
    bad: list[tuple[int, str]] = []
    for (seq,) in connection.execute("SELECT seq FROM entries WHERE +key = ? ORDER BY seq", (key,)).fetchall():
        try:
            entries.append(rows.to_entry(connection.execute(rows.BY_SEQ, (seq, key)).fetchone()))
        except (sqlite3.OperationalError, rows.BadRowError) as error:
            bad.append((seq, str(error)))
    return entries, bad


def _quarantine_rows(
    connection: sqlite3.Connection, key: str, bad: list[tuple[int, str]], now_ms: int, note: Note
) -> None:
    rejected = []
    for seq, reason in bad:
        columns = ", ".join(f"CAST({name} AS BLOB)" for name in ("id", "status", "item", "more"))
        row = connection.execute(f"SELECT {columns} FROM entries WHERE seq = ?", (seq,)).fetchone()
        text = "\x1f".join((value or b"").decode("utf-8", "backslashreplace") for value in row)
        rejected.append(codec.Rejected(text, reason))
        connection.execute(rows.DELETE, (seq,))
    _quarantine(connection, key, rejected, now_ms, note)


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
            connection.execute(rows.INSERT, rows.to_row(key, replace(entry, seq=0)))
        connection.execute("UPDATE keys SET text = NULL WHERE key = ?", (key,))


def text_of(connection: sqlite3.Connection, key: str) -> str | None:
    """A text that is stored whole, byte for byte; None where rows are the queue, or nothing is stored."""
    found = connection.execute("SELECT CAST(text AS BLOB) FROM keys WHERE key = ?", (key,)).fetchone()
    return None if found is None or found[0] is None else bytes(found[0]).decode("utf-8", "surrogateescape")


def put_text(connection: sqlite3.Connection, key: str, text: str) -> None:
    """Store a text whole."""
    data = text.encode("utf-8", "surrogateescape")
    connection.execute("INSERT OR REPLACE INTO keys (key, text) VALUES (?, CAST(? AS TEXT))", (key, data))
