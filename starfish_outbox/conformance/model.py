"""What a queue is, in a page: pure functions over a stored text. The judge of the relay.

Every call reads the text, does one operation as one of the two languages does it, and answers what is stored after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from starfish_outbox.conformance.driver import Request
from starfish_outbox.jsontext import decode, encode_foreign

_ORDER: Final = ("id", "item", "status", "attempts", "enqueuedAt", "maybeSent", "nextAttemptAt", "lastError")
_FAILURE: Final = {"type": "RuntimeError", "message": "the send failed, as it was told to"}
"""What `lastError` says of the failure that the Python driver's sends are told to raise."""


@dataclass
class Expected:
    """What an operation on a stored text must come to.

    Attributes:
        entries: the JSON text of all entries after it.
        text: the stored text after it, or None.
        written: whether the array was written, be it as it was.
        value: what it returns (of a drain: how many were sent and parked).
        sends: ids in the order in which they were sent.
    """

    entries: str
    text: str | None
    written: bool
    value: Any = None
    sends: list[str] = field(default_factory=list)


class Model:
    """One operation on one stored text.

    Args:
        ours: whether Python does it, which says ``maybeSent`` and ``lastError``, and answers whether it enqueued.
        now_ms: the clock.
        rows: whether the store keeps rows: what Python reads there it takes apart, and takes back, at once.
        claimed_ms: when entries were claimed, by id, where the store knows.
    """

    def __init__(
        self,
        text: str | None,
        *,
        ours: bool,
        now_ms: int,
        rows: bool = False,
        claimed_ms: Mapping[str, int] | None = None,
    ) -> None:
        self._ours = ours
        self._now_ms = now_ms
        self._claimed_ms = claimed_ms or {}
        self._entries: list[dict[str, Any]] = [self._released(entry) for entry in decode(text or "[]")]
        self._text = encode_foreign(self._entries) if rows and ours and text is not None else text
        self._sends: list[str] = []

    def after(self, request: Request) -> Expected:
        """What the operation must come to."""
        op, id = request["op"], request.get("id")
        found = next((entry for entry in self._entries if entry["id"] == id), None)
        value: Any = None
        writes = True
        if op == "enqueue":
            writes = found is None
            value = writes if self._ours else None
            if found is None:
                self._entries.append(self._new(request))
        elif op == "claim":
            writes = value = found is not None
            if found is not None:
                found["status"] = "sending"
        elif op == "drain":
            value = self._drain(request)
            writes = bool(self._sends)
        elif op in ("hydrate", "get"):
            writes = False
        elif found is not None:
            self._change(op, found, request)
        entries = encode_foreign(self._entries)
        return Expected(entries, entries if writes else self._text, writes, value, self._sends)

    def _released(self, entry: dict[str, Any]) -> dict[str, Any]:
        """An entry as hydrate reads it: who claimed it is gone."""
        claimed = entry["status"] == "sending"
        if claimed:
            entry["status"] = "queued"
        if not self._ours:
            return entry
        if claimed:
            entry.setdefault("maybeSent", self._claimed_ms.get(entry["id"], self._now_ms))
        return {name: entry[name] for name in (*_ORDER, *entry) if name in entry}

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

    def _drain(self, request: Request) -> tuple[int, int]:
        todo = [entry for entry in self._entries if entry["status"] == "queued"]
        if self._ours:
            todo.sort(key=lambda entry: "maybeSent" in entry and "lastError" in entry)
        sent = failed = 0
        for entry in todo:
            self._sends.append(entry["id"])
            if request["outcomes"].get(entry["id"], ["ok"])[0] == "ok":
                self._entries.remove(entry)
                sent += 1
                continue
            self._change("recordFailure", entry, request)
            failed += entry["status"] == "failed"
            if self._ours:
                entry["lastError"] = {**_FAILURE, "at": self._now_ms}
                self._entries[self._entries.index(entry)] = {n: entry[n] for n in (*_ORDER, *entry) if n in entry}
        return sent, failed
