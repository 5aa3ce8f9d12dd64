"""``CacheContract``: our caches keep it, and a cache with any one of the usual slips does not."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import unittest
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from starfish_outbox import FileCache, LocalCache, MemoryCache, SQLiteCache
from starfish_outbox.testing import CacheContract, FaultyCache
from tests.gates import PlainFunctions


class TestMemoryCache(CacheContract):
    def make(self) -> LocalCache:
        return MemoryCache()


class TestPlainFunctions(CacheContract):
    def make(self) -> LocalCache:
        return PlainFunctions()  # type: ignore[return-value]  # plain functions will do


class TestFaultyCacheWithoutFaults(CacheContract):
    async def make(self) -> LocalCache:
        return FaultyCache(MemoryCache())


class OnDisk(CacheContract):
    kind: ClassVar[type[FileCache | SQLiteCache]]

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "outbox"

    def make(self) -> LocalCache:
        return type(self).kind(self.path)

    async def reopen(self, cache: LocalCache) -> LocalCache:
        self.close(cache)
        return self.make()

    def close(self, cache: LocalCache) -> None:
        assert isinstance(cache, FileCache | SQLiteCache)
        cache.close()


class TestFileCache(OnDisk):
    kind = FileCache


class TestSQLiteCache(OnDisk):
    kind = SQLiteCache


class TestUnderUnittest(CacheContract, unittest.TestCase):
    def make(self) -> LocalCache:
        return MemoryCache()


class Slips(PlainFunctions):
    """A cache of plain functions that outlives its program, and the base of those with one slip each."""

    def __init__(self, disk: dict[str, str]) -> None:
        super().__init__()
        self.texts = disk


class EmptyIsNone(Slips):
    def get_item(self, key: str) -> str | None:
        return super().get_item(key) or None


class NoneIsEmpty(Slips):
    def get_item(self, key: str) -> str | None:
        return super().get_item(key) or ""


class FoldsCase(Slips):
    def get_item(self, key: str) -> str | None:
        return super().get_item(key.lower())

    def set_item(self, key: str, value: str) -> None:
        super().set_item(key.lower(), value)


class CutsNames(Slips):
    def get_item(self, key: str) -> str | None:
        return super().get_item(key[:200])

    def set_item(self, key: str, value: str) -> None:
        super().set_item(key[:200], value)


class TextMode(Slips):
    def set_item(self, key: str, value: str) -> None:
        super().set_item(key, value.replace("\r\n", "\n").replace("\r", "\n"))


class Latin(Slips):
    def set_item(self, key: str, value: str) -> None:
        super().set_item(key, value.encode("latin-1", "replace").decode("latin-1"))


class Strips(Slips):
    def get_item(self, key: str) -> str | None:
        text = super().get_item(key)
        return text if text is None else text.strip()


class WritesInPlace(Slips):
    def set_item(self, key: str, value: str) -> None:
        super().set_item(key, value + self.texts.get(key, "")[len(value) :])


class ForgetsToRemove(Slips):
    def remove_item(self, key: str) -> None:
        """Nothing."""


class RemovesByPrefix(Slips):
    def remove_item(self, key: str) -> None:
        for known in [known for known in self.texts if known.startswith(key)]:
            del self.texts[known]


class RemovesStrictly(Slips):
    def remove_item(self, key: str) -> None:
        del self.texts[key]


class Evicts(Slips):
    def set_item(self, key: str, value: str) -> None:
        super().set_item(key, value)
        while len(self.texts) > 10:
            del self.texts[next(iter(self.texts))]


class SizeLimited(Slips):
    def set_item(self, key: str, value: str) -> None:
        super().set_item(key, value[:100_000])


class StaysInMemory(Slips):
    def __init__(self, disk: dict[str, str]) -> None:
        super().__init__({})


class DropsFirstWrites(Slips):
    """Acknowledges what it stores with the next write only."""

    def __init__(self, disk: dict[str, str]) -> None:
        super().__init__(dict(disk))
        self.disk = disk

    def set_item(self, key: str, value: str) -> None:
        self.disk.update(self.texts)
        super().set_item(key, value)


class OneFileForAll(Slips):
    """Reads, changes and writes all keys at once."""

    async def get_item(self, key: str) -> str | None:  # type: ignore[override]  # a cache may be either
        return self.texts.get(key)

    async def set_item(self, key: str, value: str) -> None:  # type: ignore[override]
        changed = {**self.texts, key: value}
        await asyncio.sleep(0)
        self.texts.clear()
        self.texts.update(changed)

    async def remove_item(self, key: str) -> None:  # type: ignore[override]
        self.texts.pop(key, None)


class TearsWrites(Slips):
    """Who reads meanwhile sees a half."""

    async def set_item(self, key: str, value: str) -> None:  # type: ignore[override]
        self.texts[key] = value[: len(value) // 2]
        await asyncio.sleep(0)
        self.texts[key] = value


def contract_of(kind: Callable[[dict[str, str]], Any]) -> CacheContract:
    disk: dict[str, str] = {}

    class Contract(CacheContract):
        def make(self) -> LocalCache:
            disk.clear()
            return self.reopen(None)

        def reopen(self, cache: LocalCache | None) -> LocalCache:
            made: LocalCache = kind(disk)
            return made

    return Contract()


async def test_the_cache_without_a_slip_passes() -> None:
    assert len(await contract_of(Slips).check()) >= 12


BROKEN = {
    EmptyIsNone: "texts_come_back",
    NoneIsEmpty: "without_a_text_is_none",
    FoldsCase: "keys_that_differ",
    CutsNames: "keys_that_differ",
    TextMode: "texts_come_back",
    Latin: "texts_come_back",
    Strips: "texts_come_back",
    WritesInPlace: "replaces_the_one_before",
    ForgetsToRemove: "removed_is_none",
    RemovesByPrefix: "keys_that_differ",
    RemovesStrictly: "removing_an_unknown_key",
    Evicts: "keys_that_differ",
    SizeLimited: "texts_come_back",
    StaysInMemory: "acknowledged_entries",
    DropsFirstWrites: "acknowledged_entries",
    OneFileForAll: "side_by_side_all_stay",
    TearsWrites: "while_it_is_written",
}


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
async def test_a_cache_with_a_slip_fails_the_test_that_is_about_it(kind: type[Slips]) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await contract_of(kind).check()
    notes = [note for error in caught.value.exceptions for note in error.__notes__]
    assert any(BROKEN[kind] in note for note in notes), notes


async def test_every_cache_that_was_made_is_closed_also_when_the_test_fails() -> None:
    made, closed = [], []

    class Contract(CacheContract):
        def make(self) -> LocalCache:
            made.append(MemoryCache())
            return made[-1]

        async def reopen(self, cache: LocalCache) -> LocalCache:
            return self.make()  # forgets everything

        async def close(self, cache: LocalCache) -> None:
            closed.append(cache)

    with pytest.raises(ExceptionGroup):
        await Contract().check()
    assert len(made) > 12
    assert sorted(map(id, made)) == sorted(map(id, closed))


async def test_what_is_no_cache_and_who_makes_none_are_told() -> None:
    class Nothing(CacheContract):
        def make(self) -> Awaitable[LocalCache] | LocalCache:
            return object()  # type: ignore[return-value]  # what is tested

    with pytest.raises(ExceptionGroup) as caught:
        await Nothing().check()
    assert "object is no cache: it needs get_item" in str(caught.value.exceptions[0])
    with pytest.raises(NotImplementedError, match="override make"):
        CacheContract().make()


@pytest.mark.parametrize("runner", ["unittest", "pytest"])
def test_a_bare_runner_collects_and_fails_a_broken_cache(tmp_path: Path, runner: str) -> None:
    """Without any plugin for async tests."""
    base = "CacheContract, unittest.TestCase" if runner == "unittest" else "CacheContract"
    (tmp_path / "test_mine.py").write_text(
        textwrap.dedent(f"""
            import unittest
            from starfish_outbox import MemoryCache
            from starfish_outbox.testing import CacheContract

            class Forgetful(MemoryCache):
                async def set_item(self, key, value):
                    pass

            class TestMine({base}):
                def make(self):
                    return MemoryCache()

            class TestForgetful({base}):
                def make(self):
                    return Forgetful()
        """)
    )
    options = ["-p", "no:asyncio", "-p", "no:cacheprovider", "--override-ini=addopts=", "-q"]
    command = [sys.executable, "-m", runner, *(options if runner == "pytest" else []), "test_mine.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "what was stored last is None" in said
    count = len(CacheContract.rules())
    if runner == "unittest":
        assert f"Ran {2 * count} tests" in said
    else:
        failed = int(said.rpartition(" failed")[0].rpartition("\n")[2])
        assert f"{2 * count - failed} passed" in said
        assert failed >= 5
