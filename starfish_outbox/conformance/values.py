"""Random keys, ids and items, as JSON texts in all the spellings that JSON allows, and as Python has them."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from math import inf, isfinite, nan
from typing import Any, Final, Literal, TypeAlias

IDS: Final = ("a", "b", "c", "10", "9", "é", "e\u0301", " a", "a\x00", "__proto__", "toJSON", "\u2028", "\ufeff", "😀")
"""Ids that some language confuses: digits, two forms of one letter, names that JavaScript knows, what splits lines."""

_NAMES: Final = (
    "a",
    "b",
    "kind",
    "value",
    "é",
    "",
    "__proto__",
    "constructor",
    "toJSON",
    "length",
    "\u2028",
    "😀",
    "-1",
    "1e3",
)
_LIKE_INTEGERS: Final = ("0", "1", "10", "2", "4294967294")
_CHARACTERS: Final = (
    *"abc xyz019",
    *'"\\/',
    *"\x00\x01\b\t\n\f\r\x1f\x7f\x85\xa0",
    *"éß\u0301\u200b\u2028\u2029\ufeff\ufffe\uffff中",
    "😀",
    "\U0010ffff",
)
_SPELLINGS: Final = (
    "1.0",
    "-0",
    "-0.0",
    "0e0",
    "1E5",
    "1e+2",
    "10e-1",
    "0.1",
    "5e-324",
    "1.7976931348623157e308",
    "1e21",
    "1e-7",
)
_INTEGERS: Final = (0, 1, -1, 2**31, 2**53 - 1, -(2**53) + 1, 10**15)


def random_item(rng: random.Random, *, like_integers: bool = False, depth: int = 0) -> str:
    """The JSON text of an item that both languages read back equal.

    Args:
        rng: where the dice come from.
        like_integers: let objects have keys that JavaScript takes for numbers and puts first when it writes.
        depth: how deep this value lies in its item.
    """
    kind = rng.randrange(10 if depth < 4 else 6)
    if kind < 2:
        return random_string(rng)
    if kind < 5:
        return random_number(rng)
    if kind == 5:
        return rng.choice(("null", "true", "false"))
    inside = [random_item(rng, like_integers=like_integers, depth=depth + 1) for _ in range(rng.randrange(4))]
    space = rng.choice(("", "", "", " ", "\t", "\r"))
    if kind < 8:
        return f"[{space}{f',{space}'.join(inside)}{space}]"
    names = rng.sample((*_NAMES, *_LIKE_INTEGERS) if like_integers else _NAMES, len(inside))
    members = [f"{json.dumps(name)}{space}:{space}{value}" for name, value in zip(names, inside, strict=True)]
    return f"{{{space}{','.join(members)}{space}}}"


def random_string(rng: random.Random) -> str:
    """The JSON text of a string, some characters escaped that need not be."""
    text = "".join(rng.choice(_CHARACTERS) for _ in range(rng.choice((0, 1, 2, 5, 20))))
    return json.dumps(text, ensure_ascii=rng.random() < 0.5)


def random_number(rng: random.Random) -> str:
    """The JSON text of a number that is a finite double in both languages, in some spelling."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(_SPELLINGS)
    if kind == 1:
        return str(rng.choice(_INTEGERS))
    if kind == 2:
        return str(rng.randrange(-1000, 1000))
    value: float = struct.unpack("<d", rng.randbytes(8))[0]
    return repr(value) if isfinite(value) else "0.5"


Flaw: TypeAlias = Literal[
    "integer",
    "not finite",
    "half a character",
    "half a character in a key",
    "key",
    "equal keys",
    "type",
    "depth",
    "size",
]
"""What can be wrong with an item: see `random_unfit`."""


def random_value(rng: random.Random, *, like_integers: bool = False) -> Any:
    """An item that both languages read back equal, as Python may have it: tuples, characters as surrogate pairs."""
    return _as_python(rng, json.loads(random_item(rng, like_integers=like_integers)))


def random_unfit(rng: random.Random) -> tuple[Flaw, Any]:
    """An item with one flaw somewhere, and which: what no other language would read back equal, or not at all.

    An ``integer`` past 2^53-1; a float that is ``not finite``; ``half a character`` (a lone surrogate), also in a key;
    a ``key`` that is no string; two ``equal keys`` (one character, made in two ways); a ``type`` that JSON lacks; a
    ``depth`` over 128, or without end; a ``size`` over 1 MiB.
    """
    # A large text takes a thousand times as long as any other.
    flaw: Flaw = "size" if rng.random() < 0.0005 else rng.choice(_USUAL_FLAWS)
    value = _UNFIT[flaw](rng)
    for _ in range(rng.randrange(5)):
        beside = [random_value(rng) for _ in range(rng.randrange(3))]
        beside.insert(rng.randrange(len(beside) + 1), value)
        if rng.random() < 0.5:
            value = rng.choice((list, tuple))(beside)
        else:
            value = dict(zip(rng.sample((*_NAMES, *_LIKE_INTEGERS), len(beside)), beside, strict=True))
    return flaw, value


def _as_python(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict):
        return {_as_python(rng, name): _as_python(rng, inner) for name, inner in value.items()}
    if isinstance(value, list):
        return rng.choice((list, list, tuple))(_as_python(rng, inner) for inner in value)
    if isinstance(value, str):
        return value if rng.random() < 0.9 else _in_halves(value)
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.2:
        return rng.randrange(-(2**53) + 1, 2**53)
    return value


def _in_halves(text: str) -> str:
    """Each character past U+FFFF as the two code points that UTF-16 has for it."""
    units = text.encode("utf-16-be", "surrogatepass")
    return "".join(chr(int.from_bytes(units[at : at + 2])) for at in range(0, len(units), 2))


def _integer(rng: random.Random) -> int:
    size = rng.choice((2**53, 2**53 + rng.randrange(2**10), rng.randrange(2**53, 2**64), 10 ** rng.randrange(16, 400)))
    return rng.choice((1, -1)) * size


def _half(rng: random.Random) -> str:
    text = "".join(rng.choice(_CHARACTERS) for _ in range(rng.randrange(5)))
    at = rng.randrange(len(text) + 1)
    return f"{text[:at]}{chr(rng.randrange(0xD800, 0xE000))}{text[at:]}"


def _deep(rng: random.Random) -> Any:
    value = random_value(rng)
    if rng.random() < 0.1:
        itself = [value]
        itself.append(itself)
        return itself
    for _ in range(rng.randrange(129, 200)):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


_UNFIT: Final[dict[Flaw, Callable[[random.Random], Any]]] = {
    "integer": _integer,
    "not finite": lambda rng: rng.choice((nan, inf, -inf)),
    "half a character": _half,
    "half a character in a key": lambda rng: {_half(rng): random_value(rng)},
    "key": lambda rng: {rng.choice((1, -1, None, True, 1.5, (1, 2), b"a")): random_value(rng)},
    "equal keys": lambda rng: {"a": 1, "\ud83d\ude00": random_value(rng), "😀": random_value(rng)},
    "type": lambda rng: rng.choice((b"", {1}, 1j, Decimal("0.1"), datetime(2026, 1, 1, tzinfo=UTC), range(3), object)),
    "depth": _deep,
    "size": lambda rng: rng.choice(("x", "é", "\x00")) * (2**20 + rng.randrange(9)),
}
_USUAL_FLAWS: Final = tuple(flaw for flaw in _UNFIT if flaw != "size")
