"""A short workload, always the same, that a tracer kills or fails at each of its system calls."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

from starfish_outbox import CacheError, CacheWriteError, OutboxQueue
from tests.workers.stores import as_seen, open_queue
from tests.workers.workload import Work
from tests.workers.zygote import Wire

_PR_SET_PTRACER = 0x59616D61  # linux/prctl.h


def run(wire: Wire, kind: str, where: str) -> None:
    """A worker: waits for its tracer, opens the queue and does the script; where a call fails, again when told."""
    _let_any_process_trace()
    wire.say("ready")
    wire.hear()
    asyncio.run(_main(wire, kind, where))


def open_only(wire: Wire, kind: str, where: str) -> None:
    """A worker: waits for its tracer, opens the queue, says what it found."""
    _let_any_process_trace()
    wire.say("ready")
    wire.hear()
    queue = asyncio.run(open_queue(kind, where))
    wire.say("opened", as_seen(queue), list(queue.status().set_aside))


async def _main(wire: Wire, kind: str, where: str) -> None:
    queue = await _until_it_works(wire, None, "hydrate", lambda: open_queue(kind, where))
    wire.say("opened", as_seen(queue), list(queue.status().set_aside), [])
    work = _Stubborn(wire, queue, Random(1))
    await work.enqueue(1)
    await work.enqueue(1)
    await work.enqueue(5)
    a, b, c, d, e, *_ = (entry.id for entry in queue.get())
    for name, id in [
        ("claim", a),
        ("record_failure", a),
        ("remove", b),
        ("mark_failed", c),
        ("retry", c),
        ("again", d),
    ]:
        await work.change(id, name)
    await work.change(e, "claim")  # first: a pass that fails and is tried again may send more than its two
    await work.drain(2)
    await work.drain(None)
    await work.enqueue(2)
    await work.change(e, "mark_failed")
    wire.say("end", as_seen(queue))


class _Stubborn(Work):
    failing = 0.0

    async def acknowledge(self, name: str, ids: list[str], call: Callable[[], Awaitable[object]]) -> None:
        self._wire.say("begin", name, ids)
        self._wire.say("done", name, ids, await _until_it_works(self._wire, self._queue, name, call))


async def _until_it_works(
    wire: Wire, queue: OutboxQueue[Any] | None, name: str, call: Callable[[], Awaitable[Any]]
) -> Any:
    """The answer of the call; each failure is reported, with whether memory is as before, until it is told to go on."""
    while True:
        before = as_seen(queue) if queue else []
        try:
            return await call()
        except CacheError as error:
            unchanged = before == (as_seen(queue) if queue else [])
            wire.say("failed", name, isinstance(error, CacheWriteError), unchanged, str(error))
        wire.hear()


def _let_any_process_trace() -> None:
    """Yama, where it is on, allows parents alone to trace; the tracer here is a sibling."""
    if Path("/proc/sys/kernel/yama/ptrace_scope").exists():
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
