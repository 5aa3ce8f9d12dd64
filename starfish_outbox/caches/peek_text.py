"""Looking at files without owning them: a directory of ``FileCache``, or one ``.json`` file of any name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from starfish_outbox.caches.base import CORRUPT, QUARANTINE
from starfish_outbox.caches.file import FileCache, file_name
from starfish_outbox.caches.owner import read_note
from starfish_outbox.caches.peek import CLAIMED, Claimed, Look, Sent, describe, read, sliced
from starfish_outbox.caches.probe import lock_is_held
from starfish_outbox.entry import SENDING, StoredEntry
from starfish_outbox.errors import CacheError


class TextPeek:
    """See ``Peek``: a directory of ``FileCache``, or of a Node program that names its files likewise; or one file.

    A single file may have any name; its key is read off the name as well as that goes.

    Raises:
        CacheError: there is nothing at this path.
    """

    durability = FileCache.durability

    def __init__(self, path: Path) -> None:
        if not path.is_file() and not path.is_dir():
            raise CacheError(f"there is no outbox at {path}")
        self.path = path.resolve()
        self.notes: list[str] = []
        self.kind: Literal["directory", "file"] = "directory" if self.path.is_dir() else "file"
        self._directory = self.path if self.kind == "directory" else self.path.parent

    def keys(self) -> list[str]:
        """See ``Peek``. A key so long that its name was shortened cannot be read off its file, and is left out."""
        if self.kind == "file":
            return [key_of_file(self.path)]
        found = (key_of(file) for file in self.path.glob("*.json") if file.is_file())
        return sorted(key for key in found if key is not None)

    def file(self, key: str) -> Path:
        """Where the key's text lies."""
        return self.path if self.kind == "file" else self.path / file_name(key)

    def has(self, key: str) -> bool:
        """See ``Peek``."""
        return key == key_of_file(self.path) if self.kind == "file" else self.file(key).is_file()

    def look(self, key: str) -> Look:
        """See ``Peek``."""
        return read(key, text_at(self.file(key)))

    def page(self, key: str, *, status: str | None, offset: int, limit: int | None) -> Look:
        """See ``Peek``."""
        return sliced(self.look(key), status, offset, limit)

    def find(self, key: str, id: str) -> list[StoredEntry]:
        """See ``Peek``."""
        return [entry for entry in self.look(key).entries if entry.id == id]

    def set_aside(self, key: str) -> list[str]:
        """See ``Peek``."""
        names = {file_name(key + QUARANTINE)}
        for file in self._directory.glob(f"*{CORRUPT}*"):
            names.add(file_name(f"{key}{CORRUPT}{file.name.rpartition('.')[2]}"))
        files = (self._directory / name for name in sorted(names))
        return [describe(file.name, text_at(file)) for file in files if file.is_file()]

    def owners(self, key: str) -> list[str]:
        """See ``Peek``."""
        lock = self._lock(key)
        return [read_note(lock.with_name(f"{lock.name}.owner")) or "another process"] if lock_is_held(lock) else []

    def claimed(self, key: str, entry: StoredEntry) -> Claimed:
        """See ``Peek``: a text does not say who claimed an entry, but only one process at a time can own the key."""
        return CLAIMED[lock_is_held(self._lock(key))] if entry.status == SENDING else ""

    def sent(self, key: str) -> list[Sent]:
        """See ``Peek``: files have no ledger."""
        return []

    def delivery(self, key: str, id: str) -> None:
        """See ``Peek``: files have no ledger."""

    def _lock(self, key: str) -> Path:
        return self._directory / f"{file_name(key)}.lock"


def key_of(file: Path) -> str | None:
    """The key that ``file_name`` gives this file's name, or None: it was shortened, or named by somebody else."""
    if file.suffix != ".json":
        return None
    try:
        key = unquote(file.stem, errors="surrogatepass")
    except UnicodeDecodeError:
        return None
    return key if key and file_name(key) == file.name else None


def key_of_file(file: Path) -> str:
    """The key of a file that is a queue of its own, whatever its name."""
    return key_of(file) or file.stem


def text_at(file: Path) -> str:
    """The text of a file; bytes that are no UTF-8 come as lone surrogates, as from ``FileCache``.

    Raises:
        CacheError: it cannot be read.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "rb") as opened:
            return opened.read().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise CacheError(f"{file} cannot be read: {error.strerror}") from error
