"""The SQLite cache itself: durable modes, private files, indexes used, and what else may touch the file."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox import (
    CacheError,
    FileCache,
    OutboxEntry,
    OutboxQueue,
    QueueLockedError,
    SQLiteCache,
    drain_outbox,
    open_outbox,
)
from starfish_outbox.caches import rows
from tests.workers.owners import states
from tests.workers.stores import KEY, as_seen, open_queue, run_sql
from tests.workers.zygote import Zygote


async def test_the_modes_that_survive_a_power_cut_are_set_and_read_back(tmp_path: Path) -> None:
    cache = SQLiteCache(tmp_path / "outbox.db")
    queue = OutboxQueue[int](cache)
    await queue.hydrate(KEY)
    await queue.enqueue("a", 1)
    for pragma, value in [
        ("journal_mode", "truncate"),
        ("synchronous", 2),
        ("trusted_schema", 0),
        ("auto_vacuum", 2),
        ("application_id", rows.APPLICATION_ID),
        ("user_version", rows.VERSION),
    ]:
        assert await cache.database._thread.run(run_sql, cache, f"PRAGMA {pragma}") == [(value,)], pragma
    journal = tmp_path / "outbox.db-journal"
    assert journal.stat().st_size == 0  # nothing that belongs to it lies beside the file between transactions
    await queue.close()


async def test_a_database_that_cannot_leave_its_wal_is_an_error(tmp_path: Path) -> None:
    """Somebody made a WAL of it and holds it open: then it would not become what we promise."""
    path = tmp_path / "outbox.db"
    queue = await open_queue("sqlite", str(tmp_path))
    await queue.enqueue("a", 1)
    await queue.close()
    SQLiteCache(path).close()
    other = sqlite3.connect(path)
    assert other.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    other.execute("BEGIN")
    other.execute("SELECT * FROM keys").fetchall()
    with pytest.raises(CacheError):
        await OutboxQueue[int](SQLiteCache(path)).hydrate(KEY)
    other.close()
    queue = await open_queue("sqlite", str(tmp_path))
    assert states(queue) == {"a": "queued"}
    await queue.close()


# Files that are the user's alone


@pytest.mark.skipif(os.name != "posix", reason="Windows has no modes; a file there inherits the directory's rights")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_every_file_is_the_users_alone_whatever_the_umask(zygote: Zygote, tmp_path: Path, umask: int) -> None:
    modes = dict(zygote.ask("tests.workers.owners:modes", str(tmp_path), umask))
    assert len(modes) >= 9
    for name, mode in modes.items():
        if not (tmp_path / name).is_dir():
            assert mode == 0o600, f"{name}: {mode:o}"
        elif any((tmp_path / name).glob("*.json")) or name.endswith("-owners"):
            assert mode == 0o700, f"{name}: {mode:o}"
        else:  # what was made on the way: nobody else may put another directory in its place
            assert not mode & 0o022, f"{name}: {mode:o}"
    assert {Path(name).suffix for name in modes} >= {".db", ".db-journal", ".json", ".lock", ".owner", ".quarantine"}


@pytest.mark.parametrize("target", ["missing", "a text"])
async def test_a_symlink_planted_at_the_path_is_not_followed(tmp_path: Path, target: str) -> None:
    victim, mine = tmp_path / "victim", tmp_path / "mine"
    mine.mkdir(mode=0o700)
    if target == "a text":
        victim.write_text("precious")
    (mine / "outbox.db").symlink_to(victim)
    with pytest.raises(CacheError):
        await open_queue("sqlite", str(mine))
    planted = FileCache(mine).path(KEY)
    planted.symlink_to(victim)
    with pytest.raises(CacheError):
        await open_queue("file", str(mine))
    assert sorted(path.name for path in tmp_path.iterdir()) == (["mine", "victim"] if target == "a text" else ["mine"])
    if target == "a text":
        assert victim.read_text() == "precious"


async def test_a_symlink_planted_for_the_temporary_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, mine = tmp_path / "victim", tmp_path / "mine"
    victim.write_text("precious")
    queue = await open_queue("file", str(mine))
    made: list[str] = []
    opened = os.open

    def watch(path: Any, flags: int, *mode: int, **more: Any) -> int:
        if str(path).endswith(".tmp") and flags & os.O_CREAT:
            made.append(str(path))
            Path(path).symlink_to(victim)  # an attacker who knows the random name
        return opened(path, flags, *mode, **more)

    monkeypatch.setattr(os, "open", watch)
    with pytest.raises(CacheError):
        await queue.enqueue("a", 1)
    monkeypatch.undo()
    assert len(made) == 1
    assert victim.read_text() == "precious"
    assert queue.get() == []
    assert await queue.enqueue("a", 1)
    await queue.close()


# A change costs the same however long the queue is


PLANS = {
    "BY_SEQ": r"SEARCH entries USING INTEGER PRIMARY KEY \(rowid=\?\)",
    "BY_ID": r"SEARCH entries USING INDEX entries_by_id \(key=\? AND id=\?\)",
    "SEQ_OF_ID": r"SEARCH entries USING COVERING INDEX entries_by_id \(key=\? AND id=\?\)",
    "CLAIMED": r"SEARCH entries USING (COVERING )?INDEX entries_claimed \(key=\?\)",
    "UPDATE": r"SEARCH entries USING INTEGER PRIMARY KEY \(rowid=\?\)",
    "UPDATE_ALL": r"SEARCH entries USING INTEGER PRIMARY KEY \(rowid=\?\)",
    "DELETE": r"SEARCH entries USING INTEGER PRIMARY KEY \(rowid=\?\)",
    "INSERT": "",
    # Everything of a key, in order: the table from front to back, without sorting.
    "ALL": "SCAN entries",
    "ALL_SEQS": "SCAN entries( USING .*)?",
}


def statements() -> dict[str, str]:
    """Every statement that ``rows`` names."""
    starts = ("SELECT ", "INSERT ", "UPDATE ", "DELETE ")
    return {name: text for name, text in vars(rows).items() if isinstance(text, str) and text.startswith(starts)}


def test_every_statement_of_rows_has_a_plan_that_is_pinned() -> None:
    assert statements().keys() == PLANS.keys()


@pytest.mark.parametrize("name", PLANS)
def test_a_statement_uses_the_index_that_it_is_meant_to(tmp_path: Path, name: str) -> None:
    connection = rows.connect(tmp_path / "outbox.db")
    statement = statements()[name]
    values = [None] * statement.count("?")
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    connection.close()
    first = [step for step in plan if "keys" not in step and "SUBQUERY" not in step]
    assert re.fullmatch(PLANS[name], "; ".join(first)), plan
    assert not any("TEMP B-TREE" in step for step in plan), plan


async def steps_of(cache: SQLiteCache, call: Callable[[], Any]) -> int:
    """How many instructions SQLite's machine runs for a call: its cost, whatever the machine's mood."""
    ran = 0

    def count() -> int:
        nonlocal ran
        ran += 1
        return 0

    connection = cache.database._ready
    await cache.database._thread.run(lambda: connection().set_progress_handler(count, 1))
    await call()
    await cache.database._thread.run(lambda: connection().set_progress_handler(None, 1))
    return ran


async def test_a_change_takes_as_many_steps_at_20_000_entries_as_at_100(tmp_path: Path) -> None:
    cache = SQLiteCache(tmp_path / "outbox.db", ledger=True)
    queue = OutboxQueue[int](cache)
    await queue.hydrate(KEY)

    async def costs(mark: str) -> dict[str, int]:
        await drain_outbox(queue, lambda _: None, limit=1)  # learns what was added
        first = queue.get()[0].id
        return {
            "enqueue": await steps_of(cache, lambda: queue.enqueue(f"new {mark}", 1)),
            "enqueue again": await steps_of(cache, lambda: queue.enqueue(f"new {mark}", 1)),
            "claim": await steps_of(cache, lambda: queue.claim(f"new {mark}")),
            "record_failure": await steps_of(cache, lambda: queue.record_failure(f"new {mark}", 3)),
            "remove": await steps_of(cache, lambda: queue.remove(f"new {mark}")),
            "refresh": await steps_of(cache, queue.refresh),
            "remove the first": await steps_of(cache, lambda: queue.remove(first)),
            "drain of one": await steps_of(cache, lambda: drain_outbox(queue, lambda _: None, limit=1)),
        }

    await queue.enqueue_many([(f"{number:06}", number) for number in range(100)])
    few = await costs("at 100")
    for start in range(100, 20_000, 10_000):
        await queue.enqueue_many([(f"{number:06}", number) for number in range(start, start + 10_000)])
    many = await costs("at 20,000")
    assert queue.counts().total > 20_000
    assert min(few.values()) > 10  # the handler counts
    assert {name: (few[name], many[name]) for name in few if many[name] > 1.25 * few[name]} == {}
    await queue.close()


# Strings by key, as every cache


async def test_get_item_answers_the_exact_array(tmp_path: Path) -> None:
    cache = SQLiteCache(tmp_path / "outbox.db")
    assert await cache.get_item(KEY) is None
    queue = OutboxQueue[Any](cache, clock=lambda: 1_700_000_000_000)
    await queue.hydrate(KEY)
    assert await cache.get_item(KEY) is None  # opening a queue stores nothing
    await queue.enqueue("a", {"x": 1.0, "name": "Möwe\u2028", "list": [True, None]})
    await queue.enqueue("b", "c", ts=5)

    def fail(entry: OutboxEntry[Any]) -> None:
        raise ValueError("no")

    await drain_outbox(queue, fail, limit=1)
    await queue.mark_failed("b")
    assert await cache.get_item(KEY) == (
        '[{"id":"a","item":{"x":1,"name":"Möwe\u2028","list":[true,null]},"status":"queued","attempts":1,'
        '"enqueuedAt":1700000000000,"lastError":{"type":"ValueError","message":"no","at":1700000000000}},'
        '{"id":"b","item":"c","status":"failed","attempts":1,"enqueuedAt":5}]'
    )
    await queue.remove("a")
    await queue.remove("b")
    assert await cache.get_item(KEY) == "[]"
    await queue.close()


async def test_what_set_item_stored_is_answered_and_becomes_a_queue(tmp_path: Path) -> None:
    cache = SQLiteCache(tmp_path / "outbox.db")
    text = '[ {"id":"a", "item":null, "status":"sending", "attempts":2, "enqueuedAt":1, "color":"red"} ]'
    await cache.set_item(KEY, text)
    assert await cache.get_item(KEY) == text
    queue = await open_queue("sqlite", str(tmp_path))
    assert [entry[0:4] for entry in as_seen(queue)] == [["a", None, "queued", 2]]
    assert queue.get()[0].extra == {"color": "red"}
    await queue.close()
    await cache.remove_item(KEY)
    assert await cache.get_item(KEY) is None


async def test_set_item_and_remove_item_need_the_key_alone(zygote: Zygote, tmp_path: Path) -> None:
    cache = SQLiteCache(tmp_path / "outbox.db")
    queue = await open_queue("sqlite", str(tmp_path))
    await queue.enqueue("a", 1)
    changes: list[Callable[[], Any]] = [lambda: cache.set_item(KEY, "[]"), lambda: cache.remove_item(KEY)]
    for change in changes:
        with pytest.raises(QueueLockedError, match="this process"):
            await change()
    await queue.close()
    other = zygote.start("tests.workers.owners:obey", "sqlite", str(tmp_path))
    other.expect("ready")
    other.tell("open")
    assert other.expect("open") == [{"a": "queued"}]
    for change in changes:
        with pytest.raises(QueueLockedError) as caught:
            await change()
        assert f"pid {other.pid} " in caught.value.owner
    other.kill()
    other.wait()
    for change, text in zip(changes, ["[]", None], strict=True):
        await change()
        assert await cache.get_item(KEY) == text


# Other connections to the same file


async def test_peeking_with_another_connection_loses_nothing(zygote: Zygote, tmp_path: Path) -> None:
    """In WAL mode a reader that closes can delete the log, and what was acknowledged after it is gone with a kill."""
    peeker = zygote.start("tests.workers.owners:peek", str(tmp_path))
    while (line := peeker.hears())[0] != "peeked":
        assert line[0] == "counted"
    acknowledged = line[1]
    peeker.kill()
    peeker.wait()
    found, set_aside, damage = zygote.ask("tests.workers.stores:look", "sqlite", str(tmp_path))
    assert [entry[0] for entry in found] == acknowledged
    assert (set_aside, damage) == ([], [])


async def test_the_default_outbox_is_a_private_database_with_a_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *_, **__: str(tmp_path / "data" / "outbox"))
    async with open_outbox("ana") as queue:
        await queue.enqueue("a", 1)
        await drain_outbox(queue, lambda _: None)
        assert await queue.was_sent("a")
        assert not await queue.enqueue("a", 1)
    assert stat.S_IMODE((tmp_path / "data" / "outbox" / "outbox.db").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "data" / "outbox").stat().st_mode) == 0o700
