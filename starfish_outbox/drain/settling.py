"""What is recorded of one send, by what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal, NamedTuple, TypeAlias

from starfish_outbox import codec, transitions
from starfish_outbox.caches.base import log
from starfish_outbox.drain.options import DrainOptions
from starfish_outbox.drain.results import DrainResult, stop
from starfish_outbox.entry import BUSY_HOLDS, Claim, LastError, StoredEntry
from starfish_outbox.errors import ItemError
from starfish_outbox.jsontext import encode_item
from starfish_outbox.outcomes import Outcome, describe
from starfish_outbox.transitions import Step

UNACKED_IN_A_ROW: Final = 3
"""Different entries without an answer, one after the other, that end a pass: it is the network, not the entries."""

MAX_RECEIPT: Final = 10_000
"""Bytes of an answer that the ledger keeps."""

Verdict: TypeAlias = Outcome | Literal["sent"]


class Answer(NamedTuple):
    """What became of one send: judged, with what it raised or returned."""

    verdict: Verdict
    error: Exception | None
    value: object = None


@dataclass(frozen=True)
class Settlement:
    """What will be recorded of one send: how, and what to count once it is."""

    entry: StoredEntry
    step: Step
    outcome: str
    counts_as: Literal["sent", "failed?", ""] = ""
    receipt: str | None = None
    parks: bool = False


class Judge:
    """Says of each send of a pass how to record it, and when there is no point in going on.

    Attributes:
        sent: how many got through.
        silent: different entries in a row that nobody answered.
        trouble: the last failure, in words.
    """

    def __init__(self, options: DrainOptions, now_ms: Callable[[], int], result: DrainResult) -> None:
        self._options = options
        self._now_ms = now_ms
        self._result = result  # not the pass: a circle of the two would keep the store until it is collected
        self.sent = 0
        self.silent = 0
        self.trouble = ""

    def settle(self, entry: StoredEntry, token: Claim, answer: Answer) -> Settlement:
        """How to record it. ``entry`` says since when it may have arrived, where an earlier try had no answer."""
        if answer.error is None:
            self.silent = 0
            self.sent += 1
            return Settlement(entry, transitions.sent(token), "sent", "sent", self._receipt(entry, answer.value))
        kind, words = describe(answer.error)
        reason = f"{kind}: {words}" if words else kind
        error = LastError(kind, words[: codec.MAX_ERROR_MESSAGE], self._now_ms())
        match answer.verdict:
            case "unacked":
                return self._settle_silence(entry, token, error, reason)
            case "offline" | "auth" | "busy" as why:
                return self._settle_stop(entry, token, error, reason, why, answer.error)
            case "rejected":
                self.silent, self.trouble = 0, reason
                step = transitions.park(token, error, maybe_sent_ms=entry.maybe_sent_ms)
                return Settlement(entry, step, "failed", "failed?", parks=True)
            case _:
                self.silent, self.trouble = 0, reason
                return self._settle_attempt(entry, token, error, "attempt", entry.maybe_sent_ms)

    def _settle_attempt(
        self, entry: StoredEntry, token: Claim, error: LastError, outcome: str, maybe_sent_ms: int | None
    ) -> Settlement:
        step = transitions.attempt_failed(
            token,
            self._options.max_attempts,
            error,
            maybe_sent_ms=maybe_sent_ms,
            next_attempt_ms=self._not_before(entry.attempts + 1, None),
        )
        parks = entry.attempts + 1 >= self._options.max_attempts
        return Settlement(entry, step, outcome, "failed?", parks=parks)

    def _settle_silence(self, entry: StoredEntry, token: Claim, error: LastError, reason: str) -> Settlement:
        """Twice no answer. Where others got through in this pass it is this entry's own fault, and costs an attempt."""
        maybe_sent = entry.maybe_sent_ms or self._now_ms()
        self.silent += 1
        if self.silent >= UNACKED_IN_A_ROW:
            stop(self._result, "unacked", reason)
        if self.sent:
            return self._settle_attempt(entry, token, error, "unacked", maybe_sent)
        return Settlement(entry, transitions.release(token, maybe_sent_ms=maybe_sent, error=error), "unacked")

    def _settle_stop(
        self,
        entry: StoredEntry,
        token: Claim,
        error: LastError,
        reason: str,
        why: Literal["offline", "auth", "busy"],
        raised: BaseException,
    ) -> Settlement:
        """Not about this entry: it goes back, and the pass ends."""
        while isinstance(raised, BaseExceptionGroup) and len(raised.exceptions) == 1:
            raised = raised.exceptions[0]
        asked = getattr(raised, "retry_after", None)  # of a class that may not be ours
        retry_after = asked if isinstance(asked, int | float) and asked > 0 else None
        stop(self._result, why, reason, retry_after)
        # An entry that was asked twice, the second time without reaching anybody, may have arrived the first time.
        maybe_sent = entry.maybe_sent_ms
        if why == "busy" and retry_after is not None and self._options.backoff is not None:
            held = error._replace(type=BUSY_HOLDS)
            until = self._not_before(1, retry_after)
            step = transitions.release(token, maybe_sent_ms=maybe_sent, error=held, next_attempt_ms=until)
        else:
            step = transitions.release(token, maybe_sent_ms=maybe_sent)
        return Settlement(entry, step, why)

    def _not_before(self, tries: int, retry_after: float | None) -> int | None:
        backoff = self._options.backoff
        if backoff is None:
            return None
        return self._now_ms() + ceil(1000 * backoff.delay(tries, self._options.dice(), retry_after))

    def _receipt(self, entry: StoredEntry, value: object) -> str | None:
        if not self._options.receipts or value is None:
            return None
        try:
            return encode_item(value, max_bytes=MAX_RECEIPT)
        except ItemError as error:
            log.warning("%r was sent, but what send returned is kept nowhere: %s", entry.id, error)
            return None
