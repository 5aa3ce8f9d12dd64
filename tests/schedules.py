"""Random schedules of the real queue and drain in virtual time: all goes wrong, then nothing, then all must be there.

A schedule has one to three processes, one after the other, on one disk. In each, people sign in and out, enqueue,
drain, claim and remove by hand, on one or two queues, for two identities that use the same ids, while reads and writes
are slow or fail before or after they took effect, sends fail in every way, tasks are cancelled at any step (the queue's
own as well), and the process dies or its loop ends (``asyncio.run`` returns and is called again). Then the faults stop.

``python -m tests.schedules --seed 4711`` shows one schedule; tests/schedule_book.py says what must hold.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

from starfish_outbox import FileCache, LocalCache, SQLiteCache
from starfish_outbox.caches import OwnedCache, adapter, database as databases
from tests.schedule_actors import Actors
from tests.schedule_book import Book
from tests.schedule_plan import ADAPTER_CACHES, KEYS, REAL, REAL_CACHES, Plan, Process, Rules, Seat
from tests.virtual import Disk, GatedCache, HungError, LockedCache, VirtualLoop, VirtualThread

MOST_STEPS: Final = 60_000
"""Of one loop; a schedule takes about a thousand."""


class ViolationError(AssertionError):
    """A promise was broken; the message says how to see it again."""


class _EndError(Exception):
    """The process is killed, or its loop interrupted, at this step."""


class World:
    """One schedule: ``run`` it once."""

    def __init__(self, seed: int, rules: Rules = REAL, caches: tuple[str, ...] = ADAPTER_CACHES) -> None:
        self.seed = seed
        self.rules = rules
        self.book = Book()
        self.random = Random(seed)
        self.plan = Plan(self.random, caches, self.book.counts)
        self.disk = Disk(lambda key: self.book.stored(key, self.disk.texts[key]), self.book.fail)
        self.loop = VirtualLoop(self.random)
        self._folder = tempfile.TemporaryDirectory(dir=_memory()) if self.plan.cache in REAL_CACHES else None
        self._end_at: int | None = None
        self._director: asyncio.Task[None] | None = None

    def run(self) -> Counter[str]:
        """What happened, counted.

        Raises:
            ViolationError: a promise was broken, or the schedule never ends.
        """
        try:
            with self.rules.patched():
                self._run()
        except (ViolationError, HungError) as error:
            cache = f" --cache {self.plan.cache}" if self.plan.cache in REAL_CACHES else ""
            replay = f"python -m tests.schedules --seed {self.seed} --rules {self.rules.name}{cache}"
            raise ViolationError(f"{error}\nReplay with: {replay}") from error
        finally:
            self._close()
        return self.book.counts

    def _run(self) -> None:
        process = self._start(0)
        for number, (end, steps) in enumerate(self.plan.ends, start=1):
            self._end_at = self.loop.steps + steps
            try:
                self._drive(self._act(process))
            except _EndError:
                self.book.counts[f"ends: {end}"] += 1
                self.book.note(end)
                process = self._bury(process, number) if end == "death" else self._rerun(process)
        self._end_at = None
        self._drive(self._act(process))
        self.plan.calm = True
        self.book.note("no more faults")
        self._drive(self._actors(process).settle())
        self.book.finish()
        self._look()
        self.book.counts["steps"] += self.loop.steps
        self._kill(process)
        self.book.expect(not self.disk.locks, "a queue was closed and kept its lock")
        self._look()

    def _drive(self, story: Coroutine[Any, Any, None]) -> None:
        self._director = self.loop.create_task(story)
        self.loop.before_step = self._before_step
        self.loop.run_until_complete(self._director)
        self._look()

    async def _act(self, process: Process) -> None:
        actors = self._actors(process)
        tasks = [asyncio.create_task(actors.act(), name=f"actor {number}") for number in range(self.plan.actors)]
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and task.exception() is not None:
                self.book.fail(f"a call raised {task.exception()!r}")

    def _actors(self, process: Process) -> Actors:
        return Actors(self.plan, self.book, process)

    def _look(self) -> None:
        if self.book.broken:
            raise ViolationError(self.book.broken[0])
        if self.loop.problems:
            raise ViolationError(f"asyncio complains: {self.loop.problems[0]}")

    def _before_step(self) -> None:
        if self.book.broken or self.loop.problems:
            self._look()
        if self.loop.steps >= MOST_STEPS:
            raise HungError(f"no end after {MOST_STEPS} steps")
        if self._end_at is not None and self.loop.steps >= self._end_at and not _is_done(self._director):
            raise _EndError
        if self.plan.cancels and self.plan.cancels_now():
            self._cancel_one()

    def _cancel_one(self) -> None:
        tasks = [task for task in self.loop.tasks if task is not self._director]
        if not self.plan.cancels_flushes:
            tasks = [task for task in tasks if task.get_name().startswith("actor")]
        elif self.plan.cache == "threaded":  # who cancels the cache's own call cannot know that its thread goes on
            tasks = [task for task in tasks if "_write.<locals>" not in repr(task.get_coro())]
        if tasks:
            task = self.random.choice(tasks)
            whose = "a call" if task.get_name().startswith("actor") else "a flush"
            self.book.counts[f"cancelled: {whose}"] += 1
            self.book.note("cancel", whose)
            self.book.break_off(task)
            task.cancel()

    def _start(self, number: int) -> Process:
        plan = self.plan
        cache: LocalCache
        if self._folder is not None:
            cache = self._real_cache(Path(self._folder.name))
        elif plan.cache == "locked":
            cache = LockedCache(self.disk, plan)
            assert isinstance(cache, OwnedCache)  # a method less, and it would pass for a cache that nobody shares
            cache.thread.loop = self.loop
        else:
            cache = GatedCache(self.disk, plan, threaded=plan.cache == "threaded")
        process = Process(number, cache)
        for _ in range(plan.queues):
            queue = self.rules.queue(cache, clock=self._clock, write_timeout=plan.write_timeout)
            process.seats.append(Seat(queue))
        return process

    def _clock(self) -> int:
        return 1_700_000_000_000 + int(self.loop.now * 1000)

    def _real_cache(self, folder: Path) -> SQLiteCache | FileCache:
        """One of our caches; only its thread lives in virtual time."""
        thread: Any = VirtualThread(self.plan)
        thread.loop = self.loop
        fates: list[str] = []

        def before(name: str) -> None:
            # Giving a lock back fails nowhere, nor does asking whether a file has changed.
            fates.append("ok" if name in ("_release", "_changed") else self.plan.fate("write"))
            if fates[-1] == "before" or (fates[-1] == "after" and self.plan.cache == "sqlite"):
                raise _failure(cache)

        def after(name: str) -> None:
            self._read(cache)
            if fates[-1] == "after":
                raise _failure(cache)

        cache: SQLiteCache | FileCache
        if self.plan.cache == "sqlite":
            cache = SQLiteCache(folder / "outbox.db")
            cache.database._thread = thread
        else:
            cache = FileCache(folder / "files")
            cache._thread = thread
        thread.before_job, thread.after_job = before, after
        return cache

    def _read(self, cache: SQLiteCache | FileCache) -> None:
        """Put what lies on the real disk on the virtual one, for the book to see."""
        if isinstance(cache, FileCache):
            for key in KEYS:
                if cache.path(key).exists():
                    self.disk.put(key, cache.path(key).read_text("utf-8"))
            return
        connection = cache.database._connection
        if connection is None:
            return
        items: dict[str, list[str]] = {key: [] for key in KEYS}
        for key, item, status in connection.execute("SELECT key, item, status FROM entries"):
            items[key].append(f'{{"item":{item},"status":"{status}"}}')
        for key, texts in items.items():
            self.disk.put(key, f"[{','.join(texts)}]")

    def _bury(self, process: Process, number: int) -> Process:
        """SIGKILL: what was under way reaches the disk or not; nothing of this process counts any more."""
        process.dead = True
        self.book.break_off(process=process.number)
        self._kill(process)
        self._unwind()
        self.loop = VirtualLoop(self.random, self.loop.now + 5)
        return self._start(number)

    def _kill(self, process: Process) -> None:
        cache = process.cache
        if isinstance(cache, SQLiteCache):
            database: Any = cache.database
            database._thread.die()
            if database._connection is not None:  # what the operating system does for a dead process
                database._connection.close()
                database._owners._lock.release()
            databases._databases.pop(str(database.path), None)
        elif isinstance(cache, FileCache):
            dying: Any = cache._thread
            dying.die()
            for lock in cache._locks.values():
                lock.release()
            adapter._stores.pop(cache.identity, None)
        elif isinstance(cache, GatedCache):
            cache.die(self.random)
        else:
            cache.die()

    def _rerun(self, process: Process) -> Process:
        """``asyncio.run`` is interrupted and called again with the same queues: tasks are cancelled, threads go on."""
        self._unwind()
        self.loop = VirtualLoop(self.random, self.loop.now)
        cache = process.cache
        if isinstance(cache, GatedCache):
            cache.finish_threads(self.random)
        else:
            thread: Any = cache.thread if isinstance(cache, LockedCache) else _thread_of(cache)
            thread.move(self.loop)
        return process

    def _unwind(self) -> None:
        """As ``asyncio.run`` does at its end; a task that does not end when everything is cancelled hangs for good."""
        self._end_at = None
        self.plan.ending = self.plan.calm = True
        for _ in range(3):
            tasks = self.loop.tasks
            for task in tasks:
                self.book.break_off(task)
                task.cancel()
            if tasks:
                self.loop.run_until_complete(asyncio.wait(tasks))
        self.loop.problems.clear()  # what nobody awaits any more is told to nobody
        self.book.counts["steps"] += self.loop.steps
        self.loop.close()
        self.plan.ending = self.plan.calm = False

    def _close(self) -> None:
        if not self.loop.is_closed():
            self.loop.close()
        if self._folder is not None:
            self._folder.cleanup()


@contextmanager
def quiet_log() -> Iterator[None]:
    """The package logs every failure that a schedule injects; nobody reads that."""
    log = logging.getLogger("starfish_outbox")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def _is_done(task: asyncio.Task[None] | None) -> bool:
    return task is not None and task.done()


def _thread_of(cache: SQLiteCache | FileCache) -> object:
    return cache.database._thread if isinstance(cache, SQLiteCache) else cache._thread


def _failure(cache: SQLiteCache | FileCache) -> Exception:
    return sqlite3.OperationalError("disk I/O error") if isinstance(cache, SQLiteCache) else OSError(5, "I/O error")


def _memory() -> str | None:
    """A directory in memory, where there is one: these schedules ask what SQLite is told, not what a disk does."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def main() -> None:
    from tests.broken_rules import BROKEN

    parser = argparse.ArgumentParser(description="Show one schedule, step by step.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rules", default="real")
    parser.add_argument("--cache", choices=REAL_CACHES)
    arguments = parser.parse_args()
    rules = {rules.name: rules for rules in (REAL, *BROKEN)}[arguments.rules]
    world = World(arguments.seed, rules, (arguments.cache,) if arguments.cache else ADAPTER_CACHES)
    with quiet_log():
        try:
            world.run()
        finally:
            for line in world.book.trace:
                sys.stdout.write(" ".join(str(word) for word in line) + "\n")


if __name__ == "__main__":
    main()
