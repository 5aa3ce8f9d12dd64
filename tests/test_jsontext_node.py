"""JSON text against a judge: what a real Node answers to ``JSON.stringify(JSON.parse(text))``."""

from __future__ import annotations

import json
import math
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

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

often = settings(max_examples=150, deadline=None, database=None)


class Node:
    """A Node process that answers JSON texts, one a line; ``!`` is its answer to what ``JSON.parse`` refuses."""

    def __init__(self) -> None:
        node = shutil.which("node")
        assert node is not None, "these tests need Node: its JSON.stringify is the judge"
        script = Path(__file__).with_name("js_stringify.mjs")
        self._process = subprocess.Popen([node, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def answers(self, texts: Sequence[str]) -> list[str]:
        """The answer to each text. Texts go in blocks that a pipe holds whole, so that neither side waits for ever."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        answers: list[str] = []
        block, size = [], 0
        for number, text in enumerate(texts, 1):
            assert "\n" not in text
            line = text.encode() + b"\n"
            block.append(line)
            size += len(line)
            if size > 1 << 14 or number == len(texts):
                self._process.stdin.write(b"".join(block))
                self._process.stdin.flush()
                answers += [self._process.stdout.readline().decode().removesuffix("\n") for _ in block]
                block, size = [], 0
        return answers

    def close(self) -> None:
        self._process.communicate(timeout=10)
        assert self._process.returncode == 0


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    process = Node()
    yield process
    process.close()


def doubles(rng: random.Random, count: int) -> list[float]:
    """Finite doubles: any bits, integral ones, short decimals, and both neighbours of the powers of ten and of two."""
    edges = [float(f"1e{n}") for n in range(-324, 309)] + [2.0**n for n in range(-1074, 1024)]
    edges += [math.nextafter(edge, to) for edge in edges for to in (0.0, math.inf)]
    found = [x for edge in edges for x in (edge, -edge)]
    found += [0.1, 1 / 3, 123456789012345680000.0, 999999999999999900000.0, 0.000001234, 0.00000012345]
    while len(found) < count:
        bits: float = struct.unpack("<d", rng.randbytes(8))[0]
        found += [bits, float(rng.randrange(10**22)), rng.randrange(10**6) / 10 ** rng.randrange(12)]
    return [x for x in found if math.isfinite(x)]


LETTERS = (
    "abcxyz_0123456789",
    '"\\/\b\f\r\t\x00\x01\x1f\x7f',
    "\u2028\u2029\ufeff\u0080\u00a0\uffff\ufffe",
    "éßñøЖ漢字ﷺ",
    "\U0001f600\U0001f9ea\U0010ffff\U00010000",
    ".0,]}e-07e+16",
)


def text_of(rng: random.Random) -> str:
    letters = rng.choice(LETTERS)
    made = "".join(rng.choice(letters) for _ in range(rng.randrange(12)))
    return f"{made}\ud83d\ude00" if rng.random() < 0.05 else made  # one character as two code points


def key_of(rng: random.Random) -> str:
    """A key that is no array index, which JavaScript would move to the front of its object."""
    key = rng.choice(("__proto__", "constructor", "toJSON", "", "a", text_of(rng)))
    return f"{key}k" if key.isdigit() else key


def value_of(rng: random.Random, depth: int = 4) -> Any:
    """A value that `encode_item` takes."""
    kind = rng.randrange(10 if depth else 7)
    if kind < 2:
        return text_of(rng)
    if kind == 2:
        return rng.choice((None, True, False))
    if kind == 3:
        return rng.randrange(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER + 1)
    if kind == 4:
        return rng.randrange(-1000, 1000)
    if kind < 7:
        return rng.choice((rng.random(), rng.randrange(100) / 4, 10.0 ** rng.randrange(-12, 25), -0.0))
    if kind < 9:
        return {key_of(rng): value_of(rng, depth - 1) for _ in range(rng.randrange(6))}
    return [value_of(rng, depth - 1) for _ in range(rng.randrange(6))]


def spelling_of(rng: random.Random, x: float) -> str:
    """A spelling of a double, but none that is an integer beyond 2^53-1 and not JavaScript's own."""
    token = rng.choice((repr(x), f"{x:.17g}", f"{x:.20e}", f"{x:.3E}", encode_number(x)))
    harmless = set(token) & set(".eE") or abs(x) <= MAX_SAFE_INTEGER or token == encode_number(x)
    return token if harmless else f"{token}.0"


def foreign_text_of(rng: random.Random, depth: int = 4) -> str:
    """A JSON text as other programs spell it: space, escapes, repeated keys, numbers in every form."""
    space = rng.choice(("", "", "", " ", "\t", "\r", " \r "))
    kind = rng.randrange(8 if depth else 5)
    if kind == 0:
        tokens = ("null", "true", "false", "-0", "-0.0", "0e0", "0E-999", "1e-400", "10000000000000000", "1E5")
        return f"{space}{rng.choice(tokens)}{space}"
    if kind == 1:
        x = rng.choice((rng.random(), float(rng.randrange(10**21)), 10.0 ** rng.randrange(-320, 300)))
        return f"{space}{spelling_of(rng, x)}"
    if kind == 2:
        return str(rng.randrange(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER + 1))
    if kind < 5:
        lone = rng.choice(("", "", "\\ud800", "\\uDFFF\\uD83D", "\\/", "\\u00E9"))
        text = text_of(rng)
        escaped = "\ud83d" in text or rng.random() < 0.5
        return f'"{lone}{json.dumps(text, ensure_ascii=escaped)[1:-1]}{lone}"'
    if kind < 7:
        pairs = (f"{json.dumps(key_of(rng))}{space}:{foreign_text_of(rng, depth - 1)}" for _ in range(rng.randrange(6)))
        return f"{{{space}{f'{space},{space}'.join(pairs)}{space}}}"
    return f"[{space}{f'{space},'.join(foreign_text_of(rng, depth - 1) for _ in range(rng.randrange(6)))}]{space}"


def test_a_double_is_spelled_as_number_to_string_spells_it(node: Node) -> None:
    numbers = doubles(random.Random(1), 30_000)
    assert node.answers([repr(x) for x in numbers]) == [encode_number(x) for x in numbers]
    assert [encode_item(x) for x in numbers] == [encode_number(x) for x in numbers]
    assert [encode_foreign(x) for x in numbers] == [encode_number(x) for x in numbers]
    assert all(decode(encode_number(x)) == x for x in numbers)


def test_every_code_point_is_written_as_node_writes_it(node: Node) -> None:
    texts = [chr(code) for code in range(0x11000)] + [chr(code) + "a" for code in range(0xD7F0, 0xE010)]
    texts += ["\ud83d\ude00", "\ude00\ud83d", "\ud800\ud83d\ude00\udfff", "\U0010ffff"]
    expected = node.answers([json.dumps(text) for text in texts])
    assert [encode_string(text) for text in texts] == expected
    assert [encode_foreign([text]) for text in texts] == [f"[{text}]" for text in expected]
    whole = [(text, answer) for text, answer in zip(texts, expected, strict=True) if "\\ud" not in answer]
    assert [encode_item(text) for text, _ in whole] == [answer for _, answer in whole]


def test_20_000_random_items_are_written_as_node_writes_them_and_read_back_equal(node: Node) -> None:
    rng = random.Random(2)
    items = [item for item in (value_of(rng) for _ in range(30_000)) if not split_keys_collide(item)][:20_000]
    texts = [encode_item(item) for item in items]
    assert len(texts) == 20_000
    assert node.answers([json.dumps(item) for item in items]) == texts
    assert node.answers(texts) == texts
    for item, text in zip(items, texts, strict=True):
        read = decode(text)
        assert read == json.loads(json.dumps(item))
        assert encode_item(read) == encode_foreign(read) == text
        assert scan(f"[{text}]", 1) == (read, len(text) + 1)


def split_keys_collide(item: Any) -> bool:
    """Whether two keys of one dict differ only in how a character is made, which `encode_item` refuses."""
    if isinstance(item, dict):
        keys = {json.loads(json.dumps(key)) for key in item}
        return len(keys) < len(item) or any(map(split_keys_collide, item.values()))
    return isinstance(item, list) and any(map(split_keys_collide, item))


def test_20_000_texts_of_other_programs_are_kept_as_node_keeps_them(node: Node) -> None:
    rng = random.Random(3)
    texts = [foreign_text_of(rng) for _ in range(20_000)]
    answers = node.answers(texts)
    assert "!" not in answers
    for text, answer in zip(texts, answers, strict=True):
        assert encode_foreign(decode(text)) == answer
        assert encode_foreign(scan(text, len(text) - len(text.lstrip()))[0]) == answer


items_of_hypothesis = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text().filter(lambda key: not key.isdecimal()), inner),
)


@often
@given(item=items_of_hypothesis)
def test_any_item_is_written_as_node_writes_it_and_read_back_equal(node: Node, item: Any) -> None:
    text = encode_item(item)
    assert node.answers([json.dumps(item), text]) == [text, text]
    assert decode(text) == item


def damaged_text_of(rng: random.Random) -> str:
    """A text of another program with one to three characters taken out, put in, or exchanged."""
    text = foreign_text_of(rng)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(("", *'[]{}:,"\\.-+eE019\x00\ufeff\u0661 x')) + text[at + rng.randrange(2) :]
    return text


def as_doubles(value: Any) -> Any:
    """The value with every number as a double, which is all that Node has."""
    if isinstance(value, dict):
        return {key: as_doubles(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_doubles(inner) for inner in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def read_as_node_reads(text: str, answer: str) -> bool:
    """Whether `decode` takes a text with the value that Node sees in it, or refuses what Node refuses."""
    try:
        value = decode(text)
    except DamagedText as damage:
        # What Node reads as Infinity it writes as null: that is damage here (HAZARDS R22).
        return 0 <= damage.pos <= len(text) and (answer == "!" or "infinite as a double" in damage.reason)
    # Not byte for byte: Node moves keys that are array indices to the front.
    return answer != "!" and bool(as_doubles(decode(answer)) == as_doubles(value))


def test_20_000_damaged_texts_are_taken_or_refused_as_node_does(node: Node) -> None:
    rng = random.Random(4)
    texts = [damaged_text_of(rng) for _ in range(20_000)]
    answers = node.answers(texts)
    assert 4_000 < answers.count("!") < 19_000
    assert [text for text, answer in zip(texts, answers, strict=True) if not read_as_node_reads(text, answer)] == []


@settings(often, max_examples=1_000)
@given(text=st.text(st.sampled_from('[]{}:,"\\ \t\r0123456789.eE+-truefalsn\x00ué'), max_size=12))
def test_any_short_text_is_taken_or_refused_as_node_does(node: Node, text: str) -> None:
    assert read_as_node_reads(text, node.answers([text])[0])


VALID = (
    *("0", "-0", "-1", "0.0", "1.5e3", "1E+2", "1e-2", "123456789012345", "1e-400", "0e999", "-1.7976931348623157e308"),
    *("[1e21,1e20,1e16]", "0.1e-999999999", "null", "true", "false", "[]", "{}", " [ ] ", "\t{\r}", "[[]]", "[null,1]"),
    *('""', '"a"', '{"":0}', '{"a":1}', '{"a":{"b":[1,{"c":null}]}}', '{"a":1,"a":2}', '{"__proto__":{"a":1}}'),
    *(r'"\"\\\/\b\f\n\r\t\u00e9\uD83D\uDE00"', r'"\u0000"', r'"\ud800"', r'"\uDC00\uD800"', '"\x7f\u2028\u2029\ufeff"'),
)
INVALID = (
    *("", " ", "nul", "nulll", "True", "None", "undefined", "[truefalse]", "NaN", "Infinity", "-Infinity", "[NaN]"),
    *("-", "+1", "01", "-01", "1.", ".5", "1e", "1e+", "1.e2", "0x10", "1_000", "\u0661", "[\uff11]", "1 2", "--1"),
    *("[", "]", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[1}", "[]]", "[] []", "[1],", "[1]\x00", "[1]//", "/**/1"),
    *("{", "}", "{]", '{"a"}', '{"a":}', '{"a":1,}', '{,"a":1}', "{a:1}", "{1:2}", "{'a':1}", '{"a":1 "b":2}'),
    *('{"a"::1}', '{"a":1]', '{"a":1,,"b":2}', '{"a":1:2}', "'a'", '"', '"a', '"\\', r'"\x41"', r'"\u12"', r'"\u12g4"'),
    *(r'"\u+123"', r'"\u 123"', r'"\U00000041"', '"\t"', '"\x00"', '"\x1f"', '"a" "b"', r'"\ud800\u12"'),
    *("\ufeff[]", "\u00a01", "\x0c1", "\x0b[]", "\u2028[]", "[\u00a01]"),
)


@pytest.mark.parametrize("text", VALID)
def test_a_valid_text_is_read(node: Node, text: str) -> None:
    assert [encode_foreign(decode(text))] == node.answers([text]) != ["!"]


@pytest.mark.parametrize("text", INVALID)
def test_an_invalid_text_is_damaged_in_node_too(node: Node, text: str) -> None:
    assert node.answers([text]) == ["!"]
    with pytest.raises(DamagedText) as caught:
        decode(text)
    assert 0 <= caught.value.pos <= len(text)
    assert str(caught.value) == f"{caught.value.reason} at character {caught.value.pos}"
