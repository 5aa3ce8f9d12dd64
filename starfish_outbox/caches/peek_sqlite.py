"""Looking at a database without owning it.

Each call reads through a connection in ``mode=ro``, in a statement or two, and closes it: a live queue is held up for
no longer than that. The one exception: a process that was killed in the middle of a commit leaves a journal that has to
be rolled back before anybody can read. SQLite then needs to write, as it would for whoever opens the file next; that is
let happen, and said in ``notes``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from glob import escape
from pathlib import Path
from typing import Any, Final, Literal

from starfish_outbox.caches import contents, ledger, rows
from starfish_outbox.caches.base import CORRUPT, SET_ASIDE, Sent as Delivery
from starfish_outbox.caches.database import Database
from starfish_outbox.caches.owner import read_note
from starfish_outbox.caches.peek import CLAIMED, KNOWN, Claimed, Look, Sent, belongs, describe, read, sliced
from starfish_outbox.caches.probe import lock_is_held
from starfish_outbox.entry import SENDING, StoredEntry
from starfish_outbox.errors import CacheError, CorruptQueueError

_BUSY_SECONDS: Final = 10.0


class DatabasePeek:
    """See ``Peek``: a SQLite file.

    Raises:
        CacheError: there is no such file.
    """

    kind: Final = "sqlite"
    durability = Database.durability

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise CacheError(f"there is no outbox at {path}")
        self.path = path.resolve()
        self.notes: list[str] = []
        self._owners = self.path.with_name(f"{self.path.name}-owners")
        self._live: dict[str, bool | None] = {}

    def keys(self) -> list[str]:
        """See ``Peek``."""
        with self.reading() as connection:
            if not _has_tables(connection):
                return []
            found = connection.execute("SELECT key FROM keys UNION SELECT key FROM entries ORDER BY 1").fetchall()
        return [key for (key,) in found if isinstance(key, str) and not SET_ASIDE.search(key)]

    def has(self, key: str) -> bool:
        """See ``Peek``."""
        return key in self.keys()

    def look(self, key: str) -> Look:
        """See ``Peek``."""
        return self.page(key, status=None, offset=0, limit=None)

    def page(self, key: str, *, status: str | None, offset: int, limit: int | None) -> Look:
        """See ``Peek``."""
        condition, values = _condition(status)
        with self.reading() as connection:
            if not _has_tables(connection):
                return Look()
            text = contents.text_of(connection, key)
            if text is not None:  # stored whole, and not opened by a queue since
                return sliced(read(key, text), status, offset, limit)
            part = f"FROM entries WHERE +key = ?{condition}"
            found = connection.execute(
                f"SELECT {rows.COLUMNS} {part} ORDER BY seq LIMIT ? OFFSET ?",
                (key, *values, -1 if limit is None else limit, offset),
            ).fetchall()
            total = len(found)
            if limit is not None or offset:
                total = connection.execute(f"SELECT count(*) {part}", (key, *values)).fetchone()[0]
        entries, unread = _entries(found)
        return Look(entries, tuple(unread), total=total - len(unread))

    def find(self, key: str, id: str) -> list[StoredEntry]:
        """See ``Peek``."""
        with self.reading() as connection:
            if not _has_tables(connection):
                return []
            text = contents.text_of(connection, key)
            if text is not None:
                return [entry for entry in read(key, text).entries if entry.id == id]
            statement = f"SELECT {rows.COLUMNS} FROM entries WHERE key = ? AND id = ? ORDER BY seq"
            return _entries(connection.execute(statement, (key, rows.id_column(id))).fetchall())[0]

    def set_aside(self, key: str) -> list[str]:
        """See ``Peek``."""
        said = []
        with self.reading() as connection:
            if _has_tables(connection):
                names = connection.execute("SELECT key FROM keys WHERE text IS NOT NULL ORDER BY key").fetchall()
                for (name,) in names:
                    if isinstance(name, str) and belongs(name, key):
                        said.append(describe(name, contents.text_of(connection, name) or ""))
        files = sorted(self.path.parent.glob(f"{escape(self.path.name)}{CORRUPT}*"))
        said += [
            f"{file.name}: a whole database of {file.stat().st_size:,} bytes"
            for file in files
            if belongs(file.name, self.path.name)
        ]
        return said

    def owners(self, key: str) -> list[str]:
        """See ``Peek``: everybody who has the file open, whichever key they use."""
        return [
            read_note(lock.with_suffix(".owner")) or "another process"
            for lock in sorted(self._owners.glob("*.lock"))
            if lock_is_held(lock)
        ]

    def claimed(self, key: str, entry: StoredEntry) -> Claimed:
        """See ``Peek``."""
        if entry.status != SENDING:
            return ""
        if entry.claim is None:
            return "gone"
        owner = entry.claim.owner
        if owner not in self._live:
            self._live[owner] = lock_is_held(self._owners / f"{owner}.lock")
        return CLAIMED[self._live[owner]]

    def sent(self, key: str) -> list[Sent]:
        """See ``Peek``."""
        with self.reading() as connection:
            if not _has_tables(connection):
                return []
            found = connection.execute("SELECT id, sha256 FROM ledger WHERE key = ?", (key,)).fetchall()
        return [
            Sent(id.decode("utf-8", "surrogatepass") if isinstance(id, bytes) else id, digest) for id, digest in found
        ]

    def delivery(self, key: str, id: str) -> Delivery | None:
        """See ``Peek``."""
        with self.reading() as connection:
            return ledger.find(connection, key, id) if _has_tables(connection) else None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that cannot write, for as short a time as possible.

        Raises:
            CorruptQueueError: damaged, or not a database of this package.
            CacheError: it cannot be read.
        """
        try:
            with closing(self._connect()) as connection:
                yield connection
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                raise CorruptQueueError(
                    f"{self.path} is damaged ({error}); a queue that opens it keeps it aside and saves what can be read"
                ) from error
            raise CacheError(f"{self.path} cannot be read: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        connection = _open(self.path, "ro")
        try:
            try:
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            except sqlite3.OperationalError as error:
                if getattr(error, "sqlite_errorname", "") != "SQLITE_READONLY_ROLLBACK":
                    raise
                connection.close()
                connection = _open(self.path, "rw")
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                self.notes.append(f"a commit into {self.path.name} had been cut off; it was rolled back")
            _check_format(connection, self.path)
        except BaseException:
            connection.close()
            raise
        return connection


def _open(path: Path, mode: Literal["ro", "rw"]) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("BEGIN")  # so that all statements of one call see the same moment
    connection.text_factory = rows.text_or_bytes
    return connection


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != rows.APPLICATION_ID and (application or version or _has_tables(connection)):
        raise CorruptQueueError(f"{path} is another program's database")
    if application == rows.APPLICATION_ID and version != rows.VERSION:
        raise CorruptQueueError(f"{path} was written by a newer version (format {version}); update starfish-outbox")


def _has_tables(connection: sqlite3.Connection) -> bool:
    """Whether the file is more than the empty one that is there before the first commit."""
    return bool(connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0])


def _entries(found: list[tuple[Any, ...]]) -> tuple[list[StoredEntry], list[str]]:
    entries, unread = [], []
    for row in found:
        try:
            entries.append(rows.to_entry(row))
        except rows.BadRowError as error:
            unread.append(str(error))
    return entries, unread


def _condition(status: str | None) -> tuple[str, tuple[str, ...]]:
    if status is None:
        return "", ()
    if status == "other":
        return " AND (id IS NULL OR status NOT IN (?, ?, ?))", KNOWN
    return " AND id IS NOT NULL AND status = ?", (status,)
