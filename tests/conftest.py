"""What many tests need: the four kinds of cache, raw texts put into them and found there, a clock, and a real Node."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import settings

from starfish_outbox import FileCache, LocalCache, MemoryCache, OutboxQueue, SQLiteCache
from starfish_outbox.testing import ManualClock as ManualClock  # noqa: PLC0414  # tests take it from here
from tests.workers.zygote import Zygote

# The same examples in every CI run: a new counterexample belongs on a desk, not in the way of an unchanged tree.
settings.register_profile("ci", derandomize=True, database=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

# A shell that starts the tests in the background lets them ignore Ctrl-C, and every program that they start as well.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

KEY = "outbox.ana"


class PlainCache:
    """What a user writes: three methods over a dict, nothing of ours."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    async def get_item(self, key: str) -> str | None:
        return self.texts.get(key)

    async def set_item(self, key: str, value: str) -> None:
        self.texts[key] = value

    async def remove_item(self, key: str) -> None:
        self.texts.pop(key, None)


class Place:
    """A cache, and the raw texts in it: bytes that are no UTF-8 stand in them as lone surrogates (``surrogateescape``).

    Files are written and read past ``FileCache``; ``put`` a text before a queue opens its key.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self._folder = folder
        self._memory: LocalCache = MemoryCache() if kind == "memory" else PlainCache()
        self._made: list[FileCache | SQLiteCache] = []
        self.cache = self.fresh()

    def fresh(self, **options: Any) -> LocalCache:
        """A cache on the same place, as a program that is started again makes it."""
        if self.kind in {"memory", "plain"}:
            return self._memory
        if self.kind == "file":
            self._made.append(FileCache(self._folder / "files", **options))
        else:
            self._made.append(SQLiteCache(self._folder / "outbox.db", **options))
        return self._made[-1]

    async def put(self, key: str, text: str | bytes) -> None:
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        if isinstance(self.cache, FileCache):
            self.cache.path(key).write_bytes(data)
        else:
            await self.cache.set_item(key, data.decode("utf-8", "surrogateescape"))

    async def text(self, key: str) -> str | None:
        if not isinstance(self.cache, FileCache):
            return await self.cache.get_item(key)
        path = self.cache.path(key)
        return path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else None

    def close(self) -> None:
        for cache in self._made:
            cache.close()


@pytest.fixture(params=["memory", "file", "sqlite", "plain"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Each kind of cache; ``@pytest.mark.parametrize("place", [...], indirect=True)`` takes some of them."""
    made = Place(request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture
def cache(place: Place) -> LocalCache:
    return place.cache


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


Opener: TypeAlias = Callable[..., Awaitable[OutboxQueue[Any]]]


@pytest.fixture
async def opened(clock: ManualClock) -> AsyncIterator[Opener]:
    """A function of a cache and a key that makes a hydrated queue on the manual clock, closed when the test ends."""
    async with contextlib.AsyncExitStack() as queues:

        async def open_queue(cache: LocalCache, key: str = KEY, **options: Any) -> OutboxQueue[Any]:
            queue = await queues.enter_async_context(OutboxQueue[Any](cache, **{"clock": clock, **options}))
            await queue.hydrate(key)
            return queue

        yield open_queue


@pytest.fixture(scope="session")
def stringify() -> Iterator[Callable[[str], str | None]]:
    """``JSON.stringify(JSON.parse(text))`` of one Node process; None where ``JSON.parse`` refuses the text."""
    node = shutil.which("node")
    assert node is not None, "these tests need Node: what we store must be readable there"
    script = Path(__file__).with_name("js_stringify.mjs")
    with subprocess.Popen([node, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        to_node, from_node = process.stdin, process.stdout

        def answer(text: str) -> str | None:
            assert "\n" not in text, "a line is a text"
            to_node.write(text.encode() + b"\n")
            to_node.flush()
            line = from_node.readline().decode().removesuffix("\n")
            return None if line == "!" else line

        yield answer
        to_node.close()
        process.wait(timeout=10)


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, where there is one: for tests with many small transactions, in which no power is cut."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """What forks fresh worker processes."""
    if sys.platform != "linux":
        pytest.skip("no /proc")  # workers are forked, stopped and watched through it; elsewhere there is none
    with Zygote() as running:
        yield running
