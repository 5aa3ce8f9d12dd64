"""What a pass tells: while it runs, and when it is done."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal, TypeAlias

from starfish_outbox.drawing import Drawn

Stopped: TypeAlias = Literal["finished", "offline", "unacked", "busy", "auth", "switched", "limit", "asked"]


@dataclass
class DrainResult(Drawn):
    """What one pass did.

    Attributes:
        sent: entries the remote has.
        failed: entries parked as ``failed`` in this pass.
        stopped: why the pass ended: ``finished``, ``limit``, ``asked`` (to stop or pause), or what made going on
            pointless.
        done: entries that it settled.
        left: entries still queued.
        retry_after: seconds the server asked to wait, or None.
        superseded: sends whose entry was removed, retried or parked meanwhile, so that nothing was recorded.
        reason: what stopped the pass, or else the last failure of a send, in words.
        waiting: entries of those left that the pass passed over: not due yet, or behind such a one in their lane.
        next_attempt_ms: when the first of them is due (milliseconds since the Unix epoch), or None.
    """

    sent: int
    failed: int
    stopped: Stopped = field(default="finished", compare=False)
    left: int = field(default=0, compare=False)
    retry_after: float | None = field(default=None, compare=False)
    superseded: int = field(default=0, compare=False)
    reason: str = field(default="", compare=False)
    waiting: int = field(default=0, compare=False)
    next_attempt_ms: int | None = field(default=None, compare=False)
    done: int = field(default=0, compare=False)

    def __repr__(self) -> str:
        """What was sent and failed, and of the rest what is not as usual."""
        said = [f"sent={self.sent}", f"failed={self.failed}"]
        rest = ((one, getattr(self, one.name)) for one in fields(self)[2:])
        said += [f"{one.name}={value!r}" for one, value in rest if value != one.default]
        return f"DrainResult({', '.join(said)})"


def stop(result: DrainResult, why: Stopped, reason: str, retry_after: float | None = None) -> None:
    """End the pass, unless it has ended: say why, and how many seconds the server asked to wait."""
    if result.stopped == "finished":
        result.stopped, result.reason, result.retry_after = why, reason, retry_after


@dataclass(frozen=True)
class DrainProgress:
    """Where a pass stands, after an entry was settled.

    Attributes:
        done: entries settled so far, of ``total`` that were to be sent when the pass began.
        id: the entry just settled.
        outcome: ``sent``, ``failed`` (parked), ``attempt`` (failed once more), or what stopped it.
    """

    sent: int
    failed: int
    done: int
    total: int
    id: str
    outcome: str
