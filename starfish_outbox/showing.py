"""How things are told to people, on a terminal and in a notebook: texts of others, ages, sizes, numbers."""

from __future__ import annotations

import re
from typing import Final

from starfish_outbox.jsontext import encode_foreign

UNSEEN: Final = re.compile(r"[^\x20-\x7e]")
"""What is looked at twice; most of it is a letter that is shown as it is."""

_STEPS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def printable(text: str) -> str:
    """The text with every character that is not meant to be seen as an escape of JSON."""
    return UNSEEN.sub(_escape, text)


def spelled_out(letter: str) -> str:
    """The letter as JSON escapes, one for each UTF-16 unit."""
    data = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(data[at : at + 2], 'big'):04x}" for at in range(0, len(data), 2))


def ago(then_ms: float, now_ms: int) -> str:
    """How long ago that was, to two units: ``5 s``, ``3 h 12 min``; ``?`` where it makes no sense."""
    seconds = (now_ms - then_ms) / 1000
    if not then_ms > 0 or not abs(seconds) < 1e10:
        return "?"
    return f"in {duration(-seconds)}" if seconds < 0 else duration(seconds)


def duration(seconds: float) -> str:
    """A time span, to two units: ``5 s``, ``3 h 12 min``."""
    for index, (length, unit) in enumerate(_STEPS):
        if seconds >= length or unit == "s":
            whole = int(seconds // length)
            if index + 1 < len(_STEPS) and whole < 10:
                smaller, small_unit = _STEPS[index + 1]
                rest = int(seconds % length // smaller)
                return f"{whole} {unit} {rest} {small_unit}" if rest else f"{whole} {unit}"
            return f"{whole} {unit}"
    raise AssertionError("every duration is some seconds")


def size(number: int) -> str:
    """A number of bytes: ``312 B``, ``4.2 kB``."""
    if number < 1000:
        return f"{number} B"
    value = float(number)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.5 or unit == "GB":
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
    raise AssertionError("the last unit takes all")


def counted(number: int, one: str, many: str) -> str:
    """``1 entry``, ``1,234 entries``."""
    return f"{number:,} {one if number == 1 else many}"


def _escape(found: re.Match[str]) -> str:
    letter = found[0]
    if letter.isprintable():
        return letter
    return encode_foreign(letter)[1:-1] if ord(letter) < 0x20 else spelled_out(letter)
