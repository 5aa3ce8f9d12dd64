"""Everything that is wrong with a stored text: the schema's two forms, and the rules that no schema can see."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import isinf, isnan
from typing import TYPE_CHECKING, Any, Final

from starfish_outbox.caches.file import MAX_UTF16
from starfish_outbox.cli.rules import RULES, Level, Rule
from starfish_outbox.jsontext import MAX_SAFE_INTEGER, encode_foreign
from starfish_outbox.lexical import Element, Elements, Finding, Lines, members, spelled
from starfish_outbox.schema import schema
from starfish_outbox.state import size_of

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

MAX_ITEM_BYTES: Final = 1 << 20
"""The size of an item above which ``enqueue`` refuses it, unless its queue was made for more."""

_REQUIRED: Final = {
    "id": "r02",
    "item": "r01",
    "status": "r08",
    "attempts": "r04",
    "enqueuedAt": "r07 missing",
}
_KEYS: Final = (*_REQUIRED, "maybeSent", "nextAttemptAt", "lastError", "replacement")
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Problem:
    """One problem and its place.

    Attributes:
        rule: a name in ``RULES``.
        what: what stands there, in words, without any content.
        path: which value, such as ``$[3].item.mass``.
        line, column: where in the text, from 1; None where there is no text, in a database.
        key: whose queue, in a database.
    """

    rule: str
    what: str
    path: str
    line: int | None = None
    column: int | None = None
    key: str | None = None

    @property
    def number(self) -> str:
        """The rule's number without the kind."""
        return self.rule.partition(" ")[0] if self.rule.startswith("r") else self.rule

    @property
    def facts(self) -> Rule:
        """The rule itself."""
        return RULES[self.rule]

    @property
    def level(self) -> Level:
        """How bad it is."""
        return self.facts.level


class Check:
    """A check of one text; iterate over it for the problems, each as it is found.

    Attributes:
        elements: how many elements of the array have been read so far.
    """

    def __init__(self, text: str, *, key: str | None = None, places: bool = True) -> None:
        from jsonschema import Draft202012Validator  # slow where its formats are installed, as they are with Jupyter

        self.elements = 0
        self._text = text
        self._key = key
        self._lines = Lines(text) if places else None
        self._writer = Draft202012Validator(schema("writer")["$defs"]["entry"])
        self._reader = Draft202012Validator(schema("reader")["$defs"]["entry"])
        self._ids: dict[str, int] = {}
        self._sound: set[Hashable] = set()  # how entries look that the writer form allows: most look like another one
        self._odd_ids: list[tuple[Any, Finding]] = []

    def __iter__(self) -> Iterator[Problem]:
        """Every problem: element by element, then those of the text as a whole."""
        text = self._text
        if len(text) * 2 > MAX_UTF16 and len(text.encode("utf-16-le", "surrogatepass")) // 2 > MAX_UTF16:
            yield self._problem(Finding("r35 text", "the text is too long for Node 20", (), 0))
        elements = Elements(text)
        for element in elements:
            self.elements += 1
            for finding in self._element(element):
                yield self._problem(finding)
        for finding in [*elements.whole, *self._equal_ids()]:
            yield self._problem(finding)

    def _problem(self, finding: Finding) -> Problem:
        path = spelled(finding.path)
        line, column = self._lines.place(finding.at) if self._lines else (None, None)
        return Problem(finding.rule, finding.what, path, line, column, self._key)

    def _element(self, element: Element) -> Iterator[Finding]:
        yield from element.findings
        value, place = element.value, (element.index,)
        if not isinstance(value, dict) or not value.keys() & _REQUIRED.keys():
            rule = "r13" if value is None else "r14"
            yield Finding(rule, f"the element is {_kind(value)}", place, element.start)
            return
        yield from self._size(element)
        id = value.get("id")
        if isinstance(id, str):
            first = self._ids.setdefault(id, element.index)
            if first != element.index:
                yield self._at(element, "r15", f"the id of $[{first}] again", "id")
        look = _looks(value)
        if look in self._sound:
            return
        if self._writer.is_valid(value):
            if look is not None:
                self._sound.add(look)
            return
        for name in _REQUIRED:
            if name not in value:
                yield Finding(_REQUIRED[name], f"there is no {name}", (element.index,), element.start)
        errors = list(self._reader.iter_errors(value)) or list(self._writer.iter_errors(value))
        # What a token is guilty of, its place is not guilty of again, unless for worse.
        known = {finding.path for finding in element.findings}
        seen: set[Finding] = set()
        for error in errors:
            for finding in self._translate(element, error):
                if finding not in seen and (finding.path not in known or RULES[finding.rule].level == "error"):
                    seen.add(finding)
                    yield finding

    def _size(self, element: Element) -> Iterator[Finding]:
        if element.end - element.start <= MAX_ITEM_BYTES // 4:
            return
        items = {"item": element.value.get("item")}
        waiting = element.value.get("replacement")
        if isinstance(waiting, dict):
            items["replacement"] = waiting.get("item")
        for name, item in items.items():
            try:
                size = size_of(encode_foreign(item))
            except ValueError:  # NaN or infinity, a problem of its own
                size = element.end - element.start
            if size > MAX_ITEM_BYTES:
                yield self._at(element, "r35 item", f"an item of {size:,} bytes", name)

    def _translate(self, element: Element, error: ValidationError) -> Iterator[Finding]:
        """A violation of the schema as the rule that it breaks."""
        value = element.value
        if error.absolute_path:
            name = str(error.absolute_path[0])
            yield from self._misfit(element, name, value[name])
        elif error.validator == "additionalProperties":
            yield from (self._at(element, "r11", "another program's key", name) for name in value if name not in _KEYS)

    def _misfit(self, element: Element, name: str, value: Any) -> Iterator[Finding]:
        """The rule that the value of one of the typed keys breaks."""
        what = f"{name} is {_kind(value)}"
        rule: str | None = "r11"
        if name == "id":
            rule = "r20" if value == "" else "r17"
        elif name == "status":
            rule = "r09 unknown" if isinstance(value, str) else "r09"
            what = "an unknown status" if isinstance(value, str) else what
        elif name == "attempts":
            rule = _attempts_rule(value)
        elif name == "enqueuedAt":
            rule = _instant_rule(value)
        else:
            what = f"{name} is not what this package writes there"
        if rule is not None:
            finding = self._at(element, rule, what, name)
            if rule == "r17":
                self._odd_ids.append((value, finding))
            yield finding

    def _at(self, element: Element, rule: str, what: str, name: str) -> Finding:
        place = members(self._text, element.start).get(name, element.start) if self._lines else 0
        return Finding(rule, what, (element.index, name), place)

    def _equal_ids(self) -> Iterator[Finding]:
        """Ids that are no text, and that are one and the same to one language only."""
        numbers = [(id, finding) for id, finding in self._odd_ids if isinstance(id, int | float)]
        for python, (rule, other) in ((True, ("r18", "in Python")), (False, ("r19", "in JavaScript"))):
            ranked = sorted(numbers, key=lambda pair: (float(pair[0]), pair[1].at))
            for (one, _), (two, finding) in pairwise(ranked):
                alike = one == two and isinstance(one, bool) != isinstance(two, bool)
                rounded = float(one) == float(two) and one != two
                if alike if python else rounded:
                    yield finding._replace(rule=rule, what=f"equal to another id {other}")


def decoded(data: bytes) -> tuple[str, Problem | None]:
    """The text of a file, a byte that is no UTF-8 as a lone surrogate; a problem where it cannot be UTF-8 at all."""
    if data.startswith(_UTF16) or (len(data) > 1 and 0 in data[:2] and data.strip(b"\0")):
        return "", Problem("r30", "UTF-16 or UTF-32, not UTF-8", "$", 1, 1)
    return data.decode("utf-8", "surrogateescape"), None


def _looks(value: dict[str, Any]) -> Hashable | None:
    """What the schema's verdict on a plain entry hangs on; None for any other entry, which is judged by itself."""
    id, at, status, attempts = (value.get(name) for name in ("id", "enqueuedAt", "status", "attempts"))
    plain = len(value) == len(_REQUIRED) and "item" in value and isinstance(id, str) and id != ""
    if plain and type(at) is int and 0 <= at <= MAX_SAFE_INTEGER and isinstance(status, str) and type(attempts) is int:
        return status, attempts
    return None


def _attempts_rule(value: Any) -> str | None:
    if isinstance(value, bool):
        return "r05 boolean"
    if isinstance(value, int | float):
        if isinf(value) or isnan(value):
            return "r03 infinite"
        if value > MAX_SAFE_INTEGER:
            return None  # what its token is guilty of is known already
        return "r05 negative" if value < 0 else "r05 fraction"
    if isinstance(value, str) and re.fullmatch("[0-9]{1,15}", value):
        return "r05 digits"
    if value is None:
        return "r03 null"
    if value in ("", []):
        return "r03 empty"
    return "r03 list" if isinstance(value, list) else "r03 text"


def _instant_rule(value: Any) -> str | None:
    if isinstance(value, bool):
        return "r07 false"
    if isinstance(value, int | float):
        if isinf(value) or isnan(value):
            return "r06 infinite"
        return "r07 fraction" if isinstance(value, float) and not value.is_integer() else None
    digits = isinstance(value, str) and re.fullmatch("-?[0-9]{1,15}", value)
    return "r07 digits" if digits else "r06"


def _kind(value: Any) -> str:
    """What a value is, in words that tell nothing of its content."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        if isinf(value) or isnan(value):
            return "no finite number"
        return "negative" if value < 0 else "a number" if isinstance(value, int) or value.is_integer() else "a fraction"
    kind = "text" if isinstance(value, str) else "list" if isinstance(value, list) else "object"
    if not value:
        return f"an empty {kind}"
    return kind if kind == "text" else f"{'an' if kind == 'object' else 'a'} {kind}"
