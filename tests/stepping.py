"""An event loop that runs one callback at a time, so that a test can strike between any two of them.

A *step* is one callback of the loop: one stretch of a task between two awaits, or one future told that it is done.
What a store's own thread answers comes in as steps too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

T = TypeVar("T")


class SteppingLoop(asyncio.SelectorEventLoop):
    """Counts steps from ``strike`` on, and calls what was asked for before the step of that number.

    What a strike raises comes out of ``run_forever``, as Ctrl-C between two callbacks does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self._strikes: dict[int, Callable[[], object]] = {}

    def strike(self, strikes: dict[int, Callable[[], object]]) -> None:
        """Count from here; call each function before its step (the first is 1). An empty dict ends it."""
        self.step, self._strikes = 0, dict(strikes)

    def _run_once(self) -> None:
        # What is ready beyond the first callback waits outside for one round. Another thread may append meanwhile, so
        # the deque is only ever touched by operations that are atomic.
        ready = cast("deque[asyncio.Handle]", self._ready)  # type: ignore[attr-defined]  # of BaseEventLoop
        held: list[asyncio.Handle] = []
        while len(ready) > 1:
            held.append(ready.pop())
        self.step += 1
        strike = self._strikes.pop(self.step, None)
        try:
            if strike is not None:
                strike()
            super()._run_once()  # type: ignore[misc]  # of BaseEventLoop
        finally:
            fresh = []
            while ready:
                fresh.append(ready.popleft())
            ready.extendleft(reversed([*reversed(held), *fresh]))


def stepping(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` on a stepping loop; the coroutine finds it with ``the_loop``."""
    with asyncio.Runner(loop_factory=SteppingLoop) as runner:
        return runner.run(main)


def the_loop() -> SteppingLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SteppingLoop)
    return loop
