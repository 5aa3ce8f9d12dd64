"""Ctrl-C where CPython looks for signals: where a function of the package begins, and where a C function returns to it.

``python -m tests.interrupt_sweep KIND WHAT LOOP FOLDER FIRST STEP`` strikes at such places of an enqueue or a drain,
from the first on in steps, one run each, and prints how many there were or what was wrong after which. A process of
its own: an interrupt in it may come out anywhere, and a hang must not hold up the tests.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import warnings
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import starfish_outbox
from starfish_outbox import LocalCache, OutboxQueue, drain_outbox
from tests.scenario import IDS, Stage, cache_of, states

PACKAGE = str(Path(starfish_outbox.__file__).parent)


class CtrlC:
    """Raises KeyboardInterrupt at the place of that number (the first is 1), as a signal that comes there does."""

    def __init__(self, place: int) -> None:
        self._left = place
        self.where = ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(PACKAGE):
            self._left -= 1
            if self._left == 0:
                file = frame.f_code.co_filename.removeprefix(PACKAGE + "/")
                self.where = f"{file}:{frame.f_lineno} {frame.f_code.co_name} {event}"
                raise KeyboardInterrupt


def strike(runner: asyncio.Runner, work: Coroutine[Any, Any, object], ctrl_c: CtrlC) -> None:
    sys.setprofile(ctrl_c)
    try:
        runner.run(work)
    except KeyboardInterrupt:
        assert ctrl_c.where, "somebody else's interrupt"
    finally:
        sys.setprofile(None)


def undisturbed(runner: asyncio.Runner, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it; a task of the loop that ended by the interrupt may raise it once or twice more."""
    for _ in range(2):
        try:
            return runner.run(work())
        except KeyboardInterrupt:
            continue
    return runner.run(work())


async def end_what_is_left() -> None:
    """As a kernel does after Ctrl-C; the loop lives on."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def check(stage: Stage, queue: OutboxQueue[Any], what: str) -> None:
    async with asyncio.timeout(5):
        await queue.refresh()
        if what == "drain":
            stage.nothing_is_lost(queue)
            await stage.deliver_the_rest(queue)
            return
        await queue.enqueue("new", 1)
        assert await stage.text() == states(queue), "memory and store differ"
        assert [id for id, _, _ in states(queue)] == [*IDS, "new"], "an entry is missing or double"
        await queue.close()


def run(cache: LocalCache, place: int, what: str, loop: str) -> str:
    """Where it struck, or nothing when the work was over before that."""
    stage, ctrl_c = Stage(cache, place), CtrlC(place)
    first, second = asyncio.Runner(), asyncio.Runner()
    queue = first.run(stage.open())
    strike(first, drain_outbox(queue, stage.remote.send) if what == "drain" else queue.enqueue("new", 1), ctrl_c)
    try:
        if loop == "lives":
            undisturbed(first, end_what_is_left)
            undisturbed(first, partial(check, stage, queue, what))
        else:
            try:
                first.close()
            except KeyboardInterrupt:  # of a task that was cancelled by the closing and ended by it
                first.close()
            undisturbed(second, partial(check, stage, queue, what))
    except (AssertionError, TimeoutError) as error:
        sys.stdout.write(f"{ctrl_c.where}: {type(error).__name__} {error}\n")
        raise SystemExit(1) from error  # the cache may be blocked: what follows would say nothing
    finally:
        second.close()
    return ctrl_c.where


def main(kind: str, what: str, loop: str, folder: str, first: str, step: str) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    cache, places = cache_of(kind, Path(folder)), 0
    for place in range(int(first), 10_000, int(step)):
        if not run(cache, place, what, loop):
            break
        places += 1
    sys.stdout.write(f"struck at {places} places\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
