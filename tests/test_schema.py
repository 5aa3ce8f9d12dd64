"""The JSON Schemas: what they accept and refuse, that they say what README says, and that the wheel carries them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from jsonschema import Draft202012Validator

from starfish_outbox.schema import schema
from tests.lexical import SAFE, rules_broken

ROOT = Path(__file__).resolve().parents[1]
INTEROP = ROOT / "interop"
EXAMPLES = ROOT / "schema" / "examples"
FORMS: tuple[Literal["reader", "writer"], ...] = ("reader", "writer")
READER = Draft202012Validator(schema("reader"))
WRITER = Draft202012Validator(schema("writer"))

# Where the reader form must find fault with an example that is named by a rule.
PLACES = {
    "r01": "item",
    "r02": "id",
    "r03": "attempts",
    "r04": "attempts",
    "r05": "attempts",
    "r06": "enqueuedAt",
    "r07": "enqueuedAt",
    "r08": "status",
    "r09": "status",
    "r17": "id",
    "r18": "id",
}


def examples(folder: str, pattern: str = "*") -> list[Any]:
    found = sorted((EXAMPLES / folder).glob(f"{pattern}.json"))
    assert found, f"no examples {folder}/{pattern}"
    return [pytest.param(path, id=path.stem) for path in found]


def properties(form: Literal["reader", "writer"]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each described property of a form, with its dotted name."""
    waiting = [("", schema(form)["$defs"]["entry"])]
    while waiting:
        prefix, node = waiting.pop()
        for name, inner in node.get("properties", {}).items():
            yield prefix + name, inner
            waiting.append((f"{prefix}{name}.", inner))


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_a_valid_schema_of_the_dialect_it_names(form: Literal["reader", "writer"]) -> None:
    document = schema(form)
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert document["$id"] == f"urn:starfish-outbox:schema:{form}:1"
    Draft202012Validator.check_schema(document)


@pytest.mark.parametrize("form", FORMS)
def test_every_property_is_described_and_its_examples_satisfy_it(form: Literal["reader", "writer"]) -> None:
    seen = dict(properties(form))
    five = {"id", "item", "status", "attempts", "enqueuedAt"}
    assert {*five, "maybeSent", "nextAttemptAt", "lastError", "replacement"} <= seen.keys()
    for name, node in seen.items():
        assert len(node["description"]) > 20, name
        assert node["examples"], name
        for example in node["examples"]:
            Draft202012Validator(node).validate(example)
    for example in schema(form)["examples"]:
        Draft202012Validator(schema(form)).validate(example)


def test_both_forms_name_the_same_keys_in_the_same_order_and_require_the_same_five() -> None:
    reader, writer = (schema(form)["$defs"]["entry"] for form in FORMS)
    assert list(reader["properties"]) == list(writer["properties"])
    assert reader["required"] == writer["required"] == list(writer["properties"])[:5]


@pytest.mark.parametrize("path", examples("valid"))
def test_a_valid_example_satisfies_the_forms_that_its_name_says(path: Path) -> None:
    value = json.loads(path.read_bytes())
    READER.validate(value)
    kind = path.stem.partition("-")[0]
    assert kind in FORMS
    assert WRITER.is_valid(value) == (kind == "writer")
    assert rules_broken(path.read_bytes()) == set()


@pytest.mark.parametrize("path", examples("invalid"))
def test_an_invalid_example_is_refused_by_both_forms_at_the_place_that_its_name_says(path: Path) -> None:
    value = json.loads(path.read_bytes())
    assert not WRITER.is_valid(value)
    errors = list(READER.iter_errors(value))
    rule = path.stem.partition("-")[0]
    for error in errors:
        if rule in PLACES:
            assert error.absolute_path[-1] == PLACES[rule] or f"'{PLACES[rule]}' is a required" in error.message
        elif rule == "r31":
            assert not error.absolute_path
        else:
            assert rule in {"r13", "r14"}
            assert list(error.absolute_path) == [0]
    assert errors


@pytest.mark.parametrize("path", examples("lexical"))
def test_a_lexical_example_breaks_the_rule_of_its_name_alone_and_no_schema_sees_it(path: Path) -> None:
    data = path.read_bytes()
    rule = path.stem.partition("-")[0]
    assert rules_broken(data) == {rule}
    if rule in {"r30", "r32", "r33"}:
        with pytest.raises((json.JSONDecodeError, UnicodeDecodeError)):
            json.loads(data.decode("utf-8"))
    else:
        # A number past the digits that int() takes reads as a double here, as it does in JavaScript.
        READER.validate(json.loads(data, parse_int=lambda token: int(token) if len(token) < 4300 else float(token)))


def test_there_are_enough_examples_to_speak_of_coverage() -> None:
    assert len(examples("valid")) >= 12
    assert len(examples("invalid")) >= 25
    rules = {rule for path in EXAMPLES.rglob("*.json") for rule in re.findall(r"\br[0-9]{2}\b", path.stem)}
    # r10 is about live owners, r19 about two ids as numbers (each refused by r17), r35 and r36 about size.
    assert {f"r{number:02}" for number in range(1, 37)} - rules == {"r10", "r19", "r35", "r36"}


def test_readme_has_a_row_for_each_key_and_an_example_that_the_writer_form_accepts() -> None:
    text = (ROOT / "schema" / "README.md").read_text(encoding="utf-8")
    table = text.partition("| key |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(schema("writer")["$defs"]["entry"]["properties"])
    example = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    assert example is not None
    WRITER.validate(json.loads(example[1]))


def test_readme_speaks_of_every_rule_that_a_lexical_example_breaks() -> None:
    text = (ROOT / "schema" / "README.md").read_text(encoding="utf-8")
    spoken = set(re.findall(r"\br[0-9]{2}\b", text.partition("## What a schema cannot say")[2]))
    assert {path.stem.partition("-")[0] for path in (EXAMPLES / "lexical").glob("*.json")} <= spoken


VALID = st.fixed_dictionaries(
    {
        "id": st.text(min_size=1, max_size=5),
        "item": st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), st.lists, max_leaves=3),
        "status": st.sampled_from(["queued", "sending", "failed"]),
        "attempts": st.integers(0, SAFE) | st.just(2.0),
        "enqueuedAt": st.integers(-SAFE, SAFE),
    },
    optional={
        "maybeSent": st.integers(0, SAFE),
        "nextAttemptAt": st.integers(0, SAFE),
        "lastError": st.fixed_dictionaries(
            {"type": st.text(min_size=1, max_size=9), "message": st.just("é" * 500), "at": st.integers(0, SAFE)}
        ),
        "replacement": st.fixed_dictionaries(
            {"item": st.none() | st.text(max_size=3), "enqueuedAt": st.integers(-SAFE, SAFE)}
        ),
    },
)
# Values at the edge of what a key may hold, on both sides of it.
OTHER_TYPES: list[Any] = [None, True, "0", [], {}]
COUNTS = [*OTHER_TYPES, -1, 0, 0.5, 2.0, SAFE, SAFE + 1, -SAFE, -SAFE - 1, 1e300]
TEXTS = [*OTHER_TYPES, "", "Queued", "queued", "x" * 500, "x" * 501, "🐧" * 500, 7]
ERROR = {"type": "E", "message": "m", "at": 0}
ERROR_EDGES = {"type": TEXTS, "message": TEXTS, "at": COUNTS, "stack": OTHER_TYPES}
REPLACEMENT = {"item": None, "enqueuedAt": 0}
REPLACEMENT_EDGES = {"item": OTHER_TYPES, "enqueuedAt": COUNTS, "status": OTHER_TYPES}
EDGES: dict[str, list[Any]] = {
    "id": TEXTS,
    "item": OTHER_TYPES,
    "status": TEXTS,
    "attempts": COUNTS,
    "enqueuedAt": COUNTS,
    "maybeSent": COUNTS,
    "nextAttemptAt": COUNTS,
    "lastError": [
        *OTHER_TYPES,
        *[{**ERROR, key: value} for key, values in ERROR_EDGES.items() for value in values],
        *[{key: value for key, value in ERROR.items() if key != absent} for absent in ERROR],
    ],
    "replacement": [
        *OTHER_TYPES,
        *[{**REPLACEMENT, key: value} for key, values in REPLACEMENT_EDGES.items() for value in values],
        *[{key: value for key, value in REPLACEMENT.items() if key != absent} for absent in REPLACEMENT],
    ],
    "meta": OTHER_TYPES,
}
PLAIN = {"id": "a", "item": 1, "status": "queued", "attempts": 0, "enqueuedAt": 0}


@st.composite
def entries(draw: st.DrawFn) -> Any:
    """Entries as they are written, most of them with one or two changes."""
    entry: dict[str, Any] = draw(VALID)
    for key in draw(st.lists(st.sampled_from(list(EDGES)), max_size=2)):
        value = draw(st.sampled_from([*EDGES[key], ...]))
        if value is ...:
            entry.pop(key, None)
        else:
            entry[key] = value
    return entry


def is_count(value: Any, low: int = 0) -> bool:
    """A whole number in the safe range; JSON knows no int beside float, and True is no number."""
    return type(value) in (int, float) and value == int(value) and low <= value <= SAFE


def may_be_written(entry: dict[str, Any]) -> bool:
    """The writer form in plain Python, from README's table and not from the schema."""
    five = ("id", "item", "status", "attempts", "enqueuedAt")
    if any(key not in entry for key in five):
        return False
    if any(key not in (*five, "maybeSent", "nextAttemptAt", "lastError", "replacement") for key in entry):
        return False
    if not isinstance(entry["id"], str) or entry["id"] == "":
        return False
    if not isinstance(entry["status"], str) or entry["status"] not in ("queued", "sending", "failed"):
        return False
    if not is_count(entry["attempts"]) or not is_count(entry["enqueuedAt"], -SAFE):
        return False
    if not is_count(entry.get("maybeSent", 0)) or not is_count(entry.get("nextAttemptAt", 0)):
        return False
    waiting = entry.get("replacement", REPLACEMENT)
    if not isinstance(waiting, dict) or set(waiting) != set(REPLACEMENT) or not is_count(waiting["enqueuedAt"], -SAFE):
        return False
    error = entry.get("lastError", {"type": "E", "message": "", "at": 0})
    if not isinstance(error, dict) or set(error) != {"type", "message", "at"}:
        return False
    texts = isinstance(error["type"], str) and isinstance(error["message"], str)
    return texts and error["type"] != "" and len(error["message"]) <= 500 and is_count(error["at"])


@pytest.mark.parametrize("key", EDGES)
def test_the_writer_form_draws_each_line_where_the_table_draws_it(key: str) -> None:
    without = {name: value for name, value in PLAIN.items() if name != key}
    cases: list[dict[str, Any]] = [without, *({**PLAIN, key: value} for value in EDGES[key])]
    for entry in cases:
        assert WRITER.is_valid([entry]) == may_be_written(entry), entry


def test_the_writer_form_accepts_what_the_table_allows_and_nothing_else_and_the_reader_form_accepts_it_too() -> None:
    seen = {True: 0, False: 0, "reader only": 0}

    @settings(max_examples=1000, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(entries())
    def compare(entry: dict[str, Any]) -> None:
        written, read = WRITER.is_valid([entry]), READER.is_valid([entry])
        assert written == may_be_written(entry)
        assert read or not written
        seen[written] += 1
        seen["reader only"] += read and not written

    compare()
    assert min(seen.values()) > 20, seen


def test_each_call_gives_a_copy_of_the_callers_own() -> None:
    changed = schema()
    changed["items"].clear()
    changed["title"] = ""
    assert schema() == json.loads((ROOT / "schema" / "outbox.schema.json").read_bytes())


def test_an_unknown_form_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'strict'"):
        schema("strict")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it would be published, built without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    [built] = folder.glob("*.whl")
    return built


def test_the_wheel_carries_schemas_and_cases_byte_for_byte_and_the_mark_that_it_is_typed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in ("outbox.schema.json", "outbox.writer.schema.json"):
            assert archive.read(f"starfish_outbox/_data/{name}") == (ROOT / "schema" / name).read_bytes()
        for path in (
            INTEROP / "protocol.schema.json",
            *(INTEROP / "cases").glob("*.json"),
            *(INTEROP / "known").glob("*"),
        ):
            packed = archive.read(f"starfish_outbox/_data/interop/{path.relative_to(INTEROP)}")
            assert packed == path.read_bytes()
        assert "starfish_outbox/py.typed" in archive.namelist()
        assert all(name.startswith(("starfish_outbox/", "starfish_outbox-")) for name in archive.namelist())


def test_the_wheel_works_in_a_bare_environment_with_nothing_but_the_standard_library(
    wheel: Path, tmp_path: Path
) -> None:
    def run(*command: str) -> str:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(sys.executable, "-m", "venv", "--without-pip", "bare")
    python = str(tmp_path / "bare" / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps"]
    run(*pip, str(wheel))
    # The module of one name with the function must not get in its way, in whichever order they are imported.
    code = """if True:
        import json
        import starfish_outbox.schema
        import starfish_outbox
        from starfish_outbox import schema
        assert schema is starfish_outbox.schema
        print(json.dumps([starfish_outbox.__file__, schema(), schema("writer")]))"""
    where, reader, writer = json.loads(run(python, "-I", "-c", code))
    assert Path(where).is_relative_to(tmp_path / "bare")
    assert [reader, writer] == [schema(), schema("writer")]
