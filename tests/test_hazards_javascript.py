"""HAZARDS 1.3, row by row: items made in JavaScript, stored as its ``JSON.stringify`` stores them."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from starfish_outbox import OutboxEntry, drain_outbox
from tests.conftest import KEY, Opener, Place
from tests.reading_cases import ONE, TWO, compact, entry, same

on_three = pytest.mark.parametrize("place", ["memory", "file", "sqlite"], indirect=True)

# JavaScript that makes the item, and what Python reads: T1, T4, T5 and T6 of HAZARDS.
IN_JAVASCRIPT: dict[str, tuple[str, Any]] = {
    "T1-undefined": ("undefined", None),
    "T1-function": ("() => 1", None),
    "T1-symbol": ("Symbol('a')", None),
    "T1-toJSON-undefined": ("({toJSON() { return undefined; }})", None),
    "T4-NaN": ("[NaN, Infinity, -Infinity]", [None, None, None]),
    "T4-invalid-Date": ("new Date(NaN)", None),
    "T4-holes": ("[undefined, () => 1, , 1]", [None, None, None, 1]),
    "T5-Map": ("({map: new Map([[1, 2]]), set: new Set([1]), re: /a/})", {"map": {}, "set": {}, "re": {}}),
    "T5-Error": ("[new Error('a'), Promise.resolve(1), new ArrayBuffer(2)]", [{}, {}, {}]),
    "T6-Uint8Array": ("new Uint8Array([7, 8])", {"0": 7, "1": 8}),
    "T6-Buffer": ("Buffer.from('a')", {"type": "Buffer", "data": [97]}),
    "T6-Date": ("new Date(0)", "1970-01-01T00:00:00.000Z"),
    "T6-class": ("new (class { a = 1; })()", {"a": 1}),
    "T6-minus-zero": ("-0", 0),
    "T6-numbers": ("[1e21, 123456789012345680000, 5e-324, 0.1]", [1e21, 123456789012345680000.0, 5e-324, 0.1]),
}


@pytest.fixture(scope="module")
def stored_by_javascript() -> dict[str, str]:
    """What ``JSON.stringify`` makes of an entry with each of the items above, and of those of T2, T7 and T8."""
    entries = {name: f"{{...plain, item: {item}}}" for name, (item, _) in IN_JAVASCRIPT.items()}
    entries |= {
        "T2-ts-NaN": "{...plain, enqueuedAt: NaN}",
        "T2-ts-Date": "{...plain, enqueuedAt: new Date(0)}",
        "T7-depth-993": "{...plain, item: deep(993)}",
        "T7-depth-4000": "{...plain, item: deep(4000)}",
        "T8-id-undefined": "{...plain, id: undefined}",
    }
    script = (
        'const plain = {id: "x", item: 1, status: "queued", attempts: 0, enqueuedAt: 5};'
        "const deep = (levels) => { let value = 0; while (levels--) value = [value]; return value; };"
        f"const entries = {{{','.join(f'{json.dumps(name)}: {made}' for name, made in entries.items())}}};"
        "const texts = Object.entries(entries).map(([name, entry]) => [name, JSON.stringify(entry)]);"
        "process.stdout.write(JSON.stringify(Object.fromEntries(texts)));"
    )
    node = shutil.which("node")
    assert node is not None, "these tests need Node: they read what it stores"
    done = subprocess.run([node, "-e", script], check=True, capture_output=True, timeout=30)
    texts: dict[str, str] = json.loads(done.stdout)
    assert texts.keys() == entries.keys()
    return texts


@on_three
@pytest.mark.parametrize(
    ("name", "expected"), [pytest.param(name, value, id=name) for name, (_, value) in IN_JAVASCRIPT.items()]
)
async def test_an_item_that_javascript_stored_is_read_and_sent(
    name: str, expected: Any, place: Place, opened: Opener, stored_by_javascript: dict[str, str]
) -> None:
    await place.put(KEY, f"[{ONE},{stored_by_javascript[name]},{TWO}]")
    queue = await opened(place.cache)
    sent: dict[str, Any] = {}

    async def send(entry: OutboxEntry[Any]) -> None:
        sent[entry.id] = entry.item

    assert (await drain_outbox(queue, send)).sent == 3
    assert same(sent, {"one": 1, "x": expected, "two": 1})
    assert bool(queue.status().set_aside) == name.startswith("T1")


@on_three
@pytest.mark.parametrize("name", ["T2-ts-NaN", "T2-ts-Date", "T7-depth-993", "T7-depth-4000"])
async def test_a_time_or_a_depth_that_javascript_stored_costs_no_entry(
    name: str, place: Place, opened: Opener, stored_by_javascript: dict[str, str]
) -> None:
    await place.put(KEY, f"[{ONE},{stored_by_javascript[name]},{TWO}]")
    queue = await opened(place.cache)
    assert [(entry.id, entry.enqueued_at) for entry in queue.get()] == [
        ("one", 5),
        ("x", 0 if name.startswith("T2") else 5),
        ("two", 5),
    ]
    assert bool(queue.status().set_aside) == name.startswith("T2")
    await queue.remove("one")
    kept = stored_by_javascript[name] if name.startswith("T7") else compact(entry(enqueuedAt=0))
    assert await place.text(KEY) == f"[{kept},{TWO}]"


@on_three
async def test_t8_an_entry_that_javascript_stored_without_an_id_is_quarantined(
    place: Place, opened: Opener, stored_by_javascript: dict[str, str]
) -> None:
    without = stored_by_javascript["T8-id-undefined"]
    await place.put(KEY, f"[{ONE},{without},{TWO}]")
    queue = await opened(place.cache)
    assert [entry.id for entry in queue.get()] == ["one", "two"]
    assert [element["text"] for element in json.loads(await place.text(f"{KEY}.quarantine") or "[]")] == [without]


@on_three
async def test_t3_what_javascript_could_not_store_leaves_the_older_text_which_is_read(
    place: Place, opened: Opener
) -> None:
    await place.put(KEY, f"[{ONE},{compact(entry(status='sending'))}]")
    queue = await opened(place.cache)
    assert [(entry.id, entry.status) for entry in queue.get()] == [("one", "queued"), ("x", "queued")]
