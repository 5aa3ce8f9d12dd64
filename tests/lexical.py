"""What no schema can see in a stored text, found by a reader of its own: the judge of schema/examples/lexical."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from math import isinf
from typing import Any

SAFE = 2**53 - 1
MAX_DEPTH = 128


def rules_broken(data: bytes) -> set[str]:
    """The numbers of the rules that a stored text breaks, such as ``{"r16"}``; the schema is not asked."""
    if not data.strip():
        return {"r32"}
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return {"r30" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "r33"}
    broken: set[str] = set()
    try:
        value = json.loads(
            text,
            parse_constant=_note(broken, {"NaN": "r21", "Infinity": "r21", "-Infinity": "r21"}.get),
            parse_float=_note(broken, _float_rule),
            parse_int=_note(broken, _int_rule),
            object_pairs_hook=lambda pairs: _object(broken, pairs),
        )
    except json.JSONDecodeError:
        return {"r30"}
    if isinstance(value, list):
        ids = [element["id"] for element in value if isinstance(element, dict) and isinstance(element.get("id"), str)]
        if len(ids) != len(set(ids)):
            broken.add("r15")
        for element in value:
            _walk(broken, element)
    return broken


def _note(broken: set[str], rule: Callable[[str], str | None]) -> Callable[[str], float]:
    def token_read(token: str) -> float:
        found = rule(token)
        if found is not None:
            broken.add(found)
        return float(token)

    return token_read


def _float_rule(token: str) -> str | None:
    value = float(token)
    if isinf(value):
        return "r22"
    if value.is_integer() and abs(value) < 1e21:
        return "r25"
    digits = re.sub(r"[eE].*|[-.]", "", token).strip("0")
    return "r26" if len(digits) > 17 else None


def _int_rule(token: str) -> str | None:
    if token == "-0":
        return "r25"
    value = float(token)
    if isinf(value):
        return "r24"
    # JSON.stringify spells a double below 1e21 without an exponent: such a token is a double, and nothing is lost.
    return "r23" if abs(value) > SAFE and token != format(Decimal(repr(value)), "f").removesuffix(".0") else None


def _object(broken: set[str], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(names) != len(set(names)):
        broken.add("r16")
    first = sorted((name for name in names if re.fullmatch("0|[1-9][0-9]{0,9}", name)), key=int)
    if first != names[: len(first)]:
        broken.add("r27")
    return dict(pairs)


def _walk(broken: set[str], element: Any) -> None:
    """Surrogates anywhere in an element, and the depth of its item."""
    if isinstance(element, dict) and isinstance(element.get("id"), str) and _lone(element["id"]):
        broken.add("r20")
        element = {**element, "id": ""}
    item = element.get("item") if isinstance(element, dict) else None
    if _depth(item) > MAX_DEPTH:
        broken.add("r34")
    waiting = [element]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str) and _lone(value):
            broken.add("r29")
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]


def _lone(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _depth(value: Any) -> int:
    """How many arrays and objects stand in one another."""
    depth, level = 0, [value]
    while level := [inner for inner in level if isinstance(inner, list | dict)]:
        depth += 1
        level = [part for inner in level for part in (inner.values() if isinstance(inner, dict) else inner)]
    return depth
