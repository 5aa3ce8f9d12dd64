"""``list``, ``show`` and ``status``, on every kind of store, alone and beside a live queue."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox import OutboxQueue
from starfish_outbox.cli.fields import ENTRY, FIELDS
from starfish_outbox.testing import Answer, MisbehavingServer
from tests.cli import KEY, KINDS, cli, cli_process, everything, fill, holder, key_in, store, tell

FIVE = [(f"obs-{number}", {"secret": f"item {number}"}) for number in range(5)]


@pytest.mark.parametrize("kind", KINDS)
def test_list_shows_every_entry_oldest_first_and_never_an_item(tmp_path: Path, kind: str) -> None:
    place = store(tmp_path, kind)
    fill(place, FIVE, fail=["obs-1"])
    ran = cli("list", "--store", place.path)
    assert ran.code == 0
    head, *lines = ran.out.splitlines()
    assert head.split() == ["id", "status", "attempts", "age", "size", "last", "error"]
    assert [line.split()[0] for line in lines[:5]] == [id for id, _ in FIVE]
    assert lines[1].split()[1:3] == ["failed", "1"]
    assert lines[1].endswith("RejectedError: the server answered 422")
    assert lines[-1] == f"5 entries: '{key_in(place)}' in {place.path}"
    assert "item" not in ran.out
    assert "\x1b" not in ran.out + ran.err


@pytest.mark.parametrize("kind", KINDS)
def test_list_as_json_has_the_documented_fields_and_items_only_when_asked(tmp_path: Path, kind: str) -> None:
    place = store(tmp_path, kind)
    fill(place, FIVE, fail=["obs-1"])
    document = cli("list", "--store", place.path, "--json").document
    assert document.keys() == FIELDS["list"].keys()
    assert (document["store"], document["kind"], document["key"]) == (str(place.path), kind, key_in(place))
    assert document["total"] == 5
    assert all(entry.keys() == ENTRY.keys() for entry in document["entries"])
    failed = document["entries"][1]
    assert (failed["status"], failed["attempts"], failed["enqueuedAt"]) == ("failed", 1, 1_700_000_000_001)
    assert failed["size"] == len('{"secret":"item 1"}')
    assert failed["lastError"]["message"] == "the server answered 422"
    with_items = cli("list", "--store", place.path, "--json", "--items").document["entries"]
    assert [entry["item"] for entry in with_items] == [item for _, item in FIVE]
    assert "item 3" in cli("list", "--store", place.path, "--items").out


@pytest.mark.parametrize("kind", KINDS)
def test_list_pages_and_picks_by_status(tmp_path: Path, kind: str) -> None:
    place = store(tmp_path, kind)
    fill(place, FIVE, fail=["obs-1", "obs-4"])

    def ids(*args: str) -> list[str]:
        return [entry["id"] for entry in cli("list", "--store", place.path, "--json", *args).document["entries"]]

    assert ids("--limit", "2") == ["obs-0", "obs-1"]
    assert ids("--limit", "2", "--offset", "3") == ["obs-3", "obs-4"]
    assert ids("--limit", "0") == [id for id, _ in FIVE]
    assert ids("--status", "failed") == ["obs-1", "obs-4"]
    assert ids("--status", "other") == []
    page = cli("list", "--store", place.path, "--limit", "2", "--status", "queued")
    assert f"2 of 3 queued entries: '{key_in(place)}'" in page.out
    assert "1 more; go on with --offset 2" in page.out


def test_list_of_a_hundred_thousand_entries_shows_the_first_page(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, FIVE[:1])
    with sqlite3.connect(place.path) as database:  # as many rows as it takes, quicker than by enqueue
        database.execute(
            "INSERT INTO entries (key, id, status, attempts, enqueued_at, item, checksum) "
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 99999) "
            "SELECT key, 'more-' || i, status, attempts, enqueued_at, item, checksum FROM entries, n"
        )
    database.close()
    document = cli("list", "--store", place.path, "--json", "--limit", "1").document
    assert (document["total"], [entry["id"] for entry in document["entries"]]) == (100_000, ["obs-0"])


def test_what_an_id_holds_is_neither_obeyed_by_the_terminal_nor_taken_for_markup(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    evil = "\x1b[2J\u202e[bold]x[/bold]:smile:\x9b\ue000"
    fill(place, [(evil, {"\x1b]0;title\x07": "\u2028"})])
    for args in (["list"], ["list", "--items"], ["status"], ["show", evil], ["list", "--json", "--items"]):
        ran = cli(*args, "--store", place.path)
        assert ran.code == 0
        assert all(letter.isprintable() or letter == "\n" for letter in ran.out), args
    assert "\\u001b[2J\\u202e[bold]x[/bold]:smile:\\u009b" in cli("list", "--store", place.path).out
    entry = cli("list", "--json", "--items", "--store", place.path).document["entries"][0]
    assert (entry["id"], entry["item"]) == (evil, {"\x1b]0;title\x07": "\u2028"})


@pytest.mark.parametrize("kind", KINDS)
def test_show_tells_everything_of_one_entry_and_leaves_the_item_out_on_demand(tmp_path: Path, kind: str) -> None:
    place = store(tmp_path, kind)
    fill(place, FIVE, fail=["obs-1"])
    ran = cli("show", "obs-1", "--store", place.path)
    assert ran.code == 0
    assert '"secret": "item 1"' in ran.out
    assert "RejectedError: the server answered 422" in ran.out
    assert "item 1" not in cli("show", "obs-1", "--no-item", "--store", place.path).out
    document = cli("show", "obs-1", "--json", "--store", place.path).document
    assert document.keys() == FIELDS["show"].keys()
    [entry] = document["entries"]
    assert entry.keys() == {*ENTRY, "extra", "item"}
    assert entry["item"] == {"secret": "item 1"}


def test_show_has_keys_of_other_programs_and_both_entries_of_one_id(tmp_path: Path) -> None:
    place = store(tmp_path, "file")
    one = {"id": "a", "item": 1, "status": "paused", "attempts": 0, "enqueuedAt": 0, "priority": 2}
    place.path.write_text(json.dumps([one, {**one, "item": 2}]))
    ran = cli("show", "a", "--json", "--store", place.path)
    assert [(entry["item"], entry["extra"], entry["status"]) for entry in ran.document["entries"]] == [
        (1, {"priority": 2}, "paused"),
        (2, {"priority": 2}, "paused"),
    ]
    assert "2 entries share this id" in ran.err


def test_show_of_an_unknown_id_ends_with_3_and_says_where_it_looked(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, FIVE)
    ran = cli("show", "nix", "--store", place.path)
    assert ran.code == 3
    assert ran.err == f"no entry: 'nix' ('{KEY}' in {place.path})\n"


def test_a_status_that_there_is_not_is_refused_and_not_an_empty_list(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, FIVE)
    ran = cli("list", "--status", "faild", "--store", place.path)
    assert ran.code == 2
    assert "--status is queued, sending, failed, or other for the rest, not 'faild'" in ran.err


@pytest.mark.parametrize("kind", KINDS)
def test_show_explains_why_an_entry_is_not_sent_and_what_happened_to_it(tmp_path: Path, kind: str) -> None:
    place = store(tmp_path, kind)
    fill(place, FIVE, fail=["obs-1"])
    shown = {id: cli("show", id, "--store", place.path, "--json").document for id in ("obs-0", "obs-1", "nix")}
    assert [document["situation"] for document in shown.values()] == ["queued", "failed", "unknown"]
    assert shown["obs-0"]["reason"] == "is queued: the next pass takes it."
    assert shown["obs-1"]["reason"].startswith("is parked after 1 failed attempt: ")
    enqueued, failed = shown["obs-1"]["history"]
    assert enqueued == {"at": 1_700_000_000_001, "event": "enqueued", "detail": ""}
    assert (failed["event"], failed["detail"]) == ("failed", "RejectedError: the server answered 422 (attempt 1)")
    assert failed["at"] == shown["obs-1"]["entries"][0]["lastError"]["at"]
    assert shown["nix"]["history"] == []
    out = cli("show", "obs-1", "--store", place.path).out
    assert "'obs-1' is parked after 1 failed attempt: " in out
    assert out.endswith("  failed: RejectedError: the server answered 422 (attempt 1)\n")


def test_show_says_that_a_server_asked_all_to_wait_whichever_entry_was_told(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, FIVE[:2])
    with MisbehavingServer() as server:
        server.plan(Answer(429, retry_after=900))
        cli("drain", "--to", server.url, "--store", place.path)
    for id, _ in FIVE[:2]:
        document = cli("show", id, "--store", place.path, "--json").document
        assert document["situation"] == "waiting"
        assert "the server asked all to wait" in document["reason"]


def test_show_of_a_claim_whose_process_is_gone_does_not_say_that_it_is_being_sent(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, FIVE)
    with holder(place, "obs-2"):
        held = cli("show", "obs-2", "--store", place.path, "--json").document
    gone = cli("show", "obs-2", "--store", place.path, "--json").document
    assert held["reason"] == "is claimed: another process holds it by claim(), not by a drain."
    assert held["history"][-1]["detail"] == "another process holds it by claim(), not by a drain"
    words = "was being sent by a process that is gone; it is queued again at the next opening"
    assert (gone["reason"], gone["history"][-1]["detail"]) == (f"{words}.", words)


async def test_a_newer_item_that_waits_for_the_end_of_a_send_is_shown(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    cache = place.cache()
    queue: OutboxQueue[Any] = OutboxQueue(cache)
    await queue.hydrate(KEY)
    await queue.enqueue("obs-0", {"secret": "older"})
    await queue.claim("obs-0")
    await queue.enqueue("obs-0", {"secret": "the newer"}, ts=1_700_000_000_000, on_duplicate="replace")
    ran = {
        args: await asyncio.to_thread(cli, *args, "--store", place.path)
        for args in (
            ("list",),
            ("list", "--json"),
            ("list", "--json", "--items"),
            ("show", "obs-0"),
            ("show", "obs-0", "--no-item"),
        )
    }
    await queue.close()
    cache.close()
    assert "  sending, a newer item waits  " in ran["list",].out
    newer = {"enqueuedAt": 1_700_000_000_000, "size": len('{"secret":"the newer"}')}
    assert ran["list", "--json"].document["entries"][0]["replacement"] == newer
    [entry] = ran["list", "--json", "--items"].document["entries"]
    assert (entry["item"], entry["replacement"]) == (
        {"secret": "older"},
        {**newer, "item": {"secret": "the newer"}},
    )
    assert "22 B: it takes the place of this one" in ran["show", "obs-0"].out
    assert '"secret": "the newer"' in ran["show", "obs-0"].out
    assert "the newer" not in ran["list",].out + ran["list", "--json"].out + ran["show", "obs-0", "--no-item"].out


@pytest.mark.parametrize("kind", KINDS)
def test_status_counts_and_says_where_and_how_safe(tmp_path: Path, kind: str) -> None:
    place = store(tmp_path, kind)
    fill(place, FIVE, fail=["obs-1"])
    document = cli("status", "--store", place.path, "--json").document
    assert document.keys() == FIELDS["status"].keys()
    numbers = ("queued", "sending", "failed", "other", "total", "bytes", "oldest")
    assert [document[name] for name in numbers] == [4, 0, 1, 0, 5, 5 * 19, 1_700_000_000_000]
    assert document["durability"].startswith("survives a power cut")
    assert [document[name] for name in ("owners", "setAside", "unread", "stuck", "notes")] == [[], [], [], [], []]
    out = cli("status", "--store", place.path).out
    assert f"'{key_in(place)}' in {place.path}" in out
    assert "no process" in out


def test_status_says_what_was_set_aside_what_cannot_be_read_and_what_is_stuck(tmp_path: Path) -> None:
    place = store(tmp_path, "directory")
    place.path.mkdir()
    paused = {"id": "p", "item": 1, "status": "paused", "attempts": 0, "enqueuedAt": 0}
    (place.path / f"{KEY}.json").write_text(json.dumps([None, paused, {**paused, "id": 7}]))
    before = cli("status", "--store", place.path, "--json").document
    assert before["unread"] == [
        "$[1].status is unknown: kept, never drained (id 'p')",
        "$[2].id is no string: kept in the text, never drained",
        "$[0] is no object",
    ]
    assert before["stuck"] == [
        "'p' has the unknown status \"paused\": never sent; retry puts it back",
        "an entry whose id is no text: kept, never sent; another program wrote it",
    ]
    assert before["setAside"] == []
    fill(place, [("q", 1)])  # a queue that opens it sets the null aside
    after = cli("status", "--store", place.path, "--json").document
    assert after["setAside"] == [f"{KEY}.quarantine: 1 element that could be no entry"]
    out = cli("status", "--store", place.path).out
    assert "stuck" in out
    assert "'p' has the unknown status \"paused\": never sent; retry puts it back" in out


def test_status_of_a_damaged_text_counts_what_stands_whole_in_it_and_leaves_it_untouched(tmp_path: Path) -> None:
    place = store(tmp_path, "file")
    good = {"id": "p", "item": 1, "status": "queued", "attempts": 0, "enqueuedAt": 0}
    place.path.write_text(json.dumps([good, good])[:-10])
    before = everything(tmp_path)
    ran = cli("status", "--store", place.path, "--json")
    assert ran.code == 0
    assert ran.document["queued"] == 1
    assert ran.document["unread"][0].startswith("the text is no JSON array")
    assert everything(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
def test_looking_beside_a_live_queue_changes_nothing_takes_no_lock_and_knows_its_owner(
    tmp_path: Path, kind: str
) -> None:
    place = store(tmp_path, kind)
    fill(place, FIVE)
    with holder(place, "obs-2") as child:
        before = everything(tmp_path)
        entries = cli("list", "--store", place.path, "--json").document["entries"]
        status = cli("status", "--store", place.path, "--json").document
        assert cli("show", "obs-2", "--store", place.path).code == 0
        assert cli("check", place.path if kind != "directory" else place.path / f"{KEY}.json").code == 0
        assert cli("export", tmp_path / "copy.json", "--store", place.path).code == 0
        copy = json.loads((tmp_path / "copy.json").read_text())
        (tmp_path / "copy.json").unlink()
        assert everything(tmp_path) == before
        assert [entry["claimed"] for entry in entries] == [None, None, "live", None, None]
        assert status["sending"] == 1
        [owner] = status["owners"]
        assert owner.startswith(f"pid {child.pid} on ")
        # A text does not say who claimed an entry, nor how.
        assert status["stuck"] == (["'obs-2' is claimed by claim(), not by a drain"] if kind == "sqlite" else [])
        # The copy has no owner: what was being sent is queued there, and may have arrived.
        assert [entry["status"] for entry in copy] == ["queued"] * 5
        assert ["maybeSent" in entry for entry in copy] == [False, False, True, False, False]
        tell(child, "one-more")
    after = cli("list", "--store", place.path, "--json").document["entries"]
    assert [entry["id"] for entry in after] == [*(id for id, _ in FIVE), "one-more"]
    assert after[2]["claimed"] == "gone"
    assert "its process is gone" in cli("list", "--store", place.path).out
    assert "is queued again at the next opening" in cli("status", "--store", place.path).out


def test_without_a_store_it_is_the_one_of_open_outbox(tmp_path: Path) -> None:
    home = {**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}
    none = cli_process("list", env=home)
    assert none.code == 2
    assert none.err.startswith("error: there is no outbox at ")
    code = """if True:
        import asyncio
        from starfish_outbox import open_outbox
        async def main():
            async with open_outbox("me") as queue:
                await queue.enqueue("a", 1)
        asyncio.run(main())"""
    subprocess.run([sys.executable, "-c", code], check=True, env=home, timeout=60)
    ran = cli_process("list", "--json", env=home)
    assert (ran.code, ran.document["total"], ran.document["key"]) == (0, 1, KEY)
    assert ran.document["store"] in none.err
    assert Path(ran.document["store"]).is_relative_to(tmp_path)


def test_a_store_with_several_queues_wants_one_named_and_lists_them(tmp_path: Path) -> None:
    for kind in ("sqlite", "directory"):
        place = store(tmp_path, kind)
        fill(place, FIVE, key="outbox.me")
        fill(place, FIVE[:2], key="outbox.you")
        ran = cli("list", "--store", place.path, "--json")
        assert ran.code == 2
        assert ran.document["error"]["message"] == (
            f"{place.path} holds 2 queues; choose one with --key: 'outbox.me', 'outbox.you'"
        )
        assert cli("list", "--store", place.path, "--identity", "you", "--json").document["total"] == 2
        assert cli("list", "--store", place.path, "--key", "outbox.me", "--json").document["total"] == 5
        wrong = cli("list", "--store", place.path, "--identity", "nobody")
        assert wrong.code == 2
        assert "holds no queue 'outbox.nobody'; it holds 'outbox.me', 'outbox.you'" in wrong.err
