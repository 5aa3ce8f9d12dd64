"""The rules on single tokens, and how a broken one is reported."""

from __future__ import annotations

import re
from decimal import Decimal
from math import isinf
from typing import Final, NamedTuple, TypeAlias

from starfish_outbox.jsontext import MAX_SAFE_INTEGER

Steps: TypeAlias = tuple[int | str, ...]
"""From the whole text to a value: indices and keys."""

MAX_DEPTH: Final = 128
"""How deep an item may be nested to be enqueued."""

LONE: Final = re.compile("[\ud800-\udfff]")
"""Half a surrogate pair; raw in a text, it stands for a byte that is no UTF-8."""

_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,9}")
_MAX_INDEX: Final = 2**32 - 2  # ECMA-262, the largest array index


class Finding(NamedTuple):
    """One thing that is odd.

    Attributes:
        rule: which rule it breaks, such as ``r21``.
        what: what stands there, in words, without any content.
        path: which value it is.
        at: where, as an index into the text.
    """

    rule: str
    what: str
    path: Steps
    at: int


def float_rule(token: str, value: float) -> tuple[str, str] | None:
    """The rule that a number with a point or an exponent breaks, and why; None for most."""
    if isinf(value):
        return "r22", "a number that is infinite as a double"
    if value.is_integer() and abs(value) < 1e21:
        return "r25", "a whole number with a point or an exponent"
    digits = re.sub(r"[eE].*|[-.]", "", token).strip("0")
    return ("r26", "more digits than a double holds") if len(digits) > 17 else None


def integer_rule(token: str) -> tuple[str, str] | None:
    """The rule that a whole number breaks, and why; None for most."""
    if token == "-0":  # noqa: S105  # a token of JSON
        return "r25", "minus zero"
    if len(token) < 16:
        return None
    value = float(token)
    if isinf(value):
        return "r24", f"an integer of {len(token.lstrip('-'))} digits"
    # JSON.stringify spells a double below 1e21 without an exponent: such a token is a double, and nothing is lost.
    if abs(value) > MAX_SAFE_INTEGER and token != format(Decimal(repr(value)), "f").removesuffix(".0"):
        return "r23", "an integer beyond 2^53-1"
    return None


def keys_rule(names: list[str]) -> str | None:
    """Why JavaScript would write an object with these keys in another order, or None."""
    if not any(name[:1].isdigit() for name in names):
        return None
    first = sorted((name for name in names if _INDEX.fullmatch(name) and int(name) <= _MAX_INDEX), key=int)
    return None if first == names[: len(first)] else "keys that look like array indices, and not first and ascending"


def whole_number(token: str) -> int | float:
    """Its value; infinite where a double would be, so that every value here fits a double."""
    if len(token) > 300:
        double = float(token)
        if isinf(double):
            return double
    return int(token)
