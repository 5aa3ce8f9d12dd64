"""The state machine: pure functions from an entry to what it becomes. The only place that assigns a status.

1. A *step* takes an entry and answers the entry after, ``GONE`` when it is removed, or None when the step is refused.
2. ``queued`` waits, ``sending`` is claimed, ``failed`` is parked; any other status is somebody else's, and left only by
   a step by id.
3. Steps by id (``claim remove record_failure mark_failed retry``) mean what the published package means by them, also
   on entries that nobody claimed.
4. Steps by token (``sent release park attempt_failed``) change an entry only while that very claim holds it.
5. A replacement waits on an entry that is being sent, which it never touches; whatever ends that send puts it in its
   place: queued, due, with no attempts behind it. Only a removal by id of what a drain holds takes both away.
6. ``maybe_sent_ms`` is set when a send may have reached the server without our knowing; the earliest instant stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Final, Literal, TypeAlias

from starfish_outbox.entry import BUSY_HOLDS, FAILED, QUEUED, SENDING, Claim, LastError, Replacement, StoredEntry


class _Gone(Enum):
    GONE = "gone"


GONE: Final = _Gone.GONE

Step: TypeAlias = Callable[[StoredEntry], StoredEntry | Literal[_Gone.GONE] | None]


def claim(token: Claim, *, only_queued: bool = False) -> Step:
    """Claim for ``token``; refused while somebody sends. A drain asks ``only_queued``, so that it never revives."""

    def step(entry: StoredEntry) -> StoredEntry | None:
        if entry.status == SENDING or (only_queued and entry.status != QUEUED):
            return None
        return replace(entry, status=SENDING, claim=token)

    return step


def remove(entry: StoredEntry) -> StoredEntry | Literal[_Gone.GONE]:
    """Remove whatever it is doing; a send in flight finds its entry gone and reports it.

    Who claimed by hand says so that the send is done: then the replacement takes its place.
    """
    by_hand = entry.claim is not None and entry.claim.kind == "bare"
    return GONE if entry.replacement is None or not by_hand else _replaced(replace(entry, claim=None))


def record_failure(max_attempts: int) -> Step:
    """One more failed attempt: ``failed`` when that makes ``max_attempts``, else ``queued``, whatever it was before."""

    def step(entry: StoredEntry) -> StoredEntry:
        attempts = entry.attempts + 1
        status = FAILED if attempts >= max_attempts else QUEUED
        return _replaced(replace(entry, status=status, attempts=attempts, claim=None))

    return step


def mark_failed(entry: StoredEntry) -> StoredEntry:
    """Park now; the published package counts this as an attempt."""
    return _replaced(replace(entry, status=FAILED, attempts=entry.attempts + 1, claim=None))


def retry(*, reset_attempts: bool = False) -> Step:
    """Back to ``queued``, attempts kept unless reset; refused only while a drain holds the entry.

    ``next_attempt_ms`` stays, as every key that the published package does not know; a parked entry was given none.
    """

    def step(entry: StoredEntry) -> StoredEntry | None:
        if entry.claim is not None and entry.claim.kind == "drain":
            return None
        attempts = 0 if reset_attempts else entry.attempts
        if entry.status == QUEUED and attempts == entry.attempts:
            return None
        return _replaced(replace(entry, status=QUEUED, attempts=attempts, claim=None))

    return step


def supersede(item: str, now_ms: int) -> Step:
    """Another item under the same id: in its place and queued, or, while that is being sent, as its replacement.

    Refused where it changes nothing: this very item is queued, is being sent, or waits as the replacement already.
    """

    def step(entry: StoredEntry) -> StoredEntry | None:
        if entry.status == SENDING:
            wanted = None if item == entry.item else Replacement(item, now_ms)
            same = (wanted and wanted.item) == (entry.replacement and entry.replacement.item)
            return None if same else replace(entry, replacement=wanted)
        if entry.status == QUEUED and item == entry.item:
            return None
        return _replaced(replace(entry, replacement=Replacement(item, now_ms)))

    return step


def correct(item: str) -> Step:
    """Another item for a parked entry, which is queued again with no attempts behind it; refused for any other."""

    def step(entry: StoredEntry) -> StoredEntry | None:
        if entry.status != FAILED:
            return None
        return replace(
            entry,
            item=item,
            status=QUEUED,
            attempts=0,
            claim=None,
            last_error=None,
            next_attempt_ms=None,
            replacement=None,
        )

    return step


def cancel(entry: StoredEntry) -> StoredEntry | Literal[_Gone.GONE] | None:
    """Remove, unless it is being sent; then only what was to take its place is dropped."""
    if entry.status != SENDING:
        return GONE
    return None if entry.replacement is None else replace(entry, replacement=None)


def sent(token: Claim) -> Step:
    """The remote has it: remove, or put its replacement in its place."""

    def step(entry: StoredEntry) -> StoredEntry | Literal[_Gone.GONE] | None:
        if entry.claim != token:
            return None
        if entry.replacement is None:
            return GONE
        return _replaced(replace(entry, claim=None, maybe_sent_ms=None))

    return step


def release(
    token: Claim,
    *,
    maybe_sent_ms: int | None = None,
    error: LastError | None = None,
    next_attempt_ms: int | None = None,
) -> Step:
    """Back to ``queued`` without counting an attempt."""

    def step(entry: StoredEntry) -> StoredEntry | None:
        if entry.claim != token:
            return None
        return _replaced(_not_before(_unclaimed(entry, QUEUED, maybe_sent_ms, error), next_attempt_ms))

    return step


def park(token: Claim, error: LastError, *, maybe_sent_ms: int | None = None) -> Step:
    """The remote will never take it: ``failed`` now, with the reason; this try counts as an attempt."""

    def step(entry: StoredEntry) -> StoredEntry | None:
        if entry.claim != token:
            return None
        return _replaced(replace(_unclaimed(entry, FAILED, maybe_sent_ms, error), attempts=entry.attempts + 1))

    return step


def attempt_failed(
    token: Claim,
    max_attempts: int,
    error: LastError,
    *,
    maybe_sent_ms: int | None = None,
    next_attempt_ms: int | None = None,
) -> Step:
    """One more failed attempt of this claim: ``failed`` when that makes ``max_attempts``, else back to ``queued``."""

    def step(entry: StoredEntry) -> StoredEntry | None:
        if entry.claim != token:
            return None
        attempts = entry.attempts + 1
        status = FAILED if attempts >= max_attempts else QUEUED
        after = replace(_unclaimed(entry, status, maybe_sent_ms, error), attempts=attempts)
        return _replaced(_not_before(after, None if status == FAILED else next_attempt_ms))

    return step


def abandon(now_ms: int) -> Callable[[StoredEntry], StoredEntry | None]:
    """Back to ``queued`` from a claimer that is gone: its send may have arrived, so the entry says so."""

    def step(entry: StoredEntry) -> StoredEntry | None:
        if entry.status != SENDING:
            return None
        return _replaced(_unclaimed(entry, QUEUED, entry.claim.at_ms if entry.claim else now_ms, None))

    return step


def let_go(entry: StoredEntry) -> StoredEntry | None:
    """Back to ``queued`` from a bare claim of our own process: nothing died, so nothing is in doubt."""
    return _replaced(_unclaimed(entry, QUEUED, None, None)) if entry.status == SENDING else None


def catch_up(entry: StoredEntry) -> StoredEntry:
    """An entry as it was found: another program ended its send and left the replacement where it was, as it must."""
    return _replaced(entry) if entry.status in (QUEUED, FAILED) else entry


def merged(ours: StoredEntry, theirs: StoredEntry) -> StoredEntry:
    """Their entry under an id of ours, with the item that counts: theirs where it is news and younger, else ours.

    What we are sending stays what it is, and the item that counts waits for its end.
    """
    newest, other = _newest(ours), _newest(theirs)
    if other.item != ours.item and other.enqueued_at > newest.enqueued_at:
        newest = other
    if ours.claim is not None:
        theirs = replace(theirs, item=ours.item, enqueued_at=ours.enqueued_at)
    if newest.item == theirs.item:
        return replace(theirs, replacement=None)
    waiting = replace(theirs, replacement=newest)
    return waiting if ours.claim is not None or theirs.status == SENDING else _replaced(waiting)


def behind_the_rest(entry: StoredEntry) -> bool:
    """Whether a pass takes this entry last: it was asked before and no answer came.

    Two entries that swallow every answer would otherwise stand at the head of every pass and wedge the rest.
    """
    return entry.maybe_sent_ms is not None and entry.last_error is not None


def _unclaimed(entry: StoredEntry, status: str, maybe_sent_ms: int | None, error: LastError | None) -> StoredEntry:
    return replace(
        entry,
        status=status,
        claim=None,
        maybe_sent_ms=maybe_sent_ms if entry.maybe_sent_ms is None else entry.maybe_sent_ms,
        last_error=entry.last_error if error is None else error,
    )


def _not_before(entry: StoredEntry, next_attempt_ms: int | None) -> StoredEntry:
    """Not to be sent before this instant; None leaves what stands there, which drains without back-off never touch."""
    return entry if next_attempt_ms is None else replace(entry, next_attempt_ms=next_attempt_ms)


def _newest(entry: StoredEntry) -> Replacement:
    return entry.replacement or Replacement(entry.item, int(entry.enqueued_at))


def _replaced(entry: StoredEntry) -> StoredEntry:
    """The entry, or what was to take its place; what a server asked of everybody holds for that one too."""
    if entry.replacement is None:
        return entry
    item, at = entry.replacement
    held = entry.last_error is not None and entry.last_error.type == BUSY_HOLDS
    return replace(
        entry,
        item=item,
        enqueued_at=at,
        status=QUEUED,
        attempts=0,
        claim=None,
        next_attempt_ms=entry.next_attempt_ms if held else None,
        last_error=entry.last_error if held else None,
        replacement=None,
    )
