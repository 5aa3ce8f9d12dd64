"""How often a picture is drawn of something that changes faster than anybody looks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

UPDATES_PER_SECOND: Final = 8.0
"""Enough to look alive. A Jupyter server drops messages past 1,000 a second, the last ones too."""


class Throttle:
    """Calls a function at most so often: at once after the first change, and always once more after the last.

    Args:
        flush: draws what is true when it is called.
        per_second: calls a second at most.
    """

    def __init__(self, flush: Callable[[], object], per_second: float = UPDATES_PER_SECOND) -> None:
        self._flush = flush
        self._pause = 1 / per_second
        self._handle: asyncio.Handle | None = None
        self._changed = False

    def touch(self) -> None:
        """Something changed. On the event loop; costs next to nothing."""
        self._changed = True
        if self._handle is None:  # what changes in the same step of the loop is drawn together
            self._handle = asyncio.get_running_loop().call_soon(self._draw)

    def end(self) -> None:
        """Draw what was not drawn yet, now."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._changed:
            self._changed = False
            self._flush()

    def _draw(self) -> None:
        self._changed = False
        self._handle = asyncio.get_running_loop().call_later(self._pause, self._rested)
        self._flush()

    def _rested(self) -> None:
        self._handle = None
        if self._changed:
            self._draw()
