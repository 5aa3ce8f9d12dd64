"""Two languages, one queue: the published TypeScript package under Node and ours on the same files and databases."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest

from starfish_outbox import FileCache, OutboxQueue, QueueLockedError, SQLiteCache
from starfish_outbox.caches.file import file_name
from starfish_outbox.conformance.driver import Driver, Request
from tests.interop import INTEROP, node, python_driver, typescript_driver
from tests.reporting import report

KEY = "outbox.ana"
ITEMS: list[Any] = [
    {"species": "Adélie", "mass_g": 3750, "sexed": True, "notes": None},
    [1.5, -0.25, 1e21, 5e-324, 2**53 - 1],
    'line\u2028separator, quote" and 😀',
    {"__proto__": {"a": 1}, "toJSON": "x", "": []},
    0,
]
FOREIGN = (
    '{"id":"theirs","item":1,"status":"queued","attempts":2,"enqueuedAt":5,"note":{"by":"another program"},"p":0.5}'
)


@pytest.fixture(scope="module")
def typescript() -> Iterator[Driver]:
    with typescript_driver() as driver:
        yield driver


def cache_of(store: str, path: Path) -> FileCache | SQLiteCache:
    return FileCache(path) if store == "files" else SQLiteCache(path)


@pytest.mark.parametrize("store", ["files", "sqlite"])
async def test_typescript_drains_what_python_wrote_and_python_finds_the_rest_untouched(
    store: Literal["files", "sqlite"], tmp_path: Path, typescript: Driver
) -> None:
    path = tmp_path / "outbox.db"
    cache = cache_of(store, path)
    await cache.set_item(KEY, f"[{FOREIGN}]")
    async with OutboxQueue[Any](cache) as queue:
        await queue.hydrate(KEY)
        for number, item in enumerate(ITEMS):
            assert await queue.enqueue(f"id-{number}", item, ts=1_700_000_000_000 + number)
        before = queue.get()
    cache.close()

    outcomes = {"id-0": ["error"], "theirs": ["error"], "id-2": ["error"]}
    opened, hydrated, drained, closed = typescript.ask_many(
        [
            {"op": "open", "store": store, "path": str(path)},
            {"op": "hydrate", "key": KEY, "look": KEY},
            {"op": "drain", "maxAttempts": 3, "outcomes": outcomes, "look": KEY},
            {"op": "close"},
        ]
    )
    assert [answer.error for answer in (opened, hydrated, drained, closed)] == [None] * 4
    assert hydrated.text == hydrated.entries
    assert json.loads(hydrated.entries or "") == [entry.to_dict() for entry in before]
    assert [json.loads(sent)["id"] for sent in drained.value["sends"]] == [entry.id for entry in before]

    async with OutboxQueue[Any](cache) as queue:
        await queue.hydrate(KEY)
        after = {entry.id: entry for entry in queue.get()}
    cache.close()
    assert list(after) == ["theirs", "id-0", "id-2"]
    assert after["theirs"].extra == {"note": {"by": "another program"}, "p": 0.5}
    assert (after["theirs"].status, after["theirs"].attempts) == ("failed", 3)
    assert (after["id-0"].status, after["id-0"].attempts) == ("queued", 1)
    assert (after["id-0"].item, after["id-2"].item) == (ITEMS[0], ITEMS[2])
    assert after["id-2"].enqueued_at == 1_700_000_000_002


async def test_a_text_that_node_reads_from_the_rows_is_the_one_that_python_reads(
    tmp_path: Path, typescript: Driver
) -> None:
    """Every kind of row: foreign statuses, ids and times, a claim, numbers that the two languages spell differently."""
    path = tmp_path / "outbox.db"
    cache = SQLiteCache(path)
    elements = [
        FOREIGN,
        '{"id":"\\ud800\'","item":[1e-7,1e21],"status":"paused","attempts":0,"enqueuedAt":1700000000000.75}',
        '{"id":"b","item":"é\u2028","status":{"it\'s":"no \\"string\\"\\n"},"attempts":9,"enqueuedAt":1.5e-7}',
        '{"id":"c","item":{},"status":"\\udfff","attempts":9,"enqueuedAt":1e300}',
        '{"id":7,"item":{},"status":"queued","attempts":0,"enqueuedAt":5}',
        '{"id":"claimed","item":null,"status":"queued","attempts":0,"enqueuedAt":0}',
    ]
    await cache.set_item(KEY, f"[{','.join(elements)}]")
    async with OutboxQueue[Any](cache) as queue:
        await queue.hydrate(KEY)
        assert await queue.claim("claimed")
        text = await cache.get_item(KEY)
        answer = typescript.ask_many(
            [{"op": "open", "store": "sqlite", "path": str(path)}, {"op": "text", "key": KEY}, {"op": "close"}]
        )[1]
    cache.close()
    assert text is not None
    assert '"status":"sending"' in text
    assert (answer.error, answer.value) == (None, text)


async def test_a_damaged_row_is_refused_by_node_and_nothing_is_written_over_it(
    tmp_path: Path, typescript: Driver
) -> None:
    path = tmp_path / "outbox.db"
    cache = SQLiteCache(path)
    async with OutboxQueue[Any](cache) as queue:
        await queue.hydrate(KEY)
        await queue.enqueue("a", 1)
        await queue.enqueue("b", 2)
    cache.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET item = '3' WHERE id = 'b'")
    connection.close()
    _, text, hydrated, enqueued, _ = typescript.ask_many(
        [
            {"op": "open", "store": "sqlite", "path": str(path)},
            {"op": "text", "key": KEY},
            {"op": "hydrate", "key": KEY},
            {"op": "enqueue", "id": "c", "item": "3"},
            {"op": "close"},
        ]
    )
    assert text.error is not None
    assert "checksum" in text.error.message
    assert hydrated.error is None, "the package goes on with an empty queue when its cache throws (HAZARDS C1)"
    assert enqueued.error is not None
    assert "not written over" in enqueued.error.message
    async with OutboxQueue[Any](cache) as queue:
        await queue.hydrate(KEY)
        assert [entry.id for entry in queue.get()] == ["a"]
        assert "checksum" in " ".join(queue.status().set_aside)
    cache.close()


async def test_node_writes_nothing_and_sends_nothing_while_python_has_the_database_open(
    tmp_path: Path, typescript: Driver
) -> None:
    path = tmp_path / "outbox.db"
    cache = SQLiteCache(path)
    async with OutboxQueue[Any](cache) as queue:
        await queue.hydrate(KEY)
        await queue.enqueue("a", 1)
        _, hydrated, drained, enqueued, _ = typescript.ask_many(
            [
                {"op": "open", "store": "sqlite", "path": str(path)},
                {"op": "hydrate", "key": KEY},
                {"op": "drain"},
                {"op": "enqueue", "id": "b", "item": "2"},
                {"op": "close"},
            ]
        )
        assert hydrated.error is None
        for refused in (drained, enqueued):
            assert refused.error is not None
            assert refused.error.kind == "locked"
            assert f"pid {os.getpid()} " in refused.error.message
        await queue.refresh()
        assert [(entry.id, entry.status) for entry in queue.get()] == [("a", "queued")]
    cache.close()


async def test_node_does_not_write_over_what_python_added_after_it_read(tmp_path: Path, typescript: Driver) -> None:
    path = tmp_path / "outbox.db"
    cache = SQLiteCache(path)
    await cache.set_item(KEY, "[]")
    cache.close()
    typescript.ask("open", store="sqlite", path=str(path))
    typescript.ask("hydrate", key=KEY)
    async with OutboxQueue[Any](cache) as queue:
        await queue.hydrate(KEY)
        await queue.enqueue("python", 1)
    cache.close()
    refused = typescript.ask("enqueue", id="node", item="2", look=KEY)
    typescript.ask("close")
    assert refused.error is not None
    assert "changed by another program" in refused.error.message
    assert [entry["id"] for entry in json.loads(refused.text or "")] == ["python"]


@pytest.mark.parametrize("rounds", [30, pytest.param(600, marks=[pytest.mark.proof, pytest.mark.timeout(600)])])
def test_what_was_acknowledged_stays_while_three_programs_open_one_database_again_and_again(
    rounds: int, tmp_path: Path
) -> None:
    """Whoever finds the database open elsewhere is refused; nobody writes over what another one added meanwhile."""
    opening: Request = {"op": "open", "store": "sqlite", "path": str(tmp_path / "outbox.db")}
    hydrating: Request = {"op": "hydrate", "key": KEY}

    def enqueue_all(driver: Driver, name: str, times: int = rounds) -> list[str]:
        acknowledged = []
        for number in range(times):
            id = f"{name}-{number}"
            steps = [opening, hydrating, {"op": "enqueue", "id": id, "item": "1"}, {"op": "close"}]
            if not any(answer.error for answer in driver.ask_many(steps)):
                acknowledged.append(id)
        return acknowledged

    with python_driver() as ours, typescript_driver() as first, typescript_driver() as second:
        ours.ask_many([opening, hydrating, {"op": "close"}])
        with ThreadPoolExecutor() as pool:
            acknowledged = list(pool.map(enqueue_all, (ours, first, second), ("python", "first", "second")))
        acknowledged.append(enqueue_all(first, "alone", 1))
        found = ours.ask_many([opening, {**hydrating, "look": KEY}, {"op": "close"}])[1]
    report(f"acknowledged of {rounds} each: {[len(ids) for ids in acknowledged]}", tmp_path)
    assert set(itertools.chain(*acknowledged)) <= {entry["id"] for entry in json.loads(found.text or "")}
    assert acknowledged[0]
    assert acknowledged[3] == ["alone-0"]


async def test_node_holds_the_key_against_python_also_while_it_is_stopped_until_it_is_killed(tmp_path: Path) -> None:
    with typescript_driver() as driver:
        driver.ask("open", store="files", path=str(tmp_path))
        driver.ask("hydrate", key=KEY)
        driver.ask("enqueue", id="a", item="1")
        cache = FileCache(tmp_path)
        queue = OutboxQueue[Any](cache)
        try:
            for stop in (False, True):
                if stop:
                    os.kill(driver.pid, signal.SIGSTOP)
                with pytest.raises(QueueLockedError) as caught:
                    await queue.hydrate(KEY)
                assert caught.value.owner.startswith(f"pid {driver.pid} on ")
        finally:
            os.kill(driver.pid, signal.SIGKILL)
        await _until_ended(driver)
        await queue.hydrate(KEY)
        assert [entry.id for entry in queue.get()] == ["a"]
        await queue.close()
        cache.close()


async def test_python_holds_the_key_against_node_also_while_it_is_stopped_until_it_is_killed(
    tmp_path: Path, typescript: Driver
) -> None:
    with python_driver() as driver:
        driver.ask("open", store="files", path=str(tmp_path))
        driver.ask("hydrate", key=KEY)
        driver.ask("enqueue", id="a", item="1")
        typescript.ask("open", store="files", path=str(tmp_path))
        try:
            for stop in (False, True):
                if stop:
                    os.kill(driver.pid, signal.SIGSTOP)
                refused = typescript.ask("hydrate", key=KEY)
                assert refused.error is not None
                assert refused.error.kind == "locked"
                assert f"pid {driver.pid} on " in refused.error.message
        finally:
            os.kill(driver.pid, signal.SIGKILL)
        await _until_ended(driver)
    hydrated = typescript.ask("hydrate", key=KEY, look=KEY)
    typescript.ask("close")
    assert hydrated.error is None
    assert [entry["id"] for entry in json.loads(hydrated.entries or "")] == ["a"]


async def _until_ended(driver: Driver) -> None:
    """A killed process is gone only when it was waited for, which its driver object does."""
    await asyncio.to_thread(driver.close)


CARELESS = """
import { createOutboxQueue } from "@drakkar.software/starfish-outbox";
import { FileCache } from "./caches/file-cache.mjs";
const queue = createOutboxQueue(new FileCache(process.argv[1]));
await queue.hydrate("outbox.ana");
console.log(queue.get().length);
try {
  queue.enqueue("careless", 1);
} catch (error) {
  console.log(error.name, error.owner);
}
"""


async def test_a_careless_program_that_hydrates_a_locked_key_is_told_at_its_first_write(tmp_path: Path) -> None:
    cache = FileCache(tmp_path)
    async with OutboxQueue[Any](cache) as queue:
        await queue.hydrate(KEY)
        await queue.enqueue("precious", 1)
        before = cache.path(KEY).read_bytes()
        said = subprocess.run(
            [node(), "--input-type=module", "--eval", CARELESS, str(tmp_path)],
            cwd=INTEROP,
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.split() == ["0", "QueueLockedError", "pid", str(os.getpid()), "on", os.uname().nodename]
        assert cache.path(KEY).read_bytes() == before
    cache.close()


def random_key(rng: random.Random) -> str:
    ranges = (
        (0x20, 0x7F),
        (0x20, 0x7F),
        (0, 0x20),
        (0x80, 0x800),
        (0x800, 0xFFFF),
        (0xD800, 0xE000),
        (0x10000, 0x110000),
    )
    shape = [rng.choice(ranges) for _ in range(rng.randrange(1, 5))]
    key = "".join(chr(rng.randrange(*rng.choice(shape))) for _ in range(rng.choice((1, 2, 3, 10, 60, 181, 400))))
    # Python keeps two surrogates apart that JavaScript takes for one character.
    return key.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass" if _lone(key) else "strict")


def _lone(key: str) -> bool:
    try:
        key.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return True
    return False


def test_both_languages_give_every_key_the_same_file_name() -> None:
    rng = random.Random(3)
    special = [
        "outbox.Ana",
        "..",
        ".",
        "con",
        "CON",
        "aux.json",
        "com1",
        "lpt9.x",
        "a.quarantine",
        "a.corrupt.12",
        "A" * 200,
    ]
    special += [
        "x" * 180,
        "x" * 181,
        "\ud800",
        "\udfff\ud800",
        "é" * 100,
        "a/b\\c:d",
        "a.json",
        "nul.",
        "~",
        "a.quarantine ",
    ]
    keys = [*special, *(random_key(rng) for _ in range(5000))]
    code = (
        'import { fileName } from "./caches/file-cache.mjs";'
        'import { readFileSync } from "node:fs";'
        'console.log(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(fileName)));'
    )
    said = subprocess.run(
        [node(), "--input-type=module", "--eval", code],
        cwd=INTEROP,
        input=json.dumps(keys),
        capture_output=True,
        text=True,
        check=True,
    )
    names = json.loads(said.stdout)
    assert names == [file_name(key) for key in keys]
    assert len({name.casefold() for name in names}) == len(set(keys))
    assert max(len(name) for name in names) <= 255
