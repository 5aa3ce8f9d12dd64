"""What a delivery leaves in the queue, by reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.text import Text

from starfish_outbox.cli.output import Screen
from starfish_outbox.entry import FAILED, QUEUED, SENDING, StoredEntry
from starfish_outbox.showing import ago, counted, printable

_MOST: Final = 10
_ORDER: Final = (FAILED, QUEUED, SENDING)
_STYLES: Final = {FAILED: "red", SENDING: "cyan"}


@dataclass
class Leftover:
    """Entries of one status that are left for one reason.

    Attributes:
        reason: in words; what the server said about single entries is left out where it differs.
        entries: how many.
        id: one of them, the oldest; None where its id is no text.
        next_attempt_ms: when the first of them is due (milliseconds since the Unix epoch); None: all are.
    """

    status: str
    reason: str
    entries: int
    id: str | None
    next_attempt_ms: int | None

    def fields(self) -> dict[str, Any]:
        """For programs."""
        return {
            "status": self.status,
            "reason": self.reason,
            "entries": self.entries,
            "id": self.id,
            "nextAttemptAt": self.next_attempt_ms,
        }


def leftovers(entries: Iterable[StoredEntry], now_ms: int) -> list[Leftover]:
    """Every entry in exactly one: those for a person first, and where most are first."""
    found: dict[tuple[str, str, bool], Leftover] = {}
    for entry in entries:
        status = entry.status if entry.id is not None and entry.status in _ORDER else "other"
        reason, head = _why(entry, status)
        due = entry.next_attempt_ms
        due = due if status == QUEUED and due is not None and due > now_ms else None
        same = found.setdefault((status, head, due is None), Leftover(status, reason, 0, entry.id, due))
        same.entries += 1
        if same.reason != reason:
            same.reason = head
        if due is not None and same.next_attempt_ms is not None:
            same.next_attempt_ms = min(same.next_attempt_ms, due)
    rank = {status: number for number, status in enumerate(_ORDER)}
    return sorted(found.values(), key=lambda group: (rank.get(group.status, len(rank)), -group.entries))


def tell(screen: Screen, groups: Sequence[Leftover], now_ms: int) -> None:
    """A table for people."""
    if not groups:
        return
    lines = []
    for group in groups[:_MOST]:
        due = group.next_attempt_ms
        when = "" if due is None else f"due {ago(max(due, now_ms + 1000), now_ms)}: "
        lines.append(
            (
                Text(group.status, _STYLES.get(group.status, "")),
                Text(f"{group.entries:,}"),
                Text(f"{when}{printable(group.reason)}"),
            )
        )
    screen.say()
    screen.listing(("left", "entries", "because"), lines, ("entries",))
    if len(groups) > _MOST:
        screen.say(f"… and {counted(len(groups) - _MOST, 'other reason', 'other reasons')}")


def _why(entry: StoredEntry, status: str) -> tuple[str, str]:
    """Why it is left, whole, and the part of it that other entries may share."""
    if status == "other":
        words = "its id is no text" if entry.id is None else "its status is another program's"
    elif entry.last_error is not None:
        kind, message = entry.last_error.type, entry.last_error.message
        return ": ".join(filter(None, (kind, message))), ": ".join(filter(None, (kind, message.partition(": ")[0])))
    elif status == SENDING:
        words = "somebody else is sending it"
    elif status == FAILED:
        words = "it was parked without a reason"
    elif entry.maybe_sent_ms is not None:
        words = "it may have arrived: no answer came back"
    else:
        words = "it was not tried yet"
    return words, words
