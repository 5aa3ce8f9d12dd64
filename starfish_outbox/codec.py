"""Stored text <-> entries: the JSON array that the TypeScript package reads and writes.

The only module that knows the JSON key names. Writing is strict: compact, all five keys, exactly what
``JSON.stringify`` would write. Reading is tolerant, entry by entry:

1. A key that is missing or of a wrong type is read as its neutral value and reported; unknown keys are kept, in order.
2. An element that is no object, or has no ``id``, is set aside byte for byte; its neighbours are read.
3. An ``id`` that is no string stays in the text, is reported, and is never drained.
4. A text that is no JSON is set aside whole, and every entry that can be found in it is read.
5. Valid JSON that is no array is refused (it may be a newer format): nobody may write over what was not understood.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starfish_outbox.entry import FAILED, QUEUED, SENDING, LastError, OutboxEntry, Replacement, StoredEntry
from starfish_outbox.errors import OutboxError
from starfish_outbox.jsontext import (
    MAX_SAFE_INTEGER,
    DamagedText,
    decode,
    encode_foreign,
    encode_item,
    encode_number,
    encode_string,
    scan,
)

MAX_ERROR_MESSAGE = 500
"""Characters kept of a failed send's message: errors can quote what they were given, and that is private."""

_FIELDS = ("id", "item", "status", "attempts", "enqueuedAt", "maybeSent", "nextAttemptAt", "lastError", "replacement")
_REQUIRED = _FIELDS[:5]
_WHITESPACE = " \t\n\r"
_NEARBY = 4096
_STRING_OR_BRACE = re.compile(r'"(?:[^"\\]|\\.)*+"|\{', re.DOTALL)
_OBJECT = re.compile(r'\{[ \t\n\r]*"')


class NotAQueueError(OutboxError):
    """Valid JSON, but no array: not to be written over."""


@dataclass
class Rejected:
    """An element that cannot be an entry: its text as it was found, and why."""

    text: str
    reason: str


@dataclass
class Reading:
    """What a stored text holds.

    Attributes:
        entries: in order, their ``seq`` counting from 0.
        rejected: elements to set aside.
        notes: what was read differently from what is written, for people; no item content.
        damage: why the whole text must be set aside, or None when it is a JSON array.
    """

    entries: list[StoredEntry] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    damage: str | None = None


def encode_entry(entry: StoredEntry) -> str:
    """The JSON text of one entry as it stands in the array."""
    if entry.id is None:
        return entry.item
    text = (
        f'{{"id":{encode_string(entry.id)},"item":{entry.item},"status":{_encode_status(entry.status)}'
        f',"attempts":{entry.attempts},"enqueuedAt":{encode_number(entry.enqueued_at)}'
    )
    more = encode_more(entry)
    return f"{text},{more}}}" if more else text + "}"


def encode_more(entry: StoredEntry) -> str:
    """The members behind the five that every entry has, without braces; empty for most entries."""
    parts = []
    if entry.maybe_sent_ms is not None:
        parts.append(f'"maybeSent":{entry.maybe_sent_ms}')
    if entry.next_attempt_ms is not None:
        parts.append(f'"nextAttemptAt":{entry.next_attempt_ms}')
    if entry.last_error is not None:
        error = entry.last_error
        parts.append(
            f'"lastError":{{"type":{encode_string(error.type)},"message":{encode_string(error.message)},"at":{error.at_ms}}}'
        )
    if entry.replacement is not None:
        item, at = entry.replacement
        parts.append(f'"replacement":{{"item":{item},"enqueuedAt":{at}}}')
    if entry.extra:
        typed = {name for name in _FIELDS[5:] if any(part.startswith(f'"{name}":') for part in parts)}
        parts += [f"{encode_string(name)}:{text}" for name, text in entry.extra if name not in typed]
    return ",".join(parts)


def encode_array(texts: list[str]) -> str:
    """The stored text of a queue from the texts of its entries."""
    return f"[{','.join(texts)}]"


def read(text: str) -> Reading:
    """Whatever can be read of a stored text; nothing is ever dropped without a word.

    Raises:
        NotAQueueError: the text is valid JSON but no array.
    """
    start = _skip(text, 0)
    if start == len(text):
        return Reading()
    if text[start] != "[":
        kind = _whole_value(text, start)
        if kind is not None:
            raise NotAQueueError(f"the stored text is a JSON {kind}, not an array; a newer version may have written it")
        return _salvage(text, "it does not begin with a JSON array")
    reading = Reading()
    index = _skip(text, start + 1)
    if text[index : index + 1] == "]":
        index += 1
    else:
        while True:
            try:
                value, end = scan(text, index)
            except DamagedText as damage:
                return _salvage(text, f"{damage.reason} at character {damage.pos}")
            _take(reading, value, text[index:end])
            index = _skip(text, end)
            mark = text[index : index + 1]
            index += 1
            if mark == "]":
                break
            if mark != ",":
                return _salvage(text, f"no comma or bracket at character {index - 1}")
            index = _skip(text, index)
    if _skip(text, index) != len(text):
        return _salvage(text, f"more text behind the array at character {index}")
    times = Counter(entry.id for entry in reading.entries if entry.id is not None)
    reading.notes += [f"id {id!r} stands {n} times: all are kept" for id, n in times.items() if n > 1]
    return reading


def stored(seq: int, data: Mapping[str, Any], notes: list[str], place: str) -> StoredEntry:
    """The entry that a decoded object with a string ``id`` describes; what had to be guessed is added to ``notes``."""
    id = data["id"]
    notes.extend(f"{place}.{name} is missing (id {id!r})" for name in _REQUIRED if name not in data)
    attempts = _count(data.get("attempts", 0))
    if attempts is None or attempts != data.get("attempts", 0) or isinstance(data.get("attempts", 0), bool):
        notes.append(f"{place}.attempts is no count of attempts, read as {attempts or 0} (id {id!r})")
    at = data.get("enqueuedAt", 0)
    if isinstance(at, bool) or not isinstance(at, int | float):
        known = int(at) if isinstance(at, str) and re.fullmatch(r"-?[0-9]{1,15}", at) else 0
        notes.append(f"{place}.enqueuedAt is no number, read as {known} (id {id!r})")
        at = known
    elif isinstance(at, int) and abs(at) > MAX_SAFE_INTEGER:
        notes.append(f"{place}.enqueuedAt is no instant (id {id!r})")
        at = float(at) if abs(at) < 10**300 else 0
    elif isinstance(at, float):  # as it will be read once it is written: 2.0 is stored as 2
        at = decode(encode_number(at))
    status = data.get("status", QUEUED)
    if not isinstance(status, str):
        status = decode(encode_foreign(status))
    if not isinstance(status, str) or status not in (QUEUED, SENDING, FAILED):
        notes.append(f"{place}.status is unknown: kept, never drained (id {id!r})")
    optional = {name: data[name] for name in _FIELDS[5:] if name in data}
    maybe_sent, next_attempt = _instant(optional.get("maybeSent")), _instant(optional.get("nextAttemptAt"))
    last_error, replacement = _last_error(optional.get("lastError")), _replacement(optional.get("replacement"))
    read_as = (maybe_sent, next_attempt, last_error, replacement)
    understood = {name for name, value in zip(_FIELDS[5:], read_as, strict=True) if value is not None}
    return StoredEntry(
        seq=seq,
        id=id,
        item=encode_foreign(data.get("item")),
        status=status,
        attempts=attempts or 0,
        enqueued_at=at,
        maybe_sent_ms=maybe_sent,
        next_attempt_ms=next_attempt,
        last_error=last_error,
        replacement=replacement,
        extra=tuple(
            (name, encode_foreign(value))
            for name, value in data.items()
            if name not in _REQUIRED and name not in understood
        ),
    )


def more_fields(more: str) -> dict[str, Any]:
    """The optional fields of a ``StoredEntry`` that the text of ``encode_more`` holds."""
    entry = stored(0, {**dict.fromkeys(_REQUIRED), "id": "", **decode(f"{{{more}}}")}, [], "")
    names = ("maybe_sent_ms", "next_attempt_ms", "last_error", "replacement", "extra")
    return {name: getattr(entry, name) for name in names}


def public(entry: StoredEntry) -> OutboxEntry[Any]:
    """A copy for callers, the item decoded from its stored text."""
    return OutboxEntry(
        entry.id or "",
        decode(entry.item),
        entry.status,
        entry.attempts,
        entry.enqueued_at,  # type: ignore[arg-type]  # a float only where another program wrote one
        maybe_sent_ms=entry.maybe_sent_ms,
        next_attempt_ms=entry.next_attempt_ms,
        last_error=entry.last_error,
        replacement=_public_replacement(entry),
        extra={name: decode(text) for name, text in entry.extra},
    )


def _public_replacement(entry: StoredEntry) -> OutboxEntry[Any] | None:
    if entry.replacement is None:
        return None
    item, at = entry.replacement
    return OutboxEntry(entry.id or "", decode(item), QUEUED, 0, at)


def entry_to_dict(entry: OutboxEntry[Any]) -> dict[str, Any]:
    """See ``OutboxEntry.to_dict``."""
    values = (entry.id, entry.item, entry.status, entry.attempts, entry.enqueued_at)
    data: dict[str, Any] = dict(zip(_REQUIRED, values, strict=True))
    if entry.maybe_sent_ms is not None:
        data["maybeSent"] = entry.maybe_sent_ms
    if entry.next_attempt_ms is not None:
        data["nextAttemptAt"] = entry.next_attempt_ms
    if entry.last_error is not None:
        error = entry.last_error
        data["lastError"] = {"type": error.type, "message": error.message, "at": error.at_ms}
    if entry.replacement is not None:
        data["replacement"] = {"item": entry.replacement.item, "enqueuedAt": entry.replacement.enqueued_at}
    return {**data, **{name: value for name, value in entry.extra.items() if name not in data}}


def entry_from_dict(data: Mapping[str, Any]) -> OutboxEntry[Any]:
    """See ``OutboxEntry.from_dict``."""
    entry = stored(0, {**data, "item": None, "id": data["id"]}, [], "$")
    extra = {name: data[name] for name, _ in entry.extra}
    return OutboxEntry(
        entry.id or "",
        data.get("item"),
        entry.status,
        entry.attempts,
        entry.enqueued_at,  # type: ignore[arg-type]  # as in public()
        maybe_sent_ms=entry.maybe_sent_ms,
        next_attempt_ms=entry.next_attempt_ms,
        last_error=entry.last_error,
        replacement=_public_replacement(entry),
        extra=extra,
    )


def add_to_quarantine(text: str | None, rejected: list[Rejected], at_ms: int) -> str | None:
    """The quarantine text with these elements added, or None when every one is there already.

    A quarantine text is a JSON array of ``{"at", "reason", "text"}``; ``text`` is the element byte for byte.
    """
    try:
        known = decode(text) if text is not None else []
    except DamagedText:
        known = [{"at": at_ms, "reason": "an earlier quarantine that is no JSON", "text": text}]
    if not isinstance(known, list):  # somebody else's text under this key is no less worth keeping
        known = [known]
    texts = (element.get("text") for element in known if isinstance(element, dict))
    seen = {text for text in texts if isinstance(text, str)}
    fresh = [element for element in rejected if element.text not in seen]
    if not fresh:
        return None
    known += [{"at": at_ms, "reason": element.reason, "text": element.text} for element in fresh]
    return encode_foreign(known)


def content_id(item: Any) -> str:
    """A stable id made from what the item says: 32 hex digits of the SHA-256 of its canonical text.

    Equal items have equal ids whatever the order of their keys, so a cell that is run again enqueues nothing twice.

    Raises:
        ItemError: the item is not JSON that both languages read back equal.
    """
    canonical = encode_foreign(_sorted(decode(encode_item(item, max_bytes=1 << 30))))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        # Array.prototype.sort compares UTF-16 code units: a TypeScript program computes the same id.
        return {key: _sorted(value[key]) for key in sorted(value, key=lambda key: key.encode("utf-16-be"))}
    return [_sorted(element) for element in value] if isinstance(value, list) else value


def _encode_status(status: Any) -> str:
    return encode_string(status) if isinstance(status, str) else encode_foreign(status)


def _take(reading: Reading, value: Any, text: str) -> None:
    place = f"$[{len(reading.entries) + len(reading.rejected)}]"
    if not isinstance(value, dict):
        reading.rejected.append(Rejected(text, f"{place} is no object"))
    elif "id" not in value:
        reading.rejected.append(Rejected(text, f"{place} has no id"))
    elif not isinstance(value["id"], str):
        reading.notes.append(f"{place}.id is no string: kept in the text, never drained")
        reading.entries.append(StoredEntry(len(reading.entries), None, text, value.get("status"), 0, 0))
    else:
        reading.entries.append(stored(len(reading.entries), value, reading.notes, place))


def _salvage(text: str, reason: str) -> Reading:
    """Every entry that stands whole somewhere in a text that is no JSON."""
    reading = Reading(damage=reason)
    budget = 1 << 26  # characters read in vain; a text made to be slow is kept whole anyway
    seen: set[str] = set()
    inner: set[int] = set()  # objects within a damaged one: its item may well look like an entry
    index = 0
    while budget > 0 and (found := _OBJECT.search(text, index)):
        start = found.start()
        index = start + 1
        if start in inner:
            continue
        try:
            value, end = _scan_nearby(text, start)
        except DamagedText as damage:
            budget -= max(damage.pos - start, _NEARBY)
            # A brace within what reads as a string is no inner object: a lost quote opens strings in wrong places.
            marks = _STRING_OR_BRACE.finditer(text, index, damage.pos)
            inner = {mark.start() for mark in marks if mark[0] == "{"}
            continue
        if isinstance(value, dict) and isinstance(value.get("id"), str) and value.keys() >= set(_REQUIRED):
            if text[start:end] not in seen:
                seen.add(text[start:end])
                _take(reading, value, text[start:end])
            index = end
        else:
            index = end
    if budget <= 0:
        reading.notes.append("the damaged text was not searched to its end")
    reading.notes.append(f"{len(reading.entries)} entries were found in a damaged text")
    return reading


def _scan_nearby(text: str, start: int) -> tuple[Any, int]:
    """As ``scan``, looking only as far as it must: an error of the C decoder counts all lines of what it is given."""
    size = _NEARBY
    while True:
        chunk = text[start : start + size]
        try:
            value, end = scan(chunk, 0, strict=False)
        except DamagedText as damage:
            starved = damage.pos > len(chunk) - 16 or damage.reason.startswith("Unterminated string")
            if not starved or start + size >= len(text):
                raise DamagedText(damage.reason, start + damage.pos) from damage
            size *= 4
        else:
            return value, start + end


def _whole_value(text: str, start: int) -> str | None:
    try:
        value, end = scan(text, start)
    except DamagedText:
        return None
    if _skip(text, end) != len(text):
        return None
    names = {dict: "object", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _skip(text: str, index: int) -> int:
    while index < len(text) and text[index] in _WHITESPACE:
        index += 1
    return index


def _count(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return min(max(0, int(value)), MAX_SAFE_INTEGER)


def _instant(value: Any, *, earliest: int = 0) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and earliest <= value <= MAX_SAFE_INTEGER else None


def _replacement(value: Any) -> Replacement | None:
    if not isinstance(value, dict) or value.keys() != {"item", "enqueuedAt"}:
        return None
    at = _instant(value["enqueuedAt"], earliest=-MAX_SAFE_INTEGER)  # as an entry's own may be
    return None if at is None else Replacement(encode_foreign(value["item"]), at)


def _last_error(value: Any) -> LastError | None:
    if not isinstance(value, dict) or value.keys() != {"type", "message", "at"}:
        return None
    at = _instant(value["at"])
    if not isinstance(value["type"], str) or not isinstance(value["message"], str) or at is None:
        return None
    return LastError(value["type"], value["message"], at)
