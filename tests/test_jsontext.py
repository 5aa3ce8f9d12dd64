"""What `encode_item` refuses and normalises, and what `decode` and `scan` take: rows P and R of the table of hazards.

That what is written is what ``JSON.stringify`` writes is in test_jsontext_node.py.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import functools
import math
import sys
import threading
import uuid
from collections import Counter, OrderedDict, UserDict, UserList, deque
from collections.abc import Callable
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np
import pandas as pd
import pytest

from starfish_outbox.errors import ItemError
from starfish_outbox.jsontext import (
    MAX_SAFE_INTEGER,
    decode,
    encode_foreign,
    encode_item,
    scan,
)

T = TypeVar("T")


@dataclasses.dataclass
class Reading:
    depth: str = "s3cret"


class Station(Enum):
    NORTH = "s3cret"


class Code(IntEnum):
    CALM = 3


class Colour(StrEnum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: float


class Word(str):
    """A str that is equal to nothing but itself, so that two with one text are two keys."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


def folded(times: int, around: Callable[[Any], Any], innermost: Any = 0) -> Any:
    return functools.reduce(lambda inner, _: around(inner), range(times), innermost)


def nested(depth: int, innermost: Any = 0) -> Any:
    return folded(depth, lambda inner: [inner], innermost)


def cycle() -> list[Any]:
    itself: list[Any] = ["s3cret"]
    itself.append({"again": itself})
    return itself


def refusal(item: Any, **options: Any) -> ItemError:
    with pytest.raises(ItemError) as caught:
        encode_item(item, **options)
    assert "s3cret" not in str(caught.value)
    return caught.value


ODD_TYPES: list[tuple[Any, str]] = [
    (dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "value.isoformat()"),
    (dt.date(2026, 1, 2), "value.isoformat()"),
    (dt.time(3, 4), "value.isoformat()"),
    (dt.timedelta(days=1), "value.total_seconds()"),
    (pd.Timestamp("2026-01-02"), "value.isoformat()"),
    (pd.Timedelta(days=1), "value.total_seconds()"),
    (pd.Period("2026-01"), "str(value)"),
    (np.datetime64("2026-01-02"), "str(value)"),
    (Decimal("1.5"), "str(value)"),
    (Fraction(1, 3), "str(value)"),
    (uuid.UUID(int=7), "str(value)"),
    (Path("s3cret"), "str(value)"),
    (PurePosixPath("s3cret"), "str(value)"),
    (ValueError("s3cret"), "str(value)"),
    (b"s3cret", "base64.b64encode(value).decode()"),
    (bytearray(b"s3cret"), "base64.b64encode(value).decode()"),
    (memoryview(b"s3cret"), "base64.b64encode(value).decode()"),
    ({"s3cret"}, "sorted(value)"),
    (frozenset({"s3cret"}), "sorted(value)"),
    (1 + 2j, "[value.real, value.imag]"),
    (np.complex128(1 + 2j), "[value.real, value.imag]"),
    (range(3), "list(value)"),
    ((x for x in ("s3cret",)), "list(value)"),
    (map(str, [1]), "list(value)"),
    (deque(["s3cret"]), "list(value)"),
    (UserList(["s3cret"]), "list(value)"),
    ({"s3cret": 1}.keys(), "list(value)"),
    ({"s3cret": 1}.values(), "list(value)"),
    ({"s3cret": 1}.items(), "dict(value)"),
    (UserDict(s3cret=1), "dict(value)"),
    (Reading(), "dataclasses.asdict(value)"),
    (Station.NORTH, "value.value"),
    (np.float32(1.5), "value.item()"),
    (np.int64(7), "value.item()"),
    (np.bool_(True), "value.item()"),
    (np.arange(3), "value.tolist()"),
    (pd.Series([1, 2]), "value.tolist()"),
    (pd.Index(["s3cret"]), "value.tolist()"),
    (pd.DataFrame({"s3cret": [1, 2]}), 'value.to_dict("records")'),
]


@pytest.mark.parametrize(("value", "instead"), ODD_TYPES, ids=lambda part: getattr(type(part), "__name__", None))
def test_p2_a_type_that_json_has_not_is_refused_with_advice_that_works(value: Any, instead: str) -> None:
    error = refusal({"readings": [1, {"value": value}]})
    assert error.path == "$.readings[1].value"
    assert f"store {instead}, or pass default= to the queue" in str(error)
    assert type(value).__name__ in str(error)
    followed = eval(instead, {"value": value, "base64": base64, "dataclasses": dataclasses})
    assert decode(encode_item(followed)) == followed


async def coroutine_function() -> None:
    """Only ever made, never awaited."""


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (pd.NA, "store None, since the value is missing"),
        (pd.NaT, "store None, since the value is missing"),
        (lambda: "s3cret", "store what it returns"),
        (print, "store what it returns"),
        ("s3cret".upper, "store what it returns"),
        (..., "which JSON does not have: pass default= to the queue"),
        (object(), "which JSON does not have: pass default= to the queue"),
        (Reading, "which JSON does not have: "),
        (sys, "which JSON does not have: pass default= to the queue"),
    ],
    ids=lambda part: getattr(type(part), "__name__", None),
)
def test_p2_what_has_no_other_form_is_refused_with_what_to_do(value: Any, advice: str) -> None:
    error = refusal([value])
    assert error.path == "$[0]"
    assert advice in str(error)


def test_p2_a_coroutine_is_refused_with_the_advice_to_await_it() -> None:
    forgotten = coroutine_function()
    assert "store what awaiting it returns" in str(refusal([forgotten]))
    forgotten.close()


REFUSED: list[Any] = [
    pytest.param(math.nan, "$", "NaN or infinite", id="P1-nan"),
    pytest.param({"a": [1.5, -math.inf]}, "$.a[1]", "NaN or infinite", id="P1-infinity"),
    pytest.param({"readings": [{}, {}, {}, {"value": np.float64("nan")}]}, "$.readings[3].value", "NaN", id="P1-numpy"),
    pytest.param(cycle(), "$" + "[1].again" * 64, "contains itself", id="P2-cycle"),
    pytest.param(nested(1100), "$" + "[0]" * 128, "deeper than 128 levels", id="P2-depth-1100"),
    pytest.param({"id": 2**53}, "$.id", "store it as a string", id="P3-first-unsafe"),
    pytest.param([-(2**53)], "$[0]", "big_ints=True", id="P3-first-unsafe-negative"),
    pytest.param(1234567890123456789, "$", "JavaScript would round", id="P3-snowflake"),
    pytest.param(10**400, "$", "JavaScript would round", id="P4-400-digits"),
    pytest.param(10**5000, "$", "JavaScript would round", id="P4-5000-digits"),
    pytest.param({"a": {1: 0}}, "$.a", "key of type int", id="P5-int-key"),
    pytest.param({None: 0}, "$", "key of type NoneType", id="P5-none-key"),
    pytest.param({True: 0}, "$", "key of type bool", id="P5-bool-key"),
    pytest.param([{1.5: 0}], "$[0]", "key of type float", id="P5-float-key"),
    pytest.param({("s3cret", 1): 0}, "$", "key of type tuple", id="P5-tuple-key"),
    pytest.param({b"s3cret": 0}, "$", "key of type bytes", id="P5-bytes-key"),
    pytest.param({np.int64(1): 0}, "$", "key of type numpy.int64", id="P5-numpy-key"),
    pytest.param({"k": {Word("s3cret"): 1, "s3cret": 2}}, "$.k", "two keys with the same text", id="P6-keys-collide"),
    pytest.param({"\ud83d\ude00": 1, "😀": 2}, "$", "two keys with the same text", id="P8-keys-collide"),
    pytest.param("s3cret\ud800", "$", "lone surrogate", id="P9-high"),
    pytest.param({"a b": ["\udfff\ud83d"]}, '$["a b"][0]', "lone surrogate", id="P9-low-before-high"),
    pytest.param({"a": {"s3cret\udce9": 1}}, "$.a", "key with a lone surrogate", id="P9-key"),
]


@pytest.mark.parametrize(("item", "path", "words"), REFUSED)
def test_an_item_that_javascript_would_change_or_lose_is_refused(item: Any, path: str, words: str) -> None:
    error = refusal(item)
    assert error.path == path
    assert words in str(error)
    assert str(error).startswith(path[:90])


@pytest.mark.parametrize(
    ("key", "step"),
    [
        ("value", ".value"), ("_1", "._1"), ("größe", ".größe"), ("1", '["1"]'), ("", '[""]'), ("a b", '["a b"]'),
        ('"', r'["\""]'), ("a.b", '["a.b"]'), ("\n", r'["\n"]'), ("$", '["$"]'),
    ],
)  # fmt: skip
def test_a_path_quotes_keys_that_are_no_identifiers(key: str, step: str) -> None:
    assert refusal({"a": [0, {key: math.nan}]}).path == f"$.a[1]{step}"


def test_a_long_path_is_cut_in_the_message_and_whole_in_the_attribute() -> None:
    error = refusal({"k" * 5000: [math.inf]})
    assert error.path == f"$.{'k' * 5000}[0]"
    assert len(str(error)) < 400
    assert "kkk[0] is NaN or infinite" in str(error)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        pytest.param((1, (2, [])), "[1,[2,[]]]", id="P6-tuple"),
        pytest.param(Point(1, 2.5), "[1,2.5]", id="P6-namedtuple"),
        pytest.param([Code.CALM, True, False], "[3,true,false]", id="P6-intenum"),
        pytest.param({Colour.RED: Colour.RED}, '{"red":"red"}', id="P6-strenum"),
        pytest.param([np.float64(1.5), np.float64(1e21), np.float64(2)], "[1.5,1e+21,2]", id="P6-numpy-float64"),
        pytest.param({np.str_("é"): np.str_("a\ud83d\ude00")}, '{"é":"a😀"}', id="P6-numpy-str"),
        pytest.param(OrderedDict(b=1, a=Counter("xx")), '{"b":1,"a":{"x":2}}', id="P6-dict-subclasses"),
        pytest.param({Word("a"): Word("b")}, '{"a":"b"}', id="P6-str-subclass"),
        pytest.param([1.0, -0.0, 0.0, 1e16, 1e15], "[1,0,0,10000000000000000,1000000000000000]", id="P7-integral"),
        pytest.param([1e20, 1e21, 1e-6, 1e-7, 1e-5], "[100000000000000000000,1e+21,0.000001,1e-7,0.00001]", id="P7-e"),
        pytest.param(["\ud83d\ude00", {"\ud83d\ude00": 1}], '["😀",{"😀":1}]', id="P8-pair-merged"),
        pytest.param("\x00\u2028\ufeff😀\uffff", '"\\u0000\u2028\ufeff😀\uffff"', id="P9-odd-characters"),
        pytest.param({"__proto__": {"b": None}, "": 1}, '{"__proto__":{"b":null},"":1}', id="P9-proto"),
        pytest.param([MAX_SAFE_INTEGER, -MAX_SAFE_INTEGER], "[9007199254740991,-9007199254740991]", id="P3-last-safe"),
    ],
)
def test_what_json_has_is_normalised_so_that_memory_equals_a_reload(item: Any, text: str) -> None:
    assert encode_item(item) == text
    assert encode_item(decode(text)) == text


def test_a_subclass_cannot_change_what_its_base_type_holds() -> None:
    class ClaimsFloat(float):
        __slots__ = ()

        def __repr__(self) -> str:
            return '1,"injected":2'

        __str__ = __repr__

    class ClaimsSmall(int):
        def __ge__(self, other: object) -> bool:
            return True

        __le__ = __ge__

    class ClaimsAscii(str):
        __slots__ = ()

        def isascii(self) -> bool:
            return True

    assert encode_item([ClaimsFloat(1.5), ClaimsSmall(7), ClaimsAscii("é")]) == '[1.5,7,"é"]'
    assert "JavaScript would round" in str(refusal(ClaimsSmall(2**53)))
    assert "lone surrogate" in str(refusal(ClaimsAscii("\ud800")))
    assert "lone surrogate" in str(refusal({ClaimsAscii("\ud800"): 1}))


def test_an_exception_in_a_dict_subclass_becomes_the_cause() -> None:
    class Broken(dict[str, int]):
        def items(self) -> NoReturn:
            raise KeyError("s3cret")

    error = refusal({"a": Broken()})
    assert error.path == "$.a"
    assert isinstance(error.__cause__, KeyError)


def test_a_dict_subclass_that_gives_one_key_twice_is_refused() -> None:
    class Headers(dict[str, str]):
        def items(self) -> Any:
            return [("accept", "s3cret"), ("accept", "b")]

    error = refusal({"a": Headers()})
    assert error.path == "$.a"
    assert "two keys with the same text" in str(error)


def test_a_proxy_that_only_claims_to_be_a_str_is_refused() -> None:
    class Proxy:
        __class__ = str  # type: ignore[assignment]  # what lazy strings and mocks do

    assert "Proxy, which JSON does not have" in str(refusal([Proxy()]))


def test_big_ints_are_taken_as_far_as_a_double_reaches() -> None:
    largest = 2**1024 - 2**970 - 1  # one more rounds to infinity
    assert encode_item([2**63, -(2**53)], big_ints=True) == "[9223372036854775808,-9007199254740992]"
    assert decode(encode_item(largest, big_ints=True)) == largest
    assert "too large for a double" in str(refusal(largest + 1, big_ints=True))
    assert "too large for a double" in str(refusal([10**5000], big_ints=True))


def test_default_answers_in_the_place_of_the_value() -> None:
    def plain(value: object) -> object:
        return {"at": value.isoformat()} if isinstance(value, dt.date) else list(value)  # type: ignore[call-overload]

    assert encode_item([{dt.date(2026, 1, 2)}, 1], default=plain) == '[[{"at":"2026-01-02"}],1]'
    assert refusal({"a": {math.nan}}, default=list).path == "$.a[0]"


def test_an_exception_in_default_becomes_the_cause() -> None:
    error = refusal({"a": {"s3cret"}}, default=lambda value: value["s3cret"])
    assert error.path == "$.a"
    assert isinstance(error.__cause__, TypeError)
    assert "default= raised TypeError: store sorted(value)" in str(error)


def test_a_default_that_never_ends_is_stopped_by_the_depth() -> None:
    calls: list[object] = []

    def another(value: object) -> object:
        calls.append(value)
        return object()

    assert "after 129 calls" in str(refusal([object()], default=another))
    assert len(calls) == 129
    assert "deeper than 128" in str(refusal([object()], default=lambda value: [value]))


def test_an_interrupt_in_default_is_not_swallowed() -> None:
    def interrupted(_value: object) -> NoReturn:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_item([object()], default=interrupted)


def test_size_is_counted_in_bytes_of_utf8() -> None:
    assert encode_item("é" * 50, max_bytes=102) == f'"{"é" * 50}"'
    error = refusal("é" * 50, max_bytes=101)
    assert error.path == "$"
    assert "102 bytes" in str(error)
    assert "101 are allowed" in str(error)
    assert "keep large data in a file and enqueue its path" in str(error)
    assert "2,097,154 bytes" in str(refusal("x" * (1 << 21)))


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(folded(100, lambda inner: [inner, inner]), id="lists"),
        pytest.param(folded(100, lambda inner: {"a": inner, "b": inner}), id="dicts"),
        pytest.param(["x" * 100_000] * 1_000_000, id="strings"),
        pytest.param([{"x" * 100_000: 0}] * 1_000_000, id="keys"),
    ],
)
def test_one_value_held_many_times_over_is_refused_before_it_fills_the_memory(bomb: object) -> None:
    assert "more than" in str(refusal(bomb))


def at_frame(frames: int, call: Callable[[], T]) -> T:
    return call() if frames == 0 else at_frame(frames - 1, call)


def test_r34_depth_is_counted_in_containers() -> None:
    assert encode_item(nested(128)) == "[" * 128 + "0" + "]" * 128
    assert encode_item(nested(127, {})) == "[" * 127 + "{}" + "]" * 127
    assert refusal(nested(129)).path == "$" + "[0]" * 128
    assert refusal({"a": []}, max_depth=1).path == "$.a"
    assert encode_item({"a": 1}, max_depth=1) == '{"a":1}'


def test_r34_depth_is_the_same_when_called_500_frames_deep() -> None:
    deep = "[" * 5000 + "1" + "]" * 5000
    assert at_frame(500, lambda: encode_item(nested(128))) == encode_item(nested(128))
    assert at_frame(500, lambda: refusal(nested(5000))).path == "$" + "[0]" * 128
    assert at_frame(500, lambda: encode_foreign(decode(deep))) == deep
    assert at_frame(500, lambda: encode_foreign(scan(f" {deep} ", 1)[0])) == deep


def test_r34_at_the_end_of_the_stack_an_item_is_encoded_or_refused() -> None:
    outcomes: list[str] = []
    item = {"a": [Colour.RED, nested(120)]}
    encoded = encode_item(item)

    def attempt() -> str:
        try:
            return encode_item(item)
        except ItemError as error:
            return str(error)

    def climb() -> None:
        for frames in range(sys.getrecursionlimit()):
            try:
                outcomes.append(at_frame(frames, attempt))
            except RecursionError:
                outcomes.append("no frame left")

    thread = threading.Thread(target=climb)
    thread.start()
    thread.join()
    refused = "Python's stack is nearly used up"
    kinds = ["text" if it == encoded else "refused" if refused in it else it for it in outcomes]
    assert sorted(kinds, key=["text", "refused", "no frame left"].index) == kinds
    assert kinds.count("text") > sys.getrecursionlimit() - 25
    assert kinds.count("refused") >= 1
