"""What drains for a panel: one pass, or pass after pass; paused, resumed and stopped by hand. All on the queue's loop.

1. By hand is one pass over what is queued, tried now, whatever failed before. To keep draining is `keep_draining`.
2. Pause lets the sends that are under way end and starts no other; a pass that was paused goes on where it was.
3. Other limits hold from the next pass on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from starfish_outbox.binding import Binding
from starfish_outbox.caches.base import log as logger
from starfish_outbox.drain import DrainProgress, DrainResult, DrainState, KeepDraining, keep_draining
from starfish_outbox.drain.options import DrainOptions
from starfish_outbox.drain.pace import Pace
from starfish_outbox.drain.passes import one_pass
from starfish_outbox.notebook.board import Board
from starfish_outbox.notebook.meter import Meter, Progress
from starfish_outbox.notebook.timeline import Timeline
from starfish_outbox.notebook.weather import Weather
from starfish_outbox.outcomes import describe
from starfish_outbox.queue import OutboxQueue
from starfish_outbox.showing import counted

_ONLY_KEEPING: Final = ("interval", "probe", "adaptive")
_ONLY_A_PASS: Final = ("limit",)
_WHY: Final = {
    "offline": "Nobody was reached",
    "unacked": "No answers came back",
    "busy": "The server asked to wait",
    "auth": "The credentials are refused",
    "switched": "The queue is bound to another identity, or to none",
    "limit": "As many were sent as were asked for",
}


class Drainer:
    """Drains a queue, and writes on a board what it does.

    Args:
        queue: a hydrated queue.
        weather: what it sends with.
        timeline: is told of every entry that was settled.
        board: where the limits stand, and where it is told.
        options: of `drain_outbox` and `keep_draining`.

    Raises:
        ValueError, TypeError: an option is unfit.
    """

    def __init__(
        self,
        queue: OutboxQueue[Any],
        weather: Weather,
        timeline: Timeline,
        board: Board,
        options: Mapping[str, Any],
    ) -> None:
        self._queue, self._weather, self._timeline, self._board = queue, weather, timeline, board
        self._options = dict(options)
        self._heard: Callable[[DrainProgress], object] | None = self._options.pop("on_progress", None)
        self._pass_options()  # all are checked now, and not at the first click
        _ = self._made_keeping()
        self._binding: Binding | None = None
        self._meter: Meter | None = None
        self._runner: asyncio.Task[None] | None = None
        self._keeping: KeepDraining | None = None
        self._paused = self._stopping = self._anew = False
        self._resumed = asyncio.Event()

    def progress(self, now: float) -> Progress | None:
        """Where the pass under way, or the last one, stands, at this moment of the loop's clock."""
        return None if self._meter is None else self._meter.at(now)

    def start(self) -> None:
        """Begin, or go on after a pause; nothing happens where it runs."""
        if self._paused:
            self.resume()
        elif self._runner is None:
            self._stopping = False
            self._board.change(running=True)
            self._runner = asyncio.create_task(self._run())

    def pause(self) -> None:
        """Start no other send until it is resumed."""
        if self._runner is None or self._paused:
            return
        self._paused = True
        self._resumed.clear()
        if self._keeping is not None:
            self._keeping.pause("paused by hand")
        if self._board.state.mode == "draining":
            self._board.change(mode="pausing", reason="what is under way is recorded")

    def resume(self) -> None:
        """Go on after a pause."""
        self._paused = False
        self._resumed.set()
        if self._keeping is not None:
            self._keeping.resume()

    async def stop(self) -> None:
        """Start no other send; returns when those under way are recorded."""
        self._stopping, self._anew = True, False
        self._board.change(keeps=False)
        runner = self._runner
        if runner is not None:
            self._board.change(mode="stopping", reason="what is under way is recorded")
            self._resumed.set()
            if self._keeping is not None:
                self._keeping.stop()
            await asyncio.wait([runner])

    def keep(self, on: bool) -> None:
        """Drain again by itself from now on, or end after this pass."""
        self._board.change(keeps=on)
        if on:
            self.start()
        elif self._keeping is not None:
            self._anew = False
            self._keeping.stop()

    def wake(self) -> None:
        """Try now, if it waits."""
        if self._keeping is not None:
            self._keeping.wake()

    def limit(self, max_attempts: int, concurrency: int) -> None:
        """Other limits, from the next pass on.

        Raises:
            ValueError, TypeError: one is unfit; nothing changes.
        """
        before = self._board.state
        self._board.state = replace(before, max_attempts=max_attempts, concurrency=concurrency)
        try:
            self._pass_options()
        except (ValueError, TypeError):
            self._board.state = before
            raise
        finally:
            self._board.touch()
        if self._keeping is not None and self._board.state != before and not self._stopping:
            self._anew = True
            self._keeping.stop()

    async def _run(self) -> None:
        board = self._board
        try:
            self._binding = await self._queue.bound_or_none()
            goes_on = True
            while goes_on:
                self._anew = False
                keeps = board.state.keeps
                if keeps:
                    await self._keep_on()
                    goes_on = self._anew
                else:
                    await self._pass()
                    goes_on = board.state.keeps and not self._is_stopping()
        except Exception as error:  # noqa: BLE001  # a lane or rule of the caller is broken, or the store is
            logger.exception("the drain of a panel ended")
            board.fail(f"The drain ended: {words_of(error)}")
        finally:
            self._runner = None
            self._paused = False
            reason = board.state.reason if board.state.mode in ("draining", "offline", "waiting") else ""
            board.change(mode="idle", running=False, keeps=False, reason=reason, until_ms=None)
            board.flush()

    async def _pass(self) -> None:
        """What is queued, once; after a pause what is left of it."""
        queued = self._queue.counts().queued
        meter = self._meter = Meter(queued)
        self._board.change(error="")
        self._board.say(f"Draining {counted(queued, 'entry', 'entries')}.")
        options = self._pass_options()
        pace = Pace(options.concurrency, options.rate, adaptive=False)
        while True:
            meter.begin(asyncio.get_running_loop().time())
            self._board.change(mode="draining", reason="")
            result = await one_pass(self._queue, options, pace, halt=lambda: self._paused or self._stopping)
            if not await self._was_paused(result):
                break
        self._ended(result)
        self._board.change(reason=_WHY.get(result.stopped, ""))

    async def _was_paused(self, result: DrainResult) -> bool:
        """Whether the pass ended for a pause that is over now, so that it is to go on."""
        if not self._paused or result.stopped != "asked" or self._is_stopping():
            return False
        self._hold("paused by hand")
        await self._resumed.wait()
        return not self._is_stopping()

    def _is_stopping(self) -> bool:
        return self._stopping

    async def _keep_on(self) -> None:
        """Until it is stopped, or told other limits."""
        self._keeping = keeping = self._made_keeping()
        keeping.subscribe(self._hears)
        try:
            await keeping
        finally:
            self._keeping = None

    def _hears(self, state: DrainState) -> None:
        if state.name == "ended":
            return
        if state.name == "draining":
            if queued := self._queue.counts().queued:  # else it looks whether there is something: no pass to show
                self._meter = Meter(queued)
                self._meter.begin(asyncio.get_running_loop().time())
            self._board.change(mode="draining", reason="", until_ms=None)
            return
        if state.result is not None and state.result.done:
            self._ended(state.result)
        if state.name == "paused":
            self._paused = True  # by hand, or because credentials are refused
            self._hold(state.reason)
        else:
            self._board.change(mode=state.name, reason=state.reason, until_ms=state.until_ms)

    def _hold(self, reason: str) -> None:
        self._timeline.mark("paused")
        self._board.say(f"Paused: {reason}.")
        self._board.change(mode="paused", reason=reason, until_ms=None)

    def _ended(self, result: DrainResult) -> None:
        left = f"{result.left:,} left" if result.left else "nothing is left"
        parked = f", {result.failed:,} parked" if result.failed else ""
        why = f": {result.reason}" if result.reason else ""
        self._board.say(f"Pass ended ({result.stopped}): {result.sent:,} sent{parked}, {left}{why}.")
        self._timeline.look()
        if result.stopped in ("offline", "unacked", "busy", "auth"):
            self._board.change(error=f"{_WHY[result.stopped]}: {result.reason}")

    def _progressed(self, progress: DrainProgress) -> None:
        board = self._board
        if self._meter is not None:
            self._meter.step(progress, asyncio.get_running_loop().time())
        self._timeline(progress)
        if progress.outcome == "sent":
            board.change(sent=board.state.sent + 1)
        elif progress.outcome == "failed":
            board.change(parked=board.state.parked + 1)
            board.fail(f"{progress.id!r} was parked{self._why(progress.id)}")
        else:
            board.change(retried=board.state.retried + 1)
        if self._heard is not None:
            self._heard(progress)

    def _why(self, id: str) -> str:
        entry = None if self._binding is None else self._binding.state.first(id)
        error = None if entry is None else entry.last_error
        return "" if error is None else f": {error.type}: {error.message}"

    def _told(self, besides: tuple[str, ...]) -> dict[str, Any]:
        state = self._board.state
        told = {name: value for name, value in self._options.items() if name not in besides}
        limits = {"max_attempts": state.max_attempts, "concurrency": state.concurrency}
        return {**told, **limits, "on_progress": self._progressed}

    def _pass_options(self) -> DrainOptions:
        return DrainOptions(self._weather, **self._told(_ONLY_KEEPING))

    def _made_keeping(self) -> KeepDraining:
        return keep_draining(self._queue, self._weather, **self._told(_ONLY_A_PASS))


def words_of(error: BaseException) -> str:
    """The class of an error and what it says."""
    return ": ".join(filter(None, describe(error)))
