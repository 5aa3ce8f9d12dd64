"""How JavaScript spells strings and numbers (ECMA-262), and what of it both sides of this package need to know."""

from __future__ import annotations

import re
import sys
from json.encoder import encode_basestring
from typing import Final

MAX_SAFE_INTEGER: Final = 2**53 - 1
"""The largest integer that JavaScript keeps exact (``Number.MAX_SAFE_INTEGER``)."""

PLAIN_DIGITS: Final = 640  # the lowest that sys.set_int_max_str_digits can make it
_PLAIN_INTEGER: Final = 10**PLAIN_DIGITS
SURROGATE: Final = re.compile("[\ud800-\udfff]")


def encode_string(text: str) -> str:
    """The text that ``JSON.stringify`` writes for a string: pairs merged, a lone surrogate as a lower-case escape."""
    if text.isascii() or SURROGATE.search(text) is None:
        return encode_basestring(text)
    return SURROGATE.sub(lambda lone: f"\\u{ord(lone[0]):04x}", encode_basestring(merge_pairs(text)))


def encode_number(x: float) -> str:
    """The text of a number: a float as ECMA-262 ``Number::toString`` spells it, an int with all its digits.

    Raises:
        ValueError: it is NaN or infinite, for which JSON has no form.
    """
    if isinstance(x, int):
        return integer_text(int(x))
    text = float.__repr__(x)  # the shortest digits that read back equal, as in JavaScript; only the layout differs
    if text.endswith(".0"):
        return "0" if text == "-0.0" else text[:-2]
    if "e" in text:
        return _lay_out(text)
    if text[-1] in "nf":
        raise ValueError("JSON has no form for NaN and infinity")
    return text


def merge_pairs(text: str) -> str:
    """The text with each two code points that form a surrogate pair as the one character that they mean in UTF-16."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def integer_text(value: int) -> str:
    """An integer with all its digits, however many."""
    if -_PLAIN_INTEGER < value < _PLAIN_INTEGER:
        return int.__repr__(value)
    from decimal import Decimal  # seldom needed; knows neither Python's limit on digits nor its quadratic cost

    return str(Decimal(value))


def _lay_out(text: str) -> str:
    """A float that Python spells with an exponent, as ECMA-262 Number::toString (6.1.6.1.20) lays out its digits."""
    mantissa, _, exponent = text.partition("e")
    point = int(exponent) + 1  # where the point stands in the digits: n in ECMA-262
    if not -6 < point <= 21:
        return f"{mantissa}e{point - 1:+d}"
    sign = "-" if text[0] == "-" else ""
    digits = mantissa.lstrip("-").replace(".", "")
    return f"{sign}{digits.ljust(point, '0')}" if point > 0 else f"{sign}0.{'0' * -point}{digits}"


def c_is_safe() -> bool:
    """Whether C would hit Python's recursion limit before it hits the end of its own stack, which is a crash."""
    return sys.version_info >= (3, 12) or sys.getrecursionlimit() <= 10_000
