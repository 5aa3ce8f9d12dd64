"""Other persistent queues for Python, each used as its documentation says.

What is stored is a pair of id and item, in whatever form the system gives it by default. They are installed in
``.bench-venv`` alone, so that no type checker knows them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from typing import Any, ClassVar

from tests.bench.adapters.base import Adapter, Pair, Remote, alone


class PersistQueue(Adapter):
    """``SQLiteAckQueue``: ``get`` marks an entry, ``ack`` marks it once more, and who wants to deletes later."""

    package = "persist-queue"
    kind: ClassVar[str] = "SQLiteAckQueue"

    async def open(self) -> None:
        self.queue: Any = getattr(import_module("persistqueue"), self.kind)(str(self.folder))

    async def close(self) -> None:
        self.queue.close()

    async def fill(self, pairs: Sequence[Pair]) -> None:
        """By its own statement and serializer, in one transaction: it commits, and syncs, each put."""
        rows = [(self.dumps(pair), 1772354400.0) for pair in pairs]
        with self.queue._putter as connection:
            connection.executemany(self.queue._sql_insert, rows)
        await self.close()
        await self.open()

    def dumps(self, pair: Pair) -> Any:
        return self.queue._serializer.dumps(pair)

    async def enqueue(self, pair: Pair) -> None:
        self.queue.put(pair)

    async def drain(self, number: int, concurrency: int, remote: Remote) -> None:
        alone(concurrency)
        for _ in range(number):
            pair = self.queue.get(block=False)
            remote.take(pair[0])
            self.queue.ack(pair)

    async def count(self) -> int:
        return int(self.queue.size)

    async def read_all(self) -> int:
        return len(self.queue.queue())


class PersistUnique(PersistQueue):
    """The same with a unique index over what is stored."""

    kind = "UniqueAckQ"

    def dumps(self, pair: Pair) -> Any:
        return self.queue._serializer.dumps(pair, sort_keys=True)

    async def enqueue_again(self, pair: Pair) -> None:
        self.queue.put(pair)


class LiteQueue(Adapter):
    """``synchronous=NORMAL`` in WAL mode, which it sets itself: a power cut takes what was acknowledged last."""

    package = "litequeue"

    async def open(self) -> None:
        self.queue: Any = import_module("litequeue").LiteQueue(str(self.folder / "lite.db"))

    async def close(self) -> None:
        self.queue.conn.close()

    async def fill(self, pairs: Sequence[Pair]) -> None:
        with self.queue.transaction():
            for pair in pairs:
                self.queue.put(json.dumps(pair))

    async def enqueue(self, pair: Pair) -> None:
        self.queue.put(json.dumps(pair))

    async def enqueue_many(self, pairs: Sequence[Pair]) -> None:
        await self.fill(pairs)

    async def drain(self, number: int, concurrency: int, remote: Remote) -> None:
        alone(concurrency)
        for _ in range(number):
            message = self.queue.pop()
            remote.take(json.loads(message.data)[0])
            self.queue.done(message.message_id)

    async def count(self) -> int:
        return int(self.queue.qsize())


class DiskCache(Adapter):
    """``diskcache.Deque``: ``popleft`` before the send, so a crash in the middle of one loses that entry."""

    package = "diskcache"
    settings: ClassVar[dict[str, Any]] = {}

    async def open(self) -> None:
        diskcache = import_module("diskcache")
        # A deque made from a directory turns eviction off; so must a cache that is made for one.
        cache = diskcache.Cache(str(self.folder), eviction_policy="none", **self.settings)
        self.queue: Any = diskcache.Deque.fromcache(cache)

    async def close(self) -> None:
        self.queue.cache.close()

    async def enqueue(self, pair: Pair) -> None:
        self.queue.append(pair)

    async def enqueue_many(self, pairs: Sequence[Pair]) -> None:
        with self.queue.transact():
            self.queue.extend(pairs)

    async def drain(self, number: int, concurrency: int, remote: Remote) -> None:
        alone(concurrency)
        for _ in range(number):
            remote.take(self.queue.popleft()[0])

    async def count(self) -> int:
        return len(self.queue)

    async def read_all(self) -> int:
        return len(list(self.queue))


class DiskCacheFull(DiskCache):
    """With the setting that makes it sync."""

    settings: ClassVar[dict[str, Any]] = {"sqlite_synchronous": 2}


class Huey(Adapter):
    """Its SQLite storage, ``fsync=True``. ``dequeue`` removes before the task runs: a crash then loses the task."""

    package = "huey"

    async def open(self) -> None:
        storage = import_module("huey.storage")
        self.storage: Any = storage.SqliteStorage("bench", str(self.folder / "huey.db"), fsync=True, strict_fifo=True)

    async def close(self) -> None:
        self.storage.close()

    async def fill(self, pairs: Sequence[Pair]) -> None:
        with self.storage.db(commit=True) as cursor:
            rows = [("bench", json.dumps(pair).encode(), 0) for pair in pairs]
            cursor.executemany("insert into task (queue, data, priority) values (?, ?, ?)", rows)

    async def enqueue(self, pair: Pair) -> None:
        self.storage.enqueue(json.dumps(pair).encode())

    async def drain(self, number: int, concurrency: int, remote: Remote) -> None:
        alone(concurrency)
        for _ in range(number):
            remote.take(json.loads(self.storage.dequeue())[0])

    async def count(self) -> int:
        return int(self.storage.queue_size())

    async def read_all(self) -> int:
        return len([json.loads(data) for data in self.storage.enqueued_items()])


class LocalQueue(Adapter):
    """Rust on SQLite with leases, in its default mode, which does not sync."""

    package = "localqueue"
    mode: ClassVar[str] = "RELAXED"

    async def open(self) -> None:
        localqueue = import_module("localqueue")
        self.item = localqueue.EnqueueItem
        self.queue: Any = localqueue.SimpleQueue(str(self.folder), durability=localqueue.DurabilityMode[self.mode])

    async def close(self) -> None:
        self.queue.close()

    async def enqueue(self, pair: Pair) -> None:
        self.queue.put(pair, job_id=pair[0])

    async def enqueue_many(self, pairs: Sequence[Pair]) -> None:
        self.queue.put_many([self.item(pair, pair[0]) for pair in pairs])

    async def enqueue_again(self, pair: Pair) -> None:
        self.queue.put(pair, job_id=pair[0])

    async def drain(self, number: int, concurrency: int, remote: Remote) -> None:
        alone(concurrency)
        for _ in range(number):
            job = self.queue.get(block=False)
            remote.take(job.data[0])
            self.queue.ack(job)

    async def count(self) -> int:
        return int(self.queue.stats()["ready"])


class LocalQueueDurable(LocalQueue):
    """With the mode that syncs."""

    mode = "DURABLE"
