"""A process of its own with an outbox: ``python -m tests.outbox_child STORE PATH WHAT ARGUMENT``.

It answers on standard output, one line at a time; what the tests do with it (kill it, interrupt it) is their business.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from starfish_outbox import FileCache, LocalCache, OutboxEntry, OutboxQueue, QueueLockedError, SQLiteCache, drain_outbox
from tests.conftest import KEY


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def cache_of(store: str, path: Path) -> LocalCache:
    return FileCache(path) if store == "file" else SQLiteCache(path)


async def enqueue_and_die(queue: OutboxQueue[Any], argument: str) -> None:
    """One acknowledged entry, then the end without any tidying up."""
    await queue.enqueue(argument, {"from": os.getpid()})
    say(f"stored {argument}")
    os._exit(0)


async def fill(queue: OutboxQueue[Any], argument: str) -> None:
    """Entries ``<prefix>0 …`` one after the other, each said when it is acknowledged."""
    prefix, number, size = argument.split(",")
    for n in range(int(number)):
        await queue.enqueue(f"{prefix}{n}", "x" * int(size))
        say(f"{prefix}{n}")


async def drain(queue: OutboxQueue[Any], argument: str) -> None:
    """One pass whose remote is a file: a line for each delivery, with whether the entry says that it may be sent."""
    log = Path(argument)
    say("draining")

    async def send(entry: OutboxEntry[Any]) -> None:
        await asyncio.sleep(0.001)
        deliver(log, entry)
        await asyncio.sleep(0.001)

    result = await drain_outbox(queue, send)
    say(f"sent {result.sent} left {result.left}")


async def drain_plainly(queue: OutboxQueue[Any], argument: str) -> None:
    """The same with a plain function as send."""
    log = Path(argument)
    say("draining")
    result = await drain_outbox(queue, lambda entry: deliver(log, entry))
    say(f"sent {result.sent} left {result.left}")


def deliver(log: Path, entry: OutboxEntry[Any]) -> None:
    with log.open("a", encoding="utf-8") as remote:
        remote.write(f"{entry.id} {'maybe' if entry.maybe_sent_ms is not None else 'first'}\n")


WORK: Final[dict[str, Callable[[OutboxQueue[Any], str], Any]]] = {
    "enqueue_and_die": enqueue_and_die,
    "fill": fill,
    "drain": drain,
    "drain_plainly": drain_plainly,
}


async def main(store: str, path: str, what: str, argument: str) -> None:
    queue = OutboxQueue[Any](cache_of(store, Path(path)))
    try:
        await queue.hydrate(KEY)
    except QueueLockedError as error:
        say(f"locked by {error.owner}")
        return
    await WORK[what](queue, argument)
    await queue.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
