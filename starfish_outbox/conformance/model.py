"""What a queue is, in a page: pure functions over a stored text. The judge of the relay.

Every call reads the text, does one operation as the TypeScript package does it, but for what the `Dialect` of a driver
says, and answers what that driver must answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starfish_outbox.conformance.divergences import Divergence
from starfish_outbox.conformance.driver import Answer, Request
from starfish_outbox.jsontext import decode, encode_foreign

ORDER: Final = (
    *("id", "item", "status", "attempts", "enqueuedAt"),
    *("maybeSent", "nextAttemptAt", "lastError", "replacement"),
)
"""The keys that somebody knows, as this package orders them; every other key must come through as it is."""


@dataclass(frozen=True)
class Dialect:
    """What a driver does otherwise, as far as the model foretells it.

    Attributes:
        says_added: ``enqueue`` answers whether it added the entry.
        marks: an entry found ``sending`` gets ``maybeSent``, and the keys that are known the order of ``ORDER``. On
            ``sqlite`` it stores that as soon as it reads, and the store knows since when.
        failure: what a failed send leaves in ``lastError``, beside ``at``; None: nothing.
        sent_last: a drain takes entries that have all of these keys behind the others; empty: the order of the array.
        known: ids of the declared divergences that say so.
    """

    says_added: bool = False
    marks: bool = False
    failure: Mapping[str, Any] | None = None
    sent_last: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()


def dialect_of(name: str, divergences: Iterable[Divergence]) -> Dialect:
    """The dialect of the driver with this name in its ``hello``."""
    found: dict[str, Any] = {}
    known: set[str] = set()
    for one in divergences:
        if one.of != name:
            continue
        if one.kind == "value" and one.ops == {"enqueue"}:
            found["says_added"] = True
        elif one.kind == "added" and one.keys == {"maybeSent"}:
            found["marks"] = True
        elif one.kind == "added" and one.keys == {"lastError"} and one.says:
            found["failure"] = one.says
        elif one.kind == "sent-last":
            found["sent_last"] = one.keys
        else:
            continue
        known.add(one.id)
    return Dialect(**found, known=frozenset(known))


class Model:
    """One operation on one stored text.

    Args:
        text: what is stored, or None.
        dialect: of the driver that does it.
        now_ms: the clock.
        rows: whether the store keeps rows, as ``sqlite`` does.
        claimed_ms: when entries were claimed, by id, where the store knows.

    Attributes:
        written: whether the array was written, be it as it was.
    """

    def __init__(
        self,
        text: str | None,
        dialect: Dialect,
        now_ms: int,
        *,
        rows: bool = False,
        claimed_ms: Mapping[str, int] | None = None,
    ) -> None:
        self._dialect = dialect
        self._now_ms = now_ms
        self._claimed_ms = claimed_ms or {}
        self._entries: list[dict[str, Any]] = [self._released(entry) for entry in decode(text or "[]")]
        self._text = encode_foreign(self._entries) if rows and dialect.marks and text is not None else text
        self._sends: list[str] = []
        self.written = False

    def after(self, request: Request) -> Answer:
        """What the driver must answer; how often it notifies is not foretold."""
        op, id = request["op"], request.get("id")
        found = next((entry for entry in self._entries if entry["id"] == id), None)
        value: Any = None
        self.written = True
        if op == "enqueue":
            self.written = found is None
            value = self.written if self._dialect.says_added else None
            if found is None:
                self._entries.append(self._new(request))
        elif op == "claim":
            self.written = value = found is not None
            if found is not None:
                found["status"] = "sending"
        elif op == "drain":
            value = self._drain(request)
            self.written = bool(self._sends)
        elif op == "get":
            self.written = False
        elif found is not None:
            self._change(op, found, request)
        entries = encode_foreign(self._entries)
        if op == "get":
            value = entries
        return Answer(value, None, 0, entries, entries if self.written else self._text)

    def _released(self, entry: dict[str, Any]) -> dict[str, Any]:
        """An entry as hydrate reads it: who claimed it is gone."""
        claimed = entry["status"] == "sending"
        if claimed:
            entry["status"] = "queued"
        if not self._dialect.marks:
            return entry
        if claimed:
            entry.setdefault("maybeSent", self._claimed_ms.get(entry["id"], self._now_ms))
        return _ordered(entry)

    def _new(self, request: Request) -> dict[str, Any]:
        at = request.get("ts", self._now_ms)
        item = decode(request["item"])
        return {"id": request["id"], "item": item, "status": "queued", "attempts": 0, "enqueuedAt": at}

    def _change(self, op: str, entry: dict[str, Any], request: Request) -> None:
        if op == "remove":
            self._entries.remove(entry)
        elif op == "retry":
            entry["status"] = "queued"
        else:
            entry["attempts"] += 1
            parks = op == "markFailed" or entry["attempts"] >= request["maxAttempts"]
            entry["status"] = "failed" if parks else "queued"

    def _drain(self, request: Request) -> dict[str, Any]:
        todo = [entry for entry in self._entries if entry["status"] == "queued"]
        if last := self._dialect.sent_last:
            todo.sort(key=lambda entry: last <= entry.keys())
        sent = failed = 0
        for entry in todo:
            self._sends.append(encode_foreign(entry))
            if request["outcomes"].get(entry["id"], ["ok"])[0] == "ok":
                self._entries.remove(entry)
                sent += 1
                continue
            self._change("recordFailure", entry, request)
            failed += entry["status"] == "failed"
            if self._dialect.failure:
                entry["lastError"] = {**self._dialect.failure, "at": self._now_ms}
                self._entries[self._entries.index(entry)] = _ordered(entry)
        return {"sent": sent, "failed": failed, "sends": self._sends}


def _ordered(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in (*ORDER, *entry) if name in entry}
