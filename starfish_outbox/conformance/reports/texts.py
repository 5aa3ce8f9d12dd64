"""Texts as the page shows them: stored texts by the entry, steps as calls, what is invisible made visible."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from starfish_outbox.conformance.verdicts import Result, Traced
from starfish_outbox.errors import ItemError
from starfish_outbox.jsontext import encode_foreign
from starfish_outbox.lexical.elements import Elements

SHOWN: Final = 600
"""Characters of a text that are shown at once."""

WHOLE: Final = 6000
"""Characters of a text that the page holds; the record in JSON lines has all."""

_ODD: Final = re.compile(r"([^ -~])\1*", re.DOTALL)
_LONGEST_SPLIT: Final = 200_000  # a longer text is not taken apart
_MOST_LINES: Final = 40
_MOST_REASONS: Final = 8
_OF_THE_STEP: Final = ("op", "label", "process")


@dataclass(frozen=True)
class Cut:
    """A text that may be long; empty parts are left out.

    Attributes:
        head: what is shown at once.
        rest: what is shown when somebody asks.
        left_out: how many characters are only in the record.
    """

    head: Markup
    rest: str = ""
    rest_length: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class Line:
    """One entry of a stored text. ``mark``: ``gone`` (not stored afterwards as it is here), ``new``, or nothing."""

    text: Cut
    mark: str = ""


@dataclass(frozen=True)
class Stored:
    """A stored text, an entry a line; None: nothing is stored. ``left_out``: how many lines are only in the record."""

    key: Markup
    lines: list[Line] | None
    left_out: int = 0


@dataclass(frozen=True)
class Reasons:
    """Why, shortly: what stands at no step, or else the first few; ``more`` of them stand at the steps."""

    shown: list[Cut]
    more: int


@dataclass(frozen=True)
class Step:
    """One step: the call as it would stand in a program, what came of it, and what is wrong with that."""

    call: Markup
    arguments: list[tuple[str, Cut]]
    outcomes: list[tuple[str, Cut]]
    label: Markup
    process: int
    wrong: list[Cut]


def visible(text: str, unmarked: str = "") -> Markup:
    """The text as content of an element, with a mark for what nobody would see; a line end also ends the line.

    Quotes stand as they are, since JSON is full of them: it is no value of an attribute.

    Args:
        text: as it is.
        unmarked: characters that get no mark.
    """
    if text.isprintable():
        return _content(text)
    parts, end = [], 0
    for found in _ODD.finditer(text):
        if not found[1].isprintable() and found[1] not in unmarked:
            parts += [_content(text[end : found.start()]), _mark(found[1], len(found[0]))]
            end = found.end()
    return Markup().join([*parts, _content(text[end:])])


def cut(text: str, unmarked: str = "") -> Cut:
    """The text in as many parts as it takes, cut at the end of a line where line ends are ``unmarked``."""
    end = SHOWN
    if "\n" in unmarked:
        end = text.find("\n", SHOWN, 2 * SHOWN) + 1 or SHOWN
    rest = text[end:WHOLE]
    return Cut(visible(text[:end], unmarked), visible(rest, unmarked), len(rest), max(0, len(text) - WHOLE))


def stored(texts: Mapping[str, str | None], others: Mapping[str, str | None], mark: str) -> list[Stored]:
    """Stored texts by key, with a mark on the entries that the other side of the run does not have."""
    elsewhere = {value for text in others.values() for _, value in _elements(text or "")}
    shown = []
    for key, text in texts.items():
        if text is None:
            shown.append(Stored(visible(key), None))
            continue
        elements = _elements(text)
        lines = [
            Line(cut(piece), mark if others and value is not None and value not in elsewhere else "")
            for piece, value in elements[:_MOST_LINES]
        ]
        shown.append(Stored(visible(key), lines, max(0, len(elements) - _MOST_LINES)))
    return shown


def reasons(result: Result) -> Reasons:
    """The reasons of a verdict, without those that are shown at the steps."""
    at_steps = {wrong for traced in result.trace for wrong in traced.wrong}
    alone = [reason for reason in result.reasons if reason not in at_steps]
    shown = (alone or result.reasons)[:_MOST_REASONS]
    return Reasons([cut(reason, "\n") for reason in shown], len(result.reasons) - len(shown))


def step(traced: Traced) -> Step:
    """A step of a trace."""
    request = traced.request
    call = str(request.get("op", ""))
    arguments = {name: value for name, value in request.items() if name not in _OF_THE_STEP}
    if isinstance(arguments.get("call"), Mapping):
        called = dict(arguments.pop("call"))
        call = f"{call} {arguments.pop('task', '')}: {called.pop('op', '')}"
        arguments |= called
    return Step(
        call=visible(call),
        arguments=[(name, cut(_value(value))) for name, value in arguments.items()],
        outcomes=[(what, cut(text)) for what, text in _outcomes(traced)],
        label=visible(str(request.get("label", ""))),
        process=request.get("process", 1),
        wrong=[cut(text) for text in traced.wrong],
    )


def _outcomes(traced: Traced) -> Iterator[tuple[str, str]]:
    """What came of a step, as what it is and how it reads."""
    answer = traced.answer
    value = answer.get("value")
    if answer.get("passed"):
        yield "let go", ", ".join(answer["passed"])
    if "error" in answer:
        yield "raised", _error(answer["error"])
    elif isinstance(value, Mapping) and "waiting" in value:
        yield "waiting", ", ".join(f"{gate['at']} {gate['what']}" for gate in value["waiting"]) or "nobody"
        for task in value.get("finished", ()):
            if "error" in task:
                yield f"{task['task']} raised", _error(task["error"])
            else:
                yield from _returned(f"{task['task']} returned", task.get("value"))
    elif "value" in answer:
        yield from _returned("returned", value)
    if answer.get("notified"):
        yield "listeners called", f"{answer['notified']} ×"
    # What the runner looked at after a step is in the way where it was right.
    for name, said in (("entries", "entries now"), ("text", "stored now")):
        if traced.wrong and answer.get(name) is not None:
            yield said, answer[name]


def _returned(what: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and "sends" in value:  # of a drain: entries, as JSON text
        for entry in value["sends"]:
            yield "sent", entry
        value = {name: one for name, one in value.items() if name != "sends"}
    yield what, "nothing" if value is None else _value(value)


def _error(error: Mapping[str, Any]) -> str:
    return f"{error.get('kind')} ({error.get('name')}: {error.get('message')})"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _elements(text: str) -> list[tuple[str, str | None]]:
    """A stored text as its elements, and what each of them means; a text that is no array is one piece.

    The pieces joined are the text: what stands between two elements goes with the first.
    """
    if len(text) > _LONGEST_SPLIT:
        return [(text, None)]
    elements = list(Elements(text))
    if not elements:
        return [(text, None)]
    starts = [0, *(element.start for element in elements[1:])]
    ends = [*starts[1:], elements[-1].end]
    pieces: list[tuple[str, str | None]] = [
        (text[start:end], _meaning(element.value, text[start:end]))
        for element, start, end in zip(elements, starts, ends, strict=True)
    ]
    rest = text[elements[-1].end :]
    if rest.strip() == "]":
        pieces[-1] = (pieces[-1][0] + rest, pieces[-1][1])
    else:
        pieces.append((rest, None))
    return pieces


def _meaning(value: Any, text: str) -> str:
    """Equal for two spellings of one value; a value that JSON has no form for (``1e400``) is its text."""
    try:
        return encode_foreign(value)
    except ItemError:
        return text


def _content(text: str) -> Markup:
    return Markup(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))  # noqa: S704  # escaped


def _mark(letter: str, times: int) -> Markup:
    name = "↵" if letter == "\n" else f"U+{ord(letter):04X}"
    shown = Markup("<i>{}</i>").format(f"{name} × {times}" if times > 1 else name)
    return shown + "\n" if letter == "\n" else shown
