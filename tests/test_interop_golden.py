"""Golden files: what every version of every program wrote is read for ever, and today's versions still write the same.

``interop/golden/README.md`` says what they are; ``interop/golden/write.py`` writes those that are missing.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from jsonschema import Draft202012Validator

from interop.golden.write import (
    GOLDEN,
    READ_MS,
    Written,
    chapters,
    complete,
    golden_file,
    looking,
    missing,
    read,
    record,
)
from starfish_outbox.caches.base import SET_ASIDE
from starfish_outbox.caches.file import file_name
from starfish_outbox.conformance.driver import Driver
from starfish_outbox.schema import schema
from tests.interop import INTEROP, protocol_rules, published_driver, python_driver, typescript_driver
from tests.reporting import report

PYTHON, TYPESCRIPT, PUBLISHED = "python", "published-typescript", "published-python"
NAMES: Final = (PYTHON, TYPESCRIPT, PUBLISHED)
FIVE: Final = ("id", "item", "status", "attempts", "enqueuedAt")
READER: Final = Draft202012Validator(schema("reader"))
GOLDENS: Final = {path.stem: json.loads(path.read_bytes()) for path in sorted(GOLDEN.glob("p*-*.json"))}
CHAPTERS: Final = {chapter.id: chapter for chapter in chapters()}


@pytest.fixture(scope="module")
def drivers() -> Iterator[Mapping[str, Driver]]:
    with python_driver() as python, typescript_driver() as typescript, published_driver() as published:
        yield {driver.name: driver for driver in (python, typescript, published)}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: what is shown here is content, not durability."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


def texts_of(golden: Written) -> Iterator[tuple[str, str]]:
    """Each text of a queue in a golden file, with the key under which it lay; what was set aside is none."""
    found: dict[tuple[str, str], None] = {}
    for id, chapter in golden["chapters"].items():
        for request, text in zip(looking(CHAPTERS[id].requests), chapter["after"], strict=True):
            key = request.get("look") or request.get("key", "")
            if text is not None and not SET_ASIDE.search(key):
                found[key, text] = None
    yield from found


def is_readable(text: str) -> bool:
    """Whether it is JSON and satisfies the reader form."""
    try:
        return READER.is_valid(json.loads(text))
    except json.JSONDecodeError:
        return False


def comparable(value: Any) -> str:
    """JSON as a text that is equal for equal JSON: numbers are doubles, and the order of keys says nothing."""
    text = value if isinstance(value, str) else json.dumps(value)
    as_doubles = json.loads(text, parse_int=lambda token: float(token) + 0.0, parse_float=lambda t: float(t) + 0.0)
    return json.dumps(as_doubles, sort_keys=True)


def as_read_by(reader: str, text: str) -> str:
    """What a program lists of a text that satisfies the reader form."""
    entries = json.loads(text)
    for number, entry in enumerate(entries):
        found_sending = entry["status"] == "sending"
        if found_sending:
            entry["status"] = "queued"
        if reader == PYTHON and found_sending and not isinstance(entry.get("maybeSent"), int):
            entry["maybeSent"] = READ_MS
        if reader == PUBLISHED:  # it forgets other keys, and knows no fractions of a millisecond (HAZARDS R7, R11)
            entries[number] = {**{key: entry[key] for key in FIVE}, "enqueuedAt": int(entry["enqueuedAt"])}
    return comparable(entries)


def test_operations_are_of_the_protocol_and_cover_what_is_stored(drivers: Mapping[str, Driver]) -> None:
    rules = protocol_rules()
    for chapter in CHAPTERS.values():
        for number, request in enumerate(chapter.requests):
            assert rules.check_request({"n": number, **request}) is None, (chapter.id, request)
    stored = "".join(text for golden in GOLDENS.values() for _, text in texts_of(golden) if golden["driver"] == PYTHON)
    for word in ("queued", "sending", "failed", "paused", "maybeSent", "nextAttemptAt", "lastError", '"note"', "1e-7"):
        assert word in stored
    assert len(CHAPTERS) >= 17


@pytest.mark.parametrize("name", NAMES)
def test_a_program_still_writes_byte_for_byte_what_the_golden_file_of_its_version_says(
    name: str, drivers: Mapping[str, Driver], folder: Path
) -> None:
    driver = drivers[name]
    golden = GOLDENS.get(golden_file(driver).stem)
    assert golden is not None, "a new version: run `.venv/bin/python interop/golden/write.py` and add what it writes"
    assert [chapter.id for chapter in missing(driver, golden)] == [], "new chapters: run interop/golden/write.py"
    for id, written in golden["chapters"].items():
        files = folder / id
        files.mkdir()
        now = record(driver, CHAPTERS[id], files)
        # The entries are spelled by the driver, not by the program.
        assert {**now, "entries": comparable(now["entries"])} == {
            **written,
            "entries": comparable(written["entries"]),
        }, f"{id}: what is stored has changed. If that is meant, it needs a new version and so a new golden file"


@pytest.mark.parametrize("golden", GOLDENS.values(), ids=GOLDENS.keys())
def test_a_golden_file_is_of_the_operations_that_stand_there(golden: Written) -> None:
    assert f"{golden['driver']}-{golden['version']}" in GOLDENS
    assert {id: chapter["of"] for id, chapter in golden["chapters"].items()} == {
        id: CHAPTERS[id].digest for id in golden["chapters"]
    }


@pytest.mark.parametrize("reader", NAMES)
@pytest.mark.parametrize("golden", GOLDENS.values(), ids=GOLDENS.keys())
def test_every_program_reads_every_text_that_satisfies_the_reader_form(
    golden: Written, reader: str, drivers: Mapping[str, Driver]
) -> None:
    texts = [(key, text) for key, text in texts_of(golden) if is_readable(text)]
    found = read(drivers[reader], texts)
    differing = [
        (text, entries)
        for (_, text), entries in zip(texts, found, strict=True)
        if comparable(entries) != as_read_by(reader, text)
    ]
    assert differing == []
    report(f"{reader} read {len(texts)} texts of {golden['driver']} {golden['version']}", INTEROP)
    assert len(texts) > 80


@pytest.mark.parametrize("golden", GOLDENS.values(), ids=GOLDENS.keys())
def test_the_entries_in_a_golden_file_are_those_that_its_program_read_in_the_last_text(golden: Written) -> None:
    for id, chapter in golden["chapters"].items():
        requests = looking(CHAPTERS[id].requests)
        text = [text for request, text in zip(requests, chapter["after"], strict=True) if "look" in request][-1]
        if is_readable(text):
            assert comparable(chapter["entries"]) == as_read_by(golden["driver"], text), id


@pytest.mark.parametrize("golden", GOLDENS.values(), ids=GOLDENS.keys())
def test_ours_finds_every_entry_also_in_texts_that_break_the_reader_form(
    golden: Written, drivers: Mapping[str, Driver]
) -> None:
    """What can be no entry is set aside (``elements``); what has an id is read, whatever else it has."""
    texts = list(texts_of(golden))
    for (_, text), entries in zip(texts, read(drivers[PYTHON], texts), strict=True):
        try:
            elements = json.loads(text)
        except json.JSONDecodeError:
            elements = [{"id": "a"}]  # the chapter `damage`: what was cut
        assert [entry["id"] for entry in json.loads(entries or "")] == [
            element["id"] for element in elements if isinstance(element, dict) and isinstance(element.get("id"), str)
        ]


@pytest.mark.parametrize("name", [PYTHON, TYPESCRIPT])
def test_files_that_were_written_are_read_and_stay_as_they_are(
    name: str, drivers: Mapping[str, Driver], folder: Path
) -> None:
    driver = drivers[name]
    read_files = 0
    for stem, golden in GOLDENS.items():
        for id, chapter in golden["chapters"].items():
            if "files" not in chapter:
                continue
            place = folder / stem / id
            place.mkdir(mode=0o700, parents=True)
            for file, text in chapter["files"].items():
                (place / file).write_bytes(text.encode())
            driver.ask_many([{"op": "open", "store": "files", "path": str(place)}, {"op": "clock", "ms": READ_MS}])
            keys = {request["key"] for request in CHAPTERS[id].requests if "key" in request}
            for key in (key for key in keys if file_name(key) in chapter["files"]):
                text = chapter["files"][file_name(key)]
                if SET_ASIDE.search(key):
                    assert driver.ask("text", key=key).value == text
                elif is_readable(text):
                    answer = driver.ask("hydrate", key=key, look=key)
                    assert (answer.error, answer.text) == (None, text)
                    assert comparable(answer.entries) == as_read_by(name, text)
                read_files += 1
            driver.ask("close")
            now = {path.name: path.read_bytes().decode() for path in place.iterdir() if path.suffix != ".lock"}
            assert now == chapter["files"]
    assert read_files > 30


DATABASES: Final = sorted(GOLDEN.glob("*.db"))


@pytest.mark.parametrize("database", DATABASES, ids=[path.stem for path in DATABASES])
def test_a_database_of_every_version_opens_in_both_languages_and_goes_on(
    database: Path, drivers: Mapping[str, Driver], folder: Path
) -> None:
    stored = GOLDENS[database.stem]["database"]
    queues = {key: text for key, text in stored.items() if not SET_ASIDE.search(key)}
    copy = folder / database.name
    shutil.copyfile(database, copy)
    opening: dict[str, Any] = {"op": "open", "store": "sqlite", "path": str(copy)}
    for name in (PYTHON, TYPESCRIPT):
        asked = [opening, *({"op": "text", "key": key} for key in stored), {"op": "close"}]
        assert [answer.value for answer in drivers[name].ask_many(asked)[1:-1]] == list(stored.values()), name
    for key, text in queues.items():
        hydrate: dict[str, Any] = {"op": "hydrate", "key": key, "look": key}
        clock = {"op": "clock", "ms": READ_MS}
        asked = [opening, clock, hydrate, {"op": "enqueue", "id": "new", "item": "{}", "look": key}, {"op": "close"}]
        _, _, hydrated, enqueued, _ = drivers[PYTHON].ask_many(asked)
        found = json.loads(hydrated.entries or "")
        assert comparable(without_maybe(found)) == comparable(without_maybe(json.loads(as_read_by(PYTHON, text))))
        assert (enqueued.error, enqueued.value) == (None, True)
        _, _, hydrated, _ = drivers[TYPESCRIPT].ask_many([opening, clock, hydrate, {"op": "close"}])
        assert [entry["id"] for entry in json.loads(hydrated.entries or "")] == [
            *(entry["id"] for entry in found),
            "new",
        ]
    assert len(queues) >= 17


def without_maybe(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows know when an entry was claimed; a text does not."""
    return [{key: value for key, value in entry.items() if key != "maybeSent"} for entry in entries]


CHANGED = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from starfish_outbox import admission, codec, transitions
{change}
from python import PythonDriver
asyncio.run(PythonDriver().run())
"""
CHANGES = {
    "a space behind each comma": "codec.encode_array.__code__ = (lambda texts: f\"[{', '.join(texts)}]\").__code__",
    "another name of a key": (
        "real = codec.encode_more; codec.encode_more = lambda entry: real(entry).replace('lastError', 'last_error')"
    ),
    "unknown keys forgotten": "codec.encode_more = lambda entry: ''",
    "numbers as Python spells them": "import json; admission.encode_item = lambda item, **_: json.dumps(item)",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_program_that_writes_otherwise_is_noticed(change: str) -> None:
    command = [sys.executable, "-c", CHANGED.format(change=CHANGES[change]), str(INTEROP / "drivers")]
    with Driver(command) as driver:
        golden = GOLDENS[golden_file(driver).stem]
        chapters = iter(golden["chapters"].items())
        while True:
            id, written = next(chapters)  # raises at the end, when nothing was noticed
            if record(driver, CHAPTERS[id])["after"] != written["after"]:
                break
    report(f"{change}: noticed in {id}", INTEROP)


def test_the_writer_adds_what_is_missing_and_leaves_the_rest_as_it_is(
    drivers: Mapping[str, Driver], folder: Path
) -> None:
    driver = drivers[TYPESCRIPT]
    here = golden_file(driver, folder)
    golden = json.loads(golden_file(driver).read_bytes())
    kept = json.loads(json.dumps(golden))
    kept["chapters"]["empty"]["after"] = "what an old version wrote"
    del kept["chapters"]["drain"]
    here.write_text(json.dumps(kept), "utf-8")
    assert complete(driver, folder, folder) == 1
    kept["chapters"]["drain"] = golden["chapters"]["drain"]
    assert json.loads(here.read_bytes()) == kept
    before = here.read_bytes()
    assert complete(driver, folder, folder) == 0
    assert here.read_bytes() == before
