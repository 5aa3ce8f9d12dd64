"""Text -> values: RFC 8259 and nothing more, whatever the depth; no text can crash it."""

from __future__ import annotations

import json
import re
import sys
from math import isfinite
from typing import Any, Final, Never

from starfish_outbox.jsontext.spelling import (
    MAX_SAFE_INTEGER,
    PLAIN_DIGITS,
    SURROGATE,
    c_is_safe,
    encode_number,
)

_MAX_DIGITS: Final = 4300  # CPython's default limit for reading an integer, fixed here so that every host agrees
_CLOSER: Final = {"[": "]", "{": "}"}
_SPACE: Final = re.compile(r"[ \t\n\r]*")
# Every integer beyond 2^53-1 and every number that is infinite as a double, within a list or dict, looks like this.
# What looks like it in a string costs time only.
_UNUSUAL_NUMBER: Final = re.compile(r"[\[:, \t\n\r]-?[0-9](?:[0-9]{15}|[0-9.]*+[eE]\+?[0-9]{3})")


class DamagedText(ValueError):  # noqa: N818 -- what is wrong is the text, and the name says that
    """A text that is no JSON, or that two languages would not read alike.

    Attributes:
        reason: what is wrong, in words, without the text itself.
        pos: where, as an index into the text (in characters, from 0).
    """

    def __init__(self, reason: str, pos: int) -> None:
        super().__init__(f"{reason} at character {pos}")
        self.reason = reason
        self.pos = pos


def decode(text: str) -> Any:
    """The Python value of one JSON text, with space around it allowed.

    Numbers are doubles: an integer beyond 2^53-1 spelled as JavaScript spells its double (``10000000000000000``) reads
    as a float. Any other integer reads exact, up to 4,300 digits, although JavaScript would round it.

    Raises:
        DamagedText: it is not RFC 8259; or a number with a point or an exponent is infinite as a double (``1e400``), an
            integer has more than 4,300 digits, or a raw surrogate stands in it (for a byte that was not UTF-8).
    """
    value, end = scan(text, _after_space(text, 0))
    end = _after_space(text, end)
    if end != len(text):
        raise DamagedText("more text after the end of the value", end)
    return value


def scan(text: str, index: int, *, strict: bool = True) -> tuple[Any, int]:
    """The JSON value that starts at ``index`` and the index where it ends, by the rules of `decode`; skips no space.

    Args:
        text: anything that holds a JSON value at that place.
        index: where the value starts.
        strict: refuse raw control characters within strings, as RFC 8259 does.

    Raises:
        DamagedText: as for `decode`.
    """
    usual, careful = _DECODERS[strict]
    if not 0 < sys.get_int_max_str_digits() <= 100_000:
        usual = careful  # without that limit int() takes minutes over a long token
    if not c_is_safe():
        value, end = _parse(text, index, careful)
    else:
        try:
            value, end = usual.raw_decode(text, index)
            if isinstance(value, float | int) or _UNUSUAL_NUMBER.search(text, index, end):
                value, end = careful.raw_decode(text, index)
        except (ValueError, RecursionError):  # damaged, too deep for C, or a number: the loop knows which, and where
            value, end = _parse(text, index, careful)
    if not text.isascii() and (raw := SURROGATE.search(text, index, end)):
        raise DamagedText("raw surrogate, which stands for a byte that is not UTF-8", raw.start())
    return value, end


def _after_space(text: str, index: int) -> int:
    space = _SPACE.match(text, index)
    return space.end() if space else index


def _read_integer(token: str) -> int | float:
    if len(token.lstrip("-")) > _MAX_DIGITS:
        raise ValueError(f"integer of more than {_MAX_DIGITS:,} digits")
    if len(token) <= PLAIN_DIGITS:
        value = int(token)
    else:
        from decimal import Decimal

        value = int(Decimal(token))
    if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER or len(token) > 22:
        return value
    double = float(value)
    return double if encode_number(double) == token else value


def _read_float(token: str) -> float:
    value = float(token)
    if not isfinite(value):
        raise ValueError("number that is infinite as a double")
    return value


def _refuse_constant(token: str) -> Never:
    raise ValueError(f"{token}, which is not JSON")


def _decoders(strict: bool) -> tuple[json.JSONDecoder, json.JSONDecoder]:
    """A decoder that reads numbers in C, and one that looks at each number."""
    return (
        json.JSONDecoder(strict=strict, parse_constant=_refuse_constant),
        json.JSONDecoder(
            strict=strict, parse_constant=_refuse_constant, parse_int=_read_integer, parse_float=_read_float
        ),
    )


_DECODERS: Final = {strict: _decoders(strict) for strict in (True, False)}


def _parse(text: str, index: int, decoder: json.JSONDecoder) -> tuple[Any, int]:
    """What ``decoder.raw_decode`` gives, at any depth: C reads strings, numbers and names, the loop what holds them."""
    outer: list[Any] = []
    keys: list[str] = []
    while True:
        opener = text[index : index + 1]
        if opener in ("[", "{"):
            value: Any = [] if opener == "[" else {}
            index = _after_space(text, index + 1)
            if not text.startswith(_CLOSER[opener], index):
                outer.append(value)
                if opener == "{":
                    index = _parse_key(text, index, decoder, keys)
                continue
            index += 1
        else:
            value, index = _parse_scalar(text, index, decoder)
        while True:  # the value is whole: put it where it belongs, and see what that container says next
            if not outer:
                return value, index
            holder = outer[-1]
            if isinstance(holder, list):
                holder.append(value)
                closer = "]"
            else:
                holder[keys.pop()] = value
                closer = "}"
            index = _after_space(text, index)
            mark = text[index : index + 1]
            if mark == ",":
                index = _after_space(text, index + 1)
                if closer == "}":
                    index = _parse_key(text, index, decoder, keys)
                break
            if mark != closer:
                raise DamagedText(f"expected ',' or '{closer}'", index)
            value = outer.pop()
            index += 1


def _parse_key(text: str, index: int, decoder: json.JSONDecoder, keys: list[str]) -> int:
    """Where the value of the pair that starts at ``index`` starts; its key goes onto ``keys``."""
    if not text.startswith('"', index):
        raise DamagedText("expected a key in double quotes", index)
    key, index = _parse_scalar(text, index, decoder)
    keys.append(key)
    index = _after_space(text, index)
    if not text.startswith(":", index):
        raise DamagedText("expected ':'", index)
    return _after_space(text, index + 1)


def _parse_scalar(text: str, index: int, decoder: json.JSONDecoder) -> tuple[Any, int]:
    try:
        return decoder.raw_decode(text, index)
    except json.JSONDecodeError as error:
        raise DamagedText(error.msg.removesuffix(" starting at"), error.pos) from None
    except ValueError as error:
        raise DamagedText(str(error), index) from None
