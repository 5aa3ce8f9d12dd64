"""Receipts: what a server answered `http_post` is kept with the delivery, found after a restart, and never made up."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from starfish_outbox import CacheError, OutboxQueue, SQLiteCache, drain_outbox, open_outbox
from starfish_outbox.senders import http_post
from tests.damage import DAMAGES, PAGE
from tests.loopback import Endpoint, serving
from tests.reporting import fresh_seed, report

WHEN = 1_700_000_000_000


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")  # a proxy that the environment names cannot reach this machine's loopback


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    it = Endpoint()
    async with serving(it.handle) as url:
        it.url = f"{url}observations"
        yield it


async def receipt_of(queue: OutboxQueue[Any], id: str) -> Any:
    """What ``history`` tells, and the ledger keeps."""
    (sent,) = await queue.history(id)
    assert sent.event == "sent"
    kept = await queue.ledger.get(id)
    assert kept is not None
    assert sent.detail == (None if kept.receipt is None else json.loads(kept.receipt))
    return sent.detail


async def test_what_the_server_answered_is_told_now_and_after_a_restart(tmp_path: Path, endpoint: Endpoint) -> None:
    expected: dict[str, Any] = {}
    async with open_outbox("ana", tmp_path / "outbox.db") as queue, http_post(endpoint.url) as send:
        for number, concurrency in enumerate((1, 3)):
            ids = [f"{number}-{which}" for which in range(3)]
            endpoint.answers(201, b'{"number": 1.50, "of": ["\xc3\xa9"]}', Location=f"/observations/{number}")
            await queue.enqueue_many([(id, 1) for id in ids])
            assert (await drain_outbox(queue, send, receipts=True, concurrency=concurrency)).sent == 3
            answer = {"status": 201, "answer": {"number": 1.5, "of": ["é"]}, "location": f"/observations/{number}"}
            expected |= dict.fromkeys(ids, answer)
        await queue.enqueue("unasked", 1)
        await drain_outbox(queue, send)
        expected["unasked"] = None
        assert {id: await receipt_of(queue, id) for id in expected} == expected
    async with open_outbox("ana", tmp_path / "outbox.db") as queue:
        assert {id: await receipt_of(queue, id) for id in expected} == expected


@pytest.mark.parametrize(
    ("body", "headers", "answer"),
    [
        (b"", {}, None),
        (b"null", {}, None),
        (b"stored, thank you\x1b[31m\n", {}, "stored, thank you [31m"),
        (b"\xff\xfe", {}, "��"),
        (b'{"n": NaN}', {}, '{"n": NaN}'),
        (b"9007199254740993", {}, "9007199254740993"),
        (b"[" * 2000, {}, "[" * 200),
        (json.dumps("x" * 7_998).encode(), {}, "x" * 7_998),
        (json.dumps("x" * 7_999).encode(), {}, '"' + "x" * 199),
        (b"noise", {"Content_Encoding": "br"}, None),
    ],
    ids=["empty", "null", "words", "no UTF-8", "NaN", "big", "deep", "8,000 bytes", "8,001 bytes", "packed"],
)
async def test_an_answer_that_is_no_short_json_is_kept_in_its_first_words(
    tmp_path: Path, endpoint: Endpoint, body: bytes, headers: dict[str, str], answer: Any
) -> None:
    endpoint.answers(200, body, **headers)
    async with open_outbox("ana", tmp_path / "outbox.db") as queue, http_post(endpoint.url) as send:
        await queue.enqueue("a", 1)
        assert (await drain_outbox(queue, send, receipts=True)).sent == 1
        assert await receipt_of(queue, "a") == {"status": 200, "answer": answer}


async def test_the_largest_receipt_fits_whatever_the_server_says(
    tmp_path: Path, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """JSON writes some characters with six: the answer is measured as it is kept, and the place is short."""
    for body in (json.dumps("\x01" * 7_000), json.dumps("é" * 3_999), json.dumps("é" * 3_999, ensure_ascii=False)):
        endpoint.answers(201, body.encode(), Location="/" + "%C3%A9" * 5_000)
        async with open_outbox("ana", tmp_path / f"{len(body)}.db") as queue, http_post(endpoint.url) as send:
            await queue.enqueue("a", 1)
            assert (await drain_outbox(queue, send, receipts=True)).sent == 1
            kept = await receipt_of(queue, "a")
            assert kept["status"] == 201
            assert len(kept["location"]) == 200
    assert caplog.records == []


async def make_receipts(path: Path, count: int) -> dict[str, Any]:
    """A database with as many deliveries, and what was answered to each."""
    cache = SQLiteCache(path, ledger=True)
    queue = OutboxQueue[Any](cache, clock=lambda: WHEN)
    await queue.hydrate("outbox.ana")
    answers = {f"{number:03}": {"status": 201, "answer": f"plot {number} " * 9} for number in range(count)}
    await queue.enqueue_many([(id, 1) for id in answers])
    await drain_outbox(queue, lambda entry: answers[entry.id], receipts=True)
    await queue.enqueue_many([(f"live {number}", number) for number in range(40)])
    await queue.close()
    cache.close()
    return answers


async def test_a_receipt_that_was_changed_on_disk_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    answers = await make_receipts(path, 4)
    changes = ("replace(receipt, 'plot 0', 'plot 9')", "CAST(x'22ff22' AS TEXT)", "x'00'")
    with closing(sqlite3.connect(path)) as connection, connection:
        for number, change in enumerate(changes):
            changed = connection.execute(f"UPDATE receipts SET receipt = {change} WHERE id = '{number:03}'")
            assert changed.rowcount == 1
    async with open_outbox("ana", path, clock=lambda: WHEN) as queue:
        told = {id: await receipt_of(queue, id) for id in answers}
    assert told == {"000": None, "001": None, "002": None, "003": answers["003"]}


async def test_a_delivery_of_which_damage_left_nonsense_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    await make_receipts(path, 3)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE ledger SET sha256 = 7 WHERE id = '000'")
        connection.execute("UPDATE ledger SET sent_at = 'never' WHERE id = '001'")
    async with open_outbox("ana", path, clock=lambda: WHEN) as queue:
        assert [len(await queue.history(id)) for id in ("000", "001", "002")] == [0, 0, 1]


async def test_a_damaged_database_keeps_receipts_or_loses_them_and_never_tells_another(
    memory_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each kind of damage, some times."""
    caplog.set_level(logging.CRITICAL)
    answers = await make_receipts(memory_path / "whole.db", 120)
    data = (memory_path / "whole.db").read_bytes()
    assert b"plot 7 plot" in data  # as text, so that damage can hit it
    assert len(data) > 10 * PAGE
    seed, seen, made_up = fresh_seed(), Counter[str](), 0
    each = 4
    for name, damage in DAMAGES.items():
        for number in range(each):
            damaged = bytearray(data)
            damage(damaged, Random(f"{seed} {name} {number}"))
            path = memory_path / f"{name} {number}.db"
            path.write_bytes(damaged)
            made_up += await judge(path, answers, seen)
    total = each * len(DAMAGES)
    report(
        f"seed {seed}: {total} damaged databases with {len(answers)} receipts each: {dict(seen)}; "
        f"{made_up} had a changed receipt in the table, which without its checksum would have been told",
        memory_path,
    )
    assert seen["another"] == 0
    assert seen["kept"] > total * len(answers) // 3  # cuts and damaged headers take them all
    assert seen["lost"] > 0


async def judge(path: Path, answers: dict[str, Any], seen: Counter[str]) -> bool:
    """Count what became of each receipt; whether the table holds one that is JSON and was never answered."""
    cache = SQLiteCache(path)
    queue = OutboxQueue[Any](cache, clock=lambda: WHEN)
    try:
        await queue.hydrate("outbox.ana")
        for id, answer in answers.items():
            sent = [event.detail for event in await queue.history(id) if event.event == "sent"]
            known = "kept" if sent == [answer] else "lost" if sent in ([None], []) else "another"
            seen[known] += 1
    except CacheError:
        seen["refused"] += 1
    finally:
        await queue.close()
        cache.close()
    return any_made_up(path, answers)


def any_made_up(path: Path, answers: dict[str, Any]) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        try:
            rows = connection.execute("SELECT id, receipt FROM receipts").fetchall()
        except sqlite3.DatabaseError:
            return False  # the table is lost
    for id, receipt in rows:
        try:
            if id.decode() in answers and json.loads(receipt) != answers[id.decode()]:
                return True
        except (ValueError, AttributeError, TypeError):
            continue
    return False
