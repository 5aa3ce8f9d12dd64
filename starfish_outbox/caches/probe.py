"""Whether an owner lives, asked without taking its lock."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path
from typing import Final

from starfish_outbox.caches.owner import LOCK_BYTES, holds

# struct flock of fcntl(2): on Linux it begins with the type, on macOS with the start.
_FLOCK: Final = {"linux": "@hhqqi", "darwin": "@qqihh"}


def lock_is_held(lock: Path) -> bool | None:
    """Whether some process holds this owner's lock, asked without taking it; None where the system cannot say.

    ``fcntl`` names the lock that stands in the way of one that is never asked for (F_GETLK).
    """
    if holds(lock):  # closing it below would drop our own lock
        return True
    if sys.platform not in _FLOCK:
        return None
    import fcntl

    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        start, length = LOCK_BYTES
        layout = _FLOCK[sys.platform]
        linux = sys.platform == "linux"
        wanted = (fcntl.F_RDLCK, os.SEEK_SET)
        ask = (
            struct.pack(layout, *wanted, start, length, 0) if linux else struct.pack(layout, start, length, 0, *wanted)
        )
        answer = struct.unpack(layout, fcntl.fcntl(descriptor, fcntl.F_GETLK, ask))
    finally:
        os.close(descriptor)
    return bool(answer[0 if linux else 3] != fcntl.F_UNLCK)
