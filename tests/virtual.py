"""An event loop whose order is drawn by a seed and whose clock jumps, and a thread and two caches that live in it.

Nothing here waits: a schedule that takes minutes of virtual time runs in milliseconds, and the same seed gives the same
schedule on every Python.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import Context
from functools import partial
from itertools import count
from random import Random
from typing import Any, ParamSpec, Protocol, TypeVar, TypeVarTuple

from starfish_outbox import QueueLockedError
from starfish_outbox.caches.adapter import ForeignWriteError

P = ParamSpec("P")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")


class HungError(AssertionError):
    """Nothing is ready and no timer runs: what is still awaited will never come."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs one ready callback a step, drawn at random; when none is ready the clock jumps to the next timer.

    Callbacks from threads keep their order among themselves, as asyncio promises; all others may overtake each other.

    Attributes:
        tasks: every task that was made and is not done, oldest first.
        before_step: called before each step; what it raises ends the run.
        problems: what asyncio would have logged (an exception in a callback, one that nobody retrieved).
    """

    def __init__(self, random: Random, now: float = 0.0) -> None:
        super().__init__()
        self.random = random
        self.now = now
        self.steps = 0
        self.before_step: Callable[[], None] = lambda: None
        self.problems: list[str] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._soon: list[asyncio.Handle] = []
        self._from_threads: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = count()
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]  # typeshed wants a generator to be accepted too
        self.set_exception_handler(lambda _, context: self.problems.append(str(context)))

    @property
    def tasks(self) -> list[asyncio.Task[Any]]:
        self._tasks = [task for task in self._tasks if not task.done()]
        return list(self._tasks)

    def time(self) -> float:
        return self.now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._soon.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._check_closed()
        handle = asyncio.Handle(callback, args, self, context)
        self._from_threads.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def _check_closed(self) -> None:
        if self.is_closed():
            raise RuntimeError("Event loop is closed")

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
        self._tasks.append(task)
        return task

    def _run_once(self) -> None:
        while not self._soon and not self._from_threads:
            if not self._timers:
                raise HungError(f"nothing will ever wake {self.tasks}")
            self.now = max(self.now, self._timers[0][0])
            self._take_due()
        self.before_step()
        self.steps += 1
        index = int(self.random.random() * (len(self._soon) + bool(self._from_threads)))
        if index == len(self._soon):
            handle = self._from_threads.popleft()
        else:
            self._soon[index], self._soon[-1] = self._soon[-1], self._soon[index]
            handle = self._soon.pop()
        if not handle.cancelled():
            handle._run()

    def _take_due(self) -> None:
        while self._timers and self._timers[0][0] <= self.now:
            handle = heapq.heappop(self._timers)[2]
            if not handle.cancelled():
                self._soon.append(handle)


class Weather(Protocol):
    """What goes wrong, and how long things take: asked at each call of a cache."""

    def delay(self) -> float:
        """Seconds; 0 for no pause at all."""

    def fate(self, what: str) -> str:
        """``ok``, or how this call fails: ``before`` or ``after`` it took effect, ``hang`` (late, but it does)."""


class VirtualThread:
    """Stands in for the one thread of a store: functions run whole, in order, off the loop, some time later.

    Attributes:
        before_job: called with each function's name; what it raises is raised in its place.
        after_job: the same when it has run.
    """

    def __init__(self, weather: Weather) -> None:
        self.loop: VirtualLoop | None = None
        self.before_job: Callable[[str], None] = lambda _: None
        self.after_job: Callable[[str], None] = lambda _: None
        self.dead = False
        self._weather = weather
        self._jobs: deque[tuple[Future[Any], str, Callable[[], Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        future: Future[R] = Future()
        if self.dead:
            future.set_exception(OSError(5, "the process is dead"))
            return future
        self._jobs.append((future, function.__name__, partial(function, *args, **kwargs)))
        self.wake()
        return future

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.wrap_future(self.submit(function, *args, **kwargs))

    def wake(self) -> None:
        """Go on with what waits; on a new loop the thread has to be told so."""
        assert self.loop is not None
        if self._jobs and self._timer is None and not self.loop.is_closed():
            self._timer = self.loop.call_later(self._weather.delay(), self._work)

    def move(self, loop: VirtualLoop) -> None:
        """The loop ended and another took its place; the thread did not notice."""
        self.loop, self._timer = loop, None
        self.wake()

    def die(self) -> None:
        """With the process: what was submitted never runs."""
        self.dead = True
        self._jobs.clear()

    def _work(self) -> None:
        self._timer = None
        if not self._jobs:
            return
        future, name, job = self._jobs.popleft()
        if future.set_running_or_notify_cancel():
            loop = asyncio.get_running_loop()
            asyncio._set_running_loop(None)  # a thread sees no running loop
            try:
                self.before_job(name)
                result = job()
                self.after_job(name)
            except BaseException as error:  # noqa: BLE001  # as an executor does
                future.set_exception(error)
            else:
                future.set_result(result)
            finally:
                asyncio._set_running_loop(loop)
        self.wake()


class Disk:
    """The texts and locks that outlive a process.

    Args:
        changed: called after every change of a text, with its key.
        broken: called with what no right queue does.
    """

    def __init__(self, changed: Callable[[str], None], broken: Callable[[str], None]) -> None:
        self.texts: dict[str, str] = {}
        self.locks: dict[str, object] = {}
        self.broken = broken
        self._changed = changed

    def put(self, key: str, text: str) -> None:
        self.texts[key] = text
        self._changed(key)


class GatedCache:
    """A ``LocalCache`` as a user may write it: slow, out of order, failing before or after it took effect.

    Args:
        threaded: a write that has begun ends whatever happens to who awaits it, as ``asyncio.to_thread`` does.
    """

    def __init__(self, disk: Disk, weather: Weather, *, threaded: bool) -> None:
        self.disk = disk
        self.dead = False
        self._weather = weather
        self._threaded = threaded
        self._landing: dict[int, tuple[str, str]] = {}
        self._numbers = count()

    async def get_item(self, key: str) -> str | None:
        fate = await self._begin("read")
        text = self.disk.texts.get(key)
        if fate == "after":
            await self._pause()
        return text

    async def set_item(self, key: str, value: str) -> None:
        if not self._threaded:
            fate = await self._begin("write")
            if self.dead:
                raise OSError(5, "the process is dead")
            self.disk.put(key, value)
            await self._pause()
            if fate == "after":
                raise OSError(5, "fsync failed")
            return
        fate = "before" if self.dead else self._weather.fate("write")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[None] = loop.create_future()
        number = next(self._numbers)
        if fate != "before":
            self._landing[number] = (key, value)
        delay = 60.0 if fate == "hang" else self._weather.delay()
        loop.call_later(delay, self._land, number, answer, fate)
        await answer

    async def remove_item(self, key: str) -> None:
        raise AssertionError("the queue never removes a key")

    def finish_threads(self, random: Random) -> None:
        """``asyncio.run`` ends: it waits for the threads, in whatever order they end."""
        for number in random.sample(sorted(self._landing), len(self._landing)):
            self._land(number, None, "ok")

    def die(self, random: Random) -> None:
        """With the process: each write that has begun reached the disk, or did not."""
        self.dead = True
        landing = [write for write in self._landing.values() if random.random() < 0.5]
        self._landing.clear()
        for key, value in landing:
            self.disk.put(key, value)

    def _land(self, number: int, answer: asyncio.Future[None] | None, fate: str) -> None:
        write = self._landing.pop(number, None)
        if write is not None and not self.dead:
            self.disk.put(*write)
        if answer is not None and not answer.done():
            if fate in ("ok", "hang") and not self.dead:
                answer.set_result(None)
            else:
                answer.set_exception(OSError(28, "no space left on device"))

    async def _begin(self, what: str) -> str:
        await self._pause()
        fate = "before" if self.dead else self._weather.fate(what)
        if fate == "before":
            raise OSError(28 if what == "write" else 5, f"{what} failed")
        if fate == "hang":
            await asyncio.sleep(60.0)
        return fate

    async def _pause(self) -> None:
        delay = self._weather.delay()
        if delay:
            await asyncio.sleep(delay)


class LockedCache:
    """An ``OwnedCache`` with one thread, like ``FileCache``; a write without the lock is an error of the queue."""

    def __init__(self, disk: Disk, weather: Weather) -> None:
        self.disk = disk
        self.thread = VirtualThread(weather)
        self.identity: object = object()
        self.dead = False
        self._weather = weather
        self._seen: dict[str, str | None] = {}

    async def get_item(self, key: str) -> str | None:
        raise AssertionError("an owner reads by read_owned")

    async def set_item(self, key: str, value: str) -> None:
        raise AssertionError("an owner writes by write_owned")

    async def remove_item(self, key: str) -> None:
        raise AssertionError("the queue never removes a key")

    async def read_owned(self, key: str) -> str | None:
        return await self.thread.run(self._get, key)

    async def write_owned(self, key: str, value: str) -> None:
        await self.thread.run(self._set, key, value)

    async def changed(self, key: str) -> bool:
        return await self.thread.run(lambda: self.disk.texts.get(key) != self._seen.get(key))

    async def acquire(self, key: str) -> None:
        await self.thread.run(self._acquire, key)

    def release(self, key: str, *, now: bool = False) -> None:
        self.thread.submit(self._release, key)

    def check_growth(self, key: str, text: str) -> None:
        """No text is too long here."""

    def die(self) -> None:
        self.dead = True
        self.thread.die()
        for key in [key for key, owner in self.disk.locks.items() if owner is self]:
            del self.disk.locks[key]

    def _get(self, key: str) -> str | None:
        self._fail("read", "before")
        self._seen[key] = self.disk.texts.get(key)
        return self._seen[key]

    def _set(self, key: str, value: str) -> None:
        fate = self._fail("write", "before")
        if self.disk.locks.get(key) is not self:
            self.disk.broken(f"{key} is written without its lock")
        if self.disk.texts.get(key) != self._seen.get(key):
            raise ForeignWriteError(f"{key} was written by somebody else")
        self.disk.put(key, value)
        self._seen[key] = value
        if fate == "after":
            raise OSError(5, "fsync failed")

    def _acquire(self, key: str) -> None:
        if self.disk.locks.setdefault(key, self) is not self:
            raise QueueLockedError(f"{key} is owned by another")

    def _release(self, key: str) -> None:
        if self.disk.locks.get(key) is self:
            del self.disk.locks[key]

    def _fail(self, what: str, when: str) -> str:
        fate = when if self.dead else self._weather.fate(what)
        if fate == when:
            raise OSError(28 if what == "write" else 5, f"{what} failed")
        return fate
