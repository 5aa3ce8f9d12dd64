"""``python -m tests.bench.opening KIND PATH``: opens a queue in a process of its own; what that took, as JSON."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from pathlib import Path

from starfish_outbox import FileCache, OutboxQueue, SQLiteCache
from tests.bench.systems import KEY


async def main(kind: str, path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, begin = time.process_time(), time.perf_counter()
    cache = SQLiteCache(path) if kind == "SQLiteCache" else FileCache(path)
    queue: OutboxQueue[object] = OutboxQueue(cache)
    await queue.hydrate(KEY)
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    answer = {"wall": wall, "cpu": cpu, "entries": queue.counts().total, "kilobytes": grown}
    await queue.close()
    cache.close()
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
