"""What `decode` and `scan` take, what they call damage and where, and that `encode_foreign` keeps what they took."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from starfish_outbox.jsontext import (
    MAX_SAFE_INTEGER,
    DamagedText,
    decode,
    encode_foreign,
    encode_item,
    encode_number,
    encode_string,
    scan,
)

DAMAGED = [
    pytest.param("NaN", 0, "NaN, which is not JSON", id="R21-nan"),
    pytest.param('{"a":[1,Infinity]}', 8, "Infinity, which is not JSON", id="R21-infinity"),
    pytest.param("[-Infinity]", 1, "-Infinity, which is not JSON", id="R21-minus-infinity"),
    pytest.param("1e400", 0, "infinite as a double", id="R22-alone"),
    pytest.param("[1,-1e400]", 3, "infinite as a double", id="R22-negative"),
    pytest.param("[1.5E+00000309]", 1, "infinite as a double", id="R22-leading-zeros"),
    pytest.param(f"[{'9' * 310}.0]", 1, "infinite as a double", id="R22-no-exponent"),
    pytest.param(f"[{'9' * 250}e99]", 1, "infinite as a double", id="R22-short-exponent"),
    pytest.param('{"a": 1.7976931348623159e308}', 6, "infinite as a double", id="R22-just-too-large"),
    pytest.param(f"[{'1' * 4301}]", 1, "more than 4,300 digits", id="R24-4301-digits"),
    pytest.param(f"-{'1' * 5000}", 0, "more than 4,300 digits", id="R24-5000-digits"),
    pytest.param('["s3cret\udce9"]', 8, "raw surrogate", id="R29-byte-that-is-not-utf8"),
    pytest.param('"\ud83d\ude00"', 1, "raw surrogate", id="R29-raw-pair"),
    pytest.param('{"s3cret\ud800":1}', 8, "raw surrogate", id="R29-key"),
    pytest.param('["s3cret', 1, "Unterminated string", id="R30-truncated"),
    pytest.param('["a","s3\tcret"]', 8, "control character", id="R30-control-character"),
    pytest.param('{"s3cret":1,}', 12, "expected a key", id="R30-trailing-comma"),
]


@pytest.mark.parametrize(("text", "pos", "words"), DAMAGED)
def test_a_text_that_two_languages_would_not_read_alike_is_damaged(text: str, pos: int, words: str) -> None:
    for before in ("", " \r\n\t"):
        with pytest.raises(DamagedText) as caught:
            decode(before + text)
        assert caught.value.pos == len(before) + pos
        assert words in caught.value.reason
        assert "s3cret" not in str(caught.value)
    with pytest.raises(DamagedText) as caught:
        scan(f'["before",{text}', 10)
    assert caught.value.pos == 10 + pos
    assert words in caught.value.reason


def test_r30_more_text_after_the_end_is_damage_for_decode_and_not_for_scan() -> None:
    with pytest.raises(DamagedText, match="more text after the end of the value at character 5"):
        decode("[1]  [2]")
    assert scan("[1]  [2]", 0) == ([1], 3)
    assert scan("[1]  [2\udc80", 0) == ([1], 3)


def test_scan_skips_no_space_and_reads_only_its_value() -> None:
    text = '{"a": [1, "é", 10000000000000000]}, oops \ud800'
    assert scan(text, 0) == ({"a": [1, "é", 1e16]}, 34)
    assert scan(text, 6) == ([1, "é", 1e16], 33)
    assert scan(text, 7) == (1, 8)
    for index in (5, 36, len(text), len(text) + 5):
        with pytest.raises(DamagedText, match=f"Expecting value at character {index}"):
            scan(text, index)


def test_scan_tolerates_raw_control_characters_when_asked() -> None:
    assert scan('["a\tb\x00"]', 0, strict=False) == (["a\tb\x00"], 8)
    assert scan('["a\tb", 12345678901234567890]', 0, strict=False)[0][1] == 12345678901234567890
    with pytest.raises(DamagedText, match="control character"):
        scan('["a\tb\x00"]', 0)


@pytest.mark.parametrize(
    ("token", "value", "kept"),
    [
        pytest.param("9007199254740991", MAX_SAFE_INTEGER, "9007199254740991", id="R23-last-safe-int"),
        pytest.param("9007199254740993", 2**53 + 1, "9007199254740993", id="R23-exact-int"),
        pytest.param("-9007199254740993", -(2**53) - 1, "-9007199254740993", id="R23-exact-negative-int"),
        pytest.param("12345678901234567890", 12345678901234567890, "12345678901234567890", id="R23-20-digits"),
        pytest.param("9007199254740992", 2.0**53, "9007199254740992", id="R23-spelled-as-its-double"),
        pytest.param("-10000000000000000", -1e16, "-10000000000000000", id="R23-1e16"),
        pytest.param(
            "123456789012345680000", 123456789012345680000.0, "123456789012345680000", id="R23-largest-layout"
        ),
        pytest.param("1000000000000000000000", 10**21, "1000000000000000000000", id="R23-javascript-writes-1e21"),
        pytest.param("7" * 400, int("7" * 400), "7" * 400, id="R24-400-digits"),
        pytest.param("-" + "7" * 4300, -int("7" * 4300), "-" + "7" * 4300, id="R24-4300-digits"),
        pytest.param("1.0", 1.0, "1", id="R25-one"),
        pytest.param("1E5", 1e5, "100000", id="R25-1E5"),
        pytest.param("-0", 0, "0", id="R25-minus-zero-int"),
        pytest.param("-0.0", -0.0, "0", id="R25-minus-zero"),
        pytest.param("0.30000000000000004441", 0.30000000000000004, "0.30000000000000004", id="R26-long"),
        pytest.param("5e-324", 5e-324, "5e-324", id="R26-smallest"),
        pytest.param("1e-400", 0.0, "0", id="R26-underflow"),
        pytest.param("1e21", 1e21, "1e+21", id="R26-1e21"),
        pytest.param("1e308", 1e308, "1e+308", id="R26-1e308"),
    ],
)
def test_a_number_of_another_program_is_read_and_kept(token: str, value: float, kept: str) -> None:
    for read in (decode(token), decode(f'{{"a":[{token}]}}')["a"][0], scan(f"[\n{token}]", 2)[0]):
        assert read == value
        assert type(read) is type(value)
        assert encode_foreign(read) == kept
    assert encode_foreign(decode(f"[{token},1e-7]")) == f"[{kept},1e-7]"


@pytest.mark.parametrize(
    ("text", "value", "kept"),
    [
        (r'"\ud800"', "\ud800", r'"\ud800"'),
        (r'["\uDC00\uD800"]', ["\udc00\ud800"], r'["\udc00\ud800"]'),
        (r'{"\udfff":"\ud83d\ude00"}', {"\udfff": "😀"}, r'{"\udfff":"😀"}'),
        (r'"\u0000\u2028\uFEFF\u007f"', "\0\u2028\ufeff\x7f", '"\\u0000\u2028\ufeff\x7f"'),
    ],
)
def test_r29_a_string_of_another_program_is_kept(text: str, value: object, kept: str) -> None:
    assert decode(text) == value
    assert encode_foreign(value) == kept


def test_a_pair_of_two_code_points_is_one_character_and_a_lone_surrogate_an_escape() -> None:
    assert encode_string("a\ud83d\ude00\ude00\udbff") == r'"a😀\ude00\udbff"'


def test_nan_and_infinity_have_no_text() -> None:
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="no form"):
            encode_number(value)
        with pytest.raises(ValueError, match="no form"):
            encode_foreign([value])
    with pytest.raises(TypeError):
        encode_foreign({1})


@pytest.mark.parametrize(
    "value", [[1e-07], [1.0], [2.5e16], {"a": 1e22}, ["1.0,", 1.5], ["e-07]"], {"v1.0": ".0"}, [0.0, "é"], 3.0, "4e-05"]
)
def test_the_fast_way_of_encode_foreign_is_left_when_python_spells_otherwise(value: Any) -> None:
    assert encode_foreign(value) == encode_item(value)


@pytest.fixture(params=[1_000, 1_000_000], ids=["usual-recursion-limit", "raised-recursion-limit"])
def recursion_limit(request: pytest.FixtureRequest) -> Iterator[int]:
    """Python's limit, and one so high that C would run off the end of its own stack first."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, request.param))
    yield sys.getrecursionlimit()
    sys.setrecursionlimit(before)


@pytest.mark.usefixtures("recursion_limit")
@pytest.mark.parametrize(
    ("before", "after"), [("[", "]"), ('{"a":', "}"), ('[1e-7,{"b":', "},3]")], ids=["lists", "dicts", "both"]
)
def test_r34_any_depth_is_read_and_kept(before: str, after: str) -> None:
    text = before * 20_000 + "2" + after * 20_000
    assert encode_foreign(decode(text)) == text
    assert scan(f"{text},{text}", len(text) + 1)[1] == 2 * len(text) + 1


def test_r34_millions_of_brackets_are_damage_and_no_crash(recursion_limit: int) -> None:
    brackets = 2_000_000 if recursion_limit < 10_000 else 300_000
    with pytest.raises(DamagedText, match=f"Expecting value at character {brackets}"):
        decode("[" * brackets)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("1" * 2_000_000, "4,300 digits", id="digits"),
        pytest.param(f"[0.{'1' * 2_000_000}", "expected ',' or ']'", id="digits-behind-the-point"),
        pytest.param(f"[1{'.1' * 1_000_000}", "expected ',' or ']'", id="points"),
        pytest.param('"' + r"\u00e9" * 500_000 + r"\x", "Invalid", id="escapes"),
        pytest.param("[" + " " * 2_000_000, "Expecting value", id="space"),
        pytest.param('{"a":' * 200_000, "Expecting value", id="braces"),
        pytest.param("[1," * 200_000 + "NaN", "NaN", id="lists-behind-commas"),
        pytest.param(f'["{":1" * 1_000_000}",1e999]', "infinite", id="colons-in-a-string"),
    ],
)
def test_r34_a_long_text_damaged_at_its_end_takes_time_in_proportion(text: str, words: str) -> None:
    with pytest.raises(DamagedText, match=words):
        decode(text)


@pytest.mark.parametrize("limit", [640, 4300, 0])
def test_how_many_digits_python_reads_by_default_changes_nothing(limit: int) -> None:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(limit)
    try:
        assert encode_foreign(decode(f"[{'8' * 4300}]")) == f"[{'8' * 4300}]"
        assert encode_number(10**100_000) == "1" + "0" * 100_000
        for text in ("8" * 4301, "8" * (5_000 if limit else 8_000_000)):  # int() would take minutes over the last
            with pytest.raises(DamagedText, match="4,300 digits"):
                decode(text)
    finally:
        sys.set_int_max_str_digits(before)


def test_numpy_and_pandas_are_recognised_without_being_imported() -> None:
    """A type is judged by its names, so a class that bears them is enough where neither library is installed."""
    script = """
import sys
from starfish_outbox.errors import ItemError
from starfish_outbox.jsontext import encode_item
before = set(sys.modules)
for module, name in (("numpy", "generic"), ("pandas.core.frame", "DataFrame")):
    try:
        encode_item(type(name, (), {"__module__": module})())
    except ItemError as error:
        print(str(error).split("store ")[1].split(",")[0])
print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["value.item()", 'value.to_dict("records")', "[]"]
