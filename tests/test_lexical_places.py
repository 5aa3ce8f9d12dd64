"""``starfish_outbox.lexical``: it finds what an independent judge finds, and knows the place of each."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from starfish_outbox.lexical import Elements, Finding, Lines, members, spelled
from tests.lexical import rules_broken

# UTF-16 is told by its first bytes, before there is a text.
EXAMPLES = [
    path
    for path in sorted((Path(__file__).resolve().parents[1] / "schema" / "examples").rglob("*.json"))
    if not path.read_bytes().startswith(b"\xff\xfe")
]
GOOD = '{"id":"a","item":1,"status":"queued","attempts":0,"enqueuedAt":0}'
# What the judge looks for in other places (r15), or where it counts an empty text as one.
ELSEWHERE = {"r15", "r31", "r32"}


def findings(text: str) -> list[Finding]:
    elements = Elements(text)
    return [finding for element in elements for finding in element.findings] + elements.whole


def entry(item: str) -> str:
    return f'{{"id":"a","item":{item},"status":"queued","attempts":0,"enqueuedAt":0}}'


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 80


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_breaks_the_rules_that_the_judge_finds_in_it(path: Path) -> None:
    data = path.read_bytes()
    found = {finding.rule for finding in findings(data.decode("utf-8", "surrogateescape"))}
    assert found - ELSEWHERE == rules_broken(data) - ELSEWHERE


numbers = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"\A-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,25})?([eE][-+]?[0-9]{1,3})?\Z"),
    st.sampled_from(["NaN", "Infinity", "-Infinity", "-0", "0", "1e400", "1.0", "9007199254740993", "1e16", "5e-324"]),
)
strings = st.one_of(
    st.text(max_size=6).map(json.dumps),
    st.text(max_size=6).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(
        ['"\\ud83d"', '"\\ud83d\\ude00"', '" 1.0"', '"-0,"', '"\\\\ud83d"', '"2"', '"10"', '"1e5"', '"NaN"']
    ),
).filter(lambda text: not re.search("[\ud800-\udfff]", text))
keys = st.one_of(st.sampled_from(['"a"', '"b"', '"10"', '"2"', '"01"', '"\\ud83d"']), strings)
spaces = st.sampled_from(["", "", " ", "\n", "\t \r\n"])


def containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    def joined(parts: list[str], space: str) -> str:
        return f"{space},{space}".join(parts)

    lists = st.builds(lambda parts, space: f"[{space}{joined(parts, space)}]", st.lists(inner, max_size=4), spaces)
    pairs = st.builds(lambda key, value, space: f"{key}{space}:{space}{value}", keys, inner, spaces)
    objects = st.builds(lambda parts, space: f"{{{joined(parts, space)}{space}}}", st.lists(pairs, max_size=4), spaces)
    return lists | objects


items = st.recursive(numbers | strings | st.sampled_from(["null", "true", "false"]), containers, max_leaves=12)


def test_it_agrees_with_the_judge_on_random_texts_and_each_place_holds_what_it_says() -> None:
    seen: dict[str, int] = {}

    @settings(max_examples=800, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(items, min_size=1, max_size=3), spaces)
    def compare(parts: list[str], space: str) -> None:
        text = "[" + ",".join(f"{space}{entry(part)}{space}" for part in parts) + "]"
        found = findings(text)
        rules, judged = {finding.rule for finding in found}, rules_broken(text.encode()) - ELSEWHERE
        # Where a key stands twice the judge sees only the last value, and the key in two places.
        assert judged - {"r27"} <= rules if "r16" in rules else judged == rules, text
        for finding in found:
            seen[finding.rule] = seen.get(finding.rule, 0) + 1
            assert PLACES[finding.rule].match(text, finding.at), (finding, text)

    compare()
    assert min(seen.get(rule, 0) for rule in PLACES) > 10, seen


PLACES = {
    "r16": re.compile('"'),
    "r21": re.compile("NaN|-?Infinity"),
    "r22": re.compile("-?[0-9.]+[eE]"),
    "r23": re.compile("-?[0-9]{16}"),
    "r25": re.compile("-?[0-9]"),
    "r26": re.compile("-?[0-9.]{18}"),
    "r27": re.compile("{"),
    "r29": re.compile('".*\\\\u[dD][89a-fA-F]'),
}


def test_an_element_is_decoded_as_json_decodes_it_whether_it_looks_odd_or_not() -> None:
    @settings(max_examples=200, deadline=None, database=None)
    @given(st.lists(items, min_size=1, max_size=4))
    def compare(parts: list[str]) -> None:
        text = f"[{','.join(parts)}]"
        wanted: list[Any] = json.loads(text)
        assert repr([element.value for element in Elements(text)]) == repr(wanted)
        assert [text[element.start : element.end] for element in Elements(text)] == parts

    compare()


BREAKS = {
    "[": (1, "the text ends where a JSON value should be"),
    f"[{GOOD}": (1 + len(GOOD), "the text ends where a comma or a closing bracket should be"),
    f"[{GOOD},]": (2 + len(GOOD), "a comma before the closing bracket"),
    f"[{GOOD} {GOOD}]": (2 + len(GOOD), "something else where a comma or a closing bracket should be"),
    '[{"a" 1}]': (6, "something else where a colon should be"),
    '[{"a":1 "b":2}]': (8, "something else where a comma or a closing bracket should be"),
    "[{'a':1}]": (2, "a single quote where a key in double quotes should be"),
    '[{"a":1,}]': (8, "a comma before the closing bracket"),
    "[// no\n1]": (1, "a comment where a JSON value should be"),
    '["a\tb"]': (3, "a raw control character in a string"),
    '["\\x"]': (2, "a bad escape in a string"),
    '["abc': (1, "the text ends within a string that begins here"),
    "[01]": (2, "something else where a comma or a closing bracket should be"),
    "[+1]": (1, "something else where a JSON value should be"),
    "[\u00a01]": (1, "white space that JSON does not know where a JSON value should be"),
    "[1]\0\0": (3, "2 NUL characters behind the end"),
    "[1][2]": (3, "more text behind the end"),
    "[True]": (1, "something else where a JSON value should be"),
    "[1\udcff]": (2, "a byte that is no UTF-8 where a comma or a closing bracket should be"),
}


@pytest.mark.parametrize("text", BREAKS)
def test_where_a_text_stops_being_json_is_said_to_the_character(text: str) -> None:
    [finding] = findings(text)
    assert (finding.at, finding.what) == BREAKS[text]
    assert finding.rule == ("r33" if "\udcff" in text else "r30")


def test_the_elements_before_a_break_are_given_out_and_what_is_odd_in_the_broken_one_is_kept() -> None:
    elements = Elements(f'[{GOOD},{{"id":"b","item":[1.0,')
    assert [element.value["id"] for element in elements] == ["a"]
    assert [(finding.rule, spelled(finding.path)) for finding in elements.whole] == [
        ("r25", "$[1].item[0]"),
        ("r30", "$[1].item[1]"),
    ]


def test_paths_lines_and_columns_are_those_that_people_use() -> None:
    text = '[\n  {"id": "a", "item": {"odd key": [0, NaN]},\n   "Größe": 1.0}\n]'
    lines = Lines(text)
    assert [(finding.rule, spelled(finding.path), lines.place(finding.at)) for finding in findings(text)] == [
        ("r21", '$[0].item["odd key"][1]', (2, 39)),
        ("r25", "$[0].Größe", (3, 13)),
    ]
    assert text[members(text, 4)["item"]] == "{"
    assert members(text, 0) == {}


def test_keys_are_array_indices_up_to_the_largest_that_javascript_moves() -> None:
    for key, rules in (("4294967294", ["r27"]), ("4294967295", []), ("01", []), ("-1", []), ("1.0", [])):
        assert [finding.rule for finding in findings(f'[{entry(f"""{{"a":0,"{key}":0}}""")}]')] == rules, key
    assert findings(f'[{entry("""{"2":0,"10":0,"a":0}""")}]') == []


def test_depth_is_that_of_the_item_and_no_depth_is_too_deep_to_be_read() -> None:
    for depth, rules in ((127, []), (128, []), (129, ["r34"]), (50_000, ["r34"])):
        text = f"[{entry('[' * depth + ']' * depth)}]"
        assert [finding.rule for finding in findings(text)] == rules
    deep_elsewhere = f'[{{"id":"a","meta":{"[" * 200}{"]" * 200}}}]'
    assert findings(deep_elsewhere) == []


def test_an_empty_text_is_an_empty_queue_and_a_mark_before_it_is_found() -> None:
    for text in ("", " \r\n", "[]", " [ ] "):
        assert findings(text) == []
    assert [finding.rule for finding in findings(f"\ufeff[{entry('NaN')}]")] == ["r21", "r30"]
