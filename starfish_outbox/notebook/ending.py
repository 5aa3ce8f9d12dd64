"""How a `BlockingOutbox` ends: closed, interrupted while it closes, dropped, or left open at the end of the program."""

from __future__ import annotations

import atexit
import contextlib
import threading
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from starfish_outbox.caches import FileCache, SQLiteCache
from starfish_outbox.drain import KeepDraining
from starfish_outbox.notebook.portal import Portal
from starfish_outbox.notebook.sending import Threads
from starfish_outbox.queue import OutboxQueue

if TYPE_CHECKING:
    from starfish_outbox.notebook.blocking import BlockingOutbox

LAST_SECONDS: Final = 5.0
"""How long the end of the program, or of an interrupted ``close``, waits for a send that does not let go."""

left_open: Final[WeakSet[BlockingOutbox]] = WeakSet()
"""What the end of the program closes, unless it was closed before."""


async def left(queue: OutboxQueue[Any], drainings: list[KeepDraining], portal: Portal) -> None:
    """Returns when every drain has come to its end: with the queue unbound it begins no other send."""
    await queue.close()
    for draining in list(drainings):
        await draining.__aexit__(None, None, None)
    await portal.others()


async def closed(
    queue: OutboxQueue[Any] | None,
    cache: SQLiteCache | FileCache | None,
    drainings: list[KeepDraining],
    threads: Threads,
) -> None:
    """The last thing that is done on the loop."""
    for draining in list(drainings):
        error = KeyboardInterrupt()
        await draining.__aexit__(type(error), error, None)
    if queue is not None:
        await queue.close()
    if cache is not None:
        cache.close()
    threads.end()


def end(
    portal: Portal,
    queue: OutboxQueue[Any],
    cache: SQLiteCache | FileCache | None,
    drainings: list[KeepDraining],
    threads: Threads,
) -> None:
    """Begin to end an outbox that was closed or dropped. Waits for nothing: the garbage collector may call."""
    if portal.forked:  # it is the parent's
        return
    with contextlib.suppress(RuntimeError):  # the loop is closed already
        portal.loop.call_soon_threadsafe(threads.abandon)
    portal.end(closed(queue, cache, drainings, threads))


def _close_all() -> None:
    """At the end of the program: what is under way is cut off and recorded."""
    for outbox in [one for one in left_open if not (one.portal.forked or one.portal.closed)]:
        outbox.abandon()
        outbox.portal.join(LAST_SECONDS)


# The hook that concurrent.futures has: atexit comes too late, when the threads of the stores have ended.
getattr(threading, "_register_atexit", atexit.register)(_close_all)
