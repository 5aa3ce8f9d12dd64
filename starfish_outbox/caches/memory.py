"""A cache in memory: for tests and teaching. Nothing survives the process."""

from __future__ import annotations


class MemoryCache:
    """Strings by key in a dict; the simplest ``LocalCache``."""

    durability = "memory only: gone with the process"

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"MemoryCache({len(self._texts)} keys)"

    async def get_item(self, key: str) -> str | None:
        """The text under the key, or None."""
        return self._texts.get(key)

    async def set_item(self, key: str, value: str) -> None:
        """Store the text."""
        self._texts[key] = value

    async def remove_item(self, key: str) -> None:
        """Forget the key."""
        self._texts.pop(key, None)
