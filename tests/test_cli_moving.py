"""``export`` and ``import``: everything that belongs to an entry arrives, and nobody's file is touched unasked."""

from __future__ import annotations

import asyncio
import json
import stat
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox import OutboxQueue, drain_outbox
from starfish_outbox.cli.fields import FIELDS
from starfish_outbox.cli.stores import Place, Store
from starfish_outbox.cli.transfer import move_aside, owned
from tests.cli import KEY, KINDS, cli, entries_in, everything, fill, holder, key_in, store

WHOLE: list[dict[str, Any]] = [
    {"id": "b", "item": {"x": [1, None, "ü\u2028"]}, "status": "failed", "attempts": 3, "enqueuedAt": 17},
    {"id": "a", "item": "\ud83d", "status": "queued", "attempts": 0, "enqueuedAt": 0, "maybeSent": 5, "k": 0},
    {"id": "ä", "item": 1.5, "status": "paused", "attempts": 1, "enqueuedAt": 1.25, "meta": {"10": 1, "2": 2}, "z": []},
    {
        "id": "with an error",
        "item": None,
        "status": "queued",
        "attempts": 2,
        "enqueuedAt": 3,
        "lastError": {"type": "ReadTimeout", "message": "no answer", "at": 4},
    },
    {"id": "big", "item": 2**60, "status": "queued", "attempts": 0, "enqueuedAt": 1},
    {"id": 7, "item": 1, "status": "queued", "attempts": 0, "enqueuedAt": 1},
]


def place_args(place: Store, prefix: str = "") -> list[str]:
    return [] if place.kind == "file" else [f"--{prefix}key", KEY]


def written(folder: Path, entries: list[Any], name: str = "from the tablet (1).json") -> Path:
    """A cache file as the published Python package writes it."""
    path = folder / name
    path.write_text(json.dumps(entries))
    return path


@pytest.mark.parametrize(("one", "two"), list(product(KINDS, KINDS)))
def test_what_is_imported_and_exported_again_is_what_it_was(tmp_path: Path, one: str, two: str) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    first, second = store(tmp_path / "1", one), store(tmp_path / "2", two)
    source = written(tmp_path, WHOLE)
    before = source.read_bytes()
    imported = cli("import", source, "--store", path_of(first), *place_args(first))
    assert imported.code == 0, imported
    assert entries_in(first) == WHOLE
    exported = cli("export", path_of(second), "--store", path_of(first), *place_args(second, "to-"))
    assert exported.code == 0, exported
    assert entries_in(second) == WHOLE
    assert entries_in(first) == WHOLE
    again = cli("import", path_of(second), "--store", path_of(first), *place_args(first), "--json")
    assert again.code == 0, again
    assert (again.document["taken"], again.document["there"]) == (0, 6)
    assert entries_in(first) == WHOLE
    assert source.read_bytes() == before


def path_of(place: Store) -> str:
    return f"{place.path}/" if place.kind == "directory" else str(place.path)


def test_the_exported_file_is_what_typescript_reads_private_and_alone(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, [("a", {"x": 1.0}), ("b", "ü")])
    target = tmp_path / "out" / "for typescript.json"
    target.parent.mkdir()
    ran = cli("export", target, "--store", place.path)
    assert ran.code == 0
    assert ran.out == f"2 entries exported: '{KEY}' in {place.path} → 'for typescript' in {target}\n"
    assert target.read_bytes() == (
        '[{"id":"a","item":{"x":1},"status":"queued","attempts":0,"enqueuedAt":1700000000000},'
        '{"id":"b","item":"ü","status":"queued","attempts":0,"enqueuedAt":1700000000001}]'.encode()
    )
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_export_to_standard_output_writes_the_array_and_nothing_else(tmp_path: Path) -> None:
    place = store(tmp_path, "directory")
    fill(place, [("a", "ü\x1b")])
    ran = cli("export", "-", "--store", place.path)
    assert ran.code == 0
    assert ran.out == '[{"id":"a","item":"ü\\u001b","status":"queued","attempts":0,"enqueuedAt":1700000000000}]\n'
    assert ran.err == f"1 entry exported: '{KEY}' in {place.path} → standard output\n"
    assert cli("export", "-", "--store", place.path, "--json").code == 2


def test_sending_without_an_owner_is_queued_and_maybe_sent(tmp_path: Path) -> None:
    source = written(tmp_path, [{"id": "a", "item": 1, "status": "sending", "attempts": 2, "enqueuedAt": 3}])
    place = store(tmp_path, "sqlite")
    assert cli("import", source, "--store", place.path, "--identity", "me").code == 0
    [entry] = entries_in(place)
    assert entry.pop("maybeSent") > 1_700_000_000_000
    assert entry == {"id": "a", "item": 1, "status": "queued", "attempts": 2, "enqueuedAt": 3}


@pytest.mark.parametrize("status", ["sending", "queued", "failed"])
def test_a_newer_item_that_waits_takes_its_place_in_the_copy(tmp_path: Path, status: str) -> None:
    """Nothing in the copy is being sent; and a program that does not know the key may have ended the send before."""
    waits = {"replacement": {"item": 2, "enqueuedAt": 7}, "k": 0}
    source = written(tmp_path, [{"id": "a", "item": 1, "status": status, "attempts": 2, "enqueuedAt": 3, **waits}])
    for number, kind in enumerate(KINDS):
        (tmp_path / str(number)).mkdir()
        place = store(tmp_path / str(number), kind)
        assert cli("import", source, "--store", path_of(place), *place_args(place)).code == 0
        [entry] = entries_in(place)
        assert (entry.pop("maybeSent", 0) > 1_700_000_000_000) == (status == "sending")
        assert entry == {"id": "a", "item": 2, "status": "queued", "attempts": 0, "enqueuedAt": 7, "k": 0}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_being_sent_and_what_waits_are_left_as_they_are_by_an_export(tmp_path: Path, kind: str) -> None:
    async def work() -> tuple[list[Any], list[Any]]:
        cache = place.cache()
        queue = OutboxQueue[Any](cache)
        await queue.hydrate(key_in(place))
        await queue.enqueue("a", 1)
        assert await queue.claim("a")
        await queue.enqueue("a", 2, on_duplicate="replace")
        ran = await asyncio.to_thread(cli, "export", "-", "--store", path_of(place), *place_args(place))
        assert ran.code == 0, ran
        (entry,) = queue.get()
        assert entry.replacement is not None
        assert (entry.item, entry.status, entry.replacement.item) == (1, "sending", 2)
        await queue.close()
        cache.close()
        return json.loads(ran.out), [entry.replacement.enqueued_at]

    place = store(tmp_path, kind)
    [copy], [at] = asyncio.run(work())
    assert copy.pop("maybeSent") > 1_700_000_000_000
    assert copy == {"id": "a", "item": 2, "status": "queued", "attempts": 0, "enqueuedAt": at}


def test_a_dry_run_counts_what_the_import_then_does_and_changes_nothing(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, [("there", 0), ("delivered", 1)])

    async def deliver() -> None:
        cache = place.cache()
        queue: OutboxQueue[Any] = OutboxQueue(cache)
        await queue.hydrate(KEY)
        await queue.claim("there")
        assert (await drain_outbox(queue, lambda _: None)).sent == 1
        await queue.retry("there")
        await queue.close()
        cache.close()

    asyncio.run(deliver())
    plain = {"status": "queued", "attempts": 0, "enqueuedAt": 0}
    same = {"id": "twin", "item": 1, **plain}
    source = written(
        tmp_path,
        [
            {"id": "there", "item": "other", **plain},
            {"id": "delivered", "item": 1, **plain},
            same,
            same,
            {**same, "item": 2},
            None,
            {"id": "new", "item": 1, **plain},
            {"id": 7, "item": 1, **plain},
        ],
    )
    before = everything(tmp_path)
    dry = cli("import", source, "--store", place.path, "--identity", "me", "--json", "--dry-run")
    assert everything(tmp_path) == before
    real = cli("import", source, "--store", place.path, "--identity", "me", "--json")
    assert dry.code == real.code == 3
    assert dry.document.keys() == FIELDS["import"].keys()
    assert {**dry.document, "dryRun": False} == real.document
    assert [real.document[name] for name in ("taken", "there", "sent")] == [3, 2, 1]
    assert real.document["left"] == [
        "$[5] is no object: not copied",
        "'twin' stands there twice, with different items: only the first is copied",
    ]
    assert [entry["id"] for entry in entries_in(place)] == ["there", "twin", "new", 7]
    assert source.read_bytes() == before[source.name][2]


def test_an_empty_id_is_an_id(tmp_path: Path) -> None:
    source = written(tmp_path, [{**WHOLE[0], "id": ""}])
    for kind in KINDS:
        place = store(tmp_path, kind)
        for taken in (1, 0):
            ran = cli("import", source, "--store", path_of(place), *place_args(place), "--json")
            assert (ran.code, ran.document["taken"], ran.document["there"]) == (0, taken, 1 - taken)
        assert entries_in(place) == [{**WHOLE[0], "id": ""}]


def test_a_dry_run_makes_no_store(tmp_path: Path) -> None:
    source = written(tmp_path, WHOLE)
    for target in ("new.db", "new/", "new.json"):
        name = [] if target == "new.json" else ["--key", KEY]
        ran = cli("import", source, "--store", f"{tmp_path}/{target}", *name, "--dry-run", "--json")
        assert (ran.code, ran.document["taken"], ran.document["dryRun"]) == (0, 6, True)
        assert cli("export", f"{tmp_path}/{target}", "--store", source, "--dry-run", "--json").document["taken"] == 6
    assert list(tmp_path.iterdir()) == [source]


def test_a_damaged_file_is_adopted_as_far_as_it_reads_and_left_as_it_is(tmp_path: Path) -> None:
    source = written(tmp_path, WHOLE[:2])
    source.write_bytes(source.read_bytes()[:-20])
    before = source.read_bytes()
    place = store(tmp_path, "sqlite")
    ran = cli("import", source, "--store", place.path, "--identity", "me", "--json")
    assert ran.code == 3
    assert ran.document["taken"] == 1
    assert ran.document["left"][0].startswith("the text is no JSON array (")
    assert [entry["id"] for entry in entries_in(place)] == ["b"]
    assert source.read_bytes() == before


def test_what_is_no_array_is_refused_and_untouched(tmp_path: Path) -> None:
    source = tmp_path / "newer.json"
    source.write_text('{"v":2,"entries":[]}')
    ran = cli("import", source, "--store", tmp_path / "a.db", "--identity", "me")
    assert ran.code == 2
    assert "a newer version may have written it" in ran.err
    assert list(tmp_path.iterdir()) == [source]


def test_entries_never_land_under_an_identity_that_nobody_named(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, [("mine", 1)], key="outbox.somebody-else")
    source = written(tmp_path, WHOLE, "outbox.me.json")
    ran = cli("import", source, "--store", place.path)
    assert ran.code == 2
    assert "say whose entries these are" in ran.err
    assert "'outbox.me'" in ran.err
    assert len(entries_in(place, "outbox.somebody-else")) == 1


def test_export_keeps_the_identity_unless_another_is_named(tmp_path: Path) -> None:
    place, target = store(tmp_path, "sqlite"), store(tmp_path, "directory")
    fill(place, [("a", 1)])
    assert cli("export", path_of(target), "--store", place.path).code == 0
    assert cli("export", path_of(target), "--store", place.path, "--to-identity", "you").code == 0
    assert [path.name for path in sorted(target.path.glob("*.json"))] == ["outbox.me.json", "outbox.you.json"]


def test_a_queue_is_not_copied_onto_itself(tmp_path: Path) -> None:
    for kind in KINDS:
        place = store(tmp_path, kind)
        fill(place, [("a", 1)])
        ran = cli("export", path_of(place), "--store", path_of(place))
        assert ran.code == 2
        assert "both the source and the target" in ran.err


def test_import_into_a_database_that_another_process_uses(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, [("a", 1)])
    source = written(tmp_path, WHOLE)
    with holder(place, "a"):
        ran = cli("import", source, "--store", place.path, "--identity", "me", "--json")
        assert (ran.code, ran.document["taken"], ran.document["there"]) == (0, 5, 1)
        assert [entry["id"] for entry in entries_in(place)] == ["a", "b", "ä", "with an error", "big", 7]
        assert cli("list", "--store", place.path, "--json").document["entries"][0]["claimed"] == "live"


def test_import_into_files_that_another_process_owns_is_refused_and_names_it(tmp_path: Path) -> None:
    place = store(tmp_path, "directory")
    fill(place, [("a", 1)])
    source = written(tmp_path, WHOLE)
    with holder(place, "a") as child:
        before = everything(tmp_path)
        ran = cli("import", source, "--store", place.path, "--identity", "me", "--json")
        assert ran.code == 2
        assert ran.document["error"]["type"] == "QueueLockedError"
        assert f"pid {child.pid} on " in ran.document["error"]["message"]
        assert everything(tmp_path) == before


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_move_renames_the_file_once_everything_is_stored_elsewhere(tmp_path: Path, kind: str) -> None:
    place = store(tmp_path, kind)
    fill(place, [("a", 1), ("b", 2)])
    target = tmp_path / "target.db"
    file = place.path if kind == "file" else place.path / f"{KEY}.json"
    before = file.read_bytes()
    for number, name in ((2, f"{file.name}.imported"), (0, f"{file.name}.imported.2")):
        ran = cli("import", path_of(place), "--store", target, "--identity", "me", "--move", "--json")
        assert ran.code == 0, ran
        assert (ran.document["taken"], ran.document["moved"]) == (number, str(file.with_name(name)))
        assert not file.exists()
        assert file.with_name(name).read_bytes() == before
        file.write_bytes(before)
    assert len(entries_in(Store(target, "sqlite"))) == 2


def test_move_leaves_the_file_where_something_of_it_was_left_behind(tmp_path: Path) -> None:
    source = written(tmp_path, [*WHOLE, None])
    ran = cli("import", source, "--store", tmp_path / "a.db", "--identity", "me", "--move", "--json")
    assert (ran.code, ran.document["moved"], ran.document["taken"]) == (3, None, 6)
    assert source.exists()


def test_move_is_refused_for_a_database_and_for_a_file_that_somebody_owns(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, [("a", 1)])
    ran = cli("import", place.path, "--store", tmp_path / "b.db", "--identity", "me", "--move")
    assert ran.code == 2
    assert "a database, which cannot be moved aside" in ran.err
    files = store(tmp_path, "directory")
    fill(files, [("a", 1)])
    with holder(files, "a"):
        ran = cli("import", path_of(files), "--store", tmp_path / "b.db", "--identity", "me", "--move")
    assert ran.code == 2
    assert "is owned by pid" in ran.err
    assert not (tmp_path / "b.db").exists()


async def test_a_file_that_was_written_meanwhile_is_not_moved(tmp_path: Path) -> None:
    source = written(tmp_path, WHOLE)
    place = Place(Store(source, "file"), source.stem)
    async with owned(place) as (cache, look):
        assert len(look.entries) == 6
        source.write_text("[]")
        assert await move_aside(cache, place.key) is None
    assert source.exists()


def test_an_existing_json_file_is_added_to_never_written_over(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, [("a", "new"), ("c", 3)])
    target = written(tmp_path, [{"id": "a", "item": "old", "status": "failed", "attempts": 9, "enqueuedAt": 1, "k": 1}])
    ran = cli("export", target, "--store", place.path, "--json")
    assert (ran.code, ran.document["taken"], ran.document["there"]) == (0, 1, 1)
    assert [(e["id"], e["item"], e.get("k")) for e in json.loads(target.read_text())] == [
        ("a", "old", 1),
        ("c", 3, None),
    ]


def test_the_key_of_a_file_is_no_choice(tmp_path: Path) -> None:
    source = written(tmp_path, WHOLE)
    file = str(source)
    for args in (["export", "x.json", "--store", file, "--key", "k"], ["import", file, "--from-key", "k"]):
        ran = cli(*args)
        assert ran.code == 2
        assert "is one queue; an identity or a key chooses among those of a database" in ran.err
    assert key_in(Store(source, "file")) == "My queue"
