"""The process in which one system is measured: ``python -I worker.py MODULE CLASS FOLDER``.

It is asked one line of JSON at a time and answers with one. Its interpreter may be that of ``.bench-venv``; the
checkout comes last in its path, so that the published package, where it is installed, is found before ours.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import math
import os
import platform
import resource
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.bench.adapters.base import (  # found only now
    ITEMS,
    Adapter,
    NotBuiltError,
    Pair,
    Remote,
    UnsupportedError,
)


class Server:
    """The operations by name; each answers what goes into the record.

    Seconds are per operation. ``cpu`` is that of the whole process, all threads.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.length = 0
        self._numbers = itertools.count()
        self._fits: dict[str, int] = {}

    async def hello(self) -> dict[str, Any]:
        package = self.adapter.package
        return {
            "version": version(package) if package else "",
            "runtime": f"Python {platform.python_version()}",
            "sqlite": sqlite3.sqlite_version,
        }

    async def open(self) -> dict[str, Any]:
        """What opening costs, and how much memory there is afterwards: in a process that did nothing else."""
        cpu, begin = time.process_time(), time.perf_counter()
        await self.adapter.open()
        wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
        answer = {"wall": wall, "cpu": cpu, **memory()}
        self.length = await self.adapter.count()
        return {**answer, "entries": self.length}

    async def fill(self, number: int) -> dict[str, Any]:
        if number:
            await self.adapter.fill(self._fresh(number))
        self.length = await self.adapter.count()
        return {"entries": self.length}

    async def lone(self, number: int, seconds: float, item: str = "small", *, mark: bool = False) -> dict[str, Any]:
        """One after the other, each timed; after so many seconds no other begins, but three are made."""
        walls: list[float] = []
        pairs = self._fresh(number, item)
        cpu, started = time.process_time(), time.perf_counter()
        for pair in pairs:
            begin = time.perf_counter()
            await self.adapter.enqueue(pair)
            end = time.perf_counter()
            walls.append(end - begin)
            if mark:
                note_mark()
            if end - started > seconds and len(walls) >= 3:
                break
        cpu = (time.process_time() - cpu) / len(walls)
        self.length += len(walls)
        return {"walls": walls, "cpu": cpu, "count": len(walls)}

    async def at_once(self, number: int, seconds: float | None = None) -> dict[str, Any]:
        """So many callers at once, or fewer where that takes long; without ``seconds`` so many in any case."""
        return await self._fitting("at once", number, seconds, partial(self._add, self.adapter.enqueue_at_once))

    async def many(self, number: int, seconds: float | None = None) -> dict[str, Any]:
        """The same in one call."""
        return await self._fitting("many", number, seconds, partial(self._add, self.adapter.enqueue_many))

    async def drain(
        self, number: int, concurrency: int, seconds: float | None = None, *, ids: bool = False
    ) -> dict[str, Any]:
        """The oldest, to a remote that takes everything at once."""
        sent: list[str] = []

        async def some(count: int) -> float:
            remote = Remote(count)
            begin = time.perf_counter()
            await self.adapter.drain(count, concurrency, remote)
            end = time.perf_counter()
            if len(remote.ids) != count:
                raise RuntimeError(f"{len(remote.ids)} entries were sent, {count} were to be")
            self.length -= count
            sent.extend(remote.ids)
            return remote.seconds(begin, end)

        number = min(number, self.length)
        answer = await self._fitting(f"drain {concurrency}", number, seconds, some, min(number, 4 * concurrency))
        return {**answer, "ids": sent} if ids else answer

    async def trim(self, number: int, seconds: float) -> dict[str, Any]:
        """Make the queue as long as that again, to a hundredth, as far as it goes in so many seconds."""
        concurrency = 64
        end = time.perf_counter() + seconds
        while self.length > number * 1.01 and time.perf_counter() < end:
            lot = min(self.length - number, self._fits.get("drain 1", 1))
            try:
                await self.drain(self.length - number if concurrency > 1 else lot, concurrency)
            except UnsupportedError:
                concurrency = 1
        return {"entries": self.length}

    async def again(self, number: int, seconds: float = math.inf) -> dict[str, Any]:
        """The id that came last, again and again."""
        (pair,) = self._fresh(1)
        await self.adapter.enqueue(pair)
        self.length += 1
        walls = []
        cpu = time.process_time()
        for _ in range(number):
            begin = time.perf_counter()
            await self.adapter.enqueue_again(pair)
            walls.append(time.perf_counter() - begin)
            if sum(walls) > seconds and len(walls) >= 3:
                break
        cpu = (time.process_time() - cpu) / len(walls)
        return {"walls": walls, "cpu": cpu, "count": len(walls)}

    async def late(self, seconds: float, number: int = 2_000) -> dict[str, Any]:
        """How late a timer of one millisecond is: while nothing else runs, and while entries are added."""
        idle = await self._lateness(seconds, number, busy=False)
        busy = await self._lateness(seconds, number, busy=True)
        return {"idle": idle, "walls": busy, "cpu": None, "count": len(busy)}

    async def count(self) -> dict[str, Any]:
        """What the system says, and what should be there."""
        return {"entries": await self.adapter.count(), "expected": self.length}

    async def read_all(self) -> dict[str, Any]:
        cpu, begin = time.process_time(), time.perf_counter()
        entries = await self.adapter.read_all()
        wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
        return {"wall": wall, "cpu": cpu, "entries": entries, **memory()}

    async def close(self) -> dict[str, Any]:
        await self.adapter.close()
        return {}

    async def _lateness(self, seconds: float, number: int, *, busy: bool) -> list[float]:
        late: list[float] = []
        end = time.perf_counter() + seconds
        longest = self.length + number

        async def tick() -> None:
            begin = time.perf_counter()
            while begin < end and self.length < longest:
                await asyncio.sleep(0.001)
                now = time.perf_counter()
                late.append(now - begin - 0.001)
                begin = now

        ticker = asyncio.create_task(tick())
        await asyncio.sleep(0)  # it has begun: also who blocks to the end makes it late
        while busy and time.perf_counter() < end and self.length < longest:
            (pair,) = self._fresh(1)
            await self.adapter.enqueue(pair)
            self.length += 1
            await asyncio.sleep(0)
        await ticker
        return late

    async def _add(self, add: Callable[[list[Pair]], Awaitable[None]], count: int) -> float:
        pairs = self._fresh(count)
        begin = time.perf_counter()
        await add(pairs)
        self.length += count
        return time.perf_counter() - begin

    async def _fitting(
        self, what: str, number: int, seconds: float | None, some: Callable[[int], Awaitable[float]], least: int = 1
    ) -> dict[str, Any]:
        """As many as fit into so many seconds, at most ``number``; found out once, from a thousandth of it upwards."""
        known = seconds is None or what in self._fits
        count = number if seconds is None else min(self._fits.get(what, max(least, number // 1_000)), number)
        while True:
            cpu = time.process_time()
            wall = await some(count)
            cpu = time.process_time() - cpu
            if seconds is None or known or count == number or wall > seconds / 3:
                break
            count = min(number, count * 10)
        if seconds is not None:
            self._fits.setdefault(what, count)
        return {"walls": [wall / count], "cpu": cpu / count, "count": count}

    def _fresh(self, number: int, item: str = "small") -> list[Pair]:
        """Ids that nobody used, in no order from which an index could profit; of this process, so that two differ."""
        start = os.getpid() << 40
        return [(f"{((start + k) * 0x9E3779B97F4A7C15) % 2**64:016x}", ITEMS[item]) for k in self._next(number)]

    def _next(self, number: int) -> list[int]:
        return list(itertools.islice(self._numbers, number))


_null = os.open(os.devnull, os.O_WRONLY)


def note_mark() -> None:
    """Tells a tracer, as ``tests.strace.Durability`` wants to hear it, that an operation was acknowledged."""
    os.writev(_null, [b'["done"]\n'])


def memory() -> dict[str, int | None]:
    """Resident now and at most, in KiB; now is known on Linux only."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    most = most // 1024 if sys.platform == "darwin" else most
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return {"resident_kib": None, "peak_kib": most}
    return {"resident_kib": pages * resource.getpagesize() // 1024, "peak_kib": most}


async def serve(adapter: Adapter) -> None:
    server = Server(adapter)
    for line in sys.stdin:
        order = json.loads(line)
        operation = getattr(server, order.pop("op"))
        try:
            answer = await operation(**order)
        except UnsupportedError as error:
            answer = {"unsupported": str(error)}
        except NotBuiltError as error:
            answer = {"not_built": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    made = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
    asyncio.run(serve(made(Path(sys.argv[3]))))
