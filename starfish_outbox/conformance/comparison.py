"""Whether two programs answered alike, but for what one of them does otherwise on purpose."""

from __future__ import annotations

from collections.abc import Sequence, Set as AbstractSet
from typing import Any, Final

from starfish_outbox.conformance.divergences import Declared, Divergence, Kind
from starfish_outbox.conformance.driver import Answer, Request
from starfish_outbox.jsontext import DamagedText, decode, encode_foreign

REQUIRED: Final = frozenset({"id", "item", "status", "attempts", "enqueuedAt"})
"""The keys that every entry has: nobody may add or drop them."""

_WITHOUT_QUEUE = ("open", "clock", "put", "hydrate", "clear")


class Pair:
    """What two drivers answered to one request.

    Args:
        request: what was asked.
        answers: the two answers.
        declared: what is declared of the two.
        bound: whether the queues were bound to a key.
        reordered: compare texts as JSON, since JavaScript puts keys of the items in another order.
    """

    def __init__(
        self,
        request: Request,
        answers: tuple[Answer, Answer],
        declared: tuple[Declared, Declared],
        *,
        bound: bool,
        reordered: bool = False,
    ) -> None:
        self.request = request
        self.op: str = request["op"]
        self.answers = answers
        self.declared = declared
        self._bound = bound
        self._as_json = reordered or self._meet("spelling")
        self.ends = self._they_part()

    def difference(self) -> str | None:
        """What differs undeclared: ``value``, ``error``, ``notified``, ``entries`` or ``text``; None: nothing."""
        mine, its = self.answers
        if self.ends:
            return None
        if not self._same_text(mine.text, its.text):
            return "text"
        if not self._bound and self.op not in _WITHOUT_QUEUE and self._meet("unbound"):
            return None
        if (mine.error and mine.error.kind) != (its.error and its.error.kind):
            return "error"
        if not self._same_value(mine.value, its.value) and not self._meet("value"):
            return "value"
        if not self._same_text(mine.entries, its.entries):
            return "entries"
        return None if self._same_notifications() else "notified"

    def _meet(self, kind: Kind) -> bool:
        met = [declared.meet(kind, self.op) for declared in self.declared]
        return any(met)

    def _they_part(self) -> bool:
        mine, its = self.answers
        for declared, own, other in zip(self.declared, (mine, its), (its, mine), strict=True):
            for one in declared.find("ends", self.op):
                raised = own.error is not None and own.error.kind in one.errors and other.error is None
                given = bool(one.when) and all(self.request.get(name) == value for name, value in one.when.items())
                if raised or given:
                    declared.met[one.id] += 1
                    return True
        return False

    def _same_notifications(self) -> bool:
        mine, its = (answer.notified for answer in self.answers)
        if mine == its:
            return True
        fewer = self.declared[0] if mine < its else self.declared[1]
        return min(mine, its) > 0 and fewer.meet("fewer-notifications", self.op)

    def _same_value(self, mine: Any, its: Any) -> bool:
        if self.op == "drain" and isinstance(mine, dict) and isinstance(its, dict):
            same_counts = (mine["sent"], mine["failed"]) == (its["sent"], its["failed"])
            return same_counts and self._same_sends(mine["sends"], its["sends"])
        if self.op in ("get", "pending"):
            return self._same_text(mine, its)
        return type(mine) is type(its) and bool(mine == its)

    def _same_sends(self, mine: list[str], its: list[str]) -> bool:
        mine_sorted, its_sorted = mine, its
        for one in self.declared[0].find("sent-last", self.op):
            its_sorted = self._put_last(its, behind=mine, keys=one.keys)
        for one in self.declared[1].find("sent-last", self.op):
            mine_sorted = self._put_last(mine, behind=its, keys=one.keys)
        for declared, before, after in zip(self.declared, (its, mine), (its_sorted, mine_sorted), strict=True):
            if before != after:
                declared.meet("sent-last", self.op)
        return self._same_text(f"[{','.join(mine_sorted)}]", f"[{','.join(its_sorted)}]")

    def _put_last(self, sends: list[str], *, behind: list[str], keys: frozenset[str]) -> list[str]:
        """These sends, with those last whose entries have all of ``keys`` in the other program's."""
        theirs, entries = entries_of(f"[{','.join(behind)}]"), entries_of(f"[{','.join(sends)}]")
        if theirs is None or entries is None:
            return sends
        last = [entry["id"] for entry in theirs if keys <= entry.keys()]
        order = sorted(range(len(sends)), key=lambda place: entries[place]["id"] in last)
        return [sends[place] for place in order]

    def _same_text(self, mine: str | None, its: str | None) -> bool:
        """Whether two texts are equal byte for byte (or as JSON), but for keys that one of the programs adds."""
        if mine == its:
            return True
        if mine is None or its is None:
            return False
        left, right = entries_of(mine), entries_of(its)
        if left is None or right is None:
            return False
        if not self._as_json and (encode_foreign(left), encode_foreign(right)) != (mine, its):
            return False
        if len(left) != len(right):
            return False
        for declared, entries, others in zip(self.declared, (left, right), (right, left), strict=True):
            self._remove_declared(declared, entries, others)
        if self._as_json:
            return encode_foreign(_sorted(left)) == encode_foreign(_sorted(right))
        return encode_foreign(left) == encode_foreign(right)

    def _remove_declared(
        self, declared: Declared, entries: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]
    ) -> None:
        """Remove the keys that differ where this side is declared to add them, or to drop those that it lacks."""
        for entry, other in zip(entries, others, strict=True):
            for one in declared.find("added", self.op):
                new = {name for name in one.keys & entry.keys() if name not in other or other[name] != entry[name]}
                _remove(other, new & other.keys(), one, declared)
                _remove(entry, new, one, declared)
            for one in declared.find("dropped", self.op):
                _remove(other, other.keys() - entry.keys() - REQUIRED, one, declared)


def entries_of(text: str | None) -> list[dict[str, Any]] | None:
    """The entries in an array's text; None where it is no array of objects with a string as id."""
    try:
        entries = decode(text or "")
    except DamagedText:
        return None
    if not isinstance(entries, list):
        return None
    return entries if all(isinstance(entry, dict) and isinstance(entry.get("id"), str) for entry in entries) else None


def _remove(entry: dict[str, Any], names: AbstractSet[str], one: Divergence, declared: Declared) -> None:
    for name in names:
        del entry[name]
        declared.met[one.id] += 1


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(element) for element in value] if isinstance(value, list) else value
