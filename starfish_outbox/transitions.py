"""The state machine: pure functions from an entry to what it becomes. The only place that assigns a status.

1. A *step* takes an entry and answers the entry after, ``GONE`` when it is removed, or None when the step is refused.
2. ``queued`` waits, ``sending`` is claimed, ``failed`` is parked; any other status is somebody else's, and left only by
   a step by id.
3. Steps by id (``claim remove record_failure mark_failed retry``) mean what the published package means by them, also
   on entries that nobody claimed.
4. Steps by token (``sent release park attempt_failed``) change an entry only while that very claim holds it.
5. ``maybe_sent_ms`` is set when a send may have reached the server without our knowing; the earliest instant stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Final, Literal, TypeAlias

from starfish_outbox.entry import FAILED, QUEUED, SENDING, Claim, LastError, StoredEntry


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


def remove(entry: StoredEntry) -> Literal[_Gone.GONE]:  # noqa: ARG001  # a step takes the entry
    """Remove whatever it is doing; a send in flight finds its entry gone and reports it."""
    return GONE


def record_failure(max_attempts: int) -> Step:
    """One more failed attempt: ``failed`` when that makes ``max_attempts``, else ``queued``, whatever it was before."""

    def step(entry: StoredEntry) -> StoredEntry:
        attempts = entry.attempts + 1
        status = FAILED if attempts >= max_attempts else QUEUED
        return replace(entry, status=status, attempts=attempts, claim=None)

    return step


def mark_failed(entry: StoredEntry) -> StoredEntry:
    """Park now; the published package counts this as an attempt."""
    return replace(entry, status=FAILED, attempts=entry.attempts + 1, claim=None)


def retry(*, reset_attempts: bool = False) -> Step:
    """Back to ``queued``, attempts kept unless reset; refused only while a drain holds the entry."""

    def step(entry: StoredEntry) -> StoredEntry | None:
        if entry.claim is not None and entry.claim.kind == "drain":
            return None
        attempts = 0 if reset_attempts else entry.attempts
        if entry.status == QUEUED and attempts == entry.attempts:
            return None
        return replace(entry, status=QUEUED, attempts=attempts, claim=None)

    return step


def sent(token: Claim) -> Step:
    """The remote has it: remove."""

    def step(entry: StoredEntry) -> Literal[_Gone.GONE] | None:
        return GONE if entry.claim == token else None

    return step


def release(token: Claim, *, maybe_sent_ms: int | None = None, error: LastError | None = None) -> Step:
    """Back to ``queued`` without counting an attempt."""

    def step(entry: StoredEntry) -> StoredEntry | None:
        if entry.claim != token:
            return None
        return _unclaimed(entry, QUEUED, maybe_sent_ms, error)

    return step


def park(token: Claim, error: LastError, *, maybe_sent_ms: int | None = None) -> Step:
    """The remote will never take it: ``failed`` now, with the reason; this try counts as an attempt."""

    def step(entry: StoredEntry) -> StoredEntry | None:
        if entry.claim != token:
            return None
        return replace(_unclaimed(entry, FAILED, maybe_sent_ms, error), attempts=entry.attempts + 1)

    return step


def attempt_failed(token: Claim, max_attempts: int, error: LastError, *, maybe_sent_ms: int | None = None) -> Step:
    """One more failed attempt of this claim: ``failed`` when that makes ``max_attempts``, else back to ``queued``."""

    def step(entry: StoredEntry) -> StoredEntry | None:
        if entry.claim != token:
            return None
        attempts = entry.attempts + 1
        status = FAILED if attempts >= max_attempts else QUEUED
        return replace(_unclaimed(entry, status, maybe_sent_ms, error), attempts=attempts)

    return step


def abandon(now_ms: int) -> Callable[[StoredEntry], StoredEntry | None]:
    """Back to ``queued`` from a claimer that is gone: its send may have arrived, so the entry says so."""

    def step(entry: StoredEntry) -> StoredEntry | None:
        if entry.status != SENDING:
            return None
        return _unclaimed(entry, QUEUED, entry.claim.at_ms if entry.claim else now_ms, None)

    return step


def let_go(entry: StoredEntry) -> StoredEntry | None:
    """Back to ``queued`` from a bare claim of our own process: nothing died, so nothing is in doubt."""
    return _unclaimed(entry, QUEUED, None, None) if entry.status == SENDING else None


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
