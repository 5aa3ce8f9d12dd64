"""The SQLite form: the tables, how a connection is set up, and rows <-> entries.

One row an entry, ordered by ``seq``. A text that was stored whole (``set_item``) waits in ``keys.text`` until a queue
opens it.
"""

from __future__ import annotations

import sqlite3
import zlib
from pathlib import Path
from typing import Any, Final

from starfish_outbox import codec
from starfish_outbox.caches.owner import create_private
from starfish_outbox.entry import Claim, StoredEntry
from starfish_outbox.errors import CacheError, CorruptQueueError
from starfish_outbox.jsontext import decode, encode_foreign

APPLICATION_ID: Final = 0x53464F42  # "SFOB"
VERSION: Final = 1
BUSY_SECONDS: Final = 60.0
"""SQLite's busy handler is unfair: the median wait is 0.2 ms, the longest seen with eight processes 3 s."""

_SCHEMA: Final = """
CREATE TABLE keys (
  key TEXT PRIMARY KEY,
  text TEXT  -- a text stored whole and not yet opened as a queue; NULL: the rows of entries are the queue
) WITHOUT ROWID;
CREATE TABLE entries (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order; a number is never used twice
  key TEXT NOT NULL,
  id,                         -- text; bytes when it is no Unicode text; NULL when the stored id was no string
  status,                     -- text; bytes of JSON when another program stored no string
  attempts INTEGER NOT NULL,
  enqueued_at NOT NULL,       -- milliseconds since the Unix epoch
  item TEXT NOT NULL,         -- JSON
  more TEXT,                  -- JSON members behind the five that every entry has, without braces
  owner TEXT,                 -- who claimed it: the name of a lock file in the owners' directory
  claim TEXT,                 -- kind.claimant.serial.milliseconds
  checksum INTEGER NOT NULL   -- CRC-32 over all of it
);
CREATE INDEX entries_by_id ON entries (key, id);
CREATE INDEX entries_claimed ON entries (key) WHERE status = 'sending';
CREATE TABLE ledger (
  key TEXT NOT NULL,
  id NOT NULL,
  sha256 BLOB NOT NULL,
  sent_at INTEGER NOT NULL,
  PRIMARY KEY (key, id)
) WITHOUT ROWID;
"""

COLUMNS: Final = "seq, key, id, status, attempts, enqueued_at, item, more, owner, claim, checksum"
INSERT: Final = f"INSERT INTO entries ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
BY_SEQ: Final = f"SELECT {COLUMNS} FROM entries WHERE seq = ?"
BY_ID: Final = f"SELECT {COLUMNS} FROM entries WHERE key = ? AND id = ? ORDER BY seq LIMIT 1"
# ``+key``: in the order of the table; a file holds one key as a rule, and an index by key would cost every insert.
# Rows of a key that nobody knows are looked at too: their key may be what is damaged.
_OF_KEY: Final = "+key = ? OR +key NOT IN (SELECT key FROM keys) ORDER BY seq"
ALL: Final = f"SELECT {COLUMNS} FROM entries WHERE {_OF_KEY}"
ALL_SEQS: Final = f"SELECT seq FROM entries WHERE {_OF_KEY}"
CLAIMED: Final = "SELECT seq FROM entries WHERE key = ? AND status = 'sending'"
SEQ_OF_ID: Final = "SELECT seq FROM entries WHERE key = ? AND id = ? ORDER BY seq LIMIT 1"
UPDATE: Final = (
    "UPDATE entries SET status = ?, attempts = ?, more = ?, owner = ?, claim = ?, checksum = ? WHERE seq = ?"
)
UPDATE_ALL: Final = (
    "UPDATE entries SET enqueued_at = ?, item = ?, status = ?, attempts = ?, more = ?, owner = ?, claim = ?, "
    "checksum = ? WHERE seq = ?"
)
# Not in every database: made with the first receipt that is kept. One belongs to the delivery of that very instant.
RECEIPTS: Final = (
    "CREATE TABLE IF NOT EXISTS receipts (key TEXT NOT NULL, id NOT NULL, sent_at INTEGER NOT NULL, "
    "receipt TEXT NOT NULL, checksum INTEGER NOT NULL, PRIMARY KEY (key, id)) WITHOUT ROWID"
)
DELETE: Final = "DELETE FROM entries WHERE seq = ?"


class DamagedError(sqlite3.DatabaseError):
    """The file's structure is damaged, although SQLite came through it so far."""


class BadRowError(CacheError):
    """A row whose content does not match its checksum."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection to the outbox at ``path``, made when missing, durable (each setting is read back).

    TRUNCATE with FULL survived every power cut; DELETE with FULL, Python's default, did not. Unlike WAL, nothing lies
    beside the file between transactions, so that it can be peeked at, copied and mailed.

    Raises:
        CorruptQueueError: a newer version wrote it, or it is some other program's database; untouched.
        sqlite3.DatabaseError: it is damaged.
    """
    if path.is_symlink():
        raise CacheError(f"{path} is a symbolic link to {path.readlink()}; name the file itself")
    create_private(path)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("BEGIN")  # one look: another process may be making the tables right now
        made = _check(connection, path)
        connection.execute("COMMIT")
        if not made:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("BEGIN IMMEDIATE")
            if not _check(connection, path):  # another process may have been quicker
                for statement in _SCHEMA.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")
        # A damaged index answers "not there" for what is there, and a row in another's place is fine by its checksum.
        verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if verdict != "ok":
            raise DamagedError(verdict)
        for pragma, value, read_back in (("journal_mode", "TRUNCATE", "truncate"), ("synchronous", "FULL", 2)):
            connection.execute(f"PRAGMA {pragma} = {value}")
            got = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
            if got != read_back:
                raise CacheError(f"{path}: {pragma} is {got!r} and would not become {value}; it would not be durable")
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the tables are there; raises for what is not ours to touch."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application == APPLICATION_ID and version == VERSION:
        return True
    if application == APPLICATION_ID:
        raise CorruptQueueError(f"{path} was written by a newer version (format {version}); update starfish-outbox")
    if application or version or connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise CorruptQueueError(f"{path} is another program's database; choose another path")
    return False


def to_row(key: str, entry: StoredEntry) -> tuple[Any, ...]:
    """The values of ``COLUMNS``; ``seq`` 0 becomes NULL, so that SQLite gives the next number."""
    id = id_column(entry.id)
    text = isinstance(entry.status, str) and isinstance(id_column(entry.status), str)
    status = entry.status if text else encode_foreign(entry.status).encode()
    more = codec.encode_more(entry) or None
    owner, claim = claim_columns(entry.claim)
    values = (key, id, status, entry.attempts, entry.enqueued_at, entry.item, more, owner, claim)
    return (entry.seq or None, *values, checksum(*values))


def update(key: str, entry: StoredEntry, before: StoredEntry) -> tuple[str, tuple[Any, ...]]:
    """A statement and its values, for a row that holds ``before``; the item is written only when it is another."""
    row = to_row(key, entry)
    if entry.item is before.item and entry.enqueued_at == before.enqueued_at:
        return UPDATE, (row[3], row[4], row[7], row[8], row[9], row[10], entry.seq)
    return UPDATE_ALL, (row[5], row[6], row[3], row[4], row[7], row[8], row[9], row[10], entry.seq)


def to_entry(row: tuple[Any, ...]) -> StoredEntry:
    """The entry of a row of ``COLUMNS``.

    Raises:
        BadRowError: the row is damaged.
    """
    seq, _key, id, status, attempts, enqueued_at, item, more, owner, claim, stored = row
    try:
        if stored != checksum(*row[1:-1]):
            raise BadRowError(f"entry {seq} does not match its checksum")
        entry = StoredEntry(
            seq,
            id.decode("utf-8", "surrogatepass") if isinstance(id, bytes) else id,
            item,
            decode(status.decode()) if isinstance(status, bytes) else status,
            attempts,
            enqueued_at,
            claim=_claim(owner, claim) if claim is not None else None,
            **(codec.more_fields(more) if more else {}),
        )
    except (AttributeError, TypeError, ValueError) as error:  # a value of another type than was stored
        raise BadRowError(f"entry {seq} cannot be read ({error})") from error
    return entry


def text_or_bytes(data: bytes) -> str | bytes:
    """For ``text_factory``, where damage must end no statement: a text that is no UTF-8 stays bytes.

    Its row does not match its checksum.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def id_column(id: str | None) -> str | bytes | None:
    """An id as SQLite can hold it: one that is no Unicode text (a lone surrogate) becomes bytes."""
    if id is None or id.isascii():
        return id
    data = id.encode("utf-8", "surrogatepass")
    try:
        data.decode()
    except UnicodeDecodeError:
        return data
    return id


def claim_columns(claim: Claim | None) -> tuple[str | None, str | None]:
    """Owner and claim as the two columns hold them."""
    if claim is None:
        return None, None
    return claim.owner, f"{claim.kind}.{claim.claimant}.{claim.serial}.{claim.at_ms}"


def _claim(owner: str, text: str) -> Claim:
    kind, claimant, serial, at_ms = text.split(".")
    return Claim(owner, int(claimant), int(serial), "drain" if kind == "drain" else "bare", int(at_ms))


def checksum(*values: Any) -> int:
    """CRC-32 over what stands in a row before it, but for ``seq``, which SQLite gives."""
    return zlib.crc32("\0".join(map(str, values)).encode("utf-8", "surrogatepass"))
