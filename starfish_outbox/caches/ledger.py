"""The ledger of a database: which ids were delivered, with which item, and what the remote answered.

Functions of a connection, to be called inside a transaction; only ``forget_old`` begins its own.
"""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Final, Literal

from starfish_outbox.caches import contents, rows
from starfish_outbox.caches.base import Sent
from starfish_outbox.entry import StoredEntry

LEDGER_DAYS: Final = 90


def compare(connection: sqlite3.Connection, key: str, entry: StoredEntry) -> Literal["", "same", "other"]:
    """Whether the entry's id was delivered, and with the same item or another one."""
    place = (key, rows.id_column(entry.id))
    found = connection.execute("SELECT sha256 FROM ledger WHERE key = ? AND id = ?", place).fetchone()
    if found is None:
        return ""
    return "same" if found[0] == _sha256(entry.item) else "other"


def find(connection: sqlite3.Connection, key: str, id: str) -> Sent | None:
    """What is known of the delivery of an id."""
    place = (key, rows.id_column(id))
    found = connection.execute("SELECT sent_at, sha256 FROM ledger WHERE key = ? AND id = ?", place).fetchone()
    if found is None or not isinstance(found[0], int) or not isinstance(found[1], bytes):
        return None  # nothing, or what damage left
    return Sent(found[0], found[1].hex(), _receipt(connection, (*place, found[0])))


def record(connection: sqlite3.Connection, key: str, entry: StoredEntry, receipt: str | None, now_ms: int) -> None:
    """The remote has this entry, and answered so; what was known of an earlier delivery is replaced."""
    id = rows.id_column(entry.id)
    connection.execute(
        "INSERT OR REPLACE INTO ledger (key, id, sha256, sent_at) VALUES (?, ?, ?, ?)",
        (key, id, _sha256(entry.item), now_ms),
    )
    if receipt is not None:
        connection.execute(rows.RECEIPTS)
        values = (key, id, now_ms, receipt)
        connection.execute(
            "INSERT OR REPLACE INTO receipts (key, id, sent_at, receipt, checksum) VALUES (?, ?, ?, ?, ?)",
            (*values, rows.checksum(*values)),
        )
    elif _has_receipts(connection):
        connection.execute("DELETE FROM receipts WHERE key = ? AND id = ?", (key, id))


def forget(connection: sqlite3.Connection, key: str, until_ms: int | None = None) -> int:
    """Forget deliveries up to an instant (None: all); how many there were."""
    some, values = (" AND sent_at <= ?", (key, until_ms)) if until_ms is not None else ("", (key,))
    if _has_receipts(connection):
        connection.execute(f"DELETE FROM receipts WHERE key = ?{some}", values)
    return connection.execute(f"DELETE FROM ledger WHERE key = ?{some}", values).rowcount


def forget_old(connection: sqlite3.Connection, now_ms: int) -> None:
    """Forget what every key knows of deliveries that are too long ago."""
    horizon = now_ms - LEDGER_DAYS * 86_400_000
    old = connection.execute("SELECT DISTINCT key FROM ledger WHERE sent_at <= ?", (horizon,)).fetchall()
    if old:
        with contents.transaction(connection):
            for (key,) in old:
                forget(connection, key, horizon)


def _receipt(connection: sqlite3.Connection, delivery: tuple[str, str | bytes | None, int]) -> str | None:
    """What was answered; None: that was not kept, or is damaged."""
    if not _has_receipts(connection):
        return None
    select = "SELECT CAST(receipt AS BLOB), checksum FROM receipts WHERE key = ? AND id = ? AND sent_at = ?"
    found = connection.execute(select, delivery).fetchone()
    if found is None:
        return None
    text = rows.text_or_bytes(found[0])
    return text if isinstance(text, str) and found[1] == rows.checksum(*delivery, text) else None


def _has_receipts(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'receipts'").fetchone() is not None


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
