"""What another program writes without the lock while an entry is being sent: whose item counts, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any, TypeAlias

import pytest

from starfish_outbox import OutboxEntry, drain_outbox
from starfish_outbox.entry import Claim, Replacement, StoredEntry
from starfish_outbox.transitions import merged
from tests.conftest import KEY, Opener, Place

Merge: TypeAlias = Callable[[StoredEntry, StoredEntry], StoredEntry]

TOKEN = Claim("0" * 32, 1, 1, "drain", 50)


def entry(
    item: str, at: float, status: str = "queued", *, waits: tuple[str, int] | None = None, claimed: bool = False
) -> StoredEntry:
    waiting = None if waits is None else Replacement(*waits)
    return StoredEntry(7, "a", item, status, 2, at, replacement=waiting, claim=TOKEN if claimed else None)


def told(entry: StoredEntry) -> tuple[str, float, str, tuple[str, int] | None]:
    """Item, age, status, and what waits."""
    return (entry.item, entry.enqueued_at, entry.status, entry.replacement)


SENDING = {"status": "sending", "claimed": True}
OURS: dict[str, dict[str, Any]] = {
    "waits": {},
    "was replaced": {"item": "2", "at": 20},
    "is sent": SENDING,
    "is sent, a newer one waits": {**SENDING, "waits": ("2", 20)},
}
THEIRS: dict[str, dict[str, Any]] = {
    "is the one we know": {},
    "was tried and parked": {"status": "failed"},
    "is being sent": {"status": "sending"},
    "is older and another": {"item": "3", "at": 5},
    "is younger and another": {"item": "3", "at": 30},
    "is younger and the same": {"at": 30},
}

TABLE: dict[tuple[str, str], tuple[str, float, str, tuple[str, int] | None]] = {
    ("waits", "is the one we know"): ("1", 10, "queued", None),
    ("waits", "was tried and parked"): ("1", 10, "failed", None),
    ("waits", "is being sent"): ("1", 10, "sending", None),
    ("waits", "is older and another"): ("1", 10, "queued", None),
    ("waits", "is younger and another"): ("3", 30, "queued", None),
    ("waits", "is younger and the same"): ("1", 30, "queued", None),
    ("was replaced", "is the one we know"): ("2", 20, "queued", None),
    ("was replaced", "was tried and parked"): ("2", 20, "queued", None),
    ("was replaced", "is being sent"): ("1", 10, "sending", ("2", 20)),
    ("was replaced", "is older and another"): ("2", 20, "queued", None),
    ("was replaced", "is younger and another"): ("3", 30, "queued", None),
    ("was replaced", "is younger and the same"): ("1", 30, "queued", None),
    ("is sent", "is the one we know"): ("1", 10, "queued", None),
    ("is sent", "was tried and parked"): ("1", 10, "failed", None),
    ("is sent", "is being sent"): ("1", 10, "sending", None),
    ("is sent", "is older and another"): ("1", 10, "queued", None),
    ("is sent", "is younger and another"): ("1", 10, "queued", ("3", 30)),
    ("is sent", "is younger and the same"): ("1", 10, "queued", None),
    ("is sent, a newer one waits", "is the one we know"): ("1", 10, "queued", ("2", 20)),
    ("is sent, a newer one waits", "was tried and parked"): ("1", 10, "failed", ("2", 20)),
    ("is sent, a newer one waits", "is being sent"): ("1", 10, "sending", ("2", 20)),
    ("is sent, a newer one waits", "is older and another"): ("1", 10, "queued", ("2", 20)),
    ("is sent, a newer one waits", "is younger and another"): ("1", 10, "queued", ("3", 30)),
    ("is sent, a newer one waits", "is younger and the same"): ("1", 10, "queued", ("2", 20)),
}


@pytest.mark.parametrize(("ours", "theirs"), TABLE)
def test_whose_item_counts(ours: str, theirs: str) -> None:
    """The status is theirs; what we send keeps its item, and is claimed again by whoever takes the text in."""
    one, other = (entry(**{"item": "1", "at": 10, **options}) for options in (OURS[ours], THEIRS[theirs]))
    assert told(merged(one, other)) == TABLE[ours, theirs]


def test_the_table_is_whole() -> None:
    assert {(ours, theirs) for ours in OURS for theirs in THEIRS} == TABLE.keys()


def cases() -> Iterator[tuple[StoredEntry, StoredEntry]]:
    """Every pair of ours and theirs over three items and three instants; what waits is another item, as ever."""
    waits = [None, *product("123", range(3))]
    ours = [entry("1", at, "sending", waits=wait, claimed=True) for at, wait in product(range(3), waits)]
    ours += [entry("1", at) for at in range(3)]  # a replacement waits for the end of a send
    theirs = [
        entry(item, at, status, waits=wait)
        for item, at, status, wait in product("123", range(3), ("queued", "sending", "failed", "paused"), waits)
    ]
    alike = [one for one in (*ours, *theirs) if one.replacement and one.replacement.item == one.item]
    return product([one for one in ours if one not in alike], [one for one in theirs if one not in alike])


def fault(merge: Merge, ours: StoredEntry, theirs: StoredEntry) -> str:
    """What is wrong with the merge of these two; empty: nothing."""
    after = merge(ours, replace(theirs, extra=(("k", "0"),)))
    newest, candidate = (one.replacement or (one.item, one.enqueued_at) for one in (ours, theirs))
    item = candidate[0] if candidate[1] > newest[1] and candidate[0] != ours.item else newest[0]
    if (after.replacement or (after.item,))[0] != item:
        return "it is not the item that counts"
    if ours.claim is not None and (after.item, after.enqueued_at) != (ours.item, ours.enqueued_at):
        return "what is being sent was touched"
    if ours.claim is None and after.replacement is not None and after.status != "sending":
        return "it waits for the end of no send"
    if after.extra != (("k", "0"),):
        return "keys of the other program are lost"
    return "" if told(merge(ours, after)) == told(after) else "merging again changes it"


def test_the_newest_item_is_kept_and_what_is_sent_is_not_touched() -> None:
    assert sum(1 for _ in cases()) == 24 * 252
    assert [(ours, theirs) for ours, theirs in cases() if fault(merged, ours, theirs)] == []


def takes_theirs(_: StoredEntry, theirs: StoredEntry) -> StoredEntry:
    return theirs


def keeps_ours(ours: StoredEntry, _: StoredEntry) -> StoredEntry:
    return ours


def swaps_what_is_sent(ours: StoredEntry, theirs: StoredEntry) -> StoredEntry:
    return merged(replace(ours, claim=None), theirs)


def forgets_what_waits(ours: StoredEntry, theirs: StoredEntry) -> StoredEntry:
    return merged(replace(ours, replacement=None), theirs)


@pytest.mark.parametrize("broken", [takes_theirs, keeps_ours, swaps_what_is_sent, forgets_what_waits])
def test_a_broken_merge_is_found_out(broken: Merge) -> None:
    assert any(fault(broken, ours, theirs) for ours, theirs in cases())


def foreign(**changes: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda entries: [{**entry, **changes} for entry in entries]


@pytest.mark.parametrize("place", ["file"], indirect=True)
@pytest.mark.parametrize(
    ("edit", "next_item"),
    [
        (foreign(), 2),
        (foreign(status="queued", attempts=3), 2),
        (foreign(status="failed"), 2),
        (foreign(item=3, enqueuedAt=1), 2),
        (lambda _: [{"id": "a", "item": 3, "status": "queued", "attempts": 0, "enqueuedAt": 2**45}], 3),
        (lambda entries: [{k: v for k, v in entry.items() if k != "replacement"} for entry in entries], 2),
        (lambda _: [], 2),
    ],
    ids=["the same", "tried", "parked", "an older one", "a younger one", "the key dropped", "sent and removed"],
)
async def test_a_program_without_the_lock_writes_while_a_newer_item_waits(
    place: Place, opened: Opener, edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], next_item: int
) -> None:
    queue = await opened(place.cache)
    got: list[Any] = []

    async def send(entry: OutboxEntry[Any]) -> None:
        got.append(entry.item)
        if len(got) > 1:
            return
        await queue.enqueue("a", 2, on_duplicate="replace")
        entries = edit(json.loads(await place.text(KEY) or ""))
        await place.put(
            KEY, json.dumps([*entries, {"id": "b", "item": 9, "status": "queued", "attempts": 0, "enqueuedAt": 1}])
        )
        await queue.enqueue("c", 1)  # the next change of ours finds out

    await queue.enqueue("a", 1)
    await drain_outbox(queue, send)
    await drain_outbox(queue, send)
    assert sorted(got) == sorted([1, next_item, 9, 1])
    assert queue.get() == []
