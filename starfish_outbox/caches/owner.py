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
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from weakref import WeakSet, finalize

from starfish_outbox.caches.thread import park
from starfish_outbox.errors import QueueLockedError

_held: Final[WeakSet[OwnerLock]] = WeakSet()
_inherited: Final[set[Path]] = set()
_PATIENCE_SECONDS: Final = 30.0
LOCK_BYTES: Final = (0x40000000, 512)
"""Where SQLite locks a file, and how much of it when exclusively (os.h in its source: PENDING_BYTE, and on)."""


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


def make_directory(path: Path) -> None:
    """Make the directory (0700) and what is missing above it, so that they survive a power cut."""
    missing = [place for place in (path, *path.parents) if not place.exists()]
    for place in reversed(missing):  # pathlib gives the mode to the last of several only
        place.mkdir(mode=0o700, exist_ok=True)
        sync_directory(place.parent)


def sync_directory(path: Path) -> None:
    """Make renames in the directory survive a power cut (Windows does so by itself and cannot open a directory)."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_note(path: Path) -> str:
    """Who an owner says it is, such as ``pid 4711 on lab-3``; empty when it says nothing."""
    try:
        return path.read_text("utf-8").strip()
    except FileNotFoundError:  # just made, or just given up
        return ""


class OwnerLock:
    """A lock file; held from ``acquire`` to ``release`` or to the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._let_go: finalize[..., OwnerLock] | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock, in this process."""
        return self._let_go is not None

    def acquire(self) -> bool:
        """Take the lock; False when another owner holds it, or swept its file away as a dead owner's meanwhile."""
        if self.held:
            return True
        if self.path in _inherited:
            descriptor = _lock_by_hand(self.path)
            if descriptor is None:
                return False
            self._hold(os.close, descriptor)
            return True
        create_private(self.path)
        uri = f"{self.path.absolute().as_uri()}?mode=rw"
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA journal_mode = MEMORY")  # nothing is ever written: no file beside it
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if connection is not None:
                connection.close()
            if "locked" in str(error) or not self.path.exists():
                return False
            raise
        if not self.path.exists():
            connection.close()
            return False
        self._hold(connection.close)
        return True

    def _hold(self, let_go: Callable[..., None], *args: Any) -> None:
        # A connection is a reference cycle (its statement cache): dropped, it would keep the lock until the next
        # garbage collection. Never in a child of a fork: closing there could undo what the parent does.
        self._let_go = finalize(self, in_process, os.getpid(), let_go, *args)
        self._let_go.atexit = False
        _held.add(self)

    def release(self, *, remove: bool = False) -> None:
        """Give the lock back; ``remove`` deletes the file of a lock that only one owner ever takes."""
        if self._let_go is not None:
            if remove:
                self.path.unlink(missing_ok=True)
            self._let_go()
            self._let_go = None
            _held.discard(self)

    def abandon_in_child(self) -> None:
        """After a fork, in the child: the lock is the parent's."""
        if self._let_go is not None:
            park(self._let_go.detach())
            self._let_go = None
            _inherited.add(self.path)


def holds(path: Path) -> bool:
    """Whether this process holds the lock file."""
    return any(lock.path == path for lock in list(_held))


def is_held(path: Path, *, remove: bool = False) -> bool:
    """Whether some owner holds the lock file; a missing file is held by nobody, and ``remove`` deletes a dead one."""
    if not path.exists():
        return False
    probe = OwnerLock(path)
    try:
        taken = probe.acquire()
    except FileNotFoundError:  # its directory went with the last owner
        return False
    if not taken:
        return path.exists()
    probe.release(remove=remove)
    return False


def _lock_by_hand(path: Path) -> int | None:
    """In a forked child: lock the file without SQLite, which remembers the parent's lock as its own for ever.

    The answer is a descriptor that holds the lock until it is closed, or None when another process holds it.
    """
    import fcntl

    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    try:
        start, length = LOCK_BYTES
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def in_process(pid: int, function: Callable[..., None], *args: Any) -> None:
    """Call the function in the process that has this pid, and not in a child of a fork."""
    if os.getpid() == pid:
        function(*args)


class Owners:
    """The owners of one store: a directory with a lock file for each, named by its 128 random bits."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.me = new_owner()
        self._lock: OwnerLock | None = None
        self._repair = directory / "repair.lock"
        self._repairs = False

    def join(self) -> None:
        """Be an owner, until ``leave`` or the end of the process.

        An owner that repairs asks who the others are: one who comes meanwhile is seen by it, or sees it and waits.
        """
        self._enter()
        while not self._repairs and is_held(self._repair):
            self.leave()
            if not _wait_for(lambda: not is_held(self._repair)):
                raise QueueLockedError(f"another process repairs {self.directory} and does not end")
            self._enter()

    def _enter(self) -> None:
        while self._lock is None:
            self.directory.mkdir(mode=0o700, exist_ok=True)
            lock = OwnerLock(self.directory / f"{self.me}.lock")
            try:
                taken = lock.acquire()
            except FileNotFoundError:  # the last owner left, and took the directory along
                continue
            if taken:
                self._lock = lock
                create_private(_note(lock.path))
                _note(lock.path).write_text(describe_owner(), "utf-8")
            else:
                self.me = new_owner()

    def leave(self) -> None:
        """Be no owner any more: claims made as ``me`` are free."""
        if self._lock is not None:
            _note(self._lock.path).unlink(missing_ok=True)
            self._lock.release(remove=True)
            self._lock = None
            with suppress(OSError):  # others are in it
                self.directory.rmdir()
        self.me = new_owner()

    def alive(self, owner: str) -> bool:
        """Whether another owner still lives."""
        return is_held(self.directory / f"{owner}.lock")

    def others(self) -> list[str]:
        """Who else has the store open, in words; what dead owners left is swept up."""
        found = []
        for path in self.directory.glob(f"{'[0-9a-f]' * 32}.lock"):
            if self._lock is not None and path == self._lock.path:
                continue
            if is_held(path, remove=True):
                found.append(read_note(_note(path)) or "another process")
            else:
                _note(path).unlink(missing_ok=True)
        return found

    @contextmanager
    def repairing(self) -> Iterator[None]:
        """For work on the whole store: one process at a time; who joins meanwhile waits until it is over."""
        lock = OwnerLock(self._repair)

        def acquired() -> bool:
            self.directory.mkdir(mode=0o700, exist_ok=True)
            try:
                return lock.acquire()
            except FileNotFoundError:  # the last owner left, and took the directory along
                return False

        if not _wait_for(acquired):
            raise QueueLockedError(f"another process repairs {self.directory} and does not end")
        self._repairs = True
        try:
            yield
        finally:
            self._repairs = False
            lock.release()  # the file stays: several processes take this lock, and must take it on one file

    def wait_for_others(self) -> list[str]:
        """Who else still has the store open, after they had time to let go (they may have met the same damage)."""
        _wait_for(lambda: not self.others())
        return self.others()

    def abandon_in_child(self) -> None:
        """After a fork, in the child: the parent is another owner."""
        park(self._lock)
        self._lock = None
        self.me = new_owner()


def _wait_for(done: Callable[[], bool]) -> bool:
    until = time.monotonic() + _PATIENCE_SECONDS
    while not done():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _note(lock: Path) -> Path:
    return lock.with_suffix(".owner")


def _abandon_all() -> None:
    for lock in list(_held):
        lock.abandon_in_child()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
