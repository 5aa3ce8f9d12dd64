"""One ``.json`` file a key, readable by a TypeScript program as it lies there.

A write goes to a new file beside it (``O_EXCL | O_NOFOLLOW``, 0600), is fsynced, renamed over the old one, and the
directory is fsynced: a cut at any point leaves the old text or the new one. A program that takes no lock is noticed.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

from starfish_outbox.caches.adapter import ForeignWriteError
from starfish_outbox.caches.base import SET_ASIDE
from starfish_outbox.caches.owner import OwnerLock, describe_owner, make_directory, read_note, sync_directory
from starfish_outbox.caches.thread import OneThread
from starfish_outbox.errors import CacheError, CacheWriteError, QueueLockedError

MAX_UTF16: Final = 536_870_888
"""Longest string of Node 20; a longer file reads as empty there and would be written over. Nothing is added that would
make the text longer; a claim or a settlement, which makes room in the end, is never refused."""

_LONGEST_NAME = 180
_KEPT = re.compile(rb"[a-z0-9._-]")
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)")

Stamp = tuple[int, int, int] | None


def file_name(key: str) -> str:
    """The file name of a key: distinct keys have distinct names, also where case is folded, and on Windows.

    Set-aside texts get no ``.json``, so that no program takes them for a queue.
    """
    encoded = key.encode("utf-8", "surrogatepass")
    name = "".join(chr(byte) if _KEPT.match(bytes([byte])) else f"%{byte:02X}" for byte in encoded)
    if name.startswith(".") or _WINDOWS_DEVICE.match(name):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) > _LONGEST_NAME:
        rest = hashlib.sha256(name[_LONGEST_NAME:].encode()).hexdigest()
        name = f"{name[:_LONGEST_NAME]}~{rest[:32]}"
    return name if SET_ASIDE.search(key) else name + ".json"


def private_directory(path: Path) -> Path:
    """The directory, made with 0700 where it is missing.

    Raises:
        CacheError: somebody else owns it or may write to it: what lies there would not be the user's alone.
    """
    make_directory(path)
    if os.name == "posix":
        info = path.stat()
        if info.st_uid != os.geteuid():
            raise CacheError(f"{path} belongs to user {info.st_uid}; choose a directory of your own")
        if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise CacheError(
                f"{path} may be written by others (mode {stat.filemode(info.st_mode)}); run: chmod go-w {path}"
            )
    return path


class FileCache:
    """Strings by key, one file each in ``directory``; one owner a key at a time.

    Bytes that are no UTF-8 come back as lone surrogates (``surrogateescape``) and are written back as those bytes.

    Raises:
        CacheError: the directory belongs to somebody else or may be written by others.
    """

    durability = "survives a power cut: written beside, fsynced, renamed, directory fsynced"

    def __init__(self, directory: str | os.PathLike[str], *, max_utf16: int = MAX_UTF16) -> None:
        self.directory = private_directory(Path(directory).expanduser()).resolve()
        self._max_utf16 = max_utf16
        self._thread = OneThread("starfish-outbox-file")
        self._stamps: dict[str, Stamp] = {}
        self._locks: dict[str, OwnerLock] = {}

    def __repr__(self) -> str:
        return f"FileCache({str(self.directory)!r})"

    @property
    def identity(self) -> object:
        """See ``OwnedCache``."""
        return ("file", str(self.directory))

    def path(self, key: str) -> Path:
        """Where the key's text lies."""
        return self.directory / file_name(key)

    async def get_item(self, key: str) -> str | None:
        """The text under the key, or None."""
        return (await self._thread.run(self._get, key))[0]

    async def set_item(self, key: str, value: str) -> None:
        """Store the text; it survives a power cut when this returns."""
        await self._thread.run(self._set, key, value)

    async def remove_item(self, key: str) -> None:
        """Forget the key."""
        await self._thread.run(self._remove, key)

    async def read_owned(self, key: str) -> str | None:
        """See ``OwnedCache``."""
        return await self._thread.run(self._read_owned, key)

    async def write_owned(self, key: str, value: str) -> None:
        """See ``OwnedCache``.

        Raises:
            ForeignWriteError: the file was written by a program that takes no lock.
        """
        await self._thread.run(self._write_owned, key, value)

    async def changed(self, key: str) -> bool:
        """See ``OwnedCache``."""
        return await self._thread.run(self._changed, key)

    def check_growth(self, key: str, text: str) -> None:
        """See ``OwnedCache``.

        Raises:
            CacheWriteError: the text would be longer than a TypeScript program can read.
        """
        if len(text) * 2 > self._max_utf16 and len(text.encode("utf-16-le", "surrogatepass")) // 2 > self._max_utf16:
            raise CacheWriteError(f"{key!r}: the text is longer than the {self._max_utf16} units that Node can read")

    async def acquire(self, key: str) -> None:
        """See ``OwnedCache``: lock the key for this process.

        Raises:
            QueueLockedError: another process owns it.
        """
        await self._thread.run(self._acquire, key)

    def release(self, key: str, *, now: bool = False) -> None:
        """See ``OwnedCache``. On the cache's thread, so that it comes after the writes that still run."""
        if now:
            self._release(key)
        else:
            self._thread.submit(self._release, key)

    def close(self) -> None:
        """End the thread; it starts again when the cache is used again. Keys are given back by their queues."""
        self._thread.close()

    def _get(self, key: str) -> tuple[str | None, Stamp]:
        try:
            descriptor = os.open(self.path(key), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except FileNotFoundError:
            return None, None
        with os.fdopen(descriptor, "rb") as file:
            stamp = _stamp(os.fstat(descriptor))
            data = file.read()
        return data.decode("utf-8", "surrogateescape"), stamp

    def _read_owned(self, key: str) -> str | None:
        text, self._stamps[key] = self._get(key)
        return text

    def _write_owned(self, key: str, value: str) -> None:
        if self._changed(key):
            raise ForeignWriteError(f"{self.path(key)} was written by a program that takes no lock")
        self._set(key, value, own=True)

    def _set(self, key: str, value: str, *, own: bool = False) -> None:
        path = self.path(key)
        beside = self.directory / f"{_beside(path.name)}{secrets.token_hex(8)}.tmp"
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(beside, flags, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)
                file.write(value.encode("utf-8", "surrogateescape"))
                file.flush()
                os.fsync(descriptor)
                stamp = _stamp(os.fstat(descriptor))
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        if own:  # before what may still fail: it is this owner's doing, whether it lasts or not
            self._stamps[key] = stamp
        sync_directory(self.directory)

    def _remove(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)
        sync_directory(self.directory)

    def _changed(self, key: str) -> bool:
        try:
            now = _stamp(self.path(key).lstat())
        except FileNotFoundError:
            now = None
        return now != self._stamps.get(key)

    def _acquire(self, key: str) -> None:
        lock = self._locks.setdefault(key, OwnerLock(self.directory / f"{file_name(key)}.lock"))
        note = lock.path.with_name(f"{lock.path.name}.owner")
        if not lock.acquire():
            owner = read_note(note)
            raise QueueLockedError(
                f"{key!r} in {self.directory} is owned by {owner or 'another process'}; close it there first "
                "(SQLiteCache lets several processes share one outbox)",
                owner,
            )
        for left in self.directory.glob(f"{_beside(file_name(key))}*.tmp"):
            left.unlink(missing_ok=True)  # a writer was killed before its rename
        note.unlink(missing_ok=True)
        descriptor = os.open(note, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(describe_owner())

    def _release(self, key: str) -> None:
        lock = self._locks.pop(key, None)
        if lock is not None and lock.held:
            lock.path.with_name(f"{lock.path.name}.owner").unlink(missing_ok=True)
            lock.release()


def _beside(name: str) -> str:
    """How the temporary files of one key's file begin: of no other's, and never too long for a file system."""
    return f".{hashlib.sha256(name.encode()).hexdigest()[:32]}."


def _stamp(info: os.stat_result) -> Stamp:
    return (info.st_ino, info.st_size, info.st_mtime_ns)
