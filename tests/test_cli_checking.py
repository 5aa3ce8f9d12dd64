"""``check``: every example of the format, what it says of each, and what is true of this package in it."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from starfish_outbox import codec
from starfish_outbox.caches.file import MAX_UTF16
from starfish_outbox.cli import problems
from starfish_outbox.cli.fields import FIELDS, PROBLEM
from starfish_outbox.cli.problems import Check
from starfish_outbox.cli.rules import PROGRAMS, RULES
from tests.cli import KEY, cli, everything, fill, store

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "schema" / "examples"
GOOD = {"id": "a", "item": 1, "status": "queued", "attempts": 0, "enqueuedAt": 0}


def examples(folder: str) -> list[Path]:
    found = sorted((EXAMPLES / folder).glob("*.json"))
    assert found
    return found


def stem(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", [*examples("invalid"), *examples("lexical")], ids=stem)
def test_a_bad_example_is_found_to_break_the_rule_of_its_name(path: Path) -> None:
    rule = path.stem.partition("-")[0]
    ran = cli("check", path, "--json")
    found = {problem["rule"].partition(" ")[0] for problem in ran.document["problems"]}
    if rule == "r32":  # an empty text is an empty queue for everybody
        assert (ran.code, found) == (0, set())
        return
    assert ran.code == 1
    assert rule in found
    # Two rules at once: a number that is infinite, and ids that are no text, are problems in any place.
    assert found - {rule} <= {"r22", "r17"}
    if path.parent.name == "invalid":
        assert "error" in {problem["level"] for problem in ran.document["problems"]}


@pytest.mark.parametrize("path", examples("valid"), ids=stem)
def test_a_good_example_has_no_error_and_one_as_we_write_it_no_problem(path: Path) -> None:
    assert cli("check", path, "--errors-only").code == 0
    assert cli("check", path).code == (0 if path.stem.startswith("writer") else 1)


def test_each_problem_has_a_place_a_rule_and_what_each_program_does(tmp_path: Path) -> None:
    file = tmp_path / "queue.json"
    file.write_text('[\n {"id":"a","item":{"x":[1,NaN]},"status":"queued","attempts":0,"enqueuedAt":0},\n null]')
    ran = cli("check", file, "--json")
    document = ran.document
    assert document.keys() == FIELDS["check"].keys()
    assert all(problem.keys() == PROBLEM.keys() for problem in document["problems"])
    places = [(p["rule"], p["path"], p["line"], p["column"]) for p in document["problems"]]
    assert places == [("r21", "$[0].item.x[1]", 2, 27), ("r13", "$[1]", 3, 2)]
    assert (document["entries"], document["errors"], document["warnings"], document["kind"]) == (2, 2, 0, "json")
    assert document["rules"].keys() == {"r21", "r13"}
    assert all(tuple(rule["programs"]) == PROGRAMS for rule in document["rules"].values())
    out = cli("check", file).out
    assert out.startswith(f"{file}: 2 errors, 0 warnings in 2 entries\n")
    assert "error r21: NaN or Infinity\n  $[0].item.x[1], line 2, column 27: NaN, which is not JSON\n" in out
    assert re.search(r"TypeScript 3\.0\.0-alpha\.62 +loses the whole queue", out)
    assert re.search(r"this package +sets the whole text aside", out)


def test_many_places_of_one_rule_are_cut_for_people_and_whole_for_programs(tmp_path: Path) -> None:
    file = tmp_path / "queue.json"
    file.write_text(json.dumps([{**GOOD, "id": str(number), "attempts": None} for number in range(30)]))
    out = cli("check", file, "--max", "4").out
    assert out.count("attempts is null") == 4
    assert "… and 26 more" in out
    assert cli("check", file, "--max", "0").out.count("attempts is null") == 30
    assert len(cli("check", file, "--json").document["problems"]) == 30


def test_no_content_of_an_item_is_repeated(tmp_path: Path) -> None:
    file = tmp_path / "queue.json"
    secret = {**GOOD, "item": {"pin": "4711"}, "status": ["4711"], "attempts": "4711x", "enqueuedAt": "4711-"}
    file.write_text(json.dumps([secret, "4711"]))
    for args in ([], ["--json"]):
        ran = cli("check", file, *args)
        assert ran.code == 1
        assert "4711" not in ran.out.replace(str(file), "")


def test_what_is_wrong_with_more_than_one_entry_is_found() -> None:
    def rules(*entries: object) -> list[tuple[str, str]]:
        return [(problem.number, problem.path) for problem in Check(json.dumps(entries))]

    assert rules(GOOD, {**GOOD, "id": "b"}, GOOD) == [("r15", "$[2].id")]
    assert rules({**GOOD, "id": True}, {**GOOD, "id": 1})[-1] == ("r18", "$[1].id")
    big = [{**GOOD, "id": 2**53}, {**GOOD, "id": 2**53 + 1}]
    assert ("r19", "$[1].id") in rules(*big)
    assert rules({**GOOD, "id": 1}, {**GOOD, "id": 2}) == [("r17", "$[0].id"), ("r17", "$[1].id")]


def test_sizes_are_judged_by_the_item_and_by_the_whole_text(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = json.dumps([{**GOOD, "item": "ü" * (2**19 - 1)}], ensure_ascii=False)
    over = json.dumps([{**GOOD, "item": "ü" * (2**19)}])
    assert [problem.rule for problem in Check(exact)] == []
    assert [problem.rule for problem in Check(over)] == ["r35 item"]
    assert MAX_UTF16 == 2**29 - 24  # a text of that size takes minutes: the limit is moved instead
    monkeypatch.setattr(problems, "MAX_UTF16", 100)
    assert [problem.rule for problem in Check(json.dumps([{**GOOD, "item": "x" * 40}]))] == ["r35 text"]


@pytest.mark.parametrize("path", [*examples("invalid"), *examples("lexical"), *examples("valid")], ids=stem)
def test_what_check_says_of_this_package_is_what_it_does(path: Path) -> None:
    """The column of this package, held against the codec; those of the published packages were measured."""
    text, unreadable = problems.decoded(path.read_bytes())
    if unreadable is not None:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    said = {problem.rule for problem in ([unreadable] if unreadable else []) + list(Check(text))}
    does = " ".join(RULES[rule].here for rule in said)
    if "refuses to open it" in does:
        with pytest.raises(codec.NotAQueueError):
            codec.read(text)
        return
    reading = codec.read(text)
    aside = "sets the whole text aside" in does and not (said == {"r24"} and "400" in path.stem)
    assert (reading.damage is not None) == aside
    assert len(reading.rejected) == (0 if aside else does.count("sets this element aside"))
    if "says so" in does and not aside and not reading.rejected:
        assert reading.notes
    if re.search(r"\b(reads 0|keeps it|keeps both|keeps its|reads null)", does) and not aside:
        assert len(reading.entries) == len(json.loads(text)) - len(reading.rejected)
    if "reads 0 and says so" in does and not aside:
        assert 0 in (reading.entries[0].attempts, reading.entries[0].enqueued_at)
    if "keeps it in the text, never sends it" in does or "keeps both in the text" in does:
        assert reading.entries[0].id is None


def test_every_rule_of_the_table_can_be_told_and_has_its_number_in_the_specification() -> None:
    specification = (ROOT / "schema" / "README.md").read_text(encoding="utf-8")
    beyond_a_schema = specification.partition("## What a schema cannot say")[2].partition("\n## ")[0]
    for name, rule in RULES.items():
        assert all(rule.consequences[place][1] for place in range(3)), name
        if re.fullmatch(r"r(15|16|2[0-79]|3[0-5]).*", name) and name != "r31":
            assert name.partition(" ")[0] in beyond_a_schema, name


def test_a_database_is_checked_row_by_row_and_as_the_array_that_others_would_read(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, [(f"obs-{number}", {"n": number}) for number in range(4)])
    assert cli("check", place.path).out == f"{place.path}: no problems in 4 rows\n"
    with sqlite3.connect(place.path) as database:
        database.execute("UPDATE entries SET item = '{\"n\":99}' WHERE id = 'obs-1'")
        database.execute("UPDATE entries SET item = CAST(X'FF' AS TEXT) WHERE id = 'obs-2'")
        database.execute("INSERT INTO keys (key, text) VALUES ('outbox.you', '[null]')")
    database.close()
    before = everything(tmp_path)
    ran = cli("check", place.path, "--json")
    assert ran.code == 1
    assert [(p["rule"], p["key"], p["path"], p["line"]) for p in ran.document["problems"]] == [
        ("db row", KEY, "entries.seq=2", None),
        ("db row", KEY, "entries.seq=3", None),
        ("r13", "outbox.you", "$[0]", 1),
    ]
    assert ran.document["kind"] == "sqlite"
    assert everything(tmp_path) == before


def damage_pages(path: Path) -> None:
    size = path.stat().st_size
    assert size > 8192
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xaa" * (size - 4096))


def damage_head(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"no SQLite any more")


@pytest.mark.parametrize("damage", [damage_pages, damage_head])
def test_a_damaged_database_is_a_problem_that_no_other_command_hides(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, [(f"obs-{number}", "x" * 500) for number in range(40)])
    damage(place.path)
    ran = cli("check", place.path, "--json")
    assert ran.code == 1
    assert {problem["rule"] for problem in ran.document["problems"]} == {"db file"}
    looked = cli("status", "--store", place.path)
    assert looked.code == 2
    assert f"{place.path} is damaged" in looked.err


def test_what_is_no_cache_file_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "other.db"
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE cats (name)")
    database.close()
    for path, why in (
        (tmp_path / "nix.json", "there is no file"),
        (tmp_path, "is a directory"),
        (foreign, "is another program's database"),
    ):
        ran = cli("check", path, "--json")
        assert ran.code == 2
        assert why in ran.document["error"]["message"]
        assert str(path) in ran.err
