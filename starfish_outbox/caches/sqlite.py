"""One SQLite file that several processes of a machine share: a change costs the same at any length."""

from __future__ import annotations

import os
from pathlib import Path

from starfish_outbox.caches.base import SET_ASIDE
from starfish_outbox.caches.database import Database


class SQLiteCache:
    """A ``LocalCache`` whose queues are stored entry by entry; ``get_item`` still answers the JSON array.

    The file is 0600 and made when first used; its directory must exist. Owners' lock files lie in ``<path>-owners``.

    Args:
        path: the database file.
        ledger: remember delivered ids for 90 days, so that enqueuing one again adds nothing. It holds for the file in
            this process as soon as one cache on it asks for it.
    """

    def __init__(self, path: str | os.PathLike[str], *, ledger: bool = False) -> None:
        self.path = Path(path).expanduser().absolute()
        self.database = Database.at(self.path)
        if ledger:
            self.database.ledger = True

    def __repr__(self) -> str:
        return f"SQLiteCache({str(self.path)!r})"

    async def get_item(self, key: str) -> str | None:
        """The JSON array under the key, or None when there never was one."""
        return await self.database.get_text(key)

    async def set_item(self, key: str, value: str) -> None:
        """Replace the key's text, which is taken apart when a queue opens it.

        Raises:
            QueueLockedError: a queue of this process, or another process, has the file open.
        """
        await self.database.set_text(key, value, alone=not SET_ASIDE.search(key))

    async def remove_item(self, key: str) -> None:
        """Forget the key and all its entries.

        Raises:
            QueueLockedError: a queue of this process, or another process, has the file open.
        """
        await self.database.set_text(key, None, alone=not SET_ASIDE.search(key))

    def close(self) -> None:
        """Close the connection of this process and give its claims up; using the file again opens it again."""
        self.database.close()
