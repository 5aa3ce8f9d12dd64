"""What careless callers do, for drivers of queues with the published Python interface (capability ``careless``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Listeners:
    """What `subscribe` requests ask for: listeners by name that note that they were called, and may misbehave."""

    def __init__(self, queue: Any = None) -> None:
        self.heard: list[str] = []
        self._queue = queue
        self._listeners: dict[str, Callable[[], None]] = {}
        self._ends: dict[str, list[Callable[[], object]]] = {}

    def subscribe(self, name: str, does: Any) -> None:
        """The listener of that name once more, or a new one."""

        def listener() -> None:
            self.heard.append(name)
            if does == "raise":
                raise RuntimeError("the listener failed, as it was told to")
            if does == "clear":
                self._queue.clear()
            elif does and "subscribe" in does and does["subscribe"] not in self._listeners:
                self.subscribe(does["subscribe"], None)
            elif does and "unsubscribe" in does:
                self.unsubscribe(does["unsubscribe"])

        known = self._listeners.setdefault(name, listener)
        self._ends.setdefault(name, []).append(self._queue.subscribe(known))

    def unsubscribe(self, name: str) -> None:
        """End the oldest subscription of that name, if there is one."""
        if self._ends.get(name):
            self._ends[name].pop(0)()


def meddle_with(entry: Any) -> None:
    """Change an entry in place, as a caller might."""
    entry.status, entry.attempts = "failed", 99
    if isinstance(entry.item, dict):
        entry.item["meddled"] = True
