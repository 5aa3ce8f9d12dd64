"""``CacheContract``: what a queue needs of a cache, as tests for a cache of your own; no test framework is needed."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from starfish_outbox.caches.base import LocalCache
from starfish_outbox.drain import drain_outbox
from starfish_outbox.errors import CacheError
from starfish_outbox.queue import OutboxQueue
from starfish_outbox.testing.faults import Lost
from starfish_outbox.testing.sender import FlakySender

KEY: Final = "outbox.ana"

TEXTS: Final = {
    "nothing": "",
    "an empty queue": "[]",
    "space around it": " \n[] \n\n",
    "line ends of all kinds": "a\nb\r\nc\rd\u2028e\u2029f\u0085g",
    "a byte order mark": "\ufeff[]",
    "letters of many scripts": "Grünfink, зяблик, 燕雀, 🐦, \u0001\u007f",
    "two ways to write one letter": "\u00e9 e\u0301",
    "quotes and escapes": "'\"\\%$`;--\\n\\u0000",
    "a megabyte": "x" * 1_000_000,
}
"""Texts that come back as they went in, each for a slip that caches make."""

KEYS: Final = (
    "outbox.ana",
    "outbox.Ana",
    "OUTBOX.ANA",
    "outbox.ana.quarantine",
    "outbox.ana ",
    "outbox.ana/1",
    "outbox.ana\\1",
    "../outbox.ana",
    "outbox.%61na",
    "outbox.an*",
    "outbox.\u00e9",
    "outbox.e\u0301",
    "CON",
    "outbox." + "long" * 60,
    "outbox." + "long" * 60 + "er",
)
"""Keys that are not one another, each for a slip that caches make: folded case, joined paths, patterns, cut names."""

C = TypeVar("C", bound="CacheContract")
P = ParamSpec("P")


def _test(function: Callable[Concatenate[C, P], Awaitable[None]]) -> Callable[Concatenate[C, P], None]:
    """A plain method, so that every test runner calls it, in an event loop of its own."""

    @functools.wraps(function)
    def run(self: C, /, *args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(_closing(self, function(self, *args, **kwargs)))

    del run.__wrapped__  # or a plugin for pytest would take it for a coroutine function
    run.rule = function  # type: ignore[attr-defined]  # for `check`
    return run


async def _closing(contract: CacheContract, test: Awaitable[None]) -> None:
    try:
        await test
    finally:
        await contract.close_all()


class CacheContract:
    """The tests that a cache passes if a queue can live in it.

    Subclass it under a name that your test runner collects, and say how a cache is made. With ``unittest``, derive from
    ``unittest.TestCase`` as well; without any runner, ``await`` `check`.

    ```python
    from starfish_outbox.testing import CacheContract


    class DictCache:  # yours: three methods, plain or async
        def __init__(self, texts):
            self.get_item, self.set_item = texts.get, texts.__setitem__
            self.remove_item = lambda key: texts.pop(key, None)


    class TestDictCache(CacheContract):
        def make(self):
            self.texts = {}
            return DictCache(self.texts)

        def reopen(self, cache):
            return DictCache(self.texts)


    assert len(await TestDictCache().check()) > 10
    ```
    """

    def make(self) -> LocalCache | Awaitable[LocalCache]:
        """A new cache with nothing in it. To override; called once or more by each test."""
        raise NotImplementedError("say how a cache is made: override make()")

    def reopen(self, cache: LocalCache) -> LocalCache | Awaitable[LocalCache]:
        """A cache on the same place, as the program makes it when it is started again. To override.

        The one that was used before is not used any more; close it here if need be. By default it is the same object,
        which is right only for a cache that does not outlive its program.
        """
        return cache

    def close(self, cache: LocalCache) -> Awaitable[None] | None:
        """Give back what a cache holds; called at the end for each that was made. To override where there is some."""

    @classmethod
    def rules(cls) -> list[str]:
        """The names of the tests."""
        return [name for name in dir(cls) if name.startswith("test_") and hasattr(getattr(cls, name), "rule")]

    async def check(self) -> list[str]:
        """Run all tests in the running event loop, such as a notebook's; their names.

        Raises:
            ExceptionGroup: some failed; each note says which.
        """
        failures: list[Exception] = []
        for name in self.rules():
            try:
                await _closing(self, getattr(type(self), name).rule(self))
            except Exception as error:  # noqa: BLE001  # raised below, together
                error.add_note(name)
                failures.append(error)
        if failures:
            raise ExceptionGroup(f"{type(self).__name__}: {len(failures)} of {len(self.rules())} failed", failures)
        return self.rules()

    async def close_all(self) -> None:
        """Close every cache that this test made."""
        caches = self._caches()
        while caches:
            await _awaited(self.close(caches.pop()))

    @_test
    async def test_a_key_without_a_text_is_none(self) -> None:
        """``None``, not an empty text, which would be damage."""
        cache = await self._make()
        _same(await _get(cache, KEY), None, "the text of a key that was never set")

    @_test
    async def test_texts_come_back_as_they_went_in(self) -> None:
        """Every character, before and after it is opened again."""
        cache = await self._make()
        for number, (name, text) in enumerate(TEXTS.items()):
            await _set(cache, f"outbox.{number}", text)
            _same(await _get(cache, f"outbox.{number}"), text, name)
        cache = await self._reopen(cache)
        for number, (name, text) in enumerate(TEXTS.items()):
            _same(await _get(cache, f"outbox.{number}"), text, f"{name}, when it was opened again")

    @_test
    async def test_a_text_replaces_the_one_before(self) -> None:
        """Also a shorter one, of which a longer one shows no remnants."""
        cache = await self._make()
        for text in ("a longer text", "short", "", "[]"):
            await _set(cache, KEY, text)
            _same(await _get(cache, KEY), text, "what was stored last")

    @_test
    async def test_what_is_removed_is_none_also_when_it_is_opened_again(self) -> None:
        """And nothing else goes with it."""
        cache = await self._make()
        await _set(cache, KEY, "[]")
        await _set(cache, KEY + "2", "[2]")
        await _remove(cache, KEY)
        _same(await _get(cache, KEY), None, "a key that was removed")
        cache = await self._reopen(cache)
        _same(await _get(cache, KEY), None, "a key that was removed, when it was opened again")
        _same(await _get(cache, KEY + "2"), "[2]", "its neighbour")

    @_test
    async def test_removing_an_unknown_key_is_no_error(self) -> None:
        """Nothing happens."""
        cache = await self._make()
        await _remove(cache, KEY)
        _same(await _get(cache, KEY), None, "a key that was removed before it was set")

    @_test
    async def test_keys_that_differ_have_texts_of_their_own(self) -> None:
        """However alike they look to a file system, a database or a glob."""
        cache = await self._make()
        for key in KEYS:
            await _set(cache, key, f"the text of {key!r}")
        for key in KEYS:
            _same(await _get(cache, key), f"the text of {key!r}", f"the text of {key!r}")
        await _remove(cache, KEYS[0])
        for key in KEYS[1:]:
            _same(await _get(cache, key), f"the text of {key!r}", f"the text of {key!r} when {KEYS[0]!r} was removed")

    @_test
    async def test_writes_of_different_keys_side_by_side_all_stay(self) -> None:
        """A cache that reads, changes and writes one file for all of them loses some."""
        cache = await self._make()
        keys = [f"outbox.{number}" for number in range(20)]
        await asyncio.gather(*(_set(cache, key, key) for key in keys))
        await asyncio.gather(
            *(_remove(cache, key) for key in keys[::2]), *(_set(cache, key, "new") for key in keys[1::2])
        )
        for number, key in enumerate(keys):
            _same(await _get(cache, key), "new" if number % 2 else None, f"key {number} of 20 that changed at a time")

    @_test
    async def test_who_reads_while_it_is_written_sees_the_old_text_or_the_new_one(self) -> None:
        """Never a part, and never nothing."""
        cache = await self._make()
        old, new = "old" * 100_000, "new" * 100_000
        await _set(cache, KEY, old)
        seen = []
        writing = asyncio.ensure_future(_set(cache, KEY, new))
        while not writing.done():
            seen.append(await _get(cache, KEY))
            await asyncio.sleep(0)
        await writing
        for text in seen:
            if text not in (old, new):
                raise AssertionError(f"while it was written it read as {_short(text)}")
        _same(await _get(cache, KEY), new, "what was stored last")

    @_test
    async def test_acknowledged_entries_are_there_when_it_is_opened_again(self) -> None:
        """The promise of a queue: what ``enqueue`` acknowledged is stored."""
        cache = await self._make()
        async with OutboxQueue[Any](cache) as queue:
            await queue.hydrate(KEY)
            for number in range(30):
                await queue.enqueue(f"e{number}", {"number": number, "words": "Grünfink 🐦\n\u2028"})
            wanted = [entry.to_dict() for entry in queue.get()]
        async with OutboxQueue[Any](await self._reopen(cache)) as queue:
            await queue.hydrate(KEY)
            _same([entry.to_dict() for entry in queue.get()], wanted, "the entries when it was opened again")

    @_test
    async def test_a_queue_in_it_drains_over_a_bad_network(self) -> None:
        """Each entry arrives, none is sent again after it was acknowledged, and the queue is empty for good."""
        cache = await self._make()
        remote = FlakySender(odds={Lost(): 0.1, ConnectionRefusedError: 0.1}, seed=1)
        async with OutboxQueue[Any](cache) as queue:
            await queue.hydrate(KEY)
            await queue.enqueue_many([(f"e{number}", number) for number in range(60)])
            for _ in range(100):
                await drain_outbox(queue, remote)
            _same(queue.counts().queued, 0, "the number of entries that wait after 100 passes")
        remote.assert_delivered(f"e{number}" for number in range(60))
        async with OutboxQueue[Any](await self._reopen(cache)) as queue:
            await queue.hydrate(KEY)
            _same(queue.get(), [], "the entries when it was opened again")

    @_test
    async def test_queues_of_two_identities_do_not_meet(self) -> None:
        """Not while both write at a time, and not when it is opened again."""
        cache = await self._make()
        names = ("outbox.ana", "outbox.Ana")
        async with OutboxQueue[Any](cache) as one, OutboxQueue[Any](cache) as other:
            for queue, name in zip((one, other), names, strict=True):
                await queue.hydrate(name)
            await asyncio.gather(
                *(
                    queue.enqueue(f"{name} {n}", n)
                    for queue, name in zip((one, other), names, strict=True)
                    for n in range(9)
                )
            )
        cache = await self._reopen(cache)
        for name in names:
            async with OutboxQueue[Any](cache) as queue:
                await queue.hydrate(name)
                _same([entry.id for entry in queue.get()], [f"{name} {n}" for n in range(9)], f"the ids of {name}")

    @_test
    async def test_a_text_that_is_no_queue_is_set_aside_and_never_written_over(self) -> None:
        """It stays in the same cache, under ``<key>.corrupt.<n>``."""
        cache = await self._make()
        damaged = '[{"id":"a","item":1,"sta'
        _same(await _get(cache, f"{KEY}.corrupt.1"), None, "the text of a key that was never set")
        await _set(cache, KEY, damaged)
        cache = await self._reopen(cache)
        async with OutboxQueue[Any](cache) as queue:
            await queue.hydrate(KEY)
            await queue.enqueue("b", 2)
        cache = await self._reopen(cache)
        aside = [await _get(cache, f"{KEY}.corrupt.{number}") for number in range(1, 4)]
        if damaged not in aside:
            raise AssertionError(f"the damaged text was not kept under {KEY}.corrupt.N; there is {aside}")

    def _caches(self) -> list[LocalCache]:
        caches: list[LocalCache] = self.__dict__.setdefault("_made", [])  # TestCase has an __init__ of its own
        return caches

    async def _make(self) -> LocalCache:
        return await self._note(self.make())

    async def _reopen(self, cache: LocalCache) -> LocalCache:
        return await self._note(self.reopen(cache))

    async def _note(self, made: LocalCache | Awaitable[LocalCache]) -> LocalCache:
        cache: LocalCache = await _awaited(made)
        if not all(callable(getattr(cache, name, None)) for name in ("get_item", "set_item", "remove_item")):
            raise CacheError(f"{type(cache).__name__} is no cache: it needs get_item, set_item and remove_item")
        if not any(one is cache for one in self._caches()):
            self._caches().append(cache)
        return cache


async def _awaited(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


async def _get(cache: LocalCache, key: str) -> str | None:
    text: str | None = await _awaited(cache.get_item(key))
    return text


async def _set(cache: LocalCache, key: str, text: str) -> None:
    await _awaited(cache.set_item(key, text))


async def _remove(cache: LocalCache, key: str) -> None:
    await _awaited(cache.remove_item(key))


def _same(got: object, wanted: object, what: str) -> None:
    if got != wanted or type(got) is not type(wanted):
        raise AssertionError(f"{what} is {_short(got)}, not {_short(wanted)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:120]} ... {text[-60:]} ({len(text)} characters)"
