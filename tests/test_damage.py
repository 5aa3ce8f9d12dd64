"""Damaged databases: what can be read is read, the rest is kept and reported, and no value is ever silently wrong."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from pathlib import Path
from random import Random
from typing import Any

import pytest

from starfish_outbox import CacheError, CorruptQueueError, OutboxQueue, SQLiteCache
from tests.damage import DAMAGES, ENTRIES, PAGE, Judge, Verdicts, item_of, make_database
from tests.reporting import fresh_seed, report
from tests.workers.stores import KEY, open_queue
from tests.workers.zygote import Worker, Zygote


@pytest.mark.parametrize(
    "each", [12, pytest.param(500, marks=[pytest.mark.proof, pytest.mark.timeout(7200)])], ids=["some", "many"]
)
async def test_random_damage_is_read_set_aside_or_refused_and_never_believed(
    memory_path: Path, caplog: pytest.LogCaptureFixture, each: int
) -> None:
    data = await make_database(memory_path / "whole.db")
    assert len(data) >= 10 * PAGE
    seed = fresh_seed()
    verdicts = Verdicts()
    for number in range(each):
        for name, damage in DAMAGES.items():
            damaged = bytearray(data)
            damage(damaged, Random(f"{seed} {name} {number}"))
            folder = memory_path / f"{number}"
            folder.mkdir()
            path = folder / "outbox.db"
            path.write_bytes(damaged)
            # Damage that sends a reader in circles must not hang it.
            async with asyncio.timeout(60):
                await Judge(path, f"{name}, {seed} {name} {number}", verdicts).judge(caplog.records)
            shutil.rmtree(folder)
            caplog.clear()
    total = each * len(DAMAGES)
    report(
        f"seed {seed}: {total} damages of {len(DAMAGES)} kinds: {verdicts}; {verdicts.lost.total()} of "
        f"{total * ENTRIES} entries not salvaged; {len(verdicts.faults)} faults",
        memory_path,
    )
    assert not verdicts.faults, "\n".join(verdicts.faults[:20])
    assert verdicts.seen.total() == total
    assert verdicts.seen["salvaged"] >= total // 4
    assert verdicts.seen["quarantined"] >= total // 50
    # A salvage that saves nothing would pass all else. A cut takes what it takes; other damage leaves most pages whole.
    assert verdicts.lost["a garbage header"] == 0
    assert sum(lost for name, lost in verdicts.lost.items() if not name.startswith("a cut")) < total * ENTRIES // 6


def test_a_changed_letter_makes_plain_json_silently_wrong() -> None:
    """What the checksum of a row is for: the changed text is JSON as good as the old."""
    value = [{"id": f"{number:04}", "item": item_of(number), "status": "queued"} for number in range(20)]
    text, rng, believed = json.dumps(value).encode(), Random(1), 0
    for _ in range(100):
        damaged = bytearray(text)
        DAMAGES["a changed letter"](damaged, rng)
        try:
            believed += json.loads(damaged) != value
        except ValueError:
            continue
    assert believed > 50


@pytest.mark.parametrize("status", ["queued", "sending"])
@pytest.mark.parametrize(
    "change",
    [
        """item = '{"n":2}'""",
        "item = CAST(x'ff' AS TEXT)",
        "status = 'failed'",
        "attempts = 7",
        "enqueued_at = 5",
        """more = '"maybeSent":5'""",
        "id = '0099'",
        "key = 'outbox.surveyor'",
        "key = CAST(x'ff' AS TEXT)",
        "owner = CAST(x'ff' AS TEXT)",
        "claim = 'x'",
        "checksum = checksum + 1",
    ],
)
async def test_a_changed_row_is_quarantined_and_hides_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, zygote: Zygote, change: str, status: str
) -> None:
    path = tmp_path / "outbox.db"
    await make_database(path)
    if status == "sending":
        owner = started(zygote, tmp_path)
        owner.tell("open")
        owner.expect("open")
        owner.tell(["claim", "0002"])
        assert owner.expect("claimed") == [True]
        owner.kill()
        owner.wait()
    execute(path, f"UPDATE entries SET {change} WHERE id = '0002'")
    cache = SQLiteCache(path)
    queue = OutboxQueue[Any](cache)
    others = [f"{number:04}" for number in range(ENTRIES) if number != 2]
    for _ in range(2):
        await queue.hydrate(KEY)
        assert [(entry.id, entry.status) for entry in queue.get()] == [(id, "queued") for id in others]
        assert len(queue.status().set_aside) == len(caplog.records) == 1
    kept = await cache.get_item(f"{KEY}.quarantine")
    assert kept is not None
    assert ("plot 2 " in kept) != change.startswith("item")
    assert await queue.enqueue("0002", item_of(2))
    await queue.close()
    cache.close()


async def test_a_name_in_the_schema_that_is_no_text_hides_no_entry(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    data = await make_database(path)
    damaged = data[:PAGE].replace(b"attempts", b"att\xa0mpts") + data[PAGE:]
    assert damaged != data
    path.write_bytes(damaged)
    cache = SQLiteCache(path)
    async with OutboxQueue[Any](cache) as queue:
        await queue.hydrate(KEY)
        assert len(queue.get()) == ENTRIES
        assert len(queue.status().set_aside) == 1
    cache.close()


async def test_what_was_set_aside_is_not_said_of_another_file_that_comes_to_lie_there(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    await make_database(path)
    execute(path, "UPDATE entries SET attempts = 9 WHERE id = '0002'")
    held = SQLiteCache(path)  # what is known of a path is shared by all who hold it
    for damaged in (1, 0):
        cache = SQLiteCache(path)
        queue = OutboxQueue[Any](cache)
        await queue.hydrate(KEY)
        assert len(queue.status().set_aside) == damaged
        await queue.close()
        cache.close()
        path.unlink()
    held.close()


async def test_a_row_that_is_damaged_while_the_queue_is_open_is_set_aside_at_the_next_refresh(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    await make_database(path)
    queue = await open_queue("sqlite", str(tmp_path))
    execute(path, "UPDATE entries SET attempts = 9 WHERE id = '0002'")
    assert await queue.enqueue("fresh", 1)  # the batch with which it comes is not hurt
    assert await queue.enqueue("0002", item_of(2))
    await queue.refresh()
    assert [entry.id for entry in queue.get()].count("0002") == 1
    assert len(queue.get()) == ENTRIES + 1
    assert len(queue.status().set_aside) == 1
    await queue.close()


async def test_a_number_that_is_far_too_high_behind_a_hole_does_not_hold_up_a_salvage(
    tmp_path: Path, zygote: Zygote
) -> None:
    """Between the hole and that number lie more numbers than can ever be tried."""
    path = tmp_path / "outbox.db"
    await make_database(path)
    execute(path, "UPDATE entries SET seq = seq + 9000000000000000000 WHERE id >= '0029'")
    data = bytearray(path.read_bytes())
    at = data.rindex(b"plot 28 ") // PAGE * PAGE
    data[at : at + 100] = b"\xff" * 100
    path.write_bytes(data)
    worker = started(zygote, tmp_path)
    worker.tell("open")
    assert ENTRIES - 30 < len(worker.expect("open")[0]) < ENTRIES


# What is not ours to repair


async def test_another_programs_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    execute(path, "CREATE TABLE plants (name TEXT)")
    await refused(path, "another program's database")


async def test_a_database_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    await make_database(path)
    execute(path, "PRAGMA user_version = 2")
    shutil.rmtree(f"{path}-owners", ignore_errors=True)
    Path(f"{path}-journal").unlink(missing_ok=True)
    await refused(path, "newer version")


async def refused(path: Path, why: str) -> None:
    """It is refused, each time, and nothing in the directory has changed."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    queue = OutboxQueue[Any](SQLiteCache(path))
    for _ in range(2):
        with pytest.raises(CorruptQueueError, match=why):
            await queue.hydrate(KEY)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


async def test_a_directory_in_its_place_is_an_error_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    with pytest.raises(CacheError):
        await OutboxQueue[Any](SQLiteCache(path)).hydrate(KEY)
    assert (path / "notes.txt").read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["outbox.db"]


async def test_a_file_that_is_no_database_is_kept_aside_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "outbox.db"
    path.write_text("dear diary, " * 1000)
    queue = await open_queue("sqlite", str(tmp_path))
    assert queue.get() == []
    assert "outbox.db.corrupt.1" in queue.status().set_aside[0]
    assert "outbox.db.corrupt.1" in caplog.text
    assert (tmp_path / "outbox.db.corrupt.1").read_text() == "dear diary, " * 1000
    await queue.close()


async def test_an_empty_file_is_a_new_outbox(tmp_path: Path) -> None:
    """What a kill between the file and its first transaction leaves; nothing tells it from a file cut to nothing."""
    (tmp_path / "outbox.db").touch(0o600)
    queue = await open_queue("sqlite", str(tmp_path))
    assert (queue.get(), queue.status().set_aside) == ([], ())
    await queue.close()


# Several processes meet the damage


async def test_while_another_process_holds_a_damaged_database_it_is_refused_and_then_salvaged(
    tmp_path: Path, zygote: Zygote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "starfish_outbox.caches.owner._PATIENCE_SECONDS", 0.5
    )  # it waits so long for the other to let go
    path = tmp_path / "outbox.db"
    data = await make_database(path)
    owner = started(zygote, tmp_path)
    owner.tell("open")
    owner.expect("open")
    damaged = bytearray(data)
    DAMAGES["a garbage header"](damaged, Random(1))
    path.write_bytes(damaged)
    queue = OutboxQueue[Any](SQLiteCache(path))
    with pytest.raises(CorruptQueueError, match=f"pid {owner.pid} "):
        await queue.hydrate(KEY)
    assert path.read_bytes() == damaged
    owner.kill()
    owner.wait()
    await queue.hydrate(KEY)
    assert "outbox.db.corrupt.1" in queue.status().set_aside[0]
    assert (tmp_path / "outbox.db.corrupt.1").read_bytes() == damaged
    await queue.close()


@pytest.mark.parametrize("attempt", range(6))
async def test_processes_that_meet_a_damaged_database_at_once_salvage_it_once(
    tmp_path: Path, zygote: Zygote, attempt: int
) -> None:
    data = bytearray(await make_database(tmp_path / "outbox.db"))
    at = data.rindex(b"plot 30 ") // PAGE * PAGE
    data[at : at + 100] = b"\xff" * 100
    (tmp_path / "outbox.db").write_bytes(data)
    seen = together(zygote, tmp_path)
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert ENTRIES - 20 < len(seen[0]) < ENTRIES
    assert len(list(tmp_path.glob("outbox.db.corrupt.?"))) == 1


@pytest.mark.parametrize("attempt", range(6))
async def test_processes_that_meet_bad_rows_at_once_quarantine_them_once(
    tmp_path: Path, zygote: Zygote, attempt: int
) -> None:
    path = tmp_path / "outbox.db"
    await make_database(path)
    execute(path, "UPDATE entries SET attempts = 7 WHERE seq % 10 = 0")
    seen = together(zygote, tmp_path)
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert len(seen[0]) == ENTRIES - 6
    kept = await SQLiteCache(path).get_item(f"{KEY}.quarantine")
    assert len(json.loads(kept or "[]")) == 6


def together(zygote: Zygote, where: Path) -> list[Any]:
    """What four processes find that open the outbox at the same moment."""
    workers = [started(zygote, where) for _ in range(4)]
    for worker in workers:
        worker.tell("open")
    return [worker.expect("open")[0] for worker in workers]


def started(zygote: Zygote, where: Path) -> Worker:
    worker = zygote.start("tests.workers.owners:obey", "sqlite", str(where))
    worker.expect("ready")
    return worker


def execute(path: Path, statement: str) -> None:
    """As another program would, with a connection of its own."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()
