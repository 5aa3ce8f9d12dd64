"""``keep_draining``: pass after pass, for as long as it is awaited or entered.

1. A pass begins when something was enqueued, when it is woken, and every ``interval`` (jittered: other processes
   enqueue too, and their changes are seen only then).
2. While nobody answers, one call tries (``probe``, or the send of a single entry), with exponential back-off; likewise
   after silence, and when the storage fails. What is enqueued meanwhile does not shorten that wait; ``wake`` does.
   Silence about one entry in a pass that got others through is no such absence: there an enqueue does.
3. A server that asks to wait is left alone for at least so long.
4. Refused credentials pause it until ``resume``: trying on would lock somebody's account.
5. Waits are held against the wall clock and looked at every few seconds: a laptop that slept goes on when it wakes, and
   a clock that is put back delays nothing by more than the wait itself.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, replace
from math import ceil
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

from starfish_outbox.backoff import Backoff
from starfish_outbox.binding import Binding
from starfish_outbox.caches.base import log
from starfish_outbox.drain.options import DrainOptions
from starfish_outbox.drain.pace import Pace
from starfish_outbox.drain.passes import one_pass
from starfish_outbox.drain.results import DrainResult
from starfish_outbox.drawing import Drawn
from starfish_outbox.errors import CacheError
from starfish_outbox.knowing import moment
from starfish_outbox.outcomes import describe
from starfish_outbox.queue import OutboxQueue

_LOOK_EVERY: Final = 5.0  # seconds after which a wait looks at the wall clock again

StateName: TypeAlias = Literal["idle", "draining", "offline", "waiting", "paused", "ended"]
Probe: TypeAlias = Callable[[], Awaitable[object] | object]


@dataclass(frozen=True)
class DrainState:
    """What a `KeepDraining` is doing.

    Attributes:
        name: ``idle`` (nothing to send), ``draining``, ``offline``, ``waiting`` (for an entry that is not due, a busy
            server, an answer, or the storage), ``paused``, or ``ended``.
        reason: why, in words.
        until_ms: when it goes on by itself (milliseconds since the Unix epoch), or None.
        result: what the last pass did, or None before the first.
    """

    name: StateName
    reason: str = ""
    until_ms: int | None = None
    result: DrainResult | None = None

    def __str__(self) -> str:
        """In a line, such as ``offline until 2026-11-25 09:00:00 UTC: nobody was reached``."""
        until = "" if self.until_ms is None else f" until {moment(self.until_ms)}"
        return f"{self.name}{until}{f': {self.reason}' if self.reason else ''}"


class KeepDraining(Drawn):
    """What `keep_draining` returns: await it, or enter it with ``async with`` to have it run beside the body.

    Leaving the body lets sends that are under way end, and records them; an error or a cancellation in the body cuts
    them off (they are queued again as ``maybe_sent``).

    Attributes:
        state: what it is doing.
        sent: entries that all its passes sent.
        failed: entries that they parked.
    """

    def __init__(
        self, queue: OutboxQueue[Any], options: DrainOptions, backoff: Backoff, interval: float, probe: Probe | None
    ) -> None:
        self._queue = queue
        self._options = replace(options, backoff=backoff)
        self._backoff = backoff
        self._interval = interval
        self._probe = probe
        self._pace = Pace(options.concurrency, options.rate, adaptive=options.adaptive)
        self._listeners: dict[object, Callable[[DrainState], object]] = {}
        self._binding: Binding | None = None
        self._running = False
        self._event = asyncio.Event()
        self._changed = self._woken = self._resumed = self._stopping = False
        self._paused: str | None = None
        self._streak = 0
        self._task: asyncio.Task[None] | None = None
        self.state = DrainState("idle")
        self.sent = 0
        self.failed = 0

    def __repr__(self) -> str:
        return f"<keep_draining: {self.state.name}, {self.sent} sent, {self.failed} failed>"

    def __await__(self) -> Generator[Any, None, None]:
        return self._alone().__await__()

    async def __aenter__(self) -> Self:
        binding = await self._queue.bound_or_none()
        self._begin()
        self._stopping = False
        self._task = asyncio.get_running_loop().create_task(self._run(binding))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        if error is None:
            self.stop()
        else:
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            if error is None:
                task.cancel()
                await asyncio.wait([task])
                raise
        finally:
            self._running = False  # also where it was cancelled before its first step

    def wake(self) -> None:
        """Try now, whatever it waits for: the network is back, say. Wakes nothing that is paused."""
        self._woken = True
        self._event.set()

    def pause(self, reason: str = "paused by the caller") -> None:
        """Start no other send until ``resume``; those under way go on to their end."""
        self._paused = reason
        self._event.set()

    def resume(self) -> None:
        """Go on after a pause, at once; said during a pass, its end pauses nothing."""
        self._paused, self._resumed = None, True
        self.wake()

    def stop(self) -> None:
        """Start no other send, and end: what is awaited returns once the sends under way are recorded."""
        self._stopping = True
        self._event.set()

    def subscribe(self, listener: Callable[[DrainState], object]) -> Callable[[], None]:
        """Call this plain function with every new state; the answer ends the subscription.

        Raises:
            TypeError: it is not callable, or is a coroutine function, which nobody would await.
        """
        if not callable(listener) or inspect.iscoroutinefunction(listener):
            raise TypeError("a listener is a plain function that takes a state")
        subscription = object()
        self._listeners[subscription] = listener
        return lambda: self._listeners.pop(subscription, None) and None

    def _begin(self) -> None:
        if self._running:
            raise RuntimeError("this is draining already; another one needs a keep_draining of its own")
        self._running = True

    async def _alone(self) -> None:
        self._begin()
        try:
            binding = await self._queue.bound_or_none()
        except BaseException:
            self._running = False
            raise
        await self._run(binding)

    async def _run(self, binding: Binding | None) -> None:
        """Passes over the entries of the identity with which it began, and of no other."""
        self._event, self._binding = asyncio.Event(), binding
        unsubscribe = self._queue.subscribe(self._queue_changed)
        reason = ""
        try:
            while not self._stopping and await self._once():
                pass
            reason = self.state.reason
        except BaseException as error:
            reason = _words(error)
            raise
        finally:
            unsubscribe()
            self._running = False
            self._tell(DrainState("ended", reason, result=self.state.result))

    async def _once(self) -> bool:
        """One pass and the wait after it; False: the identity is gone, nothing is left to do."""
        if self._binding is None or self._binding.detached:
            self.state = replace(self.state, reason="the queue is not bound (any more) to the identity it was about")
            return False
        if self._paused is not None:
            await self._wait("paused", self._paused, None)
            return True
        self._woken = self._changed = self._resumed = False
        if self._streak and self.state.name == "offline" and not await self._reached():
            return True
        self._tell(DrainState("draining", result=self.state.result))
        try:
            result = await one_pass(self._queue, self._options, self._pace, only=self._binding, halt=self._halted)
        except CacheError as error:
            log.error("draining goes on after a failure of the storage: %s", error)
            await self._wait_longer("waiting", str(error))
            return True
        self.sent += result.sent
        self.failed += result.failed
        self.state = replace(self.state, result=result)
        return await self._after(result)

    async def _after(self, result: DrainResult) -> bool:
        """Waits for what the end of a pass asks for."""
        if result.sent:
            self._streak = 0
        match result.stopped:
            case "switched":
                self.state = replace(self.state, reason=result.reason)
                return False
            case "asked":
                pass
            case "auth" if self._resumed:  # the credentials were renewed meanwhile
                pass
            case "auth":
                self._paused = result.reason
            case "offline":
                await self._wait_longer("offline", result.reason)
            case "busy" if not result.done and result.retry_after:  # what it said before holds; no jitter on top of it
                until_ms = self._queue.now_ms() + ceil(1000 * result.retry_after)
                await self._wait("waiting", result.reason, until_ms)
            case "unacked":  # where others got through, somebody is there for what comes
                await self._wait_longer("waiting", result.reason, for_changes=result.sent > 0)
            case "busy":
                await self._wait_longer("waiting", result.reason, result.retry_after)
            case _:
                self._streak = 0
                if not (result.left and result.done):
                    await self._wait_for_work(result)
        return True

    async def _reached(self) -> bool:
        """Whether the network is there, as far as the caller's probe can tell."""
        if self._probe is None:
            return True
        reason = "the probe says so"
        try:
            async with asyncio.timeout(self._options.timeout):
                answer = self._probe()
                reached = (await answer if inspect.isawaitable(answer) else answer) is not False
        except Exception as error:  # noqa: BLE001  # whatever a probe raises: nobody was reached
            reached, reason = False, _words(error)
        if not reached:
            await self._wait_longer("offline", reason)
        return reached

    async def _wait_for_work(self, result: DrainResult) -> None:
        now = self._queue.now_ms()
        until = now + round(1000 * self._interval * (0.5 + self._options.dice() / 2))
        if result.next_attempt_ms is not None and result.next_attempt_ms < until:
            await self._wait("waiting", "until the next entry is due", result.next_attempt_ms, for_changes=True)
        else:
            name: StateName = "waiting" if result.left else "idle"
            await self._wait(name, result.reason if result.left else "", until, for_changes=True)

    async def _wait_longer(
        self, name: StateName, reason: str, retry_after: float | None = None, *, for_changes: bool = False
    ) -> None:
        self._streak += 1
        seconds = self._backoff.delay(self._streak, self._options.dice(), retry_after)
        await self._wait(name, reason, self._queue.now_ms() + ceil(1000 * seconds), for_changes=for_changes)

    async def _wait(self, name: StateName, reason: str, until_ms: int | None, *, for_changes: bool = False) -> None:
        """Returns at that instant, when it is woken, paused, resumed or stopped, or when the queue changes."""
        paused, began = self._paused, self._queue.now_ms()
        self._tell(DrainState(name, reason, until_ms, self.state.result))
        while not (self._stopping or self._paused != paused or (self._woken and paused is None)):
            if (for_changes and self._changed) or self._binding is None or self._binding.detached:
                return
            rest = _LOOK_EVERY
            now = self._queue.now_ms()
            if until_ms is not None:
                rest = (until_ms - now) / 1000
                if rest <= 0 or now < began:  # it is time, or the clock was put back
                    return
            self._event.clear()
            try:
                async with asyncio.timeout(min(rest, _LOOK_EVERY)):
                    await self._event.wait()
            except TimeoutError:
                pass

    def _halted(self) -> bool:
        return self._stopping or self._paused is not None

    def _queue_changed(self) -> None:
        if self.state.name != "draining":  # what a pass changes itself is no news
            self._changed = True
            self._event.set()

    def _tell(self, state: DrainState) -> None:
        self.state = state
        for listener in list(self._listeners.values()):
            try:
                listener(state)
            except Exception:  # noqa: BLE001  # a listener must not stop the work
                log.exception("a listener of keep_draining failed")


def _words(error: BaseException) -> str:
    return ": ".join(filter(None, describe(error)))
