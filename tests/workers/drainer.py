"""One of several processes that drain one database into one file."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any, NamedTuple

from starfish_outbox import OutboxEntry, SQLiteCache, drain_outbox
from starfish_outbox.drain import DrainProgress
from tests.workers.stores import open_queue
from tests.workers.zygote import Wire

LINE_LENGTH = 48


class Record(NamedTuple):
    """One line of the sink: what a worker did with an entry, and when on the clock that all processes share."""

    at_ns: int
    worker: int
    what: str  # start, end: of a send; settled: the removal is acknowledged
    id: str

    def line(self) -> bytes:
        """Of one length, so that the size of the file says how far they are."""
        return f"{self.at_ns:020} {self.worker:06} {self.what:<8} {self.id:>10}\n".encode()

    @classmethod
    def read(cls, line: str) -> Record:
        at_ns, worker, what, id = line.split()
        return cls(int(at_ns), int(worker), what, id)


def run(wire: Wire, where: str, sink: str, worker: int, blind: bool) -> None:
    """A worker: drains until nothing is left; ``blind`` takes every other owner for dead, which must be found out."""
    descriptor = os.open(sink, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(what: str, id: str) -> None:
        os.write(descriptor, Record(time.monotonic_ns(), worker, what, id).line())

    async def send(entry: OutboxEntry[Any]) -> None:
        note("start", entry.id)
        await asyncio.sleep(0)
        note("end", entry.id)

    def settled(progress: DrainProgress) -> None:
        note("settled", progress.id)

    async def main() -> None:
        queue = await open_queue("sqlite", where)
        if blind:
            owners = SQLiteCache(f"{where}/outbox.db").database._owners
            vars(owners)["alive"] = lambda _: False
        wire.say("open")
        while queue.counts().total:
            result = await drain_outbox(queue, send, on_progress=settled)
            if not result.sent:
                await asyncio.sleep(0.01)  # what is left is claimed by the others
        wire.say("finished")

    asyncio.run(main())
