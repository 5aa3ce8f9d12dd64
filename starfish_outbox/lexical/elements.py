"""A stored text, element by element."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from starfish_outbox.lexical.reader import NotJsonError, Reader, after_space, instead
from starfish_outbox.lexical.rules import (
    LONE,
    MAX_DEPTH,
    Finding,
    Steps,
)

# What an element without findings never holds outside of its strings: minus zero, 16 digits, 17 of a fraction, a whole
# number with a point, an exponent, what is no number, an escaped surrogate, a key that looks like an index. Where it
# stands in a string it costs time only.
_ODD: Final = re.compile(
    r"[\[:, \t\n\r](?:-0[,\]}\s]|-?(?:[0-9]{16}|[0-9.]{18}|[0-9]+\.0+[,\]}\s]|[0-9.]+[eE]|Infinity)|NaN)"
    r"|\\u[dD][89a-fA-F]"
    r'|"(?:0|[1-9][0-9]{0,9})"[ \t\n\r]*:'
)
_KINDS: Final = {"{": "object", '"': "string", "t": "boolean", "f": "boolean", "n": "null"}


@dataclass
class Element:
    """One element of the array.

    Attributes:
        index: which.
        value: decoded; numbers that are no double are infinite, NaN stays NaN.
        start, end: where its text begins and ends.
        findings: what is odd in it.
    """

    index: int
    value: Any
    start: int
    end: int
    findings: list[Finding] = field(default_factory=list)


class Elements:
    """The elements of a stored text, one after the other; iterate once.

    Attributes:
        whole: after the iteration, what is odd about the text as a whole: where it stops being JSON, or that it is no
            array. The elements before the break have been given out.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self.whole: list[Finding] = []

    def __iter__(self) -> Iterator[Element]:
        """The elements, in order."""
        text = self._text
        start = 0
        if text.startswith("\ufeff"):
            self.whole.append(Finding("r30", "a byte order mark before the text", (), 0))
            start = 1
        start = after_space(text, start)
        if start == len(text):
            return  # an empty text is an empty queue
        try:
            if text[start] == "[":
                yield from self._array(start + 1)
            else:
                self._expect_end(Reader(text, start, ()).read()[1])
                self.whole.append(Finding("r31", f"a JSON {_kind(text[start])}, not an array", (), start))
        except NotJsonError as error:
            self.whole.append(error.finding)

    def _array(self, index: int) -> Iterator[Element]:
        text = self._text
        quick = _Quick(text)
        index = after_space(text, index)
        if text.startswith("]", index):
            self._expect_end(index + 1)
            return
        number = 0
        while True:
            element = quick.read(number, index)
            if element is None:
                reader = Reader(text, index, (number,))
                try:
                    value, end = reader.read()
                except NotJsonError as error:
                    self.whole += reader.findings  # what was odd before the break
                    error.finding = error.finding._replace(path=reader.path)
                    raise
                element = Element(number, value, index, end, reader.findings)
            yield element
            number += 1
            index = after_space(text, element.end)
            mark = text[index : index + 1]
            if mark == "]":
                break
            if mark != ",":
                raise instead(text, index, "a comma or a closing bracket")
            index = after_space(text, index + 1)
            if text.startswith("]", index):
                raise NotJsonError("a comma before the closing bracket", index)
        self._expect_end(index + 1)

    def _expect_end(self, index: int) -> None:
        text = self._text
        index = after_space(text, index)
        if index == len(text):
            return
        if not text[index:].strip("\0"):
            raise NotJsonError(f"{len(text) - index} NUL characters behind the end", index)
        raise NotJsonError("more text behind the end", index)


def members(text: str, start: int) -> dict[str, int]:
    """Where the value of each key of the object that starts here begins; empty where there is no whole object."""
    reader = Reader(text, start, ())
    try:
        reader.read()
    except NotJsonError:
        return {}
    return reader.members


class Lines:
    """Places in a text for people and editors: lines and columns count from 1, columns in characters."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(end.end() for end in re.finditer("\n", text))]

    def place(self, at: int) -> tuple[int, int]:
        """Line and column of an index into the text."""
        line = bisect_right(self._starts, at)
        return line, at - self._starts[line - 1] + 1


def spelled(path: Steps) -> str:
    """A path as JSONPath spells it: ``$[3].item.value``, ``$[3].item["odd key"]``."""
    steps = (
        f"[{step}]" if isinstance(step, int) else f".{step}" if step.isidentifier() else f"[{json.dumps(step)}]"
        for step in path
    )
    return f"${''.join(steps)}"


class _Quick:
    """Elements by the C decoder; None for one that looks odd in any way."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._ascii = text.isascii()
        self._twice = False
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def read(self, number: int, index: int) -> Element | None:
        text = self._text
        self._twice = False
        try:
            value, end = self._decoder.raw_decode(text, index)
        except (ValueError, RecursionError):
            return None
        if self._twice or _ODD.search(text, index - 1, end + 1):
            return None
        if text.count("[", index, end) + text.count("{", index, end) > MAX_DEPTH:
            return None
        if not self._ascii and LONE.search(text, index, end):
            return None
        return Element(number, value, index, end)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            self._twice = True
        return value


def _kind(mark: str) -> str:
    return _KINDS.get(mark, "number")
