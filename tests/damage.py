"""Ways in which a file can be damaged, and what a queue must still be able to do and to say."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from starfish_outbox import CacheError, OutboxEntry, OutboxQueue, SQLiteCache, drain_outbox
from tests.workers.stores import KEY

PAGE: Final = 4096
ENTRIES: Final = 60


def item_of(number: int) -> dict[str, Any]:
    """Long enough that the table fills several pages, and some items an overflow page."""
    return {"n": number, "note": f"plot {number} " * (400 if number % 20 == 7 else 12)}


async def make_database(path: Path) -> bytes:
    """An outbox with queued, failed and tried entries, claims of a closed owner and a ledger, as bytes."""
    cache = SQLiteCache(path, ledger=True)
    queue = OutboxQueue[Any](cache, clock=lambda: 1_700_000_000_000)
    await queue.hydrate(KEY)
    await queue.enqueue_many([(f"sent {number}", number) for number in range(10)])
    await drain_outbox(queue, lambda _: None)
    await queue.enqueue_many([(f"{number:04}", item_of(number)) for number in range(ENTRIES)])
    for number in range(0, ENTRIES, 9):
        await queue.record_failure(f"{number:04}", 5)
    await queue.close()
    cache.close()
    return path.read_bytes()


DAMAGES: Final[dict[str, Callable[[bytearray, Random], None]]] = {}


def _damage(function: Callable[[bytearray, Random], None]) -> Callable[[bytearray, Random], None]:
    DAMAGES[function.__name__.replace("_", " ").strip()] = function
    return function


@_damage
def _one_flipped_bit(data: bytearray, rng: Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


@_damage
def _twenty_flipped_bits(data: bytearray, rng: Random) -> None:
    for _ in range(20):
        _one_flipped_bit(data, rng)


@_damage
def _a_changed_letter(data: bytearray, rng: Random) -> None:
    """In what is text: the likeliest to be read as something else."""
    letters = [at for at, byte in enumerate(data) if 48 <= byte < 123]
    data[rng.choice(letters)] = rng.randrange(48, 123)


@_damage
def _a_zeroed_page(data: bytearray, rng: Random) -> None:
    at = rng.randrange(len(data) // PAGE) * PAGE
    data[at : at + PAGE] = bytes(PAGE)


@_damage
def _a_zeroed_sector(data: bytearray, rng: Random) -> None:
    at = rng.randrange(len(data) // 512) * 512
    data[at : at + 512] = bytes(512)


@_damage
def _a_page_of_noise(data: bytearray, rng: Random) -> None:
    at = rng.randrange(len(data) // PAGE) * PAGE
    data[at : at + PAGE] = rng.randbytes(PAGE)


@_damage
def _a_page_in_anothers_place(data: bytearray, rng: Random) -> None:
    one, two = (rng.randrange(1, len(data) // PAGE) * PAGE for _ in range(2))
    data[one : one + PAGE] = data[two : two + PAGE]


@_damage
def _a_cut_anywhere(data: bytearray, rng: Random) -> None:
    del data[rng.randrange(1, len(data)) :]


@_damage
def _a_cut_at_a_page(data: bytearray, rng: Random) -> None:
    del data[rng.randrange(1, len(data) // PAGE) * PAGE :]


@_damage
def _a_garbage_header(data: bytearray, rng: Random) -> None:
    data[:100] = rng.randbytes(100)


@dataclass
class Verdicts:
    """What became of the damages of one run.

    Attributes:
        seen: how many were harmless, quarantined, salvaged or refused.
        lost: entries that could not be read any more, by the kind of damage.
    """

    seen: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return ", ".join(f"{number} {name}" for name, number in sorted(self.seen.items()))


class Judge:
    """One damaged outbox: opened, used, drained, and opened again; what was wrong with that goes into the verdicts."""

    def __init__(self, path: Path, name: str, verdicts: Verdicts) -> None:
        self._path = path
        self._name = name
        self._verdicts = verdicts
        self._original = path.read_bytes()
        self._cache = SQLiteCache(path)
        self._queue = OutboxQueue[Any](self._cache)
        self._right = {f"{number:04}": item_of(number) for number in range(ENTRIES)}

    async def judge(self, logged: list[logging.LogRecord]) -> None:
        """Do all of it; ``logged`` is where the log goes."""
        try:
            await self._queue.hydrate(KEY)
        except CacheError as error:
            self._refused(error)
        else:
            self._opened(logged)
            await self._use()
            await self._queue.close()
            await self._open_again()
        await self._queue.close()
        self._cache.close()

    def _fault(self, text: str) -> None:
        self._verdicts.faults.append(f"{self._name}: {text}")

    def _refused(self, error: CacheError) -> None:
        self._verdicts.seen["refused"] += 1
        if self._path.read_bytes() != self._original:
            self._fault(f"refused ({error}) and changed")
        if not _is_foreign(self._original):
            self._fault(f"refused: {error}")

    def _opened(self, logged: list[logging.LogRecord]) -> None:
        found, set_aside = self._queue.get(), self._queue.status().set_aside
        self._compare("", found)
        missing = self._right.keys() - {entry.id for entry in found}
        kept = sorted(self._path.parent.glob(f"{self._path.name}.corrupt.[0-9]*"))
        self._verdicts.lost[self._name.partition(",")[0]] += len(missing)
        self._verdicts.seen["salvaged" if kept else "quarantined" if set_aside else "harmless"] += 1
        if not set_aside and (missing or kept):
            self._fault(f"{len(missing)} entries are gone without a word")
        if set_aside and not logged:
            self._fault("nothing was logged")
        if kept and not any(copy.read_bytes() == self._original for copy in kept):
            self._fault("the damaged file was not kept as it was")

    async def _use(self) -> None:
        """Enqueue what is live, and something new, and send it all."""
        found, set_aside = self._queue.get(), self._queue.status().set_aside
        sent: list[OutboxEntry[Any]] = []
        try:
            again = [await self._queue.enqueue(entry.id, "another item") for entry in found]
            fresh = await self._queue.enqueue("fresh", self._right.setdefault("fresh", item_of(1)))
            await drain_outbox(self._queue, sent.append)
        except CacheError as error:
            self._fault(f"cannot be used after it was opened: {error}")
            return
        if any(again) or not fresh:
            self._fault(f"enqueue answered {again.count(True)} times that a live id is new")
        self._compare("sent: ", sent)
        unsent = {entry.id for entry in found} - {entry.id for entry in sent}
        if unsent and self._queue.status().set_aside == set_aside:
            self._fault(f"never sent: {sorted(unsent)}")

    async def _open_again(self) -> None:
        try:
            await self._queue.hydrate(KEY)
        except CacheError as error:
            self._fault(f"cannot be opened again: {error}")
        else:
            if left := self._queue.get():
                self._fault(f"still there after the drain: {left[:3]}")

    def _compare(self, what: str, entries: list[OutboxEntry[Any]]) -> None:
        """Every value is what was stored, and in its order, unless something was said."""
        ids = [entry.id for entry in entries]
        if len(set(ids)) != len(ids):
            self._fault(f"{what}twice: {[id for id, number in Counter(ids).items() if number > 1]}")
        if ids != sorted(ids) and not self._queue.status().set_aside:
            self._fault(f"{what}out of order: {ids}")
        for entry in entries:
            attempts = entry.id.isdigit() and int(entry.id) % 9 == 0
            if entry.id not in self._right or entry.item != self._right[entry.id]:
                self._fault(f"{what}silently wrong: {entry.id!r} {str(entry.item)[:60]}")
            elif entry.status != "queued" or entry.attempts != attempts:
                self._fault(f"{what}silently wrong: {entry.id!r} is {entry.status} after {entry.attempts} attempts")


def _is_foreign(data: bytes) -> bool:
    """Whether the header says that another program, or a newer version, wrote it (sqlite.org/fileformat.html)."""
    user_version, application_id = data[60:64], data[68:72]
    return data[:16] == b"SQLite format 3\0" and (application_id != b"SFOB" or int.from_bytes(user_version, "big") != 1)
