"""The ``EntryStore`` on one SQLite file: one connection on one thread a process, every change ``BEGIN IMMEDIATE``."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar
from weakref import WeakSet, WeakValueDictionary, finalize

from starfish_outbox import codec
from starfish_outbox.caches import contents, ledger, rows
from starfish_outbox.caches.base import (
    Claimants,
    Insert,
    Member,
    Op,
    Outcome,
    Seen,
    Sent,
    Update,
    free,
    is_free,
    log,
    seen,
    wall_clock_ms,
)
from starfish_outbox.caches.owner import Owners, in_process
from starfish_outbox.caches.salvage import salvage
from starfish_outbox.caches.thread import OneThread, park
from starfish_outbox.entry import SENDING, Claim
from starfish_outbox.errors import CorruptQueueError, QueueLockedError
from starfish_outbox.transitions import GONE

R = TypeVar("R")


class Database(Claimants):
    """See ``EntryStore``. One for each file and process: ``Database.at(path)``."""

    durability = "survives a power cut: SQLite, journal_mode=TRUNCATE, synchronous=FULL"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.ledger = False
        self._owners = Owners(path.with_name(f"{path.name}-owners"))
        self._thread = OneThread("starfish-outbox-sqlite")
        self._connection: sqlite3.Connection | None = None
        self._close_dropped: finalize[..., Database] | None = None
        # Held inside SQLite, and by a fork: what SQLite knows of locks is copied into the child and never forgotten.
        self.gate = threading.Lock()
        self._mutex = threading.RLock()
        self._members: dict[str, list[Member]] = defaultdict(list)
        self._notes: dict[str, list[str]] = defaultdict(list)
        _live.add(self)

    @classmethod
    def at(cls, path: Path) -> Database:
        """The database at this path: the same object for everybody in this process."""
        place = str(Path(os.path.realpath(path.parent)) / path.name)
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
    def owner(self) -> str:
        """See ``EntryStore``."""
        return self._owners.me

    def notes(self, key: str) -> list[str]:
        """See ``EntryStore``."""
        return [*self._notes[""], *self._notes[key]]

    async def open(self, key: str, member: Member) -> None:
        """See ``EntryStore``."""
        await self._thread.run(self._guarded, self._open, key, member)

    async def apply(self, key: str, member: Member, ops: Sequence[Op], *, late: bool = False) -> list[Outcome]:
        """See ``EntryStore``. A late change needs no care here: where the key is gone, so are its rows."""
        return await self._thread.run(self._guarded, self._apply, key, member, ops)

    async def refresh(self, key: str, member: Member) -> None:
        """See ``EntryStore``."""
        await self._thread.run(self._guarded, self._refresh, key, member)

    async def sent(self, key: str, id: str) -> Sent | None:
        """See ``EntryStore``."""
        return await self._thread.run(self._guarded, self._sent, key, id)

    async def forget_sent(self, key: str, until_ms: int) -> int:
        """See ``EntryStore``."""
        return await self._thread.run(self._guarded, self._forget_sent, key, until_ms)

    def leave(self, key: str, member: Member, *, collected: bool = False) -> None:
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
            self._notes.clear()  # another file may lie here when it is used again

    def _close(self) -> None:
        if self._connection is not None and self._close_dropped is not None:
            self._close_dropped()
        self._connection = None
        self._owners.leave()

    def abandon_in_child(self) -> None:
        """After a fork, in the child: connection and owner are the parent's."""
        park(self._connection)
        if self._close_dropped is not None:
            self._close_dropped.detach()
        self._connection = None
        self._owners.abandon_in_child()
        self._mutex = threading.RLock()
        self._claimants.clear()
        for members in self._members.values():
            for member in members:
                member.stale = True

    def _ready(self) -> sqlite3.Connection:
        if self._connection is None:
            self._owners.join()
            try:
                self._connection = rows.connect(self.path)
            except BaseException:
                self._owners.leave()
                raise
            self._close_dropped = finalize(self, in_process, os.getpid(), self._connection.close)
            self._close_dropped.atexit = False
        return self._connection

    def _guarded(self, function: Callable[..., R], *args: Any) -> R:
        """Run it; when the file turns out to be damaged, salvage it into a new one and run it again."""
        with self.gate:
            try:
                return function(*args)
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if not _is_damage(error):
                    raise
                self._close()
            with self._owners.repairing():
                return self._salvaged(function, *args)

    def _salvaged(self, function: Callable[..., R], *args: Any) -> R:
        try:
            return function(*args)  # another process may have salvaged it meanwhile
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if not _is_damage(error):
                raise
            self._close()
            others = self._owners.wait_for_others()
            if others:  # they would go on writing into the file that is replaced
                raise CorruptQueueError(
                    f"{self.path} is damaged ({error}) and open in {', '.join(others)}; close it there first"
                ) from error
            note = salvage(self.path, str(error))
        log.error("%s", note)
        self._notes[""].append(note)
        connection = self._ready()
        for key, members in list(self._members.items()):
            for member in list(members):
                member.deliver_all(contents.load(connection, key, member.now_ms(), self._noter(key)))
        return function(*args)

    def _open(self, key: str, member: Member) -> None:
        connection = self._ready()
        now_ms = member.now_ms()
        self._owners.others()  # sweeps up what dead owners left
        contents.take_apart(connection, key, now_ms, self._noter(key))
        try:
            self._free_claims(connection, key, member)
        except sqlite3.OperationalError as error:
            if _is_damage(error):
                raise
            # A full disk must not keep anybody from reading: a refresh or drain that can write takes them back.
            self._noter(key)(f"claims of owners that are gone could not be taken back: {error}")
        if self.ledger:
            ledger.forget_old(connection, now_ms)
        member.version = _data_version(connection)
        entries = contents.load(connection, key, now_ms, self._noter(key))
        with self._mutex:
            if not member.left and member not in self._members[key]:  # its queue may have been cancelled meanwhile
                self._members[key].append(member)
        member.deliver_all(entries, own=True)

    def _refresh(self, key: str, member: Member) -> None:
        connection = self._ready()
        now_ms = member.now_ms()
        self._free_claims(connection, key, member)
        version = _data_version(connection)
        if version != member.version or member.stale:
            entries = contents.load(connection, key, now_ms, self._noter(key))
            for other in list(self._members[key]):
                other.stale, other.version = False, version
                other.deliver_all(entries)

    def _apply(self, key: str, member: Member, ops: Sequence[Op]) -> list[Outcome]:
        connection = self._ready()
        with contents.transaction(connection):
            if any(isinstance(op, Insert) for op in ops):
                connection.execute("INSERT OR IGNORE INTO keys (key) VALUES (?)", (key,))
            outcomes = [
                self._insert(connection, key, op, member)
                if isinstance(op, Insert)
                else self._update(connection, key, op, member)
                for op in ops
            ]
        # What was refused is news too, but only to the queue that asked: its mirror was behind. In one delivery and in
        # the order of the operations: a refusal tells what stood before an operation that came after it.
        told = [(outcome.applied, seen(op, outcome)) for op, outcome in zip(ops, outcomes, strict=True)]
        news = [one for _, one in told if one is not None]
        changed = [one for applied, one in told if one is not None and applied]
        for other in list(self._members[key]):
            if other is not member and changed:
                other.deliver(changed, own=False)
        if news:
            member.deliver(news, own=True)
        return outcomes

    def _insert(self, connection: sqlite3.Connection, key: str, op: Insert, member: Member) -> Outcome:
        entry = op.entry
        id = rows.id_column(entry.id)
        live = contents.one(connection, key, rows.BY_ID, (key, id), member.now_ms(), self._noter(key))
        if live is not None:
            return Outcome(False, live.seq, live, why="live")
        if self.ledger:
            before = ledger.compare(connection, key, entry)
            if before == "same":
                return Outcome(False, why="sent")
            if before == "other":
                self._noter(key)(f"{entry.id!r} was sent before with another item; enqueued again")
        seq = connection.execute(rows.INSERT, rows.to_row(key, entry)).lastrowid
        return Outcome(True, seq, replace(entry, seq=seq or 0))

    def _update(self, connection: sqlite3.Connection, key: str, op: Update, member: Member) -> Outcome:
        by_id = (rows.BY_ID, (key, rows.id_column(op.id)))
        select, values = by_id if op.seq is None else (rows.BY_SEQ, (op.seq,))
        before = contents.one(connection, key, select, values, member.now_ms(), self._noter(key))
        if before is None:
            return Outcome(False, op.seq)
        after = op.step(before)
        if after is None:
            return Outcome(False, before.seq, before)
        if after is not GONE:
            connection.execute(*rows.update(key, after, before))
        else:
            connection.execute(rows.DELETE, (before.seq,))
        if op.sent and self.ledger:
            ledger.record(connection, key, before, op.receipt, member.now_ms())
        return Outcome(True, before.seq, None if after is GONE else after, before)

    def _sent(self, key: str, id: str) -> Sent | None:
        return ledger.find(self._ready(), key, id)

    def _forget_sent(self, key: str, until_ms: int) -> int:
        connection = self._ready()
        with contents.transaction(connection):
            return ledger.forget(connection, key, until_ms)

    def _free_claims(self, connection: sqlite3.Connection, key: str, member: Member) -> None:
        """Take back claims whose claimer is gone, looking again inside the transaction."""
        claimed = [seq for (seq,) in connection.execute(rows.CLAIMED, (key,)).fetchall()]
        if not claimed:
            return
        alive: dict[str, bool] = {}
        freed: list[Seen] = []
        with contents.transaction(connection):
            for seq in claimed:
                entry = contents.one(connection, key, rows.BY_SEQ, (seq,), member.now_ms(), self._noter(key))
                if entry is None or entry.status != SENDING or self._is_live(entry.claim, alive):
                    continue
                after = free(entry, self.owner, member.now_ms())
                connection.execute(*rows.update(key, after, entry))
                freed.append(Seen(seq, after))
        self._tell(key, member, freed)

    def _is_live(self, claim: Claim | None, alive: dict[str, bool]) -> bool:
        if claim is None or claim.owner == self.owner:
            return not is_free(claim, self.owner, self._claimants)
        if claim.owner not in alive:
            alive[claim.owner] = self._owners.alive(claim.owner)
        return alive[claim.owner]

    def _get_text(self, key: str) -> str | None:
        connection = self._ready()
        text = contents.text_of(connection, key)
        if text is not None:
            return text
        entries = contents.load(connection, key, wall_clock_ms(), self._noter(key))
        if not entries and connection.execute("SELECT 1 FROM keys WHERE key = ?", (key,)).fetchone() is None:
            return None
        return codec.encode_array([codec.encode_entry(entry) for entry in entries])

    def _set_text(self, key: str, text: str | None, alone: bool) -> None:
        connection = self._ready()
        # Who opens the file registers before it reads: inside, the answer holds.
        with contents.transaction(connection, exclusive=True):
            others = (["a queue of this process"] if self._members[key] else self._owners.others()) if alone else []
            if others:
                names = ", ".join(others)
                raise QueueLockedError(f"{key!r} in {self.path} is open in {names}; close it first", others[0])
            connection.execute("DELETE FROM entries WHERE +key = ?", (key,))
            connection.execute("DELETE FROM keys WHERE key = ?", (key,))
            if text is None:
                ledger.forget(connection, key)
            else:
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


def _is_damage(error: Exception) -> bool:
    """Whether the file is damaged.

    Our statements are constant: a plain error can only come from a damaged schema. Where SQLite's message quotes a
    damaged name, the sqlite3 module cannot even decode it.
    """
    if isinstance(error, rows.DamagedError | UnicodeDecodeError):
        return True
    name = getattr(error, "sqlite_errorname", "")
    return name == "SQLITE_ERROR" or name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


_databases: Final[WeakValueDictionary[str, Database]] = WeakValueDictionary()
_live: Final[WeakSet[Database]] = WeakSet()
_forking: Final[list[Database]] = []
_one_fork: Final = threading.Lock()
_opening: Final = threading.Lock()


def _before_fork() -> None:
    _one_fork.acquire()
    _forking.extend(_live)
    for database in _forking:
        database.gate.acquire()


def _after_fork() -> None:
    while _forking:
        _forking.pop().gate.release()
    _one_fork.release()


def _after_fork_in_child() -> None:
    for database in _forking:
        database.abandon_in_child()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
