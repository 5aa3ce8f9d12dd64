"""The ``EntryStore`` on one SQLite file: one connection on one thread a process, every change ``BEGIN IMMEDIATE``."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar
from weakref import WeakSet, WeakValueDictionary

from starfish_outbox import codec
from starfish_outbox.caches import contents, rows
from starfish_outbox.caches.base import (
    Insert,
    Member,
    Op,
    Outcome,
    Seen,
    Update,
    free,
    is_free,
    log,
)
from starfish_outbox.caches.owner import OwnerLock, create_private, describe_owner, is_held, new_owner
from starfish_outbox.caches.salvage import salvage
from starfish_outbox.caches.thread import OneThread, park
from starfish_outbox.entry import StoredEntry
from starfish_outbox.errors import QueueLockedError
from starfish_outbox.transitions import GONE

R = TypeVar("R")

LEDGER_DAYS: Final = 90


class Database:
    """See ``EntryStore``. One for each file and process: ``Database.at(path)``."""

    durability = "survives a power cut: SQLite, journal_mode=TRUNCATE, synchronous=FULL"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = False
        self.owner = new_owner()
        self._thread = OneThread("starfish-outbox-sqlite")
        self._connection: sqlite3.Connection | None = None
        self._lock: OwnerLock | None = None
        self._versions: dict[str, int] = {}
        self._mutex = threading.Lock()
        self._members: dict[str, list[Member]] = defaultdict(list)
        self._notes: dict[str, list[str]] = defaultdict(list)
        self._claimants: set[int] = set()
        self._numbers = count(1)
        _live.add(self)

    @classmethod
    def at(cls, path: Path) -> Database:
        """The database at this path: the same object for everybody in this process."""
        place = os.path.realpath(path)
        with _opening:
            database = _databases.get(place)
            if database is None:
                database = _databases[place] = cls(Path(place))
            return database

    @property
    def where(self) -> str:
        """See ``EntryStore``."""
        return str(self.path)

    @property
    def owners(self) -> Path:
        """The directory of lock files, one an owner."""
        return self.path.with_name(f"{self.path.name}-owners")

    def notes(self, key: str) -> list[str]:
        """See ``EntryStore``."""
        return [*self._notes[""], *self._notes[key]]

    def new_claimant(self) -> int:
        """See ``EntryStore``."""
        number = next(self._numbers)
        self._claimants.add(number)
        return number

    def drop_claimant(self, claimant: int) -> None:
        """See ``EntryStore``."""
        self._claimants.discard(claimant)

    async def open(self, key: str, member: Member) -> list[StoredEntry]:
        """See ``EntryStore``."""
        return await self._thread.run(self._guarded, self._open, key, member)

    async def apply(self, key: str, member: Member, ops: Sequence[Op], *, late: bool = False) -> list[Outcome]:
        """See ``EntryStore``. A late change needs no care here: where the key is gone, so are its rows."""
        return await self._thread.run(self._guarded, self._apply, key, member, ops)

    async def refresh(self, key: str, member: Member) -> None:
        """See ``EntryStore``."""
        await self._thread.run(self._guarded, self._refresh, key, member)

    async def was_sent(self, key: str, id: str) -> bool:
        """See ``EntryStore``."""
        return await self._thread.run(self._was_sent, key, id)

    def leave(self, key: str, member: Member) -> None:
        """See ``EntryStore``."""
        with self._mutex:
            member.left = True
            if member in self._members[key]:
                self._members[key].remove(member)

    async def left(self, key: str) -> None:
        """See ``EntryStore``: nothing to wait for."""

    async def get_text(self, key: str) -> str | None:
        """The text under the key."""
        return await self._thread.run(self._guarded, self._get_text, key)

    async def set_text(self, key: str, text: str | None, *, alone: bool) -> None:
        """Replace (None: forget) the text under the key; ``alone``: only while nobody else has the file open."""
        await self._thread.run(self._guarded, self._set_text, key, text, alone)

    def close(self) -> None:
        """Close the connection and give the owner's lock back, unless a queue of this process still uses it.

        Used again, it opens again under a new owner.
        """
        if not any(self._members.values()):
            self._thread.submit(self._close).result()
            self._thread.close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock is not None:
            self._lock.path.with_suffix(".owner").unlink(missing_ok=True)
            self._lock.release(remove=True)
            self._lock = None
        self.owner = new_owner()

    def abandon_in_child(self) -> None:
        """After a fork, in the child: connection and owner are the parent's."""
        park((self._connection, self._lock))
        self._connection, self._lock, self._versions = None, None, {}
        self._mutex = threading.Lock()
        self._claimants, self.owner = set(), new_owner()
        for members in self._members.values():
            for member in members:
                member.stale = True

    def _ready(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = rows.connect(self.path)
            while self._lock is None:
                self.owners.mkdir(mode=0o700, exist_ok=True)
                lock = OwnerLock(self.owners / f"{self.owner}.lock")
                if lock.acquire():
                    create_private(lock.path.with_suffix(".owner"))
                    lock.path.with_suffix(".owner").write_text(describe_owner(), "utf-8")
                    self._lock = lock
                else:
                    self.owner = new_owner()
            self._connection = connection
        return self._connection

    def _others(self) -> list[str]:
        """Who else has the file open, in words; what dead owners left is swept up."""
        found = []
        for path in self.owners.glob("*.lock"):
            if self._lock is not None and path == self._lock.path:
                continue
            note = path.with_suffix(".owner")
            if is_held(path, remove=True):
                found.append(note.read_text("utf-8") if note.exists() else "another process")
            else:
                note.unlink(missing_ok=True)
        return found

    def _guarded(self, function: Callable[..., R], *args: Any) -> R:
        """Run it; when the file turns out to be damaged, salvage it into a new one and run it again."""
        try:
            return function(*args)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            self._close()
            note = salvage(self.path, self._others, str(error))
            log.error("%s", note)
            self._notes[""].append(note)
            for key, members in list(self._members.items()):
                for member in list(members):
                    member.deliver_all(contents.load(self._ready(), key, member.now_ms(), self._noter(key)))
            return function(*args)

    def _open(self, key: str, member: Member) -> list[StoredEntry]:
        connection = self._ready()
        now_ms = member.now_ms()
        self._others()
        contents.take_apart(connection, key, now_ms, self._noter(key))
        self._free_claims(connection, key, member)
        if self.ledger:
            horizon = now_ms - LEDGER_DAYS * 86_400_000
            if connection.execute("SELECT 1 FROM ledger WHERE sent_at < ? LIMIT 1", (horizon,)).fetchone():
                connection.execute("DELETE FROM ledger WHERE sent_at < ?", (horizon,))
        self._versions[key] = _data_version(connection)
        entries = contents.load(connection, key, now_ms, self._noter(key))
        with self._mutex:
            if not member.left and member not in self._members[key]:  # its queue may have been cancelled meanwhile
                self._members[key].append(member)
        return entries

    def _refresh(self, key: str, member: Member) -> None:
        connection = self._ready()
        now_ms = member.now_ms()
        self._free_claims(connection, key, member)
        version = _data_version(connection)
        if version != self._versions.get(key) or member.stale:
            self._versions[key] = version
            entries = contents.load(connection, key, now_ms, self._noter(key))
            for other in self._members[key]:
                other.stale = False
                other.deliver_all(entries)

    def _apply(self, key: str, member: Member, ops: Sequence[Op]) -> list[Outcome]:
        connection = self._ready()
        with contents.transaction(connection):
            if any(isinstance(op, Insert) for op in ops):
                connection.execute("INSERT OR IGNORE INTO keys (key) VALUES (?)", (key,))
            outcomes = [
                self._insert(connection, key, op)
                if isinstance(op, Insert)
                else self._update(connection, key, op, member)
                for op in ops
            ]
        # What was refused is news too, but only to the queue that asked: its mirror was behind.
        self._tell(key, member, [(o.seq, o.entry) for o in outcomes if o.seq is not None and o.applied])
        member.deliver([(o.seq, o.entry) for o in outcomes if o.seq is not None and not o.applied], own=True)
        return outcomes

    def _insert(self, connection: sqlite3.Connection, key: str, op: Insert) -> Outcome:
        entry = op.entry
        id = rows.id_column(entry.id)
        row = connection.execute(rows.BY_ID, (key, id)).fetchone()
        if row is not None:
            live = rows.to_entry(row)
            return Outcome(False, live.seq, live, why="live")
        if self.ledger:
            sent = connection.execute("SELECT sha256 FROM ledger WHERE key = ? AND id = ?", (key, id)).fetchone()
            if sent is not None:
                if sent[0] == _sha256(entry.item):
                    return Outcome(False, why="sent")
                note = f"{entry.id!r} was sent before with another item; enqueued again"
                self._noter(key)(note)
        seq = connection.execute(rows.INSERT, rows.to_row(key, entry)).lastrowid
        return Outcome(True, seq, replace(entry, seq=seq or 0))

    def _update(self, connection: sqlite3.Connection, key: str, op: Update, member: Member) -> Outcome:
        if op.seq is not None:
            row = connection.execute(rows.BY_SEQ, (op.seq, key)).fetchone()
        else:
            row = connection.execute(rows.BY_ID, (key, rows.id_column(op.id))).fetchone()
        if row is None:
            return Outcome(False, op.seq)
        before = rows.to_entry(row)
        after = op.step(before)
        if after is None:
            return Outcome(False, before.seq, before)
        if after is not GONE:
            connection.execute(rows.UPDATE, rows.update_values(key, after))
            return Outcome(True, before.seq, after, before)
        connection.execute(rows.DELETE, (before.seq,))
        if op.sent and self.ledger:
            connection.execute(
                "INSERT OR REPLACE INTO ledger (key, id, sha256, sent_at) VALUES (?, ?, ?, ?)",
                (key, rows.id_column(before.id), _sha256(before.item), member.now_ms()),
            )
        return Outcome(True, before.seq, None, before)

    def _was_sent(self, key: str, id: str) -> bool:
        found = self._ready().execute("SELECT 1 FROM ledger WHERE key = ? AND id = ?", (key, rows.id_column(id)))
        return found.fetchone() is not None

    def _free_claims(self, connection: sqlite3.Connection, key: str, member: Member) -> None:
        """Take back claims whose claimer is gone; comparing the owner again inside the transaction."""
        freed: list[Seen] = []
        for (owner,) in connection.execute(rows.OWNERS, (key,)).fetchall():
            mine = owner == self.owner
            if owner is not None and not mine and is_held(self.owners / f"{owner}.lock"):
                continue
            claimed = [rows.to_entry(row) for row in connection.execute(rows.BY_OWNER, (key, owner)).fetchall()]
            if mine and not any(is_free(entry.claim, owner, self._claimants) for entry in claimed):
                continue
            with contents.transaction(connection):
                for row in connection.execute(rows.BY_OWNER, (key, owner)).fetchall():
                    entry = rows.to_entry(row)
                    if not mine or is_free(entry.claim, owner, self._claimants):
                        after = free(entry, self.owner, member.now_ms())
                        connection.execute(rows.UPDATE, rows.update_values(key, after))
                        freed.append((after.seq, after))
        self._tell(key, member, freed)

    def _get_text(self, key: str) -> str | None:
        connection = self._ready()
        if connection.execute("SELECT 1 FROM keys WHERE key = ?", (key,)).fetchone() is None:
            return None
        text = contents.text_of(connection, key)
        if text is not None:
            return text
        entries = contents.load(connection, key, 0, self._noter(key))
        return codec.encode_array([codec.encode_entry(entry) for entry in entries])

    def _set_text(self, key: str, text: str | None, alone: bool) -> None:
        connection = self._ready()
        others = (["a queue of this process"] if self._members[key] else self._others()) if alone else []
        if others:
            raise QueueLockedError(f"{key!r} in {self.path} is open in {', '.join(others)}; close it first", others[0])
        with contents.transaction(connection):
            connection.execute("DELETE FROM entries WHERE +key = ?", (key,))
            connection.execute("DELETE FROM keys WHERE key = ?", (key,))
            if text is not None:
                contents.put_text(connection, key, text)

    def _noter(self, key: str) -> Callable[[str], None]:
        def note(text: str) -> None:
            log.warning("%s: %s", key, text)
            self._notes[key].append(text)

        return note

    def _tell(self, key: str, own: Member | None, changes: Sequence[Seen]) -> None:
        if changes:
            for member in list(self._members[key]):
                member.deliver(changes, own=member is own)


def _data_version(connection: sqlite3.Connection) -> int:
    """Changes whenever another connection (another process, or somebody who peeks and pokes) has committed."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _is_damage(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


_databases: Final[WeakValueDictionary[str, Database]] = WeakValueDictionary()
_live: Final[WeakSet[Database]] = WeakSet()
_opening: Final = threading.Lock()


def _abandon_all() -> None:
    for database in list(_live):
        database.abandon_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
