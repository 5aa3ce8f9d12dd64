"""Random keys, ids and items, as JSON texts in all the spellings that JSON allows."""

from __future__ import annotations

import json
import random
import struct
from math import isfinite
from typing import Final

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
