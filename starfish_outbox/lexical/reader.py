"""One JSON value, token by token, with the place of everything that is odd in it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from starfish_outbox.lexical.rules import (
    LONE,
    MAX_DEPTH,
    Finding,
    Steps,
    float_rule,
    integer_rule,
    keys_rule,
    whole_number,
)

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_NO_NUMBER: Final = re.compile(r"NaN|-?Infinity")
_WORDS: Final = {"true": True, "false": False, "null": None}
_WORD: Final = re.compile(r"true|false|null")
_STRINGS: Final = json.JSONDecoder(strict=True)
_BAD_STRING: Final = {
    "Unterminated": "the text ends within a string that begins here",
    "Invalid control": "a raw control character in a string",
    "Invalid \\": "a bad escape in a string",
}
_UNEXPECTED: Final = {
    "'": "a single quote",
    "/": "a comment",
    "\0": "a NUL character",
    "\ufeff": "a byte order mark",
}


class NotJsonError(Exception):
    """The text is no JSON from here on.

    Attributes:
        finding: where and why.
    """

    def __init__(self, what: str, at: int, rule: str = "r30") -> None:
        super().__init__(what)
        self.finding = Finding(rule, what, (), at)


@dataclass
class _Open:
    """A list or an object that is being read.

    Attributes:
        keys: of an object, as they came.
    """

    value: Any
    start: int
    keys: dict[str, None] = field(default_factory=dict)


class Reader:
    """One JSON value, token by token.

    Attributes:
        findings: what is odd in it so far.
        members: where the values of the outermost object begin, by key.
    """

    def __init__(self, text: str, start: int, path: Steps) -> None:
        self._text = text
        self._index = start
        self._path: list[int | str] = list(path)
        self._deep = False
        self.findings: list[Finding] = []
        self.members: dict[str, int] = {}

    @property
    def path(self) -> Steps:
        """Where it stands."""
        return tuple(self._path)

    def read(self) -> tuple[Any, int]:
        """The value, and where it ends.

        Raises:
            NotJsonError: what stands there is no JSON value.
        """
        text = self._text
        outer: list[_Open] = []
        while True:
            value, opened = self._value(outer)
            if opened:
                continue
            while True:  # the value is whole: put it where it belongs, and see what that container says next
                if not outer:
                    return value, self._index
                holder = outer[-1]
                is_list = isinstance(holder.value, list)
                if is_list:
                    holder.value.append(value)
                else:
                    holder.value[self._path[-1]] = value
                self._index = after_space(text, self._index)
                mark = text[self._index : self._index + 1]
                if mark == ",":
                    self._index = after_space(text, self._index + 1)
                    if text.startswith("]" if is_list else "}", self._index):
                        raise NotJsonError("a comma before the closing bracket", self._index)
                    if is_list:
                        self._path[-1] = len(holder.value)
                    else:
                        self._key(holder, len(outer))
                    break
                if mark != ("]" if is_list else "}"):
                    raise instead(text, self._index, "a comma or a closing bracket")
                self._close(holder)
                value = outer.pop().value
                self._index += 1

    def _value(self, outer: list[_Open]) -> tuple[Any, bool]:
        """A whole value, or a container that was opened (and put onto ``outer``)."""
        text, start = self._text, self._index
        opener = text[start : start + 1]
        if opener not in ("[", "{"):
            return self._scalar(), False
        # The element is the first level, its item the one below.
        if len(outer) > MAX_DEPTH and self._path[1:2] == ["item"] and not self._deep:
            self._deep = True
            what = f"an item of more than {MAX_DEPTH} levels"
            self.findings.append(Finding("r34", what, tuple(self._path[:2]), start))
        value: Any = [] if opener == "[" else {}
        self._index = after_space(text, start + 1)
        if text.startswith("]" if opener == "[" else "}", self._index):
            self._index += 1
            return value, False
        outer.append(_Open(value, start))
        self._path.append(0)
        if opener == "{":
            self._key(outer[-1], len(outer))
        return value, True

    def _key(self, holder: _Open, level: int) -> None:
        text, start = self._text, self._index
        self._path.pop()  # until there is a key, the place is that of the object
        if not text.startswith('"', start):
            raise instead(text, start, "a key in double quotes")
        key = self._string()
        self._path.append(key)
        self._check_string(key, start, "r29", "in a key")
        if key in holder.keys:
            self._find("r16", "a key that stands there twice", start)
        holder.keys[key] = None
        self._index = after_space(text, self._index)
        if not text.startswith(":", self._index):
            raise instead(text, self._index, "a colon")
        self._index = after_space(text, self._index + 1)
        if level == 1:
            self.members[key] = self._index

    def _close(self, holder: _Open) -> None:
        self._path.pop()
        why = keys_rule(list(holder.keys))
        if why is not None:
            self._find("r27", why, holder.start)

    def _scalar(self) -> Any:
        text, start = self._text, self._index
        if text.startswith('"', start):
            value = self._string()
            is_id = len(self._path) == 2 and self._path[1] == "id"
            self._check_string(value, start, "r20" if is_id else "r29", "in an id" if is_id else "in a string")
            return value
        if word := _WORD.match(text, start):
            self._index = word.end()
            return _WORDS[word[0]]
        if constant := _NO_NUMBER.match(text, start):
            self._index = constant.end()
            self._find("r21", f"{constant[0]}, which is not JSON", start)
            return float(constant[0])
        number = _NUMBER.match(text, start)
        if number is None:
            raise instead(text, start, "a JSON value")
        self._index = number.end()
        token = number[0]
        whole = number[1] is None and number[2] is None
        number_value = whole_number(token) if whole else float(token)
        broken = integer_rule(token) if whole else float_rule(token, number_value)
        if broken is not None:
            self._find(*broken, start)
        return number_value

    def _string(self) -> str:
        try:
            value, self._index = _STRINGS.raw_decode(self._text, self._index)
        except json.JSONDecodeError as error:
            what = next((words for start, words in _BAD_STRING.items() if error.msg.startswith(start)), error.msg)
            raise NotJsonError(what, error.pos) from None
        return str(value)

    def _check_string(self, value: str, start: int, rule: str, where: str) -> None:
        if value.isascii() or LONE.search(value) is None:
            return
        raw = LONE.search(self._text, start, self._index)
        if raw is not None:
            self._find("r33", "a byte that is no UTF-8", raw.start())
        else:
            self._find(rule, f"half a surrogate pair {where}", start)

    def _find(self, rule: str, what: str, at: int) -> None:
        self.findings.append(Finding(rule, what, tuple(self._path), at))


def instead(text: str, index: int, wanted: str) -> NotJsonError:
    """The error for what stands there in place of what should."""
    mark = text[index : index + 1]
    if not mark:
        return NotJsonError(f"the text ends where {wanted} should be", index)
    if LONE.match(mark):
        return NotJsonError(f"a byte that is no UTF-8 where {wanted} should be", index, rule="r33")
    there = _UNEXPECTED.get(mark, "white space that JSON does not know" if mark.isspace() else "something else")
    return NotJsonError(f"{there} where {wanted} should be", index)


def after_space(text: str, index: int) -> int:
    """Where the next token begins."""
    space = _SPACE.match(text, index)
    return space.end() if space else index
