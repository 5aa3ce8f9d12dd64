"""Ownership that dies with the process: an exclusive transaction held open on a small SQLite file.

``BEGIN EXCLUSIVE`` takes an OS file lock that Node's ``better-sqlite3`` takes as well, so both languages refuse each
other. It is held while the process is stopped (SIGSTOP, a sleeping laptop), free at once when it is killed, and a
forked child does not inherit it. ``flock`` does none of the last, and Node has none.
"""

from __future__ import annotations

import os
import secrets
import socket
import sqlite3
from pathlib import Path
from typing import Final
from weakref import WeakSet

from starfish_outbox.caches.thread import park

_held: Final[WeakSet[OwnerLock]] = WeakSet()


def new_owner() -> str:
    """128 random bits in hex."""
    return secrets.token_hex(16)


def describe_owner() -> str:
    """This process, for the message that another one shows."""
    return f"pid {os.getpid()} on {socket.gethostname()}"


def create_private(path: Path) -> bool:
    """Create an empty file that only its owner may read (0600, whatever the umask); False when it is already there.

    An existing file is never opened: closing it would drop the POSIX locks that this process holds on it.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except FileExistsError:
        return False
    os.fchmod(descriptor, 0o600)
    os.close(descriptor)
    return True


class OwnerLock:
    """A lock file; held from ``acquire`` to ``release`` or to the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock, in this process."""
        return self._connection is not None

    def acquire(self) -> bool:
        """Take the lock; False when another owner holds it."""
        if self.held:
            return True
        create_private(self.path)
        uri = f"{self.path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = MEMORY")  # nothing is ever written: no file beside it
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            connection.close()
            if "locked" in str(error):
                return False
            raise
        if not self.path.exists():  # somebody who took it for a dead owner's cleaned it away
            connection.close()
            return False
        self._connection = connection
        _held.add(self)
        return True

    def release(self, *, remove: bool = False) -> None:
        """Give the lock back; ``remove`` deletes the file of a lock that only one owner ever takes."""
        if self._connection is not None:
            if remove:
                self.path.unlink(missing_ok=True)
            self._connection.close()
            self._connection = None
            _held.discard(self)

    def abandon_in_child(self) -> None:
        """After a fork, in the child: the lock is the parent's."""
        if self._connection is not None:
            park(self._connection)
            self._connection = None


def is_held(path: Path, *, remove: bool = False) -> bool:
    """Whether some owner holds the lock file; a missing file is held by nobody, and ``remove`` deletes a dead one."""
    if not path.exists():
        return False
    probe = OwnerLock(path)
    try:
        if not probe.acquire():
            return path.exists()
    except sqlite3.OperationalError:
        if path.exists():
            raise
        return False
    probe.release(remove=remove)
    return False


def _abandon_all() -> None:
    for lock in list(_held):
        lock.abandon_in_child()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
