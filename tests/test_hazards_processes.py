"""HAZARDS 1.4, rows C16 to C21: processes that end, are killed or share a store; threads. A test names its row."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox import FileCache, OutboxEntry, OutboxQueue, QueueLockedError, SQLiteCache, drain_outbox
from tests.conftest import KEY
from tests.gates import array, ids
from tests.outbox_child import cache_of

ROOT = Path(__file__).parents[1]
STORES = ["file", "sqlite"]


def child(store: str, path: Path, what: str, argument: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.outbox_child", store, str(path), what, argument],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def said(process: subprocess.Popen[str]) -> list[str]:
    out, _ = process.communicate(timeout=60)
    return out.split("\n")[:-1]


def place_of(store: str, folder: Path) -> Path:
    return folder / ("files" if store == "file" else "outbox.db")


async def entries_of(store: str, path: Path) -> list[OutboxEntry[Any]]:
    async with OutboxQueue[Any](cache_of(store, path)) as queue:
        await queue.hydrate(KEY)
        return queue.get()


@pytest.mark.parametrize("store", STORES)
async def test_c16_a_process_that_ends_right_after_an_enqueue_has_stored_it(store: str, tmp_path: Path) -> None:
    path = place_of(store, tmp_path)
    for id in ("older", "newer"):
        with child(store, path, "enqueue_and_die", id) as process:
            assert said(process) == [f"stored {id}"]
    assert [entry.id for entry in await entries_of(store, path)] == ["older", "newer"]


async def test_c17_a_file_can_be_parsed_at_every_moment_of_many_enqueues_in_one_tick(tmp_path: Path) -> None:
    cache = FileCache(tmp_path)
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)
    await queue.enqueue("first", 1)
    done, lengths = threading.Event(), list[int]()

    def read() -> None:
        while not done.is_set():
            lengths.append(len(json.loads(cache.path(KEY).read_text("utf-8"))))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for n in range(10):
            await asyncio.gather(*(queue.enqueue(f"e{n}.{m}", "x" * 5000) for m in range(30)))
    finally:
        done.set()
        reader.join(10)
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 2  # it read while the file was growing
    assert len(ids(cache.path(KEY).read_text("utf-8"))) == 301
    await queue.close()


@pytest.mark.parametrize("store", STORES)
async def test_c18_a_kill_while_a_large_queue_is_written_loses_nothing_acknowledged(store: str, tmp_path: Path) -> None:
    path, chance = place_of(store, tmp_path), random.Random(18)
    async with OutboxQueue[Any](cache_of(store, path)) as queue:
        await queue.hydrate(KEY)
        await queue.enqueue_many([(f"large{n}", "x" * 100_000) for n in range(12)])  # 1.2 MB
    acknowledged = {f"large{n}" for n in range(12)}
    kills = 0
    for attempt in range(6):
        with child(store, path, "fill", f"k{attempt}.,1000,10") as process:
            assert process.stdout is not None
            acknowledged.add(process.stdout.readline().strip())  # it is writing
            time.sleep(chance.uniform(0, 0.05))  # a moment is what is sampled here
            process.send_signal(signal.SIGKILL)
            acknowledged |= set(said(process))
            kills += process.returncode == -signal.SIGKILL
        found = {entry.id for entry in await entries_of(store, path)}
        assert acknowledged - {""} <= found
    assert kills == 6


@pytest.mark.parametrize("writers", [2, 3])
async def test_c19_several_processes_on_one_database_lose_nothing(tmp_path: Path, writers: int) -> None:
    path = place_of("sqlite", tmp_path)
    processes = [child("sqlite", path, "fill", f"p{n}.,100,20") for n in range(writers)]
    for n, process in enumerate(processes):
        with process:
            assert said(process) == [f"p{n}.{m}" for m in range(100)]
    found = [entry.id for entry in await entries_of("sqlite", path)]
    assert sorted(found) == sorted(f"p{n}.{m}" for n in range(writers) for m in range(100))


async def test_c19_a_second_process_on_the_same_files_is_refused_and_told_who_owns_them(tmp_path: Path) -> None:
    path = place_of("file", tmp_path)
    async with OutboxQueue[Any](FileCache(path)) as queue:
        await queue.hydrate(KEY)
        await queue.enqueue("mine", 1)
        with child("file", path, "fill", "theirs,1,1") as process:
            (line,) = said(process)
        assert line.startswith(f"locked by pid {os.getpid()} on ")
        assert await queue.enqueue("mine too", 1)
    with child("file", path, "fill", "theirs,1,1") as process:
        assert said(process) == ["theirs0"]
    assert [entry.id for entry in await entries_of("file", path)] == ["mine", "mine too", "theirs0"]


async def test_c19_a_killed_owner_gives_the_files_back_at_once(tmp_path: Path) -> None:
    path = place_of("file", tmp_path)
    with child("file", path, "fill", "k,100000,10") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "k0\n"
        with pytest.raises(QueueLockedError) as caught:
            await entries_of("file", path)
        assert f"pid {process.pid} " in caught.value.owner
        process.kill()
        process.wait()
        assert (await entries_of("file", path))[0].id == "k0"


async def test_c20_two_processes_that_drain_one_database_send_each_entry_once(tmp_path: Path) -> None:
    path, log = place_of("sqlite", tmp_path), tmp_path / "remote"
    async with OutboxQueue[Any](SQLiteCache(path)) as queue:
        await queue.hydrate(KEY)
        await queue.enqueue_many([(f"e{n}", n) for n in range(60)])
        processes = [child("sqlite", path, "drain", str(log)) for _ in range(2)]
        sent = 0
        for process in processes:
            with process:
                line = said(process)[-1].split()
                assert line[0] == "sent"
                sent += int(line[1])
        assert sent == 60
        assert sorted(log.read_text("utf-8").split("\n")[:-1]) == sorted(f"e{n} first" for n in range(60))
        await queue.refresh()
        assert queue.get() == []


async def test_c20_a_node_program_that_takes_no_lock_is_noticed_and_not_written_over(tmp_path: Path) -> None:
    """What a TypeScript app with a file cache of its own does: read, append, write."""
    node = shutil.which("node")
    assert node is not None
    cache = FileCache(tmp_path)
    async with OutboxQueue[Any](cache) as queue:
        await queue.hydrate(KEY)
        await queue.enqueue("python1", 1)
        script = (
            "const fs = require('fs'); const [file, add] = process.argv.slice(1);"
            "const all = JSON.parse(fs.readFileSync(file, 'utf8')); all.push(...JSON.parse(add));"
            "fs.writeFileSync(file, JSON.stringify(all))"
        )
        subprocess.run([node, "-e", script, str(cache.path(KEY)), array("node1")], check=True, timeout=60)
        assert await queue.enqueue("python2", 1)
        assert sorted(ids(cache.path(KEY).read_text("utf-8"))) == ["node1", "python1", "python2"]
        assert any("without the lock" in line for line in queue.status().set_aside)
        sent: list[str] = []
        assert (await drain_outbox(queue, lambda entry: sent.append(entry.id))).sent == 3
        assert sorted(sent) == ["node1", "python1", "python2"]


@pytest.mark.parametrize("store", STORES)
async def test_c21_a_queue_used_from_a_second_thread_raises_and_four_threads_with_their_own_lose_nothing(
    store: str, tmp_path: Path
) -> None:
    path, errors = place_of(store, tmp_path), list[BaseException]()
    cache = cache_of(store, path)
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)

    async def borrowed() -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            await queue.enqueue("stray", 1)
        with pytest.raises(RuntimeError, match="another event loop"):
            await drain_outbox(queue, lambda _: None)

    async def own(n: int) -> None:
        async with OutboxQueue[Any](cache) as mine:
            await mine.hydrate(KEY)
            for m in range(40):
                assert await mine.enqueue(f"t{n}.{m}", m)

    def thread(work: Any) -> threading.Thread:
        def run() -> None:
            try:
                asyncio.run(work)
            except BaseException as error:  # noqa: BLE001  # told to the test, which fails
                errors.append(error)

        return threading.Thread(target=run)

    threads = [thread(borrowed()), *(thread(own(n)) for n in range(4))]
    for one in threads:
        one.start()
    for one in threads:
        await asyncio.to_thread(one.join, 60)
    assert errors == []
    await queue.refresh()
    found = [entry.id for entry in queue.get()]
    assert sorted(found) == sorted(f"t{n}.{m}" for n in range(4) for m in range(40))
    assert sorted(ids(await cache.get_item(KEY))) == sorted(found)
    await queue.close()
