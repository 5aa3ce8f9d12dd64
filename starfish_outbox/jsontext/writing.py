"""Values -> text: `encode_item` refuses what JavaScript would change, `encode_foreign` nothing that was read."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from json.encoder import encode_basestring
from math import isfinite
from typing import Any, Final

from starfish_outbox.errors import ItemError
from starfish_outbox.jsontext.advice import advice_for, type_name
from starfish_outbox.jsontext.spelling import (
    MAX_SAFE_INTEGER,
    SURROGATE,
    c_is_safe,
    encode_number,
    encode_string,
    integer_text,
    merge_pairs,
)

_EXACT_TYPES: Final = frozenset({str, int, float, bool, type(None), dict, list, tuple})
_CONTAINERS: Final = frozenset({dict, list, tuple})
# A float as Python spells it and JavaScript may not: repr always signs an exponent. In a string a quote would follow.
_PYTHON_FLOAT: Final = re.compile(r"(?:\.0|e[-+][0-9]{2,3})(?=[,\]}]|\Z)")
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)


class _OutOfRoom(Exception):  # noqa: N818 -- never leaves this module
    """The text is sure to be far too long."""


class _Refusal(Exception):  # noqa: N818 -- never leaves this module
    """Why a value (or the container of a bad key) is refused; the loop, which knows the place, makes an `ItemError`."""

    def __init__(self, why: str, *, of_container: bool = False) -> None:
        super().__init__(why)
        self.of_container = of_container


def encode_item(
    value: Any,
    *,
    big_ints: bool = False,
    default: Callable[[Any], Any] | None = None,
    max_depth: int = 128,
    max_bytes: int = 1 << 20,
) -> str:
    """The text that ``JSON.stringify`` would write for the item, when both languages are sure to read it back equal.

    Subclasses of the JSON types count as their base type, as in `json` (``IntEnum``, ``namedtuple``, ``np.float64``);
    two code points that form a surrogate pair become one character. The text comes however deep the caller is: it takes
    five free frames of Python's stack, no more for a deeper item. With fewer it raises `ItemError`, and Python's own
    RecursionError comes through only where not even that error can be made.

    Args:
        value: the item.
        big_ints: allow integers beyond ±(2^53-1), which JavaScript would round, as far as a double reaches.
        default: called with each value of any other type; its answer is encoded in that value's place.
        max_depth: how many lists and dicts may lie within each other.
        max_bytes: how long the text may be, in bytes of UTF-8.

    Raises:
        ItemError: the item is refused; ``path`` says where. The message never holds a value.
    """
    # Far beyond the limit we stop counting: one list that many others hold many times over would never end.
    room = 4 * max_bytes + (1 << 20)
    try:
        text = _write(value, big_ints, default, max_depth, room, foreign=False)
    except _OutOfRoom:
        raise _too_large(f"more than {room:,} bytes", max_bytes) from None
    except RecursionError:
        raise ItemError("$ cannot be encoded so deep within nested calls: Python's stack is nearly used up") from None
    size = len(text) if text.isascii() else len(text.encode())
    if size > max_bytes:
        raise _too_large(f"{size:,} bytes", max_bytes)
    return text


def encode_foreign(value: Any) -> str:
    """The ``JSON.stringify`` text of a value that `decode` made of another program's text.

    Nothing is refused for size or depth: integers keep all their digits, lone surrogates are written as escapes.

    Raises:
        ValueError: it holds NaN or an infinity, which `decode` never makes.
        TypeError: it holds a type that `decode` never makes.
    """
    if c_is_safe():
        try:
            text = _ENCODER.encode(value)
        except (ValueError, RecursionError):
            pass  # an integer too long for C, or too deep for it: the loop below can do both
        else:
            pythonic = (".0" in text or "e-" in text or "e+" in text) and _PYTHON_FLOAT.search(text)
            if not pythonic and (text.isascii() or SURROGATE.search(text) is None):
                return text
    return _write(value, True, None, sys.maxsize, sys.maxsize, foreign=True)


def _write(  # noqa: C901 -- the hot path: each call moved out of this loop costs as much as the work it does
    root: Any, big_ints: bool, default: Callable[[Any], Any] | None, max_depth: int, room: int, *, foreign: bool
) -> str:
    """The text of a value, checked and built in one pass that gives up when it is sure to pass ``room`` characters."""
    out: list[str] = []
    write = out.append
    quote = encode_basestring
    lowest, highest = -MAX_SAFE_INTEGER, MAX_SAFE_INTEGER
    # The open container: what is left of it, what goes before its next element, how it ends, and, for a dict, its pairs
    # and whether their keys may collide. Those around it wait in `outer`, each with the key at which it stands.
    rest: Iterator[tuple[Any, Any]] = iter(((0, root),))
    lead = close = ""
    key: Any = 0
    pairs: list[tuple[Any, Any]] = []
    odd = False
    outer: list[tuple[Iterator[tuple[Any, Any]], str, Any, list[tuple[Any, Any]], bool]] = []
    try:
        while True:
            for key, value in rest:
                if close != "}":
                    head = lead
                elif type(key) is str and len(key) < 100 and key.isascii():
                    head = f"{lead}{quote(key)}:"
                else:
                    head = f"{lead}{_key_text(key, foreign)}:"
                    room -= len(head)
                    odd = True
                lead = ","
                kind = type(value)
                if kind is str and value.isascii() and len(value) < 100:
                    write(f"{head}{quote(value)}")
                elif kind is float:
                    text = repr(value)
                    if text[-1] in "0nf" or "e" in text:  # ends in .0, is not finite, or has an exponent
                        text = _scalar_text(value, big_ints, foreign)
                    write(f"{head}{text}")
                elif kind is int and lowest <= value <= highest:
                    write(f"{head}{value}")
                elif value is None:
                    write(f"{head}null")
                else:
                    if kind not in _EXACT_TYPES:
                        value = _base_value(value, default, max_depth)  # noqa: PLW2901 -- it stands in the same place
                        kind = type(value)
                    if kind not in _CONTAINERS:
                        text = _scalar_text(value, big_ints, foreign)
                        room -= len(text)
                        if room < 0:
                            raise _OutOfRoom
                        write(f"{head}{text}")
                        continue
                    if len(outer) >= max_depth:
                        raise _Refusal(f"is nested deeper than {max_depth} levels, or contains itself")
                    # Brackets and commas; in a dict also colons and the quotes of its keys.
                    room -= len(value) * (4 if kind is dict else 1) + 1
                    if room < 0:
                        raise _OutOfRoom
                    outer.append((rest, close, key, pairs, odd))
                    if kind is dict:
                        pairs = list(value.items())
                        rest, close, odd = iter(pairs), "}", False
                        write(head + "{")
                    else:
                        rest, close, odd = enumerate(value), "]", False
                        write(head + "[")
                    lead = ""
                    break
            else:
                if not outer:
                    return "".join(out)
                if odd and len({_key_text(name, foreign) for name, _ in pairs}) < len(pairs):
                    raise _Refusal("has two keys with the same text", of_container=True)
                write(close)
                lead = ","
                rest, close, key, pairs, odd = outer.pop()
    except _Refusal as refusal:
        keys = [frame[2] for frame in outer] + ([] if refusal.of_container else [key])
        path = "$" + "".join(map(_step, keys[1:]))  # the first is the place of the item itself
        short = path if len(path) <= 200 else f"{path[:100]}…{path[-99:]}"
        raise ItemError(f"{short} {refusal}", path) from refusal.__cause__


def _step(key: int | str) -> str:
    """One step of a path: ``[3]``, ``.value``, or ``["odd key"]`` for a key that is no identifier."""
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if key.isidentifier() else f"[{encode_string(key)}]"


def _too_large(size: str, max_bytes: int) -> ItemError:
    advice = "keep large data in a file and enqueue its path"
    return ItemError(f"$ takes {size} as JSON text, and {max_bytes:,} are allowed: {advice}")


def _base_value(value: Any, default: Callable[[Any], Any] | None, max_depth: int) -> Any:
    """The value as one of the JSON types themselves: a subclass stripped, any other type through ``default``."""
    for _ in range(max_depth + 1):
        kind = type(value)  # what isinstance says can be a proxy's claim
        if kind in _EXACT_TYPES:
            return value
        if issubclass(kind, str):
            return str.__str__(value)
        if issubclass(kind, int):
            return int.__int__(value)
        if issubclass(kind, float):
            return float.__float__(value)
        if issubclass(kind, dict | list | tuple):
            return _base_container(value)
        if default is None:
            raise _Refusal(f"is of type {type_name(kind)}, which JSON does not have: {advice_for(kind)}")
        try:
            value = default(value)
        except Exception as error:
            what = f"is of type {type_name(kind)}, for which default= raised {type(error).__name__}"
            raise _Refusal(f"{what}: {advice_for(kind)}") from error
    raise _Refusal(f"is still of no JSON type after {max_depth + 1} calls of default=")


def _base_container(value: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> dict[Any, Any] | list[Any]:
    """A dict or list of what a subclass says it holds, as `json` takes it: by ``items()`` or by iterating."""
    try:
        if not isinstance(value, dict):
            return list(value)
        pairs = list(value.items())
        plain = dict(pairs)
    except Exception as error:
        what = f"is of type {type_name(type(value))}, and reading it raised {type(error).__name__}"
        raise _Refusal(what) from error
    if len(plain) < len(pairs):
        raise _Refusal("has two keys with the same text")
    return plain


def _scalar_text(value: Any, big_ints: bool, foreign: bool) -> str:
    """The text of a str, int, float, bool or None (no subclass), where JavaScript reads back the same."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return _string_text(value, "holds", foreign)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if not isfinite(value):
            raise _Refusal("is NaN or infinite, for which JSON has no form: store None where a value is missing")
        return encode_number(value)
    if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER or foreign:
        return integer_text(value)
    if not big_ints:
        advice = "store it as a string, or make the queue with big_ints=True where only Python reads it"
        raise _Refusal(f"is an integer beyond ±(2^53-1), which JavaScript would round: {advice}")
    try:
        float(value)
    except OverflowError:
        raise _Refusal("is an integer too large for a double: store it as a string") from None
    return integer_text(value)


def _key_text(key: Any, foreign: bool) -> str:
    if not isinstance(key, str):
        why = f"has a key of type {type_name(type(key))}, and JSON keys are strings: use str(key)"
        raise _Refusal(why, of_container=True)
    try:
        return _string_text(str.__str__(key), "has a key with", foreign)
    except _Refusal as refusal:
        raise _Refusal(str(refusal), of_container=True) from None


def _string_text(text: str, verb: str, foreign: bool) -> str:
    if text.isascii() or SURROGATE.search(text) is None:
        return encode_basestring(text)
    if foreign:
        return encode_string(text)
    text = merge_pairs(text)
    if SURROGATE.search(text):
        advice = "os.fsencode() or errors='surrogateescape' gives the bytes back; store them as base64"
        raise _Refusal(f"{verb} a lone surrogate, half a character that UTF-8 cannot hold: {advice}")
    return encode_basestring(text)
